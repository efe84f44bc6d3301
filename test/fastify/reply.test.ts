import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import { createGzip, gunzipSync } from 'node:zlib'
import Fastify, { type FastifyInstance, type FastifyReply, type RouteHandlerMethod } from 'fastify'
import t from 'tap'
import sse, { type SseStream } from '../../lib/index.ts'
import { connect, listen, logger, soon, until, within } from '../client.ts'
import { SharedLog } from '../stream/shared-log.ts'
import { build, ended, isStream, keepAccidents, later, passed } from './app.ts'

const accidents = keepAccidents()

// Status, headers, and replies that are taken

t.test('status and headers set before reply.sse() are kept', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.code(201).header('x-mine', 'yes').header('cache-control', 'no-store').header('set-cookie', ['a=1', 'b=2']).sse(['one']))
  app.get('/raw', (request, reply) => {
    reply.raw.setHeader('x-raw', 'yes')
    reply.raw.setHeader('cache-control', 'private')
    return reply.sse(['one'])
  })
  app.get('/type', (request, reply) => reply.type('application/json').sse(['one']))
  const url = await listen(app)
  const client = await ended(await connect(url), 'the end')
  t.equal(client.status, 201)
  t.match(client.headers, { 'x-mine': 'yes', 'cache-control': 'no-store', 'content-type': 'text/event-stream', 'x-accel-buffering': 'no', 'set-cookie': ['a=1', 'b=2'] })
  t.equal(client.headers['content-length'], undefined)
  const raw = await ended(await connect(url + '/raw'), 'the end')
  t.match(raw.headers, { 'x-raw': 'yes', 'cache-control': 'private' })
  const type = await ended(await connect(url + '/type'), 'the end')
  t.equal(type.headers['content-type'], 'text/event-stream')
})

t.test('the headers of a stream are these, and no connection header is set', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  app.get('/plain', async () => 'plain')
  const url = await listen(app)
  const client = await connect(url)
  t.match(client.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform', 'x-accel-buffering': 'no', 'transfer-encoding': 'chunked' })
  const plain = await connect(url + '/plain')
  t.equal(client.headers.connection, plain.headers.connection, 'it is what Node sends for any response')
  client.leave()
})

const FALSE_OF_A_STREAM: Record<string, string> = {
  'content-length': '5',
  'transfer-encoding': 'identity',
  connection: 'close',
  'keep-alive': 'timeout=1',
  'content-encoding': 'gzip',
  'content-range': 'bytes 0-4/5',
  'accept-ranges': 'bytes',
  etag: '"abc"',
  'last-modified': new Date(0).toUTCString(),
  trailer: 'x-sum'
}

for (const protocol of ['HTTP/1.1', 'HTTP/2'] as const) {
  for (const where of ['the handler', 'a hook before it', 'the handler, on the raw response', 'a slow onSend hook'] as const) {
    const names = where === 'a slow onSend hook' ? ['content-length', 'trailer'] : Object.keys(FALSE_OF_A_STREAM)
    t.test(`headers that are not true of a stream are not sent, set by ${where}, over ${protocol}: the client gets the whole stream`, async t => {
      const app = await build(t, {}, protocol === 'HTTP/2' ? { http2: true } as object : {})
      const set = (reply: FastifyReply, name: string): unknown => {
        // Node refuses these over HTTP/2 by itself.
        if (protocol === 'HTTP/2' && where.includes('raw') && /^(transfer-encoding|connection|keep-alive)$/.test(name)) return reply
        return where === 'the handler, on the raw response' ? reply.raw.setHeader(name, FALSE_OF_A_STREAM[name]!) : reply.header(name, FALSE_OF_A_STREAM[name]!)
      }
      if (where === 'a hook before it') app.addHook('onRequest', async (request, reply) => { set(reply, request.url.slice(1)) })
      if (where === 'a slow onSend hook') {
        app.addHook('onSend', async (request, reply) => {
          await later()
          set(reply, request.url.slice(1))
        })
      }
      app.get<{ Params: { name: string } }>('/:name', (request, reply) => {
        if (where.startsWith('the handler')) set(reply, request.params.name)
        return reply.sse(['a rather long first event', 'and a second one'])
      })
      const url = await listen(app)
      for (const name of names) {
        const { headers, text } = protocol === 'HTTP/2' ? await http2Get(url, name) : await ended(await within(connect(`${url}/${name}`), name), name)
        t.match(text, /data: a rather long first event\n\ndata: and a second one\n\n$/, name)
        t.not(headers[name], FALSE_OF_A_STREAM[name], `${name} is not sent`)
        if (protocol === 'HTTP/1.1') t.equal(headers['transfer-encoding'], 'chunked', name)
      }
    })
  }
}

