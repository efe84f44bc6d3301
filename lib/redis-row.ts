import { hash } from 'node:crypto'
import type { NewEntry } from './backplane.ts'

/** One entry of the Redis Stream, as it was read. */
export interface Row {
  /** `<ms>-<seq>`, given by Redis: it orders, but does not prove, for a Redis that lost its data may give it again. */
  readonly id: string
  /** Chosen by who appended it, never twice. '' where a stranger wrote the row. */
  readonly nonce: string
  /** `<id>.<hash of the nonce>`: names this row and no other. */
  readonly cursor: string
  /**
   * - event: what was published
   * - genesis: the first row of a log that was empty
   * - cut: somewhere before it, entries that were acknowledged were lost
   * - foreign: nothing of ours
   */
  readonly kind: 'event' | 'genesis' | 'cut' | 'foreign'
  /** Of an event; else undefined. */
  readonly entry: NewEntry | undefined
}

/** Field and value, in turn: n the nonce, c the channels as JSON, e the event, d a string or s serialized data, x a cut. */
export function encodeEntry (nonce: string, { channels, event, data, serialized }: NewEntry): string[] {
  const fields = ['n', nonce, 'c', JSON.stringify(channels)]
  if (event !== undefined) fields.push('e', event)
  if (data !== undefined) fields.push(serialized ? 's' : 'd', data)
  return fields
}

export const encodeGenesis = (nonce: string): string[] => ['n', nonce]
export const encodeCut = (nonce: string): string[] => ['n', nonce, 'x', '1']

/** Reads an answer of XRANGE or XREVRANGE, which looks the same in RESP2 and RESP3. */
export function decodeRows (answer: unknown): Row[] {
  return (answer as Array<[id: string, fields: string[]]>).map(([id, fields]) => decodeRow(id, fields))
}

function decodeRow (id: string, fields: readonly string[]): Row {
  let nonce = ''
  let channels: string | undefined
  let event: string | undefined
  let data: string | undefined
  let serialized = false
  let cut = false
  for (let i = 0; i < fields.length; i += 2) {
    const value = fields[i + 1]!
    switch (fields[i]) {
      case 'n': nonce = value; break
      case 'c': channels = value; break
      case 'e': event = value; break
      case 'd': data = value; break
      case 's': data = value; serialized = true; break
      case 'x': cut = true; break
    }
  }
  const names = channels === undefined ? undefined : parseChannels(channels)
  const kind = nonce === '' || (channels !== undefined && names === undefined) ? 'foreign' : names !== undefined ? 'event' : cut ? 'cut' : 'genesis'
  const entry = kind === 'event' ? { channels: names!, event, data, serialized } : undefined
  return { id, nonce, cursor: cursorOf(id, nonce), kind, entry }
}

function parseChannels (text: string): string[] | undefined {
  try {
    const names: unknown = JSON.parse(text)
    return Array.isArray(names) && names.every(name => typeof name === 'string') ? names : undefined
  } catch {
    // Not ours: nobody else's row may stop the reader.
    return undefined
  }
}

/** 48 bits of the nonce's hash: enough to tell two rows with one id apart, without showing the nonce. */
export function cursorOf (id: string, nonce: string): string {
  return `${id}.${hash('sha1', nonce, 'base64url').slice(0, 8)}`
}

/** The place just before a row, as a cursor that every process makes in the same way, for where no row is known before it. */
export function cursorBefore ({ id, nonce }: Row): string {
  const [ms, seq] = id.split('-').map(BigInt) as [bigint, bigint]
  return cursorOf(seq > 0n ? `${ms}-${seq - 1n}` : `${ms - 1n}-${MAX}`, nonce)
}

export function idOf (cursor: string): string {
  return cursor.slice(0, cursor.indexOf('.'))
}

const CURSOR = /^(0|[1-9]\d{0,19})-(0|[1-9]\d{0,19})\.[\w-]{8}$/
/** The largest number that Redis has room for in either half of an id. */
const MAX = '18446744073709551615'

/** The order of two cursors, by their ids; NaN where one of them is none. */
export function compareCursors (a: string, b: string): number {
  const left = CURSOR.exec(a)
  const right = CURSOR.exec(b)
  if (left === null || right === null) return NaN
  const halves = [left[1]!, left[2]!, right[1]!, right[2]!] as const
  if (halves.some(half => half.length === MAX.length && half > MAX)) return NaN
  return compareDigits(halves[0], halves[2]) || compareDigits(halves[1], halves[3])
}

/** Numbers of 64 bits, as text without leading zeros: the longer one is the greater. */
function compareDigits (a: string, b: string): number {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0)
}
