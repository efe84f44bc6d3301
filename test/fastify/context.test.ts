import { Transform, type Readable } from 'node:stream'
import fastifyRequestContext, { requestContext } from '@fastify/request-context'
import Fastify from 'fastify'
import t from 'tap'
import sse, { type SsePluginOptions, type SseStream } from '../../lib/index.ts'
import { connect, listen, soon, within } from '../client.ts'
import { SharedLog } from '../stream/shared-log.ts'
import { ended, keepAccidents, later } from './app.ts'

const accidents = keepAccidents()

/** Whose context this is: of the tenant of a request, or of nobody. */
const whose = (): string => requestContext.get('tenant' as never) ?? 'nobody'

/** An application whose requests have a tenant, and where each log line says in whose context it was written. */
async function tenants (t: { teardown: (fn: () => unknown) => void }, options: SsePluginOptions) {
  const lines: any[] = []
  const app = Fastify({ logger: { level: 'debug', mixin: () => ({ tenant: whose() }), stream: { write: line => { lines.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  await app.register(fastifyRequestContext)
  await app.register(sse, options)
  app.addHook('onRequest', async request => { request.requestContext.set('tenant' as never, (request.query as { tenant: string }).tenant as never) })
  return { app, lines }
}

const BACKPLANES: Record<string, () => SsePluginOptions> = {
  memory: () => ({}),
  shared: () => ({ backplane: new SharedLog().line(() => 1) })
}

for (const [kind, options] of Object.entries(BACKPLANES)) {
  t.test(`listeners, filters, sources, signals and log lines of a stream run in the context of its request, whoever publishes, joins or closes it: ${kind} backplane`, async t => {
    const { app, lines } = await tenants(t, options())
    const seen: Array<[what: string, whose: string]> = []
    const see = (what: string) => () => { seen.push([what, whose()]) }
    for (const event of ['subscribe', 'open', 'gap', 'unsubscribe', 'close'] as const) app.sse.on(event, see(event))
    app.get('/', (request, reply) => reply.sse(async function * (stream: SseStream) {
      stream.signal.addEventListener('abort', see('signal'))
      stream.subscribe('a')
      try {
        yield 'first'
        await new Promise(resolve => stream.signal.addEventListener('abort', resolve))
      } finally {
        see('source')()
      }
    }))
    let stream: SseStream | undefined
    const actions: Record<string, () => unknown> = {
      join: () => {
        stream = [...app.sse.streams][0]!
        stream.subscribe('b', { filter: () => { see('filter')(); return true } })
      },
      publish: () => app.sse.publish('b', 'event'),
      leave: () => { stream!.unsubscribe('a') },
      close: () => { stream!.close() }
    }
    app.post('/:action', async request => { await actions[(request.params as { action: string }).action]!() })
    const url = await listen(app)
    const client = await connect(`${url}/?tenant=one`, { lastEventId: 'unknown' })
    await client.first(1)
    await soon(() => app.sse.stats().gaps === 1, 'the gap')
    for (const action of Object.keys(actions)) {
      await connect(`${url}/${action}?tenant=another`, { method: 'POST' })
      if (action === 'publish') await client.first(2)
    }
    await ended(client, 'the end')
    await soon(() => ['source', 'close'].every(last => seen.some(([what]) => what === last)), 'all to be told')
    t.strictSame([...new Set(seen.map(([what]) => what))].sort(), ['close', 'filter', 'gap', 'open', 'signal', 'source', 'subscribe', 'unsubscribe'])
    t.strictSame(seen.filter(([, tenant]) => tenant !== 'one'), [])
    const own = lines.filter(({ msg }) => /^stream /.test(msg)).map(({ msg, tenant }) => [msg, tenant])
    t.strictSame(own, [['stream opened', 'one'], ['stream gap', 'one'], ['stream gap', 'one'], ['stream closed', 'one']])
  })

  t.test(`a client that leaves, a filter that throws, an age and app.close(): what is told of them is told in the context of the stream's request: ${kind} backplane`, async t => {
    const { app, lines } = await tenants(t, options())
    const seen: Array<[reason: string, whose: string]> = []
    app.sse.on('close', ({ reason }) => { seen.push([reason, whose()]) })
    app.get('/', (request, reply) => reply.sse(app.sse.channel('a')))
    app.get('/throws', (request, reply) => reply.sse(app.sse.channel('a'), { filter: () => { throw new Error('mine') } }))
    app.get('/ages', (request, reply) => reply.sse(app.sse.channel('a'), { maxAge: 200 }))
    app.post('/', async () => { await app.sse.publish('a', 'event') })
    const url = await listen(app)
    const clients = []
    for (const path of ['/', '/throws', '/ages', '/']) clients.push(await connect(`${url}${path}?tenant=${clients.length}`))
    clients[0]!.leave()
    await connect(`${url}/?tenant=another`, { method: 'POST' })
    await soon(() => seen.length === 3, 'three to close')
    await within(app.close(), 'app.close()')
    t.strictSame(seen.sort(), [['age', '2'], ['client', '0'], ['drain', '3'], ['error', '1']])
    t.match(lines.filter(({ msg }) => msg === 'stream failed'), [{ tenant: '1' }])
    t.strictSame(lines.filter(({ msg }) => msg === 'stream closed').map(({ tenant }) => tenant).sort(), ['0', '1', '2', '3'])
  })

  t.test(`a pass runs in nobody's context, and least of all in that of who published: ${kind} backplane`, async t => {
    const { app } = await tenants(t, options())
    const seen = new Set<string>()
    app.addHook('onSend', async (request, reply, payload) => (payload as Readable | string | undefined) instanceof Object
      ? (payload as Readable).pipe(new Transform({
          transform (chunk, encoding, done) {
            if (String(chunk).includes('event')) seen.add(whose())
            done(null, chunk)
          }
        }))
      : payload)
    app.get('/', (request, reply) => reply.sse(app.sse.channel('a')))
    app.post('/', async () => { await app.sse.publish('a', 'event') })
    const url = await listen(app)
    const client = await connect(`${url}/?tenant=one`)
    for (let i = 1; i <= 3; i++) {
      await connect(`${url}/?tenant=another`, { method: 'POST' })
      await client.first(i)
    }
    t.strictSame([...seen], ['nobody'])
    client.leave()
  })
}

t.test('nothing was left unhandled', async t => {
  await later()
  t.strictSame(accidents, [])
})
