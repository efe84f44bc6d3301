import { execFileSync, spawn, type ChildProcess } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import net, { type AddressInfo } from 'node:net'
import type { LaunchOptions, Page, PuppeteerNode } from 'puppeteer-core'

/** A real browser, as far as the tests need one. It takes any certificate. */
export interface Driver {
  readonly version: string
  /** A page of its own, in a new tab. */
  open (url: string): Promise<Tab>
}
export interface Tab {
  evaluate (script: string): Promise<unknown>
  close (): Promise<unknown>
  go (url: string): Promise<unknown>
  back (): Promise<unknown>
  /** The process that runs the page, to stop or to kill it. */
  process (): Promise<number>
  /** Takes the network away from the page, and gives it back; where the browser can be asked to. */
  setOffline? (isOffline: boolean): Promise<unknown>
  /** Freezes the page as the browser itself freezes one that is hidden for long, and wakes it; where it can be asked to. */
  setFrozen? (isFrozen: boolean): Promise<unknown>
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

function chromium (t: Test): Promise<Driver> {
  return puppet(t, 'chromium', {
    browser: 'chrome',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
  })
}

function firefox (t: Test): Promise<Driver> {
  // A process for each tab, as with tabs of several sites.
  return puppet(t, 'firefox-esr', { browser: 'firefox', extraPrefsFirefox: { 'dom.ipc.processCount.webIsolated': 12 } })
}

async function puppet (t: Test, program: string, options: LaunchOptions): Promise<Driver> {
  const executablePath = find(program)
  if (executablePath === undefined) throw new Error(`there is no program named ${program}`)
  // By require: tap's own resolution of imports does not find a file that puppeteer's ES modules load.
  const puppeteer = createRequire(import.meta.url)('puppeteer-core') as PuppeteerNode
  const browser = await puppeteer.launch({ ...options, executablePath, headless: true, acceptInsecureCerts: true })
  const watch = guard(browser.process()!.pid!)
  t.teardown(async () => {
    await browser.close()
    watch.kill('SIGKILL')
  })
  return {
    version: (await browser.version()).replace(/^\D*/, ''),
    async open (url) {
      const page = await browser.newPage()
      page.on('error', () => {}) // a renderer that was killed
      await page.goto(url)
      const tab: Tab = {
        evaluate: script => page.evaluate(script),
        close: () => page.close(),
        go: url => page.goto(url),
        back: () => page.evaluate('setTimeout(() => history.back())'), // goBack() waits for a page to load, and one from the cache does not
        process: () => findBusy(browser.process()!.pid!, tab),
        setOffline: isOffline => page.setOfflineMode(isOffline)
      }
      return options.browser === 'chrome' ? { ...tab, setFrozen: isFrozen => setFrozen(page, isFrozen) } : tab
    }
  }
}

async function setFrozen (page: Page, isFrozen: boolean): Promise<void> {
  const session = await page.createCDPSession()
  await session.send('Page.setWebLifecycleState', { state: isFrozen ? 'frozen' : 'active' })
  await session.detach()
}

/** No protocol tells which process runs a page. The one that is busy while the page is, does. */
async function findBusy (root: number, tab: Tab): Promise<number> {
  for (let n = 0; n < 20; n++) {
    const before = new Map(pageProcesses(root))
    await tab.evaluate('(() => { for (const end = performance.now() + 300; performance.now() < end;); })()')
    const [first, second] = pageProcesses(root).map(([pid, ticks]) => ({ pid, ticks: ticks - (before.get(pid) ?? 0) })).sort((a, b) => b.ticks - a.ticks)
    if (first !== undefined && first.ticks >= 10 && first.ticks > 2 * (second?.ticks ?? 0)) return first.pid
  }
  throw new Error('no process was busy while the page was')
}

/** The processes that run pages, of a browser, each with the CPU time that it has had. */
function pageProcesses (root: number): Array<[pid: number, ticks: number]> {
  const children = new Map<number, Array<[pid: number, ticks: number]>>()
  for (const name of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ').map(Number)
      const parent = fields[1]!
      children.set(parent, [...children.get(parent) ?? [], [Number(name), fields[11]! + fields[12]!]])
    } catch {} // it has ended meanwhile
  }
  const below = (pid: number): Array<[pid: number, ticks: number]> => (children.get(pid) ?? []).flatMap(child => [child, ...below(child[0])])
  return below(root).filter(([pid]) => {
    try {
      return /--type=renderer|-contentproc.*\btab\b|WebKitWebProcess/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '))
    } catch {
      return false
    }
  })
}

async function webkit (t: Test): Promise<Driver> {
  const port = await freePort()
  // A group of its own, so that the display and the browser end with the driver.
  const child = spawn('xvfb-run', ['--auto-servernum', 'WebKitWebDriver', `--port=${port}`], { stdio: 'ignore', detached: true })
  const watch = guard(child.pid!)
  t.teardown(async () => {
    await end(child)
    watch.kill('SIGKILL')
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
    // Some pages cannot load before others are closed, and a command that waits for one would be in the way.
    capabilities: { alwaysMatch: { pageLoadStrategy: 'none', acceptInsecureCerts: true, 'webkitgtk:browserOptions': { binary: findMiniBrowser(), args: ['--automation'] } } }
  })
  const session = `/session/${sessionId}`
  t.teardown(() => ask('DELETE', session).catch(() => {}))
  const first: string = await ask('GET', `${session}/window`)
  // A session has one window that commands go to: nobody may choose another one before the command has gone.
  let last: Promise<unknown> = Promise.resolve()
  const inTurn = <T>(call: () => Promise<T>): Promise<T> => {
    const turn = last.then(call)
    last = turn.catch(() => {})
    return turn
  }
  return {
    version: capabilities.browserVersion,
    async open (url) {
      // The first window stays: the session ends with the last one, and a new one needs one to come from.
      const handle = await inTurn(async () => {
        await ask('POST', `${session}/window`, { handle: first })
        return (await ask('POST', `${session}/window/new`, { type: 'tab' })).handle as string
      })
      const at = (method: string, path: string, body?: object): Promise<unknown> => inTurn(async () => {
        await ask('POST', `${session}/window`, { handle })
        return ask(method, `${session}${path}`, body)
      })
      await at('POST', '/url', { url })
      // Asked in turns of their own: others may have to be closed before this one can load. While one page gives way to another it cannot be asked.
      const script = "return location.href === 'about:blank' || document.readyState !== 'complete'"
      const loading = (): Promise<unknown> => at('POST', '/execute/sync', { script, args: [] }).catch(error => String(error).includes('no such frame') || Promise.reject(error))
      while (await loading() === true) await new Promise(resolve => setTimeout(resolve, 20))
      const tab: Tab = {
        evaluate: script => at('POST', '/execute/sync', { script: `return (${script})`, args: [] }),
        close: () => at('DELETE', '/window'),
        go: url => at('POST', '/url', { url }),
        back: () => at('POST', '/back', {}),
        process: () => findBusy(child.pid!, tab)
      }
      return tab
    }
  }
}

/** Kills the processes of a group when this process is gone, however that was: its pages would ask for their servers for ever. */
function guard (group: number): ChildProcess {
  return spawn('sh', ['-c', 'cat > /dev/null; kill -9 -- "-$0"', String(group)], { stdio: ['pipe', 'ignore', 'ignore'] })
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
