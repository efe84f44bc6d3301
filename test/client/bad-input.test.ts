import t from 'tap'
import { SseClient, type SseClientOptions } from '../../lib/client/index.ts'
import { soon } from '../client.ts'
import { until } from '../client.ts'
import { FAST, observe, pause, serve } from './server.ts'

// Each has a clear error event, and none makes a loop without a pause.

t.jobs = 6
const buffered = true

t.test('a scheme that cannot be fetched closes at once', { buffered }, async t => {
  for (const url of ['ftp://127.0.0.1/', 'javascript:alert(1)', 'ws://127.0.0.1/']) {
    const { errors } = observe(t, url, FAST)
    await soon(() => errors.length === 1, url)
    t.match(errors[0], { code: 'request', status: 0, readyState: SseClient.CLOSED })
  }
})

t.test('options of which no request can be made close at once', { buffered }, async t => {
  const bad: SseClientOptions[] = [{ method: 'no method' }, { headers: { 'no header': 'x' } }, { headers: { x: 'a\nb' } }, { credentials: 'no' as 'omit' }, { method: 'GET', body: 'x' }, { method: 'TRACE' }]
  for (const options of bad) {
    const { errors } = observe(t, 'http://127.0.0.1:1/', { ...FAST, ...options })
    await soon(() => errors.length === 1, JSON.stringify(options))
    t.match(errors[0], { code: 'request', status: 0, readyState: SseClient.CLOSED }, JSON.stringify(options))
  }
})

t.test('HTML in place of a stream closes, and says what came', { buffered }, async t => {
  const { url } = await serve(t, one => one.response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end('<h1>Sign in</h1>'))
  const { errors } = observe(t, url, FAST)
  await soon(() => errors.length === 1, 'the error')
  t.match(errors[0], { code: 'type', status: 200, message: /text\/html/, readyState: SseClient.CLOSED })
})

for (const [name, chunk, limit] of [['a line without an end', 'data: ' + 'x'.repeat(65_536 - 6), undefined], ['an event of 10 MB', `data: ${'x'.repeat(1_016)}\n`, undefined], ['an event longer than maxEventLength', 'data: x\n', 100]] as const) {
  t.test(`${name} closes, before it fills the memory`, { buffered }, async t => {
    let sent = 0
    const { url, asked } = await serve(t, one => {
      one.stream('data: a\n\n')
      const fill = (): void => {
        while (!one.response.destroyed && sent < 10_000_000) {
          sent += chunk.length
          if (!one.response.write(chunk)) {
            one.response.once('drain', fill)
            return
          }
        }
      }
      fill()
    })
    const { errors, data } = observe(t, url, { ...FAST, maxEventLength: limit })
    await soon(() => errors.length === 1, 'the error', 10_000)
    t.match(errors[0], { code: 'size', readyState: SseClient.CLOSED })
    await pause(20)
    t.same([data, asked.length], [['a'], 1])
  })
}

t.test('an event of 4 MB less a little is told', { buffered }, async t => {
  const text = 'x'.repeat(4 * 1024 * 1024 - 100_000)
  const { url } = await serve(t, one => one.stream(`data: ${text}\n\n`))
  const { data } = observe(t, url)
  await soon(() => data.length === 1, 'the event', 10_000)
  t.equal(data[0].length, text.length)
})

t.test('half a character at the end of the stream is no event, and no error but the end', { buffered }, async t => {
  const { url } = await serve(t, (one, n) => {
    one.stream(n === 0 ? 'retry: 5\ndata: a\n\n' : 'data: b\n\n')
    if (n === 0) one.response.end(Buffer.from([...Buffer.from('data: '), 0xF0, 0x9F]))
  })
  const { data, errors } = observe(t, url, FAST)
  await soon(() => data.length === 2, 'the next connection')
  t.match([data, errors], [['a', 'b'], [{ code: 'ended' }]])
})

t.test('an answer without a body has ended: it is asked for again after a pause, or closes where the channel had ended', { buffered }, async t => {
  // What `fetch` gives for HEAD, and a wrapper of it for anything.
  const { url } = await serve(t, one => one.response.writeHead(200, { 'content-type': 'text/event-stream' }).end())
  const { errors, source } = observe(t, url, { ...FAST, method: 'HEAD' })
  await soon(() => errors.length === 3, 'three tries')
  source.close()
  for (const error of errors) t.match(error, { code: 'ended', status: 200, message: 'response ended', readyState: SseClient.CONNECTING })

  const end = 'event: sse.end\ndata: {}\n\n'
  let asked = 0
  const fetch = async (): Promise<Response> => {
    const body = asked++ > 0 ? null : new ReadableStream({ start: controller => controller.enqueue(new TextEncoder().encode(end)) })
    return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
  }
  const ended = observe(t, url, { ...FAST, fetch, inactivity: 100 })
  await soon(() => ended.source.readyState === SseClient.CLOSED, 'the end')
  t.same([ended.errors.map(({ code }) => code), asked], [['inactivity'], 2])
})

t.test('redirects in a circle, and a server that closes without an answer, are network failures, with a pause after each', { buffered }, async t => {
  const circle = await serve(t, one => one.response.writeHead(302, { location: '/events' }).end())
  const silent = await serve(t, one => one.request.socket.destroy())
  for (const { url } of [circle, silent]) {
    const since = Date.now()
    const { errors, source } = observe(t, url, { retry: { min: 100, max: 100 } })
    await soon(() => errors.length >= 3, 'some tries')
    source.close()
    t.match(errors[0], { code: 'network', status: 0, readyState: SseClient.CONNECTING })
    t.ok(Date.now() - since >= 200)
  }
})

t.test('a server that ends each stream at once, and says retry: 0, is asked no more often than retry.min allows, and less and less', { buffered }, async t => {
  const { url, asked } = await serve(t, one => {
    one.stream('retry: 0\n\n')
    one.response.end()
  })
  const { source } = observe(t, url)
  await pause(1_000)
  t.ok(asked.length <= 11, `${asked.length} requests in a second`)
  await until(() => asked.length >= 2, 'it to come back')
  source.close()
})

t.test('an answer in the middle of which the client is closed rejects nothing', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const rejected: unknown[] = []
  const hear = (error: unknown): unknown => rejected.push(error)
  process.on('unhandledRejection', hear)
  t.teardown(() => process.off('unhandledRejection', hear))
  for (let ms = 0; ms < 20; ms++) {
    const { source } = observe(t, url)
    await pause(ms / 2)
    source.close()
  }
  await soon(() => asked.every(({ request }) => request.socket.destroyed), 'all to be gone')
  t.same(rejected, [])
})
