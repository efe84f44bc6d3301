import t, { type Test } from 'tap'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import type { SsePluginOptions, SseStream, StoredEvent } from '../../lib/index.ts'
import { build, driver, listen, logger, until, type Client } from '../client.ts'

async function start (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}) {
  const app = await build(t, options, server)
  const drive = driver(t, app)
  await listen(app)
  return { app, drive, a: app.sse.channel('a'), b: app.sse.channel('b'), c: app.sse.channel('c') }
}

const data = (client: Client): string[] => client.events.map(({ data }) => data)

/** Ends when everything that was published so far has reached the stream: a mark of the test's own comes last. */
async function settled (app: FastifyInstance, stream: SseStream, client: Client): Promise<void> {
  const text = `settled ${Math.random()}`
  await turn()
  if (stream.state === 'open') await stream.comment(text)
  await until(() => client.comments.includes(text), 'the mark')
}

/** A later turn, after a pass. */
async function turn (): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise(resolve => setImmediate(resolve))
}

t.test('a stream that joins late gets what is published after it joined, and nothing of before', async t => {
  const { a, drive } = await start(t)
  await a.publish('before')
  const early = await drive(stream => stream.subscribe(a))
  await a.publish('between')
  await early.client.first(1)
  const late = await drive(stream => stream.subscribe(a))
  await a.publish('after')
  await early.client.first(2)
  await late.client.first(1)
  t.same(data(early.client), ['between', 'after'])
  t.same(data(late.client), ['after'])
})

t.test('what is published in the turn that subscribes, after the call, arrives', async t => {
  const { a, drive } = await start(t)
  const { client } = await drive(stream => {
    a.publish('just before')
    stream.subscribe(a)
    a.publish('just after')
  })
  t.same((await client.first(1)).map(({ data }) => data), ['just after'])
  await a.publish('later')
  await client.first(2)
  t.same(data(client), ['just after', 'later'])
})

t.test('an event published to several channels reaches a stream once, however many of them it is subscribed to', async t => {
  const { app, a, b, c, drive } = await start(t)
  const all = await drive(stream => stream.subscribe([a, b, c]))
  const twoCalls = await drive(stream => stream.subscribe(a).subscribe(b))
  const one = await drive(stream => stream.subscribe(c))
  await app.sse.publish(['a', 'b', 'c', 'a'], 'to all')
  await app.sse.publish(['a', 'b'], 'to two')
  await app.sse.publish('c', 'to c')
  for (const { stream, client } of [all, twoCalls, one]) await settled(app, stream, client)
  t.same(data(all.client), ['to all', 'to two', 'to c'])
  t.same(data(twoCalls.client), ['to all', 'to two'])
  t.same(data(one.client), ['to all', 'to c'])
})

t.test('events of several channels arrive in the order of the log', async t => {
  const { app, a, b, c, drive } = await start(t)
  const backwards = await drive(stream => stream.subscribe([c, b, a]))
  const two = await drive(stream => stream.subscribe(b).subscribe(a))
  const names = ['a', 'b', 'c']
  const ids = await Promise.all(Array.from({ length: 600 }, (_, i) => app.sse.publish(names[(i * 7) % 3]!, String(i))))
  await backwards.client.first(600)
  await two.client.first(400)
  t.same(data(backwards.client), Array.from({ length: 600 }, (_, i) => String(i)))
  t.same(backwards.client.events.map(({ id }) => id), ids)
  t.same(data(two.client), Array.from({ length: 600 }, (_, i) => i).filter(i => (i * 7) % 3 !== 2).map(String))
})

t.test('publish() resolves with the id that clients receive, in the order of the calls', async t => {
  const { app, a, drive } = await start(t)
  const { client } = await drive(stream => stream.subscribe(a))
  const first = a.publish({ event: 'x', data: { n: 1 } })
  const second = app.sse.publish('a', { data: [2] })
  const ids = [await first, await second]
  await client.first(2)
  t.match(client.events, [{ id: ids[0], event: 'x', data: '{"n":1}' }, { id: ids[1], data: '[2]' }])
  t.equal(app.sse.cursor, ids[1])
  t.equal(app.sse.stats().published, 2)
})

