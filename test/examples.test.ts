import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Page } from 'playwright-core'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { launch, skip } from './browser.ts'
import { connect, until, type Client } from './client.ts'
import { runExample } from './example.ts'
import { RedisServer, noRedis } from './redis/redis-server.ts'

interface Example {
  url: string
  /** What it prints after its address. */
  lines: string[]
  /** Stops it with the signal, and checks that it ends in time and has complained of nothing. */
  stop (signal?: NodeJS.Signals): Promise<void>
}

async function run (t: Test, file: string, env: Record<string, string> = {}): Promise<Example> {
  const { url, lines, stop } = await runExample(t, file, env)
  lines.shift()
  return {
    url,
    lines,
    async stop (signal = 'SIGTERM') {
      const { code, ms, errors } = await stop(signal)
      t.equal(code, 0, `${signal} ends it`)
      t.ok(ms < 5_000, `${signal} took ${ms} ms`)
      t.equal(errors, '', 'nothing went wrong in it')
    }
  }
}

const json = (url: string, body: unknown, { method = 'POST', cookie = '' } = {}) =>
  fetch(url, { method, headers: { 'content-type': 'application/json', cookie }, body: JSON.stringify(body) })
const named = (client: Client, name: string) => client.events.filter(({ event }) => event === name)
const dataOf = (client: Client, name: string) => named(client, name).map(({ data }) => JSON.parse(data))

