import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { pause, until } from '../log/backplane-contract.ts'
import { Proxy } from './redis-proxy.ts'
import { freePort, guard, noDatefudge, noRedis, RedisServer, type RedisServerOptions } from './redis-server.ts'
import { clients, Trial, type Process } from './trial.ts'

t.setTimeout(280_000)
t.jobs = 2

/** Two are behind one proxy, the third one behind the other. */
interface Told { t: Test, server: RedisServer, proxy: Proxy, other: Proxy, trial: Trial }

function run (title: string, { lossless = false, restarted, skip = noRedis, ...options }: RedisServerOptions & { lossless?: boolean, restarted?: number, skip?: string | false }, fault: (told: Told) => Promise<unknown>): void {
  t.test(title, { skip, buffered: true }, async t => {
    const server = await RedisServer.start(t, options)
    const proxy = await Proxy.start(t, server.port)
    const other = await Proxy.start(t, server.port)
    const trial = await Trial.start(t, clients.map((client, i) => client(i < 2 ? proxy.port : other.port)))
    await fault({ t, server, proxy, other, trial })
    await trial.rest()
    await trial.many(trial.processes[0]!, 50)
    await trial.rest()
    t.comment(trial.row)
    t.same(trial.judge(lossless), [])
    t.same(new Set(trial.processes.map(({ follower }) => JSON.stringify(follower.lives))).size, 1, 'all have the same table of lives')
    for (const { follower } of trial.processes) if (restarted !== undefined) t.equal(follower.count('restarted'), restarted)
    for (const { follower } of trial.processes) if (!lossless) t.ok(follower.lives.at(-1)!.broken || follower.lives.length === 1)
  })
}

const first = ({ processes }: Trial) => processes[0] as Process

/** Everybody is at rest, and knows how far the log is. */
async function quiet (trial: Trial): Promise<void> {
  await trial.rest()
  await pause(700)
}

// Nothing is lost

run('restart with all data, while all publish: nobody is told anything', { aof: true, appendfsync: 'always', lossless: true }, async ({ server, trial }) => {
  for (let i = 0; i < 3; i++) {
    trial.work()
    await pause(400)
    await server.kill()
    await pause(100)
    await server.restart()
    await trial.rest()
  }
})

run('planned failover to a replica that has everything: nobody is told anything', { lossless: true }, async ({ t, server, trial, proxy, other }) => {
  const replica = await RedisServer.start(t, { replicaOf: server.port })
  await replicated(server, replica)
  await trial.many(first(trial), 1_000)
  await quiet(trial)
  await replicated(server, replica)
  await server.kill()
  await replica.command('REPLICAOF', 'NO', 'ONE')
  proxy.retarget(replica.port)
  other.retarget(replica.port)
})

run('planned failovers to a replica whose clock is a minute ahead, and back, while all publish: nobody is told anything', { lossless: true, skip: noDatefudge }, async ({ t, server, trial, proxy, other }) => {
  let primary = server
  for (const ahead of [60, 0]) {
    const replica = await RedisServer.start(t, { replicaOf: primary.port, ahead })
    trial.work()
    await pause(1_000)
    // As FAILOVER does: no writes while the replica catches up.
    await primary.command('CLIENT', 'PAUSE', '10000', 'WRITE')
    await replicated(primary, replica)
    const [mine, its] = await Promise.all([primary, replica].map(async server => Number(/\r\n(\d+)\r\n/.exec(await server.command('TIME'))![1])))
    t.ok(Math.abs(Math.abs(its! - mine!) - 60) <= 1, `${mine} and ${its} are a minute apart`)
    await primary.kill()
    await replica.command('REPLICAOF', 'NO', 'ONE')
    proxy.retarget(replica.port)
    other.retarget(replica.port)
    // Those who come first after it, too: what the old one wrote has the time of another clock.
    await until('all are back', () => trial.processes.every(({ follower }) => follower.serving))
    await pause(1_000)
    await trial.rest()
    primary = replica
  }
  for (const { backplane } of trial.processes) {
    const { entries } = await backplane.read('a', 0)
    t.ok(entries.length > 50 && entries.every(({ age }) => age >= 0 && age < 90_000), `${entries.length} entries, ages ${entries.at(0)?.age} to ${entries.at(-1)?.age}`)
  }
})

// A suffix is lost

for (const n of [5, 9_000, 100_000]) {
  run(`a suffix of ${n} entries is lost in a restart: each is told once`, { restarted: 1 }, async ({ server, trial }) => {
    await trial.many(first(trial), 300)
    await quiet(trial)
    await server.command('SAVE')
    await trial.many(first(trial), n)
    await quiet(trial)
    await server.kill()
    await pause(50)
    await server.restart()
  })
}

run('a suffix is lost, again and again, while all publish', {}, async ({ server, trial }) => {
  for (let i = 0; i < 4; i++) {
    trial.work()
    await pause(300)
    await server.command('SAVE')
    await pause(300)
    await server.kill()
    await server.restart()
    await trial.rest()
  }
})

