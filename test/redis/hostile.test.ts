import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Cluster, Redis } from 'ioredis'
import { createClient, createClientPool, createCluster } from 'redis'
import t, { type Test } from 'tap'
import { redisBackplane, type RedisBackplaneOptions, type RedisClient } from '../../lib/redis/index.ts'
import { parseCursor } from '../../lib/log/cursor.ts'
import type { SharedBackplane } from '../../lib/log/backplane.ts'
import { build, connect, listen } from '../client.ts'
import { entry, pause, Recorder, until } from '../log/backplane-contract.ts'
import { Proxy } from './redis-proxy.ts'
import { freePort, noRedis, RedisServer } from './redis-server.ts'
import { clients, Trial } from './trial.ts'

t.setTimeout(120_000)
t.jobs = 2

const template = (port: number) => new Redis({ port, host: '127.0.0.1', lazyConnect: true })

async function opened (t: Test, client: RedisClient, key?: string): Promise<[SharedBackplane, Recorder]> {
  const backplane = redisBackplane({ client, key }, { silence: 200 })
  t.teardown(() => backplane.close())
  const receiver = new Recorder()
  await backplane.open(receiver)
  return [backplane, receiver]
}

async function raw (t: Test, server: RedisServer): Promise<Redis> {
  const client = new Redis({ port: server.port, host: '127.0.0.1' })
  t.teardown(() => client.disconnect())
  return client
}

t.test('options are checked', async t => {
  const client = template(1)
  for (const bad of [undefined, null, 'redis://127.0.0.1', {}, { sendCommand () {} }, new Cluster([{ port: 1 }], { lazyConnect: true }), createCluster({ rootNodes: [] }), createClientPool(undefined)]) {
    t.throws(() => redisBackplane({ client: bad as unknown as RedisClient }), { code: 'SSE_ERR_INVALID_OPTION', message: /client/ })
  }
  for (const bad of ['', 1, null, '{', 'a}b']) t.throws(() => redisBackplane({ client, key: bad as string }), { code: 'SSE_ERR_INVALID_OPTION', message: /key/ })
  t.throws(() => redisBackplane({ client, keys: 'a' } as RedisBackplaneOptions), { code: 'SSE_ERR_INVALID_OPTION', message: /keys/ })
  for (const bad of [undefined, null, 'x']) t.throws(() => redisBackplane(bad as unknown as RedisBackplaneOptions), { code: 'SSE_ERR_INVALID_OPTION' })
  redisBackplane({ client })
})

t.test('where Redis is out of reach open() rejects, soon, and nothing stays behind', async t => {
  const port = await freePort()
  for (const client of clients) {
    const started = performance.now()
    const backplane = redisBackplane({ client: client(port) })
    const receiver = new Recorder()
    await t.rejects(backplane.open(receiver), { code: 'SSE_ERR_BACKPLANE_DOWN' })
    t.ok(performance.now() - started < 6_000)
    t.same(receiver.seen, [])
    await backplane.close()
  }
})

