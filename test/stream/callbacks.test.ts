import { Transform, type Readable } from 'node:stream'
import t from 'tap'
import type { SseRegistry, SseStream } from '../../lib/index.ts'
import { build, connect, listen, logger, soon, until, within } from '../client.ts'
import { data, numbers, start, turn } from './driving.ts'

/** What is done to a stream from inside something that is called while streams are moved. */
const ACTS: Record<string, (stream: SseStream, sse: SseRegistry) => unknown> = {
  throws: () => { throw new Error('thrown by the test') },
  'closes the stream': stream => { stream.close().catch(t.fail) },
  'subscribes, from further back': stream => stream.subscribe(['a', 'c'], { lastEventId: 'garbage' }),
  'subscribes, and closes': stream => stream.subscribe('c').close(),
  'unsubscribes from everything': stream => stream.unsubscribe(['a', 'b', 'c']),
  'unsubscribes, and subscribes again': stream => stream.unsubscribe(['a', 'b']).subscribe('a'),
  'publishes to its channels': (stream, sse) => { for (const channel of ['a', 'b', 'c']) sse.publish(channel, 'from inside').catch(t.fail) },
  sends: stream => { stream.send('from inside').catch(t.fail) },
  'sends more than fits into one write': stream => stream.send('x'.repeat(100_000)),
  'sends, and closes': stream => { stream.send('from inside').catch(t.fail); stream.close({ retry: 5 }).catch(t.fail) }
}

const PLACES = ['write', 'filter', 'open', 'close', 'gap', 'subscribe', 'unsubscribe'] as const

for (const place of PLACES) {
  for (const [what, act] of Object.entries(ACTS)) {
    const where = place === 'write' ? 'the write of a hook\'s stream' : place === 'filter' ? 'a filter' : `a listener of "${place}"`
    t.test(`${where} that ${what}: other streams get everything, and nothing is left behind`, async t => {
      const app = await build(t, { heartbeatInterval: 50 }, logger([], 'fatal'))
      t.teardown(() => { app.server.closeAllConnections() })
      let victim: SseStream | undefined
      let depth = 0
      let times = 0
      const promises: unknown[] = []
      const strike = (): void => {
        if (victim === undefined || depth > 1 || ++times > 20) return
        depth++
        try {
          promises.push(act(victim, app.sse))
        } finally {
          depth--
        }
      }
      if (place !== 'write' && place !== 'filter') app.sse.on(place, ({ stream }: { stream: SseStream }) => { if (stream === victim) strike() })
      app.get('/victim', {
        onSend: async (request, reply, payload) => place !== 'write'
          ? payload
          : (payload as Readable).pipe(new Transform({
              transform (chunk, encoding, done) {
                strike()
                done(null, chunk)
              }
            })).on('error', () => {})
      }, (request, reply) => {
        const stream = victim = reply.sse({ ...(place === 'filter' && { filter: () => { strike(); return true } }) })
        stream.subscribe(['a', 'b'], { lastEventId: 'garbage' })
        stream.unsubscribe('b')
        return reply
      })
      app.get('/other', (request, reply) => reply.sse(app.sse.channel('a')))
      const url = await listen(app)
      const before = await connect(url + '/other')
      await until(() => app.sse.stats().subscriptions === 1)
      const left = connect(url + '/victim').catch(() => {})
      for (let n = 0; n < 20; n++) {
        await app.sse.publish('a', String(n))
        if (n % 4 === 0) await turn()
      }
      const after = await connect(url + '/other')
      await until(() => app.sse.channel('a').size >= 2)
      const client = await within(left, 'the response')
      await app.sse.publish('a', 'last')
      await soon(() => data(before).includes('last') && data(after).includes('last'), 'the last event')
      t.same(data(before).filter(text => text !== 'from inside'), [...numbers(0, 19), 'last'])
      t.ok(victim!.state !== 'opening')
      if (what === 'throws' && (place === 'write' || place === 'filter')) {
        t.equal(await victim!.closed, 'error')
        await soon(() => client === undefined || client.closed === 'aborted', 'the connection to break')
      }
      client?.leave()
      before.leave()
      after.leave()
      await victim!.closed
      await within(Promise.allSettled(promises), 'a promise of the stream')
      await soon(() => app.sse.stats().streams === 0, 'the streams to close')
      t.match(app.sse.stats(), { streams: 0, subscriptions: 0, channels: 0, blocked: 0 })
    })
  }
}

