import { Readable } from 'node:stream'
import { ReadableStream } from 'node:stream/web'
import t from 'tap'
import type { SseItem, SseStream } from '../../lib/index.ts'
import { build as buildApp, connect, listen, logger, soon, until, within, type Client } from '../client.ts'

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))

const wait = (ms = 10): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

/** What one source does, as steps: yield items, throw, wait for ever. */
type Act = (tell: (what: string) => void, stream?: SseStream) => AsyncGenerator<unknown>

/** Every kind of source, made from the same steps. */
const KINDS: Record<string, (act: Act, tell: (what: string) => void) => unknown> = {
  'an async generator': (act, tell) => act(tell),
  'an async iterable': (act, tell) => ({
    [Symbol.asyncIterator] () {
      const steps = act(() => {})
      return {
        next: () => steps.next(),
        return: async () => {
          tell('told')
          return { done: true, value: undefined }
        }
      }
    }
  }),
  'a Readable of objects': (act, tell) => {
    const steps = act(() => {})
    return new Readable({
      objectMode: true,
      highWaterMark: 1,
      read () {
        steps.next().then(({ done, value }) => this.push(done === true ? null : value), error => this.destroy(error as Error))
      },
      destroy (error, done) {
        tell('told')
        done(error)
      }
    })
  },
  'a web stream': (act, tell) => {
    const steps = act(() => {})
    return new ReadableStream({
      async pull (controller) {
        const { done, value } = await steps.next()
        if (done === true) controller.close()
        else controller.enqueue(value)
      },
      cancel () { tell('told') }
    }, { highWaterMark: 0 })
  },
  'a function that returns an async generator': (act, tell) => (stream: SseStream) => act(tell, stream),
  'a function that returns a promise': (act, tell) => async (stream: SseStream) => {
    for await (const item of act(() => {}, stream)) if (!await stream.send(item instanceof Uint8Array ? new TextDecoder().decode(item) : item as string)) break
    tell('told')
  }
}

async function run (t: Parameters<typeof buildApp>[0], source: (stream?: SseStream) => unknown): Promise<{ app: Awaited<ReturnType<typeof buildApp>>, lines: any[], reasons: string[], open: () => Promise<Client> }> {
  const lines: any[] = []
  const reasons: string[] = []
  const app = await buildApp(t, {}, logger(lines, 'info'))
  t.teardown(() => { app.server.closeAllConnections() })
  app.sse.on('close', ({ reason }) => reasons.push(reason))
  app.get('/', (request, reply) => reply.sse(source() as Readable))
  const url = await listen(app)
  return { app, lines, reasons, open: async () => await within(connect(url), 'the response') }
}

