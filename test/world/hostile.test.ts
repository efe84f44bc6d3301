import { once } from 'node:events'
import net, { type AddressInfo, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import sse, { type SsePluginOptions, type SseStream } from '../../lib/index.ts'
import { blocks, build, connect, driver, listen, logger, until, type Client } from '../client.ts'

// Bad input, by raw sockets where an HTTP client would not send it, and the limits. Beside each hostile client sits a witness, an
// ordinary stream that must get every event and no gap.

const accidents: unknown[] = []
process.on('unhandledRejection', error => accidents.push(error))
process.on('uncaughtException', error => accidents.push(error))
process.on('warning', warning => { if (warning.name === 'MaxListenersExceededWarning') accidents.push(warning) })

setFlagsFromString('--expose-gc')
const gc = runInNewContext('gc') as () => void

/** Bytes in use, after everything that can be collected was. */
async function used (): Promise<number> {
  for (let i = 0; i < 3; i++) {
    gc()
    await new Promise(resolve => setImmediate(resolve))
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

const MB = 1024 * 1024

/** Memory comes back to within some MB of what it was; waits, because sockets are let go a little later. */
async function returns (t: Test, before: number, what: string, most = 8 * MB): Promise<void> {
  let grown = Infinity
  for (let i = 0; i < 100 && grown > most; i++) {
    grown = await used() - before
    if (grown > most) await new Promise(resolve => setTimeout(resolve, 20))
  }
  t.ok(grown <= most, `memory returns after ${what}: ${(grown / MB).toFixed(1)} MB`)
}

interface Scene {
  app: FastifyInstance
  url: string
  port: number
  /** The error log. */
  lines: any[]
  /** Fails unless the witness got every event since, and nothing else. */
  unmoved (): Promise<void>
}

/** An application with the route /events (channel `time`), and a witness on the channel `witness`. */
async function scene (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}, add: (app: FastifyInstance) => void = () => {}): Promise<Scene> {
  const lines: any[] = []
  const app = await build(t, options, { ...logger(lines, 'warn'), ...server })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  app.get('/witness', (request, reply) => reply.sse(app.sse.channel('witness')))
  add(app)
  const url = await listen(app)
  const witness = await connect(`${url}/witness`)
  t.teardown(() => witness.leave())
  let count = 0
  return {
    app,
    url,
    lines,
    port: (app.server.address() as AddressInfo).port,
    async unmoved () {
      count++
      await app.sse.channel('witness').publish(`still here ${count}`)
      await until(() => witness.events.length === count || witness.closed, 'the witness')
      t.strictSame(witness.events.map(({ data }) => data), Array.from({ length: count }, (_, n) => `still here ${n + 1}`), 'no other stream noticed')
      t.strictSame([witness.gaps, witness.closed], [[], undefined])
    }
  }
}

interface Raw { socket: Socket, text: string, ended: boolean, closed: boolean }

/** A socket that an HTTP client would not be. */
async function raw (t: Test, port: number, bytes: string | Buffer = '', options: { allowHalfOpen?: boolean } = {}): Promise<Raw> {
  const socket = net.connect({ port, host: '127.0.0.1', ...options })
  const it: Raw = { socket, text: '', ended: false, closed: false }
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  socket.on('data', bytes => { it.text += bytes.toString('latin1') })
  socket.on('end', () => { it.ended = true })
  socket.on('close', () => { it.closed = true })
  await once(socket, 'connect')
  socket.write(bytes)
  return it
}

const get = (headers: string, path = '/events', version = '1.1'): string => `GET ${path} HTTP/${version}\r\nHost: x\r\n${headers}\r\n`
const status = ({ text }: Raw): number => Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1])
const streams = (app: FastifyInstance): number => app.sse.streams.size

// What a client sends

const IDS: Array<[what: string, header: string | Buffer, status: number, lastEventId?: string]> = [
  ['of 17 KB', `Last-Event-ID: ${'a'.repeat(17 * 1024)}\r\n`, 431],
  ['of 15 KB', `Last-Event-ID: ${'a'.repeat(15 * 1024)}\r\n`, 200, 'a'.repeat(15 * 1024)],
  ['with NUL', 'Last-Event-ID: a\0b\r\n', 400],
  ['with other control characters', 'Last-Event-ID: a\x01\x1b\x7fb\r\n', 400],
  ['of UTF-8', Buffer.from('Last-Event-ID: ä€😀\r\n'), 200, 'ä€😀'],
  ['of broken UTF-8', Buffer.from('4c6173742d4576656e742d49443a20ff80610d0a', 'hex'), 200, '\ufffd\ufffda'],
  ['with a bare CR', 'Last-Event-ID: a\rdata: evil\r\n', 400],
  ['with a folded line', 'Last-Event-ID: a\r\n data: evil\r\n', 400],
  ['with CR LF, which makes it another header', 'Last-Event-ID: a\r\nX-Evil: data: evil\r\n', 200, 'a'],
  ['twice', 'Last-Event-ID: a\r\nLast-Event-ID: b\r\n', 200, 'a, b'],
  ['that is empty', 'Last-Event-ID: \r\n', 200],
  ['like a cursor, with a number that no number holds', `Last-Event-ID: aaaaaaaa-${'9'.repeat(100)}\r\n`, 200, `aaaaaaaa-${'9'.repeat(100)}`],
  ['like a cursor, negative', 'Last-Event-ID: aaaaaaaa--1\r\n', 200, 'aaaaaaaa--1']
]

