import type { ChannelLimits, Entry, Kept, KeptEntry, SharedBackplane } from './backplane.ts'
import type { ChannelLog, Item, Member, Older } from './channel-log.ts'
import type { Store } from './store.ts'

/** Entries that a channel log puts aside while it waits for an answer, at most. */
const MAX_ASIDE = 1_000
/** ms after which a read that failed is made again. */
const AGAIN = 250

export const NOTHING_OLDER: Older = { done: true }

/** What the newest entry of all is, once that is known. */
export interface Question { newest: number | undefined }

/** With the channels of those who ask. */
class Asked<M extends Member> implements Question {
  newest: number | undefined
  readonly askers = new Set<ChannelLog<M>>()
}

/** What the log needs to know of the time. */
export interface Clock {
  /** ms, never falling. */
  now (): number
  after (ms: number, call: () => void): void
}

/** What catching up asks of the log. */
export interface CatchUpHost<M extends Member> {
  /** The present life of a backplane that is in reach. */
  readonly life: string | undefined
  readonly head: number
  /** What lies up to here counts as gone. */
  floorOf (limits: ChannelLimits): number
  item (entry: Entry, time: number): Item
  take (log: ChannelLog<M>, item: Item, prev: number | undefined, now: number): void
  ready (log: ChannelLog<M>): void
}

/** The backplane keeps a channel as a whole, for longer than each of its events is worth keeping. Of an end it is known all the same. */
function isTooOld ({ kind, age }: KeptEntry, { maxAge }: ChannelLimits): boolean {
  return kind === 'event' && maxAge > 0 && age > maxAge
}

/** How a channel log that lacks something becomes whole: it reads what the backplane keeps, and takes what was heard meanwhile. */
export class CatchUp<M extends Member> {
  readonly #shared: SharedBackplane
  readonly #store: Store
  readonly #clock: Clock
  readonly #host: CatchUpHost<M>
  /** The question that is under way, and the one after it. */
  #question: Asked<M> | undefined
  #next: Asked<M> | undefined
  /** Channel logs that hold entries above the head, from an answer. */
  readonly #ahead = new Set<ChannelLog<M>>()
  #closed = false

  constructor (shared: SharedBackplane, store: Store, clock: Clock, host: CatchUpHost<M>) {
    this.#shared = shared
    this.#store = store
    this.#clock = clock
    this.#host = host
  }

  close (): void { this.#closed = true }

  /** Whatever failed is asked again, unless the backplane is closed. */
  #later (again: () => void): void {
    this.#clock.after(AGAIN, () => { if (!this.#closed) again() })
  }

  /** The head has moved: what answers have brought may go out. */
  moved (head: number): void {
    for (const log of this.#ahead) {
      if (log.last <= head) this.#ahead.delete(log)
      this.#host.ready(log)
    }
  }

  /** Nobody wants the log any more, or what it holds is worth nothing: answers that are under way are void, and so is what was put aside. */
  forget (log: ChannelLog<M>): void {
    this.#ahead.delete(log)
    log.asking = log.askingOlder = undefined
    log.aside = []
    log.born = -Infinity
  }

  /** Keeps what was heard until the log has what came before it. */
  putAside (log: ChannelLog<M>, item: Item, prev: number | undefined): void {
    if (log.aside.length < MAX_ASIDE) {
      log.aside.push({ item, prev })
      return
    }
    log.aside = []
    if (log.asking !== undefined) log.asking.again = true
  }

  /** Reads what came after the newest entry that the log has. */
  load (log: ChannelLog<M>): void {
    if (log.current || log.asking !== undefined || !log.watched || this.#host.life === undefined) return
    const asking = log.asking = { again: false }
    this.#read(log, log.last).then(kept => {
      if (log.asking !== asking) return
      if (kept.life !== this.#host.life) return this.#loadLater(log, asking)
      log.asking = undefined
      this.#answered(log, kept)
      if (!asking.again) this.#becomeCurrent(log)
      this.load(log)
      this.#host.ready(log)
    }, () => this.#loadLater(log, asking))
  }

  /** Reads without what counts as gone. */
  async #read (log: ChannelLog<M>, after: number): Promise<Kept> {
    const kept = await this.#shared.read(log.name, after, undefined, this.#store.room)
    const floor = this.#host.floorOf(log.limits)
    const { entries } = kept
    return entries.length === 0 || entries[0]!.seq > floor ? kept : { ...kept, entries: entries.filter(({ seq }) => seq > floor), floor: Math.max(kept.floor, floor), cut: true }
  }

