type Tell = (error: unknown) => void

/**
 * A promise that does not end the process when it rejects and nobody handles that: its failure is told, a turn later. Whoever awaits
 * it, or gives a handler of rejections to `then` or `catch`, gets the failure, and it is not told.
 */
export class Watched<T> extends Promise<T> {
  #handled = false
  #error: unknown
  #tell: Tell | undefined

  /** What is derived is an ordinary promise again. `await` calls `then` on this one, as its class is not Promise itself. */
  static override get [Symbol.species] (): PromiseConstructor { return Promise }

  static of<T> (promise: Promise<T>, tell: Tell): Watched<T> {
    const watched = new Watched<T>((resolve, reject) => { promise.then(resolve, reject) })
    watched.#tell = tell
    Promise.prototype.then.call(watched, undefined, (error: unknown) => {
      watched.#error = error
      setImmediate(() => { if (!watched.#handled) tell(error) })
    })
    return watched
  }

  override then<A = T, B = never> (fulfilled?: ((value: T) => A | PromiseLike<A>) | null, rejected?: ((error: any) => B | PromiseLike<B>) | null): Promise<A | B> {
    this.#handled = true
    const derived = super.then(fulfilled, rejected)
    return typeof rejected === 'function' ? derived : this.#goesOn(derived)
  }

  override finally (done?: (() => void) | null): Promise<T> {
    return this.#goesOn(super.finally(done))
  }

  /** The failure is now that of the next promise. What a caller's own function throws is the caller's, and ends the process as ever. */
  #goesOn<A> (derived: Promise<A>): Promise<A> {
    return Watched.of(derived, error => {
      if (error === this.#error) this.#tell!(error)
      else Promise.reject(error)
    })
  }
}