async function http2Get (url: string, path: string): Promise<{ headers: http2.IncomingHttpHeaders, text: string }> {
  const session = http2.connect(url)
  const request = session.request({ ':path': `/${path}` })
  const [headers] = await within(once(request, 'response'), path) as [http2.IncomingHttpHeaders]
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  session.close()
  return { headers, text }
}

t.test('what an onSend hook says of what it did to the stream is sent: the content-encoding of one that compresses', async t => {
  const app = await build(t)
  app.addHook('onSend', async (request, reply, payload) => {
    reply.header('content-encoding', 'gzip')
    return (payload as Readable).pipe(createGzip())
  })
  app.get('/', (request, reply) => reply.sse(['one']))
  const response = await app.inject('/')
  t.equal(response.headers['content-encoding'], 'gzip')
  t.match(gunzipSync(response.rawPayload).toString(), /data: one\n\n$/)
})

t.test('reply.trailer() does nothing on a stream: no trailer is announced, and the stream is whole', async t => {
  const app = await build(t)
  let asked = 0
  app.get('/', (request, reply) => {
    reply.trailer('x-sum', async () => { asked++; return 'sum' })
    return reply.sse(['one', 'two'])
  })
  const client = await ended(await within(connect(await listen(app)), 'the response'), 'the end')
  t.match(client.text, /data: one\n\ndata: two\n\n$/)
  t.equal(client.closed, 'end')
  t.notOk('trailer' in client.headers)
  t.same(client.response.trailers, {})
  t.equal(asked, 0)
})

t.test('a second reply.sse() on one reply is refused, and the first goes on', async t => {
  for (const slow of [false, true]) {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'info'))
    if (slow) app.addHook('onSend', async () => { await later() })
    const time = app.sse.channel('time')
    const source = Readable.from(['never'])
    app.get('/', async (request, reply) => {
      reply.sse(time)
      t.throws(() => reply.sse(source), { code: 'SSE_ERR_ALREADY_SENT', statusCode: 500 })
      return reply
    })
    const client = await within(connect(await listen(app)), 'the response')
    await time.publish('one')
    t.equal((await client.first(1))[0]?.data, 'one')
    t.ok(source.destroyed, 'the source of the second is told')
    client.leave()
    await soon(() => app.sse.streams.size === 0, 'the stream to close')
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  }
})

t.test('reply.sse() after reply.send(), hijack() or writeHead() is refused', async t => {
  const app = await build(t)
  const codes: unknown[] = []
  const refused = (reply: FastifyReply): void => {
    try {
      reply.sse(app.sse.channel('time'))
    } catch (error) {
      codes.push((error as { code: string }).code)
    }
  }
  app.get('/send', (request, reply) => {
    reply.send('text')
    refused(reply)
  })
  app.get('/hijack', (request, reply) => {
    reply.hijack()
    refused(reply)
    reply.raw.end('text')
  })
  app.get('/head', (request, reply) => {
    reply.raw.writeHead(200)
    refused(reply)
    reply.raw.end('text')
  })
  const url = await listen(app)
  for (const path of ['/send', '/hijack', '/head']) t.equal((await ended(await connect(url + path), 'the end')).text, 'text')
  t.strictSame(codes, ['SSE_ERR_ALREADY_SENT', 'SSE_ERR_ALREADY_SENT', 'SSE_ERR_ALREADY_SENT'])
  t.equal(app.sse.stats().streams, 0)
})

t.test('reply.sse() after reply.send() whose onSend hooks still run breaks neither the response nor the process', async t => {
  const app = await build(t)
  app.addHook('onSend', async () => { await later() })
  app.get('/', (request, reply) => {
    reply.send('text')
    try {
      reply.sse(app.sse.channel('time'))
    } catch {}
  })
  const url = await listen(app)
  const client = await ended(await within(connect(url), 'the response'), 'the end')
  t.equal(client.text, 'text')
  await passed(60)
  t.equal(app.sse.stats().streams, 0, 'no stream is left')
})

