import { SSE_ERR_INVALID_OPTION, received } from '../errors.ts'

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

/** How long Redis may take to connect, or leave us without any answer, in ms. */
const PATIENCE = 5_000

/** Called for each message, in their order, in the turn in which it came. */
export type OnMessage = (channel: string, message: string) => void

/**
 * One connection of our own, used once: what fails is thrown away and another one is made. So neither driver has anything
 * to reconnect, to queue while it is away, or to send again, and a command that was sent once is never sent twice.
 */
export class Link {
  /** Resolves with the reason when the connection is gone; never rejects. */
  readonly ended: Promise<Error>

  readonly #driver: Driver
  readonly #pending = new Set<(reason: Error) => void>()
  #end!: (reason: Error) => void
  #error: Error | undefined
  /** When something came last, or was sent while nothing else was under way. */
  #progress = 0
  #watchdog: NodeJS.Timeout | undefined

  constructor (client: RedisClient, onMessage: OnMessage = () => {}) {
    this.ended = new Promise(resolve => { this.#end = resolve })
    const hear: OnMessage = (channel, message) => {
      if (this.#error !== undefined) return
      this.#progress = performance.now()
      onMessage(channel, message)
    }
    const end = (error: Error) => this.end(error)
    this.#driver = 'call' in client ? ioRedis(client, end, hear) : nodeRedis(client, end, hear)
  }

  /** Connects. @throws whatever the driver says, or that it took too long */
  async open (): Promise<void> {
    await this.#settle(this.#driver.connect())
  }

  /**
   * Sends a command; they go out in the order of the calls. Rejects with the error that Redis answers, or with the reason why
   * the link ended: it ends when nothing at all has come for 5 s, for nothing tells whether it ever will.
   */
  send (args: string[]): Promise<unknown> {
    return this.#settle(this.#error ?? this.#driver.send(args))
  }

  async subscribe (channels: string[]): Promise<void> {
    await this.#settle(this.#error ?? this.#driver.subscribe(channels))
  }

  async unsubscribe (channels: string[]): Promise<void> {
    await this.#settle(this.#error ?? this.#driver.unsubscribe(channels))
  }

  /** Cuts the connection; commands under way reject. A second call does nothing. */
  end (reason = new Error('the connection was closed')): void {
    if (this.#error !== undefined) return
    this.#error = reason
    clearTimeout(this.#watchdog)
    this.#driver.destroy()
    for (const reject of this.#pending) reject(reason)
    this.#pending.clear()
    this.#end(reason)
  }

  #settle (answer: Promise<unknown> | Error): Promise<unknown> {
    if (answer instanceof Error) return Promise.reject(answer)
    if (this.#pending.size === 0) {
      this.#progress = performance.now()
      this.#watchdog ??= setTimeout(() => this.#watch(), PATIENCE)
    }
    return new Promise((resolve, reject) => {
      this.#pending.add(reject)
      const done = () => {
        this.#pending.delete(reject)
        this.#progress = performance.now()
      }
      // Once the link has ended, what the driver says is an echo: the first reason was given.
      answer.then(value => { done(); resolve(value) }, error => { done(); reject(error) })
    })
  }

  /** What counts is progress, not how long one answer takes: a thousand answers over a slow line are no dead line. */
  #watch (): void {
    this.#watchdog = undefined
    if (this.#pending.size === 0 || this.#error !== undefined) return
    const left = () => this.#progress + PATIENCE - performance.now()
    const late = () => { if (this.#pending.size > 0 && left() <= 0) this.end(new Error(`no answer within ${PATIENCE} ms`)); else this.#watch() }
    // A process that was stopped itself finds the timer due, and the answer unread: the socket has its turn first.
    if (left() <= 0) setImmediate(late)
    else this.#watchdog = setTimeout(() => this.#watch(), left())
  }
}

/** What differs between the packages. */
interface Driver {
  connect (): Promise<unknown>
  send (args: string[]): Promise<unknown>
  subscribe (channels: string[]): Promise<unknown>
  unsubscribe (channels: string[]): Promise<unknown>
  destroy (): void
}

type Copy<Client> = Client & {
  on (event: string, listener: (...args: never[]) => void): unknown
  connect (): Promise<unknown>
}

function ioRedis (client: IoRedisClient, end: (reason: Error) => void, hear: OnMessage): Driver {
  const copy = client.duplicate({
    // Names of channels take no part in it, so keys must not either: `fullKey` adds it to both.
    keyPrefix: '',
    lazyConnect: true,
    retryStrategy: null,
    sentinelRetryStrategy: null,
    reconnectOnError: null,
    enableOfflineQueue: false,
    autoResubscribe: false,
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
  }) as Copy<IoRedisClient> & Record<'subscribe' | 'unsubscribe', (...channels: string[]) => Promise<unknown>> & { disconnect (): void }
  let reason: Error | undefined
  copy.on('error', (error: Error) => { reason = error })
  copy.on('end', () => end(reason ?? new Error('Redis closed the connection')))
  copy.on('message', hear)
  return {
    // The promise says only that the connection is closed; why, the event says.
    connect: () => copy.connect().catch((error: unknown) => { throw reason ?? error }),
    send: args => copy.call(args[0]!, args.slice(1)),
    subscribe: channels => copy.subscribe(...channels),
    unsubscribe: channels => copy.unsubscribe(...channels),
    destroy: () => copy.disconnect()
  }
}

function nodeRedis (client: NodeRedisClient & { options?: { socket?: object } }, end: (reason: Error) => void, hear: OnMessage): Driver {
  // Its destroy() does not reach a socket that is still connecting; the signal does.
  const life = new AbortController()
  const copy = client.duplicate({
    socket: { ...client.options?.socket, reconnectStrategy: false, connectTimeout: PATIENCE, socketTimeout: undefined, signal: life.signal },
    keyPrefix: undefined,
    commandOptions: { timeout: 0 },
    disableOfflineQueue: true,
    clientSideCache: undefined,
    emitInvalidate: false,
    pingInterval: 0
  }) as Copy<NodeRedisClient> & Record<'subscribe' | 'unsubscribe', (channels: string[], listener: unknown) => Promise<unknown>> & { destroy (): void }
  copy.on('error', end)
  copy.on('end', () => end(new Error('Redis closed the connection')))
  const listener = (message: string, channel: string) => hear(channel, message)
  return {
    connect: () => copy.connect(),
    send: args => copy.sendCommand(args),
    subscribe: channels => copy.subscribe(channels, listener),
    unsubscribe: channels => copy.unsubscribe(channels, listener),
    destroy: () => {
      copy.destroy()
      life.abort()
    }
  }
}

/** The key with the client's own prefix and its database, as commands and channels name it: what is published is heard in all databases of a server. */
export function fullKey (client: RedisClient, key: string): string {
  const { options } = client as { options?: { keyPrefix?: string, db?: number | string, database?: number } }
  const database = Number(options?.db ?? options?.database ?? 0)
  return String(options?.keyPrefix ?? '') + key + (database > 0 ? `@${database}` : '')
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