t.test('after unsubscribe nothing more of that channel arrives, and the others go on', async t => {
  const { app, a, b, drive } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe([a, b]))
  await a.publish('a1')
  await client.first(1)
  stream.unsubscribe(a)
  t.same([...stream.channels], ['b'])
  t.equal(a.size, 0)
  await a.publish('a2')
  await b.publish('b1')
  await client.first(2)
  stream.unsubscribe(b)
  await b.publish('b2')
  await settled(app, stream, client)
  t.same(data(client), ['a1', 'b1'])
  t.match(app.sse.stats(), { streams: 1, channels: 0, subscriptions: 0 })
  t.doesNotThrow(() => stream.unsubscribe([a, b]), 'a second unsubscribe does nothing')
})

t.test('after the last unsubscribe the next subscribe starts at the head', async t => {
  const { app, a, drive } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe(a))
  await a.publish('1')
  await client.first(1)
  stream.unsubscribe(a)
  await a.publish('2')
  await turn()
  stream.subscribe(a)
  await a.publish('3')
  await settled(app, stream, client)
  t.same(data(client), ['1', '3'])
  t.same(client.gaps, [])
})

t.test('a filter gets the stored event and decides for its stream alone', async t => {
  const { app, a, drive } = await start(t)
  const seen: StoredEvent[] = []
  const odd = await drive(stream => stream.subscribe(a, { filter: event => { seen.push(event); return event.data.n % 2 === 1 } }))
  const all = await drive(stream => stream.subscribe(a))
  const ids = await Promise.all([1, 2, 3].map(n => app.sse.publish(['a', 'other'], { event: 'n', data: { n } })))
  await all.client.first(3)
  await settled(app, odd.stream, odd.client)
  t.same(odd.client.events.map(({ id }) => id), [ids[0], ids[2]])
  t.same(seen.map(({ id, channels, event, data }) => ({ id, channels, event, data })),
    [1, 2, 3].map(n => ({ id: ids[n - 1], channels: ['a', 'other'], event: 'n', data: { n } })))
})

t.test('a filter sees a string as it was published, and no name as undefined', async t => {
  const { a, drive } = await start(t)
  const seen: unknown[] = []
  const { client } = await drive(stream => stream.subscribe(a, { filter: ({ event, data }) => seen.push([event, data]) > 0 }))
  await a.publish('{"looks":"like JSON"}')
  await a.publish({ event: 'named', data: '' })
  await a.publish({ data: null })
  await a.publish({ data: 0 })
  await a.publish('')
  await a.publish('last')
  await until(() => data(client).includes('last'))
  t.same(seen, [[undefined, '{"looks":"like JSON"}'], ['named', ''], [undefined, null], [undefined, 0], [undefined, ''], [undefined, 'last']])
})

t.test('data is parsed once for all filters of a pass, and not at all where no filter asks', async t => {
  let parsed = 0
  const { a, drive } = await start(t, { parse: text => { parsed++; return JSON.parse(text) } })
  const clients = await Promise.all(Array.from({ length: 5 }, () => drive(stream => stream.subscribe(a, { filter: ({ data }) => data.n > 0 }))))
  clients.push(await drive(stream => stream.subscribe(a)))
  await a.publish({ data: { n: 1 } })
  for (const { client } of clients) await client.first(1)
  t.equal(parsed, 1)
  const other = await drive(stream => stream.subscribe(a, { filter: ({ event }) => event === 'x' }))
  for (const { stream } of clients) stream.unsubscribe(a)
  await a.publish({ event: 'x', data: { n: 1 } })
  await other.client.first(1)
  t.equal(parsed, 1)
})

