const LONGEST_PERIOD = 1_000
const SHORTEST_PERIOD = 10

/** What is swept: a stream, until its response is done. */
export interface Swept {
  /** @param now ms, of performance.now() */
  sweep (now: number): void
}

/**
 * One timer for all streams, and for what is kept for them: heartbeats, ages and stalls. It runs while there is something to look at, once
 * a second, or more often where a limit is so short that it would be missed by more than a tenth.
 */
export class Sweep<T extends Swept> {
  /** Ended, and not flushed. */
  readonly ending = new Set<T>()
  readonly #streams: ReadonlySet<T>
  readonly #look: () => boolean
  #period = LONGEST_PERIOD
  #timer: NodeJS.Timeout | undefined

  /**
   * @param streams those that have not ended
   * @param look called before the streams, at each look; false: there is nothing else to look at
   */
  constructor (streams: ReadonlySet<T>, look: () => boolean) {
    this.#streams = streams
    this.#look = look
  }

  /** Looks from now on, as often as this limit needs, in ms. */
  run (limit = Infinity): void {
    const period = Math.min(LONGEST_PERIOD, Math.max(SHORTEST_PERIOD, limit / 10))
    if (this.#timer !== undefined && period >= this.#period) return
    clearInterval(this.#timer)
    this.#period = period
    // The timer alone must not keep a process alive: open sockets do that.
    this.#timer = setInterval(() => this.#sweep(), this.#period).unref()
  }

  stop (): void {
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #sweep (): void {
    const more = this.#look()
    const now = performance.now()
    for (const swept of this.#streams) swept.sweep(now)
    for (const swept of this.ending) swept.sweep(now)
    if (!more && this.#streams.size === 0 && this.ending.size === 0) this.stop()
  }
}
