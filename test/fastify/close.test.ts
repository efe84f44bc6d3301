import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyServerOptions } from 'fastify'
import t from 'tap'
import type { SsePluginOptions } from '../../lib/index.ts'
import { build as buildApp, connect, listen, logger, soon, until, within, type Client } from '../client.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

interface Asserts { ok: (value: unknown, message: string) => unknown, equal: (found: unknown, wanted: unknown, message: string) => unknown }
interface Test { teardown: (fn: () => unknown) => void }

/** Should close() hang, its test fails, and the application is taken down the hard way. */
async function build (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const app = await buildApp(t, options, server)
  t.teardown(() => { app.server.closeAllConnections?.() })
  return app
}

const wait = (ms = 20): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

async function timed (closing: Promise<unknown>, what = 'app.close()', ms = 8_000): Promise<number> {
  const start = performance.now()
  await within(closing, what, ms)
  return performance.now() - start
}

/** Every client of a list was told when to come back, between `least` and `most` ms, and its response ended in order. */
async function told (t: Asserts, clients: Client[], least = 1_000, most = 5_000): Promise<void> {
  await soon(() => clients.every(({ closed }) => closed !== undefined), 'every response to end')
  t.equal(clients.filter(({ closed }) => closed === 'end').length, clients.length, 'every response ended in order')
  const retries = clients.map(({ retries }) => retries.at(-1)!)
  t.ok(clients.every(client => client.retries.length >= 1), 'every client was told')
  t.ok(retries.every(retry => retry >= least && retry <= most), `when to come back is in the range: ${Math.min(...retries)} to ${Math.max(...retries)}`)
}

t.test('app.close() with 1,000 open streams waits for no time limit, and every client is told when to come back, at times of their own', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const clients: Client[] = []
  for (let i = 0; i < 10; i++) clients.push(...await Promise.all(Array.from({ length: 100 }, () => connect(url))))
  t.equal(app.sse.streams.size, 1_000)
  const { cursor } = app.sse
  const ms = await timed(app.close())
  t.comment(`${Math.round(ms)} ms`)
  t.ok(ms < 4_000, 'no time limit was waited for')
  await told(t, clients)
  t.ok(new Set(clients.map(({ retries }) => retries.at(-1))).size > 500, 'they will not come back all at once')
  t.ok(clients.every(({ lastEventId }) => lastEventId === cursor), 'each has the cursor to resume from')
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, channels: 0, closed: { drain: 1_000 } })
})

t.test('app.close() during a pass: the clients are told, and what they got is a prefix of what was published', async t => {
  const app = await build(t)
  const time = app.sse.channel('time')
  app.get('/', (request, reply) => reply.sse(time))
  const url = await listen(app)
  const clients = await Promise.all(Array.from({ length: 100 }, () => connect(url)))
  for (let n = 0; n < 5_000; n++) time.publish({ data: { n, pad: 'x'.repeat(200) } })
  const before = app.sse.stats().delivered
  await new Promise(resolve => setImmediate(resolve)) // the pass has begun, and has 100 MB to write
  const ms = await timed(app.close())
  t.ok(before < 500_000 && app.sse.stats().delivered < 500_000, `it was in the middle: ${app.sse.stats().delivered}`)
  t.ok(ms < 5_000, `${Math.round(ms)} ms`)
  await told(t, clients)
  for (const { events } of clients) {
    if (events.some(({ data }, n) => JSON.parse(data).n !== n)) return t.fail('an event is missing or out of order')
  }
})

for (const agent of ['close', 'keep-alive'] as const) {
  t.test(`app.close() during an async onSend hook, with connection: ${agent}: the stream ends as it opens, and the client is told`, async t => {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'info'))
    let go = (): void => {}
    app.addHook('onSend', async () => { await new Promise<void>(resolve => { go = resolve }) })
    let opened = 0
    let started = 0
    const source = Readable.from(['never'])
    app.sse.on('open', () => opened++)
    app.get('/channel', async (request, reply) => reply.sse(app.sse.channel('time')))
    app.get('/function', async (request, reply) => reply.sse(() => { started++ }))
    app.get('/readable', async (request, reply) => reply.sse(source))
    const url = await listen(app)
    const goes: Array<() => void> = []
    const clients: Array<Promise<Client>> = []
    for (const path of ['/channel', '/function', '/readable']) {
      const { streams } = app.sse.stats()
      clients.push(connect(url + path, { headers: { connection: agent } }))
      await until(() => app.sse.stats().streams === streams + 1, 'the stream')
      goes.push(go)
    }
    const closing = timed(app.close())
    await wait()
    for (const go of goes) go()
    t.ok(await closing < 4_000, `no time limit was waited for: ${Math.round(await closing)} ms`)
    await told(t, await Promise.all(clients))
    t.equal(opened, 0)
    t.equal(started, 0)
    await soon(() => source.destroyed, 'the source that never started to be told')
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  })
}

