import { EventEmitter } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import sse from '../lib/index.ts'
import { connect, listen, until, type Client } from './client.ts'

/** The peers are no dependencies of this package: the benchmark has them. */
const peers = createRequire(new URL('../bench/package.json', import.meta.url))

function peer (name: string): { skip: string | false, load: () => Promise<any> } {
  let path: string
  try {
    path = peers.resolve(name)
  } catch {
    return { skip: `${name} is not installed in bench/`, load: () => Promise.reject(new Error(name)) }
  }
  return { skip: false, load: () => import(pathToFileURL(path).href) }
}

/** An application as the peers see it: their decorators and route options are not known here. */
interface Loose {
  register (plugin: any): PromiseLike<unknown>
  get (path: string, handler: (request: any, reply: any) => unknown): void
  get (path: string, options: object, handler: (request: any, reply: any) => unknown): void
}

/** An application with a hook that sets a header, as cookies, CORS and helmet do. */
function build (t: Test): FastifyInstance {
  const app = Fastify({ forceCloseConnections: true })
  app.addHook('onSend', async (request, reply) => { reply.header('x-hook', 'ran') })
  t.teardown(() => app.close())
  return app
}

async function open (t: Test, app: FastifyInstance, lastEventId?: string): Promise<Client> {
  const url = app.server.listening ? app.listeningOrigin : await listen(app)
  const client = await connect(`${url}/events`, lastEventId === undefined ? {} : { lastEventId })
  t.teardown(() => client.leave())
  return client
}

/** Name and data of the first two events: all that a page sees of them. */
async function shown (client: Client): Promise<Array<[string, string]>> {
  return (await client.first(2)).map(({ event = 'message', data }) => [event, data])
}

const TICKS = [['tick', '{"n":1}'], ['tick', '{"n":2}']]

t.test('from fastify-sse-v2', async t => {
  const { skip, load } = peer('fastify-sse-v2')
  const clock = new EventEmitter()
  const tick = () => { for (const n of [1, 2]) clock.emit('tick', { n }) }

  t.test('before', { skip }, async t => {
    const { FastifySSEPlugin } = await load()
    const server = build(t)
    const app: Loose = server

    // before
    await app.register(FastifySSEPlugin)
    app.get('/events', (request, reply) => {
      const send = (tick: object) => reply.sse({ event: 'tick', data: JSON.stringify(tick) })
      clock.on('tick', send)
      request.socket.on('close', () => clock.off('tick', send))
    })

    const opened = open(t, server)
    await until(() => clock.listenerCount('tick') === 1)
    tick()
    const client = await opened
    t.strictSame(await shown(client), TICKS)
    t.equal(client.headers['x-hook'], undefined, 'onSend hooks do not run')
    t.equal(client.events[0]!.id, undefined)
  })

  t.test('after', async t => {
    const app = build(t)

    // after
    await app.register(sse)
    const ticks = app.sse.channel('ticks')
    clock.on('tick', tick => ticks.publish({ event: 'tick', data: tick }))
    app.get('/events', (request, reply) => reply.sse(ticks))

    const client = await open(t, app)
    tick()
    t.strictSame(await shown(client), TICKS)
    t.equal(client.headers['x-hook'], 'ran', 'onSend hooks run')
    client.leave()
    await until(() => ticks.size === 0)
    tick()
    t.strictSame(await shown(await open(t, app, client.events[1]!.id)), TICKS, 'a client that comes back gets what it missed')
    clock.removeAllListeners()
  })

  t.test('an iterable is passed as before; here it is told when its client leaves, there it goes on', async t => {
    class Counter {
      items = 0
      told = false
      stopped = false

      async * [Symbol.asyncIterator] (): AsyncGenerator<{ event: string, data: string }> {
        try {
          while (!this.stopped) {
            yield { event: 'tick', data: JSON.stringify({ n: ++this.items }) }
            await new Promise(resolve => setTimeout(resolve, 1))
          }
        } finally {
          this.told = true
        }
      }
    }
    if (skip === false) {
      const counter = new Counter()
      let left = false
      const app: Loose & FastifyInstance = build(t)
      await app.register((await load()).FastifySSEPlugin)
      app.get('/events', (request, reply) => {
        reply.raw.on('close', () => { left = true })
        reply.sse(counter)
      })
      const client = await open(t, app)
      t.strictSame(await shown(client), TICKS)
      client.leave()
      await until(() => left, 'the server to see it leave')
      const items = counter.items
      await until(() => counter.items > items + 50, 'items for nobody')
      t.equal(counter.told, false)
      counter.stopped = true
    }
    const counter = new Counter()
    const app = build(t)
    await app.register(sse)
    app.get('/events', (request, reply) => reply.sse(counter))
    const client = await open(t, app)
    t.strictSame(await shown(client), TICKS)
    client.leave()
    await until(() => counter.told, 'the generator to end')
  })
})

