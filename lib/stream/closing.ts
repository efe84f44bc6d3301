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

/** What is called when a signal aborts: by one listener for all, for Node takes eleven on one signal for a leak, and says so. */
const aborting = new WeakMap<AbortSignal, { readonly calls: Set<() => void>, readonly listener: () => void }>()

/** Calls back when a signal aborts, or has aborted. @returns what takes that back: with the last one nothing is left on the signal */
export function onAbort (signal: AbortSignal, call: () => void): () => void {
  if (signal.aborted) {
    call()
    return () => {}
  }
  let heard = aborting.get(signal)
  if (heard === undefined) {
    const calls = new Set<() => void>()
    heard = { calls, listener: () => { for (const call of calls) call() } }
    aborting.set(signal, heard)
    signal.addEventListener('abort', heard.listener)
  }
  const { calls, listener } = heard
  calls.add(call)
  return () => {
    if (!calls.delete(call) || calls.size > 0) return
    signal.removeEventListener('abort', listener)
    aborting.delete(signal)
  }
}
