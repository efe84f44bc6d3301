import { setTimeout as sleep } from 'node:timers/promises'
import type { Kept, NewEntry, Place, Receiver, SharedBackplane } from '../log/backplane.ts'
import { formatCursor } from '../log/cursor.ts'
import { SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CHANNEL_ENDED, SSE_ERR_CLOSED, SSE_ERR_INVALID_OPTION } from '../errors.ts'
import { decodeHeard, streamOf } from './entry.ts'
import type { RedisClient } from './link.ts'
import { Lives } from './lives.ts'
import { Pair } from './pair.ts'
import { Together } from './together.ts'

/** ms before a lost pair of connections is made anew: at first, and at most. */
const PAUSES = [50, 3_000] as const
/** ms that close() waits for the answers to publishes under way. */
const LAST_ANSWERS = 500
const ANOTHER_LIFE = 'another life of the log has begun'

/** The protocol: what is said over one pair of connections after the other, and what it proves. */
export class RedisBackplane implements SharedBackplane {
  readonly #client: RedisClient
  readonly #key: string
  readonly #silence: number
  readonly #lives = new Lives()
  /** Names of streams, and the channels whose they are. */
  readonly #watched = new Map<string, string>()
  readonly #adding = new Set<Promise<unknown>>()
  readonly #life = new AbortController()
  #receiver: Receiver | undefined
  #pair: Pair | undefined
  /** They serve: `mended` was called, and not `broken`. */
  #serving: Pair | undefined
  #error = new Error('not connected')
  /** Those who wait until the next pair serves. */
  #waiting: Array<() => void> = []
  /** The newest that was heard. No life that begins later gives its number again. */
  #heard = 0
  #news = false
  /** Streams that are to be subscribed to, or not any more. One change waits for the answer to the one before: node-redis takes what is being left for what it has. */
  readonly #changing = new Together<string, void>(Infinity, async streams => {
    const pair = this.#pair
    const isWatched = (stream: string): boolean => this.#watched.has(stream)
    // Where that fails, or there is no pair: what is watched by then is subscribed to over the next one before it serves.
    if (pair !== undefined) await Promise.allSettled([this.#subscribe(pair, streams.filter(isWatched)), pair.unsubscribe(streams.filter(stream => !isWatched(stream)))])
    return streams.map(() => undefined)
  })

