import { encodeCursor, encodeEvent } from './event.ts'
import type { SubscribeOptions } from './options.ts'
import { makeFrame, type Frame } from './piece.ts'
import type { Registry } from './registry.ts'
import type { Stream } from './stream.ts'
import { findStart, type GapReason, type Subscription } from './subscription.ts'

/** What one write takes a stream forward with. */
export interface Step {
  /** Undefined where nothing on the way is for the stream. */
  readonly frame: Frame | undefined
  /** Channel events in it. */
  readonly events: number
}

/** A stream's place in the history: its subscriptions, its position, and what it must be told. */
export class Reader {
  /** Where the stream stands: the next entry that it was not offered. */
  position = 0
  /** The position that the client's cursor names. */
  cursor = 0
  subscriptions: readonly Subscription[] = []

  readonly #registry: Registry
  readonly #stream: Stream
  #gaps: Array<{ reason: GapReason, channels: readonly string[] }> | undefined
  /** The cursor of the first position has been sent. */
  #primed = false
  /** A pass has begun from the client's Last-Event-ID: what is joined later starts at the head. */
  #resumed = false

  constructor (registry: Registry, stream: Stream) {
    this.#registry = registry
    this.#stream = stream
  }

  /** The client's cursor is newer than what this process has read. */
  get held (): boolean {
    return this.subscriptions.some(({ held }) => held !== undefined)
  }

  join (names: readonly string[], options: SubscribeOptions): void {
    this.#registry.history.evict(performance.now())
    const joined = new Set(this.subscriptions.map(({ members }) => members.name))
    const fresh = names.filter(name => !joined.has(name))
    const { lastEventId } = options
    this.#start(names, fresh, lastEventId !== undefined ? lastEventId : this.#resumed ? null : this.#stream.lastEventId, options)
    // Last: a listener may subscribe, unsubscribe or close the stream.
    for (const channel of fresh) this.#registry.announce('subscribe', { channel, stream: this.#stream })
  }

