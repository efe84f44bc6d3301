// What several examples need: the client for their pages, and the backplane that their processes share.
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import type { FastifyInstance } from 'fastify'
import type { Backplane } from 'fastify-sse-channels'

/**
 * Serves the client as /sse-client.js, put together from its source, so that a fresh clone needs no build. Your app serves the file of
 * the installed package instead, or has a bundler: see docs/client.md.
 */
export async function serveClient (app: FastifyInstance): Promise<void> {
  const { outputFiles: [file] } = await build({
    entryPoints: [fileURLToPath(new URL('../lib/client/index.ts', import.meta.url))],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2022'
  })
  const { text } = file!
  app.get('/sse-client.js', (request, reply) => reply.type('text/javascript').header('cache-control', 'no-cache').send(text))
}

/** With REDIS_URL in the environment, processes are one application: what one publishes, the pages of all see. */
export async function backplane (url = process.env['REDIS_URL']): Promise<Backplane | undefined> {
  if (!url) return undefined // one process, by memory
  const { Redis } = await import('ioredis')
  const { redisBackplane } = await import('fastify-sse-channels/redis')
  return redisBackplane({ client: new Redis(url, { lazyConnect: true }) })
}
