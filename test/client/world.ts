import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { SsePluginOptions } from '../../lib/index.ts'
import { build } from '../client.ts'
import type { Driver, Tab } from './drivers.ts'
import { bundle, listen, type Kind } from './scenarios.ts'

const files = await bundle()

/** What a page tells of its client. `persisted`: of a page that comes out of the back/forward cache. */
export interface Seen { type: string, data?: string, id?: string, status?: string, persisted?: boolean }

/** A tab with one client. */
export interface Page extends Tab {
  readonly id: string
  /** All that its client was told, in order, since the page was loaded. It needs no protocol: a page that hangs or has crashed has told what it has. */
  readonly told: Seen[]
}

export interface World {
  app: FastifyInstance
  /** Where the pages are. */
  url: string
  open (options?: string, kind?: Kind): Promise<Page>
  /** The n-th event: n. */
  publish (): Promise<string>
  /** The page whose connection is the only one, once there is only one. */
  leader (pages: Page[], ms?: number): Promise<Page>
}

export async function waitFor<T> (what: string, condition: () => T | undefined | false | Promise<T | undefined | false>, ms = 20_000): Promise<T> {
  const end = Date.now() + ms
  for (;;) {
    const value = await condition()
    if (value !== undefined && value !== false) return value
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

export const of = (type: string) => ({ told }: Page): string[] => told.filter(one => one.type === type).map(({ data, status }) => data ?? status ?? '')
export const messages = of('message')
export const statuses = of('status')

export interface WorldOptions {
  rewind?: number
  host?: string
  plugin?: SsePluginOptions
  /** The origin that pages are loaded from, and have their streams from, if it is not the application's own. */
  origin?: (port: number) => Promise<string>
}

/** An application with the plugin, and pages of a real browser that listen to its one channel. */
export async function world (t: Test, driver: Driver, { rewind = 0, host = '127.0.0.1', plugin = {}, origin }: WorldOptions = {}): Promise<World> {
  const app = await build(t, { retry: 100, drain: { timeout: 500 }, heartbeatInterval: 1_000, ...plugin }, { forceCloseConnections: true })
  const channel = app.sse.channel('time')
  const pages = new Map<string, { load: number, heard: Array<Seen & { n: number }>, told: Seen[] }>()
  // Another origin, so that no connection of the page's own is used up.
  const collector = await listen(t, async (request, response) => {
    let body = ''
    for await (const chunk of request.setEncoding('utf8')) body += chunk
    response.end()
    const { page: number, load, ...one } = JSON.parse(body) as Seen & { page: string, load: number, n: number }
    const page = pages.get(number)!
    if (load < page.load) return
    if (load > page.load) page.heard.length = 0
    page.load = load
    page.heard.push(one)
    page.heard.sort((a, b) => a.n - b.n) // two requests may overtake each other
    page.told.splice(0, Infinity, ...page.heard.map(({ n, ...one }) => one))
  }, { host })
  app.route({ method: ['GET', 'POST'], url: '/events', handler: (request, reply) => reply.sse(channel, { rewind }) })
  app.get('/client/:file', (request, reply) => reply.type('text/javascript').send(files.get(request.url)))
  app.get('/away', (request, reply) => reply.type('text/html').send('<!doctype html>away'))
  app.get<{ Querystring: { id: string, kind: Kind, options: string } }>('/', ({ query: { id, kind, options } }, reply) => reply.type('text/html').send(`<!doctype html><script type=module>
    import { SseClient } from '/client/index.js'
    const load = performance.timeOrigin // once: WebKit says it anew each time, and the clock may have been set meanwhile
    let n = 0
    const send = body => fetch('http://${host}:${collector.port}/', { method: 'POST', mode: 'no-cors', keepalive: true, body })
      .catch(() => setTimeout(send, 100, body)) // without a network
    const tell = one => { send(JSON.stringify({ page: '${id}', load, n: n++, ...one })) }
    addEventListener('pageshow', ({ persisted }) => persisted && tell({ type: 'pageshow', persisted }))
    window.source = ${kind === 'EventSource' ? "new EventSource('/events')" : `new SseClient('/events', { headers: () => ({ 'x-page': '${id}' }), ...${options} })`}
    for (const type of ['message', 'sse.gap', 'sse.end']) source.addEventListener(type, ({ data, lastEventId }) => tell({ type, data, id: lastEventId }))
    source.addEventListener('open', () => tell({ type: 'open' }))
    window.errors = 0
    source.addEventListener('error', ({ code }) => ++errors && tell({ type: 'error', data: code ?? String(source.readyState) }))
    source.addEventListener('status', ({ status }) => tell({ type: 'status', status }))
  </script>`))
  await app.listen({ port: 0, host })
  const { port } = app.server.address() as { port: number }
  const url = await origin?.(port) ?? `http://${host}:${port}`
  let published = 0
  return {
    app,
    url,
    async open (options = '{}', kind = 'SseClient') {
      const id = String(pages.size)
      const told: Seen[] = []
      pages.set(id, { load: 0, heard: [], told })
      const tab = await driver.open(`${url}/?${new URLSearchParams({ id, kind, options }).toString()}`)
      const page = { ...tab, id, told }
      await waitFor('it to be open', () => of('open')(page).length > 0)
      return page
    },
    publish: () => channel.publish(String(++published)),
    leader: (pages, ms) => waitFor('one connection', () => {
      const ids = [...app.sse.streams].map(({ request }) => request.headers['x-page'])
      return ids.length === 1 && pages.find(({ id }) => id === ids[0])
    }, ms)
  }
}

/** Each page is told these and no others, in order. */
export async function expect (t: Test, pages: Page[], data: string[], what: string): Promise<void> {
  for (const page of pages) {
    await waitFor(`${what}: page ${page.id}`, () => messages(page).length >= data.length).catch(error => t.comment(String(error)))
    t.same(messages(page), data, `${what}: page ${page.id}`)
  }
}

/** The first n events. */
export const upTo = (n: number): string[] => Array.from({ length: n }, (_, i) => String(i + 1))
