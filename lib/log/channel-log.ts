import type { ChannelLimits, Entry } from './backplane.ts'

/** An entry as a process keeps it. One object serves all channels of the entry, and is linked to those that arrived before and after it. */
export interface Item extends Entry {
  /** As encoded, its channels' names included. */
  readonly bytes: number
  /** When it was appended, on the clock that is passed in. */
  readonly time: number
  /** Channel logs that hold it, and how many of them are of channels of values. */
  refs: number
  values: number
  earlier: Item | undefined
  later: Item | undefined
}

/** What is told of a channel to those that are subscribed to it. */
export interface Member {
  /** The channel log lacked what it has after this place, and what lies between there and `lostTo`: whoever was moved past some of that has missed it. */
  lacked (log: ChannelLog<any>, after: number): void
  /** Nothing of before can be proved: go on at the head. */
  restarted (): void
}

/** An entry that was heard while the channel log could not take it. */
export interface Aside { readonly item: Item, readonly prev: number | undefined }

/** A question for what lies below `base`. */
export interface Older { done: boolean }

/** Shared by all that hold nothing, and never changed. */
const NOTHING: any[] = []

/**
 * One channel in this process: all of its entries with `base` < seq <= `last`. While it is `current`, all entries of the channel up to the
 * head of the process are in it.
 */
export class ChannelLog<M extends Member = Member> {
  readonly name: string
  readonly limits: ChannelLimits
  base: number
  last: number
  current = false
  /** All that the backplane keeps below `base` was read. */
  bottom = false
  /** ms of the clock when it was made, until its first answer; -Infinity where the connection has changed since. */
  born = -Infinity
  /** The newest entry of all when it was made: asked where the channel keeps none, whose ages would tell what was there before. */
  newestThen = 0
  /** Up to here its entries were there before it was made: no news to anybody who has joined it. */
  begin = 0
  /** Below this, entries are gone that never came here, by a loss and not by the limits. */
  lostTo = -1
  /** What lies below `base` had entries, as far as is known: it does not begin with the channel's first one. */
  cut = false
  /** Its newest entry is an end, held or not. */
  ended = false
  readonly members = new Set<M>()
  /** The backplane watches it, whenever it is in reach: `watch` has resolved. */
  watched = false
  /** The read under way that makes it current. An answer to any other one is void. */
  asking: { again: boolean } | undefined
  /** The read under way of what lies below `base`. */
  askingOlder: Older | undefined
  aside: Aside[] = []

  #items: Item[] = NOTHING
  #start = 0

  constructor (name: string, limits: ChannelLimits, base: number) {
    this.name = name
    this.limits = limits
    this.base = this.last = base
  }

  /** Somebody wants what lies after this: where it was not asked for anything yet, it asks from there on. */
  reach (seq: number): void {
    if (!this.current && !this.watched && seq < this.base) this.base = this.last = seq
  }

  /** Entries held. */
  get events (): number { return this.#items.length - this.#start }

  /** The entry at an index, 0 being the oldest. */
  at (index: number): Item { return this.#items[this.#start + index]! }

  get oldest (): Item | undefined { return this.#items[this.#start] }
  /** Its end is held: one entry more than its limits allow. */
  get holdsEnd (): boolean { return this.newest?.kind === 'end' }
  get newest (): Item | undefined { return this.events === 0 ? undefined : this.#items.at(-1) }

  /** The index of the first entry after a sequence number; `events` where there is none. */
  after (seq: number): number {
    const items = this.#items
    let high = items.length
    // Nearly every search is for what has just come, or for nothing.
    if (high === this.#start || items[high - 1]!.seq <= seq) return this.events
    let low = this.#start
    while (low < high) {
      const middle = (low + high) >>> 1
      if (items[middle]!.seq <= seq) low = middle + 1
      else high = middle
    }
    return low - this.#start
  }

  push (item: Item): void {
    if (this.#items === NOTHING) this.#items = []
    this.#items.push(item)
    this.last = item.seq
    this.ended = item.kind === 'end'
  }

  /** Puts older entries in front. All of them lie below `base`, which becomes `base`. */
  unshift (items: readonly Item[], base: number): void {
    this.#items = [...items, ...this.#items.slice(this.#start)]
    this.#start = 0
    this.base = base
  }

  /** Drops the oldest entry. Moving the rest down only once it is the smaller half keeps this constant. */
  shift (): Item {
    const item = this.oldest!
    this.base = item.seq
    this.cut = true
    this.#items[this.#start] = undefined as never // or it would be held until the rest is moved
    if (++this.#start * 2 > this.#items.length) {
      this.#items = this.#start === this.#items.length ? NOTHING : this.#items.slice(this.#start)
      this.#start = 0
    }
    return item
  }
}
