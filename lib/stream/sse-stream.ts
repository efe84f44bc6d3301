import type { FastifyRequest } from 'fastify'
import { checkOptions, checkSignal, count, duration, fn, retryTime } from '../checks.ts'
import { SSE_ERR_INVALID_OPTION, received } from '../errors.ts'
import { compression, type CompressOptions } from '../options.ts'
import type { SseEvent, StoredEvent } from '../wire/event.ts'
import type { ChannelOrName, EventsOf, StoredEventOf } from './channel.ts'

/**
 * Why a stream closed: the client left, its source or all of its channels ended, `close()` was called, `maxAge`, `stallTimeout` or
 * `maxBufferedBytes` was passed, the application closed, or something threw.
 */
export type CloseReason = 'client' | 'end' | 'server' | 'age' | 'stall' | 'overflow' | 'drain' | 'error'

/** Where a subscription starts, and what it lets through. */
export interface SubscribeOptions<Event = StoredEvent<any>> {
  /** Start after this cursor, whatever the client sent; null starts at the head. */
  lastEventId?: string | null | undefined
  /**
   * Without a good cursor, send this many of the newest events of each channel first; Infinity: all that is kept.
   * @default 0 without a cursor; all that is kept with one that is not good
   */
  rewind?: number | undefined
  /** Called for each event of the channels; true lets it through. Synchronous. If it throws, its stream closes with `error`. */
  filter?: ((event: Event) => boolean) | undefined
}

/** Options of one stream: those of its subscriptions, and its own `retry` and `maxAge` (ms) instead of the plugin's. */
export interface SseOptions<Event = StoredEvent<any>> extends SubscribeOptions<Event> {
  retry?: number | undefined
  maxAge?: number | undefined
  /** Whether the stream is compressed, where its client takes gzip, and how: instead of the plugin's `compress`. */
  compress?: boolean | CompressOptions | undefined
  /** Ends the stream when it aborts, with the reason `server`. */
  signal?: AbortSignal | undefined
}

/** One open response. */
export interface SseStream<Request = FastifyRequest> {
  /** The request that it answers. */
  readonly request: Request
  /** What the client has: the option, else the header Last-Event-ID, else the query parameter lastEventId, else null. */
  readonly lastEventId: string | null
  /** opening: the response head has not left, because onSend hooks are running. */
  readonly state: 'opening' | 'open' | 'closed'
  /** Its socket is full: what follows waits until the client reads. */
  readonly blocked: boolean
  /** Names of the channels it is subscribed to. */
  readonly channels: ReadonlySet<string>
  /** Aborts when the stream closes, with the CloseReason as its reason. */
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
   * Joins channels. All calls of one turn share one resume, from the client's `lastEventId`; a channel that is joined later starts at
   * the head, unless the call says `lastEventId`.
   * @throws SSE_ERR_INVALID_CHANNEL, SSE_ERR_INVALID_OPTION
   */
  subscribe<const C extends ChannelOrName> (channel: C | readonly C[], options?: SubscribeOptions<StoredEventOf<EventsOf<C>>>): this
  /** Leaves channels. @throws SSE_ERR_INVALID_CHANNEL */
  unsubscribe (channel: ChannelOrName | readonly ChannelOrName[]): this
  /**
   * Ends the stream, after its own events that wait. Resolves when the response is done; a second call does nothing more.
   * @param options.retry tells the client when to come back, in ms
   * @throws (rejects) SSE_ERR_INVALID_EVENT for a `retry` that breaks its rule, SSE_ERR_INVALID_OPTION for anything else
   */
  close (options?: { retry?: number | undefined }): Promise<void>
}

const SUBSCRIBE_OPTIONS = ['lastEventId', 'rewind', 'filter']
const STREAM_OPTIONS = [...SUBSCRIBE_OPTIONS, 'retry', 'maxAge', 'signal', 'compress']

/** Checks the options of a stream. @throws SSE_ERR_INVALID_OPTION */
export function checkStreamOptions (options: SseOptions<any>, known = STREAM_OPTIONS): SseOptions<any> {
  checkOptions(options, known)
  const { lastEventId, rewind, filter, retry, maxAge, signal, compress } = options
  if (lastEventId !== undefined && lastEventId !== null && typeof lastEventId !== 'string') throw new SSE_ERR_INVALID_OPTION('lastEventId', 'a string or null', received(lastEventId))
  count('rewind', rewind, 0, 0)
  fn('filter', filter, () => true)
  retryTime('retry', retry, 0)
  duration('maxAge', maxAge, 0)
  checkSignal(signal)
  compression(compress, undefined)
  return options
}

/** Checks the options of a subscription. @throws SSE_ERR_INVALID_OPTION */
export function checkSubscribeOptions (options: SubscribeOptions<any>): SubscribeOptions<any> {
  return checkStreamOptions(options, SUBSCRIBE_OPTIONS)
}