t.test('a handler may catch what reply.sse() throws and answer in another way', async t => {
  const app = await build(t, { maxStreams: 5 })
  const foreign = Fastify()
  t.teardown(() => foreign.close())
  await foreign.register(sse)
  const cases: Record<string, (reply: FastifyReply) => unknown> = {
    source: reply => reply.sse(42 as never),
    string: reply => reply.sse('text' as never),
    bytes: reply => reply.sse(Buffer.from('text') as never),
    null: reply => reply.sse(null as never),
    option: reply => reply.sse(app.sse.channel('time'), { retry: -1 }),
    rewind: reply => reply.sse({ rewind: -1 }),
    foreign: reply => reply.sse(foreign.sse.channel('time')),
    foreigners: reply => reply.sse([app.sse.channel('time'), foreign.sse.channel('time')])
  }
  app.get('/:what/:then', (request, reply) => {
    const { what, then } = request.params as { what: string, then: string }
    try {
      cases[what]!(reply)
    } catch (error) {
      const { code } = error as { code: string }
      return then === 'sse' ? reply.sse([code]) : reply.send({ code })
    }
    return reply
  })
  const url = await listen(app)
  for (const what of Object.keys(cases)) {
    const json = await ended(await within(connect(`${url}/${what}/json`), what), what)
    t.match(json.text, /^{"code":"SSE_ERR_INVALID_(SOURCE|OPTION|CHANNEL)"}$/, `${what}: then JSON`)
    const stream = await ended(await within(connect(`${url}/${what}/sse`), what), what)
    t.match(stream.events[0]?.data, /^SSE_ERR_INVALID_(SOURCE|OPTION|CHANNEL)$/, `${what}: then a stream`)
    await soon(() => app.sse.stats().streams === 0, `the stream of ${what} to close`)
  }
})

// HEAD, POST, 204

for (const route of ['exposed', 'explicit'] as const) {
  for (const slow of [false, true]) {
    t.test(`HEAD on an ${route} route${slow ? ' with a slow onSend hook' : ''}: headers and an end; the source is told and never started`, async t => {
      const lines: any[] = []
      const app = await build(t, {}, logger(lines, 'info'))
      if (slow) app.addHook('onSend', async () => { await later() })
      let started = 0
      let opened = 0
      app.sse.on('open', () => opened++)
      app.sse.on('close', () => opened++)
      const told: string[] = []
      const sources: Record<string, (reply: FastifyReply) => unknown> = {
        '/channel': reply => reply.sse(app.sse.channel('time')),
        '/function': reply => reply.sse(() => { started++ }),
        '/generator': reply => reply.sse((async function * () {
          started++
          yield 'one'
        })()),
        '/driven': reply => {
          const stream = reply.sse()
          stream.subscribe(app.sse.channel('time'))
          stream.send('one')
          stream.closed.then(reason => told.push(`driven ${reason}`))
          return stream
        },
        '/readable': reply => reply.sse(new Readable({
          read () {
            started++
          },
          destroy (error, done) {
            told.push('readable')
            done(error)
          }
        })),
        '/web': reply => reply.sse(new ReadableStream({ cancel () { told.push('web') } }))
      }
      for (const [path, answer] of Object.entries(sources)) {
        app.route({ method: route === 'exposed' ? 'GET' : 'HEAD', url: path, handler: ((request, reply) => answer(reply)) as RouteHandlerMethod })
      }
      const url = await listen(app)
      for (const path of Object.keys(sources)) {
        const client = await ended(await within(connect(url + path, { method: 'HEAD' }), path), path)
        t.equal(client.status, 200)
        t.equal(client.headers['content-type'], 'text/event-stream')
        t.equal(client.text, '')
        t.equal(client.closed, 'end')
      }
      t.equal(started, 0, 'no source was started')
      t.equal(opened, 0, 'no stream was opened')
      t.match(app.sse.stats(), { streams: 0, subscriptions: 0, opened: 0 })
      t.strictSame(lines.filter(({ level, msg }) => level >= 40 || msg === 'stream closed'), [])
      await within(until(() => told.length === 3, 'three sources to be told'), `every source to be told, not only: ${told}`).catch(() => {})
      t.strictSame([...told].sort(), ['driven end', 'readable', 'web'], 'sources that hold something are told')
    })
  }
}

for (const status of [204, 304]) {
  t.test(`a status without a body (${status}) ends the response, starts nothing, and tells the source`, async t => {
    for (const where of ['a handler', 'a handler, with a slow onSend hook', 'an onSend hook']) {
      const lines: any[] = []
      const app = await build(t, {}, logger(lines, 'info'))
      if (where === 'a handler, with a slow onSend hook') app.addHook('onSend', async () => { await later() })
      if (where === 'an onSend hook') app.addHook('onSend', async (request, reply) => { reply.code(status) })
      const answer = (reply: FastifyReply): FastifyReply => where === 'an onSend hook' ? reply : reply.code(status)
      let started = 0
      const source = new Readable({ read () { started++ } })
      app.get('/channel', (request, reply) => answer(reply).sse(app.sse.channel('time')))
      app.get('/readable', async (request, reply) => answer(reply).sse(source))
      const url = await listen(app)
      for (const path of ['/channel', '/readable']) {
        const client = await ended(await within(connect(url + path), path), path)
        t.equal(client.status, status)
        t.equal(client.text, '')
      }
      t.equal(started, 0)
      t.match(app.sse.stats(), { streams: 0, opened: 0 })
      t.strictSame(lines.filter(({ level }) => level >= 40), [])
      await within(until(() => source.destroyed, 'the source to be told'), 'the source to be told')
    }
  })
}

