import { AsyncLocalStorage } from 'node:async_hooks'
import type { FastifyReply } from 'fastify'
import { SSE_ERR_ALREADY_SENT, SSE_ERR_CLOSED } from '../errors.ts'
import { checkAnswer, isPlain } from '../checks.ts'
import type { Registry } from '../registry/registry.ts'
import { discardFeed } from '../stream/feed.ts'
import { isGone } from '../stream/outlet.ts'
import { attachSource, checkSource, type SseSource } from '../stream/source.ts'
import { checkStreamOptions, type SseOptions, type SseStream } from '../stream/sse-stream.ts'
import { Stream } from '../stream/stream.ts'
import type { Admission } from './admission.ts'
import { Carrier } from './carrier.ts'
import { dropCompleted } from './logging.ts'
import { acceptsGzip, lastEventId } from './request.ts'

/** Where a reply keeps its stream. */
export const kStream = Symbol('fastify-sse-channels.stream')
export type Reply = FastifyReply & { [kStream]: Stream | null }
/**
 * Replies whose error handler runs or ran: nothing but its answer comes after it, and that must pass. An answer of nothing is told from a
 * handler that returns nothing, maybe later, by the context in which the error handler runs.
 */
const failed = new WeakMap<FastifyReply, AsyncLocalStorage<boolean> | undefined>()
/** Replies that count as sent while onSend hooks run, or Redis is asked, with the timer that ends it. */
const held = new WeakMap<FastifyReply, NodeJS.Timeout | undefined>()

/** `reply.sse(...args)`. */
export function open (registry: Registry, admission: Admission, reply: Reply, args: unknown[]): FastifyReply | SseStream {
  const { request } = reply
  const driven = args.length < 2 && isOptions(args[0])
  const source = driven ? undefined : args[0]
  try {
    const options = checkStreamOptions((driven ? args[0] : args[1]) as SseOptions | undefined ?? {})
    if (!driven) checkSource(source)
    if (reply.sent || reply[kStream] !== null || reply.raw.headersSent) throw new SSE_ERR_ALREADY_SENT(request.method, request.url)
    if (registry.closing) throw new SSE_ERR_CLOSED('reply.sse()')
    const stream = admit(registry, admission, reply, options)
    try {
      if (source !== undefined) attachSource(stream, source as SseSource)
    } catch (error) {
      stream.end('error')
      reply[kStream] = null
      throw error
    }
    if (source !== undefined && stream.reader !== undefined) sendWhenKnown(registry, reply, stream)
    else send(registry, reply, stream)
    return driven ? stream : reply
  } catch (error) {
    discardFeed(source)
    throw error
  }
}

/** Counts the stream in, or answers with Retry-After. */
function admit (registry: Registry, admission: Admission, reply: Reply, options: SseOptions): Stream {
  const { request } = reply
  const key = admission.perKey ? checkAnswer('streamKey', registry.options.streamKey(request)) : undefined
  try {
    admission.enter(registry.streams.size, key)
  } catch (error) {
    reply.header('retry-after', Math.max(1, Math.ceil(registry.options.retry / 1000)))
    throw error
  }
  const stream = new Stream(registry, { request, response: reply.raw, key, lastEventId: lastEventId(request, options), options })
  if (stream.state !== 'closed') registry.streams.add(stream)
  reply[kStream] = stream
  return stream
}

/** ms that a response waits for the backplane to say whether its channels have ended. */
const PATIENCE = 1_000

/** Channels that have all ended, with nothing more for this client: 204 stops a browser's EventSource for good (WHATWG HTML 9.2.3). */
function sendWhenKnown (registry: Registry, reply: FastifyReply, stream: Stream): void {
  const answer = (nothing: boolean): void => {
    if (!nothing || isGone(reply.raw)) return send(registry, reply, stream)
    stream.end('end')
    keepFresh(reply)
    reply.code(204).send()
    reply.send = sendNothingElse
  }
  const nothing = stream.reader?.nothingToCome
  if (nothing !== undefined) return answer(nothing)
  hold(reply)
  const known = (nothing: boolean): void => {
    stream.onMove = undefined
    clearTimeout(late)
    if (isOff(reply)) return
    release(reply)
    // A header that cannot be sent throws, and whoever moves streams is not to hear of it.
    try {
      answer(nothing)
    } catch (error) {
      reply.send(error)
    }
  }
  const late = setTimeout(known, PATIENCE, false)
  stream.onMove = () => {
    const nothing = stream.state !== 'closed' && stream.reader?.nothingToCome
    if (nothing !== undefined) known(nothing)
  }
}

/** ms by which `handlerTimeout` must find a reply that is not sent: its timer counts from a little earlier. */
const MARGIN = 5

/** From here on the reply counts as sent for all that comes, but for the answer to an onSend hook that fails, or hangs until the `handlerTimeout`. */
function hold (reply: FastifyReply): void {
  if (reply.sent || failed.has(reply)) return
  const { handlerTimeout } = reply.request.routeOptions
  const time = handlerTimeout > 0 ? handlerTimeout - reply.elapsedTime - MARGIN : Infinity
  if (time <= 0) return
  Object.defineProperty(reply, 'sent', { value: true, configurable: true })
  // What a hook put in between may be on its way by then: a web stream is sent without a 'pipe'.
  const late = (): void => { (reply as Reply)[kStream]?.state === 'open' && reply.raw.headersSent ? reply.hijack() : release(reply) }
  const timer = time === Infinity ? undefined : setTimeout(late, time)
  held.set(reply, timer)
  // A hook that replaces the payload answers without a word to us.
  if (timer !== undefined) reply.raw.once('close', () => clearTimeout(timer))
}

