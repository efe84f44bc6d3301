import { once } from 'node:events'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import cookie from '@fastify/cookie'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { SseItem, SsePluginOptions, SseSource } from '../../lib/index.ts'
import { SseClient } from '../../lib/client/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'
import { blocks, build, connect, driver, listen, logger, soon, until, within, type Client } from '../client.ts'
import { RedisServer, noRedis } from '../redis/redis-server.ts'
import { block, settled, sleep, turn } from '../stream/driving.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

/** An application whose route `/:channels` streams these channels, by their names with commas between; `rewind` as a query. */
async function start (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}) {
  const app = await build(t, options, { routerOptions: { maxParamLength: 10_000 }, ...server })
  const drive = driver(t, app)
  app.get<{ Params: { channels: string }, Querystring: { rewind?: string } }>('/:channels', (request, reply) => {
    const { params: { channels }, query: { rewind } } = request
    return reply.sse(channels.split(',').map(name => app.sse.channel(name)), rewind === undefined ? {} : { rewind: Number(rewind) })
  })
  const url = await listen(app)
  const open = async (path: string, options?: Parameters<typeof connect>[1]): Promise<Client> => {
    const client = await connect(`${url}/${path}`, options)
    t.teardown(() => client.leave())
    return client
  }
  return { app, url, open, drive, a: app.sse.channel('a'), b: app.sse.channel('b') }
}

const ended = (client: Client, what = 'the response to end'): Promise<unknown> => soon(() => client.closed, what, 8_000)
const ends = (client: Client) => client.events.filter(({ event }) => event === 'sse.end').map(({ id, data }) => ({ id, ...JSON.parse(data) }))
const texts = (client: Client) => client.events.filter(({ event }) => event !== 'sse.end').map(({ data }) => data)
const numbers = (count: number, from = 1) => Array.from({ length: count }, (_, i) => String(from + i))

async function * slowly (items: readonly SseItem[], ms = 5): AsyncGenerator<SseItem> {
  for (const item of items) {
    await sleep(ms)
    yield item
  }
}

/** Waits for ever, and notes what it is told. */
function waiting (first: readonly SseItem[] = ['one']) {
  const told: string[] = []
  const iterator: AsyncIterator<SseItem> & AsyncIterable<SseItem> = {
    i: 0,
    next () {
      const value = first[(this as unknown as { i: number }).i++]
      return value === undefined ? new Promise(() => {}) : Promise.resolve({ done: false, value })
    },
    async return () {
      told.push('return')
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator] () { return this }
  } as AsyncIterator<SseItem> & AsyncIterable<SseItem>
  const readable = new Readable({
    objectMode: true,
    read () {},
    destroy (error, done) {
      told.push('destroy')
      done(error)
    }
  })
  const web = new ReadableStream({
    start (controller) { for (const item of first) controller.enqueue(item) },
    cancel () {
      told.push('cancel')
      return new Promise(() => {}) // and never answers
    }
  })
  for (const item of first) readable.push(item)
  return { told, sources: { return: iterator, destroy: readable, cancel: web } as Record<string, AsyncIterable<SseItem>> }
}

// channel.end()

t.test('readers get sse.end with an id, the reason and the channel, and then their response ends', async t => {
  const lines: any[] = []
  const { app, open, a } = await start(t, {}, logger(lines, 'info'))
  const client = await open('a')
  await a.publish('one')
  const cursor = await a.end({ reason: 'stopped' })
  await ended(client)
  t.equal(client.closed, 'end')
  t.strictSame(texts(client), ['one'])
  t.strictSame(ends(client), [{ id: cursor, reason: 'stopped', channels: ['a'] }])
  t.equal(client.lastEventId, cursor)
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, closed: { end: 1, drain: 0 } })
  t.equal(lines.filter(({ msg, reason }) => msg === 'stream closed' && reason === 'end').length, 1)
})

t.test('the reason is "done" unless one is given; any text may be one', async t => {
  const { app, open } = await start(t)
  for (const [name, options, wanted] of [['n', undefined, 'done'], ['o', {}, 'done'], ['u', { reason: undefined }, 'done'], ['e', { reason: '' }, ''], ['l', { reason: 'a\nb "c" ü' }, 'a\nb "c" ü']] as const) {
    const client = await open(name)
    await app.sse.channel(name).end(options)
    await ended(client)
    t.equal(ends(client)[0].reason, wanted)
  }
})

t.test('end() refuses what is no reason, and a reason that is too long, and the channel goes on', async t => {
  const { a } = await start(t, { maxEventBytes: 200 })
  await t.rejects(a.end({ reason: 5 } as never), { code: 'SSE_ERR_INVALID_OPTION' })
  await t.rejects(a.end('stopped' as never), { code: 'SSE_ERR_INVALID_OPTION' })
  await t.rejects(a.end(null as never), { code: 'SSE_ERR_INVALID_OPTION' })
  await t.rejects(a.end({ raison: 'x' } as never), { code: 'SSE_ERR_INVALID_OPTION', message: /reason/ })
  await t.rejects(a.end({ reason: 'x'.repeat(300) }), { code: 'SSE_ERR_EVENT_TOO_LARGE' })
  t.type(await a.publish('still'), 'string')
})

t.test('a second end resolves with the cursor of the first one, and readers see one end', async t => {
  const { app, open, a } = await start(t)
  const client = await open('a')
  const cursors = await Promise.all([a.end({ reason: 'first' }), a.end({ reason: 'second' }), app.sse.channel('a').end()])
  t.equal(new Set(cursors).size, 1)
  await ended(client)
  t.strictSame(ends(client), [{ id: cursors[0], reason: 'first', channels: ['a'] }])
  t.equal(await a.end(), cursors[0])
})

t.test('publish() after the end is refused, whoever publishes; of several channels one of which has ended, none gets it', async t => {
  const { app, open, a, b } = await start(t)
  const client = await open('b')
  await a.end()
  for (const publishing of [a.publish('late'), app.sse.publish('a', 'late'), app.sse.publish(['b', 'a'], 'late'), app.sse.publish([b, a], 'late')]) {
    await t.rejects(publishing, { code: 'SSE_ERR_CHANNEL_ENDED', statusCode: 409, message: /\ba\b/ })
  }
  await b.publish('on time')
  await client.first(1)
  t.strictSame(texts(client), ['on time'])
  t.strictSame((await b.history()).map(({ data }) => data), ['on time'])
})