t.test('POST with and without a body: the stream opens after the body has come, and a leaving client is noticed', async t => {
  const app = await build(t)
  app.post('/', async (request, reply) => {
    const stream = reply.sse()
    stream.send({ data: request.body ?? null })
    stream.subscribe(app.sse.channel('time'))
    return stream
  })
  const url = await listen(app)
  for (const [body, headers] of [[undefined, {}], ['{"n":1}', { 'content-type': 'application/json' }], ['x'.repeat(500_000), { 'content-type': 'text/plain' }]] as const) {
    const client = await within(connect(url, { method: 'POST', headers: { ...headers, ...(body !== undefined && { 'content-length': body.length }) }, ...(body !== undefined && { body }) }), 'the response')
    t.equal(client.status, 200)
    const [event] = await client.first(1)
    t.equal(event?.data, body ?? 'null')
    t.equal(client.closed, undefined, 'it stays open')
    client.leave()
    await within(until(() => app.sse.streams.size === 0, 'the stream to close'), 'the stream to close', 1_000)
  }
  t.equal(app.sse.stats().closed.client, 3)
})

// Clients that leave early

const LEFT: Record<string, (app: FastifyInstance, wait: (reply: FastifyReply) => Promise<unknown>) => void> = {
  'before the handler': (app, wait) => { app.addHook('preHandler', async (request, reply) => { await wait(reply) }) },
  'during an async onSend hook': (app, wait) => { app.addHook('onSend', async (request, reply) => { await wait(reply) }) }
}

for (const protocol of ['HTTP/1.1', 'HTTP/2'] as const) {
  for (const [when, add] of Object.entries(LEFT)) {
    t.test(`a client that leaves ${when}, over ${protocol}: the stream closes, the source is told, nothing is started`, async t => {
      const lines: any[] = []
      const app = await build(t, { maxStreams: 1, drain: { timeout: 100 } }, { ...logger(lines, 'info'), ...(protocol === 'HTTP/2' && { http2: true }) } as {})
      let left = (): void => {}
      let arrived = 0
      let through = 0
      add(app, async reply => {
        arrived++
        const gone = new Promise<void>(resolve => { left = resolve })
        const closed = once(reply.raw, 'close')
        await Promise.all([gone, closed])
        await later()
        through++
      })
      let started = 0
      const told: string[] = []
      const sources: Record<string, (reply: FastifyReply) => unknown> = {
        '/channel': reply => reply.sse(app.sse.channel('time')),
        '/function': reply => reply.sse(() => { started++ }),
        '/driven': reply => {
          const stream: SseStream = reply.sse()
          stream.subscribe(app.sse.channel('time'))
          const sent = stream.send('one')
          stream.signal.addEventListener('abort', () => told.push('aborted'))
          if (stream.signal.aborted) told.push('aborted')
          stream.closed.then(async reason => {
            await stream.close()
            return [reason, await sent]
          }).then(([reason, sent]) => told.push(`driven ${reason} ${sent}`))
          return stream
        },
        '/readable': reply => reply.sse(new Readable({
          read () { started++ },
          destroy (error, done) {
            told.push('readable')
            done(error)
          }
        })),
        '/web': reply => reply.sse(new ReadableStream({ cancel () { told.push('web') } }))
      }
      for (const [path, answer] of Object.entries(sources)) app.get(path, (async (request, reply) => answer(reply)) as RouteHandlerMethod)
      await app.listen({ port: 0, host: '127.0.0.1' })
      const { port } = app.server.address() as AddressInfo
      const session = protocol === 'HTTP/2' ? http2.connect(`http://127.0.0.1:${port}`) : undefined
      t.teardown(() => session?.destroy())
      let count = 0
      for (const path of Object.keys(sources)) {
        count++
        const request = session?.request({ ':path': path }) ?? http.get({ port, host: '127.0.0.1', path, agent: false })
        request.on('error', () => {})
        await soon(() => arrived === count, `${path} to arrive`)
        if ('close' in request && session !== undefined) (request as http2.ClientHttp2Stream).close(http2.constants.NGHTTP2_CANCEL)
        else request.destroy()
        left()
        await soon(() => through === count, `${path} to be handled`)
        await within(until(() => app.sse.stats().streams === 0, 'the stream to close'), `the stream of ${path} to close`, 1_000)
      }
      t.equal(started, 0, 'no source was started')
      t.equal(app.sse.stats().opened, 0)
      await within(until(() => told.length === 4, 'the sources to be told'), 'told', 1_000).catch(() => {})
      t.strictSame([...told].sort(), ['aborted', 'driven client false', 'readable', 'web'])
      t.strictSame(lines.filter(({ level, msg }) => level >= 40 || msg === 'stream closed'), [])
    })
  }
}

