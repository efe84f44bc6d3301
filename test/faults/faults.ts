import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RedisServer, RedisServerOptions } from '../redis/redis-server.ts'
import { CHANNELS } from './model.ts'
import type { World } from './trial.ts'

export interface Fault {
  readonly name: string
  readonly title: string
  /** Nothing is lost, so nobody may be told of a gap. */
  readonly lossless: boolean
  readonly server?: RedisServerOptions
  /** A proxy stands between each process and Redis. */
  readonly proxies?: boolean
  /** Brings it about until there is no time left, and leaves everything in order. */
  run (world: World): Promise<void>
}

const KINDS = ['all', 'subscribers', 'commands'] as const

/** Redis ends, and is back after a while: with what is in its directory. */
async function restart (world: World, meanwhile: () => void = () => {}): Promise<void> {
  await world.behindABack(() => world.server.kill())
  meanwhile()
  await world.wait(20, 1_000)
  await world.server.restart()
}

async function inStep (primary: RedisServer, replica: RedisServer): Promise<void> {
  for (let i = 0; i < 200; i++) {
    const [mine, other] = await Promise.all([primary.command('INFO', 'replication'), replica.command('INFO', 'replication')])
    if (other.includes('master_link_status:up') && /master_repl_offset:(\d+)/.exec(mine)![1] === /slave_repl_offset:(\d+)/.exec(other)?.[1]) return
    await new Promise(resolve => setTimeout(resolve, 10))
  }
}

/** The primary fails, and a replica takes its place, and has one of its own. */
async function takeOver (world: World, replica: RedisServer): Promise<RedisServer> {
  world.server = replica
  for (const proxy of world.proxies) proxy.retarget(replica.port)
  return await world.startServer({ replicaOf: replica.port })
}

