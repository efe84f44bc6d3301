import type { EventEmitter } from 'node:events'
import type { Writable } from 'node:stream'
import type { Stream } from './stream.ts'

type Listener = (...args: any[]) => void
/** What Fastify's watch of the response listens to. */
const WATCHED = ['close', 'end', 'error', 'finish', 'prefinish', 'complete', 'abort', 'request', 'aborted'] as const

/**
 * What `reply.send()` is given in place of a stream: just enough of a Readable for Fastify to run its onSend hooks, set the headers and
 * hand over the response by calling `pipe()`. A real Readable costs 1 to 2 KB a stream.
 */
export class Carrier {
  readonly readable = true
  readonly #stream: Stream
  readonly #response: EventEmitter
  readonly #onOpen: () => void
  /** The listeners that the response had when Fastify last put one on this payload. */
  #before: Map<string, Set<Function>> | undefined

  constructor (stream: Stream, response: EventEmitter, onOpen: () => void) {
    this.#stream = stream
    this.#response = response
    this.#onOpen = onOpen
  }

  pipe (destination: Writable): Writable {
    const native = destination === this.#response as unknown
    if (native) this.#dropWatch()
    this.#onOpen()
    this.#stream.open(destination, native)
    return destination
  }

  /** Nothing is ever emitted; but Fastify calls this right before it watches the response. */
  on (): this {
    this.#before = new Map(WATCHED.map(event => [event, new Set(this.#response.rawListeners(event))]))
    return this
  }

  /**
   * Fastify watches a response to log "stream closed prematurely" when it closes before the payload ended, which is how every
   * SSE response closes. Its listeners also keep reply, payload and closures alive, 1.3 to 2 KB a stream. So what was put on the
   * response since the last call of `on` goes; listeners of hooks and of applications are older, and stay.
   */
  #dropWatch (): void {
    for (const [event, before] of this.#before ?? []) {
      for (const listener of this.#response.rawListeners(event)) {
        if (!before.has(listener)) this.#response.removeListener(event, listener as Listener)
      }
    }
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

  destroy (): this {
    this.#stream.end('client')
    return this
  }
}
