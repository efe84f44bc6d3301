import { fork, spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { until } from '../log/backplane-contract.ts'
import type { DeployOptions, Told } from './deploy.ts'
import { readBlock } from '../client.ts'
import { CHANNELS, channelsOf, check, Dice, itemOf, NUMBERS, type Acknowledged, type Item, type Reception } from '../faults/model.ts'
import { freePort, guard, noRedis, RedisServer } from '../redis/redis-server.ts'

// Two processes on one Redis behind nginx, of which one after the other is replaced, under load. The long version:
// DEPLOY_CLIENTS=500 DEPLOY_TIMES=12 DEPLOY_EVERY=10000
const CLIENTS = Number(process.env.DEPLOY_CLIENTS ?? 120)
const TIMES = Number(process.env.DEPLOY_TIMES ?? 3)
/** ms from one SIGTERM to the next, if the process is back by then. */
const EVERY = Number(process.env.DEPLOY_EVERY ?? 7_000)
/** ms that a process stays away. */
const DOWN = 2_000
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
/** The drain's window, in ms: the default of the plugin. */
const WINDOW: [number, number] = [1_000, 5_000]
const RATE = 10

const program = ['nginx', '/usr/sbin/nginx'].find(name => spawnSync(name, ['-v']).error === undefined)
/** CI must have both, so there the tests run, and fail. */
const skip = noRedis !== false ? noRedis : program === undefined && process.env.CI !== 'true' ? 'nginx is not installed' : false

/** An application that is replaced by a new process on the same port. */
class Deployed {
  readonly acknowledged: Map<number, Acknowledged>
  rejected: string[] = []
  port = 0
  readonly #redis: number
  readonly #publishers: { count: number }
  #child!: ChildProcess
  #guard: ChildProcess | undefined
  #listening = false

  constructor (redis: number, publishers: { count: number }, acknowledged: Map<number, Acknowledged>) {
    this.#redis = redis
    this.#publishers = publishers
    this.acknowledged = acknowledged
  }

  async start (): Promise<void> {
    const options: DeployOptions = { port: this.port ||= await freePort(), redis: this.#redis, first: ++this.#publishers.count * NUMBERS, rate: RATE, retry: WINDOW }
    const child = this.#child = fork(new URL('./deploy.ts', import.meta.url), [JSON.stringify(options)], { execArgv: ['--import', 'tsx'], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#guard = guard(child)
    this.#listening = false
    child.on('message', ({ acknowledged, rejected, listening }: Told) => {
      for (const [n, cursor, sent] of acknowledged) this.acknowledged.set(n, { cursor, sent })
      this.rejected.push(...rejected)
      this.#listening ||= listening
    })
    await until('the application listens', () => {
      if (child.exitCode !== null) throw new Error(`the application ended with ${child.exitCode}`)
      return this.#listening
    }, 30_000)
  }

  /** SIGTERM; how it ended, and after how many ms. */
  async stop (): Promise<{ code: number | null, signal: string | null, ms: number }> {
    const child = this.#child
    const before = performance.now()
    const exit = once(child, 'exit', { signal: AbortSignal.timeout(20_000) })
    child.kill('SIGTERM')
    const [code, signal] = await exit
    this.#guard?.kill('SIGKILL')
    return { code, signal, ms: performance.now() - before }
  }

  async kill (): Promise<void> {
    const child = this.#child
    this.#guard?.kill('SIGKILL')
    if (child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }
}

/** A way back of one client: when it was cut off, how long it was told to wait, and when it had a stream again; ms. */
interface Return { client: string, cut: number, ended: boolean, retry: number, asked: number, open: number }

/** EventSource as the standard has it: waits as it was last told, sends the last id, and gives up at anything but 200. */
class EventSourceLike implements Reception {
  readonly name: string
  readonly channels: readonly number[]
  readonly items: Item[] = []
  readonly returns: Return[] = []
  /** What a browser's would fire "error" for, and stay closed. */
  fatal: string | undefined
  readonly #url: string
  #lastEventId = ''
  #retry = 3_000
  #request: http.ClientRequest | undefined
  #timer: NodeJS.Timeout | undefined
  #over = false

  constructor (name: string, channels: readonly number[], url: string) {
    this.name = name
    this.channels = channels
    this.#url = url
    this.#connect()
  }

  leave (): void {
    this.#over = true
    clearTimeout(this.#timer)
    this.#request?.destroy()
  }

  #connect (back?: Return): void {
    if (back !== undefined) back.asked = performance.now()
    const request = this.#request = http.request(`${this.#url}/events?channels=${this.channels.join()}`, {
      agent: false,
      headers: { accept: 'text/event-stream', ...(this.#lastEventId !== '' && { 'last-event-id': this.#lastEventId }) }
    })
    let ended = false
    request.on('error', () => {}) // 'close' follows
    request.on('close', () => this.#cut(ended))
    request.on('response', response => {
      response.on('error', () => {})
      response.on('end', () => { ended = true })
      if (response.statusCode !== 200) {
        this.fatal = `${this.name} was answered ${response.statusCode}`
        this.#over = true
      } else if (back !== undefined) {
        back.open = performance.now()
      }
      response.setEncoding('latin1') // it is ASCII
      let rest = ''
      response.on('data', (chunk: string) => {
        const blocks = (rest + chunk).split('\n\n')
        rest = blocks.pop()!
        for (const block of blocks) this.#take(block)
      })
    })
    request.end()
  }

  #cut (ended: boolean): void {
    if (this.#over) return
    const back: Return = { client: this.name, cut: performance.now(), ended, retry: this.#retry, asked: Infinity, open: Infinity }
    this.returns.push(back)
    this.#timer = setTimeout(() => this.#connect(back), this.#retry)
  }

  #take (lines: string): void {
    const block = readBlock(lines)
    if (block.retry !== undefined) this.#retry = Number(block.retry)
    const item = itemOf(block)
    if (item === undefined) return
    this.#lastEventId = item.cursor
    this.items.push(item)
  }
}

/** nginx in front of both; the settings are those of the README's deployment section. */
async function nginx (t: Test, ports: readonly number[]): Promise<string> {
  if (program === undefined) throw new Error('nginx is not installed')
  const prefix = mkdtempSync(join(tmpdir(), 'nginx-'))
  const port = await freePort()
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(name => `${name}_temp_path ${prefix}/${name};`).join(' ')
  writeFileSync(join(prefix, 'nginx.conf'), `
    daemon off;
    master_process off;
    worker_rlimit_nofile 8192;
    pid ${prefix}/pid;
    error_log stderr crit;
    events { worker_connections 4096; }
    http {
      ${temp}
      access_log off;
      upstream apps {
        # Not out of the game after one refusal: it is back before the usual 10 s are over.
        ${ports.map(port => `server 127.0.0.1:${port} max_fails=0;`).join(' ')}
      }
      server {
        listen 127.0.0.1:${port} backlog=2048;
        location / {
          proxy_pass http://apps;
          proxy_http_version 1.1;
          proxy_set_header Connection "";
          # A process that is down refuses, and one that drains answers 503: both times the other one is asked.
          proxy_next_upstream error timeout http_502 http_503;
          proxy_connect_timeout 1s;
        }
      }
    }`)
  const child = spawn(program, ['-p', prefix, '-c', join(prefix, 'nginx.conf'), '-e', 'stderr'], { stdio: ['ignore', 'ignore', 'inherit'] })
  const outlives = guard(child)
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
    outlives.kill('SIGKILL')
    rmSync(prefix, { recursive: true, force: true })
  })
  await until('nginx listens', async () => {
    if (child.exitCode !== null) throw new Error(`nginx ended with ${child.exitCode}`)
    const socket = net.connect(port, '127.0.0.1')
    const up = await new Promise(resolve => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)))
    socket.destroy()
    return up
  })
  return `http://127.0.0.1:${port}`
}

