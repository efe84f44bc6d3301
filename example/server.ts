// The demo: the time in every open browser. `npm start`, then open http://localhost:8000 twice; try a restart of the server, too.
import fastifyStatic from '@fastify/static'
import Fastify, { type FastifyRequest } from 'fastify'
import sse from 'fastify-sse-channels'
import { backplane, serveShared } from './shared.ts'

const { PORT = '8000', HOST = 'localhost', TICK_MS = '5000', TICKER = 'on' } = process.env

// Browsers hold spare connections on which they have asked nothing yet: Node does not count them as idle, and close() would wait for them.
const app = Fastify({ logger: { level: 'warn' }, forceCloseConnections: true })

await app.register(sse, {
  // Processes with the same REDIS_URL share the messages: start one with its ticker, and the others with TICKER=off.
  backplane: await backplane(),
  drain: { timeout: 500 } // Ctrl-C does not wait longer than this for a browser that has stopped reading
})
await app.register(fastifyStatic, {
  root: new URL('public', import.meta.url),
  wildcard: false, // a route for each file: what is not there never asks the disk
  index: false,
  globIgnore: ['index.html'] // it is served at / alone
})
await serveShared(app)

const time = app.sse.channel<{ message: string }>('time')

app.get('/', { onResponse: async request => finished(request) }, (request, reply) => reply.sendFile('index.html'))

for (const url of ['/events', '/events/']) {
  // A new page starts with the newest ten messages; one that comes back gets all that it has missed.
  app.get(url, (request, reply) => reply.sse(time, { rewind: 10 }))
}

app.sse.on('open', () => {
  print('Added new client')
  tellCount()
})
// A stream ends when its browser leaves, and then Fastify runs no onResponse hook.
app.sse.on('close', ({ stream }) => {
  print('Removed client')
  finished(stream.request)
  tellCount()
})

let timer: NodeJS.Timeout | undefined

/** How many browsers are connected to this process: other processes have other numbers, so it is no event of a channel. */
function tellCount (): void {
  timer ??= setTimeout(() => { // a thousand browsers that arrive together are told once
    timer = undefined
    for (const stream of app.sse.streams) stream.send({ event: 'clients', data: app.sse.streams.size })
  }, 200).unref()
}

let n = 0

async function tick (): Promise<void> {
  const message = n++
  try {
    await time.publish(`Message: ${message} - the time is ${timestamp()}`)
  } catch {
    return // Redis is away, and the plugin has logged it; the next tick tries again
  }
  print(`Sent message ${message}`)
  print(`Broadcast message to ${time.size} clients`)
}

let ticker: NodeJS.Timeout | undefined
app.addHook('preClose', async () => clearInterval(ticker))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

print(`Listening at ${await app.listen({ port: Number(PORT), host: HOST })}`)

if (TICKER !== 'off') {
  ticker = setInterval(tick, Number(TICK_MS))
  tick()
}

function print (text: string): void {
  console.log(timestamp().slice(0, 19).replaceAll('-', '/'), text)
}

function finished (request: FastifyRequest): void {
  print(`Finished HTTP request at ${request.routeOptions.url}`)
}

/** Local time, like 2013-03-08 21:08:01.260417 -0500 EST. */
function timestamp (): string {
  const now = performance.timeOrigin + performance.now() // a Date has no microseconds
  const date = new Date(now)
  const offset = -date.getTimezoneOffset()
  const micros = String(Math.floor(now % 1 * 1_000)).padStart(3, '0')
  const local = new Date(date.getTime() + offset * 60_000).toISOString().replace('T', ' ').replace('Z', micros)
  const [hours, minutes] = [Math.abs(offset) / 60, Math.abs(offset) % 60].map(part => String(Math.floor(part)).padStart(2, '0'))
  return `${local} ${offset < 0 ? '-' : '+'}${hours}${minutes} ${zone(date)}`
}

/** Each locale has short names for the zones of its own part of the world, and GMT+1 for the others. */
function zone (date: Date): string | undefined {
  const names = ['en-US', 'en-GB', 'en-IN', 'en-AU'].map(locale =>
    new Intl.DateTimeFormat(locale, { timeZoneName: 'short' }).formatToParts(date).find(({ type }) => type === 'timeZoneName')?.value)
  return names.find(name => name !== undefined && !name.startsWith('GMT')) ?? names[0]
}
