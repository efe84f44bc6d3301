import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { pause, until } from '../log/backplane-contract.ts'
import { Proxy, type Kind } from './redis-proxy.ts'
import { noRedis, RedisServer } from './redis-server.ts'
import { clients, Trial } from './trial.ts'

t.setTimeout(240_000)
t.jobs = 2

/** Everybody publishes while something happens to the connections; nothing is lost, so everything arrives, once, in order, without a gap. */
function lossless (title: string, fault: (with_: { t: Test, server: RedisServer, proxy: Proxy, trial: Trial }) => Promise<void>, { broken = true, args = [] as string[] } = {}): void {
  t.test(title, { skip: noRedis, buffered: true }, async t => {
    const server = await RedisServer.start(t, { args })
    const proxy = await Proxy.start(t, server.port)
    // One is not behind the proxy.
    const trial = await Trial.start(t, clients.map((client, i) => client(i < 2 ? proxy.port : server.port)))
    trial.work()
    await pause(300)
    await fault({ t, server, proxy, trial })
    await pause(300)
    await trial.rest()
    t.comment(trial.row)
    t.same(trial.judge(true), [])
    t.ok(trial.published.length > 50)
    for (const { follower } of trial.processes) t.equal(follower.count('restarted'), 0)
    if (broken) t.ok(trial.processes[0]!.follower.count('broken') > 0)
    else for (const { follower } of trial.processes) t.same(follower.story, ['mended'])
  })
}

lossless('nothing', async () => { await pause(500) }, { broken: false })

for (const kind of ['subscribers', 'commands', 'all'] as Kind[]) {
  lossless(`${kind} are cut, five times`, async ({ proxy, trial }) => {
    for (let i = 0; i < 5; i++) {
      proxy.cut(kind)
      await until('it is back', () => trial.processes.every(({ follower }) => follower.serving))
      await pause(100)
    }
  })
  lossless(`${kind} are cut in the middle of hello, and of its repetition`, async ({ proxy, trial }) => {
    for (let i = 0; i < 12; i++) {
      proxy.cut(kind)
      await pause(20 + 15 * i)
      proxy.cut('all')
    }
    await until('it is back', () => trial.processes.every(({ follower }) => follower.serving))
  })
  lossless(`answers to ${kind} are swallowed`, async ({ proxy, trial }) => {
    proxy.swallow(kind)
    await until('it was noticed', () => trial.processes.slice(0, 2).every(({ follower }) => follower.count('broken') > 0), 12_000)
  })
  lossless(`answers to ${kind} come late by 300 ms`, async ({ proxy }) => {
    proxy.delay(kind, 300)
    await pause(1_500)
    proxy.cut()
  })
}

lossless('requests of subscribers are swallowed, so PING', async ({ proxy, trial }) => {
  proxy.swallow('subscribers', 'requests')
  // Only in silence Redis is asked.
  await trial.rest().catch(() => {})
  await until('it was noticed', () => trial.processes.slice(0, 2).every(({ follower }) => follower.count('broken') > 0), 12_000)
})

for (const type of ['normal', 'pubsub']) {
  lossless(`CLIENT KILL TYPE ${type}, three times`, async ({ server, trial }) => {
    for (let i = 0; i < 3; i++) {
      await server.command('CLIENT', 'KILL', 'TYPE', type)
      await pause(150)
      await until('it is back', () => trial.processes.every(({ follower }) => follower.serving))
    }
  })
}

lossless('SCRIPT FLUSH: the pair is given up, and made anew', async ({ server, trial }) => {
  await server.command('SCRIPT', 'FLUSH')
  await until('all noticed', () => trial.processes.every(({ follower }) => follower.count('broken') > 0))
  for (const { follower } of trial.processes) if (!/NOSCRIPT/.test(follower.errors[0]!.message)) throw new Error(follower.errors[0]!.message)
})

