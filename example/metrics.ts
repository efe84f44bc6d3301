// Prometheus metrics by prom-client: what app.sse.stats() counts, and what its events add to that. Beside this file, in metrics/: a
// dashboard for Grafana (import dashboard.json), and rules for Prometheus (name alerts.yml in its rule_files).
//
//   node --import tsx example/metrics.ts
//   curl -N http://localhost:8000/events     # a stream to be counted; leave it open
//   curl http://localhost:8000/metrics
import Fastify from 'fastify'
import sse, { type SseStats } from 'fastify-sse-channels'
import { Counter, Gauge, Histogram, Registry } from 'prom-client'

const { PORT = '8000', HOST = 'localhost', TICK_MS = '1000' } = process.env

const app = Fastify({ logger: { level: 'warn' } })
await app.register(sse)

const register = new Registry()
const registers = [register]

// Numbers of this moment, read when Prometheus asks.
const gauges: Array<[name: string, help: string, value: (stats: SseStats) => number]> = [
  ['sse_streams', 'Open streams', stats => stats.streams],
  ['sse_channels', 'Channels with a subscription', stats => stats.channels],
  ['sse_subscriptions', 'Pairs of a stream and a channel', stats => stats.subscriptions],
  ['sse_streams_blocked', 'Streams whose client does not read fast enough', stats => stats.blocked],
  ['sse_history_events', 'Events kept for replay', stats => stats.history.events],
  ['sse_history_bytes', 'Bytes of the events kept for replay', stats => stats.history.bytes],
  ['sse_backplane_up', '1, or 0 while nothing can be published', stats => Number(stats.backplane === 'up')]
]
for (const [name, help, value] of gauges) {
  new Gauge({ name, help, registers, collect () { this.set(value(app.sse.stats())) } }) // eslint-disable-line no-new
}

// The plugin counts from its start, as Prometheus does, so the sums are taken over as they are.
const counters: Array<[name: string, help: string, value: (stats: SseStats) => number]> = [
  ['sse_published_total', 'Events published by this process', stats => stats.published],
  ['sse_received_total', 'Events taken from the backplane', stats => stats.received],
  ['sse_delivered_total', 'Channel events written, streams added up', stats => stats.delivered],
  ['sse_written_bytes_total', 'Bytes of response bodies', stats => stats.bytesWritten],
  ['sse_opened_total', 'Streams opened', stats => stats.opened]
]
for (const [name, help, value] of counters) {
  new Counter({ name, help, registers, collect () { this.reset(); this.inc(value(app.sse.stats())) } }) // eslint-disable-line no-new
}

// The events know more than the sums: why a stream closed and how long it was open, and why a client has a gap.
const durations = new Histogram({
  name: 'sse_stream_duration_seconds', help: 'How long streams were open, by why they closed', labelNames: ['reason'], registers, buckets: [1, 10, 60, 600, 3_600, 86_400]
})
for (const reason in app.sse.stats().closed) durations.zero({ reason }) // or the first of a kind would not be seen to rise
app.sse.on('close', ({ reason, durationMs }) => durations.observe({ reason }, durationMs / 1_000))
const gaps = new Counter({ name: 'sse_gaps_total', help: 'Clients that were told of lost events, by reason', labelNames: ['reason'], registers })
for (const reason of ['expired', 'unknown', 'overrun', 'reset']) gaps.inc({ reason }, 0)
app.sse.on('gap', ({ reason }) => gaps.inc({ reason }))

app.get('/metrics', async (request, reply) => reply.type(register.contentType).send(await register.metrics()))

const time = app.sse.channel<{ message: string }>('time')
app.get('/events', (request, reply) => reply.sse(time))

const ticker = setInterval(() => time.publish(new Date().toISOString()), Number(TICK_MS))
app.addHook('preClose', async () => clearInterval(ticker))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

console.log(`Listening at ${await app.listen({ port: Number(PORT), host: HOST })}`)