t.test('an event goes to a stream if one of its subscriptions lets it through', async t => {
  const { app, a, b, drive } = await start(t)
  const { client, stream } = await drive(stream => stream
    .subscribe(a, { filter: ({ data }) => data !== 'not by a' })
    .subscribe(b, { filter: ({ data }) => data !== 'not by b' }))
  for (const text of ['both', 'not by a', 'not by b']) await app.sse.publish(['a', 'b'], text)
  await a.publish('not by a')
  await b.publish('not by b')
  await a.publish('not by b')
  await settled(app, stream, client)
  t.same(data(client), ['both', 'not by a', 'not by b', 'not by b'])
})

t.test('streams that share a filter function or differ in it get each their own', async t => {
  const { app, a, b, drive } = await start(t)
  const even = ({ data }: StoredEvent<any>): boolean => data % 2 === 0
  const odd = ({ data }: StoredEvent<any>): boolean => data % 2 === 1
  const driven = await Promise.all([even, odd, even, undefined, odd].map(filter => drive(stream => stream.subscribe(a, { filter }).subscribe(b))))
  for (let i = 0; i < 10; i++) a.publish({ data: i })
  await b.publish({ data: 100 })
  for (const { stream, client } of driven) await settled(app, stream, client)
  const evens = ['0', '2', '4', '6', '8', '100']
  const odds = ['1', '3', '5', '7', '9', '100']
  t.same(driven.map(({ client }) => data(client)), [evens, odds, evens, [...'0123456789', '100'], odds])
})

t.test('a filter that throws closes its own stream with "error", and the others get the event', async t => {
  const lines: any[] = []
  const { app, a, drive } = await start(t, {}, logger(lines))
  const before = await drive(stream => stream.subscribe(a))
  const bad = await drive(stream => stream.subscribe(a, { filter: () => { throw new Error('a secret') } }))
  const after = await drive(stream => stream.subscribe(a))
  await a.publish('x')
  t.equal(await bad.stream.closed, 'error')
  for (const { client } of [before, after]) t.same((await client.first(1))[0]!.data, 'x')
  await until(() => bad.client.closed)
  t.equal(bad.client.closed, 'aborted')
  t.notMatch(bad.client.text, /secret/)
  t.match(lines.find(({ err }) => err !== undefined), { level: 50, err: { message: 'a secret' } })
  t.match(app.sse.stats(), { streams: 2, subscriptions: 2, closed: { error: 1 } })
})

t.test('a filter may close its stream', async t => {
  const { app, a, drive } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe(a, { filter: () => { stream.close(); return true } }))
  await a.publish('x')
  t.equal(await stream.closed, 'server')
  await until(() => client.closed)
  t.equal(client.closed, 'end')
  t.equal(app.sse.stats().subscriptions, 0)
})

t.test('a filter may unsubscribe its stream, also in the middle of more than one piece', async t => {
  const { app, a, b, drive } = await start(t)
  let seen = 0
  const { client, stream } = await drive(stream => stream.subscribe(a, { filter: () => { if (++seen === 1) stream.unsubscribe(a); return true } }))
  for (let i = 0; i < 10; i++) a.publish('x'.repeat(30_000))
  await turn()
  t.equal(stream.state, 'open')
  t.equal(a.size, 0)
  if (stream.state !== 'open') return
  stream.subscribe(b)
  await b.publish('goes on')
  await until(() => data(client).includes('goes on'))
  await settled(app, stream, client)
})

t.test('a filter may publish, and look at stats() and history(), while a pass runs', async t => {
  const { app, a, b, drive } = await start(t, { history: { maxEvents: 10 } })
  const { client, valve } = await drive(stream => stream.subscribe(a, {
    filter: ({ data }) => {
      app.sse.stats()
      a.history()
      if (data === 12) b.publish('from the filter')
      return true
    }
  }), { valve: true })
  const other = await drive(stream => stream.subscribe(b))
  await turn()
  valve!.shut()
  for (let i = 0; i < 10; i++) a.publish({ data: i })
  await turn()
  for (let i = 10; i < 15; i++) a.publish({ data: i })
  valve!.open()
  for (let i = 15; i < 20; i++) a.publish({ data: i })
  await until(() => data(client).includes('19'), 'the newest')
  await other.client.first(1)
  if (client.gaps.length === 0) t.same(data(client), Array.from({ length: 20 }, (_, i) => String(i)))
  else t.same(data(client).slice(-5), ['15', '16', '17', '18', '19'])
})

