import { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { Delivery, type Mover } from '../delivery/pass.ts'
import { Sweep } from '../delivery/sweep.ts'
import { SSE_ERR_CLOSED, SSE_ERR_EVENT_TOO_LARGE, SSE_ERR_INVALID_EVENT, SSE_ERR_INVALID_OPTION, SSE_ERR_INVALID_SOURCE, received } from '../errors.ts'
import type { Backplane, Entry, NewEntry } from '../log/backplane.ts'
import { Log } from '../log/log.ts'
import { channelLimits, type ResolvedOptions } from '../options.ts'
import type { EndOptions, PublishFromOptions } from '../stream/channel.ts'
import { discardFeed, isFeed, type SseFeed } from '../stream/feed.ts'
import { Pieces, storedEvent } from '../stream/pieces.ts'
import type { StreamEvents, StreamHost } from '../stream/host.ts'
import type { Stream } from '../stream/stream.ts'
import { checkFields, measureEvent, twoArguments, type EventFields, type SseEvent, type StoredEvent } from '../wire/event.ts'
import { ChannelHandle, checkEndOptions, checkName, checkPublishFromOptions, namesOf } from './channel.ts'
import { Publishers } from './publisher.ts'
import type { SseRegistryEvents } from './sse-registry.ts'
import { Reports } from './reports.ts'
import { makeCounters, type SseStats } from './stats.ts'

/** Who made the streams, and is told what becomes of them. */
export interface StreamKeeper {
  /** It closes. */
  left (stream: Stream): void
  /** It was open, and has closed: for the log. */
  closed (stream: Stream, told: Omit<StreamEvents['close'][0], 'stream'>): void
}

/** Of the line with the id: no cursor of a log is longer than this one. */
const ID_BYTES = measureEvent({ id: 'x'.repeat(24) }) - measureEvent({})

export class Registry extends EventEmitter<SseRegistryEvents> implements StreamHost<Stream> {
  readonly streams = new Set<Stream>()
  readonly options: ResolvedOptions
  readonly log: Log<Mover>
  readonly pieces: Pieces
  readonly sweep: Sweep<Stream>
  readonly counters = makeCounters()
  readonly publishers: Publishers
  readonly reports: Reports
  /** From preClose on. */
  closing = false

  readonly #delivery: Delivery
  readonly #keeper: StreamKeeper
  #closed = false

  constructor (options: ResolvedOptions, backplane: Backplane, logger: FastifyBaseLogger, keeper: StreamKeeper) {
    super()
    this.options = options
    this.#keeper = keeper
    this.reports = new Reports(this, logger)
    const { history } = options
    const clock = { now: () => performance.now(), after: (ms: number, call: () => void) => { setTimeout(call, ms).unref() } }
    this.log = new Log<Mover>(backplane, {
      maxBytes: history.maxBytes,
      limits: name => channelLimits(history, name),
      measure: entry => this.#measure(entry)
    }, {
      ready: log => this.#delivery.channel(log),
      keeping: () => this.sweep.run(),
      state: error => { if (!this.#closed) this.reports.state(error) }
    }, clock)
    this.publishers = new Publishers({ log: this.log, append: (name, event) => this.append(name, event), end: (name, reason) => this.#end(name, { reason }) })
    this.pieces = new Pieces(this.log, options.parse)
    this.#delivery = new Delivery(this.log, this.pieces)
    this.sweep = new Sweep(this.streams, () => {
      this.#delivery.tick()
      return this.log.sweep()
    })
  }

  // What an application calls

  channel (name: string): ChannelHandle {
    return new ChannelHandle(checkName(name), this)
  }

  /** @param more nothing: it is there for those who take publish() for emit() */
  publish (channels: unknown, event: SseEvent | string, ...more: unknown[]): Promise<string> {
    return this.reports.logged(more.length === 0 ? this.append(channels, event) : Promise.reject(twoArguments('publish', event, more[0])), 'publish failed')
  }

  /** As publish(), for those who see to its failure. */
  async append (channels: unknown, event: SseEvent | string): Promise<string> {
    if (this.#closed) throw new SSE_ERR_CLOSED('publish()')
    const names = this.namesOf(channels)
    const fields = checkFields(event, this.options.serialize)
    const extra = (['id', 'retry', 'comment'] as const).find(field => fields[field] !== undefined)
    if (extra !== undefined) {
      throw new SSE_ERR_INVALID_EVENT(extra, 'is not for publish(): ids are the log\'s, and retry and comment belong to one stream', received(fields[extra]))
    }
    const { event: type, data, serialized } = fields
    if (data === undefined) throw new SSE_ERR_INVALID_EVENT('data', 'must be given: no client ever fires an event without data', received(undefined))
    const cursor = await this.#append(names, { kind: 'event', event: type, data, serialized })
    this.counters.published++
    return cursor
  }

  end (name: string, options: EndOptions = {}): Promise<string> {
    return this.reports.logged(this.#end(name, options), 'end failed')
  }

  async #end (name: string, options: EndOptions): Promise<string> {
    if (this.#closed) throw new SSE_ERR_CLOSED('end()')
    const { reason = 'done' } = checkEndOptions(options)
    return await this.#append([name], { kind: 'end', event: undefined, data: reason, serialized: false })
  }

  /** The call of the backplane comes before any wait: the order of the calls is the order of the log. */
  #append (channels: readonly string[], fields: Pick<NewEntry, 'kind' | 'event' | 'data' | 'serialized'>): Promise<string> {
    const { history, maxEventBytes } = this.options
    const entry = { channels, ...fields, limits: channels.map(name => channelLimits(history, name)) }
    const bytes = this.#measure(entry) - ID_BYTES
    if (bytes > maxEventBytes) throw new SSE_ERR_EVENT_TOO_LARGE(bytes, maxEventBytes)
    return this.log.append(entry)
  }

  publishFrom (name: string, source: SseFeed, options: PublishFromOptions = {}): Promise<string> {
    return this.reports.logged(this.#publishFrom(name, source, options), 'publishFrom failed')
  }

  async #publishFrom (name: string, source: SseFeed, options: PublishFromOptions): Promise<string> {
    try {
      if (this.closing) throw new SSE_ERR_CLOSED('publishFrom()')
      if (!isFeed(source)) throw new SSE_ERR_INVALID_SOURCE('publishFrom()', 'an iterable or async iterable of events, a Readable or a web stream', received(source))
      return await this.publishers.run(name, source, checkPublishFromOptions(options))
    } catch (error) {
      discardFeed(source)
      throw error
    }
  }

  get cursor (): string { return this.log.cursorAt(this.log.head) }

  stats (): SseStats {
    this.log.expire()
    const { closed, ...counters } = this.counters
    let channels = 0
    let events = 0
    let members = 0
    for (const log of this.log.channels.values()) {
      if (hasStream(log.members)) members++
      if (log.events > 0) channels++
      events += log.events
    }
    return {
      streams: this.streams.size,
      channels: members,
      ...counters,
      received: this.log.received,
      closed: { ...closed },
      history: { channels, events, bytes: this.log.store.bytes },
      backplane: this.reports.backplane
    }
  }

  // What a handle calls

  size (name: string): number {
    const members = this.log.channels.get(name)?.members
    return members === undefined ? 0 : members.size - this.publishers.of(members)
  }

  async recent (name: string, limit = Infinity): Promise<StoredEvent[]> {
    if (this.#closed) throw new SSE_ERR_CLOSED('history()')
    if (limit !== Infinity && !(Number.isSafeInteger(limit) && limit >= 0)) throw new SSE_ERR_INVALID_OPTION('limit', 'a whole number >= 0, or Infinity', received(limit))
    if (limit === 0) return []
    // An end, which is no event, is the newest entry where there is one.
    const entries = (await this.log.kept(name, limit + 1)).filter(({ kind }) => kind === 'event')
    return entries.slice(-limit).map(entry => storedEvent(entry, this.log.cursorAt(entry.seq), this.options.parse))
  }

  // Its life

  async open (): Promise<void> { await this.log.open() }

  async close (): Promise<void> {
    this.#closed = true
    this.sweep.stop()
    await this.log.close()
  }

  // What a stream calls

  get now (): number { return this.#delivery.now }
  tick (): void { this.#delivery.tick() }
  ready (stream: Stream): void { this.#delivery.stream(stream) }
  quiet (stream: Stream): void { this.#delivery.quiet(stream) }
  opened (stream: Stream): void { this.sweep.run(stream.shortestLimit) }
  flushing (stream: Stream): void { this.sweep.ending.add(stream) }
  gone (stream: Stream): void { this.sweep.ending.delete(stream) }

  closed (stream: Stream): void {
    this.streams.delete(stream)
    this.#keeper.left(stream)
  }

  tellClosed (stream: Stream, told: Omit<StreamEvents['close'][0], 'stream'>): void {
    this.#keeper.closed(stream, told)
    this.reports.announce('close', { stream, ...told })
  }

  namesOf (channels: unknown): string[] { return namesOf(channels, this) }

  checkEvent (event: SseEvent | string): EventFields & { serialized: boolean } {
    const fields = checkFields(event, this.options.serialize)
    const bytes = measureEvent({ ...fields, id: undefined })
    if (bytes > this.options.maxEventBytes) throw new SSE_ERR_EVENT_TOO_LARGE(bytes, this.options.maxEventBytes)
    return fields
  }

  /** Of an entry, as encoded, its channels' names included. */
  #measure ({ channels, event, data }: Pick<Entry, 'channels' | 'event' | 'data'>): number {
    let bytes = ID_BYTES + measureEvent({ event, data })
    for (const name of channels) bytes += Buffer.byteLength(name)
    return bytes
  }
}

/** Publishers are members too, and have no place in the log. */
function hasStream (members: ReadonlySet<Mover>): boolean {
  for (const { reader } of members) if (reader !== undefined) return true
  return false
}
