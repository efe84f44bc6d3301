import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import https from 'node:https'
import net, { type AddressInfo, type Socket } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { until } from '../client.ts'

interface Test { teardown: (fn: () => unknown) => void }

export type Kind = 'EventSource' | 'SseClient'
export const KINDS: Kind[] = ['EventSource', 'SseClient']

/** What a page tells of its client; `at`: ms, by the page's clock; `now` and `until`: ms since the epoch, of a status. */
export interface Told { type: string, at: number, readyState: number, data?: string, id?: string, code?: string, status?: number | string, now?: number, until?: number }
/** A request for the stream. `heard`: resolves when the page has told of an event with this data, or is too late with it. */
export interface Asked { request: IncomingMessage, response: ServerResponse, at: number, stream (text?: string, headers?: Record<string, string>): void, heard (data: string): Promise<unknown> }
/** What happens to one kind of client in one scenario. */
export interface Case { asked: Asked[], told: Told[] }

export interface Scenario {
  /** Answers the n-th request for the stream, from 0 on. */
  answer (asked: Asked, n: number): unknown
  /** Of the SseClient; a script. */
  options?: string
  /** Whether there is nothing more to wait for. */
  isOver (it: Case, kind: Kind): boolean
  /**
   * Where the stream is, if not beside its page. `nginx`: both are behind nginx, and the application is away for a second after the first connection.
   * `foreign`: of another origin, which allows nobody. `insecure`: http, on this machine's address in the network, for a page of https.
   */
  place?: 'nginx' | 'foreign' | 'insecure'
}

const END = 'id: 9\nevent: sse.end\ndata: {"reason":"done","channels":["a"]}\n\n'
const opened = ({ told }: Case): boolean => told.filter(({ type }) => type === 'open').length >= 2
const closed = ({ told }: Case): boolean => told.some(({ readyState }) => readyState === 2)
const either = (it: Case): boolean => opened(it) || closed(it)
const refused = (it: Case): boolean => closed(it) || it.told.filter(({ type }) => type === 'error').length >= 3
const first = (then: (asked: Asked) => unknown, other: (asked: Asked, n: number) => unknown = one => one.stream('data: b\n\n')) => (asked: Asked, n: number): void => {
  if (n > 0) {
    other(asked, n)
    return
  }
  asked.stream(FIRST)
  asked.heard('a').then(() => then(asked))
}
/** A page that is cut off drops what came and was not read yet, so what it comes back with depends on how busy it was: it is cut when it has read this. */
const FIRST = 'retry: 200\n\nid: 1\ndata: a\n\nid: 2\n\n'
const cut = ({ response }: Asked): unknown => response.destroy()
const finish = (one: Asked): void => {
  one.stream(`retry: 200\n\n${END}`)
  one.response.end()
}
const refuse = (status: number, headers: Record<string, string> = {}) => (asked: Asked, n: number): unknown => n === 1 ? asked.response.writeHead(status, headers).end() : asked.stream('data: b\n\n')

export const SCENARIOS: Record<string, Scenario> = {
  'the stream ended': { answer: first(({ response }) => response.end()), isOver: opened },
  'the connection was cut': { answer: first(cut), isOver: opened },
  'nothing comes any more, and nobody says so': { answer: first(() => {}), options: '{ inactivity: 500 }', isOver: (it, kind) => opened(it) || (kind === 'EventSource' && it.asked.length > 0 && performance.now() - it.asked[0]!.at > 4_000) },
  '204 after a cut': { answer: first(cut, one => one.response.writeHead(204).end()), isOver: closed },
  '401 after a cut, as the session has expired': {
    answer: first(cut, (one, n) => one.request.headers.authorization === 'new' ? one.stream('data: b\n\n') : one.response.writeHead(401).end()),
    options: '{ headers: () => ({ authorization: window.token ?? "old" }), onUnauthorized: () => { window.token = "new"; return true } }',
    isOver: either
  },
  '429 with Retry-After after a cut': { answer: first(cut, refuse(429, { 'retry-after': '1' })), isOver: either },
  '502 by nginx, while the application restarts': { answer: (one, n) => one.stream(n === 0 ? FIRST : 'data: b\n\n'), isOver: either, place: 'nginx' },
  'HTML in place of the stream': { answer: first(cut, one => one.response.writeHead(200, { 'content-type': 'text/html' }).end('<p>')), isOver: closed },
  'another origin that does not allow it': { answer: one => one.stream('data: a\n\n'), options: '{ retry: { min: 300, max: 300 } }', isOver: refused, place: 'foreign' },
  'http in a page of https': { answer: one => one.stream('data: a\n\n', { 'access-control-allow-origin': '*' }), options: '{ retry: { min: 300, max: 300 } }', isOver: refused, place: 'insecure' },
  'sse.gap': { answer: one => one.stream('id: 3\nevent: sse.gap\ndata: {"reason":"expired","channels":["a"]}\n\n'), isOver: ({ told }) => told.some(({ type }) => type === 'sse.gap') },
  'sse.end, the end of the response, and 204': { answer: (one, n) => n === 0 ? finish(one) : one.response.writeHead(204).end(), isOver: closed }
}

