import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import net, { type AddressInfo, type Socket } from 'node:net'
import { dirname, join } from 'node:path'
import { createEventSource } from 'eventsource-client'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import sse, { type SsePluginOptions } from '../../lib/index.ts'
import { launch, skip as noBrowser } from '../browser.ts'
import { EventSource, skip as noEventSource } from '../client/newer.ts'
import { until } from '../client.ts'

// Real clients, and the plugin. What each of them does with an answer written by hand is the table of docs/guide/browsers.md: test/client/clients.test.ts.

const fixture = (name: string): string => readFileSync(new URL(`../fixtures/${name}`, import.meta.url), 'utf8')
const TLS = { key: fixture('localhost-key.pem'), cert: fixture('localhost-cert.pem') }
const require = createRequire(import.meta.url)
const FETCH_EVENT_SOURCE = join(dirname(require.resolve('@microsoft/fetch-event-source/package.json')), 'lib/esm')

function has (program: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`])
    return true
  } catch {
    return false
  }
}
const noCurl = !has('curl') && process.env.CI !== 'true' ? 'there is no program named curl' : false

/** The network between a client and the server, to be taken away. */
interface Network { port: number, up: boolean, cut (): void }

async function network (t: Test, to: number): Promise<Network> {
  const sockets = new Set<Socket>()
  const server = net.createServer(client => {
    const add = (socket: Socket): Socket => {
      sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)))
      return socket
    }
    add(client)
    if (!it.up) {
      client.destroy()
      return
    }
    const upstream = add(net.connect(to, '127.0.0.1'))
    client.pipe(upstream).pipe(client)
    client.on('close', () => upstream.destroy())
    upstream.on('close', () => client.destroy())
  })
  const it: Network = { port: 0, up: true, cut () { for (const socket of sockets) socket.destroy() } }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  it.port = (server.address() as AddressInfo).port
  t.teardown(() => {
    it.cut()
    server.close()
  })
  return it
}

/** One request for the stream, as the server saw it. */
interface Seen { at: number, id: string | undefined }

interface World {
  app: FastifyInstance
  /** Through the network. */
  url: string
  network: Network
  /** Requests for /events, by client. */
  seen (client: string): Seen[]
  /** What is answered to a client's requests for /events from now on. */
  answers: Map<string, 'stream' | 204 | 503>
}

const PAGE = `<!doctype html><title>test</title><script type=module>
  import { fetchEventSource } from '/fetch-event-source/index.js'
  window.fetchEventSource = fetchEventSource
  window.ready = true
</script>`

async function world (t: Test, options: SsePluginOptions = {}, server: object = {}): Promise<World> {
  const app = Fastify({ forceCloseConnections: true, ...server } as {}) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(sse, { drain: { timeout: 500 }, ...options })
  const requests = new Map<string, Seen[]>()
  const seen = (client: string): Seen[] => {
    if (!requests.has(client)) requests.set(client, [])
    return requests.get(client)!
  }
  const answers: World['answers'] = new Map()
  const who = (request: FastifyRequest): string => (request.query as { client?: string }).client ?? ''
  app.get('/', (request, reply) => reply.type('text/html').send(PAGE))
  app.get<{ Params: { file: string } }>('/fetch-event-source/:file', ({ params: { file } }, reply) => {
    if (!/^[a-z]+(\.js)?$/.test(file)) return reply.code(404).send()
    return reply.type('text/javascript').send(readFileSync(join(FETCH_EVENT_SOURCE, file.replace(/(\.js)?$/, '.js')), 'utf8').replace(/^\/\/# sourceMappingURL.*$/m, ''))
  })
  app.get('/events', (request, reply) => {
    const client = who(request)
    seen(client).push({ at: performance.now(), id: request.headers['last-event-id'] as string | undefined })
    const answer = answers.get(client) ?? 'stream'
    if (answer === 204) return reply.code(204).send()
    if (answer === 503) return reply.code(503).header('retry-after', '1').send({ error: 'Service Unavailable' })
    return reply.sse(app.sse.channel(client || 'time'))
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const wire = await network(t, (app.server.address() as AddressInfo).port)
  const scheme = 'https' in server ? 'https' : 'http'
  return { app, url: `${scheme}://127.0.0.1:${wire.port}`, network: wire, seen, answers }
}

