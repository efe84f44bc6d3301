import t from 'tap'
import { soon } from '../client.ts'
import { FAST, observe, pause, serve } from './server.ts'

// What a browser tells a page, told by hand, with a real connection. Real pages are in browsers.test.ts and share.test.ts.

const page = new EventTarget()
const document = Object.assign(new EventTarget(), { visibilityState: 'visible', baseURI: 'http://127.0.0.1/' })
const navigator = { onLine: true }
Object.assign(globalThis, { addEventListener: page.addEventListener.bind(page), document })
Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true })
const onPage = (name: string): boolean => page.dispatchEvent(new Event(name))
const onDocument = (name: string): boolean => document.dispatchEvent(new Event(name))

t.test('a page that goes to the back/forward cache gives its connection up, and one that comes back resumes; frozen pages too', async t => {
  const { url, asked } = await serve(t, (one, n) => one.stream(`id: ${n}\ndata: ${n}\n\n`))
  const { source, data, errors } = observe(t, url, FAST)
  await soon(() => data.length === 1, 'the stream')
  onPage('pagehide')
  t.equal(source.status, 'paused')
  await soon(() => asked[0]!.request.socket.destroyed, 'the server to notice')
  onPage('pageshow')
  await soon(() => data.length === 2, 'the stream again')
  onDocument('freeze')
  t.equal(source.status, 'paused')
  onDocument('resume')
  await soon(() => data.length === 3, 'the stream once more')
  t.same(asked.map(({ headers }) => headers['last-event-id']), [undefined, '0', '1'])
  t.same(errors, [], 'nothing failed')
})

t.test('a POST is kept by a page that goes to the back/forward cache, with `share` too: it is not made a second time', async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const pages = [observe(t, url, { ...FAST, body: 'x' }), observe(t, url, { ...FAST, body: 'x', share: true })]
  await soon(() => pages.every(({ data }) => data.length === 1), 'the streams')
  for (const [leave, come] of [[() => onPage('pagehide'), () => onPage('pageshow')], [() => onDocument('freeze'), () => onDocument('resume')]] as const) {
    leave()
    t.same(pages.map(({ source }) => source.status), ['open', 'open'])
    come()
  }
  // Another one's request, which comes after what those would have asked for.
  const { data } = observe(t, url, FAST)
  await soon(() => data.length === 1, 'a stream that comes later')
  t.same(asked.map(({ request, body }) => [request.method, body]), [['POST', 'x'], ['POST', 'x'], ['GET', '']])
})

t.test('a page that is shown first, without having been hidden, has one connection', async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const { data } = observe(t, url, FAST)
  onPage('pageshow')
  await soon(() => data.length === 1, 'the stream')
  onPage('pageshow')
  onDocument('resume')
  await pause(30)
  t.equal(asked.length, 1)
})

t.test('offline is said while it waits; online, or shown again, it tries at once', async t => {
  const { url, asked } = await serve(t, (one, n) => n < 2 ? one.response.writeHead(503).end() : one.stream('data: a\n\n'))
  navigator.onLine = false
  const { source, data } = observe(t, url, { retry: { min: 60_000 } })
  await soon(() => source.status === 'offline', 'the first refusal')
  navigator.onLine = true
  onPage('online')
  await soon(() => source.status === 'waiting', 'the second refusal')
  onPage('offline')
  t.equal(source.status, 'offline')
  document.visibilityState = 'hidden'
  onDocument('visibilitychange')
  await pause(20)
  t.equal(asked.length, 2, 'a page that is hidden can wait')
  document.visibilityState = 'visible'
  onDocument('visibilitychange')
  await soon(() => data.length === 1, 'the stream')
})

t.test('Retry-After holds against a page that is shown again and again', async t => {
  const { url, asked } = await serve(t, one => one.response.writeHead(429, { 'retry-after': '60' }).end())
  const { source } = observe(t, url)
  await soon(() => source.status === 'waiting', 'the refusal')
  for (let n = 0; n < 5; n++) {
    onDocument('visibilitychange')
    onPage('online')
  }
  await pause(30)
  t.equal(asked.length, 1)
})

t.test('online again with a connection that was open: it is made anew, and nothing is an error', async t => {
  const { url, asked } = await serve(t, (one, n) => one.stream(`id: ${n}\ndata: ${n}\n\n`))
  const { data, errors } = observe(t, url, FAST)
  await soon(() => data.length === 1, 'the stream')
  onPage('offline')
  await pause(20)
  t.equal(asked.length, 1, 'while it is offline the connection is kept: the server may be on this machine')
  onPage('online')
  await soon(() => data.length === 2, 'the new one')
  t.equal(asked[1]!.headers['last-event-id'], '0')
  t.same(errors, [])
})

t.test('a page that wakes sees at once that its connection is dead', async t => {
  const { url, asked } = await serve(t, (one, n) => one.stream(`retry: 5\nid: ${n}\ndata: ${n}\n\n`))
  const { data, errors } = observe(t, url, { ...FAST, inactivity: 60_000 })
  await soon(() => data.length === 1, 'the stream')
  const now = Date.now
  t.teardown(() => { Date.now = now })
  Date.now = () => now() + 61_000 // a computer that slept: no timer ran
  onDocument('visibilitychange')
  await soon(() => data.length === 2, 'the new one')
  t.match(errors, [{ code: 'inactivity' }])
  t.equal(asked.length, 2)
})

t.test('a closed client has left no listener on the page', async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const { source, data, told } = observe(t, url, FAST)
  await soon(() => data.length === 1, 'the stream')
  source.close()
  const before = told.length
  onPage('pagehide')
  onPage('pageshow')
  onPage('online')
  await pause(20)
  t.same([asked.length, told.length], [1, before])
})