t.test('a Last-Event-ID that no server handed out: refused by Node, or a gap event; nothing of it comes back', async t => {
  const { app, port, unmoved } = await scene(t)
  await app.sse.channel('time').publish('kept')
  for (const [what, header, wanted, lastEventId] of IDS) {
    const [head, tail] = get('@').split('@') as [string, string]
    const client = await raw(t, port, Buffer.concat([Buffer.from(head), Buffer.from(header), Buffer.from(tail)]))
    await until(() => client.text.includes('\r\n\r\n'), `the answer to one ${what}`)
    t.equal(status(client), wanted, what)
    if (wanted === 200) {
      await until(() => /\nid: /.test(client.text), `the first id of ${what}`)
      const stream = [...app.sse.streams].at(-1)!
      t.equal(stream.lastEventId, lastEventId ?? null, what)
      t.equal(client.text.includes('"reason":"unknown"'), lastEventId !== undefined, what)
      t.equal(client.text.includes('data: kept'), lastEventId !== undefined, `${what}: a place that is not known means everything kept`)
    }
    t.notMatch(client.text, /evil|aaaaa/, what)
    client.socket.destroy()
    await until(() => streams(app) === 1, 'the stream to close')
  }
  await unmoved()
})

t.test('cursors of this epoch that are not this log\'s: a gap, whatever their number', async t => {
  const { app, url, unmoved } = await scene(t, { history: { maxEvents: 3 } })
  const epoch = app.sse.cursor.split('-')[0]!
  for (let n = 0; n < 9; n++) await app.sse.channel('time').publish(String(n))
  for (const number of ['99', '9007199254740993', '1e3', '0x5', '5.5', '-1', '+5', ' 5', '05', '', 'NaN', 'Infinity', '٣']) {
    const client = await connect(`${url}/events?lastEventId=${encodeURIComponent(`${epoch}-${number}`)}`)
    await until(() => client.lastEventId !== '', `the first id after ${number}`)
    t.equal(client.gaps.length, 1, `a gap for "${number}"`)
    client.leave()
    await until(() => streams(app) === 1, 'the stream to close')
  }
  await unmoved()
})

t.test('a cursor of another process gets a gap and everything kept', async t => {
  const one = await scene(t)
  const other = await scene(t)
  for (let n = 0; n < 3; n++) await one.app.sse.channel('time').publish(`one ${n}`)
  const foreign = await one.app.sse.channel('time').publish('one 3')
  await other.app.sse.channel('time').publish('other')
  const client = await connect(`${other.url}/events`, { lastEventId: foreign })
  await client.first(1)
  t.match(client.gaps, [{ reason: 'unknown', channels: ['time'] }])
  t.equal(client.events[0]!.data, 'other')
  client.leave()
  await other.unmoved()
})

t.test('the query parameter lastEventId in every shape that a parser makes of it: a gap, or none; never an error', async t => {
  const values: Record<string, unknown> = {
    array: ['a', 'b'],
    object: { a: 1 },
    'object without prototype': Object.create(null),
    'array of such': [Object.create(null)],
    number: 5,
    null: null
  }
  const { app, url, unmoved } = await scene(t, {}, {
    routerOptions: { querystringParser: text => text.startsWith('shape=') ? { lastEventId: values[decodeURIComponent(text.slice(6))] } : Object.fromEntries(new URLSearchParams(text)) }
  } as FastifyServerOptions)
  for (const [what, query] of [...Object.keys(values).map(what => [what, `shape=${encodeURIComponent(what)}`] as const), ['CR LF', 'lastEventId=%0d%0adata:%20evil%0a%0a'], ['NUL', 'lastEventId=%00'], ['half an escape', 'lastEventId=%e2%82'], ['10 KB', `lastEventId=${'a'.repeat(10_000)}`]] as const) {
    const client = await connect(`${url}/events?${query}`)
    t.equal(client.status, 200, what)
    if (client.status === 200) await until(() => client.lastEventId !== '', `the first id: ${what}`)
    t.notMatch(client.text, /evil|aaaaa/, what)
    client.leave()
    await until(() => streams(app) === 1, 'the stream to close')
  }
  await unmoved()
})

t.test('the default query parser makes an array of a parameter that is there twice: a gap', async t => {
  const { url, unmoved } = await scene(t)
  const client = await connect(`${url}/events?lastEventId=a&lastEventId=b`)
  await until(() => client.gaps.length === 1, 'the gap')
  client.leave()
  await unmoved()
})

t.test('streams pipelined on one socket all close with it, those included that were never given the socket', async t => {
  const { app, port, unmoved } = await scene(t, { heartbeatInterval: 0 })
  const before = await used()
  for (const kind of ['close', 'reset'] as const) {
    const client = await raw(t, port, get('').repeat(20))
    await until(() => app.sse.channel('time').size === 20 || streams(app) === 21, 'all of them')
    if (kind === 'close') client.socket.destroy()
    else client.socket.resetAndDestroy()
    const since = Date.now()
    await until(() => streams(app) === 1 || Date.now() - since > 5_000, 'the streams to close')
    t.equal(streams(app), 1, `the witness alone is left: ${kind}`)
    for (const stream of [...app.sse.streams].slice(1)) stream.close()
  }
  await returns(t, before, 'pipelined streams')
  await unmoved()
})

t.test('pipelined requests behind a stream are held, and what the client pipelines is bounded', async t => {
  const { app, port, unmoved } = await scene(t, { maxStreamsPerKey: 5 })
  const client = await raw(t, port, get('').repeat(2_000))
  await until(() => app.sse.stats().opened === 5, 'the first streams') // the witness is one of this address
  client.socket.resetAndDestroy()
  await until(() => client.closed, 'the socket')
  for (const stream of [...app.sse.streams].slice(1)) stream.close()
  await until(() => streams(app) === 1, 'the witness alone to be left')
  await unmoved()
})

