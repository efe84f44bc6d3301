/** What must, and must not, type-check in a page. `npm run typecheck` is the test. */
import type { GapReason, SseChannels } from 'fastify-sse-channels'
import { SseClient, type Gap, type ParsedData, type SseErrorEvent, type SseStatusEvent, type TypedEventSource } from 'fastify-sse-channels/client'

declare module 'fastify-sse-channels' {
  interface SseChannels {
    'page-time': { tick: { n: number, at: Date }, name: 'winter' | 'summer', message: string, list: Array<{ at: Date }>, nothing: null, anything: any }
  }
}

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const same = <A, B>(..._: Same<A, B> extends true ? [] : ['not the same', A, B]): void => {}

// A page's own EventSource is one, with no cast; a cast works too.
export const source: TypedEventSource<SseChannels['page-time']> = new EventSource('/events', { withCredentials: true })
export const cast = new EventSource('/events') as TypedEventSource<SseChannels['page-time']>

source.addEventListener('tick', event => {
  same<typeof event.data, string>()
  same<typeof event.lastEventId, string>()
  same<ParsedData<typeof event>, { n: number, at: string }>()
  // @ts-expect-error data is text
  event.data.n.toFixed()
  const { n } = JSON.parse(event.data) as ParsedData<typeof event>
  n.toFixed()
  // It is the page's MessageEvent, with all that this has.
  const plain: MessageEvent = event
  plain.preventDefault()
})
source.addEventListener('name', event => same<typeof event.data, 'winter' | 'summer'>(), { once: true })
source.addEventListener('list', event => same<ParsedData<typeof event>, Array<{ at: string }>>())
source.addEventListener('anything', event => same<ParsedData<typeof event>, any>())
source.addEventListener('message', event => same<typeof event.data, string>())
source.onmessage = event => same<typeof event.data, string>()
source.onmessage = null

source.addEventListener('sse.gap', event => {
  same<ParsedData<typeof event>, Gap>()
  const { reason, channels } = JSON.parse(event.data) as ParsedData<typeof event>
  const why: GapReason = reason
  why.startsWith('r')
  channels.includes('page-time')
})
source.addEventListener('open', event => same<typeof event, Event>())
source.addEventListener('error', () => source.readyState === EventSource.CLOSED && source.close())
source.onerror = null

// @ts-expect-error an event that the channel does not have
source.addEventListener('tock', () => {})
// @ts-expect-error an event that the channel does not have
source.removeEventListener('tock', () => {})
// @ts-expect-error a listener of other data
source.addEventListener('name', (event: { data: 'spring' }) => event)

// One listener for several events; two channels on one stream; events that the stream alone sends.
const listener = (event: { data: string }): string => event.data
source.addEventListener('tick', listener)
source.removeEventListener('tick', listener)
export const both: TypedEventSource<{ a: 1 } & { b: { c: 2 } } & { state: string[] }> = new EventSource('/both')
both.addEventListener('b', event => same<ParsedData<typeof event>, { c: 2 }>())
both.addEventListener('state', event => same<ParsedData<typeof event>, string[]>())
// @ts-expect-error no event of these channels is without a name
both.onmessage = event => event.data

same<Gap['reason'], GapReason>()

// The client is an EventSource to its user: text, unless there is a parse.
const text = new SseClient<SseChannels['page-time']>('/events')
text.addEventListener('tick', event => {
  same<typeof event.data, string>()
  same<ParsedData<typeof event>, { n: number, at: string }>()
})
text.onerror = event => same<typeof event, SseErrorEvent>()
text.onstatus = event => same<typeof event, SseStatusEvent>()
text.addEventListener('sse.end', event => same<ParsedData<typeof event>, { readonly reason: string, readonly channels: readonly string[] }>())
// @ts-expect-error an event that the channel does not have
text.addEventListener('tock', () => {})

const data = new SseClient<SseChannels['page-time']>('/events', { parse: JSON.parse })
data.addEventListener('tick', event => same<typeof event.data, { n: number, at: string }>())
data.addEventListener('sse.gap', { handleEvent: event => event.data.channels.includes('page-time') })
data.onmessage = event => same<typeof event.data, string>()
export async function read (): Promise<void> {
  for await (const event of new SseClient<{ tick: { n: number }, name: 'winter' }>('/events', { parse: JSON.parse })) {
    if (event.type === 'tick') event.data.n.toFixed()
    // @ts-expect-error another event may have come
    event.data.n.toFixed()
    if (event.type === 'sse.gap') event.data.reason.startsWith('r')
    const plain: Pick<MessageEvent, 'lastEventId'> = event
    plain.lastEventId.toString()
  }
}

// Each is an EventTarget, as an EventSource is: it goes to whatever takes one.
export const targets: EventTarget[] = [text, data, source]

// Any event, where none is named.
const any = new SseClient('/events')
any.addEventListener('whatever', event => event.data.anything)
any.onmessage = event => event.data.anything
export const target: EventTarget = any
// @ts-expect-error no such option
export const wrong = new SseClient('/events', { heartbeat: 1 })
