import { getEventListeners } from 'node:events'
import t from 'tap'
import { SseClient, type SseClientOptions } from '../../lib/client/index.ts'
import { soon } from '../client.ts'
import { FAST, observe, pause, serve } from './server.ts'

t.jobs = 6
const buffered = true

t.test('headers go with each request; a function is asked anew for each connection, and may take its time', { buffered }, async t => {
  const { url, asked } = await serve(t, one => {
    one.stream('retry: 5\ndata: a\n\n')
    one.response.end()
  })
  let n = 0
  const { data } = observe(t, url, { ...FAST, headers: async () => { await pause(5); return { authorization: `token ${++n}` } } })
  observe(t, url, { ...FAST, headers: { authorization: 'always', accept: 'text/event-stream, text/html' } })
  await soon(() => data.length >= 3 && asked.filter(({ headers }) => headers.authorization === 'always').length >= 2, 'some connections')
  t.same(asked.map(({ headers }) => headers.authorization).filter(one => one !== 'always').slice(0, 3), ['token 1', 'token 2', 'token 3'])
  t.equal(asked.find(({ headers }) => headers.authorization === 'always')!.headers.accept, 'text/event-stream, text/html')
})

t.test('headers that throw are an error, and asked for again after a pause', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('data: a\n\n'))
  let n = 0
  for (const headers of [() => { if (++n % 2 === 1) throw new Error('no token'); return {} }, async () => { if (++n % 2 === 1) throw new Error('no token'); return {} }]) {
    const { data, errors } = observe(t, url, { ...FAST, headers })
    await soon(() => data.length === 1, 'the stream')
    t.match(errors, [{ code: 'headers', status: 0, message: /no token/, readyState: SseClient.CONNECTING }])
  }
})

t.test('headers that throw are asked for again also where the request must not be made again: none was made', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  let n = 0
  const { data, errors, source } = observe(t, url, { ...FAST, body: 'x', headers: () => { if (++n === 1) throw new Error('no token'); return {} } })
  await soon(() => data.length === 1 || source.status === 'closed', 'the stream')
  t.same([data, source.status], [['a'], 'open'])
  t.match(errors, [{ code: 'headers', status: 0, readyState: SseClient.CONNECTING }])
  t.match(asked, [{ request: { method: 'POST' }, body: 'x' }])
})

t.test('a body makes it a POST, which is made again only once the server has sent an id', { buffered }, async t => {
  const answer = (id: string) => (one: Parameters<Parameters<typeof serve>[1]>[0]): void => {
    one.stream(`retry: 5\n${id}data: a\n\n`)
    one.response.end()
  }
  const without = await serve(t, answer(''))
  const once = observe(t, without.url, { ...FAST, body: '{"prompt":"x"}', headers: { 'content-type': 'application/json' } })
  await soon(() => once.errors.length === 1, 'the end')
  t.match(once.errors[0], { code: 'ended', readyState: SseClient.CLOSED })
  t.match(without.asked, [{ request: { method: 'POST' }, body: '{"prompt":"x"}', headers: { 'content-type': 'application/json' } }])
  const withId = await serve(t, answer('id: 3\n'))
  const again = observe(t, withId.url, { ...FAST, method: 'post', body: 'x' })
  await soon(() => again.data.length >= 2, 'a second time')
  t.match(withId.asked[1], { request: { method: 'POST' }, body: 'x', headers: { 'last-event-id': '3' } })
  const busy = await serve(t, one => one.response.writeHead(503).end())
  const refused = observe(t, busy.url, { ...FAST, body: 'x' })
  await soon(() => refused.source.status === 'closed', 'the refusal')
  t.match(refused.errors, [{ code: 'status', status: 503, readyState: SseClient.CLOSED }])
  await pause(30)
  t.same([without.asked.length, busy.asked.length], [1, 1])
})

