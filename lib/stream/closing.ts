import { setMaxListeners } from 'node:events'
import type { CloseReason } from './sse-stream.ts'

/** A promise that is made when somebody first asks for it. */
export interface Deferred<T> { promise: Promise<T>, resolve: (value: T) => void }

export function defer<T> (): Deferred<T> {
  let resolve!: (value: T) => void
  const promise = new Promise<T>(_resolve => { resolve = _resolve })
  return { promise, resolve }
}

/** That a stream closes, for those who wait for it. Most streams have nobody who does: promises and the signal are made when they are asked for. */
export class Closing {
  /** Why, once it closes. */
  reason: CloseReason | undefined
  #isDone = false
  #abort: AbortController | undefined
  #closed: Deferred<CloseReason> | undefined
  #done: Deferred<void> | undefined

  get signal (): AbortSignal {
    this.#abort ??= new AbortController()
    if (this.reason !== undefined) this.#abort.abort(this.reason)
    return this.#abort.signal
  }

  get closed (): Promise<CloseReason> {
    this.#closed ??= defer()
    if (this.reason !== undefined) this.#closed.resolve(this.reason)
    return this.#closed.promise
  }

  /** Resolves when the response is closed. */
  get done (): Promise<void> {
    this.#done ??= defer()
    if (this.#isDone) this.#done.resolve()
    return this.#done.promise
  }

  /** Tells the reason to those who asked before it was known. */
  tell (reason: CloseReason): void {
    this.#closed?.resolve(reason)
    this.#abort?.abort(reason)
  }

  /** The response is closed. */
  finish (): void {
    this.#isDone = true
    this.#done?.resolve()
  }
}

/** Calls back when a signal aborts, or has aborted. @returns what takes that back: nothing is left on the signal */
export function onAbort (signal: AbortSignal, call: () => void): () => void {
  if (signal.aborted) {
    call()
    return () => {}
  }
  // One may end any number of streams, and Node takes eleven listeners for a leak.
  setMaxListeners(0, signal)
  signal.addEventListener('abort', call, { once: true })
  return () => signal.removeEventListener('abort', call)
}
