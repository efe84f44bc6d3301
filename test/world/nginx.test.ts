import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { constants, createGunzip } from 'node:zlib'
import t, { type Test } from 'tap'
import { blocks, build, connect, listen, until, type Block } from '../client.ts'

// A real nginx in front, with a prefix and ports of its own. Each event must arrive before the next one is published.

function find (): string | undefined {
  try {
    return execFileSync('sh', ['-c', 'command -v nginx || command -v /usr/sbin/nginx'], { encoding: 'utf8' }).trim()
  } catch {
    return undefined
  }
}

const program = find()
/** CI must have one, so there the tests run, and fail. */
const skip = program === undefined && process.env.CI !== 'true' ? 'there is no program named nginx' : false
const fixture = (name: string): string => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url))

async function freePorts (n: number): Promise<number[]> {
  const servers = Array.from({ length: n }, () => net.createServer().listen(0, '127.0.0.1'))
  await Promise.all(servers.map(server => once(server, 'listening')))
  const ports = servers.map(server => (server.address() as AddressInfo).port)
  await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
  return ports
}

interface Nginx { url: string, tls: string }

/** Starts nginx with these locations; `upstream` stands for the application. Ends with the test. */
async function nginx (t: Test, upstream: string, locations: string): Promise<Nginx> {
  if (program === undefined) throw new Error('there is no program named nginx')
  const prefix = mkdtempSync(join(tmpdir(), 'nginx-'))
  const [port, tls] = await freePorts(2) as [number, number]
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${prefix}/${name};`).join(' ')
  writeFileSync(join(prefix, 'nginx.conf'), `
    daemon off;
    master_process off;
    pid ${prefix}/pid;
    error_log stderr warn;
    events { worker_connections 512; }
    http {
      ${temp}
      access_log off;
      upstream app { server ${new URL(upstream).host}; }
      server {
        listen 127.0.0.1:${port};
        listen 127.0.0.1:${tls} ssl http2;
        ssl_certificate ${fixture('localhost-cert.pem')};
        ssl_certificate_key ${fixture('localhost-key.pem')};
        ${locations}
      }
    }`)
  const child = spawn(program, ['-p', prefix, '-c', join(prefix, 'nginx.conf'), '-e', 'stderr'], { stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => { errors += text })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
    rmSync(prefix, { recursive: true, force: true })
  })
  for (let i = 0; ; i++) {
    const socket = net.connect(port, '127.0.0.1')
    const up = await new Promise<boolean>(resolve => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)))
    socket.destroy()
    if (up) break
    if (child.exitCode !== null || i > 400) throw new Error(`nginx did not start: ${errors}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  return { url: `http://127.0.0.1:${port}`, tls: `https://127.0.0.1:${tls}` }
}

interface Body { headers: http.IncomingHttpHeaders, text: string, ended: boolean, leave (): void }

/** Reads a response that may be compressed, each byte as it comes. */
async function open (t: Test, url: string, headers: http.OutgoingHttpHeaders = {}): Promise<Body> {
  const request = http.get(url, { agent: false, headers })
  request.on('error', () => {})
  t.teardown(() => request.destroy())
  const [response] = await once(request, 'response') as [http.IncomingMessage]
  const body: Body = { headers: response.headers, text: '', ended: false, leave: () => { request.destroy() } }
  const plain = response.headers['content-encoding'] === 'gzip' ? response.pipe(createGunzip({ flush: constants.Z_SYNC_FLUSH })) : response
  plain.setEncoding('utf8')
  plain.on('error', () => {})
  plain.on('data', (text: string) => { body.text += text })
  plain.on('end', () => { body.ended = true })
  response.on('error', () => {})
  return body
}

const events = (text: string): Block[] => blocks(text).filter(({ data }) => data !== undefined)

