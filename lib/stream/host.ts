import type { FastifyBaseLogger } from 'fastify'
import type { Log } from '../log/log.ts'
import type { ResolvedOptions } from '../options.ts'
import type { EventFields, SseEvent } from '../wire/event.ts'
import type { Pieces } from './pieces.ts'
import type { GapReason } from './gaps.ts'
import type { CloseReason, SseStream } from './sse-stream.ts'

/** What is told of streams. */
export interface StreamEvents {
  /** The response head of a stream has left. */
  open: [{ stream: SseStream }]
  /** A stream that was open is closed. `bytes` are those of the body, `events` those that fire in a client. */
  close: [{ stream: SseStream, reason: CloseReason, durationMs: number, events: number, bytes: number }]
  /** A stream has joined a channel. */
  subscribe: [{ channel: string, stream: SseStream }]
  /** A stream has left a channel, or closes. */
  unsubscribe: [{ channel: string, stream: SseStream }]
  /** A stream was told that it may have missed events. */
  gap: [{ stream: SseStream, reason: GapReason, channels: readonly string[] }]
}

/** What streams count. */
export interface StreamCounters {
  /** Pairs of a stream and a channel, now. */
  subscriptions: number
  /** Streams whose socket is full now. */
  blocked: number
  /** Channel events written, streams added up. */
  delivered: number
  /** Bytes of response bodies. */
  bytesWritten: number
  /** Gap events written. */
  gaps: number
  /** Streams opened. */
  opened: number
  /** Streams closed, of those opened. */
  closed: Record<CloseReason, number>
}

/** Who is told of streams. */
export interface StreamReports {
  announce<Name extends keyof StreamEvents> (name: Name, ...args: StreamEvents[Name]): void
  /** A failure that nobody handles. */
  logged<T> (promise: Promise<T>, what: string, log: FastifyBaseLogger): Promise<T>
  /** Of a segment: it went as it is. */
  readonly compressionFailed: (error: unknown) => void
}

/** What a stream asks of those who keep it. */
export interface StreamHost<S extends SseStream> {
  readonly options: ResolvedOptions
  readonly log: Log<any>
  readonly pieces: Pieces
  readonly counters: StreamCounters
  readonly reports: StreamReports
  /** The application closes. */
  readonly closing: boolean
  /** ms, near enough for heartbeats, and free. */
  readonly now: number
  tick (): void
  /** The next pass moves the stream forward. */
  ready (stream: S): void
  /** A heartbeat is due: one of the next passes visits the stream. */
  quiet (stream: S): void
  opened (stream: S): void
  closed (stream: S): void
  /** It is closed and its response is not, until `gone`: whoever said that the client left may be mistaken. */
  flushing (stream: S): void
  gone (stream: S): void
  /** @throws SSE_ERR_INVALID_CHANNEL */
  namesOf (channels: unknown): string[]
  /** @throws SSE_ERR_INVALID_EVENT, SSE_ERR_EVENT_TOO_LARGE */
  checkEvent (event: SseEvent | string): EventFields & { readonly serialized: boolean }
  /** It was open, and is closed. */
  tellClosed (stream: S, told: Omit<StreamEvents['close'][0], 'stream'>): void
}
