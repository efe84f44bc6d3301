import type { FastifyRequest } from 'fastify'
import { checkAnswer, checkNames, count, duration, fn, group, isPlain, isRetry, retryTime } from './checks.ts'
import { SSE_ERR_INVALID_OPTION, received } from './errors.ts'

export const DEFAULT_HISTORY_MAX_EVENTS = 10_000
export const DEFAULT_HISTORY_MAX_BYTES = 64 * 1024 * 1024
export const DEFAULT_HISTORY_MAX_AGE = 600_000
export const DEFAULT_HEARTBEAT_INTERVAL = 15_000
export const DEFAULT_RETRY = 3_000
export const DEFAULT_COMPRESS_MIN_BYTES = 256
export const DEFAULT_COMPRESS_WINDOW = 8_192
export const DEFAULT_MAX_EVENT_BYTES = 1024 * 1024
export const DEFAULT_MAX_BUFFERED_BYTES = 1024 * 1024
export const DEFAULT_STALL_TIMEOUT = 120_000
export const DEFAULT_MAX_AGE = 0
export const DEFAULT_DRAIN_RETRY: readonly [number, number] = [1_000, 5_000]
export const DEFAULT_DRAIN_TIMEOUT = 5_000
export const DEFAULT_DRAIN_FINISH = 5_000

/** What bounds the history of a channel. */
export interface ChannelHistory {
  /** Events of the channel. 0 delivers live and replays nothing. @default 10_000 */
  maxEvents?: number | undefined
  /** Milliseconds; 0 = no limit. @default 600_000 */
  maxAge?: number | undefined
}

/** How streams are compressed. */
export interface CompressOptions {
  /** Bytes: a smaller write goes as it is, unless it can refer back to what the client has just had. @default 256 */
  minBytes?: number | undefined
  /**
   * Bytes, 32,768 at most: how far a write of channel events may refer back to those that the client has just had. 0: each write stands alone.
   * @default 8_192
   */
  window?: number | undefined
}

/** The options of the registry: all of the plugin's but the backplane. */
export interface RegistryOptions {
  /** What is kept of each channel for replay. An event falls out when any of the limits is passed. */
  history?: ChannelHistory & {
    /** Bytes that all channels together may take in this process, as encoded. @default 64 MiB */
    maxBytes?: number | undefined
    /**
     * Other limits for one channel, by its name; undefined: those above. It must answer the same in all processes, and at once.
     * `latest`: only the newest event of the channel counts, and there is no gap on it; its `maxAge` is 0 unless given.
     */
    channel?: ((name: string) => (ChannelHistory & { latest?: boolean | undefined }) | undefined) | undefined
  } | undefined
  /** Milliseconds without a write after which a heartbeat is sent; 0 = off. @default 15_000 */
  heartbeatInterval?: number | undefined
  /** The reconnection time, in milliseconds, that is sent first on every stream; 0 = not sent. @default 3_000 */
  retry?: number | undefined
  /** Turns data that is not a string into text, once per publish. @default JSON.stringify */
  serialize?: ((data: any) => string) | undefined
  /** Turns it back, lazily, for filters and `history()`. @default JSON.parse */
  parse?: ((text: string) => unknown) | undefined
  /**
   * Sends streams as gzip to clients that take it (RFC 9110, section 12.5.3). What many streams share is compressed once for all of them. A secret
   * and text that an attacker chooses must not share such a stream: its length tells the one who sees it what they have in common (BREACH).
   * @default false
   */
  compress?: boolean | CompressOptions | undefined
  /** The largest event that is taken, in bytes, encoded without its id; the names of its channels count too. @default 1 MiB */
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
    /** Milliseconds that sources of `reply.sse()` and `publishFrom()` may take to come to their end, before they are stopped; 0: at once. @default 5_000 */
    finish?: number | undefined
  } | undefined
}

/** What bounds the history of one channel. */
export interface ChannelLimits {
  /** Entries; an end is kept besides. */
  readonly maxEvents: number
  /** Milliseconds; 0 = no limit. */
  readonly maxAge: number
  /** Only the newest entry counts. */
  readonly latest: boolean
}

/** What is kept for replay: `history` with its defaults. */
export interface HistoryOptions {
  readonly limits: ChannelLimits
  readonly maxBytes: number
  readonly channel: ((name: string) => unknown) | undefined
}

/** `compress`, with its defaults. */
export interface Compression {
  readonly minBytes: number
  readonly window: number
}

/** Every option, checked, with its default. */
export interface ResolvedOptions {
  readonly history: HistoryOptions
  readonly heartbeatInterval: number
  readonly retry: number
  readonly serialize: (data: unknown) => string
  readonly parse: (text: string) => unknown
  /** Undefined: off. */
  readonly compress: Compression | undefined
  readonly maxEventBytes: number
  readonly maxBufferedBytes: number
  readonly stallTimeout: number
  readonly maxAge: number
  readonly maxStreams: number
  readonly maxStreamsPerKey: number
  readonly streamKey: (request: FastifyRequest) => unknown
  readonly drain: { readonly retry: readonly [number, number], readonly timeout: number, readonly finish: number }
}

/**
 * Checks the options and fills in the defaults. The only validator: what is inside trusts what comes from here.
 * @throws SSE_ERR_INVALID_OPTION
 */
