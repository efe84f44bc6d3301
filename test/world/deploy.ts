// One application of test/deploy.test.ts, in a process of its own. It ends like a deployed one: by SIGTERM, and app.close().
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import sse from '../../lib/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'
import { channelsOf } from '../faults/model.ts'

/** What the test says in argv. */
export interface DeployOptions {
  port: number
  redis: number
  /** The number of its first event. */
  first: number
  /** Events a second. */
  rate: number
  retry: [number, number]
}

/** What it tells, several times a second: what it published, and that it listens. */
export interface Told { acknowledged: Array<[n: number, cursor: string, sent: number]>, rejected: string[], listening: boolean }

const { port, redis, first, rate, retry } = JSON.parse(process.argv[2]!) as DeployOptions
const news: Told = { acknowledged: [], rejected: [], listening: false }

const app = Fastify()
await app.register(sse, {
  backplane: redisBackplane({ client: new Redis({ port: redis, host: '127.0.0.1', lazyConnect: true }) }),
  heartbeatInterval: 1_000,
  drain: { retry }
})
app.get<{ Querystring: { channels: string } }>('/events', (request, reply) =>
  reply.sse(request.query.channels.split(',').map(name => app.sse.channel(name))))
await app.listen({ port, host: '127.0.0.1' })
news.listening = true

let n = first
const pending = new Set<Promise<unknown>>()
const publisher = setInterval(() => {
  const number = n++
  const sent = Date.now()
  const published = app.sse.publish(channelsOf(number).map(String), { data: { n: number } })
    .then(cursor => { news.acknowledged.push([number, cursor, sent]) }, error => { news.rejected.push(String(error)) })
  pending.add(published)
  published.then(() => pending.delete(published))
}, 1_000 / rate)

const report = (): void => {
  if (!process.connected) return
  process.send!({ ...news })
  news.acknowledged = []
  news.rejected = []
}
const reporter = setInterval(report, 50)

// Nothing here calls process.exit(): whatever keeps the process alive after app.close() makes the test fail.
process.once('SIGTERM', async () => {
  // It publishes while its clients are on their way to the other process, until the last of them has gone.
  await app.close()
  clearInterval(publisher)
  clearInterval(reporter)
  await Promise.all(pending)
  report()
  process.disconnect()
})
// The test is gone.
process.once('disconnect', () => { if (!news.listening) process.exit(1) })
