import type { Kept, KeptEntry, Life, NewEntry, Place } from '../log/backplane.ts'
import { decodeRows, encodeHead, encodeLimits, type Row } from './entry.ts'
import { Link, type OnMessage, type RedisClient } from './link.ts'
import { parseLives } from './lives.ts'
import { SCRIPTS } from './scripts.ts'
import { Together } from './together.ts'

/** Names in one SUBSCRIBE, so that other answers find their way between them. */
const BATCH = 500
/** Of one answer to reads: what is published is not to stand behind thousands of them. */
const PAGE = { streams: 32, rows: 500, bytes: 256 * 1024 } as const

/** What `hello` answers. */
export interface Told extends Place {
  readonly lives: Life[]
}

/** What is read of a stream: entries from one id to another, both as XRANGE takes them; `back`: from the newest to the oldest. */
interface Range {
  readonly stream: string
  readonly from: string
  readonly to: string
  readonly back: boolean
  readonly rows: number
}

/** As many entries of a range as go into one answer. */
interface Page extends Place {
  /** Redis's clock. */
  readonly now: number
  readonly last: number
  readonly ended: boolean
  readonly rows: readonly Row[]
  /** Where the rest of the range begins, if there may be any. */
  readonly rest: string | undefined
}

/** What `publish` answers: where the entry is, or the end that the channel has had; or the number of the channel that has ended. */
export type Published = { life: string, seq: number } | { life: string, first: number } | { life: string, ended: number }

/** Two connections to one life of one server: one hears, one sends commands. They are used once, and end together. */
export class Pair {
  /** Resolves with the reason when one of the two is gone; never rejects. */
  readonly ended: Promise<Error>
  readonly #subscriber: Link
  readonly #commands: Link
  readonly #key: string
  readonly #hash: Partial<Record<keyof typeof SCRIPTS, string>> = {}
  /** The server: what its run and its replication are called. */
  #server = ''
  readonly #pages = new Together<Range, Page>(PAGE.streams, ranges => this.#readPages(ranges))

