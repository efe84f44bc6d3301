import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import type { SseStats } from '../../lib/index.ts'
import { guard, type Teardown } from '../redis/redis-server.ts'

export type Order =
  | { do: 'open', redis: number, driver: string, maxEvents: number }
  | { do: 'publish', first: number, perSecond: number }
  | { do: 'pause' }
  | { do: 'publishOne', n: number }
  | { do: 'stats' }
  | { do: 'close' }

export interface Answer { id: number, value?: unknown, error?: string }
/** Number, cursor, and when it was sent. */
export interface Told { acknowledged: Array<[n: number, cursor: string, sent: number]>, rejected: number }

const PATIENCE = 30_000

/** A process that runs one application after the other. */
export class App {
  /** Of the application that is open. */
  url = ''
  onTold: (told: Told) => void = () => {}

  #child!: ChildProcess
  #guard: ChildProcess | undefined
  #ids = 0
  readonly #waiting = new Map<number, { resolve: (value: any) => void, reject: (error: Error) => void, timer: NodeJS.Timeout }>()

  static async start (t: Teardown): Promise<App> {
    const app = new App()
    t.teardown(() => app.kill())
    await app.restart()
    return app
  }

  /** A new process, after kill(). */
  async restart (): Promise<void> {
    const child = this.#child = fork(new URL('./app.ts', import.meta.url), { execArgv: ['--import', 'tsx'], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#guard = guard(child)
    const ready = this.#answer(0, 'start')
    child.on('message', (message: Answer | Told) => {
      if ('acknowledged' in message) return this.onTold(message)
      const waiting = this.#waiting.get(message.id)
      if (waiting === undefined) return
      this.#waiting.delete(message.id)
      clearTimeout(waiting.timer)
      if (message.error === undefined) waiting.resolve(message.value)
      else waiting.reject(new Error(message.error))
    })
    child.on('exit', () => { if (child === this.#child) this.#fail(new Error('the process ended')) })
    await ready
  }

  async open (order: Omit<Extract<Order, { do: 'open' }>, 'do'>): Promise<void> {
    this.url = `http://127.0.0.1:${await this.#send({ do: 'open', ...order })}`
  }

  publish (first: number, perSecond: number): Promise<void> { return this.#send({ do: 'publish', first, perSecond }) }
  /** Stops publishing; resolves when every publish is settled. */
  pause (): Promise<void> { return this.#send({ do: 'pause' }) }
  /** Whether it was acknowledged. */
  publishOne (n: number): Promise<boolean> { return this.#send({ do: 'publishOne', n }) }
  stats (): Promise<SseStats> { return this.#send({ do: 'stats' }) }
  close (): Promise<void> { return this.#send({ do: 'close' }) }

  freeze (): void { this.#child.kill('SIGSTOP') }
  thaw (): void { this.#child.kill('SIGCONT') }

  async kill (): Promise<void> {
    this.#guard?.kill('SIGKILL')
    this.#guard = undefined
    const child = this.#child
    if (child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }

  #send (order: Order): Promise<any> {
    const id = ++this.#ids
    const answer = this.#answer(id, order.do)
    this.#child.send({ id, ...order }, error => { if (error !== null) this.#fail(error) })
    return answer
  }

  #answer (id: number, what: string): Promise<any> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id)
        reject(new Error(`the application did not ${what} within ${PATIENCE} ms`))
      }, PATIENCE)
      this.#waiting.set(id, { resolve, reject, timer })
    })
  }

  #fail (error: Error): void {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer)
      reject(error)
    }
    this.#waiting.clear()
  }
}
