import { SseErrorEvent, type Failure } from './error.ts'
import type { ClientInterface } from './events.ts'
import { resolve, type SseClientOptions } from './options.ts'
import { Reconnector } from './reconnector.ts'
import type { Signal, Source, SseStatus } from './signal.ts'
import { SseStatusEvent } from './status-event.ts'

const READY_STATES = { CONNECTING: 0, OPEN: 1, CLOSED: 2 } as const
const HANDLERS = ['open', 'message', 'error', 'status'] as const

type Handler = ((event: any) => unknown) | null

/** Events that wait for one `for await`. */
interface Reader { readonly events: Event[], wake: () => void }

class Client extends EventTarget {
  readonly url: string
  readonly withCredentials: boolean
  status: SseStatus = 'connecting'
  readonly #parse: SseClientOptions['parse']
  readonly #signal: AbortSignal | undefined
  readonly #source: Source
  readonly #handlers: Record<string, Handler> = {}
  readonly #readers = new Set<Reader>()
  #error: Failure | undefined

  static {
    for (const target of [this, this.prototype]) {
      for (const [name, value] of Object.entries(READY_STATES)) Object.defineProperty(target, name, { value, enumerable: true })
    }
    for (const name of HANDLERS) {
      Object.defineProperty(this.prototype, `on${name}`, {
        enumerable: true,
        configurable: true,
        get (this: Client) { return this.#handlers[name] ?? null },
        set (this: Client, handler: unknown) {
          if (!(name in this.#handlers)) this.addEventListener(name, event => this.#handlers[name]?.call(this, event))
          this.#handlers[name] = typeof handler === 'function' ? handler as Handler : null
        }
      })
    }
  }

  constructor (url: string | URL, options: SseClientOptions = {}) {
    super()
    const settings = resolve(url, options)
    this.url = settings.url
    this.withCredentials = settings.init.credentials === 'include'
    this.#parse = options.parse
    this.#signal = options.signal
    this.#source = new Reconnector(settings, settings.lastEventId, signal => this.#hear(signal))
    this.#signal?.addEventListener('abort', this.#abort)
    if (this.#signal?.aborted) this.close()
  }

  get readyState (): 0 | 1 | 2 {
    return this.status === 'open' ? READY_STATES.OPEN : this.status === 'closed' ? READY_STATES.CLOSED : READY_STATES.CONNECTING
  }

  get lastEventId (): string {
    return this.#source.lastEventId
  }

  close (): void {
    this.#source.close()
  }

  async * [Symbol.asyncIterator] (): AsyncGenerator<Event, void, undefined> {
    const reader: Reader = { events: [], wake () {} }
    this.#readers.add(reader)
    try {
      for (;;) {
        while (reader.events.length > 0) yield reader.events.shift()!
        if (this.status === 'closed') break
        await new Promise<void>(resolve => { reader.wake = resolve })
      }
    } finally {
      this.#readers.delete(reader)
    }
    if (this.#error && this.#error.code !== 'ended') throw Object.assign(new Error(this.#error.message), this.#error)
  }

  readonly #abort = (): void => this.close()

  #hear (signal: Signal): void {
    if (this.status === 'closed') return
    if (signal.kind === 'event') this.#fire(signal)
    else if (signal.kind === 'status') {
      const { status, until, error } = signal
      this.status = status
      if (status === 'closed') {
        this.#error = error
        this.#signal?.removeEventListener('abort', this.#abort)
        for (const { wake } of this.#readers) wake()
      }
      this.dispatchEvent(new SseStatusEvent(status, until, error))
      // A listener may have closed it.
      if (status === 'open' && this.status === status) this.dispatchEvent(new Event('open'))
      if (error && this.status === status) this.dispatchEvent(new SseErrorEvent(error))
    }
  }

  #fire ({ type, data: text, origin, lastEventId }: Signal & { kind: 'event' }): void {
    let data: unknown = text
    try {
      if (this.#parse) data = type === 'sse.gap' || type === 'sse.end' ? JSON.parse(text) : this.#parse(text, type)
    } catch (cause) {
      this.dispatchEvent(new SseErrorEvent({ code: 'parse', status: 0, message: `data of ${type}: ${cause}`, cause }))
      return
    }
    const event = new MessageEvent(type, { data, origin, lastEventId })
    for (const reader of this.#readers) {
      reader.events.push(event)
      reader.wake()
    }
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
  new <Events = any> (url: string | URL, options?: SseClientOptions & { parse?: undefined }): SseClient<Events>
}

// eslint-disable-next-line @typescript-eslint/no-redeclare
export const SseClient = Client as unknown as SseClientConstructor
