import { encodeCursor } from './event.ts'
import type { History } from './history.ts'
import { makeFrame, type Frame } from './piece.ts'

/** Decides when the cursor of a quiet stream is too old, and makes the block with the newest one, so that it stays good. */
export class Freshness {
  /** Streams whose cursor lies before this position are sent a fresh one. */
  staleBefore = 0

  readonly #history: History
  /** Position and bytes at which it was last decided. */
  #decidedAt = 0
  #appendedBytes = 0
  #frame: { position: number, frame: Frame } | undefined

  constructor (history: History) {
    this.#history = history
  }

  /**
   * An entry was appended. True when that is a quarter of the history's limits since the last time: now cursors are stale that are
   * older than the quarter before.
   */
  passed (bytes: number): boolean {
    const { head, limits: { maxEvents, maxBytes } } = this.#history
    this.#appendedBytes += bytes
    if (maxEvents === 0 || maxBytes === 0) return false
    if (head - this.#decidedAt < maxEvents / 4 && this.#appendedBytes < maxBytes / 4) return false
    this.staleBefore = this.#decidedAt
    this.#decidedAt = head
    this.#appendedBytes = 0
    return true
  }

  /** The id-only block with the newest cursor, made once for each. */
  get frame (): Frame {
    const position = this.#history.head
    if (this.#frame?.position !== position) this.#frame = { position, frame: makeFrame(encodeCursor(this.#history.cursorBefore(position))) }
    return this.#frame.frame
  }
}
