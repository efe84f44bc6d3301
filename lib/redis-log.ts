import { randomBytes } from 'node:crypto'
import type { Link } from './redis-link.ts'
import { decodeRows, encodeCut, encodeGenesis, type Row } from './redis-row.ts'

/** ms that `news` waits. */
const BLOCK = 1_000
/** Rows that are kept whatever `history.maxEvents` is, or a reader that pauses for a moment would find its last one trimmed. */
const LEAST_ROWS = 1_000

/** The commands that are sent: all there is to know about Redis Streams. Each one rejects as `Link.send` does. */
export class RedisLog {
  readonly #key: string
  readonly #limit: readonly string[]
  readonly #noncePrefix = randomBytes(6).toString('base64url')
  #nonces = 0

  /** @param maxEvents of the history: the log keeps about twice as many, and at least 1,000 */
  constructor (key: string, maxEvents: number) {
    this.#key = key
    this.#limit = maxEvents === Infinity ? [] : ['MAXLEN', '~', String(Math.max(LEAST_ROWS, maxEvents * 2))]
  }

  /** What no other row has, of this process or another. */
  nonce (): string {
    return this.#noncePrefix + (++this.#nonces).toString(36)
  }

  /** Appends a row and resolves with its id. Rows that are added over one link, in one turn or later, keep the order of the calls. */
  async add (link: Link, fields: readonly string[]): Promise<string> {
    return await link.send(['XADD', this.#key, ...this.#limit, '*', ...fields]) as string
  }

  async addGenesis (link: Link): Promise<void> {
    await this.add(link, encodeGenesis(this.nonce()))
  }

  async addCut (link: Link, nonce: string): Promise<void> {
    await this.add(link, encodeCut(nonce))
  }

  /** Rows from one id to another, both included unless `(` stands before it. */
  async range (link: Link, from: string, to: string, count: number): Promise<Row[]> {
    return decodeRows(await link.send(['XRANGE', this.#key, from, to, 'COUNT', String(count)]))
  }

  /** The same from the newest to the oldest: the first id is the greater one. */
  async reverseRange (link: Link, from: string, to: string, count: number): Promise<Row[]> {
    return decodeRows(await link.send(['XREVRANGE', this.#key, from, to, 'COUNT', String(count)]))
  }

  /** Resolves when there is something after this id, or after a second. It is the bell alone, for it proves nothing. */
  async news (link: Link, id: string): Promise<void> {
    await link.send(['XREAD', 'COUNT', '1', 'BLOCK', String(BLOCK), 'STREAMS', this.#key, id], BLOCK)
  }

  /** Redis's clock, which the ids are made from, in ms. */
  async time (link: Link): Promise<number> {
    const [seconds, micros] = await link.send(['TIME']) as [string, string]
    return Number(seconds) * 1_000 + Number(micros) / 1_000
  }
}
