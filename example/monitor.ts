// A page that watches the streams of its own server: charts that are fed by SSE. LOAD adds clients to look at, and events for them.
//
//   LOAD=50 node --import tsx example/monitor.ts     # then open http://localhost:8000
import Fastify from 'fastify'
import fastifyStatic from '@fastify/static'
import sse, { type SseStats } from 'fastify-sse-channels'
import { serveShared } from './shared.ts'

const { PORT = '8000', HOST = 'localhost', SAMPLE_MS = '1000', LOAD = '0' } = process.env
const KEPT = 300 // samples that a new page starts with

// Browsers hold spare connections on which they have asked nothing yet: Node does not count them as idle, and close() would wait for them.
const app = Fastify({ logger: { level: 'warn' }, forceCloseConnections: true })
await app.register(sse, {
  history: { maxBytes: 2 * 1024 * 1024 }, // small, so that there are gaps to look at
  drain: { timeout: 500 } // Ctrl-C does not wait longer than this for a page that has stopped reading
})
await app.register(fastifyStatic, { root: new URL('monitor/public', import.meta.url) })
await app.register(fastifyStatic, { root: new URL('.', import.meta.resolve('uplot')), prefix: '/uplot/', index: false, decorateReply: false })
await serveShared(app)

/** Rates are a second's; gaps are those since the sample before. */
interface Sample { at: number, streams: number, channels: number, received: number, delivered: number, bytes: number, blocked: number, gaps: number }

const samples: Sample[] = []
const probes = app.sse.channel<{ probe: string }>('probes')

let last: { at: number, stats: SseStats } = { at: performance.now(), stats: app.sse.stats() }

function take (): void {
  const at = performance.now()
  const stats = app.sse.stats()
  const rate = (name: 'received' | 'delivered' | 'bytesWritten') => (stats[name] - last.stats[name]) / (at - last.at) * 1_000
  const sample = {
    at: Date.now() / 1_000,
    streams: stats.streams,
    channels: stats.channels,
    received: rate('received'),
    delivered: rate('delivered'),
    bytes: rate('bytesWritten'),
    blocked: stats.blocked,
    gaps: stats.gaps - last.stats.gaps
  }
  last = { at, stats }
  samples.push(sample)
  if (samples.length > KEPT) samples.shift()
  // Sent, not published: it would fill the history that it reports on, and a page that comes later gets all samples at once.
  for (const stream of app.sse.streams) if (stream.channels.has(probes.name)) stream.send({ event: 'sample', data: sample })
}

app.get('/monitor', (request, reply) => {
  const stream = reply.sse({ lastEventId: null }) // old probes are of no use
  stream.send({ event: 'samples', data: samples })
  stream.subscribe(probes)
  return reply
})

// A page measures the latency by its own clock: from here through the log and its channel, back to the page.
app.post<{ Body: string }>('/monitor/probe', { bodyLimit: 100 }, async (request, reply) => {
  await probes.publish({ event: 'probe', data: request.body })
  return reply.code(204).send()
})

const sampler = setInterval(take, Number(SAMPLE_MS))
app.addHook('preClose', async () => clearInterval(sampler))
const load = Number(LOAD) > 0 ? (await import('./monitor/load.ts')).addLoad(app, Number(LOAD)) : undefined
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

const url = await app.listen({ port: Number(PORT), host: HOST })
load?.start(url)
console.log(`Listening at ${url}`)
