const CRLF = Buffer.from('\r\n')

/** Bytes ready for a socket: one chunk of a chunked body (RFC 9112, section 7.1). */
export class Frame {
  readonly chunk: Buffer
  /** Length of the body. */
  readonly bytes: number

  constructor (chunk: Buffer, bytes: number) {
    this.chunk = chunk
    this.bytes = bytes
  }

  /** The part without size line and end, for a destination that frames the body itself. */
  get body (): Buffer {
    const end = this.chunk.length - CRLF.length
    return this.chunk.subarray(end - this.bytes, end)
  }
}

/** @param bytes the text's length in UTF-8, where it is known */
export function makeFrame (text: string, bytes = Buffer.byteLength(text)): Frame {
  return new Frame(Buffer.from(bytes.toString(16) + '\r\n' + text + '\r\n'), bytes)
}

/** What is bytes already, as one chunk. */
export function chunkOf (bytes: Buffer): Buffer {
  return Buffer.concat([Buffer.from(bytes.length.toString(16)), CRLF, bytes, CRLF])
}