t.test('to subscribe again to a channel changes its filter and repeats nothing', async t => {
  const { app, a, b, drive } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe([a, b], { filter: ({ data }) => data !== 'no' }))
  await a.publish('1')
  await a.publish('no')
  await client.first(1)
  stream.subscribe(a)
  await a.publish('no')
  await b.publish('no')
  await settled(app, stream, client)
  t.same(data(client), ['1', 'no'])
  t.equal(a.size, 1)
  t.equal(app.sse.stats().subscriptions, 2)
})

t.test('to subscribe again to a channel repeats nothing either where rewind is given', async t => {
  const { app, a, b, drive } = await start(t)
  for (let i = 0; i < 5; i++) await a.publish(`before ${i}`)
  const { client, stream } = await drive(stream => stream.subscribe(a), { options: { rewind: 2 } })
  await client.first(2)
  await a.publish('live')
  await client.first(3)
  stream.subscribe(a, { filter: () => true })
  await settled(app, stream, client)
  t.same(data(client), ['before 3', 'before 4', 'live'])
  stream.subscribe([a, b])
  await settled(app, stream, client)
  t.same(data(client), ['before 3', 'before 4', 'live'])
})

t.test('failures of promises that nobody awaits are logged, once each, and do not end the process', async t => {
  const lines: any[] = []
  const { app, a, drive } = await start(t, {}, logger(lines))
  const { stream } = await drive(stream => stream.subscribe(a))
  const unhandled: unknown[] = []
  const onUnhandled = (error: unknown): void => { unhandled.push(error) }
  process.on('unhandledRejection', onUnhandled)
  t.teardown(() => process.off('unhandledRejection', onUnhandled))
  a.publish({ data: 1n })
  app.sse.publish('a', { data: () => {} })
  app.sse.publish([] as string[], 'x')
  stream.send({ data: 2n })
  stream.send({ id: 'a\nb', data: 'x' })
  stream.comment(3 as unknown as string)
  stream.close({ retry: -1 })
  await turn()
  await new Promise(resolve => setTimeout(resolve, 20))
  t.same(unhandled, [])
  t.equal(lines.filter(({ level, err }) => level === 50 && err !== undefined).length, 7)
  t.equal(stream.state, 'open')
})

t.test('a failure is told to whoever awaits, with its code', async t => {
  const { app, a } = await start(t, { maxEventBytes: 100 })
  await t.rejects(a.publish({ data: 1n }), { code: 'SSE_ERR_INVALID_EVENT' })
  await t.rejects(a.publish({ data: undefined }), { code: 'SSE_ERR_INVALID_EVENT' })
  await t.rejects(a.publish({ event: 'x\ny', data: '' }), { code: 'SSE_ERR_INVALID_EVENT' })
  for (const field of [{ id: '1' }, { retry: 1 }, { comment: 'x' }, { id: '' }, { retry: 0 }, { comment: '' }]) {
    await t.rejects(a.publish({ data: 'x', ...field }), { code: 'SSE_ERR_INVALID_EVENT', message: Object.keys(field)[0]! })
  }
  for (const names of ['', [], [''], [1], null, ['a', undefined]]) {
    await t.rejects(app.sse.publish(names as unknown as string[], 'x'), { code: 'SSE_ERR_INVALID_CHANNEL' })
  }
  await t.rejects(a.publish('x'.repeat(101)), { code: 'SSE_ERR_EVENT_TOO_LARGE', statusCode: 413 })
  t.throws(() => app.sse.channel(''), { code: 'SSE_ERR_INVALID_CHANNEL' })
  t.match(app.sse.stats(), { published: 0, received: 0, history: { channels: 0, events: 0, bytes: 0 } })
})

