/** What `new Headers()` takes. */
export type HeadersLike = Headers | Record<string, string> | Array<[string, string]>

/** ms between the end of a connection and the next try, until the server has said its `retry`. */
export const DEFAULT_RETRY = 3_000
/** ms: see `retry` in the options. */
const DEFAULT_RETRY_MIN = 100
const DEFAULT_RETRY_MAX = 60_000
/** Characters: four times what the plugin sends at its own default. */
const DEFAULT_MAX_EVENT_LENGTH = 4 * 1024 * 1024
/** A connection is dead that has missed this many heartbeats. */
export const MISSED_HEARTBEATS = 3

/** What `new SseClient(url, options)` takes. Each has a default. */
export interface SseClientOptions {
  /** Headers of each request, or a function that gives them: it is asked anew for each connection. If it throws, the client waits and asks again. @default {} */
  headers?: HeadersLike | (() => HeadersLike | Promise<HeadersLike>) | undefined
  /** @default 'GET', with a `body` 'POST'. What is neither GET nor HEAD is made again only once the server has sent an id. */
  method?: string | undefined
  /** The body of each request. A stream can be sent only once: use a string or bytes. @default none */
  body?: RequestInit['body'] | undefined
  /** As for `fetch`. @default 'same-origin' */
  credentials?: RequestInit['credentials'] | undefined
  /** As EventSource has it: `true` is `credentials: 'include'`. @default false */
  withCredentials?: boolean | undefined
  /** Closes the client when it aborts. @default none */
  signal?: AbortSignal | undefined
  /** Where to resume from: sent as `Last-Event-ID` with the first request. `null`, as a storage gives it that has none, is none. @default '' (nothing is sent) */
  lastEventId?: string | null | undefined
  /**
   * ms. A try waits for what the server said (`retry:`, else 3,000 or `max`), and after n failures in a row for up to 2^n times that,
   * chosen at random. `min`: never less. `max`: never more, unless the server asks for more. @default { min: 100, max: 60_000 }
   */
  retry?: { min?: number | undefined, max?: number | undefined } | undefined
  /** ms without a byte after which a connection is dead; heartbeats are bytes. 0: never. @default 3 x the header `sse-heartbeat` of the response; without that header, never */
  inactivity?: number | undefined
  /** Characters of the longest line or event. A longer one closes the client, as it would come again. @default 4 Mi */
  maxEventLength?: number | undefined
  /** Called once for an answer of 401 or 403, to sign in anew. What it resolves with says whether to try again; a second refusal in a row closes the client. @default none: the client closes */
  onUnauthorized?: ((status: number) => boolean | Promise<boolean>) | undefined
  /** Makes `event.data` of the text, `JSON.parse` for example; `type` is the event's name. Not asked for `sse.gap` and `sse.end`, which are JSON always. @default data is text */
  parse?: ((data: string, type: any) => any) | undefined // any: JSON.parse has another second parameter
  /** One connection for all tabs of this origin that ask for the same url with `share`. Needs Web Locks and BroadcastChannel; without them each tab has its own, and so has one with another method than GET or HEAD. @default false */
  share?: boolean | undefined
  /** What makes the requests. @default the global fetch */
  fetch?: typeof fetch | undefined
}

/** Options with their defaults, checked. */
export interface Settings {
  readonly url: string
  readonly init: RequestInit & { readonly method: string, readonly body: NonNullable<RequestInit['body']> | null }
  /** GET or HEAD: the request changes nothing, so whoever makes it may make it again, and for others. */
  readonly isSafe: boolean
  readonly headers: () => HeadersLike | Promise<HeadersLike>
  readonly lastEventId: string
  readonly min: number
  readonly max: number
  /** ms; undefined: as the server says. */
  readonly inactivity: number | undefined
  readonly maxEventLength: number
  readonly onUnauthorized: SseClientOptions['onUnauthorized']
  readonly fetch: typeof fetch
}

/** Throws a DOMException `SyntaxError` for a url that is none, as EventSource does, and a TypeError for a number that is out of range. */
export function resolve (url: string | URL, options: SseClientOptions): Settings {
  const {
    headers = {}, body = null, method = body === null ? 'GET' : 'POST', credentials = options.withCredentials ? 'include' : 'same-origin',
    retry: { min = DEFAULT_RETRY_MIN, max = DEFAULT_RETRY_MAX } = {}, maxEventLength = DEFAULT_MAX_EVENT_LENGTH, lastEventId, inactivity
  } = options
  for (const [name, value] of Object.entries({ min, max, inactivity: inactivity ?? 0, maxEventLength })) {
    if (!(value >= 0)) throw new TypeError(`option ${name} must be >= 0, got ${value}`)
  }
  const { document, location } = globalThis as { document?: { baseURI: string }, location?: { href: string } }
  try {
    url = new URL(url, document?.baseURI ?? location?.href).href
  } catch {
    throw new DOMException(`not a url: ${url}`, 'SyntaxError')
  }
  const init = { method: method.toUpperCase(), body, credentials }
  return {
    url,
    init,
    isSafe: /^(GET|HEAD)$/.test(init.method),
    headers: typeof headers === 'function' ? headers : () => headers,
    lastEventId: lastEventId ?? '',
    min,
    max,
    inactivity,
    maxEventLength,
    onUnauthorized: options.onUnauthorized,
    fetch: options.fetch ?? fetch
  }
}
