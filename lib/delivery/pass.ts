import { AsyncLocalStorage } from 'node:async_hooks'
import type { ChannelLog, Member } from '../log/channel-log.ts'
import type { Log } from '../log/log.ts'
import type { Pieces } from '../stream/pieces.ts'

/** A stream is written so many pieces before the next one has its turn. */
const PIECES_A_VISIT = 4
/** A pass holds the event loop no longer than this, in ms. */
const SLICE = 5
/** So many quiet streams join a pass, besides as many as it has anyway. */
const QUIET_A_PASS = 16

/** What a pass moves forward. */
export interface Mover extends Member {
  /** It is on the ready list. */
  ready: boolean
  /** Where it stands, if it is in channels. */
  readonly reader: { readonly position: number } | undefined
  /** @returns whether it has more to write, and can */
  advance (pieces: number): boolean
}

/**
 * The delivery pass: one walk over the streams that were ready when it began, moving each forward. Only a pass writes channel events.
 * What is published meanwhile moves the head, so that streams reached later get more in one write.
 */
export class Delivery {
  /** performance.now() at the last pass or sweep. */
  now = performance.now()

  readonly #log: Log<Mover>
  readonly #pieces: Pieces
  /** A pass belongs to no request: without this it would run in the async context of whoever published first. */
  readonly #run = AsyncLocalStorage.snapshot()
  /** For the next pass. */
  #streams: Mover[] = []
  #channels = new Set<ChannelLog<Mover>>()
  #quiet: Mover[] = []
  /** The present pass: its streams, how many were visited, and the head at which it began. */
  #pass: Mover[] = []
  #visited = 0
  #head = 0
  #scheduled = false

  constructor (log: Log<Mover>, pieces: Pieces) {
    this.#log = log
    this.#pieces = pieces
  }

  /** The next pass visits this stream. */
  stream (stream: Mover): void {
    if (stream.ready) return
    stream.ready = true
    this.#streams.push(stream)
    this.#schedule()
  }

  /** The next pass visits all members. Marking the channel, not each of them, makes publishing cost the same for any number. */
  channel (log: ChannelLog<Mover>): void {
    if (log.members.size === 0) return
    this.#channels.add(log)
    this.#schedule()
  }

  /** A heartbeat is due: one of the next passes visits the stream. Thousands can be due at once, and an event must not wait behind them. */
  quiet (stream: Mover): void {
    this.#quiet.push(stream)
    this.#schedule()
  }

  tick (): void {
    this.now = performance.now()
  }

  #schedule (): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => this.#run(() => this.#begin()))
  }

  #begin (): void {
    this.#pass = this.#streams
    this.#streams = []
    for (const log of this.#channels) for (const stream of log.members) this.#add(stream)
    this.#channels.clear()
    for (const stream of this.#quiet.splice(0, QUIET_A_PASS + this.#pass.length)) this.#add(stream)
    this.#visited = 0
    this.#head = this.#log.head
    this.#slice()
  }

  #add (stream: Mover): void {
    if (stream.ready) return
    stream.ready = true
    this.#pass.push(stream)
  }

  #slice (): void {
    this.tick()
    const end = this.now + SLICE
    while (this.#visited < this.#pass.length) {
      this.#visit(this.#pass[this.#visited++]!)
      if (performance.now() > end) {
        setImmediate(() => this.#slice())
        return
      }
    }
    this.#pass = []
    this.#pieces.clear()
    this.#log.release(this.#offered())
    this.#scheduled = false
    if (this.#streams.length > 0 || this.#channels.size > 0 || this.#quiet.length > 0) this.#schedule()
  }

  /**
   * Up to where every stream that can take it was offered everything: the head at which the pass began, or where a stream
   * stands that became ready meanwhile, by a drain or with a cursor that was just found to be good.
   */
  #offered (): number {
    let offered = this.#head
    for (const { reader } of this.#streams) if (reader !== undefined) offered = Math.min(offered, reader.position)
    return offered
  }

  #visit (stream: Mover): void {
    stream.ready = false
    if (!stream.advance(PIECES_A_VISIT)) return
    // A stream that can take more stays in this pass until it has all that was there when it began.
    if ((stream.reader?.position ?? Infinity) >= this.#head) return this.stream(stream)
    stream.ready = true
    this.#pass.push(stream)
  }
}
