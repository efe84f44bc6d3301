/**
 * The library under test. Options, besides the plugin's own:
 *
 * @typedef {object} Options
 * @property {string} dist a build of it
 * @property {number} [redis] the port of a Redis
 * @property {'ioredis' | 'node-redis'} [driver]
 * @property {number} [shared] a channel, by its number, that each stream of channels before it is subscribed to, too
 * @property {number} [rewind] how many of the newest events a stream without a cursor gets first
 * @property {boolean} [latest] channels of values
 * @property {Record<string, string>} [headers] of each response
 */
import { existsSync } from 'node:fs'
import fastify from 'fastify'
import { channelsOf, listen } from './common.js'

/** @param {Options} options */
export async function start ({ dist, redis, driver = 'ioredis', shared, rewind, latest, headers, ...options }) {
  const { default: sse } = await import(`${dist}/index.js`)
  const app = fastify()
  if (latest) options.history = { ...options.history, channel: () => ({ latest: true }) }
  if (redis) options.backplane = await backplane(dist, redis, driver)
  await app.register(sse, options)
  app.get('/stream/:first/:count', (request, reply) => {
    const names = channelsOf(request.params)
    if (shared > Number(request.params.first)) names.push(`c${shared}`)
    if (headers) reply.headers(headers)
    return reply.sse(names.map(name => app.sse.channel(name)), { rewind })
  })
  return {
    ...await listen(app),
    publish: (channel, data) => app.sse.publish(channel, data),
    async answer (name, tokens) {
      const channel = app.sse.channel(name)
      if (channel.publishFrom) return await channel.publishFrom(tokens)
      for await (const token of tokens) channel.publish(token)
      await channel.publish({ event: 'sse.end', data: 'done' }) // what an application wrote that had no ends
    },
    stats: () => app.sse.stats()
  }
}

async function backplane (dist, port, driver) {
  const file = ['redis/index.js', 'redis-backplane.js'].map(name => `${dist}/${name}`).find(existsSync)
  const { redisBackplane } = await import(file)
  if (driver === 'node-redis') {
    const { createClient } = await import('redis')
    return redisBackplane({ client: createClient({ url: `redis://127.0.0.1:${port}` }) })
  }
  const { Redis } = await import('ioredis')
  return redisBackplane({ client: new Redis({ port, host: '127.0.0.1', lazyConnect: true }) })
}