t.test('a socket that is half closed by its client: the stream closes, and events that are published meanwhile harm nothing', async t => {
  const { app, port, lines, unmoved } = await scene(t)
  const client = await raw(t, port, get(''), { allowHalfOpen: true })
  await until(() => app.sse.channel('time').size === 1, 'the stream')
  client.socket.end()
  for (let n = 0; n < 50 && app.sse.channel('time').size === 1; n++) {
    await app.sse.channel('time').publish(String(n))
    await new Promise(resolve => setImmediate(resolve))
  }
  await until(() => client.ended, 'the end')
  await until(() => streams(app) === 1, 'the stream to close')
  t.equal(app.sse.stats().closed.client, 1)
  t.strictSame(lines, [])
  await unmoved()
})

t.test('a socket that is half closed while it is full: stallTimeout ends it', async t => {
  const { app, port, lines, unmoved } = await scene(t, { stallTimeout: 300 })
  const client = await raw(t, port, get(''), { allowHalfOpen: true })
  await until(() => app.sse.channel('time').size === 1, 'the stream')
  client.socket.pause()
  for (let n = 0; n < 100; n++) await app.sse.channel('time').publish('x'.repeat(256 * 1024))
  await until(() => app.sse.stats().blocked === 1, 'it to be blocked')
  client.socket.end()
  await until(() => streams(app) === 1, 'the stream to close')
  t.strictSame(lines.filter(({ level }) => level > 40), [])
  await unmoved()
})

t.test('bytes sent on an open stream that are no request: the client gets a 400 into its own body, and is cut off', async t => {
  const { app, port, unmoved } = await scene(t)
  for (const bytes of ['hello\r\n\r\n', '\0'.repeat(1_000), '\x16\x03\x01\x02\x00', 'x'.repeat(1024 * 1024)]) {
    const client = await raw(t, port, get(''))
    await until(() => app.sse.channel('time').size === 1, 'the stream')
    client.socket.write(bytes)
    await until(() => client.closed, 'it to be cut off')
    await until(() => streams(app) === 1, 'the stream to close')
  }
  t.equal(app.sse.stats().closed.client, 4)
  await unmoved()
})

t.test('a client that sends its request a byte at a time, or never the end of it, costs no stream and is cut off', async t => {
  const { app, port, unmoved } = await scene(t, { maxStreams: 2 }, { http: { headersTimeout: 200, requestTimeout: 400, connectionsCheckingInterval: 50 } } as FastifyServerOptions)
  const slow = await Promise.all(Array.from({ length: 50 }, () => raw(t, port, 'GET /events HTTP/1.1\r\nHost: ')))
  const timer = setInterval(() => { for (const { socket } of slow) socket.write('x') }, 20)
  t.teardown(() => clearInterval(timer))
  const client = await connect(`http://127.0.0.1:${port}/events`)
  t.equal(client.status, 200, 'the second of two streams is let in beside them')
  t.equal(streams(app), 2)
  await until(() => slow.every(({ closed }) => closed), 'the slow ones to be cut off')
  t.equal(slow.filter(({ text }) => text.startsWith('HTTP/1.1 408')).length > 0, true, '408')
  client.leave()
  await unmoved()
})

t.test('RST in the middle of a burst, of a replay, before the head and behind a POST body: all are noticed', async t => {
  const { app, port, lines, unmoved } = await scene(t, {}, {}, app => { app.post('/events', (request, reply) => reply.sse(app.sse.channel('time'))) })
  const first = app.sse.cursor
  for (let n = 0; n < 60; n++) await app.sse.channel('time').publish('x'.repeat(200 * 1024))
  const post = 'POST /events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}'
  for (const request of [get(''), get(`Last-Event-ID: ${first}\r\n`), post]) {
    for (const when of ['at once', 'when open', 'in a burst'] as const) {
      const opened = app.sse.stats().opened
      const client = await raw(t, port, request)
      if (when !== 'at once') await until(() => app.sse.stats().opened > opened, 'the stream')
      if (when === 'in a burst') {
        client.socket.pause()
        for (let n = 0; n < 40; n++) app.sse.channel('time').publish('x'.repeat(200 * 1024))
        await new Promise(resolve => setImmediate(resolve))
      }
      client.socket.resetAndDestroy()
      await until(() => client.closed && streams(app) === 1, `the stream to close: ${request.slice(0, 4)} ${when}`)
    }
  }
  t.strictSame(lines.filter(({ level }) => level >= 50), [])
  t.equal(app.sse.stats().blocked, 0)
  await unmoved()
})

t.test('a thousand connects and drops, at 10,000 a minute: all are counted out, memory returns', async t => {
  const { app, port, unmoved } = await scene(t, { maxStreams: 400 })
  const batch = async (n: number): Promise<void> => {
    for (let i = 0; i < n; i++) {
      const socket = net.connect(port, '127.0.0.1')
      socket.on('error', () => {})
      socket.write(get(''))
      if (i % 3 === 0) socket.once('data', () => socket.destroy())
      else if (i % 3 === 1) socket.once('connect', () => socket.destroy())
      else socket.once('data', () => socket.resetAndDestroy())
      await new Promise(resolve => setTimeout(resolve, 5)) // 200 a second
    }
    await until(() => streams(app) === 1, 'all to close')
  }
  await batch(100)
  const before = await used()
  await batch(1_000)
  t.ok(app.sse.stats().opened > 600, `streams were opened: ${app.sse.stats().opened}`)
  const { opened, closed } = app.sse.stats()
  t.equal(Object.values(closed).reduce((sum, n) => sum + n), opened - 1)
  await returns(t, before, 'a thousand connects and drops', 4 * MB)
  await unmoved()
})

