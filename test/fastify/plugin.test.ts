import { subscribe, unsubscribe, hasSubscribers } from 'node:diagnostics_channel'
import { once } from 'node:events'
import http from 'node:http'
import http2 from 'node:http2'
import net, { type AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import Fastify, { type FastifyInstance, type FastifyReply, type RouteHandlerMethod } from 'fastify'
import t from 'tap'
import sse, { type SseStream } from '../../lib/index.ts'
import { build as buildApp, connect, listen, logger, soon, until, within, type Client } from '../client.ts'

// What must never happen, whatever a test does; the last test of this file looks.
const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

/** A response that hangs must not keep the application from closing when its test is over. */
async function build (...args: Parameters<typeof buildApp>): Promise<FastifyInstance> {
  const app = await buildApp(...args)
  args[0].teardown(() => { app.server.closeAllConnections?.() })
  return app
}

const passed = (ms: number, since = Date.now()): Promise<true> => until(() => Date.now() - since >= ms, `${ms} ms`)
const isStream = (payload: unknown): boolean => typeof (payload as Readable | null | undefined)?.pipe === 'function'

const later = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 20))

async function ended (client: Client, what: string): Promise<Client> {
  await within(until(() => client.closed, what), what)
  return client
}

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

// The table of DESIGN.md, section 7: every way to write a handler x every onSend hook x every error handler. The rule for hooks
// that fail is Fastify itself: what it does when the same hook fails over a Readable.

const HOOKS: Record<string, ((app: FastifyInstance, calls: (reply: FastifyReply) => void) => void)> = {
  'no onSend hook': () => {},
  'a sync onSend hook': (app, calls) => {
    app.addHook('onSend', (request, reply, payload, done) => {
      calls(reply)
      reply.header('x-hook', 'ran')
      done()
    })
  },
  'a slow async onSend hook': (app, calls) => {
    app.addHook('onSend', async (request, reply) => {
      calls(reply)
      await later()
      reply.header('x-hook', 'ran')
    })
  },
  'a failing sync onSend hook': (app, calls) => {
    app.addHook('onSend', (request, reply, payload, done) => {
      calls(reply)
      if (isStream(payload)) done(new Error('the hook failed'))
      else done()
    })
  },
  'a failing async onSend hook': (app, calls) => {
    app.addHook('onSend', async (request, reply, payload) => {
      calls(reply)
      await later()
      if (isStream(payload)) throw new Error('the hook failed')
    })
  },
  'an onSend hook that throws': (app, calls) => {
    app.addHook('onSend', (request, reply, payload, done) => {
      calls(reply)
      if (isStream(payload)) throw new Error('the hook failed')
      done()
    })
  },
  'a sync onSend hook that fails for the error response too': (app, calls) => {
    app.addHook('onSend', (request, reply, payload, done) => {
      calls(reply)
      done(new Error('the hook failed'))
    })
  },
  'an async onSend hook that fails for the error response too': (app, calls) => {
    app.addHook('onSend', async (request, reply) => {
      calls(reply)
      await later()
      throw new Error('the hook failed')
    })
  }
}

const ERROR_HANDLERS: Record<string, (app: FastifyInstance) => void> = {
  'the default error handler': () => {},
  'a sync error handler': app => {
    app.setErrorHandler((error: Error, request, reply) => { reply.code(502).send({ sync: error.message }) })
  },
  'an async error handler': app => {
    app.setErrorHandler(async (error: Error, request, reply) => {
      await later()
      reply.code(502)
      return { async: error.message }
    })
  }
}

const RETURNS = {
  'the reply': (reply: FastifyReply, app: FastifyInstance) => reply.sse(app.sse.channel('time')),
  'the stream': (reply: FastifyReply, app: FastifyInstance) => reply.sse().subscribe(app.sse.channel('time')),
  nothing: (reply: FastifyReply, app: FastifyInstance) => { reply.sse(app.sse.channel('time')) }
}

