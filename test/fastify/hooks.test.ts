import { subscribe, unsubscribe, hasSubscribers } from 'node:diagnostics_channel'
import { Readable } from 'node:stream'
import Fastify, { type FastifyInstance, type FastifyReply, type RouteHandlerMethod } from 'fastify'
import t from 'tap'
import sse from '../../lib/index.ts'
import { connect, listen, logger, soon, within } from '../client.ts'
import { build, ended, isStream, keepAccidents, later, passed } from './app.ts'

const accidents = keepAccidents()

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

const EMPTY_ANSWERS: Record<string, (app: FastifyInstance) => void> = {
  'an async error handler that returns nothing': app => {
    app.setErrorHandler(async (_, request, reply) => {
      await later()
      reply.code(502)
    })
  },
  'an error handler that sends nothing': app => { app.setErrorHandler((_, request, reply) => { reply.code(502).send() }) }
}

for (const [errors, setErrors] of Object.entries(EMPTY_ANSWERS)) {
  t.test(`${errors} after a failed onSend hook gives the empty answer that Fastify makes of it, and the handler that ends meanwhile gives none`, async t => {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'warn'))
    let fail = (): void => {}
    app.addHook('onSend', async (request, reply, payload) => {
      if (!isStream(payload)) return
      await new Promise<void>(resolve => { fail = resolve })
      throw new Error('the hook failed')
    })
    setErrors(app)
    app.get('/reference', (request, reply) => {
      reply.send(Readable.from(['text']))
      setImmediate(() => fail())
    })
    app.get('/sync', (request, reply) => {
      reply.sse(app.sse.channel('time'))
      setImmediate(() => fail())
    })
    app.get('/settled', async (request, reply) => {
      reply.sse(app.sse.channel('time'))
      setImmediate(() => fail())
    })
    app.get('/running', async (request, reply) => {
      reply.sse(app.sse.channel('time'))
      fail()
      await passed(5) // the async error handler answers after this
    })
    app.get('/stuck', async (request, reply) => {
      reply.sse(app.sse.channel('time'))
      fail()
      await new Promise(() => {})
    })
    const url = await listen(app)
    const reference = await ended(await within(connect(url + '/reference'), 'the reference'), 'the reference')
    t.equal(reference.status, 502)
    for (const path of ['/sync', '/settled', '/running', '/stuck']) {
      const client = await ended(await within(connect(url + path), `the answer of ${path}`), 'the answer')
      t.match(client, { status: 502, text: reference.text, closed: 'end' }, path)
      t.equal(client.headers['content-length'], reference.headers['content-length'])
      t.equal(app.sse.streams.size, 0)
    }
    t.strictSame(lines, [])
  })
}

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
  'a sync handler of unknown routes': app => {
    app.setNotFoundHandler((request, reply) => {
      reply.sse(app.sse.channel('time'))
      throw new Error('a secret')
    })
  }
}

for (const [who, add] of Object.entries(THROWERS)) {
  for (const slow of [false, true]) {
    t.test(`${who} that throws after reply.sse()${slow ? ' while an onSend hook runs' : ''}: logged, and the stream ends with an error`, async t => {
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

type Answer = (app: FastifyInstance, reply: FastifyReply) => unknown

/** Once a reply is taken over, Fastify looks at what these throw no more, and there is no way to learn of it. */
const NOT_LOOKED_AT: Record<string, (app: FastifyInstance, answer: Answer) => void> = {
  'a sync onRequest hook': (app, answer) => {
    app.get('/', {
      onRequest (request, reply, done) {
        answer(app, reply)
        throw new Error('a secret')
      }
    }, async () => {})
  },
  'a sync preHandler hook': (app, answer) => {
    app.get('/', {
      preHandler (request, reply, done) {
        answer(app, reply)
        throw new Error('a secret')
      }
    }, async () => {})
  },
  'an async preHandler hook': (app, answer) => {
    app.get('/', {
      async preHandler (request, reply) {
        answer(app, reply)
        await later()
        throw new Error('a secret')
      }
    }, async () => {})
  },
  'an async handler of unknown routes': (app, answer) => {
    app.setNotFoundHandler(async (request, reply) => {
      answer(app, reply)
      await later()
      throw new Error('a secret')
    })
  }
}

for (const [who, add] of Object.entries(NOT_LOOKED_AT)) {
  for (const slow of [false, true]) {
    t.test(`${who} that throws after reply.sse()${slow ? ' while an onSend hook runs' : ''}: the stream goes on, and what Fastify does is what it does after reply.hijack(), without the plugin`, async t => {
      const told: any[][] = []
      for (const plugin of [false, true]) {
        const lines: any[] = []
        told.push(lines)
        const app = plugin ? await build(t, {}, logger(lines, 'warn')) : Fastify(logger(lines, 'warn'))
        t.teardown(() => app.close())
        if (slow) app.addHook('onSend', async () => { await later() })
        const time = plugin ? app.sse.channel('time') : undefined
        add(app, (app, reply) => {
          if (plugin) return reply.sse(time!)
          reply.hijack().raw.writeHead(200).write('data: one\n\n')
        })
        const client = await within(connect(await listen(app)), 'the response')
        await passed(60) // a second answer, or a break, would come now
        await time?.publish('one')
        t.equal((await within(client.first(1), 'an event'))[0]?.data, 'one', 'it is open')
        t.equal(client.closed, undefined)
        client.leave()
        if (plugin) await soon(() => app.sse.stats().closed.client === 1, 'the stream to close')
        else app.server.closeAllConnections()
      }
      const [bare, ours] = told.map(lines => lines.map(({ level, msg, err }) => [level, msg, err?.message]))
      t.strictSame(ours, bare)
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

t.test('nothing was left unhandled', async t => {
  await passed(50)
  t.strictSame(accidents, [])
})
