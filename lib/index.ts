import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { Carrier } from './carrier.ts'
import type { Channel, StoredEventOf } from './channel.ts'
import { drain, keepSockets } from './drain.ts'
import { SSE_ERR_ALREADY_REGISTERED, SSE_ERR_ALREADY_SENT, SSE_ERR_CLOSED } from './errors.ts'
import { memoryBackplane } from './memory-backplane.ts'
import { checkAnswer, checkStreamOptions, isPlain, resolveOptions, type SseOptions, type SsePluginOptions } from './options.ts'
import { isGone } from './outlet.ts'
import { Registry, type SseRegistry } from './registry.ts'
import { attachSource, checkSource, discardSource, type SseSource } from './source.ts'
import { Stream, type SseStream } from './stream.ts'

export { memoryBackplane }
export type { Backplane, Entry, NewEntry, Receiver } from './backplane.ts'
export type { Channel, PublishEvent, SseChannels, StoredEventOf } from './channel.ts'
export type { SseEvent, StoredEvent } from './event.ts'
export type { SseOptions, SsePluginOptions, SubscribeOptions } from './options.ts'
export type { SseRegistry, SseRegistryEvents } from './registry.ts'
export type { SseStats } from './stats.ts'
export type { SseItem, SseSource } from './source.ts'
export type { CloseReason, SseStream } from './stream.ts'
export type { Filter, GapReason } from './subscription.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Channels, open streams and history of this application. */
    sse: SseRegistry
  }

  interface FastifyRequest {
    /** Whether Accept names text/event-stream with q > 0 (RFC 9110, section 12.5.1): for routes that serve something else too. */
    acceptsSse (): boolean
  }

  interface FastifyReply {
    /**
     * Answers with an event stream, fed from a source, like `reply.send()`: return it from the handler.
     * @throws SSE_ERR_INVALID_SOURCE, SSE_ERR_INVALID_OPTION, SSE_ERR_ALREADY_SENT, SSE_ERR_CLOSED, SSE_ERR_TOO_MANY_STREAMS,
     * SSE_ERR_TOO_MANY_STREAMS_FOR_KEY
     */
    sse<Events> (source: Channel<Events> | ReadonlyArray<Channel<Events>>, options?: SseOptions<StoredEventOf<Events>>): this
    sse (source: SseSource, options?: SseOptions): this
    /** Answers with an event stream to drive by hand. `options` are the defaults of its `subscribe()`. @throws as above */
    sse (options?: SseOptions): SseStream
  }
}

/** Where a reply keeps its stream. */
const kStream = Symbol('fastify-sse-channels.stream')
type Reply = FastifyReply & { [kStream]: Stream | null }
/** Replies whose error handler runs or ran: nothing but its answer comes after it, and that must pass. */
const failed = new WeakSet<FastifyReply>()

async function plugin (app: FastifyInstance, given: SsePluginOptions): Promise<void> {
  if (app.hasDecorator('sse')) throw new SSE_ERR_ALREADY_REGISTERED()
  const options = resolveOptions(given)
  const registry = new Registry(options, options.backplane ?? memoryBackplane(), app.log)

  app.decorate('sse', registry as unknown as SseRegistry)
  app.decorateRequest('acceptsSse', acceptsSse)
  app.decorateReply(kStream, null)
  app.decorateReply('sse', function (this: Reply, ...args: unknown[]) {
    return open(registry, this, args)
  } as FastifyReply['sse'])

  app.addHook('onError', (request, reply, error, done) => {
    onError(reply as Reply)
    done()
  })
  const sockets = app.initialConfig.http2 === true ? keepSockets(app.server) : new Map<string, Socket>()
  app.addHook('preClose', () => drain(registry, sockets))
  app.addHook('onClose', async () => {
    unsubscribe(HANDLER_ERROR, onHandlerError)
    await registry.close()
  })
  subscribe(HANDLER_ERROR, onHandlerError)
  await registry.open()
}

/** `app.register(sse, options)`: adds `reply.sse()`, `request.acceptsSse()` and `app.sse`. */
export default fp(plugin, { fastify: '5.x', name: 'fastify-sse-channels' })

