import { spawn } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import { PassThrough, type Readable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import type { FastifyInstance, FastifyReply } from 'fastify'
import t from 'tap'
import { build, connect, listen, logger, soon, until, within } from '../client.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

const WATCHED = ['close', 'end', 'error', 'finish', 'prefinish', 'complete', 'abort', 'request', 'aborted', 'drain', 'pipe', 'unpipe'] as const
const wait = (ms = 20): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

function listeners (reply: FastifyReply): Record<string, number> {
  return Object.fromEntries(WATCHED.map(event => [event, reply.raw.listenerCount(event)]))
}

/** The listeners of the response of an open stream, and those of the same response before the handler. */
async function opened (app: FastifyInstance): Promise<{ before: Record<string, number>, open: Record<string, number>, leave: () => void }> {
  const seen: { before?: Record<string, number>, reply?: FastifyReply } = {}
  app.get('/', async (request, reply) => {
    seen.before = listeners(reply)
    seen.reply = reply
    return reply.sse(app.sse.channel('time'))
  })
  const client = await within(connect(await listen(app)), 'the response')
  await wait()
  return { before: seen.before!, open: listeners(seen.reply!), leave: () => client.leave() }
}

const SETUPS: Record<string, (app: FastifyInstance) => void> = {
  'no hooks': () => {},
  'an onResponse hook': app => { app.addHook('onResponse', async () => {}) },
  'a slow onSend hook': app => { app.addHook('onSend', async () => { await wait() }) },
  'an onResponse hook and a slow onSend hook': app => {
    app.addHook('onResponse', async () => {})
    app.addHook('onSend', async () => { await wait() })
  }
}

for (const [setup, add] of Object.entries(SETUPS)) {
  t.test(`with ${setup}: an open response has the listeners that it had before the handler, and the stream's own 'close'`, async t => {
    const app = await build(t)
    add(app)
    const { before, open, leave } = await opened(app)
    t.strictSame(open, { ...before, close: before.close! + 1 })
    leave()
  })
}

t.test('listeners of an application on reply.raw survive, whenever they were put there', async t => {
  for (const slow of [false, true]) {
    const app = await build(t)
    if (slow) app.addHook('onSend', async () => { await wait() })
    const heard: string[] = []
    const hear = (who: string, reply: FastifyReply): void => {
      for (const event of ['finish', 'close', 'prefinish'] as const) reply.raw.on(event, () => heard.push(`${who} ${event}`))
    }
    app.addHook('onRequest', async (request, reply) => hear('onRequest', reply))
    app.addHook('onSend', async (request, reply) => hear('onSend', reply))
    app.addHook('onResponse', async () => { heard.push('onResponse') })
    app.get('/', async (request, reply) => {
      hear('before', reply)
      const stream = reply.sse()
      hear('after', reply)
      stream.send('one')
      setTimeout(() => stream.close(), 50)
      return stream
    })
    const client = await connect(await listen(app))
    await soon(() => client.closed, 'the end')
    await soon(() => heard.filter(one => one.endsWith('close')).length === 4, 'every close')
    t.strictSame([...heard].sort(), ['after close', 'after finish', ...(slow ? ['after prefinish'] : heard.includes('after prefinish') ? ['after prefinish'] : []), 'before close', 'before finish', 'before prefinish', 'onRequest close', 'onRequest finish', 'onRequest prefinish', 'onResponse', 'onSend close', 'onSend finish', 'onSend prefinish'].sort())
  }
})

t.test('listeners of an onSend hook on the payload do no harm', async t => {
  const app = await build(t)
  app.addHook('onSend', async (request, reply, payload) => {
    const stream = payload as NodeJS.ReadableStream
    const nothing = (): void => {}
    stream.on('data', nothing).on('end', nothing).on('error', nothing).once('close', nothing)
    stream.removeListener('data', nothing)
    stream.off('end', nothing)
    reply.raw.on('close', () => { closed++ })
  })
  let closed = 0
  app.get('/', async (request, reply) => reply.sse(['one']))
  const client = await within(connect(await listen(app)), 'the response')
  await soon(() => closed === 1, 'the listener of the hook')
  t.equal(client.events[0]?.data, 'one')
})

t.test('a client that leaves a stream leaves no false line in the log, with and without hooks', async t => {
  for (const add of Object.values(SETUPS)) {
    const lines: any[] = []
    const app = await build(t, {}, logger(lines, 'trace'))
    add(app)
    const { leave } = await opened(app)
    leave()
    await until(() => lines.some(({ msg }) => msg === 'stream closed'), 'the line')
    await wait()
    t.notOk(lines.some(({ msg, level }) => level >= 40 || /prematurely/.test(msg)))
  }
})

// What a stream keeps alive, in a process of its own

if (process.argv[2] === 'child') {
  await child(process.argv[3]!)
} else {
  for (const setup of ['plain', 'slow onSend', 'async handler', 'driven']) {
    t.test(`an open stream does not keep the reply alive, ${setup}`, async t => {
      const result = await within(spawnChild(setup), 'the child', 60_000)
      t.match(result, { open: 20, alive: 0 }, 'twenty streams are open, and none of their replies is left')
    })
  }

  t.test('nothing was left unhandled', async t => {
    await wait(50)
    t.strictSame(accidents, [])
  })
}

async function spawnChild (setup: string): Promise<unknown> {
  const child = spawn(process.execPath, [...process.execArgv, '--expose-gc', fileURLToPath(import.meta.url), 'child', setup], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, TAP: '0' } })
  let text = ''
  child.stdout.on('data', chunk => { text += String(chunk) })
  await once(child, 'close')
  return JSON.parse(/^RESULT (.*)$/m.exec(text)?.[1] ?? 'null')
}

