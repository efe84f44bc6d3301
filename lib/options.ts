import type { FastifyRequest } from 'fastify'
import type { Backplane } from './backplane.ts'
import { SSE_ERR_INVALID_OPTION, received } from './errors.ts'
import { isRetry, type StoredEvent } from './event.ts'

export const DEFAULT_HISTORY_MAX_EVENTS = 10_000
export const DEFAULT_HISTORY_MAX_BYTES = 16 * 1024 * 1024
export const DEFAULT_HISTORY_MAX_AGE = 0
export const DEFAULT_HEARTBEAT_INTERVAL = 15_000
export const DEFAULT_RETRY = 3_000
export const DEFAULT_MAX_EVENT_BYTES = 1024 * 1024
export const DEFAULT_MAX_BUFFERED_BYTES = 1024 * 1024
export const DEFAULT_STALL_TIMEOUT = 120_000
export const DEFAULT_MAX_AGE = 0
export const DEFAULT_DRAIN_RETRY: readonly [number, number] = [1_000, 5_000]
export const DEFAULT_DRAIN_TIMEOUT = 5_000

/** The options of `app.register(sse, options)`. */
export interface SsePluginOptions {
  /**
   * What orders events and shares them between processes. One backplane serves one registration.
   * @default memoryBackplane()
   */
  backplane?: Backplane | undefined
  /** What is kept for replay, whatever its channel. An event falls out when any of the limits is passed. */
  history?: {
    /** Events. 0 delivers live and replays nothing. @default 10_000 */
    maxEvents?: number | undefined
    /** Bytes, as encoded. @default 16 MiB */
    maxBytes?: number | undefined
    /** Milliseconds; 0 = no limit. @default 0 */
    maxAge?: number | undefined
  } | undefined
  /** Milliseconds without a write after which a heartbeat is sent; 0 = off. @default 15_000 */
  heartbeatInterval?: number | undefined
  /** The reconnection time, in milliseconds, that is sent first on every stream; 0 = not sent. @default 3_000 */
  retry?: number | undefined
  /** Turns data that is not a string into text, once per publish. @default JSON.stringify */
  serialize?: ((data: any) => string) | undefined
  /** Turns it back, lazily, for filters and `history()`. @default JSON.parse */
  parse?: ((text: string) => unknown) | undefined
  /** The largest event that is taken, in bytes, encoded without its id. @default 1 MiB */
  maxEventBytes?: number | undefined
  /** How many bytes of its own events may wait on one stream before it is closed (`overflow`). @default 1 MiB */
  maxBufferedBytes?: number | undefined
  /** Milliseconds that a full socket may go without a drain before its stream is closed (`stall`); 0 = for ever. @default 120_000 */
  stallTimeout?: number | undefined
  /** Milliseconds that a stream may live: it ends between 90 and 100 % of it, so clients do not come back at once; 0 = no limit. @default 0 */
  maxAge?: number | undefined
  /** How many streams may be open in this process. @default Infinity */
  maxStreams?: number | undefined
  /** How many streams may be open in this process for one `streamKey`. @default Infinity */
  maxStreamsPerKey?: number | undefined
  /** Whose stream it is, for `maxStreamsPerKey`. Synchronous. @default request => request.ip */
  streamKey?: ((request: FastifyRequest) => unknown) | undefined
  /** What `app.close()` does with open streams. */
  drain?: {
    /** The reconnection time they are told is random between these two, in milliseconds. @default [1_000, 5_000] */
    retry?: readonly [number, number] | undefined
    /** Milliseconds to wait for their sockets before they are destroyed. @default 5_000 */
    timeout?: number | undefined
  } | undefined
}

/** Where a subscription starts, and what it lets through. */
export interface SubscribeOptions<Event = StoredEvent<any>> {
  /** Start after this cursor, whatever the client sent; null starts at the head. */
  lastEventId?: string | null | undefined
  /** Without a good cursor, send this many of the newest events of the channels first. @default 0, or all that lies after the cursor's place */
  rewind?: number | undefined
  /** Called for each event of the channels; true lets it through. Synchronous. If it throws, its stream closes with `error`. */
  filter?: ((event: Event) => boolean) | undefined
}

/** Options of one stream: those of its subscriptions, and its own `retry` and `maxAge` (ms) instead of the plugin's. */
export interface SseOptions<Event = StoredEvent<any>> extends SubscribeOptions<Event> {
  retry?: number | undefined
  maxAge?: number | undefined
}

/** What is kept for replay: `history` with its defaults. */
export interface HistoryLimits {
  readonly maxEvents: number
  readonly maxBytes: number
  readonly maxAge: number
}

/** Every option, checked, with its default. */
export interface ResolvedOptions {
  readonly backplane: Backplane | undefined
  readonly history: HistoryLimits
  readonly heartbeatInterval: number
  readonly retry: number
  readonly serialize: (data: unknown) => string
  readonly parse: (text: string) => unknown
  readonly maxEventBytes: number
  readonly maxBufferedBytes: number
  readonly stallTimeout: number
  readonly maxAge: number
  readonly maxStreams: number
  readonly maxStreamsPerKey: number
  readonly streamKey: (request: FastifyRequest) => unknown
  readonly drain: { readonly retry: readonly [number, number], readonly timeout: number }
}

/**
 * Checks the options and fills in the defaults. The only validator: what is inside trusts what comes from here.
 * @throws SSE_ERR_INVALID_OPTION
 */
