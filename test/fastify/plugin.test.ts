import { hasSubscribers } from 'node:diagnostics_channel'
import Fastify from 'fastify'
import t from 'tap'
import sse from '../../lib/index.ts'
import { connect, listen, within } from '../client.ts'
import { build, ended, isStream, keepAccidents, passed } from './app.ts'

const accidents = keepAccidents()

t.test('a stream gets the events of its channel', async t => {
  const app = await build(t)
  const time = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(time))
  const url = await listen(app)
  const client = await connect(url + '/events')
  t.equal(client.headers['content-type'], 'text/event-stream')
  const cursor = await time.publish({ event: 'tick', data: { n: 1 } })
  const [event] = await client.first(1)
  t.match(event, { event: 'tick', data: '{"n":1}', id: cursor })
})

// Decorators, encapsulation, registration

t.test('the decorators are there in the context of the registration and below, and nowhere else', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(async child => {
    await child.register(sse)
    t.ok(child.hasDecorator('sse'))
    t.ok(child.hasReplyDecorator('sse'))
    t.ok(child.hasRequestDecorator('acceptsSse'))
    child.get('/events', (request, reply) => reply.sse(['one']))
    child.register(async grandchild => {
      t.equal(grandchild.sse, child.sse)
      grandchild.get('/events', (request, reply) => reply.sse(['two']))
    }, { prefix: '/deep' })
  }, { prefix: '/child' })
  t.notOk(app.hasDecorator('sse'))
  t.notOk(app.hasReplyDecorator('sse'))
  const url = await listen(app)
  t.equal((await (await connect(url + '/child/events')).first(1))[0]?.data, 'one')
  t.equal((await (await connect(url + '/child/deep/events')).first(1))[0]?.data, 'two')
})

t.test('two sibling contexts may each have a registration of their own', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const registries: unknown[] = []
  for (const prefix of ['/a', '/b']) {
    await app.register(async child => {
      await child.register(sse)
      registries.push(child.sse)
      child.get('/', (request, reply) => reply.sse(child.sse.channel('time')))
      child.get('/throws', async (request, reply) => {
        reply.sse(child.sse.channel('time'))
        throw new Error('oops')
      })
      child.post('/publish', async () => await child.sse.publish('time', prefix))
    }, { prefix })
  }
  t.not(registries[0], registries[1])
  const url = await listen(app)
  const a = await connect(url + '/a')
  const b = await connect(url + '/b')
  await app.inject({ method: 'POST', url: '/b/publish' })
  await app.inject({ method: 'POST', url: '/a/publish' })
  t.strictSame((await a.first(1)).map(({ data }) => data), ['/a'])
  t.strictSame((await b.first(1)).map(({ data }) => data), ['/b'])
  t.equal((await ended(await connect(url + '/b/throws'), 'the end')).closed, 'aborted')
  t.equal(b.events.length, 1)
})

t.test('a second registration in the same context or below is refused with a coded error', async t => {
  const same = Fastify()
  t.teardown(() => same.close())
  await same.register(sse)
  await t.rejects((async () => { await same.register(sse) })(), { code: 'SSE_ERR_ALREADY_REGISTERED' })

  const below = Fastify()
  t.teardown(() => below.close())
  await below.register(sse)
  below.register(async child => { await child.register(sse) })
  await t.rejects((async () => { await below.ready() })(), { code: 'SSE_ERR_ALREADY_REGISTERED' })
})

t.test('an invalid option fails the registration, and the application can still be closed', async t => {
  const app = Fastify()
  await t.rejects((async () => { await app.register(sse, { heartbeatInterval: -1 }) })(), { code: 'SSE_ERR_INVALID_OPTION', message: /heartbeatInterval/ })
  await app.close()
  t.notOk(hasSubscribers('tracing:fastify.request.handler:error'))
})

t.test('routes that were added before the registration have their errors handled too', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onSend', async (request, reply, payload) => { if (isStream(payload)) throw new Error('the hook failed') })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  app.register(sse)
  const client = await within(connect(await listen(app)), 'the response')
  t.equal(client.status, 500)
})

t.test('nothing was left unhandled', async t => {
  await passed(50)
  t.strictSame(accidents, [])
})