t.test('answers.ts', async t => {
  const ask = async (url: string, question = 'Why\nis it so?') => (await (await json(`${url}/answers`, { question })).json() as { id: string }).id
  const tokens = (client: Client) => named(client, 'token').map(({ data }) => data).join('')

  t.test('an answer goes on without a reader; whoever comes later has it from its first token; then it is over', async t => {
    const { url, lines, stop } = await run(t, 'answers.ts', { TOKEN_MS: '5', REDIS_URL: '' })
    const id = await ask(url)
    const early = await connect(`${url}/answers/${id}`)
    await early.first(10)
    early.leave()
    await until(() => lines.length === 2, 'the model')
    t.strictSame(lines, ['The model is done after 75 of 75 tokens', 'An answer is over: done'])
    const resumed = await connect(`${url}/answers/${id}`, { lastEventId: early.lastEventId })
    const late = await connect(`${url}/answers/${id}`)
    await until(() => resumed.closed === 'end' && late.closed === 'end', 'the ends')
    t.match(tokens(late), /^You asked: Why\nis it so\?\n\nA model would know\. .* 60\. That is all\.$/)
    t.equal(tokens(early) + tokens(resumed), tokens(late))
    t.strictSame(named(late, 'question').map(({ data }) => data), ['Why\nis it so?'])
    t.strictSame(dataOf(late, 'sse.end'), [{ reason: 'done', channels: [`answer/${id}`] }])
    t.equal((await connect(`${url}/answers/${id}`, { lastEventId: late.lastEventId })).status, 204)
    t.equal((await connect(`${url}/answers/none`)).status, 404)
    t.equal((await json(`${url}/answers`, { question: '' })).status, 400)
    await stop('SIGINT')
  })

  t.test('is stopped by whoever asks for it, though the model waits for a token of its own', async t => {
    const { url, lines, stop } = await run(t, 'answers.ts', { TOKEN_MS: '3600000', REDIS_URL: '' })
    const id = await ask(url)
    const client = await connect(`${url}/answers/${id}`)
    await client.first(1)
    await fetch(`${url}/answers/${id}`, { method: 'DELETE' })
    await until(() => client.closed === 'end', 'the end')
    t.match(dataOf(client, 'sse.end'), [{ reason: 'stopped' }])
    await until(() => lines.length === 2, 'the model')
    t.strictSame(lines.sort(), ['An answer is over: stopped', 'The model was stopped after 0 of 75 tokens'])
    await stop()
  })

  t.test('two processes on Redis: asked here, read and stopped there; when one is stopped its answers may finish', { skip: noRedis }, async t => {
    const redis = await RedisServer.start(t)
    const [one, two] = await Promise.all([run(t, 'answers.ts', { TOKEN_MS: '20', REDIS_URL: redis.url }), run(t, 'answers.ts', { TOKEN_MS: '20', REDIS_URL: redis.url })])
    const [stopped, finishes] = [await ask(one.url), await ask(one.url)]
    const clients = [await connect(`${two.url}/answers/${stopped}`), await connect(`${two.url}/answers/${finishes}`)]
    for (const client of clients) await client.first(5)
    await fetch(`${two.url}/answers/${stopped}`, { method: 'DELETE' })
    await until(() => one.lines.includes('An answer is over: stopped'), 'the model to stop')
    await one.stop()
    t.ok(one.lines.includes('An answer is over: done'))
    await until(() => clients.every(({ closed }) => closed === 'end'), 'the ends')
    t.strictSame(clients.map(client => dataOf(client, 'sse.end')[0].reason), ['stopped', 'done'])
    t.match(tokens(clients[1]!), /That is all\.$/)
    await two.stop()
  })

  t.test('in a browser: ask, reload, a second tab that stops it, and "over"', { skip }, async t => {
    const [{ url, stop }, browser] = await Promise.all([run(t, 'answers.ts', { TOKEN_MS: '60', REDIS_URL: '' }), launch(t)])
    const context = await browser.newContext({ viewport: { width: 390, height: 844 } })
    const open = async (address: string) => {
      const page = await context.newPage()
      page.on('pageerror', error => t.fail(`the page threw: ${error}`))
      await page.goto(address)
      return page
    }
    const status = (page: Page, text: RegExp) => page.locator('#status', { hasText: text }).waitFor({ timeout: 20_000 })
    const shows = (page: Page, text: RegExp) => page.locator('#answer', { hasText: text }).waitFor({ timeout: 20_000 })
    const page = await open(url)
    await page.locator('#question').fill('Is it so?')
    await page.locator('#question').press('Enter')
    await status(page, /^The model is writing$/)
    t.equal(await page.locator('#asked').textContent(), 'Is it so?')
    await shows(page, / 5, /)
    await page.reload()
    await shows(page, /^You asked: Is it so\?\s+A model would know\. This one only counts: 1, 2, 3, 4, 5, /)
    const second = await open(page.url())
    await shows(second, /counts: 1, 2, 3, /)
    await Promise.all([status(page, /^over$/), status(second, /^over$/)])
    const text = await page.locator('#answer').textContent()
    t.match(text, /counts: 1, 2, 3, .*, 60\. That is all\.$/)
    t.equal(await second.locator('#answer').textContent(), text, 'both have the same')
    t.equal(await page.locator('#stop').isVisible(), false)
    await page.reload()
    await status(page, /^over$/)
    await shows(page, /That is all\.$/)

    // Of a model that takes its time: on a busy machine a fast one would be through before it can be stopped.
    const slow = await run(t, 'answers.ts', { TOKEN_MS: '1000', REDIS_URL: '' })
    const asking = await open(slow.url)
    await asking.locator('#question').fill('And so?')
    await asking.locator('#question').press('Enter')
    await shows(asking, / 1, /)
    const stopping = await open(asking.url())
    await shows(stopping, / 1, /)
    await stopping.locator('#stop').click()
    await Promise.all([status(asking, /^stopped$/), status(stopping, /^stopped$/)])
    await asking.bringToFront() // a hidden page draws nothing
    const cut = await stopping.locator('#answer').textContent()
    await asking.waitForFunction(cut => document.getElementById('answer')!.textContent === cut, cut, { timeout: 20_000 })
    await slow.stop('SIGINT')
    const none = await open(`${url}/#none`)
    await status(none, /^There is no such answer/)
    t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, 'a phone does not scroll sideways')
    await stop('SIGINT')
  })
})

