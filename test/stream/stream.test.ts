import { getEventListeners } from 'node:events'
import http from 'node:http'
import { Transform, type Readable } from 'node:stream'
import t from 'tap'
import type { CloseReason, SsePluginOptions, SseRegistryEvents, SseStream } from '../../lib/index.ts'
import { blocks, build, connect, listen, logger, until, within, type Driven } from '../client.ts'
import { block, data, start, turn } from './driving.ts'

// Own events

t.test('send() takes events and strings, in order, and says that the socket can take more', async t => {
  const { drive } = await start(t)
  const { client, stream } = await drive()
  t.equal(await stream.send({ id: '1', event: 'x', data: { n: 1 } }), true)
  t.equal(await stream.send('text\nof two lines'), true)
  t.equal(await stream.send({ data: null }), true)
  t.equal(await stream.send({ retry: 5 }), true)
  t.equal(await stream.comment('a comment'), true)
  await until(() => client.comments.includes('a comment'))
  t.match(client.events, [{ id: '1', event: 'x', data: '{"n":1}' }, { data: 'text\nof two lines' }, { data: 'null' }])
  t.same(client.retries, [3000, 5])
})

t.test('what is sent before the head has left arrives after it', async t => {
  const { drive, a } = await start(t)
  const states: string[] = []
  const { client } = await drive(stream => {
    states.push(stream.state)
    stream.send('1')
    stream.send({ id: 'own', data: '2' })
    stream.subscribe(a)
    a.publish('3')
  })
  await client.first(3)
  t.same(states, ['opening'])
  t.same(data(client).sort(), ['1', '2', '3'])
  t.ok(data(client).indexOf('1') < data(client).indexOf('2'))
})

t.test('the first event and those that follow go to the socket as whole chunks, and not through response.write(), which costs half as much again', async t => {
  const writes = t.capture(http.ServerResponse.prototype, 'write', http.ServerResponse.prototype.write)
  const { drive, a } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe(a))
  stream.send('1')
  a.publish('2')
  await client.first(2)
  t.same(writes(), [])
})

t.test('own events go between channel events, each kind in order', async t => {
  const { drive, a } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe(a))
  for (let i = 0; i < 300; i++) {
    if (i % 2 === 0) a.publish(`channel ${i}`)
    else stream.send(`own ${i}`)
    if (i % 7 === 0) await turn()
  }
  await client.first(300)
  const even = Array.from({ length: 150 }, (_, i) => `channel ${2 * i}`)
  const odd = Array.from({ length: 150 }, (_, i) => `own ${2 * i + 1}`)
  t.same(data(client).filter(text => text.startsWith('channel')), even)
  t.same(data(client).filter(text => text.startsWith('own')), odd)
})

t.test('own events have no id on a subscribed stream: the cursor of the client stays', async t => {
  const { drive, a } = await start(t)
  const { client, stream } = await drive(stream => stream.subscribe(a))
  const cursor = await a.publish('channel')
  await client.first(1)
  stream.send('own')
  await client.first(2)
  t.equal(client.lastEventId, cursor)
  for (const id of ['', 'x', cursor]) await t.rejects(stream.send({ id, data: 'x' }), { code: 'SSE_ERR_INVALID_EVENT', message: /"id"/ })
  t.equal(stream.state, 'open')
  stream.unsubscribe(a)
  t.equal(await stream.send({ id: 'mine', data: 'x' }), true)
  await until(() => client.lastEventId === 'mine')
})

t.test('a refused event sends nothing', async t => {
  const { drive } = await start(t)
  const { client, stream } = await drive()
  for (const event of [{}, { id: 'a\nb' }, { event: 'a\rb' }, { retry: 1.5 }, { retry: -1 }, { id: 'a\0' }, { data: () => {} }, { data: 1n }, null, 7]) {
    await t.rejects(stream.send(event as any), { code: 'SSE_ERR_INVALID_EVENT' })
  }
  await stream.send('ok')
  await client.first(1)
  t.same(blocks(client.text), [{ retry: '3000' }, { data: 'ok' }])
})