t.test('app.close() with a keep-alive client that stays connected waits for no time limit', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const agent = new http.Agent({ keepAlive: true })
  t.teardown(() => agent.destroy())
  const [response] = await once(http.get(url, { agent }), 'response') as [http.IncomingMessage]
  response.resume()
  const ms = await timed(app.close())
  t.ok(ms < 4_000, `no time limit was waited for: ${Math.round(ms)} ms`)
})

t.test('app.close() with a client that does not read takes drain.timeout, and the others are told meanwhile', async t => {
  const app = await build(t, { drain: { timeout: 700 } })
  const time = app.sse.channel('time')
  app.get('/', (request, reply) => reply.sse(time))
  const url = await listen(app)
  const blocked = await connect(url)
  blocked.pause()
  const other = await connect(url)
  const data = 'x'.repeat(100_000)
  for (let n = 0; app.sse.stats().blocked === 0; n++) {
    if (n > 500) throw new Error('it never blocks')
    await time.publish(data)
    await wait(2)
  }
  const closing = timed(app.close())
  await told(t, [other])
  const ms = await closing
  t.ok(ms >= 600 && ms < 4_000, `about drain.timeout: ${Math.round(ms)} ms`)
  t.equal(app.sse.stats().blocked, 0)
  blocked.resume()
  await soon(() => blocked.closed, 'the blocked client to be cut')
  t.equal(blocked.closed, 'aborted')
})

t.test('app.close() with a blocked client that reads on in time: it gets all and is told', async t => {
  const app = await build(t)
  const time = app.sse.channel('time')
  app.get('/', (request, reply) => reply.sse(async stream => {
    stream.subscribe(time)
  }))
  const url = await listen(app)
  const client = await connect(url)
  client.pause()
  let n = 0
  for (; app.sse.stats().blocked === 0; n++) {
    if (n > 500) throw new Error('it never blocks')
    await time.publish('x'.repeat(100_000))
    await wait(2)
  }
  const closing = timed(app.close())
  await wait(50)
  client.resume()
  t.ok(await closing < 2_000)
  await told(t, [client])
})

t.test('app.close() with sources in the middle: and drain.finish 0: each is told, at once, and their clients too', async t => {
  const app = await build(t, { drain: { finish: 0 } })
  const ends: string[] = []
  async function * patient (): AsyncGenerator<string> {
    try {
      for (;;) {
        yield 'one'
        await wait(10)
      }
    } finally {
      ends.push('generator')
    }
  }
  app.get('/generator', (request, reply) => reply.sse(patient()))
  app.get('/readable', (request, reply) => reply.sse(new Readable({
    read () { setTimeout(() => this.push('one'), 10) },
    destroy (error, done) {
      ends.push('readable')
      done(error)
    }
  })))
  app.get('/function', (request, reply) => reply.sse(async stream => {
    while (await stream.send('one')) await wait(10)
    ends.push('function')
  }))
  app.get('/idle', (request, reply) => reply.sse(async stream => {
    await stream.send('one')
    await stream.closed
    ends.push('idle')
  }))
  const url = await listen(app)
  const clients = await Promise.all(['/generator', '/readable', '/function', '/idle'].map(path => connect(url + path)))
  for (const client of clients) await client.first(1)
  const ms = await timed(app.close())
  t.ok(ms < 4_000, `no time limit was waited for: ${Math.round(ms)} ms`)
  await told(t, clients)
  await soon(() => ends.length === 4, 'every source to be told')
  t.strictSame(ends.sort(), ['function', 'generator', 'idle', 'readable'])
})