t.test('ticker.ts', async t => {
  t.test('gives the newest price of each chosen symbol at once, and then every change', async t => {
    const { url, stop } = await run(t, 'ticker.ts', { REDIS_URL: '', TRADES: '2000' })
    const symbols = await (await fetch(`${url}/symbols`)).json() as string[]
    t.equal(new Set(symbols).size, 500)
    const chosen = symbols.slice(100, 120)
    const client = await connect(`${url}/prices?symbols=${chosen}`)
    await client.first(120)
    const trades = dataOf(client, 'trade') as Array<{ symbol: string, price: number, at: number }>
    t.strictSame(trades.slice(0, 20).map(({ symbol }) => symbol).sort(), [...chosen].sort(), 'one of each at first')
    t.ok(trades.every(({ symbol, price }) => chosen.includes(symbol) && price > 0))
    for (const bad of ['', 'nope', symbols.slice(0, 21).join()]) t.equal((await fetch(`${url}/prices?symbols=${bad}`)).status, 400, bad)
    t.equal((await fetch(`${url}/prices`)).status, 400)
    t.strictSame(client.gaps, [])

    // One that stops reading for a while has the newest only.
    client.pause()
    await new Promise(resolve => setTimeout(resolve, 500))
    client.resume()
    const before = client.events.length
    await client.first(before + 40)
    t.strictSame(client.gaps, [])
    await stop('SIGINT')
  })

  t.test('two processes on Redis: the one without trades shows those of the other, and all prices at once', { skip: noRedis }, async t => {
    const redis = await RedisServer.start(t)
    const one = await run(t, 'ticker.ts', { REDIS_URL: redis.url, TRADES: '500' })
    const two = await run(t, 'ticker.ts', { REDIS_URL: redis.url, TRADES: '0' })
    const symbols = await (await fetch(`${two.url}/symbols`)).json() as string[]
    const client = await connect(`${two.url}/prices?symbols=${symbols.slice(0, 20)}`)
    await client.first(60)
    t.equal(new Set(dataOf(client, 'trade').slice(0, 20).map(({ symbol }) => symbol)).size, 20)
    t.strictSame(client.gaps, [])
    await Promise.all([one.stop(), two.stop()])
  })

  t.test('in a browser: twenty prices at once, that move; others are chosen, and the address says which', { skip }, async t => {
    const [{ url, stop }, browser] = await Promise.all([run(t, 'ticker.ts', { REDIS_URL: '' }), launch(t)])
    const page = await browser.newPage({ viewport: { width: 390, height: 844 } })
    page.on('pageerror', error => t.fail(`the page threw: ${error}`))
    await page.goto(url)
    const timeout = 20_000
    await page.locator('#status', { hasText: /^live$/ }).waitFor({ timeout })
    const priced = (count: number) => page.waitForFunction(count => [...document.querySelectorAll('output')].filter(output => /^[\d,]+\.\d\d$/.test(output.value)).length === count, count, { timeout })
    await priced(20)
    const prices = () => page.locator('output').allTextContents()
    const before = await prices()
    await page.waitForFunction(before => [...document.querySelectorAll('output')].some((output, i) => output.value !== before[i]), before, { timeout })
    const names = await page.locator('h2').allTextContents()
    await page.reload()
    await priced(20)
    t.strictSame(await page.locator('h2').allTextContents(), names, 'a reload shows the same')
    await page.locator('section button').first().click()
    await priced(19)
    const other = (await page.locator('#symbols option').evaluateAll(all => all.map(one => (one as HTMLOptionElement).value))).find(symbol => !names.includes(symbol))!
    await page.locator('#symbol').fill(other.toLowerCase())
    await page.locator('#symbol').press('Enter')
    await priced(20)
    t.equal((await page.locator('h2').allTextContents())[0], other)
    await page.locator('#others').click()
    await priced(20)
    await page.locator('#rate', { hasText: /^\d+ changes in the last second$/ }).waitFor({ timeout })
    t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, 'a phone does not scroll sideways')
    await stop('SIGINT')
    await page.locator('#status', { hasText: /^reconnecting$/ }).waitFor({ timeout })
  })
})

