import { ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import type { Frame } from '../wire/chunk.ts'

/** Hears when an outlet fills up and when it can take more. */
export interface OutletOwner {
  onBlocked (): void
  onDrained (): void
}

/** An open response as something that takes frames, and says when it is full. */
export class Outlet {
  /** Its socket is full. */
  blocked = false
  /** Since when it is, or since when the response has ended and is not flushed: ms of performance.now(). */
  waitingSince = 0

  readonly #response: Writable
  readonly #native: boolean
  readonly #owner: OutletOwner
  /** Something that a hook put in between threw: it may never flush what it has. */
  #threw = false

  /** @param native the response is node:http's own, not something that a hook put in between */
  constructor (response: Writable, native: boolean, owner: OutletOwner) {
    this.#response = response
    this.#native = native
    this.#owner = owner
  }

  /**
   * Writes the head and the first frame. Flushed alone, the head becomes one flat string; joined to the first bytes of the body it
   * would stay a tree of some twenty, 0.5 KB for as long as the response lives.
   */
  open (first: Frame): void {
    const response = this.#response
    if (!this.#native || !(response instanceof ServerResponse) || !(response.socket instanceof Socket)) return this.write(first)
    const { socket } = response
    socket.cork()
    response.flushHeaders()
    this.write(first)
    socket.uncork()
  }

  write (frame: Frame): void {
    const socket = this.#socket()
    if (socket === undefined) this.#writeTo(this.#response, frame.body)
    else this.#writeTo(socket, frame.chunk)
  }

  /**
   * The socket, where writing a whole chunk to it is the same as response.write() and costs a third less. Looked up at each write:
   * a pipelined request has none at first, and somebody may have replaced response.write.
   */
  #socket (): Socket | undefined {
    if (!this.#native) return undefined
    const response = this.#response as ServerResponse
    const { socket } = response
    return response.chunkedEncoding && socket instanceof Socket && !response.writableEnded && response.writableCorked === 0 &&
      response.write === ServerResponse.prototype.write
      ? socket
      : undefined
  }

  #writeTo (taker: Writable, bytes: Buffer): void {
    let room: boolean
    try {
      room = taker.write(bytes)
    } catch (error) {
      this.#threw = true
      throw error
    }
    // An answer of false alone only says that the write passed Node's mark: often the system has taken all of it.
    if (room || taker.writableLength === 0 || this.blocked) return
    this.blocked = true
    this.waitingSince = performance.now()
    // A response never emits 'drain' for what its socket refused, nor the other way round.
    taker.once('drain', () => {
      this.blocked = false
      this.#owner.onDrained()
    })
    this.#owner.onBlocked()
  }

  /** Ends the response after some last bytes. */
  end (last: Uint8Array): void {
    this.#finish(response => { response.end(last) })
  }

  /** Breaks the connection once some last bytes are flushed; a client that takes nothing is somebody else's to give up. */
  breakAfter (last: Uint8Array): void {
    // A write that fails calls back too.
    this.#finish(response => { response.write(last, () => response.destroy()) })
  }

  /** Nothing waits to be written. */
  get flushed (): boolean {
    return this.#response.writableLength === 0 && (this.#socket()?.writableLength ?? 0) === 0
  }

  /** Whoever closes streams must not hear what something of a hook's throws: that breaks its own connection. */
  #finish (how: (response: Writable) => void): void {
    this.waitingSince = performance.now()
    try {
      if (!this.#threw) return how(this.#response)
    } catch {} // Its own connection breaks, and the stream is closed already.
    this.#response.destroy()
  }

  /** Breaks the connection. */
  destroy (): void {
    this.#response.destroy()
  }
}

/** Whether a response is closed, so that no 'close' will come. HTTP/2's has no `destroyed` of its own. */
export function isGone (response: Writable & { stream?: { destroyed?: boolean } }): boolean {
  return response.destroyed ?? response.stream?.destroyed ?? false
}

/** What waits for its turn on a socket, to be told when that closes: one listener for all, however many a client pipelines. */
const pipelined = new WeakMap<Socket, Map<ServerResponse, () => void>>()

/** Calls back when a socket closes that a pipelined response was waiting for. */
export function onSocketClose (socket: Socket, response: ServerResponse, gone: () => void): void {
  let waiting = pipelined.get(socket)
  if (waiting === undefined) {
    const all = waiting = new Map()
    pipelined.set(socket, all)
    socket.once('close', () => { for (const gone of all.values()) gone() })
  }
  waiting.set(response, gone)
  response.once('close', () => waiting.delete(response))
}
