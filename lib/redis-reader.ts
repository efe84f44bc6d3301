import type { Receiver } from './backplane.ts'
import type { Link } from './redis-link.ts'
import type { RedisLog } from './redis-log.ts'
import { compareCursors, cursorBefore, idOf, type Row } from './redis-row.ts'

/** Rows of one read. */
const PAGE = 500
/** Rows that are remembered, to drop a repeated one, and to find where two logs part. */
const RECENT = 10_000
/** As the number of reads begun when a publish was acknowledged: it is still under way. */
const UNDER_WAY = Infinity

/** What the reader calls once the backplane is closed. */
const NOBODY: Receiver = { maxEvents: 0, receive () {}, reset () {}, up () {}, down () {} }

/** Somebody waits for a read that began after this many others, or for this row to have been read. */
interface Sync {
  readonly after: number
  newest: Row | undefined
  readonly resolve: () => void
}

/**
 * Reads the log, over one link after the other, and hands its rows to the receiver. Nothing is handed over without a proof
 * that it follows what was handed over last: every read begins with that row, in the same answer.
 */
export class RedisReader {
  #receiver: Receiver
  readonly #log: RedisLog
  /** The cursor of the row that was read last. */
  #last = ''
  /** Nonce and cursor of the rows read last, oldest first. */
  readonly #recent = new Map<string, string>()
  /** Redis's clock less performance.now(), in ms. */
  #clock = 0
  /** Reads begun. */
  #reads = 0
  #syncs: Sync[] = []
  /** Nonces of own publishes that were not read yet, with the number of reads begun when they were acknowledged. */
  readonly #unread = new Map<string, number>()
  /** A loss that others may not see, so a cut is to be appended for them. `shared`: somebody else may have seen it too. */
  #cut: { readonly nonce: string, readonly shared: boolean } | undefined

  constructor (receiver: Receiver, log: RedisLog) {
    this.#receiver = receiver
    this.#log = log
  }

  /** Hands over what the log has kept. */
  async begin (link: Link): Promise<void> {
    await this.#readClock(link)
    const { maxEvents } = this.#receiver
    await this.#beginWith(link, maxEvents, () => this.#newest(link, maxEvents + 1))
  }

  /**
   * Goes on where begin(), or read() over another link, stopped, for ever.
   * @param works called whenever a read has reached the end
   * @throws when the link ends, or Redis refuses to answer
   */
  async read (link: Link, works: () => void): Promise<never> {
    await this.#readClock(link)
    for (;;) {
      const began = ++this.#reads
      const rows = await this.#log.range(link, idOf(this.#last), '+', PAGE)
      if (rows[0]?.cursor !== this.#last) {
        await this.#recover(link, began)
        continue
      }
      for (let i = 1; i < rows.length; i++) this.#take(rows[i]!)
      if (rows.length === PAGE) continue
      await this.#atEnd(link, began)
      works()
      // Silence is a reason to read as well: what was lost rings no bell.
      await this.#log.news(link, idOf(this.#last))
    }
  }