t.test('a client that reads a byte at a time: its socket counts as stalled, and its stream ends', async t => {
  const { app, port, unmoved } = await scene(t, { stallTimeout: 500, history: { maxBytes: 16 * MB } })
  const reasons: string[] = []
  app.sse.on('close', ({ reason }) => reasons.push(reason))
  const socket = net.connect({ port, host: '127.0.0.1' })
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  socket.write(get(''))
  await until(() => app.sse.channel('time').size === 1, 'the stream')
  const before = await used()
  for (let n = 0; n < 100; n++) await app.sse.channel('time').publish('x'.repeat(256 * 1024))
  let read = 0
  await until(() => {
    if (socket.read(1) !== null) read++
    return reasons.length > 0
  }, 'the stall')
  t.strictSame(reasons, ['stall'])
  t.ok(read > 10, `it did read: ${read} bytes`)
  socket.destroy()
  t.ok(await used() - before < 24 * MB, `the history (16 MiB) is all that was kept: ${app.sse.stats().history.bytes} bytes of it, ${((await used() - before) / MB).toFixed(1)} MB`)
  await unmoved()
})

/** A million takes half a minute on a slow machine. */
const MANY = process.env.CI === 'true' ? 1_000_000 : 200_000

t.test('a million tiny events to a client that does not read: memory is the history, and the client gets a gap and goes on', async t => {
  const { app, url, unmoved } = await scene(t)
  const client = await connect(`${url}/events`)
  await until(() => app.sse.channel('time').size === 1, 'the stream')
  client.pause()
  const before = await used()
  let most = 0
  for (let n = 0; n < MANY; n += 10_000) {
    for (let i = 0; i < 10_000; i++) app.sse.channel('time').publish('.')
    await new Promise(resolve => setImmediate(resolve))
    if (n % 100_000 === 0) most = Math.max(most, await used() - before)
  }
  await returns(t, before, 'a million tiny events', 32 * MB)
  t.ok(most < 64 * MB, `and was never far: ${(most / MB).toFixed(1)} MB`)
  t.equal(app.sse.stats().history.events, 10_000)
  client.resume()
  const last = await app.sse.channel('time').publish('last')
  await until(() => client.lastEventId === last || client.closed, 'the client to be up to date')
  t.equal(client.closed, undefined)
  if (app.sse.stats().gaps > 0) t.match(client.gaps[0], { reason: 'overrun', channels: ['time'] })
  const numbers = client.events.map(({ id }) => parseInt(id!.split('-')[1]!, 36))
  const jumps = numbers.filter((n, i) => i > 0 && n !== numbers[i - 1]! + 1).length
  t.ok(numbers.every((n, i) => i === 0 || n > numbers[i - 1]!), 'in order')
  t.equal(jumps, client.gaps.length, 'each jump in the log was told by a gap event')
  client.leave()
  await unmoved()
})

// What an application passes on of a client's input

t.test('event names and ids with every control character: they arrive as they are, or are refused; nothing is injected', async t => {
  const { app, url, unmoved } = await scene(t, {}, { logger: false })
  const client = await connect(`${url}/events`)
  await until(() => app.sse.channel('time').size === 1, 'the stream')
  let count = 0
  const characters = [...Array.from({ length: 0x20 }, (_, c) => c), 0x7f, 0x80, 0x85, 0x9f, 0x2028, 0x2029, 0xfeff].map(c => String.fromCharCode(c))
  for (const c of characters) {
    const name = `a${c}data: evil${c}${c}b`
    const what = `event with character ${c.charCodeAt(0)}`
    const outcome = await app.sse.channel('time').publish({ event: name, data: 'x' }).catch(error => error)
    if (c === '\r' || c === '\n') {
      t.match(outcome, { code: 'SSE_ERR_INVALID_EVENT' }, what)
    } else {
      await client.first(++count)
      t.ok(client.events.at(-1)!.event === name, what) // tap's own output would break at some of them
    }
  }
  client.leave()
  await until(() => streams(app) === 1, 'the stream to close')
  await unmoved()
})

t.test('ids of own events with every control character: they arrive as they are, or are refused', async t => {
  const app = await build(t)
  const drive = driver(t, app)
  await listen(app)
  const { client, stream } = await drive()
  let count = 0
  for (let c = 0; c < 0x80; c++) {
    const id = `a${String.fromCharCode(c)}data: evil${String.fromCharCode(c)}b`
    const outcome = await stream.send({ id, data: 'x' }).catch(error => error)
    if (c === 0 || c === 10 || c === 13) {
      t.match(outcome, { code: 'SSE_ERR_INVALID_EVENT' }, `id with character ${c}`)
    } else {
      await client.first(++count)
      t.equal(client.events.at(-1)!.id, id, `id with character ${c}`)
    }
  }
})