/** A client under observation. */
interface Observed {
  /** Everything that its user is told, in order: names of events, 'open', 'error', 'closed'. Gap events included. */
  told (): Promise<Array<{ type: string, data?: string, id?: string }>>
  close (): Promise<unknown> | unknown
}

type Told = Awaited<ReturnType<Observed['told']>>
type Start = (t: Test, url: string) => Promise<Observed>

/** In a page: `script` is called with url and `tell`, and returns what closes the client. */
function inPage (browser: () => Browser, script: string): Start {
  return async (t, url) => {
    const context = await browser().newContext({ ignoreHTTPSErrors: true })
    t.teardown(() => context.close())
    const page = await context.newPage()
    await page.goto(new URL('/', url).href)
    await page.waitForFunction('window.ready')
    await page.evaluate(`window.told = []; window.stop = (${script})(${JSON.stringify(url)}, one => window.told.push(one))`)
    return {
      told: () => page.evaluate('window.told') as Promise<Told>,
      close: () => page.evaluate('window.stop()')
    }
  }
}

const EVENT_SOURCE = `(url, tell) => {
  const source = new EventSource(url)
  source.onopen = () => tell({ type: 'open' })
  source.onerror = () => tell({ type: source.readyState === EventSource.CLOSED ? 'closed' : 'error' })
  for (const type of ['message', 'tick', 'sse.gap']) source.addEventListener(type, ({ data, lastEventId }) => tell({ type, data, id: lastEventId }))
  return () => source.close()
}`
const MICROSOFT = `(url, tell) => {
  const controller = new AbortController()
  fetchEventSource(url, {
    signal: controller.signal,
    openWhenHidden: true,
    onmessage: ({ event, data, id }) => tell({ type: event || 'message', data, id }),
    onclose: () => tell({ type: 'closed' }),
    onerror: () => { tell({ type: 'error' }) }
  })
  return () => controller.abort()
}`

let chromium: Browser | undefined
const browser = (): Browser => chromium!

/** `idOnly`: what it does with a block that has an id alone. */
const CLIENTS: Record<string, { start: Start, skip: string | false, idOnly: { isTaken: boolean, fires: boolean } }> = {
  "Chromium's EventSource": { start: inPage(browser, EVENT_SOURCE), skip: noBrowser, idOnly: { isTaken: true, fires: false } },
  '@microsoft/fetch-event-source': { start: inPage(browser, MICROSOFT), skip: noBrowser, idOnly: { isTaken: true, fires: true } },
  eventsource: {
    skip: noEventSource,
    idOnly: { isTaken: true, fires: false },
    async start (t, url) {
      const told: Told = []
      const source = new EventSource!(url)
      t.teardown(() => source.close())
      source.onopen = () => { told.push({ type: 'open' }) }
      source.onerror = () => { told.push({ type: source.readyState === source.CLOSED ? 'closed' : 'error' }) }
      for (const type of ['message', 'tick', 'sse.gap']) {
        source.addEventListener(type, event => {
          const { data, lastEventId } = event as MessageEvent
          told.push({ type, data, id: lastEventId })
        })
      }
      return { told: async () => told, close: () => source.close() }
    }
  },
  'eventsource-client': {
    skip: false,
    idOnly: { isTaken: false, fires: false },
    async start (t, url) {
      const told: Told = []
      const source = createEventSource({
        url,
        onMessage: ({ event, data, id }) => { told.push({ type: event ?? 'message', data, ...(id !== undefined && { id }) }) },
        onConnect: () => { told.push({ type: 'open' }) },
        onDisconnect: () => { told.push({ type: 'error' }) }
      })
      t.teardown(() => source.close())
      return { told: async () => source.readyState === 'closed' ? [...told, { type: 'closed' }] : told, close: () => source.close() }
    }
  }
}

