/**
 * Bytes ready for a socket: one chunk of a chunked body (RFC 9112, section 7.1), of which `body` is the part without
 * size line and end, for a destination that frames the body itself.
 */
export interface Frame {
  readonly chunk: Buffer
  readonly body: Buffer
}

/** @param bytes the text's length in UTF-8, where it is known */
export function makeFrame (text: string, bytes = Buffer.byteLength(text)): Frame {
  const size = bytes.toString(16) + '\r\n'
  const chunk = Buffer.from(size + text + '\r\n')
  return { chunk, body: chunk.subarray(size.length, -2) }
}

/** The same, of bytes. */
export function frame (bytes: Buffer): Frame {
  const size = Buffer.from(bytes.length.toString(16) + '\r\n')
  const chunk = Buffer.concat([size, bytes, CRLF])
  return { chunk, body: chunk.subarray(size.length, -2) }
}

const CRLF = Buffer.from('\r\n')
