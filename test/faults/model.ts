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

/** A place where the log did not go on as it was: what came before is ordered before all that follows, whatever the ids say. */
export interface Break {
  /** Wall clock, just before it. */
  readonly time: number
  before (cursor: string): boolean
  /** Whether an entry from before was still in the log afterwards. */
  survives (cursor: string): boolean
}

/** A log that was read right before it was broken: what was in it, or is older than all that was in it, came before. */
export function breakAfter (time: number, rows: readonly string[], survivors: readonly string[]): Break {
  const known = new Set(rows)
  const alive = new Set(survivors)
  const oldest = rows[0]
  return {
    time,
    before: cursor => known.has(cursor) || (oldest !== undefined && compareIds(parse(cursor), parse(oldest)) < 0),
    survives: cursor => alive.has(cursor)
  }
}

/** A log that was away for longer than clocks and ids are fine. */
export function breakAt (time: number, survivors: readonly string[]): Break {
  const alive = new Set(survivors)
  return { time, before: cursor => parse(cursor).ms <= time, survives: cursor => alive.has(cursor) }
}

export interface Evidence {
  /** Number and cursor of what was acknowledged. */
  readonly acknowledged: ReadonlyMap<number, string>
  /** Number and cursor of what was found in the log, by somebody else. */
  readonly found: ReadonlyMap<number, string>
  readonly breaks: readonly Break[]
  /** Wall clock of the first loss of any kind that was brought about; undefined if there was none. */
  readonly lossFrom: number | undefined
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

interface Key { readonly log: number, readonly ms: number, readonly seq: number }

/** The order of the log: by ids, which Redis makes rise within one log, and by breaks. */
class Order {
  readonly #breaks: readonly Break[]
  readonly #keys = new Map<string, Key>()

