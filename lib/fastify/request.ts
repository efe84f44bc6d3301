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
  return weight(this.headers.accept, 'text/event-stream') > 0
}

/** Whether Accept-Encoding takes gzip, and does not like a plain body better (RFC 9110, section 12.5.3). Without the header nothing is known: no. */
export function acceptsGzip ({ headers }: FastifyRequest): boolean {
  const encodings = String(headers['accept-encoding'] ?? '')
  const named = Math.max(weight(encodings, 'gzip'), weight(encodings, 'x-gzip'))
  const gzip = named >= 0 ? named : weight(encodings, '*')
  const identity = weight(encodings, 'identity')
  return gzip > 0 && gzip >= (identity >= 0 ? identity : weight(encodings, '*'))
}

/** The greatest weight that a list gives to a name (RFC 9110, section 12.4.2); -1 where it is not in it, 0 where its weight is none. */
function weight (list: string | undefined, name: string): number {
  let weight = -1
  for (const member of list?.split(',') ?? []) {
    const [value, ...parameters] = member.split(';').map(part => part.trim().toLowerCase())
    if (value !== name) continue
    const q = parameters.map(parameter => /^q\s*=\s*(.*)$/.exec(parameter)?.[1]).find(q => q !== undefined) ?? '1'
    weight = Math.max(weight, /^(0(\.\d*)?|1(\.0*)?)$/.test(q) ? Number(q) : 0)
  }
  return weight
}
