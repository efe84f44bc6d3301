import type { Compression } from '../options.ts'
import { Checksum, deflate, store, type Segment } from '../wire/gzip.ts'

const NOTHING: Buffer = Buffer.alloc(0)
/** Windows are used in so many sizes, each a quarter of the one before: streams share a segment where they use the same. */
const SIZES = 3

/** Of what a stream wants of one channel: where it begins, and what has gone out already. */
interface Wanted { readonly from: number, readonly seen: number }

/**
 * What a compressed stream knows of its client, so that segments may refer back to what it has had. zlib keeps nothing for a stream: each segment is
 * made anew, and shared like any other piece.
 */
export class Gzip extends Checksum {
  readonly #compression: Compression
  readonly #onFailure: (error: unknown) => void
  /** What `#had` is of. */
  #wants: readonly Wanted[] | undefined
  /** Bytes of these channels that went out last, with nothing in between and nothing left out: the largest window at most. */
  #had = 0
  /** What goes out next leaves nothing out. */
  #whole = false

  /** @param onFailure told when zlib fails: what it could not make smaller goes as it is */
  constructor (compression: Compression, onFailure: (error: unknown) => void) {
    super()
    this.#compression = compression
    this.#onFailure = onFailure
  }

  /** From how many bytes on what cannot refer back is made smaller. */
  get minBytes (): number { return this.#compression.minBytes }

  /** @param dictionary what the client has just had, if it is known */
  segment (text: string, dictionary = NOTHING): Segment {
    const plain = Buffer.from(text)
    if (plain.length < this.minBytes && dictionary.length === 0) return store(plain)
    try {
      return deflate(plain, dictionary)
    } catch (error) {
      this.#onFailure(error)
      return store(plain)
    }
  }

  /** How far the segment of these channels that begins at a position may refer back, in bytes. */
  window (wants: readonly Wanted[], position: number): number {
    this.#whole = wants.every(({ from, seen }) => position >= from && position >= seen)
    if (wants !== this.#wants || !this.#whole) this.#had = 0
    this.#wants = wants
    for (let i = 0, size = this.#compression.window; i < SIZES; i++, size >>= 2) if (this.#had >= size) return size
    return 0
  }

  /** @param shared events of channels have gone out, and nothing else */
  sent (segment: Segment, shared: boolean): void {
    this.add(segment)
    this.#had = shared && this.#whole ? Math.min(this.#had + segment.length, this.#compression.window) : 0
  }

  /** What the channels had is no longer what the client has had: the window begins here. */
  interrupt (): void { this.#had = 0 }
}
