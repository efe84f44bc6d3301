import http from 'node:http'
import v8 from 'node:v8'
import vm from 'node:vm'
import fastifyRequestContext from '@fastify/request-context'
import t from 'tap'
import { build, connect, listen, until } from '../client.ts'
import { data, numbers, settled, sleep, start, turn } from './driving.ts'
import { SharedLog } from './shared-log.ts'

// Going back

t.test('going back on one channel repeats nothing of the others, on the stream nor after a reconnect', async t => {
  const { app, drive, publish } = await start(t)
  const cursor = app.sse.cursor
  await publish('b', 'b1', 'b2')
  const driven = await drive(stream => stream.subscribe('a'))
  await publish('a', 'a1', 'a2', 'a3')
  await driven.client.first(3)
  driven.stream.subscribe('b', { lastEventId: cursor })
  await driven.client.first(5)
  await settled(driven)
  t.same(data(driven.client), ['a1', 'a2', 'a3', 'b1', 'b2'])
  driven.client.leave()
  await publish('a', 'a4')
  const again = await drive(stream => stream.subscribe(['a', 'b']), { lastEventId: driven.client.lastEventId })
  await settled(again)
  t.same(data(again.client), ['a4'])
  t.same([...driven.client.gaps, ...again.client.gaps], [])
})

t.test('what went out through one channel does not come again through another that goes back', async t => {
  const { app, drive } = await start(t)
  const cursor = app.sse.cursor
  const driven = await drive(stream => stream.subscribe('a'))
  await app.sse.publish(['a', 'b'], 'shared')
  await app.sse.publish('b', 'b only')
  await driven.client.first(1)
  driven.stream.subscribe('b', { lastEventId: cursor })
  await settled(driven)
  t.same(data(driven.client), ['shared', 'b only'])
})

t.test('what an old filter hid is not lost to a channel that goes back', async t => {
  const { app, drive } = await start(t)
  const cursor = app.sse.cursor
  const driven = await drive(stream => stream.subscribe('a', { filter: () => false }))
  await app.sse.publish(['a', 'b'], 'shared')
  await app.sse.publish('a', 'a only')
  await settled(driven)
  driven.stream.subscribe('a')
  driven.stream.subscribe('b', { lastEventId: cursor })
  await settled(driven)
  t.same(data(driven.client), ['shared'])
})

t.test('a stream that left its channel and joins it again begins there, also for a client that comes back', async t => {
  const { app, drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const driven = await drive(stream => stream.subscribe('a'))
  await settled(driven)
  driven.stream.unsubscribe('a')
  await publish('a', ...numbers(1, 50))
  await turn()
  driven.stream.subscribe('a')
  const joined = app.sse.cursor
  await settled(driven)
  t.equal(driven.client.lastEventId, joined)
  const again = await drive(stream => stream.subscribe('a'), { lastEventId: driven.client.lastEventId })
  await settled(driven, again)
  t.same([...driven.client.gaps, ...again.client.gaps, ...again.client.events], [])
})

// Whose context a filter runs in

for (const kind of ['memory', 'shared'] as const) {
  t.test(`a filter sees the request context of its own request, whoever publishes: ${kind} backplane`, async t => {
    const app = await build(t, kind === 'shared' ? { backplane: new SharedLog().line(() => 1) } : {})
    await app.register(fastifyRequestContext)
    app.get<{ Querystring: { tenant: string } }>('/', (request, reply) => {
      request.requestContext.set('tenant' as never, request.query.tenant as never)
      return reply.sse(app.sse.channel('a'), { filter: event => event.data.tenant === app.requestContext.get('tenant' as never) })
    })
    app.post<{ Querystring: { tenant: string } }>('/', async (request, reply) => {
      request.requestContext.set('tenant' as never, 'publisher' as never)
      await app.sse.publish('a', { data: { tenant: request.query.tenant } })
      return 'ok'
    })
    const url = await listen(app)
    const [one, two] = await Promise.all([connect(`${url}/?tenant=one`), connect(`${url}/?tenant=two`)])
    await until(() => app.sse.channel('a').size === 2)
    for (const tenant of ['one', 'two', 'publisher', 'one']) await connect(`${url}/?tenant=${tenant}`, { method: 'POST' })
    await until(() => one.events.length >= 2 && two.events.length >= 1)
    await sleep(20)
    t.same(data(one), ['{"tenant":"one"}', '{"tenant":"one"}'])
    t.same(data(two), ['{"tenant":"two"}'])
    one.leave()
    two.leave()
  })
}

// Histories

t.test('the history stays below twice its limit while hundreds of streams are busy and clients come with garbage cursors', async t => {
  const app = await build(t, { history: { maxEvents: 100 }, heartbeatInterval: 0 }, { forceCloseConnections: true })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('a')))
  const url = await listen(app)
  const agent = new http.Agent({ keepAlive: false })
  const dial = (headers: http.OutgoingHttpHeaders = {}): Promise<http.IncomingMessage> => new Promise(resolve => {
    http.get(url, { agent, headers }, response => resolve(response.resume().on('error', () => {}))).on('error', () => {})
  })
  await Promise.all(Array.from({ length: 200 }, () => dial()))
  let came = 0
  let published = 0
  let most = 0
  const going = (): boolean => came < 80 || published < 1_000
  const attack = async (): Promise<void> => {
    while (going()) {
      const response = await dial({ 'last-event-id': 'garbage' })
      came++
      response.destroy()
      await sleep(25)
    }
  }
  const publish = async (): Promise<void> => {
    while (going()) {
      for (let n = 0; n < 10; n++) app.sse.publish('a', `${published++} ${'x'.repeat(300)}`).catch(t.fail)
      most = Math.max(most, app.sse.stats().history.events)
      await sleep(20)
    }
  }
  await Promise.all([publish(), ...Array.from({ length: 8 }, attack)])
  t.ok(most <= 200, `${most} events at most`)
})

