import fastify from 'fastify'
import { createChannel, createSession } from 'better-sse'
import { channelsOf, listen } from './common.js'

export async function start () {
  const app = fastify()
  const channels = new Map()
  const channel = name => {
    if (!channels.has(name)) channels.set(name, createChannel())
    return channels.get(name)
  }
  app.get('/stream/:first/:count', async (request, reply) => {
    reply.hijack()
    const session = await createSession(request.raw, reply.raw)
    for (const name of channelsOf(request.params)) channel(name).register(session)
  })
  return {
    ...await listen(app),
    publish: (name, data) => channel(name).broadcast(data)
  }
}