t.test('publish() works until onClose and is refused after it; reply.sse() is refused from preClose on', async t => {
  const app = await build(t, {}, { return503OnClosing: false })
  const results: Record<string, unknown> = {}
  const time = app.sse.channel('time')
  let handled = (): void => {}
  const arrived = new Promise<void>(resolve => { handled = resolve })
  let go = (): void => {}
  const source = Readable.from(['never'])
  app.get('/', (request, reply) => reply.sse(time))
  app.get('/late', async (request, reply) => {
    handled()
    await new Promise<void>(resolve => { go = resolve })
    try {
      return reply.sse(source)
    } catch (error) {
      results.sse = error
      throw error
    }
  })
  app.addHook('preClose', async () => {
    results.preClose = await time.publish('during').catch((error: Error) => error)
    go()
    await wait()
  })
  const url = await listen(app)
  const client = await connect(url)
  const late = connect(url + '/late')
  await arrived
  await within(app.close(), 'app.close()')
  t.type(results.preClose, 'string', 'publish() in preClose resolves with a cursor')
  t.match(results.sse, { code: 'SSE_ERR_CLOSED', statusCode: 503 })
  t.ok(source.destroyed, 'the refused source is told')
  t.equal((await late).status, 503)
  await told(t, [client])
  await t.rejects(time.publish('after'), { code: 'SSE_ERR_CLOSED', statusCode: 503 })
  time.publish('after, and nobody awaits it')
  await wait()
  t.match(app.sse.stats(), { streams: 0 }, 'stats() can still be asked')
})

t.test('closing twice, and both at once, is the same as closing once', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const client = await connect(await listen(app))
  await within(Promise.all([app.close(), app.close()]), 'both')
  await within(app.close(), 'the third')
  await told(t, [client])
  t.equal(app.sse.stats().closed.drain, 1)
})

t.test('drain.retry and drain.timeout are taken; retry 0 in the range is told as 0', async t => {
  for (const range of [[0, 0], [7_000, 7_000], [50, 60]] as const) {
    const app = await build(t, { drain: { retry: range } })
    app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
    const url = await listen(app)
    const clients = await Promise.all(Array.from({ length: 20 }, () => connect(url)))
    await within(app.close(), 'app.close()')
    await told(t, clients, ...range)
  }
})

t.test('drain.timeout 0 waits for nobody', async t => {
  const app = await build(t, { drain: { timeout: 0 } })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const client = await connect(url)
  t.ok(await timed(app.close()) < 4_000)
  await soon(() => client.closed, 'the client to see the end')
})

t.test('a stream that is ending with a full socket when the application closes does not hold it longer than drain.timeout', async t => {
  const app = await build(t, { drain: { timeout: 500 } })
  app.get('/', (request, reply) => reply.sse())
  const url = await listen(app)
  const client = await connect(url)
  client.pause()
  const [stream] = app.sse.streams
  const data = 'x'.repeat(100_000)
  for (let n = 0; !stream!.blocked; n++) {
    if (n > 500) throw new Error('it never blocks')
    stream!.send(data)
    await wait(2)
  }
  stream!.close()
  t.equal(app.sse.streams.size, 0)
  const ms = await timed(app.close())
  t.ok(ms < 4_000, `${Math.round(ms)} ms`)
})

t.test('the log has one line for each stream that was drained', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'info'))
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  for (let i = 0; i < 5; i++) await connect(url)
  await within(app.close(), 'app.close()')
  t.equal(lines.filter(({ msg, reason }) => msg === 'stream closed' && reason === 'drain').length, 5)
  t.strictSame(lines.filter(({ level }) => level >= 40), [])
})

// HTTP/2

interface Peer { session: http2.ClientHttp2Session, streams: Array<{ text: string, ended: boolean, status: number }> }