t.test('a stream that is closed from inside its own write of a full socket is not counted as blocked', async t => {
  const app = await build(t)
  let stream: SseStream | undefined
  app.get('/', {
    onSend: async (request, reply, payload) => (payload as Readable).pipe(new Transform({
      writableHighWaterMark: 1,
      transform (chunk, encoding, done) {
        if (String(chunk).includes('quota')) {
          stream!.close().catch(t.fail)
          setTimeout(() => done(null, chunk), 20)
        } else done(null, chunk)
      }
    }))
  }, (request, reply) => {
    stream = reply.sse().subscribe('a')
    return reply
  })
  const client = await connect(await listen(app))
  await until(() => stream)
  await app.sse.publish('a', 'quota')
  await until(() => client.closed)
  t.equal(client.closed, 'end')
  t.same(data(client), ['quota'])
  t.match(app.sse.stats(), { streams: 0, blocked: 0, closed: { server: 1 } })
})

t.test('each stream that opens is told once as open and once as closed, in this order, though it is closed from inside', async t => {
  const app = await build(t)
  const told: string[] = []
  let when = ''
  app.sse.on('open', ({ stream }) => { told.push('open'); if (when === 'open') stream.close().catch(t.fail) })
  app.sse.on('close', ({ reason }) => told.push(`close: ${reason}`))
  app.get('/', {
    // It waits, so that the handler has its stream by then.
    onSend: async (request, reply, payload) => await turn().then(() => (payload as Readable).pipe(new Transform({
      transform (chunk, encoding, done) {
        if (when === 'write') for (const stream of app.sse.streams) stream.close().catch(t.fail)
        if (when === 'throw') throw new Error('thrown by the test')
        done(null, chunk)
      }
    }).on('error', () => {})))
  }, (request, reply) => reply.sse(app.sse.channel('a')))
  const url = await listen(app)
  for (when of ['open', 'write', 'throw']) {
    told.length = 0
    await within(connect(url).then(({ closed, leave }) => { if (closed === undefined) leave() }, () => {}), `the response, ${when}`)
    await soon(() => told.length > 1, 'the stream to close')
    t.same(told, ['open', `close: ${when === 'throw' ? 'error' : 'server'}`], when)
  }
  t.match(app.sse.stats(), { streams: 0, opened: 3, closed: { server: 2, error: 1 } })
})

t.test('what unsubscribe() does to a closed stream is nothing', async t => {
  const { app, drive } = await start(t)
  const told: string[] = []
  app.sse.on('unsubscribe', ({ stream, channel }) => { told.push(channel); stream.unsubscribe(['a', 'b']) })
  app.sse.on('close', ({ stream }) => stream.unsubscribe(['a', 'b']))
  const { stream } = await drive(stream => stream.subscribe(['a', 'b']))
  await stream.close()
  t.same(told, ['a', 'b'])
  t.equal(app.sse.stats().subscriptions, 0)
})

t.test('a listener of "unsubscribe" that subscribes again gets what is published after', async t => {
  const { app, drive } = await start(t)
  app.sse.on('unsubscribe', ({ channel, stream }) => { if (channel === 'a' && stream.state === 'open') stream.subscribe('b') })
  const driven = await drive(stream => stream.subscribe(['a', 'b']))
  await turn()
  driven.stream.unsubscribe(['a', 'b'])
  t.same([...driven.stream.channels], ['b'])
  t.equal(app.sse.channel('b').size, 1)
  t.equal(app.sse.stats().subscriptions, 1)
  await app.sse.publish('b', 'b1')
  await driven.client.first(1)
  t.same(data(driven.client), ['b1'])
})

