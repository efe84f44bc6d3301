import http2 from 'node:http2'
import { syncBuiltinESMExports } from 'node:module'
import { Transform, type Readable } from 'node:stream'
import zlib, { createBrotliCompress, createBrotliDecompress, gunzipSync } from 'node:zlib'
import compress from '@fastify/compress'
import cors from '@fastify/cors'
import Fastify from 'fastify'
import t from 'tap'
import sse, { type SsePluginOptions, type SseStream } from '../../lib/index.ts'
import { connect, listen, logger, until } from '../client.ts'
import { build, ended } from './app.ts'

const GZIP = { 'accept-encoding': 'gzip' }

t.test('a stream is compressed where Accept-Encoding takes gzip, as RFC 9110 says', async t => {
  const app = await build(t, { compress: true })
  app.get('/', async (request, reply) => reply.sse(['one']))
  const cases: Array<[string | undefined, boolean]> = [
    ['gzip', true],
    ['GZIP', true],
    ['x-gzip', true],
    ['gzip, deflate, br, zstd', true],
    ['br;q=1.0, gzip;q=0.8, *;q=0.1', true],
    [' deflate ,, gzip ; q=0.001 ', true],
    ['*', true],
    ['identity, *', true],
    ['identity;q=0', false],
    ['identity;q=0, *', true],
    ['gzip;q=0.5, identity;q=0.5', true],
    ['gzip;q=0.5, identity', false],
    ['gzip;q=0.5, *', false],
    ['gzip;q=0', false],
    ['gzip;q=0.000', false],
    ['gzip;q=0, *', false],
    ['*;q=0', false],
    ['gzip;q=nonsense', false],
    ['gzip;q=1.5', false],
    ['gzipped', false],
    ['deflate, br', false],
    ['', false],
    [undefined, false]
  ]
  for (const [encodings, expected] of cases) {
    const response = await app.inject({ url: '/', headers: encodings === undefined ? {} : { 'accept-encoding': encodings } })
    t.equal(response.headers['content-encoding'], expected ? 'gzip' : undefined, String(encodings))
    t.equal(response.headers.vary, expected ? 'accept-encoding' : undefined)
    const body = expected ? gunzipSync(response.rawPayload) : response.rawPayload
    t.equal(body.toString(), 'retry: 3000\n\ndata: one\n\n')
  }
})

t.test('without the option nothing is compressed', async t => {
  for (const options of [{}, { compress: false }]) {
    const app = await build(t, options)
    app.get('/', async (request, reply) => reply.sse(['one']))
    const { headers, payload } = await app.inject({ url: '/', headers: GZIP })
    t.match(headers, { 'content-encoding': undefined, vary: undefined })
    t.equal(payload, 'retry: 3000\n\ndata: one\n\n')
  }
})

t.test('one stream may say otherwise than the plugin', async t => {
  const on = await build(t, { compress: { window: 0 } })
  on.get('/', async (request, reply) => reply.sse(['one'], { compress: false }))
  t.equal((await on.inject({ url: '/', headers: GZIP })).headers['content-encoding'], undefined)
  const off = await build(t)
  const ways = [true, { minBytes: 0 }, { window: 1_000 }]
  off.get<{ Querystring: { n: number } }>('/', async (request, reply) => reply.sse(['one'], { compress: ways[request.query.n]! }))
  for (const n of ways.keys()) {
    const response = await off.inject({ url: `/?n=${n}`, headers: GZIP })
    t.equal(gunzipSync(response.rawPayload).toString(), 'retry: 3000\n\ndata: one\n\n')
  }
})

t.test('two streams of one channel are compressed each by its own options', async t => {
  const app = await build(t)
  const all = [{ window: 0, minBytes: Infinity }, { window: 0, minBytes: 0 }]
  app.get<{ Querystring: { n: number } }>('/', async (request, reply) => reply.sse(app.sse.channel('a'), { compress: all[request.query.n]! }))
  const url = await listen(app)
  const clients = await Promise.all([0, 1].map(n => connect(`${url}/?n=${n}`, { headers: GZIP })))
  const bytes = [0, 0]
  for (const [n, { response }] of clients.entries()) response.prependListener('data', (chunk: Buffer) => { bytes[n]! += chunk.length })
  for (let n = 0; n < 10; n++) await app.sse.publish('a', 'x'.repeat(1_500))
  for (const client of clients) await client.first(10)
  t.ok(bytes[0]! > 15_000 && bytes[1]! < 1_500, bytes.join())
})