t.test('from @fastify/sse', async t => {
  const { skip, load } = peer('@fastify/sse')

  t.test('before', { skip }, async t => {
    const { default: fastifySSE } = await load()
    const server = build(t)
    const app: Loose = server

    // before
    await app.register(fastifySSE)
    const clients = new Set<any>()
    const kept: Array<{ id: string, event: string, data: object }> = []
    app.get('/events', { sse: 'only' }, async (request, reply) => {
      reply.sse.keepAlive()
      reply.sse.sendHeaders()
      await reply.sse.replay(async (id: string) => {
        for (const event of kept.slice(kept.findIndex(event => event.id === id) + 1)) await reply.sse.send(event)
      })
      clients.add(reply)
      reply.sse.onClose(() => clients.delete(reply))
    })
    const publish = (event: { event: string, data: object }) => {
      kept.push({ id: String(kept.length + 1), ...event })
      for (const reply of clients) reply.sse.send(kept.at(-1)).catch(() => {})
    }

    const opened = open(t, server)
    await until(() => clients.size === 1)
    for (const n of [1, 2]) publish({ event: 'tick', data: { n } })
    const client = await opened
    t.strictSame(await shown(client), TICKS)
    client.leave()
    await until(() => clients.size === 0)
    for (const n of [1, 2]) publish({ event: 'tick', data: { n } })
    const back = await open(t, server, '2')
    t.strictSame(await shown(back), TICKS)
    t.equal((await fetch(`${server.listeningOrigin}/events`, { headers: { accept: 'text/html' } })).status, 406, 'it looks at Accept')
    t.equal(client.headers['x-hook'], undefined, 'onSend hooks do not run')
    for (const reply of clients) reply.sse.send({ data: 'text' })
    t.equal((await back.first(3))[2]!.data, '"text"', 'a string is sent as JSON')
  })

  t.test('after', async t => {
    const app = build(t)

    // after
    await app.register(sse)
    const news = app.sse.channel('news')
    app.get('/events', (request, reply) => reply.sse(news))
    const publish = (event: { event: string, data: object }) => news.publish(event)

    const client = await open(t, app)
    for (const n of [1, 2]) publish({ event: 'tick', data: { n } })
    t.strictSame(await shown(client), TICKS)
    client.leave()
    await until(() => news.size === 0)
    for (const n of [1, 2]) publish({ event: 'tick', data: { n } })
    const back = await open(t, app, client.events[1]!.id)
    t.strictSame(await shown(back), TICKS)
    t.equal(client.headers['x-hook'], 'ran', 'onSend hooks run')
    news.publish('text')
    t.equal((await back.first(3))[2]!.data, 'text', 'a string is sent as it is')
    const html = await fetch(`${app.listeningOrigin}/events`, { headers: { accept: 'text/html' } })
    t.equal(html.status, 200, 'Accept is the route\'s own affair')
    await html.body!.cancel()
  })
})

