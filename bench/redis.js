/**
 * What the Redis backplane costs: `node redis.js`, after `npm run build` in the root. It starts a redis-server of its own,
 * and prints a table. Drivers come from the root's packages.
 *
 *   --quick            a tenth of the time: to see that all works, not to quote
 *   --driver name      ioredis (default) or node-redis
 *   --only a,b         of latency, read, cpu, memory, load
 *
 * Linux only: CPU is read from /proc.
 */
import { fork, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import os from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const RATE = 1_000
const TEXT = 'x'.repeat(100)
/** The same clock in all processes, in ms. */
const now = () => Number(process.hrtime.bigint()) / 1e6

if (process.env.REDIS_BENCH_WORKER === '1') work()
else await main()

// A process with an application

function work () {
  let app
  let timer
  const jobs = {
    async open ({ port, driver, maxEvents = 10_000 }) {
      const { default: sse } = await import('../dist/index.js')
      const { redisBackplane } = await import('../dist/redis-backplane.js')
      const { default: Fastify } = await import('fastify')
      const { Redis } = await import('ioredis')
      const { createClient } = await import('redis')
      const client = () => driver === 'ioredis' ? new Redis({ port, host: '127.0.0.1', lazyConnect: true }) : createClient({ url: `redis://127.0.0.1:${port}` })
      app = Fastify({ forceCloseConnections: true })
      const start = now()
      await app.register(sse, { ...(port !== undefined && { backplane: redisBackplane({ client: client() }) }), history: { maxEvents, maxBytes: Infinity } })
      const took = now() - start
      app.get('/', (request, reply) => reply.sse(app.sse.channel('news')))
      await app.listen({ port: 0, host: '127.0.0.1' })
      return { port: app.server.address().port, took, events: app.sse.stats().history.events }
    },
    /** Each event says when it was due. */
    publish ({ perSecond }) {
      let due = now()
      timer = setInterval(() => {
        for (; due <= now(); due += 1_000 / perSecond) app.sse.publish('news', { data: `${due} ${TEXT}` }).catch(() => {})
      }, 1)
    },
    pause: () => clearInterval(timer),
    async fill ({ count, bytes }) {
      const data = 'x'.repeat(bytes)
      for (let i = 0; i < count; i += 500) await Promise.all(Array.from({ length: Math.min(500, count - i) }, () => app.sse.publish('news', data)))
    },
    received: () => app.sse.stats().received,
    async until ({ received }) {
      while (app.sse.stats().received < received) await sleep(1)
      return now()
    },
    cpu: () => process.cpuUsage()
  }
  process.on('message', async ({ id, job, args }) => process.send({ id, value: await jobs[job](args) }))
  process.on('disconnect', () => process.exit())
}

// The measuring process

async function main () {
  const { values } = parseArgs({
    options: { quick: { type: 'boolean', default: false }, driver: { type: 'string', default: 'ioredis' }, only: { type: 'string' } }
  })
  const { driver, quick } = values
  const seconds = quick ? 1 : 10
  const running = new Set()
  const endAll = () => { for (const child of running) child.kill('SIGKILL') }
  process.on('exit', endAll)
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))
  const rows = []
  const say = (what, value) => {
    rows.push([what, value])
    console.log(`${what.padEnd(70)} ${value}`)
  }

  const measures = { latency, read, cpu, memory, load }
  console.log(`${os.cpus()[0].model}, ${os.cpus().length} CPUs; Node ${process.version}; ${spawnSync('redis-server', ['--version']).stdout.toString().split(' ').slice(0, 3).join(' ')}; ${driver}${quick ? '; quick' : ''}\n`)
  for (const [name, measure] of Object.entries(measures)) {
    if (values.only !== undefined && !values.only.split(',').includes(name)) continue
    await measure()
    await Promise.all([...running].map(end))
  }

  async function latency () {
    const redis = await startRedis()
    for (const [what, port, processes] of [['two processes', redis.port, 2], ['one process, through Redis', redis.port, 1], ['one process, in memory', undefined, 1]]) {
      const apps = await Promise.all(Array.from({ length: processes }, startApp))
      const opened = await Promise.all(apps.map(app => app.ask('open', { port, driver })))
      const times = []
      const leave = await listen(opened.at(-1).port, times)
      await apps[0].ask('publish', { perSecond: RATE })
      await sleep(1_000) // until the code is warm
      times.length = 0
      await sleep(seconds * 1_000)
      times.sort((a, b) => a - b)
      const at = share => times[Math.floor(times.length * share)].toFixed(2)
      say(`publish to the client at ${RATE.toLocaleString('en')} events/s, ${what}: p50, p99, n`, `${at(0.5)} ms, ${at(0.99)} ms, ${times.length}`)
      leave()
      await Promise.all(apps.map(app => end(app.child)))
    }
  }

  async function read () {
    const redis = await startRedis()
    const count = quick ? 10_000 : 100_000
    const [writer, reader] = await Promise.all([startApp(), startApp()])
    for (const app of [writer, reader]) await app.ask('open', { port: redis.port, driver, maxEvents: count })
    const before = await reader.ask('received')
    reader.child.kill('SIGSTOP')
    await writer.ask('fill', { count, bytes: 100 })
    reader.child.kill('SIGCONT')
    const start = now()
    const took = await reader.ask('until', { received: before + count }) - start
    say('one process reads, having been away', `${Math.round(count / took * 1_000).toLocaleString('en')} events/s`)
  }

  async function cpu () {
    for (const processes of [1, 4, 16]) {
      const redis = await startRedis()
      const apps = await Promise.all(Array.from({ length: processes }, startApp))
      await Promise.all(apps.map(app => app.ask('open', { port: redis.port, driver })))
      await Promise.all(apps.map(app => app.ask('publish', { perSecond: RATE / processes })))
      await sleep(1_000)
      const [usedBefore, ownBefore, countBefore, start] = [cpuOf(redis.child.pid), await apps[0].ask('cpu'), await apps[0].ask('received'), now()]
      await sleep(seconds * 1_000)
      const [used, own, count, took] = [cpuOf(redis.child.pid) - usedBefore, await apps[0].ask('cpu'), await apps[0].ask('received') - countBefore, now() - start]
      const app = (own.user + own.system - ownBefore.user - ownBefore.system) / 1_000
      say(`CPU at ${Math.round(count / took * 1_000).toLocaleString('en')} events/s, ${processes} process${processes > 1 ? 'es' : ''}: Redis, each process`, `${(used / took * 100).toFixed(1)} %, ${(app / took * 100).toFixed(1)} %`)
      await Promise.all([...running].map(end))
    }
  }

  async function memory () {
    for (const bytes of [100, 200, 1_000]) {
      const redis = await startRedis()
      const app = await startApp()
      await app.ask('open', { port: redis.port, driver })
      await app.ask('fill', { count: 10_000, bytes })
      const [size, length] = [await command(redis.port, 'MEMORY', 'USAGE', 'sse', 'SAMPLES', '0'), await command(redis.port, 'XLEN', 'sse')].map(answer => Number(answer.slice(1)))
      say(`memory of an event of ${bytes} bytes in Redis`, `${Math.round(size / length)} bytes`)
      await Promise.all([...running].map(end))
    }
  }

  async function load () {
    for (const count of [10_000, 100_000]) {
      const redis = await startRedis()
      const writer = await startApp()
      await writer.ask('open', { port: redis.port, driver, maxEvents: count })
      await writer.ask('fill', { count, bytes: 100 })
      const times = []
      for (let i = 0; i < (quick ? 1 : 5); i++) {
        const app = await startApp()
        const { took, events } = await app.ask('open', { port: redis.port, driver, maxEvents: count })
        if (events < count) throw new Error(`only ${events} were loaded`)
        times.push(took)
        await end(app.child)
      }
      say(`start with ${count.toLocaleString('en')} events in the log`, `${Math.round(times.sort((a, b) => a - b)[times.length >> 1])} ms`)
      await Promise.all([...running].map(end))
    }
  }

  async function startApp () {
    const child = fork(fileURLToPath(import.meta.url), { env: { ...process.env, REDIS_BENCH_WORKER: '1', NODE_ENV: 'production' }, stdio: 'inherit' })
    running.add(child)
    const waiting = new Map()
    child.on('message', ({ id, value }) => {
      waiting.get(id)?.(value)
      waiting.delete(id)
    })
    let ids = 0
    return {
      child,
      ask: (job, args) => new Promise(resolve => {
        waiting.set(++ids, resolve)
        child.send({ id: ids, job, args })
      })
    }
  }

  async function startRedis () {
    const probe = net.createServer().listen(0, '127.0.0.1')
    await once(probe, 'listening')
    const { port } = probe.address()
    probe.close()
    await once(probe, 'close')
    const dir = mkdtempSync(join(os.tmpdir(), 'sse-bench-'))
    const child = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--dir', dir, '--save', '', '--appendonly', 'no'], { stdio: 'ignore' })
    child.on('exit', () => rmSync(dir, { recursive: true, force: true }))
    running.add(child)
    for (let i = 0; i < 200; i++) {
      if ((await command(port, 'PING').catch(() => '')).startsWith('+PONG')) return { port, child }
      await sleep(20)
    }
    throw new Error('redis-server does not answer')
  }

  async function end (child) {
    running.delete(child)
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
}

/** A client of one stream: how late each event is. */
async function listen (port, times) {
  const request = http.get({ port, host: '127.0.0.1', agent: false })
  const [response] = await once(request, 'response')
  response.setEncoding('latin1')
  let rest = ''
  response.on('data', chunk => {
    const at = now()
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()
    for (const line of lines) if (line.startsWith('data: ')) times.push(at - parseFloat(line.slice(6)))
  })
  response.on('error', () => {})
  return () => request.destroy()
}

/** One command over a connection of its own; a short answer as it comes. */
async function command (port, ...args) {
  const socket = net.connect(port, '127.0.0.1')
  try {
    socket.write(`*${args.length}\r\n` + args.map(arg => `$${Buffer.byteLength(arg)}\r\n${arg}\r\n`).join(''))
    const [answer] = await once(socket, 'data')
    return answer.toString()
  } finally {
    socket.destroy()
  }
}

/** User and system time of a process, in ms. */
function cpuOf (pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /, '').split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10 // ticks of 10 ms, on Linux
}
