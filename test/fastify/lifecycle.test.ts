import { spawn, type ChildProcess } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import net, { type AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import t, { type Test } from 'tap'
import type { FastifyServerOptions } from 'fastify'
import type { SsePluginOptions, SseRegistryEvents } from '../../lib/index.ts'
import { blocks, build, connect, driver, listen, until, within, type Client, type Driven } from '../client.ts'

async function start (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}) {
  const app = await build(t, { drain: { timeout: 500 }, ...options }, server)
  const drive = driver(t, app)
  const a = app.sse.channel('a')
  const b = app.sse.channel('b')
  app.get('/a', (request, reply) => reply.sse(a))
  app.get('/hello', async () => 'hello')
  const url = await listen(app)
  return { app, url, drive, a, b, port: (app.server.address() as AddressInfo).port }
}

const data = (client: Client): string[] => client.events.map(({ data }) => data)
const numbers = (from: number, to: number): string[] => Array.from({ length: to - from + 1 }, (_, i) => String(from + i))

async function turn (): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise(resolve => setImmediate(resolve))
}

const KB = 'x'.repeat(1024)
/** An event of some 8 KB that begins with its number. */
const large = (i: number): string => `${i} ${KB.repeat(8)}`
const numberOf = (text: string): number => Number(text.slice(0, text.indexOf(' ')))

/** Publishes until the stream's socket is full, and says how many it took. */
async function fill ({ stream }: Driven, publish: (i: number) => unknown): Promise<number> {
  for (let i = 0; i < 5_000; i++) {
    if (stream.blocked) return i
    publish(i)
    await new Promise(resolve => setImmediate(resolve))
  }
  throw new Error('the socket never filled')
}

/** How long the event loop was held at most, in ms of this process's own time: other processes may be busy. */
function watchTurns () {
  const spent = (): number => {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1000
  }
  const seen = { longest: 0, turns: 0 }
  let last = spent()
  let watching = true
  const watch = (): void => {
    seen.longest = Math.max(seen.longest, spent() - last)
    last = spent()
    seen.turns++
    if (watching) setImmediate(watch)
  }
  setImmediate(watch)
  return {
    stop () {
      watching = false
      return seen
    }
  }
}

// A client that stops reading

