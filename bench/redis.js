/**
 * What it costs that several processes are one, over Redis: `node bench/redis.js`. It builds the library and the first release,
 * starts a redis-server of its own for each measurement, and writes redis.md and redis.svg. The drivers come from the root's packages.
 *
 *   --quick            few streams and short runs: to see that all works, not to quote. Written to out/, as each part is
 *   --driver name      ioredis (default) or node-redis
 *   --only a,b         of latency, scale, workers, storm, read, memory
 *   --rounds n         1: medians of so many
 *   --cpus s,l         as for run.js
 *
 * Linux only: CPU is read from /proc.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { FIRST, firstRelease, present } from './builds.js'
import { bothCpus, compile, cpus, outDir, pin, startLoad, startServer } from './processes.js'
import { redisVersion, startRedis } from './redis-server.js'
import { format, lineChart, machine, median } from './report.js'
import { OURS, line, open, settledRss } from './scenarios.js'

const { values: args } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    driver: { type: 'string', default: 'ioredis' },
    only: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    cpus: { type: 'string' }
  }
})
const { quick, driver } = args
const seconds = quick ? 1 : 8
const PROCESSES = quick ? [1, 2, 4] : [1, 2, 4, 8, 16]
const many = quick ? 500 : 10_000
const numberOf = n => n.toLocaleString('en')

/** Channels far from those with a number of their own. */
const ALL = 900_000
const PROBE = 900_001

const here = fileURLToPath(new URL('.', import.meta.url))
const started = performance.now()
const version = redisVersion()
if (!version) fail('This takes a redis-server.')
present()
mkdirSync(outDir, { recursive: true })
const failed = compile('load')
if (failed) fail(`The load client needs a C compiler (apt-get install gcc libc6-dev): ${failed}`)
const subjects = firstRelease() ? [OURS, FIRST] : [OURS]
pin(args.cpus)

/** By part, then what a row says, then subject: values of the rounds. */
const found = {}
const parts = { latency, scale, workers, storm, read, memory }
for (const [name, part] of Object.entries(parts)) {
  if (args.only !== undefined && !args.only.split(',').includes(name)) continue
  for (let round = 0; round < Number(args.rounds); round++) await part()
}
write()

function say (part, row, subject, value) {
  const kept = ((found[part] ??= {})[row] ??= {})[subject] ??= []
  kept.push(value)
  console.log(`${part.padEnd(8)} ${subject.padEnd(21)} ${row.padEnd(90)} ${format(value)}`)
}

/** Starts processes of an application and whatever else, and ends all in any case. */
async function withAll (use) {
  const ends = []
  const kept = thing => {
    ends.push(thing)
    return thing
  }
  try {
    return await use({
      redis: async cpu => kept(await startRedis(cpu)),
      server: async (...parameters) => kept(await startServer(...parameters)),
      load: (...parameters) => kept(startLoad(...parameters))
    })
  } finally {
    await Promise.all(ends.map(thing => thing.end()))
  }
}

/** A failure is a result, and not the end of the run. */
async function attempt (part, row, subject, run) {
  await run().catch(error => say(part, row, subject, `failed: ${error.message}`))
}

// The parts

/**
 * From publish() in one process to a client of another, at 1,000 events a second: counted from the call, and from when the event was due, which has
 * the lateness of the publisher's own timers in it, whole milliseconds in Node.
 */
