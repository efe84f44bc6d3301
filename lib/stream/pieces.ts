import type { Entry } from '../log/backplane.ts'
import type { ChannelLog, Item, Member } from '../log/channel-log.ts'
import type { Log } from '../log/log.ts'
import { checkAnswer } from '../checks.ts'
import { makeFrame, type Frame } from '../wire/chunk.ts'
import { encodeEvent, type StoredEvent } from '../wire/event.ts'
import type { Gzip } from './gzip.ts'

/** A write is at most this large, unless one event alone is larger. */
export const PIECE_BYTES = 64 * 1024
/** So many pieces are remembered for one position: where every stream has a filter of its own, looking for one would cost more than making it. */
const SHARED_KINDS = 8
/** What a pass remembers to share, at most, in bytes: clients that replay from many places share little. */
const SHARED_BYTES = 8 * 1024 * 1024
/** So many entries are looked at for one piece, at most: a filter that lets nothing through must not hold the event loop. */
const PIECE_ENTRIES = 512

/** Says whether a stream gets an event. A filter that throws closes its own stream with `error`. */
export type Filter = (event: StoredEvent<any>) => boolean

/**
 * What a stream wants of one channel: its entries after `from` that pass the filter. Never changed, only replaced: pieces refer to it.
 */
export interface Want<M extends Member = Member> {
  readonly log: ChannelLog<M>
  readonly from: number
  /** What this lets through, up to here, has gone out: the stream went back for another channel, and must not repeat it. */
  readonly seen: number
  readonly filter: Filter | undefined
}

/** What one write takes a stream from one position to the next with. */
export interface Piece {
  readonly wants: readonly Want[]
  /** How far its frame, a segment, refers back at most, in bytes; undefined: it is plain. */
  readonly window: number | undefined
  /** From how many bytes on it is made smaller, if it is one. */
  readonly minBytes: number | undefined
  /** Undefined where nothing on the way is for the stream. */
  readonly frame: Frame | undefined
  readonly events: number
  /** Where the stream stands after it. */
  readonly next: number
  /** Nothing more fits in, however far the head has moved since. */
  readonly full: boolean
  /** The last event in it: what the client's cursor says. */
  readonly cursor: number
}

/**
 * Makes the pieces of a pass. Streams that stand at the same position and want the same share one, so an event is
 * encoded once and not once for each stream.
 */
export class Pieces {
  readonly #log: Log<any>
  readonly #parse: (text: string) => unknown
  /** Parsed once for all filters of a pass. */
  readonly #stored = new Map<Entry, StoredEvent>()
  /** By the channel that is wanted first, and the position. */
  readonly #shared = new Map<ChannelLog<any>, Map<number, readonly Piece[]>>()
  #bytes = 0

  constructor (log: Log<any>, parse: (text: string) => unknown) {
    this.#log = log
    this.#parse = parse
  }