t.test('history() has the events of an ended channel, and not its end', async t => {
  const { a } = await start(t)
  for (const text of ['1', '2', '3']) await a.publish(text)
  await a.end()
  t.strictSame((await a.history()).map(({ data }) => data), ['1', '2', '3'])
  t.strictSame((await a.history(2)).map(({ data }) => data), ['2', '3'])
})

t.test('a stream of several channels is told of each end, and ends when all have', async t => {
  const { app, open } = await start(t)
  const [x, y, z] = ['x', 'y', 'z'].map(name => app.sse.channel(name))
  const client = await open('x,y,z')
  await y!.end()
  await x!.publish('one')
  await x!.end({ reason: 'stopped' })
  await client.first(3)
  await turn(5)
  t.equal(client.closed, undefined, 'one goes on')
  await z!.publish('two')
  await z!.end()
  await ended(client)
  t.strictSame(texts(client), ['one', 'two'])
  t.strictSame(ends(client).map(({ channels, reason }) => [...channels, reason]), [['y', 'done'], ['x', 'stopped'], ['z', 'done']])
})

t.test('a stream that leaves the only channel that goes on ends with the others', async t => {
  const { app, drive, a, b } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe([a, b]))
  await a.end()
  await client.first(1)
  stream.unsubscribe(b)
  const other = app.sse.channel('c')
  stream.subscribe(other)
  await other.end()
  await ended(client)
  t.equal(client.closed, 'end')
})

t.test('a stream with something of its own under way ends when that is through', async t => {
  const { app, open, a } = await start(t)
  let go = (): void => {}
  app.sse.on('open', () => {})
  const other = await build(t)
  const channel = other.sse.channel('a')
  other.get('/', (request, reply) => reply.sse(async function * (stream) {
    stream.subscribe(channel)
    yield 'own 1'
    await new Promise<void>(resolve => { go = resolve })
    yield 'own 2'
  }))
  const client = await connect(await listen(other))
  await client.first(1)
  await channel.publish('event')
  await channel.end()
  await client.first(3)
  await turn(5)
  t.equal(client.closed, undefined)
  go()
  await ended(client)
  t.strictSame(texts(client), ['own 1', 'event', 'own 2'])
  t.equal(client.closed, 'end')
  const quick = await open('a')
  await a.end()
  await ended(quick)
})

t.test('a filter does not hide the end', async t => {
  const { drive, a } = await start(t)
  const { client } = await drive(stream => stream.subscribe(a, { filter: () => false }))
  await a.publish('hidden')
  await a.end()
  await ended(client)
  t.strictSame(client.events.map(({ event }) => event), ['sse.end'])
})

t.test('10,000 channels that end at once: each reader gets its end, and the channels are ended', async t => {
  const { app, open } = await start(t)
  const names = Array.from({ length: 10_000 }, (_, i) => `c${i}`)
  const clients = await Promise.all(Array.from({ length: 100 }, (_, i) => open(names.slice(i * 100, i * 100 + 100).join(','))))
  await Promise.all(names.map(name => app.sse.publish(name, name)))
  await Promise.all(names.map(name => app.sse.channel(name).end()))
  for (const client of clients) await ended(client)
  t.strictSame(clients.flatMap(texts), names)
  t.equal(clients.reduce((sum, client) => sum + ends(client).length, 0), 10_000)
  t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0, history: { channels: 10_000 } })
  t.equal((await open(names.slice(0, 50).join(','))).status, 204)
})

t.test('10,000 sources that are published at once all end their channels', async t => {
  const { app } = await start(t)
  const names = Array.from({ length: 10_000 }, (_, i) => `c${i}`)
  const reasons = await Promise.all(names.map(name => app.sse.channel(name).publishFrom([name, 'two'])))
  t.equal(reasons.filter(reason => reason === 'done').length, 10_000)
  t.match(app.sse.stats(), { published: 20_000, channels: 0, history: { channels: 10_000 } })
})

// An end at an awkward time

t.test('a blocked reader gets what it missed and the end, when it reads again', async t => {
  const { drive, a } = await start(t)
  const driven = await drive(stream => stream.subscribe(a), { valve: true })
  await block(driven)
  for (const n of numbers(20)) await a.publish(n)
  await a.end()
  await turn(5)
  t.equal(driven.stream.state, 'open')
  driven.valve!.open()
  await ended(driven.client)
  t.strictSame(texts(driven.client), numbers(20))
  t.equal(ends(driven.client).length, 1)
  t.equal(driven.client.closed, 'end')
})

t.test('a reader that is blocked while a channel ends, and is cut for it in the end, resumes and gets the end', async t => {
  const { drive, open, a } = await start(t)
  await a.publish('0')
  const driven = await drive(stream => stream.subscribe(a, { rewind: 1 }), { valve: true })
  await driven.client.first(1)
  const { lastEventId } = driven.client
  await block(driven)
  await a.publish('1')
  await a.end()
  driven.client.leave()
  const client = await open('a', { lastEventId })
  await ended(client)
  t.strictSame(texts(client), ['1'])
  t.equal(ends(client).length, 1)
})

t.test('a channel that ends while a stream is opening (a slow onSend hook) still reaches it, and its response ends', async t => {
  const app = await build(t)
  let go = (): void => {}
  let held = 0
  app.addHook('onSend', async () => {
    held++
    await new Promise<void>(resolve => { go = resolve })
  })
  const a = app.sse.channel('a')
  app.get('/', (request, reply) => reply.sse(a))
  const url = await listen(app)
  const opening = connect(url)
  await until(() => held === 1, 'the hook')
  await a.publish('one')
  await a.end()
  await turn(5)
  go()
  const client = await opening
  await ended(client)
  t.equal(client.status, 200)
  t.strictSame(client.events.map(({ event, data }) => event ?? data), ['one', 'sse.end'])
})

t.test('an end while a stream is closing: it closes for its own reason, once', async t => {
  const { app, drive, a } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe(a))
  await settled({ client, stream })
  const ending = a.end()
  stream.close()
  await Promise.all([ending, stream.closed])
  await ended(client)
  t.match(app.sse.stats().closed, { server: 1, end: 0 })
  t.strictSame(ends(client), [])
})

