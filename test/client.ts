import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline, Transform, type Readable, type TransformCallback } from 'node:stream'
import { createGunzip } from 'node:zlib'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import sse, { type SseOptions, type SsePluginOptions, type SseStream } from '../lib/index.ts'

/** Every wait in the tests ends: with what it waited for, or with this error. */
const PATIENCE = 20_000

export async function until<T> (condition: () => T | undefined | false, what = String(condition)): Promise<T> {
  const end = Date.now() + PATIENCE
  for (;;) {
    const value = condition()
    if (value !== undefined && value !== false) return value
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

/** One SSE client over a real socket; the parser is eventsource-parser's. */
export interface Client {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  /** The body so far. */
  text: string
  /** The events that fired, without gap events. */
  readonly events: EventSourceMessage[]
  readonly gaps: Array<{ id: string | undefined, reason: string, channels: string[] }>
  readonly comments: string[]
  readonly retries: number[]
  /** The last event ID as a browser would keep it, id-only blocks included. */
  lastEventId: string
  /** The response has ended ('end'), or broke ('aborted'). */
  closed: 'end' | 'aborted' | undefined
  readonly response: http.IncomingMessage
  /** Resolves with the first n events. */
  first (n: number): Promise<EventSourceMessage[]>
  /** Stops reading, so that the server's socket fills. */
  pause (): void
  resume (): void
  /** Leaves. */
  leave (): void
}

export function connect (url: string, { headers = {}, method = 'GET', body, lastEventId }: { headers?: http.OutgoingHttpHeaders, method?: string, body?: string, lastEventId?: string } = {}): Promise<Client> {
  return new Promise((resolve, reject) => {
    const request = http.request(url, {
      method,
      agent: false,
      headers: { accept: 'text/event-stream', ...(lastEventId !== undefined && { 'last-event-id': lastEventId }), ...headers }
    })
    request.on('error', reject)
    request.on('response', response => {
      const client: Client = {
        status: response.statusCode!,
        headers: response.headers,
        text: '',
        events: [],
        gaps: [],
        comments: [],
        retries: [],
        lastEventId: lastEventId ?? '',
        closed: undefined,
        response,
        async first (n) {
          await until(() => client.events.length >= n || client.closed !== undefined, `event ${n} of ${url}`)
          if (client.events.length < n) throw new Error(`closed after ${client.events.length} of ${n} events`)
          return client.events.slice(0, n)
        },
        pause: () => { body.pause() },
        resume: () => { body.resume() },
        leave: () => { request.destroy() }
      }
      const parser = createParser({
        onEvent (event) {
          if (event.event === 'sse.gap') client.gaps.push({ id: event.id, ...JSON.parse(event.data) })
          else client.events.push(event)
        },
        onComment: comment => client.comments.push(comment),
        onRetry: retry => client.retries.push(retry)
      })
      const body = response.headers['content-encoding'] === 'gzip' ? pipeline(response, createGunzip(), () => {}) : response
      body.setEncoding('utf8')
      let line = ''
      let id = client.lastEventId
      body.on('data', (chunk: string) => {
        client.text += chunk
        // The parser does not report blocks that have an id alone; a browser takes their id.
        const lines = (line + chunk).split('\n')
        line = lines.pop()!
        for (const one of lines) {
          if (one.startsWith('id: ')) id = one.slice(4)
          else if (one === '') client.lastEventId = id // and not before the block is complete
        }
        parser.feed(chunk)
      })
      body.on('error', () => {})
      body.on('end', () => { client.closed ??= 'end' })
      body.on('close', () => { client.closed ??= 'aborted' })
      resolve(client)
    })
    request.end(body)
  })
}

/** An application with the plugin, closed with the test. Register routes, then `listen`. */
export async function build (t: { teardown: (fn: () => unknown) => void }, options: SsePluginOptions = {}, server: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const app = Fastify(server)
  t.teardown(() => app.close())
  await app.register(sse, options)
  return app
}

/** Listens on a free port of loopback and gives the base URL. */
export async function listen (app: FastifyInstance): Promise<string> {
  await app.listen({ port: 0, host: '127.0.0.1' })
  return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
}

/** The lines that an application logs, as objects: `Fastify(logger(lines))`. */
export function logger (lines: any[], level = 'debug'): FastifyServerOptions {
  return { logger: { level, stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } } }
}

/** One block of a body, as it came: for tests that care for the order of events, gaps and id-only blocks. */
export interface Block { id?: string, event?: string, retry?: string, data?: string, comment?: string }

/** All complete blocks of a body, in order. */
export function blocks (text: string): Block[] {
  return text.split('\n\n').slice(0, -1).map(readBlock)
}

/** The lines of one block. */
export function readBlock (lines: string): Block {
  const block: Record<string, string> = {}
  for (const line of lines.split('\n')) {
    const colon = line.indexOf(':')
    const name = line.slice(0, colon) || 'comment'
    const value = line.slice(colon + 1).replace(/^ /, '')
    block[name] = name in block ? `${block[name]}\n${value}` : value
  }
  return block
}

/**
 * What a slow network is to a socket, without its megabytes of buffers: shut, it takes one write of the stream and no
 * more. It sits between the stream and its response, as @fastify/compress does.
 */
export class Valve extends Transform {
  #waiting: (() => void) | undefined
  #isOpen = true

  constructor () {
    super({ writableHighWaterMark: 1, readableHighWaterMark: 1024 * 1024 })
  }

  override _transform (chunk: Buffer, encoding: BufferEncoding, done: TransformCallback): void {
    if (this.#isOpen) done(null, chunk)
    else this.#waiting = () => done(null, chunk)
  }

  shut (): void { this.#isOpen = false }

  open (): void {
    this.#isOpen = true
    this.#waiting?.()
    this.#waiting = undefined
  }
}

export interface Driven { client: Client, stream: SseStream, valve: Valve | undefined }
export interface DriveOptions { lastEventId?: string, query?: string, options?: SseOptions, valve?: boolean, headers?: http.OutgoingHttpHeaders }

/**
 * A route whose stream a test drives by hand. Call before `listen`. `act` runs in the handler, in the turn that opens the stream.
 */
export function driver (t: { teardown: (fn: () => unknown) => void }, app: FastifyInstance): (act?: (stream: SseStream) => unknown, options?: DriveOptions) => Promise<Driven> {
  interface Job { act: (stream: SseStream) => unknown, options: SseOptions | undefined, valve: Valve | undefined, stream?: SseStream }
  const jobs = new Map<string, Job>()
  app.get<{ Params: { job: string } }>('/driven/:job', {
    onSend: async (request, reply, payload) => {
      const { valve } = jobs.get((request.params as { job: string }).job)!
      return valve === undefined ? payload : (payload as Readable).pipe(valve)
    }
  }, (request, reply) => {
    const job = jobs.get(request.params.job)!
    job.stream = reply.sse(job.options)
    job.act(job.stream)
    return reply
  })
  return async (act = () => {}, { lastEventId, query = '', options, valve = false, headers = {} } = {}) => {
    const job: Job = { act, options, valve: valve ? new Valve() : undefined }
    const id = String(jobs.size)
    jobs.set(id, job)
    const { port } = app.server.address() as AddressInfo
    const client = await connect(`http://127.0.0.1:${port}/driven/${id}${query}`, { headers, ...(lastEventId !== undefined && { lastEventId }) })
    t.teardown(() => client.leave())
    return { client, stream: job.stream!, valve: job.valve }
  }
}

/** What never comes is a failure of the test that waits for it, soon, and not of the whole file. */
export async function within<T> (promise: Promise<T>, what: string, ms = 3_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((resolve, reject) => { timer = setTimeout(() => reject(new Error(`hangs: ${what}`)), ms) })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** `until`, with less patience. */
export function soon<T> (condition: () => T | undefined | false, what: string, ms?: number): Promise<T> {
  return within(until(condition, what), what, ms)
}
