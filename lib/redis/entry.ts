import type { ChannelLimits, Entry, HeardEntry, KeptEntry, NewEntry } from '../log/backplane.ts'
import { isEventName } from '../wire/event.ts'

/** An entry lies in the stream of each of its channels as p: the seq before it there, t: ms since 1970, h: head, d: data. */
export type Row = [id: string, fields: string[]]
/** What an entry is but for its data, as JSON; of several channels it names all, else the stream says which. */
type Head = [kind: 'e' | 'x', serialized: 0 | 1, event: string | null, channels?: readonly string[]]

/** Above it, halves (see scripts.ts) could not be told any more. */
const MAX_SEQ = 2 ** 52
/** ms that a quiet channel is kept at least: a process that was cut off for a while finds what it missed. */
const LEAST_AGE = 60_000
/** From here on Redis may trim a node of its tree at a time, and keep up to 100 more: half the cost, and no promise says "no more than". */
const ROUGH = 1_000

/** UTF-8 cannot tell lone surrogates apart, so a name with some goes as JSON; and one that looks like that, too. */
export function streamOf (key: string, name: string): string {
  return `${key}:c:${/\p{Surrogate}|^"/u.test(name) ? JSON.stringify(name) : name}`
}

export function encodeHead ({ kind, serialized, event, channels }: NewEntry): string {
  const head: Head = [kind === 'end' ? 'x' : 'e', serialized ? 1 : 0, event ?? null]
  return JSON.stringify(channels.length === 1 ? head : [...head, channels])
}

/** As XADD takes them ('0': no stream at all, '': without an end) and PEXPIRE ('0': never). */
export function encodeLimits ({ maxEvents, maxAge, latest }: ChannelLimits, kind: NewEntry['kind']): [limit: string, expiry: string] {
  const count = (latest ? Math.min(1, maxEvents) : Math.floor(maxEvents)) + (kind === 'end' ? 1 : 0)
  const limit = count === 0 ? '0' : count >= Number.MAX_SAFE_INTEGER ? '' : (count < ROUGH ? '=' : '~') + count
  return [limit, maxAge === 0 || maxAge >= Number.MAX_SAFE_INTEGER ? '0' : String(Math.ceil(Math.max(LEAST_AGE, maxAge)))]
}

/** What stands in Redis was written by anybody, so it is checked like what is published: undefined where it is none of ours. */
function decodeEntry (seq: number, name: string, head: string | undefined, data: string | undefined): Entry | undefined {
  if (!isSeq(seq) || head === undefined || data === undefined) return undefined
  const parsed = parse(head)
  if (!Array.isArray(parsed)) return undefined
  const [kind, serialized, event, channels = [name]] = parsed as Partial<Head>
  const good = (kind === 'e' || (kind === 'x' && channels.length === 1)) && (serialized === 0 || serialized === 1) &&
    (event === null || isEventName(event)) &&
    Array.isArray(channels) && channels.every(channel => typeof channel === 'string') && channels.includes(name) && new Set(channels).size === channels.length
  return good ? { seq, channels, kind: kind === 'e' ? 'event' : 'end', event: event ?? undefined, data, serialized: serialized === 1 } : undefined
}

/** A message: `<life> <seq> <prev of each channel...>`, head and data, a line each, of which only the last may have more. */
export function decodeHeard (message: string, name: string): HeardEntry | undefined {
  const first = message.indexOf('\n')
  const second = message.indexOf('\n', first + 1)
  if (first < 0 || second < 0) return undefined
  const [life, seq, ...rest] = message.slice(0, first).split(' ')
  const entry = decodeEntry(Number(seq), name, message.slice(first + 1, second), message.slice(second + 1))
  const prevs = rest.map(Number)
  if (entry === undefined || !isLife(life) || prevs.length !== entry.channels.length || !prevs.every(prev => isSeq(Math.abs(prev)))) return undefined
  return { ...entry, life, prevs }
}

/** Rows in the order of a stream, as XRANGE answers, without those that are none of ours. */
export function * decodeRows (rows: readonly Row[], name: string, now: number): Generator<KeptEntry & { prev: number }> {
  for (const [id, fields] of rows) {
    const field = (key: string) => { for (let i = 0; i < fields.length; i += 2) if (fields[i] === key) return fields[i + 1] }
    const entry = id.endsWith('-0') ? decodeEntry(Number(id.slice(0, -2)), name, field('h'), field('d')) : undefined
    const prev = Number(field('p') ?? NaN)
    const age = now - Number(field('t') ?? NaN)
    // Clocks of two servers differ, so it may come from the future.
    if (entry !== undefined && isSeq(Math.abs(prev)) && !Number.isNaN(age)) yield { ...entry, prev, age: Math.max(0, age) }
  }
}

const isSeq = (value: number) => Number.isInteger(value) && value >= 0 && value < MAX_SEQ
const isLife = (value: unknown): value is string => typeof value === 'string' && /^[0-9A-Za-z]{1,32}$/.test(value)

function parse (text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Not ours: nobody else's entry may stop the reader.
    return undefined
  }
}