  /** Streams of channels that were just watched wait for the head, though nothing may come for a while. */
  readonly #finding = new Together<void, void>(Infinity, async questions => {
    if (this.#serving !== undefined) await this.#advance(this.#serving, false)
    return questions
  })

  constructor (client: RedisClient, key: string, silence: number) {
    this.#client = client
    this.#key = key
    this.#silence = silence
  }

  async open (receiver: Receiver): Promise<void> {
    if (this.#receiver !== undefined) throw new SSE_ERR_INVALID_OPTION('backplane', 'one that serves no other registration', 'one in use')
    if (this.#closed) throw new SSE_ERR_CLOSED('open()')
    this.#receiver = receiver
    try {
      this.#keep(await this.#connect())
    } catch (error) {
      await this.close()
      throw down(error)
    }
  }

  async append (entry: NewEntry): Promise<string> {
    if (this.#receiver === undefined || this.#closed) throw new SSE_ERR_CLOSED('append()')
    const pair = this.#serving
    const lives = this.#lives
    try {
      if (pair === undefined) throw this.#error
      // No await before this line: the order of the calls is the order of the log.
      const adding = pair.publish(entry.channels.map(name => streamOf(this.#key, name)), entry)
      this.#adding.add(adding)
      const answer = await adding.finally(() => this.#adding.delete(adding))
      const state = lives.state(answer.life)
      if (state !== 'present') this.#replace(pair, new Error(ANOTHER_LIFE))
      // Of a life that has ended, an answer is no acknowledgement.
      if (state === 'ended') throw new Error('the log has gone on without this connection')
      if ('ended' in answer) throw new SSE_ERR_CHANNEL_ENDED(entry.channels[answer.ended]!)
      if ('first' in answer) return formatCursor(lives.of(answer.first) ?? answer.life, answer.first)
      lives.see(answer)
      return formatCursor(answer.life, answer.seq)
    } catch (error) {
      throw error instanceof SSE_ERR_CHANNEL_ENDED ? error : down(error)
    }
  }

  async watch (names: readonly string[]): Promise<void> {
    const streams = names.map(name => streamOf(this.#key, name))
    for (const [i, stream] of streams.entries()) this.#watched.set(stream, names[i]!)
    await Promise.all(streams.map(stream => this.#changing.ask(stream)))
    if (this.#serving === undefined) await new Promise<void>(resolve => { this.#waiting.push(resolve) })
    this.#finding.ask()
  }

  unwatch (names: readonly string[]): void {
    for (const stream of names.map(name => streamOf(this.#key, name))) if (this.#watched.delete(stream)) this.#changing.ask(stream)
  }

  async read (name: string, after: number, newest?: number, bytes?: number): Promise<Kept> {
    const stream = streamOf(this.#key, name)
    return await this.#ask(pair => newest === undefined ? pair.readAfter(stream, name, after, bytes) : pair.readNewest(stream, name, after, newest))
  }

  async seq (): Promise<Place> {
    return await this.#ask(pair => pair.seq())
  }

  async close (): Promise<void> {
    this.#life.abort()
    this.#serving = undefined
    this.#error = new Error('closed')
    // What was published a moment ago gets its answer.
    if (this.#adding.size > 0) await Promise.race([Promise.allSettled(this.#adding), sleep(LAST_ANSWERS, undefined, { ref: false })])
    this.#pair?.end(this.#error)
  }

  get #closed (): boolean { return this.#life.signal.aborted }

  /** Makes a pair, watches over it everything that is watched by then, and says hello. `mended` or `restarted` was called when it resolves. */
  async #connect (): Promise<Pair> {
    const pair: Pair = new Pair(this.#client, this.#key, (stream, message) => { if (pair === this.#serving) this.#hear(pair, stream, message) })
    const stop = () => pair.end(new Error('closed'))
    this.#life.signal.addEventListener('abort', stop)
    try {
      await pair.open()
      this.#pair = pair
      await this.#subscribe(pair, [...this.#watched.keys()])
      const { lives, seq, life } = await pair.hello(this.#lives.evidence())
      if (this.#closed) throw new Error('closed')
      const lost = this.#lives.learn(lives)
      this.#lives.see({ life, seq })
      this.#serving = pair
      this.#receiver![lost ? 'restarted' : 'mended'](lives, seq)
      for (const resolve of this.#waiting.splice(0)) resolve()
      return pair
    } catch (error) {
      pair.end(error as Error)
      this.#pair = undefined
      throw error
    } finally {
      this.#life.signal.removeEventListener('abort', stop)
    }
  }

  async #subscribe (pair: Pair, streams: string[]): Promise<void> {
    await pair.subscribe(streams).catch(error => {
      this.#replace(pair, error)
      throw error
    })
  }

  /** Has one pair after the other, until close(). */
  async #keep (first: Pair): Promise<void> {
    first.warn()
    let pair: Pair | undefined = first
    let failures = 0
    while (!this.#closed) {
      try {
        pair ??= await this.#connect()
        failures = 0
        const beat = setInterval((pair: Pair) => { this.#beat(pair) }, this.#silence, pair).unref()
        const reason = await pair.ended
        clearInterval(beat)
        this.#replace(pair, reason)
      } catch (error) {
        if (!this.#closed) this.#error = error as Error
      }
      pair = undefined
      const pause = Math.min(PAUSES[1], PAUSES[0] * 2 ** failures++)
      // Half of it at random, or all processes come back at once. close() ends it.
      await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal: this.#life.signal }).catch(() => {})
    }
  }

  /** Whatever this pair still says is dropped. */
  #replace (pair: Pair, reason: Error): void {
    pair.end(reason)
    if (pair !== this.#serving) return
    this.#serving = this.#pair = undefined
    this.#error = reason
    this.#receiver!.broken(down(reason))
  }

  #hear (pair: Pair, stream: string, message: string): void {
    const name = this.#watched.get(stream)
    if (name === undefined) return
    this.#news = true
    // Of an entry of several channels a copy comes for each that is watched, one after the other.
    if (parseInt(message.slice(message.indexOf(' ') + 1, 32)) === this.#heard) return
    const entry = decodeHeard(message, name)
    if (entry === undefined) return
    this.#lives.see(entry)
    if (this.#lives.state(entry.life) === 'present') {
      this.#heard = entry.seq
      this.#receiver!.hear(entry)
    } else if (!this.#lives.isKept(entry)) {
      this.#replace(pair, new Error(ANOTHER_LIFE))
    }
  }

  async #beat (pair: Pair): Promise<void> {
    const silent = !this.#news
    this.#news = false
    if (silent && pair === this.#serving) await this.#advance(pair, true)
  }

  /** @param sure it is to be asked, too, whether the server is still a primary, and the same one: that costs ten times as much */
  async #advance (pair: Pair, sure: boolean): Promise<void> {
    try {
      const place = await this.#ask(pair => pair.seq(sure))
      // It comes after all that was published before.
      await pair.ping()
      if (pair === this.#serving) this.#receiver!.advance(place)
    } catch (error) {
      // Else it has been replaced, or close() still waits for answers over it.
      if (pair === this.#serving) pair.end(error as Error)
    }
  }

  /** Asks what is of the present life, or nothing. */
  async #ask<Answer extends Place | Kept> (question: (pair: Pair) => Promise<Answer>): Promise<Answer> {
    const pair = this.#serving
    try {
      if (pair === undefined) throw this.#error
      const answer = await question(pair)
      if ('seq' in answer) this.#lives.see(answer)
      if (pair !== this.#serving) throw this.#error
      if (this.#lives.state(answer.life) === 'present') return answer
      this.#replace(pair, new Error(ANOTHER_LIFE))
      throw this.#error
    } catch (error) {
      throw down(error)
    }
  }
}

/** The error for those outside; the one from inside is its cause. */
function down (cause: unknown): Error {
  if (cause instanceof SSE_ERR_BACKPLANE_DOWN) return cause
  return new SSE_ERR_BACKPLANE_DOWN(cause instanceof Error && cause.message !== '' ? cause.message : String(cause), { cause })
}
