import { Readable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { Admission } from '../../lib/fastify/admission.ts'
import { connect, listen, logger, soon, until, within } from '../client.ts'
import { build, ended, isStream } from './app.ts'

t.test('without limits everybody enters', async t => {
  const admission = new Admission({ maxStreams: Infinity, maxStreamsPerKey: Infinity })
  t.equal(admission.perKey, false, 'and nobody needs a key')
  for (let i = 0; i < 10_000; i++) admission.enter(i, undefined)
})

t.test('one stream too many is refused', async t => {
  const admission = new Admission({ maxStreams: 2, maxStreamsPerKey: Infinity })
  admission.enter(0, 'a')
  admission.enter(1, 'b')
  t.throws(() => admission.enter(2, 'c'), { code: 'SSE_ERR_TOO_MANY_STREAMS', statusCode: 503, message: '"maxStreams" is 2, and that many streams are open' })
})

t.test('one stream too many for its key is refused, and other keys go on', async t => {
  const admission = new Admission({ maxStreams: Infinity, maxStreamsPerKey: 2 })
  t.equal(admission.perKey, true)
  admission.enter(0, 'a')
  admission.enter(1, 'a')
  t.throws(() => admission.enter(2, 'a'), { code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY', statusCode: 429, message: '"maxStreamsPerKey" is 2, and that many streams are open for this client' })
  admission.enter(2, 'b')
  admission.leave('a')
  admission.enter(2, 'a')
  t.throws(() => admission.enter(3, 'a'), { code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY' })
  admission.enter(3, 'b')
  t.throws(() => admission.enter(4, 'b'), { code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY' })
})

t.test('a refused stream does not count for its key', async t => {
  const admission = new Admission({ maxStreams: 2, maxStreamsPerKey: 1 })
  admission.enter(0, 'a')
  for (let i = 0; i < 5; i++) t.throws(() => admission.enter(1, 'a'), { code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY' })
  admission.enter(1, 'b')
  t.throws(() => admission.enter(2, 'c'), { code: 'SSE_ERR_TOO_MANY_STREAMS' })
  t.throws(() => admission.enter(2, 'a'), { code: 'SSE_ERR_TOO_MANY_STREAMS' }, 'all counts first')
  admission.leave('a')
  admission.leave('b')
  admission.enter(0, 'c')
  admission.enter(1, 'a')
})

t.test('the limit 0 lets nobody in', async t => {
  t.throws(() => new Admission({ maxStreams: 0, maxStreamsPerKey: Infinity }).enter(0, 'a'), { code: 'SSE_ERR_TOO_MANY_STREAMS' })
  t.throws(() => new Admission({ maxStreams: Infinity, maxStreamsPerKey: 0 }).enter(0, 'a'), { code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY' })
})

t.test('any value is a key, and is not mixed up with another', async t => {
  const admission = new Admission({ maxStreams: Infinity, maxStreamsPerKey: 1 })
  const keys = [undefined, null, 0, '0', '', false, NaN, {}, {}, Symbol('a'), Symbol('a'), '__proto__', 'constructor', 1n]
  for (const key of keys) admission.enter(0, key)
  for (const key of keys) t.throws(() => admission.enter(0, key), { code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY' })
  for (const key of keys) admission.leave(key)
  for (const key of keys) admission.enter(0, key)
})

t.test('a key whose streams have all left is let go of', async t => {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  const admission = new Admission({ maxStreams: Infinity, maxStreamsPerKey: 5 })
  const come = (): WeakRef<object> => {
    const key = {}
    admission.enter(0, key)
    admission.enter(1, key)
    admission.leave(key)
    admission.leave(key)
    return new WeakRef(key)
  }
  const reference = come()
  await until(() => {
    gc()
    return reference.deref() === undefined
  }, 'the key to be collected')
  t.ok(admission.perKey, 'while it counts others')
})

t.test('a refused client is told by status and Retry-After, and gets in when another has left', async t => {
  const app = await build(t, { maxStreams: 2, maxStreamsPerKey: 1, streamKey: request => (request.query as { user?: string }).user, retry: 2_500 })
  app.get('/', (request, reply) => { reply.sse() })
  const url = await listen(app)
  const a = await connect(url + '/?user=a')
  const again = await connect(url + '/?user=a')
  t.equal(again.status, 429)
  t.equal(again.headers['retry-after'], '3', 'whole seconds, not less than retry')
  await until(() => again.closed)
  t.match(JSON.parse(again.text), { statusCode: 429, code: 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY' })
  await connect(url + '/?user=b')
  const c = await connect(url + '/?user=c')
  t.equal(c.status, 503)
  t.equal(c.headers['retry-after'], '3')
  t.not(c.headers['content-type'], 'text/event-stream')
  t.equal(app.sse.streams.size, 2)
  a.leave()
  await until(() => app.sse.streams.size === 1)
  t.equal((await connect(url + '/?user=a')).status, 200)
  t.match(app.sse.stats(), { streams: 2, opened: 3 })
})

t.test('without a limit per key nobody is asked for one', async t => {
  const app = await build(t, { maxStreams: 5, streamKey: () => { throw new Error('asked') } })
  app.get('/', (request, reply) => { reply.sse().close() })
  t.equal((await app.inject('/')).statusCode, 200)
})

t.test('a stream that closes leaves once, for whatever reason', async t => {
  const app = await build(t, { maxStreams: 1 })
  app.get('/end', (request, reply) => reply.sse([{ data: 'x' }]))
  app.get('/twice', async (request, reply) => {
    const stream = reply.sse()
    await Promise.all([stream.close(), stream.close()])
  })
  app.get('/error', (request, reply) => reply.sse(() => { throw new Error('source') }))
  app.head('/head', (request, reply) => reply.sse([{ data: 'x' }]))
  const url = await listen(app)
  for (let round = 0; round < 3; round++) {
    for (const [method, path] of [['GET', '/end'], ['GET', '/twice'], ['GET', '/error'], ['HEAD', '/head']] as const) {
      const client = await connect(url + path, { method })
      t.equal(client.status, 200, `${method} ${path}`)
      await until(() => client.closed)
      await until(() => app.sse.streams.size === 0)
    }
  }
})

// Refusals, as a client sees them

t.test('a stream too many is refused with 503 and Retry-After, one too many of a key with 429, and the next is taken when one leaves', async t => {
  for (const [options, status, code] of [[{ maxStreams: 1 }, 503, 'SSE_ERR_TOO_MANY_STREAMS'], [{ maxStreamsPerKey: 1 }, 429, 'SSE_ERR_TOO_MANY_STREAMS_FOR_KEY']] as const) {
    const app = await build(t, { ...options, retry: 4_200 })
    app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
    app.get('/readable', (request, reply) => {
      const source = Readable.from(['never'])
      source.on('close', () => sources.push('closed'))
      return reply.sse(source)
    })
    const sources: string[] = []
    const url = await listen(app)
    const first = await connect(url)
    const refused = await ended(await within(connect(url), 'the refusal'), 'the end')
    t.equal(refused.status, status)
    t.equal(refused.headers['retry-after'], '5')
    t.match(JSON.parse(refused.text), { code, statusCode: status })
    t.equal((await connect(url + '/readable')).status, status)
    await soon(() => sources.length === 1, 'the refused source to be told')
    first.leave()
    await soon(() => app.sse.streams.size === 0, 'the first to close')
    const next = await within(connect(url), 'the next')
    t.equal(next.status, 200)
    next.leave()
  }
})

t.test('streamKey is asked who the client is, and what it throws is an ordinary error that counts nothing', async t => {
  const app = await build(t, {
    maxStreamsPerKey: 1,
    streamKey (request) {
      const { user } = request.query as { user?: string }
      if (user === undefined) throw new Error('no user')
      return user
    }
  })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const a = await connect(url + '/?user=a')
  const b = await connect(url + '/?user=b')
  t.strictSame([a.status, b.status, (await connect(url + '/?user=a')).status, (await connect(url)).status], [200, 200, 429, 500])
  t.equal(app.sse.stats().streams, 2)
  a.leave()
  b.leave()
})

t.test('a streamKey or a filter that is async is refused: a promise would be a key of its own, and let everything through', async t => {
  const lines: any[] = []
  const app = await build(t, { maxStreamsPerKey: 1, streamKey: async () => { throw new Error('rejects') } }, logger(lines))
  app.get('/', (request, reply) => reply.sse())
  const refused = await app.inject('/')
  t.match([refused.statusCode, refused.json()], [500, { code: 'SSE_ERR_INVALID_OPTION', message: 'option "streamKey" must be synchronous, received one that returns a promise' }])
  t.equal(app.sse.streams.size, 0)

  const other = await build(t, {}, logger(lines))
  const news = other.sse.channel('news')
  const filter = (async () => { throw new Error('rejects') }) as unknown as () => boolean
  other.get('/', (request, reply) => reply.sse(news, { filter }))
  const client = await connect(await listen(other))
  news.publish('secret')
  await until(() => client.closed, 'the end of the stream')
  t.same(client.events, [])
  t.match(lines.find(({ msg }) => msg === 'stream failed')?.err, { code: 'SSE_ERR_INVALID_OPTION', message: 'option "filter" must be synchronous, received one that returns a promise' })
})

t.test('a stream whose onSend hooks still run counts, and a failed one is counted out', async t => {
  const app = await build(t, { maxStreams: 1 })
  let go = (): void => {}
  app.addHook('onSend', async (request, reply, payload) => {
    if (!isStream(payload)) return
    await new Promise<void>(resolve => { go = resolve })
    throw new Error('the hook failed')
  })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const first = connect(url)
  await soon(() => app.sse.stats().streams === 1, 'the first stream')
  t.equal((await connect(url)).status, 503)
  go()
  t.equal((await first).status, 500)
  t.equal(app.sse.stats().streams, 0)
  const third = connect(url)
  await soon(() => app.sse.stats().streams === 1, 'the third stream, which is taken')
  go()
  await third
})