t.test('app.close() while channels end: every response ends, nothing hangs', async t => {
  const { app, open } = await start(t)
  const clients = await Promise.all(numbers(50).map(n => open(`c${n}`)))
  const ending = numbers(50).map(n => app.sse.channel(`c${n}`).end())
  await within(Promise.all([app.close(), ...ending]), 'close')
  for (const client of clients) {
    await ended(client)
    t.equal(client.closed, 'end')
  }
  await t.rejects(app.sse.channel('a').end(), { code: 'SSE_ERR_CLOSED' })
})

// 204

t.test('a request for a channel that has ended gets 204 where nothing more is for it: without a cursor, and with that of the end', async t => {
  const { app, open, a, b } = await start(t)
  await a.publish('one')
  const cursor = await a.end()
  for (const options of [{}, { lastEventId: cursor }]) {
    const client = await open('a', options)
    await ended(client)
    t.equal(client.status, 204)
    t.equal(client.text, '')
    t.match(client.headers, { 'cache-control': 'no-cache, no-transform', 'content-type': undefined })
  }
  t.equal((await open(`a?lastEventId=${cursor}`)).status, 204, 'by the query too')
  await b.end()
  t.equal((await open('a,b')).status, 204, 'all of several')
  const newer = await app.sse.publish('c', 'newer')
  t.equal((await open('a', { lastEventId: newer })).status, 204, 'a cursor after the end is good too')
  t.match(app.sse.stats(), { streams: 0, opened: 0, subscriptions: 0, closed: { end: 0 } })
})

t.test('an end is the last word of a response only where all of its channels have ended', async t => {
  const { app, open } = await start(t)
  for (const [name, options, last] of [['a', undefined, { comment: '' }], ['c', { retry: 20 }, { retry: '20' }]] as const) {
    const client = await open(`${name},b`)
    await app.sse.channel(name).end()
    await client.first(1)
    await [...app.sse.streams][0]!.close(options)
    await ended(client)
    t.match(blocks(client.text).at(-1), last)
  }
})

t.test('the client for pages comes back where one of its channels has ended and the stream is closed then', async t => {
  const { app, url, a, b } = await start(t)
  const source = new SseClient(`${url}/a,b`, { retry: { min: 5, max: 5 } })
  t.teardown(() => source.close())
  const told: string[] = []
  for (const type of ['message', 'sse.end']) source.addEventListener(type, ({ data }) => told.push(data))
  await soon(() => b.size === 1 && source.status === 'open', 'the client')
  await a.end()
  await soon(() => told.length === 1, 'the end of one channel')
  const [stream] = [...app.sse.streams]
  await stream!.close()
  await soon(() => b.size === 1 && source.status === 'open', 'it to come back', 8_000)
  await b.publish('more')
  await soon(() => told.length === 2, 'what came then')
  await b.end()
  await soon(() => source.status === 'closed', 'the end of all')
  t.same(told.map(data => data === 'more' || JSON.parse(data).channels), [['a'], true, ['b']])
})

t.test('it opens where something is to be replayed, a gap is due, or one of the channels goes on', async t => {
  const { open, a, app } = await start(t)
  const first = await a.publish('one')
  await a.publish('two')
  const cursor = await a.end()
  const cases: Array<[path: string, lastEventId: string | undefined, texts: string[], gaps: string[]]> = [
    ['a', first, ['two'], []],
    ['a?rewind=1', undefined, ['two'], []],
    ['a?rewind=Infinity', undefined, ['one', 'two'], []],
    ['a', 'of-another', ['one', 'two'], ['unknown']],
    ['a', 'garbage', ['one', 'two'], ['unknown']]
  ]
  for (const [path, lastEventId, wanted, gaps] of cases) {
    const client = await open(path, lastEventId === undefined ? {} : { lastEventId })
    await ended(client)
    t.equal(client.status, 200, `${path} ${lastEventId}`)
    t.strictSame(texts(client), wanted)
    t.strictSame(client.gaps.map(({ reason }) => reason), gaps)
    t.strictSame(ends(client), [{ id: cursor, reason: 'done', channels: ['a'] }])
    t.equal(client.lastEventId, cursor)
    t.equal((await open('a', { lastEventId: client.lastEventId })).status, 204, 'and its next request gets 204')
  }
  const both = await open('a,b')
  t.equal(both.status, 200)
  await app.sse.publish('b', 'live')
  t.strictSame((await both.first(1)).map(({ data }) => data), ['live'])
})

t.test('204 runs the onSend hooks and keeps their cookies, in synchronous and asynchronous handlers, that return anything', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'warn'))
  await app.register(cookie)
  let sent = 0
  let responses = 0
  app.addHook('onSend', async (request, reply) => {
    sent++
    await sleep(5)
    reply.setCookie('seen', 'yes')
  })
  app.addHook('onResponse', async () => { responses++ })
  const a = app.sse.channel('a')
  await a.end()
  app.get('/sync', (request, reply) => reply.sse(a))
  app.get('/nothing', (request, reply) => { reply.sse(a) })
  app.get('/async', async (request, reply) => {
    await sleep(1)
    return reply.sse(a)
  })
  app.get('/async-nothing', async (request, reply) => { reply.sse(a) })
  app.get('/fresh', (request, reply) => reply.header('cache-control', 'no-store').header('x-mine', '1').sse([a]))
  const url = await listen(app)
  const paths = ['/sync', '/nothing', '/async', '/async-nothing', '/fresh']
  for (const path of paths) {
    const client = await within(connect(url + path), path)
    await ended(client)
    t.equal(client.status, 204, path)
    t.match(client.headers['set-cookie'], ['seen=yes'])
    const injected = await within(app.inject(path), `inject ${path}`)
    t.equal(injected.statusCode, 204)
    t.equal(injected.body, '')
    t.match(injected.headers['set-cookie'], 'seen=yes')
  }
  t.match((await app.inject('/fresh')).headers, { 'cache-control': 'no-store', 'x-mine': '1' })
  t.equal(sent, paths.length * 2 + 1)
  await until(() => responses === sent, 'onResponse')
  t.strictSame(lines, [])
})

