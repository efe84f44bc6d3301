import t from 'tap'
import { SseClient, type SseClientOptions } from '../../lib/client/index.ts'
import { soon } from '../client.ts'
import { FAST, observe, pause, serve } from './server.ts'

// A server, and a page, that mean no good. Each ends in a clear error or goes on; none makes a loop without a pause.

t.jobs = 6
const buffered = true

t.test('a retry of any size leaves a try to come; the newest counts', { buffered }, async t => {
  for (const digits of ['9'.repeat(15), '9'.repeat(30), '9'.repeat(400)]) {
    for (const max of [60_000, Infinity]) {
      const { url } = await serve(t, one => {
        one.stream(`retry: ${digits}\ndata: a\n\n`)
        one.response.end()
      })
      const { source, told } = observe(t, url, { retry: { max } })
      await soon(() => source.status === 'waiting', digits)
      const { until } = told.findLast(({ status }) => status === 'waiting')!
      t.ok(until! > Date.now() + 86_400_000, `${until}`)
    }
  }
})

t.test('a Retry-After that is garbage is none, and one of any size leaves a try to come', { buffered }, async t => {
  for (const value of ['soon', '', '-5', '0', '-Infinity', 'Infinity', 'NaN', 'Thu, 01 Jan 1970 00:00:00 GMT']) {
    const { url, asked } = await serve(t, (one, n) => n === 0 ? one.response.writeHead(503, { 'retry-after': value }).end() : one.stream('data: a\n\n'))
    const { data, told } = observe(t, url, { retry: { max: 300 } })
    await soon(() => data.length === 1, `it to come back after ${value}: ${JSON.stringify(told)}`)
    t.ok(asked[1]!.at - asked[0]!.at >= 290)
  }
  for (const value of ['99999999999999999999', '9'.repeat(400), new Date(8_640_000_000_000).toUTCString()]) {
    const { url } = await serve(t, one => one.response.writeHead(503, { 'retry-after': value }).end())
    const { told } = observe(t, url)
    const { until } = await soon(() => told.find(({ status }) => status === 'waiting'), value)
    t.ok(until! > Date.now() + 86_400_000)
  }
})

t.test('an id that cannot be sent, or that no server takes, is an error, and no loop without a pause', { buffered }, async t => {
  for (const id of ['\x01', '\x7F', 'x'.repeat(30_000), 'x'.repeat(300_000)]) {
    const { url, asked } = await serve(t, one => {
      one.stream(`id: a${id}b\ndata: a\n\n`)
      one.response.end()
    })
    const { errors, source } = observe(t, url, { retry: { min: 100, max: 100 } })
    const since = Date.now()
    await soon(() => source.status === 'closed' || errors.length > 3, 'the error')
    t.match(errors[0], { code: 'ended' })
    // Node's fetch alone refuses control characters, as a failure of the network.
    if (id.length > 1) t.match(errors[1], { code: id.length > 100_000 ? 'request' : 'status', readyState: SseClient.CLOSED })
    else t.ok(errors[1]!.code === 'network' && Date.now() - since >= 300)
    t.equal(asked.length, 1)
  }
})

t.test('headers that never come leave the client to be closed, or to its inactivity', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream())
  const rejected: unknown[] = []
  const hear = (error: unknown): unknown => rejected.push(error)
  process.on('unhandledRejection', hear)
  t.teardown(() => process.off('unhandledRejection', hear))
  let fail: (() => void) | undefined
  const hung = observe(t, url, { headers: () => new Promise((resolve, reject) => { fail = () => reject(new Error('late')) }) })
  const watched = observe(t, url, { ...FAST, inactivity: 50, headers: () => new Promise(() => {}) })
  await soon(() => watched.errors.length >= 2, 'the inactivity')
  t.match(watched.errors[0], { code: 'inactivity', status: 0, readyState: SseClient.CONNECTING })
  hung.source.close()
  fail!()
  await pause(20)
  t.same([asked.length, rejected, hung.errors], [0, [], []])
})

