import http2 from 'node:http2'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { SsePluginOptions } from '../../lib/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'
import { build as buildApp, connect, listen, logger, soon, within, type Client } from '../client.ts'
import { RedisServer, noRedis } from '../redis/redis-server.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

/** Should close() hang, its test fails, and the application is taken down the hard way. */
async function build (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const app = await buildApp(t, options, server)
  t.teardown(() => { app.server.closeAllConnections?.() })
  return app
}

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))
const ended = (client: Client): Promise<unknown> => soon(() => client.closed, 'the response to end', 10_000)
const texts = (client: Client) => client.events.filter(({ event }) => event !== 'sse.end').map(({ data }) => data)
const ends = (client: Client) => client.events.filter(({ event }) => event === 'sse.end').map(({ data }) => JSON.parse(data))

async function timed (closing: Promise<unknown>, what = 'app.close()'): Promise<number> {
  const start = performance.now()
  await within(closing, what, 15_000)
  return performance.now() - start
}

/** Some items, then a pause in the middle until `go`, then the rest. */
function held (first: readonly string[], rest: readonly string[]) {
  let go = (): void => {}
  const gate = new Promise<void>(resolve => { go = resolve })
  const told: string[] = []
  const generator = async function * () {
    try {
      yield * first
      await gate
      yield * rest
    } finally {
      told.push('finally')
    }
  }
  return { generator, go: () => go(), told }
}

t.test('a function that is through during app.close() leaves its stream to its channels, and so to the close', async t => {
  const app = await build(t)
  let go = (): void => {}
  const gate = new Promise<void>(resolve => { go = resolve })
  app.get('/channel', (request, reply) => reply.sse(app.sse.channel('a')))
  app.get('/', (request, reply) => reply.sse(async stream => {
    stream.subscribe('a')
    await gate
    stream.send('last')
  }))
  const url = await listen(app)
  const [client, other] = await Promise.all([connect(url), connect(`${url}/channel`)])
  const closing = timed(app.close())
  await ended(other)
  go()
  t.ok(await closing < 4_000, 'it does not wait for drain.finish, 5 s')
  await ended(client)
  t.same(texts(client), ['last'])
  t.match(client, { closed: 'end', retries: { length: 2 } })
})

t.test('at app.close() a source may finish: its reader gets all of it and is not told to come back, while streams on channels end at once', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  const { generator, go } = held(['1'], ['2', '3'])
  app.get('/channel', (request, reply) => reply.sse(a))
  app.get('/driven', (request, reply) => {
    reply.sse().subscribe(a)
    return reply
  })
  app.get('/source', (request, reply) => reply.sse(generator()))
  app.get('/function', (request, reply) => reply.sse(() => generator()))
  app.get('/sender', (request, reply) => reply.sse(async stream => { for await (const item of generator()) await stream.send(item) }))
  const url = await listen(app)
  const [channel, driven, ...fed] = await Promise.all(['/channel', '/driven', '/source', '/function', '/sender'].map(path => connect(url + path)))
  for (const client of fed) await client.first(1)
  const closing = timed(app.close())
  await Promise.all([ended(channel!), ended(driven!)])
  t.ok(channel!.retries.at(-1)! >= 1_000 && channel!.retries.length === 2, 'told when to come back')
  for (const client of fed) t.equal(client.closed, undefined, 'a source goes on')
  go()
  const ms = await closing
  t.ok(ms < 4_000, `as long as the sources took: ${Math.round(ms)} ms`)
  for (const client of fed) {
    await ended(client)
    t.equal(client.closed, 'end')
    t.strictSame(texts(client), ['1', '2', '3'])
    t.strictSame(client.retries, [3_000])
  }
  t.match(app.sse.stats().closed, { end: 3, drain: 2 })
})

t.test('at app.close() publishFrom() may finish, and others may publish and end meanwhile; nothing new may begin', async t => {
  const app = await build(t)
  const { a, b } = { a: app.sse.channel('a'), b: app.sse.channel('b') }
  const { generator, go } = held(['1'], ['2'])
  const results: Record<string, unknown> = {}
  app.addHook('preClose', async () => {
    results['publish'] = await b.publish('late')
    results['end'] = await b.end()
  })
  const publishing = a.publishFrom(generator())
  await app.ready()
  const closing = within(app.close(), 'app.close()', 10_000)
  await soon(() => (app.sse as unknown as { closing: boolean }).closing, 'preClose')
  await t.rejects(app.sse.channel('c').publishFrom(['1']), { code: 'SSE_ERR_CLOSED' })
  const source = Readable.from(['1'])
  await t.rejects(app.sse.channel('c').publishFrom(source), { code: 'SSE_ERR_CLOSED' })
  t.ok(source.destroyed, 'a refused source is told')
  go()
  t.equal(await publishing, 'done')
  await closing
  t.type(results['publish'], 'string')
  t.type(results['end'], 'string')
})

