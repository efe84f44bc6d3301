interface Scheduled { readonly time: number, readonly number: number, readonly call: () => void }

/**
 * Time and chance of one run: everything that happens is an event of one queue, and every choice comes from one generator, so a seed gives
 * the same run again.
 */
export class World {
  /** ms. */
  now = 0
  /** What happened, where somebody wants to read it. */
  readonly story: string[] | undefined
  /** A checksum of the story, told or not: two runs of a seed have the same. */
  checksum = 0

  #state: number
  #number = 0
  #settled = false
  readonly #queue: Scheduled[] = []

  constructor (seed: number, tell: boolean) {
    this.#state = Math.imul(seed, 2_654_435_761) >>> 0
    this.story = tell ? [] : undefined
  }

  // Chance

  random (): number {
    let a = this.#state = (this.#state + 0x6D2B79F5) | 0
    a = Math.imul(a ^ (a >>> 15), 1 | a)
    a = (a + Math.imul(a ^ (a >>> 7), 61 | a)) ^ a
    return ((a ^ (a >>> 14)) >>> 0) / 4_294_967_296
  }

  chance (probability: number): boolean { return this.random() < probability }
  /** A whole number, both ends included. */
  int (least: number, most: number): number { return least + Math.floor(this.random() * (most - least + 1)) }
  pick<T> (list: readonly T[]): T { return list[Math.floor(this.random() * list.length)]! }
  /** A time until something that happens so often a second. */
  wait (aSecond: number): number { return -Math.log(1 - this.random()) * 1_000 / aSecond }

  // Time

  at (delay: number, call: () => void): void {
    const event = { time: this.now + delay, number: this.#number++, call }
    const queue = this.#queue
    let i = queue.push(event) - 1
    while (i > 0) {
      const parent = (i - 1) >> 1
      if (isBefore(queue[parent]!, event)) break
      queue[i] = queue[parent]!
      i = parent
    }
    queue[i] = event
  }

  /** Runs all that is to happen up to a time. */
  async until (time: number): Promise<void> {
    while (this.#queue.length > 0 && this.#queue[0]!.time <= time) {
      const { time, call } = this.#take()
      this.now = time
      call()
      // Who waits for a promise runs before the next event: or after it, as when one chunk of bytes carries both.
      if (this.#settled && (this.#state & 7) !== 0) await this.#runWaiting()
    }
    await this.#runWaiting()
    this.now = time
  }

  /** A promise was settled. */
  settled (): void { this.#settled = true }

  async #runWaiting (): Promise<void> {
    this.#settled = false
    for (let i = 0; i < 5; i++) await undefined
  }

  #take (): Scheduled {
    const queue = this.#queue
    const first = queue[0]!
    const last = queue.pop()!
    if (queue.length === 0) return first
    let i = 0
    for (;;) {
      let child = 2 * i + 1
      if (child >= queue.length) break
      if (child + 1 < queue.length && isBefore(queue[child + 1]!, queue[child]!)) child++
      if (isBefore(last, queue[child]!)) break
      queue[i] = queue[child]!
      i = child
    }
    queue[i] = last
    return first
  }

  // The story

  tell (who: string, what: string, about: unknown = ''): void {
    this.checksum = (Math.imul(this.checksum, 31) + what.length + Math.floor(this.now * 1_000)) | 0
    this.story?.push(`${this.now.toFixed(1)} ${who} ${what} ${typeof about === 'string' ? about : JSON.stringify(about)}`)
  }
}

function isBefore (a: Scheduled, b: Scheduled): boolean {
  return a.time < b.time || (a.time === b.time && a.number < b.number)
}

/** A promise and what settles it, in the time of a world. */
export function defer<T> (world: World): { promise: Promise<T>, resolve: (value: T) => void, reject: (error: Error) => void } {
  let resolve!: (value: T) => void
  let reject!: (error: Error) => void
  const promise = new Promise<T>((_resolve, _reject) => {
    resolve = value => { world.settled(); _resolve(value) }
    reject = error => { world.settled(); _reject(error) }
  })
  return { promise, resolve, reject }
}
