const LONGEST_PERIOD = 1_000
const SHORTEST_PERIOD = 10

/** What is swept: a stream, until its response is done. */
export interface Swept {
  /** The shortest of its limits, in ms; Infinity: none. */
  readonly shortestLimit: number
  /** @param now ms, of performance.now() */
  sweep (now: number): void
}

/**
 * One timer for all streams, and for what is kept for them: heartbeats, ages and stalls. It runs while there is something to look at, once
 * a second, or more often where a limit is so short that it would be missed by more than a tenth.
 */
export class Sweep<T extends Swept> {
  readonly swept: ReadonlySet<T>
  readonly #swept = new Set<T>()
  readonly #look: () => boolean
  #period = LONGEST_PERIOD
  #timer: NodeJS.Timeout | undefined

  /** @param look called before the streams, at each look; false: there is nothing else to look at */
  constructor (look: () => boolean) {
    this.#look = look
    this.swept = this.#swept
  }

  add (swept: T): void {
    this.#swept.add(swept)
    this.run(swept.shortestLimit)
  }

  delete (swept: T): void {
    this.#swept.delete(swept)
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
    for (const swept of this.#swept) swept.sweep(now)
    if (!more && this.#swept.size === 0) this.stop()
  }
}