t.test('from better-sse', async t => {
  const { skip, load } = peer('better-sse')

  t.test('before', { skip }, async t => {
    const { createChannel, createSession } = await load()
    const server = build(t)
    const app: Loose = server

    // before
    const channel = createChannel()
    app.get('/events', async (request, reply) => {
      reply.hijack()
      channel.register(await createSession(request.raw, reply.raw))
    })
    const tick = (n: number) => channel.broadcast({ n }, 'tick')

    const client = await open(t, server)
    await until(() => channel.sessionCount === 1)
    tick(1)
    tick(2)
    t.strictSame(await shown(client), TICKS)
    t.equal(client.headers['x-hook'], undefined, 'onSend hooks do not run')
    t.match(client.events[0]!.id, /^[0-9a-f-]{36}$/, 'ids are random')
    channel.broadcast('text')
    t.match((await client.first(3))[2], { event: 'message', data: '"text"' }, 'a string is sent as JSON, and each event has a name')
  })

  t.test('after', async t => {
    const app = build(t)

    // after
    await app.register(sse)
    const channel = app.sse.channel('ticks')
    app.get('/events', (request, reply) => reply.sse(channel))
    const tick = (n: number) => channel.publish({ event: 'tick', data: { n } })

    const client = await open(t, app)
    tick(1)
    tick(2)
    t.strictSame(await shown(client), TICKS)
    t.equal(client.headers['x-hook'], 'ran', 'onSend hooks run')
    channel.publish('text')
    t.strictSame((await client.first(3)).slice(2).map(({ event, data }) => ({ event, data })), [{ event: undefined, data: 'text' }], 'a string is sent as it is')
    t.equal((await open(t, app, client.events[0]!.id).then(back => back.first(1)))[0]!.data, '{"n":2}', 'ids say where to go on')
  })
})

t.test('from reply.raw', async t => {
  t.test('before', async t => {
    const app = build(t)

    // before
    const clients = new Set<ServerResponse>()
    app.get('/events', (request, reply) => {
      reply.hijack()
      reply.raw.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' }).flushHeaders()
      clients.add(reply.raw)
      reply.raw.on('close', () => clients.delete(reply.raw))
    })
    const tick = (n: number) => {
      for (const client of clients) client.write(`event: tick\ndata: ${JSON.stringify({ n })}\n\n`)
    }

    const client = await open(t, app)
    tick(1)
    tick(2)
    t.strictSame(await shown(client), TICKS)
    t.equal(client.headers['x-hook'], undefined, 'onSend hooks do not run')
    client.pause()
    const before = [...clients][0]!.writableLength
    for (let n = 0; n < 200; n++) for (const client of clients) client.write('x'.repeat(100_000))
    t.ok([...clients][0]!.writableLength - before > 5_000_000, 'what a client does not read stays in memory, without a limit')
  })

  t.test('after', async t => {
    const app = build(t)

    // after
    await app.register(sse)
    const ticks = app.sse.channel('ticks')
    app.get('/events', (request, reply) => reply.sse(ticks))
    const tick = (n: number) => ticks.publish({ event: 'tick', data: { n } })

    const client = await open(t, app)
    tick(1)
    tick(2)
    t.strictSame(await shown(client), TICKS)
    t.equal(client.headers['x-hook'], 'ran', 'onSend hooks run')
    const closed = app.close()
    await until(() => client.closed === 'end', 'app.close() to end the stream')
    await closed
    t.ok(client.retries.at(-1)! >= 1_000, 'and to say when to come back')
  })
})

t.test('the pages show the code that runs here', async t => {
  const plain = (text: string) => text.split('\n').map(line => line.trim()).filter(line => line !== '').join('\n')
  const here = plain(readFileSync(new URL(import.meta.url), 'utf8'))
  const folder = new URL('../docs/coming-from/', import.meta.url)
  const pages = readdirSync(folder)
  t.equal(pages.length, 4)
  for (const page of pages) {
    const snippets = [...readFileSync(new URL(page, folder), 'utf8').matchAll(/```ts\n([^]*?)```/g)].map(([, code]) => code!)
    t.equal(snippets.length, 2, `${page}: before and after`)
    for (const [i, snippet] of snippets.entries()) t.ok(here.includes(plain(`// ${i === 0 ? 'before' : 'after'}\n${snippet}`)), snippet)
  }
})
