import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { until } from '../log/backplane-contract.ts'

/** For tap's `skip`: why tests with Redis cannot run here. In CI they run, and fail, all the same. */
export const noRedis: string | false = process.env.CI !== 'true' && spawnSync('redis-server', ['--version']).error !== undefined
  ? 'redis-server is not installed'
  : false

/** What a test is to a helper that starts something. */
export interface Teardown {
  teardown (fn: () => unknown): void
}

export interface RedisServerOptions {
  /** Keeps its data in an append-only file over restarts. @default false */
  aof?: boolean
  /** When that file is synced. @default 'no', which a kill -9 of Redis alone does not mind */
  appendfsync?: 'no' | 'always'
  /** The port of the server whose replica it is. */
  replicaOf?: number
  /** Seconds that its clock is ahead; asks for `noDatefudge`. @default 0 */
  ahead?: number
  /** Further arguments of redis-server. */
  args?: string[]
}

/** As `noRedis`, for servers whose clocks are to differ. (Under faketime Redis hangs, where it was built with jemalloc.) */
export const noDatefudge: string | false = process.env.CI !== 'true' && spawnSync('datefudge', ['--version']).error !== undefined
  ? 'datefudge is not installed'
  : noRedis

/** A real redis-server on a free port of the loopback interface. Whatever happens to the test, it does not stay behind. */
export class RedisServer {
  port = 0
  readonly #options: RedisServerOptions
  readonly dir = mkdtempSync(join(tmpdir(), 'sse-redis-'))
  #process: ChildProcess | undefined
  #guard: ChildProcess | undefined

  private constructor (options: RedisServerOptions) {
    this.#options = options
  }

  static async start (t: Teardown, options: RedisServerOptions = {}): Promise<RedisServer> {
    const server = new RedisServer(options)
    t.teardown(async () => {
      await server.kill()
      rmSync(server.dir, { recursive: true, force: true })
    })
    // Somebody else may take the free port before Redis does.
    for (let attempt = 1; ; attempt++) {
      server.port = await freePort()
      try {
        await server.restart()
        return server
      } catch (error) {
        await server.kill()
        if (attempt === 3) throw error
      }
    }
  }

  get pid (): number { return this.#process!.pid! }
  get url (): string { return `redis://127.0.0.1:${this.port}` }

  /** Starts it again, after kill(), on the same port: with its data if it has an append-only file, else empty. */
  async restart (): Promise<void> {
    const { aof = false, appendfsync = 'no', replicaOf, ahead = 0, args = [] } = this.#options
    const [program, ...before] = ahead === 0 ? ['redis-server'] as const : ['datefudge', `${ahead} seconds`, 'redis-server'] as const
    const child = spawn(program, [
      ...before,
      '--port', String(this.port), '--bind', '127.0.0.1', '--dir', this.dir, '--save', '',
      '--appendonly', aof ? 'yes' : 'no', '--appendfsync', appendfsync, '--loglevel', 'warning', '--repl-diskless-sync-delay', '0',
      ...(replicaOf === undefined ? [] : ['--replicaof', '127.0.0.1', String(replicaOf)]),
      ...args
    ], { stdio: 'ignore' })
    this.#process = child
    await once(child, 'spawn')
    this.#guard = guard(child)
    await until('redis-server answers', async () => {
      if (child.exitCode !== null) throw new Error(`redis-server ended with ${child.exitCode}`)
      return (await this.command('PING').catch(() => '')).startsWith('+PONG')
    })
  }

  /** kill -9 */
  async kill (): Promise<void> {
    const child = this.#process
    this.#process = undefined
    this.#guard?.kill('SIGKILL')
    this.#guard = undefined
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  }

  /** SIGSTOP: connections stay, answers do not come. */
  freeze (): void { this.#process!.kill('SIGSTOP') }
  thaw (): void { this.#process!.kill('SIGCONT') }

  /** One command over a connection of its own, without any driver: the answer as it comes over the wire, if it is a short one. */
  async command (...args: string[]): Promise<string> {
    const socket = net.connect(this.port, '127.0.0.1')
    try {
      socket.write(`*${args.length}\r\n` + args.map(arg => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join(''))
      const [answer] = await once(socket, 'data') as [Buffer]
      return answer.toString()
    } finally {
      socket.destroy()
    }
  }
}

/** Outlives a test that is killed just long enough to kill what it started, stopped or not. */
export function guard (child: ChildProcess): ChildProcess {
  return spawn('sh', ['-c', 'cat > /dev/null; kill -9 "$0"', String(child.pid)], { stdio: ['pipe', 'ignore', 'ignore'] })
}

export async function freePort (): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
