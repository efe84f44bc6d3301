// One application on all cores of a machine: node:cluster starts a worker for each, and Redis joins them. Which worker a client gets does not matter.
//
//   node --import tsx example/cluster.ts        # REDIS_URL, by default redis://localhost:6379
//   curl -N http://localhost:8000/events        # leave it open, as often as you like
//   curl http://localhost:8000/news -H 'content-type: application/json' -d '{"title":"Hello"}'
import cluster from 'node:cluster'
import { availableParallelism } from 'node:os'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import sse from 'fastify-sse-channels'
import { redisBackplane } from 'fastify-sse-channels/redis'

const { PORT = '8000', HOST = 'localhost', REDIS_URL = 'redis://localhost:6379', WORKERS = String(availableParallelism()) } = process.env
const SIGNALS = ['SIGINT', 'SIGTERM'] as const

if (cluster.isPrimary) {
  let closing = false
  cluster.once('listening', (worker, { port }) => console.log(`Listening at http://${HOST}:${port}`))
  cluster.on('exit', worker => {
    if (closing) return
    console.log(`Worker ${worker.id} ended: another one takes its place`)
    cluster.fork()
  })
  for (let i = 0; i < Number(WORKERS); i++) cluster.fork()
  for (const signal of SIGNALS) {
    process.on(signal, () => {
      closing = true
      for (const worker of Object.values(cluster.workers ?? {})) worker?.process.kill(signal)
    })
  }
} else {
  const app = Fastify({ logger: { level: 'warn' } })
  await app.register(sse, { backplane: redisBackplane({ client: new Redis(REDIS_URL, { lazyConnect: true }) }) })
  const news = app.sse.channel('news')
  app.get('/events', (request, reply) => reply.header('x-worker', cluster.worker!.id).sse(news))
  app.post('/news', async request => ({ id: await news.publish({ event: 'item', data: request.body }) }))
  await app.listen({ port: Number(PORT), host: HOST })
  for (const signal of SIGNALS) {
    // The channel to the primary keeps a worker alive.
    process.on(signal, () => app.close().then(() => cluster.worker!.disconnect()))
  }
}
