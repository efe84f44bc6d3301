import type { RedisServerOptions } from '../redis-server.ts'
import { breakAt } from './model.ts'
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

const KEY = 'sse'

export const faults: readonly Fault[] = [
  {
    name: 'nothing',
    title: 'nothing',
    lossless: true,
    async run () {}
  },
  {
    name: 'id-again',
    title: 'an entry id is handed out again with another nonce',
    lossless: false,
    async run (world) {
      while (await world.next(300, 900)) {
        const n = world.ownNumber()
        const entry = (id: string) => ['XADD', KEY, id, 'n', `again${n}`, 'c', JSON.stringify([String(n % 20), '7']), 's', JSON.stringify({ n })]
        const whole = world.dice.next() < 0.5
        // Publishers are quick: the transaction is tried again where they were quicker.
        let done = false
        await world.behindABack(async () => {
          for (let i = 0; i < 20 && !done; i++) {
            done = await world.breakLog(async rows => {
              const [last, before] = await rows(2)
              if (last === undefined || before === undefined) return undefined
              return whole ? [['DEL', KEY], entry(last.id)] : [['XDEL', KEY, last.id], ['XSETID', KEY, before.id], entry(last.id)]
            })
          }
        })
      }
    }
  },
  {
    name: 'kill-tails',
    title: 'CLIENT KILL of the tails every 200 ms',
    lossless: true,
    async run (world) {
      while (await world.next(200, 200)) {
        for (const [, id] of (await world.server.command('CLIENT', 'LIST')).matchAll(/(?:^|\n)id=(\d+) .*cmd=xread /g)) await world.server.command('CLIENT', 'KILL', 'ID', id!)
      }
    }
  },
  {
    name: 'kill-redis',
    title: 'kill -9 of Redis, and a restart with its append-only file',
    lossless: true,
    server: { aof: true, appendfsync: 'always' },
    async run (world) {
      while (await world.next(800, 2_500)) {
        await world.server.kill()
        await world.wait(0, 1_000)
        await world.server.restart()
      }
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
  {
    name: 'stop-process',
    title: 'SIGSTOP of one process for 5 s',
    lossless: true,
    async run (world) {
      while (await world.next(500, 2_000)) {
        const app = world.dice.pick(world.apps)
        app.freeze()
        await world.wait(5_000)
        app.thaw()
      }
    }
  },
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
      while (await world.next(800, 2_500)) {
        await world.behindABack(async () => {
          world.lossFrom ??= Date.now()
          const before = Date.now()
          await world.server.kill()
          world.breaks.push({ ...breakAt(Date.now(), []), time: before })
        })
        await world.wait(20, 1_000)
        await world.server.restart()
      }
    }
  },
  ...['DEL', 'FLUSHALL'].map((command): Fault => ({
    name: command.toLowerCase(),
    title: `${command} under traffic`,
    lossless: false,
    async run (world) {
      while (await world.next(100, 1_200)) {
        await world.behindABack(async () => {
          for (let i = 0; i < 20 && !await world.breakLog(async () => [command === 'DEL' ? ['DEL', KEY] : ['FLUSHALL']]); i++);
        })
      }
    }
  })),
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
        else world.proxies[index]!.stall('readers')
        await world.wait(300, 1_200)
        await world.rows()
        world.lossFrom ??= Date.now()
        await world.server.command('XTRIM', KEY, 'MAXLEN', String(world.dice.below(20)))
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
        proxy.cut(world.dice.pick(['all', 'readers', 'writers']))
        await world.wait(0, 300)
        proxy.refuse(false)
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
        proxy.stall(world.dice.pick(['all', 'readers', 'writers']))
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
        world.dice.pick(world.proxies).swallow(world.dice.pick(['all', 'readers', 'writers']), world.dice.pick(['answers', 'requests']))
        await world.wait(1_000, 7_000)
      }
    }
  },
  {
    name: 'lost-answer',
    title: 'an XADD is applied, but its answer is lost',
    lossless: true,
    proxies: true,
    async run (world) {
      while (await world.next(200, 600)) {
        const proxy = world.dice.pick(world.proxies)
        proxy.swallow('writers', 'answers')
        await world.wait(20, 200)
        proxy.cut('writers')
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
        const old = world.server
        const length = await old.command('XLEN', KEY)
        for (let i = 0; i < 100 && Number((await replica.command('XLEN', KEY)).slice(1)) < Number(length.slice(1)); i++) await world.wait(20)
        await replica.command('REPLICAOF', 'NO', 'ONE')
        // One process reads none of what is going to be lost, or all do.
        world.dice.pick(world.proxies).stall(world.dice.pick(['readers', 'all']))
        await world.wait(20, 600)
        world.lossFrom ??= Date.now()
        const before = Date.now()
        await old.kill()
        const survivors = await world.rows(replica)
        world.breaks.push({ ...breakAt(Date.now(), survivors.map(({ cursor }) => cursor)), time: before })
        await world.wait(5)
        world.server = replica
        for (const proxy of world.proxies) proxy.retarget(replica.port)
        // Each takes over from the one before, and the next one must have all of it.
        replica = await world.startServer({ replicaOf: replica.port })
      }
    }
  }
]
