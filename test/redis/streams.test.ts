import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { redisBackplane } from '../../lib/redis/index.ts'
import type { SsePluginOptions } from '../../lib/index.ts'
import { build, connect, listen, until, type Client } from '../client.ts'
import { until as eventually } from '../log/backplane-contract.ts'
import { Proxy } from './redis-proxy.ts'
import { noRedis, RedisServer } from './redis-server.ts'

t.setTimeout(120_000)

/** What the client of a stream sees, where its process and Redis meet. */
interface Process {
  readonly app: FastifyInstance
  readonly url: string
  /** Opens a stream on channels: from a cursor, or with so many of the newest events. */
  open (channels: string, options?: { lastEventId?: string, rewind?: number }): Promise<Client>
}

async function start (t: Test, port: number, history: SsePluginOptions['history'] = {}, routes = (_app: FastifyInstance): void => {}): Promise<Process> {
  const app = await build(t, { backplane: redisBackplane({ client: new Redis({ port, host: '127.0.0.1', lazyConnect: true }) }), history, retry: 0 })
  app.get<{ Querystring: { channels: string, rewind?: string } }>('/', (request, reply) => {
    const { channels, rewind } = request.query
    return reply.sse(channels.split(',').map(name => app.sse.channel(name)), rewind === undefined ? {} : { rewind: Number(rewind) })
  })
  routes(app)
  const url = await listen(app)
  return {
    app,
    url,
    async open (channels, { lastEventId, rewind } = {}) {
      const client = await connect(`${url}/?channels=${channels}${rewind === undefined ? '' : `&rewind=${rewind}`}`, lastEventId === undefined ? {} : { lastEventId })
      t.teardown(() => client.leave())
      await until(() => client.text.includes('id: '), 'its first cursor')
      return client
    }
  }
}

const texts = ({ events }: Client) => events.map(({ data }) => data.trim())

for (const maxEvents of [10_000, 5, 0]) {
  t.test(`a process that has heard nothing for a while opens a stream at the newest event, where ${maxEvents} are kept: neither what was there before, nor a gap`, { skip: noRedis }, async t => {
    const server = await RedisServer.start(t)
    const [busy, quiet] = [await start(t, server.port, { maxEvents }), await start(t, server.port, { maxEvents })]
    const head = quiet.app.sse.cursor
    let newest = ''
    for (let i = 0; i < 20; i++) newest = await busy.app.sse.publish('news', `old ${i}`)
    // What is as young as a whole ms may be newer than the stream, as far as anybody can tell.
    await new Promise(resolve => setTimeout(resolve, 10))
    t.equal(quiet.app.sse.cursor, head, 'it knows nothing of them')
    const streams = await Promise.all([quiet.open('news'), quiet.open('news,more'), quiet.open('news', { rewind: 2 })])
    const last = await busy.app.sse.publish('news', 'new')
    for (const client of streams) await until(() => texts(client).at(-1) === 'new')
    t.same(streams.map(texts), [['new'], ['new'], [...maxEvents > 0 ? ['old 18', 'old 19'] : [], 'new']])
    t.same(streams.flatMap(({ gaps }) => gaps), [])
    t.equal(streams[0]!.text.split('\n')[0], `id: ${newest}`)
    t.same(streams.map(({ lastEventId }) => lastEventId), [last, last, last])
  })
}

t.test('Redis is restarted with its data before anything was published: no gap, and what comes then reaches all', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t, { aof: true })
  const one = await start(t, server.port)
  const client = await one.open('news,more')
  for (const text of ['first', 'second']) {
    await server.kill()
    await until(() => one.app.sse.stats().backplane === 'down')
    await server.restart()
    await until(() => one.app.sse.stats().backplane === 'up')
    await one.app.sse.publish('news', text)
    await until(() => texts(client).at(-1) === text)
  }
  t.same([texts(client), client.gaps], [['first', 'second'], []])
})

