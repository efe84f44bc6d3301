import type { FastifyInstance } from 'fastify'
import type { Readable } from 'node:stream'
import { build as buildApp, until, within, type Client } from '../client.ts'

/** A response that hangs must not keep the application from closing when its test is over. */
export async function build (...args: Parameters<typeof buildApp>): Promise<FastifyInstance> {
  const app = await buildApp(...args)
  args[0].teardown(() => { app.server.closeAllConnections?.() })
  return app
}

export const passed = (ms: number, since = Date.now()): Promise<true> => until(() => Date.now() - since >= ms, `${ms} ms`)
export const isStream = (payload: unknown): boolean => typeof (payload as Readable | null | undefined)?.pipe === 'function'
export const later = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 20))

export async function ended (client: Client, what: string): Promise<Client> {
  await within(until(() => client.closed, what), what)
  return client
}

/** What must never happen, whatever the tests of a file do: the last test of the file looks at it. */
export function keepAccidents (): unknown[] {
  const accidents: unknown[] = []
  process.on('unhandledRejection', error => accidents.push(error))
  process.on('uncaughtException', error => accidents.push(error))
  return accidents
}
