import type { ChannelLimits } from './backplane.ts'
import type { ChannelLog, Item } from './channel-log.ts'

/** What waits to be offered may make a channel log longer than its limit: so many entries at least, and twice the limit at most. */
const LEAST_ROOM = 128
/** And all of them together so many bytes at least: an event that is larger than the limit is delivered all the same. */
const LEAST_ROOM_BYTES = 4 * 1024 * 1024

/** Entries in the order in which they came. */
class Chain {
  oldest: Item | undefined
  #newest: Item | undefined

  add (item: Item): void {
    item.earlier = this.#newest
    if (this.#newest === undefined) this.oldest = item
    else this.#newest.later = item
    this.#newest = item
  }

  remove (item: Item): void {
    if (item.earlier === undefined) this.oldest = item.later
    else item.earlier.later = item.later
    if (item.later === undefined) this.#newest = item.earlier
    else item.later.earlier = item.earlier
    item.earlier = item.later = undefined
  }
}

/** All entries that a process holds: what is evicted, and when. */
export class Store {
  /** As encoded, of the entries held. */
  bytes = 0
  /** Nothing above this may be evicted, as far as there is room: it was not offered to the streams yet. */
  offered = 0
  /** A filter is running: what it calls must not move what is being read. */
  frozen = false

  readonly #maxBytes: number
  readonly #events = new Chain()
  /** Entries of channels of values: the one that counts of a quiet channel may be the oldest of all, and goes last. */
  readonly #values = new Chain()
  readonly #logs: ReadonlyMap<string, ChannelLog<any>>
  /** Logs that are longer than their limits, and wait for what they hold to be offered. */
  readonly #over = new Set<ChannelLog<any>>()

  constructor (maxBytes: number, logs: ReadonlyMap<string, ChannelLog<any>>) {
    this.#maxBytes = maxBytes
    this.#logs = logs
  }

  /** A log took the entry. */
  hold (item: Item, log: ChannelLog<any>): void { this.#count(item, log, 1) }

  /** A log dropped it. */
  free (item: Item, log: ChannelLog<any>): void { this.#count(item, log, -1) }

  #count (item: Item, { limits }: ChannelLog<any>, by: 1 | -1): void {
    const before = this.#chain(item)
    item.refs += by
    if (limits.latest) item.values += by
    const now = this.#chain(item)
    if (now === before) return
    before?.remove(item)
    now?.add(item)
    if (before === undefined) this.bytes += item.bytes
    else if (now === undefined) this.bytes -= item.bytes
  }

  /** A value is one as long as a channel of values has it. */
  #chain ({ refs, values }: Item): Chain | undefined { return refs === 0 ? undefined : values > 0 ? this.#values : this.#events }

  /** Evicts of a log what lies up to a place. */
  evict (log: ChannelLog<any>, seq: number): void {
    while (log.events > 0 && log.oldest!.seq <= seq) this.free(log.shift(), log)
  }

  /** Empties a log: all that is held lies after `base` from now on. */
  empty (log: ChannelLog<any>, base: number): void {
    while (log.events > 0) this.free(log.shift(), log)
    log.base = log.last = base
  }

  /** Evicts of one log what its limits no longer allow, as far as it was offered to its members or there is no room for it. */
  trim (log: ChannelLog<any>, now: number): void {
    if (this.frozen) {
      this.#over.add(log)
      return
    }
    const { maxAge } = log.limits
    // Of a channel with room for one entry, an end must not take the place of the event.
    const end = log.holdsEnd ? 1 : 0
    const maxEvents = log.limits.maxEvents + end
    const offered = log.members.size === 0 ? Infinity : this.offered
    for (let oldest = log.oldest; oldest !== undefined; oldest = log.oldest) {
      if (log.events <= maxEvents && (maxAge === 0 || now - oldest.time <= maxAge)) break
      if (oldest.seq > offered && log.events <= room(log.limits) + end) {
        this.#over.add(log)
        break
      }
      this.free(log.shift(), log)
    }
  }

  /** Evicts, over all logs, what there is no room for, the oldest first. */
  trimBytes (): void {
    if (this.frozen) return
    const oldest = (): Item | undefined => this.#events.oldest ?? this.#values.oldest
    for (let item = oldest(); item !== undefined && this.bytes > this.#maxBytes; item = oldest()) {
      if (item.seq > this.offered && this.bytes <= this.room && item.channels.some(name => this.#logs.get(name)?.members.size)) break
      for (const name of item.channels) {
        const log = this.#logs.get(name)
        if (log === undefined || item.seq <= log.base) continue
        // What was read later, but is older, goes with it. The backplane may still have both.
        this.evict(log, item.seq)
        log.bottom = false
      }
    }
  }

  /** So many bytes all logs may have, offered or not. */
  get room (): number { return Math.max(LEAST_ROOM_BYTES, 2 * this.#maxBytes) }

  /** Says that what lies up to here was offered to every stream that could take it, and evicts. */
  release (offered: number, now: number): void {
    this.offered = offered
    if (this.frozen) return
    const over = [...this.#over]
    this.#over.clear()
    for (const log of over) this.trim(log, now)
    this.trimBytes()
  }
}

/** So many entries a log may have, offered or not. */
function room ({ maxEvents, latest }: ChannelLimits): number {
  return latest ? 1 : Math.max(LEAST_ROOM, 2 * maxEvents)
}
