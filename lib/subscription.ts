import type { StoredEvent } from './event.ts'
import type { History } from './history.ts'
import type { SubscribeOptions } from './options.ts'
import type { Piece } from './piece.ts'
import type { Stream } from './stream.ts'

/** Says whether a stream gets an event. A filter that throws closes its own stream with `error`. */
export type Filter = (event: StoredEvent<any>) => boolean

/** One channel, for as long as it has members. */
export interface Members {
  readonly name: string
  readonly streams: Set<Stream>
  /** Position of its newest entry that was evicted while it had members, or -1. */
  evicted: number
  /** It is on the ready list. */
  ready: boolean
  /** What the present pass wrote for its streams, by position. */
  pieces: Map<number, readonly Piece[]> | undefined
}

/**
 * What a stream wants of one channel: its entries at `from` or later that pass the filter. Never changed, only replaced: pieces
 * refer to it.
 */
export interface Subscription {
  readonly members: Members
  readonly from: number
  readonly filter: Filter | undefined
  /** Set where the client's cursor is newer than all that this process has read: the stream is held until that is read, and starts then. */
  readonly held: { readonly cursor: string, readonly options: SubscribeOptions } | undefined
}

/** `expired`, `unknown`: the client's cursor was not good. `reset`: the log itself lost entries. `overrun`: the stream stayed away too long. */
export type GapReason = 'expired' | 'unknown' | 'reset' | 'overrun'

/** Where a stream starts, and what it must be told. */
export interface Start {
  readonly from: number
  readonly gap: GapReason | undefined
  /** The cursor is newer than the head. */
  readonly ahead: boolean
}

/**
 * Turns a client's cursor into a place in the history.
 * @param cursor null starts at the head
 * @param rewind how many of the newest events of these channels go first where there is no good cursor
 */
export function findStart (history: History, channels: readonly string[], cursor: string | null, rewind: number | undefined): Start {
  const newest = rewind === undefined ? undefined : history.rewind(channels, rewind)
  if (cursor === null) return { from: newest ?? history.head, gap: undefined, ahead: false }
  const { position, state } = history.find(cursor)
  if (state === 'good') return { from: position, gap: undefined, ahead: false }
  return { from: newest ?? position, gap: state === 'ahead' ? undefined : state, ahead: state === 'ahead' }
}
