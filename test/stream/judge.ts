import type { Block } from '../client.ts'

export interface Published { readonly channels: readonly string[], readonly value: number }

/** Where a channel was joined: at the head, after an event, or at a place that is not known or does not exist. */
export type Place = 'head' | 'anywhere' | number

/** What happened to one stream, in order. `head` is that of its process at the time, `newest` the last event that was published anywhere by then; `inside`: while a write of its own was being made. */
export type Step =
  | { what: 'wrote', blocks: Block[], newest: number }
  | { what: 'joined', channels: readonly string[], filter: number, place: Place, explicit: boolean, rewind: number, inside: boolean, head: number, newest: number }
  | { what: 'left', channels: readonly string[], inside: boolean, head: number }

/** A time that a stream was in a channel. */
interface Interval {
  readonly channel: string
  /** It may get what lies after this, and is owed what lies after that. */
  readonly low: number
  readonly owed: number
  /** Each with the head when it was given. */
  readonly filters: Array<{ filter: number, head: number }>
  readonly back: boolean
  readonly step: number
  /** The first write that knows of it. */
  readonly write: number
  left: { write: number, head: number } | undefined
  done: number
  /** A gap says that what lies up to here may be lost. */
  excused: number
  /** The first event after the gap will tell how much of it was. */
  pending: boolean
}

export const accepts = (filter: number, value: number): boolean => filter === 0 || value % filter === 0
export const seqOf = (id: string): number => parseInt(id.slice(id.indexOf('-') + 1), 36)

export interface Case {
  readonly steps: readonly Step[]
  readonly log: readonly Published[]
  /** Everything that was due has arrived. */
  readonly complete: boolean
  /** The reasons that a gap may have. */
  readonly reasons: readonly string[]
}

/** What is wrong with what one stream got. */
export function judge ({ steps, log, complete, reasons }: Case): string[] {
  const wrong: string[] = []
  const intervals: Interval[] = []
  const seen = new Map<number, { step: number, write: number }>()
  let last = -1
  let id = -1
  let write = 0
  let goingBack = 0

  const isOpen = (one: Interval): boolean => one.left === undefined
  const ways = (one: Interval, n: number): boolean[] => {
    // The filter that it had when the event was published, or any later one, if it was blocked for long.
    const first = Math.max(0, one.filters.findLastIndex(({ head }) => head < n))
    return one.filters.slice(first).map(({ filter }) => accepts(filter, log[n]!.value))
  }
  const owe = (upTo: number, why: string): void => {
    for (const one of intervals) {
      if (!isOpen(one) || write < one.write) continue
      for (let n = Math.max(one.owed, one.done, one.excused) + 1; n <= upTo; n++) {
        if (log[n]?.channels.includes(one.channel) === true && !seen.has(n) && ways(one, n).every(Boolean)) wrong.push(`${n} of ${one.channel} was lost without a word, ${why}`)
      }
      one.done = Math.max(one.done, upTo)
    }
  }

  for (const [i, step] of steps.entries()) {
    if (step.what === 'joined') {
      const { filter, place, explicit, rewind, inside, head, newest } = step
      let back = false
      for (const channel of step.channels) {
        const present = intervals.find(one => isOpen(one) && one.channel === channel)
        if (present !== undefined && !explicit) {
          present.filters.push({ filter, head })
          continue
        }
        if (present !== undefined) present.left = { write: inside ? write + 2 : write, head }
        const at = place === 'head' ? head : place === 'anywhere' ? -1 : place
        const low = rewind > 0 && place === 'head' ? -1 : at
        // The head of a process that has heard nothing for a while is old: what was there before the channel was joined may be left out.
        const owed = typeof place === 'number' ? at : newest
        back ||= low < head
        intervals.push({ channel, low, owed, filters: [{ filter, head }], back: low < head, step: i, write: inside ? write + 3 : write + 1, left: undefined, done: -1, excused: -1, pending: false })
      }
      if (back) goingBack++
    } else if (step.what === 'left') {
      for (const one of intervals) {
        if (isOpen(one) && step.channels.includes(one.channel)) one.left = { write: step.inside ? write + 2 : write, head: step.head }
      }
    } else {
      write++
      for (const [k, block] of step.blocks.entries()) {
        const isGap = block.event === 'sse.gap'
        if (block.id === undefined && !isGap) continue
        const n = id = block.id === undefined ? id : seqOf(block.id)
        if (isGap) {
          const { channels, reason } = JSON.parse(block.data!) as { channels: string[], reason: string }
          if (channels.length === 0) wrong.push('a gap of no channel')
          if (!reasons.includes(reason)) wrong.push(`a gap "${reason}" of ${channels.join()}, where nothing was lost`)
          for (const one of intervals) {
            if (!channels.includes(one.channel)) continue
            one.excused = Math.max(one.excused, step.newest)
            one.pending = true
          }
        } else if (block.data !== undefined) {
          const event = log[n]
          if (event === undefined || block.data !== `${n} ${event.value}`) {
            wrong.push(`${n} came as ${block.data}`)
            continue
          }
          const givers = intervals.filter(one => (isOpen(one) || (write <= one.left!.write && n <= one.left!.head)) && event.channels.includes(one.channel) && n > one.low && ways(one, n).some(Boolean))
          if (givers.length === 0) wrong.push(`${n} was not asked for`)
          if (n <= last && goingBack-- === 0) wrong.push(`${n} came after ${last}`)
          last = n
          const before = seen.get(n)
          if (before !== undefined && !givers.some(one => one.back && (one.step > before.step || one.write > before.write))) wrong.push(`${n} came twice`)
          seen.set(n, { step: i, write })
          const [only, other] = givers
          if (only?.pending === true && other === undefined) {
            only.pending = false
            only.excused = Math.min(only.excused, n - 1)
          }
        }
        const next = step.blocks[k + 1]
        // Gaps that are told together have one cursor, which comes with the last, and what follows in the same write is one with them.
        if (isGap && next?.event === 'sse.gap') continue
        owe(n, `when the id was ${n}`)
      }
    }
  }
  if (complete) {
    owe(log.length - 1, 'at the end')
    const furthest = Math.max(-1, ...seen.keys())
    if (intervals.some(isOpen) && id < furthest) wrong.push(`it has ${furthest}, and would come back with ${id}`)
  }
  return wrong
}
