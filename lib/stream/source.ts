import { Readable } from 'node:stream'
import type { FastifyRequest } from 'fastify'
import { SSE_ERR_INVALID_SOURCE, received } from '../errors.ts'
import { isThenable } from '../checks.ts'
import { isChannel, type Channel } from './channel.ts'
import { discardFeed, feed, isFeed, unheard, type SseFeed } from './feed.ts'
import type { CloseReason, SseStream } from './sse-stream.ts'

/** What `reply.sse()` reads events from. */
export type SseSource<Request = FastifyRequest> =
  | Channel
  | readonly Channel[]
  | SseFeed
  | ((stream: SseStream<Request>) => unknown)

/** @throws SSE_ERR_INVALID_SOURCE */
export function checkSource (source: unknown): asserts source is SseSource {
  if (isChannel(source) || typeof source === 'function' || isFeed(source)) return
  throw new SSE_ERR_INVALID_SOURCE('reply.sse()', 'a channel, channels, an iterable or async iterable of events, a Readable, a web stream or a function', received(source))
}

/** The stream of a source. */
export interface Fed extends SseStream {
  /** Undefined once it is through. */
  source: Source | undefined
  /** Its source is through: it lives on by its channels. */
  fed (): void
  fail (error: unknown): void
  end (reason: CloseReason): void
}

/** Channels are joined now, so that nothing is missed while onSend hooks run; anything else starts when the stream opens. */
export function attachSource (stream: Fed, source: SseSource): void {
  if (isChannels(source)) {
    stream.subscribe(source)
    return
  }
  stream.source = new Source(source)
  if (stream.state === 'closed') stream.source.stop()
}

/** What feeds a stream besides its channels: an iterable, or a function. */
export class Source {
  readonly #source: Exclude<SseSource, Channel | readonly Channel[]>
  #stop: () => void

  constructor (source: Exclude<SseSource, Channel | readonly Channel[]>) {
    this.#source = source
    this.#stop = () => discardFeed(source)
    // It may fail before it is read, while onSend hooks run; whoever reads it then gets the error.
    if (source instanceof Readable) unheard(source)
  }

  /** The stream is open. */
  start (stream: Fed): void {
    this.#run(stream).catch(error => stream.fail(error))
  }

  /** The stream is closed. */
  stop (): void { this.#stop() }

  async #run (stream: Fed): Promise<void> {
    const source = this.#source
    if (typeof source !== 'function') return await this.#read(stream, source)
    const answer = source(stream)
    const result = isThenable(answer) ? await answer : answer
    if (isFeed(result)) {
      if (stream.state !== 'closed') return await this.#read(stream, result)
      discardFeed(result)
    }
    stream.source = undefined
    if (stream.channels.size === 0) stream.end('end')
    else stream.fed()
  }

  async #read (stream: Fed, source: SseFeed): Promise<void> {
    await feed(source, {
      get done () { return stream.state === 'closed' },
      take: item => stream.send(item),
      onStop: stop => { this.#stop = stop }
    })
    stream.end('end')
  }
}

function isChannels (source: unknown): source is Channel | readonly Channel[] {
  if (Array.isArray(source)) return source.length > 0 && source.every(isChannel)
  return isChannel(source)
}