async function latency () {
  const ways = [['two processes', 2], ['one process, through Redis', 1], ['one process, in memory', 0]]
  for (const [what, processes] of ways) {
    for (const subject of subjects) {
      const row = `publish to client at 1,000 events a second, ${what}`
      await attempt('latency', row, subject, () => withAll(async start => {
        const redis = processes ? await start.redis(bothCpus()) : undefined
        const options = redis && { redis: redis.port, driver }
        const servers = await Promise.all(Array.from({ length: processes || 1 }, () => start.server(subject, options, bothCpus())))
        const load = start.load(servers.at(-1).port, bothCpus())
        await open(load, { count: 1 })
        await servers[0].ask(line({ count: 1_000, every: 0.001 })) // warm
        for (const [stamp, since] of [['call', 'from the call'], ['due', 'from when it was due']]) {
          await sleep(300)
          await load.ask('reset')
          const count = seconds * 1_000
          const before = await redis?.cpu()
          servers[0].tell(line({ count, every: 0.001, stamp }))
          const { events, missing, disorder, p50, p99 } = await load.ask(`wait ${count} ${(seconds + 5) * 1_000}`)
          say('latency', `${row}, ${since}: p50, ms`, subject, p50)
          say('latency', `${row}, ${since}: p99, ms`, subject, p99)
          if (redis && stamp === 'call') say('latency', `${row}: CPU of Redis a publish, µs`, subject, (await redis.cpu() - before) / count * 1e6)
          if (events < count || missing || disorder) say('latency', `${row}: not in order, or lost`, subject, count - events + missing + disorder)
        }
      }))
    }
  }
}

/**
 * So many processes on one Redis, each with 100 channels of its own with a stream each, and 400 events a second on them; and one
 * channel of all, with a stream in each process, and 20 events a second. All over both CPUs.
 */
async function scale () {
  for (const processes of PROCESSES) {
    for (const subject of subjects) {
      await attempt('scale', `delivered in time, %: ${processes}`, subject, () => withAll(async start => {
        const redis = await start.redis(bothCpus())
        const servers = await Promise.all(Array.from({ length: processes }, () => start.server(subject, { redis: redis.port, driver }, bothCpus())))
        const load = start.load(0, bothCpus())
        for (const [i, { port }] of servers.entries()) {
          await load.ask(`port ${port}`)
          await open(load, { count: 100, first: i * 100, mod: 100, step: 100 })
          await open(load, { count: 1, first: ALL })
        }
        const publish = async duration => {
          await load.ask('reset')
          for (const [i, server] of servers.entries()) {
            server.tell(line({ count: 400 * duration, every: 1 / 400, first: i * 100, channels: 100, limit: duration + 2 }))
          }
          servers[0].tell(line({ count: 20 * duration, every: 1 / 20, first: ALL, limit: duration + 2 }))
          const expected = processes * 420 * duration
          // a second after the last was due at the latest
          const stats = await load.ask(`wait ${expected} ${(duration + 1) * 1_000}`)
          return { ...stats, share: stats.events / expected * 100 }
        }
        await publish(1) // warm
        await sleep(300)
        const [usedBefore, before, begin] = [servers.map(server => server.cpu()), await redis.cpu(), performance.now()]
        const { share, p50, p99, missing, disorder, gaps } = await publish(seconds)
        const took = (performance.now() - begin) / 1_000
        const used = servers.map((server, i) => (server.cpu() - usedBefore[i]) / took * 100)
        say('scale', `CPU of each process, mean, %: ${processes}`, subject, used.reduce((sum, one) => sum + one) / processes)
        say('scale', `CPU of each process, most, %: ${processes}`, subject, Math.max(...used))
        say('scale', `CPU of Redis, %: ${processes}`, subject, (await redis.cpu() - before) / took * 100)
        say('scale', `latency, p50, ms: ${processes}`, subject, p50)
        say('scale', `latency, p99, ms: ${processes}`, subject, p99)
        say('scale', `delivered in time, %: ${processes}`, subject, share)
        if (missing || disorder || gaps) say('scale', `lost, out of order, gap events: ${processes}`, subject, missing + disorder + gaps)
      }))
    }
  }
}

