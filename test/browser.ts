import { execFileSync } from 'node:child_process'
import { chromium, type Browser } from 'playwright-core'

function find (): string | undefined {
  try {
    return execFileSync('sh', ['-c', 'command -v chromium'], { encoding: 'utf8' }).trim()
  } catch {
    return undefined
  }
}

const executablePath = find()

/** For the options of a test that needs a browser: the reason to skip it, or false. CI must have one, so there the test runs and fails. */
export const skip = executablePath === undefined && process.env.CI !== 'true' ? 'there is no program named chromium' : false

/** Headless Chromium, closed with the test. */
export async function launch (t: { teardown: (fn: () => unknown) => void }): Promise<Browser> {
  if (executablePath === undefined) throw new Error('there is no program named chromium')
  const browser = await chromium.launch({
    executablePath,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync'
    ]
  })
  t.teardown(() => browser.close())
  return browser
}
