import type { SubscribeOptions } from '../../lib/stream/sse-stream.ts'
import type { Filter } from '../../lib/stream/pieces.ts'
import type { Process } from './process.ts'
import { Session, type Span } from './session.ts'
import { Stream, type Block } from './stream.ts'
import type { Fact, Truth } from './truth.ts'
import type { World } from './world.ts'

/** What a client may do in a run. */
export interface Habits {
  readonly channels: readonly string[]
  /** Not for chance alone: those with more traffic, and fewer clients. */
  readonly pick: () => string
  /** It comes back with a cursor that it had a while ago, or with one that no log gave it. */
  readonly stale: boolean
  readonly foreign: boolean
  /** It joins and leaves channels while the stream is open. */
  readonly rejoin: boolean
  /** What was acknowledged may be lost. */
  readonly losses: boolean
  /** Its filters do everything that a handler may do. */
  readonly busyFilters: boolean
  /** Only the newest entry of the channel counts. */
  readonly isLatest: (channel: string) => boolean
  readonly processes: () => readonly Process[]
  readonly publish: (process: Process, channels: readonly string[]) => void
  /** What a new subscription could be sent of the past, oldest first: uids. */
  readonly keptOf: (process: Process, channel: string) => readonly number[]
}

const GARBAGE = ['', '0', 'x', 'L0-1', '-', 'L0-0', '1e400', 'zzzzzzzz-zzzzzzzz', '✓', 'a'.repeat(300), '__proto__-1']

/** A page and the handler that serves it: which channels it wants, where it comes back, and what it got. */
export class Client {
  /** ms that it takes for a block, at most. */
  pace: number
  stream: Stream | undefined
  session!: Session
  /** The last event id, as a browser keeps it. */
  id: string | null = null

  readonly #world: World
  readonly #truth: Truth
  readonly #habits: Habits
  readonly #sessions: Session[]
  /** Channels it is subscribed to, as the handler knows. */
  readonly #want = new Map<string, Span>()
  readonly #filters = new Map<string, number>()
  #names: Set<string>
  #ids: string[] = []
  /** Channel -> how many of its newest entries it asks for. */
  readonly #rewinds = new Map<string, number | undefined>()
  #stopped = false

  constructor (world: World, truth: Truth, habits: Habits, sessions: Session[]) {
    this.#world = world
    this.#truth = truth
    this.#habits = habits
    this.#sessions = sessions
    this.pace = world.chance(0.3) ? world.int(5, 120) : 1
    const rewind = (often: number): number | undefined => world.chance(1 - often) ? undefined : world.chance(0.4) ? Infinity : world.int(1, 8)
    const most = rewind(0.2)
    for (const name of habits.channels) this.#rewinds.set(name, world.chance(0.8) ? most : rewind(0.5))
    this.#names = new Set(Array.from({ length: world.int(1, 3) }, habits.pick))
    for (const name of habits.channels) if (world.chance(0.2)) this.#filters.set(name, world.int(2, 4))
    this.#begin(null)
    this.#connectLater()
  }

  /** What it lets through of a channel. */
  accepts (channel: string, uid: number): boolean {
    const modulus = this.#filters.get(channel)
    return modulus === undefined || uid % modulus !== 0
  }

  /** After a loss nobody is told of it: the newest value may be an older one. */
  get mayGoBack (): boolean { return this.#habits.losses && [...this.#names].every(this.#habits.isLatest) }

  #begin (id: string | null): void {
    this.session?.finish(this.id)
    this.id = id
    this.#want.clear()
    this.#sessions.push(this.session = new Session(this.#world, this.#truth, this, id, this.#sessions.length))
  }

  // Connecting

