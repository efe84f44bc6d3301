import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import etag from '@fastify/etag'
import helmet from '@fastify/helmet'
import rateLimit from '@fastify/rate-limit'
import requestContext from '@fastify/request-context'
import session from '@fastify/session'
import serveStatic from '@fastify/static'
import swagger from '@fastify/swagger'
import underPressure from '@fastify/under-pressure'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import sse, { type SseStream } from '../../lib/index.ts'
import { connect, listen, logger, soon, until, within, type Client } from '../client.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

const wait = (ms = 20): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

interface Test { teardown: (fn: () => unknown) => void }

/** One application with everything, and the plugin first, in the middle or last. */
async function everything (t: Test, place: 'first' | 'last', lines: any[] = []): Promise<{ app: FastifyInstance, url: string }> {
  const directory = mkdtempSync(join(tmpdir(), 'sse-'))
  writeFileSync(join(directory, 'page.html'), '<p>' + 'page '.repeat(1_000))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const app = Fastify(logger(lines, 'info'))
  t.teardown(() => app.close())
  t.teardown(() => { app.server.closeAllConnections() })
  if (place === 'first') await app.register(sse)
  await app.register(swagger, { openapi: { info: { title: 'everything', version: '1.0.0' } } })
  await app.register(underPressure, { maxEventLoopDelay: 60_000, exposeStatusRoute: true })
  await app.register(requestContext, { defaultStoreValues: { user: 'nobody' } as never })
  await app.register(cors, { origin: 'https://page.example', credentials: true, exposedHeaders: ['x-mine'] })
  await app.register(helmet)
  await app.register(cookie)
  await app.register(session, { secret: 'a secret of more than thirty-two characters', cookie: { secure: false }, saveUninitialized: true })
  await app.register(rateLimit, { max: 1_000, timeWindow: 60_000 })
  await app.register(compress, { global: true, threshold: 0 })
  await app.register(etag)
  await app.register(websocket)
  await app.register(serveStatic, { root: directory, prefix: '/static/' })
  if (place === 'last') await app.register(sse)

  const time = app.sse.channel('time')
  app.addHook('onRequest', async request => { request.requestContext.set('user' as never, request.headers['x-user'] as never) })
  app.get('/events', { schema: { summary: 'events', response: { 200: { description: 'a stream', type: 'string' } } } }, async (request, reply) => {
    reply.setCookie('mine', '1')
    request.session.set('seen' as never, true as never)
    return reply.header('x-mine', 'yes').sse(time)
  })
  app.get('/sync', (request, reply) => reply.sse(time))
  app.get('/finite', async (request, reply) => reply.sse(['one']))
  app.get('/cached', async (request, reply) => reply.header('cache-control', 'no-cache').sse(time))
  app.get('/limited', { config: { rateLimit: { max: 2, timeWindow: 60_000 } } }, async (request, reply) => reply.sse(time))
  app.get('/context', async (request, reply) => reply.sse(async (stream: SseStream) => {
    await wait()
    await stream.send(String(request.requestContext.get('user' as never)))
    const { requestContext } = await import('@fastify/request-context')
    await stream.send(String(requestContext.get('user' as never)))
  }))
  app.get('/json', async () => ({ text: 'json '.repeat(1_000) }))
  app.get('/socket', { websocket: true }, socket => { socket.on('message', (message: unknown) => socket.send(`echo ${String(message)}`)) })
  const url = await listen(app)
  return { app, url }
}

const BROWSER = { origin: 'https://page.example', 'accept-encoding': 'gzip, deflate, br', 'x-user': 'ann' }