t.test('on a full socket send() waits, and tells true when it can take more', async t => {
  const { app, drive } = await start(t)
  const driven = await drive(undefined, { valve: true })
  await block(driven)
  const { client, stream, valve } = driven
  t.equal(app.sse.stats().blocked, 1)
  let answer: boolean | undefined
  stream.send('waits').then(value => { answer = value })
  await turn()
  t.equal(answer, undefined)
  valve!.open()
  await until(() => answer !== undefined)
  t.equal(answer, true)
  t.equal(stream.blocked, false)
  t.equal(app.sse.stats().blocked, 0)
  await client.first(1)
})

t.test('a producer that awaits send() keeps the client\'s pace, and one that does not overflows', async t => {
  const { app, drive } = await start(t, { maxBufferedBytes: 10_000 })
  const driven = await drive(undefined, { valve: true })
  await block(driven)
  let sent = 0
  const all = (async () => {
    for (let i = 0; i < 20; i++) {
      if (!(await driven.stream.send('x'.repeat(5_000)))) return
      sent++
    }
  })()
  await turn()
  t.equal(sent, 0)
  driven.valve!.open()
  await all
  t.equal(sent, 20)
  await driven.client.first(20)

  const fast = await drive(undefined, { valve: true })
  await block(fast)
  const answers = Array.from({ length: 3 }, () => fast.stream.send('x'.repeat(4_000)))
  t.equal(await fast.stream.closed, 'overflow')
  t.same(await Promise.all(answers), [false, false, false])
  await until(() => fast.client.closed)
  t.equal(fast.client.closed, 'aborted')
  t.match(app.sse.stats(), { streams: 1, blocked: 0, closed: { overflow: 1 } })
})

t.test('maxBufferedBytes is a limit of what waits, to the byte', async t => {
  const { drive } = await start(t, { maxBufferedBytes: 1000 })
  const driven = await drive(undefined, { valve: true })
  await block(driven)
  const frame = 'data: \n\n'.length
  driven.stream.send('é'.repeat((1000 - frame) / 2))
  t.equal(driven.stream.state, 'open')
  driven.stream.comment('')
  t.equal(driven.stream.state, 'closed')
  t.equal(await driven.stream.closed, 'overflow')
})

t.test('own events that waited go out before further channel events', async t => {
  const { drive, a } = await start(t)
  const driven = await drive(stream => stream.subscribe(a), { valve: true })
  await block(driven)
  a.publish('channel')
  await turn()
  driven.stream.send('own')
  driven.valve!.open()
  await driven.client.first(2)
  t.same(data(driven.client), ['own', 'channel'])
})

t.test('own events of many pieces arrive complete', async t => {
  const { drive, a } = await start(t, { maxBufferedBytes: 100_000_000 })
  const { client } = await drive(stream => {
    stream.subscribe(a)
    for (let i = 0; i < 40; i++) stream.send(`${i} ${'x'.repeat(30_000)}`)
  })
  await client.first(40)
  t.same(data(client).map(text => Number(text.split(' ')[0])), Array.from({ length: 40 }, (_, i) => i))
})

// Closing

t.test('send(), comment() and subscribe() on a closed stream do nothing and say so', async t => {
  const { app, drive, a } = await start(t)
  const { stream } = await drive()
  await stream.close()
  t.equal(await stream.send('x'), false)
  t.equal(await stream.comment('x'), false)
  t.equal(stream.subscribe(a), stream)
  t.equal(stream.unsubscribe(a), stream)
  t.equal(a.size, 0)
  t.equal(stream.channels.size, 0)
  await stream.close()
  t.match(app.sse.stats(), { streams: 0, closed: { server: 1 } })
})

