import type { Readable } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import type { Channel, SseStream, SubscribeOptions } from '../../lib/index.ts'
import { blocks, build, connect, listen, until, Valve, within, type Client } from '../client.ts'
import { turn } from './driving.ts'
import { Inflated } from './inflated.ts'
import { accepts, judge, seqOf, type Place, type Published, type Step } from './judge.ts'
import { SharedLog, type Line } from './shared-log.ts'

/** Numbers that are random and the same for the same seed (mulberry32). */
export function random (seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296
  }
}

const NAMES = ['a', 'b', 'c', 'd']

/** A valve that notes what is written, at the moment when it is. */
class Tap extends Valve {
  note: (text: string) => void = () => {}
  /** What was written so far inflates to this, where it is compressed. */
  inflated: Inflated | undefined

  override write (chunk: any, ...rest: any[]): boolean {
    this.note(this.inflated?.add(chunk) ?? String(chunk))
    return super.write(chunk, ...rest as [])
  }
}

interface Connection {
  readonly came: { cursor: string, place: Place } | null
  readonly process: number
  readonly steps: Step[]
  readonly tap: Tap
  stream: SseStream | undefined
  client: Client | undefined
  /** A write of its own is being made. */
  inside: number
  /** Its handler has returned. */
  handled: boolean
  /** It may be told "unknown". */
  doubtful: boolean
}

/** What happened to a stream, to read: set STORY to see it where something is wrong. */
function story (steps: readonly Step[]): string {
  return steps.map(step => {
    if (step.what !== 'wrote') return `${step.head} ${JSON.stringify(step)}`
    return `${step.newest} wrote ${step.blocks.map(({ id, event, data }) => event === 'sse.gap' ? `GAP@${seqOf(id!)}${data!}` : id === undefined ? '.' : data === undefined ? `#${seqOf(id)}` : seqOf(id)).join(' ')}`
  }).join('\n')
}

/** Streams, and handlers that do everything that a handler can do, at random. */
export class World {
  readonly wrong: string[] = []
  readonly log: Published[] = [{ channels: [], value: 0 }]
  gaps = 0
  judged = 0

  readonly #t: Test
  readonly #chance: () => number
  readonly #tight: boolean
  readonly #connections: Connection[] = []
  #apps: FastifyInstance[] = []
  #urls: string[] = []
  #lines: Line[] = []
  #all: Connection[] = []
  #depth = 0
  #compressed = false

  constructor (t: Test, chance: () => number, tight: boolean) {
    this.#t = t
    this.#chance = chance
    this.#tight = tight
  }

  #below (n: number): number { return Math.floor(this.#chance() * n) }