t.test('whatever is thrown at it, by headers or parse, is an error event', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('data: a\n\n'))
  for (const thrown of [undefined, null, 0, Symbol('s'), Object.create(null), { toString () { throw new Error('no') } }]) {
    const headers = observe(t, url, { ...FAST, headers: () => { throw thrown } })
    const parse = observe(t, url, { ...FAST, parse: () => { throw thrown } })
    const asked = observe(t, (await serve(t, one => one.response.writeHead(401).end())).url, { ...FAST, onUnauthorized: () => { throw thrown } })
    await soon(() => headers.errors.length > 0 && parse.errors.length > 0 && asked.errors.length > 0, 'the errors')
    t.match([headers.errors[0], parse.errors, asked.errors], [{ code: 'headers', message: String }, [{ code: 'parse', message: String }], [{ status: 401 }]])
  }
})

t.test('close() within any callback ends all that follows', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('data: a\n\ndata: b\n\n'))
  const refused = await serve(t, one => one.response.writeHead(401).end())
  const cases: Array<[string, (close: () => void) => SseClientOptions, string?]> = [
    ['headers', close => ({ headers: () => { close(); return {} } })],
    ['parse', close => ({ parse: text => { close(); return text } })],
    ['parse that throws', close => ({ parse: () => { close(); throw new Error('x') } })],
    ['fetch', close => ({ fetch: (...args) => { close(); return fetch(...args) } })],
    ['onUnauthorized', close => ({ onUnauthorized: () => { close(); return true } }), refused.url]
  ]
  for (const [name, options, at = url] of cases) {
    const it = observe(t, at, options(() => it.source.close()))
    await soon(() => it.source.status === 'closed', name)
    await pause(30)
    t.same(it.told.filter(({ readyState }) => readyState === 2).map(({ type, status }) => [type, status]), [['status', 'closed']], name)
    t.same([it.data, it.errors], [[], []], name)
  }
  for (const type of ['open', 'message', 'error', 'status', 'tick', 'sse.gap', 'sse.end']) {
    const server = await serve(t, one => {
      one.stream('data: a\n\nevent: tick\ndata: a\n\nevent: sse.gap\ndata: {}\n\nevent: sse.end\ndata: {}\n\n')
      setTimeout(() => one.response.destroy(), 50)
    })
    const it = observe(t, server.url, FAST)
    const after: string[] = []
    it.source.addEventListener(type, () => it.source.close())
    for (const other of ['open', 'message', 'error', 'tick', 'sse.gap', 'sse.end']) it.source.addEventListener(other, () => { if (it.source.readyState === 2 && other !== type) after.push(other) })
    await soon(() => it.source.status === 'closed', type)
    await pause(30)
    t.same(after, [], `nothing after close() in ${type}`)
  }
})

t.test('a loop that is left early, by break, throw or return, holds nothing any more', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const source = new SseClient(url)
  t.teardown(() => source.close())
  const loops: AsyncIterator<unknown>[] = []
  for (let n = 0; n < 3; n++) loops.push(source[Symbol.asyncIterator]())
  for (const one of loops) t.equal((await Promise.all([one.next(), asked.length === 1 && n()]))[0].done, false)
  function n (): void {
    asked[0]!.response.write('data: b\n\n')
  }
  for (const one of loops) t.same(await one.return!(), { done: true, value: undefined })
  asked[0]!.response.write('data: c\n\n')
  for (const one of loops) t.equal((await one.next()).done, true)
  t.equal(source.readyState, SseClient.OPEN)
})

t.test('events that come faster than a loop reads are kept, in order', { buffered }, async t => {
  const { url } = await serve(t, one => {
    one.stream(Array.from({ length: 5_000 }, (_, n) => `data: ${n}\n\n`).join(''))
    one.stream = () => {}
    one.response.write('event: sse.end\ndata: {}\n\n')
    one.response.end()
  })
  const source = new SseClient(url)
  t.teardown(() => source.close())
  const told: unknown[] = []
  for await (const { data } of source) {
    if (told.push(data) % 1_000 === 0) await pause(10)
  }
  t.same(told.slice(0, 5_000), Array.from({ length: 5_000 }, (_, n) => String(n)))
  t.equal(source.readyState, SseClient.CLOSED, 'what had come before the end is read after it')
})