  constructor (client: RedisClient, key: string, hear: OnMessage) {
    this.#key = key
    this.#subscriber = new Link(client, hear)
    this.#commands = new Link(client)
    this.ended = Promise.race([this.#subscriber.ended, this.#commands.ended])
    this.ended.then(reason => this.end(reason))
  }

  end (reason?: Error): void {
    this.#subscriber.end(reason)
    this.#commands.end(reason)
  }

  /** Connects both, and asks the subscriber which server it is at, for once it has subscribed to something it may not ask any more. */
  async open (): Promise<void> {
    await Promise.all([this.#subscriber.open(), this.#commands.open()])
    const loading = (Object.keys(SCRIPTS) as Array<keyof typeof SCRIPTS>).map(async name => {
      this.#hash[name] = await this.#commands.send(['SCRIPT', 'LOAD', SCRIPTS[name]]) as string
    })
    const asking = ['server', 'replication'].map(async section => await this.#subscriber.send(['INFO', section]) as string)
    const [server, replication] = await Promise.all([...asking, ...loading]) as [string, string]
    this.#server = /run_id:(\w+)/.exec(server)?.[1] + ':' + /master_replid:(\w+)/.exec(replication)?.[1]
    // A connection with RESP2 that subscribes to nothing changes its ways; this keeps it as it is.
    await this.#subscriber.subscribe([this.#key])
  }

  async subscribe (streams: readonly string[]): Promise<void> {
    await Promise.all(batches(streams).map(batch => this.#subscriber.subscribe(batch)))
  }

  async unsubscribe (streams: readonly string[]): Promise<void> {
    await Promise.all(batches(streams).map(batch => this.#subscriber.unsubscribe(batch)))
  }

  /** Resolves after everything was heard that was published before the call. */
  async ping (): Promise<void> {
    // In lower case: iovalkey does not let it pass otherwise.
    await this.#subscriber.send(['ping'])
  }

  /** @throws where the two connections are not to one server */
  async hello (evidence: string[]): Promise<Told> {
    const [server, seq, table] = await this.#run('hello', [], evidence) as [string, string, string]
    if (server !== this.#server) throw new Error('the two connections are to different servers')
    const lives = parseLives(table)
    return { life: lives.at(-1)!.id, seq: Number(seq), lives }
  }

  /** @param sure see `SEQ` */
  async seq (sure = false): Promise<Place> {
    const [life, seq] = await this.#run('seq', [], [this.#server, sure ? '1' : '0']) as [string, string]
    return { life, seq: Number(seq) }
  }

  /** Sent before it returns, so the order of the calls is the order of the log. */
  async publish (streams: string[], entry: NewEntry): Promise<Published> {
    const [life, number, what] = await this.#run('publish', streams, [
      this.#server, entry.kind, encodeHead(entry), entry.data, ...entry.limits.flatMap(limits => encodeLimits(limits, entry.kind))
    ]) as [string, string, 'ended' | 'first' | undefined]
    return what === 'ended' ? { life, ended: Number(number) } : what === 'first' ? { life, first: Number(number) } : { life, seq: Number(number) }
  }

  /** See `SharedBackplane.read`. */
  async readAfter (stream: string, name: string, after: number, bytes = Infinity): Promise<Kept & Place> {
    const entries: KeptEntry[] = []
    let place = after
    let floor = after
    let cut = false
    let size = 0
    for (let from = `(${after}`; ;) {
      const { life, seq, now, last, ended, rows, rest } = await this.#pages.ask({ stream, from, to: '+', back: false, rows: PAGE.rows })
      for (const { prev, ...entry } of decodeRows(rows, name, now)) {
        // What lies between is gone: trimmed, while we were reading too, or deleted, or of a form that we cannot read.
        if (Math.abs(prev) > place) floor = Math.abs(prev)
        if (entries.length === 0) cut = prev > 0
        place = entry.seq
        entries.push(entry)
        size += entry.data.length
        while (size > bytes && entries.length > 1) {
          const oldest = entries.shift()!
          floor = Math.max(floor, oldest.seq)
          size -= oldest.data.length
          cut = true
        }
      }
      if (rest !== undefined) {
        from = rest
        continue
      }
      if (last > place) floor = last
      const whole = entries.filter(({ seq }) => seq > floor)
      return { life, seq, entries: whole, floor, last, ended, cut: cut || whole.length < entries.length }
    }
  }

  async readNewest (stream: string, name: string, after: number, newest: number): Promise<Kept & Place> {
    const entries: KeptEntry[] = []
    for (let from = '+'; ;) {
      const { life, seq, now, last, ended, rows, rest } = await this.#pages.ask({ stream, from, to: `(${after}`, back: true, rows: Math.min(newest - entries.length, PAGE.rows) })
      for (const { prev, ...entry } of decodeRows(rows, name, now)) entries.push(entry)
      if (rest === undefined || entries.length >= newest) return { life, seq, entries: entries.reverse(), floor: after, last, ended }
      from = rest
    }
  }

  async #readPages (ranges: readonly Range[]): Promise<Array<Page | Promise<Page>>> {
    const [life, seq, now, ...pages] = await this.#run('read', ranges.map(({ stream }) => stream), [
      this.#server, String(PAGE.rows), String(PAGE.bytes), ...ranges.flatMap(({ from, to, back, rows }) => [from, to, back ? '1' : '0', String(rows)])
    ]) as [string, string, string, ...Array<string | [rows: Page['rows'], more: string, last: string, ended: string]>]
    return pages.map(page => {
      if (typeof page === 'string') return Promise.reject(new Error(page))
      const [rows, more, last, ended] = page
      const rest = more === '1' && rows.length > 0 ? `(${rows.at(-1)![0]}` : undefined
      return { life, seq: Number(seq), now: Number(now), last: Number(last), ended: ended === '1', rows, rest }
    })
  }

  /** Warns where Redis deletes keys when its memory is full, if it tells. */
  async warn (): Promise<void> {
    const info = await this.#commands.send(['INFO', 'memory']).catch(() => '') as string
    const policy = /maxmemory_policy:(\S+)/.exec(info)?.[1] ?? 'noeviction'
    if (policy === 'noeviction' || /maxmemory:0\s/.test(info)) return
    process.emitWarning(`Redis deletes keys when its memory is full (maxmemory-policy ${policy}), so histories may be lost: set it to noeviction`, { code: 'SSE_REDIS_EVICTION' })
  }

  async #run (name: keyof typeof SCRIPTS, streams: string[], args: string[]): Promise<unknown[]> {
    const keys = [this.#key, this.#key + ':last', ...streams]
    try {
      const answer = await this.#commands.send(['EVALSHA', this.#hash[name]!, String(keys.length), ...keys, ...args]) as unknown[]
      if (answer[0] !== '') return answer
    } catch (error) {
      // What is wrong with the server, and not with this one command: what is sent behind it could overtake. A new pair may find a better one.
      if (/^(NOSCRIPT|READONLY|LOADING|MASTERDOWN|NOAUTH)/.test((error as Error).message)) this.end(error as Error)
      throw error
    }
    const error = new Error('the server is not what it was when we came')
    this.end(error)
    throw error
  }
}

function batches (streams: readonly string[]): string[][] {
  return Array.from({ length: Math.ceil(streams.length / BATCH) }, (_, i) => streams.slice(i * BATCH, (i + 1) * BATCH))
}