const circular: Record<string, unknown> = {}
circular.self = circular
const deep = (depth: number): unknown => {
  let value: unknown = 1
  for (let i = 0; i < depth; i++) value = [value]
  return value
}
const DATA: Array<[what: string, data: () => unknown, code: string | undefined, arrives?: string]> = [
  ['lone surrogates', () => 'a\ud800b\udc00c', undefined, 'a\ufffdb\ufffdc'],
  ['a lone surrogate in JSON', () => ({ a: '\ud800' }), undefined, '{"a":"\\ud800"}'],
  ['a BOM', () => '\ufeffdata', undefined, '\ufeffdata'],
  ['every line end', () => 'a\rb\nc\r\nd\n\re\u2028f\u0085g', undefined, 'a\nb\nc\nd\n\ne\u2028f\u0085g'],
  ['lines that look like fields', () => 'x\n\nid: 1\nevent: evil\n\n: \n', undefined, 'x\n\nid: 1\nevent: evil\n\n: \n'],
  ['NUL', () => 'a\0b', undefined, 'a\0b'],
  ['100 MB of text', () => 'x'.repeat(1e8), 'SSE_ERR_EVENT_TOO_LARGE'],
  ['100 MB in an object', () => ({ x: 'x'.repeat(1e8) }), 'SSE_ERR_EVENT_TOO_LARGE'],
  ['a megabyte of line ends, which takes seven on the wire', () => '\n'.repeat(MB), 'SSE_ERR_EVENT_TOO_LARGE'],
  ['JSON 100,000 deep', () => deep(100_000), 'SSE_ERR_INVALID_EVENT'],
  ['JSON 500 deep', () => deep(500), undefined, `${'['.repeat(500)}1${']'.repeat(500)}`],
  ['BigInt', () => 1n, 'SSE_ERR_INVALID_EVENT'],
  ['BigInt in an object', () => ({ n: 1n }), 'SSE_ERR_INVALID_EVENT'],
  ['circular', () => circular, 'SSE_ERR_INVALID_EVENT'],
  ['a throwing getter', () => ({ get x () { throw new Error('getter') } }), 'SSE_ERR_INVALID_EVENT'],
  ['a getter that throws undefined', () => ({ get x () { throw undefined } }), 'SSE_ERR_INVALID_EVENT'], // eslint-disable-line no-throw-literal
  ['a throwing toJSON', () => ({ toJSON () { throw new Error('toJSON') } }), 'SSE_ERR_INVALID_EVENT'],
  ['toJSON that returns undefined', () => ({ toJSON () {} }), 'SSE_ERR_INVALID_EVENT'],
  ['a function', () => () => {}, 'SSE_ERR_INVALID_EVENT'],
  ['a symbol', () => Symbol('s'), 'SSE_ERR_INVALID_EVENT'],
  ['a proxy that throws whatever is asked', () => new Proxy({}, { get () { throw new Error('proxy') } }), 'SSE_ERR_INVALID_EVENT'],
  ['a constructor that is no function', () => ({ constructor: { name: Symbol('s') }, n: 1n }), 'SSE_ERR_INVALID_EVENT'],
  ['an invalid date', () => new Date(NaN), undefined, 'null'],
  ['zero, which is data', () => 0, undefined, '0'],
  ['an empty string, which is data', () => '', undefined, '']
]

t.test('data of every kind: it arrives as it is, or is refused with a code that names the field; memory returns', async t => {
  const { app, url, unmoved } = await scene(t, {}, { logger: false })
  const client = await connect(`${url}/events`)
  await until(() => app.sse.channel('time').size === 1, 'the stream')
  const before = await used()
  let count = 0
  for (const [what, data, code, arrives] of DATA) {
    const since = performance.now()
    const outcome = await app.sse.channel('time').publish({ data: data() } as any).catch((error: unknown) => error)
    t.ok(performance.now() - since < 10_000, `${what}: soon`)
    if (code !== undefined) {
      t.match(outcome, { code }, what)
    } else {
      await client.first(++count)
      t.ok(client.events.at(-1)!.data === arrives, what)
    }
  }
  t.equal(client.events.length, count)
  await returns(t, before, 'data of every kind')
  client.leave()
  await until(() => streams(app) === 1, 'the stream to close')
  await unmoved()
})

t.test('20 MB of line ends are refused without the seven times as much that they take on the wire', async t => {
  const { app, unmoved } = await scene(t, {}, { logger: false })
  const data = '\n'.repeat(20 * MB)
  const before = performance.now()
  const outcome = await app.sse.channel('time').publish(data).catch((error: unknown) => error)
  t.match(outcome, { code: 'SSE_ERR_EVENT_TOO_LARGE' })
  const took = performance.now() - before
  t.ok(took < 1_000, `the event loop was held for ${took.toFixed(0)} ms`)
  await unmoved()
})

