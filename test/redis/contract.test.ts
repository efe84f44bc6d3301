import { Redis } from 'ioredis'
import { Redis as Valkey } from 'iovalkey'
import { createClient } from 'redis'
import t from 'tap'
import { redisBackplane, type RedisClient } from '../../lib/redis/index.ts'
import { contract } from '../log/backplane-contract.ts'
import { noRedis, RedisServer } from './redis-server.ts'

const drivers: Record<string, (port: number) => RedisClient> = {
  'ioredis, RESP2': port => new Redis({ port, host: '127.0.0.1', lazyConnect: true, protocol: 2 }),
  'ioredis, RESP3': port => new Redis({ port, host: '127.0.0.1', lazyConnect: true }),
  'ioredis, RESP3 with its own mapping': port => new Redis({ port, host: '127.0.0.1', lazyConnect: true, replyMapping: 'resp3' }),
  'node-redis, RESP2': port => createClient({ url: `redis://127.0.0.1:${port}`, RESP: 2 }),
  'node-redis, RESP3': port => createClient({ socket: { port, host: '127.0.0.1' }, RESP: 3 }),
  iovalkey: port => new Valkey({ port, host: '127.0.0.1', lazyConnect: true })
}

t.setTimeout(180_000)
const only = process.env.DRIVER
t.test('with Redis', { skip: noRedis }, async t => {
  for (const [name, client] of Object.entries(drivers)) {
    if (only !== undefined && only !== name) continue
    await contract(t, name, async t => {
      const server = await RedisServer.start(t)
      // Each of its own client, as in several processes.
      return { backplane: () => redisBackplane({ client: client(server.port) }, { silence: 200 }) }
    }, { shared: true })
  }
})
