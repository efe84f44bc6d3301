import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { createEventSource } from 'eventsource-client'
import t, { type Test } from 'tap'
import { EventSource as Undici } from 'undici'
import { SseClient } from '../../lib/client/index.ts'
import { until } from '../client.ts'
import { DRIVERS } from './drivers.ts'
import { EVENTSOURCE, EventSource, skip as noEventSource } from './newer.ts'
import { pause } from './server.ts'

// What each client does is the table of docs/guide/browsers.md: this file observes it, and prints the row where the page has another.

const require = createRequire(import.meta.url)
const version = (name: string): string => /^\d+\.\d+/.exec(JSON.parse(readFileSync(fileURLToPath(new URL(`../../node_modules/${name}/package.json`, import.meta.url)), 'utf8')).version)![0]
const { EventSource: LaunchDarkly } = require('launchdarkly-eventsource') as { EventSource: new (url: string, options: object) => { addEventListener (type: string, listen: (event: any) => void): void, onerror: unknown, close (): void } }

interface Asked { request: IncomingMessage, response: ServerResponse, at: number, body: string, stream (text: string): void, /** Resolves when the client has told of an event with this data, or is too late with it. */ heard (data: string): Promise<unknown> }
interface Told { type: string, data: string }
interface Options { headers?: Record<string, string>, method?: string, body?: string, isDead?: boolean }
/** A connection that a client is watched on, and how it is made. */
interface Case { answer (asked: Asked, n: number): void, options?: Options, /** The script of its page. */ frame?: string, asked: Asked[], told: Told[] }

const FIRST = 'retry: 200\n\nid: 1\ndata: a\n\nid: 2\n\n'
const then = (what: (asked: Asked) => unknown, next = (asked: Asked, n: number): void => asked.stream('data: b\n\n')) => (asked: Asked, n: number): void => {
  if (n > 0) return next(asked, n)
  asked.stream(FIRST)
  asked.heard('a').then(() => what(asked)) // what was not read yet may be dropped when the connection breaks
}
const cut = ({ response }: Asked): unknown => response.destroy()
const refuse = (status: number, headers = {}) => then(cut, (asked, n) => {
  if (n === 1) asked.response.writeHead(status, headers).end()
  else asked.stream('data: b\n\n')
})

const cases = (): Record<string, Case> => Object.fromEntries(Object.entries({
  ended: { answer: then(({ response }) => response.end()) },
  cut: { answer: then(cut) },
  204: { answer: refuse(204) },
  401: { answer: refuse(401) },
  429: { answer: refuse(429, { 'retry-after': '2' }) },
  502: { answer: refuse(502) },
  retry: {
    answer: then(async ({ response, heard }) => {
      response.write(`retry: ${RETRY}\ndata: r\n\n`)
      await heard('r')
      response.destroy()
    })
  },
  gap: { answer: then(({ response }) => response.write('event: sse.gap\ndata: {}\n\n')) },
  dead: { answer: then(() => {}), options: { isDead: true } },
  headers: { answer: then(() => {}), options: { headers: { authorization: 'token' } } },
  post: { answer: then(() => {}), options: { method: 'POST', body: 'x' } }
}).map(([name, one]) => [name, { ...one, asked: [], told: [] }]))

/** ms: longer than any of them waits before it comes back. */
const PATIENCE = 6_000
/** ms: longer than any of them waits by itself. */
const RETRY = 4_000

/** The cells of a row, from what the server saw and the user was told. */
function row (it: Record<string, Case>, dead: string): string[] {
  const back = (name: string): string => it[name]!.asked.length > 1 ? 'back' : 'stops'
  const after = (name: string): string => it[name]!.asked.length > 2 ? 'back' : 'stops'
  const [, refused, again] = it[429]!.asked
  const resumed = it.cut!.asked[1]?.request
  const id = resumed?.headers['last-event-id'] ?? /lastEventId=(\d)/.exec(resumed?.url ?? '')?.[1]
  return [
    back('ended'),
    back('cut'),
    after('204'),
    after('401'),
    again === undefined ? 'stops' : again.at - refused!.at >= 1_990 ? 'waits' : 'back too soon',
    after('502'),
    it.gap!.told.some(({ type }) => type === 'sse.gap') ? 'yes' : 'no',
    id === '2' ? 'yes' : id === '1' ? 'only of an event' : 'no',
    it.dead!.asked.length > 1 ? dead : 'no',
    it.headers!.asked[0]?.request.headers.authorization === 'token' ? 'yes' : 'no',
    it.post!.asked[0]?.request.method === 'POST' && it.post!.asked[0].body === 'x' ? 'yes' : 'no'
  ]
}