for (const [kind, make] of Object.entries(KINDS)) {
  t.test(`${kind} that finishes: its events, in order, and an ordinary end`, async t => {
    const { open, reasons, lines } = await run(t, () => make(async function * () {
      yield 'text'
      await wait()
      yield { event: 'tick', data: { n: 1 }, id: '7' }
      yield new TextEncoder().encode('bytes')
      yield { comment: 'a comment' }
    }, () => {}))
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.equal(client.closed, 'end')
    t.equal(client.text, 'retry: 3000\n\ndata: text\n\nid: 7\nevent: tick\ndata: {"n":1}\n\ndata: bytes\n\n: a comment\n\n')
    t.strictSame(reasons, ['end'])
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  })

  for (const when of ['at once', 'later'] as const) {
    t.test(`${kind} that throws ${when}: logged, the connection breaks, the client does not see the text`, async t => {
      const { open, reasons, lines, app } = await run(t, () => make(async function * () {
        if (when === 'later') {
          yield 'one'
          await wait()
        }
        throw new Error('a secret')
      }, () => {}))
      const client = await open()
      await soon(() => client.closed, 'the end')
      t.equal(client.closed, 'aborted', 'not an ordinary end')
      t.notMatch(client.text, 'secret')
      t.strictSame(reasons, ['error'])
      t.equal(app.sse.streams.size, 0)
      t.strictSame(lines.filter(({ level }) => level >= 40).map(({ err }) => err?.message), ['a secret'], 'it is logged once')
      if (when === 'later') t.strictSame(client.events.map(({ data }) => data), ['one'])
    })
  }

  t.test(`${kind} that is left by the client while idle is told within a second`, async t => {
    const told: string[] = []
    let stream: SseStream | undefined
    const { open, reasons, app, lines } = await run(t, () => make(async function * (tell) {
      try {
        yield 'one'
        // An async generator hears it only when it stops waiting: stream.signal reaches into it.
        stream = [...app.sse.streams][0]
        await new Promise<void>(resolve => stream!.signal.addEventListener('abort', () => resolve()))
        yield 'two'
      } finally {
        tell('told')
      }
    }, what => told.push(what)))
    const client = await open()
    await client.first(1)
    await until(() => stream, 'the source to idle')
    client.leave()
    await soon(() => told.length > 0, 'the source to be told', 1_000)
    t.strictSame(reasons, ['client'])
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  })

  t.test(`${kind} that never waits: others are served, a client that does not read stops it, and it is told when that client leaves`, async t => {
    const told: string[] = []
    let made = 0
    const data = 'x'.repeat(10_000)
    const { open, reasons, app, lines } = await run(t, () => make(async function * (tell) {
      try {
        for (;;) {
          made++
          yield data
        }
      } finally {
        tell('told')
      }
    }, what => told.push(what)))
    const client = await open()
    client.pause()
    const [stream] = app.sse.streams
    await within(until(() => stream!.blocked, 'the socket to fill'), 'the socket to fill', 10_000)
    const before = made
    await wait(100)
    t.ok(made - before <= 5, `it makes no more than fits: ${made - before}`)
    const pending = stream!.send('own')
    client.leave()
    await soon(() => told.length > 0, 'the source to be told', 1_000)
    t.equal(await within(pending, 'a promise of send()'), false)
    t.strictSame(reasons, ['client'])
    t.equal(app.sse.stats().blocked, 0)
    t.strictSame(lines.filter(({ level }) => level >= 40), [])
  })

  t.test(`${kind} that yields what is no event: logged, an error, and it is told`, async t => {
    for (const bad of [{ id: 'a\nb', data: 'x' }, {}, { data: undefined }, 42, null]) {
      if (bad === null && kind === 'a Readable of objects') continue // null ends a Readable
      const told: string[] = []
      const { open, reasons, lines } = await run(t, () => make(async function * (tell) {
        try {
          yield 'one'
          await wait()
          yield bad
          yield 'two'
          await new Promise(() => {})
        } finally {
          tell('told')
        }
      }, what => told.push(what)))
      const client = await open()
      await soon(() => client.closed, 'the end')
      t.equal(client.closed, 'aborted', JSON.stringify(bad))
      t.strictSame(client.events.map(({ data }) => data), ['one'])
      t.strictSame(reasons, ['error'])
      t.ok(lines.some(({ err }) => err?.code === 'SSE_ERR_INVALID_EVENT'), 'it is logged')
      // A function has the error in its own hands: send() rejects.
      if (kind !== 'a function that returns a promise') await soon(() => told.length > 0, `${kind} to be told of ${JSON.stringify(bad)}`, 1_000)
    }
  })
}

t.test('100 MB from a source arrive whole, and the memory stays flat', async t => {
  const data = 'x'.repeat(10_000)
  const { open } = await run(t, () => (function * () { for (let n = 0; n < 10_000; n++) yield data })())
  const before = process.memoryUsage.rss()
  let most = before
  const timer = setInterval(() => { most = Math.max(most, process.memoryUsage().heapUsed + process.memoryUsage().external) }, 10)
  const started = process.memoryUsage().heapUsed + process.memoryUsage().external
  most = started
  const client = await open()
  client.response.removeAllListeners('data')
  let bytes = 0
  client.response.on('data', (chunk: string) => { bytes += chunk.length })
  await within(until(() => client.closed, 'the end'), 'the end', 20_000)
  clearInterval(timer)
  t.equal(client.closed, 'end')
  t.ok(bytes >= 99_900_000, String(bytes)) // what came before the count began is missing
  t.ok(most - started < 100_000_000, `${Math.round((most - started) / 1e6)} MB more at most`)
})