async function child (setup: string): Promise<void> {
  const undo: Array<() => unknown> = []
  const app = await build({ teardown: fn => undo.push(fn) })
  const replies: Array<WeakRef<FastifyReply>> = []
  if (setup === 'slow onSend') app.addHook('onSend', async () => { await wait(5) })
  app.addHook('onRequest', async (request, reply) => { replies.push(new WeakRef(reply)) })
  const time = app.sse.channel('time')
  if (setup === 'async handler') app.get('/', async (request, reply) => reply.sse(time))
  else if (setup === 'driven') app.get('/', async (request, reply) => reply.sse().subscribe(time))
  else app.get('/', (request, reply) => reply.sse(time))
  const url = await listen(app)
  const requests = Array.from({ length: 20 }, () => http.get(url, { agent: false }))
  for (const request of requests) {
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    response.resume()
  }
  const { gc } = globalThis as unknown as { gc: () => void }
  for (let i = 0; i < 20 && replies.some(reply => reply.deref() !== undefined); i++) {
    await wait(10)
    gc()
  }
  console.log('RESULT ' + JSON.stringify({ open: app.sse.streams.size, alive: replies.filter(reply => reply.deref() !== undefined).length }))
  for (const request of requests) request.destroy()
  for (const fn of undo) await fn()
}

t.test('a hook that keeps the payload and destroys it while it is sent breaks the connection, and the application closes', async t => {
  for (const how of ['as it is', 'through a transform'] as const) {
    const app = await build(t)
    app.get('/', {
      onSend: async (request, reply, payload) => {
        const source = payload as unknown as Readable
        setTimeout(() => source.destroy(), 20)
        return how === 'as it is' ? payload : source.pipe(new PassThrough())
      }
    }, (request, reply) => reply.sse(app.sse.channel('a')))
    const client = await connect(await listen(app))
    await until(() => client.closed === 'aborted', `the connection breaks, ${how}`)
    await until(() => app.sse.stats().streams === 0)
    await within(app.close(), 'app.close()')
  }
})

t.test('a hook that pipes the payload into what is destroyed already is answered with an error', async t => {
  const app = await build(t, {}, { logger: { level: 'silent' } })
  app.get('/', {
    onSend: async (request, reply, payload) => typeof payload === 'string' ? payload : (payload as Readable).pipe(new PassThrough().destroy())
  }, (request, reply) => reply.sse(app.sse.channel('a')))
  const client = await within(connect(await listen(app)), 'the answer')
  t.equal(client.status, 500)
  await until(() => client.closed)
  t.equal(app.sse.stats().streams, 0)
  await within(app.close(), 'app.close()')
})
