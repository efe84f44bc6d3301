import type { Failure } from './error.ts'

/** What a client is doing. `waiting` and `offline`: for the next try; `paused`: with a page that is frozen or in the back/forward cache. */
export type SseStatus = 'connecting' | 'open' | 'waiting' | 'offline' | 'paused' | 'closed'

/** Where a source stands. `until`: the time of the next try. `error`: its user is to be told of it. */
export interface Standing { readonly status: SseStatus, readonly until?: number | undefined, readonly error?: Failure | undefined }

/** What a source of events tells its client: plain data, so that it can cross from tab to tab. */
export type Signal =
  | Standing & { readonly kind: 'status' }
  /** `lastEventId` is the one after it, `previous` the one before it; equal where it has none of its own. */
  | { readonly kind: 'event', readonly type: string, readonly data: string, readonly origin: string, readonly lastEventId: string, readonly previous: string }
  /** A block that had an id and no data. */
  | { readonly kind: 'id', readonly lastEventId: string, readonly previous: string }

/** Where a client has its events from: a connection of its own, or one that it shares. */
export interface Source {
  readonly lastEventId: string
  close (): void
}