t.test('what a hook does to the options of an opening stream changes nothing', async t => {
  const app = await build(t)
  const options = { compress: true }
  app.get('/', { onSend: async () => { options.compress = false } }, async (request, reply) => reply.sse(['one'], options))
  t.equal(gunzipSync((await app.inject({ url: '/', headers: GZIP })).rawPayload).toString(), 'retry: 3000\n\ndata: one\n\n')
})

t.test('wrong options are refused, by the plugin and by reply.sse()', async t => {
  const cases: Array<[unknown, string]> = [
    ['gzip', 'option "compress" must be true, false or an object, received "gzip"'],
    [1, 'option "compress" must be true, false or an object, received 1'],
    [null, 'option "compress" must be true, false or an object, received null'],
    [{ minByte: 1 }, 'option "compress.minByte" must be left out: there is no such option. Did you mean "compress.minBytes"?, received 1'],
    [{ minBytes: -1 }, 'option "compress.minBytes" must be a whole number >= 0, or Infinity, received -1'],
    [{ window: 0.5 }, 'option "compress.window" must be a whole number from 0 to 32768, received 0.5'],
    [{ window: 32_769 }, 'option "compress.window" must be a whole number from 0 to 32768, received 32769'],
    [{ window: '8k' }, 'option "compress.window" must be a whole number from 0 to 32768, received "8k"']
  ]
  const plain = await build(t)
  plain.get<{ Querystring: { n: number } }>('/', async (request, reply) => reply.sse(['one'], { compress: cases[request.query.n]![0] as boolean }))
  for (const [n, [value, message]] of cases.entries()) {
    await t.rejects(Promise.resolve(Fastify().register(sse, { compress: value } as SsePluginOptions)), { code: 'SSE_ERR_INVALID_OPTION', message })
    t.match((await plain.inject(`/?n=${n}`)).json(), { code: 'SSE_ERR_INVALID_OPTION', message })
  }
})

t.test('accept-encoding is added to what Vary says already', async t => {
  const app = await build(t, { compress: true })
  await app.register(cors, { origin: ['https://page.example', 'https://other.example'] })
  app.get('/cors', async (request, reply) => reply.sse(['one']))
  const cases: Array<[string | string[], string]> = [
    ['cookie', 'cookie, accept-encoding'],
    ['Accept-Encoding', 'Accept-Encoding'],
    ['cookie,accept-encoding, origin', 'cookie,accept-encoding, origin'],
    ['x-accept-encoding', 'x-accept-encoding, accept-encoding'],
    ['*', '*']
  ]
  for (const [n, [vary]] of cases.entries()) app.get(`/${n}`, async (request, reply) => { reply.raw.setHeader('vary', ''); return reply.header('vary', vary).sse(['one']) })
  for (const [n, [, expected]] of cases.entries()) t.equal((await app.inject({ url: `/${n}`, headers: GZIP })).headers.vary, expected)
  const { headers } = await app.inject({ url: '/cors', headers: { ...GZIP, origin: 'https://page.example' } })
  t.equal(headers.vary, 'Origin, accept-encoding')
})

t.test('@fastify/compress does not encode a second time', async t => {
  for (const first of [true, false]) {
    const app = Fastify()
    t.teardown(() => app.close())
    if (first) await app.register(compress, { global: true, threshold: 0 })
    await app.register(sse, { compress: true })
    if (!first) await app.register(compress, { global: true, threshold: 0 })
    app.get('/', async (request, reply) => reply.sse(['one']))
    for (const accept of ['gzip', 'br, gzip']) {
      const response = await app.inject({ url: '/', headers: { 'accept-encoding': accept } })
      t.equal(response.headers['content-encoding'], 'gzip', `${accept}, ${first ? 'registered before' : 'registered after'}`)
      t.equal(gunzipSync(response.rawPayload).toString(), 'retry: 3000\n\ndata: one\n\n')
    }
  }
})

