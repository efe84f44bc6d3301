import { Readable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { SSE_ERR_INVALID_SOURCE, received } from '../errors.ts'
import { isThenable } from '../checks.ts'
import { isChannel, type Channel } from './channel.ts'
import { discardFeed, feed, isFeed, type SseFeed } from './feed.ts'
import type { SseStream } from './sse-stream.ts'
import type { Stream } from './stream.ts'

/** What `reply.sse()` reads events from. */
export type SseSource<Request = FastifyRequest> =
  | Channel
  | readonly Channel[]
  | SseFeed
  | ((stream: SseStream<Request>) => unknown)

/** @throws SSE_ERR_INVALID_SOURCE */
export function checkSource (source: unknown): asserts source is SseSource {
  if (isChannel(source) || typeof source === 'function' || isFeed(source)) return
  throw new SSE_ERR_INVALID_SOURCE('reply.sse()', 'the source', 'a channel, channels, an iterable or async iterable of events, a Readable, a web stream or a function', received(source))
}

/** Channels are joined now, so that nothing is missed while onSend hooks run; anything else starts when the stream opens. */
export function attachSource (stream: Stream, source: SseSource): void {
  if (isChannels(source)) {
    stream.subscribe(source)
    return
  }
  // It may fail before it is read, while onSend hooks run; whoever reads it then gets the error.
  if (source instanceof Readable) source.on('error', () => {})
  stream.onClose(() => discardSource(source))
  stream.onOpen(() => { run(stream, source).catch(error => stream.fail(error)) })
}

/** Tells a source that was not started that nobody will read it. */
export function discardSource (source: unknown): void {
  discardFeed(source)
}

async function run (stream: Stream, source: Exclude<SseSource, Channel | readonly Channel[]>): Promise<void> {
  if (typeof source !== 'function') return await read(stream, source)
  const answer = source(stream)
  const result = isThenable(answer) ? await answer : answer
  if (isFeed(result)) {
    if (stream.state !== 'closed') return await read(stream, result)
    discardFeed(result)
  }
  if (stream.channels.size === 0) stream.end('end')
  else stream.fed()
}

async function read (stream: Stream, source: SseFeed): Promise<void> {
  await feed(source, {
    get done () { return stream.state === 'closed' },
    take: item => stream.send(item),
    onStop: stop => stream.onClose(stop)
  })
  stream.end('end')
}

function isChannels (source: unknown): source is Channel | readonly Channel[] {
  if (Array.isArray(source)) return source.length > 0 && source.every(isChannel)
  return isChannel(source)
}