t.test('an onSend hook that fails on the 204 gives its error, and the handler that throws after it does no harm', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  await a.end()
  let fail = true
  app.get('/hook', { onSend: async () => { if (fail) { fail = false; throw new Error('no') } } }, (request, reply) => reply.sse(a))
  app.get('/throws', (request, reply) => {
    reply.sse(a)
    throw new Error('late')
  })
  app.get('/twice', (request, reply) => {
    reply.sse(a)
    return reply.sse(a)
  })
  const url = await listen(app)
  t.equal((await within(connect(url + '/hook'), 'hook')).status, 500)
  t.equal((await within(connect(url + '/throws'), 'throws')).status, 204)
  t.equal((await within(connect(url + '/twice'), 'twice')).status, 204)
  t.equal(app.sse.stats().streams, 0)
})

t.test('HEAD says what GET would: 204 for what has ended, 200 else; nobody is subscribed by it', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  let begun = 0
  app.get('/', (request, reply) => reply.sse(a))
  app.get('/all', (request, reply) => reply.sse(a, { rewind: Infinity }))
  app.head('/explicit', (request, reply) => reply.sse(a))
  app.head('/source', (request, reply) => reply.sse(() => { begun++ }))
  const url = await listen(app)
  const head = async (path: string): Promise<number> => {
    const client = await within(connect(url + path, { method: 'HEAD' }), `HEAD ${path}`)
    await ended(client)
    t.equal(client.text, '')
    return client.status
  }
  for (const path of ['/', '/explicit', '/source']) t.equal(await head(path), 200)
  await a.publish('one')
  await a.end()
  for (const path of ['/', '/explicit']) t.equal(await head(path), 204)
  for (const path of ['/all', '/source']) t.equal(await head(path), 200)
  t.equal(begun, 0)
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, opened: 0 })
})

t.test('204 over HTTP/2', async t => {
  const app = await build(t, {}, { http2: true } as FastifyServerOptions)
  const a = app.sse.channel('a')
  app.get('/', (request, reply) => reply.sse(a))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => session.destroy())
  const ask = async () => {
    const request = session.request({ ':path': '/' })
    request.setEncoding('utf8')
    let text = ''
    request.on('data', chunk => { text += chunk })
    const [headers] = await once(request, 'response') as [http2.IncomingHttpHeaders]
    return { status: headers[':status' as never], request, text: () => text }
  }
  const open = await ask()
  await a.end()
  await once(open.request, 'end')
  t.match(open.text(), /event: sse\.end\ndata: \{"reason":"done","channels":\["a"\]\}\n\n$/)
  const over = await ask()
  t.equal(over.status, 204)
  await soon(() => over.request.closed, 'the stream to close')
  t.equal(over.text(), '')
})

t.test('a limit of streams counts no 204', async t => {
  const { open, a } = await start(t, { maxStreams: 1, maxStreamsPerKey: 1 })
  await a.end()
  for (let i = 0; i < 5; i++) t.equal((await open('a')).status, 204)
  const client = await open('b')
  t.equal(client.status, 200)
})

t.test('a stream that is driven by hand is told the end and ends, as its answer has begun', async t => {
  const { drive, a } = await start(t)
  await a.publish('one')
  await a.end()
  const { client } = await drive(stream => {
    stream.send('own')
    stream.subscribe(a, { rewind: Infinity })
  })
  await ended(client)
  t.equal(client.status, 200)
  t.strictSame(client.events.map(({ event, data }) => event ?? data), ['own', 'one', 'sse.end'])
})

// What is kept

t.test('rewind: Infinity gives every event once, in order, before, during and after the publishing', async t => {
  const { open, a } = await start(t)
  const clients: Client[] = [await open('a?rewind=Infinity')]
  const publishing = a.publishFrom((async function * () {
    for (const n of numbers(300)) {
      if (Number(n) % 50 === 0) clients.push(await open('a?rewind=Infinity'))
      yield n
    }
  })())
  t.equal(await publishing, 'done')
  clients.push(await open('a?rewind=Infinity'))
  for (const client of clients) {
    await ended(client)
    t.strictSame(texts(client), numbers(300))
    t.strictSame(client.gaps, [])
    t.equal(ends(client).length, 1)
  }
})

t.test('rewind: Infinity on a channel whose first events are gone begins with a gap', async t => {
  const { open, a } = await start(t, { history: { maxEvents: 10 } })
  for (const n of numbers(10)) await a.publish(n)
  const whole = await open('a?rewind=Infinity')
  await whole.first(10)
  t.strictSame([texts(whole), whole.gaps], [numbers(10), []])
  for (const n of numbers(10, 11)) await a.publish(n)
  const cursor = await a.end()
  await ended(whole)
  t.strictSame([texts(whole), whole.gaps], [numbers(20), []])
  const late = await open('a?rewind=Infinity')
  await ended(late)
  t.strictSame(late.gaps.map(({ reason, channels }) => [reason, channels]), [['expired', ['a']]])
  t.strictSame(texts(late), numbers(10, 11), 'the end takes no place of an event')
  t.equal(late.lastEventId, cursor)
  const some = await open('a?rewind=3')
  await ended(some)
  t.strictSame([texts(some), some.gaps], [numbers(3, 18), []], 'who asks for the newest three gets them, and the end')
})

t.test('rewind: Infinity beside a channel that pushes everything out says so', async t => {
  const { open, a, b } = await start(t, { history: { maxBytes: 20_000 } })
  await a.publish('one')
  for (let i = 0; i < 3; i++) await b.publish('x'.repeat(19_000)) // twice the limit, while nothing was offered
  await a.publish('two')
  const late = await open('a?rewind=Infinity')
  await a.end()
  await ended(late)
  t.strictSame(texts(late), ['two'])
  t.strictSame(late.gaps.map(({ reason }) => reason), ['expired'])
})

t.test('rewind: Infinity says so as well where the channel had nothing left for a while, and was forgotten', async t => {
  const { app, open, a, b } = await start(t, { history: { maxBytes: 20_000 } })
  await a.publish('one')
  for (let i = 0; i < 3; i++) await b.publish('x'.repeat(19_000))
  t.equal(app.sse.stats().history.channels, 1, 'it was looked for what is forgotten')
  await a.publish('two')
  const late = await open('a?rewind=Infinity')
  await late.first(1)
  t.strictSame(texts(late), ['two'])
  t.strictSame(late.gaps.map(({ reason }) => reason), ['expired'])
  const first = await open('new?rewind=Infinity')
  await app.sse.publish('new', 'one')
  await first.first(1)
  t.strictSame(first.gaps, [], 'and not of a channel that never had anything')
})

