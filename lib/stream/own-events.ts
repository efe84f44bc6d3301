/** What a stream sends to its client alone, encoded, until it is written. */
export class OwnEvents {
  text = ''
  /** Of the text, in UTF-8. */
  bytes = 0
  #events = 0

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

  /** Hands all of it over. */
  take (): { readonly text: string, readonly bytes: number, readonly events: number } {
    const taken = { text: this.text, bytes: this.bytes, events: this.#events }
    this.text = ''
    this.bytes = this.#events = 0
    return taken
  }
}
