import http from 'node:http'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import type { SseStream } from '../../lib/index.ts'
import { blocks, build, listen, until } from '../client.ts'
import { data, numbers, settled, sleep, start, turn } from './driving.ts'
import { SharedLog } from './shared-log.ts'

/** A process on a log that others use too, with a stream on "a" and "b" so that it hears them. */
async function share (t: Parameters<typeof start>[0], options: Parameters<typeof start>[1] = {}) {
  const log = new SharedLog()
  const line = log.line()
  const context = await start(t, { ...options, backplane: line })
  const keeper = await context.drive(stream => stream.subscribe(['a', 'b']))
  await settled(keeper)
  return { ...context, log, line, keeper }
}

// A client from a process that has read more

t.test('a client whose cursor is ahead of this process is held until it has heard as much', async t => {
  const { log, line, drive } = await share(t)
  log.publish('a', '1')
  line.lagging = true
  log.publish('a', '2')
  const ahead = log.publish('a', '3')
  log.publish('a', '4')
  const held = await drive(stream => stream.subscribe(['a', 'b']), { lastEventId: ahead })
  await settled(held)
  t.ok(blocks(held.client.text).every(({ id }) => id === undefined || id >= ahead), 'no cursor that is older than its own')
  line.catchUp()
  log.publish('b', '5')
  await held.client.first(2)
  await settled(held)
  t.same(data(held.client), ['4', '5'])
  t.same(held.client.gaps, [])
  t.equal(blocks(held.client.text).find(({ id }) => id !== undefined)!.id, ahead)
})

t.test('a cursor that is ahead of everything is unknown, and what is kept follows', async t => {
  const { log, drive } = await share(t)
  log.publish('a', '1')
  const driven = await drive(stream => stream.subscribe('a'), { lastEventId: 'L1-zz' })
  await until(() => driven.client.gaps.length > 0)
  await settled(driven)
  t.match(driven.client.gaps, [{ reason: 'unknown', channels: ['a'] }])
  t.same(data(driven.client), ['1'])
})

t.test('50 clients with cursors that are ahead ask two questions at most', async t => {
  const { log, line, drive } = await share(t)
  line.lagging = true
  const ahead = log.publish('a', '1')
  const before = line.questions
  const driven = await Promise.all(Array.from({ length: 50 }, () => drive(stream => stream.subscribe('a'), { lastEventId: ahead })))
  await turn()
  t.ok(line.questions - before <= 2, `${line.questions - before} questions`)
  line.catchUp()
  await settled(...driven)
  t.same(driven.flatMap(({ client }) => [...client.gaps, ...client.events]), [])
})

t.test('who asks for all of a channel is told that some is gone, though another stream was here first: it has become too old', async t => {
  const log = new SharedLog()
  log.publish('a', 'old')
  const { drive } = await start(t, { history: { maxAge: 400 }, backplane: log.line() })
  const first = await drive(stream => stream.subscribe('a'))
  await settled(first)
  await sleep(450)
  log.publish('a', 'new')
  await first.client.first(1)
  const { client } = await drive(stream => stream.subscribe('a', { rewind: Infinity }))
  await client.first(1)
  t.same(data(client), ['new'])
  t.match(client.gaps, [{ reason: 'expired', channels: ['a'] }])
})

t.test('who asks for all of a channel is told that some is gone, though all of it had been read here: it was lost while the connection was', async t => {
  const log = new SharedLog()
  const line = log.line()
  const { drive } = await start(t, { backplane: line })
  log.publish('a', 'old')
  const first = await drive(stream => stream.subscribe('a', { rewind: Infinity }))
  await first.client.first(1)
  await settled(first)
  line.receiver.broken(new Error('of the test'))
  const append = (text: string): void => { log.append({ channels: ['a'], kind: 'event', event: undefined, data: text, serialized: false, limits: [{ maxEvents: 2, maxAge: 0, latest: false }] }) }
  for (const text of ['1', '2', '3', '4']) append(text)
  line.receiver.mended([...log.lives], log.seq)
  await first.client.first(3)
  t.same(first.client.gaps.map(({ reason }) => reason), ['reset'])
  const { client } = await drive(stream => stream.subscribe('a', { rewind: Infinity }))
  await client.first(2)
  t.same(data(client), ['3', '4'])
  t.match(client.gaps, [{ reason: 'expired', channels: ['a'] }])
})