t.test('with Redis', { skip: noRedis }, async t => {
  t.jobs = 2

  t.test('a client that is in use stays as it is; its keyPrefix is used for keys and channels', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const io = new Redis({ port: server.port, host: '127.0.0.1', keyPrefix: 'io:', commandTimeout: 100, connectionName: 'mine' })
    const node = createClient({ url: server.url, keyPrefix: 'node:', database: 0 })
    await node.connect()
    t.teardown(() => { io.disconnect(); node.destroy() })
    for (const [client, prefix, ping] of [[io, 'io:', () => io.ping()], [node, 'node:', () => node.ping()]] as const) {
      const [backplane, receiver] = await opened(t, client)
      await backplane.watch(['news'])
      await backplane.append(entry('a'))
      await pause(300)
      await backplane.append(entry('b'))
      await until('both were heard', () => receiver.data.join() === 'a,b')
      t.equal(await server.command('XLEN', `${prefix}{sse}:c:news`), ':2\r\n')
      t.match(await server.command('PUBSUB', 'CHANNELS', `${prefix}*`), `${prefix}{sse}:c:news`)
      await backplane.close()
      t.equal(await ping(), 'PONG')
    }
    t.match(await server.command('KEYS', '{*'), '*0')
  })

  t.test('two applications with different keys on one server know nothing of each other', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const [one, first] = await opened(t, template(server.port), 'one')
    const [two, second] = await opened(t, template(server.port), 'two')
    await Promise.all([one.watch(['news']), two.watch(['news'])])
    const a = parseCursor(await one.append(entry('a')))!
    const b = parseCursor(await two.append(entry('b')))!
    await until('each heard its own', () => first.data.join() === 'a' && second.data.join() === 'b')
    t.not(a.life, b.life)
    await one.append(entry('done', { kind: 'end' }))
    await two.append(entry('c'))
    t.equal((await two.read('news', 0)).entries.length, 2)
  })

  t.test('two applications in different databases of one server know nothing of each other, though Redis tells messages to all databases', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const [one, first] = await opened(t, template(server.port))
    await one.watch(['news'])
    for (const [i, client] of [
      new Redis({ port: server.port, host: '127.0.0.1', lazyConnect: true, db: 1 }),
      new Redis(`${server.url}/2`, { lazyConnect: true }),
      createClient({ url: server.url, database: 3 }),
      createClient({ url: `${server.url}/4` })
    ].entries()) {
      const [two, second] = await opened(t, client)
      await two.watch(['news'])
      await one.append(entry(`a ${i}`))
      await two.append(entry(`b ${i}`))
      await until('each heard its own', () => first.data.at(-1) === `a ${i}` && second.data.at(-1) === `b ${i}`)
      t.same([first.story, second.story, second.data], ['mended', 'mended', [`b ${i}`]])
    }
    t.match(await server.command('KEYS', '{sse}'), '*1')
  })

  t.test('a key of the wrong kind: a coded error for that channel alone, and no connection suffers', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const trial = await Trial.start(t, clients.map(client => client(server.port)))
    await server.command('SET', '{sse}:c:wrong', 'a string')
    for (const { backplane } of trial.processes) {
      await backplane.watch(['wrong'])
      await t.rejects(backplane.append(entry('x', { channels: ['wrong'] })), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /WRONGTYPE.*\{sse\}:c:wrong/ })
      await t.rejects(backplane.append(entry('x', { channels: ['a', 'wrong', 'b'] })), { code: 'SSE_ERR_BACKPLANE_DOWN' })
      await t.rejects(backplane.read('wrong', 0), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /WRONGTYPE/ })
    }
    const reads = await Promise.allSettled(['a', 'wrong', 'b'].map(name => trial.processes[0]!.backplane.read(name, 0)))
    t.same(reads.map(({ status }) => status), ['fulfilled', 'rejected', 'fulfilled'], 'nor those that are read together with it')
    await trial.rest()
    t.same(trial.judge(true), [])
    for (const { follower } of trial.processes) t.same(follower.story, ['mended'])
    t.equal((await trial.processes[0]!.backplane.read('a', 0)).entries.filter(({ data }) => data === 'x').length, 0, 'all channels take it, or none')
    await server.command('DEL', '{sse}:c:wrong')
    await trial.processes[0]!.backplane.append(entry('x', { channels: ['wrong'] }))
  })

  t.test('long histories, and large ones, hold up no short one', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const [writer] = await opened(t, template(server.port))
    const append = (name: string, count: number, data: string) => Promise.all(Array.from({ length: count }, () => writer.append(entry(data, { channels: [name] }))))
    await Promise.all([append('long', 5_000, 'x'), append('large', 40, 'x'.repeat(300_000)), ...Array.from({ length: 100 }, (_, i) => append(`short ${i}`, 3, 'x'))])
    const [reader] = await opened(t, template(server.port))
    const done: string[] = []
    const read = async (name: string, count: number) => {
      t.equal((await reader.read(name, 0)).entries.length, count, name)
      done.push(name)
    }
    await Promise.all([read('long', 5_000), read('large', 40), ...Array.from({ length: 100 }, (_, i) => read(`short ${i}`, 3))])
    t.same(done.slice(-2).sort(), ['large', 'long'])
  })

  t.test('a channel that is trimmed between two answers to one read is not read whole', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = template(server.port)
    const { duplicate } = client
    let trims = 0
    client.duplicate = options => {
      const copy = duplicate.call(client, options)
      const { call } = copy as unknown as { call: (...args: unknown[]) => Promise<unknown> }
      return Object.assign(copy, {
        async call (...args: unknown[]) {
          const answer = await call.apply(copy, args)
          const more = Array.isArray(answer) && Array.isArray(answer[3]) && answer[3][1] === '1'
          if (more && trims++ === 0) await server.command('XTRIM', '{sse}:c:a', 'MAXLEN', '5')
          return answer
        }
      })
    }
    const [backplane] = await opened(t, client)
    await Promise.all(Array.from({ length: 600 }, (_, n) => backplane.append(entry(String(n)))))
    const kept = await backplane.read('news', 0)
    t.match(kept, { entries: { length: 600 }, cut: false })
    trims = 0
    await Promise.all(Array.from({ length: 600 }, (_, n) => backplane.append(entry(String(n), { channels: ['a'] }))))
    const trimmed = await backplane.read('a', 0)
    t.match(trimmed, { entries: { length: 5 }, cut: true })
  })

  t.test('the hash or the sorted set is of the wrong kind: open() rejects, or publishes do', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    await server.command('SET', '{hash}', 'a string')
    const hash = redisBackplane({ client: template(server.port), key: 'hash' })
    await t.rejects(hash.open(new Recorder()), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /WRONGTYPE/ })
    await server.command('HSET', '{foreign}', 'seq', 'x', 'lives', 'y', 'run', 'z')
    const [foreign] = await opened(t, template(server.port), 'foreign')
    await foreign.append(entry('a'))
    const [set] = await opened(t, template(server.port), 'set')
    await server.command('SET', '{set}:last', 'a string')
    await t.rejects(set.append(entry('a')), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /WRONGTYPE/ })
    await server.command('DEL', '{set}:last')
    await set.append(entry('a'))
  })

  t.test('rows that others wrote are skipped, forge no field, and a damaged one of ours is a loss', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = await raw(t, server)
    const [backplane, receiver] = await opened(t, template(server.port))
    await backplane.watch(['news'])
    const stream = '{sse}:c:news'
    const heads = ['', 'x', '[]', '{}', 'null', '["e"]', '["e",0]', '["e",2,null]', '["z",0,null]', '["e",0,1]', '["e",0,"a\\nid: 1"]', '["e",0,"a\\rdata: 1"]', '["e",0,"sse.end"]', '["x",0,null,["news","other"]]',
      '["e",0,null,["other"]]', '["e",0,null,"news"]', '["e",0,null,[1,"news"]]', '["e",0,null,["news","news"]]', '["e",0,{}]']
    const { seq } = parseCursor(await backplane.append(entry('first')))!
    let n = 0
    for (const head of heads) await client.xadd(stream, `${seq}-${++n}`, 'p', String(seq), 't', '1', 'h', head, 'd', 'forged')
    await client.xadd(stream, `${seq}-${++n}`, 'foo', 'bar')
    await client.xadd(stream, `${seq}-${++n}`, 'p', String(seq), 't', '1', 'h', '["e",0,null]', 'd', 'of no seq')
    t.same((await backplane.read('news', 0)).entries.map(({ data }) => data), ['first'])
    t.same((await backplane.read('news', 0, 10)).entries.map(({ data }) => data), ['first'])
    const after = parseCursor(await backplane.append(entry('second')))!
    const kept = await backplane.read('news', seq)
    t.same([kept.entries.map(({ data }) => data), kept.floor], [['second'], seq])
    // As if one of ours were damaged: a row in its place that cannot be read.
    const third = parseCursor(await backplane.append(entry('third')))!
    await backplane.append(entry('fourth'))
    await client.xdel(stream, `${third.seq}-0`)
    const holed = await backplane.read('news', after.seq)
    t.same([holed.entries.map(({ data }) => data), holed.floor], [['fourth'], third.seq])
    const last = parseCursor(await backplane.append(entry('fifth')))!
    await client.xdel(stream, `${last.seq}-0`)
    t.match(await backplane.read('news', after.seq), { floor: last.seq, last: last.seq })
    // Messages, too.
    const { life } = last
    for (const head of heads) await client.publish(stream, `${life} ${last.seq + 1} ${last.seq}\n${head}\nforged`)
    for (const line of ['', 'x', '\n', '\n\n', `${life}\n["e",0,null]\nx`, `${life} x 1\n["e",0,null]\nx`, `${life} -5 1\n["e",0,null]\nx`, `${life} 5 1 2\n["e",0,null]\nx`, 'a-b 5 1\n["e",0,null]\nx', `${life} 1e300 1\n["e",0,null]\nx`]) await client.publish(stream, line)
    await backplane.append(entry('last'))
    await until('the last one was heard', () => receiver.data.at(-1) === 'last')
    t.same(receiver.data, ['first', 'second', 'third', 'fourth', 'fifth', 'last'])
    t.equal(receiver.story, 'mended')
  })

  t.test('a stream with ids above ours, as a stranger adds them, is overtaken', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = await raw(t, server)
    const [backplane, receiver] = await opened(t, template(server.port))
    await backplane.watch(['a', 'b', 'c'])
    await backplane.append(entry('1', { channels: ['a', 'b'] }))
    await client.xadd('{sse}:c:b', '*', 'foo', 'bar')
    await client.xadd('{sse}:c:c', '9999999999999-3', 'foo', 'bar')
    await backplane.append(entry('2', { channels: ['a', 'b', 'c'] }))
    await backplane.append(entry('3', { channels: ['a', 'b', 'c'] }))
    await until('all were heard', () => receiver.data.join() === '1,2,3')
    t.same((await backplane.read('b', 0)).entries.map(({ data }) => data), ['1', '2', '3'])
    // Nothing is above that one.
    await client.xadd('{sse}:c:max', '18446744073709551615-18446744073709551615', 'foo', 'bar')
    await t.rejects(backplane.append(entry('4', { channels: ['a', 'max'] })), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /max/ })
    t.equal((await backplane.read('a', 0)).entries.length, 3)
    await backplane.append(entry('5', { channels: ['a'] }))
    t.equal(receiver.story, 'mended')
  })

  t.test('numbers of 16 digits stay whole', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = await raw(t, server)
    const [backplane, receiver] = await opened(t, template(server.port))
    await backplane.watch(['news'])
    await client.hset('{sse}', 'seq', '1400000000000000')
    const cursors = []
    for (let i = 0; i < 40; i++) cursors.push(parseCursor(await backplane.append(entry(String(i))))!.seq)
    t.same(cursors, Array.from({ length: 40 }, (_, i) => 1_400_000_000_000_001 + i))
    await until('all were heard', () => receiver.entries.length === 40)
    t.same(receiver.entries.slice(1).map(({ prevs }) => prevs![0]), cursors.slice(0, -1))
    const end = parseCursor(await backplane.append(entry('end', { kind: 'end' })))!.seq
    t.equal(parseCursor(await backplane.append(entry('end', { kind: 'end' })))!.seq, end)
    t.same((await backplane.read('news', cursors[37]!)).entries.map(({ seq }) => seq), [...cursors.slice(38), end])
    await backplane.close()
    const [again, two] = await opened(t, template(server.port))
    t.equal(two.head, end)
    await again.close()
  })

  t.test('keys expire, at the earliest after a minute, and what is forgotten leaves a bound; 3,000 channels used once', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = await raw(t, server)
    const [backplane, receiver] = await opened(t, template(server.port))
    await backplane.append(entry('a', { channels: ['short'], limits: { maxAge: 10 } }))
    await backplane.append(entry('a', { channels: ['long'], limits: { maxAge: 3_600_000 } }))
    await backplane.append(entry('a', { channels: ['ever'], limits: { maxAge: 0 } }))
    const [short, long, ever] = await Promise.all(['short', 'long', 'ever'].map(name => client.pttl(`{sse}:c:${name}`))) as [number, number, number]
    t.ok(short > 55_000 && short <= 60_000 && long > 3_500_000 && ever === -1, `${short} ${long} ${ever}`)
    await backplane.append(entry('a', { channels: ['short'], limits: { maxAge: 0 } }))
    t.equal(await client.pttl('{sse}:c:short'), -1)
    await Promise.all(Array.from({ length: 3_000 }, (_, i) => backplane.append(entry('a', { channels: [`once ${i}`] }))))
    await backplane.watch(['live'])
    for (let i = 0; i < 50; i++) await backplane.append(entry('a', { channels: ['live'], limits: { maxEvents: 0 } }))
    await until('all were heard', () => receiver.entries.length === 50)
    t.ok(receiver.entries.slice(1).every(({ prevs, seq }) => prevs![0] === seq - 1), 'of a channel that keeps nothing the newest is known')
    backplane.unwatch(['live'])
    receiver.seen.length = 0
    const bound = (await backplane.seq()).seq
    for (let i = 0; i < 3_000; i++) client.del(`{sse}:c:once ${i}`)
    // As if a minute had passed, twice.
    await client.hset('{sse}', 'marked', '0')
    await Promise.all(Array.from({ length: 16 }, () => backplane.append(entry('a', { channels: ['busy'] }))))
    await client.hset('{sse}', 'marked', '0')
    await Promise.all(Array.from({ length: 3_000 }, () => backplane.append(entry('a', { channels: ['busy'] }))))
    const left = await client.zcard('{sse}:last')
    t.ok(left < 20, `${left} channels are remembered`)
    t.equal(await client.zscore('{sse}:last', '{sse}:c:ever') === null, false)
    await backplane.watch(['once 5', 'short'])
    await backplane.append(entry('again', { channels: ['once 5'] }))
    await backplane.append(entry('again', { channels: ['short'] }))
    await until('it was heard', () => receiver.entries.length === 2)
    const [prev] = receiver.entries[0]!.prevs!
    t.ok(prev! < 0 && -prev! <= bound, `${prev} ${bound}`)
    t.ok(receiver.entries[1]!.prevs![0]! > 0)
    const gone = await backplane.read('once 7', 0)
    t.same([gone.floor, gone.last], [-prev!, -prev!])
  })

  t.test('channels that had one event in common are forgotten one by one, though many of them are kept for good', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = await raw(t, server)
    const [backplane] = await opened(t, template(server.port))
    const names = Array.from({ length: 140 }, (_, i) => String(i).padStart(3, '0'))
    await backplane.append(entry('a', { channels: names, limits: { maxAge: 0 } }))
    for (const name of names.slice(40)) await client.del(`{sse}:c:${name}`)
    for (let i = 0; i < 2; i++) {
      // As if a minute had passed.
      await client.hset('{sse}', 'marked', '0')
      await Promise.all(Array.from({ length: 320 }, () => backplane.append(entry('a', { channels: ['busy'] }))))
    }
    t.equal(await client.zcard('{sse}:last'), 41)
    t.equal((await backplane.read('100', 0)).last, 1)
  })

  t.test('a channel that has ended may be used again when its history has expired', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const client = await raw(t, server)
    const [backplane] = await opened(t, template(server.port))
    await backplane.append(entry('end', { kind: 'end' }))
    await client.del('{sse}:c:news')
    await t.rejects(backplane.append(entry('a')), { code: 'SSE_ERR_CHANNEL_ENDED' }, 'not yet')
    await client.hset('{sse}', 'old', '2')
    t.equal((await backplane.read('news', 0)).ended, false)
    await backplane.append(entry('a'))
    t.equal((await backplane.read('news', 0)).ended, false)
  })

  t.test('out of memory: publishes reject, nothing is torn down, and all is well afterwards', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const [backplane, receiver] = await opened(t, template(server.port))
    await backplane.watch(['news'])
    await backplane.append(entry('a'))
    await server.command('CONFIG', 'SET', 'maxmemory', '1')
    await t.rejects(backplane.append(entry('b')), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /OOM/ })
    await pause(700)
    await server.command('CONFIG', 'SET', 'maxmemory', '0')
    await backplane.append(entry('c'))
    await until('both were heard', () => receiver.data.join() === 'a,c')
    t.equal(receiver.story, 'mended')
  })

  t.test('a server that evicts keys is warned of, once; one that has CONFIG denied is fine, and one that denies INFO is said to', { buffered: true }, async t => {
    const warnings: string[] = []
    const listener = (warning: Error & { code?: string }) => { if (warning.code === 'SSE_REDIS_EVICTION') warnings.push(warning.message) }
    process.on('warning', listener)
    t.teardown(() => { process.off('warning', listener) })
    const server = await RedisServer.start(t, { args: ['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru'] })
    const [, receiver] = await opened(t, template(server.port))
    await server.command('CLIENT', 'KILL', 'TYPE', 'normal')
    await until('it is back', () => receiver.count('mended') === 2)
    await until('it was warned', () => warnings.length > 0)
    await pause(100)
    t.equal(warnings.length, 1)
    t.match(warnings[0], /allkeys-lru/)
    await server.command('ACL', 'SETUSER', 'few', 'on', '>secret', '~*', '&*', '+@all', '-config')
    const [backplane, few] = await opened(t, new Redis({ port: server.port, host: '127.0.0.1', lazyConnect: true, username: 'few', password: 'secret' }))
    await backplane.watch(['news'])
    await backplane.append(entry('a'))
    await until('it was heard', () => few.data.join() === 'a')
    await server.command('ACL', 'SETUSER', 'less', 'on', '>secret', '~*', '&*', '+@all', '-info')
    const less = redisBackplane({ client: new Redis({ port: server.port, host: '127.0.0.1', lazyConnect: true, enableReadyCheck: false, username: 'less', password: 'secret' }) })
    await t.rejects(less.open(new Recorder()), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /info/i })
  })

  t.test('a replica is no server to publish to: open() rejects', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const replica = await RedisServer.start(t, { replicaOf: server.port })
    await opened(t, template(server.port))
    await until('it is in step', async () => (await replica.command('INFO', 'replication')).includes('master_link_status:up'))
    await t.rejects(redisBackplane({ client: template(replica.port) }).open(new Recorder()), { code: 'SSE_ERR_BACKPLANE_DOWN', message: /READONLY|read only/ })
  })

  t.test('a process that closes its backplane ends by itself, at once, also where Redis hangs', { buffered: true }, async t => {
    const server = await RedisServer.start(t)
    const ends = async (script: string) => {
      const started = performance.now()
      const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', `
        import { Redis } from 'ioredis'
        import { createClient } from 'redis'
        import { redisBackplane } from './lib/redis/index.ts'
        import { Recorder, entry } from './test/log/backplane-contract.ts'
        const all = [new Redis({ port: ${server.port}, lazyConnect: true }), createClient({ url: '${server.url}' })].map(client => redisBackplane({ client }))
        for (const backplane of all) await backplane.open(new Recorder())
        ${script}`], { stdio: ['ignore', 'pipe', 'inherit'], cwd: new URL('../..', import.meta.url) })
      const timer = setTimeout(() => child.kill('SIGKILL'), 20_000)
      let printed = started
      child.stdout.on('data', () => { printed = performance.now() })
      const [code] = await once(child, 'exit')
      clearTimeout(timer)
      t.equal(code, 0)
      return performance.now() - printed
    }
    t.ok(await ends('await Promise.all(all.map(each => each.append(entry("a")))); console.log(1); await Promise.all(all.map(each => each.close()))') < 4_000)
    t.ok(await ends(`process.kill(${server.pid}, 'SIGSTOP'); for (const each of all) each.append(entry("a")).catch(() => {}); console.log(1); await Promise.all(all.map(each => each.close()))`) < 4_000)
    server.thaw()
  })
})

t.test('the sorted set alone vanishes, as by eviction: what a channel had is not known any more, and its readers are told', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const admin = new Redis({ port: server.port, host: '127.0.0.1' })
  t.teardown(() => admin.disconnect())
  const trial = await Trial.start(t, [clients[0]!(server.port)])
  const { backplane } = trial.processes[0]!
  const { seq: first } = parseCursor(await backplane.append(entry('1', { channels: ['a'] })))!
  const { seq: last } = parseCursor(await backplane.append(entry('2', { channels: ['a'] })))!
  await admin.del('{sse}:last', '{sse}:c:a')
  await backplane.append(entry('3', { channels: ['b'] }))
  const { entries, floor } = await backplane.read('a', first)
  t.same(entries, [])
  t.ok(floor >= last, `${floor} says that what lies between ${first} and ${last} is gone`)
})

/** The next one who says hello begins a life, as after a restart with all data. @returns its id */
async function anotherLife (t: Test, server: RedisServer): Promise<string> {
  await server.command('HSET', '{sse}', 'run', 'another')
  const [backplane, receiver] = await opened(t, template(server.port))
  await backplane.close()
  return receiver.lives.at(-1)!.id
}

/** As when 256 more have begun. */
async function dropOldestLife (server: RedisServer): Promise<void> {
  const lives = (await server.command('HGET', '{sse}', 'lives')).split('\r\n')[1]!
  await server.command('HSET', '{sse}', 'lives', lives.split(' ').slice(4).join(' '))
}

t.test('an end of an earlier life keeps its cursor', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const [first] = await opened(t, template(server.port))
  const cursor = await first.append(entry('done', { kind: 'end' }))
  await first.close()
  await anotherLife(t, server)
  const [second, receiver] = await opened(t, template(server.port))
  t.equal(receiver.lives.length, 2)
  t.equal(await second.append(entry('again', { kind: 'end' })), cursor)
})

t.test('the table of lives is bounded: what a process saw in one that has left it while the process was away counts as lost', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const proxy = await Proxy.start(t, server.port)
  const [backplane, receiver] = await opened(t, template(proxy.port))
  await backplane.append(entry('a'))
  proxy.refuse(true)
  proxy.cut()
  await until('it was noticed', () => receiver.count('broken') === 1)
  for (let i = 0; i < 262; i++) await anotherLife(t, server)
  proxy.refuse(false)
  await until('it is back', () => receiver.story !== 'mended broken')
  t.equal(receiver.story, 'mended broken restarted', 'it cannot tell that the table goes on from its own')
  t.equal(receiver.lives.length, 256)
  t.same(receiver.lives.map(({ broken }, i) => broken && i), [...Array(255).fill(false), 255], 'and everybody else is told: it cannot be proved that nothing is lost')
})

t.test('what a process saw in a life that leaves the table while the process is there is settled, and no proof of a loss', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const [backplane, receiver] = await opened(t, template(server.port))
  const early = await backplane.append(entry('a'))
  const before = receiver.lives[0]!.id
  for (let lives = 1; lives < 300; lives += 60) {
    let newest = ''
    for (let i = 0; i < 60; i++) newest = await anotherLife(t, server)
    await backplane.append(entry('a')).catch(() => {}) // it finds out, if it has not by itself
    await until('it is back', () => receiver.lives.at(-1)!.id === newest)
  }
  t.equal(receiver.lives.length, 256)
  t.notOk(receiver.lives.some(({ id, broken }) => broken || id === before))
  t.notMatch(receiver.story, 'restarted')
  t.ok(early.startsWith(before))
})

t.test('what is kept of a life that has left the table counts as gone: it could not be named as before', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const app = await build(t, { backplane: redisBackplane({ client: template(server.port) }) })
  const old = await app.sse.publish('a', 'old')
  await app.close()
  await server.command('HSET', '{sse}', 'run', 'another')
  const next = await build(t, { backplane: redisBackplane({ client: template(server.port) }) })
  const named = await next.sse.publish('a', 'new')
  t.same((await next.sse.channel('a').history()).map(({ id }) => id), [old, named])
  await next.close()
  await dropOldestLife(server)
  const last = await build(t, { backplane: redisBackplane({ client: template(server.port) }) })
  t.same((await last.sse.channel('a').history()).map(({ id }) => id), [named])
  last.get('/', (request, reply) => reply.sse(last.sse.channel('a'), { rewind: Infinity }))
  const url = await listen(last)
  for (const who of ['the first one', 'one that comes while it listens']) {
    const client = await connect(url)
    t.same((await client.first(1)).map(({ data }) => data), ['new'], who)
    t.match(client.gaps, [{ reason: 'expired', channels: ['a'] }], 'it does not take what is left for the whole')
  }
})

t.test('where a process listens already when the rest of a channel is asked for, what counts as gone is missed as well', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const first = await build(t, { backplane: redisBackplane({ client: template(server.port) }) })
  await first.sse.publish('a', 'old')
  await first.close()
  await server.command('HSET', '{sse}', 'run', 'another')
  const app = await build(t, { backplane: redisBackplane({ client: template(server.port) }) })
  await app.sse.publish('a', 'new')
  await app.close()
  await dropOldestLife(server)
  const last = await build(t, { backplane: redisBackplane({ client: template(server.port) }) })
  last.get('/', (request, reply) => reply.sse(last.sse.channel('a')))
  last.get('/all', (request, reply) => reply.sse(last.sse.channel('a'), { rewind: Infinity }))
  const url = await listen(last)
  const live = await connect(url)
  await until('it listens', () => live.lastEventId !== '')
  const client = await connect(url + '/all')
  await client.first(1)
  t.match(client.gaps, [{ reason: 'expired', channels: ['a'] }])
})

t.test('of a channel of values the newest one counts, though its life has left the table', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const history = { channel: () => ({ latest: true }) }
  const app = await build(t, { history, backplane: redisBackplane({ client: template(server.port) }) })
  await app.sse.publish('v', 'value')
  await app.close()
  await server.command('HSET', '{sse}', 'run', 'another')
  await anotherLife(t, server)
  await dropOldestLife(server)
  const last = await build(t, { history, backplane: redisBackplane({ client: template(server.port) }) })
  last.get('/', (request, reply) => reply.sse(last.sse.channel('v')))
  const client = await connect(await listen(last))
  t.same((await client.first(1)).map(({ data }) => data), ['value'])
  t.equal((await last.sse.channel('v').history()).length, 1)
  t.same(client.gaps, [])
})
