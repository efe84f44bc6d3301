import type { Backplane, ChannelLimits, Entry, HeardEntry, Life, NewEntry, Place, Receiver, SharedBackplane } from './backplane.ts'
import { CatchUp, NOTHING_OLDER, type Clock, type Question } from './catch-up.ts'
import type { ChannelLog, Item, Member, Older } from './channel-log.ts'
import { ChannelLogs } from './channel-logs.ts'
import { Lives } from './lives.ts'
import { Store } from './store.ts'

/** What the log tells. No call may change the log before it has returned. */
export interface LogHost<M extends Member> {
  /** There may be something new for the members of this channel. */
  ready (log: ChannelLog<M>): void
  /** Channel logs are kept from now on: `sweep` wants to be called every second or so. */
  keeping (): void
  /** The backplane is out of reach, with the error, or in reach again. */
  state (error: Error | undefined): void
}

export interface LogOptions {
  readonly maxBytes: number
  readonly limits: (name: string) => ChannelLimits
  /** Bytes of an entry, as encoded. */
  readonly measure: (entry: Entry) => number
}

/**
 * The history of all channels in this process: what was heard of each, up to where (`head`) that is all there is, and how a
 * channel log that lacks something becomes whole again. It does no I/O: it is called, and calls the backplane.
 */
export class Log<M extends Member = Member> implements Receiver {
  /** All entries of every current channel log, up to here, are in it. No stream is moved past it. */
  head = 0
  lives = new Lives([])
  /** Entries that came from the backplane as news. */
  received = 0
  readonly channels: ReadonlyMap<string, ChannelLog<M>>
  readonly store: Store

  readonly #logs: ChannelLogs<M>
  readonly #backplane: Backplane
  /** Undefined where this process alone has the history. */
  readonly #shared: SharedBackplane | undefined
  readonly #options: LogOptions
  readonly #host: LogHost<M>
  readonly #catchUp: CatchUp<M> | undefined
  readonly #clock: Clock
  #up = false

