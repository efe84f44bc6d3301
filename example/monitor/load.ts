import http, { type ClientRequest } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type {} from 'fastify-sse-channels'

const ROOMS = 5
const FILE = 'x'.repeat(64 * 1024)

/** Something to look at: clients that come and go, events in waves, and one client that again and again stops reading. */
export function addLoad (app: FastifyInstance, clients: number): { start: (url: string) => void } {
  const requests = new Set<ClientRequest>()
  const timers = new Set<NodeJS.Timeout>()
  let closing = false

  app.get<{ Params: { name: string } }>('/load/:name', (request, reply) => reply.sse(app.sse.channel(request.params.name)))
  app.addHook('preClose', async () => {
    closing = true
    for (const timer of timers) clearTimeout(timer)
    for (const request of requests) request.destroy()
  })

  /** Opens a stream; when it closes, for whatever reason, it is opened anew a little later. */
  function open (url: string, live: (request: ClientRequest, response: http.IncomingMessage) => void): void {
    if (closing) return
    const request = http.get(url, { agent: false }, response => {
      response.on('error', () => {}).resume()
      live(request, response)
    })
    requests.add(request)
    request.on('error', () => {}).on('close', () => {
      requests.delete(request)
      later(Math.random() * 5_000, () => open(url, live))
    })
  }

  function later (ms: number, then: () => void): void {
    if (closing) return
    const timer = setTimeout(() => {
      timers.delete(timer)
      then()
    }, ms)
    timers.add(timer)
  }

  function stay (request: ClientRequest): void {
    later(10_000 + Math.random() * 60_000, () => request.destroy())
  }

  function stopAndGo (request: ClientRequest, response: http.IncomingMessage): void {
    response.pause()
    later(8_000, () => {
      response.resume()
      later(6_000, () => stopAndGo(request, response))
    })
  }

  function publish (): void {
    const wave = 1 + Math.sin(Date.now() / 8_000)
    for (let n = Math.round(wave * 4 + Math.random() * 2); n > 0; n--) {
      app.sse.publish(`room ${Math.floor(Math.random() * ROOMS)}`, { event: 'chat', data: { text: 'Hello, room!', at: Date.now() } })
    }
    app.sse.publish('files', FILE)
    later(20, publish)
  }

  return {
    start (url) {
      for (let n = 0; n < clients; n++) open(`${url}/load/room%20${n % ROOMS}`, stay)
      open(`${url}/load/files`, stopAndGo)
      publish()
    }
  }
}
