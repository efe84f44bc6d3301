// One application of the fault tests, in a process of its own. Told what to do over IPC, see fleet.ts.
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import sse from '../../lib/index.ts'
import { redisBackplane, type RedisClient } from '../../lib/redis/index.ts'
import type { Answer, Order, Told } from './fleet.ts'
import { channelsOf } from './model.ts'

let app: FastifyInstance | undefined
let timer: NodeJS.Timeout | undefined
const pending = new Set<Promise<unknown>>()
let acknowledged: Told['acknowledged'] = []
let rejected = 0

const tell = (message: Told | Answer) => { if (process.connected) process.send!(message) }

const reporter = setInterval(report, 50)
function report (): void {
  if (acknowledged.length === 0 && rejected === 0) return
  tell({ acknowledged, rejected })
  acknowledged = []
  rejected = 0
}

function client (driver: string, port: number): RedisClient {
  return driver === 'ioredis' ? new Redis({ port, host: '127.0.0.1', lazyConnect: true }) : createClient({ url: `redis://127.0.0.1:${port}` })
}

async function open ({ redis, driver, maxEvents }: Extract<Order, { do: 'open' }>): Promise<number> {
  app = Fastify({ forceCloseConnections: true })
  await app.register(sse, {
    backplane: redisBackplane({ client: client(driver, redis) }),
    history: { maxEvents },
    heartbeatInterval: 1_000,
    drain: { retry: [0, 0], timeout: 500 }
  })
  app.get<{ Querystring: { channels: string } }>('/events', (request, reply) =>
    reply.sse(request.query.channels.split(',').map(name => app!.sse.channel(name))))
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as AddressInfo).port
}

function publish (n: number): Promise<boolean> {
  const sent = Date.now()
  const published = app!.sse.publish(channelsOf(n).map(String), { data: { n, text: 'x'.repeat(50) } }).then(cursor => {
    acknowledged.push([n, cursor, sent])
    return true
  }, () => {
    rejected++
    return false
  })
  pending.add(published)
  published.then(() => pending.delete(published))
  return published
}

function start ({ first, perSecond }: Extract<Order, { do: 'publish' }>): void {
  let n = first
  let last = performance.now()
  let due = 0
  timer = setInterval(() => {
    const now = performance.now()
    // Who was stopped for a while does not make up for it at once.
    due = Math.min(due + (now - last) * perSecond / 1_000, perSecond / 5)
    last = now
    for (; due >= 1; due--) publish(n++)
  }, 10)
}

const orders: { [Name in Order['do']]: (order: Extract<Order, { do: Name }>) => unknown } = {
  open,
  publish: start,
  async pause () {
    clearInterval(timer)
    await Promise.all(pending)
    report()
  },
  async publishOne ({ n }) {
    const done = await publish(n)
    report()
    return done
  },
  stats: () => app!.sse.stats(),
  async close () {
    clearInterval(timer)
    await app?.close()
    app = undefined
  }
}

process.on('message', async (order: Order & { id: number }) => {
  try {
    tell({ id: order.id, value: await orders[order.do](order as never) })
  } catch (error) {
    tell({ id: order.id, error: String(error) })
  }
})
process.on('disconnect', () => { clearInterval(reporter); process.exit() })
tell({ id: 0, value: undefined })
