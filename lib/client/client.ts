import { SseErrorEvent, type Failure } from './error.ts'
import type { ClientInterface } from './events.ts'
import { resolve, type SseClientOptions } from './options.ts'
import { watchPage } from './page.ts'
import { Reconnector } from './reconnector.ts'
import type { Shared } from './shared.ts'
import type { Signal, Source, SseStatus } from './signal.ts'
import { SseStatusEvent } from './status-event.ts'

type Handler = ((this: unknown, event: any) => unknown) | null

class Client extends EventTarget {
  readonly url: string
  readonly withCredentials: boolean
  lastEventId: string
  status: SseStatus = 'connecting'
  onopen: Handler = null
  onmessage: Handler = null
  onerror: Handler = null
  onstatus: Handler = null
  readonly #parse: SseClientOptions['parse']
  readonly #life = new AbortController()
  /** Undefined while it is being loaded. */
  #source: Source | undefined
  /** One for each `for await`: takes an event, or looks whether the client has closed. */
  readonly #readers = new Set<(event?: Event) => void>()
  #error: Failure | undefined

  static {
    for (const target of [this, this.prototype]) Object.assign(target, { CONNECTING: 0, OPEN: 1, CLOSED: 2 })
  }

  constructor (url: string | URL, options: SseClientOptions = {}) {
    super()
    for (const name of ['open', 'message', 'error', 'status'] as const) {
      this.addEventListener(name, event => {
        const handler: unknown = this[`on${name}`]
        if (typeof handler === 'function') handler.call(this, event)
      })
    }
    const settings = resolve(url, options)
    this.url = settings.url
    this.withCredentials = settings.init.credentials === 'include'
    this.#parse = options.parse
    this.lastEventId = settings.lastEventId
    const connect = (From: typeof Reconnector | typeof Shared): void => {
      if (this.status !== 'closed') this.#source = new From(settings, signal => this.#hear(signal), Reconnector, watchPage)
    }
    // Who shares nothing need not load what sharing takes. If it cannot be loaded, there is a connection all the same.
    // A POST is not shared: its answer is to its own body, and a new leader would make it again.
    if (options.share && settings.isSafe) import('./shared.ts').then(({ Shared }) => connect(Shared), () => connect(Reconnector))
    else connect(Reconnector)
    const { signal } = options
    signal?.addEventListener('abort', () => this.close(), { signal: this.#life.signal })
    if (signal?.aborted) this.close()
  }

  get readyState (): 0 | 1 | 2 {
    return this.status === 'open' ? 1 : this.status === 'closed' ? 2 : 0
  }

  close (): void {
    this.#source?.close()
    this.#hear({ kind: 'status', status: 'closed' }) // where it is still being loaded
  }

  async * [Symbol.asyncIterator] (): AsyncGenerator<Event, void, undefined> {
    const events: Event[] = []
    let wake = (): void => {}
    const read = (event?: Event): void => {
      if (event) events.push(event)
      wake()
    }
    this.#readers.add(read)
    try {
      for (;;) {
        while (events.length > 0) yield events.shift()!
        if (this.status === 'closed') break
        await new Promise<void>(resolve => { wake = resolve })
      }
    } finally {
      this.#readers.delete(read)
    }
    if (this.#error && this.#error.code !== 'ended') throw Object.assign(new Error(this.#error.message), this.#error)
  }

  #hear (signal: Signal): void {
    if (this.status === 'closed') return
    if (signal.kind !== 'status') {
      this.lastEventId = signal.lastEventId
      if (signal.kind === 'event') this.#fire(signal)
    } else {
      const { kind, ...standing } = signal
      const { status, error } = standing
      this.status = status
      if (status === 'closed') {
        this.#error = error
        this.#life.abort()
        for (const read of this.#readers) read()
      }
      this.dispatchEvent(new SseStatusEvent(standing))
      // A listener may have closed it.
      if (status === 'open' && this.status === status) this.dispatchEvent(new Event('open'))
      if (error && this.status === status) this.dispatchEvent(new SseErrorEvent(error))
    }
  }

  #fire ({ type, data: text, origin, lastEventId }: Signal & { kind: 'event' }): void {
    let data: unknown = text
    let failure: Failure | undefined
    try {
      if (this.#parse) data = type === 'sse.gap' || type === 'sse.end' ? JSON.parse(text) : this.#parse(text, type)
    } catch (cause) {
      failure = { code: 'parse', status: 0, message: `${type}: ${(cause as Error | null)?.message}`, cause }
    }
    // parse may have closed it.
    if (this.status === 'closed') return
    const event = failure ? new SseErrorEvent(failure) : new MessageEvent(type, { data, origin, lastEventId })
    if (!failure) for (const read of this.#readers) read(event)
    this.dispatchEvent(event)
  }
}

/**
 * An EventSource that comes back: the same interface, and it survives what makes an `EventSource` give up (429, 502,
 * 503), sends headers, notices dead connections, and says what it is doing. For pages, workers, Node, and whatever else
 * has `fetch`.
 *
 * `data` is text as in an EventSource, unless there is an option `parse`.
 */
export interface SseClient<Events = any, IsParsed extends boolean = false> extends ClientInterface<Events, IsParsed> {
  /** The url that was asked for, in full. */
  readonly url: string
  /** Whether `credentials` is `include`. */
  readonly withCredentials: boolean
  /** 0: connecting, or waiting for the next try. 1: open. 2: closed for good. */
  readonly readyState: 0 | 1 | 2
  /** What `readyState` says, in more detail; a `status` event tells of each change. */
  readonly status: SseStatus
  /** The newest id that came, with an event or alone: hand it to a client that is to go on from here. '' before there is one. */
  readonly lastEventId: string
  readonly CONNECTING: 0
  readonly OPEN: 1
  readonly CLOSED: 2
  /** Ends the connection and all tries, for good. Again: nothing. Fires `status`, and no other event. */
  close (): void
}

/** Makes a client, which connects at once. */
export interface SseClientConstructor {
  readonly CONNECTING: 0
  readonly OPEN: 1
  readonly CLOSED: 2
  readonly prototype: SseClient
  /** Throws a DOMException `SyntaxError` for a url that is none, and a TypeError for a number that is out of range. What else is wrong comes as an `error` event. */
  new <Events = any> (url: string | URL, options: SseClientOptions & { parse: NonNullable<SseClientOptions['parse']> }): SseClient<Events, true>
  new <Events = any> (url: string | URL, options?: SseClientOptions): SseClient<Events>
}

// eslint-disable-next-line @typescript-eslint/no-redeclare
export const SseClient = Client as unknown as SseClientConstructor
