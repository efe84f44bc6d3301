import type { Http2ServerRequest } from 'node:http2'
import type { Server, Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Registry } from '../registry/registry.ts'

const address = ({ remoteAddress, remotePort }: Socket): string => `${remoteAddress} ${remotePort}`

/** The open sockets of an HTTP/2 server, by the client's address: its sessions do not give them away. */
export function keepSockets (server: Server): ReadonlyMap<string, Socket> {
  const sockets = new Map<string, Socket>()
  server.on('connection', socket => {
    const client = address(socket)
    sockets.set(client, socket)
    socket.once('close', () => sockets.delete(client))
  })
  return sockets
}

/**
 * From preClose on: lets sources finish, tells every stream to come back later, waits for the sockets and for the ends of channels to be
 * acknowledged, and destroys the rest. No longer than `drain.finish` and `drain.timeout` together.
 */
export async function drain (registry: Registry, sockets: ReadonlyMap<string, Socket>): Promise<void> {
  const { streams, publishers, sweep, options: { drain: { finish, timeout } } } = registry
  registry.closing = true
  // Graceful: a session closes once its streams have ended. On Node 20 an idle one would keep the server open.
  const sessions = new Set([...streams].map(({ request }) => (request.raw as unknown as Http2ServerRequest).stream?.session))
  // A session whose client takes nothing waits for it even when destroyed, and lets nobody destroy its socket: so the server's own.
  const taken = [...sessions].map(session => session === undefined ? undefined : sockets.get(address(session.socket as Socket)))
  for (const session of sessions) session?.close()
  const fed = []
  for (const stream of streams) {
    if (stream.state !== 'open') continue
    if (stream.source?.feeds === true) fed.push(stream)
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
  for (const socket of taken) socket?.destroy()
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
