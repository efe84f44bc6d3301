import { constants, crc32, deflateRawSync } from 'node:zlib'
import { chunkOf, Frame } from './chunk.ts'

/**
 * Some bytes of a gzip stream (RFC 1952) that can go to any client that has had the bytes it refers back to: deflate blocks (RFC 1951) which
 * end at a byte, so that the client can read all of them at once, and without an end of their own.
 */
export class Segment extends Frame {
  /** Of what it inflates to: its length, its CRC-32, and what that many bytes more do to the CRC-32 of what came before. */
  readonly length: number
  readonly crc: number
  readonly shift: number

  constructor (bytes: Buffer, plain: Buffer) {
    super(chunkOf(bytes), bytes.length)
    this.length = plain.length
    this.crc = crc32(plain)
    this.shift = shiftOf(plain.length)
  }
}

/** What a gzip stream begins with: deflate, no flags, no time, an unknown system. */
export const GZIP_HEAD = Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])

/** The last block of a stream, which is empty. */
const LAST_BLOCK = Buffer.from([3, 0])
/** An empty stored block. Go's inflate hands over what it has at no other place. */
const FLUSH = Buffer.from([0, 0, 0, 255, 255])
/** A stored block holds no more. */
const STORED_BYTES = 0xffff
const STORED_HEAD = 5
/** What is larger is compressed in a third of the time, to a little more: it must not hold the event loop. */
const QUICK_BYTES = 16 * 1024

/** A segment that is as long as what it holds, and ten bytes; five more for each 64 KiB. */
export function store (plain: Buffer): Segment {
  const parts: Buffer[] = []
  for (let i = 0; i < plain.length; i += STORED_BYTES) {
    const part = plain.subarray(i, i + STORED_BYTES)
    const head = Buffer.alloc(STORED_HEAD)
    head.writeUInt16LE(part.length, 1)
    head.writeUInt16LE(part.length ^ STORED_BYTES, 3)
    parts.push(head, part)
  }
  return new Segment(Buffer.concat([...parts, FLUSH]), plain)
}

/**
 * A segment that is made smaller, where that is possible.
 * @param dictionary what the client has just had: the segment refers back to it
 */
export function deflate (plain: Buffer, dictionary: Buffer): Segment {
  const bytes = deflateRawSync(plain, { finishFlush: constants.Z_SYNC_FLUSH, ...(plain.length > QUICK_BYTES && { level: constants.Z_BEST_SPEED }), ...(dictionary.length > 0 && { dictionary }) })
  return bytes.length < plain.length + STORED_HEAD + FLUSH.length ? new Segment(bytes, plain) : store(plain)
}

/** What one client has had of its gzip stream: enough to end it. */
export class Checksum {
  #crc = 0
  #length = 0

  add ({ length, crc, shift }: Segment): void {
    this.#crc = multiply(shift, this.#crc) ^ crc
    this.#length = (this.#length + length) | 0
  }

  /** The end of the stream: CRC-32 and length (RFC 1952, section 2.3.1). */
  end (): Buffer {
    const trailer = Buffer.alloc(8)
    trailer.writeInt32LE(this.#crc, 0)
    trailer.writeInt32LE(this.#length, 4)
    return Buffer.concat([LAST_BLOCK, trailer])
  }
}

// A CRC-32 is a polynomial over GF(2), the highest power in the lowest bit. That of two texts joined is that of the first one times
// x^(8 x the second one's length), modulo this, plus that of the second.
const POLYNOMIAL = 0xedb88320
const ONE = 1 << 31

/** Once for each write of each stream, so without a branch: -1 or 0 in place of yes or no. */
function multiply (a: number, b: number): number {
  let product = 0
  for (; a !== 0; a <<= 1) {
    product ^= (a >> 31) & b
    b = (b >>> 1) ^ (-(b & 1) & POLYNOMIAL)
  }
  return product
}

/** x^(8 x 2^i), for each i. */
const POWERS: number[] = [ONE >>> 8]
for (let i = 1; i < 32; i++) POWERS.push(multiply(POWERS[i - 1]!, POWERS[i - 1]!))

function shiftOf (bytes: number): number {
  let shift = ONE
  for (let i = 0; bytes >>> i !== 0; i++) if ((bytes >>> i) & 1) shift = multiply(POWERS[i]!, shift)
  return shift
}