export const faults: readonly Fault[] = [
  {
    name: 'nothing',
    title: 'nothing',
    lossless: true,
    async run () {}
  },
  ...(['pubsub', 'normal'] as const).map((type): Fault => ({
    name: `kill-${type}`,
    title: `CLIENT KILL TYPE ${type} every 300 ms`,
    lossless: true,
    async run (world) {
      while (await world.next(300, 300)) await world.server.command('CLIENT', 'KILL', 'TYPE', type)
    }
  })),
  {
    name: 'script-flush',
    title: 'SCRIPT FLUSH',
    lossless: true,
    async run (world) {
      while (await world.next(200, 800)) await world.server.command('SCRIPT', 'FLUSH')
    }
  },
  {
    name: 'buffer-limit',
    title: 'subscribers killed for their output buffers',
    lossless: true,
    proxies: true,
    server: { args: ['--client-output-buffer-limit', 'pubsub 20000 20000 1'] },
    async run (world) {
      while (await world.next(200, 800)) {
        const proxy = world.dice.pick(world.proxies)
        proxy.stall('subscribers')
        await world.wait(500, 3_000)
        proxy.resume()
      }
    }
  },
  {
    name: 'kill-redis',
    title: 'kill -9 of Redis, and a restart with its append-only file',
    lossless: true,
    server: { aof: true, appendfsync: 'always' },
    async run (world) {
      while (await world.next(800, 2_500)) await restart(world)
    }
  },
  {
    name: 'stop-redis',
    title: 'SIGSTOP of Redis for 5 s',
    lossless: true,
    async run (world) {
      while (await world.next(500, 3_000)) {
        world.server.freeze()
        await world.wait(5_000)
        world.server.thaw()
      }
    }
  },
  ...[5, 60].map((seconds): Fault => ({
    name: `stop-process-${seconds}`,
    title: `SIGSTOP of one process for ${seconds} s`,
    lossless: true,
    async run (world) {
      while (await world.next(500, 2_000)) {
        const app = world.dice.pick(world.apps)
        app.freeze()
        await world.wait(seconds * 1_000)
        app.thaw()
      }
    }
  })),
  {
    name: 'kill-process',
    title: 'kill -9 of one process',
    lossless: true,
    async run (world) {
      while (await world.next(500, 2_000)) {
        const app = world.dice.pick(world.apps)
        await app.kill()
        await world.wait(0, 1_000)
        await app.restart()
        await world.openApp(app)
        await world.publishFrom(app)
      }
    }
  },
  {
    name: 'restart-empty',
    title: 'Redis restarts empty',
    lossless: false,
    async run (world) {
      while (await world.next(800, 2_500)) await restart(world)
    }
  },
  {
    name: 'suffix',
    title: 'Redis restarts without the newest entries',
    lossless: false,
    async run (world) {
      while (await world.next(400, 1_500)) {
        await world.server.command('SAVE')
        await world.wait(20, 1_000)
        await restart(world)
      }
    }
  },
  {
    name: 'restore',
    title: 'an RDB file of a while ago is restored, over several lives',
    lossless: false,
    async run (world) {
      await world.wait(300)
      await world.server.command('SAVE')
      const dump = join(world.server.dir, 'dump.rdb')
      const old = join(world.server.dir, 'old.rdb')
      copyFileSync(dump, old)
      while (await world.next(400, 1_500)) {
        await world.server.command('SAVE')
        await restart(world)
        await world.wait(300, 1_000)
        await restart(world, () => copyFileSync(old, dump))
      }
    }
  },
  {
    name: 'flushall',
    title: 'FLUSHALL under traffic',
    lossless: false,
    async run (world) {
      while (await world.next(200, 1_500)) await world.behindABack(() => world.server.command('FLUSHALL'))
    }
  },
  {
    name: 'del',
    title: 'DEL of one channel under traffic',
    lossless: false,
    async run (world) {
      while (await world.next(100, 700)) await world.behindABack(() => world.server.command('DEL', `{sse}:c:${world.dice.below(CHANNELS)}`))
    }
  },
  {
    name: 'trim',
    title: 'XTRIM past slow readers',
    lossless: false,
    proxies: true,
    async run (world) {
      while (await world.next(300, 1_000)) {
        // Once the answers wait, once the whole process does.
        const index = world.dice.below(world.apps.length)
        const whole = world.dice.next() < 0.5
        if (whole) world.apps[index]!.freeze()
        else world.proxies[index]!.stall('all')
        await world.wait(300, 1_200)
        for (let i = 0; i < 5; i++) await world.server.command('XTRIM', `{sse}:c:${world.dice.below(CHANNELS)}`, 'MAXLEN', String(world.dice.below(20)))
        if (whole) world.apps[index]!.thaw()
        else world.proxies[index]!.resume()
      }
    }
  },
  {
    name: 'proxy-cut',
    title: 'a proxy between a process and Redis cuts',
    lossless: true,
    proxies: true,
    async run (world) {
      while (await world.next(50, 700)) {
        const proxy = world.dice.pick(world.proxies)
        proxy.refuse(world.dice.next() < 0.3)
        proxy.cut(world.dice.pick(KINDS))
        await world.wait(0, 300)
        proxy.refuse(false)
      }
    }
  },
  {
    name: 'proxy-delay',
    title: 'a proxy between a process and Redis delays one of the two connections',
    lossless: true,
    proxies: true,
    async run (world) {
      while (await world.next(50, 700)) {
        const proxy = world.dice.pick(world.proxies)
        proxy.delay(world.dice.pick(KINDS), world.dice.between(5, 400))
        await world.wait(100, 1_000)
        proxy.cut(world.dice.pick(KINDS))
      }
    }
  },
  {
    name: 'proxy-stall',
    title: 'a proxy between a process and Redis stalls',
    lossless: true,
    proxies: true,
    async run (world) {
      while (await world.next(200, 800)) {
        const proxy = world.dice.pick(world.proxies)
        proxy.stall(world.dice.pick(KINDS))
        // Most of the time shorter than the patience of a backplane, at times longer.
        await world.wait(100, world.dice.next() < 0.8 ? 2_000 : 8_000)
        proxy.resume()
      }
    }
  },
  {
    name: 'proxy-swallow',
    title: 'a proxy between a process and Redis swallows one direction',
    lossless: true,
    proxies: true,
    async run (world) {
      while (await world.next(300, 1_500)) {
        // What was swallowed is missing in the connection for ever: it must be given up by who waits for it.
        const proxy = world.dice.pick(world.proxies)
        const kind = world.dice.pick(KINDS)
        proxy.swallow(kind, world.dice.pick(['answers', 'requests']))
        await world.wait(1_000, 7_000)
        // Hints that are swallowed while others come through are dropped in silence, which is not to be proved: a network cuts, then.
        proxy.cut(kind)
      }
    }
  },
  {
    name: 'lost-answer',
    title: 'a publish is applied, but its answer is lost',
    lossless: true,
    proxies: true,
    async run (world) {
      while (await world.next(200, 600)) {
        const proxy = world.dice.pick(world.proxies)
        proxy.swallow('commands', 'answers')
        await world.wait(20, 200)
        proxy.cut('commands')
      }
    }
  },
  {
    name: 'other-server',
    title: 'one of the two connections leads to another server',
    lossless: true,
    proxies: true,
    async run (world) {
      const other = await world.startServer()
      while (await world.next(200, 1_000)) {
        const proxy = world.dice.pick(world.proxies)
        const { port } = world.server
        proxy.target = n => n % 2 === 0 ? port : other.port
        proxy.cut(world.dice.pick(KINDS))
        await world.wait(50, 600)
        proxy.retarget(port)
      }
    }
  },
  {
    name: 'planned',
    title: 'a replica takes over with everything',
    lossless: true,
    proxies: true,
    async run (world) {
      let replica = await world.startServer({ replicaOf: world.server.port })
      while (await world.next(800, 2_000)) {
        // As FAILOVER does: no writes while the replica catches up.
        await world.server.command('CLIENT', 'PAUSE', '10000', 'WRITE')
        await inStep(world.server, replica)
        await world.server.kill()
        await replica.command('REPLICAOF', 'NO', 'ONE')
        replica = await takeOver(world, replica)
      }
    }
  },
  {
    name: 'promote',
    title: 'a replica takes over without the newest entries',
    lossless: false,
    proxies: true,
    async run (world) {
      let replica = await world.startServer({ replicaOf: world.server.port })
      while (await world.next(800, 2_000)) {
        await inStep(world.server, replica)
        await replica.command('REPLICAOF', 'NO', 'ONE')
        // One process reads none of what is going to be lost, or all do.
        world.dice.pick(world.proxies).stall(world.dice.pick(['subscribers', 'all']))
        await world.wait(20, 600)
        await world.server.kill()
        replica = await takeOver(world, replica)
      }
    }
  },
  {
    name: 'split',
    title: 'an old primary goes on to acknowledge for some, and becomes a replica of the new one',
    lossless: false,
    proxies: true,
    async run (world) {
      let replica = await world.startServer({ replicaOf: world.server.port })
      while (await world.next(800, 2_000)) {
        await inStep(world.server, replica)
        await replica.command('REPLICAOF', 'NO', 'ONE')
        const old = world.server
        const [first, ...rest] = world.proxies
        first!.retarget(replica.port)
        await world.wait(20, 1_500)
        await old.command('REPLICAOF', '127.0.0.1', String(replica.port))
        await world.wait(20, 200)
        world.server = replica
        for (const proxy of rest) proxy.retarget(replica.port)
        // The old one is the next to take over.
        replica = old
      }
    }
  }
]
