import type { ChannelLimits } from './backplane.ts'
import { ChannelLog, type Member } from './channel-log.ts'
import { Forgotten } from './forgotten.ts'
import type { Store } from './store.ts'

/** ms that a channel without members goes on being watched. */
const LINGER = 30_000
/** Channel logs that one sweep looks at, so that a hundred thousand do not hold the event loop. */
const A_SWEEP = 10_000

/** The channel logs of a process: which there are, and for how long. */
export class ChannelLogs<M extends Member> {
  readonly #all: Map<string, ChannelLog<M>>
  readonly #store: Store
  /** Undefined where this process alone has the history: it keeps a log as long as there is something in it. */
  readonly #dropped: ((log: ChannelLog<M>) => void) | undefined
  #forgotten = new Forgotten(0)
  /** Without members, and since when, in the order in which the last one left. */
  readonly #idle = new Map<ChannelLog<M>, number>()
  #sweeping: Iterator<ChannelLog<M>> | undefined

  constructor (all: Map<string, ChannelLog<M>>, store: Store, dropped: ((log: ChannelLog<M>) => void) | undefined) {
    this.#all = all
    this.#store = store
    this.#dropped = dropped
  }

  /** Nothing of any channel is above this yet. */
  begin (head: number): void { this.#forgotten = new Forgotten(head) }

  /** Makes the log of a channel that has none. */
  make (name: string, limits: ChannelLimits, head: number, now: number): ChannelLog<M> {
    const { last, cut } = this.#dropped === undefined ? this.#forgotten.take(name) : { last: head, cut: false }
    const log = new ChannelLog<M>(name, limits, last)
    log.cut = cut
    this.#all.set(name, log)
    if (this.#dropped !== undefined) this.#idle.set(log, now)
    return log
  }

  join (log: ChannelLog<M>, member: M): void {
    log.members.add(member)
    this.#idle.delete(log)
  }

  leave (log: ChannelLog<M>, member: M, now: number): void {
    if (!log.members.delete(member) || log.members.size > 0) return
    if (this.#dropped === undefined) this.forgetEmpty(log)
    else this.#idle.set(log, now)
  }

  /** Looks for what has become too old, and for channels that nobody has asked for in a while. @returns whether anything is kept */
  sweep (now: number): boolean {
    this.#sweeping ??= this.#all.values()
    for (let i = 0; i < A_SWEEP; i++) {
      const { done, value } = this.#sweeping.next() as IteratorResult<ChannelLog<M>, undefined>
      if (done === true) {
        this.#sweeping = undefined
        break
      }
      this.#expire(value!, now)
    }
    for (const [log, since] of this.#idle) {
      if (now - since < LINGER) break
      this.#drop(log)
    }
    return this.#all.size > 0
  }

  /** As `sweep`, of all at once: to count what is kept. */
  expire (now: number): void {
    for (const log of this.#all.values()) this.#expire(log, now)
  }

  #expire (log: ChannelLog<M>, now: number): void {
    this.#store.trim(log, now)
    this.forgetEmpty(log)
  }

  /** Of a log that nobody needs any more it is enough to remember that much, where nobody else does. */
  forgetEmpty (log: ChannelLog<M>): void {
    if (this.#dropped !== undefined || log.events > 0 || log.members.size > 0) return
    this.#drop(log)
    // One that has ended is a new one when it is used again.
    this.#forgotten.add(log.name, { last: log.last, cut: log.cut && !log.ended })
  }

  #drop (log: ChannelLog<M>): void {
    this.#store.empty(log, log.last)
    this.#idle.delete(log)
    this.#all.delete(log.name)
    this.#dropped?.(log)
  }
}