  /** The newest that is kept of a channel, without what counts as gone, for those who are not subscribed. */
  async kept (name: string, limits: ChannelLimits, newest: number): Promise<readonly Entry[]> {
    const { entries } = await this.#shared.read(name, 0, newest)
    return entries.filter(entry => entry.seq > this.#host.floorOf(limits) && !isTooOld(entry, limits))
  }

  #loadLater (log: ChannelLog<M>, asking: object): void {
    this.#later(() => {
      if (log.asking !== asking) return
      log.asking = undefined
      this.load(log)
    })
  }

  #answered (log: ChannelLog<M>, { entries, floor, last, ended, cut = false }: Kept): void {
    const now = this.#clock.now()
    // The head of a process that has heard nothing for a while is old. What lies above it, but was there before anybody here asked, is no news.
    // Ages are whole ms of the server's clock: of another server's they say nothing.
    log.begin = Math.max(log.begin, entries.findLast(({ age }) => now - age + 1 <= log.born)?.seq ?? Math.min(log.newestThen, floor))
    log.born = -Infinity
    const after = log.last
    const lost = floor > after
    if (lost) {
      // What lies below is gone there, and the chain ends here: no client can be told a smaller loss than up to there.
      this.#store.empty(log, floor)
      log.lostTo = floor
      log.cut = true
    } else if (log.events === 0) {
      log.base = Math.min(log.base, last)
    }
    if (after === 0) {
      log.bottom = true
      log.cut = cut
    }
    // What was too old when it was made is there for nobody. What came later is news to its members, however long nobody could hear it.
    const tooOld = entries.findLast(entry => entry.seq > log.last && entry.seq <= log.begin && isTooOld(entry, log.limits))
    if (tooOld !== undefined) {
      this.#store.empty(log, tooOld.seq)
      log.cut = true
    }
    for (const entry of entries) if (entry.seq > log.last) this.#push(log, this.#host.item(entry, now - entry.age))
    for (const member of log.members) member.lacked(log, after)
    // A stream that has seen the end goes on knowing it when the backplane forgets the channel.
    log.ended = ended || (log.ended && last <= after)
    if (log.last > this.#host.head) this.#ahead.add(log)
    this.#store.trim(log, now)
  }

  #push (log: ChannelLog<M>, item: Item): void {
    log.push(item)
    this.#store.hold(item, log)
  }

  #becomeCurrent (log: ChannelLog<M>): void {
    log.current = true
    const { aside } = log
    log.aside = []
    for (const { item, prev } of aside) this.#host.take(log, item, prev, item.time)
  }

  /** Reads everything that the backplane keeps of a channel, to put it in front. The host is told when it is there. */
  readOlder (log: ChannelLog<M>): Older {
    if (log.bottom) return NOTHING_OLDER
    if (log.askingOlder === undefined) {
      log.askingOlder = { done: false }
      if (this.#host.life !== undefined) this.#sendOlder(log, log.askingOlder)
    }
    return log.askingOlder
  }

  #sendOlder (log: ChannelLog<M>, asking: Older): void {
    const { base } = log
    const again = (): void => this.#later(() => { if (log.askingOlder === asking) this.#sendOlder(log, asking) })
    this.#read(log, 0).then(kept => {
      if (log.askingOlder !== asking) return
      // What was evicted here meanwhile must be in the answer, or it would be a hole.
      if (kept.life !== this.#host.life || (log.base !== base && kept.last < log.base)) return again()
      log.askingOlder = undefined
      asking.done = log.bottom = true
      this.#putInFront(log, kept)
      this.#host.ready(log)
    }, again)
  }

  #putInFront (log: ChannelLog<M>, { entries, floor, cut = false }: Kept): void {
    log.cut = cut
    if (floor >= log.base) return
    const now = this.#clock.now()
    const { maxAge } = log.limits
    const older = entries.filter(({ seq }) => seq <= log.base).map(entry => this.#host.item(entry, now - entry.age))
    const tooOld = older.findLastIndex(({ time }) => maxAge > 0 && now - time > maxAge)
    const items = older.slice(tooOld + 1)
    log.unshift(items, tooOld < 0 ? floor : older[tooOld]!.seq)
    if (tooOld >= 0) log.cut = true
    for (const item of items) this.#store.hold(item, log)
    this.#store.trim(log, now)
    this.#store.trimBytes()
  }

  /**
   * Asks what the newest entry is, for a cursor that is newer than the head: its client comes from a faster process. All who ask before
   * a question is sent share it. The host is told of this channel when there is an answer.
   */
  ask (log: ChannelLog<M>): Question {
    let question = this.#next
    if (question === undefined) {
      question = new Asked()
      if (this.#question === undefined) this.#send(this.#question = question)
      else this.#next = question
    }
    question.askers.add(log)
    return question
  }

  /** What the newest entry is when a channel log is made: asked at once, as what this process publishes from then on is newer. */
  askNewest (log: ChannelLog<M>): void {
    this.#shared.seq().then(({ life, seq }) => { if (life === this.#host.life) log.newestThen = seq }, () => {})
  }

  #send (question: Asked<M>): void {
    const again = (): void => this.#later(() => this.#send(question))
    this.#shared.seq().then(({ life, seq }) => {
      if (life !== this.#host.life) return again()
      question.newest = seq
      this.#question = this.#next
      this.#next = undefined
      if (this.#question !== undefined) this.#send(this.#question)
      for (const log of question.askers) this.#host.ready(log)
    }, again)
  }
}
