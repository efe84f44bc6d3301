import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import net, { type AddressInfo } from 'node:net'
import type { PuppeteerNode } from 'puppeteer-core'
import { launch } from '../browser.ts'

/** A real browser, as far as the tests need one. What its pages see, they tell the test's own server. */
export interface Driver {
  readonly version: string
  /** A page of its own, in a new tab. */
  open (url: string): Promise<Tab>
}
export interface Tab {
  evaluate (script: string): Promise<unknown>
  close (): Promise<unknown>
  /** Takes the network away from the browser, and gives it back; where it can be asked to. */
  setOffline? (isOffline: boolean): Promise<unknown>
}

interface Test { teardown: (fn: () => unknown) => void }

function find (program: string): string | undefined {
  try {
    return execFileSync('sh', ['-c', `command -v ${program}`], { encoding: 'utf8' }).trim()
  } catch {
    return undefined
  }
}

/** MiniBrowser is no program of the path: it lies with the library, wherever that is. */
function findMiniBrowser (): string | undefined {
  for (const folder of ['/usr/lib', '/usr/libexec']) {
    for (const machine of existsSync(folder) ? ['', ...readdirSync(folder).filter(name => name.includes('linux'))] : []) {
      for (const version of ['4.1', '6.0', '4.0']) {
        const path = `${folder}/${machine}/webkit2gtk-${version}/MiniBrowser`
        if (existsSync(path)) return path
      }
    }
  }
}

/** Each browser, by what it takes to start it, and the programs without which its tests are skipped; CI must have them. */
export const DRIVERS: Record<string, { start: (t: Test) => Promise<Driver>, skip: string | false }> = {
  Chromium: { start: chromium, skip: missing('chromium') },
  Firefox: { start: firefox, skip: missing('firefox-esr') },
  WebKit: { start: webkit, skip: missing('WebKitWebDriver', 'xvfb-run') || (findMiniBrowser() === undefined && process.env.CI !== 'true' ? 'there is no MiniBrowser' : false) }
}

function missing (...programs: string[]): string | false {
  const gone = programs.find(program => find(program) === undefined)
  return gone !== undefined && process.env.CI !== 'true' ? `there is no program named ${gone}` : false
}

async function chromium (t: Test): Promise<Driver> {
  const browser = await launch(t)
  const context = await browser.newContext()
  return {
    version: browser.version(),
    async open (url) {
      const page = await context.newPage()
      await page.goto(url)
      return {
        evaluate: script => page.evaluate(script),
        close: () => page.close(),
        setOffline: isOffline => context.setOffline(isOffline)
      }
    }
  }
}

async function firefox (t: Test): Promise<Driver> {
  const executablePath = find('firefox-esr')
  if (executablePath === undefined) throw new Error('there is no program named firefox-esr')
  // By require: tap's own resolution of imports does not find a file that puppeteer's ES modules load.
  const puppeteer = createRequire(import.meta.url)('puppeteer-core') as PuppeteerNode
  const browser = await puppeteer.launch({ browser: 'firefox', executablePath, headless: true })
  t.teardown(() => browser.close())
  return {
    version: (await browser.version()).replace(/^\D*/, ''),
    async open (url) {
      const page = await browser.newPage()
      await page.goto(url)
      return {
        evaluate: script => page.evaluate(script),
        close: () => page.close()
      }
    }
  }
}

async function webkit (t: Test): Promise<Driver> {
  const port = await freePort()
  // A group of its own, so that the display and the browser end with the driver.
  const child = spawn('xvfb-run', ['--auto-servernum', 'WebKitWebDriver', `--port=${port}`], { stdio: 'ignore', detached: true })
  const kill = (): void => { process.kill(-child.pid!, 'SIGKILL') }
  process.once('exit', kill) // also of a test that was stopped
  t.teardown(async () => {
    process.off('exit', kill)
    await end(child)
  })
  const ask = async (method: string, path: string, body?: unknown): Promise<any> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method, ...(body !== undefined && { body: JSON.stringify(body) }) })
    const { value } = await response.json() as { value: any }
    if (!response.ok) throw new Error(`${path}: ${JSON.stringify(value)}`)
    return value
  }
  for (let n = 0; ; n++) {
    if (await ask('GET', '/status').then(() => true, () => false)) break
    if (n > 200) throw new Error('WebKitWebDriver did not start')
    await new Promise(resolve => setTimeout(resolve, 50))
  }
  const { sessionId, capabilities } = await ask('POST', '/session', {
    capabilities: { alwaysMatch: { 'webkitgtk:browserOptions': { binary: findMiniBrowser(), args: ['--automation'] } } }
  })
  const session = `/session/${sessionId}`
  t.teardown(() => ask('DELETE', session).catch(() => {}))
  const first: string = await ask('GET', `${session}/window`)
  return {
    version: capabilities.browserVersion,
    async open (url) {
      // The first window stays: the session ends with the last one, and a new one needs one to come from.
      await ask('POST', `${session}/window`, { handle: first })
      const { handle } = await ask('POST', `${session}/window/new`, { type: 'tab' })
      const go = (): Promise<unknown> => ask('POST', `${session}/window`, { handle })
      await go()
      await ask('POST', `${session}/url`, { url })
      return {
        async evaluate (script) {
          await go()
          return ask('POST', `${session}/execute/sync`, { script: `return (${script})`, args: [] })
        },
        async close () {
          await go()
          await ask('DELETE', `${session}/window`)
        }
      }
    }
  }
}

async function freePort (): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise(resolve => server.close(resolve))
  return port
}

async function end (child: ChildProcess): Promise<void> {
  const ended = new Promise(resolve => child.once('exit', resolve))
  try {
    process.kill(-child.pid!, 'SIGTERM')
  } catch {
    return // it has ended already
  }
  const timer = setTimeout(() => process.kill(-child.pid!, 'SIGKILL'), 2_000)
  await ended
  clearTimeout(timer)
}
