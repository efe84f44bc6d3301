import type { Failure } from './error.ts'
import type { PageEvent } from './page.ts'

/**
 * Where a client stands with its connection. `failures` counts those in a row, `error` is why it left the state before;
 * times are milliseconds since the epoch.
 */
export type State =
  /** A request is made, or its answer awaited. `asked`: onUnauthorized has been asked since a connection was open. */
  | { readonly name: 'connecting', readonly failures: number, readonly asked: boolean }
  | { readonly name: 'open', readonly failures: number, readonly since: number }
  /** onUnauthorized is at work. */
  | { readonly name: 'asking', readonly failures: number, readonly error: Failure }
  /** The next try is at `until`, or sooner if the page is called, unless it is `held` by a Retry-After. `offline`: the page believes that there is no network. */
  | { readonly name: 'waiting' | 'offline', readonly failures: number, readonly asked: boolean, readonly until: number, readonly held: boolean, readonly error: Failure }
  /** The page is frozen, or in the back/forward cache. */
  | { readonly name: 'paused' }
  | { readonly name: 'closed', readonly error?: Failure }

/** What can happen. */
export type Input =
  | { readonly type: 'opened' }
  /** `retryAfter`: ms, as the answer said; NaN, or less than 0, where it did not. */
  | { readonly type: 'failed', readonly error: Failure, readonly retryAfter: number }
  /** The time to wait is over. */
  | { readonly type: 'due' }
  /** What onUnauthorized answered, or threw. */
  | { readonly type: 'authorized', readonly isAuthorized?: boolean | undefined, readonly cause?: unknown }
  | { readonly type: PageEvent | 'close' }

/** All that counts beside: the same state, input and circumstances give the same state. */
export interface Circumstances {
  /** ms: the option retry. */
  readonly min: number
  readonly max: number
  /** ms: what the server said, or the default. */
  readonly retry: number
  /** There is an onUnauthorized. */
  readonly canAsk: boolean
  /** The request may be made again: it changes nothing, or the server gave an id to resume by. */
  readonly canRepeat: boolean
  /** What the page believes. */
  readonly isOnline: boolean
  readonly isVisible: boolean
  /** ms since the epoch. */
  readonly now: number
  /** From 0 to 1. */
  readonly random: number
}

const START = { name: 'connecting', failures: 0, asked: false } as const

/** The state of a new client. */
export const initial: State = START

/** The state after an input: the same object where nothing changes. */
export function next (state: State, input: Input, given: Circumstances): State {
  const { type } = input
  if (state.name === 'closed') return state
  if (type === 'close') return { name: 'closed' }
  // What cannot be made again is better kept: the browser may still cut it.
  if (type === 'pagehide' || type === 'freeze') return state.name === 'paused' || !given.canRepeat ? state : { name: 'paused' }
  if (state.name === 'paused') return type === 'pageshow' || type === 'resume' ? START : state
  if (state.name === 'asking') {
    if (type !== 'authorized') return state
    return input.isAuthorized ? { ...START, failures: state.failures, asked: true } : { name: 'closed', error: { ...state.error, cause: input.cause } }
  }
  if (state.name === 'connecting') {
    if (type === 'opened') return { name: 'open', failures: state.failures, since: given.now }
    return type === 'failed' ? failed(state.failures, state.asked, input, given) : state
  }
  if (state.name === 'open') {
    // On another network the old connection is dead, and nothing would tell before long.
    if (type === 'online' && given.canRepeat) return START
    if (type !== 'failed') return state
    // Connections that end as soon as they are open are failures too; one that lasted starts the count anew.
    const hasLasted = given.now - state.since >= least(given)
    return failed(hasLasted ? (input.error.code === 'ended' ? -1 : 0) : state.failures, false, input, given)
  }
  const { failures, asked, held } = state
  const isCalled = type === 'online' || (type === 'visibilitychange' && given.isVisible)
  if (type === 'due' || (isCalled && !held)) return { name: 'connecting', failures, asked }
  const name = type === 'online' ? 'waiting' : type === 'offline' ? type : state.name
  return name === state.name ? state : { ...state, name }
}

function failed (before: number, asked: boolean, { error, retryAfter }: Input & { type: 'failed' }, given: Circumstances): State {
  const failures = before + 1
  const { code, status } = error
  if (/^40[13]$/.test(`${status}`) && given.canAsk && !asked) return { name: 'asking', failures, error }
  const isFinal = code === 'status' ? !/^(408|429|5..)$/.test(`${status}`) : status === 204 || /type|request|size/.test(code)
  // Where there are no headers, no request was made yet.
  if (isFinal || !(given.canRepeat || code === 'headers')) return { name: 'closed', error }
  // Never less than the server asked for, and random above that, up to twice as much after each failure: clients should not come back together.
  const spread = given.random * Math.max(0, Math.min(given.max, least(given) * 2 ** Math.min(failures, 99)) - least(given)) // 2 ** 1024 is Infinity
  const held = retryAfter > 0
  const until = given.now + spread + (held ? Math.max(given.min, retryAfter) : least(given))
  return { name: given.isOnline ? 'waiting' : 'offline', failures, asked, until, held, error }
}

/** ms: the shortest wait. What the server asks for stands above the option `max`. */
function least ({ min, retry }: Circumstances): number {
  return Math.max(min, retry)
}