t.test('an iterable that never waits and never ends lets other requests through', async t => {
  const { open, app } = await run(t, () => ({ * [Symbol.iterator] () { for (;;) yield { comment: '' } } }))
  const client = await open()
  app.server.once('request', () => {})
  const start = performance.now()
  for (let n = 0; n < 5; n++) await wait(1)
  t.ok(performance.now() - start < 2_000, 'timers run')
  client.leave()
  await soon(() => app.sse.streams.size === 0, 'the stream to close')
})

t.test('an iterable is told by return(), a generator runs its finally', async t => {
  const told: string[] = []
  const { open } = await run(t, () => (function * () {
    try {
      for (;;) yield 'x'.repeat(1_000)
    } finally {
      told.push('finally')
    }
  })())
  const client = await open()
  await client.first(1)
  client.leave()
  await soon(() => told.length === 1, 'the generator to be told', 1_000)
})

t.test('bytes that end within a character wait for the rest of it', async t => {
  const bytes = Buffer.from('grüße 😀!')
  for (const source of [
    () => Readable.from([...bytes].map(byte => Buffer.from([byte])), { objectMode: false }),
    () => new ReadableStream({
      start (controller) {
        for (const byte of bytes) controller.enqueue(new Uint8Array([byte]))
        controller.close()
      }
    })
  ]) {
    const { open } = await run(t, source)
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.equal(client.events.map(({ data }) => data).join(''), 'grüße 😀!')
    t.notMatch(client.text, '\ufffd')
  }
})

t.test('a Readable in bytes: each chunk is the data of one event', async t => {
  const { open } = await run(t, () => {
    const source = new Readable({ read () {} })
    source.push('one')
    setTimeout(() => {
      source.push('two\nlines')
      source.push(null)
    }, 20)
    return source
  })
  const client = await open()
  await soon(() => client.closed, 'the end')
  t.strictSame(client.events.map(({ data }) => data), ['one', 'two\nlines'])
})

t.test('a Readable that is destroyed without an error, before or while it is read, is an error', async t => {
  for (const early of [true, false]) {
    const { open, reasons } = await run(t, () => {
      const source = new Readable({ read () {} })
      if (early) source.destroy()
      else setTimeout(() => source.destroy(), 20)
      return source
    })
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.equal(client.closed, 'aborted')
    t.strictSame(reasons, ['error'])
  }
})

t.test('a Readable with an error of its own before the stream opens does not end the process', async t => {
  const { open, reasons } = await run(t, () => {
    const source = new Readable({ read () {} })
    source.destroy(new Error('a secret'))
    return source
  })
  const client = await open()
  await soon(() => client.closed, 'the end')
  t.notMatch(client.text, 'secret')
  t.strictSame(reasons, ['error'])
})

t.test('a Readable that fails while async onSend hooks run is an error of the stream, not of the process', async t => {
  const lines: any[] = []
  const app = await buildApp(t, {}, logger(lines, 'info'))
  t.teardown(() => { app.server.closeAllConnections() })
  app.addHook('onSend', async () => { await wait(50) })
  app.get('/readable', async (request, reply) => {
    const source = new Readable({ read () {} })
    setTimeout(() => source.destroy(new Error('a secret')), 10)
    return reply.sse(source)
  })
  const url = await listen(app)
  const client = await within(connect(url + '/readable'), 'the response')
  await soon(() => client.closed, 'the end')
  t.not(client.closed === 'end' && client.status === 200, true, 'the client sees no ordinary end')
  t.notMatch(client.text, 'secret')
})