// Timeouts

t.test('neither handlerTimeout nor connectionTimeout nor requestTimeout cuts a stream', async t => {
  for (const slow of [false, true]) {
    const lines: any[] = []
    const app = await build(t, { heartbeatInterval: 0 }, { ...logger(lines, 'info'), handlerTimeout: 200, connectionTimeout: 200, requestTimeout: 200 })
    if (slow) app.addHook('onSend', async () => { await later() })
    let timeouts = 0
    app.addHook('onTimeout', async () => { timeouts++ })
    const time = app.sse.channel('time')
    app.get('/', (request, reply) => reply.sse(time))
    app.post('/', async (request, reply) => reply.sse(time))
    const url = await listen(app)
    const clients = [await connect(url), await connect(url, { method: 'POST' })]
    await passed(600)
    await time.publish('one')
    for (const client of clients) {
      t.equal((await client.first(1))[0]?.data, 'one')
      client.leave()
    }
    await soon(() => app.sse.streams.size === 0, 'the streams to close')
    t.equal(timeouts, 0)
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  }
})

t.test('handlerTimeout answers while an onSend hook hangs, as for any other response, and the hook may end later', async t => {
  for (const how of ['async', 'callback'] as const) {
    const lines: any[] = []
    const app = await build(t, {}, { ...logger(lines, 'error'), handlerTimeout: 200 })
    let go = (): void => {}
    if (how === 'async') {
      app.addHook('onSend', async (request, reply, payload) => { if (isStream(payload)) await new Promise<void>(resolve => { go = resolve }) })
    } else {
      app.addHook('onSend', (request, reply, payload, done) => {
        if (isStream(payload)) go = () => done()
        else done()
      })
    }
    const signals: AbortSignal[] = []
    app.addHook('onRequest', async request => { signals.push((request as unknown as { signal: AbortSignal }).signal) })
    app.get('/other', async (request, reply) => reply.send(Readable.from(['text'])))
    app.get('/handler', async (request, reply) => {
      reply.raw.setHeader('x-early', '1')
      return reply.sse(app.sse.channel('time'))
    })
    app.get('/hook', { async preHandler (request, reply) { reply.sse(app.sse.channel('time')) } }, async () => {})
    app.get('/quick', { handlerTimeout: 60_000 }, async (request, reply) => {
      setImmediate(() => go())
      return reply.sse(['one'])
    })
    const url = await listen(app)
    t.teardown(() => go())
    const answer = async (path: string): Promise<unknown> => {
      const client = await ended(await within(connect(url + path), 'the response'), 'the response')
      go()
      await passed(60)
      t.match(app.sse.stats(), { streams: 0, opened: 0 })
      return [client.status, JSON.parse(client.text.replace(`'${path}'`, 'PATH')), client.closed]
    }
    const other = await answer('/other')
    t.match(other, [503, { code: 'FST_ERR_HANDLER_TIMEOUT' }])
    t.strictSame(await answer('/handler'), other)
    t.strictSame(await answer('/hook'), other)
    t.equal(lines.length, 3, 'and each is logged, once')
    t.strictSame(signals.map(({ reason }) => reason?.code), Array(3).fill('FST_ERR_HANDLER_TIMEOUT'), 'request.signal tells of it')
    const timers = process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
    const quick = await ended(await within(connect(url + '/quick'), 'the response'), 'the response')
    t.equal(quick.closed, 'end')
    await soon(() => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length <= timers, 'no timer to be left')
  }
})

t.test('an onSend hook that ends while the answer of handlerTimeout is in its own hooks changes nothing of that answer', async t => {
  const app = await build(t, {}, { handlerTimeout: 100 })
  let errors = 0
  app.addHook('onError', async () => { errors++ })
  let go = (): void => {}
  app.addHook('onSend', async (request, reply, payload) => {
    if (isStream(payload)) return await new Promise<void>(resolve => { go = resolve })
    go()
    await later()
  })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const client = await ended(await within(connect(await listen(app)), 'the response'), 'the response')
  t.match(client, { status: 503, closed: 'end' })
  t.equal(errors, 1)
  t.match(client.text, /FST_ERR_HANDLER_TIMEOUT/)
  t.match(app.sse.stats(), { streams: 0, opened: 0 })
})

