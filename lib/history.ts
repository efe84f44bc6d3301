import type { Entry } from './backplane.ts'
import { encodeEvent } from './event.ts'
import type { HistoryLimits } from './options.ts'

/** An entry as the history keeps it. */
export interface KeptEntry extends Entry {
  /** As encoded, with its cursor as id. */
  readonly bytes: number
  /** When it was appended to the log, on the clock that is passed in. */
  readonly time: number
}

/** Where a cursor points. `position` is that of the first entry after it. */
export interface Place {
  readonly position: number
  /**
   * - good: nothing after the cursor has been evicted
   * - expired: it lies below the floor
   * - ahead: it is newer than the head
   * - unknown: it is of another log, or no cursor at all
   */
  readonly state: 'good' | 'expired' | 'ahead' | 'unknown'
}

/** A longer cursor is refused unread: no log hands one out. */
const MAX_CURSOR_BYTES = 128
const LEAST_CAPACITY = 64

/**
 * The ordered, bounded log of recent events, in a ring. A position is a number that is never used twice; the entries at
 * `first` to `head - 1` are kept. What a gap marker is, see `mark`.
 */
export class History {
  /** The oldest entry kept. */
  first = 0
  /** Where the next entry goes. */
  head = 0
  /** Of the entries kept. */
  bytes = 0
  /** Positions of the gap markers kept, oldest first. */
  readonly markers: number[] = []
  /** Position of the newest gap marker that was evicted, or -1. */
  evictedMarker = -1
  /** A filter is running: what it calls must not move what is being read. */
  reading = false

  readonly limits: HistoryLimits
  readonly #compare: (a: string, b: string) => number
  readonly #onEvict: (channels: readonly string[], position: number) => void
  readonly #index = new Map<string, Positions>()
  #ring: Array<KeptEntry | undefined> = new Array(LEAST_CAPACITY).fill(undefined)
  /** The cursor of the newest evicted entry: the oldest cursor that is still good. */
  #floor = ''
  /** The floor is known. */
  #begun = false
  /** Nothing at or after this position may be evicted: it was not offered to the streams yet. */
  #offered = 0

  constructor (limits: HistoryLimits, compare: (a: string, b: string) => number, onEvict: (channels: readonly string[], position: number) => void) {
    this.limits = limits
    this.#compare = compare
    this.#onEvict = onEvict
  }

  append (entry: Entry, time: number): number {
    const bytes = Buffer.byteLength(encodeEvent({ id: entry.cursor, event: entry.event, data: entry.data }))
    const { cursor, channels, event, data, serialized } = entry
    const position = this.#push({ cursor, channels, event, data, serialized, bytes, time })
    for (const name of channels) {
      const positions = this.#index.get(name)
      if (positions === undefined) this.#index.set(name, new Positions(position))
      else positions.push(position)
    }
    return position
  }

  /**
   * Puts a gap marker: between what came before and what follows, entries may be missing. Cursors are in order between two
   * markers only. The first one only says where the log begins, and becomes the floor.
   */
  mark (cursor: string, time: number): number {
    if (!this.#begun) {
      this.#begun = true
      this.#floor = cursor
      return -1
    }
    this.markers.push(this.head)
    return this.#push({ cursor, channels: [], event: undefined, data: undefined, serialized: false, bytes: 0, time })
  }

  #push (entry: KeptEntry): number {
    if (this.events === this.#ring.length) this.#resize(this.#ring.length * 2)
    this.#ring[this.head & (this.#ring.length - 1)] = entry
    this.bytes += entry.bytes
    return this.head++
  }

  /** Entries kept. */
  get events (): number { return this.head - this.first }

  /** The entry at a position that is kept. */
  at (position: number): KeptEntry {
    const entry = this.#ring[position & (this.#ring.length - 1)]
    if (entry === undefined || position < this.first || position >= this.head) throw new RangeError(`position ${position} is not kept`)
    return entry
  }

  /** The cursor of a client that has everything before this position. */
  cursorBefore (position: number): string {
    return position <= this.first ? this.#floor : this.at(position - 1).cursor
  }

