import type { AddressInfo } from 'node:net'
import { LogController, type FastifyRequest, type FastifyServerOptions } from 'fastify'
import t from 'tap'
import { connect, listen, logger, soon } from '../client.ts'
import { build, ended, keepAccidents, later, passed } from './app.ts'

const accidents = keepAccidents()

t.test('a finite stream is one line in the log, with its reason, and onResponse hooks run', async t => {
  for (const slow of [false, true]) {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'info'))
    if (slow) app.addHook('onSend', async () => { await later() })
    let responses = 0
    app.addHook('onResponse', async (request, reply) => {
      reply.log.info('from a hook')
      responses++
    })
    app.get('/', async (request, reply) => reply.sse(['one', 'two']))
    const client = await ended(await connect(await listen(app) + '/'), 'the end')
    t.equal(client.closed, 'end')
    await soon(() => responses === 1, 'the onResponse hook')
    await later()
    const own = lines.filter(({ reqId }) => reqId !== undefined)
    t.strictSame(own.map(({ msg }) => msg), ['incoming request', 'stream closed', 'from a hook'])
    t.match(own[1], { level: 30, reason: 'end', events: 2, bytes: Buffer.byteLength(client.text) })
    t.type(own[1].durationMs, 'number')
    t.equal(responses, 1)
  }
})

class Silent extends LogController {
  override isLogDisabled ({ url }: FastifyRequest): boolean { return url.startsWith('/silent') }
}

const SILENCING: ReadonlyArray<readonly [what: string, options: FastifyServerOptions, silent: boolean, loud: boolean]> = [
  ['disableRequestLogging: true', { disableRequestLogging: true }, true, true],
  ['a function as disableRequestLogging', { disableRequestLogging: ({ url }: FastifyRequest) => url!.startsWith('/silent') } as FastifyServerOptions, true, false],
  ['a logController with disableRequestLogging', { logController: new LogController({ disableRequestLogging: true }) }, true, true],
  ['a logController of one\'s own', { logController: new Silent() }, true, false],
  ['nothing', {}, false, false]
] as const

for (const [what, options, ...silent] of SILENCING) {
  t.test(`${what} silences a stream as it silences any other request`, async t => {
    const lines: any[] = []
    const app = await build(t, {}, { ...logger(lines, 'info'), ...options })
    await app.register(async child => {
      for (const path of ['/silent', '/loud']) child.get(path, (request, reply) => reply.sse(['one']))
    })
    app.get('/silent/open', (request, reply) => reply.sse(app.sse.channel('time')))
    app.get('/loud/open', (request, reply) => reply.sse(app.sse.channel('time')))
    for (const [i, path] of ['/silent', '/loud'].entries()) {
      lines.length = 0
      await app.inject(path)
      const url = app.server.listening ? '' : await listen(app)
      const base = url === '' ? `http://127.0.0.1:${(app.server.address() as AddressInfo).port}` : url
      const client = await connect(`${base}${path}/open`)
      client.leave()
      await soon(() => app.sse.streams.size === 0, 'the stream to close')
      await passed(30)
      t.strictSame(lines.filter(({ reqId }) => reqId !== undefined).map(({ msg }) => msg), silent[i] ? [] : ['incoming request', 'stream closed', 'incoming request', 'stream closed'])
    }
  })
}

t.test('the log lines of other requests, and a stream that was never opened, are Fastify\'s own', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'info'))
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  app.get('/text', async () => 'text')
  await app.inject('/text')
  await app.inject({ url: '/', method: 'HEAD' })
  t.strictSame(lines.map(({ msg }) => msg), ['incoming request', 'request completed', 'incoming request', 'request completed'])
})

t.test('a client that leaves is one line in the log: stream closed', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'info'))
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  const client = await connect(await listen(app))
  client.leave()
  await soon(() => lines.some(({ msg }) => msg === 'stream closed'), 'the line')
  await passed(60)
  t.strictSame(lines.filter(({ reqId }) => reqId !== undefined).map(({ msg, reason }) => reason ?? msg), ['incoming request', 'client'])
})

t.test('nothing was left unhandled', async t => {
  await passed(50)
  t.strictSame(accidents, [])
})