  #connectLater (): void {
    this.#world.at(this.#world.int(1, 300), () => {
      if (this.stream === undefined && !this.#stopped) this.#connect()
    })
  }

  #connect (): void {
    const world = this.#world
    const processes = this.#habits.processes().filter(({ opened }) => opened)
    if (processes.length === 0 || this.#names.size === 0) return this.#connectLater()
    const process = world.pick(processes)
    if (this.id === null && this.session.cursor === null) this.#begin(null)
    const { id, session } = this
    const stream = this.stream = new Stream(process, this, id)
    session.connected(id)
    for (const name of this.#names) {
      const known = this.#want.get(name)
      if (known !== undefined) session.resume(known)
      else session.activate(this.#span(process, name, id, false))
    }
    world.tell(`C${session.number}`, `connects to ${process.name}`, [[...this.#names].map(name => [name, this.#rewinds.get(name)]), id])
    for (const name of this.#names) stream.subscribe([name], { rewind: this.#rewinds.get(name), filter: this.#filter(name, stream) })
    if (this.#habits.rejoin && world.chance(0.1)) this.#goBack(world.pick([...this.#names]))
  }

  /** What it is promised of a channel that it joins at a place. */
  #span (process: Process, channel: string, cursor: string | null, late: boolean): Span {
    const { log } = process
    const head = this.#truth.order(log.lives.id!, log.head)
    const rewind = this.#rewinds.get(channel)
    const known = cursor !== null && this.#truth.orderOf(cursor) >= 0
    const span = this.session.join(channel, known ? this.#truth.orderOf(cursor) : head)
    span.fresh = cursor === null
    span.gapDue = (cursor !== null && !known) || late
    span.all = cursor === null && rewind === Infinity
    if (cursor === null ? rewind !== undefined && !late : !known) span.due = this.#habits.keptOf(process, channel).slice(-(rewind ?? Infinity))
    this.#want.set(channel, span)
    return span
  }

  dropped (stream: Stream): void {
    if (this.stream !== stream) return
    this.stream = undefined
    this.#world.tell(`C${this.session.number}`, 'is cut off', this.id)
    this.#connectLater()
  }

  /** It leaves; the process hears of it later. */
  #leave (): void {
    const { stream } = this
    if (stream === undefined) return
    this.stream = undefined
    this.#world.at(this.#world.chance(0.5) ? 0 : this.#world.int(1, 100), () => stream.gone())
  }

  /** Its stream has nothing more to say. */
  get rests (): boolean { return this.stream?.rests === true }

  /** It does not come back. */
  stop (): void { this.#stopped = true }

  /** All of its channels have ended, so that no stream of it lasts. */
  isThrough (ended: ReadonlySet<string>): boolean {
    return [...this.#names].every(name => ended.has(name))
  }

  get state (): string {
    const { stream, session } = this
    if (stream === undefined) return `C${session.number} without a stream`
    const { subscriptions, position } = stream.reader
    return `C${session.number} ${stream.state}${stream.blocked ? ' blocked' : ''} at ${position} of ${stream.process.log.head} in ${subscriptions.map(({ log }) => log.name + (log.current ? '' : '?')).join()}`
  }

  complain (what: string): void {
    this.session.complaints.push(`${what} ${this.state} at ${this.#world.now.toFixed(0)}`)
  }

  /** It has caught up: with the cursor that it has, nothing of this life is sent again. */
  checkCursor (): void {
    if (!this.#habits.losses && this.isStale) this.complain('stale')
  }

  /** Its cursor is older than something that it got through the channels of now. */
  get isStale (): boolean {
    const { session, stream } = this
    const order = this.#truth.orderOf(this.id)
    if (order >= session.newest || stream === undefined) return false
    // More than its process knows cannot be said.
    const known = this.#truth.orderOf(stream.process.log.cursorAt(stream.reader.position))
    // What came through a channel that it has left, and is refused by the filters of the others, is not sent again.
    // Nor does what it had before it left a channel say where it stands since it is back.
    const isIn = (channel: string, i: number): boolean => session.spans.some(span => span.channel === channel && span.ended === Infinity && span.first <= i)
    const isWanted = ({ kind, channels, uid }: Fact, i: number): boolean => channels.some(name => isIn(name, i) && (kind === 'end' || this.accepts(name, uid)))
    return session.items.some((item, i) => item.type === 'entry' && item.fact.order > order && item.fact.order <= known &&
      isWanted(item.fact, i) && !item.fact.channels.some(name => session.wentBack.has(name)))
  }

  // Receiving

  receive ({ id, event, data }: Block): void {
    const { session } = this
    if (id !== undefined) {
      session.cursorCame(id, event === 'sse.gap')
      this.id = id
      if (this.#ids.length < 400) this.#ids.push(id)
    }
    if (event === 'sse.gap') session.gapCame(JSON.parse(data!))
    else if (event === 'sse.end') session.entryCame(Number(JSON.parse(data!).reason))
    else if (data !== undefined) session.entryCame(Number(data))
  }

  // What it does

  act (): void {
    const world = this.#world
    const chance = world.random()
    if (chance < 0.4) return this.#again(false, undefined)
    if (chance < 0.55 && this.#habits.stale && this.#ids.length > 3) return this.#again(true, world.pick(this.#ids))
    if (chance < 0.6 && this.#habits.foreign) return this.#again(true, world.pick(GARBAGE))
    if (chance < 0.7) return this.#again(true, null)
    this.#act()
  }

  #act (): void {
    const world = this.#world
    if (this.stream?.state !== 'open') return
    if (this.#habits.rejoin && world.chance(0.1)) return this.#partAll()
    if (this.#habits.rejoin && world.chance(0.1)) return this.#ask()
    if (!this.#habits.rejoin || world.chance(0.6)) {
      const name = this.#habits.pick()
      if (!this.#names.has(name)) return this.#join(name)
      if (this.#names.size > 1) this.#part(name)
      return
    }
    this.#goBack(this.#habits.pick())
  }

  /** Drops the stream and comes back. @param anew with another cursor than its last one */
  #again (anew: boolean, id: string | null | undefined): void {
    if (this.stream === undefined) return
    this.#leave()
    if (anew) {
      this.#begin(id ?? null)
      if (this.#world.chance(0.3)) this.#names = new Set([...this.#names, this.#habits.pick()])
    }
    this.#connectLater()
  }

  /** Joins a channel that it was not subscribed to. */
  #join (name: string): void {
    const stream = this.stream!
    const { session } = this
    if (this.#names.has(name)) return
    this.#names.add(name)
    this.#world.tell(`C${session.number}`, 'joins', name)
    const join: SubscribeOptions = { rewind: this.#rewinds.get(name), filter: this.#filter(name, stream) }
    // A stream that has not found its first place yet takes it with the others.
    if (!stream.started) {
      session.activate(this.#span(stream.process, name, session.cursorOfStream, false))
      return stream.subscribe([name], join)
    }
    const span = this.#span(stream.process, name, null, session.cursorOfStream !== null)
    if (this.#rewinds.get(name) !== undefined || this.#habits.isLatest(name)) session.wentBack.add(name)
    stream.subscribe([name], join, () => session.arrived(span))
  }

  /** Joins a channel, again or not, at a place of its own. */
  #goBack (name: string): void {
    const world = this.#world
    const stream = this.stream
    if (stream === undefined) return
    const cursor = this.#ids.length > 0 && this.#habits.stale && world.chance(0.6)
      ? world.pick(this.#ids.slice(-20))
      : this.#habits.foreign && world.chance(0.1) ? world.pick(GARBAGE) : world.chance(0.3) ? stream.process.log.cursorAt(stream.process.log.head) : null
    const old = this.#want.get(name)
    if (old !== undefined) this.session.part(old, this.id)
    this.#names.add(name)
    const span = this.#span(stream.process, name, cursor, false)
    this.session.wentBack.add(name)
    world.tell(`C${this.session.number}`, 'goes back', [name, cursor])
    const join: SubscribeOptions = { lastEventId: cursor, rewind: this.#rewinds.get(name), filter: this.#filter(name, stream) }
    stream.subscribe([name], join, () => this.session.arrived(span))
  }

  #part (name: string): void {
    this.#names.delete(name)
    const span = this.#want.get(name)
    if (span !== undefined) this.session.part(span, this.id)
    this.#want.delete(name)
    this.#world.tell(`C${this.session.number}`, 'parts', name)
    this.stream!.unsubscribe([name])
  }

  /** Leaves all, and joins them a little later: on the same stream, if it lasts. */
  #partAll (): void {
    const names = [...this.#names]
    for (const name of names) this.#part(name)
    this.#world.at(this.#world.int(0, 150), () => {
      for (const name of names) {
        if (this.stream === undefined || this.stream.state === 'closed') this.#names.add(name)
        else this.#join(name)
      }
    })
  }

  /** Asks for what it has: nothing changes. */
  #ask (): void {
    const stream = this.stream!
    for (const name of this.#want.keys()) stream.subscribe([name], { rewind: this.#rewinds.get(name), filter: this.#filter(name, stream) })
  }

  // Filters

  #filter (channel: string, stream: Stream): Filter | undefined {
    const busy = this.#habits.busyFilters
    if (!busy && !this.#filters.has(channel)) return undefined
    return ({ data }) => {
      if (busy && this.#world.chance(0.03) && this.stream === stream && stream.state === 'open') this.#interfere(stream)
      return this.accepts(channel, Number(data))
    }
  }

  /** What a handler may do from inside. */
  #interfere (stream: Stream): void {
    const world = this.#world
    const chance = world.random()
    if (chance < 0.3) return this.#habits.publish(stream.process, [this.#habits.pick()])
    if (chance < 0.5) return this.#join(this.#habits.pick())
    if (chance < 0.7 && this.#habits.rejoin) return this.#goBack(this.#habits.pick())
    if (chance < 0.85 && this.#names.size > 1) return this.#part(world.pick([...this.#names]))
    if (chance < 0.93) return stream.end()
    throw new Error('a filter failed')
  }
}
