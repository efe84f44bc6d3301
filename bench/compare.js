/**
 * What the library does and what its peers do, tried on the installed packages over real sockets: `node compare.js`.
 *
 * Each row of the table is a function below that finds its cell for any of the four libraries. Each library runs in a
 * process of its own, as some cells hang or end it. After the build it takes about a minute.
 *
 *   --only text        rows whose title has the text; prints, and leaves the page alone
 *
 * "own code": the library leaves it to the application. Where nothing can be called, the row looks for words in the
 * README and types that are installed, and fails if it finds them: then this file is out of date.
 */
import { fork, spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { createServer, request as httpRequest } from 'node:http'
import http2 from 'node:http2'
import net from 'node:net'
import os from 'node:os'
import { Readable } from 'node:stream'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const here = fileURLToPath(new URL('.', import.meta.url))
const root = fileURLToPath(new URL('..', import.meta.url))
const json = path => JSON.parse(readFileSync(path, 'utf8'))

const CELL_MS = 25_000
/** How long a row waits for what may never come, in ms. */
const PATIENCE_MS = 2_000
const RUN_MS = 180_000

/** Where the table goes: between these two lines. */
const PAGE = `${root}docs/comparison.md`
const TABLE = /(?<=<!-- Written by bench\/compare\.js -->\n)[^]*?(?=<!-- End of that -->)/

/** From eventsource-parser, a parser that others wrote; there once the root is installed. */
let createParser

/**
 * The libraries, each used as its README says.
 *
 * @typedef {object} Stream an open stream, driven by hand
 * @property {(event: object) => unknown} send
 * @property {(text: string) => unknown} [text] plain text, where that is not send({ data: text })
 * @property {string | null | undefined} lastEventId what the client has
 * @property {(told: () => void) => unknown} onLeave
 * @property {(events: object[]) => unknown} [batch]
 */
const libraries = {
  'fastify-sse-channels': {
    directory: root,
    code: ['dist'],
    heartbeat: ms => ({ heartbeatInterval: ms }),
    lastEventId: '`stream.lastEventId`',
    leaves: '`stream.signal`',
    accepts: request => request.acceptsSse(),
    async register (app, options) {
      await app.register((await import('../dist/index.js')).default, options)
    },
    open (app, url, onOpen) {
      const handler = (request, reply) => {
        const stream = reply.sse()
        onOpen({
          send: event => stream.send(event),
          lastEventId: stream.lastEventId,
          onLeave: told => stream.signal.addEventListener('abort', told)
        })
        return stream
      }
      app.route({ method: ['GET', 'POST'], url, handler })
    },
    source: (app, url, make) => app.get(url, (request, reply) => reply.sse(make())),
    channels (app, url, names) {
      app.get(url, (request, reply) => reply.sse(names.map(name => app.sse.channel(name))))
      return (name, event) => app.sse.channel(name).publish(event)
    },
    typed: data => `
      import type { SseRegistry } from '../dist/index.js'
      declare const sse: SseRegistry
      sse.channel<{ tick: { n: number } }>('clock').publish({ event: 'tick', data: ${data} })`,
    async redis (client) {
      const { redisBackplane } = await import('../dist/redis/index.js')
      return { backplane: redisBackplane({ client }) }
    },
    history: maxEvents => ({ history: { maxEvents } }),
    values: { history: { channel: () => ({ latest: true }) } },
    publishFrom: (app, name, source) => app.sse.channel(name).publishFrom(source),
    pageClient: `${root}dist/client/`,
    limits: { streams: { maxStreams: 1 }, perClient: { maxStreamsPerKey: 1 }, bytes: { maxEventBytes: 1_000 } }
  },

  '@fastify/sse': {
    code: ['index.js'],
    heartbeat: ms => ({ heartbeatInterval: ms }),
    lastEventId: '`reply.sse.replay()`',
    leaves: '`reply.sse.onClose()`',
    async register (app, options) {
      await app.register((await import('@fastify/sse')).default, options)
    },
    open (app, url, onOpen) {
      const handler = async (request, reply) => {
        const { sse } = reply
        sse.keepAlive()
        await sse.send({ data: 'Connected' }) // the first event sends the head
        let lastEventId = null
        await sse.replay(async id => { lastEventId = id })
        const send = event => { if (sse.isConnected) return sse.send(event).catch(() => {}) }
        onOpen({ send, text: send, lastEventId, onLeave: told => sse.onClose(told) })
      }
      app.route({ method: ['GET', 'POST'], url, sse: 'only', handler })
    },
    source: (app, url, make) => app.get(url, { sse: 'only' }, (request, reply) => reply.sse.send(make()))
  },

  'fastify-sse-v2': {
    code: ['lib'],
    lastEventId: 'the header',
    leaves: "`request.socket.on('close')`",
    encode: JSON.stringify, // its data is a string
    async register (app, options) {
      await app.register((await import('fastify-sse-v2')).FastifySSEPlugin, options)
    },
    open (app, url, onOpen) {
      const handler = (request, reply) => {
        reply.sse({ comment: 'open' }) // the first event sends the head
        request.socket.on('close', () => reply.sseContext.source.end())
        onOpen({
          send: event => reply.sse(event),
          lastEventId: request.headers['last-event-id'],
          onLeave: told => request.socket.on('close', told)
        })
      }
      app.route({ method: ['GET', 'POST'], url, handler })
    },
    source: (app, url, make) => app.get(url, (request, reply) => { reply.sse(make()) })
  },

  'better-sse': {
    code: ['build/index.mjs'],
    heartbeat: ms => ({ keepAlive: ms }),
    lastEventId: '`session.lastId`',
    leaves: "`session.on('disconnected')`",
    item: text => text, // what it iterates over is data, not events
    async register (app, options) {
      this.api = await import('better-sse')
      this.options = options
    },
    session (request, reply, options) {
      reply.hijack()
      return this.api.createSession(request.raw, reply.raw, { ...this.options, ...options })
    },
    open (app, url, onOpen, headers) {
      const handler = async (request, reply) => {
        const session = await this.session(request, reply, { headers: headers?.(reply) })
        onOpen({
          send: event => session.isConnected && session.push(event.data, event.event, event.id),
          lastEventId: session.lastId,
          onLeave: told => session.on('disconnected', told),
          batch: events => session.batch(buffer => { for (const { data } of events) buffer.push(data) })
        })
      }
      app.route({ method: ['GET', 'POST'], url, handler })
    },
    source (app, url, make) {
      app.get(url, async (request, reply) => {
        const session = await this.session(request, reply)
        const source = make()
        const streamed = source instanceof Readable || source instanceof ReadableStream
        await (streamed ? session.stream(source) : session.iterate(source)) // no call ends a session
      })
    },
    channels (app, url, names) {
      const channels = new Map(names.map(name => [name, this.api.createChannel()]))
      app.get(url, async (request, reply) => {
        const session = await this.session(request, reply)
        for (const channel of channels.values()) channel.register(session)
      })
      return (name, { data, event }) => channels.get(name).broadcast(data, event)
    },
    typed: data => `
      import { createChannel } from 'better-sse'
      createChannel<{ tick: { n: number } }>().broadcast(${data}, 'tick')`,
    async alone () {
      const { createResponse, createSession } = await import('better-sse')
      const server = createServer(async (request, response) => (await createSession(request, response)).push('hello'))
      const client = get(await listening(server))
      await until(() => client.events.length === 1)
      const response = createResponse(new Request('http://localhost/'), session => session.push('hello'))
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
      let text = ''
      while (!text.includes('data:"hello"')) text += (await reader.read()).value
      return '`node:http`, Fetch API'
    }
  }
}
const names = Object.keys(libraries)
for (const name of names) libraries[name].directory ??= `${here}node_modules/${name}/`

/**
 * The table: each row finds its cell for one library. `alone`: in a process of its own. `mayEnd`: that
 * the process ends is a finding, not a fault of this file.
 * @type {{ title: string, alone?: boolean, mayEnd?: boolean, cell: (lib: any) => unknown, note?: string }[]}
 */
const rows = [
  {
    title: 'Broadcast channels',
    async cell (lib) {
      const app = await makeApp(lib)
      const publish = broadcaster(lib, app, ['news'])
      const port = await listen(app)
      const clients = [get(port), get(port)]
      await until(() => clients.every(client => client.open))
      publish('news', { data: 'hello' })
      await until(() => clients.every(client => client.events.length === 1))
      if (!lib.channels) return ownCode(lib, /channel|broadcast/i)
      return `yes, ${await isTyped(lib) ? 'typed' : 'untyped'}`
    },
    note: 'Typed: the compiler rejects data of another type than the event of that name has in that channel.'
  },
  {
    title: 'A client that comes back gets what it missed, in the order of publishing, on two channels with one `Last-Event-ID`',
    async cell (lib) {
      for (const own of lib.channels ? [false, true] : [true]) {
        const app = await makeApp(lib)
        const publish = own ? new OwnChannels().serve(lib, app, '/', ['a', 'b']) : lib.channels(app, '/', ['a', 'b'])
        const port = await listen(app)
        const first = get(port)
        await until(() => first.open)
        publish('a', { data: 'one' })
        await until(() => first.events.length === 1)
        first.leave()
        for (const [channel, text] of [['a', 'two'], ['b', 'three'], ['a', 'four']]) publish(channel, { data: text })
        const second = get(port, '/', { headers: { 'last-event-id': first.events[0].id } })
        await until(() => second.open)
        publish('b', { data: 'five' })
        await until(() => data(second).includes('five'))
        if (data(second) === 'two,three,four,five') return own ? `own code, with ${lib.lastEventId}` : 'yes'
      }
      return 'no'
    },
    note: 'Own code here: a log of the events with ids of its own, and a set of the open streams.'
  },
  {
    title: 'A client whose `Last-Event-ID` is too old is told that events are missing',
    async cell (lib) {
      const app = await makeApp(lib, lib.history?.(2))
      const publish = broadcaster(lib, app, ['news'])
      const port = await listen(app)
      const first = get(port)
      await until(() => first.open)
      publish('news', { data: 'one' })
      await until(() => first.events.length === 1)
      first.leave()
      for (let n = 0; n < 100; n++) publish('news', { data: 'more' })
      const second = get(port, '/', { headers: { 'last-event-id': first.events[0].id } })
      await until(() => second.open)
      publish('news', { data: 'last' })
      await until(() => second.events.some(({ data }) => data.includes('last')))
      return hasGap(second) ? 'yes, event `sse.gap`' : ownCode(lib, /\bgaps?\b|too old/i)
    }
  },
  {
    title: 'A busy channel takes nothing from the history of a quiet one',
    async cell (lib) {
      if (!lib.history) return ownCode(lib, /\bhistory\b|event buffer for/i)
      const app = await makeApp(lib, lib.history(10))
      const publish = lib.channels(app, '/', ['quiet', 'busy'])
      const port = await listen(app)
      const first = get(port)
      await until(() => first.open)
      publish('quiet', { data: 'one' })
      await until(() => first.events.length === 1)
      first.leave()
      publish('quiet', { data: 'two' })
      for (let n = 0; n < 1_000; n++) publish('busy', { data: 'x' })
      const second = get(port, '/', { headers: { 'last-event-id': first.events[0].id } })
      await until(() => data(second).includes('two'), PATIENCE_MS, false)
      const gaps = second.events.filter(({ event }) => event === 'sse.gap').map(({ data }) => JSON.parse(data).channels.join())
      return data(second).includes('two') && gaps.join() === 'busy' ? 'yes' : 'no'
    }
  },
  {
    title: 'A channel of values: a new client gets the newest at once, a slow one skips what is out of date',
    async cell (lib) {
      if (!lib.values) return ownCode(lib, /\blatest value|newest value|\bconflat|\bretained\b/i)
      const app = await makeApp(lib, lib.values)
      const publish = lib.channels(app, '/', ['price'])
      const port = await listen(app)
      const stalled = get(port, '/', { stalled: true })
      await until(() => stalled.open)
      for (let n = 1; n <= 1_000; n++) {
        publish('price', { data: String(n).padEnd(20_000, ' ') })
        await turn()
      }
      const late = get(port)
      await until(() => late.events.length === 1)
      stalled.resume()
      await until(() => Number(stalled.events.at(-1)?.data) === 1_000)
      return Number(late.events[0].data) === 1_000 && stalled.events.length < 1_000 && !hasGap(stalled) ? 'yes' : 'no'
    },
    note: 'Tried with 20 MB of values, more than the sockets hold.'
  },
  {
    title: 'A channel with an end: its readers are told, who comes later gets all of it, and who has had it gets a 204',
    async cell (lib) {
      if (!lib.publishFrom) return ownCode(lib, /publishFrom|end of (the|a) channel/i)
      const app = await makeApp(lib)
      lib.channels(app, '/', ['answer'])
      const port = await listen(app)
      const reader = get(port)
      await until(() => reader.open)
      await lib.publishFrom(app, 'answer', ['one', 'two'])
      await until(() => reader.ended)
      const late = get(port, '/', { headers: { 'last-event-id': reader.events[0].id } })
      await until(() => late.ended)
      const again = get(port, '/', { headers: { 'last-event-id': late.events.at(-1).id } })
      await until(() => again.status)
      const [one, two, end] = reader.events
      return one.data === 'one' && two.data === 'two' && end.event === 'sse.end' && late.events[0].data === 'two' && again.status === 204 ? 'yes' : 'no'
    }
  },
  {
    title: 'A client for pages, which comes back after a 503',
    async cell (lib) {
      if (!lib.pageClient) return noPageClient(lib)
      const { SseClient } = await import(`${lib.pageClient}index.js`)
      const app = await makeApp(lib)
      let refusals = 1
      app.addHook('onRequest', async (request, reply) => { if (refusals-- > 0) return reply.code(503).send() })
      const publish = lib.channels(app, '/', ['news'])
      const client = new SseClient(`http://127.0.0.1:${await listen(app)}/`, { retry: { max: 100 } })
      const events = []
      client.onmessage = event => events.push(event.data)
      await until(() => app.sse.streams.size === 1)
      publish('news', { data: 'hello' })
      await until(() => events.length === 1)
      client.close()
      return 'yes'
    }
  },
  {
    title: 'The tabs of a browser share one connection',
    async cell (lib) {
      if (!lib.pageClient) return noPageClient(lib)
      const { chromium } = await import('playwright-core')
      const path = spawnSync('sh', ['-c', 'command -v chromium'], { encoding: 'utf8' }).stdout.trim()
      if (path === '') return 'not tried: no chromium'
      const app = await makeApp(lib)
      const publish = lib.channels(app, '/events', ['news'])
      const script = "import { SseClient } from '/client/index.js'; new SseClient('/events', { share: true }).onmessage = event => { document.title = event.data }"
      app.get('/', (request, reply) => reply.type('text/html').send(`<!doctype html><script type="module">${script}</script>`))
      app.get('/client/:file', (request, reply) => reply.type('text/javascript').send(readFileSync(`${lib.pageClient}${request.params.file}`)))
      const port = await listen(app)
      const browser = await chromium.launch({ executablePath: path, args: ['--no-sandbox', '--disable-gpu'] })
      try {
        const context = await browser.newContext()
        const tabs = await Promise.all([1, 2, 3].map(() => context.newPage()))
        for (const tab of tabs) await tab.goto(`http://127.0.0.1:${port}/`)
        await until(() => app.sse.stats().opened >= 3 && app.sse.streams.size === 1, 10_000)
        publish('news', { data: 'hello' })
        for (const tab of tabs) await tab.waitForFunction(() => document.title === 'hello', null, { timeout: 5_000 })
        return app.sse.streams.size === 1 ? 'yes, with `share`' : 'no'
      } finally {
        await browser.close()
      }
    }
  },
  {
    title: 'Several processes act as one, through Redis',
    async cell (lib) {
      if (!lib.redis) return ownCode(lib, /redis|cluster|several processes|pub\/?sub/i)
      if (!process.env.COMPARE_REDIS) return 'not tried: no redis-server'
      const { Redis } = await import('ioredis')
      const client = () => new Redis({ path: process.env.COMPARE_REDIS, lazyConnect: true })
      const apps = await Promise.all([1, 2].map(async () => makeApp(lib, await lib.redis(client()))))
      const [publish] = apps.map(app => lib.channels(app, '/', ['news']))
      const reader = get(await listen(apps[1]))
      await apps[0].ready()
      await until(() => reader.open)
      publish('news', { data: 'hello' })
      await until(() => reader.events.length === 1)
      return 'yes'
    },
    note: 'Checked with two applications that share nothing but a Redis.'
  },
  {
    alone: true,
    title: 'One client reads nothing while 20 MB is published: memory that it costs',
    async cell (lib) {
      const { bytes } = await publishBesideStalled(lib, 20, 80)
      return `${(bytes / 1e6).toFixed(1)} MB`
    },
    note: 'Heap and external memory after a garbage collection, against the same load without that client. What the ' +
      "kernel's socket buffers hold is not in it. Own code can do better with @fastify/sse, whose `send()` resolves when the client has read, with a queue for each client."
  },
  {
    title: 'What happens to that client when it reads again, after 100 MB',
    async cell (lib) {
      const { stalled, count } = await publishBesideStalled(lib, 100)
      stalled.resume()
      await quiet(() => stalled.events.length, 15_000)
      if (hasGap(stalled)) return 'is told that it lost some (`sse.gap`), and goes on'
      return stalled.events.length === count ? 'gets all of it, from memory' : `gets ${stalled.events.length} of ${count} events`
    },
    note: 'fastify-sse-channels keeps 64 MiB for all channels and clients together, and cuts off one that has read nothing for `stallTimeout`, 2 minutes; both can be set.'
  },
  {
    title: 'An async generator waits for a client that does not read',
    async cell (lib) {
      let taken = 0
      const app = await makeApp(lib)
      lib.source(app, '/', async function * () {
        for (; taken < 5_000; taken++) {
          await turn()
          yield item(lib, String(taken).padEnd(10_000, '.'))
        }
      })
      get(await listen(app), '/', { stalled: true })
      await until(() => taken > 0)
      await quiet(() => taken)
      return taken < 5_000 ? 'yes' : 'no, 50 MB buffered'
    }
  },
  {
    title: 'Sources: async generator, `Readable`, web stream, and bytes from these two',
    async cell (lib) {
      const app = await makeApp(lib)
      const things = [item(lib, 'one'), item(lib, 'two')]
      const bytes = [Buffer.from('one'), Buffer.from('two')]
      const sources = {
        generator: async function * () { yield * things },
        Readable: () => Readable.from(things),
        'web stream': () => ReadableStream.from(things),
        'bytes of a Readable': () => Readable.from(bytes),
        'bytes of a web stream': () => ReadableStream.from(bytes.map(chunk => new Uint8Array(chunk)))
      }
      const paths = Object.keys(sources).map((name, i) => {
        lib.source(app, `/${i}`, sources[name])
        return `/${i}`
      })
      const port = await listen(app)
      const clients = paths.map(path => get(port, path))
      await until(() => clients.every(client => data(client) === 'one,two'), PATIENCE_MS, false)
      const missing = Object.keys(sources).filter((name, i) => data(clients[i]) !== 'one,two')
      return missing.length ? `all but ${missing.join(', ')}` : 'all'
    }
  },
  {
    title: 'A generator that yields now and then is stopped when its client leaves',
    async cell (lib) {
      let stopped = false
      const app = await makeApp(lib)
      lib.source(app, '/', async function * () {
        try {
          for (;;) {
            await sleep(20)
            yield item(lib, 'tick')
          }
        } finally {
          stopped = true
        }
      })
      const client = get(await listen(app))
      await until(() => client.events.length > 0)
      client.leave()
      await until(() => stopped, PATIENCE_MS, false)
      return stopped ? 'yes' : 'no, runs on'
    }
  },
  {
    title: 'The handler is told that the client left, on GET and on POST',
    async cell (lib) {
      const told = []
      for (const method of ['GET', 'POST']) {
        const app = await makeApp(lib)
        lib.open(app, '/', stream => stream.onLeave(() => told.push(method)))
        const client = get(await listen(app), '/', { method, body: method === 'POST' ? '{"ask":1}' : undefined })
        await until(() => client.open)
        await sleep(50)
        client.leave()
        await until(() => told.includes(method), PATIENCE_MS, false)
      }
      return told.length ? `${told.join(' and ')}, ${lib.leaves}` : 'no'
    }
  },
  {
    mayEnd: true,
    title: 'A generator throws before its first event',
    cell: lib => generatorThatThrows(lib, [])
  },
  {
    mayEnd: true,
    title: 'A generator throws after its first event',
    cell: lib => generatorThatThrows(lib, [item(lib, 'one')]),
    note: 'Nothing catches it here; own code can, and send an event. `EventSource` comes back after a break and after an end, but not after a status 500.'
  },
  {
    title: 'Limits: open streams, streams of one client, size of an event',
    async cell (lib) {
      if (!lib.limits) return ownCode(lib, /\bmax(?!imum)\w*|\blimits?\b|too (many|large)/i)
      const refused = []
      for (const kind of ['streams', 'perClient']) {
        const app = await makeApp(lib, lib.limits[kind])
        lib.channels(app, '/', ['news'])
        const port = await listen(app)
        const first = get(port)
        await until(() => first.open)
        const second = get(port)
        await until(() => second.status)
        refused.push(second.status)
      }
      const app = await makeApp(lib, lib.limits.bytes)
      await lib.channels(app, '/', ['news'])('news', { data: 'x'.repeat(2_000) }).catch(error => refused.push(error.statusCode))
      return refused.join() === '503,429,413' ? 'all three' : `answers ${refused.join()}`
    }
  },
  {
    title: 'Heartbeats, and `retry` at the start',
    async cell (lib) {
      const app = await makeApp(lib, lib.heartbeat?.(50))
      lib.open(app, '/', () => {})
      const client = get(await listen(app))
      await until(() => client.open)
      await until(() => client.comments > 2, PATIENCE_MS, false)
      const has = [['heartbeats', client.comments > 2], ['`retry`', client.retries.length > 0]]
      if (!lib.heartbeat) ownCode(lib, /heartbeat|\bpings?\b|keep-?alive/i)
      return has.every(([, there]) => there) ? 'both' : `${has.find(([, there]) => there)[0]}; ${has.find(([, there]) => !there)[0]} by own code`
    }
  },
  {
    title: 'CR or LF lets a value forge another field, in:',
    async cell (lib) {
      const attacks = [
        ['event name', {}, stream => stream.send({ event: 'x\nretry: 77777', data: 'y' })],
        ['id', {}, stream => stream.send({ id: '1\nretry: 77777', data: 'y' })],
        ['text', {}, stream => (stream.text ?? (data => stream.send({ data })))('y\rretry: 77777')],
        ['text with its own `serializer`', { serializer: String }, stream => stream.send({ data: 'y\rretry: 77777' })]
      ]
      const forged = []
      for (const [where, options, send] of lib.item ? attacks : attacks.slice(0, 3)) {
        const app = await makeApp(lib, options)
        lib.open(app, '/', async stream => {
          await sleep(20)
          await Promise.resolve(stream).then(send).catch(() => {}) // or it is refused, which is right
          stream.send({ data: lib.encode ? 'after' : ['after'] })
        })
        const client = get(await listen(app))
        await until(() => data(client).includes('after'))
        if (client.retries.includes(77_777)) forged.push(where)
      }
      return forged.join(', ') || 'nothing'
    },
    note: 'Text: a string that is not sent as JSON. With fastify-sse-channels it goes out as it is, with @fastify/sse by `send(text)`.'
  },
  {
    title: 'An object as data becomes JSON, and any newlines in it arrive',
    async cell (lib) {
      const sent = { text: 'a\nb\rc\r\nd\n' }
      const app = await makeApp(lib)
      lib.open(app, '/', stream => setTimeout(() => stream.send({ data: lib.encode ? lib.encode(sent) : sent }), 20))
      const client = get(await listen(app))
      await until(() => client.events.length === 1)
      return JSON.parse(client.events[0].data).text !== sent.text ? 'no' : lib.encode ? 'own code' : 'yes'
    }
  },
  {
    title: '`app.close()` with an open stream',
    async cell (lib) {
      const outcomes = []
      for (const options of [{}, { forceCloseConnections: true }]) {
        const app = await makeApp(lib, {}, options)
        lib.open(app, '/', () => {})
        const client = get(await listen(app))
        await until(() => client.open)
        const told = client.retries.length
        const closed = await Promise.race([app.close().then(() => true), sleep(PATIENCE_MS, false)])
        if (closed) await until(() => client.ended)
        if (closed && client.retries.length > told) return 'ends; clients are told when to come back'
        outcomes.push(closed ? 'cuts the stream' : 'hangs')
      }
      const [plain, forced] = outcomes
      return plain === forced ? plain : `${plain}; ${forced} with \`forceCloseConnections\``
    },
    note: 'Hangs: is not done after 2 s. `forceCloseConnections: true` is an option of Fastify that cuts all connections.'
  },
  {
    title: 'Headers set by hooks are in the response: `onRequest` (as CORS does), `onSend` (as cookies do)',
    async cell (lib) {
      const found = async headers => {
        const app = await makeApp(lib)
        for (const hook of ['onRequest', 'onSend']) app.addHook(hook, async (request, reply) => { reply.header(`x-${hook}`, '1') })
        lib.open(app, '/', stream => setTimeout(() => stream.send({ data: 'x' }), 20), headers)
        const client = get(await listen(app))
        await until(() => client.open)
        return ['onRequest', 'onSend'].filter(hook => client.headers[`x-${hook.toLowerCase()}`])
      }
      const there = await found()
      if (there.length) return there.length === 2 ? 'both' : `\`${there}\` only`
      const byHand = await found(reply => reply.getHeaders())
      return byHand.length ? `neither; \`${byHand}\` by own code` : 'neither'
    }
  },
  {
    title: 'A route can refuse clients that do not accept event streams',
    async cell (lib) {
      const app = await makeApp(lib)
      const headers = { accept: 'application/json' }
      lib.open(app, '/', () => {})
      if (lib.accepts) app.get('/own', (request, reply) => reply.code(lib.accepts(request) ? 200 : 406).send())
      const port = await listen(app)
      const clients = ['/', '/own'].map(path => get(port, path, { headers }))
      await until(() => clients.every(({ status }) => status))
      const [option, own] = clients.map(({ status }) => status === 406)
      if (option) return 'yes, by a route option'
      return own ? 'own code, with `request.acceptsSse()`' : ownCode(lib, /\baccept(s\b|[- ]header)|\b406\b/i)
    }
  },
  {
    title: 'Routes can be tested with `app.inject()`',
    async cell (lib) {
      const app = await makeApp(lib)
      lib.source(app, '/', async function * () { yield item(lib, 'hello') })
      const injected = app.inject({ url: '/', headers: { accept: 'text/event-stream' }, payloadAsStream: true })
      let text = ''
      injected.then(response => response.stream().on('data', chunk => { text += chunk }), () => {})
      await until(() => text.includes('hello'), PATIENCE_MS, false)
      return text.includes('hello') ? 'yes' : 'no'
    }
  },
  {
    title: 'HTTP/2',
    async cell (lib) {
      const app = await makeApp(lib, {}, { http2: true })
      lib.open(app, '/', stream => setTimeout(() => stream.send({ data: 'hello' }), 20))
      const client = http2.connect(`http://127.0.0.1:${await listen(app)}`)
      const request = client.request({ ':path': '/', accept: 'text/event-stream' })
      let text = ''
      request.setEncoding('utf8').on('data', chunk => { text += chunk }).on('error', () => {})
      client.on('error', () => {})
      await until(() => text.includes('hello'), PATIENCE_MS, false)
      return text.includes('hello') ? 'yes' : 'no'
    }
  },
  {
    title: '100 events in one turn: writes (HTTP chunks) to each client',
    async cell (lib) {
      const events = Array.from({ length: 100 }, (_, n) => ({ data: `number ${n}` }))
      const app = await makeApp(lib)
      const publish = broadcaster(lib, app, ['news'])
      let stream
      lib.open(app, '/batch', opened => { stream = opened })
      const port = await listen(app)
      const single = await chunksOf(port, '/', () => { for (const event of events) publish('news', event) })
      const client = get(port, '/batch')
      await until(() => client.open && stream)
      client.leave()
      if (!stream.batch) return single
      return `${single}; ${await chunksOf(port, '/batch', () => stream.batch(events))} by \`session.batch()\``
    }
  },
  {
    title: 'Runs on',
    async cell (lib) {
      const others = await lib.alone?.()
      const { peerDependencies = {} } = json(`${lib.directory}package.json`)
      return others ? `${others}, so any framework on these` : `Fastify ${peerDependencies.fastify}`
    }
  },
  {
    title: 'Run-time dependencies: direct, and all',
    cell: lib => dependencies(lib).join(', ')
  },
  {
    title: 'Lines of code, as installed',
    cell: lib => lib.code.flatMap(path => javascript(`${lib.directory}${path}`)).reduce((sum, file) => sum + linesOfCode(file), 0).toLocaleString('en'),
    note: 'JavaScript without comments and blank lines, and without dependencies. fastify-sse-channels with what is there for Redis and for pages, fastify-sse-v2 with helpers of the TypeScript compiler.'
  }
]

// What the rows use

/** The members of channels, and what was published: what an application writes where the library has no channels, or no history. */
class OwnChannels {
  #members = new Set()
  #kept = []

  serve (lib, app, url, names) {
    lib.open(app, url, stream => {
      const missed = stream.lastEventId ? this.#kept.filter(({ event }) => Number(event.id) > Number(stream.lastEventId)) : []
      for (const { name, event } of missed) if (names.includes(name)) stream.send(event)
      const member = { names, stream }
      this.#members.add(member)
      stream.onLeave(() => this.#members.delete(member))
    })
    return (name, { data, ...rest }) => {
      const event = { ...rest, data: lib.encode && typeof data !== 'string' ? lib.encode(data) : data, id: String(this.#kept.length + 1) }
      this.#kept.push({ name, event })
      for (const { names, stream } of this.#members) if (names.includes(name)) stream.send(event)
    }
  }
}

/** Serves streams of these channels, by what the library has for it, else by own code. Returns what publishes. */
function broadcaster (lib, app, names) {
  return lib.channels ? lib.channels(app, '/', names) : new OwnChannels().serve(lib, app, '/', names)
}

/** What arrived, without the quotes that some put around each text. */
const data = client => client.events.map(({ data }) => data.replaceAll('"', '')).join()

const hasGap = client => client.events.some(({ event }) => event === 'sse.gap')

/** An event for a source: what it iterates over. */
const item = (lib, text) => lib.item ? lib.item(text) : { data: text }

/** What the library has nothing for; unless its documents have these words. */
function ownCode ({ directory }, words) {
  const types = readdirSync(directory, { recursive: true }).filter(path => /\.d\.[mc]?ts$/.test(path) && !path.includes('node_modules'))
  for (const file of ['README.md', ...types]) {
    const found = words.exec(readFileSync(`${directory}/${file}`, 'utf8'))
    if (found) throw new Error(`${file} says "${found[0]}": is that what this row looks for?`)
  }
  return 'own code'
}

/** A library without a module for pages: `EventSource`, or what somebody else wrote. Fails where there is one. */
function noPageClient ({ directory }) {
  const { exports = {}, browser } = json(`${directory}package.json`)
  if (browser || Object.keys(exports).some(name => /client|browser|page/.test(name))) throw new Error('there is a module for pages: is that what this row looks for?')
  return 'no'
}

/** Events of 20 KB to a client that reads, beside one that does not. `before` that one came: enough to fill what is kept for all. */
async function publishBesideStalled (lib, megabytes, before = 0) {
  const count = megabytes * 50
  const app = await makeApp(lib)
  const publish = broadcaster(lib, app, ['news'])
  const port = await listen(app)
  const reader = get(port, '/', { keep: false })
  await until(() => reader.open)
  let published = 0
  const round = async events => {
    for (let n = 0; n < events; n++) {
      publish('news', { data: String(published++).padEnd(20_000, '.') })
      await turn()
    }
    await until(() => reader.bytes >= published * 20_000, 10_000)
    for (let n = 0; n < 3; n++) {
      globalThis.gc()
      await sleep(20)
    }
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }
  const memory = await round(before * 50)
  const stalled = get(port, '/', { stalled: true })
  await until(() => stalled.status)
  await sleep(50)
  return { bytes: await round(count) - memory, stalled, count }
}

async function generatorThatThrows (lib, before) {
  const app = await makeApp(lib)
  lib.source(app, '/', async function * () {
    yield * before
    await sleep(50)
    throw new Error('of the source')
  })
  const client = get(await listen(app))
  await until(() => client.ended, PATIENCE_MS, false)
  if (client.status >= 400) return `status ${client.status}`
  if (!client.ended) return 'the client waits on'
  return client.complete ? 'the stream ends as if complete' : 'the connection breaks'
}

/** Does the compiler accept right data, and reject data of a wrong type? */
async function isTyped (lib) {
  const { default: ts } = await import('typescript')
  const options = {
    strict: true, noEmit: true, skipLibCheck: true, module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022, lib: ['lib.es2022.d.ts'], types: []
  }
  const snippets = { [`${here}right.ts`]: lib.typed('{ n: 1 }'), [`${here}wrong.ts`]: lib.typed("{ n: 'text' }") }
  const host = ts.createCompilerHost(options)
  const { readFile, fileExists, getSourceFile } = host
  host.readFile = path => snippets[path] ?? readFile(path)
  host.fileExists = path => path in snippets || (fileExists(path) && !path.includes('/node_modules/fastify/')) // its types take seconds, and say nothing here
  host.getSourceFile = (path, ...rest) => path in snippets ? ts.createSourceFile(path, snippets[path], rest[0]) : getSourceFile(path, ...rest)
  const program = ts.createProgram(Object.keys(snippets), options, host)
  const [right, wrong] = Object.keys(snippets).map(path => program.getSemanticDiagnostics(program.getSourceFile(path)))
  if (right.length) throw new Error(ts.formatDiagnostics(right, host))
  return wrong.length > 0
}

/** How many HTTP chunks carry what `publish` sends, as they are on the wire. */
async function chunksOf (port, path, publish) {
  let text = ''
  const socket = net.connect(port, '127.0.0.1', () => socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n`))
  socket.setEncoding('latin1').on('data', chunk => { text += chunk })
  await until(() => text.includes('\r\n\r\n'))
  await sleep(50)
  publish()
  await until(() => text.includes('number 99'))
  let chunks = 0
  for (let at = text.indexOf('\r\n\r\n') + 4, length; (length = parseInt(text.slice(at), 16)) > 0;) {
    const body = text.indexOf('\r\n', at) + 2
    if (text.slice(body, body + length).includes('number ')) chunks++
    at = body + length + 2
  }
  socket.destroy()
  return chunks
}

/** Counted in the lock file: those of the package itself, and with theirs. */
function dependencies ({ directory }) {
  const own = directory === root
  const { packages } = json(`${own ? root : here}package-lock.json`)
  const locate = (name, from) => {
    const path = `${from && `${from}/`}node_modules/${name}`
    return packages[path] ? path : locate(name, from.slice(0, Math.max(0, from.lastIndexOf('node_modules/') - 1)))
  }
  const found = new Set()
  const visit = path => {
    const direct = Object.keys(packages[path].dependencies ?? {})
    for (const dependency of direct.map(name => locate(name, path))) {
      if (found.has(dependency)) continue
      found.add(dependency)
      visit(dependency)
    }
    return direct.length
  }
  return [visit(own ? '' : directory.slice(here.length, -1)), found.size]
}

const javascript = path => /\.m?js$/.test(path) ? [path] : readdirSync(path, { recursive: true }).filter(name => name.endsWith('.js')).map(name => `${path}/${name}`)

const linesOfCode = file => readFileSync(file, 'utf8').replace(/^\s*\/\*[^]*?\*\//gm, '').split('\n').filter(line => /^\s*(?!\/\/)\S/.test(line)).length

async function makeApp (lib, options = {}, fastifyOptions = {}) {
  const { default: fastify } = await import('fastify')
  const app = fastify(fastifyOptions)
  await lib.register(app, options)
  return app
}

async function listen (app) {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return app.server.address().port
}

async function listening (server) {
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}

/** A client. `stalled`: it reads nothing before `resume()`; `keep: false`: it counts bytes alone. */
function get (port, path = '/', { method = 'GET', headers, body, stalled = false, keep = true } = {}) {
  const client = { status: 0, headers: {}, events: [], retries: [], comments: 0, bytes: 0, open: false, ended: false, complete: false }
  const parser = createParser({
    onEvent: event => { if (event.data !== '"Connected"') client.events.push(event) },
    onRetry: ms => client.retries.push(ms),
    onComment: () => client.comments++
  })
  const request = httpRequest({
    port, host: '127.0.0.1', path, method, agent: false, headers: { accept: 'text/event-stream', ...body && { 'content-type': 'application/json' }, ...headers }
  })
  client.leave = () => request.destroy()
  const end = () => { client.ended = true }
  request.on('error', end).on('response', response => {
    client.status = response.statusCode
    client.headers = response.headers
    client.open = response.statusCode === 200
    response.on('error', () => {}).on('close', end).on('end', () => { client.complete = true })
    client.resume = () => response.setEncoding('utf8').on('data', chunk => {
      client.bytes += chunk.length
      if (keep) parser.feed(chunk)
    })
    if (!stalled) client.resume()
  })
  request.end(body)
  return client
}

/** Waits for a condition; when it does not come about, that is an error only if it must. */
async function until (condition, ms = 5_000, must = true) {
  const end = performance.now() + ms
  while (!condition()) {
    if (performance.now() > end) {
      if (must) throw new Error(`in vain for ${ms} ms: ${condition}`)
      return
    }
    await sleep(5)
  }
}

/** Waits until a number has not changed for 400 ms. */
async function quiet (number, ms = 8_000) {
  const end = performance.now() + ms
  for (let last = -1; last !== number() && performance.now() < end; await sleep(400)) last = number()
}

if (process.argv[2] === '--library') await answer(libraries[process.argv[3]])
else await compare()

/** In a process for one library: finds the cells that the driver asks for. */
async function answer (lib) {
  ({ createParser } = await import('eventsource-parser'))
  process.on('disconnect', () => process.exit()) // the driver is gone
  process.on('message', async index => {
    process.send(await Promise.resolve(lib).then(rows[index].cell).then(text => ({ text: String(text) }), error => ({ error: error.stack })))
  })
}

/** Starts such a process, and another where a row has ended it or wants it to itself. Calls back with each cell. */
async function findCells (name, wanted, redis, done) {
  let child, words
  const endChild = () => {
    child?.kill('SIGKILL')
    child = undefined
  }
  process.on('exit', endChild)
  for (const row of wanted) {
    if (row.alone) endChild()
    if (!child) {
      words = ''
      child = fork(fileURLToPath(import.meta.url), ['--library', name], {
        execArgv: ['--expose-gc', '--no-warnings'],
        env: { ...process.env, COMPARE_REDIS: redis ?? '' },
        stdio: ['ignore', 'ignore', 'pipe', 'ipc']
      })
      child.stderr.setEncoding('utf8').on('data', chunk => { words = (words + chunk).slice(-2_000) })
    }
    let timer
    const found = await new Promise(resolve => {
      timer = setTimeout(resolve, CELL_MS, { error: `no answer in ${CELL_MS} ms` })
      child.once('message', resolve).once('exit', () => resolve(row.mayEnd ? { text: 'the process ends', words } : { error: `the process ends: ${words}` }))
      child.send(rows.indexOf(row))
    })
    clearTimeout(timer)
    child.removeAllListeners()
    if (row.alone || found.text === undefined || found.words !== undefined) endChild()
    done(row, name, found)
  }
  endChild()
}

/** All cells, a process a library at a time; and the report of them. */
async function compare () {
  const { values: { only = '' } } = parseArgs({ options: { only: { type: 'string' } } })
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))
  prepare()
  const started = performance.now()
  setTimeout(() => {
    console.error(`Not done in ${RUN_MS / 1000} s: the page stays as it was.`)
    process.exit(1)
  }, RUN_MS).unref()

  const redis = await startRedis()
  const wanted = rows.filter(({ title }) => title.includes(only))
  const cells = new Map(wanted.map(row => [row, {}]))
  await Promise.all(names.map(name => findCells(name, wanted, redis, (row, name, { text, error, words }) => {
    cells.get(row)[name] = text ?? 'failed'
    if (error) process.exitCode = 1
    if (error ?? words) console.error(`${name}: ${row.title}: ${error ?? `${text}: ${/^\w*Error.*/m.exec(words)?.[0]}`}`)
  })))

  const markdown = report(cells)
  console.log(`${markdown}\n${Math.round((performance.now() - started) / 1000)} s`)
  if (only) return
  if (process.exitCode) return console.error('Cells failed: the page stays as it was.')
  const page = readFileSync(PAGE, 'utf8')
  if (!TABLE.test(page)) throw new Error(`${PAGE} has no place for the table`)
  writeFileSync(PAGE, page.replace(TABLE, () => markdown))
  console.log('Written to docs/comparison.md')
}

/** Installs and builds what it takes. */
function prepare () {
  const command = (file, parameters, cwd) => {
    const { status, stderr, stdout, error } = spawnSync(file, parameters, { cwd, encoding: 'utf8' })
    if (status === 0) return
    console.error(`${file} ${parameters.join(' ')} failed:\n${error ?? stdout + stderr}`)
    process.exit(1)
  }
  for (const directory of [root, here]) if (!existsSync(`${directory}node_modules`)) command('npm', ['ci', '--no-audit', '--no-fund'], directory)
  command('npm', ['run', '--silent', 'build'], root)
}

/** A redis-server of its own, on a socket in a directory of its own. The shell ends it when this process is gone. */
async function startRedis () {
  if (spawnSync('redis-server', ['--version']).error) return null
  const directory = mkdtempSync(`${os.tmpdir()}/sse-compare-`)
  const socket = `${directory}/redis.sock`
  const command = 'redis-server --port 0 --unixsocket "$1" --dir "$0" --save "" --appendonly no & read -r _; kill $!; wait; rm -r "$0"'
  const shell = spawn('sh', ['-c', command, directory, socket], { stdio: ['pipe', 'ignore', 'ignore'] })
  shell.unref()
  shell.stdin.unref()
  await until(() => existsSync(socket))
  return socket
}

function report (cells) {
  const packages = names.map(name => json(`${libraries[name].directory}package.json`))
  const licences = [...new Set(packages.map(({ license }) => license))]
  const fastify = json(`${here}node_modules/fastify/package.json`).version
  const notes = []
  const lines = [...cells].map(([{ title, note }, found]) => {
    const mark = note ? ` <sup>${notes.push(note)}</sup>` : ''
    return `| ${title}${mark} | ${names.map(name => found[name]).join(' | ')} |`
  })
  return [
    `Found by \`node bench/compare.js\` on ${new Date().toISOString().slice(0, 10)}, with Node ${process.versions.node} and Fastify ${fastify}. ` +
    `Licences: ${licences.length === 1 ? `all ${licences}` : packages.map(({ license }) => license).join(', ')}.`,
    [`| | ${packages.map(({ name, version }) => `${name} ${version}`).join(' | ')} |`, '|---|---|---|---|---|', ...lines].join('\n'),
    notes.map((note, i) => `${i + 1}. ${note}`).join('\n')
  ].join('\n\n') + '\n'
}