t.test('a route that publishes what it was sent answers 413 or 500, and lives', async t => {
  const { app, url, unmoved } = await scene(t, {}, { bodyLimit: 8 * MB, logger: false }, app => {
    app.post<{ Body: { event?: string, data: unknown } }>('/publish', async ({ body }) => ({ id: await app.sse.channel('time').publish(body as any) }))
  })
  const post = async (body: unknown): Promise<Client> => {
    const client = await connect(`${url}/publish`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
    await until(() => client.closed, 'the answer')
    return client
  }
  t.equal((await post({ data: 'fine' })).status, 200)
  t.equal((await post({ data: 'x'.repeat(2 * MB) })).status, 413)
  t.equal((await post({ event: 'a\nb', data: 1 })).status, 500)
  t.equal((await post({ id: 'x', data: 1 })).status, 500)
  t.equal((await post(5)).status, 500)
  t.equal((await post({})).status, 500)
  t.equal(app.sse.stats().published, 1)
  await unmoved()
})

for (const [what, serialize] of Object.entries<() => unknown>({
  throws: () => { throw new Error('no') },
  'throws null': () => { throw null }, // eslint-disable-line no-throw-literal
  'returns a number': () => 5,
  'returns undefined': () => undefined,
  'returns a Buffer': () => Buffer.from('x'),
  'returns a promise': async () => 'x',
  'returns a String object': () => Object('x')
})) {
  t.test(`a serializer that ${what}: publish() and send() reject with SSE_ERR_INVALID_EVENT, strings still go through`, async t => {
    const app = await build(t, { serialize: serialize as () => string }, { logger: false })
    const drive = driver(t, app)
    await listen(app)
    const { client, stream } = await drive(stream => { stream.subscribe(app.sse.channel('time')) })
    await t.rejects(app.sse.channel('time').publish({ data: { a: 1 } }), { code: 'SSE_ERR_INVALID_EVENT', message: /"data"/ })
    await t.rejects(stream.send({ data: { a: 1 } }), { code: 'SSE_ERR_INVALID_EVENT', message: /"data"/ })
    await app.sse.channel('time').publish('text')
    t.equal((await client.first(1))[0]!.data, 'text')
  })
}

t.test('a parser that throws closes the streams whose filter asks for data, and no other', async t => {
  const { app, url, unmoved } = await scene(t, { parse: () => { throw new Error('no') } }, { logger: false }, app => {
    app.get('/filter', (request, reply) => reply.sse(app.sse.channel('time'), { filter: ({ data }) => data === 5 }))
  })
  const filtered = await connect(`${url}/filter`)
  const plain = await connect(`${url}/events`)
  await until(() => app.sse.channel('time').size === 2, 'both streams')
  await app.sse.channel('time').publish({ data: 5 })
  await until(() => filtered.closed, 'the stream with the filter to close')
  t.equal((await plain.first(1))[0]!.data, '5')
  t.equal(app.sse.stats().closed.error, 1)
  plain.leave()
  await unmoved()
})

const WRONG: Record<string, unknown[]> = {
  history: [null, 5, 'x', true, [], () => {}],
  'history.maxEvents': [null, -1, 1.5, NaN, '5', {}, true, 5n, Symbol('s')],
  'history.maxBytes': [null, -1, 1.5, NaN, '5', {}],
  'history.maxAge': [null, -1, NaN, Infinity, '5', 2 ** 31],
  heartbeatInterval: [null, -1, NaN, Infinity, '5', {}, 5n, Symbol('s')],
  retry: [-1, 1.5, NaN, Infinity, '5', {}, 5n],
  serialize: [null, 5, 'x', {}],
  parse: [null, 5, 'x', {}],
  maxEventBytes: [null, 0, -1, 1.5, NaN, '5'],
  maxBufferedBytes: [null, 0, -1, 1.5, NaN, '5'],
  stallTimeout: [null, -1, NaN, Infinity, '5'],
  maxAge: [null, -1, NaN, Infinity, '5', new Date()],
  maxStreams: [null, -1, 1.5, NaN, '5', {}],
  maxStreamsPerKey: [null, -1, 1.5, NaN, '5', {}],
  streamKey: [null, 5, 'ip', {}],
  drain: [null, 5, 'x', []],
  'drain.retry': [null, 5, [], [1], [1, 2, 3], [2, 1], [1, NaN], ['1', '2'], [-1, 1], [1n, 2n], [circular, 1], { 0: 1, 1: 2, length: 2 }],
  'drain.timeout': [null, -1, NaN, Infinity, '5'],
  backplane: [null, 5, 'x', {}, [], { open () {} }, Object.create(null)]
}

t.test('options of every wrong type fail the registration with SSE_ERR_INVALID_OPTION, which names them', async t => {
  for (const [name, values] of Object.entries(WRONG)) {
    for (const value of values) {
      const [group, field] = name.split('.') as [string, string | undefined]
      const app = Fastify()
      const options = { [group]: field === undefined ? value : { [field]: value } } as unknown as SsePluginOptions
      const shown = typeof value === 'symbol' ? 'a symbol' : Array.isArray(value) ? `array of ${value.length}` : `${typeof value} ${Object.prototype.toString.call(value)}`
      await t.rejects(Promise.resolve(app.register(sse, options)).then(() => app.ready()), { code: 'SSE_ERR_INVALID_OPTION', message: new RegExp(`"${name}"`) }, `${name}: ${shown}`)
      await app.close()
    }
  }
})

t.test('options of a stream of every wrong type: a 500 with their code, and nothing is left open', async t => {
  const wrong = { lastEventId: [5, {}, true], rewind: [-1, 1.5, NaN, '5', null], filter: [5, null, 'x'], retry: [-1, 1.5, '5', null], maxAge: [-1, NaN, Infinity, '5', null] }
  const cases = Object.entries(wrong).flatMap(([name, values]) => values.map(value => ({ [name]: value })))
  const { app, url, unmoved } = await scene(t, { maxStreams: 2 }, { logger: false }, app => {
    app.get<{ Params: { n: string } }>('/wrong/:n', (request, reply) => reply.sse(app.sse.channel('time'), cases[Number(request.params.n)] as any))
  })
  for (let n = 0; n < cases.length; n++) {
    const client = await connect(`${url}/wrong/${n}`)
    await until(() => client.closed, 'the answer')
    t.match(JSON.parse(client.text), { statusCode: 500, code: 'SSE_ERR_INVALID_OPTION' }, JSON.stringify(cases[n]))
  }
  t.equal(streams(app), 1)
  await unmoved()
})

// Limits

t.test('a refused stream has cost nothing: its source was not started, nothing is subscribed, and Retry-After says when', async t => {
  for (const [limit, code] of [['maxStreams', 503], ['maxStreamsPerKey', 429]] as const) {
    let started = 0
    let told = 0
    const { app, url, unmoved } = await scene(t, { [limit]: 1, retry: 2_500 }, { logger: false }, app => {
      app.get('/function', (request, reply) => reply.sse(() => { started++ }))
      app.get('/generator', (request, reply) => reply.sse(async function * () { started++ }()))
      app.get('/readable', (request, reply) => reply.sse(new Readable({
        read () { started++ },
        destroy (error, done) {
          told++
          done(error)
        }
      })))
      app.get('/driven', (request, reply) => {
        reply.sse().subscribe(app.sse.channel('time'))
        return reply
      })
    })
    for (const path of ['/events', '/function', '/generator', '/readable', '/driven']) {
      const client = await connect(url + path)
      await until(() => client.closed, 'the answer')
      t.strictSame([client.status, client.headers['retry-after'], client.headers['content-type']], [code, '3', 'application/json; charset=utf-8'], path)
    }
    await until(() => told === 1, 'the Readable to be told')
    t.strictSame([started, app.sse.stats().streams, app.sse.stats().opened, app.sse.stats().channels], [0, 1, 1, 1])
    await unmoved()
  }
})

t.test('keys are counted one by one: any value is a key, and a key whose streams have left is free again', async t => {
  const key = {}
  const keys: Record<string, unknown> = { string: 'a', number: 1, '"1"': '1', undefined, null: null, object: key, NaN }
  const app = await build(t, { maxStreamsPerKey: 2, streamKey: request => keys[(request.query as { key: string }).key] }, { logger: false })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  for (let round = 0; round < 2; round++) {
    const clients: Client[] = []
    for (const name of Object.keys(keys)) {
      for (const wanted of [200, 200, 429]) {
        const client = await connect(`${url}/events?key=${encodeURIComponent(name)}`)
        t.equal(client.status, wanted, `${name}, round ${round}`)
        clients.push(client)
      }
    }
    for (const client of clients) client.leave()
    await until(() => streams(app) === 0, 'all to leave')
  }
})

t.test('a limit of 0 lets nobody in', async t => {
  for (const limit of ['maxStreams', 'maxStreamsPerKey'] as const) {
    const app = await build(t, { [limit]: 0 }, { logger: false })
    app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
    const url = await listen(app)
    t.equal((await connect(`${url}/events`)).status, limit === 'maxStreams' ? 503 : 429)
  }
})

/** Numbers from 0 to 1, the same at each run. */
function random (seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 4294967296
  }
}

