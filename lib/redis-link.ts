import { SSE_ERR_INVALID_OPTION, received } from './errors.ts'

/** A client of ioredis or iovalkey, as far as it is used here. */
export interface IoRedisClient {
  call (command: string, args: string[]): Promise<unknown>
  duplicate (override?: object): object
}

/** A client of node-redis (the package `redis`), as far as it is used here. */
export interface NodeRedisClient {
  sendCommand (args: string[]): Promise<unknown>
  duplicate (override?: object): object
}

/**
 * A client of ioredis, iovalkey or node-redis, RESP2 or RESP3. It serves as a pattern: connections are made with its
 * `duplicate()`, so it need not be connected, and it is never used, changed or closed.
 */
export type RedisClient = IoRedisClient | NodeRedisClient

/** How long Redis may take to connect, or to answer, in ms. */
const PATIENCE = 5_000

/**
 * One connection of our own, used once: what fails is thrown away and another one is made. So neither driver has anything
 * to reconnect, to queue while it is away, or to send again, and a command that was sent once is never sent twice.
 */
export class Link {
  /** Resolves with the reason when the connection is gone; never rejects. */
  readonly ended: Promise<Error>

  readonly #driver: Driver
  readonly #pending = new Set<Pending>()
  #end!: (reason: Error) => void
  #error: Error | undefined

  constructor (client: RedisClient) {
    this.ended = new Promise(resolve => { this.#end = resolve })
    this.#driver = isIoRedis(client) ? ioRedis(client, error => this.end(error)) : nodeRedis(client, error => this.end(error))
  }

  /** Connects. @throws whatever the driver says, or that it took too long */
  async open (): Promise<void> {
    await this.#settle(this.#driver.connect(), 'connect', PATIENCE)
  }

  /**
   * Sends a command; they go out in the order of the calls. Rejects with the error that Redis answers, or with the reason why
   * the link ended: it ends when an answer is 5 s late, for nothing tells whether it ever comes.
   * @param block ms that the command itself may wait
   */
  send (args: string[], block = 0): Promise<unknown> {
    if (this.#error !== undefined) return Promise.reject(this.#error)
    return this.#settle(this.#driver.send(args), args[0]!, PATIENCE + block)
  }

  /** Cuts the connection; commands under way reject. A second call does nothing. */
  end (reason = new Error('the connection was closed')): void {
    if (this.#error !== undefined) return
    this.#error = reason
    this.#driver.destroy()
    for (const { reject, timer } of this.#pending) {
      clearTimeout(timer)
      reject(reason)
    }
    this.#pending.clear()
    this.#end(reason)
  }

  #settle (answer: Promise<unknown>, what: string, patience: number): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const late = () => this.end(new Error(`no answer to ${what} within ${patience} ms`))
      const pending: Pending = {
        reject,
        // A process that was stopped itself finds the timer due, and the answer unread: the socket has its turn first.
        timer: setTimeout(() => { setImmediate(() => { if (this.#pending.has(pending)) late() }) }, patience)
      }
      this.#pending.add(pending)
      const done = () => {
        clearTimeout(pending.timer)
        this.#pending.delete(pending)
      }
      // Once the link has ended, what the driver rejects with is an echo: the first reason was given.
      answer.then(value => { done(); resolve(value) }, error => { done(); reject(error) })
    })
  }
}

interface Pending {
  readonly reject: (reason: Error) => void
  readonly timer: NodeJS.Timeout
}

/** What differs between the packages. */
interface Driver {
  connect (): Promise<unknown>
  send (args: string[]): Promise<unknown>
  destroy (): void
}

type Copy<Client> = Client & {
  on (event: string, listener: (error?: Error) => void): unknown
  connect (): Promise<unknown>
}

function ioRedis (client: IoRedisClient, end: (reason: Error) => void): Driver {
  const copy = client.duplicate({
    lazyConnect: true,
    retryStrategy: null,
    sentinelRetryStrategy: null,
    reconnectOnError: null,
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    enableAutoPipelining: false,
    commandTimeout: undefined,
    blockingTimeout: undefined,
    socketTimeout: undefined,
    himportFieldsets: undefined,
    monitor: false,
    connectTimeout: PATIENCE,
    // A server that hangs would keep a half-closed socket, and so this process, for as long.
    disconnectTimeout: 1
  }) as Copy<IoRedisClient> & { disconnect (): void }
  let reason: Error | undefined
  copy.on('error', error => { reason = error })
  copy.on('end', () => end(reason ?? new Error('Redis closed the connection')))
  return {
    // The promise says only that the connection is closed; why, the event says.
    connect: () => copy.connect().catch((error: unknown) => { throw reason ?? error }),
    send: args => copy.call(args[0]!, args.slice(1)),
    destroy: () => copy.disconnect()
  }
}

function nodeRedis (client: NodeRedisClient & { options?: { socket?: object, keyPrefix?: string } }, end: (reason: Error) => void): Driver {
  // Its destroy() does not reach a socket that is still connecting; the signal does.
  const life = new AbortController()
  const copy = client.duplicate({
    socket: { ...client.options?.socket, reconnectStrategy: false, connectTimeout: PATIENCE, socketTimeout: undefined, signal: life.signal },
    commandOptions: { timeout: 0 },
    disableOfflineQueue: true,
    clientSideCache: undefined,
    emitInvalidate: false,
    pingInterval: 0
  }) as Copy<NodeRedisClient> & { destroy (): void }
  copy.on('error', error => end(error!))
  copy.on('end', () => end(new Error('Redis closed the connection')))
  return {
    connect: () => copy.connect(),
    send: args => copy.sendCommand(args),
    destroy: () => {
      copy.destroy()
      life.abort()
    }
  }
}

function isIoRedis (client: RedisClient): client is IoRedisClient {
  return 'call' in client
}

/** The key as raw commands must name it: ioredis adds its keyPrefix to them by itself, node-redis does not. */
export function fullKey (client: RedisClient, key: string): string {
  const { options } = client as { options?: { keyPrefix?: string } }
  return isIoRedis(client) ? key : (options?.keyPrefix ?? '') + key
}

/** @throws SSE_ERR_INVALID_OPTION */
export function checkClient (value: unknown): RedisClient {
  const client = value as Partial<Record<'call' | 'sendCommand' | 'duplicate' | 'select' | 'isCluster', unknown>> | null | undefined
  // Pools, clusters and sentinels have sendCommand() too, with other arguments, or over several connections; select() is a single client's.
  const known = typeof client === 'object' && client !== null && client.isCluster !== true && typeof client.duplicate === 'function' &&
    (typeof client.call === 'function' || (typeof client.sendCommand === 'function' && typeof client.select === 'function'))
  if (!known) throw new SSE_ERR_INVALID_OPTION('client', 'a client of ioredis, iovalkey or node-redis, for one server', received(value))
  return value as RedisClient
}