t.test('a compressed stream of several channels whose histories were read one by one gets each event as it was published', async t => {
  const log = new SharedLog()
  const texts = ['the price of gold has risen to a new height this morning, and silver followed', 'there is no news of wheat and barley: the fields lie under snow, the mills stand still']
  const text = (n: number): string => `${texts[n % 2]!} ${n}`
  const publish = (n: number): void => {
    log.append({ channels: ['a', 'b'], kind: 'event', event: undefined, data: text(n), serialized: false, limits: Array(2).fill({ maxEvents: 1_000, maxAge: 0, latest: false }) })
  }
  for (let n = 0; n < 10; n++) publish(n)
  // It reads what is kept of "a" and of "b", and so has two objects of each event.
  const { drive } = await start(t, { compress: true, backplane: log.line() })
  const { client } = await drive(stream => stream.subscribe(['a', 'b'], { rewind: Infinity }), { headers: { 'accept-encoding': 'gzip' } })
  await client.first(10)
  for (let n = 10; n < 20; n++) {
    publish(n)
    await client.first(n + 1)
  }
  t.same(data(client), Array.from({ length: 20 }, (_, n) => text(n)))
})

t.test('of clients with forged cursors who come and leave while the backplane says nothing, nothing is kept', async t => {
  const line = new SharedLog().line()
  const app = await build(t, { backplane: line })
  app.get<{ Querystring: { n: string } }>('/', (request, reply) => reply.sse(['a', `of ${request.query.n}`].map(name => app.sse.channel(name))))
  const url = await listen(app)
  line.lagging = true
  const streams: Array<WeakRef<SseStream>> = []
  app.sse.on('subscribe', ({ channel, stream }) => { if (channel === 'a') streams.push(new WeakRef(stream)) })
  const before = line.questions
  const forged = ['garbage', 'L1-zzzzz', 'L9-0']
  // No answer comes while it is not known what they are worth: they leave without one.
  await Promise.all(Array.from({ length: 100 }, async (_, n) => {
    const request = http.get(`${url}/?n=${n}`, { agent: false, headers: { 'last-event-id': forged[n % 3]! } }).on('error', () => {})
    await until(() => streams.length >= 100, 'all of them')
    request.destroy()
  }))
  await until(() => app.sse.streams.size === 0, 'all to be gone')
  t.ok(line.questions - before <= 2, `${line.questions - before} questions`)
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, channels: 0, history: { events: 0 } })
  setFlagsFromString('--expose_gc')
  const collect = runInNewContext('gc') as () => void
  const alive = (): number => streams.filter(stream => stream.deref() !== undefined).length
  // The last ones may still be on somebody's stack.
  await until(() => { collect(); return alive() <= 2 }, 'the streams to be collected')
})

t.test('a held stream sends its own events and heartbeats meanwhile', async t => {
  const { log, line, drive } = await share(t, { heartbeatInterval: 30 })
  line.lagging = true
  const held = await drive(stream => stream.subscribe('new'), { lastEventId: 'L1-0' })
  held.stream.send('own').catch(t.fail)
  await held.client.first(1)
  await until(() => held.client.comments.length >= 3, 'heartbeats')
  t.equal(held.client.lastEventId, 'L1-0')
  log.publish('new', '1')
  line.catchUp()
  await held.client.first(2)
  t.same(data(held.client), ['own', '1'])
})

t.test('a held stream that joins and leaves channels meanwhile loses nothing', async t => {
  const { log, line, drive } = await share(t)
  line.lagging = true
  log.publish('b', 'b1')
  const ahead = log.publish('b', 'b2')
  const held = await drive(stream => stream.subscribe('a'), { lastEventId: ahead })
  const left = await drive(stream => stream.subscribe('a'), { lastEventId: ahead })
  held.stream.subscribe('b')
  left.stream.unsubscribe('a')
  log.publish('b', 'b3')
  log.publish('a', 'a4')
  line.catchUp()
  await held.client.first(2)
  await settled(held, left)
  t.same(data(held.client), ['b3', 'a4'])
  t.same(held.client.gaps, [])
  left.stream.subscribe('b')
  await settled(left)
  log.publish('b', 'b5')
  await until(() => data(left.client).includes('b5'))
  t.same(left.client.gaps.filter(({ channels }) => !channels.includes('b')), [])
})

t.test('subscribing twice in a turn keeps the last filter, while the process waits for its channel', async t => {
  const { log, line, drive } = await share(t)
  log.publish('secret', 'hidden 1')
  log.publish('secret', 'shown 1')
  line.lagging = true
  const driven = await drive(stream => stream.subscribe('secret', { filter: () => true }).subscribe('secret', { filter: ({ data }) => data.startsWith('shown') }), { lastEventId: 'forged' })
  await turn()
  line.catchUp()
  await until(() => driven.client.gaps.length > 0)
  await settled(driven)
  log.publish('secret', 'hidden 2')
  log.publish('secret', 'shown 2')
  await driven.client.first(2)
  t.same(data(driven.client), ['shown 1', 'shown 2'])
})

