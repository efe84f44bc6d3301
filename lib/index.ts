import type { Channel, EventsOf, StoredEventOf } from './stream/channel.ts'
import type { SseOptions, SseStream } from './stream/sse-stream.ts'
import type { SseSource } from './stream/source.ts'
import type { SseRegistry } from './registry/sse-registry.ts'

export { default } from './fastify/plugin.ts'
export { memoryBackplane } from './log/memory-backplane.ts'
export type { SsePluginOptions } from './fastify/plugin.ts'
export type { CompressOptions } from './options.ts'
export type { Backplane, ChannelLimits, Entry, HeardEntry, Kept, KeptEntry, Life, NewEntry, Place, Receiver, SharedBackplane } from './log/backplane.ts'
export type { SseRegistry, SseRegistryEvents } from './registry/sse-registry.ts'
export type { SseStats } from './registry/stats.ts'
export type { Channel, ChannelOrName, EventsOf, PublishEvent, SseChannels, StoredEventOf } from './stream/channel.ts'
export type { SseItem } from './stream/feed.ts'
export type { Filter } from './stream/pieces.ts'
export type { Gap, GapReason } from './stream/gaps.ts'
export type { SseSource } from './stream/source.ts'
export type { CloseReason, SseOptions, SseStream, SubscribeOptions } from './stream/sse-stream.ts'
export type { SseEvent, StoredEvent } from './wire/event.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Channels, open streams and history of this application. */
    sse: SseRegistry
  }

  interface FastifyRequest {
    /** Whether Accept names text/event-stream with q > 0 (RFC 9110, section 12.5.1): for routes that serve something else too. */
    acceptsSse (): boolean
  }

  interface FastifyReply {
    /**
     * Answers with an event stream, fed from a source, like `reply.send()`: return it from the handler. Headers that are not true of a
     * stream (content-length, etag and the like) are not sent, nor is what `reply.trailer()` adds.
     * @throws SSE_ERR_INVALID_SOURCE, SSE_ERR_INVALID_OPTION, SSE_ERR_ALREADY_SENT, SSE_ERR_CLOSED, SSE_ERR_TOO_MANY_STREAMS,
     * SSE_ERR_TOO_MANY_STREAMS_FOR_KEY
     */
    sse<const C extends Channel> (source: C | readonly C[], options?: SseOptions<StoredEventOf<EventsOf<C>>>): this
    sse (source: SseSource<this['request']>, options?: SseOptions): this
    /** Answers with an event stream to drive by hand. `options` are the defaults of its `subscribe()`. @throws as above */
    sse (options?: SseOptions): SseStream<this['request']>
  }
}
