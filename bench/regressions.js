/**
 * What must not get worse, in figures that do not depend on the machine: `node bench/regressions.js`. Builds the
 * library, prints a table, and exits with 1 where one is above its limit. It takes some seconds, and a redis-server for the last rows.
 *
 * The limits are a little above what was measured when they were written down. Who makes something better lowers them.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import { PerformanceObserver } from 'node:perf_hooks'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createGunzip } from 'node:zlib'
import { present } from './builds.js'

const STREAMS = 100
/** So many events before one counts: the code is compiled then. */
const WARM = 1_000
/** Streams whose memory is measured: so many that what Node compiles meanwhile, some hundred kilobytes, counts for little. */
const IDLE = 1_000
const TEXT = 'x'.repeat(100)
/** An event in JSON, of some 150 bytes, whose values change. */
const json = k => JSON.stringify({ id: `ord_${(k * 7_919_113 % 2_176_782_336).toString(36)}`, status: ['placed', 'paid', 'packed', 'shipped'][k % 4], customer: { id: k * 7_919 % 10_000, country: 'DE' }, total: k * 7_919 % 50_000 / 100, currency: 'EUR' })
/** The least that an event of this text takes on the wire. */
const PLAIN = Buffer.byteLength(`data: ${TEXT}\n\n`)

/** What is measured, and the most that it may be. */
const LIMITS = {
  'writes a connect': 1,
  'bytes a connect': 280,
  'writes a delivery, one event a turn': 1,
  'writes a delivery, 300 events a turn': 1 / 300,
  'writes a delivery, each stream on a channel of its own': 1,
  'writes a resume with 100 events': 2,
  'bytes a delivery over the plain event': 28,
  'bytes a delivery over the plain event, 300 events a turn': 22,
  'heap allocated a delivery, bytes': 500,
  'heap allocated a delivery, against bare socket.write, times': 2,
  'heap allocated a delivery, each stream on a channel of its own, bytes': 10_000,
  'heap kept an idle stream on a channel of its own, bytes': 8_000,
  'heap kept a channel with one event, bytes': 950,
  'compressed: bytes a connect': 350,
  'compressed: bytes of 100 single JSON events, of plain, %': 29,
  'compressed: bytes of 300 JSON events in one turn, of plain, %': 13.5,
  'compressed: writes a delivery, one event a turn': 1,
  'compressed: heap allocated a publish, over plain, bytes': 75_000,
  'Redis: commands sent a publish': 1.1, // now and then, one asks whether Redis is there
  'Redis: commands run a publish, those in scripts included': 10.3, // every sixteenth one looks for what has expired, and writes down how far it came
  'Redis: commands sent a resume to a process that hears none of the channels': 3.1,
  'Redis: commands run a resume, those in scripts included': 9
}

if (process.send) serve()
else await main()

// The server, in a process of its own