for (const place of ['first', 'last'] as const) {
  t.test(`with everything registered, and the plugin ${place}`, async t => {
    const lines: any[] = []
    const { app, url } = await everything(t, place, lines)
    const open = async (path: string, options: Parameters<typeof connect>[1] = { headers: BROWSER }): Promise<Client> => await within(connect(url + path, options), path)

    await t.test('a stream has the headers and cookies of all of them', async t => {
      const client = await open('/events')
      t.equal(client.status, 200)
      t.match(client.headers, {
        'content-type': 'text/event-stream',
        'cache-control': 'no-cache, no-transform',
        'x-accel-buffering': 'no',
        'access-control-allow-origin': 'https://page.example',
        'access-control-allow-credentials': 'true',
        'access-control-expose-headers': 'x-mine',
        'content-security-policy': /default-src/,
        'x-content-type-options': 'nosniff',
        'x-ratelimit-limit': '1000',
        'x-ratelimit-remaining': /^\d+$/,
        'x-mine': 'yes'
      })
      const cookies = client.headers['set-cookie']
      t.ok(cookies?.some(one => one.startsWith('mine=1')), 'the cookie of the handler')
      t.ok(cookies?.some(one => one.startsWith('sessionId=')), 'the cookie of the session')
      client.leave()
    })

    for (const path of ['/events', '/sync', '/cached']) {
      await t.test(`nothing is compressed or buffered: each event of ${path} comes when it is published`, async t => {
        const client = await open(path)
        t.equal(client.headers['content-encoding'], undefined)
        t.equal(client.headers.etag, undefined)
        t.equal(client.headers['content-length'], undefined)
        for (let n = 1; n <= 5; n++) {
          const before = Date.now()
          await app.sse.publish('time', { data: n })
          await within(client.first(n), `event ${n}`)
          t.ok(Date.now() - before < 1_000)
        }
        client.leave()
      })
    }

    await t.test('a finite stream ends', async t => {
      const client = await open('/finite')
      await soon(() => client.closed, 'the end')
      t.equal(client.closed, 'end')
      t.equal(client.text, 'retry: 3000\n\ndata: one\n\n')
    })

    await t.test('HEAD has the same headers and no body', async t => {
      const client = await open('/events', { method: 'HEAD', headers: BROWSER })
      await soon(() => client.closed, 'the end')
      t.match(client.headers, { 'content-type': 'text/event-stream', 'access-control-allow-origin': 'https://page.example', 'content-encoding': undefined })
      t.equal(client.text, '')
    })

    await t.test('a CORS preflight is answered for a stream', async t => {
      const client = await open('/events', { method: 'OPTIONS', headers: { ...BROWSER, 'access-control-request-method': 'GET', 'access-control-request-headers': 'last-event-id' } })
      t.equal(client.status, 204)
      t.equal(client.headers['access-control-allow-headers'], 'last-event-id')
    })

    await t.test('the rate limit refuses the third stream of a client', async t => {
      const clients = [await open('/limited'), await open('/limited'), await open('/limited')]
      t.strictSame(clients.map(({ status }) => status), [200, 200, 429])
      t.strictSame(clients.map(({ headers }) => headers['x-ratelimit-remaining']), ['1', '0', '0'])
      for (const client of clients) client.leave()
    })

    await t.test('the request context reaches into a source', async t => {
      const client = await open('/context')
      t.strictSame((await client.first(2)).map(({ data }) => data), ['ann', 'ann'])
    })

    await t.test('the session is that of the first request on the second', async t => {
      const first = await open('/events')
      const id = first.headers['set-cookie']!.find(one => one.startsWith('sessionId='))!.split(';')[0]!
      const second = await open('/events', { headers: { ...BROWSER, cookie: id } })
      const again = second.headers['set-cookie']?.find(one => one.startsWith('sessionId='))?.split(';')[0]
      t.ok(again === undefined || again === id)
      first.leave()
      second.leave()
    })

    await t.test('the others still work: JSON is compressed and has an ETag, files are served, the socket echoes, the document names the route', async t => {
      const client = await open('/events')
      const json = await fetch(url + '/json', { headers: { 'accept-encoding': 'gzip' } })
      t.equal(json.headers.get('content-encoding'), 'gzip')
      t.equal((await json.json() as { text: string }).text.length, 5_000)
      const injected = await app.inject({ url: '/json', headers: { 'accept-encoding': 'gzip' } })
      t.equal(JSON.parse(String(gunzipSync(injected.rawPayload))).text.length, 5_000)
      t.type((await app.inject({ url: '/json', headers: { 'accept-encoding': 'identity' } })).headers.etag, 'string')
      const file = await fetch(url + '/static/page.html')
      t.equal(file.status, 200)
      t.ok((await file.text()).startsWith('<p>page'))
      t.match(await (await fetch(url + '/status')).json(), { status: 'ok' })
      const { WebSocket } = await import('ws' as string) as { WebSocket: new (url: string) => import('node:events').EventEmitter & { send (text: string): void, close (): void } }
      const socket = new WebSocket(url.replace('http', 'ws') + '/socket')
      await within(once(socket, 'open'), 'the socket to open')
      socket.send('hello')
      t.equal(String((await within(once(socket, 'message'), 'the echo'))[0]), 'echo hello')
      t.ok('/events' in (app.swagger() as { paths: object }).paths)
      await app.sse.publish('time', 'while all that')
      await within(client.first(1), 'the event')
      client.leave()
      socket.close()
      await wait()
    })

    await t.test('clients that left leave nothing behind, and no false line in the log', async t => {
      await soon(() => app.sse.streams.size === 0, 'every stream to close')
      t.match(app.sse.stats(), { streams: 0, subscriptions: 0, channels: 0, blocked: 0 })
      t.strictSame(lines.filter(({ level }) => level >= 40).map(({ msg, err }) => err?.message ?? msg), [])
      t.notOk(lines.some(({ msg }) => /prematurely|already sent/.test(msg)))
    })

    await t.test('app.close() with open streams and an open socket is quick', async t => {
      const clients = await Promise.all([open('/events'), open('/sync'), open('/cached')])
      const { WebSocket } = await import('ws' as string) as { WebSocket: new (url: string) => import('node:events').EventEmitter }
      const socket = new WebSocket(url.replace('http', 'ws') + '/socket')
      await within(once(socket, 'open'), 'the socket to open')
      const start = performance.now()
      await within(app.close(), 'app.close()', 8_000)
      t.ok(performance.now() - start < 4_000, `${Math.round(performance.now() - start)} ms`)
      await soon(() => clients.every(({ closed }) => closed === 'end'), 'every client to be told')
      t.ok(clients.every(({ retries }) => retries.length === 2))
    })
  })
}

