// The answer of a model: it goes on when its reader leaves, and a page that comes later reads it from its first token.
// Ask, reload the page in the middle, open it in a second tab, stop it from there.
//
//   node --import tsx example/answers.ts     # then open http://localhost:8000
//
// Several processes: give each its own PORT and the same REDIS_URL. Any of them shows an answer, and can stop it.
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import fastifyStatic from '@fastify/static'
import Fastify from 'fastify'
import sse, { type Channel } from 'fastify-sse-channels'
import { backplane, serveShared } from './shared.ts'

const { PORT = '8000', HOST = 'localhost', TOKEN_MS = '100' } = process.env

// Browsers hold spare connections on which they have asked nothing yet: Node does not count them as idle, and close() would wait for them.
const app = Fastify({ logger: { level: 'warn' }, forceCloseConnections: true })
// At Ctrl-C, answers may finish for five seconds (drain.finish). Then they end with the reason "closed".
await app.register(sse, { backplane: await backplane() })
await app.register(fastifyStatic, { root: new URL('answers/public', import.meta.url) })
await serveShared(app)

interface Answer { question: string, token: string }
interface Id { Params: { id: string } }

const channelOf = (id: string): Channel<Answer> => app.sse.channel<Answer>(`answer/${id}`)
const body = { type: 'object', required: ['question'], properties: { question: { type: 'string', minLength: 1, maxLength: 1_000 } } }

app.post<{ Body: { question: string } }>('/answers', { schema: { body } }, async (request, reply) => {
  const { question } = request.body
  const id = randomUUID()
  await channelOf(id).publish({ event: 'question', data: question })
  answer(channelOf(id), question) // not awaited: it goes on, whether anybody reads it or not
  return reply.code(201).send({ id })
})

async function answer (channel: Channel<Answer>, question: string): Promise<void> {
  const model = new AbortController()
  try {
    // Resolves when the last token is in the log and the channel has ended, or when somebody else has ended it.
    const reason = await channel.publishFrom(complete(question, model.signal))
    console.log(`An answer is over: ${reason}`)
  } catch (error) {
    app.log.error(error) // its readers were told that it has ended, with the reason "error"
  } finally {
    model.abort() // it may be waiting for its next token
  }
}

app.get<Id>('/answers/:id', async (request, reply) => {
  const channel = channelOf(request.params.id)
  // The question is there before the id is known to anybody. What is over is kept for ten minutes (history.maxAge).
  if ((await channel.history(1)).length === 0) return reply.code(404).send({ error: 'There is no such answer, or it was over long ago' })
  // From the first token, or from the one after the page's last. When that was the end, the answer is 204, and the page stops asking.
  return reply.sse(channel, { rewind: Infinity })
})

app.delete<Id>('/answers/:id', async request => {
  await channelOf(request.params.id).end({ reason: 'stopped' }) // in whatever process the model runs
  return {}
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

console.log(`Listening at ${await app.listen({ port: Number(PORT), host: HOST })}`)

/** In place of a model: real ones have such a client, which takes a signal and ends its own request upstream with it. */
async function * complete (question: string, signal: AbortSignal): AsyncGenerator<{ event: 'token', data: string }> {
  const text = `You asked: ${question}\n\nA model would know. This one only counts: ${Array.from({ length: 60 }, (_, i) => i + 1).join(', ')}. That is all.`
  const tokens = text.split(/(?= )/)
  let sent = 0
  try {
    for (const token of tokens) {
      await setTimeout(Number(TOKEN_MS), undefined, { signal })
      sent++
      yield { event: 'token', data: token }
    }
  } finally {
    console.log(`The model ${sent === tokens.length ? 'is done' : 'was stopped'} after ${sent} of ${tokens.length} tokens`)
  }
}