t.test('handlerTimeout answers while the backplane is asked whether the channels have ended', async t => {
  const line = new SharedLog().line()
  const app = await build(t, { backplane: line }, { handlerTimeout: 200 })
  let errors = 0
  app.addHook('onError', async () => { errors++ })
  const reasons: string[] = []
  app.sse.on('subscribe', ({ stream }) => { stream.closed.then(reason => reasons.push(reason)) })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  line.lagging = true
  const client = await ended(await within(connect(url), 'the response'), 'the end of the response')
  t.match(client, { status: 503, closed: 'end' })
  line.catchUp()
  await passed(1_000) // an answer that came late, or was given up, would be seen
  t.equal(errors, 1)
  t.strictSame(reasons, ['error'])
  t.match(app.sse.stats(), { streams: 0, opened: 0 })
})

t.test('a header that cannot be sent is answered with 500 once the backplane has told of the channels, and other streams go on', async t => {
  const line = new SharedLog().line()
  const app = await build(t, { backplane: line })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  app.get('/bad', async (request, reply) => reply.header('x-user', 'Ж').sse(app.sse.channel('other')))
  const url = await listen(app)
  const client = await connect(url)
  line.lagging = true
  const answer = connect(`${url}/bad`)
  await until(() => app.sse.channel('other').size === 1, 'the stream')
  await app.sse.publish('time', '1')
  line.catchUp()
  const bad = await ended(await within(answer, 'the response'), 'the end of the response')
  t.match(bad, { status: 500, closed: 'end' })
  await app.sse.publish('time', '2')
  t.same((await within(client.first(2), 'both events')).map(({ data }) => data), ['1', '2'])
  t.match(app.sse.stats(), { streams: 1, opened: 1 })
})

t.test('handlerTimeout answers once, also where the event loop was held when its timer was set', async t => {
  const app = await build(t, {}, { handlerTimeout: 200 })
  let errors = 0
  app.addHook('onError', async () => { errors++ })
  app.addHook('onSend', async (request, reply, payload) => { if (isStream(payload)) await new Promise(() => {}) })
  app.get('/holds', (request, reply) => {
    const end = performance.now() + 100
    while (performance.now() < end);
    reply.send('held')
  })
  app.get('/hangs', async (request, reply) => {
    await later()
    return reply.sse(app.sse.channel('time'))
  })
  await listen(app)
  const socket = net.connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET /holds HTTP/1.1\r\nHost: a\r\n\r\nGET /hangs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  const text = (await within(socket.toArray(), 'both responses')).join('')
  t.match(text, /held[^]*HTTP\/1.1 503 [^]*FST_ERR_HANDLER_TIMEOUT/)
  await passed(100)
  t.equal(errors, 1)
  t.match(app.sse.stats(), { streams: 0, opened: 0 })
})

t.test('an async onSend hook that replaces the payload leaves no timer of the handlerTimeout behind', async t => {
  const app = await build(t, {}, { handlerTimeout: 60_000 })
  app.addHook('onSend', async () => {
    await later()
    return 'replaced'
  })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const timers = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  const client = await ended(await connect(url), 'the response')
  t.match(client, { text: 'replaced', closed: 'end' })
  await until(() => timers() <= before, 'no timer to be left')
})

t.test('an onSend hook that has written the head by itself: the stream follows it', async t => {
  const app = await build(t)
  app.addHook('onSend', (request, reply, payload, done) => {
    reply.raw.setHeader('content-type', 'text/event-stream')
    reply.raw.setHeader('trailer', 'x-late')
    reply.raw.flushHeaders()
    done()
  })
  app.get('/', (request, reply) => reply.sse(['one']))
  const client = await ended(await within(connect(await listen(app)), 'the response'), 'the end')
  t.equal(client.events[0]?.data, 'one')
  t.equal(client.closed, 'end')
})

t.test('request.signal stays quiet while the stream is open', async t => {
  const app = await build(t)
  let signal: AbortSignal | undefined
  app.get('/', (request, reply) => {
    signal = (request as unknown as { signal: AbortSignal }).signal
    return reply.sse(app.sse.channel('time'))
  })
  const client = await connect(await listen(app))
  await app.sse.publish('time', 'one')
  await client.first(1)
  t.equal(signal?.aborted, false)
  client.leave()
})

t.test('an HTTP/1.0 client gets the bare body, ended by the end of the connection', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(async function * () {
    yield 'one'
    await later()
    yield 'two'
  }))
  await listen(app)
  const socket = net.connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET / HTTP/1.0\r\n\r\n')
  const text = (await within(socket.toArray(), 'the response')).join('')
  t.match(text, /\r\n\r\nretry: 3000\n\ndata: one\n\ndata: two\n\n$/)
})