for (const [hook, addHook] of Object.entries(HOOKS)) {
  for (const [errors, setErrors] of Object.entries(ERROR_HANDLERS)) {
    t.test(`with ${hook} and ${errors}`, async t => {
      const lines: any[] = []
      const app = await build(t, {}, logger(lines, 'info'))
      const calls = new Map<string, number>()
      addHook(app, ({ request: { url } }) => calls.set(url, (calls.get(url) ?? 0) + 1))
      setErrors(app)
      for (const [returns, answer] of Object.entries(RETURNS)) {
        app.get(`/sync/${returns.replace(' ', '-')}`, ((request, reply) => answer(reply, app)) as RouteHandlerMethod)
        app.get(`/async/${returns.replace(' ', '-')}`, async (request, reply) => answer(reply, app))
        app.get(`/late/${returns.replace(' ', '-')}`, async (request, reply) => {
          await later()
          const result = answer(reply, app)
          await later()
          return result
        })
      }
      app.get('/reference', (request, reply) => { reply.send(Readable.from(['text'])) })
      const url = await listen(app)
      const reference = await ended(await within(connect(url + '/reference'), 'the reference'), 'the reference')
      await soon(() => lines.some(({ msg }) => msg === 'request completed'), 'the log line of the reference')
      const bad = lines.filter(({ level }) => level >= 40).map(({ msg }) => msg)

      for (const handler of ['sync', 'async', 'late']) {
        for (const returns of Object.keys(RETURNS)) {
          const path = `/${handler}/${returns.replace(' ', '-')}`
          await t.test(`a ${handler} handler returns ${returns}`, async t => {
            lines.length = 0
            const client = await within(connect(url + path), 'the response')
            t.equal(client.status, reference.status, 'the status is right')
            if (client.status === 200) {
              t.equal(client.headers['content-type'], 'text/event-stream')
              t.equal(client.headers['x-hook'], reference.headers['x-hook'], 'headers set in onSend are kept')
              await app.sse.publish('time', 'a live event')
              t.equal((await client.first(1))[0]?.data, 'a live event')
              await later() // a second answer would come now
              client.leave()
              await soon(() => lines.some(({ msg, reason }) => msg === 'stream closed' && reason === 'client'), 'the log line of the stream')
            } else {
              await ended(client, 'the error response')
              t.equal(client.closed, 'end', 'the error response is whole')
              t.equal(client.text, reference.text, 'the error response is what Fastify answers')
              t.equal(client.headers['content-type'], reference.headers['content-type'])
              await soon(() => lines.some(({ msg }) => msg === 'request completed'), 'the log line of the request')
            }
            t.equal(calls.get(path), calls.get('/reference'), 'onSend ran as often as for any other response')
            t.strictSame(lines.filter(({ level }) => level >= 40).map(({ msg }) => msg), bad, 'the log has no false line')
            t.notOk(lines.some(({ msg }) => /prematurely|already sent/.test(msg)), 'the log has no false line at level info')
            t.equal(app.sse.streams.size, 0, 'no stream is left')
            t.equal(app.sse.stats().streams, 0)
          })
        }
      }
    })
  }
}

// Hooks, handlers of errors and of unknown routes

