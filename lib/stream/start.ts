import type { Question } from '../log/catch-up.ts'
import type { ChannelLog, Member, Older } from '../log/channel-log.ts'
import type { Log } from '../log/log.ts'
import type { Gaps } from './gaps.ts'

/** Where a client wants to start on a channel. */
export interface Wish {
  readonly cursor: string | null
  readonly rewind: number | undefined
  /** What the channel carried since the client's cursor is not known: it was joined later than that was read. */
  readonly late: boolean
}

/** Where a subscription starts: found out from when its channel is joined. */
export class Start<M extends Member> {
  readonly #log: Log<M>
  readonly #channel: ChannelLog<M>
  readonly #wish: Wish
  /** The head when it was joined. */
  #head: number
  #question: Question | undefined
  #older: Older | undefined

  constructor (log: Log<M>, channel: ChannelLog<M>, wish: Wish) {
    this.#log = log
    this.#channel = channel
    this.#wish = wish
    this.#head = log.head
    const place = this.#place
    channel.reach(this.#isGood(place) ? place! : this.#wanted > 0 ? 0 : channel.base)
  }

  /** Asks what is not known yet. @returns whether all of it is known */
  find (): boolean {
    const channel = this.#channel
    const { cursor } = this.#wish
    const place = this.#place
    const mayBeNewer = place === undefined ? cursor !== null && this.#log.lives.isUnknown(cursor) : place > this.#log.head
    if (mayBeNewer) {
      this.#question ??= this.#log.ask(channel)
      if (this.asks) return false
    }
    // It may begin above the head, which follows soon: where another channel is joined meanwhile, the stream would go back to it.
    if (!channel.current || channel.begin > this.#log.head) return false
    if (this.#isGood(place) ? place! >= channel.base : channel.events >= this.#wanted) return true
    // One that a broken connection took with it is asked again.
    if (this.#older === undefined || (!this.#older.done && this.#older !== channel.askingOlder)) this.#older = this.#log.readOlder(channel)
    return this.#older.done
  }

  /** It waits to be told what the newest entry is. */
  get asks (): boolean { return this.#question !== undefined && this.#question.newest === undefined }

  /** Once it is found: the sequence number after which the subscription starts. */
  after (gaps: Gaps): number {
    const channel = this.#channel
    const { cursor, rewind, late } = this.#wish
    const head = Math.max(this.#head, channel.begin)
    const place = this.#place
    if (this.#isGood(place)) {
      if (place! >= channel.base) return place!
      gaps.add('expired', channel)
    } else if (cursor !== null || late) {
      gaps.add('unknown', channel)
    }
    // Who asks for all of it must not take what is left for the whole.
    if (cursor === null && rewind === Infinity && channel.cut) gaps.add('expired', channel)
    // Of what was published since it was joined, some is gone.
    else if (cursor === null && !late && head < channel.base) gaps.add(head < channel.lostTo ? 'reset' : 'overrun', channel)
    const wanted = this.#wanted
    const index = Math.max(0, channel.events - wanted)
    // The log itself lost entries between what it kept from before and what came after.
    if (cursor === null && index < channel.events && channel.at(index).seq <= this.#log.lives.edge) gaps.add('reset', channel)
    const after = wanted === 0 ? head : index === 0 ? channel.base : channel.at(index).seq - 1
    // What was published since it was joined is not left out.
    return Math.min(after, Math.max(head, channel.base))
  }

  /** See `Member.restarted`. */
  restarted (gaps: Gaps): void {
    if (this.#wish.cursor === null) gaps.add('reset', this.#channel)
    this.#head = this.#log.head
    this.#question = this.#older = undefined
  }

  get #place (): number | undefined {
    const { cursor } = this.#wish
    return cursor === null ? undefined : this.#log.lives.placeOf(cursor)
  }

  /** Whether the cursor's place exists. */
  #isGood (place: number | undefined): boolean {
    return place !== undefined && place <= Math.max(this.#log.head, this.#question?.newest ?? 0)
  }

  /** How many of the newest entries it begins with, without a good cursor. An end is none of the events that were asked for. */
  get #wanted (): number {
    const { cursor, rewind } = this.#wish
    const events = rewind ?? (cursor !== null ? Infinity : this.#channel.limits.latest ? 1 : 0)
    return events > 0 && this.#channel.holdsEnd ? events + 1 : events
  }
}
