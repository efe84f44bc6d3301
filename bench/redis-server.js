/** A redis-server of its own, empty, on a free port, that ends with this process. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis' // of the root's packages

/** What it is, or undefined where there is none. */
export function redisVersion () {
  const { stdout, error } = spawnSync('redis-server', ['--version'], { encoding: 'utf8' })
  return error ? undefined : /v=(\S+)/.exec(stdout)[1]
}

/** @param {number | string | null} [cpu] where it runs */
export async function startRedis (cpu = null) {
  const port = await freePort()
  const directory = mkdtempSync(join(os.tmpdir(), 'sse-bench-redis-'))
  const command = ['redis-server', '--port', String(port), '--bind', '127.0.0.1', '--dir', directory, '--save', '', '--appendonly', 'no']
  const [file, ...args] = cpu === null ? command : ['taskset', '-c', String(cpu), ...command]
  const child = spawn(file, args, { stdio: 'ignore' })
  const kill = () => {
    child.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  }
  process.on('exit', kill)
  const client = new Redis({ port, host: '127.0.0.1', lazyConnect: true, retryStrategy: () => 20, maxRetriesPerRequest: 250 })
  client.on('error', () => {}) // it is not there yet, or not any more
  await client.connect().catch(() => {})
  await client.ping()
  return {
    port,
    client,
    /** Seconds of CPU, user and system, as it counts them itself. */
    async cpu () {
      const info = await client.info('cpu')
      return Number(/used_cpu_sys:(\S+)/.exec(info)[1]) + Number(/used_cpu_user:(\S+)/.exec(info)[1])
    },
    async usedMemory () {
      return Number(/used_memory:(\d+)/.exec(await client.info('memory'))[1])
    },
    /** How often each command was called, those in scripts included, since the last CONFIG RESETSTAT. */
    async calls () {
      const found = (await client.info('commandstats')).matchAll(/cmdstat_(\S+?):calls=(\d+)/g)
      return Object.fromEntries([...found].map(([, name, calls]) => [name, Number(calls)]))
    },
    async end () {
      client.disconnect()
      process.off('exit', kill)
      const gone = once(child, 'exit')
      kill()
      await gone
    }
  }
}

async function freePort () {
  const probe = net.createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address()
  probe.close()
  await once(probe, 'close')
  return port
}