t.test('pipelined requests: the second is answered when the first stream has ended', async t => {
  const app = await build(t)
  app.get('/', (request, reply) => reply.sse(async function * () {
    yield 'one'
    await later()
    yield 'two'
  }))
  await listen(app)
  const socket = net.connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  socket.write('GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n')
  const text = (await within(socket.toArray(), 'both responses')).join('')
  t.strictSame([...text.matchAll(/HTTP\/1.1 200|data: \w+/g)].map(([match]) => match), ['HTTP/1.1 200', 'data: one', 'data: two', 'HTTP/1.1 200', 'data: one', 'data: two'])
})

t.test('onSend hooks may replace the payload: piped through a transform, and by something else altogether', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'info'))
  const { Transform } = await import('node:stream')
  app.addHook('onSend', async (request, reply, payload) => {
    if (request.url === '/other') return 'other'
    const upper = new Transform({ transform (chunk, encoding, done) { done(null, String(chunk).toUpperCase()) } })
    return (payload as Readable).pipe(upper)
  })
  const time = app.sse.channel('time')
  app.get('/upper', async (request, reply) => reply.sse(time))
  app.get('/finite', async (request, reply) => reply.sse(['one']))
  app.get('/other', async (request, reply) => reply.sse(time))
  const url = await listen(app)
  const upper = await within(connect(url + '/upper'), 'the response')
  await time.publish('shout')
  await soon(() => upper.text.includes('SHOUT'), 'the event through the transform')
  upper.leave()
  await within(until(() => app.sse.streams.size === 0, 'the stream to close'), 'the stream to close')
  const finite = await ended(await within(connect(url + '/finite'), 'the response'), 'the end')
  t.match(finite.text, 'DATA: ONE')
  t.equal((await ended(await within(connect(url + '/other'), 'the response'), 'the end')).text, 'other')
  await within(until(() => app.sse.stats().streams === 0, 'the stream that was replaced to close'), 'the stream to close')
  t.strictSame(lines.filter(({ level }) => level >= 40), [])
})

t.test('an onSend hook that sets a header that cannot be sent: one error response, and no stream is left', async t => {
  for (const slow of [false, true]) {
    const app = await build(t)
    app.addHook('onSend', async (request, reply, payload) => {
      if (slow) await later()
      if (isStream(payload)) reply.header('x-bad', 'line\nbreak')
      else reply.removeHeader('x-bad')
    })
    app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
    const client = await ended(await within(connect(await listen(app)), 'the response'), 'the end')
    t.equal(client.status, 500)
    t.equal(app.sse.stats().streams, 0)
  }
})

t.test('a handler or hook that ends the response by itself ends the stream, whatever is done with that meanwhile', async t => {
  const AFTER: Record<string, (stream: SseStream) => unknown> = {
    nothing: () => {},
    'stream.close()': stream => stream.close(),
    'stream.send()': stream => stream.send('x'.repeat(100_000)),
    'app.close()': ({ request }) => request.server.close()
  }
  for (const http2 of [false, true]) {
    for (const [after, act] of Object.entries(AFTER)) {
      const app = await build(t, {}, { ...(http2 && { http2: true }) } as {})
      const streams: SseStream[] = []
      app.get('/open', (request, reply) => reply.sse(stream => {
        streams.push(stream)
        setTimeout(() => {
          reply.raw.end()
          act(stream)
        }, 20)
        return new Promise(() => {})
      }))
      app.get('/opening', { onSend: async (request, reply, payload) => { reply.raw.end() } }, (request, reply) => reply.sse(stream => {
        streams.push(stream)
        act(stream)
        return new Promise(() => {})
      }))
      const url = await listen(app)
      for (const path of ['open', 'opening']) {
        if (http2) await http2Get(url, path)
        else await ended(await within(connect(`${url}/${path}`), 'the response'), 'the end')
        if (after === 'app.close()') break
      }
      await soon(() => app.sse.stats().streams === 0, `the end of the streams, after ${after}`)
      for (const { closed } of streams) await within(closed, `the end, after ${after}`)
      t.strictSame(accidents, [], `${after}, HTTP/${http2 ? 2 : 1.1}`)
    }
  }
})

