import type { Log } from '../log/log.ts'
import type { Mover } from '../delivery/pass.ts'
import type { PublishFromOptions } from '../stream/channel.ts'
import { onAbort } from '../stream/closing.ts'
import { feed, type SseFeed } from '../stream/feed.ts'
import { SSE_ERR_CHANNEL_ENDED } from '../errors.ts'
import type { SseEvent } from '../wire/event.ts'

/** Events of one source that are published and not acknowledged yet, at most. */
const IN_FLIGHT = 64

/** What a publisher asks of its registry. */
export interface PublisherHost {
  readonly log: Log<Mover>
  append (name: string, event: SseEvent | string): Promise<string>
  end (name: string, reason: string): Promise<string>
}

/** The sources that this process publishes. */
export class Publishers {
  readonly #host: PublisherHost
  readonly #running = new Map<Publisher, Promise<unknown>>()

  constructor (host: PublisherHost) { this.#host = host }

  /** Publishes one more. @see Publisher.run */
  async run (name: string, source: SseFeed, { signal, end = true }: PublishFromOptions): Promise<string> {
    const publisher = new Publisher(this.#host, name, end)
    const off = signal && onAbort(signal, () => publisher.stop('aborted'))
    this.#running.set(publisher, Promise.resolve()) // from the first call of the source on
    const running = publisher.run(source).finally(() => {
      off?.()
      this.#running.delete(publisher)
    })
    this.#running.set(publisher, running)
    return await running
  }

  /** How many of the members of a channel are publishers. */
  of (members: ReadonlySet<Mover>): number {
    let count = 0
    for (const publisher of this.#running.keys()) if (members.has(publisher)) count++
    return count
  }

  /** What settles when each of them is through. */
  get running (): Array<Promise<unknown>> { return [...this.#running.values()] }

  stop (reason: string): void {
    for (const publisher of this.#running.keys()) publisher.stop(reason)
  }
}

/** Publishes a source to a channel, whoever listens, until it is through, somebody else ends the channel, or it is told to stop. */
export class Publisher implements Mover {
  ready = false
  readonly reader = undefined

  readonly #host: PublisherHost
  readonly #name: string
  readonly #ends: boolean
  readonly #inFlight = new Set<Promise<void>>()
  #stopSource: (() => void) | undefined
  /** Why it stopped before the source was through, or undefined. */
  #stopped: { readonly reason: string | Promise<string>, readonly byOther: boolean } | undefined
  #tell!: () => void
  /** Resolves when it stops before the source is through. */
  readonly #told = new Promise<void>(resolve => { this.#tell = resolve })
  #error: { readonly cause: unknown } | undefined

  /** @param ends the channel ends with the source */
  constructor (host: PublisherHost, name: string, ends: boolean) {
    this.#host = host
    this.#name = name
    this.#ends = ends
  }

  /** Resolves with the reason of the end once the end is in the log; rejects with what the source throws, or what cannot be published. */
  async run (source: SseFeed): Promise<string> {
    const { log } = this.#host
    const channel = log.join(this.#name, this)
    this.#look()
    const publisher = this
    const fed = feed(source, {
      get done () { return publisher.#done },
      take: event => this.#take(event),
      onStop: stop => { this.#stopSource = stop }
    })
    try {
      // A source that was told to stop may never answer.
      await Promise.race([fed, this.#told])
      fed.catch(() => {})
      await Promise.all(this.#inFlight)
    } catch (cause) {
      this.#fail(cause)
    } finally {
      log.leave(channel, this)
    }
    return await this.#finish()
  }

  async #finish (): Promise<string> {
    if (this.#error !== undefined) {
      // The text of the error is nobody else's business. Where the backplane is away the readers cannot be told.
      if (this.#ends) await this.#host.end(this.#name, 'error').catch(() => {})
      throw this.#error.cause
    }
    const { reason, byOther } = this.#stopped ?? { reason: 'done', byOther: false }
    if (!this.#ends || byOther) return await reason
    const own = await reason
    await this.#host.end(this.#name, own)
    // Somebody else's end may have been first, and nobody was told of it yet.
    return await this.#reason(own)
  }

  /** Stops the source at once, although it may wait for something. */
  stop (reason: string): void {
    if (this.#done) return
    this.#stopped = { reason, byOther: false }
    this.#quit()
  }

  /** Somebody else has ended the channel. */
  #ended (): void {
    if (this.#done) return
    this.#stopped = { reason: this.#reason('ended'), byOther: true }
    this.#quit()
  }

  #fail (cause: unknown): void {
    if (this.#done) return
    this.#error = { cause }
    this.#quit()
  }

  #quit (): void {
    this.#stopSource?.()
    this.#tell()
  }

  get #done (): boolean { return this.#stopped !== undefined || this.#error !== undefined }

  /** Several are in flight: the order of the calls is that of the log. */
  async #take (event: SseEvent | string): Promise<void> {
    if (this.#done) return // a source that was told to stop may have had one more on its way
    const publishing: Promise<void> = this.#host.append(this.#name, event)
      .then(() => {}, error => {
        if (error instanceof SSE_ERR_CHANNEL_ENDED) this.#ended()
        else this.#fail(error)
      })
      .finally(() => this.#inFlight.delete(publishing))
    this.#inFlight.add(publishing)
    if (this.#inFlight.size >= IN_FLIGHT) await Promise.race(this.#inFlight)
  }

  /** Why the channel has ended. @param otherwise where that cannot be said */
  async #reason (otherwise: string): Promise<string> {
    const newest = (await this.#host.log.kept(this.#name, 1).catch(() => [])).at(-1)
    return newest?.kind === 'end' ? newest.data : otherwise
  }

  #look (): void {
    if (this.#host.log.channels.get(this.#name)?.ended === true) this.#ended()
  }

  // As a member of the channel, it hears of the end

  advance (): boolean {
    this.#look()
    return false
  }

  lacked (): void {}
  restarted (): void {}
}
