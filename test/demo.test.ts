import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import type { Browser, Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { launch, skip } from './browser.ts'
import { connect, until } from './client.ts'
import { runExample } from './example.ts'

const STAMP = /^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d /
const MESSAGE = /^Message: (\d+) - the time is \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} -0[45]00 E[SD]T$/

interface Demo {
  url: string
  port: number
  /** What the terminal shows, without the date and time that lead each line. */
  lines: string[]
  child: ChildProcess
  /** Sends the signal, and tells how the process ended and how long that took. */
  stop (signal: NodeJS.Signals): Promise<{ code: number | null, ms: number }>
}

/** Runs the demo as `npm start` does, on a free port unless one is given. */
async function start (t: Test, env: Record<string, string> = {}): Promise<Demo> {
  const { url, child, lines, stop } = await runExample(t, 'server.ts', { REDIS_URL: '', TICKER: '', TICK_MS: '200', TZ: 'America/New_York', ...env }, line => {
    if (!STAMP.test(line)) t.fail(`a line without date and time: ${line}`)
    return line.replace(STAMP, '')
  })
  return {
    url,
    port: Number(new URL(url).port),
    lines,
    child,
    async stop (signal) {
      const { errors, ...end } = await stop(signal)
      t.equal(errors, '', 'nothing went wrong in the server')
      return end
    }
  }
}

/** The network between a browser and the server, to be taken away. */
interface Network {
  url: string
  /** refuse: nobody is there. 503: what a proxy answers while it cannot reach the server. */
  state: 'up' | 'refuse' | '503'
  /** Requests that were answered with 503. */
  refused: number
  cut (state: 'refuse' | '503'): void
  restore (): void
}

async function network (t: Test, port: number): Promise<Network> {
  const sockets = new Set<Socket>()
  const server = net.createServer(socket => {
    const add = (socket: Socket) => sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)))
    add(socket)
    if (it.state === 'refuse') {
      socket.destroy()
    } else if (it.state === '503') {
      socket.once('data', () => {
        it.refused++
        socket.end('HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
      })
    } else {
      const upstream = net.connect(port, '127.0.0.1')
      add(upstream)
      socket.pipe(upstream).pipe(socket)
      socket.on('close', () => upstream.destroy())
      upstream.on('close', () => socket.destroy())
    }
  })
  const it: Network = {
    url: '',
    state: 'up',
    refused: 0,
    cut (state) {
      it.state = state
      for (const socket of sockets) socket.destroy()
    },
    restore () { it.state = 'up' }
  }
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    it.cut('refuse')
    server.close()
  })
  it.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return it
}

interface Line { gap: boolean, text: string, n: number }

/** The lines that a page shows. */
async function shown (page: Page): Promise<Line[]> {
  const lines = await page.locator('#messages p').evaluateAll(all => all.map(one => ({ gap: one.className === 'gap', text: one.textContent })))
  return lines.map(({ gap, text }) => ({ gap, text, n: Number(MESSAGE.exec(text)?.[1]) }))
}

