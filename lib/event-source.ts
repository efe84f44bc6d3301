/**
 * Types for the page, no code: listeners of an `EventSource` know the events of a channel. Nothing here needs Node's
 * types or Fastify's.
 *
 * ```ts
 * import type { ParsedData, TypedEventSource } from 'fastify-sse-channels/browser'
 *
 * const source: TypedEventSource<{ tick: { n: number } }> = new EventSource('/events')
 * source.addEventListener('tick', event => {
 *   const { n } = JSON.parse(event.data) as ParsedData<typeof event>
 * })
 * ```
 */

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

type Json<Data> = 0 extends 1 & Data ? Data
  : Data extends { toJSON (...args: any[]): infer Made } ? Made
    : Data extends object ? { [Key in keyof Data]: Json<Data[Key]> } : Data

/** The data of the gap event, which any stream may get. */
export interface Gap {
  readonly reason: 'expired' | 'unknown' | 'reset' | 'overrun'
  readonly channels: readonly string[]
}

/** What an `EventSource` can fire, whatever it subscribes to. */
interface Always { 'sse.gap': TypedMessageEvent<Gap>, open: DomEvent, error: DomEvent }

type EventMap<Events> = { [Name in keyof Events & string]: TypedMessageEvent<Events[Name]> } & Always

interface Listeners<Map> {
  addEventListener<Name extends keyof Map> (name: Name, listener: (event: Map[Name]) => unknown, options?: ListenerOptions | boolean): void
  removeEventListener<Name extends keyof Map> (name: Name, listener: (event: Map[Name]) => unknown, options?: ListenerOptions | boolean): void
  onmessage: ((event: Map extends { message: infer Message } ? Message : never) => unknown) | null
}

interface ListenerOptions { once?: boolean, passive?: boolean, capture?: boolean }

/** An `EventSource` with the events of a channel: event name → data, as in `SseChannels`. The key `message` is an event without a name. */
export type TypedEventSource<Events> = Omit<DomEventSource, 'addEventListener' | 'removeEventListener' | 'onmessage'> & Listeners<EventMap<Events>>