t.test('an ended channel is forgotten maxAge after its last entry, and is a new one then', async t => {
  const { app, open, a } = await start(t, { history: { maxAge: 300 } })
  await a.publish('one')
  const cursor = await a.end()
  t.equal((await open('a')).status, 204)
  await sleep(200)
  await t.rejects(a.publish('early'), { code: 'SSE_ERR_CHANNEL_ENDED' })
  await soon(() => app.sse.stats().history.events === 0, 'the history to be forgotten')
  t.strictSame(await a.history(), [])
  const client = await open('a')
  t.equal(client.status, 200)
  t.not(await a.publish('anew'), cursor)
  t.strictSame((await client.first(1)).map(({ data }) => data), ['anew'])
  await a.end()
  await ended(client)
})

t.test('a channel that is forgotten while a stream is in it takes events again; and a stream that saw its end still ends', async t => {
  const { app, open, a, b } = await start(t, { history: { maxAge: 200 } })
  const [one, two] = [await open('a,b'), await open('a,c')]
  await a.end()
  await Promise.all([one.first(1), two.first(1)])
  await soon(() => app.sse.stats().history.events === 0, 'the history to be forgotten')
  await b.end()
  await ended(one)
  t.type(await a.publish('anew'), 'string')
  await two.first(2)
  t.strictSame(texts(two), ['anew'])
})

t.test('without a history a channel ends all the same', async t => {
  const { open, a } = await start(t, { history: { maxEvents: 0 } })
  const client = await open('a')
  await a.publish('one')
  await a.end()
  await ended(client)
  t.strictSame(client.events.map(({ event, data }) => event ?? data), ['one', 'sse.end'])
})

// publishFrom()

t.test('publishFrom() takes every kind of source, in order, and resolves when the end is in the log', async t => {
  const { app, open } = await start(t)
  const items = numbers(200)
  const sources: Record<string, SseSource & object> = {
    array: items,
    set: new Set(items),
    generator: (function * () { yield * items })(),
    'async generator': (async function * () { yield * items })(),
    'slow generator': slowly(items, 0),
    readable: Readable.from(items),
    'byte stream': new ReadableStream({
      start (controller) {
        for (const item of items) controller.enqueue(new TextEncoder().encode(item))
        controller.close()
      }
    }),
    objects: items.map(item => ({ data: item })),
    'what can be iterated': { [Symbol.asyncIterator]: () => slowly(items, 0) }
  }
  for (const [name, source] of Object.entries(sources)) {
    const channel = app.sse.channel(name)
    const client = await open(encodeURIComponent(name))
    t.equal(await channel.publishFrom(source as never), 'done', name)
    await t.rejects(channel.publish('late'), { code: 'SSE_ERR_CHANNEL_ENDED' })
    await ended(client)
    t.strictSame(texts(client), items)
    t.equal(ends(client)[0].reason, 'done')
  }
  t.equal(app.sse.stats().published, items.length * Object.keys(sources).length)
})

t.test('an empty source is an end at once; events keep their names; a character cut in two is put together', async t => {
  const { open, a, b, app } = await start(t)
  const [one, two, three] = [await open('a'), await open('b'), await open('c')]
  t.equal(await a.publishFrom([]), 'done')
  t.equal(await b.publishFrom([{ event: 'token', data: { n: 1 } }, { data: 0 }, 'text']), 'done')
  const [x, y] = [Buffer.from('ü').subarray(0, 1), Buffer.from('ü').subarray(1)]
  t.equal(await app.sse.channel('c').publishFrom([x, y]), 'done')
  for (const client of [one, two, three]) await ended(client)
  t.strictSame(texts(one), [])
  t.match(two.events, [{ event: 'token', data: '{"n":1}' }, { event: undefined, data: '0' }, { data: 'text' }, { event: 'sse.end' }])
  t.strictSame(texts(three), ['ü'])
})

t.test('what is no source is refused with a code, and the channel goes on', async t => {
  const { a, b } = await start(t)
  for (const source of ['text', Buffer.from('bytes'), 5, null, undefined, true, {}, a, b, () => [], async function * () {}, Promise.resolve(['a']), Symbol('s')]) {
    await t.rejects(a.publishFrom(source as never), { code: 'SSE_ERR_INVALID_SOURCE', message: /^publishFrom\(\)/ })
  }
  for (const options of [{ end: 'no' }, { signal: 'x' }, { ends: true }, 5, null]) await t.rejects(a.publishFrom(['x'], options as never), { code: 'SSE_ERR_INVALID_OPTION' })
  const { told, sources } = waiting()
  await t.rejects(a.publishFrom(sources['destroy']!, { ends: 1 } as never), { code: 'SSE_ERR_INVALID_OPTION' })
  await t.rejects(a.publishFrom(sources['cancel']!, { ends: 1 } as never), { code: 'SSE_ERR_INVALID_OPTION' })
  t.strictSame(told, ['destroy', 'cancel'], 'a source that is not read is told')
  t.type(await a.publish('still'), 'string')
  t.strictSame((await a.history()).map(({ data }) => data), ['still'])
})

t.test('a failure that nobody awaits is logged, and does not end the process', async t => {
  const lines: any[] = []
  const { app, a } = await start(t, {}, logger(lines, 'warn'))
  a.publishFrom('nonsense' as never)
  app.sse.channel('c').publishFrom((async function * () { throw new Error('mine') })() as never)
  await soon(() => lines.length === 2, 'the log')
  t.strictSame(lines.map(({ msg }) => msg), ['publishFrom failed', 'publishFrom failed'])
  await sleep(20)
  t.strictSame(accidents, [])
})