t.test('notifications.ts', async t => {
  /** A user's session: cookie and stream. */
  async function login (t: Test, url: string, user: string): Promise<{ cookie: string, open: () => Promise<Client> }> {
    const response = await json(`${url}/login`, { user })
    const cookie = response.headers.getSetCookie()[0]!.split(';')[0]!
    return {
      cookie,
      open: async () => {
        const client = await connect(`${url}/notifications`, { headers: { cookie } })
        t.teardown(() => client.leave())
        return client
      }
    }
  }
  const notify = async (url: string, user: string, text: string) => await (await json(`${url}/users/${user}/notifications`, { text })).json() as { id: string, text: string }

  t.test('gives each user a channel behind the session: what is unread, and then what comes', async t => {
    const { url, stop } = await run(t, 'notifications.ts')
    t.equal((await fetch(`${url}/notifications`)).status, 401, 'nothing without a session')
    t.equal((await json(`${url}/login`, {})).status, 400)
    const early = await notify(url, 'ann', 'early')
    const [ann, bob] = [await login(t, url, 'ann'), await login(t, url, 'bob')]
    const [annPage, bobPage] = [await ann.open(), await bob.open()]
    await Promise.all([annPage.first(1), bobPage.first(1)])
    t.strictSame(dataOf(annPage, 'unread'), [[early]])
    t.strictSame(dataOf(bobPage, 'unread'), [[]])

    const late = await notify(url, 'ann', 'late')
    const his = await notify(url, 'bob', 'his')
    t.equal((await fetch(`${url}/notifications/${early.id}`, { method: 'DELETE' })).status, 401)
    await fetch(`${url}/notifications/${early.id}`, { method: 'DELETE', headers: { cookie: ann.cookie } })
    await Promise.all([annPage.first(3), bobPage.first(2)])
    t.strictSame(dataOf(annPage, 'added'), [late])
    t.strictSame(dataOf(annPage, 'read'), [{ id: early.id }])
    t.strictSame(dataOf(bobPage, 'added'), [his], 'and nothing of the other user')

    const second = await ann.open()
    await second.first(1)
    t.strictSame(dataOf(second, 'unread'), [[late]], 'what was read is not unread on the next page')
    await stop('SIGINT')
    await until(() => annPage.closed === 'end' && second.closed === 'end')
  })

  t.test('loses nothing between what is unread and what comes, while others publish', async t => {
    const { url, stop } = await run(t, 'notifications.ts')
    const ann = await login(t, url, 'ann')
    const texts: string[] = []
    const publishing = (async () => { while (texts.length < 300) texts.push((await notify(url, 'ann', `n${texts.length}`)).text) })()
    const pages: Client[] = []
    for (let n = 1; n <= 10; n++) {
      await until(() => texts.length >= n * 20)
      pages.push(await ann.open())
    }
    await publishing
    const seen = (page: Client) => new Set([...dataOf(page, 'unread').flat(), ...dataOf(page, 'added')].map(({ text }) => text))
    for (const page of pages) {
      await until(() => seen(page).has(texts.at(-1)), 'the last one')
      t.strictSame([...seen(page)], texts)
    }
    await stop()
  })

  t.test('sends what is unread anew to a page that was too slow', async t => {
    const { url, stop } = await run(t, 'notifications.ts')
    const ann = await login(t, url, 'ann')
    const page = await ann.open()
    await page.first(1)
    page.pause()
    const large = 'x'.repeat(900 * 1024)
    const ids: string[] = []
    for (let n = 0; n < 90; n++) ids.push((await notify(url, 'ann', large)).id) // more than sockets and the history hold
    for (const id of ids) await fetch(`${url}/notifications/${id}`, { method: 'DELETE', headers: { cookie: ann.cookie } })
    const kept = await notify(url, 'ann', 'kept')
    page.resume()
    await until(() => named(page, 'unread').length === 2, 'what is unread, once more')
    t.strictSame(page.gaps.map(({ reason }) => reason), ['overrun'])
    t.ok(named(page, 'added').length < 90, 'some were lost')
    t.strictSame(dataOf(page, 'unread'), [[], [kept]])
    const later = await notify(url, 'ann', 'later')
    await until(() => dataOf(page, 'added').some(({ id }) => id === later.id), 'what comes after that')
    await stop()
  })

  t.test('ends the streams of a session with it', async t => {
    const { url, stop } = await run(t, 'notifications.ts')
    const [phone, desk] = [await login(t, url, 'ann'), await login(t, url, 'ann')]
    const [left, stays] = [await phone.open(), await desk.open()]
    await Promise.all([left.first(1), stays.first(1)])
    t.equal((await json(`${url}/logout`, {}, { cookie: phone.cookie })).status, 200)
    await until(() => left.closed === 'end', 'the stream to end')
    t.equal((await phone.open()).status, 401)
    const added = await notify(url, 'ann', 'still here')
    await stays.first(2)
    t.strictSame(dataOf(stays, 'added'), [added])
    await stop()
  })
})

