import { once } from 'node:events'
import t from 'tap'
import { SseClient } from '../../lib/client/index.ts'
import { soon } from '../client.ts'
import { FAST, observe, pause, serve } from './server.ts'

// The interface of an EventSource, from WHATWG HTML 9.2 and by the list of the web-platform-tests' eventsource/. What a
// page alone can show is in browsers.test.ts.
t.jobs = 6
const buffered = true

t.test('CONNECTING, OPEN and CLOSED are constants of the class and of its instances', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream())
  const { source } = observe(t, url)
  for (const [name, value] of [['CONNECTING', 0], ['OPEN', 1], ['CLOSED', 2]] as const) {
    t.equal(SseClient[name], value)
    t.equal(SseClient.prototype[name], value)
    t.equal(source[name], value)
  }
})

t.test('it is an EventTarget; url, readyState and withCredentials are what was asked for, before anything was sent', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream())
  const { source } = observe(t, url)
  t.ok(source instanceof EventTarget)
  t.same([source.url, source.readyState, source.withCredentials], [url, 0, false])
  t.equal(observe(t, url, { withCredentials: true }).source.withCredentials, true)
  t.same([source.onopen, source.onmessage, source.onerror], [null, null, null])
  t.equal(asked.length, 0, 'the request is not made within the constructor')
  await soon(() => asked.length === 2, 'both requests')
})

t.test('a url is made a string, and is completed; one that is none throws a SyntaxError, and nothing is sent', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream())
  t.equal(observe(t, { toString: () => url } as unknown as string).source.url, url)
  t.equal(observe(t, new URL(url) as unknown as string).source.url, url)
  t.equal(observe(t, url.replace('http', 'HTTP') + '/./a b').source.url, `${url}/a%20b`)
  for (const bad of ['http://this is invalid/', '/relative', '', 'http://[']) {
    t.throws(() => new SseClient(bad), { name: 'SyntaxError', code: DOMException.SYNTAX_ERR }, bad)
  }
})

t.test('onopen, onmessage and onerror are called as the listeners are, with the source as this', { buffered }, async t => {
  const { url } = await serve(t, one => {
    one.stream('data: a\n\n')
    one.response.end()
  })
  const source = new SseClient(url, FAST)
  t.teardown(() => source.close())
  const told: string[] = []
  for (const name of ['onopen', 'onmessage', 'onerror'] as const) {
    source[name] = function (this: unknown, event: Event) {
      if (this === source && event.target === source) told.push(event.type)
    }
    const handler = source[name]
    t.type(handler, 'function')
  }
  source.onerror = event => { told.push(event.type) }
  await soon(() => told.length >= 3, 'all three')
  t.same(told.slice(0, 3), ['open', 'message', 'error'])
  source.onmessage = null
  const before = told.filter(type => type === 'message').length
  await soon(() => told.filter(type => type === 'error').length > 3, 'more connections')
  t.equal(told.filter(type => type === 'message').length, before, 'and not after null')
})

t.test('a handler that is no function is none, as one that was made by `wanted && handler`', { buffered }, async t => {
  const { url } = await serve(t, one => {
    one.stream('data: a\n\n')
    one.response.end()
  })
  const { source, told } = observe(t, url, FAST)
  for (const name of ['onopen', 'onmessage', 'onerror', 'onstatus'] as const) source[name] = false as unknown as null
  // What a handler throws ends the process, and this test.
  await soon(() => ['open', 'message', 'error', 'status'].every(one => told.some(({ type }) => type === one)), 'an event of each kind')
  await pause(10)
  t.same(told.slice(0, 3).map(({ type }) => type), ['status', 'open', 'message'])
})

t.test('an event is a MessageEvent with data, lastEventId and the origin of the stream', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('id: 1\ndata: a\n\nevent: tick\ndata\n\nid\ndata: c\n\n'))
  const source = new SseClient(url)
  t.teardown(() => source.close())
  const events: MessageEvent[] = []
  source.addEventListener('message', event => events.push(event as MessageEvent))
  source.addEventListener('tick', event => events.push(event as MessageEvent))
  await soon(() => events.length === 3, 'the events')
  t.ok(events.every(event => event instanceof MessageEvent && !event.bubbles && !event.cancelable && event.origin === new URL(url).origin))
  t.same(events.map(({ type, data, lastEventId }) => [type, data, lastEventId]), [['message', 'a', '1'], ['tick', '', '1'], ['message', 'c', '']])
})

