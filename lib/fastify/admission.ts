import { SSE_ERR_TOO_MANY_STREAMS, SSE_ERR_TOO_MANY_STREAMS_FOR_KEY } from '../errors.ts'

/** Counts the streams of each key, and refuses one too many, of a key or in all. */
export class Admission {
  readonly #maxStreams: number
  readonly #maxStreamsPerKey: number
  readonly #perKey = new Map<unknown, number>()

  constructor (limits: { maxStreams: number, maxStreamsPerKey: number }) {
    this.#maxStreams = limits.maxStreams
    this.#maxStreamsPerKey = limits.maxStreamsPerKey
  }

  /** Whether keys are counted at all. */
  get perKey (): boolean { return this.#maxStreamsPerKey !== Infinity }

  /**
   * @param streams how many there are already
   * @throws SSE_ERR_TOO_MANY_STREAMS, SSE_ERR_TOO_MANY_STREAMS_FOR_KEY
   */
  enter (streams: number, key: unknown): void {
    if (streams >= this.#maxStreams) throw new SSE_ERR_TOO_MANY_STREAMS(this.#maxStreams)
    if (!this.perKey) return
    const count = this.#perKey.get(key) ?? 0
    if (count >= this.#maxStreamsPerKey) throw new SSE_ERR_TOO_MANY_STREAMS_FOR_KEY(this.#maxStreamsPerKey)
    this.#perKey.set(key, count + 1)
  }

  /** Once for each `enter`. */
  leave (key: unknown): void {
    if (!this.perKey) return
    const count = this.#perKey.get(key)! - 1
    if (count === 0) this.#perKey.delete(key)
    else this.#perKey.set(key, count)
  }
}