for (const hook of ['onRequest', 'preValidation', 'preHandler', 'preParsing'] as const) {
  for (const style of ['callback', 'async returning reply', 'async returning nothing'] as const) {
    for (const slow of [false, true]) {
      t.test(`reply.sse() answers from an ${hook} hook, ${style}${slow ? ', with a slow onSend hook' : ''}, and the handler does not run`, async t => {
        const lines: any[] = []
        const app = await build(t, {}, logger(lines, 'info'))
        let handled = 0
        const time = app.sse.channel('time')
        app.get('/', async () => { handled++ })
        if (slow) app.addHook('onSend', async () => { await later() })
        if (style === 'callback') app.addHook(hook as 'onRequest', (request, reply, done) => { reply.sse(time) })
        else if (style === 'async returning reply') app.addHook(hook as 'onRequest', async (request, reply) => reply.sse(time))
        else app.addHook(hook as 'onRequest', async (request, reply) => { reply.sse(time) })
        const url = await listen(app)
        const client = await within(connect(url), 'the response')
        await time.publish('one')
        t.equal((await client.first(1))[0]?.data, 'one')
        client.leave()
        await soon(() => app.sse.stats().closed.client === 1, 'the stream to close')
        t.equal(handled, 0)
        t.strictSame(lines.filter(({ level }) => level >= 40), [])

        const head = await ended(await within(connect(url, { method: 'HEAD' }), 'the response to HEAD'), 'HEAD to end')
        t.equal(head.headers['content-type'], 'text/event-stream')
        if (style !== 'async returning nothing') t.equal(handled, 0, 'nor for HEAD')
      })
    }
  }
}

for (const style of ['sync', 'async'] as const) {
  for (const slow of [false, true]) {
    t.test(`reply.sse() answers in a ${style} error handler${slow ? ', with a slow onSend hook' : ''}`, async t => {
      const lines: any[] = []
      const app = await build(t, {}, logger(lines, 'info'))
      if (slow) app.addHook('onSend', async () => { await later() })
      const time = app.sse.channel('time')
      if (style === 'sync') app.setErrorHandler((_, request, reply) => { reply.code(200).sse(time) })
      else app.setErrorHandler(async (_, request, reply) => reply.code(200).sse(time))
      app.get('/sync', () => { throw new Error('oops') })
      app.get('/async', async () => { throw new Error('oops') })
      const url = await listen(app)
      for (const path of ['/sync', '/async']) {
        const client = await within(connect(url + path), 'the response')
        t.equal(client.status, 200)
        await time.publish('one')
        t.equal((await client.first(1))[0]?.data, 'one')
        client.leave()
        await soon(() => app.sse.streams.size === 0, 'the stream to close')
      }
      t.strictSame(lines.filter(({ level }) => level >= 40), [])
    })

    t.test(`reply.sse() answers in a ${style} handler of unknown routes${slow ? ', with a slow onSend hook' : ''}`, async t => {
      const lines: any[] = []
      const app = await build(t, {}, logger(lines, 'info'))
      if (slow) app.addHook('onSend', async () => { await later() })
      const time = app.sse.channel('time')
      if (style === 'sync') app.setNotFoundHandler((request, reply) => { reply.sse(time) })
      else app.setNotFoundHandler(async (request, reply) => reply.sse(time))
      app.get('/called', (request, reply) => { reply.callNotFound() })
      const url = await listen(app)
      for (const path of ['/nowhere', '/called']) {
        const client = await within(connect(url + path), 'the response')
        t.equal(client.status, 200)
        await time.publish('one')
        t.equal((await client.first(1))[0]?.data, 'one')
        client.leave()
        await soon(() => app.sse.streams.size === 0, 'the stream to close')
      }
      t.strictSame(lines.filter(({ level }) => level >= 40), [])
    })
  }
}

t.test('an async error handler that returns nothing after a failed onSend hook does not leave the client waiting', { todo: 'cannot be told from a handler that returns nothing' }, async t => {
  const app = await build(t)
  app.addHook('onSend', async (request, reply, payload) => { if (isStream(payload)) throw new Error('the hook failed') })
  app.setErrorHandler(async (error, request, reply) => {
    t.match(error, { message: 'the hook failed' })
    reply.code(502)
  })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('time')))
  const client = await within(connect(await listen(app)), 'the error response')
  t.equal(client.status, 502)
})

// Handlers and hooks that throw after reply.sse()

