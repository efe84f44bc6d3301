import type { Gap } from '../../lib/stream/gaps.ts'
import type { Fact, Truth } from './truth.ts'
import type { World } from './world.ts'

/** What a client got, in the order in which it came. */
export type Item =
  | { readonly type: 'entry', readonly time: number, readonly fact: Fact }
  | { readonly type: 'gap', readonly time: number, readonly gap: Gap }
  /** It went back on this channel. */
  | { readonly type: 'back', readonly time: number, readonly channel: string }
  /** A new connection, from this place in the order. */
  | { readonly type: 'connection', readonly time: number, readonly order: number }

/** A time in which a client was subscribed to a channel. */
export interface Span {
  readonly channel: string
  /** It is promised what comes after this place in the order. */
  start: number
  readonly began: number
  /** Up to this one, where it has ended. */
  end: number
  ended: number
  /** The index of the first item that can be of it; Infinity until the stream has moved there. */
  first: number
  /** When the first that could be of it came. */
  settled: number
  /** A gap may come, and must come first, as the cursor says nothing, or not what came between. */
  gapDue: boolean
  /** Joined without a cursor: what was there before is no news. */
  fresh: boolean
  /** All that is kept was asked for: whatever is gone is a gap. */
  all: boolean
  /** Uids that were kept when it was joined, of which the newest are to come. */
  due: readonly number[] | undefined
}

/** What one client got from one cursor on, over all of its connections: what the judge looks at. */
export class Session {
  readonly items: Item[] = []
  readonly spans: Span[] = []
  readonly number: number
  /** The cursor that it began with. */
  readonly cursor: string | null
  readonly client: { accepts (channel: string, uid: number): boolean, readonly mayGoBack: boolean }
  /** Complaints that need no judge. */
  readonly complaints: string[] = []
  /** The cursor that its present connection came with. */
  cursorOfStream: string | null = null
  /** The order of the last cursor. */
  place: number
  /** The order of the newest entry that it got. */
  newest = -1
  ended: number | undefined

  readonly #world: World
  readonly #truth: Truth
  /** Spans of which the stream has moved to the start, but nothing came yet. */
  #arriving: Array<{ readonly span: Span, readonly first: number }> = []
  /** Channels on which it went back, on this connection. */
  readonly wentBack = new Set<string>()

  constructor (world: World, truth: Truth, client: Session['client'], cursor: string | null, number: number) {
    this.#world = world
    this.#truth = truth
    this.client = client
    this.cursor = cursor
    this.number = number
    this.place = truth.orderOf(cursor)
  }

  connected (id: string | null): void {
    this.cursorOfStream = id
    this.#arriving = []
    this.wentBack.clear()
    this.items.push({ type: 'connection', time: this.#world.now, order: this.place })
  }

  join (channel: string, start: number): Span {
    const span = { channel, start, began: this.#world.now, end: Infinity, ended: Infinity, first: Infinity, settled: Infinity, gapDue: false, fresh: false, all: false, due: undefined }
    this.spans.push(span)
    return span
  }

  /** What comes from now on can be of it. */
  activate (span: Span): void {
    span.first = this.items.length
  }

  /** A new connection. Where the one before broke before it came to the span, that begins where all channels do. */
  resume (span: Span): void {
    if (span.first !== Infinity) return
    span.start = Math.max(span.start, this.place)
    span.due = undefined
    span.all = false
    span.gapDue = this.place < 0
    this.activate(span)
  }

  arrived (span: Span): void {
    if (span.first !== Infinity) return
    this.#arriving.push({ span, first: this.items.push({ type: 'back', time: this.#world.now, channel: span.channel }) })
  }

  part (span: Span, id: string | null): void {
    span.end = span.first === Infinity ? -1 : this.#truth.orderOf(id)
    span.ended = this.#world.now
  }

  finish (id: string | null): void {
    this.ended = this.#world.now
    for (const span of this.spans) if (span.end === Infinity) this.part(span, id)
  }

  // What came

  cursorCame (id: string, isGap: boolean): void {
    const order = this.#truth.orderOf(id)
    for (const { span, first } of this.#arriving) span.first = first
    this.#arriving = []
    for (const span of this.spans) if (span.first <= this.items.length && span.settled === Infinity) span.settled = this.#world.now
    if (order < this.place && this.wentBack.size === 0 && !isGap && !this.client.mayGoBack) this.complaints.push(`cursor C${this.number} went from ${this.place} to ${order}`)
    if (order < 0) this.complaints.push(`cursor C${this.number} ${id} is of no life`)
    this.place = order
    this.#world.tell(`C${this.number}`, 'id', id)
  }

  gapCame (gap: Gap): void {
    this.items.push({ type: 'gap', time: this.#world.now, gap })
    this.#world.tell(`C${this.number}`, 'GAP', gap)
  }

  entryCame (uid: number): void {
    const fact = this.#truth.facts.get(uid)
    if (fact === undefined) {
      this.complaints.push(`invented C${this.number} ${uid}`)
      return
    }
    this.items.push({ type: 'entry', time: this.#world.now, fact })
    this.newest = Math.max(this.newest, fact.order)
    this.#world.tell(`C${this.number}`, 'got', [fact.life, fact.seq, fact.channels])
  }
}
