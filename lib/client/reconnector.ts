import { connect, type Sink } from './connection.ts'
import type { Failure } from './error.ts'
import { DEFAULT_RETRY, MISSED_HEARTBEATS, type Settings } from './options.ts'
import { lookAtPage, watchPage } from './page.ts'
import type { Signal, Source } from './signal.ts'
import { initial, next, type Input, type State } from './state.ts'

/** setTimeout takes no more. */
const LONGEST = 2 ** 31 - 1

/** Keeps one connection, and makes it anew: does what the states ask for, and decides nothing itself. */
export class Reconnector implements Source {
  readonly #settings: Settings
  readonly #tell: (signal: Signal) => void
  #lastEventId: string
  #state: State = initial
  /** Ends with the client. */
  readonly #life = new AbortController()
  /** Ends with each connection. */
  #connection = new AbortController()
  #timer: ReturnType<typeof setTimeout> | undefined
  /** ms, as the server said. */
  #retry: number
  #inactivity: number | undefined
  /** When bytes came. */
  #heard = 0
  /** The newest that came is `sse.end`: if the response ends now, nothing will come any more. Whatever comes after it is of a channel that goes on. */
  #isThrough = false

  constructor (settings: Settings, tell: (signal: Signal) => void) {
    this.#settings = settings
    this.#tell = tell
    this.#inactivity = settings.inactivity
    this.#retry = Math.min(DEFAULT_RETRY, settings.max)
    this.#lastEventId = settings.lastEventId
    watchPage(type => {
      // Timers sleep with a page that is hidden: see at once whether the connection is dead.
      this.#watch()
      this.#go({ type })
    }, this.#life.signal)
    this.#connect()
  }

  close (): void {
    this.#go({ type: 'close' })
  }

  #go (input: Input): void {
    const old = this.#state
    const state = this.#state = next(old, input, {
      ...this.#settings,
      retry: this.#retry,
      canAsk: !!this.#settings.onUnauthorized,
      canRepeat: !!this.#lastEventId || this.#settings.isSafe,
      ...lookAtPage(),
      now: Date.now(),
      random: Math.random()
    })
    if (state === old) return
    if (state.name !== 'open') {
      clearTimeout(this.#timer)
      this.#connection.abort()
    }
    const { until, error } = state as { until?: number, error?: Failure }
    const isAsking = state.name === 'asking'
    if (state.name === 'connecting') this.#connect()
    else if (isAsking) this.#ask(state.error.status)
    else if (state.name === 'closed') this.#life.abort()
    else if (until) this.#timer = setTimeout(() => this.#go({ type: 'due' }), Math.min(until - Date.now(), LONGEST))
    // What onUnauthorized mends is no error to the user, and the same one is not told twice.
    this.#tell({ kind: 'status', status: isAsking ? 'connecting' : state.name, until, error: isAsking || error === (old as { error?: Failure }).error ? undefined : error })
  }

  #connect (): void {
    const { signal } = this.#connection = new AbortController()
    let origin = ''
    const sink: Sink = {
      opened: (heartbeat, from) => {
        origin = from
        this.#inactivity = this.#settings.inactivity ?? MISSED_HEARTBEATS * heartbeat
        this.#go({ type: 'opened' })
        this.#hear()
      },
      id: id => {
        this.#isThrough = false
        this.#lastEventId = id
      },
      event: (type, data, hasId) => {
        this.#isThrough = type === 'sse.end'
        this.#tell({ kind: 'event', type, data, origin, hasId, lastEventId: this.#lastEventId })
      },
      retry: ms => {
        this.#isThrough = false
        this.#retry = Math.min(ms, LONGEST) // digits without end are Infinity
      },
      comment: () => { this.#isThrough = false },
      alive: () => {
        this.#heard = Date.now()
        this.#tell({ kind: 'id', lastEventId: this.#lastEventId })
      },
      failed: (error, retryAfter) => {
        if (this.#isThrough && error.code === 'ended') this.close()
        else this.#go({ type: 'failed', error, retryAfter })
      }
    }
    this.#hear()
    connect(this.#settings, this.#lastEventId, signal, sink)
  }

  #ask (status: number): void {
    const type = 'authorized'
    Promise.resolve(status).then(this.#settings.onUnauthorized).then(isAuthorized => this.#go({ type, isAuthorized }), cause => this.#go({ type, cause }))
  }

  #hear (): void {
    this.#heard = Date.now()
    this.#watch()
  }

  /** Fails a connection that brought nothing for too long, and looks again when it could have. */
  #watch (): void {
    const { name } = this.#state
    if (!(this.#inactivity! > 0) || (name !== 'open' && name !== 'connecting')) return
    clearTimeout(this.#timer)
    const left = this.#heard + this.#inactivity! - Date.now()
    if (left > 0) this.#timer = setTimeout(() => this.#watch(), Math.min(left, LONGEST))
    else this.#go({ type: 'failed', error: { code: 'inactivity', status: 0, message: `nothing for ${this.#inactivity} ms` }, retryAfter: NaN })
  }
}
