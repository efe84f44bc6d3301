/**
 * Types of events: names and data, for `SseClient` and for a page's own `EventSource`. Nothing here is code, or needs
 * Node's types or Fastify's.
 *
 * ```ts
 * import { SseClient } from 'fastify-sse-channels/client'
 *
 * const source = new SseClient<{ tick: { n: number } }>('/events', { parse: JSON.parse })
 * source.addEventListener('tick', event => event.data.n.toFixed())
 * ```
 *
 * ```ts
 * import type { ParsedData, TypedEventSource } from 'fastify-sse-channels/client'
 *
 * const source: TypedEventSource<{ tick: { n: number } }> = new EventSource('/events')
 * source.addEventListener('tick', event => {
 *   const { n } = JSON.parse(event.data) as ParsedData<typeof event>
 * })
 * ```
 */
import type { SseErrorEvent } from './error.ts'
import type { SseStatusEvent } from './status-event.ts'

// The page's own types, where it has them (lib "dom"); else as much of them as this needs.
type Of<Name extends string, Otherwise> = typeof globalThis extends Record<Name, { prototype: infer Instance }> ? Instance : Otherwise
type DomEvent = Of<'Event', { readonly type: string }>
type DomMessageEvent = Of<'MessageEvent', { readonly type: string, readonly lastEventId: string, readonly origin: string }>
type DomEventSource = Of<'EventSource', { readonly readyState: number, readonly url: string, close (): void }>

declare const parsed: unique symbol

/** A string is sent as it is, anything else as JSON: `data` is text in any case. */
export type TypedMessageEvent<Data> = Omit<DomMessageEvent, 'data'> & {
  readonly data: Data extends string ? Data : string
  /** For the compiler alone, there is no such property. */
  readonly [parsed]?: Data
}

/** What `JSON.parse(event.data)` gives, for `typeof event`: the data as it was published, but for what JSON makes of it (a `Date` is a string). */
export type ParsedData<Event extends { readonly [parsed]?: unknown }> = Json<NonNullable<Event[typeof parsed]>>

/** An event whose data the option `parse` has made of its text. */
export type ParsedMessageEvent<Data> = Omit<DomMessageEvent, 'data'> & {
  /** The data as it was published, but for what JSON makes of it (a `Date` is a string). */
  readonly data: Json<Data>
}

type Json<Data> = 0 extends 1 & Data ? Data
  : Data extends { toJSON (...args: any[]): infer Made } ? Made
    : Data extends object ? { [Key in keyof Data]: Json<Data[Key]> } : Data

/** The data of the gap event, which any stream may get. */
export interface Gap {
  readonly reason: 'expired' | 'unknown' | 'reset' | 'overrun'
  readonly channels: readonly string[]
}

/** The data of the event `sse.end`: these channels have ended, and no event of theirs will come. */
export interface End {
  readonly reason: string
  readonly channels: readonly string[]
}

/** What an `EventSource` can fire, whatever it subscribes to. */
interface Always { 'sse.gap': TypedMessageEvent<Gap>, 'sse.end': TypedMessageEvent<End>, open: DomEvent, error: DomEvent }

type EventMap<Events> = { [Name in keyof Events & string]: TypedMessageEvent<Events[Name]> } & Always

interface Listeners<Map> {
  addEventListener<Name extends keyof Map> (name: Name, listener: Listener<Map[Name]> | null, options?: ListenerOptions | boolean): void
  removeEventListener<Name extends keyof Map> (name: Name, listener: Listener<Map[Name]> | null, options?: ListenerOptions | boolean): void
  onmessage: ((event: 'message' extends keyof Map ? Map['message'] : never) => unknown) | null
}

interface ListenerOptions { once?: boolean, passive?: boolean, capture?: boolean, signal?: AbortSignal }
type Listener<Event> = ((event: Event) => unknown) | { handleEvent (event: Event): unknown }

/** An `EventSource` with the events of a channel: event name → data, as in `SseChannels`. The key `message` is an event without a name. */
export type TypedEventSource<Events> = Omit<DomEventSource, 'addEventListener' | 'removeEventListener' | 'onmessage'> & Listeners<EventMap<Events>>

/** What a server sends, by name: an event of a channel, a gap, an end. `type` tells them apart. */
type ServerEvents<Events, IsParsed> = {
  [Name in (keyof Events & string) | 'sse.gap' | 'sse.end']: {
    readonly type: Name
  } & (IsParsed extends true ? ParsedMessageEvent<DataOf<Events, Name>> : TypedMessageEvent<DataOf<Events, Name>>)
}
type DataOf<Events, Name> = Name extends 'sse.gap' ? Gap : Name extends 'sse.end' ? End : Name extends keyof Events ? Events[Name] : never

type ClientEvents<Events, IsParsed> = ServerEvents<Events, IsParsed> & { open: DomEvent, error: SseErrorEvent, status: SseStatusEvent }

/** What the class `SseClient` is to its user, see there. */
export interface ClientInterface<Events, IsParsed extends boolean> extends Listeners<ClientEvents<Events, IsParsed>>, AsyncIterable<ServerEvents<Events, IsParsed>[keyof ServerEvents<Events, IsParsed>]> {
  onopen: ((event: DomEvent) => unknown) | null
  onerror: ((event: SseErrorEvent) => unknown) | null
  onstatus: ((event: SseStatusEvent) => unknown) | null
  dispatchEvent (event: DomEvent): boolean
}