t.test('the largest event that maxEventBytes takes is taken, and one byte more is not', async t => {
  const { a, drive } = await start(t, { maxEventBytes: 100 })
  const { client, stream } = await drive(stream => stream.subscribe(a))
  const frame = 'data: \n\n'.length
  const name = 'a'.length
  await a.publish('x' + 'é'.repeat((99 - frame - name) / 2))
  await t.rejects(a.publish('xx' + 'é'.repeat((99 - frame - name) / 2)), { code: 'SSE_ERR_EVENT_TOO_LARGE' })
  await t.rejects(stream.send('x'.repeat(101 - frame)), { code: 'SSE_ERR_EVENT_TOO_LARGE' })
  t.equal(await stream.send('x'.repeat(100 - frame)), true)
  await client.first(2)
})

t.test('a channel of another application is refused', async t => {
  const { drive } = await start(t)
  const other = await start(t)
  let thrown: any
  const { stream } = await drive(stream => {
    try { stream.subscribe(other.a) } catch (error) { thrown = error }
  })
  t.equal(thrown.code, 'SSE_ERR_INVALID_CHANNEL')
  t.throws(() => stream.unsubscribe(other.a), { code: 'SSE_ERR_INVALID_CHANNEL' })
  for (const wrong of [[{ name: 'a' }], { name: 'a' }, '', [''], [], undefined, null, 5]) {
    t.throws(() => stream.subscribe(wrong as any), { code: 'SSE_ERR_INVALID_CHANNEL' })
    t.throws(() => stream.unsubscribe(wrong as any), { code: 'SSE_ERR_INVALID_CHANNEL' })
  }
  t.equal(stream.channels.size, 0)
})

t.test('publish(), subscribe() and unsubscribe() take names and handles, one or several', async t => {
  const { app, a, b, c, drive } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe('a').subscribe([b, 'c']))
  t.same([...stream.channels], ['a', 'b', 'c'])
  await app.sse.publish(a, 'by its handle')
  await app.sse.publish([a, 'b', c, 'c'], 'to all')
  await app.sse.publish('c', 'by its name')
  await client.first(3)
  t.same(data(client), ['by its handle', 'to all', 'by its name'])
  t.same((await b.history())[0]!.channels, ['a', 'b', 'c'])
  stream.unsubscribe(['a', b])
  t.same([...stream.channels], ['c'])
  stream.unsubscribe('c')
  t.equal(stream.channels.size, 0)
  const other = await start(t)
  await t.rejects(app.sse.publish(other.a, 'x'), { code: 'SSE_ERR_INVALID_CHANNEL' })
  await t.rejects(app.sse.publish(['a', other.a], 'x'), { code: 'SSE_ERR_INVALID_CHANNEL' })
})

t.test('equal names are the same channel, and a handle keeps nothing', async t => {
  const { app, a, drive } = await start(t)
  const { client } = await drive(stream => stream.subscribe(app.sse.channel('a')))
  t.equal(a.size, 1)
  t.equal(app.sse.channel('a').size, 1)
  await a.publish('x')
  await client.first(1)
  t.equal(app.sse.channel('never').size, 0)
  t.same(await app.sse.channel('never').history(), [])
  t.equal(app.sse.stats().channels, 1)
})

t.test('names such as __proto__ and constructor are channels like any other', async t => {
  const { app, drive } = await start(t)
  const names = ['__proto__', 'constructor', 'toString', ' ', '\n', '💥', 'hasOwnProperty']
  const { client } = await drive(stream => stream.subscribe(names.map(name => app.sse.channel(name))))
  for (const name of names) await app.sse.publish(name, name.trim())
  await client.first(names.length)
  for (const name of names) t.match(await app.sse.channel(name).history(), { length: 1 })
})

t.test('100,000 channels that were published to once leave no trace but their events', async t => {
  const { app, drive, a } = await start(t, { history: { maxBytes: 1_000 } })
  const { client } = await drive(stream => stream.subscribe(a))
  global.gc?.()
  const before = process.memoryUsage().heapUsed
  for (let i = 0; i < 100_000; i++) await app.sse.publish(`channel number ${i}`, 'x')
  await a.publish('last')
  await client.first(1)
  await until(() => app.sse.stats().history.bytes <= 1_000, 'the history to shrink to its limit')
  global.gc?.()
  if (global.gc !== undefined) t.ok(process.memoryUsage().heapUsed - before < 10e6)
  const { channels, subscriptions, history } = app.sse.stats()
  t.same([channels, subscriptions], [1, 1])
  t.ok(history.channels < 20)
  t.same(await app.sse.channel('channel number 0').history(), [])
  t.equal((await app.sse.channel('channel number 99999').history()).length, 1)
})

