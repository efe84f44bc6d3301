import type { Place } from './backplane.ts'

/** A longer cursor is refused unread: no log hands one out. */
const MAX_CURSOR_BYTES = 128
const CURSOR = /^([0-9A-Za-z]{1,32})-(0|[1-9a-z][0-9a-z]{0,10})$/

/** The place of an entry in the order of all, as clients get it: the id of an event. It says where, and carries no authority. */
export function formatCursor (life: string, seq: number): string {
  return `${life}-${seq.toString(36)}`
}

/** The place that a cursor names, or undefined where no log can have made it. */
export function parseCursor (cursor: string): Place | undefined {
  if (cursor.length > MAX_CURSOR_BYTES) return undefined
  const match = CURSOR.exec(cursor)
  if (match === null) return undefined
  const seq = parseInt(match[2]!, 36)
  return Number.isSafeInteger(seq) ? { life: match[1]!, seq } : undefined
}
