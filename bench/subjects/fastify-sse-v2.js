import fastify from 'fastify'
import { FastifySSEPlugin } from 'fastify-sse-v2'
import { Members, channelsOf, listen } from './common.js'

export async function start () {
  const app = fastify()
  const members = new Members()
  await app.register(FastifySSEPlugin)
  app.get('/stream/:first/:count', (request, reply) => {
    const channels = channelsOf(request.params)
    reply.sse({ comment: 'open' }) // the first event sends the head
    members.add(channels, reply)
    request.socket.on('close', () => {
      members.delete(channels, reply)
      reply.sseContext.source.end()
    })
  })
  return {
    ...await listen(app),
    publish (channel, data) {
      for (const reply of members.of(channel)) reply.sse({ data })
    }
  }
}
