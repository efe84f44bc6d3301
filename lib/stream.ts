import { ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { ChannelHandle, type Channel, type StoredEventOf } from './channel.ts'
import { SSE_ERR_INVALID_CHANNEL, SSE_ERR_INVALID_EVENT, received } from './errors.ts'
import { encodeComment, encodeCursor, encodeEvent, encodeRetry, isRetry, type SseEvent } from './event.ts'
import { checkStreamOptions, type SseOptions, type SubscribeOptions } from './options.ts'
import { makeFrame, PIECE_BYTES, type Frame } from './piece.ts'
import type { Registry } from './registry.ts'
import { findStart, type Filter, type GapReason, type Subscription } from './subscription.ts'
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
const NO_SUBSCRIPTIONS: readonly Subscription[] = []

/** What the plugin knows of a stream when it makes one. */
export interface StreamInit {
  readonly request: FastifyRequest
  readonly response: ServerResponse
  /** What admission counted it under. */
  readonly key: unknown
  readonly lastEventId: string | null
  readonly options: SseOptions
}

export class Stream implements SseStream, Swept {
  readonly request: FastifyRequest
  readonly lastEventId: string | null
  state: SseStream['state'] = 'opening'
  blocked = false
  /** It is on the ready list. */
  ready = false
  /** Where it stands in the history. */
  position = 0
  /** The position that the client's cursor names. */
  cursor = 0

  readonly #registry: Registry
  readonly #options: SseOptions
  readonly #key: unknown
  readonly #openedAt: number
  readonly #maxAge: number
  #response: Writable
  /** The response is node:http's own, so that its socket may be written to. */
  #native = false
  #subscriptions = NO_SUBSCRIPTIONS
  /** The first pass has sent the cursor of its position. */
  #primed = false
  /** The client's Last-Event-ID has been used. */
  #resumed = false
  #gaps: Array<{ reason: GapReason, channels: string[] }> | undefined
  /** Its own events that wait, encoded. */
  #own = ''
  #ownBytes = 0
  #ownEvents = 0
  #events = 0
  #bytes = 0
  #lastWrite = 0
  /** The next pass sends a heartbeat, if it has nothing else to send. */
  #heartbeatDue = false
  /** Since when the socket is full, or the response ended and not flushed. */
  #stalledSince = 0
  #reason: CloseReason | undefined
  #stopSource: (() => void) | undefined
  #start: (() => void) | undefined
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
    this.#response = response
    this.#openedAt = performance.now()
    const maxAge = options.maxAge ?? registry.options.maxAge
    this.#maxAge = maxAge * (0.9 + 0.1 * Math.random())
    registry.streams.add(this)
    response.on('close', () => this.#gone())
  }

  get channels (): ReadonlySet<string> {
    return new Set(this.#subscriptions.map(({ members }) => members.name))
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

  // Own events

  send (event: SseEvent | string): Promise<boolean> {
    if (this.state === 'closed') return NO
    try {
      const fields = this.#registry.checkEvent(event)
      if (fields.id !== undefined && this.#subscriptions.length > 0) {
        throw new SSE_ERR_INVALID_EVENT('id', 'is not for send() on a subscribed stream: ids belong to the log there', received(fields.id))
      }
      return this.#take(encodeEvent(fields), 1)
    } catch (error) {
      return this.#registry.logged(Promise.reject(error), 'send failed', this.request.log)
    }
  }

  comment (text: string): Promise<boolean> {
    return this.send({ comment: text })
  }

  /** Queues encoded text; it leaves with the next pass, or at once where a piece is full. */
  #take (text: string, events: number): Promise<boolean> {
    this.#own += text
    this.#ownBytes += Buffer.byteLength(text)
    this.#ownEvents += events
    if (this.state === 'open' && !this.blocked) {
      if (this.#ownBytes >= PIECE_BYTES) this.#flushOwn()
      else this.#registry.ready(this)
    } else if (this.#ownBytes > this.#registry.options.maxBufferedBytes) {
      this.end('overflow')
      return NO
    }
    if (this.state === 'open' && !this.blocked && this.#ownBytes < PIECE_BYTES) return YES
    this.#room ??= defer()
    return this.#room.promise
  }

  #flushOwn (): void {
    const frame = makeFrame(this.#own, this.#ownBytes)
    this.#events += this.#ownEvents
    this.#own = ''
    this.#ownBytes = this.#ownEvents = 0
    this.#write(frame)
  }

  // Channels

  subscribe (channel: Channel<any> | ReadonlyArray<Channel<any>>, options?: SubscribeOptions<any>): this {
    const names = this.#names(channel)
    const { lastEventId, rewind = this.#options.rewind, filter = this.#options.filter } = checkStreamOptions(options ?? {})
    if (this.state === 'closed') return this
    const { history } = this.#registry
    const joined = this.#subscriptions
    const fresh = names.filter(name => !joined.some(({ members }) => members.name === name))
    const cursor = lastEventId !== undefined ? lastEventId : this.#resumed ? null : this.lastEventId
    const start = findStart(history, names, cursor, rewind)
    let { gap } = start
    // What a channel that is joined later carried since the client's Last-Event-ID is not known to it.
    if (lastEventId === undefined && this.#resumed && this.lastEventId !== null && fresh.length > 0) gap = 'unknown'
    if (gap !== undefined) this.#addGap(gap, lastEventId === undefined ? fresh : names)

    const back = joined.length > 0 && start.from < this.position
    const others = joined.filter(({ members }) => !names.includes(members.name))
      .map(other => back ? { ...other, from: Math.max(other.from, this.position) } : other)
    if (joined.length === 0 || back) this.position = start.from
    this.#subscriptions = [...others, ...names.map(name => {
      const old = joined.find(({ members }) => members.name === name)
      const members = old?.members ?? this.#registry.join(name, this)
      if (old !== undefined && lastEventId === undefined) return { ...old, filter: filter as Filter | undefined }
      return { members, from: start.from, filter: filter as Filter | undefined, ahead: start.ahead }
    })]
    if (start.ahead !== undefined) this.#hold()
    this.#registry.ready(this)
    return this
  }

  unsubscribe (channel: Channel | readonly Channel[]): this {
    const names = this.#names(channel)
    const left = this.#subscriptions.filter(({ members }) => names.includes(members.name))
    this.#subscriptions = this.#subscriptions.filter(subscription => !left.includes(subscription))
    if (this.#subscriptions.length === 0) this.#primed = false
    for (const { members } of left) this.#registry.leave(members, this)
    return this
  }

  #names (channel: Channel | readonly Channel[]): string[] {
    const channels: readonly unknown[] = Array.isArray(channel) ? channel : [channel]
    return [...new Set(channels.map(one => {
      if (one instanceof ChannelHandle && one.host === this.#registry) return one.name
      throw new SSE_ERR_INVALID_CHANNEL('a channel of this application (app.sse.channel(name))', received(one))
    }))]
  }

  #addGap (reason: GapReason, channels: readonly string[]): void {
    const same = this.#gaps?.find(gap => gap.reason === reason)
    if (same === undefined) (this.#gaps ??= []).push({ reason, channels: [...channels] })
    else same.channels = [...new Set([...same.channels, ...channels])]
  }

  /** The client comes from a process that has read more: wait until this one has read as much, and look again. */
  #hold (): void {
    this.#registry.sync().then(() => {
      if (this.state === 'closed') return
      this.#subscriptions = this.#subscriptions.map(subscription => {
        const { ahead, members } = subscription
        if (ahead === undefined) return subscription
        const { position, state } = this.#registry.history.find(ahead)
        if (state === 'good') return { ...subscription, from: position, ahead: undefined }
        this.#addGap('unknown', [members.name])
        return { ...subscription, ahead: undefined }
      })
      // The first cursor that the client gets must not be older than its own.
      this.position = Math.max(this.position, Math.min(...this.#subscriptions.map(({ from }) => from)))
      this.#registry.ready(this)
    }, () => {})
  }

  get #held (): boolean {
    return this.#subscriptions.some(({ ahead }) => ahead !== undefined)
  }

  // Moving forward

  /**
   * Writes what lies after its position, this many pieces at most, unless the socket is full before: the one function by which
   * live events, catching up and replay reach a client.
   * @returns whether there is more to write now
   */
  advance (pieces: number): boolean {
    if (this.state !== 'open' || this.blocked) return false
    try {
      if (this.#subscriptions.length > 0 && !this.#held) return this.#advance(pieces)
      if (this.#own !== '') this.#flushOwn()
      else if (this.#heartbeatDue) this.#write(HEARTBEAT)
      this.#makeRoom()
      return false
    } catch (error) {
      this.fail(error)
      return false
    }
  }

  #advance (pieces: number): boolean {
    const { history } = this.#registry
    if (this.position < history.first) this.#catchUp()
    this.#resumed = true
    let before = this.#gapText()
    if (!this.#primed) {
      this.#primed = true
      this.cursor = this.position
      before ||= encodeCursor(history.cursorBefore(this.position))
    }
    if (before !== '') {
      this.#own = before + this.#own
      this.#ownBytes += Buffer.byteLength(before)
    }
    if (this.#own !== '') this.#flushOwn()
    this.#makeRoom()
    for (; pieces > 0 && !this.blocked && this.position < history.head; pieces--) {
      const marker = history.markers.find(position => position >= this.position) ?? history.head
      if (marker === this.position) {
        this.position++
        this.#addGap('reset', [...this.channels])
        const text = this.#gapText()
        this.#write(makeFrame(text, Buffer.byteLength(text)))
        continue
      }
      const piece = this.#registry.pieces.get(this.#subscriptions, this.position, marker)
      if (this.state !== 'open') return false // a filter closed it
      this.position = piece.next
      if (piece.frame === undefined) continue
      this.cursor = piece.cursor
      this.#events += piece.events
      this.#registry.counters.delivered += piece.events
      this.#write(piece.frame)
    }
    if (this.blocked) return false
    if (this.position < history.head) return true
    if (this.#heartbeatDue || this.cursor < this.#registry.staleBefore) this.#writeCursor()
    return false
  }

  /** What it stands at was evicted. Nothing of its channels: it steps over. Else it is told, and goes on in the middle, or it would soon fall off again. */
  #catchUp (): void {
    const { history } = this.#registry
    if (history.evictedMarker >= this.position) this.#addGap('reset', [...this.channels])
    const lost = this.#subscriptions.filter(({ members, from }) => members.evicted >= Math.max(from, this.position))
    if (lost.length === 0) {
      this.position = history.first
      return
    }
    const behind = history.head - this.position
    this.#addGap('overrun', lost.map(({ members }) => members.name))
    this.position = history.first + (history.events >> 1)
    this.request.log.debug({ behind, lastCursor: history.cursorBefore(this.position) }, 'stream overrun')
  }

  /** The gap events that are due, and counts them as told. */
  #gapText (): string {
    if (this.#gaps === undefined) return ''
    const id = this.#registry.history.cursorBefore(this.position)
    let text = ''
    for (const { reason, channels } of this.#gaps) {
      text += encodeEvent({ id, event: 'sse.gap', data: JSON.stringify({ reason, channels }) })
      this.#events++
      this.#registry.counters.gaps++
      this.#registry.announce('gap', { stream: this, reason, channels })
      this.request.log.debug({ reason, channels, cursor: id, lastEventId: this.lastEventId }, 'stream gap')
    }
    this.#gaps = undefined
    this.cursor = this.position
    return text
  }

  #writeCursor (): void {
    this.cursor = this.position
    this.#write(this.#registry.headFrame())
  }

  // The socket

  #write (frame: Frame): void {
    const socket = this.#socket()
    const ok = socket !== undefined ? socket.write(frame.chunk) : this.#response.write(frame.body)
    this.#bytes += frame.body.length
    this.#registry.counters.bytesWritten += frame.body.length
    this.#lastWrite = this.#registry.now
    this.#heartbeatDue = false
    // An answer of false alone only says that the write passed Node's mark: often the system has taken all of it.
    const taker = socket ?? this.#response
    if (!ok && taker.writableLength > 0) this.#block(taker)
  }

  /**
   * The socket, where writing a whole chunk to it is the same as response.write() and costs a third less. Looked up at each write:
   * a pipelined request has none at first, and somebody may have replaced response.write.
   */
  #socket (): Socket | undefined {
    if (!this.#native) return undefined
    const response = this.#response as ServerResponse
    const { socket } = response
    return response.chunkedEncoding && socket instanceof Socket && !response.writableEnded && response.writableCorked === 0 &&
      response.write === ServerResponse.prototype.write
      ? socket
      : undefined
  }

  #block (taker: Writable): void {
    this.blocked = true
    this.#stalledSince = performance.now()
    this.#registry.counters.blocked++
    this.#logBlocked('stream blocked')
    taker.once('drain', () => {
      if (!this.blocked) return
      this.#unblock()
      if (this.state !== 'open') return
      this.#logBlocked('stream resumed')
      this.#registry.ready(this)
    })
  }

  #unblock (): void {
    if (!this.blocked) return
    this.blocked = false
    this.#registry.counters.blocked--
  }

  #logBlocked (what: string): void {
    const { history } = this.#registry
    if (this.#subscriptions.length === 0) this.request.log.debug(what)
    else this.request.log.debug({ cursor: history.cursorBefore(this.position), behind: history.head - this.position }, what)
  }

  #makeRoom (): void {
    if (this.#room === undefined || this.blocked) return
    this.#room.resolve(true)
    this.#room = undefined
  }

  /** Called by the sweep. */
  sweep (now: number): void {
    const { heartbeatInterval, stallTimeout } = this.#registry.options
    if (this.state === 'closed') {
      if (stallTimeout > 0 && now - this.#stalledSince >= stallTimeout) this.#response.destroy()
      return
    }
    if (this.state !== 'open') return
    if (this.#maxAge > 0 && now - this.#openedAt >= this.#maxAge) return this.end('age')
    if (this.blocked) {
      if (stallTimeout > 0 && now - this.#stalledSince >= stallTimeout) this.end('stall')
      return
    }
    if (heartbeatInterval === 0 || now - this.#lastWrite < heartbeatInterval) return
    this.#heartbeatDue = true
    this.#registry.ready(this)
  }

  get shortestLimit (): number {
    const { heartbeatInterval, stallTimeout } = this.#registry.options
    return Math.min(...[heartbeatInterval, stallTimeout, this.#maxAge].filter(limit => limit > 0), Infinity)
  }

  // Opening and closing

  /** What to do when the response is open, and how to tell the source that the stream is closed. */
  setSource (start: () => void): void {
    this.#start = start
  }

  onStop (stop: () => void): void {
    if (this.state === 'closed') stop()
    else this.#stopSource = stop
  }

  /** Fastify hands over the response, after the onSend hooks. */
  open (response: Writable, native: boolean): void {
    this.#response = response
    if (response.destroyed) return this.#gone()
    if (this.#registry.closing) this.drain()
    if (this.state === 'closed') {
      response.end(this.#own)
      return
    }
    this.#native = native
    this.request.raw.socket?.setTimeout(0) // connectionTimeout would cut an idle stream
    this.state = 'open'
    this.#registry.counters.opened++
    this.#registry.sweep.add(this)
    const retry = this.#options.retry ?? this.#registry.options.retry
    this.#own = (retry > 0 ? encodeRetry(retry) : encodeComment('')) + this.#own
    this.#ownBytes = Buffer.byteLength(this.#own)
    this.#native = false
    this.#flushOwn() // by way of the response, which writes the head
    this.#native = native
    this.#makeRoom()
    this.#registry.announce('open', { stream: this })
    this.request.log.debug({ lastEventId: this.lastEventId, channels: [...this.channels] }, 'stream opened')
    if (this.#subscriptions.length > 0) this.#registry.ready(this)
    this.#start?.()
    this.#start = undefined
  }

  close ({ retry }: { retry?: number } = {}): Promise<void> {
    if (retry !== undefined && !isRetry(retry)) {
      const error = new SSE_ERR_INVALID_EVENT('retry', 'must be a whole number of milliseconds >= 0', received(retry))
      return this.#registry.logged(Promise.reject(error), 'close failed', this.request.log)
    }
    this.end('server', retry)
    return this.done
  }

  /** Resolves when the response is closed. */
  get done (): Promise<void> {
    if (this.#isDone) return Promise.resolve()
    this.#done ??= defer()
    return this.#done.promise
  }

  /** Tells the client when to come back, at a time of its own, and ends. */
  drain (): void {
    const [least, most] = this.#registry.options.drain.retry
    this.end('drain', least + Math.floor(Math.random() * (most - least + 1)))
  }

  /** Logs what threw and ends the stream. The client sees its connection break, and nothing of the error. */
  fail (error: unknown): void {
    if (this.state === 'closed') return
    this.request.log.error({ err: error }, 'stream failed')
    this.end('error')
  }

  /** The only way to 'closed'. */
  end (reason: CloseReason, retry?: number): void {
    if (this.state === 'closed') return
    const wasOpen = this.state === 'open'
    this.state = 'closed'
    this.#reason = reason
    const registry = this.#registry
    registry.streams.delete(this)
    registry.admission.leave(this.#key)
    // Its channels can still be read by the listeners of 'unsubscribe' and 'close'.
    for (const { members } of this.#subscriptions) registry.leave(members, this)
    this.#unblock()
    this.#stopSource?.()
    this.#stopSource = this.#start = undefined
    if (retry !== undefined) this.#own += encodeRetry(retry)
    if (wasOpen) this.#endResponse(reason)
    this.#room?.resolve(false)
    this.#closed?.resolve(reason)
    this.#abort?.abort()
    if (!wasOpen) return
    const { request } = this
    const durationMs = Math.round(performance.now() - this.#openedAt)
    registry.counters.closed[reason]++
    request.log.info({ reason, durationMs, events: this.#events, bytes: this.#bytes }, 'stream closed')
    registry.announce('close', { stream: this, reason, durationMs, events: this.#events, bytes: this.#bytes })
    this.#subscriptions = NO_SUBSCRIPTIONS
  }

  #endResponse (reason: CloseReason): void {
    if (reason === 'client') return
    if (reason === 'stall' || reason === 'overflow' || reason === 'error') {
      this.#response.destroy()
      return
    }
    this.#stalledSince = performance.now()
    const bytes = Buffer.byteLength(this.#own)
    this.#events += this.#ownEvents
    this.#bytes += bytes
    this.#registry.counters.bytesWritten += bytes
    this.#response.end(this.#own)
  }

  /** The response is closed: the client left, or it was ended and is flushed. */
  #gone (): void {
    this.end('client')
    this.#registry.sweep.delete(this)
    this.#isDone = true
    this.#done?.resolve()
  }

  /** Closes the connection, without waiting for what is not flushed. */
  destroy (): void {
    this.#response.destroy()
  }
}

const HEARTBEAT = makeFrame(encodeComment(''), Buffer.byteLength(encodeComment('')))