const PROXY = 'proxy_pass http://app/;'
const HTTP11 = 'proxy_http_version 1.1; proxy_set_header Connection "";'
const GZIP = 'gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 1;'
const LOCATIONS: Record<string, string> = {
  default: '',
  'http1.1': HTTP11,
  'http1.0-buffering-off': 'proxy_buffering off;',
  'http1.0-buffering-on': 'proxy_buffering on;',
  'http1.1-buffering-off': `${HTTP11} proxy_buffering off;`,
  'http1.1-buffering-on': `${HTTP11} proxy_buffering on;`,
  'http1.0-gzip': GZIP,
  'http1.1-gzip': `${HTTP11} ${GZIP}`,
  'http1.0-gzip-buffering-on': `${GZIP} proxy_buffering on;`,
  'http1.1-gzip-buffering-off': `${HTTP11} ${GZIP} proxy_buffering off;`,
  'http1.1-cache': `${HTTP11} proxy_cache_valid any 1m;`
}
const CONFIG = Object.entries(LOCATIONS).map(([name, settings]) => `location /${name}/ { ${PROXY} ${settings} }`).join('\n') +
  `location /ignoring-http1.0/ { ${PROXY} proxy_ignore_headers X-Accel-Buffering; }
  location /ignoring-gzip/ { ${PROXY} ${HTTP11} ${GZIP} proxy_ignore_headers X-Accel-Buffering; }
  location /quick/ { ${PROXY} ${HTTP11} proxy_read_timeout 1s; }`

t.test('behind nginx', { skip }, async t => {
  const app = await build(t, { retry: 2_000, history: { maxBytes: 64 * 1024 * 1024 } })
  const time = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(time))
  const upstream = await listen(app)
  const front = await nginx(t, upstream, CONFIG)

  for (const name of Object.keys(LOCATIONS)) {
    await t.test(`with ${name}: head and cursor come at once, each event before the next one is published, and a client that leaves is noticed`, async t => {
      const body = await open(t, `${front.url}/${name}/events`, { 'accept-encoding': 'gzip' })
      t.match(body.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform' })
      t.equal(body.headers['content-encoding'], name.includes('gzip') ? 'gzip' : undefined)
      await until(() => blocks(body.text).some(({ id }) => id === app.sse.cursor), 'the id-only block')
      t.equal(blocks(body.text)[0]!.retry, '2000')
      for (let n = 0; n < 10; n++) {
        const id = await time.publish({ event: 'tick', data: `${n}` })
        await until(() => events(body.text).length === n + 1, `event ${n}`)
        t.strictSame(events(body.text).at(-1), { id, event: 'tick', data: `${n}` })
      }
      body.leave()
      await until(() => app.sse.streams.size === 0, 'the server to notice')
    })
  }

  for (const name of ['http1.0', 'gzip']) {
    await t.test(`it is the header X-Accel-Buffering that does it: told to ignore it, nginx with ${name} holds back even the head`, async t => {
      const request = http.get(`${front.url}/ignoring-${name}/events`, { agent: false, headers: { 'accept-encoding': 'gzip' } })
      request.on('error', () => {})
      t.teardown(() => request.destroy())
      let came = false
      request.on('response', () => { came = true })
      await until(() => time.size === 1, 'the stream')
      const before = app.sse.stats().delivered
      for (let n = 0; n < 5; n++) await time.publish(`${n}`)
      await until(() => app.sse.stats().delivered === before + 5, 'the events to be written')
      const since = Date.now()
      await until(() => Date.now() - since > 500 || came, 'half a second')
      t.equal(came, false)
      request.destroy()
      await until(() => app.sse.streams.size === 0, 'the server to notice')
    })
  }

  await t.test('a client resumes through it, and POST, HEAD, 503 and Retry-After pass', async t => {
    const first = await connect(`${front.url}/default/events`)
    await time.publish('one')
    await first.first(1)
    first.leave()
    await until(() => time.size === 0, 'the server to notice')
    await time.publish('two')
    const second = await connect(`${front.url}/default/events`, { lastEventId: first.lastEventId })
    t.equal((await second.first(1))[0]!.data, 'two')
    t.equal(second.gaps.length, 0)
    second.leave()
    const head = await connect(`${front.url}/http1.1/events`, { method: 'HEAD' })
    await until(() => head.closed, 'the end of HEAD')
    t.match(head.headers, { 'content-type': 'text/event-stream' })
    await until(() => app.sse.streams.size === 0, 'no stream to be left')
    const limited = await build(t, { maxStreams: 0 }, { logger: false })
    limited.get('/events', (request, reply) => reply.sse(limited.sse.channel('time')))
    const other = await nginx(t, await listen(limited), `location / { ${PROXY} }`)
    const refused = await connect(`${other.url}/events`)
    t.strictSame([refused.status, refused.headers['retry-after']], [503, '3'])
  })

  await t.test('a client that does not read blocks its stream through nginx, and then gets all, in order', async t => {
    const EVENTS = 320
    const client = await connect(`${front.url}/http1.1/events`)
    await until(() => time.size === 1, 'the stream')
    client.pause()
    for (let n = 0; n < EVENTS; n++) await time.publish(`${n} ${'x'.repeat(100 * 1024)}`)
    await until(() => app.sse.stats().blocked === 1, 'it to be blocked')
    client.resume()
    await client.first(EVENTS)
    t.strictSame(client.events.map(({ data }) => Number.parseInt(data)), Array.from({ length: EVENTS }, (_, n) => n))
    t.equal(client.gaps.length, 0)
    client.leave()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
  })

  await t.test('40 streams in one HTTP/2 session in front of it each get every event', async t => {
    const session = http2.connect(front.tls, { rejectUnauthorized: false })
    session.on('error', () => {})
    t.teardown(() => session.destroy())
    const bodies = Array.from({ length: 40 }, () => {
      const body = { text: '' }
      session.request({ ':path': '/http1.1/events' }).setEncoding('utf8').on('data', chunk => { body.text += chunk }).on('error', () => {})
      return body
    })
    await until(() => time.size === 40, 'all streams')
    for (let n = 0; n < 5; n++) {
      await time.publish(`${n}`)
      await until(() => bodies.every(({ text }) => events(text).length === n + 1), `event ${n} everywhere`)
    }
    session.destroy()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
    t.equal(app.sse.stats().blocked, 0)
  })
})

