import createError from '@fastify/error'

/** An option of `register()`, or of a call that takes options, breaks its rule or does not exist; or `streamKey`, a `filter` or `history.channel` gave an answer that is none. */
export const SSE_ERR_INVALID_OPTION = createError<[option: string, rule: string, received: string]>(
  'SSE_ERR_INVALID_OPTION', 'option "%s" must be %s, received %s', 500, TypeError)

/** An event that the wire format cannot carry, or a field that is not allowed here. */
export const SSE_ERR_INVALID_EVENT = createError<[field: string, rule: string, received: string, options?: ErrorOptions]>(
  'SSE_ERR_INVALID_EVENT', 'event: "%s" %s, received %s', 500, TypeError)

/** One encoded event is larger than `maxEventBytes`. */
export const SSE_ERR_EVENT_TOO_LARGE = createError<[bytes: number, max: number]>(
  'SSE_ERR_EVENT_TOO_LARGE', 'event: it has %d bytes when encoded, but "maxEventBytes" is %d', 413)

/** Not the name of a channel, or not a channel of this registry. */
export const SSE_ERR_INVALID_CHANNEL = createError<[rule: string, received: string]>(
  'SSE_ERR_INVALID_CHANNEL', 'channel: must be %s, received %s', 500, TypeError)

/** `reply.sse()` or `publishFrom()` was given something that it cannot read events from. */
export const SSE_ERR_INVALID_SOURCE = createError<[where: string, rule: string, received: string]>(
  'SSE_ERR_INVALID_SOURCE', '%s: the source must be %s, received %s', 500, TypeError)

/** `maxStreams` streams are open in this process. The response carries `Retry-After`. */
export const SSE_ERR_TOO_MANY_STREAMS = createError<[max: number]>(
  'SSE_ERR_TOO_MANY_STREAMS', '"maxStreams" is %d, and that many streams are open', 503)

/** `maxStreamsPerKey` streams of this `streamKey` are open. The response carries `Retry-After`. */
export const SSE_ERR_TOO_MANY_STREAMS_FOR_KEY = createError<[max: number]>(
  'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY', '"maxStreamsPerKey" is %d, and that many streams are open for this client', 429)

/** `reply.sse()` on a reply that was sent, hijacked, or has a stream already. */
export const SSE_ERR_ALREADY_SENT = createError<[method: string, url: string]>(
  'SSE_ERR_ALREADY_SENT', 'reply.sse(): a response to %s %s was sent already')

/** The plugin is registered twice in one application. */
export const SSE_ERR_ALREADY_REGISTERED = createError<[]>(
  'SSE_ERR_ALREADY_REGISTERED', 'fastify-sse-channels is registered already: use the "sse" of the instance that has it')

/** The backplane cannot take the event now. Whether it took it may be unknown. */
export const SSE_ERR_BACKPLANE_DOWN = createError<[reason: string, options?: ErrorOptions]>(
  'SSE_ERR_BACKPLANE_DOWN', 'the backplane is down: %s', 503)

/** The channel has ended: nothing can be published to it until its history is forgotten. */
export const SSE_ERR_CHANNEL_ENDED = createError<[channel: string]>(
  'SSE_ERR_CHANNEL_ENDED', 'channel: %s has ended and takes no more events', 409)

/** The application is closing: no new stream, and after onClose no publish. */
export const SSE_ERR_CLOSED = createError<[what: string]>(
  'SSE_ERR_CLOSED', '%s: the application is closing', 503)

/** A value as an error message shows it: its type, and what it is where that is short. Never throws, whatever the value is. */
export function received (value: unknown): string {
  try {
    return describe(value)
  } catch {
    return typeof value // a proxy or a getter that throws
  }
}

function describe (value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
  if (typeof value === 'function') return 'a function'
  if (typeof value === 'object' && value !== null) {
    const name = Array.isArray(value) ? 'array' : value.constructor?.name
    return name === undefined || name === 'Object' ? 'an object' : `an object (${name})`
  }
  return typeof value === 'bigint' ? `${value}n` : String(value)
}