/** What a page loads, as the package has it. */
export async function bundle (): Promise<Map<string, string>> {
  const entry = fileURLToPath(new URL('../../lib/client/index.ts', import.meta.url))
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, splitting: true, format: 'esm', target: 'es2022', chunkNames: '[name]', outdir: 'out', write: false })
  return new Map(outputFiles.map(({ path, text }) => [`/client/${path.split('/').at(-1)}`, text]))
}

const fixture = (name: string): Buffer => readFileSync(new URL(`../fixtures/${name}`, import.meta.url))

/** This machine's address in the network: unlike loopback, no browser takes it for secure. */
export const ADDRESS = Object.values(networkInterfaces()).flat().find(one => one?.family === 'IPv4' && !one.internal)?.address

interface ListenOptions { port?: number, host?: string, tls?: boolean }

/** A server, closed with the test, with its sockets. */
export async function listen (t: Test, answer: (request: IncomingMessage, response: ServerResponse) => unknown, { port = 0, host = '127.0.0.1', tls = false }: ListenOptions = {}): Promise<{ port: number, close (): Promise<void> }> {
  const handler = (request: IncomingMessage, response: ServerResponse): void => {
    response.on('error', () => {})
    answer(request, response)
  }
  const server = tls ? https.createServer({ key: fixture('localhost-key.pem'), cert: fixture('localhost-cert.pem') }, handler) : http.createServer(handler)
  const sockets = new Set<Socket>()
  server.on('connection', socket => sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket))))
  server.listen(port, host)
  await once(server, 'listening')
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise(resolve => server.close(resolve))
  }
  t.teardown(close)
  return { port: (server.address() as AddressInfo).port, close }
}

/** The page of one client of one scenario. It tells the collector, which is another origin, so that no connection of its own is used up. */
function frame (kind: Kind, url: string, options: string, collector: string): string {
  return `<!doctype html><script type=module>
    import { SseClient } from '/client/index.js'
    let n = 0
    const tell = one => fetch(${JSON.stringify(collector)}, { method: 'POST', mode: 'no-cors', body: JSON.stringify({ n: n++, at: performance.now(), readyState: source.readyState, ...one }) })
    let source = { readyState: 2 }
    try {
      source = ${kind === 'EventSource' ? `new EventSource('${url}')` : `new SseClient('${url}', ${options})`}
    } catch ({ name }) {
      tell({ type: name })
    }
    source.onopen = () => tell({ type: 'open' })
    source.onstatus = ({ status, until }) => tell({ type: 'status', status, now: Date.now(), until })
    source.onerror = ({ code, status }) => tell({ type: 'error', code, status })
    for (const type of ['message', 'sse.gap', 'sse.end']) source.addEventListener(type, ({ data, lastEventId }) => tell({ type, data, id: lastEventId }))
  </script>`
}

export interface Running { cases: Record<string, Record<Kind, Case>>, url: string }