t.test('compression that is forced on event streams still passes each event, and nothing breaks when the client leaves', async t => {
  const lines: any[] = []
  const app = Fastify(logger(lines, 'info'))
  t.teardown(() => app.close())
  t.teardown(() => { app.server.closeAllConnections() })
  await app.register(compress, { global: true, threshold: 0, customTypes: /event-stream/, encodings: ['gzip'] })
  await app.register(sse)
  app.get('/', async (request, reply) => reply.header('cache-control', 'no-cache').sse(app.sse.channel('time')))
  app.get('/finite', async (request, reply) => reply.header('cache-control', 'no-cache').sse(['one', 'two']))
  const url = await listen(app)
  const finite = await within(fetch(url + '/finite', { headers: { 'accept-encoding': 'gzip' } }), 'the response')
  t.equal(finite.headers.get('content-encoding'), 'gzip')
  t.match(await within(finite.text(), 'the end'), /data: one\n\ndata: two\n\n$/)
  const client = await within(connect(url, { headers: { 'accept-encoding': 'gzip' } }), 'the response').catch((error: Error) => error)
  // zlib keeps what it has until its block is full, so the head may wait too: the user asked for it.
  if (!(client instanceof Error)) client.leave()
  else app.server.closeAllConnections()
  await soon(() => app.sse.streams.size === 0, 'the stream to close')
  t.strictSame(lines.filter(({ level }) => level >= 50), [])
})

t.test('the plugin in a child context sees the hooks of its parents', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  t.teardown(() => { app.server.closeAllConnections() })
  await app.register(cookie)
  await app.register(cors, { origin: true })
  await app.register(async child => {
    await child.register(sse)
    child.get('/events', async (request, reply) => reply.setCookie('a', '1').sse(child.sse.channel('time')))
  }, { prefix: '/v1' })
  app.get('/plain', async () => 'plain')
  const url = await listen(app)
  const client = await within(connect(url + '/v1/events', { headers: BROWSER }), 'the response')
  t.equal(client.headers['access-control-allow-origin'], 'https://page.example')
  t.match(client.headers['set-cookie'], ['a=1'])
  t.equal(await (await fetch(url + '/plain')).text(), 'plain')
  client.leave()
})

t.test('nothing was left unhandled', async t => {
  await until(() => true)
  await wait(50)
  t.strictSame(accidents, [])
})
