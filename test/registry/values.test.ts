import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { SsePluginOptions } from '../../lib/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'
import { build, connect, driver, listen, soon, type Client } from '../client.ts'
import { RedisServer, noRedis } from '../redis/redis-server.ts'
import { block, sleep, turn } from '../stream/driving.ts'

/** Channels whose name begins with `v` are channels of values. */
const history = { channel: (name: string) => name.startsWith('v') ? { latest: true } : undefined }

/** An application whose route `/:channels` streams these channels, by their names with commas between. */
async function start (t: Test, options: SsePluginOptions = { history }) {
  const app = await build(t, options)
  const drive = driver(t, app)
  app.get<{ Params: { channels: string } }>('/:channels', (request, reply) => reply.sse(request.params.channels.split(',').map(name => app.sse.channel(name))))
  const url = await listen(app)
  const open = async (path: string, lastEventId?: string): Promise<Client> => {
    const client = await connect(`${url}/${path}`, lastEventId === undefined ? {} : { lastEventId })
    t.teardown(() => client.leave())
    return client
  }
  return { app, open, drive, v: app.sse.channel('v'), w: app.sse.channel('w') }
}

const data = (client: Client) => client.events.map(({ event, data }) => event === 'sse.end' ? event : data)
const ended = (client: Client): Promise<unknown> => soon(() => client.closed, 'the response to end', 8_000)

/** The monotonic clock of this process, moved forward. */
function clock (t: Test): { forward: (ms: number) => void } {
  const now = performance.now
  let moved = 0
  performance.now = () => now.call(performance) + moved
  t.teardown(() => { performance.now = now })
  return { forward: ms => { moved += ms } }
}

t.test('a new reader gets the newest value at once, and what comes', async t => {
  const { open, v } = await start(t)
  for (let n = 1; n <= 10; n++) await v.publish(String(n))
  const client = await open('v')
  await client.first(1)
  await v.publish('11')
  await client.first(2)
  t.strictSame(data(client), ['10', '11'])
  t.strictSame((await v.history()).map(({ data }) => data), ['11'], 'no more than one is kept')
})

t.test('also when the channel has been quiet for an hour, while an ordinary one has forgotten all', async t => {
  const { forward } = clock(t)
  const { app, open, v, w } = await start(t)
  await v.publish('value')
  await w.publish('event')
  forward(3_600_000)
  await soon(() => app.sse.stats().history.events === 1, 'the event to be forgotten')
  await app.sse.publish('x', 'one more')
  const client = await open('v,w')
  await client.first(1)
  t.strictSame(data(client), ['value'])
  t.strictSame(client.gaps, [])
})

t.test('also when a busy channel has filled the history many times over', async t => {
  const { app, open } = await start(t, { history: { ...history, maxBytes: 100_000 } })
  for (let i = 0; i < 100; i++) await app.sse.publish(`v${i}`, String(i))
  for (let i = 0; i < 500; i++) await app.sse.publish('busy', 'x'.repeat(1_000))
  const client = await open(Array.from({ length: 20 }, (_, i) => `v${i}`).join(','))
  t.strictSame((await client.first(20)).map(({ data }) => data), Array.from({ length: 20 }, (_, i) => String(i)))
  await soon(() => app.sse.stats().history.bytes <= 100_000, 'no more than maxBytes to be kept')
})

t.test('values alone do not get past maxBytes either', async t => {
  const { app } = await start(t, { history: { ...history, maxBytes: 50_000 } })
  for (let i = 0; i < 200; i++) await app.sse.publish(`v${i}`, 'x'.repeat(1_000))
  await turn(5)
  const { bytes, channels } = app.sse.stats().history
  t.ok(bytes <= 100_000 && channels > 30, `twice as much at most: ${bytes} bytes of ${channels} channels`)
  t.strictSame((await app.sse.channel('v199').history()).length, 1)
})

t.test('a maxAge that is given holds for values too', async t => {
  const { app, open, v } = await start(t, { history: { channel: () => ({ latest: true, maxAge: 200 }) } })
  await v.publish('value')
  await soon(() => app.sse.stats().history.events === 0, 'the value to be forgotten')
  const client = await open('v')
  await v.publish('next')
  await client.first(1)
  t.strictSame(data(client), ['next'])
})

t.test('a reader that was blocked gets the newest value of each of its channels, not the old ones, and no gap', async t => {
  const { app, drive } = await start(t)
  const names = Array.from({ length: 20 }, (_, i) => `v${i}`)
  const driven = await drive(stream => stream.subscribe(names.map(name => app.sse.channel(name))), { valve: true })
  await block(driven)
  for (let n = 0; n < 1_500; n++) {
    await app.sse.publish(names[n % 20]!, String(n))
    if (n % 100 === 0) await turn()
  }
  driven.valve!.open()
  await driven.client.first(20)
  await turn(10)
  t.strictSame(data(driven.client), Array.from({ length: 20 }, (_, i) => String(1_480 + i)))
  t.strictSame(driven.client.gaps, [])
})

t.test('a reader that comes back gets the newest value that it has not seen, and none that it has; whatever its cursor, there is no gap', async t => {
  const { app, open, v } = await start(t)
  const cursors: string[] = []
  for (let n = 1; n <= 50; n++) cursors.push(await v.publish(String(n)))
  for (const [cursor, wanted] of [[cursors[0]!, ['50', '51']], [cursors.at(-1)!, ['51']], ['of-another', ['50', '51']], ['garbage', ['50', '51']]] as const) {
    const client = await open('v', cursor)
    await app.sse.publish('mark', 'x')
    await turn(5)
    await sleep(20)
    t.strictSame([data(client), client.gaps], [wanted.slice(0, -1), []], cursor)
    client.leave()
  }
  t.equal(app.sse.stats().gaps, 0)
})

