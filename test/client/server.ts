import { once } from 'node:events'
import http, { type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { SseClient, type SseClientOptions } from '../../lib/client/index.ts'

interface Test { teardown: (fn: () => unknown) => void }

/** One request as the server saw it, and its answer, to be written by hand. */
export interface Asked {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly headers: IncomingMessage['headers']
  body: string
  readonly at: number
  /** Answers with an event stream, and this text. */
  stream (text?: string, headers?: http.OutgoingHttpHeaders): void
}

export interface Server { url: string, asked: Asked[], close (): Promise<void> }

/** A server that answers as the test says, by the number of the request from 0 on; closed with the test, with all its sockets. */
export async function serve (t: Test, answer: (asked: Asked, n: number) => unknown): Promise<Server> {
  const asked: Asked[] = []
  const server = http.createServer(async (request, response) => {
    const one: Asked = {
      request,
      response,
      headers: request.headers,
      body: '',
      at: performance.now(),
      stream (text = '', headers = {}) {
        response.writeHead(200, { 'content-type': 'text/event-stream', ...headers })
        response.flushHeaders()
        if (text !== '') response.write(text)
      }
    }
    response.on('error', () => {})
    request.setEncoding('utf8').on('error', () => {})
    for await (const chunk of request) one.body += chunk
    answer(one, asked.push(one) - 1)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = async (): Promise<void> => {
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  }
  t.teardown(close)
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/events`, asked, close }
}

/** A client, and all that its user is told, in order; closed with the test. */
export interface Observed {
  source: SseClient<any, any>
  told: Array<{ type: string, data?: any, id?: string, code?: string, status?: any, message?: string, readyState: number, until?: number | undefined }>
  /** The events with data alone. */
  data: any[]
  errors: Array<{ code: string, status: number, message: string, readyState: number }>
}

export const FAST: SseClientOptions = { retry: { min: 5, max: 5 } }

export function observe (t: Test, url: string, options: SseClientOptions = {}, types: string[] = []): Observed {
  const source = new SseClient(url, options) as SseClient<any, any>
  t.teardown(() => source.close())
  const told: Observed['told'] = []
  const data: any[] = []
  const errors: Observed['errors'] = []
  for (const type of ['message', 'tick', 'sse.gap', 'sse.end', ...types]) {
    source.addEventListener(type, event => {
      told.push({ type, data: event.data, id: event.lastEventId, readyState: source.readyState })
      data.push(event.data)
    })
  }
  source.addEventListener('open', () => told.push({ type: 'open', readyState: source.readyState }))
  source.addEventListener('status', ({ status, until }) => told.push({ type: 'status', status, until, readyState: source.readyState }))
  source.addEventListener('error', ({ code, status, message }) => {
    told.push({ type: 'error', code, status, message, readyState: source.readyState })
    errors.push({ code, status, message, readyState: source.readyState })
  })
  return { source, told, data, errors }
}

export const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))