t.test('a client that stops reading: the others go on, memory stays flat, and it gets everything when it reads again', async t => {
  const { app, drive, a } = await start(t, { history: { maxEvents: 10_000, maxBytes: 64 * 1024 * 1024 } })
  const slow = await drive(stream => stream.subscribe(a))
  const fast = await Promise.all([1, 2, 3].map(() => drive(stream => stream.subscribe(a))))
  slow.client.pause()
  const blockedAt = await fill(slow, i => a.publish(large(i)))
  t.equal(app.sse.stats().blocked, 1)
  const { bytesWritten, delivered } = app.sse.stats()
  const total = blockedAt + 2_000
  for (let i = blockedAt; i < total; i++) {
    a.publish(large(i))
    if (i % 50 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  for (const { client } of fast) {
    await client.first(total)
    t.same(data(client).map(numberOf), numbers(0, total - 1).map(Number))
    t.same(client.gaps, [])
  }
  t.equal(slow.stream.blocked, true)
  const stats = app.sse.stats()
  // Nothing more went to the slow one: all that was written is what the others got.
  const perClient = stats.delivered - delivered
  t.ok(perClient <= 3 * (total - blockedAt) + 3 * 10, `${perClient} deliveries`)
  t.ok(stats.bytesWritten - bytesWritten < 3.1 * 2_010 * large(0).length)
  slow.client.resume()
  await slow.client.first(total)
  t.same(data(slow.client).map(numberOf), numbers(0, total - 1).map(Number))
  t.same(slow.client.gaps, [])
  t.equal(app.sse.stats().blocked, 0)
})

t.test('what is published while a client does not read costs no memory but the history', async t => {
  const { app, drive, a } = await start(t, { history: { maxEvents: 100 } })
  const driven = await Promise.all(Array.from({ length: 10 }, () => drive(stream => stream.subscribe(a))))
  for (const { client } of driven) client.pause()
  await Promise.all(driven.map(one => fill(one, () => a.publish(large(0)))))
  await turn()
  const queued = (): number => driven.reduce((sum, { stream }) => sum + stream.request.raw.socket.writableLength, 0)
  const before = queued()
  const { external } = process.memoryUsage()
  for (let i = 0; i < 20_000; i++) {
    a.publish(large(i))
    if (i % 100 === 0) await turn()
  }
  t.ok(queued() <= before, `${before} bytes waited before, ${queued()} after`)
  t.ok(queued() < 10 * 200_000, `${queued()} bytes wait on 10 sockets`)
  const grown = process.memoryUsage().external - external
  t.ok(grown < 20e6, `${grown} bytes more outside the heap after 160 MB`)
  t.equal(app.sse.stats().blocked, 10)
})

t.test('a client that stayed away too long gets "overrun", and goes on from the middle without falling off at once', async t => {
  const { drive, a } = await start(t, { history: { maxEvents: 200 } })
  const slow = await drive(stream => stream.subscribe(a))
  slow.client.pause()
  const blockedAt = await fill(slow, i => a.publish(large(i)))
  let i = blockedAt
  for (; i < blockedAt + 1_000; i++) {
    a.publish(large(i))
    if (i % 20 === 0) await turn()
  }
  t.same(slow.client.gaps, [])
  slow.client.resume()
  await until(() => slow.client.gaps.length > 0, 'the gap')
  // It reads and others publish on: it must not fall off again.
  for (; i < blockedAt + 1_200; i++) {
    a.publish(large(i))
    await turn()
  }
  await until(() => data(slow.client).some(text => numberOf(text) === i - 1), 'the newest')
  t.equal(slow.client.gaps.length, 1)
  t.match(slow.client.gaps, [{ reason: 'overrun', channels: ['a'] }])
  const got = data(slow.client).map(numberOf)
  const jumps = got.filter((n, at) => at > 0 && n !== got[at - 1]! + 1)
  t.equal(jumps.length, 1, 'one jump, where the gap is')
  t.equal(got[0], 0)
  t.equal(got.at(-1), i - 1)
})

t.test('a client that does not read is closed with "stall" after stallTimeout, and resumes', async t => {
  const { app, drive, a } = await start(t, { stallTimeout: 300 })
  const closes: Array<SseRegistryEvents['close'][0]> = []
  app.sse.on('close', event => closes.push(event))
  const other = await drive(stream => stream.subscribe(a))
  const slow = await drive(stream => stream.subscribe(a))
  slow.client.pause()
  const count = await fill(slow, i => a.publish(large(i)))
  const begin = performance.now()
  t.equal(await slow.stream.closed, 'stall')
  const after = performance.now() - begin
  t.ok(after > 200 && after < 3_000, `closed after ${after.toFixed()} ms`)
  t.match(closes, [{ stream: slow.stream, reason: 'stall' }])
  t.match(app.sse.stats(), { streams: 1, blocked: 0, closed: { stall: 1 } })
  slow.client.resume()
  await until(() => slow.client.closed)
  t.equal(slow.client.closed, 'aborted')
  const again = await drive(stream => stream.subscribe(a), { lastEventId: slow.client.lastEventId })
  await a.publish(large(count))
  await other.client.first(count + 1)
  await until(() => again.client.events.length + slow.client.events.length >= count + 1)
  t.same([...data(slow.client), ...data(again.client)].map(numberOf), numbers(0, count).map(Number))
})

t.test('a client that reads slowly but steadily is not stalled, and gets everything', async t => {
  const { drive, a } = await start(t, { stallTimeout: 500, history: { maxBytes: 100e6 } })
  const slow = await drive(stream => stream.subscribe(a))
  slow.client.pause()
  let count = await fill(slow, i => a.publish(large(i)))
  for (let more = 0; more < 200; more++) a.publish(large(count++))
  for (let i = 0; i < 10; i++) {
    slow.client.resume()
    await new Promise(resolve => setTimeout(resolve, 10))
    slow.client.pause()
    await new Promise(resolve => setTimeout(resolve, 100))
    if (slow.stream.state === 'closed') break
  }
  slow.client.resume()
  await slow.client.first(count)
  t.same(data(slow.client).map(numberOf), numbers(0, count - 1).map(Number))
})

// Bursts

/** What waits to be offered may take twice the limit, and 128 events at least. */
const BURSTS = [[{ maxEvents: 500 }, 1_000], [{ maxEvents: 0 }, 128], [{ maxEvents: 1 }, 128], [{ maxBytes: 20_000 }, 250]] as const

for (const [history, events] of BURSTS) {
  t.test(`a burst larger than the history in one turn reaches every client that keeps up, without a gap (${events} events, ${JSON.stringify(history)})`, async t => {
    const { app, drive, a, b } = await start(t, { history })
    const driven = await Promise.all(Array.from({ length: 20 }, (_, i) => drive(stream => {
      stream.subscribe(a, i % 3 === 0 ? { filter: () => true } : {})
      if (i % 2 === 0) stream.subscribe(b)
    })))
    await turn()
    for (let i = 0; i < events; i++) app.sse.publish(i % 5 === 0 ? ['a', 'b'] : 'a', `${i} ${'x'.repeat(40)}`)
    for (const { client } of driven) {
      await client.first(events)
      t.same(data(client).map(numberOf), numbers(0, events - 1).map(Number))
      t.same(client.gaps, [])
    }
    await turn()
    if ('maxEvents' in history) t.equal((await a.history()).length, history.maxEvents)
    else t.ok(app.sse.stats().history.bytes <= history.maxBytes)
  })
}

t.test('a burst of many times the history in one turn: every client is told of the loss, and gets the newest', async t => {
  const { app, drive, a } = await start(t, { history: { maxEvents: 500 } })
  const driven = await Promise.all(Array.from({ length: 20 }, (_, i) => drive(stream => stream.subscribe(a, i % 3 === 0 ? { filter: () => true } : {}))))
  await turn()
  for (let i = 0; i < 5_000; i++) a.publish(String(i))
  t.ok(app.sse.stats().history.events <= 1_000, 'whoever reads, no more than twice the history is kept')
  for (const { client } of driven) {
    await until(() => data(client).includes('4999'), 'the newest')
    t.match(client.gaps, [{ reason: 'overrun', channels: ['a'] }])
    t.equal(client.gaps.length, 1)
    const got = data(client).map(Number)
    t.ok(got.length >= 200 && got.length <= 1_000, `${got.length} events`)
    t.same(got, numbers(got[0]!, 4_999).map(Number), 'without a hole')
  }
})

t.test('maxEvents 0 delivers live and replays nothing: a client that missed something is told', async t => {
  const { app, drive, a } = await start(t, { history: { maxEvents: 0 } })
  const first = await drive(stream => stream.subscribe(a))
  await a.publish('1')
  await first.client.first(1)
  first.client.leave()
  await first.stream.closed
  const same = await drive(stream => stream.subscribe(a), { lastEventId: first.client.lastEventId })
  await a.publish('2')
  await same.client.first(1)
  t.same(same.client.gaps, [])
  const missed = await drive(stream => stream.subscribe(a), { lastEventId: first.client.lastEventId })
  await until(() => missed.client.gaps.length === 1)
  t.match(missed.client.gaps, [{ reason: 'expired', channels: ['a'], id: app.sse.cursor }])
  await a.publish('3')
  await missed.client.first(1)
  t.same(data(missed.client), ['3'])
  t.same(await a.history(), [])
})

t.test('an event of maxEventBytes goes through whole, and one that is larger reaches nobody', async t => {
  const { drive, a } = await start(t, { maxEventBytes: 3_000_000 })
  const { client } = await drive(stream => stream.subscribe(a))
  await t.rejects(a.publish('x'.repeat(3_000_000)), { code: 'SSE_ERR_EVENT_TOO_LARGE' })
  const text = '💥'.repeat(700_000)
  await a.publish(text)
  await client.first(1)
  t.equal(client.events[0]!.data, text)
})

t.test('what is published while a pass runs arrives once and in order, to streams before and after', async t => {
  const { drive, a } = await start(t)
  const driven = await Promise.all(Array.from({ length: 60 }, (_, i) => drive(stream => stream.subscribe(a, {
    // The filters of some are slow, so that a pass takes several slices; one publishes from within.
    filter: ({ data }) => {
      if (i % 10 === 0) for (const end = performance.now() + 1; performance.now() < end;);
      if (i === 30 && data < 200 && data % 20 === 0) a.publish({ data: 1_000 + data })
      return true
    }
  }))))
  for (let i = 0; i < 200; i++) {
    a.publish({ data: i })
    await new Promise(resolve => setImmediate(resolve))
  }
  for (const { client } of driven) await client.first(210)
  const order = data(driven[0]!.client)
  t.same([...order].map(Number).sort((a, b) => a - b), [...numbers(0, 199).map(Number), ...Array.from({ length: 10 }, (_, i) => 1_000 + i * 20)])
  for (const { client } of driven) t.same(data(client), order)
})

t.test('a pass over streams with a filter each and much to look at yields', async t => {
  const { app, drive, a } = await start(t)
  const driven = await Promise.all(Array.from({ length: 100 }, (_, i) => drive(stream => stream.subscribe(a, { filter: ({ data }) => data === -1 - i }))))
  await turn()
  for (let i = 0; i < 10_000; i++) a.publish({ data: i })
  for (let i = 0; i < 100; i++) a.publish({ data: -1 - i })
  const turns = watchTurns()
  for (const { client } of driven) await client.first(1)
  const { longest } = turns.stop()
  t.comment(`longest turn: ${longest.toFixed()} ms`)
  t.ok(longest < 150, `the event loop was held for ${longest.toFixed()} ms`)
  t.equal(app.sse.stats().delivered, 100)
})

t.test('many clients that come back to different places do not hold a copy of the history each', async t => {
  const { app, drive, a } = await start(t, { history: { maxEvents: 10_000, maxBytes: 10e6 } })
  const cursors = await Promise.all(Array.from({ length: 1_000 }, (_, i) => a.publish(large(i))))
  let most = 0
  const { arrayBuffers } = process.memoryUsage()
  const watch = setInterval(() => { most = Math.max(most, process.memoryUsage().arrayBuffers) }, 2)
  const clients = await Promise.all(Array.from({ length: 40 }, (_, i) => drive(stream => stream.subscribe(a), { lastEventId: cursors[i]! })))
  await Promise.all(clients.map(({ client }, i) => client.first(999 - i)))
  clearInterval(watch)
  const grown = most - arrayBuffers
  t.comment(`${(grown / 1e6).toFixed()} MB at most, for ${(app.sse.stats().bytesWritten / 1e6).toFixed()} MB written`)
  for (const [i, { client }] of clients.entries()) t.same(data(client).map(numberOf), numbers(i + 1, 999).map(Number))
  t.ok(grown < 250e6, `${(grown / 1e6).toFixed()} MB`)
})

// The bytes on the wire

/** Sends bytes on one connection and gives what comes back. */
function raw (t: Test, port: number, request: string, options: { allowHalfOpen?: boolean } = {}) {
  const socket = net.connect({ port, host: '127.0.0.1', ...options })
  const state = { socket, text: '', ended: false, closed: false }
  socket.setEncoding('utf8')
  socket.on('data', (chunk: string) => { state.text += chunk })
  socket.on('end', () => { state.ended = true })
  socket.on('close', () => { state.closed = true })
  socket.on('error', () => {})
  socket.write(request)
  t.teardown(() => socket.destroy())
  return state
}

/** Splits a chunked response (RFC 9112, section 7.1) from what follows it. */
function dechunk (text: string): { head: string, body: string, ended: boolean, rest: string } {
  const begin = text.indexOf('\r\n\r\n') + 4
  let at = begin
  let body = ''
  for (;;) {
    const lineEnd = text.indexOf('\r\n', at)
    if (lineEnd === -1) return { head: text.slice(0, begin), body, ended: false, rest: '' }
    const line = text.slice(at, lineEnd)
    if (!/^[0-9a-f]+$/i.test(line)) throw new Error(`not a chunk size: ${JSON.stringify(line)}`)
    const size = parseInt(line, 16)
    const chunk = text.slice(lineEnd + 2, lineEnd + 2 + size)
    if (text.slice(lineEnd + 2 + size, lineEnd + 4 + size) !== '\r\n') {
      if (text.length < lineEnd + 4 + size) return { head: text.slice(0, begin), body, ended: false, rest: '' }
      throw new Error(`no CRLF after a chunk of ${size}`)
    }
    at = lineEnd + 4 + size
    if (size === 0) return { head: text.slice(0, begin), body, ended: true, rest: text.slice(at) }
    body += chunk
  }
}

t.test('HTTP/1.1 gets well-formed chunks, also where responses are written past node:http', async t => {
  const { app, a, port } = await start(t)
  const client = raw(t, port, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => a.size === 1 && client.text.includes('retry'))
  for (const text of numbers(1, 100)) {
    a.publish(text)
    if (Number(text) % 7 === 0) await turn()
  }
  await until(() => client.text.includes('data: 100\n'))
  for (const stream of app.sse.streams) stream.close({ retry: 1 })
  await until(() => dechunk(client.text).ended)
  const { head, body, rest } = dechunk(client.text)
  t.match(head, /^HTTP\/1\.1 200 OK\r\n/)
  t.match(head, /\r\ntransfer-encoding: chunked\r\n/i)
  t.same(blocks(body).flatMap(({ data }) => data ?? []), numbers(1, 100))
  t.equal(rest, '')
  client.socket.write('GET /hello HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => client.text.endsWith('hello'), 'the next response on the same connection')
})

t.test('HTTP/1.0 gets the bare body, and the end of the connection as its end', async t => {
  const { app, a, port } = await start(t)
  const client = raw(t, port, 'GET /a HTTP/1.0\r\n\r\n')
  await until(() => a.size === 1 && client.text.includes('retry'))
  for (const text of numbers(1, 50)) {
    a.publish(text)
    await turn()
  }
  await until(() => client.text.includes('data: 50\n'))
  for (const stream of app.sse.streams) stream.close({ retry: 1 })
  await until(() => client.ended)
  const [head, body] = client.text.split('\r\n\r\n') as [string, string]
  t.notMatch(head, /transfer-encoding/i)
  t.notMatch(body, /\r/)
  t.same(blocks(body).flatMap(({ data }) => data ?? []), numbers(1, 50))
  t.same(blocks(body).at(-1), { retry: '1' })
})

t.test('pipelined requests get their responses in order, each with the right bytes', async t => {
  const { app, a, port } = await start(t)
  const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`
  const client = raw(t, port, get('/hello') + get('/a') + get('/a') + get('/hello'))
  await until(() => a.size === 2, 'two streams')
  const [first, second] = [...app.sse.streams]
  for (const text of numbers(1, 30)) {
    a.publish(text)
    if (Number(text) % 4 === 0) await turn()
  }
  await until(() => client.text.includes('data: 30\n'))
  first!.close()
  await until(() => client.text.split('data: 30\n').length === 3, 'the second stream on the wire')
  a.publish('31')
  await until(() => client.text.includes('data: 31\n'))
  second!.close()
  await until(() => client.text.endsWith('hello'), 'the last response')
  const hello = client.text.indexOf('hello') + 5
  const one = dechunk(client.text.slice(hello))
  t.same(blocks(one.body).flatMap(({ data }) => data ?? []), numbers(1, 30))
  const two = dechunk(one.rest)
  t.same(blocks(two.body).flatMap(({ data }) => data ?? []), numbers(1, 31))
  t.match(two.rest, /^HTTP\/1\.1 200 OK\r\n/)
})

t.test('a client that leaves with pipelined requests leaves no stream behind', async t => {
  const { app, a, port } = await start(t)
  const client = raw(t, port, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(5))
  await until(() => a.size === 5, 'five streams')
  client.socket.destroy()
  await until(() => app.sse.stats().closed.client > 0)
  await turn()
  await new Promise(resolve => setTimeout(resolve, 100))
  t.equal(app.sse.stats().streams, 0)
  t.equal(a.size, 0)
  await a.publish('x')
  await turn()
  t.match(app.sse.stats(), { opened: 5, closed: { client: 5 }, blocked: 0 })
})

t.test('a client that leaves before the handler of its pipelined request runs leaves no stream behind, and the application closes', async t => {
  const app = await build(t, { drain: { timeout: 60_000 } })
  let waiting = 0
  let handled = false
  let left = false
  app.server.on('connection', socket => socket.on('close', () => { left = true }))
  const gate = new EventEmitter()
  app.get('/slow', () => new Promise(() => {}))
  app.get('/late', {
    preHandler: async () => {
      waiting++
      await once(gate, 'open')
    }
  }, (request, reply) => {
    handled = true
    return reply.sse(app.sse.channel('a'))
  })
  await listen(app)
  const { socket } = raw(t, (app.server.address() as AddressInfo).port, 'GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /late HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => waiting === 1, 'both requests')
  socket.destroy()
  await until(() => left, 'it to leave')
  gate.emit('open')
  await until(() => handled, 'the handler')
  await turn()
  t.match(app.sse.stats(), { streams: 0, subscriptions: 0, opened: 0 })
  await within(app.close(), 'app.close()')
})

t.test('the application closes in time while a stream waits behind another on its connection', async t => {
  const { app, a, port } = await start(t, { drain: { timeout: 300 } })
  raw(t, port, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3))
  await until(() => a.size === 3, 'three streams')
  const closing = app.close().then(() => 'closed')
  t.equal(await Promise.race([closing, new Promise(resolve => setTimeout(resolve, 5_000, 'hangs').unref())]), 'closed')
})

t.test('the application closes in time where a client that left had a stream behind another', async t => {
  const { app, a, port } = await start(t, { drain: { timeout: 300 } })
  const client = raw(t, port, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(3))
  await until(() => a.size === 3, 'three streams')
  client.socket.destroy()
  await until(() => a.size < 3)
  const closing = app.close().then(() => 'closed')
  t.equal(await Promise.race([closing, new Promise(resolve => setTimeout(resolve, 5_000, 'hangs').unref())]), 'closed')
})

t.test('a client that ends its side of the connection is gone, and nothing breaks', async t => {
  const { app, a, port } = await start(t)
  const client = raw(t, port, 'GET /a HTTP/1.1\r\nHost: x\r\n\r\n', { allowHalfOpen: true })
  await until(() => a.size === 1 && client.text.includes('retry'))
  client.socket.end()
  for (let i = 0; i < 10; i++) {
    a.publish('x')
    await turn()
  }
  await until(() => a.size === 0, 'the stream to close')
  t.equal(app.sse.stats().streams, 0)
  t.notMatch(client.text, /400 Bad Request/)
})

t.test('a client that resets its connection in the middle of a burst leaves nothing behind', async t => {
  const { app, a, drive } = await start(t)
  const driven = await Promise.all(Array.from({ length: 10 }, () => drive(stream => stream.subscribe(a))))
  for (let i = 0; i < 500; i++) {
    a.publish(large(i))
    if (i === 250) for (const { client } of driven) (client.response.socket as net.Socket).resetAndDestroy()
    if (i % 10 === 0) await turn()
  }
  await until(() => app.sse.stats().streams === 0)
  t.match(app.sse.stats(), { subscriptions: 0, channels: 0, blocked: 0, closed: { client: 10 } })
})

// 10,000 streams

/**
 * Opens streams from a process of its own, so that the two ends do not share an event loop. Each line it reads is a command; it
 * checks what the streams get by itself.
 */
const CLIENTS = `
const net = require('node:net')
const [port, count] = process.argv.slice(1).map(Number)
const clients = []
let connected = 0
const say = line => process.stdout.write(line + '\\n')
function open () {
  if (clients.length === count) return
  const client = { seen: 0, wrong: 0, tail: '' }
  clients.push(client)
  const socket = net.connect(port, '127.0.0.1', () => socket.write('GET /a HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'))
  let open_ = false
  socket.setEncoding('latin1')
  socket.on('data', chunk => {
    if (!open_) {
      open_ = true
      if (++connected === count) say('connected')
      open()
    }
    const text = client.tail + chunk
    const end = text.lastIndexOf('\\n')
    client.tail = text.slice(end + 1)
    for (const match of text.slice(0, end + 1).matchAll(/^data: (\\d+)$/mg)) {
      if (Number(match[1]) !== client.seen) client.wrong++
      client.seen = Number(match[1]) + 1
    }
    if (text.includes('sse.gap')) client.wrong++
  })
  socket.on('error', error => { say('error ' + error.message) })
}
for (let i = 0; i < 50; i++) open()
process.stdin.on('data', () => say(JSON.stringify({ least: Math.min(...clients.map(c => c.seen)), most: Math.max(...clients.map(c => c.seen)), wrong: clients.reduce((s, c) => s + c.wrong, 0) })))
process.stdin.on('end', () => process.exit())
`

function clients (t: Test, port: number, count: number) {
  const child: ChildProcess = spawn(process.execPath, ['-e', CLIENTS, String(port), String(count)], { stdio: ['pipe', 'pipe', 'inherit'], env: { PATH: process.env.PATH } })
  const gone = once(child, 'exit')
  t.teardown(async () => {
    child.kill()
    await gone
  })
  const lines: string[] = []
  createInterface({ input: child.stdout! }).on('line', line => lines.push(line))
  return {
    lines,
    async ask (): Promise<{ least: number, most: number, wrong: number }> {
      const at = lines.length
      child.stdin!.write('?\n')
      return JSON.parse(await until(() => lines[at], 'an answer'))
    }
  }
}

t.test('10,000 streams: a pass yields, another route answers meanwhile, and every event arrives once and in order', async t => {
  const STREAMS = Number(process.env.STREAMS ?? 10_000)
  const { app, a, port, url } = await start(t, { drain: { timeout: 2_000 } })
  const child = clients(t, port, STREAMS)
  const begin = performance.now()
  await until(() => child.lines.includes('connected') || performance.now() - begin > 19_000, 'the streams').catch(() => {})
  await until(() => child.lines.includes('connected'), 'all streams')
  t.equal(app.sse.stats().streams, STREAMS)
  t.comment(`opened in ${(performance.now() - begin).toFixed()} ms`)

  // A pass: how long is the event loop held, and what do others wait?
  await turn()
  const turns = watchTurns()
  let published = 0
  let worst = 0
  for (let round = 0; round < 5; round++) {
    a.publish(String(published++))
    await new Promise(resolve => setImmediate(resolve))
    const delivered = app.sse.stats().delivered
    // While the pass is under way: publish more, and ask another route.
    for (let i = 0; i < 4; i++) {
      a.publish(String(published++))
      const asked = performance.now()
      const response = await fetch(`${url}/hello`)
      t.equal(await response.text(), 'hello')
      worst = Math.max(worst, performance.now() - asked)
    }
    t.ok(delivered < published * STREAMS)
  }
  await until(() => app.sse.stats().delivered === published * STREAMS, 'all deliveries')
  const { longest, turns: slices } = turns.stop()
  t.comment(`longest turn ${longest.toFixed(1)} ms of ${slices}, slowest answer of another route ${worst.toFixed(1)} ms`)
  t.ok(longest < 200, `the event loop was held for ${longest.toFixed()} ms`)
  t.ok(slices > 20, `${slices} turns`)
  t.ok(worst < 1_000, `another route answered after ${worst.toFixed()} ms`)
  await until(() => app.sse.stats().blocked === 0)
  let answer = await child.ask()
  for (let i = 0; i < 100 && answer.least < published; i++) {
    await new Promise(resolve => setTimeout(resolve, 50))
    answer = await child.ask()
  }
  t.same(answer, { least: published, most: published, wrong: 0 })
  t.notOk(child.lines.some(line => line.startsWith('error')))
})

// Everything at once

/** Numbers that are random and the same for the same seed (mulberry32). */
function random (seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296
  }
}

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))

t.test(`stats() add up after a storm of everything (SEED=${SEED})`, async t => {
  const chance = random(SEED)
  const below = (n: number): number => Math.floor(chance() * n)
  const { app, drive } = await start(t, { history: { maxEvents: 50 }, heartbeatInterval: 20, maxBufferedBytes: 2_000, stallTimeout: 150 })
  const heard = { open: 0, close: 0, subscribe: 0, unsubscribe: 0, gap: 0, events: 0, bytes: 0 }
  const reasons: Record<string, number> = { client: 0, end: 0, server: 0, age: 0, stall: 0, overflow: 0, drain: 0, error: 0 }
  app.sse.on('open', () => { heard.open++ })
  app.sse.on('close', ({ reason, events, bytes }) => { heard.close++; heard.events += events; heard.bytes += bytes; reasons[reason]!++ })
  app.sse.on('subscribe', () => { heard.subscribe++ })
  app.sse.on('unsubscribe', () => { heard.unsubscribe++ })
  app.sse.on('gap', () => { heard.gap++ })
  const names = ['a', 'b', 'c']
  const all: Driven[] = []
  let published = 0
  let own = 0
  for (let step = 0; step < 400; step++) {
    const what = chance()
    const open = all.filter(({ stream }) => stream.state === 'open')
    const one = open[below(open.length)]
    if (what < 0.12 || one === undefined) {
      all.push(await drive(stream => {
        for (const name of names.filter(() => chance() < 0.6)) stream.subscribe(app.sse.channel(name))
      }, { valve: chance() < 0.6, ...(chance() < 0.3 && { lastEventId: chance() < 0.5 ? 'garbage' : app.sse.cursor }), options: { rewind: below(3), ...(chance() < 0.2 && { maxAge: 100 }) } }))
    } else if (what < 0.45) {
      for (let i = below(40); i > 0; i--) {
        published++
        app.sse.publish(names[below(3)]!, String(i)).catch(() => {})
      }
    } else if (what < 0.55) {
      for (let i = below(6); i > 0; i--) if (one.stream.state === 'open') { own++; one.stream.send('x'.repeat(below(600))) }
    } else if (what < 0.62) one.valve?.shut()
    else if (what < 0.7) one.valve?.open()
    else if (what < 0.75) one.client.leave()
    else if (what < 0.78) one.stream.close()
    else if (what < 0.86) one.stream.subscribe(app.sse.channel(names[below(3)]!), { lastEventId: chance() < 0.3 ? 'garbage' : app.sse.cursor })
    else if (what < 0.94) one.stream.unsubscribe(app.sse.channel(names[below(3)]!))
    else if (what < 0.96) one.stream.subscribe(app.sse.channel('a'), { filter: () => { throw new Error('a filter of the storm') } })
    else await new Promise(resolve => setTimeout(resolve, below(30)))
    if (chance() < 0.3) await turn()
    const stats = app.sse.stats()
    const now = [...app.sse.streams]
    if (stats.streams !== now.length) t.fail('streams are not those that are open')
    if (stats.subscriptions !== now.reduce((sum, { channels }) => sum + channels.size, 0)) t.fail('subscriptions are not those of the streams')
    if (stats.blocked !== now.filter(({ blocked }) => blocked).length) t.fail('blocked is not the number of blocked streams')
    if (stats.channels !== new Set(now.flatMap(({ channels }) => [...channels])).size) t.fail('channels are not those with members')
    for (const name of names) if (app.sse.channel(name).size !== now.filter(({ channels }) => channels.has(name)).length) t.fail(`size of ${name}`)
  }
  for (const { valve } of all) valve?.open()
  await until(() => app.sse.stats().blocked === 0)
  await turn()
  const rest = all.filter(({ stream }) => stream.state === 'open')
  await Promise.all([...app.sse.streams].map(stream => stream.close()))
  await until(() => all.every(({ client }) => client.closed !== undefined), 'all clients to see the end')
  const stats = app.sse.stats()
  t.match(stats, { streams: 0, channels: 0, subscriptions: 0, blocked: 0, published, received: published, opened: all.length, closed: reasons, gaps: heard.gap, bytesWritten: heard.bytes })
  t.equal(heard.open, all.length)
  t.equal(heard.close, all.length)
  t.equal(heard.subscribe, heard.unsubscribe)
  t.ok(heard.events >= stats.delivered + stats.gaps && heard.events <= stats.delivered + stats.gaps + own, 'events are those of the channels, gaps and own ones')
  for (const { client } of rest) t.equal(client.closed, 'end')
  t.comment(JSON.stringify({ seed: SEED, reasons, gaps: heard.gap, delivered: stats.delivered }))
})

t.test('connections that were opened and left again and again leave nothing behind', async t => {
  const { app, a, url } = await start(t)
  for (let round = 0; round < 20; round++) {
    const clients = await Promise.all(Array.from({ length: 10 }, () => connect(`${url}/a`)))
    a.publish('x')
    for (const client of clients) client.leave()
  }
  await until(() => app.sse.stats().streams === 0)
  t.match(app.sse.stats(), { subscriptions: 0, channels: 0, opened: 200, closed: { client: 200 } })
})