t.test('a page that comes back with the last event of a quiet channel, an hour and 200,000 events of others later, gets no gap', async t => {
  const { app, drive, publish } = await start(t)
  const [cursor] = await publish('quiet', 'the last one')
  const event = 'x'
  for (let n = 0; n < 200_000; n += 10_000) {
    for (let i = 0; i < 10_000; i++) app.sse.publish(`busy ${i % 10}`, event).catch(t.fail)
    await turn(1)
  }
  const now = performance.now
  t.teardown(() => { performance.now = now })
  performance.now = () => now.call(performance) + 3_600_000
  t.equal(app.sse.stats().history.events, 0, 'all of it is too old by now')
  const { client, stream } = await drive(stream => stream.subscribe('quiet'), { query: `?lastEventId=${cursor!}` })
  await settled({ client, stream })
  await publish('quiet', 'news')
  await client.first(1)
  t.same(data(client), ['news'])
  t.same(client.gaps, [])
  const busy = await drive(stream => stream.subscribe('busy 1'), { query: `?lastEventId=${cursor!}` })
  await settled(busy)
  t.match(busy.client.gaps, [{ reason: 'expired', channels: ['busy 1'] }])
})

t.test('with maxEvents 0 everything arrives live, nothing is kept, and a client that missed something is told', async t => {
  const { app, a, drive, publish } = await start(t, { history: { maxEvents: 0 } })
  const driven = await drive(stream => stream.subscribe(a, { rewind: 5 }))
  await settled(driven)
  const ids = await publish('a', ...numbers(1, 100))
  await driven.client.first(100)
  t.same(data(driven.client), numbers(1, 100))
  await until(() => app.sse.stats().history.events === 0)
  t.same(await a.history(), [])
  const same = await drive(stream => stream.subscribe(a), { lastEventId: ids[99]! })
  const missed = await drive(stream => stream.subscribe(a), { lastEventId: ids[98]! })
  await settled(same, missed)
  t.same(same.client.gaps, [])
  t.match(missed.client.gaps, [{ reason: 'expired' }])
  t.same([...same.client.events, ...missed.client.events], [])
})