export function resolveOptions (options: RegistryOptions): ResolvedOptions {
  checkNames('', options, OPTIONS)
  const history = group('history', options.history, ['maxEvents', 'maxAge', 'maxBytes', 'channel'])
  const drain = group('drain', options.drain, ['retry', 'timeout', 'finish'])
  return {
    history: {
      limits: {
        maxEvents: count('history.maxEvents', history.maxEvents, DEFAULT_HISTORY_MAX_EVENTS, 0),
        maxAge: duration('history.maxAge', history.maxAge, DEFAULT_HISTORY_MAX_AGE),
        latest: false
      },
      maxBytes: count('history.maxBytes', history.maxBytes, DEFAULT_HISTORY_MAX_BYTES, 0),
      channel: history.channel === undefined ? undefined : fn('history.channel', history.channel, () => undefined)
    },
    heartbeatInterval: duration('heartbeatInterval', options.heartbeatInterval, DEFAULT_HEARTBEAT_INTERVAL),
    retry: retryTime('retry', options.retry, DEFAULT_RETRY),
    serialize: fn('serialize', options.serialize, JSON.stringify),
    parse: fn('parse', options.parse, JSON.parse),
    compress: compression(options.compress, undefined),
    maxEventBytes: count('maxEventBytes', options.maxEventBytes, DEFAULT_MAX_EVENT_BYTES, 1),
    maxBufferedBytes: count('maxBufferedBytes', options.maxBufferedBytes, DEFAULT_MAX_BUFFERED_BYTES, 1),
    stallTimeout: duration('stallTimeout', options.stallTimeout, DEFAULT_STALL_TIMEOUT),
    maxAge: duration('maxAge', options.maxAge, DEFAULT_MAX_AGE),
    maxStreams: count('maxStreams', options.maxStreams, Infinity, 0),
    maxStreamsPerKey: count('maxStreamsPerKey', options.maxStreamsPerKey, Infinity, 0),
    streamKey: fn('streamKey', options.streamKey, (request: FastifyRequest) => request.ip),
    drain: {
      retry: retryRange(drain.retry),
      timeout: duration('drain.timeout', drain.timeout, DEFAULT_DRAIN_TIMEOUT),
      finish: duration('drain.finish', drain.finish, DEFAULT_DRAIN_FINISH)
    }
  }
}

/**
 * `compress`, of the plugin or of one stream.
 * @param whole the plugin's, which a stream has unless it says otherwise
 * @throws SSE_ERR_INVALID_OPTION
 */
export function compression (value: unknown, whole: Compression | undefined): Compression | undefined {
  if (value === undefined) return whole
  if (value === false) return undefined
  if (value !== true && !isPlain(value)) throw new SSE_ERR_INVALID_OPTION('compress', 'true, false or an object', received(value))
  const { minBytes, window } = group<CompressOptions>('compress', value === true ? {} : value, ['minBytes', 'window'])
  // Deflate refers back no further (RFC 1951, section 2).
  if (window !== undefined && !(Number.isInteger(window) && window >= 0 && window <= 32_768)) throw new SSE_ERR_INVALID_OPTION('compress.window', 'a whole number from 0 to 32768', received(window))
  return {
    minBytes: count('compress.minBytes', minBytes, whole?.minBytes ?? DEFAULT_COMPRESS_MIN_BYTES, 0),
    window: window ?? whole?.window ?? DEFAULT_COMPRESS_WINDOW
  }
}

/**
 * What bounds the history of this channel.
 * @throws SSE_ERR_INVALID_OPTION where `history.channel` throws, or answers nonsense
 */
export function channelLimits ({ limits, channel }: HistoryOptions, name: string): ChannelLimits {
  if (channel === undefined) return limits
  let own: unknown
  try {
    own = channel(name)
  } catch (cause) {
    const error = new SSE_ERR_INVALID_OPTION('history.channel', 'a function that does not throw', `an error for the channel ${received(name)}`)
    error.cause = cause
    throw error
  }
  if (checkAnswer('history.channel', own) === undefined) return limits
  const { maxEvents, maxAge, latest = false } = group<ChannelHistory & { latest?: boolean }>(`history.channel(${received(name)})`, own as object, ['maxEvents', 'maxAge', 'latest'])
  if (typeof latest !== 'boolean') throw new SSE_ERR_INVALID_OPTION('history.channel().latest', 'true or false', received(latest))
  const events = count('history.channel().maxEvents', maxEvents, limits.maxEvents, 0)
  return {
    maxEvents: latest ? 1 : events,
    maxAge: duration('history.channel().maxAge', maxAge, latest ? 0 : limits.maxAge),
    latest
  }
}

const OPTIONS = ['backplane', 'history', 'heartbeatInterval', 'retry', 'serialize', 'parse', 'compress', 'maxEventBytes', 'maxBufferedBytes', 'stallTimeout', 'maxAge',
  'maxStreams', 'maxStreamsPerKey', 'streamKey', 'drain', 'prefix', 'logLevel', 'logSerializers']
function retryRange (value: unknown): readonly [number, number] {
  if (value === undefined) return DEFAULT_DRAIN_RETRY
  if (Array.isArray(value) && value.length === 2 && isRetry(value[0]) && isRetry(value[1]) && value[0] <= value[1]) return [value[0], value[1]]
  throw new SSE_ERR_INVALID_OPTION('drain.retry', 'two whole numbers of milliseconds >= 0, the smaller first', Array.isArray(value) ? `[${value.map(received).join(',')}]` : received(value))
}
