import type { StoredEvent } from '../wire/event.ts'
import type { SseFeed } from './feed.ts'

/**
 * Names of channels and the events that each carries, for an app to declare once:
 * `declare module 'fastify-sse-channels' { interface SseChannels { time: { tick: { n: number } } } }`.
 * The key `message` types an event without a name.
 */
export interface SseChannels {}

type IsAny<T> = 0 extends 1 & T ? true : false

/** What a string alone may be: the data of an event without a name. */
type TextOf<Data> = string extends Data ? string : Extract<Data, string>

/** What `publish()` takes on a channel with these events: the event's name and its data, checked together. */
export type PublishEvent<Events> = IsAny<Events> extends true
  ? { event?: string | undefined, data: unknown } | string
  : { [Name in keyof Events & string]: Name extends 'message'
      ? { event?: 'message' | undefined, data: Events[Name] } | TextOf<Events[Name]>
      : { event: Name, data: Events[Name] }
    }[keyof Events & string]

/** What a filter and `history()` see of a channel with these events, or of any of several channels. */
export type StoredEventOf<Events> = IsAny<Events> extends true
  ? StoredEvent<any>
  : Events extends unknown // of each channel by itself
    ? { [Name in keyof Events & string]: Omit<StoredEvent<Events[Name]>, 'event'> & (Name extends 'message'
      ? { event?: 'message' }
      : { event: Name }) }[keyof Events & string]
    : never

/** What `Channel.end()` takes. */
export interface EndOptions {
  /** Why the channel ends: its clients are told. @default 'done' */
  reason?: string | undefined
}

/** What `Channel.publishFrom()` takes. */
export interface PublishFromOptions {
  /** Stops the source when it aborts, and ends the channel with the reason `aborted`. */
  signal?: AbortSignal | undefined
  /** Whether the channel ends with the source; false: it goes on afterwards. @default true */
  end?: boolean | undefined
}

/** A named group of streams: publish to it, and every subscribed stream of every process gets the event. */
export interface Channel<Events = any> {
  readonly name: string
  /** Streams subscribed in this process. */
  readonly size: number
  /**
   * Publishes one event. Resolves with its cursor once the backplane has it.
   * @throws (rejects) SSE_ERR_INVALID_EVENT, SSE_ERR_EVENT_TOO_LARGE, SSE_ERR_CHANNEL_ENDED, SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CLOSED.
   * A rejection that nobody awaits is logged and does not end the process.
   */
  publish (event: PublishEvent<Events>): Promise<string>
  /**
   * Ends the channel: streams that reach the end get the event `sse.end`, with `reason` and `channels`, and close when all of their
   * channels have ended. Resolves with the cursor of the end; a second end, from any process, with that of the first one.
   * @throws (rejects) SSE_ERR_INVALID_OPTION, SSE_ERR_EVENT_TOO_LARGE, SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CLOSED
   */
  end (options?: EndOptions): Promise<string>
  /**
   * Publishes what a source yields, in order, at the pace of the backplane, whoever listens; then ends the channel. Where somebody else ends
   * the channel, or the signal aborts, the source is stopped at once, although it may wait for something. A source that throws ends the
   * channel with the reason `error`; so does one that yields what cannot be published.
   * @returns the reason of the end: 'done', 'aborted' by the signal, 'closed' by app.close(), or what whoever ended it said
   * @throws (rejects) what the source throws, SSE_ERR_INVALID_SOURCE, SSE_ERR_INVALID_OPTION, and what `publish` and `end` reject with
   */
  publishFrom (source: SseFeed, options?: PublishFromOptions): Promise<'done' | string>
  /**
   * The newest events kept of this channel, newest last, from the backplane.
   * @param limit how many at most; all by default
   * @throws (rejects) SSE_ERR_INVALID_OPTION, SSE_ERR_BACKPLANE_DOWN, SSE_ERR_CLOSED
   */
  history (limit?: number): Promise<Array<StoredEventOf<Events>>>
}

/** What can be published or subscribed to: the handle of a channel of this application, or its name. */
export type ChannelOrName = Channel | string

/** The events of a channel that is given by its handle or its name; of any of several. */
export type EventsOf<C extends ChannelOrName> = C extends Channel<infer Events> ? Events : C extends keyof SseChannels ? SseChannels[C] : any

/** Marks handles of channels, with the registry that they are of. */
export const kRegistry = Symbol('fastify-sse-channels.registry')

/** Whether a value is the handle of a channel, of whatever application. */
export function isChannel (value: unknown): value is Channel & { readonly [kRegistry]: unknown } {
  return typeof value === 'object' && value !== null && kRegistry in value
}
