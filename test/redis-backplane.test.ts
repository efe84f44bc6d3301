import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Cluster, Redis } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import { createClient, createClientPool, createCluster } from 'redis'
import t, { type Test } from 'tap'
import type { Backplane } from '../lib/backplane.ts'
import { redisBackplane, type RedisClient } from '../lib/redis-backplane.ts'
import { decodeRows } from '../lib/redis-row.ts'
import { backplaneContract, entry, GARBAGE, Recorder, until } from './backplane-contract.ts'
import { Proxy } from './redis-proxy.ts'
import { freePort, noRedis, RedisServer } from './redis-server.ts'

// None of these connects: a client is a pattern only.
const drivers: Record<string, (port: number) => RedisClient> = {
  'ioredis, RESP2': port => new Redis({ port, host: '127.0.0.1', lazyConnect: true, protocol: 2 }),
  'ioredis, RESP3': port => new Redis({ port, host: '127.0.0.1', lazyConnect: true }),
  'ioredis, RESP3 with its own mapping': port => new Redis({ port, host: '127.0.0.1', lazyConnect: true, replyMapping: 'resp3' }),
  'node-redis, RESP2': port => createClient({ url: `redis://127.0.0.1:${port}`, RESP: 2 }),
  'node-redis, RESP3': port => createClient({ socket: { port, host: '127.0.0.1' }, RESP: 3 }),
  iovalkey: port => new Valkey({ port, host: '127.0.0.1', lazyConnect: true })
}
/** Those on which everything is tried that breaks. */
const both = ['ioredis, RESP3', 'node-redis, RESP3'].map(name => [name, drivers[name]!] as const)

let keys = 0
const newKey = () => `sse:${++keys}`

async function opened (t: Test, client: RedisClient, key: string, maxEvents?: number): Promise<[Backplane, Recorder]> {
  const backplane = redisBackplane({ client, key })
  t.teardown(() => backplane.close())
  const receiver = new Recorder(maxEvents)
  await backplane.open(receiver)
  return [backplane, receiver]
}

const story = (receiver: Recorder, ...expected: string[]) =>
  until(`${expected.join(' ')} was seen, not ${receiver.story.join(' ')}`, () => receiver.story.join() === expected.join()).catch(error => {
    throw new Error(`${error.message}; at the end it was: ${receiver.story.slice(-20).join(' ')}`)
  })

/** Runs a script that uses the library, and resolves with how long it took to end by itself. */
async function run (script: string): Promise<number> {
  const start = performance.now()
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  const timer = setTimeout(() => child.kill('SIGKILL'), 20_000)
  let done = start
  child.stdout.on('data', () => { done = performance.now() })
  const [code, signal] = await once(child, 'exit')
  clearTimeout(timer)
  if (code !== 0) throw new Error(`the script ended with ${code ?? signal}`)
  return performance.now() - done
}

t.test('options are checked', async t => {
  const client = drivers.iovalkey!(1)
  for (const bad of [undefined, null, 'redis://127.0.0.1', {}, { sendCommand () {} }, new Cluster([{ port: 1 }], { lazyConnect: true }), createCluster({ rootNodes: [] }), createClientPool(undefined)]) {
    t.throws(() => redisBackplane({ client: bad as unknown as RedisClient }), { code: 'SSE_ERR_INVALID_OPTION' })
  }
  for (const bad of ['', 1, null]) t.throws(() => redisBackplane({ client, key: bad as string }), { code: 'SSE_ERR_INVALID_OPTION' })
  redisBackplane({ client })
})

t.test('compare() goes by the numbers of the id, whatever their size', async t => {
  const { compare } = redisBackplane({ client: drivers.iovalkey!(1) })
  const h = '.AAAAAAA_'
  const max = '18446744073709551615'
  const rising = ['0-0', '0-1', '0-9', '0-10', `0-${max}`, '1-0', '9-5', '10-0', '1700000000000-0', '1700000000000-2', '9007199254740993-0', '9007199254740994-0', `${max}-0`, `${max}-${max}`]
  for (const [i, a] of rising.entries()) {
    t.same(rising.map(b => Math.sign(compare(a + h, b + h))), rising.map((_, j) => Math.sign(i - j)), a)
  }
  t.equal(compare('1-1.AAAAAAAA', '1-1.BBBBBBBB'), 0, 'the hash is not compared')
  const taken = [...GARBAGE, '1-1', '1-1.AAAAAAA', '1-1.AAAAAAAAA', '01-1' + h, '1-01' + h, '1-18446744073709551616' + h, '99999999999999999999-1' + h, '100000000000000000000-1' + h, ' 1-1' + h, '1-1' + h + '\n', '1-1-1' + h, '1.1' + h]
    .filter(bad => ![compare(bad, '1-1' + h), compare('1-1' + h, bad)].every(Number.isNaN))
  t.same(taken, [])
})