t.test('close() ends after own events that wait, with a last retry, and resolves when the response is done', async t => {
  const { drive } = await start(t)
  const { client, stream } = await drive()
  stream.send('last words')
  const first = stream.close({ retry: 9 })
  const second = stream.close({ retry: 10 })
  await Promise.all([first, second])
  await until(() => client.closed)
  t.equal(client.closed, 'end')
  t.same(data(client), ['last words'])
  t.same(client.retries, [3000, 9])
  await t.rejects(stream.close({ retry: -5 }), { code: 'SSE_ERR_INVALID_EVENT' })
})

t.test('close() refuses what is no options, and leaves the stream open', async t => {
  const { drive } = await start(t)
  const { stream } = await drive()
  for (const bad of [null, 'retry', 5, [], { wait: 5 }]) await t.rejects(stream.close(bad as object), { code: 'SSE_ERR_INVALID_OPTION' }, String(bad))
  t.equal(stream.state, 'open')
})

t.test('close() of a blocked stream flushes what waits when the client reads again', async t => {
  const { app, drive, a } = await start(t)
  const driven = await drive(stream => stream.subscribe(a), { valve: true })
  await block(driven)
  driven.stream.send('own')
  const done = driven.stream.close()
  t.equal(app.sse.stats().blocked, 0)
  driven.valve!.open()
  await done
  await until(() => driven.client.closed)
  t.same(data(driven.client), ['own'])
  t.equal(driven.client.closed, 'end')
})

t.test('close() in the handler, before the head has left, answers with an empty stream', async t => {
  const { app, drive, a } = await start(t)
  const { client } = await drive(stream => { stream.subscribe(a); stream.send('own'); stream.close() })
  await until(() => client.closed)
  t.equal(client.status, 200)
  t.equal(client.closed, 'end')
  t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0 })
})

t.test('signal and closed tell of the end, asked for before it and after it', async t => {
  const { drive } = await start(t)
  const { client, stream } = await drive()
  const { signal } = stream
  t.equal(signal.aborted, false)
  t.equal(stream.signal, signal)
  const { closed } = stream
  client.leave()
  t.equal(await closed, 'client')
  t.equal(signal.aborted, true)
  t.equal(signal.reason, 'client')
  t.equal(await stream.closed, 'client')
  t.equal(stream.state, 'closed')
  const late = await drive()
  await late.stream.close()
  t.equal(late.stream.signal.aborted, true)
  t.equal(late.stream.signal.reason, 'server')
  t.equal(await late.stream.closed, 'server')
})

t.test('the option "signal" ends the stream as close() does, before the handler and after it', async t => {
  const { app, drive, a } = await start(t)
  const controller = new AbortController()
  const driven = await drive(stream => { stream.subscribe(a).send('own').catch(t.fail) }, { options: { signal: controller.signal } })
  await driven.client.first(1)
  controller.abort()
  t.equal(await driven.stream.closed, 'server')
  await until(() => driven.client.closed)
  t.equal(driven.client.closed, 'end')
  const late = await drive(undefined, { options: { signal: AbortSignal.abort() } })
  t.equal(late.stream.state, 'closed')
  await until(() => late.client.closed)
  t.equal(late.client.status, 200)
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, closed: { server: 1 } })
})

t.test('one signal may end any number of streams and sources: Node warns of no leak, and nothing is left on it', async t => {
  const { app, drive } = await start(t)
  const warnings: unknown[] = []
  const warn = (warning: unknown): void => { warnings.push(warning) }
  process.on('warning', warn)
  t.teardown(() => process.off('warning', warn))
  const controller = new AbortController()
  const { signal } = controller
  const driven = []
  for (let n = 0; n < 12; n++) driven.push(await drive(undefined, { options: { signal } }))
  const sources = Array.from({ length: 12 }, (_, n) => app.sse.channel(`of ${n}`).publishFrom((async function * () { await new Promise(() => {}) })(), { signal }))
  driven[0]!.client.leave()
  t.equal(await driven[0]!.stream.closed, 'client')
  controller.abort()
  t.same(await Promise.all(driven.slice(1).map(({ stream }) => stream.closed)), driven.slice(1).map(() => 'server'))
  t.same(await within(Promise.all(sources), 'the sources'), sources.map(() => 'aborted'))
  await turn()
  t.same(warnings, [])
  t.same(getEventListeners(signal, 'abort'), [])
})

