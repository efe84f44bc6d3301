/**
 * The long run: `npm run soak`, or `node --expose-gc --import tsx test/soak.ts --seconds 60 --seed 7 --streams 500 --only redis`
 *
 *   --seconds n   (or SECONDS) of churn, shared by the backplanes; 1200
 *   --seed n      (or SEED) of what the clients and the publisher do
 *   --streams n   (or STREAMS) open at a time; 2000. Fewer where this machine does not keep up: the summary says how many it were
 *   --only name   (or ONLY) memory or redis
 *
 * A server in a process of its own is stormed by clients that come, go, return, do not read, break off and ask for anything. Then
 * all leave, and the server must be what it was before: no stream, socket, listener or timer more, no object of these kinds in a
 * heap snapshot, no heap. And each client must have got every event that it asked for, in order and once, or a gap event.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { writeHeapSnapshot } from 'node:v8'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import sse, { memoryBackplane, type Backplane, type Receiver, type SharedBackplane, type SseItem, type SseSource, type SseStats, type SseStream, type StoredEvent } from '../../lib/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'
import { readBlock } from '../client.ts'
import { Dice } from '../faults/model.ts'
import { guard, noRedis, RedisServer } from '../redis/redis-server.ts'

// What both sides know of an event from its number alone

const CHANNELS = 12
/** A channel for those that do not read: from time to time, more than the history holds in one turn. */
const FLOOD = CHANNELS
const FLOOD_EVERY = 4_000
const FLOOD_FROM = 400
const FLOOD_EVENTS = 2_000
const HISTORY = 1_000
/** Redis keeps as much as the history: further ahead of the reader a publisher would trim what was not read, and all were told "reset". */
const BACKLOG = 300
/** Rows of Redis, see redis-reader.ts. */
const REMEMBERED = 10_000
/** The last event goes to all channels and passes every filter; far away from all others. */
const LAST = 600_000_000
const FILTERS = [0, 0, 2, 3]

const isFlood = (n: number): boolean => n < LAST && n % FLOOD_EVERY >= FLOOD_FROM && n % FLOOD_EVERY < FLOOD_FROM + FLOOD_EVENTS

function maskOf (n: number): number {
  if (n >= LAST) return 2 ** (CHANNELS + 1) - 1
  if (isFlood(n)) return 1 << FLOOD
  const first = 1 << (Math.imul(n, 2654435761) >>> 8) % CHANNELS
  return n % 10 === 0 ? first | (1 << ((n / 10) % CHANNELS)) : first
}

const accepts = (filter: number, n: number): boolean => filter === 0 || n % filter === 0
const channelsOf = (mask: number): number[] => Array.from({ length: CHANNELS + 1 }, (_, i) => i).filter(i => (mask & 1 << i) !== 0)

// The server, told what to do over IPC

interface Setup { redis: number | undefined, seed: number, rate: number, fault: Fault | undefined }
/** What is broken on purpose, so that a test sees it found: streams are kept, or one entry in 50 is withheld from the registry. */
export type Fault = 'leak' | 'loss'
type Order = 'publish' | 'pause' | 'last' | 'stats' | 'settle'
/** `inLog`: the numbers of entries; `visitors`: who asked for something, and when. */
interface Told { inLog: number[], acknowledged: number[], visitors: Array<[string, number]>, rejected: number, complaints: string[] }
/** What must be the same before and after. */
interface State {
  stats: SseStats
  sockets: number
  resources: Record<string, number>
  listeners: Record<string, number>
  /** Sources that were started, and of those the ones that were not told to stop. */
  sources: { started: number, running: number }
  heapUsed: number
  cpuSeconds: number
  snapshot: string
}