t.test('with Redis', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  // They wait most of the time.
  t.jobs = 4

  for (const [name, make] of Object.entries(drivers)) {
    t.test(`the contract, with ${name}`, { buffered: true }, t => backplaneContract(t, {
      shared: true,
      log: t => {
        const key = newKey()
        // Each of its own client, as in several processes.
        return { backplane: () => redisBackplane({ client: make(server.port), key }) }
      }
    }))
  }

  t.test('a client that is in use stays as it is, and is not closed', { buffered: true }, async t => {
    const io = new Redis({ port: server.port, host: '127.0.0.1', keyPrefix: 'io:', commandTimeout: 100, connectionName: 'mine' })
    const node = createClient({ url: server.url, keyPrefix: 'node:', database: 0 })
    await node.connect()
    t.teardown(() => { io.disconnect(); node.destroy() })
    for (const [client, prefix, ping] of [[io, 'io:', () => io.ping()], [node, 'node:', () => node.ping()]] as const) {
      const [backplane, receiver] = await opened(t, client, 'prefixed')
      await backplane.append(entry('a'))
      // Longer than the user's commandTimeout: it is not for blocking reads.
      await new Promise(resolve => setTimeout(resolve, 300))
      await backplane.append(entry('b'))
      await story(receiver, '(reset)', 'a', 'b')
      t.equal(await server.command('XLEN', prefix + 'prefixed'), ':3\r\n', 'its keyPrefix is used')
      await backplane.close()
      t.equal(await ping(), 'PONG')
    }
  })

  t.test('the log is trimmed near twice maxEvents, but not below what readers need, and not at all without limit', { buffered: true }, async t => {
    const lengths = []
    for (const maxEvents of [0, 1_000, Infinity]) {
      const key = newKey()
      const [backplane, receiver] = await opened(t, drivers.iovalkey!(server.port), key, maxEvents)
      for (let i = 0; i < 3_000; i += 500) await Promise.all(Array.from({ length: 500 }, () => backplane.append(entry('a')))).then(() => backplane.sync())
      t.equal(receiver.entries.length, 3_000)
      t.equal(receiver.resets.length, 1)
      lengths.push(Number((await server.command('XLEN', key)).slice(1)))
    }
    const [none, some, all] = lengths as [number, number, number]
    t.ok(none >= 1_000 && none < 1_300, String(none))
    t.ok(some >= 2_000 && some < 2_300, String(some))
    t.equal(all, 3_001)
  })

  t.test('a log without a genesis row is served whole, and every process says that it begins at the same place', { buffered: true }, async t => {
    const key = newKey()
    const [backplane] = await opened(t, drivers.iovalkey!(server.port), key)
    const cursors = await Promise.all(['a', 'b', 'c'].map(data => backplane.append(entry(data))))
    await server.command('XTRIM', key, 'MAXLEN', '2')
    const [{ compare }, one] = await opened(t, drivers.iovalkey!(server.port), key)
    const [, two] = await opened(t, drivers.iovalkey!(server.port), key)
    t.same(one.story, ['(reset)', 'b', 'c'])
    t.ok(compare(one.resets[0]!, cursors[1]!) < 0)
    t.ok(compare(one.resets[0]!, cursors[0]!) >= 0)
    t.not(one.resets[0], cursors[0])
    t.same(two.resets, one.resets)
  })

  t.test('rows that a stranger wrote, and repeated nonces, are passed over', { buffered: true }, async t => {
    const key = newKey()
    const [backplane, receiver] = await opened(t, drivers.iovalkey!(server.port), key)
    await backplane.append(entry('a'))
    for (const fields of [['foo', 'bar'], ['foo', 'bar'], ['n', 'x1', 'c', 'no json'], ['n', 'x2', 'c', '{}'], ['n', 'x3', 'c', '[1]'], ['n', '', 'c', '["a"]'], ['n', 'x4', 'c', '["news"]', 'd', 'b'], ['n', 'x4', 'c', '["news"]', 'd', 'b']]) {
      await server.command('XADD', key, '*', ...fields)
    }
    await backplane.append(entry('c'))
    await story(receiver, '(reset)', 'a', 'b', 'c')
    await server.command('XADD', key, '*', 'foo', 'bar')
    const [, second] = await opened(t, drivers.iovalkey!(server.port), key)
    await backplane.append(entry('d'))
    await story(second, '(reset)', 'a', 'b', 'c', 'd')
    await story(receiver, '(reset)', 'a', 'b', 'c', 'd')
  })

  for (const [name, make] of both) {
    t.test(`what is lost, with ${name}`, { buffered: true }, async t => {
      const server = await RedisServer.start(t)

      /** Two backplanes on one log, with one entry. */
      async function pair (t: Test, key: string): Promise<[Backplane, Recorder, Recorder]> {
        const [backplane, one] = await opened(t, make(server.port), key)
        const [, two] = await opened(t, make(server.port), key)
        await backplane.append(entry('a'))
        for (const receiver of [one, two]) await story(receiver, '(reset)', 'a')
        return [backplane, one, two]
      }

      await t.test('DEL: a gap, then what was published afterwards', async t => {
        const key = newKey()
        const [backplane, one, two] = await pair(t, key)
        await server.command('DEL', key)
        const cursor = await backplane.append(entry('b'))
        for (const receiver of [one, two]) {
          await story(receiver, '(reset)', 'a', '(reset)', 'b')
          t.ok(backplane.compare(receiver.resets[1]!, cursor) < 0)
        }
        t.same(one.resets[1], two.resets[1], 'both name the same place')
        const [, three] = await opened(t, make(server.port), key)
        t.same([three.story, three.resets[0]], [['(reset)', 'b'], one.resets[1]], 'and a new process knows it')
      })

      await t.test('FLUSHALL, and nothing afterwards: it is noticed all the same', async t => {
        const [backplane, one, two] = await pair(t, newKey())
        await server.command('FLUSHALL')
        for (const receiver of [one, two]) await story(receiver, '(reset)', 'a', '(reset)')
        await backplane.append(entry('b'))
        for (const receiver of [one, two]) await story(receiver, '(reset)', 'a', '(reset)', 'b')
        t.same(one.resets[1], two.resets[1])
        t.equal(one.count('down') + two.count('down'), 0)
      })

      await t.test('XTRIM past the readers: a gap, then the rest', async t => {
        const key = newKey()
        const [, one, two] = await pair(t, key)
        await atomically(server, ['XADD', key, '*', 'n', 'n1', 'c', '["news"]', 'd', 'b'], ['XADD', key, '*', 'n', 'n2', 'c', '["news"]', 'd', 'c'], ['XTRIM', key, 'MAXLEN', '1'])
        for (const receiver of [one, two]) await story(receiver, '(reset)', 'a', '(reset)', 'c')
      })

      await t.test('an id that is handed out again is another cursor: a gap, then what has it now', async t => {
        const key = newKey()
        const [{ compare }, one, two] = await pair(t, key)
        const [cursor] = one.cursors as [string]
        const id = cursor.split('.')[0]!
        await atomically(server, ['DEL', key], ['XADD', key, id, 'n', 'other', 'c', '["news"]', 'd', 'b'])
        for (const receiver of [one, two]) {
          await story(receiver, '(reset)', 'a', '(reset)', 'b')
          t.not(receiver.cursors[1], cursor)
          t.equal(compare(receiver.cursors[1]!, cursor), 0)
        }
      })

      await t.test('a suffix that all have read is lost: each says so, and goes on after what is left', async t => {
        const key = newKey()
        const [backplane, one, two] = await pair(t, key)
        const lost = await Promise.all(['b', 'c'].map(data => backplane.append(entry(data))))
        for (const receiver of [one, two]) await story(receiver, '(reset)', 'a', 'b', 'c')
        await atomically(server, ['XDEL', key, ...lost.map(cursor => cursor.split('.')[0]!)])
        for (const receiver of [one, two]) {
          await until('the loss was seen', () => receiver.resets.length >= 2)
          t.equal(receiver.resets[1], receiver.cursors[0], 'at the newest row that both have')
        }
        await backplane.append(entry('d'))
        for (const receiver of [one, two]) {
          await until('d was received', () => receiver.data.at(-1) === 'd')
          t.same(receiver.data, ['a', 'b', 'c', 'd'])
        }
        const cuts = await cutsOf(server, key)
        // Both may have appended one before they saw the other's.
        t.ok(cuts.length === 1 || cuts.length === 2, String(cuts.length))
        // Clients that stand at the newest row that is left, or a little after it, come from elsewhere and know of no loss.
        for (const receiver of [one, two]) {
          await until('the cuts were received', () => receiver.resets.length >= 2 + cuts.length)
          t.same(receiver.resets.slice(2), cuts, 'who found the loss puts a gap at every cut too')
        }
        const [, three] = await opened(t, make(server.port), key)
        t.ok(three.resets.length > 1, 'a new process finds the cut in the log')
      })
    })

    t.test(`a server that goes and comes back, with ${name}`, { buffered: true }, async t => {
      await t.test('restarted empty: publishing rejects at once, then a gap and what is published afterwards', async t => {
        const server = await RedisServer.start(t)
        const [backplane, receiver] = await opened(t, make(server.port), 'sse')
        await backplane.append(entry('a'))
        await story(receiver, '(reset)', 'a')
        await server.kill()
        await story(receiver, '(reset)', 'a', '(down)')
        const start = performance.now()
        await t.rejects(backplane.append(entry('lost')), { code: 'SSE_ERR_BACKPLANE_DOWN', cause: Error })
        t.ok(performance.now() - start < 100)
        await server.restart()
        await until('it is up', () => receiver.count('up') === 1)
        await backplane.append(entry('b'))
        await story(receiver, '(reset)', 'a', '(down)', '(reset)', '(up)', 'b')
      })

      await t.test('killed and restarted with its file, while entries are published: no gap, and none that was acknowledged is missing', async t => {
        const server = await RedisServer.start(t, { aof: true })
        const [backplane, one] = await opened(t, make(server.port), 'sse')
        const [, two] = await opened(t, make(server.port), 'sse')
        const acknowledged: string[] = []
        let rejected = 0
        const publishing = new Set(['yes'])
        const publishers = Promise.all(Array.from({ length: 5 }, async () => {
          while (publishing.size > 0) await backplane.append(entry('x')).then(cursor => acknowledged.push(cursor), () => { rejected++; return new Promise(resolve => setTimeout(resolve, 5)) })
        }))
        await until('some were published', () => acknowledged.length > 100)
        await server.kill()
        await until('it is down', () => one.count('down') === 1 && two.count('down') === 1 && rejected > 20)
        await server.restart()
        const before = acknowledged.length
        await until('some more were published', () => acknowledged.length > before + 100)
        publishing.clear()
        await publishers
        for (const receiver of [one, two]) {
          await until('all were received', () => isSubset(acknowledged, receiver.cursors))
          t.equal(receiver.resets.length, 1)
          t.equal(new Set(receiver.cursors).size, receiver.cursors.length)
          await until('it is up', () => receiver.count('up') === 1)
        }
        t.equal(one.cursors.join(), two.cursors.join())
      })

      await t.test('stopped for 2 s: publishing waits, nothing is lost, and it does not count as down', async t => {
        const server = await RedisServer.start(t)
        const [backplane, receiver] = await opened(t, make(server.port), 'sse')
        server.freeze()
        const appended = Promise.all(['a', 'b', 'c'].map(data => backplane.append(entry(data))))
        await new Promise(resolve => setTimeout(resolve, 2_000))
        server.thaw()
        t.same(await appended, (await story(receiver, '(reset)', 'a', 'b', 'c'), receiver.cursors))
      })

      await t.test('CLIENT KILL, again and again: no gap, none that was acknowledged is missing, none twice', async t => {
        const server = await RedisServer.start(t)
        const [backplane, one] = await opened(t, make(server.port), 'sse')
        const [, two] = await opened(t, make(server.port), 'sse')
        const acknowledged: string[] = []
        for (let i = 0; i < 20; i++) {
          for (let n = 0; n < 20; n++) await backplane.append(entry(`${i}:${n}`)).then(cursor => acknowledged.push(cursor), () => new Promise(resolve => setTimeout(resolve, 5)))
          // Every second time the writers' too.
          if (i % 2 === 1) await server.command('CLIENT', 'KILL', 'TYPE', 'normal')
          else for (const [, id] of (await server.command('CLIENT', 'LIST')).matchAll(/(?:^|\n)id=(\d+) .*cmd=xread /g)) await server.command('CLIENT', 'KILL', 'ID', id!)
        }
        t.ok(acknowledged.length > 100, String(acknowledged.length))
        for (const receiver of [one, two]) {
          await until('all were received', () => isSubset(acknowledged, receiver.cursors))
          t.equal(receiver.resets.length, 1)
          t.equal(new Set(receiver.cursors).size, receiver.cursors.length)
          t.ok(receiver.count('down') > 3)
          await until('it is up', () => receiver.count('up') === receiver.count('down'))
        }
        t.equal(one.cursors.join(), two.cursors.join())
      })

      await t.test('the key is no stream for a while: down, and then a gap', async t => {
        const server = await RedisServer.start(t)
        const [backplane, receiver] = await opened(t, make(server.port), 'sse')
        await backplane.append(entry('a'))
        await atomically(server, ['DEL', 'sse'], ['SET', 'sse', 'x'])
        await until('it is down', () => receiver.count('down') > 0)
        await t.rejects(backplane.append(entry('b')), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /WRONGTYPE/ })
        await server.command('DEL', 'sse')
        await until('it is up', () => receiver.count('up') > 0)
        await backplane.append(entry('c'))
        await story(receiver, '(reset)', 'a', '(down)', '(reset)', '(up)', 'c')
      })

      await t.test('what Redis refuses rejects with its reason; reading goes on, and publishing when it is over', async t => {
        const server = await RedisServer.start(t)
        const [backplane, receiver] = await opened(t, make(server.port), 'sse')
        await server.command('CONFIG', 'SET', 'maxmemory', '1')
        await t.rejects(backplane.append(entry('a')), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /OOM/, cause: { message: /OOM/ } })
        await server.command('CONFIG', 'SET', 'maxmemory', '0')
        await backplane.append(entry('b'))
        await server.command('REPLICAOF', '127.0.0.1', String(await freePort()))
        await t.rejects(backplane.append(entry('c')), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /READONLY/ })
        await server.command('REPLICAOF', 'NO', 'ONE')
        await until('publishing works', () => backplane.append(entry('d')).then(() => true, () => false))
        await until('d was received', () => receiver.data.at(-1) === 'd')
        t.same(receiver.data, ['b', 'd'])
        t.equal(receiver.resets.length, 1)
      })
    })

    t.test(`a network that fails, with ${name}`, { buffered: true }, async t => {
      await t.test('the answer to a publish is lost: it rejects, and the entry is received once', async t => {
        const proxy = await Proxy.start(t, server.port)
        const [backplane, receiver] = await opened(t, make(proxy.port), newKey())
        await backplane.append(entry('a'))
        await until('the reader waits', () => proxy.of('readers').length === 1)
        proxy.swallow('writers')
        const lost = backplane.append(entry('b'))
        lost.catch(() => {})
        await story(receiver, '(reset)', 'a', 'b')
        for (const { client } of proxy.of('writers')) client.destroy()
        await t.rejects(lost, { code: 'SSE_ERR_BACKPLANE_DOWN' })
        await until('publishing works', () => backplane.append(entry('c')).then(() => true, () => false))
        await backplane.sync()
        t.same(receiver.data, ['a', 'b', 'c'])
        t.equal(receiver.resets.length, 1)
      })

      await t.test('it swallows answers for ever: publishing rejects after 5 s, reading starts anew, and nothing is lost', async t => {
        const proxy = await Proxy.start(t, server.port)
        const key = newKey()
        const [backplane, receiver] = await opened(t, make(proxy.port), key)
        const [other] = await opened(t, make(server.port), key)
        await until('the reader waits', () => proxy.of('readers').length === 1)
        proxy.swallow('all')
        const start = performance.now()
        const lost = t.rejects(backplane.append(entry('a')), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /XADD within 5000 ms/ })
        await other.append(entry('b'))
        await lost
        t.ok(performance.now() - start < 7_500)
        await until('both were received', () => receiver.entries.length === 2 && receiver.story.at(-1) === '(up)')
        t.same(receiver.data.sort(), ['a', 'b'])
        t.equal(receiver.resets.length, 1)
      })

      await t.test('cut, and refused for a while: down and up once, no gap', async t => {
        const proxy = await Proxy.start(t, server.port)
        const key = newKey()
        const [, receiver] = await opened(t, make(proxy.port), key)
        const [other] = await opened(t, make(server.port), key)
        proxy.refuse(true)
        proxy.cut()
        await story(receiver, '(reset)', '(down)')
        await other.append(entry('a'))
        await new Promise(resolve => setTimeout(resolve, 300))
        proxy.refuse(false)
        await story(receiver, '(reset)', '(down)', 'a', '(up)')
      })

      await t.test('a replica takes over without the newest entries: who read them tells all others', async t => {
        const primary = await RedisServer.start(t)
        const replica = await RedisServer.start(t, { replicaOf: primary.port })
        const proxies = [await Proxy.start(t, primary.port), await Proxy.start(t, primary.port)] as const
        const [one, ahead] = await opened(t, make(proxies[0].port), 'sse')
        const [two, behind] = await opened(t, make(proxies[1].port), 'sse')
        await one.append(entry('a'))
        for (const receiver of [ahead, behind]) await story(receiver, '(reset)', 'a')
        await until('the replica has it', async () => await replica.command('XLEN', 'sse') === ':2\r\n')
        await replica.command('REPLICAOF', 'NO', 'ONE')
        await until('the reader waits', () => proxies[1].of('readers').length === 1)
        proxies[1].stall('readers')
        await two.append(entry('lost'))
        await story(ahead, '(reset)', 'a', 'lost')
        t.same(behind.data, ['a'])
        for (const proxy of proxies) proxy.retarget(replica.port)
        for (const receiver of [ahead, behind]) await until('all were told', () => receiver.resets.length > 1 && receiver.count('up') === 1)
        await two.append(entry('b'))
        for (const receiver of [ahead, behind]) await until('b was received', () => receiver.data.at(-1) === 'b')
        t.same(ahead.data, ['a', 'lost', 'b'])
        t.same(behind.data, ['a', 'b'])
      })

      await t.test('a replica takes over without an entry that nobody read: who published it tells all others', async t => {
        const primary = await RedisServer.start(t)
        const replica = await RedisServer.start(t, { replicaOf: primary.port })
        const proxies = [await Proxy.start(t, primary.port), await Proxy.start(t, primary.port)] as const
        const [one, mine] = await opened(t, make(proxies[0].port), 'sse')
        const [, other] = await opened(t, make(proxies[1].port), 'sse')
        await one.append(entry('a'))
        for (const receiver of [mine, other]) await story(receiver, '(reset)', 'a')
        await until('the replica has it', async () => await replica.command('XLEN', 'sse') === ':2\r\n')
        await replica.command('REPLICAOF', 'NO', 'ONE')
        await until('both readers wait', () => proxies.every(proxy => proxy.of('readers').length === 1))
        for (const proxy of proxies) proxy.stall('readers')
        await one.append(entry('lost'))
        for (const proxy of proxies) proxy.retarget(replica.port)
        for (const receiver of [mine, other]) {
          await until('all were told', () => receiver.resets.length === 2 && receiver.count('up') === 1)
          t.same(receiver.data, ['a'])
        }
        t.same(mine.resets[1], other.resets[1])
      })
    })

    t.test(`what was published just before close() gets its answer, with ${name}`, { buffered: true }, async t => {
      const [backplane] = await opened(t, make(server.port), newKey())
      const answers = Promise.allSettled(Array.from({ length: 100 }, (_, n) => backplane.append(entry(String(n)))))
      await backplane.close()
      t.same((await answers).filter(({ status }) => status === 'rejected'), [])
      await t.rejects(backplane.append(entry('late')), { code: 'SSE_ERR_CLOSED' })
    })

    t.test(`a start that fails, with ${name}`, { buffered: true }, async t => {
      async function refused (port: number, key: string, message: RegExp, within: number): Promise<void> {
        const backplane = redisBackplane({ client: make(port), key })
        const start = performance.now()
        await t.rejects(backplane.open(new Recorder()), { code: 'SSE_ERR_BACKPLANE_DOWN', message, cause: Error })
        const took = performance.now() - start
        t.ok(took < within, `took ${took} ms`)
        await backplane.close()
      }
      const key = newKey()
      await server.command('SET', key, 'x')
      await refused(server.port, key, /WRONGTYPE/, 1_000)
      await refused(await freePort(), 'sse', /ECONNREFUSED/, 1_000)
      const other = await RedisServer.start(t)
      await other.command('CONFIG', 'SET', 'requirepass', 'secret')
      await refused(other.port, 'sse', /NOAUTH/, 1_000)
      other.freeze()
      await refused(other.port, 'sse', /within 5000 ms/, 6_000)
    })
  }

  t.test('a process ends by itself after close(), whether Redis is there, away or stuck', { buffered: true }, async t => {
    const stuck = await RedisServer.start(t)
    const away = await RedisServer.start(t)
    const clients = {
      ioredis: (port: number) => `import { Redis } from 'ioredis'; const client = new Redis({ port: ${port}, host: '127.0.0.1', lazyConnect: true })`,
      'node-redis': (port: number) => `import { createClient } from 'redis'; const client = createClient({ url: 'redis://127.0.0.1:${port}' })`
    }
    const rest = (before: string) => `
      import { redisBackplane } from ${JSON.stringify(new URL('../lib/redis-backplane.ts', import.meta.url).href)}
      import net from 'node:net'
      const backplane = redisBackplane({ client })
      const receiver = { maxEvents: 10, receive () {}, reset () {}, up () {}, down () { this.isDown = true } }
      ${before}
      await backplane.close()
      console.log('closed')`
    await Promise.all(Object.entries(clients).flatMap(([name, client]) => [
      run(client(server.port) + rest('await backplane.open(receiver)')).then(ms => t.ok(ms < 1_000, `${name}, there: ${ms}`))
    ]))
    stuck.freeze()
    await Promise.all(Object.entries(clients).flatMap(([name, client]) => [
      run(client(stuck.port) + rest('backplane.open(receiver).catch(() => {}); await new Promise(resolve => setTimeout(resolve, 100))')).then(ms => t.ok(ms < 1_000, `${name}, stuck: ${ms}`))
    ]))
    const going = Object.entries(clients).flatMap(([name, client]) => [
      run(client(away.port) + rest('await backplane.open(receiver); while (!receiver.isDown) await new Promise(resolve => setTimeout(resolve, 10))')).then(ms => t.ok(ms < 1_000, `${name}, away: ${ms}`))
    ])
    await until('both are connected', async () => (await away.command('CLIENT', 'LIST')).split('cmd=xread').length === 3)
    await away.kill()
    await Promise.all(going)
  })
})

function isSubset (some: string[], all: string[]): boolean {
  const set = new Set(all)
  return some.every(each => set.has(each))
}

/** The cursors of the cuts in a log. */
async function cutsOf (server: RedisServer, key: string): Promise<string[]> {
  const client = new Redis(server.port, '127.0.0.1')
  try {
    return decodeRows(await client.call('XRANGE', key, '-', '+')).filter(({ kind }) => kind === 'cut').map(({ cursor }) => cursor)
  } finally {
    client.disconnect()
  }
}

/** The commands in one transaction. */
async function atomically (server: RedisServer, ...commands: string[][]): Promise<void> {
  const client = new Redis(server.port, '127.0.0.1')
  try {
    const results = await client.multi(commands.map(([command, ...args]) => ['call', command!, ...args])).exec()
    for (const [error] of results!) if (error !== null) throw error
  } finally {
    client.disconnect()
  }
}