t.test('a stream that breaks behind more than one transform of hooks breaks its connection, and app.close() takes no longer than it may', async t => {
  for (const protocol of ['HTTP/1.1', 'HTTP/2']) {
    const app = await build(t, { drain: { timeout: 100 } }, { ...(protocol === 'HTTP/2' && { http2: true }) } as {})
    app.addHook('onSend', async (request, reply, payload) => (payload as Readable).pipe(new PassThrough()).pipe(new PassThrough()))
    app.get('/throws', (request, reply) => reply.sse((async function * () {
      yield 'one'
      await later()
      throw new Error('the source failed')
    })()))
    app.get('/hangs', {
      onSend: async (request, reply, payload) => {
        hanging++
        await new Promise(() => {})
      }
    }, (request, reply) => reply.sse(['one']))
    let hanging = 0
    const url = await listen(app)
    const session = protocol === 'HTTP/2' ? http2.connect(url) : undefined
    t.teardown(() => session?.destroy())
    const get = async (path: string): Promise<{ text: string, closed: 'end' | 'aborted' | undefined }> => {
      if (session === undefined) return await connect(url + path)
      const response: { text: string, closed: 'aborted' | undefined } = { text: '', closed: undefined }
      const request = session.request({ ':path': path }).setEncoding('utf8')
      request.on('error', () => {}).on('data', text => { response.text += text }).on('close', () => { response.closed = 'aborted' })
      return response
    }
    const client = await get('/throws')
    await within(until(() => client.closed === 'aborted', `the break over ${protocol}`), `the break over ${protocol}`)
    t.match(client.text, 'data: one')
    get('/hangs').catch(() => {})
    await until(() => hanging === 1, 'the hook that hangs')
    await within(app.close(), `app.close() over ${protocol}`)
  }
})

t.test('what a hook put in between may throw at the first write of the answer to a POST: the connection breaks', async t => {
  const app = await build(t)
  app.addHook('onSend', async (request, reply, payload) => {
    const between = new PassThrough()
    between.write = () => { throw new Error('thrown by the test') }
    return (payload as Readable).pipe(between)
  })
  app.post('/', (request, reply) => reply.sse(app.sse.channel('a')))
  await t.rejects(within(connect(await listen(app), { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' }), 'the break'), { code: 'ECONNRESET' })
  t.equal(app.sse.stats().streams, 0)
})

t.test('an onSend hook that fails or hangs after one that piped the stream through a transform is answered as for any other response', async t => {
  const LATER: Record<string, { status: number, hook: (reply: FastifyReply) => Promise<void> }> = {
    fails: { status: 500, hook: async () => { throw new Error('the hook failed') } },
    'fails a little later': {
      status: 500,
      hook: async () => {
        await later()
        throw new Error('the hook failed')
      }
    },
    hangs: { status: 503, hook: () => new Promise(() => {}) },
    'ends after the handlerTimeout': {
      status: 503,
      hook: reply => new Promise(resolve => { reply.raw.once('close', () => setImmediate(resolve)) })
    }
  }
  for (const [what, { status, hook }] of Object.entries(LATER)) {
    const app = await build(t)
    const reasons: string[] = []
    app.sse.on('close', ({ reason }) => reasons.push(reason))
    app.addHook('onSend', async (request, reply, payload) => isStream(payload) ? (payload as Readable).pipe(new PassThrough()) : payload)
    app.addHook('onSend', async (request, reply, payload) => { if (isStream(payload)) await hook(reply) })
    app.get('/handled', { handlerTimeout: 200 }, (request, reply) => reply.sse(app.sse.channel('time')))
    app.get('/driven', { handlerTimeout: 200 }, async (request, reply) => reply.sse().subscribe('time'))
    const url = await listen(app)
    for (const path of ['/handled', '/driven']) {
      const client = await ended(await within(connect(url + path), `the answer, ${what}`), 'the end')
      t.equal(client.status, status, what)
      t.match(client.headers['content-type'], 'application/json')
    }
    t.strictSame(reasons, ['error', 'error'])
    t.equal(app.sse.stats().streams, 0)
    await within(app.close(), `app.close(), ${what}`)
  }
})

t.test('handlerTimeout does not cut a stream that a hook pipes through a transform', async t => {
  for (const web of [false, true]) {
    const app = await build(t)
    app.addHook('onSend', async (request, reply, payload) => {
      const between = (payload as Readable).pipe(new PassThrough())
      return web ? Readable.toWeb(between) : between
    })
    app.get('/', { handlerTimeout: 400 }, (request, reply) => reply.sse(app.sse.channel('time')))
    const client = await within(connect(await listen(app)), 'the response')
    await passed(500)
    await app.sse.publish('time', 'later')
    t.equal((await client.first(1))[0]!.data, 'later')
    client.leave()
  }
})

t.test('nothing was left unhandled', async t => {
  await passed(50)
  t.strictSame(accidents, [])
})
