import type { SseEvent, StoredEvent } from './event.ts'

/**
 * Names of channels and the events that each carries, for an app to declare once:
 * `declare module 'fastify-sse-channels' { interface SseChannels { time: { tick: { n: number } } } }`.
 * The key `message` types an event without a name.
 */
export interface SseChannels {}

type IsAny<T> = 0 extends 1 & T ? true : false

/** What `publish()` takes on a channel with these events: the event's name and its data, checked together. */
export type PublishEvent<Events> = IsAny<Events> extends true
  ? Pick<SseEvent<any>, 'data' | 'event'> | string
  : { [Name in keyof Events & string]: Name extends 'message'
      ? { event?: 'message', data: Events[Name] } | (Events[Name] extends string ? Events[Name] : never)
      : { event: Name, data: Events[Name] }
    }[keyof Events & string]

/** What a filter and `history()` see of a channel with these events. */
export type StoredEventOf<Events> = IsAny<Events> extends true
  ? StoredEvent<any>
  : { [Name in keyof Events & string]: Omit<StoredEvent<Events[Name]>, 'event'> & (Name extends 'message'
    ? { event?: 'message' }
    : { event: Name }) }[keyof Events & string]

/** A named group of streams: publish to it, and every subscribed stream of every process gets the event. */
export interface Channel<Events = any> {
  readonly name: string
  /** Streams subscribed in this process. */
  readonly size: number
  /**
   * Publishes one event. Resolves with its cursor once the backplane has it.
   * @throws (rejects) SSE_ERR_INVALID_EVENT, SSE_ERR_EVENT_TOO_LARGE, SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CLOSED. A rejection that
   * nobody awaits is logged and does not end the process.
   */
  publish (event: PublishEvent<Events>): Promise<string>
  /** The newest events kept of this channel, newest last. @param limit how many at most; all by default */
  history (limit?: number): Array<StoredEventOf<Events>>
}

/** What a handle asks of its registry. */
export interface ChannelHost {
  size (name: string): number
  publish (channel: string, event: any): Promise<string>
  recent (name: string, limit?: number): StoredEvent[]
}

/** The handle: a name and its registry. Nothing is kept for a channel that has no members. */
export class ChannelHandle implements Channel {
  readonly name: string
  readonly host: ChannelHost

  constructor (name: string, host: ChannelHost) {
    this.name = name
    this.host = host
  }

  get size (): number { return this.host.size(this.name) }

  publish (event: PublishEvent<any>): Promise<string> { return this.host.publish(this.name, event) }

  history (limit?: number): Array<StoredEvent<any>> { return this.host.recent(this.name, limit) }
}