t.test('a listener that is removed, or was to be called once, is called no more; { handleEvent } is a listener', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('data: a\n\ndata: b\n\n'))
  const source = new SseClient(url)
  t.teardown(() => source.close())
  const told: string[] = []
  const removed = (): unknown => told.push('removed')
  source.addEventListener('message', removed)
  source.removeEventListener('message', removed)
  source.addEventListener('message', () => told.push('once'), { once: true })
  source.addEventListener('message', { handleEvent: event => told.push(event.data) })
  await soon(() => told.length === 3, 'the events')
  t.same(told, ['once', 'a', 'b'])
})

t.test('close() ends the connection; after it nothing is fired, not even from bytes that have come; closing twice is closing', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\ndata: b\n\n'))
  const { source, data, told } = observe(t, url)
  source.addEventListener('message', () => source.close())
  await soon(() => data.length === 1, 'the first event')
  t.equal(source.readyState, SseClient.CLOSED)
  source.close()
  await soon(() => asked[0]!.request.socket.destroyed, 'the server to notice')
  await pause(30)
  t.same(data, ['a'])
  t.same(told.at(-1), { type: 'status', status: 'closed', until: undefined, readyState: 2 })
  t.equal(asked.length, 1)
})

t.test('close() at once: no request is made; close() within onopen or onerror: no event follows', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => n === 0 ? one.stream('data: a\n\n') : one.response.writeHead(500).end())
  observe(t, url).source.close()
  const opened = observe(t, url)
  opened.source.onopen = () => opened.source.close()
  await soon(() => opened.source.status === 'closed', 'the first')
  const failed = observe(t, url, FAST)
  failed.source.onerror = () => failed.source.close()
  await soon(() => failed.source.status === 'closed', 'the second')
  await pause(50)
  t.equal(asked.length, 2)
  t.same(opened.data, [])
  t.equal(failed.errors.length, 1)
})

t.test('the request: GET, Accept: text/event-stream, no cache, no Last-Event-ID', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream())
  observe(t, url)
  await soon(() => asked.length === 1, 'the request')
  t.match(asked[0], { request: { method: 'GET' }, headers: { accept: 'text/event-stream', 'cache-control': 'no-cache' } })
  t.notOk('last-event-id' in asked[0]!.headers)
})

t.test('a redirect is followed; url stays, origin is that of the answer', { buffered }, async t => {
  const target = await serve(t, one => one.stream('data: a\n\n'))
  for (const status of [301, 302, 303, 307, 308]) {
    const { url } = await serve(t, one => one.response.writeHead(status, { location: target.url }).end())
    const source = new SseClient(url)
    t.teardown(() => source.close())
    const [event] = await once(source as EventTarget, 'message') as [MessageEvent]
    t.same([source.url, event.origin], [url, new URL(target.url).origin])
  }
})

t.test('the content type may be in any case and have parameters; another one closes, with an error event', { buffered }, async t => {
  for (const type of ['text/event-stream', 'TEXT/Event-Stream', 'text/event-stream;charset=windows-1252', 'text/event-stream ; x']) {
    const { url } = await serve(t, one => one.stream('data: ä\n\n', { 'content-type': type }))
    const { data } = observe(t, url)
    await soon(() => data.length === 1, type)
    t.same(data, ['ä'], 'it is UTF-8 in any case')
  }
  for (const type of ['text/event-stream-bogus', 'text/x-event-stream', 'text/html', '']) {
    const { url, asked } = await serve(t, one => one.stream('data: a\n\n', { 'content-type': type }))
    const { errors, data } = observe(t, url, FAST)
    await soon(() => errors.length === 1, type)
    await pause(20)
    t.match([errors[0], data.length, asked.length], [{ code: 'type', status: 200, readyState: SseClient.CLOSED }, 0, 1])
  }
})

t.test('retry sets the time to wait; what is no whole number does not', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => {
    one.stream(['retry: 60\nretry: 3000x\nretry: -1\nretry\nretry: 1e1\n\n', 'retry:80\n\n', 'data: x\n\n'][n])
    if (n < 2) setTimeout(() => one.response.end(), 100)
  })
  const { data } = observe(t, url, { retry: { max: 1 } })
  await soon(() => data.length === 1, 'the third connection')
  const gaps = [asked[1]!.at - asked[0]!.at, asked[2]!.at - asked[1]!.at]
  t.ok(gaps[0]! >= 155 && gaps[1]! >= 175, String(gaps))
})