/** A machine's CPUs: one process, in memory, against two workers of node:cluster, which are one over Redis. */
async function workers () {
  for (const rate of quick ? [4] : [4, 8, 16]) {
    const row = `${numberOf(many)} streams of one channel, ${rate} events a second`
    for (const [what, subject] of [['one process', OURS], ['two workers', 'cluster']]) {
      await attempt('workers', row, what, () => withAll(async start => {
        const redis = subject === 'cluster' ? await start.redis(bothCpus()) : undefined
        const server = await start.server(subject, redis && { redis: redis.port, driver, workers: 2 }, bothCpus())
        const load = start.load(server.port, bothCpus())
        await open(load, { count: many })
        const publish = async count => {
          await load.ask('reset')
          server.tell(line({ count, every: 1 / rate, limit: count / rate + 10 }))
          return load.ask(`wait ${count * many} ${count / rate * 1_000 + 10_000}`)
        }
        await publish(5) // warm
        const [used, redisUsed, begin] = [server.cpu(), await redis?.cpu(), performance.now()]
        const { events, chunks, missing, disorder, gaps, p50, p99 } = await publish(seconds * rate)
        const took = (performance.now() - begin) / 1_000
        const cpu = server.cpu() - used
        say('workers', `${row}: CPU of the application, % of one`, what, cpu / took * 100)
        say('workers', `${row}: CPU a delivery, µs`, what, cpu / events * 1e6)
        if (redis) say('workers', `${row}: CPU of Redis, %`, what, (await redis.cpu() - redisUsed) / took * 100)
        say('workers', `${row}: events a write`, what, events / chunks)
        say('workers', `${row}: p50, ms`, what, p50)
        say('workers', `${row}: p99, ms`, what, p99)
        const lost = seconds * rate * many - events + missing + disorder + gaps
        if (lost) say('workers', `${row}: lost, out of order, gap events`, what, lost)
      }))
    }
  }
}

/**
 * A deployment: streams with a channel of their own and one of all, whose process is gone, come back at once to a new one that
 * hears none of their channels yet. Each has missed an event of its own and 20 of all.
 */
async function storm () {
  for (const subject of subjects) {
    const row = `${numberOf(many)} streams come back at once, with 21 events to replay each`
    await attempt('storm', row, subject, () => withAll(async start => {
      const redis = await start.redis(cpus.load)
      // the first release has one history for all channels
      const history = subject === FIRST ? { maxEvents: 1_000_000, maxBytes: 2 ** 30 } : {}
      const options = { redis: redis.port, driver, shared: ALL, history }
      const publisher = await start.server(subject, options, cpus.load)
      const old = await start.server(subject, options)
      const load = start.load(old.port)
      const toEach = { count: many, every: 1 / 5_000, channels: many, order: 0 }
      await open(load, { count: many, mod: many, step: 0 })
      publisher.tell(line(toEach))
      await load.ask(`wait ${many} 30000`)
      await publisher.answer()
      await sleep(300) // their ids are under way
      await load.ask('close')
      await old.end()
      await publisher.ask(line(toEach))
      await publisher.ask(line({ count: 20, every: 0.01, first: ALL, order: 0 }))

      const server = await start.server(subject, options)
      const other = start.load(server.port)
      await open(other, { count: 1, first: PROBE })
      publisher.tell(line({ count: 6_000, every: 0.01, first: PROBE, limit: 60 }))
      await sleep(1_500)
      const quiet = await other.ask('report')
      await other.ask('reset')
      await load.ask(`port ${server.port}`)
      await load.ask('atonce 4000') // a response may wait for Redis
      await load.ask('reset')
      const [used, redisUsed, begin] = [server.cpu(), await redis.cpu(), performance.now()]
      const { refused } = await load.ask('reopen', 120_000)
      const connected = performance.now() - begin
      const { events, disorder, gaps } = await load.ask(`wait ${many * 21} 30000`)
      const took = performance.now() - begin
      const [cpu, redisCpu] = [server.cpu() - used, await redis.cpu() - redisUsed]
      const { p50, p99, max } = await other.ask('report')
      say('storm', `${row}: until all are connected, s`, subject, connected / 1_000)
      say('storm', `${row}: until all have everything, s`, subject, events < many * 21 ? `${numberOf(events)} events in 30 s` : took / 1_000)
      say('storm', `${row}: lost, out of order, gap events, refused`, subject, many * 21 - events + disorder + gaps + refused)
      say('storm', `${row}: server CPU a stream, µs`, subject, cpu / many * 1e6)
      say('storm', `${row}: CPU of Redis a stream, µs`, subject, redisCpu / many * 1e6)
      say('storm', `${row}: latency of another stream before, p99, ms`, subject, quiet.p99)
      say('storm', `${row}: latency of another stream meanwhile, p50, ms`, subject, p50)
      say('storm', `${row}: latency of another stream meanwhile, p99, ms`, subject, p99)
      say('storm', `${row}: latency of another stream meanwhile, max, ms`, subject, max)
    }))
  }
}