  /** See `Backplane.sync`. @param link one that is not blocked by a read, if there is one */
  sync (link: Link | undefined): Promise<void> {
    return new Promise(resolve => {
      const sync: Sync = { after: this.#reads, newest: undefined, resolve }
      this.#syncs.push(sync)
      if (link === undefined) return
      // The reader may have read all there is, and wait for news for another second: so ask what the newest row is.
      this.#log.reverseRange(link, '+', '-', 1).then(([newest]) => {
        sync.newest = newest
        this.#settleSyncs()
      }, () => { /* Then the reader's next read decides. */ })
    })
  }

  /** From here on nothing calls the receiver, whatever answers are still on their way. */
  silence (): void {
    this.#receiver = NOBODY
  }

  // Own publishes: what was acknowledged must come back

  /** Before it is sent, for it may be read before it is acknowledged. */
  expect (nonce: string): void {
    this.#unread.set(nonce, UNDER_WAY)
  }

  acknowledge (nonce: string): void {
    if (this.#unread.has(nonce)) this.#unread.set(nonce, this.#reads)
  }

  /** It was not acknowledged: whether it comes back is nobody's concern. */
  forget (nonce: string): void {
    this.#unread.delete(nonce)
  }

  // Rows

  #take (row: Row): void {
    this.#unread.delete(row.nonce)
    const repeated = this.#recent.has(row.nonce)
    this.#remember(row)
    if (repeated) return
    if (row.kind === 'event') {
      const now = performance.now() + this.#clock
      this.#receiver.receive({ ...row.entry!, cursor: row.cursor }, Math.max(0, Math.round(now - parseInt(row.id))))
    } else if (row.kind === 'cut') {
      // Somebody else was first to say what we were about to say.
      if (this.#cut?.shared === true) this.#cut = undefined
      // An own one too, though the loss was told already: a client that comes from a slower process may stand behind that place.
      this.#receiver.reset(row.cursor)
    }
  }

  #remember ({ nonce, cursor }: Row): void {
    this.#last = cursor
    this.#recent.delete(nonce)
    this.#recent.set(nonce, cursor)
    if (this.#recent.size > RECENT) this.#recent.delete(this.#recent.keys().next().value!)
  }

  /** Whether this very row was read. */
  #isKnown ({ nonce, cursor }: Row): boolean {
    return this.#recent.get(nonce) === cursor
  }

  /** The read that began as number `began` has reached the end of the log. */
  async #atEnd (link: Link, began: number): Promise<void> {
    // Acknowledged before the read began, and not in it: another server took over, without that row. What is acknowledged
    // stands before what is under way, for both come in the order of the calls.
    for (const [nonce, acknowledged] of this.#unread) {
      if (acknowledged >= began) break
      this.#unread.delete(nonce)
      this.#cut ??= { nonce: this.#log.nonce(), shared: false }
    }
    const cut = this.#cut
    if (cut !== undefined) {
      // If the answer is lost it is appended once more, and dropped by all as a repeated nonce.
      await this.#log.addCut(link, cut.nonce)
      this.#cut = undefined
    }
    this.#settleSyncs(began)
  }

  #settleSyncs (began = 0): void {
    this.#syncs = this.#syncs.filter(({ after, newest, resolve }) => {
      const done = after < began || (newest !== undefined && this.#isKnown(newest))
      if (done) resolve()
      return !done
    })
  }

  // Beginning, and beginning again

  /** The last row is not where it was. Goes on after the newest row that this process and the log both know. */
  async #recover (link: Link, began: number): Promise<void> {
    // If these are lost, they lie before the gap that follows.
    for (const [nonce, acknowledged] of this.#unread) if (acknowledged < began) this.#unread.delete(nonce)
    const common = await this.#newestCommon(link)
    if (common === undefined) {
      // Trimmed past, deleted, or restarted empty: no reader that was here finds its last row, so each sees it by itself.
      await this.#beginWith(link, Infinity, () => this.#log.range(link, '-', '+', 1))
      return
    }
    // A lost suffix: who had not read it yet cannot know.
    this.#last = common.cursor
    this.#cut ??= { nonce: this.#log.nonce(), shared: true }
    this.#receiver.reset(common.cursor)
  }

  async #newestCommon (link: Link): Promise<Row | undefined> {
    const cursors = [...this.#recent.values()].sort(compareCursors)
    const oldest = idOf(cursors[0]!)
    let from = idOf(cursors.at(-1)!)
    for (;;) {
      const rows = await this.#log.reverseRange(link, from, oldest, PAGE)
      const common = rows.find(row => this.#isKnown(row))
      if (common !== undefined || rows.length < PAGE) return common
      from = '(' + rows.at(-1)!.id
    }
  }

  /**
   * Hands over rows without a predecessor. Where they begin, all processes must say with the same cursor: it is that of the
   * oldest row where it is one too many, or serves no client anyway; else the place before it, for what stood there is not known.
   * An empty log is given a genesis row first, so there is always a last row to be proved.
   */
  async #beginWith (link: Link, limit: number, read: () => Promise<Row[]>): Promise<void> {
    let rows: Row[]
    while ((rows = await read()).length === 0) await this.#log.addGenesis(link)
    const oldest = rows[0]!
    const served = oldest.kind === 'event' && rows.length <= limit
    this.#receiver.reset(served ? cursorBefore(oldest) : oldest.cursor)
    if (!served) this.#remember(oldest)
    for (let i = served ? 0 : 1; i < rows.length; i++) this.#take(rows[i]!)
  }

  /** The newest rows of the log, oldest first. */
  async #newest (link: Link, count: number): Promise<Row[]> {
    const rows: Row[] = []
    let from = '+'
    for (;;) {
      const wanted = Math.min(PAGE, count - rows.length)
      const page = await this.#log.reverseRange(link, from, '-', wanted)
      rows.push(...page)
      if (page.length < wanted || rows.length === count) return rows.reverse()
      from = '(' + page.at(-1)!.id
    }
  }

  async #readClock (link: Link): Promise<void> {
    this.#clock = await this.#log.time(link) - performance.now()
  }
}
