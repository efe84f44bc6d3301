import { Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import { isThenable } from '../checks.ts'
import type { SseEvent } from '../wire/event.ts'

/** One event of a source: a string or bytes are the data of one event. Bytes are UTF-8. */
export type SseItem = SseEvent<any> | string | Uint8Array

/** Not a string, not bytes: whether it is one event or many would be a guess. */
type NotText = { readonly byteLength?: never }

/** What events are read from, one after the other. */
export type SseFeed =
  | (Iterable<SseItem> & object & NotText)
  | AsyncIterable<SseItem>
  | Readable
  | ReadableStream<any>

/** A feed that never waits gives way to the event loop as often as this, in ms. */
const SLICE = 5

/** What takes the events of a feed. */
export interface FeedTaker {
  /** It wants no more. */
  readonly done: boolean
  /** Resolves when it can take the next one. */
  take (item: SseEvent | string): Promise<unknown>
  /** @param stop to be called when it wants no more from now on: tells the feed, without waiting for its answer */
  onStop (stop: () => void): void
}

/** Reads one item after the other, at the taker's pace. Resolves when the feed is through, or the taker wants no more; rejects with what the feed throws. */
export async function feed (source: SseFeed, taker: FeedTaker): Promise<void> {
  const { next, stop } = open(source)
  let ended = false
  const quit = (): void => {
    if (ended) return
    ended = true
    // Told, not waited for: a generator that awaits something answers only then.
    try {
      Promise.resolve(stop()).catch(() => {})
    } catch {} // It is gone either way, and nobody reads it any more.
  }
  taker.onStop(quit)
  if (taker.done) quit()
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let sliceEnd = performance.now() + SLICE
  while (!taker.done) {
    let step: Step
    try {
      const promised = next()
      step = isThenable(promised) ? await promised : promised
    } catch (error) {
      ended = true // by itself: there is nothing to tell it
      // What it throws because it was told to stop is no news.
      if (taker.done) return
      throw error
    }
    const { done, value } = step
    if (done === true) {
      ended = true
      break
    }
    const item = value instanceof Uint8Array ? decoder.decode(value, { stream: true }) : value as SseEvent | string
    // Bytes that end within a character wait for the rest of it.
    if (item !== '' || !(value instanceof Uint8Array) || value.length === 0) await taker.take(item)
    if (performance.now() > sliceEnd) {
      await new Promise(resolve => setImmediate(resolve))
      sliceEnd = performance.now() + SLICE
    }
  }
  const rest = decoder.decode()
  if (rest !== '' && !taker.done) await taker.take(rest)
}

/** Tells a feed that was not started that nobody will read it. */
export function discardFeed (source: unknown): void {
  if (source instanceof Readable) unheard(source).destroy()
  else if (isWebStream(source) && !source.locked) source.cancel().catch(() => {})
}

/** What a Readable emits when nobody reads it, because it fails before or while it is destroyed, is no news to anybody, and must not end the process. */
export function unheard (source: Readable): Readable {
  return source.on('error', () => {})
}

export function isFeed (value: unknown): value is SseFeed {
  return isWebStream(value) || (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && (Symbol.asyncIterator in value || Symbol.iterator in value))
}

interface Steps { next: () => Step | PromiseLike<Step>, stop: () => unknown }
interface Step { done?: boolean | undefined, value?: unknown }

function open (source: SseFeed): Steps {
  if (isWebStream(source)) {
    const reader = source.getReader()
    return { next: () => reader.read(), stop: () => reader.cancel() }
  }
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]()
  return {
    next: () => iterator.next(),
    // It may be told before it was read.
    stop: () => source instanceof Readable ? unheard(source).destroy() : iterator.return?.()
  }
}

function isWebStream (value: unknown): value is ReadableStream {
  return value instanceof ReadableStream
}