/** New space that takes all of a measurement, so that what is allocated can be read from the size of the heap. */
function serve () {
  let app, writes, collections
  let published = 0
  const closing = []
  const sockets = new Set()
  new PerformanceObserver(list => { collections += list.getEntries().length }).observe({ entryTypes: ['gc'] })

  /** Counts what goes to the system, whatever way Node takes there. */
  const count = server => server.on('connection', socket => {
    sockets.add(socket)
    const prototype = Object.getPrototypeOf(socket._handle)
    if (writes !== undefined) return
    writes = 0
    for (const name of ['writev', 'writeBuffer', 'writeUtf8String', 'writeLatin1String', 'writeAsciiString', 'writeUcs2String']) {
      const write = prototype[name]
      prototype[name] = function (...parameters) {
        writes++
        return write.apply(this, parameters)
      }
    }
  })
  const bytes = () => [...sockets].reduce((sum, socket) => sum + socket.bytesWritten, 0)
  const heap = () => {
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }
  const settled = async () => {
    for (let i = 0; i < 4; i++) {
      globalThis.gc()
      await sleep(20)
    }
    return heap()
  }

  const jobs = {
    async open ({ dist, redis, compress = false }) {
      const { default: sse } = await import(`${dist}/index.js`)
      const { default: fastify } = await import('fastify')
      app = fastify()
      const options = { heartbeatInterval: 0, compress }
      if (redis) {
        const { redisBackplane } = await import(`${dist}/redis/index.js`)
        const { Redis } = await import('ioredis')
        options.backplane = redisBackplane({ client: new Redis({ port: redis, host: '127.0.0.1', lazyConnect: true }) })
      }
      await app.register(sse, options)
      app.get('/:names', (request, reply) => reply.sse(request.params.names.split(',').map(name => app.sse.channel(name))))
      count(app.server)
      await app.listen({ port: 0, host: '127.0.0.1' })
      closing.push(() => app.close())
      return app.server.address().port
    },
    /** What a delivery costs that goes the shortest way there is. */
    async bare () {
      const responses = []
      const server = http.createServer((request, response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        response.flushHeaders()
        responses.push(response)
      })
      count(server)
      await once(server.listen(0, '127.0.0.1'), 'listening')
      closing.push(() => server.closeAllConnections())
      const event = `id: 0123456789-012345\ndata: ${TEXT}\n\n`
      const publish = () => {
        const chunk = Buffer.from(`${event.length.toString(16)}\r\n${event}\r\n`)
        for (const { socket } of responses) socket.write(chunk)
      }
      app = { sse: { publish } }
      return server.address().port
    },
    read: () => ({ writes, bytes: bytes() }),
    settled,
    /** So many events, so many of them a turn; to one channel or to several in turn. What was allocated, or null where some of it was collected. */
    async publish ({ events, aTurn = 1, channels, first = 0, inJson = false }) {
      await settled()
      collections = 0
      const before = heap()
      let last
      for (let k = 0; k < events; k++) {
        last = app.sse.publish(channels ? `c${first + k % channels}` : 'all', inJson ? json(published++) : TEXT)
        // the pass comes in the next turn, and what it wrote is told of in another
        if ((k + 1) % aTurn === 0) for (let i = 0; i < 3; i++) await turn()
      }
      await last
      const allocated = heap() - before
      await sleep(20) // a collection is told of later
      return collections === 0 ? allocated : null
    },
    close: async () => { for (const close of closing.splice(0)) await close() }
  }
  process.on('message', async ({ id, job, args }) => {
    try {
      process.send({ id, value: await jobs[job](args ?? {}) })
    } catch (error) {
      process.send({ id, error: error.stack })
    }
  })
  process.on('disconnect', () => process.exit())
}

// The clients, and the table