t.test('a Readable that fails when it is told that nobody reads it does not end the process', async t => {
  const app = await buildApp(t)
  const sources: Readable[] = []
  const failing = (): Readable => {
    const source = new Readable({ read () {}, destroy (_, done) { done(new Error('it cannot be closed')) } })
    sources.push(source)
    return source
  }
  app.get('/refused', (request, reply) => reply.sse(failing(), { rewind: -1 }))
  app.get('/late', (request, reply) => reply.sse(async stream => {
    stream.close()
    await wait()
    return failing()
  }))
  t.equal((await app.inject('/refused')).statusCode, 500)
  t.equal((await app.inject('/late')).statusCode, 200)
  const channel = app.sse.channel('a')
  await t.rejects(channel.publishFrom(failing(), { end: 1 } as never), { code: 'SSE_ERR_INVALID_OPTION' })
  t.equal(await channel.publishFrom(failing(), { signal: AbortSignal.abort() }), 'aborted')
  await soon(() => sources.length === 4 && sources.every(({ closed }) => closed), 'the end of all')
  await wait()
  t.strictSame(accidents, [])
})

t.test('a web stream that is locked is refused or fails, and nothing hangs', async t => {
  const { open, reasons } = await run(t, () => {
    const source = new ReadableStream()
    source.getReader()
    return source
  })
  const client = await open()
  await soon(() => client.closed, 'the end')
  if (client.status === 200) t.strictSame(reasons, ['error'])
  else t.equal(client.status, 500)
})

t.test('a function that returns nothing ends the stream, unless it has subscribed', async t => {
  const { open, reasons, app } = await run(t, () => (stream: SseStream) => {
    stream.send('one')
    if (subscribes) stream.subscribe(app.sse.channel('time'))
  })
  let subscribes = false
  const ending = await open()
  await soon(() => ending.closed, 'the end')
  t.strictSame([ending.events[0]?.data, ending.closed, reasons.at(-1)], ['one', 'end', 'end'])
  subscribes = true
  const staying = await open()
  await staying.first(1)
  await app.sse.publish('time', 'two')
  t.equal((await staying.first(2))[1]?.data, 'two')
  t.equal(staying.closed, undefined)
  staying.leave()
})

t.test('a function that returns an iterable, a Readable or a web stream feeds the stream from it', async t => {
  for (const what of [['one'], Readable.from(['one']), new Set(['one']), new ReadableStream({
    start (controller) {
      controller.enqueue('one')
      controller.close()
    }
  })]) {
    const { open, reasons } = await run(t, () => () => what)
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.strictSame([client.events[0]?.data, client.closed, reasons[0]], ['one', 'end', 'end'])
  }
})

t.test('a function whose promise is an iterable, a Readable or a web stream feeds the stream from it', async t => {
  const yields = async function * (): AsyncGenerator<string> { yield 'one' }
  for (const make of [() => ['one'], () => Readable.from(['one']), () => new ReadableStream({
    start (controller) {
      controller.enqueue('one')
      controller.close()
    }
  }), yields]) {
    const { open, reasons } = await run(t, () => async () => {
      await wait()
      return make()
    })
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.strictSame([client.events[0]?.data, client.closed, reasons[0]], ['one', 'end', 'end'])
  }
})

t.test('what a function resolves to after the client has left is told that nobody reads it', async t => {
  const told: string[] = []
  const { open, reasons } = await run(t, () => async (stream: SseStream) => {
    await stream.send('one')
    await stream.closed
    return new ReadableStream({ cancel () { told.push('web stream') } })
  })
  const client = await open()
  await client.first(1)
  client.leave()
  await soon(() => told.length === 1, 'the web stream to be told')
  t.strictSame(reasons, ['client'])
})

t.test('what send() took is written before the connection breaks, to a client that reads and to one that is slow', async t => {
  for (const source of [
    async function * () {
      yield 'one'
      yield 'two'
      throw new Error('a secret')
    },
    async (stream: SseStream) => {
      await stream.send('one')
      await stream.send('two')
      throw new Error('a secret')
    },
    (stream: SseStream) => {
      stream.send('one').catch(t.fail)
      stream.send('two').catch(t.fail)
      throw new Error('a secret')
    },
    function * () {
      yield 'one'
      yield 'two'
      yield { id: 'a\nb' }
    }
  ]) {
    const { open, reasons } = await run(t, () => typeof source.prototype === 'object' ? (source as () => Iterable<string>)() : source)
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.strictSame(client.events.map(({ data }) => data), ['one', 'two'])
    t.equal(client.closed, 'aborted')
    t.strictSame(reasons, ['error'])
  }
  let sent = 0
  const { open } = await run(t, () => async (stream: SseStream) => {
    await wait(100)
    for (; !stream.blocked; sent++) stream.send('x'.repeat(100_000)).catch(t.fail)
    stream.send('last words').catch(t.fail)
    throw new Error('a secret')
  })
  const client = await open()
  client.pause()
  await wait(300)
  t.ok(sent > 0, 'its socket was full')
  client.resume()
  await soon(() => client.closed, 'the end', 10_000)
  t.equal(client.events.length, sent + 1)
  t.equal(client.events.at(-1)?.data, 'last words')
  t.equal(client.closed, 'aborted')
})

