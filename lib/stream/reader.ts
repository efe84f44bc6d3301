import type { ChannelLog, Member } from '../log/channel-log.ts'
import type { Log } from '../log/log.ts'
import { Gaps, type Gap } from './gaps.ts'
import type { Gzip } from './gzip.ts'
import type { Piece, Pieces, Want } from './pieces.ts'
import type { SubscribeOptions } from './sse-stream.ts'
import { Start } from './start.ts'

interface Subscription<M extends Member> extends Want<M> {
  /** Undefined once it is known where it starts. */
  readonly start: Start<M> | undefined
}

/**
 * Of each channel, what the last stream wants that came to it alone, without a filter. Streams that want the same share the objects that say so:
 * a pass over thousands finds them in the processor's cache.
 */
const LAST = new WeakMap<ChannelLog<any>, ReadonlyArray<Subscription<any>>>()

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
  readonly #gaps = new Gaps()
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
  join (names: readonly string[], { lastEventId, rewind, filter }: SubscribeOptions): string[] {
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
        next[i < 0 ? next.length : i] = { log, from: Infinity, seen: 0, filter, start: new Start(this.#log, log, { cursor, rewind, late }) }
        if (i < 0) joined.push(name)
      }
    } catch (error) { // of the function that gives a channel's limits
      for (const { log } of next.slice(this.subscriptions.length)) this.#log.leave(log, this.#member)
      throw error
    }
    if (chosen) for (const name of names) this.#gaps.dropCursor(name)
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
    let starts = false
    let lost = false
    // One walk: this is called for each write.
    for (const subscription of subscriptions) {
      const { log, start } = subscription
      current &&= log.current
      if (start === undefined) lost ||= this.#lost(subscription)
      else {
        starts = true
        if (!start.find()) found = false
      }
    }
    if (!found || !current) return false
    if (starts) this.#start()
    if (starts || lost) {
      this.#findLosses()
      this.#share()
    }
    return true
  }

  /** Where the joined channels start, and with them the stream. */
  #start (): void {
    const stays = this.#started && this.subscriptions.some(({ start }) => start === undefined)
    const stood = stays ? this.position : Infinity
    let least = stood
    const found = this.subscriptions.map(subscription => {
      const { log, seen, filter, start } = subscription
      if (start === undefined) return subscription
      const from = start.after(this.#gaps)
      least = Math.min(least, from)
      return { log, from, seen, filter, start: undefined }
    })
    // Going back for one channel repeats nothing that went out through another.
    this.subscriptions = least === stood || !stays
      ? found
      : found.map((subscription, i) => this.subscriptions[i]!.start !== undefined ? subscription : { ...subscription, seen: Math.max(subscription.seen, stood) })
    // Channels that start at places of their own: what the client has of one is not to come again because it went back on another.
    const furthest = this.#started ? this.position : Math.max(...found.map(({ from }) => from))
    if (least < furthest) this.#reached = Math.max(this.#reached, furthest)
    this.position = least
    this.#started = true
  }

  #share (): void {
    const [one] = this.subscriptions as [Subscription<M>]
    if (this.subscriptions.length > 1 || one.filter !== undefined) return
    const last = LAST.get(one.log) as typeof this.subscriptions | undefined
    if (last?.[0]!.from === one.from && last[0].seen === one.seen) this.subscriptions = last
    else LAST.set(one.log, this.subscriptions)
  }

  #lost ({ log, from }: Subscription<M>): boolean {
    return this.position < log.base && from < log.base && !log.limits.latest
  }

  /** What it stands at was evicted, or was never here. It goes on in the middle of the log: at the edge it would fall off again at once. */
  #findLosses (): void {
    this.subscriptions = this.subscriptions.map(subscription => {
      if (!this.#lost(subscription)) return subscription
      const { log, from } = subscription
      if (Math.max(from, this.position) < log.lostTo) {
        this.#gaps.add('reset', log)
        return { ...subscription, from: log.base }
      }
      this.#gaps.add('overrun', log)
      const middle = log.events >> 1
      return { ...subscription, from: middle === 0 ? log.base : log.at(middle - 1).seq }
    })
    this.position = Math.max(this.position, Math.min(...this.subscriptions.map(({ from }) => from)))
  }

  /** The gaps that are due, with their cursor: they go out before anything else. */
  takeGaps (): { readonly gaps: readonly Gap[], readonly cursor: string } | undefined {
    if (!this.#gaps.due) return undefined
    this.#primed = true
    return { gaps: this.#gaps.take(), cursor: this.freshCursor() }
  }

  get owesGaps (): boolean { return this.#gaps.due }

  /** Once, the cursor of the first position. */
  takePrime (): string | undefined {
    if (this.#primed) return undefined
    this.#primed = true
    return this.freshCursor()
  }

  /** Takes one step towards the head; undefined when it stands there, or cannot be moved. `settle` comes first. */
  step (gzip?: Gzip): Piece | undefined {
    if (this.subscriptions.length === 0 || this.atHead) return undefined
    const wants = this.subscriptions
    const piece = this.#pieces.get(wants, this.position, this.#log.head, gzip)
    this.position = piece.next
    // A filter that gave its own channel another one: it decides from here on.
    if (this.subscriptions !== wants) this.subscriptions = this.subscriptions.map(one => one.start !== undefined || wants.includes(one) ? one : { ...one, from: Math.max(one.from, piece.next) })
    if (piece.events > 0) this.cursor = piece.cursor
    return piece
  }

  get atHead (): boolean { return this.position >= this.#log.head }

  /** The cursor of its position, for the client. */
  freshCursor (): string {
    this.cursor = this.position
    return this.#log.cursorAt(this.position)
  }

  /** It went back, and has caught up: the client must not come back with an old cursor. */
  get owesCursor (): boolean { return this.cursor < this.#reached }

  /** It has something to write. Where that is not known yet, whoever finds it out wakes the stream. */
  get behind (): boolean {
    return this.settle() && (this.owesGaps || !this.#primed || !this.atHead || this.owesCursor || this.ended)
  }

  /** All of its channels have ended, and it has got all that they had. */
  get ended (): boolean {
    for (const { log, start } of this.subscriptions) if (start !== undefined || !log.ended || !log.current || log.last > this.position) return false
    return this.subscriptions.length > 0
  }

  /** Some of its channels have ended, and it is not through. */
  get endedInPart (): boolean { return !this.ended && this.subscriptions.some(({ log }) => log.ended) }

  /** All of its channels have ended, and have nothing more for this client, not even a gap; undefined while that is not known. */
  get nothingToCome (): boolean | undefined {
    return this.settle() ? !this.owesGaps && this.ended : undefined
  }

  /** See `Member.lacked`. */
  lacked (log: ChannelLog, after: number): void {
    const subscription = this.subscriptions.find(subscription => subscription.log === log as unknown)
    if (subscription === undefined || subscription.start !== undefined) return
    // What its client had before, from a faster process, is not missed.
    const from = Math.max(after, subscription.from)
    const index = log.after(from)
    const lacked = log.lostTo > from ? from + 1 : index < log.events ? log.at(index).seq : Infinity
    if (lacked <= this.position) this.#gaps.add('reset', log)
  }

  /** See `Member.restarted`. */
  restarted (): void {
    const { head } = this.#log
    this.position = head
    this.#reached = 0
    this.#gaps.take()
    this.subscriptions = this.subscriptions.map(subscription => {
      const { log, start } = subscription
      if (start === undefined) {
        this.#gaps.add('reset', log)
        return { ...subscription, from: head, seen: 0 }
      }
      start.restarted(this.#gaps)
      return subscription
    })
  }
}
