/**
 * Why a try or a connection was given up, or an event could not be read:
 *
 * - `network`: no answer. A page is not told whether the network, CORS, mixed content or a blocker was the reason.
 * - `cut`: the connection broke. `ended`: the server ended the response, or answered 204.
 * - `inactivity`: nothing came for the time of the option `inactivity`.
 * - `status`: any other status than 200, see `status`. `type`: 200, but not with `text/event-stream`.
 * - `headers`: the option `headers` threw. `request`: no request can be made of the url and the options.
 * - `size`: a line or event longer than the option `maxEventLength`.
 * - `parse`: the option `parse` threw, which is the `cause`; the event is not fired, the connection is kept.
 */
export type SseErrorCode = 'network' | 'cut' | 'ended' | 'inactivity' | 'status' | 'type' | 'headers' | 'request' | 'size' | 'parse'

/** What happened, as plain data: it crosses from tab to tab. */
export interface Failure {
  readonly code: SseErrorCode
  /** The status of the answer; 0: there was none. */
  readonly status: number
  readonly message: string
  /** What was thrown; not from another tab. */
  readonly cause?: unknown
}

/** An `error` event. The client has given up if its `readyState` is `CLOSED` by now; else it tries again, or never lost its connection (`parse`). */
export class SseErrorEvent extends Event implements Failure {
  /** What went wrong: branch on this. */
  declare readonly code: SseErrorCode
  /** The status of the answer; 0 where there was none, as after a network failure. */
  declare readonly status: number
  /** The same for a reader. */
  declare readonly message: string
  /** What was thrown, if anything was. */
  declare readonly cause?: unknown

  constructor (failure: Failure) {
    super('error')
    Object.assign(this, failure)
  }
}
