// The tokens of a model, streamed in the answer to a POST. Press Ctrl-C in the middle of curl's answer: the model stops.
//
//   node --import tsx example/llm.ts
//   curl -N http://localhost:8000/answer -H 'content-type: application/json' -d '{"question":"Why is the sky blue?"}'
//
// EventSource cannot send a POST. In a page, read the answer with fetch() and a parser, such as eventsource-parser.
import { setTimeout } from 'node:timers/promises'
import Fastify from 'fastify'
import sse from 'fastify-sse-channels'

const { PORT = '8000', HOST = 'localhost', TOKEN_MS = '100' } = process.env

const app = Fastify({ logger: { level: 'warn' } })
await app.register(sse)

const body = { type: 'object', required: ['question'], properties: { question: { type: 'string', minLength: 1 } } }

app.post<{ Body: { question: string } }>('/answer', { schema: { body } }, (request, reply) => {
  // Items are asked for at the client's pace, so a client that reads slowly slows its model down, and nothing piles up.
  return reply.sse(async function * (stream) {
    let tokens = 0
    // The signal aborts the moment the client leaves, while this waits for the next token too.
    for await (const token of complete(request.body.question, { signal: stream.signal })) {
      tokens++
      yield { event: 'token', data: token }
    }
    yield { event: 'done', data: { tokens } } // an answer that ends without this one was cut off
  })
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

console.log(`Listening at ${await app.listen({ port: Number(PORT), host: HOST })}`)

/** In place of a model: real ones have such a client, which takes a signal and ends its own request upstream with it. */
async function * complete (question: string, { signal }: { signal: AbortSignal }): AsyncGenerator<string> {
  const tokens = `You asked: ${question}\nA model would know. This one only counts: one, two, three, four, five, and so on.`.split(/(?= )/)
  let sent = 0
  try {
    for (const token of tokens) {
      await setTimeout(Number(TOKEN_MS), undefined, { signal })
      sent++
      yield token
    }
  } finally {
    console.log(`The model ${sent === tokens.length ? 'is done' : 'was stopped'} after ${sent} of ${tokens.length} tokens`)
  }
}
