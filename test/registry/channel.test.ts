import t from 'tap'
import { ChannelHandle, type ChannelHost } from '../../lib/registry/channel.ts'
import { build, connect, listen, logger, until } from '../client.ts'

t.test('a handle is a name, and asks its registry for all else', async t => {
  const asked: unknown[] = []
  const host: ChannelHost = {
    size: (...args) => { asked.push(['size', ...args]); return 7 },
    publish: async (...args) => { asked.push(['publish', ...args]); return 'x-1' },
    end: async (...args) => { asked.push(['end', ...args]); return 'x-2' },
    publishFrom: async (...args) => { asked.push(['publishFrom', ...args]); return 'done' },
    recent: async (...args) => { asked.push(['recent', ...args]); return [] }
  }
  const channel = new ChannelHandle('time', host)
  t.equal(channel.name, 'time')
  t.equal(channel.size, 7)
  t.equal(await channel.publish({ data: 1 }), 'x-1')
  t.same(await channel.history(3), [])
  t.same(await channel.history(), [])
  t.equal(await channel.end({ reason: 'over' }), 'x-2')
  const source = ['one']
  t.equal(await channel.publishFrom(source, { end: false }), 'done')
  t.same(asked, [['size', 'time'], ['publish', 'time', { data: 1 }], ['recent', 'time', 3], ['recent', 'time', undefined],
    ['end', 'time', { reason: 'over' }], ['publishFrom', 'time', source, { end: false }]])
})

t.test('equal names are the same channel', async t => {
  const app = await build(t)
  const one = app.sse.channel('time')
  const other = app.sse.channel('time')
  app.get('/', (request, reply) => reply.sse(one))
  const client = await connect(await listen(app) + '/')
  t.equal(one.size, 1)
  t.equal(other.size, 1)
  await other.publish('hello')
  await client.first(1)
  t.equal((await one.history()).length, 1)
  client.leave()
  await until(() => other.size === 0)
  t.equal(one.size, 0)
})

t.test('any text that is not empty is a name, and no two are mixed up', async t => {
  const app = await build(t)
  const names = ['a', 'A', ' a', 'a ', '__proto__', 'constructor', 'toString', 'a\nb', '\0', '*', 'user:1', '💡', 'é', 'e\u0301', 'x'.repeat(10_000)]
  for (const name of names) await app.sse.channel(name).publish(name)
  for (const name of names) t.same((await app.sse.channel(name).history()).map(({ data, channels }) => [data, channels]), [[name, [name]]])
})

t.test('what is no name is refused, by channel() and by publish()', async t => {
  const app = await build(t)
  for (const [name, received] of [['', '""'], [undefined, 'undefined'], [null, 'null'], [0, '0'], [{}, 'an object'], [Symbol('s'), 'Symbol(s)']] as const) {
    const message = `channel: must be a channel of this application or its name, a string that is not empty, received ${received}`
    t.throws(() => app.sse.channel(name as string), { code: 'SSE_ERR_INVALID_CHANNEL', message })
    await t.rejects(app.sse.publish(['a', name as string], 'x'), { code: 'SSE_ERR_INVALID_CHANNEL', message })
  }
  for (const names of [[], '', undefined, null, 5, new Set(['a'])]) {
    await t.rejects(app.sse.publish(names as string[], 'x'), { code: 'SSE_ERR_INVALID_CHANNEL' })
  }
  t.equal(app.sse.stats().received, 0)
})

t.test('history() has the newest events of the channel, newest last', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  const cursors: string[] = []
  for (let n = 0; n < 5; n++) {
    cursors.push(await a.publish({ event: 'tick', data: { n } }))
    await app.sse.publish('b', 'noise')
  }
  t.same(await a.history(), cursors.map((id, n) => ({ id, channels: ['a'], event: 'tick', data: { n } })))
  t.same((await a.history(2)).map(({ data }) => data.n), [3, 4])
  t.same((await a.history(100)).map(({ data }) => data.n), [0, 1, 2, 3, 4])
  t.same((await a.history(Infinity)).length, 5)
  t.same(await a.history(0), [])
  for (const limit of [-1, 0.5, NaN, '1', null]) await t.rejects(a.history(limit as number), { code: 'SSE_ERR_INVALID_OPTION', message: /^option "limit" must be a whole number >= 0, or Infinity, received / })
  t.same(await app.sse.channel('never').history(), [])
})

