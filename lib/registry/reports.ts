import type { EventEmitter } from 'node:events'
import type { FastifyBaseLogger } from 'fastify'
import { isThenable } from '../checks.ts'
import { SSE_ERR_BACKPLANE_DOWN } from '../errors.ts'
import type { StreamReports } from '../stream/host.ts'
import type { SseRegistryEvents } from './sse-registry.ts'
import { Watched } from './watched.ts'

/** What an application is told without having asked: its listeners' events, and lines of the log. */
export class Reports implements StreamReports {
  backplane: 'up' | 'down' = 'up'
  readonly #emitter: EventEmitter<SseRegistryEvents>
  readonly #logger: FastifyBaseLogger
  /** publish() calls that failed while the backplane is down, and whose failure nobody handled. */
  #unpublished = 0
  #compressionFailed = false

  constructor (emitter: EventEmitter<SseRegistryEvents>, logger: FastifyBaseLogger) {
    this.#emitter = emitter
    this.#logger = logger
  }

  /** Of the backplane. @param error why it is down */
  state (error: Error | undefined): void {
    const state = error === undefined ? 'up' : 'down'
    if (state === this.backplane) return
    this.backplane = state
    if (error === undefined) {
      this.#logger.info({ failed: this.#unpublished }, 'backplane is up')
      this.#unpublished = 0
      this.announce('up')
    } else {
      this.#logger.warn({ err: error }, 'backplane is down')
      this.announce('down', { error })
    }
  }

  /** A failure that nobody handles must not end the process, so it is logged. */
  logged<T> (promise: Promise<T>, what: string, log = this.#logger): Promise<T> {
    return Watched.of(promise, err => {
      // That the backplane is down was logged, and is not said again for each publish.
      if (err instanceof SSE_ERR_BACKPLANE_DOWN && this.backplane === 'down') this.#unpublished++
      else log.error({ err }, what)
    })
  }

  readonly compressionFailed = (err: unknown): void => {
    // What fails for one segment fails for the next.
    if (!this.#compressionFailed) this.#logger.error({ err }, 'compression failed')
    this.#compressionFailed = true
  }

  /** Emits, and logs a listener that throws or rejects: it must not break a pass, or end the process. */
  announce<Name extends keyof SseRegistryEvents> (name: Name, ...args: SseRegistryEvents[Name]): void {
    if (this.#emitter.listenerCount(name) === 0) return
    const failed = (err: unknown): void => this.#logger.error({ err }, `a listener of the event "${name}" failed`)
    for (const listener of this.#emitter.rawListeners(name)) {
      try {
        const answer: unknown = Reflect.apply(listener, this.#emitter, args)
        if (isThenable(answer)) answer.then(undefined, failed)
      } catch (err) {
        failed(err)
      }
    }
  }
}