t.test('metrics.ts serves the counters of the plugin and what its events tell, as Prometheus reads them', async t => {
  const example = await run(t, 'metrics.ts', { TICK_MS: '10' })
  const scrape = async () => {
    const response = await fetch(`${example.url}/metrics`)
    if (!response.headers.get('content-type')?.startsWith('text/plain; version=0.0.4')) throw new Error(await response.text())
    const lines = (await response.text()).split('\n').filter(line => line !== '' && !line.startsWith('#'))
    return Object.fromEntries(lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))])) as Record<string, number>
  }
  const idle = await scrape()
  t.match(idle, { sse_streams: 0, sse_channels: 0, sse_streams_blocked: 0, sse_opened_total: 0, sse_delivered_total: 0, sse_backplane_up: 1 })

  const clients = [await connect(`${example.url}/events`), await connect(`${example.url}/events`, { lastEventId: 'of another log' })]
  for (const client of clients) await client.first(5)
  const busy = await scrape()
  t.match(busy, { sse_streams: 2, sse_channels: 1, sse_subscriptions: 2, sse_opened_total: 2, 'sse_gaps_total{reason="unknown"}': 1 })
  t.ok(busy.sse_delivered_total! >= 10 && busy.sse_published_total! > idle.sse_published_total! && busy.sse_history_events! >= 5)
  t.equal(busy.sse_published_total, busy.sse_received_total)
  t.ok(busy.sse_written_bytes_total! >= busy.sse_delivered_total! * 24 && busy.sse_history_bytes! > 0)

  clients[0]!.leave()
  let closed = await scrape()
  for (const end = Date.now() + 20_000; closed.sse_streams !== 1 && Date.now() < end; closed = await scrape()) await new Promise(resolve => setTimeout(resolve, 10))
  t.match(closed, { sse_streams: 1, sse_opened_total: 2, sse_subscriptions: 1, 'sse_stream_duration_seconds_count{reason="client"}': 1, 'sse_stream_duration_seconds_count{reason="stall"}': 0 })

  // The dashboard and the rules beside it ask for what is there, name and labels; and they ask for all of it.
  const read = (file: string): string => readFileSync(new URL(`../example/metrics/${file}`, import.meta.url), 'utf8')
  const { panels } = JSON.parse(read('dashboard.json')) as { panels: Array<{ title: string, targets: Array<{ expr: string }> }> }
  const { groups: [{ rules }] } = parse(read('alerts.yml')) as { groups: [{ rules: Array<{ alert: string, expr: string }> }] }
  const asked = [...panels.flatMap(({ title, targets }) => targets.map(({ expr }) => [title, expr])), ...rules.map(({ alert, expr }) => [alert, expr])] as Array<[string, string]>
  const served = new Map(Object.keys(closed).map(line => line.split('{')).map(([name, labels = '']) => [name!, labels]))
  for (const [where, expr] of asked) {
    t.match(expr, /sse_/, where)
    for (const [, name, selector = ''] of expr.matchAll(/\b(sse_\w+)(?:\{([^}]*)\})?/g)) {
      t.ok(served.has(name!), `${where}: ${name}`)
      for (const [, label] of selector.matchAll(/(\w+)\s*(?:=|!=)/g)) t.ok(['job', 'instance'].includes(label!) || served.get(name!)!.includes(`${label}=`), `${where}: ${name} has the label ${label}`)
    }
  }
  for (const name of served.keys()) t.ok(name.endsWith('_sum') || panels.some(({ targets }) => targets.some(({ expr }) => expr.includes(name))), `the dashboard shows ${name}`)
  await example.stop()
  await until(() => clients[1]!.closed === 'end')
})