  /** Where to go on for a client that has this cursor. */
  find (cursor: string): Place {
    const { first, head } = this
    if (Buffer.byteLength(cursor) > MAX_CURSOR_BYTES || Number.isNaN(this.#compare(cursor, this.cursorBefore(head)))) {
      return { position: first, state: 'unknown' }
    }
    // The newest stretch between markers decides, unless an older one knows this very cursor.
    let end = head
    let place: Place | undefined
    for (let i = this.markers.length; i >= 0; i--) {
      const start = i === 0 ? first : this.markers[i - 1]! + 1
      const position = this.#after(cursor, start, end)
      if (position >= start) {
        if (this.cursorBefore(position) === cursor) return { position, state: 'good' }
        place ??= { position, state: position === head && this.#compare(cursor, this.cursorBefore(head)) > 0 ? 'ahead' : 'unknown' }
      }
      end = start - 1
    }
    return place ?? { position: first, state: 'expired' }
  }

  /** The position, from start to end, of the first entry with a greater cursor; start - 1 where already the cursor before start is greater. */
  #after (cursor: string, start: number, end: number): number {
    if (this.#compare(this.cursorBefore(start), cursor) > 0) return start - 1
    let low = start
    let high = end
    while (low < high) {
      const middle = low + ((high - low) >> 1)
      if (this.#compare(this.at(middle).cursor, cursor) > 0) high = middle
      else low = middle + 1
    }
    return low
  }

  /** The positions kept of one channel. */
  positions (channel: string): Positions {
    return this.#index.get(channel) ?? NONE
  }

  /** The position of the nth newest entry of these channels, or of the oldest kept one, or the head where there is none. */
  rewind (channels: readonly string[], n: number): number {
    const lists = channels.map(name => this.positions(name))
    const next = lists.map(list => list.length - 1)
    let position = this.head
    for (; n > 0; n--) {
      let newest = -1
      for (let i = 0; i < lists.length; i++) newest = Math.max(newest, next[i]! < 0 ? -1 : lists[i]!.at(next[i]!))
      if (newest < 0) break
      position = newest
      for (let i = 0; i < lists.length; i++) if (next[i]! >= 0 && lists[i]!.at(next[i]!) === newest) next[i]!--
    }
    return position
  }

  /** Says that every stream was offered what lies below this position, and evicts what the limits no longer allow. */
  release (position: number, now: number): void {
    this.#offered = position
    this.evict(now)
  }

  /** Evicts what the limits no longer allow, as far as it was offered. */
  evict (now: number): void {
    if (this.reading) return
    const { maxEvents, maxBytes, maxAge } = this.limits
    while (this.first < this.#offered) {
      const oldest = this.at(this.first)
      if (this.events <= maxEvents && this.bytes <= maxBytes && (maxAge === 0 || now - oldest.time <= maxAge)) break
      this.#shift(oldest)
    }
    if (this.#ring.length > LEAST_CAPACITY && this.events * 4 < this.#ring.length) this.#resize(this.#ring.length / 2)
  }

  #shift (oldest: KeptEntry): void {
    const position = this.first++
    this.#ring[position & (this.#ring.length - 1)] = undefined
    this.bytes -= oldest.bytes
    this.#floor = oldest.cursor
    if (this.markers[0] === position) {
      this.markers.shift()
      this.evictedMarker = position
    }
    for (const name of oldest.channels) {
      const positions = this.#index.get(name)
      if (positions?.shift() === 0) this.#index.delete(name)
    }
    this.#onEvict(oldest.channels, position)
  }

  #resize (capacity: number): void {
    const ring = new Array<KeptEntry | undefined>(capacity).fill(undefined)
    for (let position = this.first; position < this.head; position++) ring[position & (capacity - 1)] = this.#ring[position & (this.#ring.length - 1)]
    this.#ring = ring
  }
}

/** The positions of one channel's entries, rising: a list that is cheap to push to, to shift from and to search. */
export class Positions {
  #list: number[]
  #start = 0

  constructor (...positions: number[]) {
    this.#list = positions
  }

  get length (): number { return this.#list.length - this.#start }

  at (index: number): number { return this.#list[this.#start + index]! }

  push (position: number): void { this.#list.push(position) }

  /** Drops the oldest and tells how many are left. Moving the rest down only once it is the smaller half keeps this constant. */
  shift (): number {
    if (++this.#start * 2 > this.#list.length) {
      this.#list = this.#list.slice(this.#start) // splice() would keep the room of the longest burst
      this.#start = 0
    }
    return this.length
  }

  /** Whether there is one at or after a position and before another. */
  any (position: number, end: number): boolean {
    const index = this.from(position)
    return index < this.length && this.at(index) < end
  }

  /** The index of the first one that is at or after a position. */
  from (position: number): number {
    let low = 0
    let high = this.length
    // Nearly every search is for what was just published.
    if (high > 0 && this.at(high - 1) < position) return high
    while (low < high) {
      const middle = (low + high) >> 1
      if (this.at(middle) < position) low = middle + 1
      else high = middle
    }
    return low
  }
}

const NONE = new Positions()
