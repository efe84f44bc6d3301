// One of two servers of test/client/pages.test.ts, in a process of its own, to be killed.
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import sse from '../../lib/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'

const [port, redis] = process.argv.slice(2).map(Number) as [number, number]
const app = Fastify()
await app.register(sse, { retry: 100, backplane: redisBackplane({ client: new Redis({ port: redis, host: '127.0.0.1', lazyConnect: true }) }) })
app.get('/events', (request, reply) => reply.header('x-port', port).sse(app.sse.channel('time')))
await app.listen({ port, host: '127.0.0.1' })
process.send!('listening')
// The test is gone.
process.once('disconnect', () => process.exit(1))
