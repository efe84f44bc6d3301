import { setTimeout as sleep } from 'node:timers/promises'
import type { Backplane, NewEntry, Receiver } from './backplane.ts'
import { SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CLOSED, SSE_ERR_INVALID_OPTION, received } from './errors.ts'
import { checkClient, fullKey, Link, type RedisClient } from './redis-link.ts'
import { RedisLog } from './redis-log.ts'
import { RedisReader } from './redis-reader.ts'
import { compareCursors, cursorOf, encodeEntry } from './redis-row.ts'

export type { IoRedisClient, NodeRedisClient, RedisClient } from './redis-link.ts'

export const DEFAULT_REDIS_KEY = 'sse'

/** The options of `redisBackplane()`. */
export interface RedisBackplaneOptions {
  /**
   * A client of ioredis, iovalkey or node-redis, connected or not. Two connections are made with its `duplicate()`; it is
   * itself never used, changed or closed.
   */
  client: RedisClient
  /** The key of the Redis Stream: processes with the same key, and the same `history.maxEvents`, are one application. @default 'sse' */
  key?: string | undefined
}

/** ms before a lost connection is made anew: at first, and at most. */
const PAUSES = [50, 3_000] as const

/**
 * Makes any number of processes act as one, through one Redis Stream. What it promises is written at `Backplane`.
 *
 * - `open()` rejects with SSE_ERR_BACKPLANE_DOWN, after 5 s at the latest, where Redis is out of reach or the key is no stream.
 * - `append()` rejects with SSE_ERR_BACKPLANE_DOWN, its `cause` saying why: at once while there is no connection, after 5 s
 *   where Redis does not answer. Where the answer alone was lost, the entry is in the log nevertheless. Nothing is sent twice.
 * - Lost connections are made anew for ever, after pauses that grow from 50 ms to 3 s, and reading goes on where it stopped.
 * @throws SSE_ERR_INVALID_OPTION
 */
export function redisBackplane (options: RedisBackplaneOptions): Backplane {
  const { client, key = DEFAULT_REDIS_KEY } = options
  if (typeof key !== 'string' || key === '') throw new SSE_ERR_INVALID_OPTION('key', 'a string that is not empty', received(key))
  return new RedisBackplane(checkClient(client), key)
}

/** ms that close() waits for the answers to publishes under way. */
const LAST_ANSWERS = 500

/** What a connection is kept for, until it ends. `works` says that it serves. */
type Use = (link: Link, works: () => void) => Promise<never>

class RedisBackplane implements Backplane {
  readonly #client: RedisClient
  readonly #key: string
  /** Set by open(). */
  #parts: { readonly receiver: Receiver, readonly log: RedisLog, readonly reader: RedisReader } | undefined
  readonly #life = new AbortController()
  readonly #links = new Set<Link>()
  readonly #read: Use = (link, works) => this.#parts!.reader.read(link, works)
  readonly #write: Use = (link, works) => this.#lendWriter(link, works)
  /** The uses that fail now, and why. */
  readonly #failing = new Map<Use, Error>()
  #writer: Link | undefined
  /** Publishes that wait for their answer. */
  readonly #adding = new Set<Promise<string>>()

  constructor (client: RedisClient, key: string) {
    this.#client = client
    this.#key = fullKey(client, key)
  }

  async open (receiver: Receiver): Promise<void> {
    if (this.#parts !== undefined) throw new SSE_ERR_INVALID_OPTION('backplane', 'one that serves no other registration', 'one in use')
    if (this.#closed) throw new SSE_ERR_CLOSED('open()')
    const log = new RedisLog(this.#key, receiver.maxEvents)
    const reader = new RedisReader(receiver, log)
    this.#parts = { receiver, log, reader }
    try {
      const [toRead, toWrite] = await Promise.all([this.#connect(), this.#connect()])
      await reader.begin(toRead)
      this.#keep(this.#read, toRead)
      this.#keep(this.#write, toWrite)
    } catch (error) {
      await this.close()
      throw down(error)
    }
  }

  async append (entry: NewEntry): Promise<string> {
    if (this.#parts === undefined || this.#closed) throw new SSE_ERR_CLOSED('append()')
    const { log, reader } = this.#parts
    const writer = this.#writer
    if (writer === undefined) throw down(this.#failing.get(this.#write) ?? new Error('connecting'))
    const nonce = log.nonce()
    reader.expect(nonce)
    try {
      // No await before this line: the order of the calls is the order of the log.
      const adding = log.add(writer, encodeEntry(nonce, entry))
      this.#adding.add(adding)
      const id = await adding.finally(() => this.#adding.delete(adding))
      reader.acknowledge(nonce)
      return cursorOf(id, nonce)
    } catch (error) {
      reader.forget(nonce)
      // After a failover the address may lead to the new primary: a new connection finds it.
      if (error instanceof Error && error.message.startsWith('READONLY')) writer.end(error)
      throw down(error)
    }
  }

  async sync (): Promise<void> {
    if (this.#parts === undefined) throw new SSE_ERR_CLOSED('sync()')
    await this.#parts.reader.sync(this.#writer)
  }

  compare (a: string, b: string): number {
    return compareCursors(a, b)
  }

  async close (): Promise<void> {
    this.#life.abort()
    this.#parts?.reader.silence()
    // What was published a moment ago gets its answer.
    if (this.#adding.size > 0) await Promise.race([Promise.allSettled(this.#adding), sleep(LAST_ANSWERS, undefined, { ref: false })])
    for (const link of this.#links) link.end()
  }

  get #closed (): boolean { return this.#life.signal.aborted }

  async #connect (): Promise<Link> {
    const link = new Link(this.#client)
    this.#links.add(link)
    link.ended.then(() => this.#links.delete(link))
    try {
      await link.open()
    } catch (error) {
      link.end(error as Error)
      throw error
    }
    return link
  }

  /** Gives this use one connection after the other, until close(). */
  async #keep (use: Use, first: Link): Promise<void> {
    let link: Link | undefined = first
    let failures = 0
    while (!this.#closed) {
      try {
        link ??= await this.#connect()
        await use(link, () => {
          failures = 0
          this.#works(use)
        })
      } catch (error) {
        // Where Redis refused something the connection is good, but so is a new one.
        link?.end(error as Error)
        link = undefined
        this.#fails(use, error as Error)
      }
      const pause = Math.min(PAUSES[1], PAUSES[0] * 2 ** failures++)
      // Half of it at random, or all processes come back at once. close() ends it.
      await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal: this.#life.signal }).catch(() => {})
    }
  }

  #works (use: Use): void {
    if (this.#failing.delete(use) && this.#failing.size === 0 && !this.#closed) this.#parts!.receiver.up()
  }

  #fails (use: Use, error: Error): void {
    const wasUp = this.#failing.size === 0
    this.#failing.set(use, error)
    if (wasUp && !this.#closed) this.#parts!.receiver.down(down(error))
  }

  async #lendWriter (link: Link, works: () => void): Promise<never> {
    this.#writer = link
    works()
    const reason = await link.ended
    this.#writer = undefined
    throw reason
  }
}

/** The error for those outside; the one from inside is its cause. */
function down (cause: unknown): Error {
  const error = new SSE_ERR_BACKPLANE_DOWN(cause instanceof Error && cause.message !== '' ? cause.message : String(cause))
  error.cause = cause
  return error
}
