import type { EventEmitter } from 'node:events'
import type { Channel, ChannelOrName, EventsOf, PublishEvent, SseChannels } from '../stream/channel.ts'
import type { StreamEvents } from '../stream/host.ts'
import type { SseStream } from '../stream/sse-stream.ts'
import type { SseStats } from './stats.ts'

/** `fastify.sse`: the channels, the open streams and the history of one application. */
export interface SseRegistry extends EventEmitter<SseRegistryEvents> {
  /** A light handle: equal names, same channel. @throws SSE_ERR_INVALID_CHANNEL */
  channel<Name extends keyof SseChannels & string> (name: Name): Channel<SseChannels[Name]>
  channel<Events = any> (name: string): Channel<Events>
  /** Publishes one event to several channels: a stream gets it once, however many of them it is subscribed to. See `Channel.publish`. */
  publish<const C extends ChannelOrName> (channels: C | readonly C[], event: EventForAll<C>): Promise<string>
  /** The streams open in this process: to count, to find one user's, to end them. */
  readonly streams: ReadonlySet<SseStream>
  /** The newest cursor of this process: take it before you read a snapshot, subscribe from it afterwards. */
  readonly cursor: string
  /** The numbers of this process, cheap enough to ask for at each scrape. */
  stats (): SseStats
}

/** What each of these channels takes: the intersection, by way of a parameter. */
type EventForAll<C extends ChannelOrName> = (C extends unknown ? (event: PublishEvent<EventsOf<C>>) => void : never) extends (event: infer Event) => void ? Event : never

/** What the registry emits. A listener that throws or rejects is logged. */
export interface SseRegistryEvents extends StreamEvents {
  /** The backplane is back. */
  up: []
  /** The backplane is away: nothing can be published or received until 'up'. */
  down: [{ error: Error }]
}
