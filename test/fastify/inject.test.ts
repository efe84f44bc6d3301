/**
 * How to test your own routes with `app.inject()`, without a socket.
 *
 * A finite stream is like any other response: `await app.inject('/export')` resolves when it has ended, with its whole body.
 *
 * An endless stream never ends, so ask for the body as a stream: `await app.inject({ url, payloadAsStream: true })` resolves with the
 * head, and `response.stream()` is a Readable of what follows. Destroy the response from your side when you have seen enough:
 * end the stream on the server (`for (const stream of app.sse.streams) stream.close()`), or close the application.
 */
import type { Readable } from 'node:stream'
import { createParser, type EventSourceMessage } from 'eventsource-parser'
import t from 'tap'
import { build, logger, soon, until, within } from '../client.ts'
import { passed } from './app.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

/** The events of a body, as it comes. */
function events (body: Readable): EventSourceMessage[] {
  const seen: EventSourceMessage[] = []
  const parser = createParser({ onEvent: event => seen.push(event) })
  body.setEncoding('utf8')
  body.on('data', chunk => parser.feed(chunk))
  body.on('error', () => {})
  return seen
}

t.test('inject() of a finite stream resolves with the whole body', async t => {
  const app = await build(t)
  app.get('/export', (request, reply) => reply.sse([{ event: 'row', data: { n: 1 } }, { event: 'row', data: { n: 2 } }]))
  const response = await within(app.inject('/export'), 'the response')
  t.equal(response.statusCode, 200)
  t.match(response.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no' })
  t.equal(response.body, 'retry: 3000\n\nevent: row\ndata: {"n":1}\n\nevent: row\ndata: {"n":2}\n\n')
})

t.test('inject() of an async generator, of a function and of a stream driven by hand resolves when it ends', async t => {
  const app = await build(t)
  const wait = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 10))
  app.get('/generator', (request, reply) => reply.sse(async function * () {
    yield 'one'
    await wait()
    yield 'two'
  }))
  app.get('/function', async (request, reply) => reply.sse(async stream => {
    await stream.send('one')
    await wait()
    await stream.send('two')
  }))
  app.get('/driven', (request, reply) => {
    const stream = reply.sse()
    stream.send('one')
    stream.send('two')
    stream.close()
    return stream
  })
  for (const url of ['/generator', '/function', '/driven']) {
    const response = await within(app.inject(url), url)
    t.equal(response.body, 'retry: 3000\n\ndata: one\n\ndata: two\n\n', url)
  }
})

t.test('inject() of a large finite stream loses nothing', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(function * () { for (let n = 0; n < 2_000; n++) yield { data: 'x'.repeat(1_000) } }))
  const response = await within(app.inject('/'), 'the response', 10_000)
  t.equal(response.body.length, 'retry: 3000\n\n'.length + 2_000 * 1_008)
})

t.test('inject() of an endless stream, with payloadAsStream: the head at once, then the events, until the server ends it', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'info'))
  const time = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(time))
  const response = await within(app.inject({ url: '/events', payloadAsStream: true }), 'the head')
  t.equal(response.statusCode, 200)
  t.equal(response.headers['content-type'], 'text/event-stream')
  const body = response.stream()
  const seen = events(body)
  const cursor = await time.publish({ event: 'tick', data: { n: 1 } })
  await until(() => seen.length === 1, 'the first event')
  t.strictSame(seen, [{ id: cursor, event: 'tick', data: '{"n":1}' }])
  for (let n = 0; n < 3_000; n++) time.publish('x'.repeat(100))
  await until(() => seen.length === 3_001, '3,000 events more')

  let ended = false
  body.on('end', () => { ended = true })
  for (const stream of app.sse.streams) stream.close()
  await soon(() => ended, 'the body to end')
  t.equal(app.sse.streams.size, 0)
  t.equal(app.sse.stats().closed.server, 1)
  t.strictSame(lines.filter(({ level }) => level >= 40), [])
})

