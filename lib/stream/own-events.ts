import { defer, type Deferred } from './closing.ts'

/** What a stream sends to its client alone, encoded, until it is written, and the promise of room for more. */
export class OwnEvents {
  text = ''
  /** Of the text, in UTF-8. */
  bytes = 0
  #events = 0
  #room: Deferred<boolean> | undefined

  /** @param events how many of it fire in a client */
  add (text: string, events = 0): void {
    this.text += text
    this.bytes += Buffer.byteLength(text)
    this.#events += events
  }

  /** Puts in front what the reader has to say. */
  prepend (text: string): void {
    this.text = text + this.text
    this.bytes += Buffer.byteLength(text)
  }

  /** Resolves with what is said of room next: all that wait for it share one promise. */
  get room (): Promise<boolean> {
    this.#room ??= defer()
    return this.#room.promise
  }

  /** @param taken there is room; else the stream is closed */
  tellRoom (taken: boolean): void {
    this.#room?.resolve(taken)
    this.#room = undefined
  }

  /** Hands all of it over. */
  take (): { readonly text: string, readonly bytes: number, readonly events: number } {
    const taken = { text: this.text, bytes: this.bytes, events: this.#events }
    this.text = ''
    this.bytes = this.#events = 0
    return taken
  }
}