t.test('a hook that passes the body on gets it compressed; one that takes the header away gets it plain, to encode it by itself', async t => {
  const app = await build(t, { compress: true })
  let seen = ''
  app.get('/meter', {
    onSend: async (request, reply, payload) => (payload as Readable).pipe(new Transform({ transform (chunk, encoding, done) { seen += chunk.toString('latin1'); done(null, chunk) } }))
  }, async (request, reply) => reply.sse(['one']))
  app.get('/brotli', {
    onSend: async (request, reply, payload) => {
      reply.removeHeader('content-encoding')
      const encoded = (payload as Readable).pipe(createBrotliCompress())
      reply.header('content-encoding', 'br')
      return encoded
    }
  }, async (request, reply) => reply.sse(['one']))
  const metered = await app.inject({ url: '/meter', headers: GZIP })
  t.equal(gunzipSync(metered.rawPayload).toString(), 'retry: 3000\n\ndata: one\n\n')
  t.equal(seen, metered.rawPayload.toString('latin1'))
  const brotli = await app.inject({ url: '/brotli', headers: GZIP })
  t.equal(brotli.headers['content-encoding'], 'br')
  const decoder = createBrotliDecompress()
  decoder.end(brotli.rawPayload)
  t.equal((await decoder.toArray()).join(''), 'retry: 3000\n\ndata: one\n\n')
})

t.test('HEAD has the headers and no body', async t => {
  const app = await build(t, { compress: true })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('a')))
  const { statusCode, headers, rawPayload } = await app.inject({ method: 'HEAD', url: '/', headers: GZIP })
  t.match({ statusCode, headers, length: rawPayload.length }, { statusCode: 200, headers: { 'content-encoding': 'gzip', vary: 'accept-encoding' }, length: 0 })
})

t.test('the answer to an onSend hook that fails is plain', async t => {
  const app = await build(t, { compress: true })
  app.get('/sync', { onSend: (request, reply, payload, done) => done(new Error('a hook failed')) }, async (request, reply) => reply.sse(app.sse.channel('a')))
  app.get('/async', { onSend: async () => { throw new Error('a hook failed') } }, async (request, reply) => reply.sse(app.sse.channel('a')))
  for (const kind of ['sync', 'async']) {
    const response = await app.inject({ url: `/${kind}`, headers: GZIP })
    t.equal(response.headers['content-encoding'], undefined, kind)
    t.match(response.json(), { statusCode: 500, message: 'a hook failed' })
  }
})

t.test('a stream that a listener ends while it opens is a whole gzip body', async t => {
  const app = await build(t, { compress: true })
  app.get('/', { onSend: async () => { await new Promise(resolve => setTimeout(resolve, 20)) } }, (request, reply) => {
    const stream = reply.sse()
    stream.send('one').catch(t.fail)
    stream.close().catch(t.fail)
    return reply
  })
  const response = await app.inject({ url: '/', headers: GZIP })
  t.equal(gunzipSync(response.rawPayload).toString(), 'data: one\n\n')
})

t.test('every way in which a stream ends is a whole gzip body; where it breaks, the body breaks off', async t => {
  const ways: Array<[string, 'end' | 'aborted', (stream: SseStream) => unknown]> = [
    ['close()', 'end', stream => stream.close()],
    ['close() with a retry', 'end', stream => stream.close({ retry: 5 })],
    ['close() with events that wait', 'end', stream => { stream.send('x'.repeat(5_000)).catch(t.fail); return stream.close() }],
    ['the end of its channel', 'end', () => app.sse.channel('a').end()],
    ['an error', 'aborted', stream => stream.subscribe('b', { filter: () => { throw new Error('a filter failed') } })]
  ]
  const app = await build(t, { compress: true })
  let stream!: SseStream
  app.get('/', (request, reply) => {
    stream = reply.sse()
    stream.subscribe('a')
    return reply
  })
  const url = await listen(app)
  for (const [way, closed, act] of ways) {
    const client = await connect(url, { headers: GZIP })
    await app.sse.publish(way === 'the end of its channel' ? 'b' : 'a', way)
    if (way !== 'the end of its channel') await client.first(1)
    act(stream)
    if (closed === 'aborted') await app.sse.publish('b', 'for the filter')
    await ended(client, way)
    t.equal(client.closed, closed, way)
    if (way === 'the end of its channel') break
  }
})

