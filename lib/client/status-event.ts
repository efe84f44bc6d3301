import type { Failure } from './error.ts'
import type { SseStatus } from './signal.ts'

/** A `status` event: what the client does from now on. */
export class SseStatusEvent extends Event {
  /** `waiting` and `offline`: for the next try. `paused`: with a page that is frozen or in the back/forward cache. */
  readonly status: SseStatus
  /** ms since the epoch: when the next try is made. Undefined unless `waiting` or `offline`. */
  readonly until: number | undefined
  /** Why: what the `error` event that follows says. Undefined where nothing failed. */
  readonly reason: Failure | undefined

  constructor (status: SseStatus, until?: number, reason?: Failure) {
    super('status')
    this.status = status
    this.until = until
    this.reason = reason
  }
}