async function main () {
  const dist = present()
  const found = {}
  const children = []
  process.on('exit', () => { for (const child of children) child.kill('SIGKILL') })
  const started = performance.now()

  const memory = await start()
  await inMemory(memory)
  await memory.ask('close')
  await compressed()
  await bare()
  await overRedis()
  const passed = Object.entries(LIMITS).filter(([what, limit]) => found[what] !== undefined && !(found[what] <= limit))
  const shown = value => value === undefined ? 'not tried' : Number(value.toFixed(value < 1 ? 5 : value < 100 ? 2 : 0)).toLocaleString('en', { maximumFractionDigits: 5 })
  const width = Math.max(...Object.keys(LIMITS).map(what => what.length))
  console.log(`${''.padEnd(width)}  ${'now'.padStart(10)}  ${'limit'.padStart(10)}`)
  for (const [what, limit] of Object.entries(LIMITS)) {
    console.log(`${what.padEnd(width)}  ${shown(found[what]).padStart(10)}  ${shown(limit).padStart(10)}${passed.some(([name]) => name === what) ? '  <- above it' : ''}`)
  }
  console.log(`${passed.length === 0 ? 'All within their limits' : `${passed.length} above ${passed.length === 1 ? 'its limit' : 'their limits'}`}, in ${Math.round((performance.now() - started) / 1_000)} s, Node ${process.versions.node}`)
  process.exit(passed.length === 0 ? 0 : 1)

  async function inMemory (server) {
    const port = await server.ask('open', { dist })
    // the code is compiled, and what it keeps for ever is there
    const warm = await connect(port, STREAMS, () => 'all')
    await server.ask('publish', { events: WARM })
    await warm.received(WARM * STREAMS)
    warm.leave()
    await sleep(200)

    let before = await server.ask('read')
    const all = await connect(port, STREAMS, () => 'all')
    await sleep(100)
    let after = await server.ask('read')
    found['writes a connect'] = (after.writes - before.writes) / STREAMS
    found['bytes a connect'] = (after.bytes - before.bytes) / STREAMS

    const deliver = (clients, publish, each) => delivery(server, clients, publish, each)
    const single = await least(() => deliver(all, { events: 50 }, 50))
    found['writes a delivery, one event a turn'] = single.writes
    found['bytes a delivery over the plain event'] = single.bytes - PLAIN
    found['heap allocated a delivery, bytes'] = single.heap
    const joined = await deliver(all, { events: 300, aTurn: 300 }, 300)
    found['writes a delivery, 300 events a turn'] = joined.writes
    found['bytes a delivery over the plain event, 300 events a turn'] = joined.bytes - PLAIN

    // all leave, miss 100 events, and come back
    const ids = all.ids()
    all.leave()
    await sleep(200)
    await server.ask('publish', { events: 100, aTurn: 100 })
    before = await server.ask('read')
    const back = await connect(port, STREAMS, () => 'all', ids)
    await back.received(100 * STREAMS)
    await sleep(100)
    after = await server.ask('read')
    found['writes a resume with 100 events'] = (after.writes - before.writes) / STREAMS
    back.leave()
    await sleep(200)

    const settled = await server.ask('settled')
    const idle = await connect(port, IDLE, k => `idle${k}`)
    await sleep(100)
    found['heap kept an idle stream on a channel of its own, bytes'] = (await server.ask('settled') - settled) / IDLE
    idle.leave()
    await sleep(200)

    const own = await connect(port, STREAMS, k => `c${k}`)
    await deliver(own, { events: 20 * STREAMS, channels: STREAMS }, 20) // warm
    const each = await least(() => deliver(own, { events: 20 * STREAMS, channels: STREAMS }, 20))
    found['writes a delivery, each stream on a channel of its own'] = each.writes
    found['heap allocated a delivery, each stream on a channel of its own, bytes'] = each.heap
    own.leave()

    await sleep(200)
    const kept = await server.ask('settled')
    await server.ask('publish', { events: 20_000, aTurn: 1_000, channels: 20_000, first: 1_000 })
    found['heap kept a channel with one event, bytes'] = (await server.ask('settled') - kept) / 20_000
  }

  /** The same events, to clients that take gzip and to others. */
  async function compressed () {
    const figures = {}
    for (const compress of [false, true]) {
      const server = await start()
      const port = await server.ask('open', { dist, compress })
      const clients = await connect(port, STREAMS, () => 'all', [], true)
      if (compress) {
        await sleep(100)
        found['compressed: bytes a connect'] = (await server.ask('read')).bytes / STREAMS
      }
      // what fills the window, too
      await delivery(server, clients, { events: 200, inJson: true }, 200)
      const single = await least(() => delivery(server, clients, { events: 100, inJson: true }, 100))
      figures[compress] = { single, joined: await delivery(server, clients, { events: 300, aTurn: 300, inJson: true }, 300) }
      await server.ask('close')
      clients.leave()
    }
    const { true: gzip, false: plain } = figures
    found['compressed: bytes of 100 single JSON events, of plain, %'] = gzip.single.bytes / plain.single.bytes * 100
    found['compressed: bytes of 300 JSON events in one turn, of plain, %'] = gzip.joined.bytes / plain.joined.bytes * 100
    found['compressed: writes a delivery, one event a turn'] = gzip.single.writes
    found['compressed: heap allocated a publish, over plain, bytes'] = (gzip.single.heap - plain.single.heap) * STREAMS
  }

  async function bare () {
    const server = await start()
    const clients = await connect(await server.ask('bare'), STREAMS, () => 'all')
    await server.ask('publish', { events: WARM })
    await clients.received(WARM * STREAMS)
    const { heap } = await least(() => delivery(server, clients, { events: 50 }, 50))
    found['heap allocated a delivery, against bare socket.write, times'] = found['heap allocated a delivery, bytes'] / heap
    clients.leave()
  }

  async function overRedis () {
    const { redisVersion, startRedis } = await import('./redis-server.js')
    if (!redisVersion()) {
      if (process.env.CI) throw new Error('redis-server is not installed')
      return console.log('Without Redis: redis-server is not installed.')
    }
    const redis = await startRedis()
    try {
      const [publisher, old, fresh] = await Promise.all([start(), start(), start()])
      await publisher.ask('open', { dist, redis: redis.port })
      const names = k => `c${k},all`
      const before = await connect(await old.ask('open', { dist, redis: redis.port }), STREAMS, names)
      await publisher.ask('publish', { events: STREAMS, channels: STREAMS })
      await before.received(STREAMS)

      // what others do meanwhile is not counted: a question whether Redis is there, once in 5 s
      const calls = async () => {
        const { info, config, ping, command, client, ...counted } = await redis.calls()
        const total = Object.values(counted).reduce((sum, count) => sum + count, 0)
        const sent = (counted.evalsha ?? 0) + (counted.subscribe ?? 0) + (counted.unsubscribe ?? 0)
        return { total, sent }
      }
      await redis.client.config('RESETSTAT')
      await publisher.ask('publish', { events: 320, channels: STREAMS })
      const published = await calls()
      found['Redis: commands sent a publish'] = published.sent / 320
      found['Redis: commands run a publish, those in scripts included'] = published.total / 320
      await before.received(STREAMS + 320)
      const ids = before.ids()
      before.leave()
      await publisher.ask('publish', { events: STREAMS, channels: STREAMS })
      await publisher.ask('publish', { events: 5 })

      const port = await fresh.ask('open', { dist, redis: redis.port })
      await sleep(500) // the old process sees that they left
      await redis.client.config('RESETSTAT')
      const back = await connect(port, STREAMS, names, ids)
      await back.received(6 * STREAMS)
      const resumed = await calls()
      found['Redis: commands sent a resume to a process that hears none of the channels'] = resumed.sent / STREAMS
      found['Redis: commands run a resume, those in scripts included'] = resumed.total / STREAMS
    } finally {
      await redis.end()
    }
  }

  /** @param {number} each of the events that `publish` tells of, so many for each client */
  async function delivery (server, clients, publish, each) {
    const [count, before] = [clients.events + each * clients.count, await server.ask('read')]
    const allocated = await server.ask('publish', publish)
    await clients.received(count)
    const after = await server.ask('read')
    const deliveries = each * clients.count
    return {
      writes: (after.writes - before.writes) / deliveries,
      bytes: (after.bytes - before.bytes) / deliveries,
      // where some was collected meanwhile, it is not known
      heap: allocated === null ? Infinity : allocated / deliveries
    }
  }

  /** Of five times the one that allocates least: a socket that is full for a moment, on a busy machine, costs more. */
  async function least (measure) {
    const times = []
    for (let i = 0; i < 5; i++) times.push(await measure())
    return times.sort((a, b) => a.heap - b.heap)[0]
  }

  async function start () {
    const child = fork(fileURLToPath(import.meta.url), {
      execArgv: ['--expose-gc', '--min-semi-space-size=256', '--max-semi-space-size=256'], env: { ...process.env, NODE_ENV: 'production' }
    })
    children.push(child)
    const waiting = new Map()
    child.on('message', ({ id, value, error }) => {
      const { resolve, reject } = waiting.get(id)
      waiting.delete(id)
      if (error) reject(new Error(error))
      else resolve(value)
    })
    child.on('exit', code => { for (const { reject } of waiting.values()) reject(new Error(`a server ended (${code})`)) })
    let ids = 0
    return {
      ask: (job, args) => new Promise((resolve, reject) => {
        waiting.set(++ids, { resolve, reject })
        child.send({ id: ids, job, args })
      })
    }
  }
}

