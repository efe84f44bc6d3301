import { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { Admission } from './admission.ts'
import type { Backplane, Entry, Receiver } from './backplane.ts'
import { ChannelHandle, type Channel, type PublishEvent, type SseChannels } from './channel.ts'
import { SSE_ERR_CLOSED, SSE_ERR_EVENT_TOO_LARGE, SSE_ERR_INVALID_CHANNEL, SSE_ERR_INVALID_EVENT, received } from './errors.ts'
import { Delivery } from './delivery.ts'
import { checkFields, encodeEvent, storedEvent, type EventFields, type SseEvent, type StoredEvent } from './event.ts'
import { Freshness } from './freshness.ts'
import { History } from './history.ts'
import type { ResolvedOptions } from './options.ts'
import { Pieces } from './piece.ts'
import { makeCounters, type SseStats } from './stats.ts'
import type { CloseReason, SseStream, Stream } from './stream.ts'
import type { GapReason, Members } from './subscription.ts'
import { Sweep } from './sweep.ts'

/** `fastify.sse`: the channels, the open streams and the history of one application. */
export interface SseRegistry extends EventEmitter<SseRegistryEvents> {
  /** A light handle: equal names, same channel. @throws SSE_ERR_INVALID_CHANNEL */
  channel<Name extends keyof SseChannels & string> (name: Name): Channel<SseChannels[Name]>
  channel<Events = any> (name: string): Channel<Events>
  /** Publishes one event to several channels: a stream gets it once, however many of them it is subscribed to. See `Channel.publish`. */
  publish<Name extends string> (channels: Name | readonly Name[], event: EventFor<Name>): Promise<string>
  /** The streams open in this process: to count, to find one user's, to end them. */
  readonly streams: ReadonlySet<SseStream>
  /** The newest cursor: take it before you read a snapshot, subscribe from it afterwards. */
  readonly cursor: string
  stats (): SseStats
}

type EventFor<Name extends string> = string extends Name
  ? PublishEvent<any>
  : [Name & keyof SseChannels] extends [never] ? PublishEvent<any> : EventForAll<Name & keyof SseChannels>

/** What each of these channels takes: the intersection, by way of a parameter. */
type EventForAll<Name extends keyof SseChannels> =
  (Name extends unknown ? (event: PublishEvent<SseChannels[Name]>) => void : never) extends (event: infer Event extends PublishEvent<any>) => void ? Event : never

/** What the registry emits. A listener that throws is logged. */
export interface SseRegistryEvents {
  /** The response head of a stream has left. */
  open: [{ stream: SseStream }]
  /** A stream that was open is closed. `bytes` are those of the body, `events` those that fire in a client. */
  close: [{ stream: SseStream, reason: CloseReason, durationMs: number, events: number, bytes: number }]
  subscribe: [{ channel: string, stream: SseStream }]
  unsubscribe: [{ channel: string, stream: SseStream }]
  /** A stream was told that it may have missed events. */
  gap: [{ stream: SseStream, reason: GapReason, channels: readonly string[] }]
  /** The backplane is back. */
  up: []
  /** The backplane is away: nothing can be published or received until 'up'. */
  down: [{ error: Error }]
}

export class Registry extends EventEmitter<SseRegistryEvents> implements SseRegistry, Receiver {
  readonly streams = new Set<Stream>()
  readonly history: History
  readonly options: ResolvedOptions
  readonly admission: Admission
  readonly sweep: Sweep<Stream>
  readonly pieces: Pieces
  readonly delivery: Delivery
  readonly freshness: Freshness
  /** From preClose on. */
  closing = false
  readonly counters = makeCounters()

  readonly #backplane: Backplane
  readonly #log: FastifyBaseLogger
  readonly #members = new Map<string, Members>()
  #backplaneState: 'up' | 'down' = 'up'
  #closed = false

  constructor (options: ResolvedOptions, backplane: Backplane, log: FastifyBaseLogger) {
    super()
    this.options = options
    this.#backplane = backplane
    this.#log = log
    this.admission = new Admission(options)
    this.sweep = new Sweep(() => this.delivery.tick())
    this.history = new History(options.history, (a, b) => backplane.compare(a, b), (channels, position) => this.#evicted(channels, position))
    this.pieces = new Pieces(this.history, options.parse)
    this.delivery = new Delivery(this.history, this.pieces)
    this.freshness = new Freshness(this.history)
  }

  // What an application calls

  channel (name: string): ChannelHandle {
    return new ChannelHandle(checkName(name), this)
  }

  publish (channels: string | readonly string[], event: SseEvent | string): Promise<string> {
    try {
      if (this.#closed) throw new SSE_ERR_CLOSED('publish()')
      const names = typeof channels === 'string' ? [checkName(channels)] : checkNames(channels)
      const fields = this.checkEvent(event)
      if (fields.id !== undefined || fields.retry !== undefined || fields.comment !== undefined) {
        const field = fields.id !== undefined ? 'id' : fields.retry !== undefined ? 'retry' : 'comment'
        throw new SSE_ERR_INVALID_EVENT(field, 'is not for publish(): ids are the log\'s, and retry and comment belong to one stream', received(fields[field]))
      }
      const published = this.#backplane.append({ channels: names, event: fields.event, data: fields.data, serialized: fields.serialized })
      return this.logged(published.then(cursor => {
        this.counters.published++
        return cursor
      }), 'publish failed')
    } catch (error) {
      return this.logged(Promise.reject(error), 'publish failed')
    }
  }

  get cursor (): string {
    return this.history.cursorBefore(this.history.head)
  }

  stats (): SseStats {
    const { history, counters: { closed, ...counters } } = this
    history.evict(performance.now())
    return {
      streams: this.streams.size,
      channels: this.#members.size,
      ...counters,
      closed: { ...closed },
      history: {
        events: history.events,
        bytes: history.bytes,
        oldest: history.events === 0 ? null : history.at(history.first).cursor,
        newest: this.cursor
      },
      backplane: this.#backplaneState
    }
  }

  // What a channel handle calls

  size (name: string): number {
    return this.#members.get(name)?.streams.size ?? 0
  }

  recent (name: string, limit = Infinity): StoredEvent[] {
    this.history.evict(performance.now())
    const positions = this.history.positions(name)
    const events: StoredEvent[] = []
    for (let i = Math.max(0, positions.length - limit); i < positions.length; i++) events.push(storedEvent(this.history.at(positions.at(i)), this.options.parse))
    return events
  }

  // What the backplane calls

  get maxEvents (): number { return this.options.history.maxEvents }

  receive (entry: Entry, age = 0): void {
    this.counters.received++
    const position = this.history.append(entry, performance.now() - age)
    for (const name of entry.channels) {
      const members = this.#members.get(name)
      if (members !== undefined) this.delivery.channel(members)
    }
    if (this.freshness.passed(this.history.at(position).bytes)) {
      for (const stream of this.streams) if (stream.isStale) this.delivery.quiet(stream)
    }
    this.delivery.schedule()
  }

  reset (cursor: string): void {
    this.history.mark(cursor, performance.now())
    for (const stream of this.streams) this.ready(stream)
    this.delivery.schedule()
  }

  up (): void {
    if (this.#backplaneState === 'up') return
    this.#backplaneState = 'up'
    this.#log.info('backplane is up')
    this.announce('up')
  }

  down (error: Error): void {
    if (this.#backplaneState === 'down') return
    this.#backplaneState = 'down'
    this.#log.warn({ err: error }, 'backplane is down')
    this.announce('down', { error })
  }

  async open (): Promise<void> {
    await this.#backplane.open(this)
    this.history.release(this.history.head, performance.now())
  }

  async close (): Promise<void> {
    this.#closed = true
    await this.#backplane.close()
  }

  // What a stream calls

  /** The next pass moves the stream forward. */
  ready (stream: Stream): void {
    this.delivery.stream(stream)
  }

  /** ms, near enough for heartbeats, and free. */
  get now (): number { return this.delivery.now }

  join (name: string, stream: Stream): Members {
    let members = this.#members.get(name)
    if (members === undefined) {
      members = { name, streams: new Set(), evicted: -1, ready: false, pieces: undefined }
      this.#members.set(name, members)
    }
    if (!members.streams.has(stream)) {
      members.streams.add(stream)
      this.counters.subscriptions++
    }
    return members
  }

  leave (members: Members, stream: Stream): void {
    if (!members.streams.delete(stream)) return
    this.counters.subscriptions--
    if (members.streams.size === 0) this.#members.delete(members.name)
    this.announce('unsubscribe', { channel: members.name, stream })
  }

  /** Resolves when everything that was acknowledged before the call has been received. */
  sync (): Promise<void> {
    return this.#backplane.sync()
  }

  /** Checks an event's fields and size. @throws SSE_ERR_INVALID_EVENT, SSE_ERR_EVENT_TOO_LARGE */
  checkEvent (event: SseEvent | string): EventFields & { serialized: boolean } {
    const fields = checkFields(event, this.options.serialize)
    // A text takes at least a byte for each of its units, and up to seven: what is too large anyway is not encoded first.
    const least = (fields.data?.length ?? 0) + (fields.comment?.length ?? 0)
    if (least > this.options.maxEventBytes) throw new SSE_ERR_EVENT_TOO_LARGE(least, this.options.maxEventBytes)
    const bytes = Buffer.byteLength(encodeEvent({ ...fields, id: undefined }))
    if (bytes > this.options.maxEventBytes) throw new SSE_ERR_EVENT_TOO_LARGE(bytes, this.options.maxEventBytes)
    return fields
  }

  /** A failure that nobody awaits must not end the process, so it is logged here; whoever awaits the promise gets it too. */
  logged<T> (promise: Promise<T>, what: string, log: FastifyBaseLogger = this.#log): Promise<T> {
    promise.catch((err: unknown) => log.error({ err }, what))
    return promise
  }

  /** Emits, and logs a listener that throws: it must not break a pass. */
  announce<Name extends keyof SseRegistryEvents> (name: Name, ...args: SseRegistryEvents[Name]): void {
    try {
      this.emit<keyof SseRegistryEvents>(name, ...args)
    } catch (err) {
      this.#log.error({ err }, `a listener of the event "${name}" threw`)
    }
  }

  #evicted (channels: readonly string[], position: number): void {
    for (const name of channels) {
      const members = this.#members.get(name)
      if (members !== undefined) members.evicted = position
    }
  }
}

function checkName (name: unknown): string {
  if (typeof name === 'string' && name !== '') return name
  throw new SSE_ERR_INVALID_CHANNEL('named by a string that is not empty', received(name))
}

function checkNames (names: readonly string[]): string[] {
  if (!Array.isArray(names) || names.length === 0) throw new SSE_ERR_INVALID_CHANNEL('one name, or several in an array', received(names))
  return [...new Set(names.map(checkName))]
}
