import type { Failure } from './error.ts'
import type { PageEvent } from './page.ts'

/**
 * Where a client stands with its connection. `failures` counts those in a row, `error` is why it left the state before;
 * times are milliseconds since the epoch.
 */
export type State =
  /** A request is made, or its answer awaited. `asked`: onUnauthorized has been asked since a connection was open. */
  | { readonly name: 'connecting', readonly failures: number, readonly asked: boolean, readonly error?: Failure }
  | { readonly name: 'open', readonly failures: number, readonly since: number }
  /** onUnauthorized is at work. */
  | { readonly name: 'asking', readonly failures: number, readonly error: Failure }
  /** The next try is at `until`; nothing brings it before `notBefore`. `offline`: the page knows itself without a network, but may be wrong. */
  | { readonly name: 'waiting' | 'offline', readonly failures: number, readonly asked: boolean, readonly until: number, readonly notBefore: number, readonly error: Failure }
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
  | { readonly type: 'authorized', readonly isAuthorized: boolean, readonly cause?: unknown }
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
export function next (state: State, input: Input, now: Circumstances): State {
  const { type } = input
  if (state.name === 'closed') return state
  if (type === 'close') return { name: 'closed' }
  // What cannot be made again is better kept: the browser may still cut it.
  if (type === 'pagehide' || type === 'freeze') return state.name === 'paused' || !now.canRepeat ? state : { name: 'paused' }
  if (state.name === 'paused') return type === 'pageshow' || type === 'resume' ? START : state
  if (state.name === 'asking') {
    if (type !== 'authorized') return state
    return input.isAuthorized ? { ...START, failures: state.failures, asked: true } : { name: 'closed', error: { ...state.error, cause: input.cause } }
  }
  if (state.name === 'connecting') {
    if (type === 'opened') return { name: 'open', failures: state.failures, since: now.now }
    return type === 'failed' ? failed(state.failures, state.asked, input, now) : state
  }
  if (state.name === 'open') {
    // On another network the old connection is dead, and nothing would tell before long.
    if (type === 'online' && now.canRepeat) return { ...START, error: { code: 'moved', status: 0, message: 'online again' } }
    if (type !== 'failed') return state
    // Connections that end as soon as they are open are failures too; one that lasted starts the count anew.
    const hasLasted = now.now - state.since >= least(now)
    return failed(hasLasted ? (input.error.code === 'ended' ? -1 : 0) : state.failures, false, input, now)
  }
  const { failures, asked, notBefore } = state
  const isCalled = type === 'online' || (type === 'visibilitychange' && now.isVisible)
  if (type === 'due' || (isCalled && now.now >= notBefore)) return { name: 'connecting', failures, asked }
  const name = type === 'online' ? 'waiting' : type === 'offline' ? type : state.name
  return name === state.name ? state : { ...state, name }
}

function failed (before: number, asked: boolean, { error, retryAfter }: Input & { type: 'failed' }, now: Circumstances): State {
  const failures = before + 1
  const { code, status } = error
  if ((status === 401 || status === 403) && now.canAsk && !asked) return { name: 'asking', failures, error }
  const isFinal = code === 'status' ? status < 500 && status !== 408 && status !== 429 : status === 204 || /type|request|size/.test(code)
  if (isFinal || !now.canRepeat) return { name: 'closed', error }
  // Never less than the server asked for, and random above that, up to twice as much after each failure: clients should not come back together.
  const spread = now.random * Math.max(0, Math.min(now.max, least(now) * 2 ** failures) - least(now))
  const hasSaid = retryAfter > 0
  const until = now.now + spread + (hasSaid ? Math.max(now.min, retryAfter) : least(now))
  return { name: now.isOnline ? 'waiting' : 'offline', failures, asked, until, notBefore: hasSaid ? now.now + retryAfter : 0, error }
}

/** ms: the shortest wait. What the server asks for stands above the option `max`. */
function least ({ min, retry }: Circumstances): number {
  return Math.max(min, retry)
}
