import type { ChannelLog } from '../log/channel-log.ts'

/** `expired`, `unknown`: the client's cursor was not good. `reset`: the log itself lost entries. `overrun`: the stream stayed away too long. */
export type GapReason = 'expired' | 'unknown' | 'reset' | 'overrun'

/** Events that a client may have missed. */
export interface Gap { readonly reason: GapReason, readonly channels: readonly string[] }

/** What a stream has missed, and must be told before anything else: one gap for each reason. */
export class Gaps {
  #due: Map<GapReason, Set<string>> | undefined

  get due (): boolean { return this.#due !== undefined }

  /** Of a channel of values only the newest entry counts: nothing of it is missed. */
  add (reason: GapReason, { name, limits }: ChannelLog<any>): void {
    if (limits.latest) return
    this.#due ??= new Map()
    const channels = this.#due.get(reason)
    if (channels === undefined) this.#due.set(reason, new Set([name]))
    else channels.add(name)
  }

  /** Another cursor takes the place of one that was not good, before anybody was told. */
  dropCursor (name: string): void {
    for (const reason of ['expired', 'unknown'] as const) {
      const channels = this.#due?.get(reason)
      if (channels?.delete(name) === true && channels.size === 0) this.#due!.delete(reason)
    }
    if (this.#due?.size === 0) this.#due = undefined
  }

  take (): Gap[] {
    const due = [...this.#due ?? []].map(([reason, channels]) => ({ reason, channels: [...channels] }))
    this.#due = undefined
    return due
  }
}