t.test('what is older than maxAge is not handed out, though Redis still has it: to history(), and to a new stream, whether it is the first of its process or not', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const maxAge = 500
  const [one, two] = [await start(t, server.port, { maxAge }), await start(t, server.port, { maxAge })]
  const history = async () => (await one.app.sse.channel('news').history()).map(({ data }) => data)
  await one.app.sse.publish('news', 'old')
  // What is new must not become too old itself while this is tried.
  for (let i = 0; ; i++) {
    await eventually('what was published is too old', async () => (await history()).length === 0)
    t.equal(await server.command('XLEN', '{sse}:c:news'), `:${i + 1}\r\n`)
    const text = `new ${i}`
    const start = performance.now()
    await one.app.sse.publish('news', text)
    const kept = await history()
    const streams = [await two.open('news', { rewind: 10 }), await two.open('news', { rewind: 10 }), await one.open('news', { rewind: 10 })]
    for (const client of streams) await until(() => texts(client).length > 0)
    if (performance.now() - start >= maxAge) continue
    t.same([kept, ...streams.map(texts)], [[text], [text], [text], [text]])
    t.same(streams.flatMap(({ gaps }) => gaps), [])
    break
  }
})

t.test('what is published right after a stream was opened reaches it, whoever publishes, however new the channel is', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const two = await start(t, server.port)
  const one = await start(t, server.port, {}, app => {
    app.get<{ Params: { name: string } }>('/job/:name', (request, reply) => reply.sse(async stream => {
      const { name } = request.params
      stream.subscribe(app.sse.channel(name))
      await Promise.all([app.sse.publish(name, 'mine'), two.app.sse.publish(name, 'yours')])
    }))
  })
  const streams = await Promise.all(Array.from({ length: 100 }, (_, i) => connect(`${one.url}/job/${i}`)))
  t.teardown(() => { for (const client of streams) client.leave() })
  for (const client of streams) await client.first(2)
  t.same(streams.map(client => texts(client).sort().join()), Array(100).fill('mine,yours'))
})

t.test('Redis evicts one channel for want of memory: its readers who lack something are told, and nobody else', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t, { args: ['--maxmemory', '8mb', '--maxmemory-policy', 'allkeys-lru', '--maxmemory-samples', '64'] })
  const proxy = await Proxy.start(t, server.port)
  const [near, far] = [await start(t, server.port), await start(t, proxy.port)]
  const others = ['b', 'c', 'd']
  const sent: Record<string, string[]> = { a: [], b: [], c: [], d: [] }
  const cursors: Record<string, string[]> = { a: [], b: [], c: [], d: [] }
  const publish = async (name: string, padding = 0) => {
    const text = `${name} ${sent[name]!.length}`
    sent[name]!.push(text)
    cursors[name]!.push(await near.app.sse.publish(name, text + ' '.repeat(padding)))
  }
  /** All names but the one that is to be evicted stay in use. Redis counts seconds. */
  const busy = async (ms: number) => {
    for (const end = Date.now() + ms; Date.now() < end;) {
      for (const name of others) await publish(name)
      await new Promise(resolve => setTimeout(resolve, 50))
    }
  }
  const live = await Promise.all([near.open('a,b'), far.open('a,b'), far.open('c,d')])
  for (let i = 0; i < 10; i++) for (const name of Object.keys(sent)) await publish(name, name === 'a' ? 20_000 : 0)
  for (const client of live) await until(() => client.events.length === 20)
  // One process hears nothing of what comes.
  proxy.refuse(true)
  proxy.cut()
  for (let i = 0; i < 10; i++) await publish('a', 20_000)
  await busy(2_500)
  for (let i = 0; await server.command('EXISTS', '{sse}:c:a') === ':1\r\n'; i++) {
    if (i > 1_000) throw new Error('nothing was evicted')
    await near.app.sse.publish('filler', 'x'.repeat(60_000))
    if (i % 10 === 0) for (const name of others) await publish(name)
  }
  t.match(await server.command('INFO', 'stats'), /evicted_keys:1\r/)
  await server.command('CONFIG', 'SET', 'maxmemory', '0')
  proxy.refuse(false)
  await until(() => far.app.sse.stats().backplane === 'up')
  const late = await start(t, server.port)
  const back = await Promise.all([late.open('a', { lastEventId: cursors['a']![4]! }), late.open('b,c', { lastEventId: cursors['b']![4]! }), late.open('a', { lastEventId: cursors['a']!.at(-1)! })])
  await busy(200)
  for (const name of Object.keys(sent)) await publish(name)
  const all = [...live, ...back]
  const channels = [['a', 'b'], ['a', 'b'], ['c', 'd'], ['a'], ['b', 'c'], ['a']]
  for (const [i, client] of all.entries()) await until(() => channels[i]!.every(name => texts(client).includes(sent[name]!.at(-1)!)), `the last ones on ${channels[i]!.join()}`)

  t.same(all.map(({ gaps }) => gaps.map(({ reason, channels }) => `${reason} ${channels.join()}`)), [[], ['reset a'], [], ['expired a'], [], []])
  const of = (client: Client, name: string) => texts(client).filter(text => text.startsWith(name))
  t.same(of(live[0]!, 'a'), sent['a'], 'who heard it has it all')
  t.same(of(live[1]!, 'a'), [...sent['a']!.slice(0, 10), sent['a']!.at(-1)], 'who did not was told')
  t.same([of(back[0]!, 'a'), of(back[2]!, 'a')], [[sent['a']!.at(-1)], [sent['a']!.at(-1)]])
  for (const name of ['b', 'c', 'd']) for (const [i, client] of live.entries()) if (channels[i]!.includes(name)) t.same(of(client, name), sent[name])
  // The cursor that it came with is one of b: of c it had some before that.
  for (const name of ['b', 'c']) t.same(of(back[1]!, name), sent[name]!.slice(name === 'b' ? 5 : 4))
})