t.test('a source that throws ends the channel with "error" and nothing of its text; the promise rejects', async t => {
  const { app, open } = await start(t)
  const secret = new Error('the password is xyzzy')
  const web = new ReadableStream({
    pull (controller) { controller.error(secret) }
  })
  const throws: Record<string, unknown> = {
    sync: (function * () {
      yield 'one'
      throw secret
    })(),
    async: (async function * () {
      yield 'one'
      throw secret
    })(),
    next: { [Symbol.asyncIterator]: () => ({ next () { throw secret } }) },
    iterator: { [Symbol.asyncIterator] () { throw secret } },
    readable: new Readable({ read () { this.destroy(secret) } }),
    web
  }
  for (const [name, source] of Object.entries(throws)) {
    const channel = app.sse.channel(name)
    const client = await open(name)
    const error = await within(channel.publishFrom(source as never).catch((error: unknown) => error), name)
    t.equal(error, secret, name)
    await ended(client)
    t.equal(ends(client)[0].reason, 'error')
    t.notMatch(client.text, 'xyzzy')
  }
})

t.test('a source that yields what cannot be published is stopped, and its channel ends with "error": nothing after the bad event goes out', async t => {
  const { app, open } = await start(t, { maxEventBytes: 1_000 })
  const circle: Record<string, unknown> = {}
  circle['circle'] = circle
  const bad: Array<[name: string, item: unknown, code?: string]> = [
    ['id', { id: '1', data: 'x' }, 'SSE_ERR_INVALID_EVENT'], ['empty', {}, 'SSE_ERR_INVALID_EVENT'], ['number', 5, 'SSE_ERR_INVALID_EVENT'],
    ['null', null, 'SSE_ERR_INVALID_EVENT'], ['name', { event: 'a\nb', data: 'x' }, 'SSE_ERR_INVALID_EVENT'], ['pair', ['a', 'b'], 'SSE_ERR_INVALID_EVENT'],
    ['large', 'x'.repeat(2_000), 'SSE_ERR_EVENT_TOO_LARGE'], ['circle', { data: circle }], ['comment', { comment: 'x' }, 'SSE_ERR_INVALID_EVENT']
  ]
  for (const [name, item, code] of bad) {
    let told = false
    const source = (function * () {
      try {
        yield 'one'
        yield item
        for (;;) yield 'never'
      } finally {
        told = true
      }
    })()
    const client = await open(name)
    const error = await within(app.sse.channel(name).publishFrom(source as never).catch((error: unknown) => error), name)
    t.type(error, Error, name)
    if (code !== undefined) t.match(error, { code })
    await ended(client)
    t.strictSame(texts(client), ['one'])
    t.equal(ends(client)[0].reason, 'error')
    t.ok(told, 'the source is told')
  }
})

t.test('a source that never waits lets the others have their turn, and is stopped in the middle', async t => {
  const { app, open, a } = await start(t)
  const client = await open('b')
  let n = 0
  const controller = new AbortController()
  const endless = (function * () { for (;;) yield String(n++) })()
  const publishing = a.publishFrom(endless, { signal: controller.signal })
  for (let i = 0; i < 5; i++) {
    await app.sse.publish('b', 'tick')
    await client.first(i + 1)
  }
  controller.abort()
  t.equal(await within(publishing, 'publishFrom'), 'aborted')
  const before = n
  await sleep(20)
  t.equal(n, before, 'it is asked no more')
  t.strictSame(endless.next(), { done: true, value: undefined })
})

for (const how of ['return', 'destroy', 'cancel']) {
  t.test(`a source that waits for ever is stopped at once, by ${how}(), when somebody else ends the channel`, async t => {
    const { app, open, a } = await start(t)
    const { told, sources } = waiting()
    const client = await open('a')
    const publishing = a.publishFrom(sources[how]!)
    await client.first(1)
    await app.sse.channel('a').end({ reason: 'stopped by the user' })
    t.equal(await within(publishing, 'publishFrom'), 'stopped by the user')
    t.strictSame(told, [how])
    await ended(client)
    t.equal(ends(client)[0].reason, 'stopped by the user')
  })

  t.test(`a source that waits for ever is stopped at once, by ${how}(), when the signal aborts`, async t => {
    const { open, a } = await start(t)
    const { told, sources } = waiting()
    const client = await open('a')
    const controller = new AbortController()
    const publishing = a.publishFrom(sources[how]!, { signal: controller.signal })
    await client.first(1)
    controller.abort(new Error('whatever'))
    t.strictSame(told, [how], 'in the same turn')
    t.equal(await within(publishing, 'publishFrom'), 'aborted')
    await ended(client)
    t.equal(ends(client)[0].reason, 'aborted')
  })

  t.test(`a signal that has aborted: nothing is published, the source is told by ${how}(), the channel ends`, async t => {
    const { open, a } = await start(t)
    const { told, sources } = waiting()
    const client = await open('a')
    t.equal(await within(a.publishFrom(sources[how]!, { signal: AbortSignal.abort() }), 'publishFrom'), 'aborted')
    t.strictSame(told, [how])
    await ended(client)
    t.strictSame(client.events.map(({ event }) => event), ['sse.end'])
  })
}

t.test('what a source yields after it was told to stop is not published', async t => {
  const { open, a } = await start(t)
  const client = await open('a')
  const controller = new AbortController()
  let go = (): void => {}
  const source = (async function * () {
    yield 'one'
    await new Promise<void>(resolve => { go = resolve })
    yield 'late'
  })()
  const publishing = a.publishFrom(source, { signal: controller.signal, end: false })
  await client.first(1)
  controller.abort()
  t.equal(await within(publishing, 'publishFrom'), 'aborted')
  go()
  await sleep(20)
  await a.publish('two')
  await client.first(2)
  t.strictSame(texts(client), ['one', 'two'])
})

t.test('a source that throws because it was told to stop is no error', async t => {
  const lines: any[] = []
  const { a } = await start(t, {}, logger(lines, 'warn'))
  const controller = new AbortController()
  const source = {
    [Symbol.asyncIterator]: () => ({
      next: () => new Promise<never>((resolve, reject) => controller.signal.addEventListener('abort', () => reject(controller.signal.reason))),
      return () { throw new Error('from return') }
    })
  }
  const publishing = a.publishFrom(source, { signal: controller.signal })
  await sleep(10)
  controller.abort()
  t.equal(await within(publishing, 'publishFrom'), 'aborted')
  await sleep(10)
  t.strictSame(lines, [])
})

