import type { ChannelLog, Member } from '../../lib/log/channel-log.ts'
import { Reader } from '../../lib/stream/reader.ts'
import type { SubscribeOptions } from '../../lib/stream/sse-stream.ts'
import { encodeCursor, encodeEvent } from '../../lib/wire/event.ts'
import type { Client } from './client.ts'
import type { Process } from './process.ts'

/** Blocks that a socket takes before it is full. */
const SOCKET = 6

/** What a client parses: a block of the event stream. */
export interface Block { readonly id: string | undefined, readonly event: string | undefined, readonly data: string | undefined }

/** One open response: the real reader, and a socket that is read at the client's pace. It moves as lib/stream/stream.ts does. */
export class Stream implements Member {
  readonly reader: Reader<Stream>
  /** It is on the ready list. */
  ready = false
  /** It has found its first place. */
  started = false
  blocked = false
  state: 'opening' | 'open' | 'closed' = 'opening'

  readonly process: Process
  readonly #client: Client
  /** What has not reached the client: blocks, and what the judge is to hear at that place. */
  readonly #socket: Array<Block | (() => void)> = []
  #pumping = false
  #ending = false
  #heartbeatDue = false
  /** What the judge is to hear once the stream has moved to its new place. */
  #marks: Array<() => void> = []

  constructor (process: Process, client: Client, lastEventId: string | null) {
    this.process = process
    this.#client = client
    this.reader = new Reader<Stream>(process.log, process.pieces, this, lastEventId)
    process.streams.add(this)
    const { world } = process
    world.at(world.chance(0.7) ? 0 : world.int(1, 40), () => this.#open())
  }

  /** Hooks are through: the head leaves, with the first cursor where it is known and nothing is due before it. */
  #open (): void {
    if (this.state === 'closed') return
    this.state = 'open'
    // Nothing is sent, as with 204.
    if (this.reader.nothingToCome === true) return this.end()
    if (this.#settle() && !this.reader.owesGaps) {
      this.#flushMarks()
      this.#prime()
    }
    this.process.stream(this)
  }

  subscribe (names: readonly string[], join: SubscribeOptions, mark?: () => void): void {
    if (this.state === 'closed') return
    this.reader.join(names, join)
    this.process.world.settled()
    if (mark !== undefined) this.#marks.push(mark)
    this.process.stream(this)
  }

  unsubscribe (names: readonly string[]): void {
    this.reader.leave(names)
    // The channel may have been what it waited for.
    this.process.stream(this)
  }

  lacked (log: ChannelLog<any>, after: number): void { this.reader.lacked(log, after) }
  restarted (): void { this.reader.restarted() }

  sweep (): void {
    if (this.state !== 'open' || this.blocked) return
    // A heartbeat takes it forward, too: so nothing may wait for that.
    if (this.process.sleeps(this) && !this.#asks && this.#client.stream === this) {
      if (this.#mayMove) this.#client.complain('asleep')
      else if (this.rests) this.#client.checkCursor()
    }
    if (!this.process.world.chance(0.2)) return
    this.#heartbeatDue = true
    this.process.stream(this)
  }

  advance (pieces: number): boolean {
    if (this.state !== 'open' || this.blocked) return false
    try {
      return this.#advance(pieces)
    } catch (error) {
      if ((error as Error).message !== 'a filter failed') throw error
      this.end()
      return false
    }
  }

  #advance (pieces: number): boolean {
    const { reader } = this
    for (;;) {
      if (!this.#settle()) return false
      this.#flushMarks()
      const due = reader.takeGaps()
      // Only the last one has the cursor: who is cut off before it comes back to all of them.
      due?.gaps.forEach((gap, i, { length }) => this.#write(encodeEvent({ id: i === length - 1 ? due.cursor : undefined, event: 'sse.gap', data: JSON.stringify(gap) })))
      this.#prime()
      if (this.blocked) return false
      const step = reader.step()
      if (this.#isClosed) return false // a filter closed it
      if (step === undefined) break
      if (step.frame !== undefined) this.#write(step.frame.body.toString())
      if (--pieces === 0) return !this.blocked
    }
    if (reader.ended) this.end()
    else if (this.#heartbeatDue || reader.owesCursor) this.#write(encodeCursor(reader.freshCursor()))
    return false
  }

  #settle (): boolean {
    const settled = this.reader.settle()
    if (settled) this.started = true
    return settled
  }

  get #isClosed (): boolean { return this.state === 'closed' }

  #prime (): void {
    const prime = this.reader.takePrime()
    if (prime !== undefined) this.#write(encodeCursor(prime))
  }

  #flushMarks (): void {
    if (this.#marks.length === 0) return
    this.#socket.push(...this.#marks)
    this.#marks = []
  }

  /** It has nothing more to say, and all that it said has arrived. */
  get rests (): boolean {
    const { reader } = this
    if (this.state !== 'open' || this.#socket.length > 0 || !this.#settle() || reader.owesGaps) return false
    return reader.subscriptions.every(({ log, from }) => log.after(Math.max(from, reader.position)) === log.events)
  }

  /** It waits for an answer, which wakes it, though the head may have come to its place meanwhile. */
  get #asks (): boolean {
    return this.reader.subscriptions.some(({ start }) => start?.asks === true)
  }

  get #mayMove (): boolean {
    const { reader } = this
    if (!this.#settle()) return false
    return reader.owesGaps || reader.subscriptions.some(({ log, from }) => {
      const index = log.after(Math.max(from, reader.position))
      return index < log.events && log.at(index).seq <= this.process.log.head
    })
  }

  // The socket

  #write (text: string): void {
    this.#heartbeatDue = false
    for (const block of text.split('\n\n')) if (block !== '') this.#socket.push(parse(block))
    if (this.#socket.length > SOCKET) this.blocked = true
    this.#pump()
  }

  #pump (): void {
    if (this.#pumping) return
    this.#pumping = true
    const { world } = this.process
    world.at(world.random() * (4 + this.#client.pace), () => {
      this.#pumping = false
      if (this.process.dead || this.#client.stream !== this) return
      for (let n = world.int(1, 4); n > 0 && this.#client.stream === this;) {
        const next = this.#socket.shift()
        if (next === undefined) break
        if (typeof next === 'function') {
          next()
          continue
        }
        n--
        this.#client.receive(next)
      }
      if (this.#socket.length > 0) return this.#pump()
      if (this.#ending) return this.#client.dropped(this)
      this.blocked = false
      if (this.state === 'open') this.process.stream(this)
    })
  }

  /** The process ends it: what was written still arrives. */
  end (): void {
    if (this.state === 'closed') return
    this.#close()
    this.#ending = true
    this.#pump()
  }

  /** The client has left, or the process died. */
  gone (): void {
    this.#close()
    this.#client.dropped(this)
  }

  #close (): void {
    if (this.state === 'closed') return
    this.state = 'closed'
    this.process.streams.delete(this)
    this.reader.leave(this.reader.subscriptions.map(({ log }) => log.name))
  }
}

function parse (text: string): Block {
  const block: { -readonly [Key in keyof Block]: Block[Key] } = { id: undefined, event: undefined, data: undefined }
  for (const line of text.split('\n')) {
    const at = line.indexOf(': ')
    block[line.slice(0, at) as keyof Block] = line.slice(at + 2)
  }
  return block
}
