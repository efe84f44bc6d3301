import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http2 from 'node:http2'
import https from 'node:https'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, pipeline, type Readable } from 'node:stream'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import sse, { type SsePluginOptions } from '../../lib/index.ts'
import { blocks, until, type Block } from '../client.ts'

// HTTP/2 over TLS, h2c, and HTTPS with HTTP/1.1, over real sockets. The key is for tests alone; it is in the repository.
const read = (name: string): string => readFileSync(new URL(`../fixtures/${name}`, import.meta.url), 'utf8')
const KEY = read('localhost-key.pem')
const CERT = read('localhost-cert.pem')

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

const PROTOCOLS = {
  'HTTP/2 over TLS': { http2: true, https: { key: KEY, cert: CERT } },
  h2c: { http2: true },
  'HTTPS with HTTP/1.1': { https: { key: KEY, cert: CERT } }
}
type Protocol = keyof typeof PROTOCOLS
const ALL = Object.keys(PROTOCOLS) as Protocol[]
const MULTIPLEXED = ALL.filter(protocol => protocol !== 'HTTPS with HTTP/1.1')

/** An open response of any protocol. */
interface Opened {
  readonly status: number
  readonly headers: Record<string, unknown>
  text: string
  closed: 'end' | 'aborted' | undefined
  pause (): void
  resume (): void
  leave (): void
}

/** One client: one HTTP/2 session, or for HTTP/1.1 one connection for each request. */
interface Peer {
  readonly session: http2.ClientHttp2Session | undefined
  open (path: string, headers?: Record<string, string>): Promise<Opened>
  destroy (): void
}

async function serve (t: Test, protocol: Protocol, options: SsePluginOptions = {}, server: object = {}): Promise<FastifyInstance> {
  const app = Fastify({ ...PROTOCOLS[protocol], ...server } as {}) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(sse, options)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  return app
}

async function listen (app: FastifyInstance): Promise<number> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as AddressInfo).port
}

function collect (body: Readable, status: number, headers: Record<string, unknown>, leave: () => void): Opened {
  const opened: Opened = { status, headers, text: '', closed: undefined, pause: () => { body.pause() }, resume: () => { body.resume() }, leave }
  body.setEncoding('utf8')
  body.on('data', (text: string) => { opened.text += text })
  body.on('error', () => {})
  body.on('aborted', () => { opened.closed ??= 'aborted' })
  body.on('end', () => { opened.closed ??= 'end' })
  body.on('close', () => { opened.closed ??= 'aborted' })
  return opened
}

function peer (t: Test, protocol: Protocol, port: number, settings?: http2.Settings): Peer {
  const base = `${protocol === 'h2c' ? 'http' : 'https'}://127.0.0.1:${port}`
  if (protocol === 'HTTPS with HTTP/1.1') {
    const agent = new https.Agent({ keepAlive: true })
    t.teardown(() => agent.destroy())
    return {
      session: undefined,
      open: async (path, headers = {}) => {
        const request = https.get(base + path, { agent, ca: CERT, headers })
        request.on('error', () => {})
        const [response] = await once(request, 'response')
        return collect(response, response.statusCode, response.headers, () => request.destroy())
      },
      destroy: () => agent.destroy()
    }
  }
  const session = http2.connect(base, { ca: CERT, ...(settings !== undefined && { settings }) })
  session.on('error', () => {})
  t.teardown(() => session.destroy())
  return {
    session,
    open: async (path, headers = {}) => {
      const request = session.request({ ':path': path, ...headers })
      request.on('error', () => {})
      const [head] = await once(request, 'response')
      return collect(request, head[':status'], head, () => request.close(http2.constants.NGHTTP2_CANCEL))
    },
    destroy: () => session.destroy()
  }
}