lossless('Redis hangs for 3 s (SIGSTOP)', async ({ server }) => {
  server.freeze()
  await pause(3_000)
  server.thaw()
}, { broken: false })

lossless('Redis hangs for 7 s (SIGSTOP): given up, and found again', async ({ server }) => {
  server.freeze()
  await pause(7_000)
  server.thaw()
})

lossless('the subscriber is killed for its output buffer', async ({ proxy, trial }) => {
  proxy.stall('subscribers')
  const writer = trial.processes[2]!
  const end = performance.now() + 6_000
  while (trial.processes[0]!.follower.count('broken') === 0 && performance.now() < end) await trial.many(writer, 100, ' '.repeat(50_000))
  proxy.resume()
}, { args: ['--client-output-buffer-limit', 'pubsub 65536 65536 1'] })

lossless('the second of each two connections leads to another server, for a while', async ({ t, server, proxy, trial }) => {
  const other = await RedisServer.start(t)
  proxy.target = n => n % 2 === 0 ? server.port : other.port
  proxy.cut()
  await pause(1_500)
  t.notOk(trial.processes[0]!.follower.serving, 'two servers are none')
  proxy.retarget(server.port)
})

lossless('connections are refused for 2 s: publishes reject at once', async ({ t, proxy, trial }) => {
  proxy.refuse(true)
  proxy.cut()
  await until('it was noticed', () => trial.processes.slice(0, 2).every(({ follower }) => !follower.serving))
  const started = performance.now()
  await t.rejects(trial.processes[0]!.backplane.append({ channels: ['a'], kind: 'event', event: undefined, data: 'x', serialized: false, limits: [{ maxEvents: 1, maxAge: 0, latest: false }] }), { code: 'SSE_ERR_BACKPLANE_DOWN' })
  t.ok(performance.now() - started < 2_000)
  await t.rejects(trial.processes[0]!.backplane.read('a', 0), { code: 'SSE_ERR_BACKPLANE_DOWN' })
  await t.rejects(trial.processes[0]!.backplane.seq(), { code: 'SSE_ERR_BACKPLANE_DOWN' })
  await pause(2_000)
  proxy.refuse(false)
})

t.test('new channels come faster than answers, without end: a cut connection is mended all the same, what was watched goes on, and so does what is new', { skip: noRedis, buffered: true }, async t => {
  const server = await RedisServer.start(t)
  const proxy = await Proxy.start(t, server.port)
  for (const client of clients) {
    const trial = await Trial.start(t, [client(proxy.port), clients[0]!(server.port)])
    const [one, two] = trial.processes as [Trial['processes'][0], Trial['processes'][0]]
    const heard = new Set<string>()
    const { hear } = one.follower
    one.follower.hear = entry => {
      for (const name of entry.channels) heard.add(name)
      hear.call(one.follower, entry)
    }
    const watched: string[] = []
    let asked = 0
    const asking = setInterval(() => {
      const name = `new ${asked++}`
      one.backplane.watch([name]).then(() => { watched.push(name) })
    }, 2)
    t.teardown(() => clearInterval(asking))
    // Longer than it takes for the next one to come.
    proxy.latency = 20
    for (let round = 1; round <= 5; round++) {
      const before = asked
      proxy.cut()
      await until('it was noticed', () => one.follower.count('broken') === round)
      await until('it is mended', () => one.follower.count('mended') === round + 1, 3_000)
      await trial.settle(3_000)
      // Those whose promise was broken with the connection are watched as well.
      const names = [...watched]
      names.push(...Array.from({ length: before }, (_, i) => `new ${i}`))
      heard.clear()
      await Promise.all(names.map(name => trial.publish(two, [name])))
      await until(`all of ${names.length} were heard`, () => names.every(name => heard.has(name)))
    }
    t.ok(asked > 100 && watched.length > 100, `${watched.length} of ${asked}`)
    clearInterval(asking)
    await until('each promise was kept', () => watched.length >= asked - 100)
    await trial.rest()
    t.same(trial.judge(true), [])
    await one.backplane.close()
    await two.backplane.close()
  }
})

