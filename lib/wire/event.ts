import { SSE_ERR_INVALID_EVENT, received } from '../errors.ts'
import { isRetry } from '../checks.ts'

/**
 * One event as a client receives it (WHATWG HTML 9.2.5, "Parsing an event stream"). At least one of `data`, `id`, `retry` and `comment`
 * must be given; without `data` nothing fires. `undefined` is the same as leaving a field out; `''`, `0`, `false` and `null` are values.
 */
export interface SseEvent<Data = unknown> {
  /** A string is sent as it is; anything else goes through the `serialize` option, JSON by default. */
  data?: Data | undefined
  /** The type that `addEventListener` takes; without it browsers fire `message`. No CR or LF, not `sse.gap` or `sse.end`. Only with `data`. */
  event?: string | undefined
  /** The client's new last event ID; `''` resets it. No CR, LF or NUL. */
  id?: string | undefined
  /** The client's new reconnection time, in whole milliseconds. */
  retry?: number | undefined
  /** Lines that clients ignore. */
  comment?: string | undefined
}

/** An event of the history, as filters and `history()` see it. It is shared between streams: read it, do not change it. */
export interface StoredEvent<Data = unknown> {
  /** Its cursor: the `id` that clients receive. */
  id: string
  /** The channels that it was published to. */
  channels: readonly string[]
  event?: string
  /** As it was published, through `serialize` and `parse`; `undefined` if it had none. */
  data: Data
}

/** The fields of one event, checked, with data as text. */
export interface EventFields {
  id?: string | undefined
  event?: string | undefined
  retry?: number | undefined
  data?: string | undefined
  comment?: string | undefined
}

const LINE_END = /\r\n|\r|\n/g
const HAS_LINE_END = /[\r\n]/
/** The names that the plugin itself uses: a client would take an application's event for its own. */
const RESERVED: readonly unknown[] = ['sse.gap', 'sse.end']
const LF = 10
const CR = 13

/**
 * Encodes one event: comment, id, event, retry, data, and the blank line that dispatches it (WHATWG HTML 9.2.6). The fields
 * must have passed `checkFields`.
 */
export function encodeEvent (fields: EventFields): string {
  let text = ''
  if (fields.comment !== undefined) text += lines(': ', fields.comment)
  if (fields.id !== undefined) text += `id: ${fields.id}\n`
  if (fields.event !== undefined) text += `event: ${fields.event}\n`
  if (fields.retry !== undefined) text += `retry: ${fields.retry}\n`
  if (fields.data !== undefined) text += lines('data: ', fields.data)
  return text + '\n'
}

/** Encodes a comment, one line for each line of the text. */
export function encodeComment (text: string): string {
  return encodeEvent({ comment: text })
}

/** Encodes a block that sets the client's last event ID and fires nothing. */
export function encodeCursor (cursor: string): string {
  return encodeEvent({ id: cursor })
}

/** The length of `encodeEvent`, in bytes, without encoding. */
export function measureEvent ({ comment, id, event, retry, data }: EventFields): number {
  return 1 + measureLines(2, comment) + measureLines(4, id) + measureLines(7, event) + measureLines(7, retry?.toString()) + measureLines(6, data)
}

/** @param prefix its length */
function measureLines (prefix: number, text: string | undefined): number {
  if (text === undefined) return 0
  let bytes = Buffer.byteLength(text) + prefix + 1
  if (!HAS_LINE_END.test(text)) return bytes
  // Each line end, of one character or two, becomes one, and the prefix of the next line. Data of nothing else must not hold the event loop.
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === LF || (code === CR && text.charCodeAt(i + 1) !== LF)) bytes += prefix
    else if (code === CR) bytes--
  }
  return bytes
}

function lines (prefix: string, text: string): string {
  if (!HAS_LINE_END.test(text)) return prefix + text + '\n'
  return prefix + text.replace(LINE_END, '\n' + prefix) + '\n'
}

/**
 * Checks an event and turns its data into text.
 * @throws SSE_ERR_INVALID_EVENT naming the field, the rule and the value
 */
export function checkFields (event: SseEvent | string, serialize: (data: unknown) => string): EventFields & { serialized: boolean } {
  if (typeof event === 'string') return { data: event, serialized: false }
  if (typeof event !== 'object' || event === null) throw new SSE_ERR_INVALID_EVENT('event', 'must be an object or a string', received(event))
  const { id, event: name, retry, comment, data } = event
  if (id === undefined && name === undefined && retry === undefined && comment === undefined && data === undefined) {
    throw new SSE_ERR_INVALID_EVENT('event', 'must have one of data, id, retry and comment', received(event))
  }
  if (id !== undefined && (typeof id !== 'string' || /[\r\n\0]/.test(id))) {
    throw new SSE_ERR_INVALID_EVENT('id', 'must be a string without CR, LF and NUL', received(id))
  }
  if (name !== undefined && !isEventName(name)) {
    throw new SSE_ERR_INVALID_EVENT('event', RESERVED.includes(name) ? 'must not be one of the plugin\'s own names' : 'must be a string without CR and LF', received(name))
  }
  if (name !== undefined && data === undefined) {
    throw new SSE_ERR_INVALID_EVENT('data', `must be given with the name ${received(name)}: no client ever fires an event without data, so write "data: ''" or "data: null"`, received(data))
  }
  if (retry !== undefined && !isRetry(retry)) {
    throw new SSE_ERR_INVALID_EVENT('retry', 'must be a whole number of milliseconds >= 0', received(retry))
  }
  if (comment !== undefined && typeof comment !== 'string') {
    throw new SSE_ERR_INVALID_EVENT('comment', 'must be a string', received(comment))
  }
  const serialized = data !== undefined && typeof data !== 'string'
  return { id, event: name, retry, comment, data: serialized ? toText(data, serialize) : data as string | undefined, serialized }
}

/** Whether it may be the name of an application's event. */
export function isEventName (name: unknown): name is string {
  return typeof name === 'string' && !HAS_LINE_END.test(name) && !RESERVED.includes(name)
}

function toText (data: unknown, serialize: (data: unknown) => string): string {
  let text: unknown
  try {
    text = serialize(data)
  } catch (cause) {
    throw new SSE_ERR_INVALID_EVENT('data', 'must be something that "serialize" takes', received(data), { cause })
  }
  if (typeof text !== 'string') throw new SSE_ERR_INVALID_EVENT('data', `must serialize to a string, not to ${received(text)}`, received(data))
  return text
}

/** A name and its data given as two arguments, as other libraries take them: the second would be lost. */
export function twoArguments (method: string, first: unknown, second: unknown): Error {
  return new SSE_ERR_INVALID_EVENT('event', `must be one object or string: write ${method}({ event: name, data })`, `${received(first)} and ${received(second)}`)
}
