import type { History } from './history.ts'
import type { Pieces } from './piece.ts'
import type { Stream } from './stream.ts'
import type { Members } from './subscription.ts'

/** A stream is written so many pieces before the next one has its turn. */
const PIECES_A_VISIT = 4
/** A pass holds the event loop no longer than this, in ms. */
const SLICE = 5
/** So many quiet streams join a pass, besides as many as it has anyway. */
const QUIET_A_PASS = 16

/**
 * The delivery pass: one walk over the streams that were ready when it began, moving each forward. Only a pass writes channel events.
 * What is published meanwhile moves the head, so that streams reached later get more in one write.
 */
export class Delivery {
  /** performance.now() at the last pass or sweep. */
  now = performance.now()

  readonly #history: History
  readonly #pieces: Pieces
  /** For the next pass. */
  #streams: Stream[] = []
  #channels: Members[] = []
  #quiet: Stream[] = []
  /** The present pass: its streams, how many were visited, and the head at which it began. */
  #pass: Stream[] = []
  #visited = 0
  #head = 0
  #scheduled = false

  constructor (history: History, pieces: Pieces) {
    this.#history = history
    this.#pieces = pieces
  }

  /** The next pass visits this stream. */
  stream (stream: Stream): void {
    if (stream.ready) return
    stream.ready = true
    this.#streams.push(stream)
    this.schedule()
  }

  /** The next pass visits all members. Marking the channel, not each of them, makes publishing cost the same for any number. */
  channel (members: Members): void {
    if (members.ready) return
    members.ready = true
    this.#channels.push(members)
    this.schedule()
  }

  /** A heartbeat or a fresh cursor is due: one of the next passes visits the stream. Thousands can be due at once, and an event must not wait behind them. */
  quiet (stream: Stream): void {
    this.#quiet.push(stream)
    this.schedule()
  }

  tick (): void {
    this.now = performance.now()
  }

  /** Sees to what was appended: by a pass, or, where nobody waits for it, at once. */
  schedule (): void {
    if (this.#scheduled) return
    if (!this.#waiting) {
      this.#history.release(this.#history.head, performance.now())
      return
    }
    this.#scheduled = true
    this.#begin()
  }

  get #waiting (): boolean {
    return this.#streams.length > 0 || this.#channels.length > 0 || this.#quiet.length > 0
  }

  #begin (): void {
    setImmediate(() => {
      this.#pass = this.#streams
      this.#streams = []
      for (const members of this.#channels) {
        members.ready = false
        for (const stream of members.streams) this.#add(stream)
      }
      this.#channels = []
      for (const stream of this.#quiet.splice(0, QUIET_A_PASS + this.#pass.length)) this.#add(stream)
      this.#visited = 0
      this.#head = this.#history.head
      this.#run()
    })
  }

  #add (stream: Stream): void {
    if (stream.ready) return
    stream.ready = true
    this.#pass.push(stream)
  }

  /** One slice of the pass. */
  #run (): void {
    this.tick()
    const end = this.now + SLICE
    while (this.#visited < this.#pass.length) {
      this.#visit(this.#pass[this.#visited++]!)
      if (performance.now() > end) {
        setImmediate(() => this.#run())
        return
      }
    }
    this.#pass = []
    this.#pieces.clear()
    this.#history.release(this.#offered(), this.now)
    this.#scheduled = false
    if (this.#waiting) this.schedule()
  }

  /**
   * Up to where every stream that can take it was offered everything: the head at which the pass began, or where a stream
   * stands that became ready meanwhile, by a drain or with a cursor that was just found to be good.
   */
  #offered (): number {
    let offered = this.#head
    for (const { reader } of this.#streams) if (reader !== undefined) offered = Math.min(offered, reader.position)
    return offered
  }

  #visit (stream: Stream): void {
    stream.ready = false
    if (!stream.advance(PIECES_A_VISIT)) return
    // A stream that can take more stays in this pass until it has all that was there when it began.
    if (stream.reader!.position >= this.#head) return this.stream(stream)
    stream.ready = true
    this.#pass.push(stream)
  }
}