t.test('what is not through after drain.finish is stopped: publishFrom() with the reason "closed", which is in the log; a source is told and its reader to come back', async t => {
  const app = await build(t, { drain: { finish: 300 } })
  const a = app.sse.channel('a')
  let log: unknown[] = []
  app.addHook('onClose', async () => {})
  const waiting = held(['1'], [])
  const told: string[] = []
  const readable = new Readable({
    read () {},
    destroy (error, done) {
      told.push('destroy')
      done(error)
    }
  })
  readable.push('one')
  app.get('/source', (request, reply) => reply.sse(readable))
  const client = await connect(await listen(app) + '/source')
  await client.first(1)
  const publishing = a.publishFrom(waiting.generator())
  publishing.then(async () => { log = await a.history() }).catch(() => {})
  const ms = await timed(app.close())
  t.ok(ms >= 280 && ms < 4_000, `about drain.finish: ${Math.round(ms)} ms`)
  t.equal(await within(publishing, 'publishFrom'), 'closed')
  await ended(client)
  t.equal(client.closed, 'end')
  t.equal(client.retries.length, 2)
  t.strictSame(told, ['destroy'])
  t.strictSame(log.length, 1)
  t.match(app.sse.stats().closed, { drain: 1 })
})

t.test('drain.finish 0 waits for no source: all is stopped at once', async t => {
  const app = await build(t, { drain: { finish: 0 } })
  const { generator } = held(['1'], ['2'])
  app.get('/', (request, reply) => reply.sse(generator()))
  const client = await connect(await listen(app))
  await client.first(1)
  const publishing = app.sse.channel('a').publishFrom(held(['1'], []).generator())
  const ms = await timed(app.close())
  t.ok(ms < 4_000, `${Math.round(ms)} ms`)
  t.equal(await publishing, 'closed')
  await ended(client)
  t.strictSame(texts(client), ['1'])
  t.equal(client.retries.length, 2)
})

t.test('drain.finish must be a number of ms', async t => {
  for (const finish of [-1, NaN, '5', null, {}]) await t.rejects(buildApp(t, { drain: { finish } } as never), { code: 'SSE_ERR_INVALID_OPTION', message: /drain\.finish/ })
  await t.rejects(buildApp(t, { drain: { finsih: 1 } } as never), { code: 'SSE_ERR_INVALID_OPTION', message: /drain\.finish/ })
})

t.test('without sources nothing waits, whatever drain.finish says; neither for one whose client left', async t => {
  const app = await build(t, { drain: { finish: 60_000 } })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('a')))
  app.get('/source', (request, reply) => reply.sse(held(['1'], []).generator()))
  const url = await listen(app)
  const [client, gone] = [await connect(url), await connect(url + '/source')]
  await gone.first(1)
  gone.leave()
  await soon(() => app.sse.stats().streams === 1, 'the client to leave')
  const ms = await timed(app.close())
  t.ok(ms < 4_000, `${Math.round(ms)} ms`)
  await ended(client)
})

t.test('a client that leaves while its source finishes ends the wait', async t => {
  const app = await build(t, { drain: { finish: 60_000 } })
  app.get('/', (request, reply) => reply.sse(held(['1'], []).generator()))
  const client = await connect(await listen(app))
  await client.first(1)
  const closing = timed(app.close())
  await sleep(100)
  client.leave()
  t.ok(await closing < 5_000)
})

t.test('a source that throws while it finishes breaks its response, and close() goes on', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'error'))
  let fail = (): void => {}
  const failed = new Promise<void>(resolve => { fail = resolve })
  app.get('/', (request, reply) => reply.sse((async function * () {
    yield '1'
    await failed
    throw new Error('mine')
  })()))
  const client = await connect(await listen(app))
  await client.first(1)
  const closing = timed(app.close())
  await sleep(50)
  fail()
  t.ok(await closing < 4_000)
  await ended(client)
  t.equal(client.closed, 'aborted')
  t.match(lines, [{ msg: 'stream failed' }])
})