run('a process that was cut off knows of entries that nobody else does: all are told', {}, async ({ server, proxy, trial }) => {
  await trial.many(first(trial), 300)
  await quiet(trial)
  await server.command('SAVE')
  // The third one hears nothing of what comes.
  const third = trial.processes[2]!
  third.backplane.unwatch(['a', 'b', 'c'])
  await pause(50)
  await trial.many(first(trial), 30)
  third.backplane.watch(['a', 'b', 'c'])
  proxy.refuse(true)
  await server.kill()
  await server.restart()
  // It is the first to come, and to publish above what is left.
  await until('the third one is back', () => third.follower.serving)
  await trial.many(third, 50)
  proxy.refuse(false)
  proxy.cut()
})

run('an RDB file of before is restored, over two lives', { restarted: 1 }, async ({ server, trial }) => {
  await trial.many(first(trial), 300)
  await server.command('SAVE')
  copyFileSync(join(server.dir, 'dump.rdb'), join(server.dir, 'old.rdb'))
  await trial.many(first(trial), 300)
  await quiet(trial)
  await server.command('SAVE')
  await server.kill()
  await server.restart()
  await trial.settle()
  await trial.many(first(trial), 5_000)
  await quiet(trial)
  for (const { follower } of trial.processes) if (follower.count('restarted') > 0) throw new Error('nothing was lost so far')
  await server.kill()
  copyFileSync(join(server.dir, 'old.rdb'), join(server.dir, 'dump.rdb'))
  await server.restart()
})

run('the server comes back empty', { restarted: 1 }, async ({ server, trial }) => {
  await trial.many(first(trial), 300)
  await quiet(trial)
  await server.kill()
  await server.restart()
})

run('FLUSHALL, while all publish', {}, async ({ server, trial }) => {
  trial.work()
  await pause(300)
  await server.command('FLUSHALL')
  await pause(500)
})

run('FLUSHALL, in silence: all are told once', { restarted: 1 }, async ({ server, trial }) => {
  await trial.many(first(trial), 300)
  await quiet(trial)
  await server.command('FLUSHALL')
  await until('all noticed', () => trial.processes.every(({ follower }) => follower.count('restarted') > 0))
})

run('the hash alone vanishes', { restarted: 1 }, async ({ server, trial }) => {
  await trial.many(first(trial), 300)
  await quiet(trial)
  await server.command('DEL', '{sse}')
  await until('all noticed', () => trial.processes.every(({ follower }) => follower.count('restarted') > 0))
})

run('the hash and the sorted set vanish, and the streams stay', { restarted: 1 }, async ({ server, trial }) => {
  await trial.many(first(trial), 300)
  await quiet(trial)
  await server.command('DEL', '{sse}', '{sse}:last')
  await until('all noticed', () => trial.processes.every(({ follower }) => follower.count('restarted') > 0))
})

run('DEL, and XTRIM of one channel, while connections are cut: a loss for that channel alone, and no new life', { lossless: false }, async ({ t, server, proxy, trial }) => {
  trial.work()
  await pause(300)
  proxy.refuse(true)
  proxy.cut()
  await pause(300)
  await server.command('DEL', '{sse}:c:a')
  proxy.refuse(false)
  await trial.rest()
  for (const { follower } of trial.processes) {
    const gaps = ['a', 'b', 'c'].map(name => follower.channels.get(name)!.items.some(item => 'gap' in item))
    if (gaps[1] === true || gaps[2] === true) t.fail('another channel has a gap')
    t.equal(follower.lives.length, 1)
  }
  t.ok(trial.processes[0]!.follower.channels.get('a')!.items.some(item => 'gap' in item))
  await trial.rest()
  const gapsOf = (process: Process, name: string) => process.follower.channels.get(name)!.items.filter(item => 'gap' in item).length
  const before = gapsOf(first(trial), 'b')
  proxy.refuse(true)
  proxy.cut()
  await pause(100)
  await trial.many(trial.processes[2]!, 100)
  await server.command('XTRIM', '{sse}:c:b', 'MAXLEN', '1')
  proxy.refuse(false)
  await trial.settle()
  t.equal(gapsOf(first(trial), 'b'), before + 1)
  t.equal(gapsOf(trial.processes[2]!, 'b'), 0, 'who heard it has no gap')
})

// Failover

async function replicated (primary: RedisServer, replica: RedisServer): Promise<void> {
  const offset = async (server: RedisServer, field: string) => new RegExp(`${field}:(\\d+)`).exec(await server.command('INFO', 'replication'))?.[1]
  await until('the replica is in step', async () => {
    const info = await replica.command('INFO', 'replication')
    return info.includes('master_link_status:up') && await offset(primary, 'master_repl_offset') === await offset(replica, 'slave_repl_offset')
  })
}

run('failover to a replica that lacks the last 2,000', { restarted: 1 }, async ({ t, server, trial, proxy, other }) => {
  const replica = await RedisServer.start(t, { replicaOf: server.port })
  await trial.many(first(trial), 300)
  await replicated(server, replica)
  replica.freeze()
  await trial.many(first(trial), 2_000)
  await quiet(trial)
  await server.kill()
  replica.thaw()
  await replica.command('REPLICAOF', 'NO', 'ONE')
  proxy.retarget(replica.port)
  other.retarget(replica.port)
})

