import type { Question } from '../log/catch-up.ts'
import type { ChannelLog, Member, Older } from '../log/channel-log.ts'
import type { Log } from '../log/log.ts'
import type { Frame } from '../wire/chunk.ts'
import type { Gzip } from './gzip.ts'
import type { Filter, Pieces, Want } from './pieces.ts'

/** `expired`, `unknown`: the client's cursor was not good. `reset`: the log itself lost entries. `overrun`: the stream stayed away too long. */
export type GapReason = 'expired' | 'unknown' | 'reset' | 'overrun'

/** Events that a client may have missed. */
export interface Gap { readonly reason: GapReason, readonly channels: readonly string[] }

/** What one write takes a stream forward with. */
export interface Step {
  /** Undefined where nothing on the way is for the stream. */
  readonly frame: Frame | undefined
  /** Channel events in it. */
  readonly events: number
}

/** Where and how a channel is joined. */
export interface Join {
  readonly lastEventId?: string | null | undefined
  readonly rewind?: number | undefined
  readonly filter?: Filter | undefined
}

/** What is still to be found out of a channel that was joined: where the stream starts on it. */
interface Resume {
  readonly cursor: string | null
  readonly rewind: number | undefined
  /** What it carried since the client's cursor is not known: it was joined later than that was read. */
  readonly late: boolean
  /** The head when it was joined. */
  head: number
  question: Question | undefined
  older: Older | undefined
}

interface Subscription<M extends Member> extends Want<M> {
  readonly resume: Resume | undefined
}

/** A stream's place in the log: its subscriptions, its position, and what it must be told. */
export class Reader<M extends Member> {
  /** Everything up to here was offered to the stream. */
  position = 0
  /** The position that the client's cursor names. */
  cursor = 0
  subscriptions: ReadonlyArray<Subscription<M>> = []

  readonly #log: Log<M>
  readonly #pieces: Pieces
  readonly #member: M
  readonly #lastEventId: string | null
  readonly #gaps: Gap[] = []
  /** Its first position was found. What is joined from then on starts at the head. */
  #started = false
  /** The cursor of the first position has been sent. */
  #primed = false
  /** How far it was before it went back for one channel. */
  #reached = 0

  constructor (log: Log<M>, pieces: Pieces, member: M, lastEventId: string | null) {
    this.#log = log
    this.#pieces = pieces
    this.#member = member
    this.#lastEventId = lastEventId
  }

