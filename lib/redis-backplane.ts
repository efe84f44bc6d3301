import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Backplane, NewEntry, Receiver } from './backplane.ts'
import { SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CLOSED, SSE_ERR_INVALID_OPTION, received } from './errors.ts'
import { checkClient, fullKey, Link, PATIENCE, type RedisClient } from './redis-client.ts'
import { compareCursors, cursorBefore, cursorOf, decodeRows, encodeCut, encodeEntry, encodeGenesis, idOf, type Row } from './redis-row.ts'

export type { IoRedisClient, NodeRedisClient, RedisClient } from './redis-client.ts'

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

/** ms that a read waits for news, before the last entry is proved again. */
const BLOCK = 1_000
/** Rows of one read. */
const PAGE = 500
/** The log keeps this many rows, whatever `history.maxEvents` is, or a reader that pauses for a moment would find its last one trimmed. */
const LEAST_ROWS = 1_000
/** Rows that are remembered, to drop a repeated one, and to find where two logs part. */
const RECENT = 10_000
/** ms before a lost connection is made anew: at first, and at most. */
const PAUSES = [50, 3_000] as const
/** As the number of the read after which a publish was acknowledged: not yet. */
const UNDER_WAY = Infinity

/**
 * Makes any number of processes act as one, through one Redis Stream. What it promises is written at `Backplane`.
 *
 * - `open()` rejects with SSE_ERR_BACKPLANE_DOWN, within 5 s, where Redis is out of reach or the key is no stream.
 * - `append()` rejects with SSE_ERR_BACKPLANE_DOWN, its `cause` saying why: at once while there is no connection, after 5 s
 *   where Redis does not answer. If the connection broke meanwhile, the entry may be in the log nevertheless. Nothing is sent twice.
 * - Connections are made anew for ever, after pauses that grow from 50 ms to 3 s; reading goes on where it stopped.
 * @throws SSE_ERR_INVALID_OPTION
 */
export function redisBackplane (options: RedisBackplaneOptions): Backplane {
  const { client, key = DEFAULT_REDIS_KEY } = options
  if (typeof key !== 'string' || key === '') throw new SSE_ERR_INVALID_OPTION('key', 'a string that is not empty', received(key))
  return new RedisBackplane(checkClient(client), key)
}

type Use = (link: Link, works: () => void) => Promise<never>

class RedisBackplane implements Backplane {
  readonly #client: RedisClient
  readonly #key: string
  readonly #noncePrefix = randomBytes(6).toString('base64url')
  #nonces = 0
  #receiver: Receiver | undefined
  readonly #life = new AbortController()
  readonly #links = new Set<Link>()
  /** What is lost now: reading, writing. */
  readonly #lost = new Map<Use, Error>()
  #writer: Link | undefined

  /** The cursor of the row that was read last: the next read begins with it, and so proves that it is still there. */
  #last = ''
  /** Nonce and cursor of the rows read last, oldest first. */
  readonly #recent = new Map<string, string>()
  /** Redis's clock less performance.now(), in ms. */
  #clock = 0
  /** Reads begun. */
  #reads = 0
  #syncs: Array<{ after: number, resolve: () => void }> = []
  /** Nonces of own publishes that were not read yet, with the number of reads begun when they were acknowledged. */
  readonly #unread = new Map<string, number>()
  /** A loss that others cannot see, so a cut must be appended for them; `told`: our receiver knows already. */
  #cut: { readonly nonce: string, readonly told: boolean } | undefined
  /** The nonce of the last own cut of which our receiver knew before. */
  #toldCut = ''

  constructor (client: RedisClient, key: string) {
    this.#client = client
    this.#key = fullKey(client, key)
  }

  get #closed (): boolean { return this.#life.signal.aborted }