t.test('what is watched while the pair is made anew, in whatever state it is, is watched when it is told so', { skip: noRedis, buffered: true }, async t => {
  const server = await RedisServer.start(t)
  const proxy = await Proxy.start(t, server.port)
  const trial = await Trial.start(t, [clients[0]!(proxy.port), clients[1]!(server.port)])
  const [one, two] = trial.processes as [Trial['processes'][0], Trial['processes'][0]]
  proxy.latency = 20
  for (let round = 0; round < 10; round++) {
    proxy.cut()
    await until('it was noticed', () => !one.follower.serving)
    const names: string[] = []
    const watched: Array<Promise<void>> = []
    await until('it is mended', () => {
      const name = `new ${round} ${names.length}`
      names.push(name)
      watched.push(one.backplane.watch([name]))
      // Now and then the connection breaks while it is made: what was asked for over it is not forgotten.
      if (names.length === 10) proxy.cut()
      return one.follower.serving
    })
    const heard = new Set<string>()
    const { hear } = one.follower
    one.follower.hear = entry => { heard.add(entry.channels[0]!) }
    await Promise.all(watched)
    await Promise.all(names.map(name => trial.publish(two, [name])))
    await until(`all of ${names.length} were heard`, () => heard.size >= names.length)
    one.follower.hear = hear
    t.ok(names.length > 3)
  }
})

t.test('a channel that is watched again before Redis has said that it is not is heard', { skip: noRedis, buffered: true }, async t => {
  const server = await RedisServer.start(t)
  const proxy = await Proxy.start(t, server.port)
  for (const client of clients) {
    const trial = await Trial.start(t, [client(proxy.port), clients[0]!(server.port)])
    const [one, two] = trial.processes as [Trial['processes'][0], Trial['processes'][0]]
    proxy.delay('subscribers', 20)
    const heard = new Set<string>()
    one.follower.hear = entry => { heard.add(entry.channels[0]!) }
    // An answer takes 40 ms: it is left before the first one has come, or after, and wanted again before that, or after.
    const names: string[] = []
    for (const left of [0, 20, 60]) {
      for (const wanted of [0, 10, 30, 50]) {
        const name = `left after ${left}, wanted after ${wanted}`
        names.push(name)
        one.backplane.watch([name])
        await pause(left)
        one.backplane.unwatch([name])
        await pause(wanted)
        await one.backplane.watch([name])
      }
    }
    await pause(100)
    await Promise.all(names.map(name => trial.publish(two, [name])))
    await until(`all of ${names.length} were heard`, () => heard.size === names.length, 2_000).catch(() => {})
    t.same(names.filter(name => !heard.has(name)), [])
    await one.backplane.close()
    await two.backplane.close()
  }
})

t.test('PONG keeps its place behind messages, 300 times after 50', { skip: noRedis, buffered: true }, async t => {
  const server = await RedisServer.start(t)
  const raw = new Redis({ port: server.port, host: '127.0.0.1' })
  t.teardown(() => raw.disconnect())
  for (const client of clients) {
    const trial = await Trial.start(t, [client(server.port)], 1_000_000)
    const { Link } = await import('../../lib/redis/link.ts')
    let messages = 0
    const link = new Link(client(server.port), () => { messages++ })
    t.teardown(() => link.end())
    await link.open()
    await link.subscribe(['x'])
    let early = 0
    for (let i = 1; i <= 300; i++) {
      const pipeline = raw.pipeline()
      for (let j = 0; j < 50; j++) pipeline.publish('x', 'message')
      await pipeline.exec()
      await link.send(['ping'])
      if (messages !== 50 * i) early++
    }
    t.equal(early, 0)
    t.ok(trial)
  }
})
