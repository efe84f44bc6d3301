import { encodeEvent, storedEvent, type StoredEvent } from './event.ts'
import type { History } from './history.ts'
import { checkAnswer } from './options.ts'
import type { Subscription } from './subscription.ts'

/** A write is at most this large, unless one event alone is larger. */
export const PIECE_BYTES = 64 * 1024
/** So many pieces are remembered for one position: where every stream has a filter of its own, looking for one would cost more than making it. */
const SHARED_KINDS = 8
/** What a pass remembers to share, at most, in bytes: clients that replay from many places share little. */
const SHARED_BYTES = 8 * 1024 * 1024
/** So many entries are looked at for one piece, at most: a filter that lets nothing through must not hold the event loop. */
const PIECE_ENTRIES = 512

/**
 * Bytes ready for a socket: one chunk of a chunked body (RFC 9112, section 7.1), of which `body` is the part without
 * size line and end, for a destination that frames the body itself.
 */
export interface Frame {
  readonly chunk: Buffer
  readonly body: Buffer
}

/** @param bytes the text's length in UTF-8, where it is known */
export function makeFrame (text: string, bytes = Buffer.byteLength(text)): Frame {
  const size = bytes.toString(16) + '\r\n'
  const chunk = Buffer.from(size + text + '\r\n')
  return { chunk, body: chunk.subarray(size.length, -2) }
}

/** What one write takes a stream from one position to the next with. */
export interface Piece {
  readonly subscriptions: readonly Subscription[]
  /** Undefined where nothing on the way is for the stream. */
  readonly frame: Frame | undefined
  readonly events: number
  /** Where the stream stands after it. */
  readonly next: number
  /** Nothing more fits in, however far the head has moved since. */
  readonly full: boolean
  /** The position after the last event in it: what the client's cursor says. */
  readonly cursor: number
}

/**
 * Makes the pieces of a pass. Streams that stand at the same position with the same subscriptions share one, so an event is
 * encoded once and not once for each stream.
 */
export class Pieces {
  readonly #history: History
  readonly #parse: (text: string) => unknown
  /** Parsed once for all filters of a pass. */
  readonly #stored = new Map<number, StoredEvent>()
  readonly #shared = new Set<Subscription['members']>()
  #bytes = 0

  constructor (history: History, parse: (text: string) => unknown) {
    this.#history = history
    this.#parse = parse
  }

  /** The piece for a stream that stands at a position, up to a later one at most. */
  get (subscriptions: readonly Subscription[], position: number, end: number): Piece {
    const { members } = subscriptions[0]!
    const others = members.pieces?.get(position) ?? []
    for (const other of others) {
      if ((other.full || other.next === end) && sameSubscriptions(other.subscriptions, subscriptions, position)) return other
    }
    const piece = this.#make(subscriptions, position, end)
    this.#bytes += piece.frame?.chunk.length ?? 0
    if (this.#bytes > SHARED_BYTES) this.clear()
    if (members.pieces === undefined) {
      members.pieces = new Map()
      this.#shared.add(members)
    }
    members.pieces.set(position, [piece, ...others.slice(0, SHARED_KINDS - 1)])
    return piece
  }

  /** Forgets them, at the end of a pass. */
  clear (): void {
    for (const members of this.#shared) members.pieces = undefined
    this.#shared.clear()
    this.#stored.clear()
    this.#bytes = 0
  }

  #make (subscriptions: readonly Subscription[], position: number, end: number): Piece {
    const history = this.#history
    const lists = subscriptions.map(({ members }) => history.positions(members.name))
    const next = subscriptions.map(({ from }, i) => lists[i]!.from(Math.max(from, position)))
    let text = ''
    let bytes = 0
    let events = 0
    let cursor = position
    for (let looked = 0; ; looked++) {
      const at = earliest(lists, next, end)
      if (at === end || looked === PIECE_ENTRIES) return piece(at, at !== end)
      const entry = history.at(at)
      if (bytes > 0 && bytes + entry.bytes > PIECE_BYTES) return piece(at, true)
      let accepted = false
      for (let i = 0; i < lists.length; i++) {
        if (next[i]! >= lists[i]!.length || lists[i]!.at(next[i]!) !== at) continue
        next[i]!++
        accepted ||= this.#accepts(subscriptions[i]!, at)
      }
      if (!accepted) continue
      text += encodeEvent({ id: entry.cursor, event: entry.event, data: entry.data })
      bytes += entry.bytes
      events++
      cursor = at + 1
    }

    function piece (next: number, full: boolean): Piece {
      return { subscriptions, frame: events === 0 ? undefined : makeFrame(text, bytes), events, next, full, cursor }
    }
  }

  #accepts ({ filter }: Subscription, position: number): boolean {
    if (filter === undefined) return true
    let event = this.#stored.get(position)
    if (event === undefined) this.#stored.set(position, event = storedEvent(this.#history.at(position), this.#parse))
    this.#history.reading = true
    try {
      return checkAnswer('filter', filter(event))
    } finally {
      this.#history.reading = false
    }
  }
}

/** The earliest position that the lists have next, or the end. */
function earliest (lists: ReadonlyArray<ReturnType<History['positions']>>, next: readonly number[], end: number): number {
  let position = end
  for (let i = 0; i < lists.length; i++) {
    if (next[i]! < lists[i]!.length) position = Math.min(position, lists[i]!.at(next[i]!))
  }
  return position
}

/** Whether both want the same entries from a position on. */
function sameSubscriptions (a: readonly Subscription[], b: readonly Subscription[], position: number): boolean {
  if (a === b) return true
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) {
    const one = a[i]!
    const other = b[i]!
    if (one.members !== other.members || one.filter !== other.filter) return false
    if (one.from !== other.from && (one.from > position || other.from > position)) return false
  }
  return true
}