/** Resolves with how long it took, in ms, or fails: a close that never comes is a failure of its own test, not of the whole file. */
async function within (ms: number, promise: Promise<unknown>, what: string): Promise<number> {
  const before = performance.now()
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((resolve, reject) => { timer = setTimeout(() => reject(new Error(`hangs: ${what}`)), ms) })
  try {
    await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
  return performance.now() - before
}

/** The one stream is blocked, and not just for a moment: nothing more is written. */
async function full (app: FastifyInstance): Promise<void> {
  let written = -1
  let since = Date.now()
  await until(() => {
    const { blocked, bytesWritten } = app.sse.stats()
    if (blocked === 0 || bytesWritten !== written) since = Date.now()
    written = bytesWritten
    return Date.now() - since > 100
  }, 'its socket to be full')
}

/** What fires: the events of a body, gap events included. */
const events = ({ text }: Opened): Block[] => blocks(text).filter(({ event, data }) => event !== undefined || data !== undefined)
const datas = (opened: Opened): Array<string | undefined> => events(opened).map(({ data }) => data)
/** The cursor that a browser would have. */
const cursor = ({ text }: Opened): string => blocks(text).findLast(({ id }) => id !== undefined)?.id ?? ''

for (const protocol of ALL) {
  t.test(`${protocol}: a stream gets its head, its cursor and then each event before the next one is published`, async t => {
    const app = await serve(t, protocol)
    const port = await listen(app)
    const client = await peer(t, protocol, port).open('/events')
    t.equal(client.status, 200)
    t.match(client.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
    if (protocol !== 'HTTPS with HTTP/1.1') {
      t.notOk('connection' in client.headers, 'RFC 9113 forbids a connection header')
      t.notOk('transfer-encoding' in client.headers)
    }
    await until(() => cursor(client) !== '', 'the first block')
    t.strictSame(blocks(client.text), [{ id: app.sse.cursor, retry: '3000' }])
    for (let n = 1; n <= 5; n++) {
      const id = await app.sse.channel('time').publish({ event: 'tick', data: `${n}\nä€😀` })
      await until(() => events(client).length === n, `event ${n}`)
      t.strictSame(events(client).at(-1), { id, event: 'tick', data: `${n}\nä€😀` })
    }
  })

  t.test(`${protocol}: a client that comes back gets what it missed, once, and a gap where that is gone`, async t => {
    const app = await serve(t, protocol, { history: { maxEvents: 10 } })
    const port = await listen(app)
    const client = peer(t, protocol, port)
    const time = app.sse.channel('time')
    const first = await client.open('/events')
    await time.publish('1')
    await until(() => events(first).length === 1, 'the first event')
    first.leave()
    await until(() => time.size === 0, 'the server to notice')
    t.equal(app.sse.stats().closed.client, 1)
    await time.publish('2')
    await time.publish('3')
    const second = await client.open('/events', { 'last-event-id': cursor(first) })
    await time.publish('4')
    await until(() => events(second).length === 3, 'what was missed')
    t.strictSame(datas(second), ['2', '3', '4'])
    for (let n = 5; n <= 30; n++) await time.publish(String(n))
    const third = await client.open(`/events?lastEventId=${cursor(first)}`)
    await until(() => events(third).length === 11, 'the gap and what is left')
    t.match(events(third)[0], { event: 'sse.gap', data: '{"reason":"expired","channels":["time"]}' })
    t.strictSame(datas(third).slice(1), ['21', '22', '23', '24', '25', '26', '27', '28', '29', '30'])
    await until(() => events(second).length === 29, 'the other stream to have all')
    t.equal(app.sse.stats().gaps, 1)
  })

  t.test(`${protocol}: a client that does not read holds its stream alone, and then gets all, in order`, async t => {
    const EVENTS = 300
    const app = await serve(t, protocol, { history: { maxBytes: 64 * 1024 * 1024 } })
    const port = await listen(app)
    const client = peer(t, protocol, port)
    const slow = await client.open('/events')
    const [stream] = app.sse.streams
    const quick = await client.open('/events')
    await until(() => app.sse.channel('time').size === 2, 'both to be subscribed')
    slow.pause()
    const filler = 'x'.repeat(64 * 1024)
    let taken = 0
    for (let n = 0; n < EVENTS; n++) {
      // 19 MB in all. The quick one takes each before the next, so what is held is held for the slow one.
      await app.sse.channel('time').publish(`${n} ${filler}`)
      await until(() => quick.text.endsWith('\n\n') && quick.text.includes(`data: ${n} `), `event ${n}`)
      taken += quick.text.length
      quick.text = ''
    }
    t.equal(stream!.blocked, true)
    t.equal(app.sse.stats().blocked, 1)
    const held = app.sse.stats().bytesWritten - taken
    // An HTTP/2 stream has a window of 64 KiB; a TCP connection on loopback takes some MB.
    const most = protocol === 'HTTPS with HTTP/1.1' ? 12 * 1024 * 1024 : 512 * 1024
    t.ok(held < most, `what was written for the slow one is bounded: ${held}`)
    slow.resume()
    await until(() => events(slow).length >= EVENTS, 'the slow one to have all')
    t.strictSame(datas(slow).map(data => Number.parseInt(data!)), Array.from({ length: EVENTS }, (_, n) => n))
    t.equal(app.sse.stats().blocked, 0)
    t.equal(app.sse.stats().gaps, 0)
  })

  t.test(`${protocol}: a generator is asked for no more than its client takes, and is told when it leaves`, async t => {
    const app = await serve(t, protocol)
    let asked = 0
    let told = false
    app.get('/generator', (request, reply) => reply.sse(async function * () {
      try {
        for (;;) yield `${asked++} ${'x'.repeat(32 * 1024)}`
      } finally {
        told = true
      }
    }))
    const port = await listen(app)
    const client = await peer(t, protocol, port).open('/generator')
    client.pause()
    await until(() => app.sse.stats().blocked === 1, 'the stream to be blocked')
    const most = protocol === 'HTTPS with HTTP/1.1' ? 400 : 40
    t.ok(asked < most, `it was asked ${asked} times`)
    const before = asked
    client.resume()
    await until(() => asked > before + 10, 'it to be asked again')
    client.leave()
    await until(() => told, 'the generator to be told')
    t.equal(app.sse.streams.size, 0)
  })

  t.test(`${protocol}: a client that takes nothing for stallTimeout is cut off, and no other`, async t => {
    const app = await serve(t, protocol, { stallTimeout: 300, history: { maxEvents: 10 } })
    const closed: string[] = []
    app.sse.on('close', ({ reason }) => closed.push(reason))
    const port = await listen(app)
    const client = peer(t, protocol, port)
    const slow = await client.open('/events')
    const quick = await client.open('/events')
    await until(() => app.sse.channel('time').size === 2, 'both to be subscribed')
    slow.pause()
    for (let n = 0; closed.length === 0 && n < 2_000; n++) {
      await app.sse.channel('time').publish(`${n} ${'x'.repeat(128 * 1024)}`)
      await until(() => quick.text.endsWith('\n\n') && quick.text.includes(`data: ${n} `), `event ${n}`)
      quick.text = ''
    }
    t.strictSame(closed, ['stall'])
    slow.resume()
    await until(() => slow.closed, 'the slow one to be cut')
    const id = await app.sse.channel('time').publish('on')
    await until(() => events(quick).length === 1, 'the quick one to get on')
    t.strictSame(events(quick), [{ id, data: 'on' }])
  })

  t.test(`${protocol}: a stream that breaks gives its client what was sent, and no ordinary end, as one that is through does`, async t => {
    const app = await serve(t, protocol, { maxBufferedBytes: 10_000 })
    app.get('/error', (request, reply) => reply.sse(async function * () {
      yield 'one'
      throw new Error('thrown by the test')
    }))
    app.get('/overflow', (request, reply) => reply.sse(async stream => {
      await stream.send('one')
      while (stream.state === 'open') stream.send('x'.repeat(1_000)).catch(t.fail)
    }))
    app.get('/through', (request, reply) => reply.sse(['one']))
    // A pipeline destroys all that it is made of, when it is through.
    app.get('/through/a/pipeline', { onSend: async (request, reply, payload) => pipeline(payload as Readable, new PassThrough(), () => {}) }, (request, reply) => reply.sse(['one']))
    const port = await listen(app)
    const client = peer(t, protocol, port)
    for (const [path, closed] of [['/error', 'aborted'], ['/overflow', 'aborted'], ['/through', 'end'], ['/through/a/pipeline', 'end']] as const) {
      const opened = await client.open(path)
      await until(() => opened.closed, `the end of ${path}`)
      t.equal(opened.closed, closed, path)
      if (path !== '/overflow') t.same(datas(opened), ['one'], path)
    }
    t.match(app.sse.stats(), { streams: 0, closed: { error: 1, overflow: 1, end: 2 } })
  })

  t.test(`${protocol}: app.close() tells every stream when to come back, and resolves though clients keep their connections`, async t => {
    const app = await serve(t, protocol, { drain: { retry: [700, 800], timeout: 4_500 } })
    const port = await listen(app)
    const clients = [peer(t, protocol, port), peer(t, protocol, port)]
    const opened = await Promise.all(Array.from({ length: 20 }, (_, n) => clients[n % 2]!.open('/events')))
    await until(() => app.sse.channel('time').size === 20, 'all to be subscribed')
    await app.sse.channel('time').publish('last')
    await until(() => opened.every(one => events(one).length === 1), 'the last event')
    const took = await within(5_000, app.close(), 'app.close()')
    t.ok(took < 4_000, `nobody was waited for in vain: ${took} ms`)
    await until(() => opened.every(({ closed }) => closed !== undefined), 'all to end')
    t.strictSame(new Set(opened.map(({ closed }) => closed)), new Set(['end']))
    for (const one of opened) t.match(blocks(one.text).at(-1)?.retry, /^(7\d\d|800)$/)
    t.equal(app.sse.stats().closed.drain, 20)
    if (clients[0]!.session !== undefined) await until(() => clients.every(({ session }) => session!.closed), 'the sessions to be closed')
  })

  t.test(`${protocol}: app.close() does not wait longer than its timeout for a client that does not read`, async t => {
    const app = await serve(t, protocol, { drain: { timeout: 300 } })
    const port = await listen(app)
    const client = await peer(t, protocol, port).open('/events')
    await until(() => app.sse.channel('time').size === 1, 'it to be subscribed')
    client.pause()
    for (let n = 0; n < 100; n++) await app.sse.channel('time').publish('x'.repeat(256 * 1024))
    await full(app)
    const took = await within(5_000, app.close(), 'app.close()')
    t.ok(took >= 250, `it was waited for, ${took} ms`)
    t.strictSame([app.sse.stats().closed.drain, app.sse.streams.size], [1, 0])
  })
}

for (const protocol of ALL) {
  for (const to of ['TCP', 'a unix socket']) {
    t.test(`${protocol}: app.close() does not wait longer than its timeout for a connection over ${to} that takes no bytes at all`, async t => {
      const app = await serve(t, protocol, { drain: { timeout: 300 } })
      app.get('/quiet', (request, reply) => reply.sse(app.sse.channel('quiet')))
      const at = to === 'TCP' ? await listen(app) : await app.listen({ path: socketPath(t) })
      const wire = await stoppable(t, at)
      const client = peer(t, protocol, wire.port, { initialWindowSize: 2 ** 30 })
      if (client.session !== undefined) {
        await once(client.session, 'connect')
        client.session.setLocalWindowSize(2 ** 30)
      }
      await client.open('/events')
      // Whoever came last must not stand for the one that hangs.
      await peer(t, protocol, (await stoppable(t, at)).port).open('/quiet')
      await until(() => app.sse.stats().subscriptions === 2, 'both to be subscribed')
      wire.stop()
      for (let n = 0; n < 100; n++) await app.sse.channel('time').publish('x'.repeat(256 * 1024))
      await full(app)
      const took = await within(5_000, app.close(), 'app.close()').finally(() => wire.cut())
      t.ok(took >= 250, `it was waited for, ${took} ms`)
    })
  }
}

for (const protocol of MULTIPLEXED) {
  t.test(`${protocol}: 300 streams in one session; those that are reset are noticed, and the others go on`, async t => {
    const STREAMS = 300
    const app = await serve(t, protocol)
    app.get('/channel/:name', (request, reply) => reply.sse(app.sse.channel((request.params as { name: string }).name)))
    const port = await listen(app)
    const client = peer(t, protocol, port)
    // As many at a time as the server allows; node's default is 100 only where a client asks before it has the settings.
    await once(client.session!, 'remoteSettings')
    const opened = await Promise.all(Array.from({ length: STREAMS }, (_, n) => client.open(`/channel/${n % 3}`)))
    await until(() => app.sse.stats().subscriptions === STREAMS, 'all to be subscribed')
    for (let n = 0; n < 10; n++) await app.sse.publish([String(n % 3), 'nobody'], `${n}`)
    const wanted = (i: number): string[] => Array.from({ length: 10 }, (_, n) => n).filter(n => n % 3 === i % 3).map(String)
    await until(() => opened.every((one, i) => events(one).length === wanted(i).length), 'all to have theirs')
    opened.forEach((one, i) => t.strictSame(datas(one), wanted(i)))
    for (const one of opened.slice(0, 150)) one.leave()
    await until(() => app.sse.streams.size === STREAMS - 150, 'half of them to close')
    t.equal(app.sse.stats().closed.client, 150)
    await app.sse.publish(['0', '1', '2'], 'still here')
    await until(() => opened.slice(150).every(one => datas(one).at(-1) === 'still here'), 'the others to go on')
    t.equal(client.session!.closed, false)
  })

  t.test(`${protocol}: a session that ends, or breaks, closes all of its streams and no others`, async t => {
    const app = await serve(t, protocol)
    const port = await listen(app)
    const witness = await peer(t, protocol, port).open('/events')
    for (const end of ['destroy', 'goaway', 'socket'] as const) {
      const client = peer(t, protocol, port)
      const opened = await Promise.all(Array.from({ length: 20 }, () => client.open('/events')))
      await until(() => app.sse.channel('time').size === 21, 'all to be subscribed')
      if (end === 'destroy') client.session!.destroy()
      else if (end === 'goaway') client.session!.destroy(undefined, http2.constants.NGHTTP2_ENHANCE_YOUR_CALM)
      else breakSocket(client.session!)
      await until(() => app.sse.streams.size === 1, `all of the session to close: ${end}`)
      await until(() => opened.every(({ closed }) => closed !== undefined), 'the client to know')
    }
    t.equal(app.sse.stats().closed.client, 60)
    await app.sse.channel('time').publish('still here')
    await until(() => events(witness).length === 1, 'the witness')
    t.strictSame(datas(witness), ['still here'])
  })

  t.test(`${protocol}: app.close() does not wait longer than its timeout for a connection that takes no bytes at all, though its stream ended before`, async t => {
    const app = await serve(t, protocol, { drain: { timeout: 300 } })
    const wire = await stoppable(t, await listen(app))
    const client = peer(t, protocol, wire.port, { initialWindowSize: 2 ** 30 })
    await once(client.session!, 'connect')
    client.session!.setLocalWindowSize(2 ** 30)
    await client.open('/events')
    const [stream] = await until(() => app.sse.streams.size === 1 && app.sse.streams, 'the stream')
    wire.stop()
    for (let n = 0; n < 100; n++) await app.sse.channel('time').publish('x'.repeat(256 * 1024))
    await full(app)
    stream!.close()
    t.equal(app.sse.streams.size, 0)
    await within(5_000, app.close(), 'app.close()').finally(() => wire.cut())
  })

  t.test(`${protocol}: a session that outlives its only stream holds app.close() up no longer than Fastify's http2SessionTimeout`, async t => {
    const app = await serve(t, protocol, {}, { http2SessionTimeout: 300 })
    const port = await listen(app)
    const client = peer(t, protocol, port)
    const opened = await client.open('/events')
    opened.leave()
    await until(() => app.sse.stats().closed.client === 1, 'the stream to close')
    await within(5_000, app.close(), 'app.close()')
    await until(() => client.session!.destroyed, 'the session to end')
  })

  t.test(`${protocol}: a session that a client closes in order keeps its open streams`, async t => {
    const app = await serve(t, protocol)
    const port = await listen(app)
    const client = peer(t, protocol, port)
    const opened = await client.open('/events')
    await until(() => app.sse.channel('time').size === 1, 'it to be subscribed')
    client.session!.close()
    await app.sse.channel('time').publish('after GOAWAY')
    await until(() => events(opened).length === 1, 'the event')
    opened.leave()
    await until(() => app.sse.streams.size === 0, 'the stream to close')
    await until(() => client.session!.destroyed, 'the session to end')
  })

  t.test(`${protocol}: the server's session timeout does not cut an idle stream`, async t => {
    const app = await serve(t, protocol, { heartbeatInterval: 0 }, { http2SessionTimeout: 100 })
    const port = await listen(app)
    const client = peer(t, protocol, port)
    const opened = await client.open('/events')
    const since = Date.now()
    await until(() => Date.now() - since > 600 || opened.closed, 'six times the timeout')
    await app.sse.channel('time').publish('late')
    await until(() => opened.closed ?? events(opened).length === 1, 'the event')
    t.strictSame(datas(opened), ['late'])
  })

  t.test(`${protocol}: a heartbeat keeps a quiet stream's cursor fresh`, async t => {
    const app = await serve(t, protocol, { heartbeatInterval: 50 })
    const port = await listen(app)
    const client = await peer(t, protocol, port).open('/events')
    const id = await app.sse.channel('other').publish('not for it')
    await until(() => cursor(client) === id, 'the head as an id-only block')
    t.strictSame(events(client), [])
  })

  t.test(`${protocol}: HEAD gets the headers and an end, and a status without a body opens no stream`, async t => {
    const app = await serve(t, protocol)
    app.get('/none', (request, reply) => {
      reply.code(204)
      return reply.sse(app.sse.channel('time'))
    })
    const port = await listen(app)
    const { session } = peer(t, protocol, port)
    for (const [method, path, status] of [['HEAD', '/events', 200], ['GET', '/none', 204]] as const) {
      const request = session!.request({ ':path': path, ':method': method })
      request.resume()
      const [[head]] = await Promise.all([once(request, 'response'), once(request, 'close')])
      t.equal(head[':status'], status)
      t.equal(app.sse.streams.size, 0)
    }
    t.equal(app.sse.stats().opened, 0)
  })
}

t.test('an HTTP/2 server that allows HTTP/1.1 serves both, and publishes to both at once', async t => {
  const app = await serve(t, 'HTTP/2 over TLS', {}, { https: { key: KEY, cert: CERT, allowHTTP1: true } })
  const port = await listen(app)
  const both = [await peer(t, 'HTTP/2 over TLS', port).open('/events'), await peer(t, 'HTTPS with HTTP/1.1', port).open('/events')]
  await until(() => app.sse.channel('time').size === 2, 'both')
  for (let n = 0; n < 10; n++) await app.sse.channel('time').publish(String(n))
  await until(() => both.every(one => events(one).length === 10), 'all events')
  t.strictSame(both.map(one => one.text.slice(one.text.indexOf('data:'))), [both[0]!.text.slice(both[0]!.text.indexOf('data:')), both[0]!.text.slice(both[0]!.text.indexOf('data:'))])
})

t.test('nothing was left unhandled', async t => {
  t.strictSame(accidents, [])
})

/** Of a socket that is not there yet. A path of more than 100 bytes would be cut. */
function socketPath (t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'sse-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  return join(directory, 'socket')
}

/** A wire between client and server that can stop taking bytes, as a network does that has gone. */
async function stoppable (t: Test, to: number | string): Promise<{ port: number, stop (): void, cut (): void }> {
  const sockets: net.Socket[] = []
  const server = net.createServer(client => {
    const upstream = net.connect(typeof to === 'string' ? { path: to } : { port: to, host: '127.0.0.1' })
    client.pipe(upstream).pipe(client)
    for (const socket of [client, upstream]) sockets.push(socket.on('error', () => {}))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = (): void => { for (const socket of sockets) socket.destroy() }
  t.teardown(() => {
    cut()
    server.close()
  })
  return {
    port: (server.address() as AddressInfo).port,
    stop () { for (const socket of sockets) socket.unpipe().pause() },
    cut
  }
}

/** Cuts the connection below a session: what a network does. */
function breakSocket (session: http2.ClientHttp2Session): void {
  const symbol = Object.getOwnPropertySymbols(session).find(({ description }) => description === 'socket')
  ;(session as unknown as Record<symbol, { destroy (): void }>)[symbol!]!.destroy()
}