t.test('end: false leaves the channel open, whatever becomes of the source', async t => {
  const { open, a } = await start(t)
  const client = await open('a')
  t.equal(await a.publishFrom(['1', '2'], { end: false }), 'done')
  t.equal(await a.publishFrom(slowly(['3']), { end: false }), 'done')
  await t.rejects(a.publishFrom((function * () { yield '4'; throw new Error('mine') })(), { end: false }), { message: 'mine' })
  t.equal(await a.publishFrom(['never'], { end: false, signal: AbortSignal.abort() }), 'aborted')
  t.equal(await a.publishFrom(['5']), 'done')
  await ended(client)
  t.strictSame(texts(client), numbers(5))
})

t.test('it goes on though nobody reads, and though its only reader leaves', async t => {
  const { open, a } = await start(t)
  const publishing = a.publishFrom(slowly(numbers(50), 1))
  const client = await open('a')
  await client.first(1)
  client.leave()
  t.equal(await publishing, 'done')
  const late = await open('a?rewind=Infinity')
  await ended(late)
  t.strictSame(texts(late), numbers(50))
})

t.test('twice on one channel: the first to be through ends it, and stops the other', async t => {
  const { open, a } = await start(t)
  const client = await open('a')
  const { told, sources } = waiting(['from two'])
  const two = a.publishFrom(sources['return']!)
  t.equal(await a.publishFrom(slowly(['from one'])), 'done')
  t.equal(await within(two, 'the second'), 'done')
  t.strictSame(told, ['return'])
  await ended(client)
  t.strictSame(texts(client), ['from two', 'from one'])
  t.equal(ends(client).length, 1)
})

t.test('on a channel that has ended the source is stopped before it begins, and the reason is that of the end', async t => {
  const { a } = await start(t)
  await a.end({ reason: 'over' })
  let begun = false
  t.equal(await within(a.publishFrom((function * () {
    begun = true
    yield 'never'
  })()), 'publishFrom'), 'over')
  t.equal(begun, false)
})

t.test('it resolves with the reason that readers are told, though its source is through, or its signal aborts, in the turn in which somebody else ends the channel', async t => {
  const { app, open } = await start(t)
  const told = async (name: string): Promise<string> => {
    const reader = await open(`${name}?rewind=9`)
    await ended(reader)
    return ends(reader)[0].reason
  }
  const through = app.sse.channel('through').publishFrom(['x'])
  app.sse.channel('through').end({ reason: 'stopped' })
  t.equal(await within(through, 'publishFrom'), 'stopped')
  t.equal(await told('through'), 'stopped')

  const controller = new AbortController()
  const aborted = app.sse.channel('aborted').publishFrom(waiting().sources['return']!, { signal: controller.signal })
  controller.abort()
  app.sse.channel('aborted').end({ reason: 'stopped' })
  t.equal(await within(aborted, 'publishFrom'), 'stopped')
  t.equal(await told('aborted'), 'stopped')
})

t.test('a source is no reader: size and stats() do not count it', async t => {
  const { app, open, a } = await start(t)
  const { sources } = waiting()
  const publishing = a.publishFrom(sources['return']!)
  t.equal(a.size, 0)
  t.match(app.sse.stats(), { channels: 0, subscriptions: 0 })
  const client = await open('a')
  t.equal(a.size, 1)
  const sizes: number[] = []
  const other = app.sse.channel('c')
  await open('c')
  const short = other.publishFrom((function * () {
    sizes.push(other.size)
    yield 'x'
  })(), { end: false })
  for (let i = 0; i < 20; i++) {
    sizes.push(other.size)
    await null
  }
  await short
  t.strictSame(new Set(sizes), new Set([1]), 'nor while it begins and ends')
  await a.end()
  await publishing
  await ended(client)
})

t.test('a reader that is blocked holds nobody up', async t => {
  const { drive, open, a } = await start(t)
  const driven = await drive(stream => stream.subscribe(a), { valve: true })
  const client = await open('a')
  await block(driven)
  t.equal(await a.publishFrom(numbers(500)), 'done')
  await ended(client)
  t.strictSame(texts(client), numbers(500))
  driven.valve!.open()
  await ended(driven.client)
  t.strictSame(texts(driven.client), numbers(500))
})

// Several processes, by Redis