t.test('history() gives the newest events of a channel, newest last', async t => {
  const { app, a, b } = await start(t)
  const ids: string[] = []
  for (let i = 0; i < 6; i++) ids.push(await (i % 3 === 0 ? b : a).publish({ event: 'n', data: { i } }))
  const both = await app.sse.publish(['a', 'b'], 'text')
  t.same((await a.history()).map(({ data }) => data), [{ i: 1 }, { i: 2 }, { i: 4 }, { i: 5 }, 'text'])
  t.same((await b.history(2)).map(({ id, channels, event, data }) => ({ id, channels, event, data })), [
    { id: ids[3], channels: ['b'], event: 'n', data: { i: 3 } },
    { id: both, channels: ['a', 'b'], event: undefined, data: 'text' }
  ])
  t.same(await a.history(0), [])
  t.equal((await a.history(1000)).length, 5)
})

t.test('the history of a channel is bounded by count and by age, and that of all by bytes', async t => {
  const count = await start(t, { history: { maxEvents: 3 } })
  for (let i = 0; i < 10; i++) await count.a.publish(String(i))
  await count.b.publish('another channel')
  t.same((await count.a.history()).map(({ data }) => data), ['7', '8', '9'])
  t.match(count.app.sse.stats().history, { channels: 2, events: 4 })

  const bytes = await start(t, { history: { maxBytes: 1000 } })
  const { client } = await bytes.drive(stream => stream.subscribe('c'))
  for (let i = 0; i < 10; i++) await (i % 2 === 0 ? bytes.a : bytes.b).publish('x'.repeat(250))
  await bytes.c.publish('last')
  await client.first(1)
  await until(() => bytes.app.sse.stats().history.bytes <= 1000, 'the oldest to go')
  t.match([await bytes.a.history(), await bytes.b.history(), await bytes.c.history()], [{ length: 1 }, { length: 2 }, { length: 1 }], 'the oldest of all go first')

  const age = await start(t, { history: { maxAge: 60 } })
  await age.a.publish('old')
  t.equal((await age.a.history()).length, 1)
  await until(() => age.app.sse.stats().history.events === 0, 'the event to age out')
  t.same(await age.a.history(), [])
  await age.a.publish('young')
  t.same((await age.a.history()).map(({ data }) => data), ['young'])
  t.match(age.app.sse.stats(), { history: { events: 1 } })
})

t.test('a channel has limits of its own where "history.channel" gives them', async t => {
  const { app } = await start(t, { history: { maxEvents: 5, channel: name => name === 'long' ? { maxEvents: 8 } : name === 'value' ? { latest: true } : undefined } })
  for (let i = 0; i < 10; i++) await app.sse.publish(['short', 'long', 'value'], String(i))
  t.same((await app.sse.channel('short').history()).map(({ data }) => data).join(''), '56789')
  t.same((await app.sse.channel('long').history()).map(({ data }) => data).join(''), '23456789')
  t.same((await app.sse.channel('value').history()).map(({ data }) => data).join(''), '9')
})

t.test('an event that is larger than the whole history is delivered live, and not kept', async t => {
  const { app, a, drive } = await start(t, { history: { maxBytes: 100 } })
  const clients = await Promise.all([1, 2, 3].map(() => drive(stream => stream.subscribe(a))))
  for (let i = 0; i < 5; i++) {
    await a.publish(`${i}`.repeat(120))
    for (const { client } of clients) await client.first(i + 1)
  }
  for (const { client } of clients) {
    t.same(data(client), [0, 1, 2, 3, 4].map(i => `${i}`.repeat(120)))
    t.same(client.gaps, [])
  }
  t.same(app.sse.stats().history, { channels: 0, events: 0, bytes: 0 })
  t.same(await a.history(), [])
})