async function serve ({ redis, seed, rate, fault }: Setup): Promise<void> {
  // The first stack that an error has of a file makes Node keep that file's map: some hundred KB that are none of ours.
  process.setSourceMapsEnabled(false)
  const news: Told = { inLog: [], acknowledged: [], visitors: [], rejected: 0, complaints: [] }
  /** The newest number in the registry's history: where a stream that is opened now begins. */
  let newest = 0
  /** What was published, and neither came out of the log nor was rejected. */
  const outstanding = new Set<number>()
  const note = (channels: readonly string[], data: string): boolean => {
    const n = channels.includes('filler') ? LAST : Number.parseInt(data.slice(5))
    outstanding.delete(n)
    if (n < LAST) {
      newest = n
      news.inLog.push(n)
    }
    return fault !== 'loss' || n % 50 !== 0 || n === LAST
  }
  const client = redis === undefined ? undefined : new Redis({ port: redis, host: '127.0.0.1', lazyConnect: true })
  const app = Fastify({
    forceCloseConnections: true,
    logger: {
      level: 'error',
      stream: {
        write (line: string) {
          const { msg, err } = JSON.parse(line) as { msg: string, err?: { message: string } }
          // What Redis refused while it was away is counted where it was published.
          if (err?.message !== 'planned' && msg !== 'publish failed') news.complaints.push(`logged: ${msg}: ${err?.message}`)
        }
      }
    }
  })
  await app.register(sse, {
    backplane: watched(client === undefined ? memoryBackplane() : redisBackplane({ client }), note),
    history: { maxEvents: HISTORY, maxBytes: 64 * 1024 * 1024 },
    heartbeatInterval: 1_000,
    stallTimeout: 8_000,
    drain: { timeout: 500 }
  })
  app.addHook('onRequest', async ({ headers }) => { if (headers['x-visitor'] !== undefined) news.visitors.push([String(headers['x-visitor']), Date.now()]) })
  const sources = routes(app, () => newest)
  const kept: unknown[] = []
  if (fault === 'leak') app.sse.on('open', ({ stream }) => { if (stream.request.id.endsWith('7')) kept.push(stream) })
  await app.listen({ port: 0, host: '127.0.0.1' })

  const dice = new Dice(seed)
  const pending = new Set<Promise<unknown>>()
  let n = 0
  let timer: NodeJS.Timeout | undefined
  const publish = (n: number, upTo?: number): Promise<boolean> => {
    outstanding.add(n)
    const published = app.sse.publish(channelsOf(maskOf(n)).map(String), { data: { n, upTo, text: 'x'.repeat(isFlood(n) ? 5_000 : dice.below(200)) } })
      .then(() => news.acknowledged.push(n), () => {
        outstanding.delete(n)
        news.rejected++
      }).then(done => done !== undefined)
    pending.add(published)
    published.then(() => pending.delete(published))
    return published
  }

  const report = (): void => {
    if (!process.connected) return
    process.send!({ ...news })
    news.inLog = []
    news.acknowledged = []
    news.visitors = []
    news.complaints = []
    news.rejected = 0
  }
  const reporter = setInterval(report, 100)
  const orders: Record<Order, () => unknown> = {
    publish () {
      let due = 0
      let last = performance.now()
      timer = setInterval(() => {
        const now = performance.now()
        // Now and then a burst, and no making up for what a busy machine did not do.
        due = Math.min(due + (now - last) * rate / 1_000, rate) + (dice.next() < 0.002 ? 200 : 0)
        last = now
        for (; due >= 1 && outstanding.size < BACKLOG; due--) {
          publish(++n)
          while (isFlood(n) && isFlood(n + 1) && outstanding.size < BACKLOG) publish(++n)
        }
      }, 20)
    },
    async pause () {
      clearInterval(timer)
      await Promise.all(pending)
      report()
    },
    async last () {
      const done = await publish(LAST, n)
      report()
      return done
    },
    stats: () => ({ stats: app.sse.stats(), sources }),
    async settle (): Promise<State> {
      // The same bytes in what is remembered before and after: the history, and the rows that the reader of Redis knows again.
      for (let i = 0; i < (client === undefined ? HISTORY : REMEMBERED); i += BACKLOG) {
        await Promise.all(Array.from({ length: BACKLOG }, () => app.sse.publish([...Array(CHANNELS + 1).keys()].map(String).concat('side', 'filler'), 'x'.repeat(100))))
      }
      const [last] = await app.sse.channel('filler').history(1)
      await patiently(() => app.sse.cursor === last?.id)
      report()
      const resources = await quiet(app, client !== undefined)
      for (let i = 0; i < 4; i++) {
        globalThis.gc!()
        await sleep(100)
      }
      const { heapUsed } = process.memoryUsage()
      const { user, system } = process.cpuUsage()
      const snapshot = join(mkdtempSync(join(tmpdir(), 'sse-soak-')), 'heap.heapsnapshot')
      writeHeapSnapshot(snapshot)
      return { stats: app.sse.stats(), sockets: await connections(app), resources, listeners: listeners(app), sources, heapUsed, cpuSeconds: (user + system) / 1e6, snapshot }
    }
  }
  process.on('message', async ({ id, order }: { id: number, order: Order }) => {
    let answer: object
    try {
      answer = { id, value: await orders[order]() }
    } catch (error) {
      answer = { id, error: String(error) }
    }
    if (process.connected) process.send!(answer)
  })
  process.on('disconnect', () => { clearInterval(reporter); process.exit() })
  process.send!({ id: 0, value: (app.server.address() as AddressInfo).port })
}

/** Tells what enters the registry. */
function watched (backplane: Backplane, note: (channels: readonly string[], data: string) => boolean): Backplane {
  let newest = 0
  const watching = (receiver: Receiver): Receiver => ({
    hear (entry) {
      // Further copies, of an entry of several channels, are repeats.
      const fresh = entry.seq > newest
      newest = Math.max(newest, entry.seq)
      if (!fresh || note(entry.channels, entry.data)) receiver.hear(entry)
    },
    advance: place => receiver.advance(place),
    broken: error => receiver.broken(error),
    mended: (lives, head) => receiver.mended(lives, head),
    restarted: (lives, head) => receiver.restarted(lives, head),
    endOf: name => receiver.endOf(name)
  })
  const own: Backplane = {
    open: receiver => backplane.open(watching(receiver)),
    append: entry => backplane.append(entry),
    close: () => backplane.close()
  }
  if (!('watch' in backplane)) return own
  const shared = backplane as SharedBackplane
  const rest: Omit<SharedBackplane, keyof Backplane> = {
    watch: names => shared.watch(names),
    unwatch: names => shared.unwatch(names),
    read: (name, after, newest) => shared.read(name, after, newest),
    seq: () => shared.seq()
  }
  return Object.assign(own, rest)
}