  async open (shared: boolean, compress = false): Promise<void> {
    const history = !this.#tight
      ? {}
      : { maxEvents: [0, 1, 5, 20, 60][this.#below(5)]!, ...(this.#chance() < 0.3 && { maxBytes: 1_500 }), ...(this.#chance() < 0.2 && { maxAge: 30 }) }
    const log = shared ? new SharedLog() : undefined
    const most = this.#below(4)
    for (let process = 0; process < (shared ? 2 : 1); process++) {
      const line = log?.line(() => this.#below(most + 1))
      if (line !== undefined) this.#lines.push(line)
      const app = await build(this.#t, { history, heartbeatInterval: this.#chance() < 0.5 ? 20 : 0, backplane: line, compress: compress && { minBytes: 40, window: 1_024 } }, { forceCloseConnections: true })
      for (const event of ['subscribe', 'unsubscribe', 'gap', 'open', 'close'] as const) {
        app.sse.on(event, ({ stream }: { stream: SseStream }) => {
          const connection = this.#all.find(one => one.stream === stream)
          if (connection === undefined) return
          if (event === 'gap') connection.inside++
          if (this.#chance() < 0.15) this.#mischief(connection)
          if (event === 'gap') connection.inside--
        })
      }
      app.get('/:n', {
        onSend: async (request, reply, payload) => {
          if (this.#chance() < 0.3) await turn(this.#below(8))
          return (payload as Readable).pipe(this.#all[Number((request.params as { n: string }).n)]!.tap)
        }
      }, (request, reply) => {
        const connection = this.#all[Number((request.params as { n: string }).n)]!
        const stream = connection.stream = reply.sse()
        for (let n = this.#below(3); n >= 0; n--) this.#join(connection, NAMES.filter(() => this.#chance() < 0.4), false)
        if (stream.channels.size === 0) this.#join(connection, ['a'], false)
        connection.handled = true
        return reply
      })
      this.#apps.push(app)
      this.#urls.push(await listen(app))
    }
    this.#compressed = compress
  }

  #head (process: number): number { return seqOf(this.#apps[process]!.sse.cursor) }

  publish (process = this.#below(this.#apps.length)): void {
    // Busy ones and quiet ones: what happens to one of them must not be taken for all.
    const channels = NAMES.filter((_, i) => this.#chance() < [0.6, 0.3, 0.1, 0.03][i]!)
    if (channels.length === 0) channels.push('elsewhere')
    const n = this.log.length
    const value = this.#below(12)
    this.log.push({ channels, value })
    this.#apps[process]!.sse.publish(channels, `${n} ${value}`).then(id => { if (seqOf(id) !== n) this.wrong.push(`event ${n} became ${id}`) }, () => {})
  }

  /** A cursor, and what it means. */
  #cursor (process: number): { cursor: string, place: Place } {
    const cursor = this.#apps[process]!.sse.cursor
    const life = cursor.slice(0, cursor.indexOf('-') + 1)
    const chance = this.#chance()
    if (chance < 0.12) return { cursor: ['garbage', '', 'x'.repeat(200), `foreign-${this.#below(50)}`, `${life}01`][this.#below(5)]!, place: 'anywhere' }
    if (chance < 0.2) return { cursor: life + (this.log.length + 1_000_000).toString(36), place: 'anywhere' }
    const place = chance < 0.6 ? Math.max(0, this.#head(process) - this.#below(12)) : this.#below(this.#head(process) + 1)
    return { cursor: life + place.toString(36), place }
  }

  #join (connection: Connection, channels: string[], late = true): void {
    const stream = connection.stream!
    if (channels.length === 0 || stream.state === 'closed') return
    const options: SubscribeOptions = {}
    const filter = [0, 0, 2, 3][this.#below(4)]!
    if (filter > 0) {
      options.filter = ({ data }) => {
        connection.inside++
        if (this.#chance() < 0.02) this.#mischief(connection)
        connection.inside--
        return accepts(filter, Number(String(data).split(' ')[1]))
      }
    }
    const rewind = this.#chance() < 0.2 ? [1, 3, Infinity][this.#below(3)]! : 0
    if (rewind > 0) options.rewind = rewind
    const explicit = this.#chance() < 0.3
    let head = this.#head(connection.process)
    let place: Place = 'head'
    if (explicit) {
      const given = this.#chance() < 0.25 ? null : this.#cursor(connection.process)
      options.lastEventId = given?.cursor ?? null
      place = given?.place ?? 'head'
      connection.doubtful ||= place === 'anywhere'
    } else if (connection.came !== null) {
      // It is late, or not: whether its first place was found by then cannot be told from outside.
      place = late || connection.handled ? 'anywhere' : connection.came.place
      connection.doubtful ||= place === 'anywhere'
      // Its client may be ahead of this process.
      if (typeof connection.came.place === 'number') head = Math.max(head, connection.came.place)
    }
    const some: Array<string | Channel> = this.#chance() < 0.5 ? channels : channels.map(name => this.#apps[connection.process]!.sse.channel(name))
    connection.steps.push({ what: 'joined', channels, filter, place, explicit, rewind, inside: connection.inside > 0, head, newest: this.log.length - 1 })
    stream.subscribe(some, options)
  }

  #leave (connection: Connection, channels: string[]): void {
    if (channels.length === 0) return
    connection.steps.push({ what: 'left', channels, inside: connection.inside > 0, head: this.#head(connection.process) })
    connection.stream!.unsubscribe(channels)
  }

  /** What a callback does: to its own stream mostly, or to another one. */
  #mischief (own: Connection): void {
    if (this.#depth >= 2) return
    this.#depth++
    const connection = this.#chance() < 0.8 ? own : this.#connections[this.#below(this.#connections.length)] ?? own
    if (connection.stream !== undefined) this.#act(connection)
    this.#depth--
  }

  #act (connection: Connection): void {
    const stream = connection.stream!
    const what = this.#chance()
    if (what < 0.35) this.#join(connection, NAMES.filter(() => this.#chance() < 0.4))
    else if (what < 0.55) this.#leave(connection, [...stream.channels].filter(() => this.#chance() < 0.5))
    else if (what < 0.85) this.publish()
    else if (what < 0.95) stream.send({ event: 'own', data: 'own' }).catch(this.#t.fail)
    else if (this.#connections.length > 3) stream.close().catch(this.#t.fail)
  }

  async connect (after?: Connection): Promise<void> {
    const process = this.#below(this.#apps.length)
    const kept = after?.client?.lastEventId ?? ''
    const came = after !== undefined && this.#chance() < 0.8
      ? kept === '' ? null : kept === after.came?.cursor ? after.came : { cursor: kept, place: seqOf(kept) }
      : this.#chance() < 0.5 ? null : this.#cursor(process)
    // An empty header is none.
    const usable = came?.cursor === '' ? null : came
    const tap = new Tap()
    const connection: Connection = { came: usable, process, steps: [], tap, stream: undefined, client: undefined, inside: 0, handled: false, doubtful: usable?.place === 'anywhere' }
    tap.note = text => {
      connection.steps.push({ what: 'wrote', blocks: blocks(text), newest: this.log.length - 1 })
      connection.inside++
      if (connection.stream !== undefined && this.#chance() < 0.01) this.#mischief(connection)
      connection.inside--
    }
    if (this.#compressed) tap.inflated = new Inflated()
    this.#all.push(connection)
    connection.client = await within(connect(`${this.#urls[process]!}/${this.#all.length - 1}`, {
      ...(usable !== null && { lastEventId: usable.cursor }),
      ...(this.#compressed && { headers: { 'accept-encoding': 'gzip' } })
    }), 'the response')
    this.#connections.push(connection)
  }

  async #finish (connection: Connection, complete: boolean): Promise<void> {
    const { client, stream, tap } = connection
    if (complete && stream!.state !== 'closed') {
      tap.open()
      const mark = `the end ${Math.random()}`
      await until(() => !stream!.blocked)
      await turn(40)
      stream!.comment(mark).catch(() => {})
      await until(() => client!.comments.includes(mark) || client!.closed, 'the mark')
    }
    const { state } = stream!
    client!.leave()
    await stream!.closed
    const reasons = [...(this.#tight ? ['expired', 'overrun', 'reset'] : []), ...(connection.doubtful ? ['unknown'] : [])]
    const wrong = judge({ steps: connection.steps, log: this.log, complete: complete && state === 'open', reasons })
    this.judged++
    this.gaps += connection.steps.reduce((sum, step) => sum + (step.what === 'wrote' ? step.blocks.filter(({ event }) => event === 'sse.gap').length : 0), 0)
    if (wrong.length > 0 && process.env.STORY !== undefined) console.error(story(connection.steps), connection.came, wrong.slice(0, 5))
    this.wrong.push(...wrong.slice(0, 5))
  }

  async run (steps: number): Promise<void> {
    for (let n = 0; n < 6; n++) await this.connect()
    for (let step = 0; step < steps; step++) {
      const i = this.#below(this.#connections.length)
      const connection = this.#connections[i]!
      const what = this.#chance()
      if (what < 0.45) for (let n = this.#below(this.#chance() < 0.2 ? 200 : 6); n >= 0; n--) this.publish()
      else if (what < 0.55) connection.tap.shut()
      else if (what < 0.68) connection.tap.open()
      else if (what < 0.78 || connection.stream!.state === 'closed') {
        this.#connections.splice(i, 1)
        await this.#finish(connection, false)
        for (let n = this.#below(8); n > 0; n--) this.publish()
        await this.connect(connection)
      } else if (what < 0.95) this.#act(connection)
      else await turn()
      if (this.#chance() < 0.1) for (const line of this.#lines) line.advance()
      if (this.#chance() < 0.5) await turn(1)
    }
    // A closing stream must not publish while another one is being looked at for the last time.
    this.#depth = 2
    for (const { tap } of this.#connections) tap.open()
    for (const line of this.#lines) line.advance()
    await until(() => this.#apps.every((_, process) => this.#head(process) === this.log.length - 1), 'all to be heard')
    await turn(60)
    for (const connection of this.#connections) await this.#finish(connection, true)
  }

  get stats () { return this.#apps.map(app => app.sse.stats()) }
}
