import type { Failure } from './error.ts'
import type { SseStatus, Standing } from './signal.ts'

/** A `status` event: what the client does from now on. */
export class SseStatusEvent extends Event implements Standing {
  /** `waiting` and `offline`: for the next try. `paused`: with a page that is frozen or in the back/forward cache. */
  declare readonly status: SseStatus
  /** ms since the epoch: when the next try is made. Undefined unless `waiting` or `offline`. */
  declare readonly until?: number | undefined
  /** Why: what the `error` event that follows says. Undefined where nothing failed. */
  declare readonly error?: Failure | undefined

  constructor (standing: Standing) {
    super('status')
    Object.assign(this, standing)
  }
}
