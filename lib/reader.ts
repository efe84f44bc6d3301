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
    return this.subscriptions.some(({ ahead }) => ahead !== undefined)
  }

  join (names: readonly string[], { lastEventId, rewind, filter }: SubscribeOptions): void {
    this.#registry.history.evict(performance.now())
    const joined = this.subscriptions
    const known = new Set(joined.map(({ members }) => members.name))
    const fresh = names.filter(name => !known.has(name))
    const chosen = lastEventId !== undefined
    const start = findStart(this.#registry.history, names, chosen ? lastEventId : this.#resumed ? null : this.#stream.lastEventId, rewind)
    // A channel joined in a later turn: what it carried since the client's Last-Event-ID is not known.
    const late = !chosen && this.#resumed && this.#stream.lastEventId !== null && fresh.length > 0
    if ((start.gap !== undefined && (chosen || fresh.length > 0)) || late) this.#addGap(start.gap ?? 'unknown', chosen ? names : fresh)

    // Going back repeats nothing of the other channels: they go on from where the stream stood.
    const back = joined.length > 0 && start.from < this.position
    const stood = this.position
    if (joined.length === 0 || back) this.position = start.from
    this.subscriptions = [
      ...joined.filter(({ members }) => !names.includes(members.name)).map(other => back ? { ...other, from: Math.max(other.from, stood) } : other),
      ...names.map(name => {
        const old = joined.find(({ members }) => members.name === name)
        if (old !== undefined && !chosen) return { ...old, from: back ? Math.max(old.from, stood) : old.from, filter }
        return { members: this.#registry.join(name, this.#stream), from: start.from, filter, ahead: start.ahead, newest: start.newest }
      })
    ]
    if (start.ahead !== undefined) this.#hold()
    // Last: a listener may subscribe, unsubscribe or close the stream.
    for (const channel of fresh) this.#registry.announce('subscribe', { channel, stream: this.#stream })
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
      const { history } = this.#registry
      const stood = this.position
      let back = stood
      const found = this.subscriptions.map(subscription => {
        const { ahead, members, newest } = subscription
        if (ahead === undefined) return subscription
        const { position, state } = history.find(ahead)
        if (state === 'good') return { ...subscription, from: position, ahead: undefined }
        this.#addGap(state === 'expired' ? state : 'unknown', [members.name])
        const from = newest ?? subscription.from
        back = Math.min(back, from)
        return { ...subscription, from, ahead: undefined }
      })
      this.subscriptions = back === stood ? found : found.map((one, i) => this.subscriptions[i]!.ahead === undefined ? { ...one, from: Math.max(one.from, stood) } : one)
      // The first cursor that the client gets must not be older than its own, unless it goes back.
      this.position = back < stood ? back : Math.max(stood, Math.min(history.head, ...found.map(({ from }) => from)))
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
    return this.#registry.headFrame()
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