t.test('history() has no more than the history keeps, and another channel, however busy, takes nothing of it', async t => {
  const app = await build(t, { history: { maxEvents: 3 } })
  const a = app.sse.channel('a')
  for (let n = 0; n < 10; n++) await a.publish({ data: n })
  for (let n = 0; n < 100; n++) await app.sse.publish('busy', 'x')
  t.same((await a.history()).map(({ data }) => data), [7, 8, 9])
  const nothing = await build(t, { history: { maxEvents: 0 } })
  await nothing.sse.publish('a', 'x')
  t.same(await nothing.sse.channel('a').history(), [])
})

t.test('an event of several channels is in the history of each, with all their names', async t => {
  const app = await build(t)
  const id = await app.sse.publish(['a', 'b', 'a'], { data: null })
  const stored = { id, channels: ['a', 'b'], data: null }
  t.same(await app.sse.channel('a').history(), [stored])
  t.same(await app.sse.channel('b').history(), [stored])
  t.equal(app.sse.stats().published, 1)
})

t.test('data comes back from history() as it was published', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  const values = [0, '', false, null, 'null', '{"n":1}', { n: 1 }, [1, 'two', { three: [] }], 'a\r\nb', '\uFEFFx', -1.5]
  for (const data of values) await a.publish({ event: 'e', data })
  t.strictSame((await a.history()).map(({ data }) => data), values)
})

t.test('"serialize" runs once for each publish, "parse" not before somebody looks', async t => {
  const calls: string[] = []
  const app = await build(t, {
    serialize: data => { calls.push('serialize'); return [...data as Set<number>].join() },
    parse: text => { calls.push('parse'); return new Set(text.split(',').map(Number)) }
  })
  const a = app.sse.channel('a')
  app.get('/', (request, reply) => reply.sse(a))
  const url = await listen(app)
  const clients = [await connect(url), await connect(url), await connect(url)]
  await a.publish({ data: new Set([1, 2]) })
  for (const client of clients) t.match(await client.first(1), [{ data: '1,2' }])
  t.same(calls, ['serialize'])
  const [event] = await a.history()
  t.same(calls, ['serialize'])
  t.same(event!.data, new Set([1, 2]))
  t.same(event!.data, new Set([1, 2]))
  t.same(calls, ['serialize', 'parse'])
})

t.test('publish() resolves with the cursor of the event, which is its id for clients', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  app.get('/', (request, reply) => reply.sse(a))
  const client = await connect(await listen(app))
  const cursors = await Promise.all([a.publish('1'), app.sse.publish('a', '2'), a.publish({ event: 'e', data: 3 })])
  t.same((await client.first(3)).map(({ id }) => id), cursors)
  t.equal(app.sse.cursor, cursors[2])
  t.equal(new Set(cursors).size, 3)
})

t.test('publish() takes data and event alone', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  for (const [field, event] of [['id', { id: '1', data: 'x' }], ['retry', { retry: 0, data: 'x' }], ['comment', { comment: '', data: 'x' }]] as const) {
    await t.rejects(a.publish(event as never), { code: 'SSE_ERR_INVALID_EVENT', message: new RegExp(`^event: "${field}" `) })
  }
  for (const event of [{ id: '1' }, { retry: 5 }, { comment: 'c' }, { event: 'item' }, { event: 'item', data: undefined }, undefined, null, 5, {}, { data: undefined }, { event: 'a\nb', data: 'x' }, { data: 1n }, { data () {} }]) {
    await t.rejects(a.publish(event as never), { code: 'SSE_ERR_INVALID_EVENT' })
  }
  t.match(app.sse.stats(), { published: 0, received: 0, history: { events: 0 } })
})

