import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import net, { type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

interface Test { teardown: (fn: () => unknown) => void }

export type Kind = 'EventSource' | 'SseClient'
export const KINDS: Kind[] = ['EventSource', 'SseClient']

/** What a page tells of its client. */
export interface Told { type: string, readyState: number, data?: string, id?: string, code?: string, status?: number | string }
/** A request for the stream. */
export interface Asked { request: IncomingMessage, response: ServerResponse, at: number, stream (text?: string): void }
/** What happens to one kind of client in one scenario. */
export interface Case { asked: Asked[], told: Told[] }

export interface Scenario {
  /** Answers the n-th request for the stream, from 0 on. */
  answer (asked: Asked, n: number): unknown
  /** Of the SseClient; a script. */
  options?: string
  /** Whether there is nothing more to wait for. */
  isOver (it: Case): boolean
  /** Behind nginx, while the application is away for a second after the first connection. */
  isBehindNginx?: boolean
}

const END = 'id: 9\nevent: sse.end\ndata: {"reason":"done","channels":["a"]}\n\n'
const opened = ({ told }: Case): boolean => told.filter(({ type }) => type === 'open').length >= 2
const closed = ({ told }: Case): boolean => told.some(({ readyState }) => readyState === 2)
const either = (it: Case): boolean => opened(it) || closed(it)
const first = (then: (asked: Asked) => unknown, other: (asked: Asked, n: number) => unknown = one => one.stream('data: b\n\n')) => (asked: Asked, n: number): void => {
  if (n > 0) {
    other(asked, n)
    return
  }
  asked.stream('retry: 200\n\nid: 1\ndata: a\n\nid: 2\n\n')
  setTimeout(() => then(asked), 100)
}
const cut = ({ response }: Asked): unknown => response.destroy()
const finish = (one: Asked): void => {
  one.stream(`retry: 200\n\n${END}`)
  one.response.end()
}
const refuse = (status: number, headers: Record<string, string> = {}) => (asked: Asked, n: number): unknown => n === 1 ? asked.response.writeHead(status, headers).end() : asked.stream('data: b\n\n')

export const SCENARIOS: Record<string, Scenario> = {
  'the stream ended': { answer: first(({ response }) => response.end()), isOver: opened },
  'the connection was cut': { answer: first(cut), isOver: opened },
  'nothing comes any more, and nobody says so': { answer: first(() => {}), options: '{ inactivity: 500 }', isOver: it => opened(it) || (it.asked.length > 0 && performance.now() - it.asked[0]!.at > 4_000) },
  '204 after a cut': { answer: first(cut, one => one.response.writeHead(204).end()), isOver: closed },
  '401 after a cut, as the session has expired': {
    answer: first(cut, (one, n) => one.request.headers.authorization === 'new' ? one.stream('data: b\n\n') : one.response.writeHead(401).end()),
    options: '{ headers: () => ({ authorization: window.token ?? "old" }), onUnauthorized: () => { window.token = "new"; return true } }',
    isOver: either
  },
  '429 with Retry-After after a cut': { answer: first(cut, refuse(429, { 'retry-after': '1' })), isOver: either },
  '502 by nginx, while the application restarts': { answer: (one, n) => one.stream(n === 0 ? 'retry: 200\n\nid: 1\ndata: a\n\nid: 2\n\n' : 'data: b\n\n'), isOver: either, isBehindNginx: true },
  'HTML in place of the stream': { answer: first(cut, one => one.response.writeHead(200, { 'content-type': 'text/html' }).end('<p>')), isOver: closed },
  'sse.gap': { answer: one => one.stream('id: 3\nevent: sse.gap\ndata: {"reason":"expired","channels":["a"]}\n\n'), isOver: ({ told }) => told.some(({ type }) => type === 'sse.gap') },
  'sse.end, the end of the response, and 204': { answer: (one, n) => n === 0 ? finish(one) : one.response.writeHead(204).end(), isOver: closed }
}

/** What a page loads, as the package has it. */
export async function bundle (): Promise<Map<string, string>> {
  const entry = fileURLToPath(new URL('../../lib/client/index.ts', import.meta.url))
  const { outputFiles } = await build({ entryPoints: [entry], bundle: true, splitting: true, format: 'esm', target: 'es2022', chunkNames: '[name]', outdir: 'out', write: false })
  return new Map(outputFiles.map(({ path, text }) => [`/client/${path.split('/').at(-1)}`, text]))
}

/** A server with a stream at /events, a page at / and what `pages` has; closed with the test, with its sockets. */
export async function listen (t: Test, answer: (request: IncomingMessage, response: ServerResponse) => unknown, port = 0): Promise<{ port: number, close (): Promise<void> }> {
  const server = http.createServer((request, response) => {
    response.on('error', () => {})
    answer(request, response)
  })
  const sockets = new Set<Socket>()
  server.on('connection', socket => sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket))))
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  const close = async (): Promise<void> => {
    for (const socket of sockets) socket.destroy()
    if (server.listening) await new Promise(resolve => server.close(resolve))
  }
  t.teardown(close)
  return { port: (server.address() as AddressInfo).port, close }
}

