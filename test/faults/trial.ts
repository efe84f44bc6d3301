import { mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { until } from '../log/backplane-contract.ts'
import { Proxy } from '../redis/redis-proxy.ts'
import { RedisServer, type RedisServerOptions, type Teardown } from '../redis/redis-server.ts'
import { Client } from './client.ts'
import type { Fault } from './faults.ts'
import type { App } from './fleet.ts'
import { CHANNELS, check, Dice, NUMBERS, type Acknowledged, type Evidence, type Verdict } from './model.ts'

export interface TrialOptions {
  /** How long the fault is brought about, again and again. */
  seconds: number
  seed: number
  /** @default 200 */
  clients?: number
  /** Events a second, of all processes. @default 200 */
  rate?: number
}

export interface Outcome extends Verdict {
  evidence: Evidence
  /** How often the fault was brought about. */
  times: number
  /** Publishes that were rejected: what became of them is not known. */
  rejected: number
  /** The longest time, in ms, that nobody received anything, and that one client received nothing. */
  still: number
  stillOne: number
}

/** What is started is ended in reverse order, whatever happens. */
export class Cleanup implements Teardown {
  readonly #jobs: Array<() => unknown> = []
  teardown (job: () => unknown): void { this.#jobs.push(job) }
  async run (): Promise<void> {
    for (let job = this.#jobs.pop(); job !== undefined; job = this.#jobs.pop()) await job()
  }
}

/** What a fault can lay its hands on. */
export class World {
  readonly dice: Dice
  readonly apps: readonly App[]
  readonly proxies: Proxy[] = []
  server!: RedisServer
  times = 0
  readonly acknowledged = new Map<number, Acknowledged>()
  rejected = 0
  deadline = 0

  readonly #cleanup: Teardown
  readonly #fault: Fault
  readonly #rate: number
  #publishers = 0

  constructor (cleanup: Teardown, fault: Fault, apps: readonly App[], { seed, rate = 200 }: TrialOptions) {
    this.#cleanup = cleanup
    this.#fault = fault
    this.#rate = rate
    this.dice = new Dice(seed)
    this.apps = apps
  }

  startServer (options?: RedisServerOptions): Promise<RedisServer> { return RedisServer.start(this.#cleanup, options) }

  async begin (): Promise<void> {
    this.server = await this.startServer(this.#fault.server)
    if (this.#fault.proxies === true) for (let i = 0; i < this.apps.length; i++) this.proxies.push(await Proxy.start(this.#cleanup, this.server.port))
    for (const app of this.apps) {
      app.onTold = ({ acknowledged, rejected }) => {
        for (const [n, cursor, sent] of acknowledged) this.acknowledged.set(n, { cursor, sent })
        this.rejected += rejected
      }
    }
    await Promise.all(this.apps.map(app => this.openApp(app)))
  }

  async openApp (app: App): Promise<void> {
    const index = this.apps.indexOf(app)
    await app.open({ redis: this.proxies[index]?.port ?? this.server.port, driver: index === 1 ? 'node-redis' : 'ioredis', maxEvents: 10_000 })
  }

  async publishFrom (app: App): Promise<void> {
    await app.publish(++this.#publishers * NUMBERS, this.#rate / this.apps.length)
  }

  /** A number that no application publishes. */
  ownNumber (): number { return ++this.#publishers * NUMBERS }

  /** Waits for a time between these, in ms. False: it is enough, the fault is not to be brought about again. */
  async next (least: number, most: number): Promise<boolean> {
    const ms = this.times === 0 ? least : this.dice.between(least, most)
    if (this.times > 0 && Date.now() + ms > this.deadline) return false
    await sleep(ms)
    this.times++
    return true
  }

  wait (least: number, most = least): Promise<void> { return sleep(this.dice.between(least, most)) }

  /** Channel and cursor of all that Redis has. */
  async kept (): Promise<Set<string>> {
    const client = new Redis(this.server.port, '127.0.0.1', { protocol: 2 })
    client.on('error', () => {})
    try {
      const lives = ((await client.hget('{sse}', 'lives')) ?? '').trim().split(' ')
      const starts = lives.flatMap((id, i) => i % 4 === 0 ? [{ id, start: Number(lives[i + 1]) }] : [])
      const kept = new Set<string>()
      for (let channel = 0; channel < CHANNELS; channel++) {
        for (const [id] of await client.xrange(`{sse}:c:${channel}`, '-', '+')) {
          const seq = parseInt(id)
          kept.add(`${channel} ${starts.findLast(({ start }) => start < seq)?.id}-${seq.toString(36)}`)
        }
      }
      return kept
    } finally {
      client.disconnect()
    }
  }

  /** Often enough while one process does not look. */
  async behindABack (act: () => unknown): Promise<void> {
    const app = this.dice.next() < 0.5 ? this.dice.pick(this.apps) : undefined
    app?.freeze()
    if (app !== undefined) await this.wait(20, 500)
    await act()
    app?.thaw()
  }
}

/** Brings a fault about, under traffic, and judges what the clients saw. */
export async function trial (t: Teardown, fault: Fault, apps: readonly App[], options: TrialOptions): Promise<Outcome> {
  const cleanup = new Cleanup()
  // Where this is interrupted, whoever began it cleans up.
  t.teardown(() => cleanup.run())
  const world = new World(cleanup, fault, apps, options)
  const { dice } = world
  const clients = Array.from({ length: options.clients ?? 200 }, (_, i) => {
    const channels = [...new Set(Array.from({ length: 1 + dice.below(4) }, () => dice.below(CHANNELS)))]
    return new Client(`client ${i}`, channels, new Dice(options.seed * 1_000 + i), () => apps.map(({ url }) => url))
  })
  try {
    await world.begin()
    cleanup.teardown(() => Promise.all(apps.map(app => app.close().catch(() => {}))))
    cleanup.teardown(() => { for (const client of clients) client.leave() })
    for (const client of clients) client.connect()
    await until('every client has subscribed', () => clients.every(({ items }) => items.length > 0), 30_000)

    const start = Date.now()
    world.deadline = start + options.seconds * 1_000
    await Promise.all(apps.map(app => world.publishFrom(app)))
    await fault.run(world)
    await sleep(Math.max(0, world.deadline - Date.now()))
    const end = Date.now()
    await Promise.all(apps.map(app => app.pause()))

    for (const client of clients) client.rest()
    const late = await finish(world, clients)
    for (const client of clients) client.leave()
    const evidence: Evidence = { acknowledged: world.acknowledged, kept: await world.kept(), lossless: fault.lossless, clients }
    const verdict = check(evidence)
    verdict.complaints.push(...late)
    if (verdict.complaints.length > 0) verdict.complaints.push(`the histories are in ${write(fault, options, evidence, verdict)}`)
    return { ...verdict, evidence, times: world.times, rejected: world.rejected, ...standstill(clients, start, end) }
  } finally {
    await cleanup.run()
  }
}

/** What was published, acknowledged and received, with times, for whoever looks into it. */
function write ({ name }: Fault, { seed }: TrialOptions, { acknowledged, kept, clients }: Evidence, { complaints }: Verdict): string {
  const dir = join(tmpdir(), 'sse-faults')
  mkdirSync(dir, { recursive: true })
  const file = join(dir, `${name}-${seed}-${Date.now()}.json`)
  writeFileSync(file, JSON.stringify({ complaints, acknowledged: [...acknowledged], kept: [...kept], clients: clients.map(({ name, channels, items }) => ({ name, channels, items })) }))
  return file
}

/** One last event on each channel: who has those of its channels has all that it will get. */
async function finish (world: World, clients: readonly Client[]): Promise<string[]> {
  const last = new Map<number, { n: number, sent: number }>()
  await until('the last events are published', async () => {
    const n = world.ownNumber()
    for (let channel = 0; channel < CHANNELS; channel++) {
      if (last.has(channel)) continue
      const sent = Date.now()
      if (!await world.apps[channel % world.apps.length]!.publishOne(n + channel)) return false
      last.set(channel, { n: n + channel, sent })
    }
    return true
  }, 30_000)
  // Or a gap: another process may have come, just then, with the proof of a loss.
  const missing = ({ channels, items }: Client) => channels.filter(channel =>
    !items.some(({ n, time, kind, channels }) => n === last.get(channel)!.n || (kind === 'gap' && time > last.get(channel)!.sent && channels!.includes(channel))))
  const waiting = new Set(clients)
  await until('all have received them', () => {
    for (const client of waiting) if (missing(client).length === 0) waiting.delete(client)
    return waiting.size === 0
  }, 20_000).catch(() => {})
  return [...waiting].slice(0, 5).map(client => `at the end: ${client.name} still waits for the last event of ${missing(client).join()}`)
}

function standstill (clients: readonly Client[], start: number, end: number): { still: number, stillOne: number } {
  const longest = (times: number[]) => {
    const within = [start, ...times.filter(time => time > start && time < end), end]
    return within.reduce((most, time, i) => i === 0 ? 0 : Math.max(most, time - within[i - 1]!), 0)
  }
  const each = clients.map(({ items }) => items.filter(({ kind }) => kind === 'event').map(({ time }) => time))
  return { still: longest(each.flat().sort((a, b) => a - b)), stillOne: Math.max(...each.map(longest)) }
}

export const header = 'fault           seed times   acked rejected delivered  gaps behind repeated missing  still/all ms  still/one ms'
export function row (name: string, seed: number, { times, acknowledged, rejected, delivered, gaps, behind, repeated, missing, still, stillOne }: Outcome): string {
  return name.padEnd(15) + [[seed, 5], [times, 6], [acknowledged, 8], [rejected, 9], [delivered, 10], [gaps, 6], [behind, 7], [repeated, 9], [missing, 8], [still, 14], [stillOne, 14]]
    .map(([value, width]) => String(value).padStart(width!)).join('')
}
