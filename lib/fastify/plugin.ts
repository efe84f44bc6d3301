import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { FastifyInstance, FastifyReply } from 'fastify'
import fp from 'fastify-plugin'
import { SSE_ERR_ALREADY_REGISTERED, SSE_ERR_INVALID_OPTION, received } from '../errors.ts'
import type { Backplane } from '../log/backplane.ts'
import { memoryBackplane } from '../log/memory-backplane.ts'
import { resolveOptions, type RegistryOptions } from '../options.ts'
import { Registry } from '../registry/registry.ts'
import type { SseRegistry } from '../registry/sse-registry.ts'
import { Admission } from './admission.ts'
import { drain } from './drain.ts'
import { requestLogging } from './logging.ts'
import { kStream, onError, open, type Reply } from './reply.ts'
import { acceptsSse } from './request.ts'

/** The options of `app.register(sse, options)`. */
export interface SsePluginOptions extends RegistryOptions {
  /**
   * What orders events and shares them between processes. One backplane serves one registration.
   * @default memoryBackplane()
   */
  backplane?: Backplane | undefined
}

async function plugin (app: FastifyInstance, given: SsePluginOptions): Promise<void> {
  if (app.hasDecorator('sse')) throw new SSE_ERR_ALREADY_REGISTERED()
  const options = resolveOptions(given)
  const admission = new Admission(options)
  const logs = requestLogging(app)
  const registry = new Registry(options, checkBackplane(given.backplane), app.log, {
    left: ({ key }) => admission.leave(key),
    // Fastify logs nothing when a client leaves, and runs no onResponse hook.
    closed: ({ request }, told) => { if (logs(request)) request.log.info(told, 'stream closed') }
  })

  app.decorate('sse', registry as unknown as SseRegistry)
  app.decorateRequest('acceptsSse', acceptsSse)
  app.decorateReply(kStream, null)
  app.decorateReply('sse', function (this: Reply, ...args: unknown[]) {
    return open(registry, admission, this, args)
  } as FastifyReply['sse'])

  app.addHook('onError', (request, reply, error, done) => {
    onError(reply as Reply, done)
  })
  app.addHook('preClose', () => drain(registry))
  app.addHook('onClose', async () => {
    unsubscribe(HANDLER_ERROR, onHandlerError)
    await registry.close()
  })
  subscribe(HANDLER_ERROR, onHandlerError)
  await registry.open()
}

/** `app.register(sse, options)`: adds `reply.sse()`, `request.acceptsSse()` and `app.sse`. */
export default fp(plugin, { fastify: '5.x', name: 'fastify-sse-channels' })

const METHODS = { backplane: ['open', 'append', 'close'], shared: ['watch', 'unwatch', 'read', 'seq'] }

function checkBackplane (value: Backplane = memoryBackplane()): Backplane {
  const methods = typeof value === 'object' && value !== null && 'watch' in value ? [...METHODS.backplane, ...METHODS.shared] : METHODS.backplane
  for (const method of methods) {
    if (typeof (value as unknown as Record<string, unknown> | null)?.[method] === 'function') continue
    throw new SSE_ERR_INVALID_OPTION('backplane', `a backplane, with a method "${method}"`, received(value))
  }
  return value
}

const HANDLER_ERROR = 'tracing:fastify.request.handler:error'

/** A handler that threw after reply.sse(): Fastify cannot answer any more, and tells nobody but this channel. */
function onHandlerError (message: unknown): void {
  const { reply, error } = message as { reply: Partial<Reply>, error: unknown }
  reply[kStream]?.fail(error)
}
