// What several examples need: the client and the style of their pages, and the backplane that their processes share.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import type { FastifyInstance } from 'fastify'
import type { Backplane } from 'fastify-sse-channels'

/**
 * Serves what all pages load: /common.css, and the client as /sse-client.js. The client is built from its source here, so that a fresh
 * clone needs no build. Your app serves the file of the installed package instead, or has a bundler: see docs/client.md.
 */
export async function serveShared (app: FastifyInstance): Promise<void> {
  const { outputFiles: [file] } = await build({
    entryPoints: [fileURLToPath(new URL('../lib/client/index.ts', import.meta.url))],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2022'
  })
  const serve = (url: string, type: string, text: string) =>
    app.get(url, (request, reply) => reply.type(type).header('cache-control', 'no-cache').send(text))
  serve('/sse-client.js', 'text/javascript', file!.text)
  serve('/common.css', 'text/css', readFileSync(new URL('common.css', import.meta.url), 'utf8'))
}

/** With REDIS_URL in the environment, processes are one application: what one publishes, the pages of all see. */
export async function backplane (url = process.env['REDIS_URL']): Promise<Backplane | undefined> {
  if (!url) return undefined // one process, by memory
  const { Redis } = await import('ioredis')
  const { redisBackplane } = await import('fastify-sse-channels/redis')
  return redisBackplane({ client: new Redis(url, { lazyConnect: true }) })
}
