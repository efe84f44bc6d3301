import { constants, inflateRawSync } from 'node:zlib'

/** The most that deflate refers back to. */
const FURTHEST = 32_768
const HEAD_BYTES = 10

/** A gzip body, read write by write, as a client does that waits for nothing. */
export class Inflated {
  #text = Buffer.alloc(0)
  #begun = false

  /** @returns what this write adds, all of it: a client could not wait for the rest */
  add (bytes: Buffer): string {
    const blocks = this.#begun ? bytes : bytes.subarray(HEAD_BYTES)
    this.#begun = true
    const dictionary = this.#text.subarray(-FURTHEST)
    const more = inflateRawSync(blocks, { finishFlush: constants.Z_SYNC_FLUSH, ...(dictionary.length > 0 && { dictionary }) })
    this.#text = Buffer.concat([dictionary, more])
    return more.toString()
  }
}
