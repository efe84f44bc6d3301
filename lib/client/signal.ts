import type { Failure } from './error.ts'

/** What a client is doing. `waiting` and `offline`: for the next try; `paused`: with a page that is frozen or in the back/forward cache. */
export type SseStatus = 'connecting' | 'open' | 'waiting' | 'offline' | 'paused' | 'closed'

/** Where a source stands. `until`: the time of the next try. `error`: its user is to be told of it. */
export interface Standing { readonly status: SseStatus, readonly until?: number | undefined, readonly error?: Failure | undefined }

/** What a source of events tells its client: plain data, so that it can cross from tab to tab. */
export type Signal =
  | Standing & { readonly kind: 'status' }
  /** `hasId`: `lastEventId` is its own. */
  | { readonly kind: 'event', readonly type: string, readonly data: string, readonly origin: string, readonly hasId: boolean, readonly lastEventId: string }
  /** All bytes that have come are told, and this is the position: it may have moved by a block that has an id alone. */
  | { readonly kind: 'id', readonly lastEventId: string }

/** Where a client has its events from: a connection of its own, or one that it shares. */
export interface Source {
  /** Tells that it is closed, and nothing after that. */
  close (): void
}
