import type { EventEmitter } from 'node:events'
import type { ServerResponse } from 'node:http'
import type { Writable } from 'node:stream'
import type { Compression } from '../options.ts'
import type { Stream } from '../stream/stream.ts'

type Listener = (...args: any[]) => void

/** What Node's finished() listens to on a response. */
const WATCHED = ['end', 'finish', 'error', 'close'] as const

/**
 * What `reply.send()` is given in place of a stream: just enough of a Readable for Fastify to run its onSend hooks, set the headers and
 * hand over the response by calling `pipe()`. A real Readable costs 1 to 2 KB a stream.
 */
export class Carrier {
  readonly readable = true
  readonly #stream: Stream
  readonly #response: EventEmitter & Pick<ServerResponse, 'headersSent' | 'hasHeader' | 'removeHeader'>
  readonly #onOpen: (native: boolean) => Compression | undefined | false
  /** How many listeners of each of `WATCHED` the response had when somebody last began to watch this payload. */
  #before: number[] | undefined

  /** @param onOpen says how the body is compressed that the head announces, if it is; false: the reply has another answer by now */
  constructor (stream: Stream, response: EventEmitter & Pick<ServerResponse, 'headersSent' | 'hasHeader' | 'removeHeader'>, onOpen: (native: boolean) => Compression | undefined | false) {
    this.#stream = stream
    this.#response = response
    this.#onOpen = onOpen
  }

  pipe (destination: Writable): Writable {
    const native = destination === this.#response as unknown
    // What a hook put in between is dead: Fastify finds that out, and answers with an error.
    if (!native && destination.destroyed) return destination
    const compression = this.#onOpen(native)
    if (compression === false) return destination
    if (native) {
      this.#dropWatch()
      // As onSend hooks may set it, and Fastify for reply.trailer(): a stream has neither a length nor trailers.
      if (!this.#response.headersSent) for (const name of ['content-length', 'trailer']) if (this.#response.hasHeader(name)) this.#response.removeHeader(name)
    }
    this.#stream.open(destination, native, compression)
    return destination
  }

  /** Nothing is ever emitted. But Fastify watches the payload, up to its 'close', right before it watches the response. */
  on (event: string): this {
    if (event === 'close') this.#before = WATCHED.map(name => this.#response.listenerCount(name))
    return this
  }

  /**
   * Fastify watches a response to log "stream closed prematurely" when it closes before the payload ended, which is how every
   * SSE response closes. Its listeners also keep reply, payload and closures alive, 1.3 to 2 KB a stream. So what was put on the
   * response since the payload was last watched goes; listeners of hooks and of applications are older, and stay.
   */
  #dropWatch (): void {
    this.#before?.forEach((count, i) => {
      const name = WATCHED[i]!
      for (const listener of this.#response.rawListeners(name).slice(count)) this.#response.removeListener(name, listener as Listener)
    })
    this.#before = undefined
  }

  once (): this { return this }
  off (): this { return this }
  removeListener (): this { return this }
  pause (): this { return this }

  /** A response without a body (HEAD, 204): nothing will be piped. */
  resume (): this {
    this.#stream.end('end')
    return this
  }

  /** Whoever destroys it once it is piped has no use for what comes: the connection breaks, as it would for any payload. One that is through stays as it is. */
  destroy (): this {
    if (this.#stream.state === 'closed') return this
    this.#stream.end('client')
    this.#stream.destroy()
    return this
  }
}
