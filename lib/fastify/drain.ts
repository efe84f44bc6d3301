import type { Http2ServerRequest, Http2Session } from 'node:http2'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Registry } from '../registry/registry.ts'

/** The socket of a session. What `session.socket` gives refuses `destroy()`, but its methods for listeners return the socket itself. */
const socketOf = ({ socket }: Http2Session): Socket => (socket as Socket).off('close', () => {})

/**
 * From preClose on: lets sources finish, tells every stream to come back later, waits for the sockets and for the ends of channels to be
 * acknowledged, and destroys the rest. No longer than `drain.finish` and `drain.timeout` together.
 */
export async function drain (registry: Registry): Promise<void> {
  const { streams, publishers, sweep, options: { drain: { finish, timeout } } } = registry
  registry.closing = true
  // Graceful: a session closes once its streams have ended. On Node 20 an idle one would keep the server open.
  const sessions = new Set([...streams, ...sweep.ending].map(({ request }) => (request.raw as unknown as Http2ServerRequest).stream?.session))
  // A session whose client takes nothing waits for it even when destroyed: its socket must be.
  const sockets = [...sessions].map(session => session?.destroyed === false ? socketOf(session) : undefined)
  for (const session of sessions) session?.close()
  const fed = []
  for (const stream of streams) {
    if (stream.state !== 'open') continue
    if (stream.source !== undefined) fed.push(stream)
    else stream.drain()
  }
  // What has an end of its own may come to it, as a request that is being answered.
  if (finish > 0) await within(finish, [...fed.map(({ closed }) => closed), ...publishers.running])
  publishers.stop('closed')
  for (const stream of streams) if (stream.state === 'open') stream.drain()
  // Those too that ended a moment ago and are not flushed.
  const waiting = [...sweep.ending]
  if (await within(timeout, [...waiting.map(({ done }) => done), ...publishers.running])) return
  for (const stream of waiting) stream.destroy()
  for (const socket of sockets) socket?.destroy()
}

/** Whether all of them are settled in time, in ms. */
async function within (time: number, promises: Array<Promise<unknown>>): Promise<boolean> {
  const late = new AbortController()
  const inTime = await Promise.race([
    Promise.allSettled(promises).then(() => true),
    sleep(time, false, { signal: late.signal }).catch(() => false)
  ])
  late.abort()
  return inTime
}