t.test('monitor.ts sends what it has measured, then each new sample, and returns probes', async t => {
  const { url, stop } = await run(t, 'monitor.ts', { SAMPLE_MS: '50' })
  const first = await connect(`${url}/monitor`)
  await first.first(3)
  t.strictSame(first.events.slice(0, 3).map(({ event }) => event), ['samples', 'sample', 'sample'])
  await until(() => dataOf(first, 'sample').some(({ streams }) => streams === 1), 'itself to be counted')
  t.match(dataOf(first, 'sample').at(-1), { streams: 1, channels: 1, received: 0, delivered: 0, blocked: 0, gaps: 0 }, 'to watch publishes nothing, and there is no load unless asked for')

  t.equal((await fetch(`${url}/monitor/probe`, { method: 'POST', body: 'a probe' })).status, 204)
  await until(() => named(first, 'probe').some(({ data }) => data === 'a probe'), 'the probe')
  await until(() => dataOf(first, 'sample').some(({ received, delivered }) => received > 0 && delivered > 0), 'the event to be counted')

  const second = await connect(`${url}/monitor`, { lastEventId: first.lastEventId })
  await second.first(2)
  const [history] = dataOf(second, 'samples')
  t.ok(history.length >= 3 && history.length <= 300, 'who comes later sees what was before')
  t.strictSame(dataOf(second, 'probe'), [], 'but no old probes')
  await stop('SIGINT')
})

t.test('monitor.ts in a browser shows the load, a client that blocks, gaps and the latency', { skip }, async t => {
  const [{ url, stop }, browser] = await Promise.all([run(t, 'monitor.ts', { SAMPLE_MS: '100', LOAD: '8' }), launch(t)])
  const page = await browser.newPage({ viewport: { width: 390, height: 844 }, colorScheme: 'dark' })
  page.on('pageerror', error => t.fail(`the page threw: ${error}`))
  page.on('response', response => { if (response.status() >= 400) t.fail(`${response.url()}: ${response.status()}`) })
  await page.goto(url)
  const timeout = 60_000
  await page.locator('#status', { hasText: /^live$/ }).waitFor({ timeout })
  // Blocked and gaps take some seconds, and show for the tenth of a second between two samples: so all that was shown counts.
  await page.evaluate(() => {
    const shown: Record<string, string[]> = {}
    const note = () => { for (const output of document.querySelectorAll('output')) (shown[output.closest('section')!.id] ??= []).push(output.value) }
    new MutationObserver(note).observe(document.getElementById('cards')!, { subtree: true, childList: true, characterData: true })
    Object.assign(window, { shown })
  })
  const expected = {
    streams: '^1?\\d$',
    channels: '^7$', // 5 rooms, the files and the probes
    received: '^[1-9]',
    delivered: '^[1-9]',
    bytes: '^[1-9]',
    latency: '^[0-9.]+$',
    blocked: '^1$',
    gaps: '^1$'
  }
  for (const [key, pattern] of Object.entries(expected)) {
    await page.waitForFunction(([key, pattern]) => (window as unknown as { shown: Record<string, string[]> }).shown[key!]?.some(text => new RegExp(pattern!).test(text)), [key, pattern], { timeout })
      .catch(() => t.fail(`${key} never showed ${pattern}`))
  }
  t.equal(await page.locator('#cards canvas').count(), 8)
  t.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, 'a phone does not scroll sideways')
  /** How many pixels of a chart are drawn on. */
  const ink = (key: string) => page.locator(`#${key} canvas`).evaluate((canvas: HTMLCanvasElement) =>
    canvas.getContext('2d')!.getImageData(0, 0, canvas.width, canvas.height).data.filter((byte, i) => i % 4 === 3 && byte > 0).length)
  for (const key of ['streams', 'received', 'delivered', 'bytes', 'latency', 'blocked', 'gaps']) t.ok(await ink(key) > 1_000, `${key} has a line`)

  // What one chart points at, all show, and the number stays.
  const chart = (await page.locator('#received .u-over').boundingBox())!
  await page.mouse.move(chart.x + chart.width - 20, chart.y + 20)
  await page.locator('#time.pointed').waitFor({ timeout })
  await page.mouse.move(0, 0)
  await page.locator('#time:not(.pointed)').waitFor({ timeout })

  await stop('SIGINT')
  await page.locator('#status', { hasText: /^reconnecting$/ }).waitFor({ timeout })
})

