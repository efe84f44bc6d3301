import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'

interface LogController { isLogDisabled? (request: FastifyRequest): boolean }

/**
 * Whether Fastify logs the requests of an application, one by one: `disableRequestLogging`, or from Fastify 5.12 on its `logController`,
 * which an instance keeps behind a symbol of its own.
 */
export function requestLogging (app: FastifyInstance): (request: FastifyRequest) => boolean {
  for (let instance: object | null = app; instance !== null; instance = Object.getPrototypeOf(instance)) {
    const symbol = Object.getOwnPropertySymbols(instance).find(({ description }) => description === 'fastify.logController')
    if (symbol === undefined) continue
    const controller = (instance as Record<symbol, LogController | undefined>)[symbol]
    if (typeof controller?.isLogDisabled === 'function') return request => !controller.isLogDisabled!(request)
  }
  const disabled = app.initialConfig.disableRequestLogging
  return request => !(typeof disabled === 'function' ? disabled(request) : disabled)
}

/** Fastify would say "request completed" of a stream that ends by itself, beside its own line, "stream closed". */
export function dropCompleted (reply: FastifyReply): void {
  reply.log = new Proxy(reply.log, WITHOUT_COMPLETED)
}

const WITHOUT_COMPLETED: ProxyHandler<FastifyReply['log']> = {
  get (log, name) {
    const value = Reflect.get(log, name)
    if (typeof value !== 'function') return value
    return (...args: unknown[]) => name === 'info' && args.at(-1) === 'request completed' ? undefined : Reflect.apply(value, log, args)
  }
}