t.test('signal closes the client, also one that has aborted before; a closed client leaves no listener on it', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const controller = new AbortController()
  const { source, data } = observe(t, url, { signal: controller.signal })
  await soon(() => data.length === 1, 'the stream')
  t.equal(getEventListeners(controller.signal, 'abort').length, 1)
  controller.abort()
  t.equal(source.readyState, SseClient.CLOSED)
  t.equal(getEventListeners(controller.signal, 'abort').length, 0)
  await soon(() => asked[0]!.request.socket.destroyed, 'the server to notice')
  t.equal(observe(t, url, { signal: AbortSignal.abort() }).source.readyState, SseClient.CLOSED)
  await pause(30)
  t.equal(asked.length, 1)
})

t.test('401 and 403 ask onUnauthorized once, and go on with what it did; nobody else is told', { buffered }, async t => {
  for (const status of [401, 403]) {
    let token = 'old'
    const { url, asked } = await serve(t, one => one.headers.authorization === 'new' ? one.stream('data: a\n\n') : one.response.writeHead(status).end())
    const { data, errors } = observe(t, url, {
      ...FAST,
      headers: () => ({ authorization: token }),
      onUnauthorized: async (was: number) => {
        t.equal(was, status)
        await pause(10)
        token = 'new'
        return true
      }
    })
    await soon(() => data.length === 1, 'the stream')
    t.same([asked.length, errors.length], [2, 0])
  }
})

t.test('a second refusal in a row closes, and so do an onUnauthorized that says no or throws, and none at all', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.response.writeHead(401).end())
  let n = 0
  for (const [onUnauthorized, requests] of [[() => ++n > 0, 2], [() => false, 1], [async () => { throw new Error('signed out') }, 1], [undefined, 1]] as Array<[SseClientOptions['onUnauthorized'], number]>) {
    const before = asked.length
    const { source, errors } = observe(t, url, { ...FAST, onUnauthorized })
    await soon(() => source.status === 'closed', 'it to stop')
    await pause(20)
    t.match(errors, [{ code: 'status', status: 401, readyState: SseClient.CLOSED }])
    t.equal(errors.length, 1)
    t.equal(asked.length - before, requests)
  }
  t.equal(n, 1)
})

t.test('close() while onUnauthorized is at work: its answer changes nothing', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.response.writeHead(401).end())
  let answer: ((yes: boolean) => void) | undefined
  const { source, errors } = observe(t, url, { ...FAST, onUnauthorized: () => new Promise(resolve => { answer = resolve }) })
  await soon(() => answer, 'it to be asked')
  source.close()
  answer!(true)
  await pause(20)
  t.same([asked.length, errors.length, source.status], [1, 0, 'closed'])
})

t.test('parse makes the data of each event, and is told its name; gap and end are JSON in any case', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('event: tick\ndata: {"n":1}\n\ndata: text\n\nevent: sse.gap\ndata: {"reason":"expired","channels":["a"]}\n\nevent: tick\ndata: {"n":\n\nid: 5\nevent: tick\ndata: {"n":2}\n\n'))
  const { data, errors, source } = observe(t, url, { parse: (text, type) => type === 'message' ? text : JSON.parse(type === 'sse.gap' ? 'not for parse' : text) })
  await soon(() => data.length === 4, 'the events')
  t.strictSame(data, [{ n: 1 }, 'text', { reason: 'expired', channels: ['a'] }, { n: 2 }])
  t.match(errors, [{ code: 'parse', status: 0, message: /tick/, readyState: SseClient.OPEN }], 'data that cannot be read is an error, and the stream goes on')
  t.equal(source.lastEventId, '5')
})

t.test('for await gives each event of the server in order, whatever its name, and ends with the stream', { buffered }, async t => {
  const { url } = await serve(t, one => {
    one.stream('id: 1\nevent: tick\ndata: {"n":1}\n\nevent: other\ndata: 2\n\n')
    setTimeout(() => {
      one.response.write('data: "three"\n\nevent: sse.end\ndata: {"reason":"done","channels":[]}\n\n')
      one.response.end()
    }, 20)
  })
  const source = new SseClient<{ tick: { n: number }, other: number, message: string }>(url, { parse: JSON.parse })
  t.teardown(() => source.close())
  const told: unknown[] = []
  for await (const event of source) told.push([event.type, event.data])
  t.strictSame(told, [['tick', { n: 1 }], ['other', 2], ['message', 'three'], ['sse.end', { reason: 'done', channels: [] }]])
})

