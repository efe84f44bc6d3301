// Writes demo.png and monitor.png, the images of the README. It takes some seventy seconds: the charts need something to show.
//
//   node --import tsx example/screenshots.ts
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import { launch } from '../test/browser.ts'

const MAX_BYTES = 60 * 1024
const timeout = 120_000

const cleanup: Array<() => unknown> = []
try {
  const browser = await launch({ teardown: close => cleanup.push(close) })
  const open = async (url: string, width: number, height: number) => {
    const page = await browser.newPage({ viewport: { width, height }, reducedMotion: 'reduce' })
    await page.goto(url)
    return page
  }
  await Promise.all([demo(open), monitor(open)])
} finally {
  for (const end of cleanup) await end()
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