  constructor (breaks: readonly Break[]) { this.#breaks = breaks }

  key (cursor: string): Key {
    let key = this.#keys.get(cursor)
    if (key === undefined) {
      const found = this.#breaks.findIndex(({ before }) => before(cursor))
      this.#keys.set(cursor, key = { log: found === -1 ? this.#breaks.length : found, ...parse(cursor) })
    }
    return key
  }

  /** When an entry was destroyed; undefined if it was not. */
  destroyed (cursor: string): number | undefined {
    return this.#breaks.slice(this.key(cursor).log).find(({ survives }) => !survives(cursor))?.time
  }
}

function parse (cursor: string): { ms: number, seq: number } {
  const match = /^(\d+)-(\d+)\./.exec(cursor)
  if (match === null) throw new Error(`no cursor: ${cursor}`)
  return { ms: Number(match[1]), seq: Number(match[2]) }
}

function compareIds (a: { ms: number, seq: number }, b: { ms: number, seq: number }): number {
  return a.ms - b.ms || (a.seq < b.seq ? -1 : a.seq > b.seq ? 1 : 0)
}

function compare (a: Key, b: Key): number {
  return a.log - b.log || compareIds(a, b)
}

/** An entry that clients are owed. */
interface Owed { readonly n: number, readonly cursor: string, readonly key: Key, readonly mask: number }

const MOST_OF_A_KIND = 5

/**
 * Holds what clients received against what the log had. A client is owed, in the log's order and once, every entry of its
 * channels after the cursor that it got first, unless a gap event says otherwise:
 * - what lies between the client's place and the gap's cursor was skipped, and told;
 * - a gap may take the client back, and so repeat what it knows;
 * - what was destroyed in the log itself is told by any later gap, for a lost suffix is found by others than those who miss it.
 *   Nobody may have passed it before it was destroyed, though.
 */
export function check (evidence: Evidence): Verdict {
  const { acknowledged, found, breaks, lossFrom, clients } = evidence
  const order = new Order(breaks)
  const verdict: Verdict = { acknowledged: acknowledged.size, delivered: 0, gaps: 0, behind: 0, repeated: 0, missing: 0, complaints: [] }
  const kinds = new Map<string, number>()
  const complain = (kind: string, text: string) => {
    const count = (kinds.get(kind) ?? 0) + 1
    kinds.set(kind, count)
    if (count <= MOST_OF_A_KIND) verdict.complaints.push(`${kind}: ${text}`)
  }

  const cursors = new Map<number, string>()
  const oneCursor = (n: number, cursor: string, who: string) => {
    const known = cursors.get(n)
    if (known === undefined) cursors.set(n, cursor)
    else if (known !== cursor) complain('two cursors', `event ${n} has ${known}, and ${cursor} for ${who}`)
  }
  for (const [n, cursor] of acknowledged) oneCursor(n, cursor, 'its publisher')
  for (const [n, cursor] of found) oneCursor(n, cursor, 'the recorder')
  const owed: Owed[] = [...cursors].map(([n, cursor]) => ({ n, cursor, key: order.key(cursor), mask: maskOf(channelsOf(n)) }))
    .sort((a, b) => compare(a.key, b.key))
  for (let i = 1; i < owed.length; i++) {
    if (compare(owed[i - 1]!.key, owed[i]!.key) === 0) complain('one place', `events ${owed[i - 1]!.n} and ${owed[i]!.n} both have ${owed[i]!.cursor}`)
  }

  // Each publisher counts up from a multiple of this.
  const newest = new Map<number, Owed>()
  for (const one of owed) {
    if (!acknowledged.has(one.n)) continue
    const publisher = Math.floor(one.n / NUMBERS)
    const before = newest.get(publisher)
    if (before !== undefined && before.n > one.n) complain('publisher order', `event ${before.n} was published after ${one.n}, and stands before it`)
    newest.set(publisher, one)
  }

  for (const client of clients) checkClient(client)
  for (const [kind, count] of kinds) if (count > MOST_OF_A_KIND) verdict.complaints.push(`${kind}: ${count} in all`)
  return verdict

  function checkClient ({ name, channels, items }: Reception): void {
    const mask = maskOf(channels)
    const first = items[0]
    if (first === undefined) return complain('never subscribed', name)
    const from = order.key(first.cursor)
    const mine = owed.filter(one => (one.mask & mask) !== 0 && compare(one.key, from) > 0)
    const received = new Set<number>()
    /** What the client was led past without it, with the time. */
    const passed: Array<{ one: Owed, time: number }> = []
    const told: Owed[] = []
    let lastGap: Item | undefined
    /** The client's place, the furthest it was at, and the next that it is owed there. */
    let at = from
    let furthest = from
    let next = 0

    for (const item of items) {
      const key = order.key(item.cursor)
      if (item.kind === 'event') {
        verdict.delivered++
        const n = item.n!
        oneCursor(n, item.cursor, name)
        const known = received.has(n)
        if (known) verdict.repeated++
        if ((maskOf(channelsOf(n)) & mask) === 0) complain('foreign channel', `${name} got event ${n}`)
        if (compare(key, at) <= 0) {
          complain(known ? 'repeated' : 'out of order', `${name} got event ${n}, ${item.cursor}, behind ${at.ms}-${at.seq}`)
        } else if (known && lastGap!.reason === 'overrun') {
          complain('repeated', `${name} got event ${n} again after an overrun`)
        }
        received.add(n)
      } else if (item.kind === 'gap') {
        verdict.gaps++
        lastGap = item
        if (lossFrom === undefined || item.time < lossFrom) complain('gap without a loss', `${name} was told ${item.reason} at ${item.cursor}`)
        if (item.reason === 'overrun' && compare(key, at) < 0) complain('gap', `${name} was taken back by an overrun`)
      } else if (compare(key, at) < 0) {
        complain('cursor goes back', `${name} was given ${item.cursor}, behind ${at.ms}-${at.seq}`)
      }
      const jump = item.kind === 'gap' && compare(key, at) > 0
      at = key
      if (compare(key, furthest) > 0) furthest = key
      for (; next < mine.length && compare(mine[next]!.key, furthest) <= 0; next++) {
        const one = mine[next]!
        if (received.has(one.n)) continue
        const namesIt = jump && (one.mask & mask & maskOf(item.channels!)) !== 0
        if (namesIt) told.push(one)
        else passed.push({ one, time: item.time })
      }
    }

    verdict.behind += told.filter(({ n }) => !received.has(n)).length
    for (const { one, time } of passed) {
      if (received.has(one.n)) continue
      const destroyed = order.destroyed(one.cursor)
      const excused = destroyed !== undefined && time >= destroyed && lastGap !== undefined && lastGap.time >= destroyed
      if (excused) verdict.behind++
      else miss(one, `was led past it${destroyed === undefined ? '' : ', destroyed,'} at ${time}`)
    }
    for (const one of mine.slice(next)) if (!received.has(one.n)) miss(one, `never came so far, but to ${furthest.ms}-${furthest.seq}`)

    function miss ({ n, cursor }: Owed, how: string): void {
      verdict.missing++
      complain('missing', `${name} did not get event ${n}, ${cursor}, and ${how}`)
    }
  }
}

/** So many numbers each publisher has. */
export const NUMBERS = 1_000_000

function maskOf (channels: readonly number[]): number {
  let mask = 0
  for (const channel of channels) mask |= 1 << channel
  return mask
}

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