/** Waits until what a client was told is as wanted. */
async function tells (client: Observed, what: string, wanted: (told: Told) => boolean): Promise<Told> {
  const end = Date.now() + 20_000
  for (;;) {
    const told = await client.told()
    if (wanted(told)) return told
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}: ${JSON.stringify(told)}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

/** Bounded: true as soon as it holds, false if it does not for this long. */
async function holdsWithin (ms: number, condition: () => boolean): Promise<boolean> {
  const end = Date.now() + ms
  while (Date.now() < end) {
    if (condition()) return true
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  return condition()
}

/** An own event, without an id, on every stream: who was told of it has read the id-only block before it. */
async function mark (app: FastifyInstance): Promise<void> {
  for (const stream of app.sse.streams) await stream.send('marker')
}

t.before(async () => {
  if (noBrowser === false) chromium = await launch({ teardown: fn => t.teardown(async () => { await fn() }) })
})

for (const [name, { start, skip, idOnly }] of Object.entries(CLIENTS)) {
  t.test(`${name}: each event arrives, with its name, data and id; after the network was away it gets what it missed, once`, { skip }, async t => {
    const { app, url, network, seen } = await world(t, { retry: 100 })
    const time = app.sse.channel('time')
    const client = await start(t, `${url}/events`)
    await until(() => time.size === 1, 'the stream')
    const ids = [await time.publish({ event: 'tick', data: { text: 'ä€😀\n' } })]
    await tells(client, 'the first event', told => told.some(({ type }) => type === 'tick'))
    network.up = false
    network.cut()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
    for (let n = 0; n < 5; n++) ids.push(await time.publish({ event: 'tick', data: { n } }))
    await holdsWithin(300, () => false) // the client tries in vain meanwhile
    network.up = true
    await tells(client, 'what was missed', told => told.filter(({ type }) => type === 'tick').length >= 6)
    ids.push(await time.publish({ event: 'tick', data: { n: 5 } }))
    const told = await tells(client, 'the last event', told => told.filter(({ type }) => type === 'tick').length >= 7)
    const ticks = told.filter(({ type }) => type === 'tick')
    t.strictSame(ticks.map(({ id }) => id), ids, 'all, once, in order')
    t.equal(ticks[0]!.data, '{"text":"ä€😀\\n"}')
    t.notOk(told.some(({ type }) => type === 'sse.gap'))
    t.equal(seen('').at(-1)!.id, ids[0])
    await client.close()
    await until(() => app.sse.streams.size === 0, 'the server to notice that it left')
  })

  t.test(`${name}: what it missed is gone from the history: it gets a gap event, and then what is left`, { skip }, async t => {
    const { app, url, network } = await world(t, { retry: 100, history: { maxEvents: 3 } })
    const time = app.sse.channel('time')
    const client = await start(t, `${url}/events`)
    await until(() => time.size === 1, 'the stream')
    await time.publish({ event: 'tick', data: 'first' })
    await tells(client, 'the first event', told => told.some(({ type }) => type === 'tick'))
    network.up = false
    network.cut()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
    for (let n = 0; n < 9; n++) await time.publish({ event: 'tick', data: String(n) })
    network.up = true
    const told = await tells(client, 'what is left', told => told.some(({ data }) => data === '8'))
    const fired = told.filter(({ type }) => type === 'tick' || type === 'sse.gap').map(({ type, data }) => [type, data])
    t.strictSame(fired, [['tick', 'first'], ['sse.gap', '{"reason":"expired","channels":["time"]}'], ['tick', '6'], ['tick', '7'], ['tick', '8']])
    await client.close()
  })

  t.test(`${name}: a connection that breaks before the first event with an id ${idOnly.isTaken ? 'loses nothing, by the priming id' : 'loses what came meanwhile: the priming id is ignored'}`, { skip }, async t => {
    const { app, url, network } = await world(t, { retry: 100 })
    const time = app.sse.channel('time')
    await time.publish({ event: 'tick', data: 'before' })
    const client = await start(t, `${url}/events`)
    await until(() => time.size === 1, 'the stream')
    await mark(app)
    const marked = await tells(client, 'the marker', told => told.some(({ data }) => data === 'marker'))
    t.equal(marked.some(({ type, data }) => type === 'message' && data !== 'marker'), idOnly.fires, 'the block with the id alone')
    network.up = false
    network.cut()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
    await time.publish({ event: 'tick', data: 'missed' })
    network.up = true
    await until(() => time.size === 1, 'it to come back')
    await time.publish({ event: 'tick', data: 'after' })
    const told = await tells(client, 'the last event', told => told.some(({ data }) => data === 'after'))
    t.strictSame(told.filter(({ type }) => type === 'tick').map(({ data }) => data), idOnly.isTaken ? ['missed', 'after'] : ['after'])
    await client.close()
  })
}

// Tabs

for (const protocol of ['HTTP/1.1', 'HTTP/2'] as const) {
  t.test(`7 tabs of Chromium over ${protocol}: ${protocol === 'HTTP/2' ? 'all get every event' : 'six get every event; the seventh waits until one is closed, and then does'}`, { skip: noBrowser }, async t => {
    const { app, url } = await world(t, {}, protocol === 'HTTP/2' ? { http2: true, https: TLS, forceCloseConnections: undefined } : {})
    const time = app.sse.channel('time')
    const context = await browser().newContext({ ignoreHTTPSErrors: true })
    const tabs: Page[] = []
    for (let n = 0; n < 7; n++) {
      const tab = await context.newPage()
      await tab.goto(`${url}/`)
      tabs.push(tab)
    }
    for (const tab of tabs) await tab.evaluate(`window.told = []; window.stop = (${EVENT_SOURCE})('/events', one => window.told.push(one))`)
    const ticks = async (tab: Page): Promise<number> => (await tab.evaluate('window.told') as Told).filter(({ type }) => type === 'tick').length
    const reach = protocol === 'HTTP/2' ? 7 : 6
    await until(() => time.size === reach, `${reach} streams`)
    await holdsWithin(500, () => time.size > reach)
    t.equal(time.size, reach)
    await time.publish({ event: 'tick', data: '1' })
    const all = async (tabs: Page[], n: number): Promise<void> => {
      const end = Date.now() + 20_000
      for (;;) {
        const counts = await Promise.all(tabs.map(ticks))
        if (counts.every(count => count === n)) return
        if (Date.now() > end) throw new Error(`waited in vain for ${n} ticks: ${counts}`)
        await new Promise(resolve => setTimeout(resolve, 20))
      }
    }
    await all(tabs.slice(0, reach), 1)
    if (protocol === 'HTTP/1.1') {
      t.equal(await ticks(tabs[6]!), 0)
      await tabs[0]!.close()
      await until(() => app.sse.stats().closed.client === 1 && time.size === 6, 'the seventh to be let in')
      await time.publish({ event: 'tick', data: '2' })
      await all([tabs[6]!], 1)
      await all(tabs.slice(1, 6), 2)
    } else {
      const sessions = new Set([...app.sse.streams].map(({ request }) => (request.raw as any).stream.session))
      t.equal(sessions.size, 1, 'in one connection')
    }
    await context.close()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
  })
}

// fetch

const READ = `async (url, tell, headers) => {
  const controller = new AbortController()
  window.stop = () => controller.abort()
  const response = await fetch(url, { headers, signal: controller.signal })
  tell({ type: 'open', data: String(response.status) })
  try {
    for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();;) {
      const { done, value } = await reader.read()
      if (done) break
      tell({ type: 'text', data: value })
    }
    tell({ type: 'closed' })
  } catch (error) {
    tell({ type: error.name })
  }
}`

t.test('fetch in Chromium reads events as they are published, resumes by the header, and abort() is noticed by the server', { skip: noBrowser }, async t => {
  const { app, url, seen } = await world(t)
  const time = app.sse.channel('time')
  const context = await browser().newContext()
  t.teardown(() => context.close())
  const page = await context.newPage()
  await page.goto(`${url}/`)
  const observed = (): Observed => ({ told: () => page.evaluate('window.told') as Promise<Told>, close: () => page.evaluate('window.stop()') })
  const text = (told: Told): string => told.filter(({ type }) => type === 'text').map(({ data }) => data).join('')
  await page.evaluate(`window.told = []; (${READ})('/events', one => window.told.push(one), {}); undefined`)
  await until(() => time.size === 1, 'the stream')
  let id = ''
  for (let n = 0; n < 3; n++) {
    id = await time.publish(`event ${n}`)
    await tells(observed(), `event ${n}`, told => text(told).includes(`data: event ${n}\n\n`))
  }
  await page.evaluate('window.stop()')
  await until(() => app.sse.streams.size === 0, 'the server to notice')
  t.equal(app.sse.stats().closed.client, 1)
  await time.publish('missed')
  await page.evaluate(`window.told = []; (${READ})('/events', one => window.told.push(one), { 'last-event-id': ${JSON.stringify(id)} }); undefined`)
  const told = await tells(observed(), 'what was missed', told => text(told).includes('data: missed\n\n'))
  t.notMatch(text(told), /event 2/)
  t.equal(seen('').at(-1)!.id, id)
  for (const stream of app.sse.streams) stream.close()
  await tells(observed(), 'the end', told => told.at(-1)!.type === 'closed')
})

t.test('fetch in Node reads events as they are published, and abort() is noticed by the server', async t => {
  const { app, url } = await world(t)
  const time = app.sse.channel('time')
  const controller = new AbortController()
  const response = await fetch(`${url}/events`, { signal: controller.signal })
  t.equal(response.headers.get('content-type'), 'text/event-stream')
  let text = ''
  const reading = (async () => { for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) text += chunk })().catch(error => error)
  await until(() => time.size === 1, 'the stream')
  for (let n = 0; n < 3; n++) {
    await time.publish(`event ${n}`)
    await until(() => text.includes(`data: event ${n}\n\n`), `event ${n}`)
  }
  controller.abort()
  t.equal((await reading).name, 'AbortError')
  await until(() => app.sse.streams.size === 0, 'the server to notice')
})

// curl

interface Curl { text: string, code: number | null, kill (): void }

function curl (t: Test, ...args: string[]): Curl {
  const child = spawn('curl', ['--no-progress-meter', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const it: Curl = { text: '', code: null, kill: () => { child.kill('SIGKILL') } }
  child.stdout.setEncoding('utf8').on('data', text => { it.text += text })
  child.stderr.resume()
  const ended = once(child, 'exit').then(([code]) => { it.code = code ?? -1 })
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  return it
}

for (const protocol of ['HTTP/1.1', 'HTTP/2'] as const) {
  t.test(`curl over ${protocol} prints what is sent as it is sent, resumes by -H, and exits with 0 at the end`, { skip: noCurl }, async t => {
    const { app, url } = await world(t, { retry: 1_500 }, protocol === 'HTTP/2' ? { http2: true, https: TLS, forceCloseConnections: undefined } : {})
    const time = app.sse.channel('time')
    const client = curl(t, '--no-buffer', '--insecure', `${url}/events`)
    await until(() => client.text.endsWith('\n\n'), 'the first block')
    t.equal(client.text, `id: ${app.sse.cursor}\nretry: 1500\n\n`, 'the block, as it is')
    let id = ''
    for (let n = 0; n < 3; n++) {
      id = await time.publish(`event ${n}`)
      await until(() => client.text.endsWith(`id: ${id}\ndata: event ${n}\n\n`), `event ${n}`)
    }
    for (const stream of app.sse.streams) stream.close()
    await until(() => client.code !== null, 'curl to exit')
    t.equal(client.code, 0)
    await time.publish('missed')
    const again = curl(t, '--no-buffer', '--insecure', '-H', `Last-Event-ID: ${id}`, `${url}/events`)
    await until(() => again.text.endsWith('data: missed\n\n'), 'what was missed')
    again.kill()
    await until(() => app.sse.streams.size === 0, 'the server to notice')
  })
}

t.test('curl: 204 prints nothing and exits with 0; --fail gives 22 for 503; --retry waits as Retry-After says and comes back', { skip: noCurl }, async t => {
  const { app, url, answers, seen } = await world(t)
  answers.set('none', 204)
  const none = curl(t, `${url}/events?client=none`)
  await until(() => none.code !== null, 'curl to exit')
  t.strictSame([none.code, none.text, seen('none').length], [0, '', 1])
  answers.set('busy', 503)
  const busy = curl(t, '--fail', `${url}/events?client=busy`)
  await until(() => busy.code !== null, 'curl to exit')
  t.strictSame([busy.code, seen('busy').length], [22, 1])
  answers.set('again', 503)
  const again = curl(t, '--no-buffer', '--retry', '3', `${url}/events?client=again`)
  await until(() => seen('again').length === 1, 'the first request')
  answers.set('again', 'stream')
  await until(() => again.text.includes(`id: ${app.sse.cursor}\n`), 'the stream')
  t.ok(seen('again')[1]!.at - seen('again')[0]!.at > 900, 'a second later, as Retry-After said')
})