t.test('registry events come in order, with the stream, and a listener that throws breaks nothing', async t => {
  const lines: any[] = []
  const { app, a, b, drive } = await start(t, {}, logger(lines))
  const heard: unknown[] = []
  let same: SseStream | undefined
  app.sse.on('open', ({ stream }) => { same = stream; heard.push('open') })
  app.sse.on('subscribe', ({ channel, stream }) => heard.push(['subscribe', channel, stream.state]))
  app.sse.on('unsubscribe', ({ channel, stream }) => heard.push(['unsubscribe', channel, stream.state]))
  app.sse.on('close', ({ stream, reason }) => { heard.push(['close', reason, stream.state, [...stream.channels], app.sse.streams.size]) })
  for (const name of ['open', 'subscribe', 'unsubscribe', 'close'] as const) app.sse.on(name, () => { throw new Error(`thrown at ${name}`) })
  const { client, stream } = await drive(stream => stream.subscribe([a, b]))
  await a.publish('x')
  await client.first(1)
  stream.unsubscribe(b)
  await stream.close()
  t.equal(same, stream)
  t.same(heard, [
    ['subscribe', 'a', 'opening'], ['subscribe', 'b', 'opening'], 'open', ['unsubscribe', 'b', 'open'],
    ['unsubscribe', 'a', 'closed'], ['close', 'server', 'closed', ['a'], 0]
  ])
  t.equal(lines.filter(({ err }) => /^thrown at/.test(err?.message)).length, 6)
})

t.test('an async listener that rejects is logged like one that throws: the others are called, and the process lives', async t => {
  const lines: any[] = []
  const { app, a, drive } = await start(t, { maxAge: 0 }, logger(lines))
  const unhandled: unknown[] = []
  const listen = (error: unknown): void => { unhandled.push(error) }
  process.on('unhandledRejection', listen)
  t.teardown(() => process.off('unhandledRejection', listen))
  const names = ['open', 'subscribe', 'gap', 'unsubscribe', 'close'] as const
  const heard: string[] = []
  for (const name of names) {
    app.sse.on(name, async () => { throw new Error(`thrown at ${name}`) })
    app.sse.once(name, async () => {
      await turn()
      throw new Error(`thrown later at ${name}`)
    })
    app.sse.on(name, () => { heard.push(name) })
  }
  const { client, stream } = await drive(stream => stream.subscribe(a), { lastEventId: 'unknown' })
  await a.publish('x')
  await client.first(1)
  await stream.close()
  const told = (): string[] => lines.filter(({ err }) => /^thrown/.test(err?.message)).map(({ level, msg, err }) => `${level} ${msg}: ${err.message}`)
  await until(() => told().length >= 10)
  t.same(told().sort(), names.flatMap(name => ['', 'later '].map(when => `50 a listener of the event "${name}" failed: thrown ${when}at ${name}`)).sort())
  t.same(heard.sort(), [...names].sort())
  await turn()
  t.same(unhandled, [])
})

t.test('a listener of "subscribe" may close the stream: it is a member of nothing then', async t => {
  const { app, a, b, drive } = await start(t)
  app.sse.on('subscribe', ({ stream }) => { stream.close() })
  const { stream } = await drive(stream => stream.subscribe([a, b]))
  t.equal(await stream.closed, 'server')
  await a.publish('x')
  t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0 })
  t.equal(a.size, 0)
})

t.test('a listener of "subscribe" may subscribe the stream to one more channel', async t => {
  const { app, a, b, drive } = await start(t)
  app.sse.on('subscribe', ({ channel, stream }) => { if (channel === 'a') stream.subscribe(b) })
  const { stream, client } = await drive(stream => stream.subscribe(a))
  await turn()
  t.same([...stream.channels].sort(), ['a', 'b'])
  await a.publish('to a')
  await b.publish('to b')
  await settled(app, stream, client)
  t.same(data(client), ['to a', 'to b'])
  await stream.close()
  t.match(app.sse.stats(), { channels: 0, subscriptions: 0 })
})

