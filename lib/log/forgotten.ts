/** Names of channels without a log whose last entry is remembered, and the characters of all these names. */
const REMEMBERED = 10_000
const REMEMBERED_CHARACTERS = 1024 * 1024

/** The channels without a log, of a process that alone knows their history: how new the last entry of each was. */
export class Forgotten {
  /** The last entry of none that is not remembered by name is above this. */
  #bound: number
  #characters = 0
  readonly #lasts = new Map<string, number>()

  constructor (bound: number) {
    this.#bound = bound
  }

  add (name: string, last: number): void {
    this.#lasts.set(name, last)
    this.#characters += name.length
    for (const [oldest, seq] of this.#lasts) {
      if (this.#lasts.size <= REMEMBERED && this.#characters <= REMEMBERED_CHARACTERS) break
      this.#bound = Math.max(this.#bound, seq)
      this.#drop(oldest)
    }
  }

  /** Nothing of the channel is above this. Its log, that takes over now, begins there. */
  take (name: string): number {
    const last = this.#lasts.get(name)
    if (last === undefined) return this.#bound
    this.#drop(name)
    return last
  }

  #drop (name: string): void {
    this.#lasts.delete(name)
    this.#characters -= name.length
  }
}