/** A process that hears a channel for the first time reads it from Redis, for one stream. */
async function read () {
  await withAll(async start => {
    const count = quick ? 10_000 : 100_000
    const redis = await start.redis(cpus.load)
    const options = { redis: redis.port, driver, rewind: count, history: { maxEvents: count, maxBytes: 2 ** 30 } }
    const writer = await start.server(OURS, options, cpus.load)
    await fill(writer, count)
    const server = await start.server(OURS, options)
    const load = start.load(server.port)
    const begin = performance.now()
    await open(load, { count: 1 })
    const { events } = await load.ask(`wait ${count} 30000`)
    if (events < count) throw new Error(`${events} of ${count} were replayed`)
    say('read', `a stream replays ${numberOf(count)} events of a channel that its process did not hear, events a second`, OURS, count / (performance.now() - begin) * 1_000)
  })
}

async function memory () {
  const channels = quick ? 10_000 : 100_000
  const title = `${numberOf(channels)} channels with one event of 100 bytes each`
  await withAll(async start => {
    const server = await start.server(OURS, {})
    await fill(server, 1_000)
    const before = await settledRss(server)
    await fill(server, channels, { channels, first: 1 })
    say('memory', `${title}: resident memory of the process, without Redis, bytes each`, OURS, Math.round((await settledRss(server) - before) / channels))
    const { history } = await server.ask('stats')
    say('memory', `${title}: channels, kept without Redis`, OURS, history.channels)
  })
  await withAll(async start => {
    const redis = await start.redis(cpus.load)
    const server = await start.server(OURS, { redis: redis.port, driver })
    await fill(server, 1_000)
    const [before, used] = [await settledRss(server), await redis.usedMemory()]
    await fill(server, channels, { channels, first: 1 })
    say('memory', `${title}: used_memory of Redis, bytes each`, OURS, Math.round((await redis.usedMemory() - used) / channels))
    say('memory', `${title}: MEMORY USAGE of one stream, bytes`, OURS, await redis.client.memory('USAGE', '{sse}:c:c7'))
    say('memory', `${title}: resident memory of the process that published them, bytes each`, OURS, Math.round((await settledRss(server) - before) / channels))
  })
  for (const bytes of [100, 200, 1_000]) {
    await withAll(async start => {
      const redis = await start.redis(cpus.load)
      const server = await start.server(OURS, { redis: redis.port, driver })
      await fill(server, 10_000, { bytes })
      const [size, length] = [await redis.client.memory('USAGE', '{sse}:c:c0', 'SAMPLES', 0), await redis.client.xlen('{sse}:c:c0')]
      say('memory', `an event of ${numberOf(bytes)} bytes in Redis, of 10,000 in one channel, bytes`, OURS, Math.round(size / length))
    })
  }
}

/** Publishes without a stream, in parts, as fast as they are acknowledged. */
async function fill (server, count, schedule = {}) {
  const { channels = 1, first = 0 } = schedule
  const target = (await server.ask('stats')).published + count
  for (let done = 0; done < count; done += 5_000) {
    const part = Math.min(5_000, count - done)
    await server.ask(line({ ...schedule, count: part, every: 0, first: channels > 1 ? first + done : first, channels: Math.min(channels, part) }))
    for (let i = 0; (await server.ask('stats')).published < target - (count - done - part); i++) {
      if (i === 3_000) throw new Error('publishes are not acknowledged')
      await sleep(10)
    }
  }
}

// The report