function routes (app: FastifyInstance, newest: () => number): State['sources'] {
  const sources = { started: 0, running: 0 }
  interface Query { channels: string, filter: number, maxAge?: number }
  const filters = new Map(FILTERS.map(k => [k, k === 0 ? undefined : (event: StoredEvent) => accepts(k, (event.data as { n: number }).n)]))
  const asked = ({ query }: FastifyRequest) => {
    const { channels, filter, maxAge } = query as Query
    // Some filters are shared, as an application would, and some belong to one stream alone.
    const accept = filters.get(Number(filter))
    const own = accept !== undefined && Number(channels[0]) % 2 === 0 ? (event: StoredEvent) => accept(event) : accept
    return {
      channels: channels.split(',').map(name => app.sse.channel(name)),
      options: { ...(own !== undefined && { filter: own }), ...(maxAge !== undefined && { maxAge: Number(maxAge) }) }
    }
  }
  const listen = (request: FastifyRequest, reply: FastifyReply) => {
    const { channels, options } = asked(request)
    return reply.header('x-newest', String(newest())).sse(channels, options)
  }
  app.route({ method: ['GET', 'POST'], url: '/events', handler: listen })
  app.route({
    method: ['GET', 'POST'],
    url: '/held',
    async onSend (request, reply, payload) {
      await sleep(10)
      return payload
    },
    handler: listen
  })
  app.get('/driven', (request, reply) => {
    const { channels, options } = asked(request)
    const cursor = app.sse.cursor
    const stream = reply.header('x-newest', String(newest())).sse(options)
    stream.send({ event: 'own', data: 'the state' })
    stream.subscribe(channels, { lastEventId: stream.lastEventId ?? cursor }).subscribe(app.sse.channel('side'))
    const timer = setInterval(() => {
      stream.comment('still here')
      stream.unsubscribe(app.sse.channel('side'))
    }, 300)
    stream.signal.addEventListener('abort', () => clearInterval(timer))
    return stream
  })

  const started = () => {
    sources.started++
    sources.running++
  }
  const over = () => { sources.running-- }
  function * numbers (n: number): Generator<SseItem> {
    started()
    try {
      for (let i = 1; i <= n; i++) yield String(i)
    } finally {
      over()
    }
  }
  async function * slowly (n: number): AsyncGenerator<SseItem> {
    started()
    try {
      for (let i = 1; i <= n; i++) {
        if (i % 10 === 0) await sleep(5)
        yield String(i)
      }
    } finally {
      over()
    }
  }
  async function * failing (): AsyncGenerator<SseItem> {
    yield * slowly(20)
    throw new Error('planned')
  }
  const kinds: Record<string, (n: number) => SseSource> = {
    generator: n => numbers(n),
    async: n => slowly(n),
    readable: n => Readable.from(slowly(n)),
    web: n => ReadableStream.from(slowly(n)) as unknown as AsyncIterable<SseItem>,
    function: n => async (stream: SseStream) => {
      for (let i = 1; i <= n; i++) await stream.send(String(i))
    },
    endless: () => slowly(Infinity),
    failing: () => failing()
  }
  app.get<{ Params: { kind: string }, Querystring: { n: number } }>('/source/:kind', (request, reply) =>
    reply.sse(kinds[request.params.kind]!(Number(request.query.n))))
  return sources
}

const connections = (app: FastifyInstance): Promise<number> =>
  new Promise((resolve, reject) => app.server.getConnections((error, count) => error === null ? resolve(count) : reject(error)))

async function patiently (condition: () => unknown, ms = 20_000): Promise<boolean> {
  const end = performance.now() + ms
  while (!await condition()) {
    if (performance.now() > end) return false
    await sleep(20)
  }
  return true
}

/** Active resources by kind, once nothing of a request is among them; the timers of Redis's commands come and go, so the least of several looks. */
async function quiet (app: FastifyInstance, redis: boolean): Promise<Record<string, number>> {
  await patiently(async () => await connections(app) === 0 && app.sse.streams.size === 0)
  const least: Record<string, number> = {}
  for (let look = 0; look < (redis ? 40 : 10); look++) {
    await sleep(25)
    const seen: Record<string, number> = {}
    for (const kind of process.getActiveResourcesInfo()) seen[kind] = (seen[kind] ?? 0) + 1
    for (const kind of new Set([...Object.keys(least), ...Object.keys(seen)])) least[kind] = Math.min(least[kind] ?? (look === 0 ? Infinity : 0), seen[kind] ?? 0)
  }
  return Object.fromEntries(Object.entries(least).filter(([, count]) => count > 0))
}

function listeners (app: FastifyInstance): Record<string, number> {
  const count = (emitter: NodeJS.EventEmitter) => emitter.eventNames().reduce((sum, name) => sum + emitter.listenerCount(name), 0)
  return { registry: count(app.sse), process: count(process), server: count(app.server) }
}

// Its clients, and what they are owed

/** So long a range of numbers a client did not get, though it asked for some of them: lost, unless a gap told so of all of its channels. */
interface Suspicion { client: Listener, from: number, to: number, gapped: number, time: number }

class Judge {
  readonly complaints: string[] = []
  readonly inLog = new Set<number>()
  readonly acknowledged = new Set<number>()
  readonly #visitors = new Map<string, number>()
  readonly #unanswered: Array<{ name: string, text: string, seenBy: number }> = []
  rejected = 0
  delivered = 0
  readonly gaps: Record<string, number> = {}
  /** Events that clients did not get, and were told so. */
  behind = 0
  lost = 0
  #suspicions: Suspicion[] = []