t.test('a cursor of the first release is unknown, and what is kept follows', async t => {
  const { a, drive, publish } = await start(t)
  await publish('a', '1')
  for (const cursor of ['9f8e7d6c5b4a-17', '1732617600000-0', '1732617600000-123', '0-0']) {
    const driven = await drive(stream => stream.subscribe(a), { lastEventId: cursor })
    await settled(driven)
    t.match(driven.client.gaps, [{ reason: 'unknown', channels: ['a'] }], cursor)
    t.same(data(driven.client), ['1'])
  }
})

t.test('100,000 channels that were used once give their memory back', async t => {
  v8.setFlagsFromString('--expose-gc')
  const gc = vm.runInNewContext('gc') as () => void
  const { app } = await start(t, { history: { maxAge: 200 } })
  const use = async (round: number): Promise<number> => {
    for (let n = 0; n < 100_000; n++) {
      app.sse.publish(`channel ${round} ${n}`, { data: { n } }).catch(t.fail)
      if (n % 10_000 === 0) await turn(1)
    }
    await until(() => app.sse.stats().history.events === 0)
    return used()
  }
  const used = (): number => {
    gc()
    return process.memoryUsage().heapUsed
  }
  await use(0)
  const twice = await use(1)
  await use(2)
  t.match(app.sse.stats(), { channels: 0, history: { channels: 0, events: 0, bytes: 0 } })
  // A sweep that has not come round yet holds the table of channels as it was.
  await until(() => used() - twice < 15_000_000, 'the heap to be as large as after the second round')
})

// Many channels, and strange ones

t.test('one stream in 10,000 channels gets what each publishes, and leaves all of them within seconds', async t => {
  const { app, drive } = await start(t)
  const names = numbers(1, 10_000)
  const begin = performance.now()
  const driven = await drive(stream => stream.subscribe(names), { lastEventId: 'garbage' })
  await until(() => driven.client.gaps.length === 1)
  t.equal(driven.client.gaps[0]!.channels.length, 10_000)
  for (const name of names.filter((_, i) => i % 100 === 0)) await app.sse.publish(name, name)
  await driven.client.first(100)
  t.same(data(driven.client), names.filter((_, i) => i % 100 === 0))
  driven.stream.unsubscribe(names)
  t.equal(app.sse.stats().subscriptions, 0)
  driven.stream.subscribe(names)
  await app.sse.publish('77', 'again')
  await driven.client.first(101)
  t.ok(performance.now() - begin < 19_000, `${Math.round(performance.now() - begin)} ms`)
})

t.test('one event to 1,000 channels comes once to a stream in all of them, and to one in any of them', async t => {
  const { app, drive } = await start(t)
  const names = numbers(1, 1_000)
  const all = await drive(stream => stream.subscribe(names))
  const some = await Promise.all([1, 500, 1_000].map(n => drive(stream => stream.subscribe(String(n)))))
  await app.sse.publish(names, 'to all')
  await app.sse.publish('500', 'to one')
  await settled(all, ...some)
  t.same([all, ...some].map(({ client }) => data(client)), [['to all', 'to one'], ['to all'], ['to all', 'to one'], ['to all']])
  const late = await drive(stream => stream.subscribe(names, { rewind: 1 }))
  await settled(late)
  t.same(data(late.client), ['to all', 'to one'])
})

t.test('a channel may have any name: braces, line ends, NUL, 1,000 characters, emoji', async t => {
  const { app, drive } = await start(t)
  const names = ['{a}', '}{', 'a\nb', 'a\r\nb', 'a\0b', 'x'.repeat(1_000), '🦊', '__proto__', 'constructor', ' ', '"', '\\', 'ü', 'u\u0308', 'a,b', '*']
  for (const name of names) {
    const { client, stream } = await drive(stream => stream.subscribe(name), { lastEventId: 'garbage' })
    await app.sse.publish(name, 'for you')
    await app.sse.channel(name).publish('again')
    await client.first(2)
    t.same(data(client), ['for you', 'again'], JSON.stringify(name))
    t.match(client.gaps, [{ reason: 'unknown', channels: [name] }])
    t.same([...stream.channels], [name])
    t.same((await app.sse.channel(name).history()).map(({ channels, data }) => [channels, data]), [[[name], 'for you'], [[name], 'again']])
  }
  t.equal(app.sse.stats().channels, names.length)
})