t.test('after a random storm of connects, drops, errors, HEADs, failing hooks and double closes every count is 0 again', async t => {
  const next = random(6)
  const app = await build(t, { maxStreams: 60, maxStreamsPerKey: 40, streamKey: request => (request.query as { key?: string }).key, heartbeatInterval: 20, maxAge: 1_000, stallTimeout: 500 }, { logger: false })
  const isStream = (payload: unknown): boolean => typeof (payload as Readable | null)?.pipe === 'function'
  app.addHook('onSend', async (request, reply, payload) => {
    if (!isStream(payload)) return
    if (request.url.includes('slow')) await new Promise(resolve => setTimeout(resolve, 10))
    if (request.url.includes('hook')) throw new Error('the hook failed')
  })
  const channel = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(channel))
  app.get('/forever', (request, reply) => reply.sse(channel, { maxAge: 0 }))
  app.get('/none', (request, reply) => reply.code(204).sse(channel))
  app.post('/post', (request, reply) => reply.sse(channel))
  app.get('/throws', (request, reply) => reply.sse(async function * () {
    yield 'one'
    throw new Error('the source failed')
  }))
  app.get('/ends', (request, reply) => reply.sse(['one', 'two']))
  app.get('/later', async (request, reply) => {
    reply.sse(channel)
    throw new Error('the handler failed')
  })
  app.get('/filter', (request, reply) => reply.sse(channel, { filter: () => { throw new Error('the filter failed') } }))
  app.get('/twice', (request, reply) => {
    const stream = reply.sse()
    stream.subscribe(channel)
    stream.send('one')
    const close = (): void => {
      stream.close()
      stream.close()
    }
    if (next() < 0.5) close()
    else setTimeout(close, 10 * next())
    return stream
  })
  const url = await listen(app)
  const { port } = app.server.address() as AddressInfo
  const paths = ['/events', '/events', '/none', '/throws', '/ends', '/later', '/filter', '/twice']
  const publisher = setInterval(() => { channel.publish('x'.repeat(2_000)) }, 5)
  t.teardown(() => clearInterval(publisher))
  const sockets = new Set<Socket>()
  let seen = 0
  for (let i = 0; i < 1_500; i++) {
    const path = paths[Math.floor(next() * paths.length)]!
    const query = `?key=${Math.floor(next() * 3)}${next() < 0.2 ? '&slow' : ''}${next() < 0.1 ? '&hook' : ''}`
    const method = next() < 0.1 ? 'HEAD' : 'GET'
    const request = next() < 0.1
      ? `POST /post${query} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi`
      : `${method} ${path}${query} HTTP/1.${next() < 0.1 ? 0 : 1}\r\nHost: x\r\n\r\n`
    const socket = net.connect(port, '127.0.0.1')
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
    socket.write(request)
    const end = next()
    const drop = (): void => { if (next() < 0.5) socket.destroy(); else socket.resetAndDestroy() }
    if (end < 0.2) socket.once('connect', drop)
    else if (end < 0.5) socket.once('data', drop)
    else if (end < 0.8) setTimeout(drop, 300 * next())
    else if (end < 0.9) setTimeout(() => socket.end(), 30 * next())
    else socket.pause()
    await new Promise(resolve => i % 4 === 0 ? setTimeout(resolve, 2) : setImmediate(resolve))
    const { streams } = app.sse.stats()
    seen = Math.max(seen, streams)
    if (streams > 60 || streams < 0) t.fail(`${streams} streams`)
  }
  await until(() => app.sse.stats().opened > 300, 'enough to be opened')
  clearInterval(publisher)
  for (const socket of sockets) socket.destroy()
  await until(() => app.sse.stats().streams === 0, 'all to close')
  const stats = app.sse.stats()
  t.ok(seen > 5, `there were many at once: ${seen}`)
  t.match(stats, { streams: 0, channels: 0, subscriptions: 0, blocked: 0 })
  t.equal(Object.values(stats.closed).reduce((sum, n) => sum + n), stats.opened, 'what was opened was closed, once')
  t.ok(stats.closed.client > 0 && stats.closed.end > 0 && stats.closed.server > 0 && stats.closed.error > 0, JSON.stringify(stats.closed))
  // The limits count as exactly as before: 40 of a key, 60 in all.
  const answers = { 200: 0, 429: 0, 503: 0 }
  const all: Client[] = []
  for (const [key, n] of [['a', 41], ['b', 21]] as const) {
    all.push(...await Promise.all(Array.from({ length: n }, () => connect(`${url}/forever?key=${key}`))))
  }
  for (const { status } of all) answers[status as 200]++
  t.strictSame(answers, { 200: 60, 429: 1, 503: 1 })
  for (const client of all) client.leave()
  await until(() => streams(app) === 0, 'all to close')
})