t.test('every promise settles when the client leaves', async t => {
  const { drive } = await start(t)
  const driven = await drive(undefined, { valve: true })
  await block(driven)
  const pending = [driven.stream.send('x'), driven.stream.comment('y')]
  driven.client.leave()
  t.same(await Promise.all(pending), [false, false])
  await driven.stream.close()
})

// Reasons

interface Case {
  reason: CloseReason
  options?: SsePluginOptions
  valve?: boolean
  /** Ends the stream; two channel events and two own events were received. */
  end: (driven: Driven, context: Awaited<ReturnType<typeof start>>) => unknown
  /** The client gets everything up to the end. */
  complete?: boolean
}

const cases: Case[] = [
  { reason: 'client', end: ({ client }) => client.leave() },
  { reason: 'server', end: ({ stream }) => stream.close({ retry: 77 }), complete: true },
  { reason: 'age', options: { maxAge: 400 }, end: () => {}, complete: true },
  { reason: 'stall', options: { stallTimeout: 100 }, valve: true, end: block },
  { reason: 'overflow', options: { maxBufferedBytes: 100 }, valve: true, end: async driven => { await block(driven); driven.stream.send('x'.repeat(200)) } },
  { reason: 'drain', end: (driven, { app }) => app.close(), complete: true },
  { reason: 'error', end: ({ stream }, { a }) => { stream.subscribe(a, { filter: () => { throw new Error('thrown by the test') } }); a.publish('x') } }
]

for (const { reason, options, valve = false, end, complete = false } of cases) {
  t.test(`"${reason}": the log line, the 'close' event, stats() and the promise tell the same, with the right counts and bytes`, async t => {
    const lines: any[] = []
    const context = await start(t, options, logger(lines))
    const { app, drive, a } = context
    const closes: Array<SseRegistryEvents['close'][0]> = []
    app.sse.on('close', event => closes.push(event))
    const driven = await drive(stream => { stream.subscribe(a); stream.send('before the head') }, { valve })
    a.publish('1')
    await driven.stream.send({ event: 'own', data: 'é' })
    a.publish('2')
    await driven.client.first(4)
    const read = Buffer.byteLength(driven.client.text)
    const { closed } = driven.stream
    await end(driven, context)
    t.equal(await closed, reason)
    await until(() => driven.client.closed)
    t.equal(driven.client.closed, complete ? 'end' : 'aborted')
    t.equal(closes.length, 1)
    const [close] = closes
    t.equal(close!.stream, driven.stream)
    t.equal(close!.reason, reason)
    t.equal(close!.events, 4)
    if (complete) t.equal(close!.bytes, Buffer.byteLength(driven.client.text))
    else t.ok(close!.bytes >= read && close!.bytes < read + 200, `${close!.bytes} bytes, ${read} were read`)
    t.ok(Number.isInteger(close!.durationMs) && close!.durationMs >= 0)
    const said = lines.filter(({ msg }) => msg === 'stream closed')
    t.match(said, [{ level: 30, reason, events: close!.events, bytes: close!.bytes, durationMs: close!.durationMs, reqId: 'req-1' }])
    const stats = app.sse.stats()
    t.match(stats, { streams: 0, channels: 0, subscriptions: 0, blocked: 0, opened: 1, closed: { [reason]: 1 } })
    t.equal(Object.values(stats.closed).reduce((sum, n) => sum + n), 1)
    t.equal(stats.bytesWritten, close!.bytes)
    t.equal(stats.delivered, 2)
  })
}

