import { randomBytes } from 'node:crypto'
import type { Backplane, NewEntry, Receiver } from './backplane.ts'
import { formatCursor } from './cursor.ts'
import { SSE_ERR_CHANNEL_ENDED, SSE_ERR_CLOSED, SSE_ERR_INVALID_OPTION } from '../errors.ts'

/**
 * Numbers the entries of one process. Its one life has a random id, so a cursor from before a restart is known to be foreign, and
 * its client gets a gap event instead of a guess.
 */
export function memoryBackplane (): Backplane {
  const life = randomBytes(6).toString('hex')
  let receiver: Receiver | undefined
  let closed = false
  let last = 0

  return {
    async open (to) {
      if (receiver !== undefined) throw new SSE_ERR_INVALID_OPTION('backplane', 'one that serves no other registration', 'one in use')
      receiver = to
      receiver.mended([{ id: life, start: 0, end: Infinity, broken: false }], last)
    },
    async append (entry: NewEntry) {
      if (receiver === undefined || closed) throw new SSE_ERR_CLOSED('append()')
      for (const name of entry.channels) {
        const end = receiver.endOf(name)
        if (end === undefined) continue
        if (entry.kind === 'end') return end
        throw new SSE_ERR_CHANNEL_ENDED(name)
      }
      const seq = ++last
      const { channels, kind, event, data, serialized } = entry
      receiver.hear({ channels, kind, event, data, serialized, life, seq })
      return formatCursor(life, seq)
    },
    async close () { closed = true }
  }
}
