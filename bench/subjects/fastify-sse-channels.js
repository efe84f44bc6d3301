import fastify from 'fastify'
import sse from '../../dist/index.js'
import { channelsOf, listen } from './common.js'

export async function start (options) {
  const app = fastify()
  await app.register(sse, options)
  app.get('/stream/:first/:count', (request, reply) => reply.sse(channelsOf(request.params).map(name => app.sse.channel(name))))
  return {
    ...await listen(app),
    publish: (channel, data) => app.sse.publish(channel, data)
  }
}