  /** @param settled this process has read all that there is: a cursor that is newer still is not good */
  #start (names: readonly string[], fresh: readonly string[], cursor: string | null, options: SubscribeOptions, settled = false): void {
    const { filter, rewind } = options
    const chosen = options.lastEventId !== undefined || settled
    const start = findStart(this.#registry.history, names, cursor, rewind)
    const held = start.ahead && !settled ? { cursor: cursor!, options } : undefined
    // A channel joined in a later turn: what it carried since the client's Last-Event-ID is not known.
    const late = !chosen && this.#resumed && this.#stream.lastEventId !== null
    const gap = start.gap ?? (late || (start.ahead && settled) ? 'unknown' : undefined)
    const told = chosen ? names : fresh
    if (gap !== undefined && told.length > 0) this.#addGap(gap, told)

    // Going back repeats nothing of the other channels: they go on from where the stream stood.
    const stood = this.position
    const back = this.subscriptions.length > 0 && start.from < stood
    const stay = (subscription: Subscription): Subscription => back ? { ...subscription, from: Math.max(subscription.from, stood) } : subscription
    if (this.subscriptions.length === 0 || back) this.position = start.from
    const known = new Map(this.subscriptions.map(subscription => [subscription.members.name, subscription]))
    this.subscriptions = [
      ...this.subscriptions.filter(({ members }) => !names.includes(members.name)).map(stay),
      ...names.map(name => {
        const old = known.get(name)
        if (old !== undefined && !chosen) return { ...stay(old), filter }
        return { members: this.#registry.join(name, this.#stream), from: start.from, filter, held }
      })
    ]
    if (held !== undefined) this.#hold()
  }

  leave (names: readonly string[]): void {
    const left = this.subscriptions.filter(({ members }) => names.includes(members.name))
    this.subscriptions = this.subscriptions.filter(subscription => !left.includes(subscription))
    if (this.subscriptions.length === 0) this.#primed = false
    for (const { members } of left) this.#registry.leave(members, this.#stream)
  }

  /** The client comes from a process that has read more: wait until this one has read as much, and look again. */
  #hold (): void {
    this.#registry.sync().then(() => {
      if (this.#stream.reader !== this) return // closed meanwhile
      const { history } = this.#registry
      for (const held of new Set(this.subscriptions.map(({ held }) => held))) {
        if (held === undefined) continue
        const names = this.subscriptions.filter(subscription => subscription.held === held).map(({ members }) => members.name)
        this.#start(names, [], held.cursor, held.options, true)
      }
      // The first cursor that the client gets must not be older than its own.
      this.position = Math.max(this.position, Math.min(history.head, ...this.subscriptions.map(({ from }) => from)))
      this.#registry.ready(this.#stream)
    }, () => {}) // The backplane is closed, and the stream with it.
  }

  /** The gap events that are due: they go out before anything else. */
  gaps (): string {
    if (this.position < this.#registry.history.first) this.#catchUp()
    this.#resumed = true
    if (this.#gaps === undefined) return ''
    this.#primed = true
    return this.#tellGaps()
  }

  /**
   * Once, the cursor of the first position. It goes out after the stream's own events: a client that drops before it comes back
   * without it, and gets its snapshot again.
   */
  prime (): string {
    if (this.#primed) return ''
    this.#primed = true
    this.cursor = this.position
    return encodeCursor(this.#registry.history.cursorBefore(this.position))
  }

  /** Takes one step towards the head; undefined when it stands there. */
  step (): Step | undefined {
    const { history, pieces } = this.#registry
    if (this.position >= history.head || this.subscriptions.length === 0) return undefined
    const end = history.markers.find(marker => marker >= this.position) ?? history.head
    if (end === this.position) {
      this.position++
      this.#addGap('reset', this.#names())
      return { frame: makeFrame(this.#tellGaps()), events: 0 }
    }
    const piece = pieces.get(this.subscriptions, this.position, end)
    this.position = piece.next
    if (piece.events > 0) this.cursor = piece.cursor
    return piece
  }

  /** Standing at the head: the newest cursor, so that the client's does not age out. */
  freshCursor (): Frame {
    this.cursor = this.position
    return this.#registry.freshness.frame
  }

  /**
   * What the stream stands at was evicted. If none of it was for the stream, it steps over. Else it is told, and goes on in the
   * middle of the history: at the edge it would fall off again at once.
   */
  #catchUp (): void {
    const { history } = this.#registry
    const stood = this.position
    const overrun = this.subscriptions.some(({ members, from }) => members.evicted >= Math.max(from, stood))
    this.position = history.first + (overrun ? history.events >> 1 : 0)
    if (history.evictedMarker >= stood || history.markers.some(marker => marker < this.position)) this.#addGap('reset', this.#names())
    // What is skipped counts as lost, evicted or not.
    const lost = this.subscriptions.filter(({ members, from }) => members.evicted >= Math.max(from, stood) ||
      (overrun && history.positions(members.name).any(Math.max(from, stood), this.position)))
    if (lost.length > 0) this.#addGap('overrun', lost.map(({ members }) => members.name))
  }

  #addGap (reason: GapReason, channels: readonly string[]): void {
    const gaps = this.#gaps ??= []
    const same = gaps.findIndex(gap => gap.reason === reason)
    if (same === -1) gaps.push({ reason, channels })
    else gaps[same] = { reason, channels: [...new Set([...gaps[same]!.channels, ...channels])] }
  }

  #tellGaps (): string {
    const gaps = this.#gaps ?? []
    this.#gaps = undefined
    this.cursor = this.position
    const id = this.#registry.history.cursorBefore(this.position)
    return gaps.map(({ reason, channels }) => {
      this.#stream.toldGap(reason, channels, id)
      return encodeEvent({ id, event: 'sse.gap', data: JSON.stringify({ reason, channels }) })
    }).join('')
  }

  #names (): string[] {
    return this.subscriptions.map(({ members }) => members.name)
  }
}
