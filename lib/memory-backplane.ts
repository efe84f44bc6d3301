import { randomBytes } from 'node:crypto'
import type { Backplane, NewEntry, Receiver } from './backplane.ts'
import { SSE_ERR_CLOSED, SSE_ERR_INVALID_OPTION } from './errors.ts'

/**
 * The log of one process. A cursor is `<epoch>-<n>`; the epoch is random, so a cursor from before a restart is
 * known to be foreign, and its client gets a gap event instead of a guess.
 */
export function memoryBackplane (): Backplane {
  const epoch = randomBytes(6).toString('hex')
  const prefix = epoch + '-'
  let receiver: Receiver | undefined
  let closed = false
  let last = 0

  /** The number of a cursor of this epoch, as this log wrote it; else NaN. */
  function number (cursor: string): number {
    if (!cursor.startsWith(prefix)) return NaN
    const text = cursor.slice(prefix.length)
    return /^(0|[1-9]\d{0,15})$/.test(text) ? Number(text) : NaN
  }

  return {
    async open (to) {
      if (receiver !== undefined) throw new SSE_ERR_INVALID_OPTION('backplane', 'one that serves no other registration', 'one in use')
      receiver = to
      receiver.reset(prefix + last)
    },
    async append (entry: NewEntry) {
      if (receiver === undefined || closed) throw new SSE_ERR_CLOSED('append()')
      const cursor = prefix + (++last)
      receiver.receive({ ...entry, cursor })
      return cursor
    },
    async sync () {},
    compare: (a, b) => number(a) - number(b),
    async close () { closed = true }
  }
}