t.test('a source whose client reads nothing, and one that never answers, hold close() no longer than finish and timeout together', async t => {
  const app = await build(t, { drain: { finish: 300, timeout: 400 } })
  app.get('/', (request, reply) => reply.sse((async function * () { for (;;) yield 'x'.repeat(100_000) })()))
  const client = await connect(await listen(app))
  client.pause()
  await soon(() => app.sse.stats().blocked === 1, 'the client to be blocked')
  const stubborn = { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}), return: () => new Promise<never>(() => {}) }) }
  const publishing = app.sse.channel('a').publishFrom(stubborn)
  const ms = await timed(app.close())
  t.ok(ms >= 600 && ms < 4_000, `${Math.round(ms)} ms`)
  t.equal(await publishing, 'closed')
  client.resume()
  await ended(client)
})

t.test('a response that waits for Redis when the application closes is answered', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const client = new Redis(server.url, { lazyConnect: true })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  const app = await build(t, { backplane: redisBackplane({ client }) })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('a')))
  const url = await listen(app)
  server.freeze()
  const waiting = connect(url)
  await soon(() => app.sse.stats().streams === 1, 'the stream')
  const closing = timed(app.close())
  const answered = await within(waiting, 'the answer')
  t.equal(answered.status, 200)
  await ended(answered)
  t.equal(answered.retries.length > 0, true)
  server.thaw()
  t.ok(await closing < 8_000)
})

t.test('a client that reads nothing and a Redis that takes the end of a channel but does not answer hold close() no longer than finish and timeout together', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const client = new Redis(server.url, { lazyConnect: true })
  client.on('error', () => {})
  t.teardown(() => client.disconnect())
  const app = await build(t, { backplane: redisBackplane({ client }), drain: { finish: 200, timeout: 1_500 } })
  app.get('/', (request, reply) => reply.sse((async function * () { for (;;) yield 'x'.repeat(100_000) })()))
  const reader = await connect(await listen(app))
  reader.pause()
  await soon(() => app.sse.stats().blocked === 1, 'the client to be blocked')
  const publishing = app.sse.channel('a').publishFrom(held(['1'], []).generator())
  publishing.catch(() => {})
  await soon(() => app.sse.stats().published === 1, 'the first event')
  server.freeze()
  const ms = await timed(app.close())
  server.thaw()
  t.ok(ms >= 1_650 && ms < 4_000, `${Math.round(ms)} ms`)
  reader.resume()
  await ended(reader)
})

t.test('publishFrom() that finishes at app.close() ends its channel in Redis, for readers of other processes', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const process = async (options: SsePluginOptions = {}) => {
    const client = new Redis(server.url, { lazyConnect: true })
    client.on('error', () => {})
    t.teardown(() => client.disconnect())
    const app = await build(t, { ...options, backplane: redisBackplane({ client }) })
    app.get('/:name', (request, reply) => reply.sse(app.sse.channel((request.params as { name: string }).name), { rewind: Infinity }))
    return { app, url: await listen(app) }
  }
  const [one, two] = [await process({ drain: { finish: 500 } }), await process()]
  const { generator, go } = held(['1'], ['2'])
  const finishing = one.app.sse.channel('finishes').publishFrom(generator())
  const stopped = one.app.sse.channel('stopped').publishFrom(held(['1'], []).generator())
  const readers = [await connect(two.url + '/finishes'), await connect(two.url + '/stopped')]
  const here = await connect(one.url + '/finishes')
  for (const client of [...readers, here]) await client.first(1)
  const closing = within(one.app.close(), 'app.close()', 10_000)
  await ended(here)
  go()
  t.equal(await finishing, 'done')
  t.equal(await stopped, 'closed')
  await closing
  for (const client of readers) await ended(client)
  t.strictSame(readers.map(texts), [['1', '2'], ['1']])
  t.strictSame(readers.flatMap(ends).map(({ reason }) => reason), ['done', 'closed'])
  const resumed = await connect(two.url + '/finishes', { lastEventId: here.lastEventId })
  await ended(resumed)
  t.strictSame([...texts(here), ...texts(resumed)], ['1', '2'], 'who was told to come back gets the rest there')
})

t.test('sources finish over HTTP/2 too', async t => {
  const app = await build(t, {}, { http2: true } as FastifyServerOptions)
  const { generator, go } = held(['1'], ['2'])
  app.get('/', (request, reply) => reply.sse(generator()))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  const request = session.request({ ':path': '/' })
  let text = ''
  request.setEncoding('utf8').on('data', chunk => { text += chunk })
  await soon(() => text.includes('data: 1'), 'the first one')
  const closing = timed(app.close())
  const end = once(request, 'end')
  await sleep(50)
  go()
  await end
  t.match(text, /data: 1\n\n[^]*data: 2\n\n$/)
  t.ok(await closing < 5_000)
})

t.test('nothing was left unhandled', async t => {
  await sleep(50)
  t.strictSame(accidents, [])
})
