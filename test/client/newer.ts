import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** The version of eventsource in the guide. Where it is installed it asks for Node 22, so it is none of the packages that `npm install` brings; it runs on Node 20 too. */
export const EVENTSOURCE = '5.1'

interface EventSourceClass {
  new (url: string, options?: { fetch?: (url: string | URL, init: any) => Promise<any> }): EventTarget & { readonly readyState: number, readonly CLOSED: 2, onopen: unknown, onerror: unknown, close (): void }
}

/** Installed once, beside the packages of `npm install`, which leaves it there; `npm ci` does not. */
const CACHE = fileURLToPath(new URL('../../node_modules/.cache/', import.meta.url))

async function install (name: string, version: string): Promise<string> {
  const folder = join(CACHE, `${name}-${version}`)
  if (existsSync(folder)) return folder
  await mkdir(CACHE, { recursive: true })
  // Files of tests run at the same time: one folder comes to be at once, and whole.
  const own = await mkdtemp(join(CACHE, 'install-'))
  try {
    await promisify(execFile)('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--ignore-scripts', '--fetch-retries=0', '--prefix', own, `${name}@${version}`], { cwd: own, timeout: 60_000, env: { ...process.env, NODE_OPTIONS: '' } })
    await rename(own, folder).catch(error => {
      if (!existsSync(folder)) throw error
    })
  } finally {
    await rm(own, { recursive: true, force: true })
  }
  return folder
}

/** The class, or why it cannot be had. With CI=true that is an error. */
export const { EventSource, skip }: { EventSource?: EventSourceClass, skip: string | false } = await install('eventsource', EVENTSOURCE).then(
  folder => ({ ...createRequire(join(folder, 'package.json'))('eventsource') as { EventSource: EventSourceClass }, skip: false as const }),
  error => {
    if (process.env.CI === 'true') throw error
    return { skip: `npm cannot install eventsource ${EVENTSOURCE}: ${/code (\w+)/.exec(error.stderr)?.[1] ?? error.message}` }
  }
)