t.test('cluster.ts', { skip: noRedis }, async t => {
  t.test('a client of any worker gets what is published through any other, and is told when to come back', async t => {
    const redis = await RedisServer.start(t)
    const { url, lines, stop } = await run(t, 'cluster.ts', { REDIS_URL: `redis://127.0.0.1:${redis.port}`, WORKERS: '2' })
    const clients: Client[] = []
    const workers = () => new Set(clients.map(({ headers }) => headers['x-worker']))
    // The second one may take seconds to start on a busy machine.
    for (let n = 0; workers().size < 2 && n < 200; n++) {
      clients.push(await connect(`${url}/events`))
      if (n > 10) await new Promise(resolve => setTimeout(resolve, 100))
    }
    t.equal(workers().size, 2, 'streams on both workers')
    for (let n = 0; n < 4; n++) await json(`${url}/news`, { n })
    for (const client of clients) {
      await until(() => dataOf(client, 'item').length === 4, 'all of it')
      t.strictSame(dataOf(client, 'item').map(({ n }) => n), [0, 1, 2, 3])
    }
    await stop()
    for (const client of clients) t.match([client.closed, client.retries.length], ['end', 2])
    t.strictSame(lines, [])
  })
})

t.test('axe finds nothing to mend on any page, by day and by night, on a phone and on a desktop', { skip }, async t => {
  const browser = await launch(t)
  const pages = [['server.ts', ''], ['answers.ts', ''], ['answers.ts', '#'], ['ticker.ts', ''], ['monitor.ts', '']] as const
  const path = createRequire(import.meta.url).resolve('axe-core/axe.min.js')
  for (const [file, hash] of pages) {
    const { url, stop } = await run(t, file, { REDIS_URL: '', TICK_MS: '50', SAMPLE_MS: '50', TOKEN_MS: '5', LOAD: '4' })
    const fragment = hash && hash + (await (await json(`${url}/answers`, { question: 'Is it so?' })).json() as { id: string }).id
    for (const colorScheme of ['light', 'dark'] as const) {
      for (const [width, height] of [[390, 844], [1280, 800]] as const) {
        const page = await browser.newPage({ viewport: { width, height }, colorScheme, reducedMotion: 'reduce' })
        await page.goto(`${url}/${fragment}`)
        await page.waitForFunction(() => ['connected', 'live', 'over', ''].includes(document.getElementById('status')!.textContent!), null, { timeout: 20_000 })
        await page.addScriptTag({ path })
        const { violations, passes } = await page.evaluate(() => (window as any).axe.run()) as Record<'violations' | 'passes', Array<{ id: string, impact: string, help: string, nodes: Array<{ html: string }> }>>
        t.ok(passes.some(({ id }) => id === 'color-contrast'), 'it has looked at colors')
        t.strictSame(violations.map(({ id, impact, help, nodes }) => `${impact}: ${id}: ${help}: ${nodes[0]!.html}`), [], `${file}, ${colorScheme}, ${width} px`)
        await page.close()
      }
    }
    await stop('SIGINT')
  }
})