t.test('a filter that subscribes its own stream further back gets the replay, each event once', async t => {
  const { app, drive } = await start(t)
  const cursor = app.sse.cursor
  for (let n = 1; n <= 5; n++) await app.sse.publish('b', `b${n}`)
  const { client, stream } = await drive(stream => stream.subscribe('a', {
    filter: ({ data }) => {
      if (data === 'join') stream.subscribe('b', { lastEventId: cursor })
      return true
    }
  }))
  await app.sse.publish('a', 'join')
  await app.sse.publish('a', 'after')
  await app.sse.publish('b', 'b6')
  await until(() => client.events.length >= 8)
  t.same(data(client).sort(), ['after', 'b1', 'b2', 'b3', 'b4', 'b5', 'b6', 'join'])
  t.same(client.gaps, [])
  await until(() => client.lastEventId === app.sse.cursor)
  client.leave()
  const again = await drive(stream => stream.subscribe(['a', 'b']), { lastEventId: client.lastEventId })
  await turn()
  t.same(data(again.client), [])
  t.equal(stream.state === 'opening', false)
})

t.test('a channel that "history.channel" refuses leaves nothing of the call behind', async t => {
  const { app, drive } = await start(t, { history: { channel: name => { if (name === 'bad') throw new Error('no such channel'); return undefined } } })
  const { stream, client } = await drive(stream => stream.subscribe('a'))
  t.throws(() => stream.subscribe(['b', 'bad']), { code: 'SSE_ERR_INVALID_OPTION' })
  t.same([...stream.channels], ['a'])
  t.equal(app.sse.channel('b').size, 0)
  t.match(app.sse.stats(), { subscriptions: 1, channels: 1 })
  await app.sse.publish('a', 'goes on')
  await client.first(1)
})

t.test('a gap that is due is told though the call that gives its channel another cursor is refused', async t => {
  const { app, drive } = await start(t, { history: { channel: name => { if (name === 'bad') throw new Error('no such channel'); return undefined } } })
  app.sse.once('open', ({ stream }) => {
    t.throws(() => stream.subscribe(['a', 'bad'], { lastEventId: app.sse.cursor }), { code: 'SSE_ERR_INVALID_OPTION' })
  })
  await app.sse.publish('a', 'one')
  const { client } = await drive(stream => stream.subscribe('a'), { lastEventId: 'garbage' })
  await client.first(1)
  t.match(client.gaps, [{ reason: 'unknown', channels: ['a'] }])
})

t.test('what a listener of "gap" publishes takes nothing away in silence from a channel that the gap does not name', async t => {
  const { app, drive } = await start(t, { history: { maxEvents: 5 } })
  app.sse.once('gap', () => { for (const text of numbers(1, 300)) app.sse.publish('a', text).catch(t.fail) })
  const { client, stream } = await drive(stream => stream.subscribe('a'))
  await turn()
  for (const text of ['x', 'y', 'z']) app.sse.publish('a', text).catch(t.fail)
  stream.subscribe('b', { lastEventId: 'garbage' })
  await until(() => data(client).includes('300'))
  t.match(client.gaps[0], { reason: 'unknown', channels: ['b'] })
  t.ok(data(client).includes('x') || client.gaps.some(({ channels }) => channels.includes('a')), `${JSON.stringify(client.gaps)}, and events from ${data(client)[0]}`)
})

t.test('a hook\'s stream that throws in a write that send() makes closes that stream', async t => {
  const app = await build(t, {}, logger([], 'fatal'))
  let stream: SseStream | undefined
  app.get('/', {
    onSend: async (request, reply, payload) => (payload as Readable).pipe(new Transform({
      transform (chunk, encoding, done) {
        if (chunk.length > 50_000) throw new Error('thrown by the test')
        done(null, chunk)
      }
    })).on('error', () => {})
  }, (request, reply) => { stream = reply.sse(); return reply })
  const client = await connect(await listen(app))
  t.equal(await within(stream!.send('x'.repeat(100_000)), 'send()'), false)
  t.equal(await within(stream!.closed, 'the stream'), 'error')
  await soon(() => client.closed === 'aborted', 'the connection to break')
})