  /** @returns the names that are new */
  join (names: readonly string[], { lastEventId, rewind, filter }: Join): string[] {
    const chosen = lastEventId !== undefined
    const cursor = chosen ? lastEventId : this.#started ? null : this.#lastEventId
    const late = !chosen && this.#started && this.#lastEventId !== null
    const joined: string[] = []
    const next = [...this.subscriptions]
    try {
      for (const name of names) {
        const i = next.findIndex(({ log }) => log.name === name)
        if (i >= 0 && !chosen) {
          // What lies behind it was for the old filter to decide.
          next[i] = { ...next[i]!, filter, from: Math.max(next[i]!.from, next[i]!.seen, this.position) }
          continue
        }
        const log = this.#log.join(name, this.#member)
        const resume: Resume = { cursor, rewind, late, head: this.#log.head, question: undefined, older: undefined }
        const place = this.#place(resume)
        log.reach(this.#isGood(resume, place) ? place! : wanted(log, resume) > 0 ? 0 : log.base)
        next[i < 0 ? next.length : i] = { log, from: Infinity, seen: 0, filter, resume }
        if (i < 0) joined.push(name)
      }
    } catch (error) { // of the function that gives a channel's limits
      for (const { log } of next.slice(this.subscriptions.length)) this.#log.leave(log, this.#member)
      throw error
    }
    this.subscriptions = next
    return joined
  }

  /** @returns the names that it was subscribed to */
  leave (names: readonly string[]): string[] {
    const left = this.subscriptions.filter(({ log }) => names.includes(log.name))
    this.subscriptions = this.subscriptions.filter(subscription => !left.includes(subscription))
    if (this.subscriptions.length === 0) this.#primed = false
    for (const { log } of left) this.#log.leave(log, this.#member)
    return left.map(({ log }) => log.name)
  }

  /** Its channels are whole, and it is known where it starts: it can be moved. What it must be told first is found by then. */
  settle (): boolean {
    const { subscriptions } = this
    if (subscriptions.length === 0) return false
    let found = true
    let current = true
    for (const subscription of subscriptions) {
      current &&= subscription.log.current
      if (subscription.resume !== undefined && !this.#find(subscription, subscription.resume)) found = false
    }
    if (!found || !current) return false
    this.#start()
    this.#findLosses()
    return true
  }

  /** Asks what is not known yet of the place where a subscription starts. */
  #find ({ log }: Subscription<M>, resume: Resume): boolean {
    const place = this.#place(resume)
    const mayBeNewer = place === undefined ? resume.cursor !== null && this.#log.lives.isUnknown(resume.cursor) : place > this.#log.head
    if (mayBeNewer) {
      resume.question ??= this.#log.ask(log)
      if (resume.question.newest === undefined) return false
    }
    // It may begin above the head, which follows soon: where another channel is joined meanwhile, the stream would go back to it.
    if (!log.current || log.begin > this.#log.head) return false
    if (this.#isGood(resume, place) ? place! >= log.base : log.events >= wanted(log, resume)) return true
    // One that a broken connection took with it is asked again.
    if (resume.older === undefined || (!resume.older.done && resume.older !== log.askingOlder)) resume.older = this.#log.readOlder(log)
    return resume.older.done
  }

  #place ({ cursor }: Resume): number | undefined {
    return cursor === null ? undefined : this.#log.lives.placeOf(cursor)
  }

  /** Whether the cursor's place exists. */
  #isGood ({ question }: Resume, place: number | undefined): boolean {
    return place !== undefined && place <= Math.max(this.#log.head, question?.newest ?? 0)
  }

  /** Where the joined channels start, and with them the stream. */
  #start (): void {
    if (this.subscriptions.every(({ resume }) => resume === undefined)) return
    const stays = this.#started && this.subscriptions.some(({ resume }) => resume === undefined)
    const stood = stays ? this.position : Infinity
    let start = stood
    const found = this.subscriptions.map(subscription => {
      const { log, seen, filter, resume } = subscription
      if (resume === undefined) return subscription
      const from = this.#from(subscription, resume)
      start = Math.min(start, from)
      return { log, from, seen, filter, resume: undefined }
    })
    // Going back for one channel repeats nothing that went out through another.
    this.subscriptions = start === stood || !stays
      ? found
      : found.map((subscription, i) => this.subscriptions[i]!.resume !== undefined ? subscription : { ...subscription, seen: Math.max(subscription.seen, stood) })
    // Channels that start at places of their own: what the client has of one is not to come again because it went back on another.
    const furthest = this.#started ? this.position : Math.max(...found.map(({ from }) => from))
    if (start < furthest) this.#reached = Math.max(this.#reached, furthest)
    this.position = start
    this.#started = true
  }

  #from ({ log }: Subscription<M>, resume: Resume): number {
    const { cursor, rewind, late } = resume
    const head = Math.max(resume.head, log.begin)
    const place = this.#place(resume)
    if (this.#isGood(resume, place)) {
      if (place! >= log.base) return place!
      this.#addGap('expired', log)
    } else if (cursor !== null || late) {
      this.#addGap('unknown', log)
    }
    // Who asks for all of it must not take what is left for the whole.
    if (cursor === null && rewind === Infinity && log.cut) this.#addGap('expired', log)
    // Of what was published since it was joined, some is gone.
    else if (cursor === null && !late && head < log.base) this.#addGap(head < log.lostTo ? 'reset' : 'overrun', log)
    const newest = wanted(log, resume)
    const index = Math.max(0, log.events - newest)
    // The log itself lost entries between what it kept from before and what came after.
    if (cursor === null && index < log.events && log.at(index).seq <= this.#log.lives.edge) this.#addGap('reset', log)
    const from = newest === 0 ? head : index === 0 ? log.base : log.at(index).seq - 1
    // What was published since it was joined is not left out.
    return Math.min(from, Math.max(head, log.base))
  }

  /** What it stands at was evicted, or was never here. It goes on in the middle of the log: at the edge it would fall off again at once. */
  #findLosses (): void {
    const lost = ({ log, from }: Subscription<M>): boolean => Math.max(from, this.position) < log.base && !log.limits.latest
    if (!this.subscriptions.some(lost)) return
    this.subscriptions = this.subscriptions.map(subscription => {
      if (!lost(subscription)) return subscription
      const { log, from } = subscription
      if (Math.max(from, this.position) < log.lostTo) {
        this.#addGap('reset', log)
        return { ...subscription, from: log.base }
      }
      this.#addGap('overrun', log)
      const middle = log.events >> 1
      return { ...subscription, from: middle === 0 ? log.base : log.at(middle - 1).seq }
    })
    this.position = Math.max(this.position, Math.min(...this.subscriptions.map(({ from }) => from)))
  }

  /** The gaps that are due, with their cursor: they go out before anything else. */
  takeGaps (): { readonly gaps: readonly Gap[], readonly cursor: string } | undefined {
    if (this.#gaps.length === 0) return undefined
    const gaps = this.#gaps.splice(0)
    this.#primed = true
    this.cursor = this.position
    return { gaps, cursor: this.#log.cursorAt(this.position) }
  }

  get owesGaps (): boolean { return this.#gaps.length > 0 }

  /** Once, the cursor of the first position. */
  takePrime (): string | undefined {
    if (this.#primed) return undefined
    this.#primed = true
    this.cursor = this.position
    return this.#log.cursorAt(this.position)
  }

  /** Takes one step towards the head; undefined when it stands there, or cannot be moved. `settle` comes first. */
  step (gzip?: Gzip): Step | undefined {
    if (this.subscriptions.length === 0 || this.position >= this.#log.head) return undefined
    const wants = this.subscriptions
    const piece = this.#pieces.get(wants, this.position, this.#log.head, gzip)
    this.position = piece.next
    // A filter that gave its own channel another one: it decides from here on.
    if (this.subscriptions !== wants) this.subscriptions = this.subscriptions.map(one => one.resume !== undefined || wants.includes(one) ? one : { ...one, from: Math.max(one.from, piece.next) })
    if (piece.events > 0) this.cursor = piece.cursor
    return piece
  }

  /** The newest cursor, for a stream that stands at the head. */
  freshCursor (compressed = false): Frame {
    this.cursor = this.position
    return this.#pieces.cursor(this.position, compressed)
  }

  /** It went back, and has caught up: the client must not come back with an old cursor. */
  get owesCursor (): boolean { return this.cursor < this.#reached }

  /** All of its channels have ended, and it has got all that they had. */
  get ended (): boolean {
    return this.subscriptions.length > 0 && this.subscriptions.every(({ log, resume }) => resume === undefined && log.ended && log.current && log.last <= this.position)
  }

  /** See `Member.lacked`. */
  lacked (log: ChannelLog, after: number): void {
    const subscription = this.subscriptions.find(subscription => subscription.log === log as unknown)
    if (subscription === undefined || subscription.resume !== undefined) return
    // What its client had before, from a faster process, is not missed.
    const from = Math.max(after, subscription.from)
    const index = log.after(from)
    const lacked = log.lostTo > from ? from + 1 : index < log.events ? log.at(index).seq : Infinity
    if (lacked <= this.position) this.#addGap('reset', log)
  }

  /** See `Member.restarted`. */
  restarted (): void {
    const { head } = this.#log
    this.position = head
    this.#reached = 0
    this.#gaps.length = 0
    for (const { log, resume } of this.subscriptions) {
      if (resume?.cursor === null || resume === undefined) this.#addGap('reset', log)
      if (resume !== undefined) Object.assign(resume, { head, question: undefined, older: undefined })
    }
    this.subscriptions = this.subscriptions.map(subscription => subscription.resume !== undefined ? subscription : { ...subscription, from: head, seen: 0 })
  }

  #addGap (reason: GapReason, { name, limits }: ChannelLog<any>): void {
    if (limits.latest) return
    const i = this.#gaps.findIndex(gap => gap.reason === reason)
    if (i < 0) this.#gaps.push({ reason, channels: [name] })
    else if (!this.#gaps[i]!.channels.includes(name)) this.#gaps[i] = { reason, channels: [...this.#gaps[i]!.channels, name] }
  }
}

/** How many of the newest entries a stream without a good cursor begins with. An end is none of the events that were asked for. */
function wanted (log: ChannelLog<any>, { cursor, rewind }: Resume): number {
  const events = rewind ?? (cursor !== null ? Infinity : log.limits.latest ? 1 : 0)
  return events > 0 && log.holdsEnd ? events + 1 : events
}