function release (reply: FastifyReply): void {
  if (!held.has(reply)) return
  clearTimeout(held.get(reply))
  held.delete(reply)
  delete (reply as { sent?: boolean }).sent
}

/**
 * What a handler or hook may have set by hand, and what is not true of a stream: it has no length, no state that a cache could ask for, its
 * bytes are as they are, and how they are framed is the protocol's. What onSend hooks set is theirs: one may compress.
 */
const NOT_OF_A_STREAM = ['content-length', 'transfer-encoding', 'connection', 'keep-alive', 'content-encoding', 'content-range', 'accept-ranges', 'etag', 'last-modified', 'trailer']

function dropFalseHeaders (reply: FastifyReply): void {
  const framed = reply.hasHeader('transfer-encoding')
  // Removing what is not there would say to Node that it is not to frame the body.
  for (const name of NOT_OF_A_STREAM) if (reply.hasHeader(name)) reply.removeHeader(name)
  if (framed && reply.request.raw.httpVersion === '1.1') reply.header('transfer-encoding', 'chunked')
}

/** No cache may answer for us, nor change what passes. */
function keepFresh (reply: FastifyReply): void {
  if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-cache, no-transform')
}

function send (registry: Registry, reply: FastifyReply, stream: Stream): void {
  if (reply.request.method === 'HEAD') stream.end('end')
  if (isGone(reply.raw)) {
    reply.hijack()
    return
  }
  dropFalseHeaders(reply)
  reply.header('content-type', 'text/event-stream')
  keepFresh(reply)
  reply.header('x-accel-buffering', 'no')
  // A client that hears nothing for much longer knows that its connection is dead.
  const { heartbeatInterval } = registry.options
  if (heartbeatInterval > 0) reply.header('sse-heartbeat', heartbeatInterval)
  // Looked at once: a handler's object may change while onSend hooks run.
  const wanted = stream.compression
  const compression = wanted !== undefined && acceptsGzip(reply.request) ? wanted : undefined
  if (compression !== undefined) announceGzip(reply)
  const take = (): void => {
    if (isOff(reply)) return
    release(reply)
    reply.hijack()
  }
  const carrier = new Carrier(stream, reply.raw, native => {
    if (isOff(reply)) return false // the hook that hung until the handlerTimeout has ended after all
    if (native) take()
    else {
      // A hook has put something in between, and those after it may still fail or hang: the reply is taken when that is sent.
      hold(reply)
      reply.raw.once('pipe', take)
    }
    // Node leaves the body of this one out, and its client is through. Of a 204 Fastify lets the body go.
    if (reply.statusCode === 304) stream.end('end')
    if (registry.closing) stream.drain()
    if (stream.state === 'opening') dropCompleted(reply)
    // A hook that wants the plain text to encode has taken it away.
    return reply.getHeader('content-encoding') === 'gzip' ? compression : undefined
  })
  reply.send(carrier)
  reply.send = sendNothingElse
  // onSend hooks are still running: the reply counts as sent for all that comes, but for the answer to a hook that fails.
  if (stream.state === 'opening') hold(reply)
}

function announceGzip (reply: FastifyReply): void {
  reply.header('content-encoding', 'gzip')
  const vary = String(reply.getHeader('vary') ?? '')
  if (!/(^|[\s,])(accept-encoding|\*)($|[\s,])/i.test(vary)) reply.header('vary', vary === '' ? 'accept-encoding' : `${vary}, accept-encoding`)
}

/** Its stream is: Fastify answers, or has answered, with an error. */
function isOff (reply: FastifyReply): boolean {
  return failed.get(reply) !== undefined
}

/** In place of `reply.send` on a reply with a stream: Fastify passes it what the handler returns, and would warn about that stream. */
function sendNothingElse (this: FastifyReply, payload?: unknown): FastifyReply {
  const stream = (this as Reply)[kStream]
  if (payload === stream || (payload === undefined && failed.get(this)?.getStore() !== true)) return this
  // Something threw after reply.sse(), and no error response can be sent any more.
  if (payload instanceof Error && this.sent) {
    stream?.fail(payload)
    return this
  }
  return (Object.getPrototypeOf(this) as FastifyReply).send.call(this, payload)
}

/** Fastify is about to answer with an error: the reply must not count as sent any more, and what was to come is off. */
export function onError (reply: Reply, answer: () => void): void {
  const stream = reply[kStream]
  if (stream === null) {
    failed.set(reply, undefined)
    return answer()
  }
  const answering = new AsyncLocalStorage<boolean>()
  failed.set(reply, answering)
  release(reply)
  reply.removeHeader('content-encoding') // of the stream: the answer is plain
  if (!reply.sent) stream.detach() // what a hook put in between was not sent, and the answer can be
  stream.end('error')
  if (isGone(reply.raw)) return answer()
  // Until the answer is through, for following a context has its price for the whole process.
  reply.raw.once('close', () => answering.disable())
  answering.run(true, answer)
}

function isOptions (value: unknown): value is SseOptions | undefined {
  return value === undefined || (isPlain(value) && !(Symbol.iterator in value) && !(Symbol.asyncIterator in value))
}