t.test('a channel of large events over a slow line: all come through, in bounded memory, and Redis is asked for nothing twice', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const proxy = await Proxy.start(t, server.port)
  proxy.rate = 5_000_000
  const publisher = await start(t, server.port)
  const count = 400
  const cursors: string[] = []
  for (let i = 0; i < count; i++) cursors.push(await publisher.app.sse.publish('big', `${i}`.padEnd(60_000)))
  await publisher.app.close()

  const client = new Redis({ port: server.port, host: '127.0.0.1', protocol: 2 })
  const monitor = await client.monitor()
  t.teardown(() => { for (const each of [monitor, client]) each.disconnect() })
  const pages: string[] = []
  monitor.on('monitor', (_time: string, args: string[], source: string) => { if (source === 'lua' && args[0]!.toLowerCase() === 'xrange') pages.push(`${args[2]} ${args[5]}`) })

  // There is room for a quarter of it.
  const slow = await start(t, proxy.port, { maxBytes: 6_000_000 })
  global.gc?.()
  const before = process.memoryUsage().rss
  let most = 0
  const sampling = setInterval(() => { most = Math.max(most, process.memoryUsage().rss - before) }, 20)
  t.teardown(() => clearInterval(sampling))
  const numbers = (client: Client) => client.events.map(({ data }) => Number(data))
  const range = (from: number) => Array.from({ length: count - from }, (_, i) => from + i)

  // A start, and a client that comes back, at once: both want what is there.
  const [whole, some] = await Promise.all([slow.open('big', { rewind: 80 }), slow.open('big', { lastEventId: cursors[count - 51]! })])
  await until(() => whole.events.length >= 80 && some.events.length >= 50, 'the newest')
  t.same([numbers(whole), numbers(some), whole.gaps, some.gaps], [range(count - 80), range(count - 50), [], []])
  t.equal(new Set(pages).size, pages.length, `${pages.length} pages, each once`)
  t.ok(pages.length > 50, `${pages.length} pages`)

  // What there is no room for is a gap, and no reason to hold it all.
  const old = await slow.open('big', { lastEventId: cursors[10]! })
  await until(() => numbers(old).at(-1) === count - 1, 'the newest')
  t.same(old.gaps.map(({ reason }) => reason), ['expired'])
  t.same(numbers(old), range(numbers(old)[0]!))
  t.comment(`${pages.length} pages, ${Math.round(most / 1e6)} MB more than before, ${numbers(old).length} to who came with an old cursor`)
  t.ok(slow.app.sse.stats().history.bytes <= 6_000_000)
})