t.test('"end": the log line, the \'close\' event and stats() tell the right counts and bytes of a source', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines))
  const closes: Array<SseRegistryEvents['close'][0]> = []
  app.sse.on('close', event => closes.push(event))
  app.get('/source', (request, reply) => reply.sse((function * () { yield 'é'; yield { event: 'x', data: 1 } })()))
  const url = await listen(app)
  const client = await connect(url + '/source')
  await until(() => client.closed)
  t.equal(client.closed, 'end')
  t.match(closes, [{ reason: 'end', events: 2, bytes: Buffer.byteLength(client.text) }])
  t.match(lines.find(({ msg }) => msg === 'stream closed'), { level: 30, reason: 'end', events: 2, bytes: Buffer.byteLength(client.text) })
})

t.test('"events" are those that fire in a client: no comments, no retry alone, but gaps', async t => {
  const { app, drive, a } = await start(t)
  const closes: Array<SseRegistryEvents['close'][0]> = []
  app.sse.on('close', event => closes.push(event))
  const { client, stream } = await drive(stream => stream.subscribe(a), { lastEventId: 'garbage' })
  await stream.comment('one')
  await stream.send({ retry: 3 })
  await stream.send('an event')
  await stream.close()
  await until(() => client.closed)
  t.equal(client.events.length + client.gaps.length, 2)
  t.equal(closes[0]!.events, 2)
  t.equal(closes[0]!.bytes, Buffer.byteLength(client.text))
})

// Time

t.test('a stream ends between 90 and 100 % of its maxAge, the reply\'s own before the plugin\'s', async t => {
  const { drive } = await start(t, { maxAge: 60_000 })
  const begin = performance.now()
  const own = await Promise.all(Array.from({ length: 10 }, () => drive(undefined, { options: { maxAge: 400 } })))
  const ages = await Promise.all(own.map(async ({ stream }) => {
    t.equal(await stream.closed, 'age')
    return performance.now() - begin
  }))
  t.ok(Math.min(...ages) >= 350, `the first after ${Math.min(...ages)} ms`)
  t.ok(Math.max(...ages) < 2_000, `the last after ${Math.max(...ages)} ms`)
  const none = await drive(undefined, { options: { maxAge: 0 } })
  t.equal(none.stream.state, 'open')
})

t.test('a heartbeat is a comment on a stream without a channel, and the newest cursor on a subscribed one', async t => {
  const { app, drive, a } = await start(t, { heartbeatInterval: 40 })
  const bare = await drive()
  const subscribed = await drive(stream => stream.subscribe(a))
  await until(() => bare.client.comments.length >= 3, 'comments')
  t.equal(bare.client.lastEventId, '')
  t.same(bare.client.comments.filter(text => text !== ''), [])
  for (let i = 0; i < 3; i++) {
    const cursor = await app.sse.publish('other', 'x')
    await until(() => subscribed.client.lastEventId === cursor, 'the cursor')
  }
  t.same(subscribed.client.comments, [])
  t.same(subscribed.client.events, [])
  t.ok(blocks(subscribed.client.text).slice(1).every(block => Object.keys(block).join() === 'id'))
})

