import type { ServerResponse } from 'node:http'
import type { Writable } from 'node:stream'
import { AsyncResource } from 'node:async_hooks'
import type { FastifyRequest } from 'fastify'
import { SSE_ERR_INVALID_EVENT, received } from '../errors.ts'
import type { ChannelLog, Member } from '../log/channel-log.ts'
import { checkOptions, isRetry } from '../checks.ts'
import { compression, type Compression } from '../options.ts'
import type { Frame } from '../wire/chunk.ts'
import { encodeComment, encodeCursor, encodeEvent, twoArguments, type SseEvent } from '../wire/event.ts'
import type { ChannelOrName } from './channel.ts'
import { Closing, onAbort } from './closing.ts'
import { Gzip } from './gzip.ts'
import type { StreamHost } from './host.ts'
import { isGone, onSocketClose, Outlet, type OutletOwner } from './outlet.ts'
import { OwnEvents } from './own-events.ts'
import { PIECE_BYTES } from './pieces.ts'
import { Reader } from './reader.ts'
import type { Source } from './source.ts'
import { checkSubscribeOptions, type CloseReason, type SseOptions, type SseStream, type SubscribeOptions } from './sse-stream.ts'

const YES = Promise.resolve(true)
const NO = Promise.resolve(false)
/** After these the client must not take what it has for the whole. */
const BROKEN_OFF: readonly CloseReason[] = ['stall', 'overflow', 'error']

/** What the plugin knows of a stream when it makes one. */
export interface StreamInit {
  readonly request: FastifyRequest
  readonly response: ServerResponse
  /** What admission counted it under. */
  readonly key: unknown
  readonly lastEventId: string | null
  readonly options: SseOptions
}

export class Stream implements SseStream, Member, OutletOwner {
  readonly request: FastifyRequest
  readonly lastEventId: string | null
  state: SseStream['state'] = 'opening'
  /** It is on the ready list. */
  ready = false
  /** Its place in the log, once it has a channel. */
  reader: Reader<Stream> | undefined
  /** What it was admitted under. */
  readonly key: unknown

  readonly #host: StreamHost<Stream>
  readonly #response: ServerResponse
  readonly #options: SseOptions
  readonly #startedAt = performance.now()
  readonly #maxAge: number
  /** Its request's: whoever moves or closes it, what is the stream's own runs in there. */
  readonly #context = new AsyncResource('SseStream')
  #outlet: Outlet | undefined
  readonly #own = new OwnEvents()
  #events = 0
  #bytes = 0
  #lastWrite = 0
  /** The next pass sends a heartbeat, if it has nothing else to send. */
  #heartbeatDue = false
  readonly #closing = new Closing()
  #toldOpened = false
  /** What feeds it besides its channels. */
  source: Source | undefined
  /** Called when it may have become known where its subscriptions start, and when it closes. */
  onMove: (() => void) | undefined