t.test('a function that throws or rejects, at once or after the client left, never ends the process', async t => {
  for (const source of [
    () => { throw new Error('a secret') },
    async () => { throw new Error('a secret') },
    async (stream: SseStream) => {
      await stream.send('one')
      throw new Error('a secret')
    },
    () => ({ then (resolve: unknown, reject: (error: Error) => void) { reject(new Error('a secret')) } })
  ]) {
    const { open, reasons } = await run(t, () => source)
    const client = await open()
    await soon(() => client.closed, 'the end')
    t.notMatch(client.text, 'secret')
    t.strictSame(reasons, ['error'])
  }
  const { open, reasons, lines } = await run(t, () => async (stream: SseStream) => {
    await stream.send('one')
    await stream.closed
    throw new Error('after the end')
  })
  const client = await open()
  await client.first(1)
  client.leave()
  await soon(() => reasons.length === 1, 'the stream to close')
  await wait(30)
  t.strictSame(reasons, ['client'])
  t.strictSame(lines.filter(({ level }) => level >= 50), [])
})

t.test('a source whose return() throws, hangs or is missing does no harm', async t => {
  for (const ending of [
    {},
    { return () { throw new Error('return') } },
    { return: async () => { throw new Error('return') } },
    { return: () => new Promise<never>(() => {}) }
  ]) {
    const { open, app, reasons } = await run(t, () => ({
      [Symbol.asyncIterator] () {
        let n = 0
        return { next: async () => n++ === 0 ? { value: 'one', done: false } : await new Promise<never>(() => {}), ...ending }
      }
    }))
    const client = await open()
    await client.first(1)
    client.leave()
    await soon(() => reasons.length === 1, 'the stream to close')
    t.equal(app.sse.streams.size, 0)
  }
})

t.test('a source is told when the server closes its stream, and when maxAge does', async t => {
  for (const reason of ['server', 'age'] as const) {
    const told: string[] = []
    const app = await buildApp(t, reason === 'age' ? { maxAge: 100 } : {})
    t.teardown(() => { app.server.closeAllConnections() })
    app.sse.on('close', ({ reason }) => told.push(reason))
    app.get('/', (request, reply) => reply.sse(new Readable({
      read () {},
      destroy (error, done) {
        told.push('told')
        done(error)
      }
    })))
    const client = await connect(await listen(app))
    if (reason === 'server') for (const stream of app.sse.streams) await stream.close()
    await soon(() => told.length === 2, 'the source to be told')
    t.strictSame(told.sort(), [reason, 'told'].sort())
    await soon(() => client.closed, 'the end')
    t.equal(client.closed, 'end')
  }
})

t.test('the iterator protocol is kept: one next() at a time, no next() after the end, no return() after the end', async t => {
  const calls: string[] = []
  let running = 0
  const items: SseItem[] = ['one', 'two']
  const { open } = await run(t, () => ({
    [Symbol.asyncIterator]: () => ({
      async next () {
        calls.push('next')
        if (++running > 1) calls.push('two at a time')
        await wait()
        running--
        const value = items.shift()
        return value === undefined ? { done: true as const, value } : { done: false as const, value }
      },
      async return () {
        calls.push('return')
        return { done: true as const, value: undefined }
      }
    })
  }))
  const client = await open()
  await soon(() => client.closed, 'the end')
  t.strictSame(calls, ['next', 'next', 'next'])
})

t.test('nothing was left unhandled', async t => {
  await wait(50)
  t.strictSame(accidents, [])
})