export function resolveOptions (options: SsePluginOptions): ResolvedOptions {
  const history = group('history', options.history)
  const drain = group('drain', options.drain)
  return {
    backplane: backplane(options.backplane),
    history: {
      maxEvents: count('history.maxEvents', history.maxEvents, DEFAULT_HISTORY_MAX_EVENTS, 0),
      maxBytes: count('history.maxBytes', history.maxBytes, DEFAULT_HISTORY_MAX_BYTES, 0),
      maxAge: duration('history.maxAge', history.maxAge, DEFAULT_HISTORY_MAX_AGE)
    },
    heartbeatInterval: duration('heartbeatInterval', options.heartbeatInterval, DEFAULT_HEARTBEAT_INTERVAL),
    retry: retryTime('retry', options.retry, DEFAULT_RETRY),
    serialize: fn('serialize', options.serialize, JSON.stringify),
    parse: fn('parse', options.parse, JSON.parse),
    maxEventBytes: count('maxEventBytes', options.maxEventBytes, DEFAULT_MAX_EVENT_BYTES, 1),
    maxBufferedBytes: count('maxBufferedBytes', options.maxBufferedBytes, DEFAULT_MAX_BUFFERED_BYTES, 1),
    stallTimeout: duration('stallTimeout', options.stallTimeout, DEFAULT_STALL_TIMEOUT),
    maxAge: duration('maxAge', options.maxAge, DEFAULT_MAX_AGE),
    maxStreams: count('maxStreams', options.maxStreams, Infinity, 0),
    maxStreamsPerKey: count('maxStreamsPerKey', options.maxStreamsPerKey, Infinity, 0),
    streamKey: fn('streamKey', options.streamKey, (request: FastifyRequest) => request.ip),
    drain: {
      retry: retryRange(drain.retry),
      timeout: duration('drain.timeout', drain.timeout, DEFAULT_DRAIN_TIMEOUT)
    }
  }
}

/** An object that has no class: what options are. */
export function isPlain (value: unknown): value is object {
  return typeof value === 'object' && value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value))
}

export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}

/** What an option answered: a promise would count as yes, or as a key that nobody else has. @throws SSE_ERR_INVALID_OPTION */
export function checkAnswer<T> (option: string, answer: T): T {
  if (!isThenable(answer)) return answer
  answer.then(undefined, () => {}) // Told already: that it rejects must not end the process.
  throw new SSE_ERR_INVALID_OPTION(option, 'synchronous', 'one that returns a promise')
}

const STREAM_OPTIONS: readonly string[] = ['lastEventId', 'rewind', 'filter', 'retry', 'maxAge']

/** Checks the options of one stream or subscription: an event given in their place would be lost in silence. @throws SSE_ERR_INVALID_OPTION */
export function checkStreamOptions<O extends SseOptions<any>> (options: O): O {
  if (!isPlain(options)) throw new SSE_ERR_INVALID_OPTION('options', 'an object', received(options))
  for (const name of Object.keys(options)) {
    if (!STREAM_OPTIONS.includes(name)) throw new SSE_ERR_INVALID_OPTION(name, `one of ${STREAM_OPTIONS.join(', ')}`, received(options[name as keyof O]))
  }
  const { lastEventId, rewind, filter, retry, maxAge } = options
  if (lastEventId !== undefined && lastEventId !== null && typeof lastEventId !== 'string') throw new SSE_ERR_INVALID_OPTION('lastEventId', 'a string or null', received(lastEventId))
  count('rewind', rewind, 0, 0)
  fn('filter', filter, () => true)
  retryTime('retry', retry, 0)
  duration('maxAge', maxAge, 0)
  return options
}

function group<T extends object> (name: string, value: T | undefined): Partial<T> {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new SSE_ERR_INVALID_OPTION(name, 'an object', received(value))
  return value
}

/** A whole number, or Infinity. */
function count (name: string, value: unknown, byDefault: number, least: number): number {
  if (value === undefined) return byDefault
  if (value === Infinity || (Number.isSafeInteger(value) && value as number >= least)) return value as number
  throw new SSE_ERR_INVALID_OPTION(name, `a whole number >= ${least}, or Infinity`, received(value))
}

/** The longest time that Node's timers take, 2^31 - 1 ms, is the longest that makes sense here. */
const LONGEST = 2_147_483_647

export function isDuration (value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= LONGEST
}

function duration (name: string, value: unknown, byDefault: number): number {
  if (value === undefined) return byDefault
  if (isDuration(value)) return value
  throw new SSE_ERR_INVALID_OPTION(name, `a number of milliseconds from 0 to ${LONGEST}`, received(value))
}

function retryTime (name: string, value: unknown, byDefault: number): number {
  if (value === undefined) return byDefault
  if (isRetry(value)) return value
  throw new SSE_ERR_INVALID_OPTION(name, 'a whole number of milliseconds >= 0', received(value))
}

function retryRange (value: unknown): readonly [number, number] {
  if (value === undefined) return DEFAULT_DRAIN_RETRY
  if (Array.isArray(value) && value.length === 2 && isRetry(value[0]) && isRetry(value[1]) && value[0] <= value[1]) return [value[0], value[1]]
  throw new SSE_ERR_INVALID_OPTION('drain.retry', 'two whole numbers of milliseconds >= 0, the smaller first', Array.isArray(value) ? `[${value.map(received).join(',')}]` : received(value))
}

function fn<F extends Function> (name: string, value: F | undefined, byDefault: F): F {
  if (value === undefined) return byDefault
  if (typeof value === 'function') return value
  throw new SSE_ERR_INVALID_OPTION(name, 'a function', received(value))
}

function backplane (value: Backplane | undefined): Backplane | undefined {
  if (value === undefined) return undefined
  for (const method of ['open', 'append', 'sync', 'compare', 'close'] as const) {
    if (typeof (value as Backplane | null)?.[method] !== 'function') {
      throw new SSE_ERR_INVALID_OPTION('backplane', `a backplane, with a method "${method}"`, received(value))
    }
  }
  return value
}
