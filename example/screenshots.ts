// Writes demo.png and monitor.png, the images of the README. It takes some seventy seconds: the charts need something to show.
//
//   node --import tsx example/screenshots.ts
//   node --import tsx example/screenshots.ts FOLDER     # every page, in three browsers, on a phone and on a desktop, by day and by night
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import type { PuppeteerNode } from 'puppeteer-core'
import { launch } from '../test/browser.ts'

const MAX_BYTES = 60 * 1024
const timeout = 120_000
const SIZES = { phone: { width: 390, height: 844 }, desktop: { width: 1280, height: 800 } }
const SETTLE = 2_500
const [folder] = process.argv.slice(2)

const cleanup: Array<() => unknown> = []
try {
  if (folder === undefined) {
    const browser = await launch({ teardown: close => cleanup.push(close) })
    const open = async (url: string, width: number, height: number) => {
      const page = await browser.newPage({ viewport: { width, height }, reducedMotion: 'reduce' })
      await page.goto(url)
      return page
    }
    await Promise.all([demo(open), monitor(open)])
  } else {
    await everything(folder)
  }
} finally {
  for (const end of cleanup.reverse()) await end()
}

type Open = (url: string, width: number, height: number) => Promise<Page>

/** Six messages, in two browsers. */
async function demo (open: Open): Promise<void> {
  const url = await start('server.ts', { TZ: 'America/New_York' })
  const [page] = await Promise.all([open(url, 640, 400), open(url, 640, 400)])
  await page.locator('#clients', { hasText: '2 browsers' }).waitFor({ timeout })
  await page.locator('#messages p').nth(5).waitFor({ timeout })
  await save(page, 'demo.png')
}

/** A client that has stopped reading, for the fifth time: each time but the last it was told of a gap. */
async function monitor (open: Open): Promise<void> {
  const page = await open(await start('monitor.ts', { LOAD: '50' }), 1200, 490)
  await page.evaluate(() => {
    let gaps = 0
    new EventSource('/monitor').addEventListener('sample', event => {
      gaps += JSON.parse(event.data).gaps
      document.body.dataset.gaps = String(gaps)
    })
  })
  await page.waitForFunction(() => Number(document.body.dataset.gaps) >= 4 && document.querySelector('#blocked output')!.textContent === '1', null, { timeout })
  await save(page, 'monitor.png')
}

/** All pages in Chromium, Firefox and WebKit. */
async function everything (folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const answers = await start('answers.ts', {})
  const { id } = await (await fetch(`${answers}/answers`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ question: 'Why is the sky blue by day and black by night, and what is it on Mars?' })
  })).json() as { id: string }
  const pages = {
    demo: await start('server.ts', { TICK_MS: '300' }),
    answers,
    answer: `${answers}/#${id}`,
    ticker: await start('ticker.ts', { TRADES: '50' }),
    monitor: await start('monitor.ts', { LOAD: '50' })
  }
  await setTimeout(20_000) // for the charts
  for (const [name, shoot] of Object.entries({ chromium: puppets('chrome', 'chromium'), firefox: puppets('firefox', 'firefox-esr'), webkit })) {
    for (const scheme of ['light', 'dark'] as const) {
      for await (const [size, page, png] of shoot(scheme, pages)) {
        writeFileSync(join(folder, `${page}-${size}-${scheme}-${name}.png`), png)
        console.log(`${page}, ${size}, ${scheme}, ${name}`)
      }
    }
  }
}

type Shots = AsyncGenerator<[size: string, page: string, png: Uint8Array]>

function puppets (browser: 'chrome' | 'firefox', program: string): (scheme: 'light' | 'dark', pages: Record<string, string>) => Shots {
  return async function * (scheme, pages) {
    const puppeteer = createRequire(import.meta.url)('puppeteer-core') as PuppeteerNode
    const running = await puppeteer.launch({
      browser,
      executablePath: `/usr/bin/${program}`,
      args: browser === 'chrome' ? ['--no-sandbox', '--disable-gpu'] : [],
      extraPrefsFirefox: { 'layout.css.prefers-color-scheme.content-override': scheme === 'dark' ? 0 : 1 }
    })
    try {
      for (const [size, viewport] of Object.entries(SIZES)) {
        for (const [name, url] of Object.entries(pages)) {
          const page = await running.newPage()
          await page.setViewport(viewport)
          if (browser === 'chrome') await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }])
          await page.goto(url)
          await setTimeout(SETTLE)
          yield [size, name, await page.screenshot()]
          await page.close()
        }
      }
    } finally {
      await running.close()
    }
  }
}

async function * webkit (scheme: 'light' | 'dark', pages: Record<string, string>): Shots {
  const port = 20_000 + process.pid % 10_000
  const child = spawn('xvfb-run', ['--auto-servernum', '--server-args=-screen 0 1600x1200x24', 'WebKitWebDriver', `--port=${port}`], {
    stdio: 'ignore', detached: true, env: { ...process.env, LC_ALL: 'en_US.UTF-8', ...scheme === 'dark' && { GTK_THEME: 'Adwaita:dark' } }
  })
  const ask = async (method: string, path: string, body?: unknown): Promise<any> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, ...body !== undefined && { body: JSON.stringify(body) } })
    return (await response.json() as { value: any }).value
  }
  try {
    while (!await ask('GET', '/status').then(() => true, () => false)) await setTimeout(50)
    const { sessionId } = await ask('POST', '/session', { capabilities: {} })
    const session = `/session/${sessionId}`
    for (const [size, { width, height }] of Object.entries(SIZES)) {
      await ask('POST', `${session}/window/rect`, { width, height })
      for (const [name, url] of Object.entries(pages)) {
        await ask('POST', `${session}/url`, { url: 'about:blank' }) // another fragment alone loads nothing
        await ask('POST', `${session}/url`, { url })
        await setTimeout(SETTLE)
        yield [size, name, Buffer.from(await ask('GET', `${session}/screenshot`), 'base64')]
      }
    }
    await ask('DELETE', session)
  } finally {
    process.kill(-child.pid!, 'SIGTERM')
  }
}

/** Runs an example on a free port. */
async function start (file: string, env: Record<string, string>): Promise<string> {
  const child = spawn(process.execPath, ['--import', 'tsx', path(file)], {
    env: { ...process.env, PORT: '0', HOST: '127.0.0.1', ...env },
    stdio: ['ignore', 'pipe', 'inherit']
  })
  cleanup.push(() => child.kill())
  const [line] = await once(createInterface(child.stdout), 'line', { signal: AbortSignal.timeout(timeout) })
  return line.slice(line.indexOf('http'))
}

async function save (page: Page, file: string): Promise<void> {
  const { length } = await page.screenshot({ path: path(file) })
  console.log(`${file}: ${length} bytes`)
  if (length > MAX_BYTES) throw new Error(`${file} has more than ${MAX_BYTES} bytes`)
}

function path (file: string): string {
  return fileURLToPath(new URL(file, import.meta.url))
}
