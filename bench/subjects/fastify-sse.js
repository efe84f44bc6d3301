import fastify from 'fastify'
import plugin from '@fastify/sse'
import { Members, channelsOf, listen } from './common.js'

export async function start () {
  const app = fastify()
  const members = new Members()
  await app.register(plugin)
  app.get('/stream/:first/:count', { sse: 'only' }, async (request, reply) => {
    const channels = channelsOf(request.params)
    reply.sse.keepAlive()
    await reply.sse.send({ data: 'Connected' }) // the first event sends the head
    members.add(channels, reply)
    reply.sse.onClose(() => members.delete(channels, reply))
  })
  return {
    ...await listen(app),
    // a promise for each stream, that nobody awaits: to await it would make all wait for the slowest
    publish (channel, data) {
      for (const reply of members.of(channel)) if (reply.sse.isConnected) reply.sse.send({ data }).catch(() => {})
    }
  }
}
