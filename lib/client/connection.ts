import { createParser } from 'eventsource-parser'
import type { Failure, SseErrorCode } from './error.ts'

/** What one connection tells, in order; nothing after `failed`, and nothing after its signal aborted. */
export interface Sink {
  /** An answer of 200 with an event stream. `heartbeat`: ms as the server says, NaN where it does not; `origin`: after redirects. */
  opened (heartbeat: number, origin: string): void
  /** A block has ended that had an id; its event comes next, where it has one. */
  id (id: string): void
  event (type: string, data: string, hasId: boolean): void
  /** ms to wait before a connection is made again. */
  retry (ms: number): void
  /** All of the bytes that have come is told. */
  alive (): void
  /** The connection is over. `retryAfter`: ms from now. */
  failed (error: Failure, retryAfter?: number): void
}

/** One request. The headers are asked for here, so that each connection has its own. */
export interface Attempt {
  readonly url: string
  readonly init: RequestInit & { readonly signal: AbortSignal }
  readonly headers: () => HeadersLike | Promise<HeadersLike>
  readonly lastEventId: string
  readonly maxEventLength: number
  readonly fetch: typeof fetch
}

/** What `new Headers()` takes. */
export type HeadersLike = Headers | Record<string, string> | Array<[string, string]>

/** Makes the request and reads its answer to the end. Never rejects. */
export async function connect ({ url, init, headers: ask, lastEventId, maxEventLength, fetch }: Attempt, sink: Sink): Promise<void> {
  const { signal } = init
  let isOver = false
  let status = 0
  const fail = (code: SseErrorCode, message: string, cause?: unknown, retryAfter?: number): void => {
    if (isOver || signal.aborted) return
    isOver = true
    sink.failed({ code, status, message, cause }, retryAfter)
  }
  let step: SseErrorCode = 'headers'
  try {
    // In a turn of its own: who makes a client has time to add listeners, and to close it again.
    const given = await Promise.resolve().then(() => signal.aborted ? {} : ask())
    step = 'request'
    const headers = new Headers(given)
    if (!headers.has('accept')) headers.set('accept', 'text/event-stream')
    // Header values are bytes: the id goes as UTF-8, as EventSource sends it.
    if (lastEventId !== '') headers.set('last-event-id', String.fromCharCode(...new TextEncoder().encode(lastEventId)))
    const whole: RequestInit = { ...init, headers, cache: 'no-store' }
    // fetch() would reject as it does for a network failure, and that would be tried again for ever.
    if (!/^(https?|blob|data):/.test(url)) throw new TypeError(`no scheme to fetch: ${url}`)
    new Request(url, { ...whole, body: init.body && '' }) // eslint-disable-line no-new
    if (signal.aborted) return
    step = 'network'
    const response = await fetch(url, whole)
    status = response.status
    const type = response.headers.get('content-type') ?? 'no content-type'
    const body = response.body
    if (status === 204) return fail('ended', 'the server answered 204')
    if (status !== 200) return fail('status', `the server answered ${status}`, undefined, readRetryAfter(response.headers.get('retry-after')))
    if (!/^text\/event-stream *(;|$)/i.test(type) || !body) return fail('type', `the server answered with ${type}`)
    step = 'cut'
    if (signal.aborted) return
    sink.opened(Number(response.headers.get('sse-heartbeat') ?? NaN), new URL(response.url || url).origin)
    await read(body.getReader(), sink, signal, maxEventLength, () => fail('size', `an event is longer than ${maxEventLength} characters`))
    fail('ended', 'the server ended the response')
  } catch (error) {
    fail(step, String(error), error)
  }
}

async function read (reader: ReadableStreamDefaultReader<Uint8Array>, sink: Sink, signal: AbortSignal, maxBufferSize: number, tooLong: () => void): Promise<void> {
  const isHeard = (): boolean => !signal.aborted
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true }) // the parser takes one, and the standard says one
  const parser = createParser({
    maxBufferSize,
    onId: id => isHeard() && sink.id(id),
    onEvent: ({ event = 'message', data, id }) => isHeard() && sink.event(event, data, id !== undefined),
    onRetry: ms => isHeard() && sink.retry(ms),
    onError: error => error.type === 'max-buffer-size-exceeded' && tooLong()
  })
  for (;;) {
    const { done, value } = await reader.read()
    if (done || !isHeard()) return
    parser.feed(decoder.decode(value, { stream: true }))
    if (!isHeard()) return
    sink.alive()
  }
}

/** ms from now, of seconds or a date. */
function readRetryAfter (value: string | null): number | undefined {
  if (value === null) return undefined
  const ms = /^\d+$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now()
  return ms >= 0 ? ms : undefined
}