/** Starts all scenarios, each with a server of its own for each kind of client; `url` is the page that holds a frame for each. */
export async function start (t: Test): Promise<Running> {
  const files = await bundle()
  const cases: Running['cases'] = {}
  const frames: string[] = []
  for (const [name, scenario] of Object.entries(SCENARIOS)) {
    cases[name] = {} as Record<Kind, Case>
    for (const kind of KINDS) {
      const it: Case = cases[name]![kind] = { asked: [], told: [] }
      const heard: Array<Told & { n: number }> = []
      const isInsecure = scenario.place === 'insecure'
      const collector = await listen(t, async (request, response) => {
        let body = ''
        for await (const chunk of request.setEncoding('utf8')) body += chunk
        response.end()
        heard.push(JSON.parse(body))
        it.told = heard.sort((a, b) => a.n - b.n) // two requests may overtake each other
      }, { tls: isInsecure })
      let url = '/events'
      const answer = (request: IncomingMessage, response: ServerResponse): void => {
        if (request.url === '/events') {
          const one: Asked = {
            request,
            response,
            at: performance.now(),
            stream (text = '', headers = {}) {
              response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-accel-buffering': 'no', ...headers })
              response.write(text)
            },
            heard: data => until(() => it.told.some(one => one.data === data)).catch(() => {})
          }
          scenario.answer(one, it.asked.push(one) - 1)
          if (scenario.place === 'nginx' && it.asked.length === 1) one.heard('a').then(restart)
          return
        }
        const file = files.get(request.url!)
        response.writeHead(file === undefined && request.url !== '/' ? 404 : 200, { 'content-type': file === undefined ? 'text/html' : 'text/javascript' }).end(file ?? frame(kind, url, scenario.options ?? '{}', `${isInsecure ? 'https' : 'http'}://127.0.0.1:${collector.port}/`))
      }
      const server = await listen(t, answer, { tls: isInsecure })
      if (scenario.place === 'foreign') url = `http://127.0.0.1:${(await listen(t, answer)).port}/events`
      if (isInsecure) {
        if (ADDRESS === undefined) throw new Error('this machine has no address but loopback')
        url = `http://${ADDRESS}:${(await listen(t, answer, { host: ADDRESS })).port}/events`
      }
      const restart = async (): Promise<void> => {
        await server.close()
        await new Promise(resolve => setTimeout(resolve, 1_000))
        await listen(t, answer, { port: server.port })
      }
      frames.push(`<iframe src="${isInsecure ? 'https' : 'http'}://127.0.0.1:${scenario.place === 'nginx' ? await proxy(t, server.port) : server.port}/"></iframe>`)
    }
  }
  const { port } = await listen(t, (request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end(`<!doctype html>${frames.join('')}`))
  return { cases, url: `http://127.0.0.1:${port}/` }
}

function findNginx (): string | undefined {
  try {
    return execFileSync('sh', ['-c', 'command -v nginx || command -v /usr/sbin/nginx'], { encoding: 'utf8' }).trim()
  } catch {
    return undefined
  }
}

const program = findNginx()
/** CI must have one, so there the tests run, and fail. */
export const noNginx = program === undefined && process.env.CI !== 'true' ? 'there is no program named nginx' : false

/** nginx before this port; where there is none, what it would answer. */
async function proxy (t: Test, upstream: number): Promise<number> {
  if (noNginx === false) return nginx(t, `location / { proxy_pass http://127.0.0.1:${upstream}; }`)
  return (await listen(t, (request, response) => {
    const onward = http.request({ port: upstream, host: '127.0.0.1', path: request.url, headers: request.headers, agent: false }, answer => {
      response.writeHead(answer.statusCode!, answer.headers)
      answer.pipe(response)
      answer.on('error', () => response.destroy())
    })
    onward.on('error', () => response.headersSent ? response.destroy() : response.writeHead(502).end()).end()
  })).port
}

/** Starts nginx with these locations, and `upstreams` beside its server. Ends with the test. */
export async function nginx (t: Test, locations: string, upstreams = ''): Promise<number> {
  if (program === undefined) throw new Error('there is no program named nginx')
  const { port, close } = await listen(t, () => {})
  await close()
  const prefix = mkdtempSync(join(tmpdir(), 'nginx-'))
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${prefix}/${name};`).join(' ')
  writeFileSync(join(prefix, 'nginx.conf'), `daemon off; master_process off; pid ${prefix}/pid; error_log stderr crit; events { worker_connections 64; }
    http { ${temp} access_log off; ${upstreams} server { listen 127.0.0.1:${port}; proxy_http_version 1.1; proxy_set_header connection ""; ${locations} } }`)
  const child = spawn(program, ['-p', prefix, '-c', join(prefix, 'nginx.conf'), '-e', 'stderr'], { stdio: 'ignore' })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
    rmSync(prefix, { recursive: true, force: true })
  })
  for (let n = 0; n < 400; n++) {
    const socket = net.connect(port, '127.0.0.1')
    const isUp = await new Promise<boolean>(resolve => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)))
    socket.destroy()
    if (isUp) return port
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  throw new Error('nginx did not start')
}