const THROWERS: Record<string, (app: FastifyInstance) => void> = {
  'a sync handler': app => {
    app.get('/', (request, reply) => {
      reply.sse(app.sse.channel('time'))
      throw new Error('a secret')
    })
  },
  'an async handler': app => {
    app.get('/', async (request, reply) => {
      reply.sse(app.sse.channel('time'))
      throw new Error('a secret')
    })
  },
  'an async handler, later': app => {
    app.get('/', async (request, reply) => {
      reply.sse(app.sse.channel('time'))
      await passed(60)
      throw new Error('a secret')
    })
  },
  'a sync preHandler hook': app => {
    app.get('/', {
      preHandler (request, reply, done) {
        reply.sse(app.sse.channel('time'))
        throw new Error('a secret')
      }
    }, async () => {})
  },
  'an async preHandler hook': app => {
    app.get('/', {
      async preHandler (request, reply) {
        reply.sse(app.sse.channel('time'))
        await later()
        throw new Error('a secret')
      }
    }, async () => {})
  },
  'a sync error handler': app => {
    app.get('/', async () => { throw new Error('first') })
    app.setErrorHandler((error, request, reply) => {
      reply.sse(app.sse.channel('time'))
      throw new Error('a secret', { cause: error })
    })
  },
  'an async error handler': app => {
    app.get('/', async () => { throw new Error('first') })
    app.setErrorHandler(async (error, request, reply) => {
      reply.sse(app.sse.channel('time'))
      await later()
      throw new Error('a secret', { cause: error })
    })
  },
  'a handler of unknown routes': app => {
    app.setNotFoundHandler(async (request, reply) => {
      reply.sse(app.sse.channel('time'))
      await later()
      throw new Error('a secret')
    })
  }
}

/** Of what these throw once the reply is sent, Fastify tells nobody. */
const DROPPED = ['a sync preHandler hook', 'an async preHandler hook', 'a handler of unknown routes']

for (const [who, add] of Object.entries(THROWERS)) {
  for (const slow of [false, true]) {
    t.test(`${who} that throws after reply.sse()${slow ? ' while an onSend hook runs' : ''}: logged, and the stream ends with an error`, DROPPED.includes(who) ? { todo: 'Fastify drops the error, and no public way tells of it' } : {}, async t => {
      const lines: any[] = []
      const app = await build(t, {}, logger(lines, 'info'))
      if (slow) app.addHook('onSend', async () => { await later() })
      const reasons: string[] = []
      app.sse.on('subscribe', ({ stream }) => { stream.closed.then(reason => reasons.push(reason)) })
      add(app)
      const url = await listen(app)
      const client = await within(connect(url), 'the response').catch((error: Error) => error)
      if (client instanceof Error) {
        t.match(client, { code: 'ECONNRESET' }, 'the connection broke before the head')
      } else {
        await ended(client, 'the end of the response')
        if (client.status === 200) t.equal(client.closed, 'aborted', 'the client sees no ordinary end')
        t.notMatch(client.text, 'secret', 'the client does not see the text of the error')
      }
      await soon(() => reasons.length > 0, 'the stream to close')
      t.strictSame(reasons, ['error'])
      t.equal(app.sse.streams.size, 0)
      await soon(() => lines.some(({ err }) => /a secret/.test(err?.message)), 'the error in the log')
      t.notOk(lines.some(({ msg, err }) => /prematurely/.test(msg) || err?.code === 'FST_ERR_REP_ALREADY_SENT'), 'nothing false is logged')
    })
  }
}

t.test('the diagnostics channel that tells of handlers that throw is left with the application', async t => {
  const name = 'tracing:fastify.request.handler:error'
  const app = Fastify()
  await app.register(sse)
  t.ok(hasSubscribers(name))
  const other = (): void => {}
  subscribe(name, other)
  await app.close()
  t.ok(hasSubscribers(name), 'other subscribers stay')
  unsubscribe(name, other)
  t.notOk(hasSubscribers(name))
})

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

// Refusals

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

