// A page of values: 500 symbols, 2,000 trades a second. A page shows the twenty that were chosen: the newest price of each at once, then
// every change; one that reads slowly gets the newest, and not all that it missed.
//
//   node --import tsx example/ticker.ts     # then open http://localhost:8000
//
// Several processes: give each its own PORT and the same REDIS_URL, and all but one TRADES=0.
import fastifyStatic from '@fastify/static'
import Fastify from 'fastify'
import sse from 'fastify-sse-channels'
import { backplane, serveShared } from './shared.ts'

const { PORT = '8000', HOST = 'localhost', TRADES = '2000' } = process.env
const CHOSEN = 20 // at most, by one page
const TICK_MS = 10

const consonants = [...'BCDFGKLMNPRSTVXZ']
const symbols = Array.from({ length: 500 }, (_, i) => consonants[i >> 5]! + consonants[i % 16]! + consonants[(i * 5 + (i >> 4)) % 16]!)

// Browsers hold spare connections on which they have asked nothing yet: Node does not count them as idle, and close() would wait for them.
const app = Fastify({ logger: { level: 'warn' }, forceCloseConnections: true })
await app.register(sse, {
  backplane: await backplane(),
  // Of a price, only the newest counts: it is kept for as long as there is no newer one, and no page is told of a gap.
  history: { channel: name => name.startsWith('price/') ? { latest: true } : undefined },
  drain: { timeout: 500 }
})
await app.register(fastifyStatic, { root: new URL('ticker/public', import.meta.url) })
await serveShared(app)

interface Trade { symbol: string, price: number, at: number }
const channelOf = (symbol: string) => app.sse.channel<{ trade: Trade }>(`price/${symbol}`)

app.get('/symbols', async () => symbols)

app.get<{ Querystring: { symbols: string } }>('/prices', { schema: { querystring: { type: 'object', required: ['symbols'], properties: { symbols: { type: 'string' } } } } }, (request, reply) => {
  const chosen = request.query.symbols.split(',')
  if (chosen.length > CHOSEN || !chosen.every(symbol => known.has(symbol))) return reply.code(400).send({ error: `Choose up to ${CHOSEN} of /symbols` })
  return reply.sse(chosen.map(channelOf)) // that is all: the newest price of each, and then what comes
})

const known = new Map(symbols.map((symbol, i) => [symbol, 20 + (i * 37) % 480]))

function trade (symbol: string): void {
  const price = Math.round(Math.max(1, known.get(symbol)! * (1 + (Math.random() - 0.5) / 500)) * 100) / 100
  known.set(symbol, price)
  channelOf(symbol).publish({ event: 'trade', data: { symbol, price, at: Date.now() } })
}

let due = performance.now()
let timer: NodeJS.Timeout | undefined

/** As many trades as are due. */
function market (): void {
  const now = performance.now()
  const each = 1_000 / Number(TRADES)
  due = Math.max(due, now - 1_000) // after a long pause of the process, no flood
  for (; due < now; due += each) trade(symbols[Math.floor(Math.random() * symbols.length)]!)
}

app.addHook('preClose', async () => clearInterval(timer))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

console.log(`Listening at ${await app.listen({ port: Number(PORT), host: HOST })}`)

if (Number(TRADES) > 0) {
  for (const symbol of symbols) trade(symbol) // each has a price from the start
  timer = setInterval(market, TICK_MS)
}