t.test('inject() of an endless stream resumes from Last-Event-ID, as a client does', async t => {
  const app = await build(t)
  const time = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(time))
  const cursor = await time.publish('one')
  await time.publish('two')
  for (const injected of [{ url: '/events', headers: { 'last-event-id': cursor } }, { url: '/events', query: { lastEventId: cursor } }]) {
    const response = await within(app.inject({ ...injected, payloadAsStream: true }), 'the head')
    const seen = events(response.stream())
    await until(() => seen.length === 1, 'the event that was missed')
    t.equal(seen[0]?.data, 'two')
  }
})

t.test('an injected client that leaves closes its stream, and no line in the log is an error', async t => {
  for (const read of [false, true]) {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'info'))
    app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
    const response = await within(app.inject({ url: '/events', payloadAsStream: true }), 'the head')
    let broken = !read
    if (read) response.stream().on('error', () => { broken = true }).resume()
    t.equal(app.sse.streams.size, 1)
    response.raw.res.destroy()
    await soon(() => app.sse.streams.size === 0 && broken, 'the stream to close')
    await passed(30)
    t.strictSame(lines.map(({ level, msg, reason }) => [level, reason ?? msg]), [[30, 'incoming request'], [30, 'client']])
  }
})

t.test('an injected request that is aborted closes its stream', async t => {
  const app = await build(t)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const leave = new AbortController()
  const response = await within(app.inject({ url: '/events', payloadAsStream: true, signal: leave.signal }), 'the head')
  events(response.stream())
  t.equal(app.sse.streams.size, 1)
  leave.abort()
  await soon(() => app.sse.streams.size === 0, 'the stream to close')
})

t.test('app.close() ends injected streams and tells them', async t => {
  const app = await build(t)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const response = await within(app.inject({ url: '/events', payloadAsStream: true }), 'the head')
  let text = ''
  let ended = false
  response.stream().on('data', chunk => { text += String(chunk) }).on('end', () => { ended = true })
  await within(app.close(), 'app.close()')
  await soon(() => ended, 'the body to end')
  t.match(text, /retry: [1-5]\d{3}\n\n$/)
})

t.test('a refusal, a HEAD and an error are seen by inject()', async t => {
  const app = await build(t, { maxStreams: 1 })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  app.get('/throws', (request, reply) => reply.sse(42 as never))
  const open = await within(app.inject({ url: '/events', payloadAsStream: true }), 'the head')
  open.stream().resume()
  const refused = await within(app.inject('/events'), 'the refusal')
  t.equal(refused.statusCode, 503)
  t.equal(refused.headers['retry-after'], '3')
  for (const stream of app.sse.streams) stream.close()
  const head = await within(app.inject({ method: 'HEAD', url: '/events' }), 'the answer to HEAD')
  t.equal(head.headers['content-type'], 'text/event-stream')
  t.equal(head.body, '')
  t.match((await within(app.inject('/throws'), 'the error')).json(), { code: 'SSE_ERR_INVALID_SOURCE', statusCode: 500 })
})

t.test('a source that throws breaks an injected response: inject() rejects, or the body does', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(async function * () {
    yield 'one'
    await new Promise(resolve => setTimeout(resolve, 50))
    throw new Error('a secret')
  }))
  const response = await within(app.inject('/').catch((error: Error) => error), 'the response')
  t.ok(response instanceof Error)
  t.match(response, { code: 'LIGHT_ECONNRESET' })
  const streamed = await within(app.inject({ url: '/', payloadAsStream: true }), 'the head')
  const errors: Error[] = []
  streamed.stream().on('error', error => errors.push(error)).resume()
  await soon(() => errors.length > 0, 'the body to break')
  t.notMatch(errors[0]?.message, 'secret')
})

t.test('inject() through async onSend hooks, and with cookies, is the same', async t => {
  const app = await build(t)
  app.addHook('onSend', async (request, reply) => {
    await new Promise(resolve => setTimeout(resolve, 10))
    reply.header('set-cookie', 'a=1')
  })
  app.get('/', async (request, reply) => reply.sse(['one']))
  const response = await within(app.inject('/'), 'the response')
  t.same(response.cookies, [{ name: 'a', value: '1' }])
  t.equal(response.body, 'retry: 3000\n\ndata: one\n\n')
})

t.test('nothing was left unhandled', async t => {
  await new Promise(resolve => setTimeout(resolve, 50))
  t.strictSame(accidents, [])
})
