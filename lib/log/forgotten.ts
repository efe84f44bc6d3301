/** Names of channels without a log whose last entry is remembered, and the characters of all these names. */
const REMEMBERED = 10_000
const REMEMBERED_CHARACTERS = 1024 * 1024

/** What is remembered of a channel. `last`: nothing of it is above this. `cut`: it had entries, as far as is known. */
export interface Remembered { readonly last: number, readonly cut: boolean }

/** The channels without a log, of a process that alone knows their history. */
export class Forgotten {
  /** The last entry of none that is not remembered by name is above this. */
  #bound: number
  #characters = 0
  readonly #channels = new Map<string, Remembered>()

  constructor (bound: number) {
    this.#bound = bound
  }

  add (name: string, channel: Remembered): void {
    this.#channels.set(name, channel)
    this.#characters += name.length
    for (const [oldest, { last }] of this.#channels) {
      if (this.#channels.size <= REMEMBERED && this.#characters <= REMEMBERED_CHARACTERS) break
      this.#bound = Math.max(this.#bound, last)
      this.#drop(oldest)
    }
  }

  /** Its log takes over now, and begins there. */
  take (name: string): Remembered {
    const channel = this.#channels.get(name)
    if (channel === undefined) return { last: this.#bound, cut: false }
    this.#drop(name)
    return channel
  }

  #drop (name: string): void {
    this.#channels.delete(name)
    this.#characters -= name.length
  }
}