/** Waits until what the page shows is as wanted. */
async function shows (page: Page, what: string, wanted: (lines: Line[]) => boolean): Promise<Line[]> {
  const end = Date.now() + 20_000
  for (;;) {
    const lines = await shown(page)
    if (wanted(lines)) return lines
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}\n${lines.map(({ text }) => text).join('\n')}`)
    await page.waitForTimeout(50)
  }
}

const newest = (lines: Line[]) => lines.at(-1)?.n ?? -1
const atLeast = (page: Page, n: number) => shows(page, `message ${n}`, lines => newest(lines) >= n)
const status = (page: Page, text: string) => page.locator('#status', { hasText: new RegExp(`^${text}$`) }).waitFor({ timeout: 20_000 })
const browsers = (page: Page, n: number) => page.locator('#clients', { hasText: new RegExp(`^${n} browsers? right now$`) }).waitFor({ timeout: 20_000 })

/** Each message once, in order, none left out. */
function complete (t: Test, lines: Line[], what: string): void {
  t.strictSame(lines.map(({ n }) => n), lines.map((_, i) => lines[0]!.n + i), what)
}

/** A browser of its own: contexts share no cookies, cache or connections. A reload would lose the mark that this leaves on the page. */
async function open (t: Test, browser: Browser, url: string): Promise<Page> {
  const context = await browser.newContext({ reducedMotion: 'reduce' })
  const page = await context.newPage()
  page.on('pageerror', error => t.fail(`the page threw: ${error}`))
  await page.goto(url)
  await page.evaluate(() => { (window as { loaded?: boolean }).loaded = true })
  return page
}

async function notReloaded (t: Test, page: Page): Promise<void> {
  t.equal(await page.evaluate(() => (window as { loaded?: boolean }).loaded), true, 'the page was not reloaded')
}

/** Index of a line, after another one. */
const after = (lines: string[], line: string, from = 0) => {
  const found = lines.indexOf(line, from)
  return found === -1 ? undefined : found
}

t.test('the routes, the messages and the terminal', async t => {
  const demo = await start(t, { TICK_MS: '100' })
  const { lines, url } = demo
  await until(() => after(lines, 'Broadcast message to 0 clients'))
  t.strictSame(lines.slice(1, 3), ['Sent message 0', 'Broadcast message to 0 clients'], 'the ticker starts at once, with 0')

  for (const path of ['/index.html', '/nothing', '/events/nothing', '/style.css/', '/%2e%2e/server.ts']) t.equal((await fetch(url + path)).status, 404, path)
  t.equal((await fetch(url, { method: 'POST' })).status, 404)
  const page = await fetch(url)
  t.match(page.headers.get('content-type'), 'text/html')
  const html = await page.text()
  t.match(html, 'Yo Duder, here are some fascinating messages about the current time:')
  for (const [, asset] of html.matchAll(/(?:href|src)="(\/[^"]+)"/g)) t.equal((await fetch(url + asset!)).status, 200, asset!)
  const loaded = await until(() => after(lines, 'Finished HTTP request at /'))

  const clients = [await connect(url + '/events'), await connect(url + '/events/')]
  for (const client of clients) {
    t.equal(client.headers['content-type'], 'text/event-stream')
    const messages = (await until(() => {
      const messages = client.events.filter(({ event }) => event === undefined)
      return messages.length >= 12 && messages
    }))
    for (const { data } of messages) t.match(data, MESSAGE)
    t.ok(messages.some(({ data }) => !data.includes('000 -0')), 'microseconds are measured')
    t.equal(MESSAGE.exec(messages[0]!.data)?.[1], '0', 'a new page starts with the newest messages')
  }
  await until(() => clients[0]!.events.some(({ event, data, id }) => event === 'clients' && data === '2'), 'the count')
  const added = await until(() => after(lines, 'Added new client', loaded))
  const sent = await until(() => after(lines, 'Broadcast message to 2 clients', added))
  t.match(lines[sent - 1], /^Sent message \d+$/)

  clients[0]!.leave()
  const removed = await until(() => after(lines, 'Removed client', sent))
  t.equal(await until(() => lines[removed + 1]), 'Finished HTTP request at /events')
  await until(() => after(lines, 'Broadcast message to 1 clients', removed))
  await until(() => clients[1]!.events.filter(({ event }) => event === 'clients').at(-1)?.data === '1', 'the count goes down')
  clients[1]!.leave()
  t.ok(await until(() => after(lines, 'Finished HTTP request at /events/', removed)))

  const { code, ms } = await demo.stop('SIGTERM')
  t.equal(code, 0)
  t.ok(ms < 4_000, `SIGTERM took ${ms} ms`)
})

t.test('two browsers, one of which loses its network', { skip }, async t => {
  const [demo, browser] = await Promise.all([start(t), launch(t)])
  const wire = await network(t, demo.port)
  const [one, two] = await Promise.all([open(t, browser, wire.url), open(t, browser, demo.url)])

  t.equal(await one.locator('h1').textContent(), 'Yo Duder, here are some fascinating messages about the current time:')
  await Promise.all([status(one, 'connected'), status(two, 'connected'), browsers(one, 2), browsers(two, 2)])
  const third = await open(t, browser, demo.url)
  await Promise.all([browsers(one, 3), browsers(two, 3), browsers(third, 3)])
  await third.context().close()
  await Promise.all([browsers(one, 2), browsers(two, 2)])

  // Its connection breaks, nobody answers for some seconds, and EventSource comes back by itself.
  const before = newest(await shown(one))
  wire.cut('refuse')
  await Promise.all([status(one, 'reconnecting'), browsers(two, 1)])
  await atLeast(two, before + 10)
  wire.restore()
  await status(one, 'connected')

  // The browser knows that it has no network, and when it has one again.
  wire.cut('refuse')
  await status(one, 'reconnecting')
  t.equal(await one.evaluate(() => document.getAnimations().length), 0, 'nothing moves for a reader who wants no motion')
  await one.context().setOffline(true)
  await status(one, 'offline')
  await atLeast(two, newest(await shown(two)) + 2)
  wire.restore()
  await one.context().setOffline(false)
  await status(one, 'connected')

  // A proxy answers 503, whereupon EventSource gives up.
  wire.cut('503')
  await until(() => wire.refused > 0, 'a 503')
  await atLeast(two, newest(await shown(two)) + 2)
  await status(one, 'reconnecting')
  wire.restore()
  await status(one, 'connected')

  const last = newest(await shown(two)) + 3
  const lines = [await atLeast(one, last), await atLeast(two, last)]
  complete(t, lines[0]!, 'each message once, in order')
  complete(t, lines[1]!, 'the other browser too')
  const from = Math.max(lines[0]![0]!.n, lines[1]![0]!.n)
  const [texts, others] = lines.map(lines => lines.filter(({ n }) => n >= from && n <= last).map(({ text }) => text))
  t.strictSame(texts, others, 'both show the same')
  await browsers(one, 2)
  await notReloaded(t, one)

  // Ctrl-C with both connected, and a connection on which nothing was asked, as browsers keep one. Then the server comes back.
  const spare = net.connect(demo.port, '127.0.0.1').on('error', () => {})
  t.teardown(() => spare.destroy())
  await once(spare, 'connect')
  const { code, ms } = await demo.stop('SIGINT')
  t.equal(code, 0)
  t.ok(ms < 4_000, `SIGINT took ${ms} ms`)
  const end = demo.lines.slice(-4)
  t.strictSame(end.sort(), [...Array(2).fill('Finished HTTP request at /events/'), ...Array(2).fill('Removed client')])
  await Promise.all([status(one, 'reconnecting'), status(two, 'reconnecting')])
  await start(t, { PORT: String(demo.port) })
  for (const page of [one, two]) {
    const lines = await shows(page, 'a gap, and what follows', lines => lines.findIndex(({ gap }) => gap) < lines.length - 3 && lines.some(({ gap }) => gap))
    const gaps = lines.filter(({ gap }) => gap)
    t.strictSame(gaps.map(({ text }) => text), ['Server restarted: some messages may be missing here'])
    const [old, fresh] = [lines.slice(0, lines.indexOf(gaps[0]!)), lines.slice(lines.indexOf(gaps[0]!) + 1)]
    complete(t, old, 'before the restart')
    complete(t, fresh, 'after the restart')
    await status(page, 'connected')
    await notReloaded(t, page)
  }
  await Promise.all([browsers(one, 2), browsers(two, 2)])
})

t.test('a page that has many lines', { skip }, async t => {
  const [demo, browser] = await Promise.all([start(t, { TICK_MS: '8' }), launch(t)])
  const page = await open(t, browser, demo.url)
  await shows(page, '300 lines', lines => lines.length === 300)
  const later = newest(await atLeast(page, newest(await shown(page)) + 50))
  complete(t, await shown(page), 'the newest ones')
  t.equal((await shown(page)).length, 300, 'older lines go')
  const distance = () => page.locator('#messages').evaluate(log => log.scrollHeight - log.scrollTop - log.clientHeight)
  // A line may have been added, and not been scrolled to yet.
  const follows = async () => {
    for (let i = 0; i < 100; i++) if (await distance() < 30) return true
    return false
  }
  t.ok(await follows(), 'the newest line is in view')
  await page.setViewportSize({ width: 320, height: 480 })
  await atLeast(page, later + 25)
  t.ok(await follows(), 'on a smaller screen too')
  t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 320, 'which does not scroll sideways')

  await page.locator('#messages').evaluate(log => { log.scrollTop -= 2_000 })
  await page.locator('#newest').waitFor()
  await atLeast(page, later + 50)
  t.ok(await distance() > 1_000, 'a reader who has scrolled up is left there')
  await page.locator('#newest').click()
  await page.locator('#newest').waitFor({ state: 'hidden' })
  await atLeast(page, later + 100)
  t.ok(await distance() < 30, 'and follows again when it wants to')
  t.equal((await demo.stop('SIGINT')).code, 0)
})