function open (registry: Registry, reply: Reply, args: unknown[]): FastifyReply | SseStream {
  const { request } = reply
  const driven = args.length < 2 && isOptions(args[0])
  const source = driven ? undefined : args[0]
  try {
    const options = checkStreamOptions((driven ? args[0] : args[1]) as SseOptions | undefined ?? {})
    if (!driven) checkSource(source)
    if (reply.sent || reply[kStream] !== null || reply.raw.headersSent) throw new SSE_ERR_ALREADY_SENT(request.method, request.url)
    if (registry.closing) throw new SSE_ERR_CLOSED('reply.sse()')
    const stream = admit(registry, reply, options)
    try {
      if (source !== undefined) attachSource(stream, source as SseSource)
    } catch (error) {
      stream.end('error')
      reply[kStream] = null
      throw error
    }
    send(reply, stream)
    return driven ? stream : reply
  } catch (error) {
    discardSource(source)
    throw error
  }
}

/** Counts the stream in, or answers with Retry-After. */
function admit (registry: Registry, reply: Reply, options: SseOptions): Stream {
  const { request } = reply
  const key = registry.admission.perKey ? checkAnswer('streamKey', registry.options.streamKey(request)) : undefined
  try {
    registry.admission.enter(key)
  } catch (error) {
    reply.header('retry-after', Math.max(1, Math.ceil(registry.options.retry / 1000)))
    throw error
  }
  const stream = new Stream(registry, { request, response: reply.raw, key, lastEventId: lastEventId(request, options), options })
  reply[kStream] = stream
  if (request.method === 'HEAD') stream.end('end')
  return stream
}

function send (reply: FastifyReply, stream: Stream): void {
  if (isGone(reply.raw)) {
    reply.hijack()
    return
  }
  reply.header('content-type', 'text/event-stream')
  if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-cache, no-transform')
  reply.header('x-accel-buffering', 'no')
  const carrier = new Carrier(stream, reply.raw, () => {
    if (Object.hasOwn(reply, 'sent')) delete (reply as { sent?: boolean }).sent
    reply.hijack()
  })
  reply.send(carrier)
  reply.send = sendNothingElse
  // onSend hooks are still running: the reply counts as sent for all that comes, but for the answer to a hook that fails.
  if (stream.state === 'opening' && !reply.sent && !failed.has(reply)) Object.defineProperty(reply, 'sent', { value: true, configurable: true })
}

/** In place of `reply.send` on a reply with a stream: Fastify passes it what the handler returns, and would warn about that stream. */
function sendNothingElse (this: FastifyReply, payload?: unknown): FastifyReply {
  const stream = (this as Reply)[kStream]
  if (payload === undefined || payload === stream) return this
  // Something threw after reply.sse(), and no error response can be sent any more.
  if (payload instanceof Error && this.sent) {
    stream?.fail(payload)
    return this
  }
  return (Object.getPrototypeOf(this) as FastifyReply).send.call(this, payload)
}

/** Fastify is about to answer with an error: the reply must not count as sent any more, and what was to come is off. */
function onError (reply: Reply): void {
  failed.add(reply)
  const stream = reply[kStream]
  if (stream === null) return
  if (Object.hasOwn(reply, 'sent')) delete (reply as { sent?: boolean }).sent
  stream.end('error')
}

const HANDLER_ERROR = 'tracing:fastify.request.handler:error'

/** A handler that threw after reply.sse(): Fastify cannot answer any more, and tells nobody but this channel. */
function onHandlerError (message: unknown): void {
  const { reply, error } = message as { reply: Partial<Reply>, error: unknown }
  reply[kStream]?.fail(error)
}

function isOptions (value: unknown): value is SseOptions | undefined {
  return value === undefined || (isPlain(value) && !(Symbol.iterator in value) && !(Symbol.asyncIterator in value))
}

/** Stands for a cursor that cannot be read: of no log. */
const UNREADABLE = '?'

/** What the client has: the option wins, then the header, then the query, which a page that cannot set headers may use. */
function lastEventId (request: FastifyRequest, options: SseOptions): string | null {
  if (options.lastEventId !== undefined) return options.lastEventId
  const header = request.headers['last-event-id']
  // Node reads headers as latin1; a client encodes this one as UTF-8 (WHATWG HTML 9.2.3).
  if (header !== undefined && header !== '') return Buffer.from(String(header), 'latin1').toString()
  const query = (request.query as { lastEventId?: unknown } | null | undefined)?.lastEventId
  if (query === undefined || query === '') return null
  // What a parser makes of `?lastEventId[x]=a` is no cursor, and may be an object that cannot be made a string.
  return typeof query === 'object' ? UNREADABLE : String(query)
}

function acceptsSse (this: FastifyRequest): boolean {
  return (this.headers.accept ?? '').split(',').some(range => {
    const [type, ...parameters] = range.split(';').map(part => part.trim().toLowerCase())
    return type === 'text/event-stream' && !parameters.some(parameter => /^q\s*=\s*0(\.0*)?$/.test(parameter))
  })
}
