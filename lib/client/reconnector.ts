import { connect, type Sink } from './connection.ts'
import type { Failure } from './error.ts'
import { DEFAULT_RETRY, MISSED_HEARTBEATS, type Settings } from './options.ts'
import { isOnline, watchPage } from './page.ts'
import type { Signal, Source } from './signal.ts'
import { initial, next, type Input, type State } from './state.ts'

/** setTimeout takes no more. */
const LONGEST = 2 ** 31 - 1
const STATUS = { connecting: 'connecting', asking: 'connecting', open: 'open', waiting: 'waiting', offline: 'offline', paused: 'paused', closed: 'closed' } as const

/** Keeps one connection, and makes it anew: does what the states ask for, and decides nothing itself. */
export class Reconnector implements Source {
  lastEventId: string
  readonly #settings: Settings
  readonly #tell: (signal: Signal) => void
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
  /** The lastEventId that was told. */
  #told: string
  /** The newest event says that no more will come. */
  #isThrough = false

  constructor (settings: Settings, lastEventId: string, tell: (signal: Signal) => void) {
    this.#settings = settings
    this.#tell = tell
    this.#inactivity = settings.inactivity
    this.#retry = Math.min(DEFAULT_RETRY, settings.max)
    this.lastEventId = this.#told = lastEventId
    watchPage(event => {
      // Timers sleep with a page that is hidden: see at once whether the connection does.
      if (event === 'shown') this.#watch()
      this.#go({ type: event, now: Date.now() })
    }, this.#life.signal)
    this.#connect()
  }

  close (): void {
    this.#go({ type: 'close' })
  }

  #go (input: Input): void {
    const { min, max, init, onUnauthorized } = this.#settings
    const old = this.#state
    const state = this.#state = next(old, input, {
      min,
      max,
      retry: this.#retry,
      canAsk: onUnauthorized !== undefined,
      canRepeat: init.method === 'GET' || init.method === 'HEAD' || this.lastEventId !== ''
    })
    if (state === old) return
    if (state.name !== 'open') {
      clearTimeout(this.#timer)
      this.#connection.abort()
    }
    let until: number | undefined
    if (state.name === 'connecting') this.#connect()
    else if (state.name === 'asking') this.#ask(state, state.error.status)
    else if (state.name === 'closed') this.#life.abort()
    else if (state.name === 'waiting' || state.name === 'offline') {
      until = state.until
      this.#wait(until)
    }
    // What onUnauthorized mends is no error to the user, and the same one is not told twice.
    const error = 'error' in state && state.name !== 'asking' && !(('error' in old) && old.error === state.error) ? state.error : undefined
    this.#tell({ kind: 'status', status: STATUS[state.name], until, error })
  }

  #wait (until: number): void {
    const ms = until - Date.now()
    this.#timer = setTimeout(() => ms > LONGEST ? this.#wait(until) : this.#go({ type: 'due' }), Math.min(ms, LONGEST))
  }

  #connect (): void {
    const { signal } = this.#connection = new AbortController()
    const { url, init, headers, maxEventLength, fetch } = this.#settings
    let origin = ''
    const sink: Sink = {
      opened: (heartbeat, from) => {
        origin = from
        this.#inactivity = this.#settings.inactivity ?? MISSED_HEARTBEATS * heartbeat
        this.#heard = Date.now()
        this.#go({ type: 'opened', now: this.#heard })
        this.#watch()
      },
      id: id => { this.lastEventId = id },
      event: (type, data, hasId) => {
        if (!hasId) this.#tellId()
        const previous = this.#told
        const lastEventId = this.#told = this.lastEventId
        this.#isThrough = type === 'sse.end'
        this.#tell({ kind: 'event', type, data, origin, lastEventId, previous })
      },
      retry: ms => { this.#retry = ms },
      alive: () => {
        this.#heard = Date.now()
        this.#tellId()
      },
      failed: (error, retryAfter) => {
        if (this.#isThrough && error.code === 'ended') this.close()
        else this.#fail(error, retryAfter)
      }
    }
    this.#heard = Date.now()
    this.#watch()
    connect({ url, init: { ...init, signal }, headers, lastEventId: this.lastEventId, maxEventLength, fetch }, sink)
  }

  #fail (error: Failure, retryAfter?: number): void {
    this.#go({ type: 'failed', error, now: Date.now(), random: Math.random(), retryAfter, isOnline: isOnline() })
  }

  /** A block with an id alone moves the position, and no event tells of it. */
  #tellId (): void {
    const previous = this.#told
    const lastEventId = this.#told = this.lastEventId
    if (lastEventId !== previous) this.#tell({ kind: 'id', lastEventId, previous })
  }

  #ask (asking: State, status: number): void {
    const answered = (isAuthorized: boolean, cause?: unknown): void => {
      if (this.#state === asking) this.#go({ type: 'authorized', isAuthorized, cause })
    }
    Promise.resolve(status).then(this.#settings.onUnauthorized).then(answer => answered(answer === true), cause => answered(false, cause))
  }

  /** Fails a connection that brought nothing for too long, and looks again when it could have. */
  #watch (): void {
    const { name } = this.#state
    if (!(this.#inactivity! > 0) || (name !== 'open' && name !== 'connecting')) return
    clearTimeout(this.#timer)
    const left = this.#heard + this.#inactivity! - Date.now()
    if (left > 0) this.#timer = setTimeout(() => this.#watch(), Math.min(left, LONGEST))
    else this.#fail({ code: 'inactivity', status: 0, message: `nothing came for ${this.#inactivity} ms` })
  }
}