t.test('who takes publish() for emit(), or leaves the data out, is told what to write', async t => {
  const app = await build(t)
  const time = app.sse.channel('time')
  const publish = time.publish.bind(time) as (...args: unknown[]) => Promise<string>
  await t.rejects(publish('tick', { n: 1 }), { code: 'SSE_ERR_INVALID_EVENT', message: 'event: "event" must be one object or string: write publish({ event: name, data }), received "tick" and an object' })
  const publishTo = app.sse.publish.bind(app.sse) as (...args: unknown[]) => Promise<string>
  await t.rejects(publishTo('time', 'tick', { n: 1 }), { code: 'SSE_ERR_INVALID_EVENT', message: /write publish\(\{ event: name, data \}\)/ })
  await t.rejects(publishTo('time', { event: 'tick', data: 1 }, undefined), { code: 'SSE_ERR_INVALID_EVENT' })
  const message = 'event: "data" must be given with the name "item": no client ever fires an event without data, so write "data: \'\'" or "data: null", received undefined'
  await t.rejects(time.publish({ event: 'item' } as never), { code: 'SSE_ERR_INVALID_EVENT', message })
  await t.rejects(time.publish({ event: 'item', data: undefined }), { code: 'SSE_ERR_INVALID_EVENT', message })
  t.equal(app.sse.stats().received, 0)
  for (const data of ['', null, 0, false]) await time.publish({ event: 'item', data })
  t.equal((await time.history()).length, 4)
})

t.test('no event of an application goes out under a name of the plugin\'s own, by whatever way, so a client may trust a gap and an end', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  let sent = Promise.resolve(true)
  app.get<{ Params: { event: string } }>('/:event', (request, reply) => reply.sse(stream => {
    sent = stream.send({ event: request.params.event, data: 'forged' })
    sent.catch(() => {})
  }))
  for (const event of ['sse.gap', 'sse.end']) {
    const refused = { code: 'SSE_ERR_INVALID_EVENT', message: `event: "event" must not be one of the plugin's own names, received "${event}"` }
    const forged = { event, data: { reason: 'done', channels: ['a'] } }
    await t.rejects(a.publish(forged), refused)
    await t.rejects(app.sse.publish(['a', 'b'], forged), refused)
    await t.rejects(app.sse.channel(event).publishFrom([forged]), refused)
    t.notMatch((await app.inject(`/${event}`)).body, event)
    await t.rejects(sent, refused)
  }
  t.equal((await a.history()).length, 0)
  await a.publish({ event: 'sse', data: 'x' })
  t.equal((await a.history()).length, 1)
})

t.test('an event larger than maxEventBytes is refused, one of just that size is taken, and the names of its channels count', async t => {
  const app = await build(t, { maxEventBytes: 100 })
  const a = app.sse.channel('a')
  const room = 100 - Buffer.byteLength('event: é\ndata: \n\n') - 1
  await a.publish({ event: 'é', data: 'x'.repeat(room) })
  const large = { code: 'SSE_ERR_EVENT_TOO_LARGE', statusCode: 413, message: 'event: it has 101 bytes when encoded, but "maxEventBytes" is 100' }
  await t.rejects(a.publish({ event: 'é', data: 'x'.repeat(room + 1) }), large)
  await t.rejects(app.sse.publish(['a', 'b'], { event: 'é', data: 'x'.repeat(room) }), large)
  await t.rejects(app.sse.publish('é', { event: 'é', data: 'x'.repeat(room) }), large)
  await t.rejects(a.publish({ event: 'é', data: 'x'.repeat(room - 1) + '€' }), { code: 'SSE_ERR_EVENT_TOO_LARGE' }, 'bytes count, not characters')
  t.equal(app.sse.stats().published, 1)
})