  async open (receiver: Receiver): Promise<void> {
    if (this.#receiver !== undefined) throw new SSE_ERR_INVALID_OPTION('backplane', 'one that serves no other registration', 'one in use')
    this.#receiver = receiver
    try {
      const [reader, writer] = await Promise.all([this.#connect(), this.#connect()])
      await this.#readClock(reader)
      await this.#begin(reader, receiver.maxEvents, () => this.#newest(reader, receiver.maxEvents + 1))
      this.#keep(this.#read, reader)
      this.#keep(this.#write, writer)
    } catch (error) {
      await this.close()
      throw down(error)
    }
  }

  async append (entry: NewEntry): Promise<string> {
    if (this.#receiver === undefined || this.#closed) throw new SSE_ERR_CLOSED('append()')
    const writer = this.#writer
    if (writer === undefined) throw down(this.#lost.get(this.#write) ?? new Error('connecting'))
    const nonce = this.#nonce()
    this.#unread.set(nonce, UNDER_WAY)
    try {
      // No await before this line: the order of the calls is the order of the log.
      const id = await this.#add(writer, encodeEntry(nonce, entry))
      if (this.#unread.has(nonce)) this.#unread.set(nonce, this.#reads)
      return cursorOf(id, nonce)
    } catch (error) {
      this.#unread.delete(nonce)
      // After a failover the address may lead to the new primary: a new connection finds it.
      if (error instanceof Error && error.message.startsWith('READONLY')) writer.end(error)
      throw down(error)
    }
  }

  sync (): Promise<void> {
    return new Promise(resolve => { this.#syncs.push({ after: this.#reads, resolve }) })
  }

  compare (a: string, b: string): number {
    return compareCursors(a, b)
  }

  async close (): Promise<void> {
    this.#life.abort()
    for (const link of this.#links) link.end()
  }

  // Connections

  async #connect (): Promise<Link> {
    const link = new Link(this.#client)
    this.#links.add(link)
    link.ended.then(() => this.#links.delete(link))
    try {
      await link.open()
      // It was closed meanwhile, and what it made is not to outlive it.
      if (this.#closed) throw new Error('the backplane was closed')
    } catch (error) {
      link.end(error as Error)
      throw error
    }
    return link
  }

  /** Uses one connection after the other until close(). */
  async #keep (use: Use, first: Link): Promise<void> {
    let link: Link | undefined = first
    let failures = 0
    while (!this.#closed) {
      try {
        link ??= await this.#connect()
        await use.call(this, link, () => {
          failures = 0
          this.#works(use)
        })
      } catch (error) {
        // An error reply leaves a connection that works; but what went wrong is not known to be over.
        link?.end(error as Error)
        link = undefined
        this.#fails(use, error as Error)
      }
      const pause = Math.min(PAUSES[1], PAUSES[0] * 2 ** failures++)
      // Half of it at random, or all processes come back at once. Rejects at close().
      await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal: this.#life.signal }).catch(() => {})
    }
  }

  #works (use: Use): void {
    if (this.#lost.delete(use) && this.#lost.size === 0 && !this.#closed) this.#receiver!.up()
  }

  #fails (use: Use, error: Error): void {
    this.#lost.set(use, error)
    if (this.#lost.size === 1 && !this.#closed) this.#receiver!.down(down(error))
  }

  async #write (link: Link, works: () => void): Promise<never> {
    this.#writer = link
    works()
    const reason = await link.ended
    this.#writer = undefined
    throw reason
  }

  // Reading

  /** Reads for ever. What arrives is handed over only behind the proof that it follows what was read last. */
  async #read (link: Link, works: () => void): Promise<never> {
    await this.#readClock(link)
    for (;;) {
      const began = ++this.#reads
      const rows = await this.#rows(link, 'XRANGE', idOf(this.#last), '+', PAGE)
      if (rows[0]?.cursor !== this.#last) {
        await this.#recover(link, began)
        continue
      }
      for (let i = 1; i < rows.length; i++) this.#take(rows[i]!)
      if (rows.length === PAGE) continue
      await this.#atEnd(link, began)
      works()
      // The bell. What it brings is read again, with proof; silence is a reason to look as well.
      await this.#send(link, ['XREAD', 'COUNT', '1', 'BLOCK', String(BLOCK), 'STREAMS', this.#key, idOf(this.#last)], BLOCK + PATIENCE)
    }
  }

  #take (row: Row): void {
    const receiver = this.#receiver!
    this.#unread.delete(row.nonce)
    const repeated = this.#recent.has(row.nonce)
    this.#remember(row)
    if (repeated) return
    if (row.kind === 'event') {
      const now = performance.now() + this.#clock
      receiver.receive({ ...row.entry!, cursor: row.cursor }, Math.max(0, Math.round(now - parseInt(row.id))))
    } else if (row.kind === 'cut') {
      if (this.#cut?.told === true) this.#cut = undefined
      if (row.nonce !== this.#toldCut) receiver.reset(row.cursor)
    }
  }

  #remember ({ nonce, cursor }: Row): void {
    this.#last = cursor
    this.#recent.delete(nonce)
    this.#recent.set(nonce, cursor)
    if (this.#recent.size > RECENT) this.#recent.delete(this.#recent.keys().next().value!)
  }

  /** The read that began as number `began` has reached the end of the log. */
  async #atEnd (link: Link, began: number): Promise<void> {
    // Acknowledged before the read began, and not in it: another server took its place, without that entry. Acknowledgements
    // come in the order of the publishes.
    for (const [nonce, acknowledged] of this.#unread) {
      if (acknowledged >= began) break
      this.#unread.delete(nonce)
      this.#cut ??= { nonce: this.#nonce(), told: false }
    }
    const cut = this.#cut
    if (cut !== undefined) {
      if (cut.told) this.#toldCut = cut.nonce
      // If the answer is lost it is appended again, and the second one is dropped as a repeated nonce.
      await this.#add(link, encodeCut(cut.nonce))
      if (this.#cut === cut) this.#cut = undefined
    }
    const syncs = this.#syncs
    this.#syncs = syncs.filter(sync => sync.after >= began)
    for (const sync of syncs) if (sync.after < began) sync.resolve()
  }

  /** The last row is not where it was. Goes on after the newest row that this process and the log both know. */
  async #recover (link: Link, began: number): Promise<void> {
    // They lie before the gap that follows, if they are lost.
    for (const [nonce, acknowledged] of this.#unread) if (acknowledged < began) this.#unread.delete(nonce)
    const common = await this.#common(link)
    if (common === undefined) {
      // Trimmed past, deleted, or restarted empty: no other reader has its last row either, so each finds it by itself.
      await this.#begin(link, Infinity, () => this.#rows(link, 'XRANGE', '-', '+', 1))
      return
    }
    // A lost suffix: who had not read it yet cannot know.
    this.#last = common.cursor
    this.#cut ??= { nonce: this.#nonce(), told: true }
    this.#receiver!.reset(common.cursor)
  }

  async #common (link: Link): Promise<Row | undefined> {
    const cursors = [...this.#recent.values()].sort(compareCursors)
    const oldest = idOf(cursors[0]!)
    let newest = idOf(cursors.at(-1)!)
    for (;;) {
      const rows = await this.#rows(link, 'XREVRANGE', newest, oldest, PAGE)
      const common = rows.find(row => this.#recent.get(row.nonce) === row.cursor)
      if (common !== undefined || rows.length < PAGE) return common
      newest = '(' + rows.at(-1)!.id
    }
  }

  /**
   * Begins anew with these rows. The floor is the cursor before the first row that is served: the oldest row itself where it is
   * one too many, or serves no client anyway; else the place before it, for its predecessor is not known. An empty log is given
   * a genesis row first, so there is always a last row to be proved.
   */
  async #begin (link: Link, limit: number, read: () => Promise<Row[]>): Promise<void> {
    let rows: Row[]
    while ((rows = await read()).length === 0) await this.#add(link, encodeGenesis(this.#nonce()))
    const oldest = rows[0]!
    const served = oldest.kind === 'event' && rows.length <= limit
    this.#receiver!.reset(served ? cursorBefore(oldest) : oldest.cursor)
    if (!served) this.#remember(rows.shift()!)
    for (const row of rows) this.#take(row)
  }

  /** The newest rows of the log, oldest first. */
  async #newest (link: Link, count: number): Promise<Row[]> {
    const rows: Row[] = []
    let end = '+'
    for (;;) {
      const wanted = Math.min(PAGE, count - rows.length)
      const page = await this.#rows(link, 'XREVRANGE', end, '-', wanted)
      rows.push(...page)
      if (page.length < wanted || rows.length === count) return rows.reverse()
      end = '(' + page.at(-1)!.id
    }
  }

  // Commands

  #nonce (): string {
    return this.#noncePrefix + (++this.#nonces).toString(36)
  }

  async #add (link: Link, fields: string[]): Promise<string> {
    const rows = Math.max(LEAST_ROWS, this.#receiver!.maxEvents * 2)
    const limit = rows === Infinity ? [] : ['MAXLEN', '~', String(rows)]
    return await link.send(['XADD', this.#key, ...limit, '*', ...fields]) as string
  }

  async #rows (link: Link, command: 'XRANGE' | 'XREVRANGE', from: string, to: string, count: number): Promise<Row[]> {
    return decodeRows(await this.#send(link, [command, this.#key, from, to, 'COUNT', String(count)]))
  }

  async #readClock (link: Link): Promise<void> {
    const [seconds, micros] = await this.#send(link, ['TIME']) as [string, string]
    this.#clock = Number(seconds) * 1_000 + Number(micros) / 1_000 - performance.now()
  }

  /** For the reader: no answer is used after close(), even if it was there before. */
  async #send (link: Link, args: string[], patience?: number): Promise<unknown> {
    const answer = await link.send(args, patience)
    if (this.#closed) throw new SSE_ERR_CLOSED('redisBackplane()')
    return answer
  }
}

/** The error for those outside, with the one from inside as its cause. */
function down (cause: unknown): Error {
  if (cause instanceof SSE_ERR_BACKPLANE_DOWN) return cause
  const error = new SSE_ERR_BACKPLANE_DOWN(cause instanceof Error && cause.message !== '' ? cause.message : String(cause))
  error.cause = cause
  return error
}