t.test('heartbeats come on quiet streams alone', async t => {
  const { drive, a } = await start(t, { heartbeatInterval: 200 })
  const { client } = await drive(stream => stream.subscribe(a))
  for (let i = 0; i < 40; i++) {
    await a.publish(String(i))
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  await client.first(40)
  const idle = blocks(client.text).filter(block => Object.keys(block).join() === 'id')
  t.ok(idle.length <= 2, `${idle.length} id-only blocks, of which one is the first`)
})

t.test('the first heartbeat of a stream that opens after a quiet time comes no earlier than others', async t => {
  const { drive } = await start(t, { heartbeatInterval: 400 })
  const one = await drive()
  one.client.leave()
  await one.stream.closed
  await new Promise(resolve => setTimeout(resolve, 500))
  const begin = performance.now()
  const { client } = await drive()
  await until(() => client.comments.length > 0, 'the first heartbeat')
  const after = performance.now() - begin
  t.ok(after > 250, `it came after ${after.toFixed()} ms of 400`)
})

t.test('heartbeatInterval 0 sends none', async t => {
  const { drive, a } = await start(t, { heartbeatInterval: 0, stallTimeout: 50 })
  const { client, stream } = await drive(stream => stream.subscribe(a))
  await new Promise(resolve => setTimeout(resolve, 150))
  await stream.close()
  await until(() => client.closed)
  t.equal(blocks(client.text).length, 1)
})

t.test('a full socket gets no heartbeat, and a stream that drains in time does not stall', async t => {
  const { app, drive } = await start(t, { heartbeatInterval: 20, stallTimeout: 300 })
  const driven = await drive(undefined, { valve: true })
  for (let i = 0; i < 4; i++) {
    await block(driven)
    const { bytesWritten } = app.sse.stats()
    await new Promise(resolve => setTimeout(resolve, 120))
    t.equal(app.sse.stats().bytesWritten, bytesWritten)
    driven.valve!.open()
    await until(() => !driven.stream.blocked)
  }
  t.equal(driven.stream.state, 'open')
})

t.test('a stream that ended while its socket was full is cut after stallTimeout', async t => {
  const { app, drive } = await start(t, { stallTimeout: 150 })
  const driven = await drive(undefined, { valve: true })
  await block(driven)
  const begin = performance.now()
  await driven.stream.close()
  t.ok(performance.now() - begin >= 100)
  await until(() => driven.client.closed)
  t.equal(driven.client.closed, 'aborted')
  t.equal(await driven.stream.closed, 'server')
  t.match(app.sse.stats(), { closed: { server: 1, stall: 0 } })
})

t.test('a stream that was closed before its onSend hooks were through is cut after stallTimeout too, where its client takes nothing', async t => {
  const app = await build(t, { stallTimeout: 150, maxEventBytes: 64e6, maxBufferedBytes: 64e6 })
  let stream: SseStream | undefined
  app.addHook('onSend', async (request, reply, payload) => {
    await new Promise(resolve => setImmediate(resolve))
    return payload
  })
  app.get('/', (request, reply) => {
    stream = reply.sse()
    stream.send('x'.repeat(20e6))
    stream.close()
    return reply
  })
  const client = await connect(await listen(app))
  client.pause()
  await within(stream!.close(), 'the response to be closed', 10_000)
  t.match(app.sse.stats(), { streams: 0 })
  client.resume()
  await until(() => client.closed)
  t.equal(client.closed, 'aborted')
})

t.test('stallTimeout 0 waits for ever', async t => {
  const { drive } = await start(t, { stallTimeout: 0, heartbeatInterval: 20 })
  const driven = await drive(undefined, { valve: true })
  await block(driven)
  await new Promise(resolve => setTimeout(resolve, 200))
  t.equal(driven.stream.state, 'open')
  driven.valve!.open()
  await until(() => !driven.stream.blocked)
})

t.test('no filter is asked for a stream that was closed in the middle of a write', async t => {
  const app = await build(t)
  const asked: string[] = []
  let stream: SseStream | undefined
  app.addHook('onSend', async (request, reply, payload) => (payload as Readable).pipe(new Transform({
    transform (chunk, encoding, done) {
      if (String(chunk).includes('own')) stream!.close()
      done(null, chunk)
    }
  })))
  app.get('/', (request, reply) => {
    stream = reply.sse()
    stream.subscribe('a', { filter: ({ data }) => asked.push(`${data} ${stream!.state}`) > 0 })
    return reply
  })
  const client = await connect(await listen(app))
  await until(() => stream!.state === 'open' && client.lastEventId !== '')
  app.sse.publish('a', 'one')
  stream!.send('own')
  await until(() => client.closed)
  t.same(asked, [])
})

// Opening

t.test('a stream whose onSend hooks still run is a member that nothing is written to', async t => {
  const app = await build(t, { heartbeatInterval: 10, history: { maxEvents: 5 } })
  const a = app.sse.channel('a')
  let opening: SseStream | undefined
  let goOn!: () => void
  const gate = new Promise<void>(resolve => { goOn = resolve })
  const heard: string[] = []
  app.sse.on('open', () => heard.push('open'))
  app.sse.on('close', () => heard.push('close'))
  app.get('/', { onSend: async () => { await gate } }, (request, reply) => {
    opening = reply.sse().subscribe(a)
    return reply
  })
  const url = await listen(app)
  const connecting = connect(url)
  const stream = await until(() => opening)
  t.equal(stream.state, 'opening')
  t.equal(a.size, 1)
  t.match(app.sse.stats(), { streams: 1, opened: 0, subscriptions: 1 })
  for (const text of ['1', '2', '3']) await a.publish(text)
  stream.send('own')
  await new Promise(resolve => setTimeout(resolve, 50))
  t.same(heard, [])
  t.equal(app.sse.stats().bytesWritten, 0)
  goOn()
  const client = await connecting
  await client.first(4)
  t.same(data(client).filter(text => text !== 'own'), ['1', '2', '3'])
  t.same(client.gaps, [])
  t.same(heard, ['open'])
  client.leave()
  await stream.closed
})

t.test('a stream that was opening while more than the history was published gets a gap', async t => {
  const app = await build(t, { history: { maxEvents: 5 } })
  const a = app.sse.channel('a')
  let goOn!: () => void
  const gate = new Promise<void>(resolve => { goOn = resolve })
  app.get('/', { onSend: async () => { await gate } }, (request, reply) => reply.sse(a))
  const url = await listen(app)
  const connecting = connect(url)
  await until(() => a.size === 1)
  for (let i = 0; i < 30; i++) await a.publish(String(i))
  await turn()
  goOn()
  const client = await connecting
  await until(() => data(client).includes('29'))
  t.match(client.gaps, [{ reason: 'overrun', channels: ['a'] }])
  client.leave()
})

t.test('a client that leaves while its stream is opening leaves nothing behind', async t => {
  const app = await build(t)
  const a = app.sse.channel('a')
  let goOn!: () => void
  const gate = new Promise<void>(resolve => { goOn = resolve })
  const heard: string[] = []
  app.sse.on('open', () => heard.push('open'))
  app.sse.on('close', () => heard.push('close'))
  app.get('/', { onSend: async () => { await gate } }, (request, reply) => reply.sse(a))
  const url = await listen(app)
  const request = http.get(url)
  request.on('error', () => {})
  await until(() => a.size === 1)
  request.destroy()
  await until(() => app.sse.stats().streams === 0, 'the stream to close')
  goOn()
  await turn()
  t.same(heard, [])
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, channels: 0, opened: 0 })
})

t.test('a stream that a listener of "gap" unsubscribes gets no cursor beyond what it was sent', async t => {
  const app = await build(t, { history: { maxEvents: 8 } })
  const channel = app.sse.channel('a')
  app.get('/', (request, reply) => reply.sse(channel))
  app.sse.on('gap', ({ stream }) => {
    stream.unsubscribe(channel)
    setTimeout(() => stream.send({ event: 'done', data: '' }), 50)
  })
  const url = await listen(app)
  const first = await channel.publish('first')
  for (let n = 0; n < 40; n++) await channel.publish(`n${n}`)
  const client = await connect(url, { lastEventId: first })
  await until(() => client.events.length === 1)
  t.strictSame(client.gaps.map(({ reason, id }) => [reason, id]), [['expired', client.lastEventId]], 'a client that drops now comes back for the rest')
  client.leave()
})
