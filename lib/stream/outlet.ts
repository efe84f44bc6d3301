import { ServerResponse, type IncomingMessage } from 'node:http'
import { constants, Http2ServerResponse } from 'node:http2'
import { Socket } from 'node:net'
import type { Writable } from 'node:stream'
import { chunkOf, Frame, makeFrame } from '../wire/chunk.ts'
import { encodeComment } from '../wire/event.ts'
import { GZIP_HEAD, type Segment } from '../wire/gzip.ts'
import type { Gzip } from './gzip.ts'

/** Hears what an outlet is about to write, when it fills up, and when it can take more. */
export interface OutletOwner {
  onWrite (bytes: number): void
  onBlocked (): void
  onDrained (): void
}

/**
 * An open response as something that takes frames, plain or as segments of a gzip body, and says when it is full. One that somebody else has ended
 * takes nothing: a write would be an 'error' of it that nobody listens to. Its 'close' follows.
 */
export class Outlet {
  /** Its socket is full. */
  blocked = false
  /** Since when it is, or since when the response has ended and is not flushed: ms of performance.now(). */
  waitingSince = 0
  /** What its client has had, where the body is compressed: its frames are segments then. */
  readonly gzip: Gzip | undefined

  readonly #response: Writable
  readonly #native: boolean
  #behind: ServerResponse | undefined
  readonly #owner: OutletOwner
  /** Something that a hook put in between threw: it may never flush what it has. */
  #threw = false
  #begun = false

  /** @param behind the response itself, where the other one is something that a hook put in between */
  constructor (response: Writable, behind: ServerResponse | undefined, gzip: Gzip | undefined, owner: OutletOwner) {
    this.#response = response
    this.#native = behind === undefined
    this.#behind = behind
    this.gzip = gzip
    this.#owner = owner
  }

  /** What a stream says itself, as it goes out. @param bytes its length in UTF-8, where it is known */
  frame (text: string, bytes?: number): Frame {
    return this.gzip?.segment(text) ?? makeFrame(text, bytes)
  }

  /**
   * Writes the head and the first text. Flushed alone, the head becomes one flat string; joined to the first bytes of the body it
   * would stay a tree of some twenty, 0.5 KB for as long as the response lives.
   */
  open (text: string, bytes: number): void {
    const response = this.#response
    let first = this.frame(text, bytes)
    this.gzip?.sent(first as Segment, false)
    if (this.gzip !== undefined) {
      const body = this.#begin(first.body)
      first = new Frame(chunkOf(body), body.length)
    }
    this.#owner.onWrite(first.bytes)
    if (!this.#native || !(response instanceof ServerResponse) || !(response.socket instanceof Socket)) return this.#send(first)
    const { socket } = response
    socket.cork()
    response.flushHeaders()
    this.#send(first, 1)
    socket.uncork()
  }

  /** @param shared channel events, which all that stand where it stood get */
  write (frame: Frame, shared = false): void {
    this.gzip?.sent(frame as Segment, shared)
    this.#owner.onWrite(frame.bytes)
    this.#send(frame)
  }

  /** @param corks how often the socket is corked by us */
  #send (frame: Frame, corks = 0): void {
    if (this.#response.writableEnded) return
    const socket = this.#socket(corks)
    if (socket === undefined) this.#writeTo(this.#response, frame.body)
    else this.#writeTo(socket, frame.chunk)
  }

  /** A gzip body begins with its head. */
  #begin (bytes: Buffer): Buffer {
    const begun = this.#begun
    this.#begun = true
    return begun ? bytes : Buffer.concat([GZIP_HEAD, bytes])
  }

  /**
   * The socket, where writing a whole chunk to it is the same as response.write() and costs a third less. Looked up at each write:
   * a pipelined request has none at first, and somebody may have replaced response.write.
   */
  #socket (corks = 0): Socket | undefined {
    if (!this.#native) return undefined
    const response = this.#response as ServerResponse
    const { socket } = response
    return response.chunkedEncoding && socket instanceof Socket && !response.writableEnded && response.writableCorked === corks &&
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

  /** Ends the response after one last text. */
  end (text: string): void {
    const { gzip } = this
    const last = this.frame(text)
    gzip?.sent(last as Segment, false)
    this.#finish(gzip === undefined ? last.body : this.#begin(Buffer.concat([last.body, gzip.end()])), (response, last) => { response.end(last) })
  }

  /** Breaks the connection once one last text is flushed; a client that takes nothing is somebody else's to give up. */
  breakAfter (text: string): void {
    if (text === '' && this.#response.writableLength === 0 && (this.#socket()?.writableLength ?? 0) === 0) return this.destroy()
    // A write that fails calls back too.
    this.#finish(this.frame(text === '' ? encodeComment('') : text).body, (response, last) => { response.write(last, () => this.destroy()) })
  }

  /** Whoever closes streams must not hear what something of a hook's throws: that breaks its own connection. */
  #finish (last: Buffer, how: (response: Writable, last: Buffer) => void): void {
    this.waitingSince = performance.now()
    if (this.#response.writableEnded) return
    this.#owner.onWrite(last.length)
    try {
      if (!this.#threw) return how(this.#response, last)
    } catch {} // Its own connection breaks, and the stream is closed already.
    this.destroy()
  }

  /** The response gets another answer than what a hook put in between. */
  detach (): void {
    this.#behind = undefined
  }

  /** Breaks the connection: what a hook put in between need not tell what is behind it, and may not have reached it yet. */
  destroy (): void {
    for (const response of [this.#response, this.#behind]) if (response !== undefined) breakOff(response)
  }
}

/** HTTP/2 tells the client of an ordinary end where a response is just destroyed: the code of an error says that it broke (RFC 9113, section 7). */
function breakOff (response: Writable | Http2ServerResponse): void {
  if (response instanceof Http2ServerResponse && !response.stream.closed) response.stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  response.destroy()
}

/** Whether a response is closed, so that no 'close' will come. HTTP/2's has no `destroyed` of its own, and a pipelined one whose turn never came is told nothing. */
export function isGone (response: Writable & { stream?: { destroyed?: boolean }, socket?: Socket | null, req?: IncomingMessage }): boolean {
  if (response.socket === null && response.req?.socket.destroyed === true) return true
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
