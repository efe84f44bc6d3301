import { parseCursor } from '../../lib/log/cursor.ts'
import type { Block } from '../client.ts'

/** What all parts agree on: which channels an event with this number is published to. */
export const CHANNELS = 20
export function channelsOf (n: number): number[] {
  const channel = n % CHANNELS
  return n % 10 === 0 ? [channel, (channel + 7) % CHANNELS] : [channel]
}

/** One thing that a client received. */
export interface Item {
  readonly kind: 'event' | 'cursor' | 'gap'
  /** Wall clock, in ms. */
  readonly time: number
  readonly cursor: string
  /** The number of an event. */
  readonly n?: number
  /** Of a gap. */
  readonly reason?: string
  readonly channels?: readonly number[]
}

/** A block of a body as a client notes it; undefined if it has no id. */
export function itemOf ({ id, event, data }: Block): Item | undefined {
  if (id === undefined) return undefined
  const time = Date.now()
  if (data === undefined) return { kind: 'cursor', time, cursor: id }
  if (event !== 'sse.gap') return { kind: 'event', time, cursor: id, n: (JSON.parse(data) as { n: number }).n }
  const { reason, channels } = JSON.parse(data) as { reason: string, channels: string[] }
  return { kind: 'gap', time, cursor: id, reason, channels: channels.map(Number) }
}

/** A logical client, through all its connections. Its first item says where it subscribed. */
export interface Reception {
  readonly name: string
  readonly channels: readonly number[]
  readonly items: readonly Item[]
}

/** What was acknowledged: where it is, and the wall clock when it was sent. */
export interface Acknowledged { readonly cursor: string, readonly sent: number }

export interface Evidence {
  readonly acknowledged: ReadonlyMap<number, Acknowledged>
  /** Cursors of what Redis still has of it, at the end. */
  readonly kept: ReadonlySet<string>
  /** Nothing was lost: no gap. */
  readonly lossless: boolean
  readonly clients: readonly Reception[]
}

export interface Verdict {
  acknowledged: number
  delivered: number
  gaps: number
  /** What clients did not receive, and were told so by a gap. */
  behind: number
  repeated: number
  /** Missing in silence. */
  missing: number
  /** Whatever breaks the promise, in words; the first ones of each kind. */
  complaints: string[]
}

const MOST_OF_A_KIND = 5

/**
 * Holds what clients received against what was acknowledged. All of them had subscribed before the first publish, so each is owed every
 * event of its channels, once, in the order of its publisher and of the sequence numbers, unless a gap of that channel says otherwise:
 * - it stands between what the client has of before and of after the event, of the same publisher;
 * - or, where the event is lost in Redis itself, it came at any time after the event was sent: others find such a loss than those who miss it.
 */