t.test('heartbeats keep a quiet stream open past proxy_read_timeout; without them nginx cuts it', { skip }, async t => {
  for (const heartbeatInterval of [200, 0]) {
    const app = await build(t, { heartbeatInterval })
    app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
    const front = await nginx(t, await listen(app), CONFIG)
    const client = await connect(`${front.url}/quick/events`)
    const since = Date.now()
    await until(() => Date.now() - since > 3_000 || client.closed !== undefined, 'three times the timeout')
    t.equal(client.closed === undefined, heartbeatInterval > 0)
    client.leave()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
  }
})

t.test('app.close() ends the streams behind it in order, with a time to come back', { skip }, async t => {
  const app = await build(t, { drain: { retry: [700, 800] } })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const front = await nginx(t, await listen(app), CONFIG)
  const clients = await Promise.all(['default', 'http1.1', 'http1.1-buffering-on'].map(name => connect(`${front.url}/${name}/events`)))
  await until(() => app.sse.channel('time').size === 3, 'all to be subscribed')
  const before = performance.now()
  await app.close()
  t.ok(performance.now() - before < 3_000, 'soon')
  await until(() => clients.every(({ closed }) => closed), 'all to end')
  for (const client of clients) {
    t.equal(client.closed, 'end')
    t.match(String(client.retries.at(-1)), /^(7\d\d|800)$/)
  }
  const late = await connect(`${front.url}/default/events`)
  t.equal(late.status, 502, 'what a browser gets meanwhile')
})