t.test('when the client leaves while it is held, nothing is left of it', async t => {
  const { app, line, drive, keeper } = await share(t)
  keeper.client.leave()
  await keeper.stream.closed
  line.lagging = true
  const held = await drive(stream => stream.subscribe('a'), { lastEventId: 'L1-z' })
  held.client.leave()
  t.equal(await held.stream.closed, 'client')
  line.catchUp()
  await turn()
  t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0 })
})

// Four reconnects in a row

t.test('a client that comes back to one process and the other in turn gets everything once, before the first event too', async t => {
  const log = new SharedLog()
  const processes = await Promise.all([3, 0].map(turns => start(t, { backplane: log.line(() => turns) })))
  let lastEventId: string | undefined
  const got: string[] = []
  for (let i = 0; i < 8; i++) {
    const { drive } = processes[i % 2]!
    const { client, stream } = await drive(stream => stream.subscribe('a'), lastEventId === undefined ? {} : { lastEventId })
    await until(() => client.lastEventId !== '')
    for (const text of numbers(3 * i, 3 * i + 2)) if (i > 1) log.publish('a', text)
    if (i % 3 === 0) await sleep(20)
    client.leave()
    await stream.closed
    t.same(client.gaps, [])
    got.push(...data(client))
    lastEventId = client.lastEventId
  }
  const last = await processes[0]!.drive(stream => stream.subscribe('a'), { lastEventId: lastEventId! })
  await until(() => got.length + last.client.events.length === 18)
  t.same([...got, ...data(last.client)], numbers(6, 23))
})

// Losses

t.test('what the log lost is one gap "reset" on every stream, with its channels, and streams go on', async t => {
  const { log, drive, keeper, app } = await share(t)
  const other = await drive(stream => stream.subscribe('a'))
  await settled(other)
  log.publish('a', '1')
  await Promise.all([keeper, other].map(({ client }) => client.first(1)))
  log.lose()
  log.publish('a', '2')
  await Promise.all([keeper, other].map(({ client }) => client.first(2)))
  t.same([keeper, other].map(({ client }) => data(client)), [['1', '2'], ['1', '2']])
  t.match(keeper.client.gaps, [{ reason: 'reset', channels: ['a', 'b'] }])
  t.match(other.client.gaps, [{ reason: 'reset', channels: ['a'] }])
  t.equal(app.sse.stats().gaps, 2)
  const old = await drive(stream => stream.subscribe('a'), { lastEventId: 'L1-1' })
  await until(() => old.client.gaps.length > 0)
  await settled(old)
  t.match(old.client.gaps, [{ reason: 'unknown' }], 'of a cursor from before, nothing can be proved')
  t.same(data(old.client), ['2'])
  const again = await drive(stream => stream.subscribe('a'), { lastEventId: other.client.gaps[0]!.id! })
  await settled(again)
  t.same(data(again.client), ['2'])
  t.same(again.client.gaps, [])
})

t.test('a gap that is due while the socket is full, and the loss after it, are told when it drains', async t => {
  const { log, drive } = await share(t)
  const driven = await drive(stream => stream.subscribe('a'), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  driven.stream.comment('fills the valve').catch(t.fail)
  await until(() => driven.stream.blocked)
  log.publish('a', 'lost')
  await turn()
  log.lose()
  log.publish('a', 'kept')
  await turn()
  driven.valve!.open()
  await until(() => driven.client.events.length > 0)
  await settled(driven)
  t.match(driven.client.gaps, [{ reason: 'reset', channels: ['a'] }])
  t.same(data(driven.client), ['kept'])
})

// The backplane's state

t.test('up and down of the backplane are told once each, and streams go on', async t => {
  const { app, log, line, keeper } = await share(t)
  const heard: string[] = []
  app.sse.on('up', () => heard.push('up'))
  app.sse.on('down', ({ error }) => heard.push(error.message))
  line.receiver.broken(new Error('first'))
  line.receiver.broken(new Error('second'))
  t.equal(app.sse.stats().backplane, 'down')
  log.publish('a', '1')
  line.receiver.mended([...log.lives], log.seq)
  line.receiver.mended([...log.lives], log.seq)
  t.same(heard, ['first', 'up'])
  t.equal(app.sse.stats().backplane, 'up')
  log.publish('a', '2')
  await keeper.client.first(2)
  t.same(data(keeper.client), ['1', '2'])
  t.same(keeper.client.gaps, [])
})
