const LONGEST_PERIOD = 1_000
const SHORTEST_PERIOD = 10

/** What is swept: a stream, until its response is done. */
export interface Swept {
  /** The shortest of its limits, in ms; 0 = none. */
  readonly shortestLimit: number
  /** @param now ms, of performance.now() */
  sweep (now: number): void
}

/**
 * One timer for all streams, that runs while there are any: heartbeats, ages and stalls. It looks once a second, or more often
 * where a limit is so short that it would be missed by more than a tenth.
 */
export class Sweep<T extends Swept> {
  readonly swept: ReadonlySet<T>
  readonly #swept = new Set<T>()
  readonly #before: () => void
  #period = LONGEST_PERIOD
  #timer: NodeJS.Timeout | undefined

  /** @param before called before the streams, at each look */
  constructor (before: () => void) {
    this.#before = before
    this.swept = this.#swept
  }

  add (swept: T): void {
    this.#swept.add(swept)
    const period = swept.shortestLimit === 0 ? LONGEST_PERIOD : Math.max(SHORTEST_PERIOD, swept.shortestLimit / 10)
    if (this.#timer !== undefined && period >= this.#period) return
    clearInterval(this.#timer)
    this.#period = Math.min(period, LONGEST_PERIOD)
    // The timer alone must not keep a process alive: open sockets do that.
    this.#timer = setInterval(() => this.#look(), this.#period).unref()
  }

  delete (swept: T): void {
    this.#swept.delete(swept)
    if (this.#swept.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }

  #look (): void {
    this.#before()
    const now = performance.now()
    for (const swept of this.#swept) swept.sweep(now)
  }
}
