import { Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import { ChannelHandle, type Channel } from './channel.ts'
import { SSE_ERR_INVALID_SOURCE, received } from './errors.ts'
import type { SseEvent } from './event.ts'
import { isThenable } from './options.ts'
import type { SseStream, Stream } from './stream.ts'

/** One event of a source: a string or bytes are the data of one event. Bytes are UTF-8. */
export type SseItem = SseEvent<any> | string | Uint8Array

/** Not a string, not bytes: whether it is one event or many would be a guess. */
type NotText = { readonly byteLength?: never }

/** What `reply.sse()` reads events from. */
export type SseSource =
  | Channel
  | readonly Channel[]
  | (Iterable<SseItem> & object & NotText)
  | AsyncIterable<SseItem>
  | Readable
  | ReadableStream<any>
  | ((stream: SseStream) => unknown)

/** A source that never waits gives way to the event loop as often as this, in ms. */
const SLICE = 5

/** @throws SSE_ERR_INVALID_SOURCE */
export function checkSource (source: unknown): asserts source is SseSource {
  if (source instanceof ChannelHandle || typeof source === 'function' || isIterable(source) || isWebStream(source)) return
  throw new SSE_ERR_INVALID_SOURCE('the source', 'a channel, channels, an iterable or async iterable of events, a Readable, a web stream or a function', received(source))
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
  if (source instanceof Readable) source.destroy()
  else if (isWebStream(source) && !source.locked) source.cancel().catch(() => {})
}

async function run (stream: Stream, source: Exclude<SseSource, Channel | readonly Channel[]>): Promise<void> {
  if (typeof source !== 'function') return await feed(stream, source)
  const result = source(stream)
  if (isIterable(result) || isWebStream(result)) return await feed(stream, result)
  await result
  if (stream.channels.size === 0) stream.end('end')
}

/** Reads one item after the other, at the client's pace. */
async function feed (stream: Stream, source: Iterable<unknown> | AsyncIterable<unknown> | ReadableStream): Promise<void> {
  const { next, stop } = open(source)
  let ended = false
  stream.onClose(() => {
    if (ended) return
    // Told, not waited for: a generator that awaits something answers only then.
    try {
      Promise.resolve(stop()).catch(() => {})
    } catch {} // It is gone either way, and the stream is closed already.
  })
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let sliceEnd = performance.now() + SLICE
  try {
    while (stream.state !== 'closed') {
      let step: Step
      try {
        const promised = next()
        step = isThenable(promised) ? await promised : promised
      } catch (error) {
        ended = true // by itself: there is nothing to tell it
        throw error
      }
      const { done, value } = step
      ended = done === true
      if (ended) break
      const item = value instanceof Uint8Array ? decoder.decode(value, { stream: true }) : value as SseEvent | string
      // Bytes that end within a character wait for the rest of it.
      if (item !== '' || !(value instanceof Uint8Array) || value.length === 0) await stream.send(item)
      if (performance.now() > sliceEnd) {
        await new Promise(resolve => setImmediate(resolve))
        sliceEnd = performance.now() + SLICE
      }
    }
    const rest = decoder.decode()
    if (rest !== '') await stream.send(rest)
  } catch (error) {
    // What a source throws because it was told to stop is no news.
    if (stream.state !== 'closed') throw error
    return
  }
  stream.end('end')
}

interface Steps { next: () => Step | PromiseLike<Step>, stop: () => unknown }
interface Step { done?: boolean | undefined, value?: unknown }

function open (source: Iterable<unknown> | AsyncIterable<unknown> | ReadableStream): Steps {
  if (isWebStream(source)) {
    const reader = source.getReader()
    return { next: () => reader.read(), stop: () => reader.cancel() }
  }
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
  return {
    next: () => iterator.next(),
    stop: () => source instanceof Readable ? source.destroy() : iterator.return?.()
  }
}

function isChannels (source: unknown): source is Channel | readonly Channel[] {
  if (Array.isArray(source)) return source.length > 0 && source.every(one => one instanceof ChannelHandle)
  return source instanceof ChannelHandle
}

function isIterable (value: unknown): value is Iterable<unknown> | AsyncIterable<unknown> {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && (Symbol.asyncIterator in value || Symbol.iterator in value)
}

function isWebStream (value: unknown): value is ReadableStream {
  return value instanceof ReadableStream
}