/** The page of one client of one scenario. It tells the collector, which is another origin, so that no connection of its own is used up. */
function frame (kind: Kind, options: string, collector: string): string {
  return `<!doctype html><script type=module>
    import { SseClient } from '/client/index.js'
    let n = 0
    const tell = one => fetch(${JSON.stringify(collector)}, { method: 'POST', mode: 'no-cors', body: JSON.stringify({ n: n++, readyState: source.readyState, ...one }) })
    const source = ${kind === 'EventSource' ? "new EventSource('/events')" : `new SseClient('/events', ${options})`}
    source.onopen = () => tell({ type: 'open' })
    source.onstatus = ({ status }) => tell({ type: 'status', status })
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
      const collector = await listen(t, async (request, response) => {
        let body = ''
        for await (const chunk of request.setEncoding('utf8')) body += chunk
        response.end()
        heard.push(JSON.parse(body))
        it.told = heard.sort((a, b) => a.n - b.n) // two requests may overtake each other
      })
      const page = frame(kind, scenario.options ?? '{}', `http://127.0.0.1:${collector.port}/`)
      const answer = (request: IncomingMessage, response: ServerResponse): void => {
        if (request.url === '/events') {
          const one: Asked = {
            request,
            response,
            at: performance.now(),
            stream (text = '') {
              response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', 'x-accel-buffering': 'no' })
              response.write(text)
            }
          }
          scenario.answer(one, it.asked.push(one) - 1)
          if (scenario.isBehindNginx && it.asked.length === 1) setTimeout(() => restart(), 100)
          return
        }
        const file = files.get(request.url!)
        response.writeHead(file === undefined && request.url !== '/' ? 404 : 200, { 'content-type': file === undefined ? 'text/html' : 'text/javascript' }).end(file ?? page)
      }
      const server = await listen(t, answer)
      const restart = async (): Promise<void> => {
        await server.close()
        await new Promise(resolve => setTimeout(resolve, 1_000))
        await listen(t, answer, server.port)
      }
      frames.push(`<iframe src="http://127.0.0.1:${scenario.isBehindNginx ? await proxy(t, server.port) : server.port}/"></iframe>`)
    }
  }
  const { port } = await listen(t, (request, response) => response.writeHead(200, { 'content-type': 'text/html' }).end(`<!doctype html>${frames.join('')}`))
  return { cases, url: `http://127.0.0.1:${port}/` }
}

/** nginx before this port; where there is none, what it would answer. */
async function proxy (t: Test, upstream: number): Promise<number> {
  let program: string
  try {
    program = execFileSync('sh', ['-c', 'command -v nginx || command -v /usr/sbin/nginx'], { encoding: 'utf8' }).trim()
  } catch (error) {
    if (process.env.CI === 'true') throw error
    return (await listen(t, (request, response) => {
      const onward = http.request({ port: upstream, host: '127.0.0.1', path: request.url, headers: request.headers, agent: false }, answer => {
        response.writeHead(answer.statusCode!, answer.headers)
        answer.pipe(response)
        answer.on('error', () => response.destroy())
      })
      onward.on('error', () => response.headersSent ? response.destroy() : response.writeHead(502).end()).end()
    })).port
  }
  const { port, close } = await listen(t, () => {})
  await close()
  const prefix = mkdtempSync(join(tmpdir(), 'nginx-'))
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${prefix}/${name};`).join(' ')
  writeFileSync(join(prefix, 'nginx.conf'), `daemon off; master_process off; pid ${prefix}/pid; error_log stderr crit; events { worker_connections 64; }
    http { ${temp} access_log off; server { listen 127.0.0.1:${port}; location / { proxy_pass http://127.0.0.1:${upstream}; proxy_http_version 1.1; proxy_set_header connection ""; } } }`)
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
