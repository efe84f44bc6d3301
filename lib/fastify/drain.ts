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

/** From preClose on: lets sources finish, tells every stream to come back later, waits for the sockets, and destroys the rest. */
export async function drain (registry: Registry, sockets: ReadonlyMap<string, Socket>): Promise<void> {
  registry.closing = true
  // Graceful: a session closes once its streams have ended. On Node 20 an idle one would keep the server open.
  const sessions = new Set([...registry.streams].map(({ request }) => (request.raw as unknown as Http2ServerRequest).stream?.session))
  // A session whose client takes nothing waits for it even when destroyed, and lets nobody destroy its socket: so the server's own.
  const taken = [...sessions].map(session => session === undefined ? undefined : sockets.get(address(session.socket as Socket)))
  for (const session of sessions) session?.close()
  for (const stream of registry.streams) if (stream.state === 'open' && !stream.feeding) stream.drain()
  await finish(registry)
  for (const stream of registry.streams) if (stream.state === 'open') stream.drain()
  // Those too that ended a moment ago and are not flushed.
  const waiting = [...registry.sweep.swept]
  const late = new AbortController()
  await Promise.race([
    Promise.all(waiting.map(({ done }) => done)),
    sleep(registry.options.drain.timeout, undefined, { signal: late.signal }).then(() => {
      for (const stream of waiting) stream.destroy()
      for (const socket of taken) socket?.destroy()
    })
  ])
  late.abort()
}

/** Waits for what has an end of its own, as for a request that is being answered, and stops what is late. */
async function finish ({ streams, publishers, options: { drain } }: Registry): Promise<void> {
  if (drain.finish > 0) {
    const late = new AbortController()
    const fed = [...streams].filter(({ state, feeding }) => state === 'open' && feeding)
    await Promise.race([
      Promise.allSettled([...fed.map(({ closed }) => closed), ...publishers.values()]),
      sleep(drain.finish, undefined, { signal: late.signal }).catch(() => {})
    ])
    late.abort()
  }
  for (const publisher of publishers.keys()) publisher.stop('closed')
  await Promise.race([Promise.allSettled(publishers.values()), sleep(drain.timeout, undefined, { ref: false })])
}