t.test('a listener of "gap" may close the stream', async t => {
  const { app, a, drive } = await start(t)
  app.sse.on('gap', ({ stream }) => { stream.close() })
  const { stream, client } = await drive(stream => stream.subscribe(a), { lastEventId: 'garbage' })
  t.equal(await stream.closed, 'server')
  await until(() => client.closed)
  t.equal(client.closed, 'end')
  t.equal(app.sse.stats().subscriptions, 0)
})

t.test('a listener of "gap" may unsubscribe the stream', async t => {
  const { app, a, b, drive } = await start(t)
  app.sse.on('gap', ({ stream }) => { stream.unsubscribe(a) })
  await a.publish('kept')
  const { stream, client } = await drive(stream => stream.subscribe(a), { lastEventId: 'garbage' })
  await turn()
  t.equal(stream.state, 'open')
  if (stream.state !== 'open') return
  stream.subscribe(b, { lastEventId: null })
  await b.publish('goes on')
  await until(() => data(client).includes('goes on'))
})

t.test('a listener of "open" may close the stream', async t => {
  const { app, a, drive } = await start(t)
  app.sse.on('open', ({ stream }) => { stream.close({ retry: 7 }) })
  const { stream, client } = await drive(stream => stream.subscribe(a))
  t.equal(await stream.closed, 'server')
  await until(() => client.closed)
  t.same(client.retries, [3000, 7])
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, opened: 1, closed: { server: 1 } })
})

t.test('publish() rejects when the application is closed, and works before that', async t => {
  const { app, a, drive } = await start(t)
  const { client } = await drive(stream => stream.subscribe(a))
  let published: string | undefined
  app.sse.on('close', ({ reason }) => { if (reason === 'drain') a.publish('while closing').then(cursor => { published = cursor }) })
  await app.close()
  t.type(published, 'string')
  await until(() => client.closed)
  t.match(client.retries, { length: 2 })
  await t.rejects(a.publish('x'), { code: 'SSE_ERR_CLOSED', statusCode: 503 })
})

t.test('stats() adds up', async t => {
  const { app, a, b, drive } = await start(t)
  t.match(app.sse.stats(), {
    streams: 0,
    channels: 0,
    subscriptions: 0,
    blocked: 0,
    published: 0,
    received: 0,
    delivered: 0,
    bytesWritten: 0,
    gaps: 0,
    opened: 0,
    closed: { client: 0, end: 0, server: 0, age: 0, stall: 0, overflow: 0, drain: 0, error: 0 },
    history: { channels: 0, events: 0, bytes: 0 },
    backplane: 'up'
  })
  const one = await drive(stream => stream.subscribe([a, b]))
  const two = await drive(stream => stream.subscribe(b))
  await a.publish('to a')
  await b.publish('to b')
  await one.client.first(2)
  await two.client.first(1)
  const stats = app.sse.stats()
  t.match(stats, { streams: 2, channels: 2, subscriptions: 3, published: 2, received: 2, delivered: 3, opened: 2 })
  t.match(stats.history, { channels: 2, events: 2 })
  t.ok(stats.history.bytes >= Buffer.byteLength('data: to a\n\ndata: to b\n\nab') && stats.history.bytes < 200, `${stats.history.bytes} bytes`)
  await app.sse.publish(['a', 'b'], 'to both')
  t.match(app.sse.stats().history, { channels: 2, events: 4 }, 'an event of two channels counts for each')
  await one.client.first(3)
  await two.client.first(2)
  t.equal(app.sse.stats().bytesWritten, Buffer.byteLength(one.client.text) + Buffer.byteLength(two.client.text))
  one.client.leave()
  await until(() => app.sse.stats().streams === 1)
  t.match(app.sse.stats(), { channels: 1, subscriptions: 1, opened: 2, closed: { client: 1 } })
  stats.closed.client = 99
  t.equal(app.sse.stats().closed.client, 1, 'a caller cannot change the counters')
})