export function check ({ acknowledged, kept, lossless, clients }: Evidence): Verdict {
  const verdict: Verdict = { acknowledged: acknowledged.size, delivered: 0, gaps: 0, behind: 0, repeated: 0, missing: 0, complaints: [] }
  const kinds = new Map<string, number>()
  const complain = (kind: string, text: string) => {
    const count = (kinds.get(kind) ?? 0) + 1
    kinds.set(kind, count)
    if (count <= MOST_OF_A_KIND) verdict.complaints.push(`${kind}: ${text}`)
  }

  const cursors = new Map([...acknowledged].map(([n, { cursor }]) => [n, cursor]))
  const numbers = new Map<string, number>()
  /** Life and publisher -> the newest of it. */
  const newest = new Map<string, { n: number, seq: number }>()
  /** Of each publisher, in its order, for each channel. */
  const owed = new Map<string, number[]>()
  for (const [n, { cursor }] of [...acknowledged].sort(([a], [b]) => a - b)) {
    const same = numbers.get(cursor)
    if (same !== undefined) complain('one place', `events ${same} and ${n} both have ${cursor}`)
    numbers.set(cursor, n)
    const { life, seq } = parse(cursor)
    const key = `${life} ${publisherOf(n)}`
    const before = newest.get(key)
    if (before !== undefined && before.seq >= seq) complain('publisher order', `event ${before.n} was published before ${n}, and stands behind it`)
    newest.set(key, { n, seq })
    for (const channel of channelsOf(n)) {
      const list = owed.get(`${channel} ${publisherOf(n)}`)
      if (list === undefined) owed.set(`${channel} ${publisherOf(n)}`, [n])
      else list.push(n)
    }
  }

  for (const client of clients) checkClient(client)
  for (const [kind, count] of kinds) if (count > MOST_OF_A_KIND) verdict.complaints.push(`${kind}: ${count} in all`)
  return verdict

  function checkClient ({ name, channels, items }: Reception): void {
    if (items.length === 0) return complain('never subscribed', name)
    /** Where each event stands in `items`, the first time. */
    const places = new Map<number, number>()
    const gaps: number[] = []
    /** Where the client is, since the last gap. */
    let at: { life: string, seq: number } | undefined
    /** The last gap that may repeat what it knows: its place was not one any more. */
    let back = -1
    for (const [i, item] of items.entries()) {
      const place = parse(item.cursor)
      const behind = at !== undefined && at.life === place.life && (item.kind === 'event' ? place.seq <= at.seq : place.seq < at.seq)
      if (item.kind === 'gap') {
        verdict.gaps++
        gaps.push(i)
        if (item.reason === 'unknown' || item.reason === 'expired') back = i
        else if (behind) complain('gap', `${name} was taken back by a gap: ${item.reason}`)
        if (lossless) complain('gap without a loss', `${name} was told ${item.reason} at ${item.cursor}`)
      } else if (item.kind === 'cursor') {
        if (behind) complain('cursor goes back', `${name} was given ${item.cursor}, behind ${at!.seq.toString(36)}`)
      } else {
        verdict.delivered++
        const n = item.n!
        const known = cursors.get(n)
        if (known === undefined) cursors.set(n, item.cursor)
        else if (known !== item.cursor) complain('two cursors', `event ${n} has ${known}, and ${item.cursor} for ${name}`)
        if (!channelsOf(n).some(channel => channels.includes(channel))) complain('foreign channel', `${name} got event ${n}`)
        const before = places.get(n)
        if (before !== undefined) verdict.repeated++
        else places.set(n, i)
        if (before !== undefined && before > back) complain('repeated', `${name} got event ${n} again`)
        else if (behind) complain('out of order', `${name} got event ${n}, ${item.cursor}, behind ${at!.seq.toString(36)}`)
      }
      at = place
    }
    for (const channel of channels) {
      const told = gaps.filter(i => items[i]!.channels!.includes(channel))
      for (const [key, list] of owed) {
        if (!key.startsWith(`${channel} `)) continue
        let next = Infinity
        for (let i = list.length - 1; i >= 0; i--) {
          const n = list[i]!
          const place = places.get(n)
          if (place !== undefined) {
            next = place
            continue
          }
          let before = -1
          for (let j = i - 1; j >= 0 && before < 0; j--) before = places.get(list[j]!) ?? -1
          const { cursor, sent } = acknowledged.get(n)!
          const there = kept.has(`${channel} ${cursor}`)
          if (told.some(gap => there ? gap > before && gap < next : items[gap]!.time >= sent)) verdict.behind++
          else {
            verdict.missing++
            complain('missing', `${name} did not get event ${n} of channel ${channel}, ${cursor}, ${there ? 'which Redis has' : 'which is lost'}, and no gap says so`)
          }
        }
      }
    }
  }
}

const publisherOf = (n: number) => Math.floor(n / NUMBERS)

function parse (cursor: string): { life: string, seq: number } {
  const place = parseCursor(cursor)
  if (place === undefined) throw new Error(`no cursor: ${cursor}`)
  return place
}

/** So many numbers each publisher has. */
export const NUMBERS = 1_000_000

/** Numbers that look random and are the same for the same seed. */
export class Dice {
  #state: number
  constructor (seed: number) { this.#state = seed >>> 0 }

  /** From 0 to 1, 1 excluded. */
  next (): number {
    // mulberry32
    let t = this.#state = (this.#state + 0x6D2B79F5) >>> 0
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296
  }

  between (least: number, most: number): number { return least + this.next() * (most - least) }
  below (n: number): number { return Math.floor(this.next() * n) }
  pick<T> (list: readonly T[]): T { return list[this.below(list.length)]! }
}