t.test('beside ordinary channels: every event of those, in order, or a gap that names them alone', async t => {
  const { app, open, drive } = await start(t, { history: { ...history, maxEvents: 200 } })
  const driven = await drive(stream => stream.subscribe([app.sse.channel('v'), app.sse.channel('w')]), { valve: true })
  await block(driven)
  for (let n = 1; n <= 100; n++) {
    await app.sse.publish('v', `v${n}`)
    await app.sse.publish('w', `w${n}`)
  }
  driven.valve!.open()
  await driven.client.first(101)
  await turn(5)
  t.strictSame(data(driven.client).filter(text => text.startsWith('w')), Array.from({ length: 100 }, (_, i) => `w${i + 1}`))
  t.strictSame(data(driven.client).filter(text => text.startsWith('v')), ['v100'])
  const late = await open('v,w', 'of-another')
  await late.first(101)
  t.strictSame(late.gaps.map(({ reason, channels }) => [reason, channels]), [['unknown', ['w']]])
  await block(driven)
  for (let n = 0; n < 1_000; n++) {
    await app.sse.publish(['v', 'w'], `both ${n}`)
    if (n % 50 === 0) await turn()
  }
  driven.valve!.open()
  await soon(() => driven.client.events.some(({ data }) => data === 'both 999'), 'the last one')
  t.strictSame(driven.client.gaps.map(({ reason, channels }) => [reason, channels]), [['overrun', ['w']]])
  t.equal(data(driven.client).filter(text => text === 'both 999').length, 1, 'once, though by two channels')
})

t.test('a channel that is joined later begins with its value', async t => {
  const { app, drive, v } = await start(t)
  await v.publish('value')
  const { client, stream } = await drive(stream => stream.subscribe(app.sse.channel('w')))
  await app.sse.publish('w', 'event')
  await client.first(1)
  stream.subscribe(v)
  await client.first(2)
  t.strictSame(data(client), ['event', 'value'])
})

t.test('a channel of values that ends: its readers get the last value and the end, though both come in one turn', async t => {
  const { app, open, drive, v } = await start(t)
  const client = await open('v')
  const driven = await drive(stream => stream.subscribe(v), { valve: true })
  await block(driven)
  await v.publish('old')
  const cursor = await v.publish('value')
  await v.end()
  await ended(client)
  t.equal(data(client).slice(-2).join(), 'value,sse.end')
  driven.valve!.open()
  await ended(driven.client)
  t.strictSame(data(driven.client), ['value', 'sse.end'])
  const late = await open('v')
  await ended(late)
  t.strictSame(data(late), ['value', 'sse.end'])
  const resumed = await open('v', cursor)
  await ended(resumed)
  t.strictSame(data(resumed), ['sse.end'])
  t.equal((await open('v', late.lastEventId)).status, 204)
  t.equal(app.sse.stats().gaps, 0)
})

t.test('with Redis', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const process = async (t: Test, key: string) => {
    const client = new Redis(server.url, { lazyConnect: true })
    client.on('error', () => {})
    t.teardown(() => client.disconnect())
    return await start(t, { history, backplane: redisBackplane({ client, key }) })
  }

  await t.test('a process that begins to hear a channel only now gives its newest value at once', async t => {
    const [one, two] = [await process(t, 'k1'), await process(t, 'k1')]
    for (let n = 1; n <= 20; n++) await one.v.publish(String(n))
    for (const { open } of [two, one]) {
      const client = await open('v')
      await client.first(1)
      t.strictSame(data(client), ['20'])
      t.strictSame(client.gaps, [])
    }
    const client = await two.open('v')
    await client.first(1)
    await one.v.publish('21')
    await client.first(2)
    t.strictSame(data(client), ['20', '21'])
    for (const { open } of [await process(t, 'k1'), two]) {
      const lost = await open('v', 'of-another')
      await lost.first(1)
      t.strictSame([data(lost), lost.gaps], [['21'], []])
    }
    t.strictSame((await two.v.history()).map(({ data }) => data), ['21'])
  })

  await t.test('a blocked reader in another process gets the newest only; no gap', async t => {
    const [one, two] = [await process(t, 'k2'), await process(t, 'k2')]
    const names = ['v1', 'v2', 'v3']
    const driven = await two.drive(stream => stream.subscribe(names.map(name => two.app.sse.channel(name))), { valve: true })
    await one.app.sse.publish('v1', 'first')
    await driven.client.first(1)
    await block(driven)
    await Promise.all(Array.from({ length: 600 }, (_, n) => one.app.sse.publish(names[n % 3]!, String(n))))
    await soon(() => two.app.sse.stats().received >= 601, 'all to be heard')
    driven.valve!.open()
    await driven.client.first(4)
    await sleep(50)
    t.strictSame(data(driven.client), ['first', '597', '598', '599'])
    t.strictSame(driven.client.gaps, [])
  })

  await t.test('the last value and the end, in every process', async t => {
    const [one, two, three] = [await process(t, 'k3'), await process(t, 'k3'), await process(t, 'k3')]
    const client = await two.open('v')
    await one.v.publish('old')
    await Promise.all([one.v.publish('value'), one.v.end()])
    await ended(client)
    t.equal(data(client).slice(-2).join(), 'value,sse.end')
    for (const { open } of [one, two, three]) {
      const late = await open('v')
      await ended(late)
      t.strictSame(data(late), ['value', 'sse.end'])
      t.equal((await open('v', late.lastEventId)).status, 204)
    }
  })
})
