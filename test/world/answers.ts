import { setTimeout as sleep } from 'node:timers/promises'
import Fastify from 'fastify'
import { Redis } from 'ioredis'
import sse from '../../lib/index.ts'
import { redisBackplane } from '../../lib/redis/index.ts'

/** One process of an application that streams answers, with the plugin at its default options; run by answers.test.ts. */
const { REDIS_URL = '', TOKENS = '400', TOKEN_MS = '25' } = process.env
/** Events a second. */
const BUSY = 500

const app = Fastify({ forceCloseConnections: true })
const client = REDIS_URL === '' ? undefined : new Redis(REDIS_URL, { lazyConnect: true })
await app.register(sse, client === undefined ? {} : { backplane: redisBackplane({ client }) })

interface Params { Params: { id: string } }
const answer = (id: string) => app.sse.channel<{ token: string }>(`answer/${id}`)
const reasons: Record<string, string> = {}

async function * tokens (): AsyncGenerator<{ event: 'token', data: string }> {
  for (let n = 0; n < Number(TOKENS); n++) {
    yield { event: 'token', data: String(n) }
    await sleep(Number(TOKEN_MS))
  }
}

app.put<Params>('/answers/:id', async ({ params: { id } }) => {
  answer(id).publishFrom(tokens()).then(reason => { reasons[id] = reason }, error => { reasons[id] = String(error) })
  return {}
})
app.delete<Params>('/answers/:id', async ({ params: { id } }) => ({ cursor: await answer(id).end({ reason: 'stopped' }) }))
app.get<Params>('/answers/:id', ({ params: { id } }, reply) => reply.sse(answer(id), { rewind: Infinity }))

// 500 events a second for everybody, of some 100 bytes
const busy = app.sse.channel('busy')
app.get('/busy', (request, reply) => reply.sse(busy))
let n = 0
let timer: NodeJS.Timeout | undefined
app.put('/busy', async () => {
  const start = performance.now()
  timer = setInterval(() => {
    // As many as are due, though the timer is late.
    while (n < (performance.now() - start) / 1_000 * BUSY) busy.publish({ data: { n: n++, text: 'x'.repeat(80) } }).catch(() => {})
  }, 20)
  return {}
})
app.delete('/busy', async () => {
  clearInterval(timer)
  return { published: n }
})

app.get('/stats', async () => ({ ...app.sse.stats(), reasons }))
app.addHook('onClose', async () => { client?.disconnect() })

const url = await app.listen({ port: 0, host: '127.0.0.1' })
process.send!({ url })
process.on('disconnect', () => process.exit())