t.test('maxAge: streams that were opened together end between 90 and 100 % of it, not together, and clients can resume', async t => {
  const STREAMS = 60
  const app = await build(t, { maxAge: 3_000 })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const url = await listen(app)
  const ages: number[] = []
  app.sse.on('close', ({ reason, durationMs }) => { if (reason === 'age') ages.push(durationMs) })
  const clients = await Promise.all(Array.from({ length: STREAMS }, () => connect(`${url}/events`)))
  await app.sse.channel('time').publish('one')
  await until(() => ages.length === STREAMS, 'all to end')
  await until(() => clients.every(({ closed }) => closed), 'all clients to know')
  t.strictSame(new Set(clients.map(({ closed }) => closed)), new Set(['end']), 'in order, not broken')
  t.ok(Math.min(...ages) >= 2_700 - 1, `none before 90 %: ${Math.min(...ages)}`)
  t.ok(Math.max(...ages) <= 3_000, `none after 100 %: ${Math.max(...ages)}`)
  t.ok(new Set(ages).size > 1 && Math.max(...ages) - Math.min(...ages) > 50, `spread over ${Math.max(...ages) - Math.min(...ages)} ms`)
  await app.sse.channel('time').publish('two')
  const again = await connect(`${url}/events`, { lastEventId: clients[0]!.lastEventId })
  t.equal((await again.first(1))[0]!.data, 'two')
  t.equal(again.gaps.length, 0)
  again.leave()
})

t.test('maxAge of one stream is its own, and no stream outlives it because others live longer', async t => {
  const app = await build(t)
  app.get('/long', (request, reply) => reply.sse(app.sse.channel('time')))
  app.get('/short', (request, reply) => reply.sse(app.sse.channel('time'), { maxAge: 2_000 }))
  const url = await listen(app)
  const long = await connect(`${url}/long`)
  let age = 0
  app.sse.on('close', ({ durationMs }) => { age = durationMs })
  const short = await connect(`${url}/short`)
  await until(() => short.closed, 'the short one to end')
  t.ok(age >= 1_799 && age <= 2_000, `it lived ${age} ms`)
  t.equal(long.closed, undefined)
  long.leave()
})

t.test('maxBufferedBytes: own events that nobody takes close their stream with overflow, and memory returns', async t => {
  const { url, unmoved } = await scene(t, { maxBufferedBytes: 256 * 1024 }, {}, app => {
    app.get('/driven', (request, reply) => { driven = reply.sse(); return driven })
  })
  let driven: SseStream | undefined
  const client = await connect(`${url}/driven`)
  client.pause()
  const before = await used()
  let answers: Array<Promise<boolean>> = []
  let sent = 0
  while (driven!.state === 'open' && sent < 1_000) {
    answers.push(driven!.send('x'.repeat(64 * 1024)))
    if (++sent % 10 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  t.equal(await driven!.closed, 'overflow')
  t.equal((await Promise.all(answers)).at(-1), false)
  t.equal(await driven!.send('late'), false)
  answers = []
  client.leave()
  await returns(t, before, 'an overflow')
  await unmoved()
})

t.test('maxEventBytes: an event of that many bytes passes, one more is refused, for publish() and send()', async t => {
  const app = await build(t, { maxEventBytes: 100 }, { logger: false })
  const drive = driver(t, app)
  await listen(app)
  const { client, stream } = await drive(stream => { stream.subscribe(app.sse.channel('time')) })
  // "data: " + text + "\n\n"; € has three bytes.
  for (const text of ['x'.repeat(92), '€'.repeat(30) + 'xx']) {
    // The name of the channel counts: it is kept with the event.
    const shorter = text.slice(0, -'time'.length) + (text.endsWith('xx') && text.startsWith('€') ? 'xxxx' : '')
    await app.sse.channel('time').publish(shorter)
    await stream.send(text)
    await t.rejects(app.sse.channel('time').publish(shorter + 'x'), { code: 'SSE_ERR_EVENT_TOO_LARGE', statusCode: 413 })
    await t.rejects(stream.send(text + 'x'), { code: 'SSE_ERR_EVENT_TOO_LARGE', statusCode: 413 })
  }
  await client.first(4)
  t.equal(blocks(client.text).filter(({ data }) => data !== undefined).length, 4)
})

t.test('nothing was left unhandled, and no listeners piled up', async t => {
  t.strictSame(accidents, [])
})