/** Starts a client for each case. */
type Start = (t: Test, all: Array<Case & { url: string }>) => unknown
interface Client { name: string, start: Start, skip?: string | false, /** How it notices a dead connection, if it does. */ dead?: string }

const inNode = (connect: (url: string, options: Options, tell: (type: string, data: string) => void) => { close (): void }): Start => (t, all) => {
  for (const { url, options = {}, told } of all) {
    const client = connect(url, options, (type, data) => told.push({ type, data }))
    t.teardown(() => client.close())
  }
}

/** In frames of one page of a browser. `script`: with url, options and tell. */
const inPage = (browser: string, script: string): Start => async (t, all) => {
  const driver = await DRIVERS[browser]!.start(t)
  t.comment(`${browser} ${driver.version}`)
  const { port } = await listen(t, (request, response) => {
    response.writeHead(200, { 'content-type': 'text/html' }).end(all.map(({ url }) => `<iframe src="${new URL('/', url).href}"></iframe>`).join(''))
  })
  for (const one of all) one.frame = script
  await driver.open(`http://127.0.0.1:${port}/`)
}

const library = (await build({
  stdin: { contents: "export { fetchEventSource } from '@microsoft/fetch-event-source'; export { EventSourcePolyfill } from 'event-source-polyfill'", resolveDir: fileURLToPath(new URL('.', import.meta.url)) },
  bundle: true,
  format: 'esm',
  write: false
})).outputFiles[0]!.text

const TYPES = ['message', 'sse.gap']
const LISTEN = `for (const type of ${JSON.stringify(TYPES)}) source.addEventListener(type, ({ data }) => tell({ type, data }))`
const NATIVE = `const source = new EventSource(url, options); ${LISTEN}`
/** A fetch that sends these too, for clients that take one. */
const fetchWith = (options: Options) => (url: string | URL, init: any): Promise<any> => fetch(url, { ...init, ...options, headers: { ...init.headers, ...options.headers } })

const CLIENTS: Client[] = [
  {
    name: '`SseClient`',
    dead: 'yes',
    start: inNode((url, options, tell) => {
      const source = new SseClient(url, options)
      for (const type of TYPES) source.addEventListener(type, ({ data }) => tell(type, data))
      return source
    })
  },
  ...Object.entries({ Chromium: '156', Firefox: '153 ESR', WebKit: 'GTK 2.50' }).map(([name, version]) => ({
    name: `\`EventSource\` of ${name} ${version}`.replace('WebKit GTK', 'WebKitGTK'), skip: DRIVERS[name]!.skip, start: inPage(name, NATIVE)
  })),
  {
    name: `\`eventsource\` ${EVENTSOURCE}`,
    skip: noEventSource,
    start: inNode((url, options, tell) => {
      const source = new EventSource!(url, { fetch: fetchWith(options) })
      for (const type of TYPES) source.addEventListener(type, event => tell(type, (event as MessageEvent).data))
      return source
    })
  },
  {
    name: `\`eventsource-client\` ${version('eventsource-client')}`,
    start: inNode((url, options, tell) => createEventSource({ url, ...options, onMessage: ({ event = 'message', data }) => tell(event, data) } as Parameters<typeof createEventSource>[0]))
  },
  {
    name: `\`@microsoft/fetch-event-source\` ${version('@microsoft/fetch-event-source')}`,
    skip: DRIVERS.Chromium!.skip,
    start: inPage('Chromium', "fetchEventSource(url, { ...options, openWhenHidden: true, onmessage: ({ event, data }) => tell({ type: event || 'message', data }) })")
  },
  {
    name: `\`event-source-polyfill\` ${version('event-source-polyfill')}`,
    dead: 'after 45 s',
    skip: DRIVERS.Chromium!.skip,
    start: inPage('Chromium', `const source = new EventSourcePolyfill(url, { ...options, ...(options.isDead && { heartbeatTimeout: 1_000 }) }); ${LISTEN}`)
  },
  {
    name: `\`launchdarkly-eventsource\` ${version('launchdarkly-eventsource')}`,
    dead: 'by an option',
    start: inNode((url, { isDead, ...options }, tell) => {
      const source = new LaunchDarkly(url, { ...options, ...(isDead && { readTimeoutMillis: 1_000 }) })
      source.onerror = () => {} // it throws without
      for (const type of TYPES) source.addEventListener(type, ({ data }) => tell(type, data))
      return source
    })
  },
  {
    name: `\`undici\` ${version('undici')}`,
    start: inNode((url, options, tell) => {
      const source = new Undici(url, options as {})
      for (const type of TYPES) source.addEventListener(type, event => tell(type, (event as MessageEvent).data))
      return source
    })
  }
]

