import type { Failure, SseErrorCode } from './error.ts'
import type { Settings } from './options.ts'
import { makeParser, type Told } from './parser.ts'

/** What one connection tells, in order; nothing after `failed`, and nothing after its signal aborted. */
export interface Sink extends Told {
  /** An answer of 200 with an event stream. `heartbeat`: ms as the server says, 0 or NaN where it does not; `origin`: after redirects. */
  opened (heartbeat: number, origin: string): void
  /** All of the bytes that have come is told. */
  alive (): void
  /** The connection is over. `retryAfter`: ms from now; NaN, or less than 0, where the answer does not say. */
  failed (error: Failure, retryAfter: number): void
}

/** Makes one request, with headers of its own, and reads its answer to the end. Never rejects. */
export async function connect ({ url, init, headers: ask, maxEventLength, fetch }: Settings, lastEventId: string, signal: AbortSignal, sink: Sink): Promise<void> {
  /** What has failed if anything throws now. */
  let code: SseErrorCode = 'headers'
  let status = 0
  let retryAfter = NaN
  /** A listener may have closed the client while there was more to tell. */
  const unlessClosed = <Args extends unknown[]>(tell: (...args: Args) => void) => (...args: Args): void => {
    signal.throwIfAborted()
    tell(...args)
  }
  const parse = makeParser({
    id: unlessClosed(sink.id),
    event: unlessClosed(sink.event),
    retry: unlessClosed(sink.retry),
    comment: unlessClosed(sink.comment)
  }, maxEventLength)
  try {
    // In a turn of its own: who makes a client has time to add listeners, and to close it again.
    await null
    signal.throwIfAborted()
    const given = await ask()
    // A `fetch` of one's own need not look at the signal before it sends.
    signal.throwIfAborted()
    code = 'request'
    const headers = new Headers(given)
    if (!headers.has('accept')) headers.set('accept', 'text/event-stream')
    // Header values are bytes: the id goes as UTF-8, as EventSource sends it.
    if (lastEventId) headers.set('last-event-id', String.fromCharCode(...new TextEncoder().encode(lastEventId)))
    const whole: RequestInit = { ...init, headers, signal, cache: 'no-store' }
    // fetch() would reject as it does for a network failure, and that would be tried again for ever.
    if (!/^https?:/.test(url)) throw new TypeError(`cannot fetch ${url}`)
    new Request(url, { ...whole, body: init.body === null ? null : '' }) // eslint-disable-line no-new
    code = 'network'
    const response = await fetch(url, whole)
    const header = (name: string): string => response.headers.get(name) ?? ''
    status = response.status
    const after = header('retry-after')
    retryAfter = /^\d+$/.test(after) ? +after * 1_000 : Date.parse(after) - Date.now()
    const type = header('content-type')
    code = status === 204 ? 'ended' : status !== 200 ? 'status' : /^text\/event-stream *(;|$)/i.test(type) ? 'cut' : 'type'
    if (code !== 'cut') throw new Error(`answered ${status} ${type}`)
    signal.throwIfAborted()
    sink.opened(+header('sse-heartbeat'), new URL(response.url || url).origin)
    // Without a body (HEAD, or a `fetch` of one's own) there is nothing to read.
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
    for (;;) {
      const { done, value } = await reader?.read() ?? { done: true, value: undefined }
      signal.throwIfAborted()
      if (done) {
        code = 'ended'
        throw new Error('response ended')
      }
      if (!parse(value)) {
        code = 'size'
        throw new Error(`a line or event is longer than maxEventLength, ${maxEventLength}`)
      }
      sink.alive()
    }
  } catch (cause) {
    // Anything can be thrown, also what cannot be made a string.
    if (!signal.aborted) sink.failed({ code, status, message: (cause as Error | null)?.message ?? code, cause }, retryAfter)
  }
}