t.test('a status without a body (204) ends the response, starts nothing, and tells the source', async t => {
  for (const slow of [false, true]) {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'info'))
    if (slow) app.addHook('onSend', async () => { await later() })
    let started = 0
    const source = new Readable({ read () { started++ } })
    app.get('/channel', (request, reply) => reply.code(204).sse(app.sse.channel('time')))
    app.get('/readable', async (request, reply) => reply.code(204).sse(source))
    const url = await listen(app)
    for (const path of ['/channel', '/readable']) {
      const client = await ended(await within(connect(url + path), path), path)
      t.equal(client.status, 204)
      t.equal(client.text, '')
    }
    t.equal(started, 0)
    t.match(app.sse.stats(), { streams: 0, opened: 0 })
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
    await within(until(() => source.destroyed, 'the source to be told'), 'the source to be told')
  }
})

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

t.test('handlerTimeout still answers with 503 when an onSend hook hangs, and the hook may end later', { todo: 'the reply counts as sent meanwhile' }, async t => {
  const app = await build(t, {}, { handlerTimeout: 200 })
  let go = (): void => {}
  app.addHook('onSend', async (request, reply, payload) => {
    if (isStream(payload)) await new Promise<void>(resolve => { go = resolve })
  })
  app.get('/', async (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  t.teardown(() => go())
  const client = await ended(await within(connect(url), 'the response'), 'the response')
  t.equal(client.status, 503)
  go()
  await passed(60)
  t.match(app.sse.stats(), { streams: 0, opened: 0 })
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

t.test('request.acceptsSse() reads Accept as RFC 9110 says', async t => {
  const app = await build(t)
  app.get('/', async request => request.acceptsSse())
  const cases: Array<[string | undefined, boolean]> = [
    ['text/event-stream', true],
    ['TEXT/Event-Stream', true],
    ['application/json, text/event-stream', true],
    ['application/json,text/event-stream;q=0.1', true],
    ['text/event-stream; q=1', true],
    ['text/event-stream;q=0', false],
    ['text/event-stream; q=0.000', false],
    ['text/event-stream;Q=0', false],
    ['text/event-stream;q=0.001', true],
    ['text/event-stream; charset=utf-8', true],
    ['text/event-stream-ish', false],
    ['*/*', false],
    ['text/*', false],
    ['application/json', false],
    ['', false],
    [undefined, false]
  ]
  for (const [accept, expected] of cases) {
    const response = await app.inject({ url: '/', headers: accept === undefined ? {} : { accept } })
    t.equal(response.json(), expected, String(accept))
  }
})

t.test('one route serves JSON and a stream', async t => {
  const app = await build(t)
  app.get('/', async (request, reply) => {
    if (request.acceptsSse()) return reply.sse(['one'])
    return { one: 1 }
  })
  const url = await listen(app)
  t.equal((await (await connect(url)).first(1))[0]?.data, 'one')
  t.equal((await ended(await connect(url, { headers: { accept: 'application/json' } }), 'the end')).text, '{"one":1}')
})

// Logging, onResponse, transport

t.test('a finite stream is one completed request in the log, and one closed stream', async t => {
  for (const slow of [false, true]) {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'info'))
    if (slow) app.addHook('onSend', async () => { await later() })
    let responses = 0
    app.addHook('onResponse', async () => { responses++ })
    app.get('/', async (request, reply) => reply.sse(['one', 'two']))
    const client = await ended(await connect(await listen(app) + '/'), 'the end')
    t.equal(client.closed, 'end')
    await soon(() => lines.some(({ msg }) => msg === 'request completed'), 'the request to complete')
    const own = lines.filter(({ reqId }) => reqId !== undefined)
    t.strictSame(own.map(({ msg }) => msg), ['incoming request', 'stream closed', 'request completed'])
    t.match(own[1], { level: 30, reason: 'end', events: 2, bytes: Buffer.byteLength(client.text) })
    t.type(own[1].durationMs, 'number')
    t.equal(responses, 1)
  }
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

t.test('nothing was left unhandled', async t => {
  await passed(50)
  t.strictSame(accidents, [])
})