async function listen (t: Test, answer: (request: IncomingMessage, response: ServerResponse) => unknown): Promise<{ port: number }> {
  const server = http.createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return { port: (server.address() as AddressInfo).port }
}

/** The address of a case's stream. Its page, for clients of pages, is beside it. */
async function serve (t: Test, it: Case): Promise<string> {
  const { port } = await listen(t, async (request, response) => {
    response.on('error', () => {})
    const at = performance.now()
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    if (request.url === '/told') {
      it.told.push(JSON.parse(body))
      response.end()
    } else if (request.url === '/library.js') response.writeHead(200, { 'content-type': 'text/javascript' }).end(library)
    else if (!/^\/events\b/.test(request.url!)) {
      response.writeHead(request.url === '/' ? 200 : 404, { 'content-type': 'text/html' }).end(`<!doctype html><script type=module>
        import { fetchEventSource, EventSourcePolyfill } from '/library.js'
        const tell = one => fetch('/told', { method: 'POST', body: JSON.stringify(one) })
        const [url, options] = ['/events', ${JSON.stringify(it.options ?? {})}]
        ${it.frame}
      </script>`)
    } else {
      const stream = (text: string): void => {
        response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', ...(it.options?.isDead && { 'sse-heartbeat': '300' }) }).write(text)
      }
      const heard = (data: string): Promise<unknown> => until(() => it.told.some(one => one.data === data)).catch(() => {})
      const asked = { request, response, at, body, stream, heard }
      it.answer(asked, it.asked.push(asked) - 1)
    }
  })
  return `http://127.0.0.1:${port}/events`
}

const page = readFileSync(new URL('../../docs/guide/browsers.md', import.meta.url), 'utf8')
const table = new Map(page.split('\n').filter(line => /^\| .*\|$/.test(line)).map(line => line.slice(1, -1).split('|').map(cell => cell.trim())).map(([name, ...cells]) => [name, cells]))

t.jobs = 4
for (const { name, start, skip = false, dead = 'yes' } of CLIENTS) {
  t.test(`${name}: what it does is what the guide says`, { skip, buffered: true }, async t => {
    const all = cases()
    const started = await Promise.all(Object.values(all).map(async one => Object.assign(one, { url: await serve(t, one) })))
    await start(t, started)
    await until(() => started.every(({ told }) => told.some(({ data }) => data === 'a')), 'the first event of each')
    await pause(PATIENCE) // most of them stop, and a stop shows by nothing else
    const cells = row(all, dead)
    t.comment(`| ${[name, ...cells].join(' | ')} |`)
    t.same(table.get(name), cells)
    const [first, second] = all.retry!.asked // SseClient waits for up to twice as long
    t.notOk(second !== undefined && second.at - first!.at < RETRY, 'back before the time that the server said')
  })
}

t.test('the guide has no client that is not observed', async t => {
  const start = page.indexOf('| client |')
  const rows = page.slice(start, page.indexOf('\n\n', start)).split('\n').slice(2).map(line => line.split('|')[1]!.trim())
  t.same(rows, CLIENTS.map(({ name }) => name))
})
