import type { ServerResponse } from 'node:http'
import type { Writable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { ChannelHandle, type Channel, type StoredEventOf } from './channel.ts'
import { SSE_ERR_INVALID_CHANNEL, SSE_ERR_INVALID_EVENT, received } from './errors.ts'
import { encodeComment, encodeEvent, encodeRetry, isRetry, type SseEvent } from './event.ts'
import { checkStreamOptions, type SseOptions, type SubscribeOptions } from './options.ts'
import { isGone, onSocketClose, Outlet, type OutletOwner } from './outlet.ts'
import { OwnEvents } from './own-events.ts'
import { makeFrame, PIECE_BYTES, type Frame } from './piece.ts'
import { Reader } from './reader.ts'
import type { Registry } from './registry.ts'
import type { GapReason } from './subscription.ts'
import type { Swept } from './sweep.ts'

/**
 * Why a stream closed: the client left, its source ended, `close()` was called, `maxAge`, `stallTimeout` or
 * `maxBufferedBytes` was passed, the application closed, or something threw.
 */
export type CloseReason = 'client' | 'end' | 'server' | 'age' | 'stall' | 'overflow' | 'drain' | 'error'

/** One open response. */
export interface SseStream {
  readonly request: FastifyRequest
  /** What the client has: the option, else the header Last-Event-ID, else the query parameter lastEventId, else null. */
  readonly lastEventId: string | null
  /** opening: the response head has not left, because onSend hooks are running. */
  readonly state: 'opening' | 'open' | 'closed'
  /** Its socket is full: what follows waits until the client reads. */
  readonly blocked: boolean
  /** Names of the channels it is subscribed to. */
  readonly channels: ReadonlySet<string>
  /** Aborts when the stream closes, for any reason. */
  readonly signal: AbortSignal
  /** Resolves when the stream closes. Never rejects. */
  readonly closed: Promise<CloseReason>
  /**
   * Sends an event to this client alone. Resolves with true once it is taken and the socket can take more: await it
   * to keep to the client's pace. False: the stream is closed.
   * @throws (rejects) SSE_ERR_INVALID_EVENT, also for an id on a subscribed stream; SSE_ERR_EVENT_TOO_LARGE
   */
  send (event: SseEvent | string): Promise<boolean>
  /** Sends a comment, which clients ignore. Resolves like `send`. */
  comment (text: string): Promise<boolean>
  /**
   * Joins channels. All calls of one turn share one resume, from `lastEventId`; a channel that is joined later starts at the head.
   * @throws SSE_ERR_INVALID_CHANNEL, SSE_ERR_INVALID_OPTION
   */
  subscribe<Events> (channel: Channel<Events> | ReadonlyArray<Channel<Events>>, options?: SubscribeOptions<StoredEventOf<Events>>): this
  unsubscribe (channel: Channel | readonly Channel[]): this
  /**
   * Ends the stream, after its own events that wait. Resolves when the response is done; a second call does nothing more.
   * @param options.retry tells the client when to come back, in ms
   */
  close (options?: { retry?: number }): Promise<void>
}

interface Deferred<T> { promise: Promise<T>, resolve: (value: T) => void }

function defer<T> (): Deferred<T> {
  let resolve!: (value: T) => void
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}

const YES = Promise.resolve(true)
const NO = Promise.resolve(false)
/** After these the client must not take what it has for the whole. */
const BROKEN_OFF: readonly CloseReason[] = ['stall', 'overflow', 'error']
const HEARTBEAT = makeFrame(encodeComment(''))

/** What the plugin knows of a stream when it makes one. */
export interface StreamInit {
  readonly request: FastifyRequest
  readonly response: ServerResponse
  /** What admission counted it under. */
  readonly key: unknown
  readonly lastEventId: string | null
  readonly options: SseOptions
}

export class Stream implements SseStream, Swept, OutletOwner {
  readonly request: FastifyRequest
  readonly lastEventId: string | null
  state: SseStream['state'] = 'opening'
  /** It is on the ready list. */
  ready = false
  /** Its place in the history, once it has a channel. */
  reader: Reader | undefined

  readonly #registry: Registry
  readonly #options: SseOptions
  readonly #key: unknown
  readonly #startedAt = performance.now()
  readonly #maxAge: number
  #outlet: Outlet | undefined
  readonly #own = new OwnEvents()
  #events = 0
  #bytes = 0
  #lastWrite = 0
  /** The next pass sends a heartbeat, if it has nothing else to send. */
  #heartbeatDue = false
  #reason: CloseReason | undefined
  #startSource: (() => void) | undefined
  #stopSource: (() => void) | undefined
  #abort: AbortController | undefined
  #closed: Deferred<CloseReason> | undefined
  #room: Deferred<boolean> | undefined
  #done: Deferred<void> | undefined
  #isDone = false

  constructor (registry: Registry, { request, response, key, lastEventId, options }: StreamInit) {
    this.#registry = registry
    this.request = request
    this.lastEventId = lastEventId
    this.#key = key
    this.#options = options
    // Streams that were opened together must not come back together.
    const maxAge = options.maxAge ?? registry.options.maxAge
    // And none may outlive it: the sweep is late by its period, and under load by a little more.
    this.#maxAge = 0.9 * maxAge + Math.random() * (0.1 * maxAge - 2 * Math.min(1_000, maxAge / 40))
    registry.streams.add(this)
    // The response's own 'close' is the one sign of a client that left which every method and protocol gives.
    response.on('close', () => this.#gone())
    // But a pipelined request has no socket yet, and its response never hears of it if the connection breaks before its turn.
    if (response.socket === null) onSocketClose(request.raw.socket, response, () => this.#gone())
    if (isGone(response)) this.#gone() // it left before the handler ran, and 'close' with it
  }

  get blocked (): boolean { return this.#outlet?.blocked ?? false }

  get channels (): ReadonlySet<string> {
    return new Set(this.reader?.subscriptions.map(({ members }) => members.name))
  }

  get signal (): AbortSignal {
    this.#abort ??= new AbortController()
    if (this.state === 'closed') this.#abort.abort()
    return this.#abort.signal
  }

  get closed (): Promise<CloseReason> {
    this.#closed ??= defer()
    if (this.#reason !== undefined) this.#closed.resolve(this.#reason)
    return this.#closed.promise
  }

  /** Resolves when the response is closed. */
  get done (): Promise<void> {
    this.#done ??= defer()
    if (this.#isDone) this.#done.resolve()
    return this.#done.promise
  }

  // Its own events

  send (event: SseEvent | string): Promise<boolean> {
    if (this.state === 'closed') return NO
    try {
      const fields = this.#registry.checkEvent(event)
      if (fields.id !== undefined && this.#subscribed) {
        throw new SSE_ERR_INVALID_EVENT('id', 'is not for send() on a subscribed stream: ids belong to the log there', received(fields.id))
      }
      return this.#queue(encodeEvent(fields), fields.data === undefined ? 0 : 1)
    } catch (error) {
      return this.#registry.logged(Promise.reject(error), 'send failed', this.request.log)
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
      else this.#registry.ready(this)
    } else if (this.#own.bytes > this.#registry.options.maxBufferedBytes) {
      this.end('overflow')
      return NO
    }
    if (this.state === 'open' && !this.blocked) return YES
    this.#room ??= defer()
    return this.#room.promise
  }

  #flushOwn (): void {
    if (this.#own.text === '') return
    const { text, bytes, events } = this.#own.take()
    this.#events += events
    this.#write(makeFrame(text, bytes))
  }

  #makeRoom (): void {
    if (this.#room === undefined || this.blocked) return
    this.#room.resolve(true)
    this.#room = undefined
  }

  // Channels

  subscribe (channel: Channel<any> | ReadonlyArray<Channel<any>>, options: SubscribeOptions<any> = {}): this {
    const names = this.#names(channel)
    const { lastEventId, rewind = this.#options.rewind, filter = this.#options.filter } = checkStreamOptions(options)
    if (this.state === 'closed') return this
    this.reader ??= new Reader(this.#registry, this)
    this.reader.join(names, { lastEventId, rewind, filter })
    if (this.reader !== undefined) this.#registry.ready(this)
    return this
  }

  unsubscribe (channel: Channel | readonly Channel[]): this {
    const names = this.#names(channel)
    this.reader?.leave(names)
    return this
  }

  #names (channel: Channel | readonly Channel[]): string[] {
    const channels: readonly unknown[] = Array.isArray(channel) ? channel : [channel]
    return [...new Set(channels.map(one => {
      if (one instanceof ChannelHandle && one.host === this.#registry) return one.name
      throw new SSE_ERR_INVALID_CHANNEL('a channel of this application, app.sse.channel(name)', received(one))
    }))]
  }

  /** The client's cursor is so old that it is to be sent a fresh one. */
  get isStale (): boolean {
    return this.reader !== undefined && this.reader.cursor < this.#registry.freshness.staleBefore
  }

  get #subscribed (): boolean {
    return this.reader !== undefined && this.reader.subscriptions.length > 0
  }

  /** Called by the reader for each gap event that it puts on the wire. */
  toldGap (reason: GapReason, channels: readonly string[], cursor: string): void {
    this.#events++
    this.#registry.counters.gaps++
    this.request.log.debug({ reason, channels, cursor, lastEventId: this.lastEventId, ...this.#behind() }, 'stream gap')
    this.#registry.announce('gap', { stream: this, reason, channels })
  }

  /** How far behind the head it is, for the log. */
  #behind (): { behind?: number } {
    return this.#subscribed ? { behind: this.#registry.history.head - this.reader!.position } : {}
  }

  // Moving forward

  /**
   * Writes gaps, own events and what lies after its position, so many pieces at most, until the socket is full: the one function by
   * which live events, catching up and replay reach a client.
   * @returns whether there is more to write now
   */
  advance (pieces: number): boolean {
    if (this.state !== 'open' || this.blocked) return false
    try {
      return this.#advance(pieces)
    } catch (error) {
      this.fail(error)
      return false
    }
  }

  #advance (pieces: number): boolean {
    const reader = this.#subscribed && !this.reader!.held ? this.reader! : undefined
    if (reader !== undefined) {
      const gaps = reader.gaps()
      if (this.#reason !== undefined) return false // a listener of 'gap' closed it
      const prime = reader.prime()
      if (gaps !== '' || prime !== '') this.#own.wrap(gaps, prime)
    }
    this.#flushOwn()
    this.#makeRoom()
    if (reader === undefined) {
      if (this.#heartbeatDue && !this.blocked) this.#write(HEARTBEAT)
      return false
    }
    for (; !this.blocked; pieces--) {
      if (pieces === 0) return true
      const step = reader.step()
      if (step === undefined) break
      if (this.#reason !== undefined) return false // a filter closed it
      if (step.frame === undefined) continue
      this.#events += step.events
      this.#registry.counters.delivered += step.events
      this.#write(step.frame)
    }
    if (!this.blocked && this.#subscribed && (this.#heartbeatDue || this.isStale)) this.#write(reader.freshCursor())
    return false
  }

  #write (frame: Frame): void {
    this.#count(frame.body.length)
    this.#outlet!.write(frame)
  }

  #count (bytes: number): void {
    this.#bytes += bytes
    this.#registry.counters.bytesWritten += bytes
    this.#lastWrite = this.#registry.now
    this.#heartbeatDue = false
  }

  onBlocked (): void {
    this.#registry.counters.blocked++
    this.request.log.debug(this.#behind(), 'stream blocked')
  }

  onDrained (): void {
    if (this.state !== 'open') return
    this.#registry.counters.blocked--
    this.request.log.debug(this.#behind(), 'stream resumed')
    this.#registry.ready(this)
  }

  /** Called by the sweep, from the opening to the end of the response. */
  sweep (now: number): void {
    const { heartbeatInterval, stallTimeout } = this.#registry.options
    const outlet = this.#outlet!
    const stalled = stallTimeout > 0 && now - outlet.waitingSince >= stallTimeout
    if (this.state === 'closed') {
      if (stalled) outlet.destroy()
    } else if (this.#maxAge > 0 && now - this.#startedAt >= this.#maxAge) {
      this.end('age')
    } else if (outlet.blocked) {
      if (stalled) this.end('stall')
    } else if (heartbeatInterval > 0 && !this.#heartbeatDue && now - this.#lastWrite >= heartbeatInterval) {
      this.#heartbeatDue = true
      this.#registry.delivery.quiet(this)
    }
  }

  get shortestLimit (): number {
    const { heartbeatInterval, stallTimeout } = this.#registry.options
    const limits = [heartbeatInterval, stallTimeout, this.#maxAge / 4].filter(limit => limit > 0)
    return limits.length === 0 ? 0 : Math.min(...limits)
  }

  // Opening and closing

  /** @param start called when the stream opens */
  onOpen (start: () => void): void {
    this.#startSource = start
  }

  /** @param stop called when the stream closes, at once if it is closed */
  onClose (stop: () => void): void {
    if (this.state === 'closed') stop()
    else this.#stopSource = stop
  }

  /** The onSend hooks are through, and this is the response; `native` if it is node:http's own. */
  open (response: Writable, native: boolean): void {
    if (isGone(response)) return this.#gone()
    if (this.#registry.closing) this.drain()
    if (this.state === 'closed') {
      if (BROKEN_OFF.includes(this.#reason!)) response.destroy()
      else response.end(this.#own.text)
      return
    }
    this.#registry.delivery.tick()
    this.state = 'open'
    this.#outlet = new Outlet(response, native, this)
    this.#registry.counters.opened++
    this.#registry.sweep.add(this)
    // connectionTimeout would cut an idle stream; over HTTP/2 it is the session's, and waits for streams.
    if (this.request.raw.httpVersionMajor === 1) this.request.raw.socket?.setTimeout?.(0)
    const retry = this.#options.retry ?? this.#registry.options.retry
    this.#own.wrap(retry > 0 ? encodeRetry(retry) : encodeComment(''), '')
    const { text, bytes, events } = this.#own.take()
    const first = makeFrame(text, bytes)
    this.#events += events
    this.#count(first.body.length)
    this.#outlet.open(first)
    this.#makeRoom()
    this.request.log.debug({ lastEventId: this.lastEventId, channels: [...this.channels] }, 'stream opened')
    this.#registry.announce('open', { stream: this })
    this.#registry.ready(this)
    this.#startSource?.()
    this.#startSource = undefined
  }

  close ({ retry }: { retry?: number } = {}): Promise<void> {
    if (retry !== undefined && !isRetry(retry)) {
      const error = new SSE_ERR_INVALID_EVENT('retry', 'must be a whole number of milliseconds >= 0', received(retry))
      return this.#registry.logged(Promise.reject(error), 'close failed', this.request.log)
    }
    this.end('server', retry)
    return this.done
  }

  /** Ends, and tells the client to come back at a time of its own. */
  drain (): void {
    const [least, most] = this.#registry.options.drain.retry
    this.end('drain', least + Math.floor(Math.random() * (most - least + 1)))
  }

  /** Logs what threw and ends the stream. The client sees its connection break, and nothing of the error. */
  fail (err: unknown): void {
    if (this.state === 'closed') return
    this.request.log.error({ err }, 'stream failed')
    this.end('error')
  }

  /** The only way to 'closed'. */
  end (reason: CloseReason, retry?: number): void {
    if (this.state === 'closed') return
    const outlet = this.state === 'open' ? this.#outlet : undefined
    const registry = this.#registry
    if (outlet?.blocked === true) registry.counters.blocked--
    this.state = 'closed'
    this.#reason = reason
    registry.streams.delete(this)
    registry.admission.leave(this.#key)
    // The listeners of 'unsubscribe' and 'close' can still read its channels.
    for (const { members } of this.reader?.subscriptions ?? []) registry.leave(members, this)
    if (retry !== undefined) this.#own.add(encodeRetry(retry))
    if (outlet !== undefined) this.#endResponse(outlet, reason)
    this.#stopSource?.()
    this.#startSource = this.#stopSource = undefined
    this.#room?.resolve(false)
    this.#closed?.resolve(reason)
    this.#abort?.abort()
    if (outlet !== undefined) this.#tellClosed(reason)
    this.reader = undefined
  }

  #endResponse (outlet: Outlet, reason: CloseReason): void {
    if (reason === 'client') return
    if (BROKEN_OFF.includes(reason)) return outlet.destroy()
    const { text, bytes, events } = this.#own.take()
    this.#events += events
    this.#count(bytes)
    outlet.end(text)
  }

  #tellClosed (reason: CloseReason): void {
    const told = { reason, durationMs: Math.round(performance.now() - this.#startedAt), events: this.#events, bytes: this.#bytes }
    this.#registry.counters.closed[reason]++
    // Fastify logs nothing when a client aborts, and runs no onResponse hook.
    this.request.log.info(told, 'stream closed')
    this.#registry.announce('close', { stream: this, ...told })
  }

  /** The response is closed: the client left, or it was ended and is flushed. */
  #gone (): void {
    this.end('client')
    this.#registry.sweep.delete(this)
    this.#isDone = true
    this.#done?.resolve()
  }

  /** Breaks the connection, without waiting for what is not flushed. */
  destroy (): void {
    this.#outlet?.destroy()
  }
}