t.test('with Redis', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  let apps = 0
  async function process (t: Test, key: string, options: SsePluginOptions = {}) {
    const client = new Redis(server.url, { lazyConnect: true })
    client.on('error', () => {})
    t.teardown(() => client.disconnect())
    apps++
    return await start(t, { ...options, backplane: redisBackplane({ client, key }) })
  }

  await t.test('a reader in another process gets all events and the end; a second end, from anywhere, is the first one', async t => {
    const [one, two] = [await process(t, 'k1'), await process(t, 'k1')]
    const client = await two.open('a')
    await one.a.publish('1')
    await two.a.publish('2')
    const cursor = await one.a.end({ reason: 'stopped' })
    await ended(client)
    t.strictSame(texts(client), ['1', '2'])
    t.strictSame(ends(client), [{ id: cursor, reason: 'stopped', channels: ['a'] }])
    t.equal(await two.a.end(), cursor)
    t.equal(await one.a.end({ reason: 'x' }), cursor)
    await t.rejects(two.a.publish('late'), { code: 'SSE_ERR_CHANNEL_ENDED' })
    await t.rejects(one.app.sse.publish(['b', 'a'], 'late'), { code: 'SSE_ERR_CHANNEL_ENDED' })
    t.strictSame(await one.b.history(), [])
    t.strictSame((await two.a.history(1)).map(({ data }) => data), ['2'])
  })

  await t.test('204 waits for the answer of Redis, in every process, one that never heard of the channel included', async t => {
    const [one, two, three] = [await process(t, 'k2'), await process(t, 'k2'), await process(t, 'k2')]
    const first = await one.a.publish('1')
    await one.a.publish('2')
    const cursor = await one.a.end()
    for (const { open, app } of [one, two, three]) {
      for (const options of [{ lastEventId: cursor }, {}, { method: 'HEAD' }]) {
        // A process that has heard nothing for a while gives a new reader what was published meanwhile, an end too.
        if (options.lastEventId === undefined) await soon(() => app.sse.cursor === cursor, 'the head', 8_000)
        const client = await open('a', options)
        await ended(client)
        t.equal(client.status, 204, JSON.stringify(options))
      }
      t.equal((await app.inject('/a')).statusCode, 204)
      const rest = await open('a', { lastEventId: first })
      await ended(rest)
      t.equal(rest.status, 200)
      t.strictSame(texts(rest), ['2'])
      const whole = await open('a?rewind=Infinity')
      await ended(whole)
      t.strictSame([texts(whole), whole.gaps], [['1', '2'], []])
      const newest = await open('a?rewind=1')
      await ended(newest)
      t.strictSame(texts(newest), ['2'])
      const gap = await open('a', { lastEventId: 'unknown' })
      await ended(gap)
      t.strictSame(gap.gaps.map(({ reason }) => reason), ['unknown'])
      t.strictSame(texts(gap), ['1', '2'])
      t.match(app.sse.stats(), { streams: 0, subscriptions: 0 })
    }
  })

  await t.test('publishFrom() here is stopped by an end there, at once, and knows its reason', async t => {
    const [one, two] = [await process(t, 'k3'), await process(t, 'k3')]
    for (const how of ['return', 'destroy', 'cancel']) {
      const { told, sources } = waiting(['1', '2'])
      const client = await two.open(how)
      const publishing = one.app.sse.channel(how).publishFrom(sources[how]!)
      await client.first(2)
      await two.app.sse.channel(how).end({ reason: 'stopped there' })
      t.equal(await within(publishing, 'publishFrom'), 'stopped there')
      t.strictSame(told, [how])
      await ended(client)
      t.strictSame(texts(client), ['1', '2'])
    }
    await one.a.end({ reason: 'before' })
    t.equal(await within(two.a.publishFrom(waiting().sources['return']!), 'publishFrom on what has ended'), 'before')
    t.equal(await within(one.a.publishFrom(['x', 'y']), 'a short one'), 'before')
  })

  await t.test('1,000 events are in flight together, and in order, for readers of both processes, live and late', async t => {
    const [one, two] = [await process(t, 'k4'), await process(t, 'k4')]
    const clients = [await one.open('a'), await two.open('a')]
    t.equal(await within(one.a.publishFrom(numbers(1_000)), 'publishFrom', 10_000), 'done')
    clients.push(await one.open('a?rewind=Infinity'), await two.open('a?rewind=Infinity'))
    for (const client of clients) {
      await ended(client)
      t.strictSame(texts(client), numbers(1_000))
      t.strictSame(client.gaps, [])
    }
  })

  await t.test('rewind: Infinity where the first events are gone begins with a gap in every process', async t => {
    const options = { history: { maxEvents: 10 } }
    const [one, two] = [await process(t, 'k5', options), await process(t, 'k5', options)]
    await one.a.publishFrom(numbers(30))
    for (const { open } of [one, two]) {
      const client = await open('a?rewind=Infinity')
      await ended(client)
      t.strictSame(client.gaps.map(({ reason }) => reason), ['expired'])
      t.strictSame(texts(client), numbers(10, 21))
    }
  })

  await t.test('200 channels that end at once', async t => {
    const [one, two] = [await process(t, 'k6'), await process(t, 'k6')]
    const clients = await Promise.all(numbers(200).map(n => two.open(`c${n}`)))
    await Promise.all(numbers(200).map(n => one.app.sse.channel(`c${n}`).publishFrom([n])))
    for (const [i, client] of clients.entries()) {
      await ended(client)
      if (client.events.length !== 2 || texts(client)[0] !== String(i + 1)) t.fail(`channel ${i}: ${client.text}`)
    }
    t.equal((await Promise.all(numbers(200).map(n => two.open(`c${n}`)))).filter(({ status }) => status === 204).length, 200)
  })

  await t.test('while Redis is slow to answer, a response is held, and is 204 then; a channel that ends meanwhile reaches its reader', async t => {
    const [one, two] = [await process(t, 'k7'), await process(t, 'k7')]
    const cursor = await one.a.end()
    server.freeze()
    let answered = false
    const asking = two.open('a', { lastEventId: cursor })
    asking.then(() => { answered = true }, () => {})
    const live = two.open('b')
    const ending = Promise.all([one.b.publish('1'), one.b.end()])
    await sleep(300)
    t.equal(answered, false)
    server.thaw()
    t.equal((await within(asking, 'the answer')).status, 204)
    await ending
    const client = await live
    await ended(client)
    t.strictSame(client.events.map(({ event, data }) => event ?? data), ['1', 'sse.end'])
  })

  await t.test('while Redis is away the response opens after a second, and is told by a gap, or the end, when Redis is back', async t => {
    const away = await RedisServer.start(t, { aof: true })
    const client = new Redis(away.url, { lazyConnect: true })
    client.on('error', () => {})
    t.teardown(() => client.disconnect())
    const { app, open, a } = await start(t, { backplane: redisBackplane({ client }) })
    await a.publish('1')
    const cursor = await a.end()
    const down = once(app.sse, 'down')
    await away.kill()
    await down
    const before = performance.now()
    const [fresh, resumed, lost] = await Promise.all([open('x'), open('a', { lastEventId: cursor }), open('y', { lastEventId: 'unknown' })])
    const ms = performance.now() - before
    t.ok(ms < 5_000, `bounded: ${Math.round(ms)} ms`)
    t.strictSame([fresh.status, resumed.status, lost.status], [200, 200, 200])
    await t.rejects(a.end(), { code: 'SSE_ERR_BACKPLANE_DOWN' })
    await t.rejects(app.sse.channel('z').publishFrom(['1']), { code: 'SSE_ERR_BACKPLANE_DOWN' })
    const up = once(app.sse, 'up')
    await away.restart()
    await within(up, 'Redis to be back', 8_000)
    await soon(() => lost.gaps.length === 1, 'the gap', 8_000)
    await within(ended(resumed), 'the stream of what has ended', 8_000)
    t.strictSame(resumed.events, [])
    t.equal((await open('a', { lastEventId: cursor })).status, 204)
    fresh.leave()
  })

  t.equal(apps, 15)
})

t.test('nothing was left unhandled', async t => {
  await sleep(50)
  t.strictSame(accidents, [])
})

export type { FastifyInstance }