  complain (text: string): void { if (this.complaints.length < 50) this.complaints.push(text) }

  tell ({ inLog, acknowledged, visitors, rejected, complaints }: Told): void {
    for (const n of inLog) {
      if (this.inLog.has(n)) this.complain(`the registry received event ${n} twice`)
      this.inLog.add(n)
    }
    for (const n of acknowledged) this.acknowledged.add(n)
    for (const [name, time] of visitors) this.#visitors.set(name, time)
    this.rejected += rejected
    for (const complaint of complaints) this.complain(complaint)
  }

  suspect (suspicion: Suspicion): void { this.#suspicions.push(suspicion) }

  /** Looks at what is so old that the server has told what was in the log by then. */
  resolve (age: number): void {
    const before = performance.now() - age
    const ripe = this.#suspicions.filter(({ time }) => time <= before)
    this.#suspicions = this.#suspicions.filter(({ time }) => time > before)
    for (const { client, from, to, gapped } of ripe) {
      for (let n = from; n <= to; n++) {
        if (!client.wants(n) || !this.inLog.has(n)) continue
        if ((maskOf(n) & client.mask & ~gapped) === 0) {
          this.behind++
        } else {
          this.lost++
          this.complain(`${client.name} did not get event ${n} of ${channelsOf(maskOf(n)).join()}, in silence`)
        }
      }
    }
  }

  /**
   * A visitor got no answer: a fault if the server had seen the request by this time. Where the queue of its listening socket
   * overflows, the system drops connections or lets them wait.
   */
  unanswered (name: string, text: string, seenBy: number): void { this.#unanswered.push({ name, text, seenBy }) }

  /**
   * What was acknowledged must have come out of the log; of Redis a process hears its own channels, as they are subscribed to, so there the
   * clients alone can tell. Returns how many requests never reached the server.
   */
  end (redis: boolean): number {
    this.resolve(0)
    const seen = this.#unanswered.filter(({ name, seenBy }) => this.#visitors.get(name)! < seenBy)
    for (const { name, text } of seen) this.complain(`${name} ${text}, and no answer`)
    if (!redis) for (const n of this.acknowledged) if (n < LAST && !this.inLog.has(n)) this.complain(`event ${n} was acknowledged, and never received`)
    return this.#unanswered.length - seen.length
  }
}

/** What all clients of one run share. */
interface Crowd { url: string, judge: Judge, dice: Dice, stay: [number, number], resting: boolean, counts: Record<string, number>, lag: number }

const count = ({ counts }: Crowd, what: string): void => { counts[what] = (counts[what] ?? 0) + 1 }

/** Asks for channels, comes back with what it has, and holds each event against the numbers that it knows. */
class Listener {
  readonly name: string
  readonly mask: number
  readonly filter: number
  /** It has the last event of all. */
  complete = false
  over = false
  readonly #crowd: Crowd
  readonly #slow: boolean
  readonly #path: string
  readonly #method: string
  readonly #leavesAt: number
  #lastEventId = ''
  /** Up to this number all is settled. */
  #last = 0
  /** Channels of which it was told a gap, and has had no event since: each begins again where it is whole. */
  #gapped = 0
  #request: http.ClientRequest | undefined
  #timer: NodeJS.Timeout | undefined
  #pause: NodeJS.Timeout | undefined

  constructor (crowd: Crowd, name: string) {
    const { dice } = crowd
    this.#crowd = crowd
    this.name = name
    this.#slow = dice.next() < 0.1
    const channels = new Set(Array.from({ length: 1 + dice.below(4) }, () => dice.below(CHANNELS)))
    if (this.#slow && dice.next() < 0.5) channels.add(FLOOD)
    this.mask = [...channels].reduce((mask, channel) => mask | 1 << channel, 0)
    this.filter = dice.pick(FILTERS)
    this.#method = dice.next() < 0.1 ? 'POST' : 'GET'
    const route = this.#method === 'POST' ? dice.pick(['events', 'held']) : dice.pick(['events', 'events', 'events', 'driven', 'held'])
    const maxAge = dice.next() < 0.1 ? `&maxAge=${Math.round(dice.between(500, crowd.stay[1]))}` : ''
    this.#path = `/${route}?channels=${[...channels].join()}&filter=${this.filter}${maxAge}`
    this.#leavesAt = performance.now() + dice.between(crowd.stay[0], crowd.stay[1]) * 2
    this.#connect()
  }

  get subscribed (): boolean { return this.#lastEventId !== '' }

  wants (n: number): boolean { return (maskOf(n) & this.mask) !== 0 && accepts(this.filter, n) }

  /** It stays where it is, and reads. */
  rest (): void {
    clearTimeout(this.#timer)
    if (this.over) return
    if (this.#request === undefined) this.#connect()
  }

  leave (): void {
    this.over = true
    clearTimeout(this.#timer)
    clearTimeout(this.#pause)
    const request = this.#request
    this.#request = undefined
    request?.destroy()
  }

  #connect (): void {
    const { url, judge, dice, stay } = this.#crowd
    count(this.#crowd, this.#lastEventId === '' ? 'opened' : 'resumed')
    const request = this.#request = http.request(url + this.#path, {
      method: this.#method,
      agent: false,
      headers: { accept: 'text/event-stream', ...(this.#lastEventId !== '' && { 'last-event-id': this.#lastEventId }) }
    })
    request.on('error', () => this.#lost(request))
    request.on('response', response => {
      response.on('error', () => {})
      response.on('close', () => this.#lost(request))
      if (response.statusCode !== 200) {
        judge.complain(`${this.name} was answered ${response.statusCode}`)
        request.destroy()
        return
      }
      if (this.#lastEventId === '') {
        this.#last = Number(response.headers['x-newest'])
        this.#gapped = 0
      }
      response.setEncoding('latin1') // it is ASCII
      let rest = ''
      response.on('data', (chunk: string) => {
        if (this.#request !== request) return
        const blocks = (rest + chunk).split('\n\n')
        rest = blocks.pop()!
        for (const block of blocks) this.#take(block)
      })
      if (this.#slow && !this.#crowd.resting) this.#stopReading(response)
    })
    request.end()
    if (!this.#crowd.resting) this.#timer = setTimeout(() => this.#move(), dice.between(...stay))
  }

  #stopReading (response: http.IncomingMessage): void {
    const { dice, stay } = this.#crowd
    response.pause()
    count(this.#crowd, 'pauses')
    this.#pause = setTimeout(() => {
      response.resume()
      this.#pause = setTimeout(() => { if (!this.#crowd.resting) this.#stopReading(response) }, dice.between(20, 500))
    }, dice.between(200, Math.min(stay[1], 12_000)))
  }

  #move (): void {
    const request = this.#request
    this.#request = undefined
    request?.destroy()
    clearTimeout(this.#pause)
    if (performance.now() > this.#leavesAt && !this.#crowd.resting) return this.leave()
    this.#later(this.#crowd.dice.next() < 0.5 ? 0 : this.#crowd.dice.between(0, 500))
  }

  #lost (request: http.ClientRequest): void {
    if (this.#request !== request) return
    this.#request = undefined
    this.#later(this.#crowd.dice.between(20, 300))
  }

  #later (ms: number): void {
    clearTimeout(this.#timer)
    if (!this.over) this.#timer = setTimeout(() => this.#connect(), ms)
  }

  #take (block: string): void {
    const { id, event, data } = readBlock(block)
    if (id === undefined) return
    this.#lastEventId = id
    if (data === undefined) return
    if (event === 'sse.gap') this.#takeGap(id, JSON.parse(data))
    else this.#takeEvent(data)
  }

  #takeGap (cursor: string, { reason, channels }: { reason: string, channels: string[] }): void {
    const { judge } = this.#crowd
    const mask = channels.reduce((mask, name) => name === 'side' ? mask : mask | 1 << Number(name), 0)
    if (mask === 0) return
    judge.gaps[reason] = (judge.gaps[reason] ?? 0) + 1
    // Nothing is taken out of the log, and nobody is away for as long as a cursor is good: these two would be false alarms.
    if (reason === 'reset' || reason === 'unknown') judge.complain(`${this.name} was told "${reason}" at ${cursor}`)
    if ((mask & ~this.mask) !== 0) judge.complain(`${this.name} was told a gap of channels that it did not ask for`)
    this.#gapped |= mask
  }

  #takeEvent (data: string): void {
    const { judge } = this.#crowd
    const n = Number.parseInt(data.slice(5)) // {"n":123
    judge.delivered++
    if (n >= LAST) {
      this.#skip(JSON.parse(data).upTo)
      this.complete = true
      return
    }
    if (n <= this.#last) return judge.complain(`${this.name} got event ${n} after ${this.#last}`)
    if (!this.wants(n)) judge.complain(`${this.name} got event ${n}, which it did not ask for`)
    this.#skip(n - 1)
    this.#last = n
    this.#gapped &= ~maskOf(n)
  }

  /** What it wanted of these numbers did not come. */
  #skip (to: number): void {
    for (let n = this.#last + 1; n <= to; n++) {
      if (!this.wants(n)) continue
      this.#crowd.judge.suspect({ client: this, from: n, to, gapped: this.#gapped, time: performance.now() })
      return
    }
  }
}

/** One request of another kind: a source that ends or is left, a HEAD, a post that breaks off. */
async function visit (crowd: Crowd, name: string): Promise<void> {
  const { url, dice, judge } = crowd
  const kind = dice.pick(['generator', 'async', 'readable', 'web', 'function', 'endless', 'failing', 'HEAD', 'HEAD', 'body', 'early', 'late', 'late'])
  count(crowd, kind)
  const method = kind === 'HEAD' ? 'HEAD' : ['body', 'early', 'late'].includes(kind) ? 'POST' : 'GET'
  const n = dice.below(300)
  const path = method === 'GET' ? `/source/${kind}?n=${n}` : `/${dice.pick(method === 'HEAD' ? ['events', 'source/async'] : ['events', 'held'])}?channels=0,1&filter=0&n=5`
  const request = http.request(url + path, { method, agent: false, headers: { 'x-visitor': name, ...(method === 'POST' && { 'content-type': 'text/plain', 'content-length': 1000 }) } })
  // Leaves in the end, whatever was to come.
  let leaves = false
  const timer = setTimeout(() => {
    leaves = true
    request.destroy()
  }, kind === 'endless' ? dice.between(10, 1_000) : 20_000)
  const closed = new Promise<void>(resolve => request.on('close', resolve))
  let failure = ''
  request.on('error', ({ message }) => { failure = `, but ${message}` })
  const start = performance.now()
  let text = ''
  let ended = false
  let answered = false
  request.on('response', response => {
    answered = true
    if (kind !== 'endless') timer.refresh()
    response.on('error', () => {})
    response.setEncoding('latin1').on('data', (chunk: string) => {
      text += chunk
      if (kind === 'late') request.destroy()
    })
    response.on('end', () => { ended = true })
    if (response.statusCode !== 200 || response.headers['content-type'] !== 'text/event-stream') judge.complain(`${name} ${method} ${path} was answered ${response.statusCode} ${response.headers['content-type']}`)
  })
  if (method !== 'POST') request.end()
  else request.write('x'.repeat(kind === 'body' ? 500 : 1000))
  // With half of its body, or while the answer is made.
  if (kind === 'body' || kind === 'early') request.on('socket', socket => socket.once('connect', () => setTimeout(() => request.destroy(), dice.between(0, 30))))
  await closed
  clearTimeout(timer)
  if (!answered && !['endless', 'failing', 'body', 'early', 'late'].includes(kind)) {
    // One that waited in vain may have had its turn at last, too late for an answer.
    return judge.unanswered(name, `${method} ${path}, in ${Math.round(performance.now() - start)} ms${failure}`, Date.now() - (leaves ? 10_000 : 0))
  }
  if (method === 'HEAD' && !ended) judge.complain(`${name} HEAD ${path} did not end, in ${Math.round(performance.now() - start)} ms${failure}`)
  if (!['generator', 'async', 'readable', 'web', 'function'].includes(kind)) return
  const got = [...text.matchAll(/^data: (\d+)$/gm)].map(([, i]) => Number(i))
  if (!ended || got.length !== n || got.some((value, i) => value !== i + 1)) judge.complain(`${name} got ${got.length} of ${n} events of the source ${kind}${ended ? '' : ', and no end'}, in ${Math.round(performance.now() - start)} ms${failure}`)
}

// The run

export interface SoakOptions {
  seconds: number
  seed: number
  /** Open at a time. @default 2000 */
  streams?: number
  redis?: boolean
  /** Events a second, apart from bursts. @default 20 */
  rate?: number
  fault?: Fault
  /** Called with one line, now and then. */
  progress?: (text: string) => void
}

/** Where the clients' own process is so late, in ms, it is given no more of them. */
const LATE = 250

export interface SoakResult { complaints: string[], summary: string, most: number, delivered: number, restarts: number }

/** More heap than before that is taken for noise: what V8 compiles and learns while it runs. */
const HEAP_BOUND = 2 * 1024 * 1024
/** Objects of these kinds must be 0 more. */
const COUNTED = [
  'Stream', 'Reader', 'Outlet', 'Carrier', 'ServerResponse', 'IncomingMessage', 'Socket', 'Request', 'Reply', '_Request', '_Reply',
  'AbortController', 'AbortSignal', 'ReadableStream', 'AsyncGenerator', 'Link', 'Timeout'
]

/**
 * But for a timer of a command to Redis, which may be there in one snapshot only; and a generator function has an object of this name
 * as its prototype, made when it is first called, which may be after the warm-up. A leak would leave one for each of many sources.
 */
const NOISE: Record<string, number> = { Timeout: 2, AsyncGenerator: 2 }
/** With Redis, besides: of the pairs of connections that were lost, however many, two are still held by frames of functions that wait. */
const PAIRS: Record<string, number> = { Link: 4, Socket: 4, Timeout: 10 }

export async function soak ({ seconds, seed, streams = 2_000, redis = false, rate = 20, fault, progress }: SoakOptions): Promise<SoakResult> {
  const jobs: Array<() => unknown> = []
  const t = { teardown (job: () => unknown) { jobs.push(job) } }
  const judge = new Judge()
  let server: Server | undefined
  try {
    const redisServer = redis ? await RedisServer.start(t, { aof: true, appendfsync: 'always' }) : undefined
    server = await Server.start(t, { redis: redisServer?.port, seed, rate, fault }, judge)
    const crowd: Crowd = {
      url: server.url, judge, dice: new Dice(seed), stay: seconds > 120 ? [500, 30_000] : [200, Math.max(1_000, seconds * 300)], resting: false, counts: {}, lag: 0
    }
    let names = 0
    let most = 0
    let restarts = 0

    /** Storms the server for so long, and has all leave. */
    const storm = async (seconds: number, streams: number): Promise<void> => {
      crowd.resting = false
      let people: Listener[] = []
      const visits = new Set<Promise<void>>()
      const end = performance.now() + seconds * 1_000
      const restarting = redisServer === undefined ? undefined : restart(redisServer, crowd.dice, end)
      await server!.send('publish')
      let told = performance.now()
      for (let now = performance.now(); now < end;) {
        people = people.filter(({ over }) => !over)
        most = Math.max(most, people.length)
        // A machine that is late already is not given more.
        const more = crowd.lag > LATE ? 0 : Math.min(streams - people.length, 2 + streams / 50)
        for (let i = 0; i < more; i++) people.push(new Listener(crowd, `client ${names++}`))
        for (let i = 0; crowd.lag <= LATE && visits.size < 100 && i < streams / 200; i++) {
          const visiting: Promise<void> = visit(crowd, `visitor ${names++}`).finally(() => visits.delete(visiting))
          visits.add(visiting)
        }
        judge.resolve(5_000)
        if (now - told > 30_000) {
          told = now
          progress?.(`${Math.round((end - now) / 1_000)} s left, ${people.length} streams, ${judge.delivered} events delivered, ${judge.complaints.length} complaints`)
        }
        await sleep(100)
        crowd.lag = performance.now() - now - 100
        now = performance.now()
      }
      restarts += await restarting ?? 0
      crowd.resting = true
      await server!.send('pause')
      for (const one of people) one.rest()
      // Who has no cursor yet would begin behind the last event.
      await patiently(() => people.every(({ over, subscribed }) => over || subscribed))
      if (!await patiently(() => server!.send('last'))) judge.complain('the last event could not be published')
      await patiently(() => people.every(({ complete, over }) => complete || over), 60_000)
      for (const { name, complete, over } of people) if (!complete && !over) judge.complain(`${name} waits for the last event`)
      for (const one of people) one.leave()
      await Promise.all(visits)
      judge.resolve(0)
    }

    // What is made once only (compiled code, lazy parts of Node) is there before the first look.
    // As many as later: Node keeps up to 1,000 HTTP parsers for use again.
    await storm(Math.min(15, Math.max(2, seconds / 4)), streams)
    const before = await server.settle()
    const cpu = process.cpuUsage()
    await storm(seconds, streams)
    const { user, system } = process.cpuUsage(cpu)
    const after = await server.settle()
    const neverReached = judge.end(redis)
    const differences = compare(before, after, judge, redis)
    return {
      complaints: judge.complaints,
      most,
      delivered: judge.delivered,
      restarts,
      summary: [
        `${redis ? `Redis, AOF with appendfsync always, ${restarts} restarts (kill -9)` : 'memory'}: ${seconds} s, SEED=${seed}`,
        `  streams         ${most} at a time of ${streams} wished for, ${after.stats.opened} opened; closed: ${list(after.stats.closed)}`,
        `  requests        ${list({ ...crowd.counts, 'never reached the server': neverReached })}`,
        `  events          ${judge.inLog.size} in the log, ${judge.rejected} rejected, ${judge.delivered} received by clients`,
        `  gaps            ${list(judge.gaps) || 'none'}; they told of ${judge.behind} events`,
        `  lost in silence ${judge.lost}`,
        `  server CPU      ${(100 * (after.cpuSeconds - before.cpuSeconds) / seconds).toFixed(0)} %, clients ${((user + system) / seconds / 10_000).toFixed(0)} %`,
        ...differences.map(text => `  ${text}`),
        `  complaints      ${judge.complaints.length}`,
        ...judge.complaints.slice(0, 20).map(text => `    ${text}`)
      ].join('\n')
    }
  } finally {
    for (let job = jobs.pop(); job !== undefined; job = jobs.pop()) await job()
  }
}

const list = (counts: object): string => Object.entries(counts).filter(([, count]) => count !== 0).map(([name, count]) => `${name} ${count}`).join(', ')

/** Ends Redis the hard way and starts it again, with pauses, until the time is over; says how often. */
async function restart (redis: RedisServer, dice: Dice, end: number): Promise<number> {
  for (let times = 0; ; times++) {
    const pause = dice.between(2_000, 12_000)
    if (performance.now() + pause > end - 1_000) {
      if (times > 0) return times
      await sleep(500)
    } else {
      await sleep(pause)
    }
    await redis.kill()
    await sleep(dice.between(0, 1_000))
    await redis.restart()
  }
}

/** Holds the server's state after the storm against the one before, complains, and gives the lines of the summary. */
function compare (before: State, after: State, judge: Judge, redis: boolean): string[] {
  const zero = { streams: after.stats.streams, channels: after.stats.channels, subscriptions: after.stats.subscriptions, blocked: after.stats.blocked, sockets: after.sockets, 'running sources': after.sources.running }
  for (const [name, count] of Object.entries(zero)) if (count !== 0) judge.complain(`${count} ${name} are left`)
  const ended = Object.values(after.stats.closed).reduce((sum, count) => sum + count, 0)
  if (ended !== after.stats.opened) judge.complain(`${after.stats.opened} streams were opened, and ${ended} closed`)
  for (const what of ['resources', 'listeners'] as const) {
    for (const name of new Set([...Object.keys(before[what]), ...Object.keys(after[what])])) {
      const [were, are] = [before[what][name] ?? 0, after[what][name] ?? 0]
      if (are > were) judge.complain(`${what}: ${are} ${name}, and ${were} before`)
    }
  }
  const [was, is] = [census(before.snapshot), census(after.snapshot)]
  const more = COUNTED.map(name => ({ name, were: was.get(name) ?? 0, are: is.get(name) ?? 0 }))
  for (const { name, were, are } of more) if (are > were + (NOISE[name] ?? 0) + (redis ? PAIRS[name] ?? 0 : 0)) judge.complain(`heap: ${are} ${name}, and ${were} before`)
  const grown = after.heapUsed - before.heapUsed
  if (grown > HEAP_BOUND) {
    const most = [...is].map(([name, count]) => ({ name, more: count - (was.get(name) ?? 0) })).sort((a, b) => b.more - a.more).slice(0, 8)
    judge.complain(`heap: ${kilobytes(grown)} more, ${most.map(({ name, more }) => `${name} +${more}`).join(', ')}`)
  }
  return [
    `left over       ${list(zero) || 'nothing'}; ${after.sources.started} sources started`,
    `resources       ${list(before.resources)} -> ${list(after.resources)}`,
    `listeners       ${list(before.listeners)} -> ${list(after.listeners)}`,
    `heap objects    ${more.filter(({ were, are }) => were + are > 0).map(({ name, were, are }) => `${name} ${were}->${are}`).join(', ')}`,
    `heap used       ${kilobytes(before.heapUsed)} -> ${kilobytes(after.heapUsed)}, bound +${kilobytes(HEAP_BOUND)}`
  ]
}

const kilobytes = (bytes: number): string => `${Math.round(bytes / 1024)} KB`

/** Objects of a heap snapshot by the name of their constructor. The file is removed. */
function census (path: string): Map<string, number> {
  const { snapshot: { meta }, nodes, strings } = JSON.parse(readFileSync(path, 'utf8')) as {
    snapshot: { meta: { node_fields: string[], node_types: [string[], ...unknown[]] } }, nodes: number[], strings: string[]
  }
  rmSync(join(path, '..'), { recursive: true, force: true })
  const [type, name, width] = [meta.node_fields.indexOf('type'), meta.node_fields.indexOf('name'), meta.node_fields.length]
  const object = meta.node_types[0].indexOf('object')
  const counts = new Map<string, number>()
  for (let i = 0; i < nodes.length; i += width) {
    if (nodes[i + type] !== object) continue
    const text = strings[nodes[i + name]!]!
    counts.set(text, (counts.get(text) ?? 0) + 1)
  }
  return counts
}

/** The server's process, as its parent sees it. */
class Server {
  url = ''
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (answer: { value?: any, error?: string }) => void>()
  #ids = 0

  private constructor (child: ChildProcess, judge: Judge) {
    this.#child = child
    child.on('message', (message: Told | { id: number, value?: unknown, error?: string }) => {
      if ('inLog' in message) return judge.tell(message)
      this.#waiting.get(message.id)?.(message)
      this.#waiting.delete(message.id)
    })
    child.on('exit', () => {
      for (const answer of this.#waiting.values()) answer({ error: 'the server ended' })
      this.#waiting.clear()
    })
  }

  static async start (t: { teardown (job: () => unknown): void }, setup: Setup, judge: Judge): Promise<Server> {
    const child = fork(fileURLToPath(import.meta.url), ['--serve', JSON.stringify(setup)], {
      execArgv: ['--expose-gc', '--import', 'tsx'], stdio: ['ignore', 'inherit', 'inherit', 'ipc']
    })
    const exit = once(child, 'exit')
    const outlives = guard(child)
    t.teardown(async () => {
      child.kill('SIGKILL')
      await exit
      outlives.kill('SIGKILL')
    })
    const server = new Server(child, judge)
    server.url = `http://127.0.0.1:${await server.#answer(0, 'start')}`
    return server
  }

  send (order: Order): Promise<any> {
    const answer = this.#answer(++this.#ids, order)
    this.#child.send({ id: this.#ids, order }, () => {})
    return answer
  }

  /** Waits until nothing is open any more, or long enough, and looks. */
  async settle (): Promise<State> {
    await patiently(async () => {
      const { stats, sources } = await this.send('stats') as Pick<State, 'stats' | 'sources'>
      return stats.streams === 0 && sources.running === 0
    })
    return await this.send('settle')
  }

  #answer (id: number, what: string): Promise<any> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id)
        reject(new Error(`the server did not ${what} within two minutes`))
      }, 120_000)
      this.#waiting.set(id, ({ value, error }) => {
        clearTimeout(timer)
        if (error === undefined) resolve(value)
        else reject(new Error(error))
      })
    })
  }
}

async function main (): Promise<void> {
  const { values } = parseArgs({
    options: { seconds: { type: 'string' }, seed: { type: 'string' }, streams: { type: 'string' }, only: { type: 'string' }, serve: { type: 'string' } }
  })
  if (values.serve !== undefined) return await serve(JSON.parse(values.serve))
  const { env } = process
  const seconds = Number(values.seconds ?? env.SECONDS ?? 1200)
  const seed = Number(values.seed ?? env.SEED ?? Date.now() % 1_000_000)
  const streams = Number(values.streams ?? env.STREAMS ?? 2_000)
  const only = values.only ?? env.ONLY
  const runs = ['memory', 'redis'].filter(name => (only === undefined || name === only) && (name === 'memory' || noRedis === false))
  if (noRedis !== false) console.log(`without Redis: ${noRedis}`)
  console.log(`SEED=${seed}, ${seconds} s of churn: ${runs.join(', ')}`)
  for (const name of runs) {
    const { complaints, summary } = await soak({ seconds: seconds / runs.length, seed, streams, redis: name === 'redis', progress: text => console.log(`${name}: ${text}`) })
    console.log(summary)
    if (complaints.length > 0) process.exitCode = 1
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