  /**
   * The piece for a stream that stands at a position, up to a later one at most.
   * @param gzip of the stream, if it is compressed
   */
  get (wants: readonly Want[], position: number, end: number, gzip?: Gzip): Piece {
    const { log } = wants[0]!
    const window = gzip?.window(wants, position)
    // A private channel has nobody to share with.
    if (log.members.size === 1) return this.#make(wants, position, end, gzip, window)
    const shared = this.#shared.get(log)
    const others = shared?.get(position) ?? []
    // For each delivery: an iterator would be a tenth of what it allocates.
    for (let i = 0; i < others.length; i++) {
      const other = others[i]!
      if ((other.full || other.next === end) && other.window === window && other.minBytes === gzip?.minBytes && sameWants(other.wants, wants, position)) return other
    }
    const piece = this.#make(wants, position, end, gzip, window)
    this.#bytes += piece.frame?.chunk.length ?? 0
    if (this.#bytes > SHARED_BYTES) this.clear()
    const pieces = [piece, ...others.slice(0, SHARED_KINDS - 1)]
    const remembered = this.#shared.get(log)
    if (remembered === undefined) this.#shared.set(log, new Map([[position, pieces]]))
    else remembered.set(position, pieces)
    return piece
  }

  /** Forgets them, at the end of a pass. */
  clear (): void {
    this.#shared.clear()
    this.#stored.clear()
    this.#bytes = 0
  }

  #make (wants: readonly Want[], position: number, end: number, gzip: Gzip | undefined, window: number | undefined): Piece {
    const next = wants.map(({ log, from }) => log.after(Math.max(from, position)))
    let text = ''
    let bytes = 0
    let events = 0
    let cursor = position
    const piece = (next: number, full: boolean): Piece => {
      const frame = events === 0 ? undefined : gzip === undefined ? makeFrame(text) : gzip.segment(text, this.#before(wants, position, window!))
      return { wants, window, minBytes: gzip?.minBytes, frame, events, next, full, cursor }
    }
    for (let looked = 0; ; looked++) {
      const item = earliest(wants, next, end)
      if (item === undefined) return piece(end, false)
      if (looked === PIECE_ENTRIES || (bytes > 0 && bytes + item.bytes > PIECE_BYTES)) return piece(item.seq - 1, true)
      if (!this.#accepted(wants, next, item)) continue
      text += this.#encode(item)
      bytes += item.bytes
      events++
      cursor = item.seq
    }
  }

  /** Steps over an entry in all channels that have it, and says whether the stream gets it. */
  #accepted (wants: readonly Want[], next: number[], item: Item): boolean {
    const { seq } = item
    const holds = (want: Want, i: number): boolean => next[i]! < want.log.events && want.log.at(next[i]!).seq === seq
    // What it had a chance to get through each of its channels is not for it a second time, and no filter is asked again.
    const fresh = wants.some((want, i) => seq > want.seen && holds(want, i))
    let accepted = false
    let gone = !fresh
    for (let i = 0; i < wants.length; i++) {
      const want = wants[i]!
      if (!holds(want, i)) continue
      next[i]!++
      if (gone || (accepted && seq > want.seen) || !this.#accepts(want.filter, item)) continue
      if (seq <= want.seen) gone = true
      else accepted = true
    }
    return accepted && !gone
  }

  #accepts (filter: Filter | undefined, item: Item): boolean {
    if (filter === undefined || item.kind === 'end') return true
    let event = this.#stored.get(item)
    if (event === undefined) this.#stored.set(item, event = storedEvent(item, this.#log.cursorAt(item.seq), this.#parse))
    const { store } = this.#log
    const { frozen } = store
    store.frozen = true
    try {
      return Boolean(checkAnswer('filter', filter(event)))
    } finally {
      store.frozen = frozen
    }
  }

  /**
   * The newest bytes, so many at most, that went out of these channels before a position: the history says what they were. It cannot say it where
   * a filter may have held some back or a channel of values has skipped some; nor below any channel's base; nor of an earlier life, whose name may be forgotten.
   */
  #before (wants: readonly Want[], position: number, window: number): Buffer | undefined {
    if (window === 0 || wants.some(({ filter, log }) => filter !== undefined || log.limits.latest)) return undefined
    const floor = Math.max(this.#log.lives.start, ...wants.map(({ log }) => log.base))
    const next = wants.map(({ log }) => log.after(position))
    const texts: string[] = []
    for (let bytes = 0; bytes < window;) {
      const item = latest(wants, next, floor)
      if (item === undefined) break
      // Of an entry of several channels each has an object of its own, where they were read one by one.
      wants.forEach(({ log }, i) => { if (next[i]! > 0 && log.at(next[i]! - 1).seq === item.seq) next[i]!-- })
      // Of a large one its end: one more than the window, for a character of two may be cut there.
      texts.push(this.#encode(item).slice(-window - 1))
      bytes += item.bytes
    }
    const all = Buffer.from(texts.reverse().join(''))
    return all.subarray(Math.max(0, all.length - window))
  }

  #encode ({ seq, kind, event, data, channels }: Item): string {
    const id = this.#log.cursorAt(seq)
    return kind === 'end'
      ? encodeEvent({ id, event: 'sse.end', data: JSON.stringify({ reason: data, channels }) })
      : encodeEvent({ id, event, data })
  }
}

/** The earliest entry that is next in any of the channels, up to the end. */
function earliest (wants: readonly Want[], next: readonly number[], end: number): Item | undefined {
  let earliest: Item | undefined
  for (let i = 0; i < wants.length; i++) {
    const { log } = wants[i]!
    if (next[i]! >= log.events) continue
    const item = log.at(next[i]!)
    if (item.seq <= (earliest === undefined ? end : earliest.seq - 1)) earliest = item
  }
  return earliest
}

/** The latest entry that is before the next one in any of the channels, down to the floor. */
function latest (wants: readonly Want[], next: readonly number[], floor: number): Item | undefined {
  let latest: Item | undefined
  for (let i = 0; i < wants.length; i++) {
    if (next[i] === 0) continue
    const item = wants[i]!.log.at(next[i]! - 1)
    if (item.seq > (latest?.seq ?? floor)) latest = item
  }
  return latest
}

/** Whether both want the same entries from a position on. */
function sameWants (a: readonly Want[], b: readonly Want[], position: number): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) {
    const one = a[i]!
    const other = b[i]!
    if (one.log !== other.log || one.filter !== other.filter) return false
    if (Math.max(one.from, position) !== Math.max(other.from, position) || Math.max(one.seen, position) !== Math.max(other.seen, position)) return false
  }
  return true
}

/** An entry as filters and `history()` see it. Its data is parsed when it is first asked for. */
export function storedEvent ({ channels, event, data, serialized }: Entry, id: string, parse: (text: string) => unknown): StoredEvent {
  let value: unknown
  let parsed = !serialized
  return {
    id,
    channels,
    ...(event !== undefined && { event }),
    get data () {
      if (parsed) return serialized ? value : data
      value = parse(data)
      parsed = true
      return value
    }
  }
}