  constructor (backplane: Backplane | SharedBackplane, options: LogOptions, host: LogHost<M>, clock: Clock) {
    this.#backplane = backplane
    this.#shared = 'watch' in backplane ? backplane : undefined
    this.#options = options
    this.#host = host
    this.#clock = clock
    const channels = new Map<string, ChannelLog<M>>()
    this.channels = channels
    this.store = new Store(options.maxBytes, channels)
    const shared = this.#shared
    this.#logs = new ChannelLogs(channels, this.store, shared && (log => {
      this.#catchUp?.forget(log)
      shared.unwatch([log.name])
    }))
    if (shared === undefined) return
    const log = this
    this.#catchUp = new CatchUp<M>(shared, this.store, clock, {
      get life () { return log.#life },
      get head () { return log.head },
      floorOf: limits => this.#floor(limits),
      item: (entry, time) => this.#item(entry, time),
      take: (log, item, prev, now) => this.#take(log, item, prev, now),
      ready: log => host.ready(log)
    })
  }

  open (): Promise<void> { return this.#backplane.open(this) }
  append (entry: NewEntry): Promise<string> { return this.#backplane.append(entry) }

  close (): Promise<void> {
    this.#up = false
    this.#catchUp?.close()
    return this.#backplane.close()
  }

  /** The present life of a backplane that is in reach. */
  get #life (): string | undefined { return this.#up ? this.lives.id : undefined }

  /** What lies up to here counts as gone; of a channel of values the newest counts all the same, by whatever name. */
  #floor ({ latest }: ChannelLimits): number { return latest ? 0 : this.lives.floor }

  cursorAt (seq: number): string { return this.lives.cursorAt(seq) }

  /** What the newest entry of all is. @see CatchUp.ask */
  ask (log: ChannelLog<M>): Question { return this.#catchUp?.ask(log) ?? { newest: this.head } }

  /** Has what lies below `base` read. @see CatchUp.readOlder */
  readOlder (log: ChannelLog<M>): Older { return this.#catchUp?.readOlder(log) ?? NOTHING_OLDER }

  // Members

  /** Joins a channel: from here on what comes for it is held. */
  join (name: string, member: M): ChannelLog<M> {
    const log = this.#logOf(name)
    this.store.trim(log, this.#clock.now())
    this.#logs.join(log, member)
    return log
  }

  leave (log: ChannelLog<M>, member: M): void { this.#logs.leave(log, member, this.#clock.now()) }

  /** The log of a channel, made where there is none: current at once where this process alone has the history, or else when it was read. */
  #logOf (name: string): ChannelLog<M> {
    const there = this.channels.get(name)
    if (there !== undefined) return there
    const shared = this.#shared
    const now = this.#clock.now()
    const log = this.#logs.make(name, this.#options.limits(name), this.head, now)
    this.#host.keeping()
    if (shared === undefined) {
      log.current = log.bottom = true
      return log
    }
    log.begin = this.head
    if (this.#up) log.born = now
    if (this.#up && log.limits.maxEvents === 0) this.#catchUp?.askNewest(log)
    shared.watch([name]).then(() => {
      if (this.channels.get(name) !== log) return
      log.watched = true
      this.#catchUp?.load(log)
    }, () => {})
    return log
  }

  // What is heard

  hear (entry: HeardEntry): void {
    // Whatever is heard before mended() is read again after it.
    if (entry.life !== this.#life) return
    this.received++
    const now = this.#clock.now()
    const item = this.#item(entry, now)
    const { channels, prevs } = entry
    // Into all of them before the head moves, or the streams of one would be moved past it before the other has it.
    for (let i = 0; i < channels.length; i++) {
      const log = this.#shared === undefined ? this.#logOf(channels[i]!) : this.channels.get(channels[i]!)
      if (log !== undefined) this.#take(log, item, prevs?.[i], now)
    }
    this.#advance(entry.seq)
    this.store.trimBytes()
  }

  advance ({ life, seq }: Place): void {
    if (life === this.#life) this.#advance(seq)
  }

  #advance (seq: number): void {
    if (seq <= this.head) return
    this.head = seq
    this.#catchUp?.moved(seq)
  }

  #item (entry: Entry, time: number): Item {
    const { channels, kind, event, data, serialized, seq } = entry
    return { channels, kind, event, data, serialized, seq, bytes: this.#options.measure(entry), time, refs: 0, values: 0, earlier: undefined, later: undefined }
  }

  #take (log: ChannelLog<M>, item: Item, prev: number | undefined, now: number): void {
    if (!log.current) return this.#catchUp?.putAside(log, item, prev)
    if (item.seq <= log.last) return // a repeat
    // Where the backplane has forgotten the channel, all up to the head is here.
    const whole = prev === undefined || (prev >= 0 ? prev <= log.last : -prev <= this.head)
    if (!whole) {
      log.current = false
      this.#catchUp?.putAside(log, item, prev)
      this.#catchUp?.load(log)
      return
    }
    log.push(item)
    this.store.hold(item, log)
    this.#host.ready(log)
    this.store.trim(log, now)
    this.#logs.forgetEmpty(log)
  }

  /** What is kept of a channel, for those who are not subscribed. @param newest so many at most, the newest last */
  async kept (name: string, newest: number): Promise<readonly Entry[]> {
    if (this.#catchUp !== undefined) return await this.#catchUp.kept(name, this.#options.limits(name), newest)
    const log = this.channels.get(name)
    if (log === undefined) return []
    this.store.trim(log, this.#clock.now())
    const count = Math.min(newest, log.events)
    return Array.from({ length: count }, (_, i) => log.at(log.events - count + i))
  }

  endOf (name: string): string | undefined {
    const newest = this.channels.get(name)?.newest
    return newest?.kind === 'end' ? this.cursorAt(newest.seq) : undefined
  }

  // Connections and lives

  broken (error: Error): void {
    if (!this.#up) return
    this.#up = false
    for (const log of this.channels.values()) {
      // All up to the head is in it: there is no need to prove that again.
      if (log.current) log.last = Math.max(log.last, this.head)
      this.#distrust(log)
    }
    this.#host.state(error)
  }

  mended (lives: readonly Life[], head: number): void {
    const first = this.lives.id === undefined
    this.lives = new Lives(lives)
    this.head = Math.max(this.head, head)
    for (const log of this.channels.values()) this.store.evict(log, this.#floor(log.limits))
    if (first) this.#logs.begin(head)
    this.#goOn()
  }

  restarted (lives: readonly Life[], head: number): void {
    this.lives = new Lives(lives)
    this.head = head
    for (const log of this.channels.values()) {
      this.store.empty(log, head)
      log.lostTo = -1
      log.begin = log.newestThen = 0
      log.bottom = log.ended = false
    }
    const members = new Set<M>()
    for (const log of this.channels.values()) for (const member of log.members) members.add(member)
    for (const member of members) member.restarted()
    this.#goOn()
  }

  /** Answers that are under way are void, and so is what was put aside: all of it is read again. */
  #distrust (log: ChannelLog<M>): void {
    log.current = this.#shared === undefined
    this.#catchUp?.forget(log)
  }

  #goOn (): void {
    this.#up = true
    for (const log of this.channels.values()) {
      // No connection told that it was broken where mended() is called twice: what was asked before is void all the same.
      this.#distrust(log)
      this.#catchUp?.load(log)
    }
    this.#host.state(undefined)
  }

  // Limits

  /** Says that what lies up to here was offered to the streams, and evicts what the limits no longer allow. */
  release (offered: number): void {
    this.store.release(offered, this.#clock.now())
  }

  /** Looks for what has become too old, and for channels that nobody has asked for in a while. @returns whether anything is kept */
  sweep (): boolean { return this.#logs.sweep(this.#clock.now()) }

  /** As `sweep`, of all at once: to count what is kept. */
  expire (): void { this.#logs.expire(this.#clock.now()) }
}
