import type { FastifyRequest } from 'fastify'
import type { SseOptions } from '../stream/sse-stream.ts'

/** Stands for a cursor that cannot be read: of no log. */
const UNREADABLE = '?'

/** What the client has: the option wins, then the header, then the query, which a page that cannot set headers may use. */
export function lastEventId (request: FastifyRequest, options: SseOptions): string | null {
  if (options.lastEventId !== undefined) return options.lastEventId
  const header = request.headers['last-event-id']
  // Node reads headers as latin1; a client encodes this one as UTF-8 (WHATWG HTML 9.2.3).
  if (header !== undefined && header !== '') return Buffer.from(String(header), 'latin1').toString()
  const query = (request.query as { lastEventId?: unknown } | null | undefined)?.lastEventId
  if (query === undefined || query === '') return null
  // What a parser makes of `?lastEventId[x]=a` is no cursor, and may be an object that cannot be made a string.
  return typeof query === 'object' ? UNREADABLE : String(query)
}

/** See `FastifyRequest.acceptsSse`. */
export function acceptsSse (this: FastifyRequest): boolean {
  return (this.headers.accept ?? '').split(',').some(range => {
    const [type, ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
    return type === 'text/event-stream' && !parameters.some(parameter => /^q\s*=\s*0(\.0*)?$/.test(parameter))
  })
}