t.test('long names count as bytes of an event, against maxEventBytes and history.maxBytes', async t => {
  const app = await build(t, { history: { maxBytes: 10_000_000 } })
  const name = (n: number): string => `${n}`.padEnd(200_000, 'x')
  await t.rejects(app.sse.publish(Array.from({ length: 6 }, (_, n) => name(n)), 'x'), { code: 'SSE_ERR_EVENT_TOO_LARGE' })
  for (let n = 0; n < 40; n++) await app.sse.publish(name(n), 'x')
  const { events, bytes } = app.sse.stats().history
  t.equal(events, 40)
  t.ok(bytes > 40 * 200_000 && bytes < 41 * 200_000, `${bytes} bytes`)
  app.get('/', (request, reply) => reply.sse(app.sse.channel('live')))
  const client = await connect(await listen(app))
  for (let n = 40; n < 400; n++) await app.sse.publish(name(n), 'x')
  await app.sse.publish('live', 'x')
  await client.first(1)
  await until(() => app.sse.stats().history.bytes <= 10_000_000, 'the names to count')
})

t.test('a publish that fails and that nobody awaits is logged, and the process lives', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines))
  const unhandled: unknown[] = []
  const listener = (error: unknown): void => { unhandled.push(error) }
  process.on('unhandledRejection', listener)
  t.teardown(() => process.off('unhandledRejection', listener))
  app.sse.channel('a').publish({ data: 1n })
  app.sse.publish('', 'x')
  await until(() => lines.filter(({ msg }) => msg === 'publish failed').length === 2)
  for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
  t.same(unhandled, [])
  t.same(lines.filter(({ msg }) => msg === 'publish failed').map(({ level, err }) => [level, err.code]), [[50, 'SSE_ERR_INVALID_EVENT'], [50, 'SSE_ERR_INVALID_CHANNEL']])
})

t.test('after app.close() a publish is refused', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  await a.publish('x')
  await app.close()
  await t.rejects(a.publish('y'), { code: 'SSE_ERR_CLOSED', statusCode: 503 })
  await t.rejects(a.history(), { code: 'SSE_ERR_CLOSED', statusCode: 503 })
  t.equal(a.size, 0)
})

t.test('a channel of another application is refused', async t => {
  const [one, other] = [await build(t), await build(t)]
  const foreign = other.sse.channel('a')
  one.get('/', (request, reply) => reply.sse(foreign))
  one.get('/several', (request, reply) => reply.sse([one.sse.channel('a'), foreign]))
  for (const path of ['/', '/several']) {
    const response = await one.inject(path)
    t.equal(response.statusCode, 500)
    t.equal(response.json().code, 'SSE_ERR_INVALID_CHANNEL')
  }
  t.equal(foreign.size, 0)
  t.equal(one.sse.streams.size, 0)
})

t.test('a channel without an event and without a member costs nothing', async t => {
  const app = await build(t, { history: { maxBytes: 10_000 } })
  for (let n = 0; n < 100_000; n++) app.sse.channel(`user:${n}`)
  t.match(app.sse.stats(), { channels: 0, subscriptions: 0, history: { channels: 0, events: 0, bytes: 0 } })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('live')))
  const client = await connect(await listen(app))
  for (let n = 0; n < 10_000; n++) await app.sse.publish(`user:${n}`, 'x')
  await app.sse.publish('live', 'x')
  await client.first(1)
  await until(() => app.sse.stats().history.bytes <= 10_000, 'the oldest to go')
  const { history } = app.sse.stats()
  t.equal(history.channels, history.events)
  t.same(await app.sse.channel('user:5').history(), [])
  t.equal((await app.sse.channel('user:9999').history()).length, 1)
})

t.test('a stream can be read through inject()', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse([{ event: 'tick', data: { n: 1 } }, 'text']))
  const response = await app.inject('/')
  t.equal(response.statusCode, 200)
  t.equal(response.headers['content-type'], 'text/event-stream')
  t.match(response.body, /event: tick\ndata: \{"n":1\}\n\ndata: text\n\n$/)
})