t.test('app.close() tells a compressed stream when to come back, and ends it as a whole', async t => {
  const app = await build(t, { compress: true, drain: { retry: [7, 7] } })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('a')))
  const url = await listen(app)
  const client = await connect(url, { headers: GZIP })
  await app.close()
  await ended(client, 'the end')
  t.equal(client.closed, 'end')
  t.same(client.retries, [3_000, 7])
})

t.test('HTTP/2 clients get it, too', async t => {
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  await app.register(sse, { compress: true })
  app.get('/', async (request, reply) => reply.sse(['one', 'two']))
  const url = await listen(app as never)
  const session = http2.connect(url)
  t.teardown(() => session.destroy())
  const request = session.request({ ':path': '/', 'accept-encoding': 'gzip' })
  const [body, headers] = await Promise.all([request.toArray(), new Promise<http2.IncomingHttpHeaders>(resolve => request.once('response', resolve))])
  t.equal(headers['content-encoding'], 'gzip')
  t.equal(gunzipSync(Buffer.concat(body)).toString(), 'retry: 3000\n\ndata: one\n\ndata: two\n\n')
})

t.test('heartbeats, cursors and own events come through as they are sent, each at once', async t => {
  const app = await build(t, { compress: true, heartbeatInterval: 20 })
  let stream!: SseStream
  app.get('/', (request, reply) => {
    stream = reply.sse()
    return reply
  })
  const url = await listen(app)
  const client = await connect(url, { headers: GZIP })
  await until(() => client.comments.length > 2, 'heartbeats')
  stream.subscribe('a')
  await until(() => client.lastEventId !== '', 'the cursor')
  await until(() => /\n\nid: \S+\n\n$/.test(client.text), 'a heartbeat that is a cursor')
  for (const text of ['short', 'long '.repeat(200)]) {
    await stream.send(text)
    await until(() => client.events.at(-1)?.data === text, 'an event of its own')
  }
  await app.sse.publish('a', 'shared')
  await until(() => client.events.at(-1)?.data === 'shared', 'an event of the channel')
})

t.test('the bytes that stats() and the log tell are those that went out', async t => {
  const lines: any[] = []
  const app = await build(t, { compress: true, heartbeatInterval: 0 }, logger(lines, 'info'))
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('a')))
  const url = await listen(app)
  const client = await connect(url, { headers: GZIP })
  let bytes = 0
  client.response.prependListener('data', (chunk: Buffer) => { bytes += chunk.length })
  for (let n = 0; n < 50; n++) await app.sse.publish('a', { data: { n, text: 'much the same text' } })
  await client.first(50)
  await app.close()
  await ended(client, 'the end')
  const { bytes: logged } = lines.find(({ msg }) => msg === 'stream closed')
  t.equal(app.sse.stats().bytesWritten, logged)
  t.ok(bytes > 0 && bytes <= logged, 'and what came since the client looked is no more')
  t.ok(logged < client.text.length / 2, `${logged} bytes for ${client.text.length}`)
})

t.test('where zlib fails, events come as they are, and it is logged once', async t => {
  const lines: any[] = []
  const app = await build(t, { compress: true }, logger(lines, 'error'))
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('a')))
  const url = await listen(app)
  const client = await connect(url, { headers: GZIP })
  const { deflateRawSync } = zlib
  t.teardown(() => {
    zlib.deflateRawSync = deflateRawSync
    syncBuiltinESMExports()
  })
  zlib.deflateRawSync = () => { throw new Error('out of memory') }
  syncBuiltinESMExports()
  const text = 'a text that is long enough '.repeat(40)
  for (let n = 0; n < 5; n++) await app.sse.publish('a', text + n)
  t.same((await client.first(5)).map(({ data }) => data), [0, 1, 2, 3, 4].map(n => text + n))
  t.same(lines.map(({ msg, err }) => [msg, err.message]), [['compression failed', 'out of memory']])
})