const BINS = 8

/** How many in each eighth of the drain's window. */
function spread (waits: readonly number[]): number[] {
  const bins = Array.from({ length: BINS }, () => 0)
  const [from, to] = WINDOW
  for (const wait of waits) bins[Math.max(0, Math.min(BINS - 1, Math.floor((wait - from) / (to - from) * BINS)))]!++
  return bins
}

function histogram (bins: readonly number[]): string {
  const [from, to] = WINDOW
  const most = Math.max(...bins)
  return bins.map((count, i) => {
    const at = (i: number) => String(Math.round(from + (to - from) * i / BINS)).padStart(5)
    return `${at(i)} to ${at(i + 1)} ms ${String(count).padStart(5)} ${'#'.repeat(Math.round(40 * count / most))}`
  }).join('\n')
}

t.test(`two processes behind nginx, ${CLIENTS} clients, one or the other process replaced ${TIMES} times (SEED=${seed})`, { skip, timeout: 120_000 + TIMES * (EVERY + 20_000) }, async t => {
  const redis = await RedisServer.start(t)
  const acknowledged = new Map<number, Acknowledged>()
  const publishers = { count: 0 }
  const apps = [0, 1].map(() => new Deployed(redis.port, publishers, acknowledged))
  t.teardown(() => Promise.all(apps.map(app => app.kill())))
  await Promise.all(apps.map(app => app.start()))
  const url = await nginx(t, apps.map(({ port }) => port))

  const dice = new Dice(seed)
  const clients: EventSourceLike[] = []
  t.teardown(() => { for (const client of clients) client.leave() })
  for (let i = 0; i < CLIENTS; i++) {
    const channels = [...new Set(Array.from({ length: 1 + dice.below(4) }, () => dice.below(CHANNELS)))]
    clients.push(new EventSourceLike(`client ${i}`, channels, url))
    if (i % 20 === 0) await sleep(20)
  }
  await until('every client has subscribed', () => clients.every(({ items }) => items.length > 0), 60_000)
  const subscribed = Date.now()
  const everybodyIsBack = () => clients.every(({ fatal, returns }) => fatal !== undefined || returns.every(({ open }) => open !== Infinity))

  const ends: Array<Awaited<ReturnType<Deployed['stop']>>> = []
  for (let time = 0; time < TIMES; time++) {
    const next = performance.now() + EVERY
    const app = apps[time % 2]!
    ends.push(await app.stop())
    // What starts slowly, on a machine that is new to it: a quarter of the clients returns before that.
    await sleep(DOWN)
    await app.start()
    // The other one goes when this one can take its clients: a deployment waits for that too.
    await until('every client is back', () => everybodyIsBack(), 15_000)
    await sleep(Math.max(0, next - performance.now()))
  }
  // What is published now reaches everybody, and with it all that came before.
  const goal = Math.max(publishers.count * NUMBERS, ...[...acknowledged.keys()].filter(n => n >= publishers.count * NUMBERS)) + 3 * CHANNELS
  await until('the last process has published to every channel', () => acknowledged.has(goal), 60_000)
  // Whatever its channels are, one of them was published to in the last rounds of all channels.
  const has = ({ items }: EventSourceLike) => items.some(({ n }) => n !== undefined && n >= goal - 2 * CHANNELS)
  await until('everybody has what came last', () => clients.every(client => client.fatal !== undefined || has(client)), 15_000).catch(() => {})

  const end = Date.now()
  for (const client of clients) client.leave()
  // What was published before all had subscribed, or since they had all they were to have, is nobody's loss.
  for (const [n, { sent }] of acknowledged) if (sent < subscribed || sent > end - 2_000) acknowledged.delete(n)
  const kept = new Set([...acknowledged].flatMap(([n, { cursor }]) => channelsOf(n).map(channel => `${channel} ${cursor}`)))

  const returns = clients.flatMap(({ returns }) => returns)
  const bins = spread(returns.filter(({ ended }) => ended).map(({ cut, asked }) => asked - cut))
  const late = (one: Return) => one.open - one.asked
  const verdict = check({ acknowledged, kept, lossless: true, clients })

  await t.test('nothing was lost, repeated or out of order, and nobody was told a gap', async t => {
    t.comment(`${verdict.acknowledged} events published, ${verdict.delivered} received; ${ends.length} processes replaced`)
    t.same(verdict.complaints, [])
    t.match(verdict, { gaps: 0, missing: 0, repeated: 0 })
    t.ok(verdict.delivered > CLIENTS * TIMES, `${verdict.delivered} received`)
    // What is under way when the backplane is closed is cut off with it; if it is in the log, it is owed all the same.
    t.same(apps.flatMap(({ rejected }) => rejected).filter(text => !/SSE_ERR_CLOSED/.test(text)), [], 'no publish was rejected but at the end of a process')
  })

  await t.test('nobody was answered anything but 200, and every stream ended in order, at a SIGTERM', async t => {
    t.same(clients.flatMap(({ fatal }) => fatal ?? []), [])
    t.same(returns.filter(({ ended }) => !ended), [])
    t.ok(returns.length >= CLIENTS, `${returns.length} ways back`)
  })

  await t.test('clients come back spread over the drain\'s window', async t => {
    t.comment(`after the end of the stream:\n${histogram(bins)}`)
    t.same(returns.filter(({ retry }) => retry < WINDOW[0] || retry > WINDOW[1]), [])
    const mean = returns.length / BINS
    for (const [i, count] of bins.entries()) t.ok(count > mean / 3 && count < mean * 2, `${count} in part ${i + 1} of ${BINS}, ${mean.toFixed(1)} on average`)
  })

  await t.test('nobody waits longer than the retry it was told and a second', async t => {
    const sorted = returns.map(late).sort((a, b) => a - b)
    t.comment(`from the request to the new stream: median ${sorted[sorted.length >> 1]!.toFixed(0)} ms, longest ${sorted.at(-1)!.toFixed(0)} ms`)
    // From the moment that this process's own timer fires: how late that is says nothing about the applications.
    t.same(returns.filter(one => late(one) > 1_000), [])
  })

  await t.test('each process ends by itself, in time, with code 0', async t => {
    t.comment(`after ${ends.map(({ ms }) => ms.toFixed(0)).join(', ')} ms`)
    t.same(ends.map(({ code, signal }) => ({ code, signal })), ends.map(() => ({ code: 0, signal: null })))
    for (const { ms } of ends) t.ok(ms < 5_000, `${ms.toFixed(0)} ms`)
  })
})
