/** The library under test in workers of node:cluster, all on one port. Options: `workers`, how many, and those of fastify-sse-channels.js. */
import cluster from 'node:cluster'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

if (cluster.isWorker) {
  const one = await import('./fastify-sse-channels.js')
  const { port, publish } = await one.start(JSON.parse(process.argv[2]))
  process.on('message', ({ channel, data }) => publish(channel, data))
  process.send({ port })
}

export async function start ({ workers, ...options }) {
  cluster.setupPrimary({ exec: fileURLToPath(import.meta.url), args: [JSON.stringify(options)] })
  const all = Array.from({ length: workers }, () => cluster.fork())
  const [[{ port }]] = await Promise.all(all.map(worker => once(worker, 'message')))
  return {
    port,
    pids: all.map(worker => worker.process.pid),
    // in one of them, as a request would
    publish: (channel, data) => all[0].send({ channel, data })
  }
}