async function http2Clients (t: Test, url: string, sessions: number, each: number, path = '/'): Promise<Peer[]> {
  const peers: Peer[] = []
  for (let s = 0; s < sessions; s++) {
    const session = http2.connect(url, { rejectUnauthorized: false })
    session.on('error', () => {})
    t.teardown(() => session.destroy())
    const peer: Peer = { session, streams: [] }
    for (let i = 0; i < each; i++) {
      const request = session.request({ ':path': path, accept: 'text/event-stream' })
      const stream = { text: '', ended: false, status: 0 }
      request.setEncoding('utf8')
      request.on('response', headers => { stream.status = headers[':status'] ?? 0 })
      request.on('data', chunk => { stream.text += chunk })
      request.on('end', () => { stream.ended = true })
      request.on('error', () => {})
      peer.streams.push(stream)
    }
    peers.push(peer)
  }
  await soon(() => peers.every(({ streams }) => streams.every(({ text }) => text !== '')), 'every stream over HTTP/2 to open')
  return peers
}

function certificate (t: Test): { key: Buffer, cert: Buffer } {
  const directory = mkdtempSync(join(tmpdir(), 'sse-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', key, '-out', cert, '-days', '1', '-subj', '/CN=localhost'], { stdio: 'ignore' })
  return { key: readFileSync(key), cert: readFileSync(cert) }
}

for (const kind of ['h2c', 'TLS', 'TLS with HTTP/1.1'] as const) {
  t.test(`app.close() over HTTP/2, ${kind}: no time limit waited for, every client told, every session closed`, async t => {
    const server = kind === 'h2c' ? { http2: true } : { http2: true, https: { ...certificate(t), allowHTTP1: kind === 'TLS with HTTP/1.1' } }
    const lines: any[] = []
    const app = await build(t, {}, { ...logger(lines, 'info'), ...server } as FastifyServerOptions)
    const time = app.sse.channel('time')
    app.get('/', (request, reply) => reply.sse(time))
    const port = await app.listen({ port: 0, host: '127.0.0.1' }).then(() => (app.server.address() as AddressInfo).port)
    const peers = await http2Clients(t, `${kind === 'h2c' ? 'http' : 'https'}://127.0.0.1:${port}`, 5, 20)
    t.equal(app.sse.streams.size, 100)
    await time.publish('one')
    await soon(() => peers.every(({ streams }) => streams.every(({ text }) => text.includes('data: one\n\n'))), 'the event on every stream')
    const ms = await timed(app.close())
    t.ok(ms < 4_000, `no time limit was waited for: ${Math.round(ms)} ms`)
    await soon(() => peers.every(({ streams }) => streams.every(({ ended }) => ended)), 'every response to end')
    t.ok(peers.every(({ streams }) => streams.every(({ text }) => /\nretry: [1-5]\d{3}\n\n$/.test(text))), 'every client was told')
    await soon(() => peers.every(({ session }) => session.closed || session.destroyed), 'every session to close')
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  })
}

t.test('app.close() over HTTP/2 with a client that does not read takes drain.timeout', async t => {
  const app = await build(t, { drain: { timeout: 700 } }, { http2: true } as FastifyServerOptions)
  const time = app.sse.channel('time')
  app.get('/', (request, reply) => reply.sse(time))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = http2.connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  const request = session.request({ ':path': '/' })
  request.on('error', () => {})
  await once(request, 'response')
  // Not read at all: its window fills.
  for (let n = 0; app.sse.stats().blocked === 0; n++) {
    if (n > 500) throw new Error('it never blocks')
    await time.publish('x'.repeat(100_000))
    await wait(2)
  }
  const ms = await timed(app.close())
  t.ok(ms >= 600 && ms < 4_000, `about drain.timeout: ${Math.round(ms)} ms`)
})

t.test('app.close() over HTTP/2 during an async onSend hook: the client is told', async t => {
  const app = await build(t, {}, { http2: true } as FastifyServerOptions)
  let go = (): void => {}
  app.addHook('onSend', async () => { await new Promise<void>(resolve => { go = resolve }) })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const opening = http2Clients(t, `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`, 1, 1)
  await until(() => app.sse.stats().streams === 1, 'the stream')
  const closing = timed(app.close())
  await wait()
  go()
  const [peer] = await opening
  t.match(peer?.streams[0]?.text, /^retry: [1-5]\d{3}\n\n$/)
  t.ok(await closing < 4_000, 'no time limit was waited for')
})

t.test('nothing was left unhandled', async t => {
  await wait(50)
  t.strictSame(accidents, [])
})