function write () {
  const about = machine('node bench/redis.js', ['fastify'])
  const minutes = Math.round((performance.now() - started) / 6_000) / 10
  const columns = subjects.length > 1 ? [OURS, FIRST, 'first release / now'] : [OURS]
  const cells = values => {
    const [ours, first] = subjects.map(subject => median(values[subject] ?? []))
    const ratio = typeof ours === 'number' && typeof first === 'number' && ours > 0 ? `${format(first / ours)} ×` : ''
    return [format(ours), ...(subjects.length > 1 ? [format(first), ratio] : [])]
  }
  const table = rows => [`| | ${columns.join(' | ')} |`, `| --- |${columns.map(() => ' --: |').join('')}`, ...rows.map(row => `| ${row.join(' | ')} |`)].join('\n')
  const plain = name => table(Object.entries(found[name]).map(([row, values]) => [row, ...cells(values)]))
  const workersTable = () => [
    '| | one process, in memory | two workers, with Redis |', '| --- | --: | --: |',
    ...Object.entries(found.workers).map(([row, values]) => `| ${[row, ...['one process', 'two workers'].map(what => format(median(values[what] ?? [])))].join(' | ')} |`)
  ].join('\n')
  const scaled = row => Object.fromEntries(PROCESSES.map(processes => [processes, Object.fromEntries(subjects.map(subject => [
    subject, median(found.scale?.[`${row}: ${processes}`]?.[subject] ?? [])
  ]))]))
  const scaleTable = () => {
    const rows = [...new Set(Object.keys(found.scale).map(row => row.replace(/: \d+$/, '')))]
    const values = rows.map(scaled)
    const head = ['processes', ...rows.flatMap(row => subjects.map(subject => subject === OURS ? row : `the same, ${FIRST}`))]
    const lines = PROCESSES.map(processes => [processes, ...values.flatMap(value => subjects.map(subject => format(value[processes][subject])))])
    return [head, head.map(() => '--:'), ...lines].map(cells => `| ${cells.join(' | ')} |`).join('\n')
  }
  const charted = ['CPU of each process, mean, %', 'CPU of Redis, %', 'latency, p50, ms', 'latency, p99, ms']
  const sweeps = charted.map(row => {
    const comma = row.lastIndexOf(', ')
    return { name: row, title: row.slice(0, comma), x: 'processes', y: row.slice(comma + 2), points: PROCESSES }
  })
  const lines = Object.fromEntries(charted.map(row => {
    const values = scaled(row)
    return [row, Object.fromEntries(subjects.map(subject => [subject, Object.fromEntries(PROCESSES.map(processes => [processes, values[processes][subject]]))]))]
  }))
  const titles = {
    latency: ['From publish() to a client', plain],
    scale: ['Several processes on one Redis', () => 'Each has 100 channels of its own with a stream each, and 400 events a second on them; and a stream of one channel ' +
      'of all, which has 20 events a second. All share the CPUs, the load and Redis with them. In time: a second after the last was due at the latest.\n\n' + scaleTable()],
    workers: ['One process, or two workers of node:cluster', workersTable],
    storm: ['All streams come back at once, after a deployment', plain],
    read: ['Replay from Redis', plain],
    memory: ['Memory', plain]
  }
  const markdown = [
    '# Figures of the Redis backplane',
    `\`${about.command}\`, ${about.date}. ${about.machine}; processes, load and Redis share the CPUs. ${[...about.versions, `redis-server ${version}`, `driver ${driver}`].join(', ')}. ` +
    `Median of ${args.rounds} round${args.rounds === '1' ? '' : 's'}; the first release (its commit, built for this) in the same run, by turns. Events of 100 bytes. No peer has a backplane.` +
    (quick ? ' **A quick run: not to be quoted.**' : ''),
    ...Object.keys(parts).filter(name => found[name]).flatMap(name => [`## ${titles[name][0]}`, titles[name][1](name)])
  ].join('\n\n') + '\n'
  const directory = quick || args.only ? `${outDir}/` : here
  writeFileSync(`${directory}redis.md`, markdown)
  if (found.scale) writeFileSync(`${directory}redis.svg`, lineChart(sweeps, lines).replace('How cost grows', 'Several processes on one Redis'))
  console.log(`\n${markdown}\nIn ${minutes} minutes. Written to bench/${directory === here ? '' : 'out/'}: redis.md, redis.svg`)
  process.exit()
}

function fail (text) {
  console.error(text)
  process.exit(1)
}
