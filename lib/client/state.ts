import type { Failure } from './error.ts'

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

/** What can happen. `now` and `random` (0 to 1) are handed in, so that the same calls give the same states. */
export type Input =
  | { readonly type: 'opened', readonly now: number }
  /** `retryAfter`: ms from the answer. `isOnline`: what the page believes. */
  | { readonly type: 'failed', readonly error: Failure, readonly now: number, readonly random: number, readonly retryAfter?: number | undefined, readonly isOnline: boolean }
  /** The time to wait is over. */
  | { readonly type: 'due' }
  /** What onUnauthorized answered, or threw. */
  | { readonly type: 'authorized', readonly isAuthorized: boolean, readonly cause?: unknown }
  /** The page was told that it is online, or is shown again. */
  | { readonly type: 'online' | 'shown', readonly now: number }
  | { readonly type: 'offline' | 'pause' | 'resume' | 'close' }

/** What bounds the waiting, and what may be done at all. */
export interface Rules {
  /** ms: the option retry. */
  readonly min: number
  readonly max: number
  /** ms: what the server said, or the default. */
  readonly retry: number
  /** There is an onUnauthorized. */
  readonly canAsk: boolean
  /** The request may be made again: it changes nothing, or the server gave an id to resume by. */
  readonly canRepeat: boolean
}

const START = { name: 'connecting', failures: 0, asked: false } as const

/** The state of a new client. */
export const initial: State = START

/** The state after an input: the same object where nothing changes. */
export function next (state: State, input: Input, rules: Rules): State {
  if (state.name === 'closed') return state
  if (input.type === 'close') return { name: 'closed' }
  // What cannot be made again is better kept: the browser may still cut it.
  if (input.type === 'pause') return state.name === 'paused' || !rules.canRepeat ? state : { name: 'paused' }
  switch (state.name) {
    case 'paused':
      return input.type === 'resume' ? START : state
    case 'connecting':
      if (input.type === 'opened') return { name: 'open', failures: state.failures, since: input.now }
      return input.type === 'failed' ? failed(state.failures, state.asked, input, rules) : state
    case 'open': {
      // On another network the old connection is dead, and nothing would tell before long.
      if (input.type === 'online' && rules.canRepeat) return { ...START, error: { code: 'moved', status: 0, message: 'online again' } }
      if (input.type !== 'failed') return state
      // Connections that end as soon as they are open are failures too; one that lasted starts the count anew.
      const lasted = input.now - state.since >= start(rules)
      return failed(lasted ? (input.error.code === 'ended' ? -1 : 0) : state.failures, false, input, rules)
    }
    case 'asking':
      if (input.type !== 'authorized') return state
      return input.isAuthorized ? { ...START, failures: state.failures, asked: true } : { name: 'closed', error: { ...state.error, cause: input.cause } }
    default: // waiting, offline
      if (input.type === 'offline' && state.name === 'waiting') return { ...state, name: 'offline' }
      if (input.type === 'due' || ((input.type === 'online' || input.type === 'shown') && input.now >= state.notBefore)) {
        return { name: 'connecting', failures: state.failures, asked: state.asked }
      }
      return input.type === 'online' && state.name === 'offline' ? { ...state, name: 'waiting' } : state
  }
}

function failed (before: number, asked: boolean, { error, now, random, retryAfter, isOnline }: Input & { type: 'failed' }, rules: Rules): State {
  const failures = before + 1
  const { code, status } = error
  const isRefused = status === 401 || status === 403
  if (isRefused && rules.canAsk && !asked) return { name: 'asking', failures, error }
  const isFinal = code === 'status' ? status < 500 && status !== 408 && status !== 429 : status === 204 || code === 'type' || code === 'request' || code === 'size'
  if (isFinal || !rules.canRepeat) return { name: 'closed', error }
  const least = start(rules)
  // Never less than the server asked for, and random above that, up to twice as much after each failure: clients should not come back together.
  const spread = random * Math.max(0, Math.min(rules.max, least * 2 ** failures) - least)
  const until = now + spread + (retryAfter === undefined ? least : Math.max(rules.min, retryAfter))
  return { name: isOnline ? 'waiting' : 'offline', failures, asked, until, notBefore: now + (retryAfter ?? 0), error }
}

/** ms: the shortest wait. What the server asks for stands above the option `max`. */
function start ({ min, retry }: Rules): number {
  return Math.max(min, retry)
}