run('split: an old primary goes on to acknowledge for one process, after the others have gone over', {}, async ({ t, server, trial, proxy, other }) => {
  const replica = await RedisServer.start(t, { replicaOf: server.port })
  await trial.many(first(trial), 300)
  await replicated(server, replica)
  await replica.command('REPLICAOF', 'NO', 'ONE')
  // The new one lacks these: all who go over say so. The old one goes on, in the same life.
  await trial.many(first(trial), 20)
  await pause(200)
  proxy.retarget(replica.port)
  await until('the others were told', () => trial.processes.slice(0, 2).every(({ follower }) => follower.serving && follower.count('restarted') > 0), 12_000)
  const told = trial.processes.map(({ follower }) => follower.count('restarted'))
  trial.work()
  await pause(1_000)
  await trial.rest(3_000).catch(() => {})
  // The old one becomes a replica of the new one, as Sentinel would have it: nobody asks it to close its connections.
  await server.command('REPLICAOF', '127.0.0.1', String(replica.port))
  await until('it was noticed', () => !trial.processes[2]!.follower.serving, 12_000)
  other.retarget(replica.port)
  await until('all were told, again', () => trial.processes.every(({ follower }, i) => follower.count('restarted') > told[i]!), 12_000)
})

run('demoted and promoted again with all connections alive: what was lost meanwhile is told', {}, async ({ t, server, trial }) => {
  const replica = await RedisServer.start(t, { replicaOf: server.port })
  await trial.many(first(trial), 300)
  await replicated(server, replica)
  await replica.command('REPLICAOF', 'NO', 'ONE')
  await trial.many(first(trial), 500)
  await quiet(trial)
  await server.command('REPLICAOF', '127.0.0.1', String(replica.port))
  await until('it is a replica', async () => (await server.command('INFO', 'replication')).includes('master_link_status:up'), 15_000)
  await server.command('REPLICAOF', 'NO', 'ONE')
  await until('all were told', () => trial.processes.every(({ follower }) => follower.count('restarted') > 0), 15_000)
})

t.test('three Sentinels fail over while all publish, one client behind a proxy', { skip: noRedis, buffered: true }, async t => {
  const primary = await RedisServer.start(t)
  const replicas = await Promise.all([RedisServer.start(t, { replicaOf: primary.port }), RedisServer.start(t, { replicaOf: primary.port })])
  for (const replica of replicas) await replicated(primary, replica)
  const dir = mkdtempSync(join(tmpdir(), 'sse-sentinel-'))
  const sentinels: Array<{ host: string, port: number }> = []
  const children: Array<{ kill: () => Promise<void> }> = []
  t.teardown(async () => {
    for (const { kill } of children) await kill()
    rmSync(dir, { recursive: true, force: true })
  })
  for (let i = 0; i < 3; i++) {
    const port = await freePort()
    const file = join(dir, `${i}.conf`)
    writeFileSync(file, `port ${port}\nbind 127.0.0.1\ndir ${dir}\nsentinel monitor mymaster 127.0.0.1 ${primary.port} 2\nsentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 5000\n`)
    const child = spawn('redis-sentinel', [file], { stdio: 'ignore' })
    await once(child, 'spawn')
    const watch = guard(child)
    children.push({
      kill: async () => {
        watch.kill('SIGKILL')
        const exit = once(child, 'exit')
        child.kill('SIGKILL')
        await exit
      }
    })
    sentinels.push({ host: '127.0.0.1', port })
  }
  const ask = async (port: number) => {
    const client = new Redis({ port, host: '127.0.0.1', lazyConnect: true, retryStrategy: null })
    try {
      await client.connect()
      return await client.call('SENTINEL', ['MASTER', 'mymaster']) as string[]
    } catch {
      return []
    } finally {
      client.disconnect()
    }
  }
  await until('the sentinels know each other', async () => {
    const all = await Promise.all(sentinels.map(({ port }) => ask(port)))
    return all.every(info => info[info.indexOf('num-other-sentinels') + 1] === '2' && info[info.indexOf('num-slaves') + 1] === '2')
  }, 30_000)
  const proxy = await Proxy.start(t, sentinels[0]!.port)
  const trial = await Trial.start(t, [
    new Redis({ sentinels, name: 'mymaster', lazyConnect: true }),
    new Redis({ sentinels: [{ host: '127.0.0.1', port: proxy.port }, ...sentinels.slice(1)], name: 'mymaster', lazyConnect: true }),
    new Redis({ sentinels, name: 'mymaster', lazyConnect: true })
  ])
  trial.work()
  await pause(500)
  await primary.kill()
  await until('all are back', () => trial.processes.every(({ follower }) => follower.serving && follower.lives.length > 1), 40_000)
  await pause(500)
  await trial.rest()
  t.comment(trial.row)
  t.same(trial.complaints, [])
  t.equal(new Set(trial.processes.map(({ follower }) => follower.life)).size, 1)
})