/** Clients that count events. `ids`: what they come back with. `gzip`: they take it, and whether they get it is the server's choice. */
async function connect (port, count, path, ids = [], gzip = false) {
  const clients = { count, events: 0 }
  const last = []
  const agent = new http.Agent({ keepAlive: true })
  const requests = []
  await Promise.all(Array.from({ length: count }, async (_, k) => {
    const headers = { accept: 'text/event-stream', ...(ids[k] && { 'last-event-id': ids[k] }), ...(gzip && { 'accept-encoding': 'gzip' }) }
    const request = http.get({ port, host: '127.0.0.1', path: `/${path(k)}`, agent, headers }).on('error', () => {})
    requests.push(request)
    const [response] = await once(request, 'response')
    response.on('error', () => {})
    const body = response.headers['content-encoding'] === 'gzip' ? response.pipe(createGunzip()) : response
    let rest = ''
    body.setEncoding('latin1').on('error', () => {}).on('data', chunk => {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()
      for (const line of lines) {
        if (line.startsWith('data: ')) clients.events++
        else if (line.startsWith('id: ')) last[k] = line.slice(4)
      }
    })
  }))
  clients.ids = () => last
  clients.leave = () => { for (const request of requests) request.destroy() }
  clients.received = async events => {
    for (const end = performance.now() + 15_000; clients.events < events; await sleep(5)) {
      if (performance.now() > end) throw new Error(`${clients.events} of ${events} events came`)
    }
  }
  return clients
}