  constructor (host: StreamHost<Stream>, { request, response, key, lastEventId, options }: StreamInit) {
    this.#host = host
    this.#response = response
    this.request = request
    this.lastEventId = lastEventId
    this.key = key
    this.#options = options
    // Streams that were opened together must not come back together.
    const maxAge = options.maxAge ?? host.options.maxAge
    // And none may outlive it: the sweep is late by its period, and under load by a little more.
    this.#maxAge = 0.9 * maxAge + Math.random() * (0.1 * maxAge - 2 * Math.min(1_000, maxAge / 40))
    // The response's own 'close' is the one sign of a client that left which every method and protocol gives.
    response.on('close', () => this.#gone())
    // But a pipelined request has no socket yet, and its response never hears of it if the connection breaks before its turn.
    if (response.socket === null) onSocketClose(request.raw.socket, response, () => this.#gone())
    if (isGone(response)) this.#gone() // it left before the handler ran, and 'close' with it
    const { signal } = options
    if (signal !== undefined && this.state !== 'closed') this.#endBy(signal)
  }

  get blocked (): boolean { return this.#outlet?.blocked ?? false }

  get channels (): ReadonlySet<string> {
    return new Set(this.reader?.subscriptions.map(({ log }) => log.name))
  }

  /** How it is compressed, if its client takes that. */
  get compression (): Compression | undefined {
    return compression(this.#options.compress, this.#host.options.compress)
  }

  get signal (): AbortSignal { return this.#closing.signal }
  get closed (): Promise<CloseReason> { return this.#closing.closed }
  /** Resolves when the response is closed. */
  get done (): Promise<void> { return this.#closing.done }

  /** As a question of its own: whatever a stream calls may close it. */
  get #isClosed (): boolean { return this.state === 'closed' }

  #inContext<Args extends unknown[], T> (call: (...args: Args) => T, ...args: Args): T {
    return this.#context.runInAsyncScope(call, undefined, ...args)
  }

  // Its own events

  send (event: SseEvent | string, ...more: unknown[]): Promise<boolean> {
    if (this.state === 'closed') return NO
    try {
      if (more.length > 0) throw twoArguments('send', event, more[0])
      const fields = this.#host.checkEvent(event)
      if (fields.id !== undefined && this.#subscribed) {
        throw new SSE_ERR_INVALID_EVENT('id', 'is not for send() on a subscribed stream: ids belong to the log there', received(fields.id))
      }
      return this.#queue(encodeEvent(fields), fields.data === undefined ? 0 : 1)
    } catch (error) {
      return this.#host.reports.logged(Promise.reject(error), 'send failed', this.request.log)
    }
  }

  comment (text: string): Promise<boolean> {
    return this.send({ comment: text })
  }

  /** What is queued leaves with the next pass, or at once where it fills a piece. */
  #queue (text: string, events: number): Promise<boolean> {
    this.#own.add(text, events)
    if (this.state === 'open' && !this.blocked) {
      if (this.#own.bytes >= PIECE_BYTES) this.#flushOwn()
      else this.#host.ready(this)
    } else if (this.#own.bytes > this.#host.options.maxBufferedBytes) {
      this.end('overflow')
      return NO
    }
    if (this.#isClosed) return NO // something that a hook put in between closed it
    if (this.state === 'open' && !this.blocked) return YES
    return this.#own.room
  }

  /** @returns whether there was something */
  #flushOwn (): boolean {
    if (this.#own.text === '') return false
    const { text, bytes, events } = this.#own.take()
    this.#events += events
    this.#write(this.#outlet!.frame(text, bytes))
    return true
  }

  // Channels

  subscribe (channel: ChannelOrName | readonly ChannelOrName[], options: SubscribeOptions<any> = {}): this {
    const names = this.#host.namesOf(channel)
    const { lastEventId, rewind = this.#options.rewind, filter = this.#options.filter } = checkSubscribeOptions(options)
    if (this.state === 'closed') return this
    const { log, pieces } = this.#host
    this.#outlet?.gzip?.interrupt() // it may go back, and what lies before that place is not what its client has just had
    this.reader ??= new Reader<Stream>(log, pieces, this, this.lastEventId)
    const joined = this.reader.join(names, { lastEventId, rewind, filter: filter && (event => this.#inContext(filter, event)) })
    this.#host.counters.subscriptions += joined.length
    if (this.state === 'open') this.#host.ready(this)
    // Last: a listener may subscribe, unsubscribe or close the stream.
    this.#inContext(() => { for (const channel of joined) this.#host.reports.announce('subscribe', { channel, stream: this }) })
    return this
  }

  unsubscribe (channel: ChannelOrName | readonly ChannelOrName[]): this {
    const names = this.#host.namesOf(channel)
    // While it closes its reader is still there, for listeners to look at.
    const { reader } = this
    if (this.state === 'closed' || reader === undefined) return this
    this.#inContext(() => this.#left(reader.leave(names)))
    // The channel that it left may be what held it.
    this.#host.ready(this)
    return this
  }

  #left (names: readonly string[]): void {
    this.#host.counters.subscriptions -= names.length
    for (const channel of names) this.#host.reports.announce('unsubscribe', { channel, stream: this })
  }

  lacked (log: ChannelLog, after: number): void {
    // From here on the history holds what did not go out.
    this.#outlet?.gzip?.interrupt()
    this.reader?.lacked(log, after)
  }

  restarted (): void {
    this.#outlet?.gzip?.interrupt()
    this.reader?.restarted()
  }

  get #subscribed (): boolean {
    return this.reader !== undefined && this.reader.subscriptions.length > 0
  }

  /** The gaps that are due go out before anything else. */
  #tellGaps (reader: Reader<Stream>): void {
    const due = reader.takeGaps()
    if (due === undefined) return
    const { gaps, cursor } = due
    // The id comes with the last one: a client that drops between two comes back without it, and is told both again.
    this.#own.prepend(gaps.map((gap, i) => encodeEvent({ id: i === gaps.length - 1 ? cursor : undefined, event: 'sse.gap', data: JSON.stringify(gap) })).join(''))
    this.#events += gaps.length
    this.#host.counters.gaps += gaps.length
    this.#inContext(() => {
      for (const { reason, channels } of gaps) {
        this.request.log.debug({ reason, channels, cursor, lastEventId: this.lastEventId }, 'stream gap')
        this.#host.reports.announce('gap', { stream: this, reason, channels })
      }
    })
  }

  // Moving forward

  /**
   * Writes gaps, own events and what lies after its position, so many pieces at most, until the socket is full: the one function by
   * which live events, catching up and replay reach a client.
   * @returns whether there is more to write now
   */
  advance (pieces: number): boolean {
    try {
      this.#moved()
      if (this.state !== 'open' || this.blocked) return false
      return this.#advance(pieces)
    } catch (error) {
      this.fail(error)
      return false
    }
  }

  #advance (pieces: number): boolean {
    for (;;) {
      const reader = this.reader?.settle() === true ? this.reader : undefined
      if (reader !== undefined) {
        this.#tellGaps(reader)
        if (this.#isClosed) return false // a listener of 'gap' closed it
        // After its own events: a client that drops before it comes back without it, and gets its snapshot again.
        const prime = reader.takePrime()
        if (prime !== undefined) this.#own.add(encodeCursor(prime))
      }
      const wrote = this.#flushOwn()
      if (this.blocked || this.#isClosed) return false // something that a hook put in between closed it
      this.#own.tellRoom(true)
      if (wrote && this.reader !== undefined) {
        // What listeners and hooks did meanwhile may have moved the ground: looked at again before anything is taken from it.
        if (--pieces === 0) return true
        continue
      }
      if (reader === undefined) {
        if (this.#heartbeatDue) this.#write(this.#outlet!.frame(encodeComment('')))
        return false
      }
      const step = reader.step(this.#outlet!.gzip)
      if (this.#isClosed) return false // a filter closed it
      if (step === undefined) break
      if (step.frame !== undefined) {
        this.#events += step.events
        this.#host.counters.delivered += step.events
        this.#write(step.frame, true)
        if (this.#isClosed || this.blocked) return false
      }
      if (--pieces === 0) return true
      if (reader.atHead) break
    }
    const { reader } = this
    const ends = reader!.ended && this.source === undefined
    if (reader!.owesCursor || (this.#heartbeatDue && !ends)) this.#write(this.#outlet!.frame(encodeCursor(reader!.freshCursor())))
    if (ends) this.end('end')
    return false
  }

  #write (frame: Frame, shared = false): void {
    try {
      this.#outlet!.write(frame, shared)
    } catch (error) {
      this.fail(error)
    }
  }

  onWrite (bytes: number): void {
    this.#bytes += bytes
    this.#host.counters.bytesWritten += bytes
    this.#lastWrite = this.#host.now
    this.#heartbeatDue = false
  }

  onBlocked (): void {
    if (this.state !== 'open') return // closed from inside that write
    this.#host.counters.blocked++
    this.#inContext(() => this.request.log.debug('stream blocked'))
  }

  onDrained (): void {
    if (this.state !== 'open') return
    this.#host.counters.blocked--
    this.#inContext(() => this.request.log.debug('stream resumed'))
    this.#host.ready(this)
  }

  /** Called by the sweep, up to the end of the response. */
  sweep (now: number): void {
    const { heartbeatInterval, stallTimeout } = this.#host.options
    const outlet = this.#outlet
    if (outlet === undefined) return // its hooks are running
    const stalled = stallTimeout > 0 && now - outlet.waitingSince >= stallTimeout
    if (this.state === 'closed') {
      if (stalled) outlet.destroy()
    } else if (this.#maxAge > 0 && now - this.#startedAt >= this.#maxAge) {
      this.end('age')
    } else if (outlet.blocked) {
      if (stalled) this.end('stall')
    } else if (heartbeatInterval > 0 && !this.#heartbeatDue && now - this.#lastWrite >= heartbeatInterval) {
      this.#heartbeatDue = true
      this.#host.quiet(this)
    }
  }

  get shortestLimit (): number {
    const { heartbeatInterval, stallTimeout } = this.#host.options
    return Math.min(heartbeatInterval || Infinity, stallTimeout || Infinity, this.#maxAge / 4 || Infinity)
  }

  // Opening and closing

  #endBy (signal: AbortSignal): void {
    const off = onAbort(signal, () => this.end('server'))
    if (this.state !== 'closed') this.closed.then(off)
  }

  /** What comes of it belongs to the request, as its onSend hooks do, and not to whoever moves streams. */
  #moved (): void {
    if (this.onMove !== undefined) this.#inContext(this.onMove)
  }

  /** Its source is through: it lives on by its channels. */
  fed (): void {
    if (this.#host.closing) this.drain()
    else this.#host.ready(this)
  }

  /**
   * The onSend hooks are through, and this is the response.
   * @param native it is node:http's own
   * @param compression how it is compressed, where its head says so
   */
  open (response: Writable, native: boolean, compression: Compression | undefined): void {
    if (isGone(response)) return this.#gone()
    const outlet = new Outlet(response, native ? undefined : this.#response, compression && new Gzip(compression, this.#host.reports.compressionFailed), this)
    this.#outlet = outlet
    this.#host.opened(this)
    if (this.state === 'closed') {
      this.#host.flushing(this)
      return BROKEN_OFF.includes(this.#closing.reason!) ? outlet.destroy() : outlet.end(this.#own.text)
    }
    this.#host.tick()
    this.state = 'open'
    // connectionTimeout would cut an idle stream; over HTTP/2 it is the session's, and waits for streams.
    if (this.request.raw.httpVersionMajor === 1) this.request.raw.socket?.setTimeout?.(0)
    try {
      const { text, bytes, events } = this.#first()
      this.#events += events
      outlet.open(text, bytes)
    } catch (error) {
      this.fail(error)
      outlet.destroy() // nothing of it has reached the client
    }
    if (!this.blocked) this.#own.tellRoom(true)
    this.#tellOpened()
    if (this.reader?.behind === true) this.#host.ready(this)
    if (this.state === 'open') this.source?.start(this)
  }

  #tellOpened (): void {
    if (this.#toldOpened) return
    this.#toldOpened = true
    this.#host.counters.opened++
    this.request.log.debug({ lastEventId: this.lastEventId }, 'stream opened')
    this.#host.reports.announce('open', { stream: this })
  }

  /** The reconnection time, and what is known by now: the cursor of its first position leaves with the head, unless something is to come before it. */
  #first (): ReturnType<OwnEvents['take']> {
    const retry = this.#options.retry ?? this.#host.options.retry
    const alone = this.#own.text === '' && this.reader?.settle() === true && !this.reader.owesGaps
    const id = alone ? this.reader!.takePrime() : undefined
    const first = retry > 0 || id !== undefined ? encodeEvent({ id, retry: retry > 0 ? retry : undefined }) : encodeComment('')
    this.#own.prepend(first)
    return this.#own.take()
  }

  close (options: { retry?: number | undefined } = {}): Promise<void> {
    try {
      checkOptions(options, ['retry'])
      const { retry } = options
      if (retry !== undefined && !isRetry(retry)) throw new SSE_ERR_INVALID_EVENT('retry', 'must be a whole number of milliseconds >= 0', received(retry))
    } catch (error) {
      return this.#host.reports.logged(Promise.reject(error), 'close failed', this.request.log)
    }
    this.end('server', options.retry)
    return this.done
  }

  /** Ends, and tells the client to come back at a time of its own. */
  drain (): void {
    const [least, most] = this.#host.options.drain.retry
    this.end('drain', least + Math.floor(Math.random() * (most - least + 1)))
  }

  /** Logs what threw and ends the stream. The client sees its connection break, and nothing of the error. */
  fail (err: unknown): void {
    if (this.state === 'closed') return
    this.#inContext(() => this.request.log.error({ err }, 'stream failed'))
    this.end('error')
  }

  /** The only way to 'closed'. */
  end (reason: CloseReason, retry?: number): void {
    if (this.state !== 'closed') this.#inContext(() => this.#end(reason, retry))
  }

  #end (reason: CloseReason, retry: number | undefined): void {
    const outlet = this.state === 'open' ? this.#outlet : undefined
    const host = this.#host
    if (outlet?.blocked === true) host.counters.blocked--
    this.state = 'closed'
    this.#closing.reason = reason
    host.closed(this)
    if (outlet !== undefined) host.flushing(this)
    // The listeners of 'unsubscribe' and 'close' can still read its channels.
    const { reader } = this
    const goesOn = reader?.endedInPart === true
    for (const { log } of reader?.subscriptions ?? []) host.log.leave(log, this)
    this.#left(reader?.subscriptions.map(({ log }) => log.name) ?? [])
    if (retry !== undefined) this.#own.add(encodeEvent({ retry }))
    else if (goesOn) this.#own.add(encodeComment('')) // a client would take the end of one channel, as the last word, for that of all
    if (outlet !== undefined) this.#endResponse(outlet, reason)
    this.source?.stop()
    this.#moved()
    this.#own.tellRoom(false)
    this.#closing.tell(reason)
    if (outlet !== undefined) this.#tellClosed(reason)
    // Whoever keeps a closed stream keeps neither of them.
    this.reader = this.source = undefined
  }

  #endResponse (outlet: Outlet, reason: CloseReason): void {
    if (reason === 'client') return
    if (reason === 'stall' || reason === 'overflow') return outlet.destroy()
    const { text, events } = this.#own.take()
    this.#events += events
    // What was taken is written first, though the client must not take what it has for the whole.
    if (reason === 'error') outlet.breakAfter(text)
    else outlet.end(text)
  }

  #tellClosed (reason: CloseReason): void {
    this.#tellOpened() // where it was closed from inside its first write
    const told = { reason, durationMs: Math.round(performance.now() - this.#startedAt), events: this.#events, bytes: this.#bytes }
    this.#host.counters.closed[reason]++
    this.#host.tellClosed(this, told)
  }

  /** The response is closed: the client left, or it was ended and is flushed. */
  #gone (): void {
    this.end('client')
    this.#host.gone(this)
    this.#closing.finish()
  }

  /** Its response gets another answer: what becomes of the stream does not break it. */
  detach (): void {
    this.#outlet?.detach()
  }

  /** Breaks the connection, without waiting for what is not flushed. */
  destroy (): void {
    this.#outlet?.destroy()
  }
}