t.test('for await throws what closed the client; close() ends it; break leaves the client open; two loops each get all', { buffered }, async t => {
  const refused = await serve(t, one => one.response.writeHead(404).end())
  const source = new SseClient(refused.url)
  await t.rejects((async () => { for await (const event of source) t.fail(event.type) })(), { code: 'status', status: 404, message: /404/ })
  const { url } = await serve(t, one => one.stream('data: 1\n\ndata: 2\n\ndata: 3\n\n'))
  const open = new SseClient(url)
  t.teardown(() => open.close())
  const read = async (until: string): Promise<string[]> => {
    const told: string[] = []
    for await (const { data } of open) {
      told.push(data)
      if (data === until) break
    }
    return told
  }
  t.same(await Promise.all([read('2'), read('3')]), [['1', '2'], ['1', '2', '3']])
  t.equal(open.readyState, SseClient.OPEN)
  setTimeout(() => open.close(), 20)
  t.same(await read('4'), [])
})

t.test('status says what the client does, and when it tries next', { buffered }, async t => {
  const { url } = await serve(t, (one, n) => n === 0 ? one.response.writeHead(503).end() : one.stream('data: a\n\n'))
  const { source, told } = observe(t, url, { retry: { min: 50, max: 50 } })
  t.equal(source.status, 'connecting')
  await soon(() => source.status === 'open', 'the stream')
  source.close()
  const statuses = told.filter(({ type }) => type === 'status')
  t.same(statuses.map(({ status }) => status), ['waiting', 'connecting', 'open', 'closed'])
  t.ok(Math.abs(statuses[0]!.until! - Date.now()) < 1_000)
  t.same(statuses.slice(1).map(({ until }) => until), [undefined, undefined, undefined])
})

t.test('an option that is no number of milliseconds is refused at once, by name and value', { buffered }, async t => {
  for (const [options, message] of [
    [{ retry: { min: -1 } }, 'option min must be >= 0, got -1'],
    [{ retry: { max: -1 } }, 'option max must be >= 0, got -1'],
    [{ inactivity: Number.NaN }, 'option inactivity must be >= 0, got NaN'],
    [{ maxEventLength: 'x' as unknown as number }, 'option maxEventLength must be >= 0, got x']
  ] as const) t.throws(() => new SseClient('http://127.0.0.1', options), { name: 'TypeError', message })
})

t.test('what the option fetch gives is read, and its requests are those of fetch', { buffered }, async t => {
  const calls: unknown[] = []
  const fetch = async (...args: unknown[]): Promise<Response> => {
    calls.push(args)
    return new Response('data: a\n\n', { headers: { 'content-type': 'text/event-stream' } })
  }
  const { data, source } = observe(t, 'http://127.0.0.1/x', { fetch: fetch as typeof globalThis.fetch, credentials: 'omit' })
  await soon(() => data.length === 1, 'the event')
  source.close()
  t.match(calls[0], ['http://127.0.0.1/x', { method: 'GET', credentials: 'omit', cache: 'no-store' }])
})

t.test('headers that come after the client was closed, or has given their try up, ask nothing of the option fetch', { buffered }, async t => {
  const calls: unknown[] = []
  // One of somebody's own, that knows of no signal.
  const fetch: SseClientOptions['fetch'] = async (...args) => {
    calls.push(args)
    return new Response()
  }
  const late: Array<() => void> = []
  const headers = (): Promise<{}> => new Promise(resolve => late.push(() => resolve({})))
  const closed = observe(t, 'http://127.0.0.1/x', { body: 'x', headers, fetch })
  const hung = observe(t, 'http://127.0.0.1/x', { ...FAST, inactivity: 50, headers, fetch })
  await soon(() => late.length >= 2 && hung.errors.length >= 2, 'two tries to be given up')
  closed.source.close()
  hung.source.close()
  for (const come of late) come()
  await pause(20)
  t.same(calls, [])
})
