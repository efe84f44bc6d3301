import { mkdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import { createClient } from 'redis'
import type { Test } from 'tap'
import { redisBackplane, type RedisClient } from '../../lib/redis/index.ts'
import type { SharedBackplane } from '../../lib/log/backplane.ts'
import { entry, pause, until } from '../log/backplane-contract.ts'
import { Follower, judge, type Published } from './follower.ts'

export const clients: ReadonlyArray<(port: number) => RedisClient> = [
  port => new Redis({ port, host: '127.0.0.1', lazyConnect: true }),
  port => createClient({ url: `redis://127.0.0.1:${port}` }),
  port => new Valkey({ port, host: '127.0.0.1', lazyConnect: true })
]

export const CHANNELS = ['a', 'b', 'c']

/** A process, as far as the backplane can tell. */
export interface Process {
  readonly backplane: SharedBackplane
  readonly follower: Follower
}

/** Some processes on one log, all of them publishing and following, and what came of it. */
export class Trial {
  readonly processes: Process[] = []
  readonly published: Published[] = []
  readonly rejected: Error[] = []
  readonly began = performance.now()
  #n = 0
  #publishing: Array<Promise<void>> = []
  #busy = false

  static async start (t: Test, templates: readonly RedisClient[], silence = 300): Promise<Trial> {
    const trial = new Trial()
    for (const client of templates) {
      const backplane = redisBackplane({ client }, { silence })
      t.teardown(() => backplane.close())
      const follower = new Follower()
      await follower.follow(backplane, CHANNELS)
      trial.processes.push({ backplane, follower })
    }
    return trial
  }

  async publish ({ backplane }: Process, channels = this.#some(), padding = ''): Promise<void> {
    const text = `${++this.#n}${padding}`
    const sent = performance.now()
    try {
      const cursor = await backplane.append(entry(text, { channels }))
      this.published.push({ text, channels, cursor, sent, at: performance.now() })
    } catch (error) {
      this.rejected.push(error as Error)
    }
  }

  #some (): string[] {
    const first = CHANNELS[this.#n % 3]!
    return this.#n % 5 === 0 ? [first, CHANNELS[(this.#n + 1) % 3]!] : [first]
  }

  async many (process: Process, n: number, padding = ''): Promise<void> {
    for (let i = 0; i < n; i += 500) await Promise.all(Array.from({ length: Math.min(500, n - i) }, () => this.publish(process, undefined, padding)))
  }

  /** Everybody publishes, all the time, until rest(). */
  work (): void {
    this.#busy = true
    this.#publishing = this.processes.map(async process => {
      while (this.#busy) {
        await Promise.race([this.publish(process), pause(20)])
        await pause(2)
      }
    })
  }

  /** Nobody publishes any more, and all have all that was. */
  async rest (ms = 25_000): Promise<void> {
    this.#busy = false
    await Promise.all(this.#publishing)
    await this.settle(ms)
  }

  /** All followers are up, and have what is published last. */
  async settle (ms = 25_000): Promise<void> {
    const end = performance.now() + ms
    for (let tries = 1; ; tries++) {
      await until(`all are current: ${this.processes.map(({ follower }) => `${follower.story.slice(-4).join(' ')} ${follower.errors.at(-1)?.message}`).join(' | ')}`,
        () => this.processes.every(({ follower }) => follower.current), Math.max(100, end - performance.now()))
      const before = this.published.length
      for (const name of CHANNELS) await this.publish(this.processes[tries % this.processes.length]!, [name])
      const last = this.published.slice(before)
      const arrived = () => this.processes.every(({ follower }) => last.every(({ text, channels }) =>
        follower.channels.get(channels[0]!)!.items.slice(-50).some(item => 'entry' in item && item.entry.data === text)))
      if (last.length === CHANNELS.length && await until('', arrived, 1_000).then(() => true, () => false)) return
      if (performance.now() > end) throw new Error('what was published last did not arrive')
      await pause(100)
    }
  }

  get complaints (): string[] { return this.judge(false) }

  /** Complaints; with any, all that happened is written to a file. */
  judge (lossless: boolean): string[] {
    const complaints = this.processes.flatMap(({ follower }, i) => judge(`process ${i}`, follower, this.published, lossless))
    if (complaints.length > 0) {
      mkdirSync(join(tmpdir(), 'sse-faults'), { recursive: true })
      const file = join(tmpdir(), 'sse-faults', `redis-${process.pid}-${Date.now()}.json`)
      const histories = this.processes.map(({ follower }) => ({ story: follower.story, lives: follower.lives, errors: follower.errors.map(String), channels: Object.fromEntries([...follower.channels].map(([name, { items }]) => [name, items])) }))
      writeFileSync(file, JSON.stringify({ complaints, published: this.published, rejected: this.rejected.map(String), histories }, undefined, 1))
      complaints.push(`the histories are in ${file}`)
    }
    return complaints
  }

  /** One line for a table. */
  get row (): string {
    const stories = this.processes.map(({ follower }) => follower.story.join(' ').replaceAll('broken mended', 'BM').replaceAll('broken restarted', 'BR'))
    const texts = this.processes.map(({ follower }) => new Map([...follower.channels].map(([name, { items }]) => [name, new Set(items.map(item => 'entry' in item ? item.entry.data : ''))])))
    const behind = this.published.filter(({ text, channels }) => texts.some(of => channels.some(name => of.get(name)?.has(text) === false))).length
    return `acknowledged ${this.published.length}, rejected ${this.rejected.length}, behind a gap ${behind}; ${stories.join(' | ')}`
  }
}
