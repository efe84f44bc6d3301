import t from 'tap'
import { SseClient } from '../../lib/client/index.ts'
import { soon } from '../client.ts'
import { FAST, observe, pause, serve, type Asked } from './server.ts'

// Real sockets: what the client does when connections end, break, are refused, or say nothing. Most of it is waiting.
t.jobs = 6
const buffered = true

t.test('a stream that ended is made again after the time that the server said, with the id of its last block', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => {
    one.stream(n === 0 ? 'retry: 120\nid: 7\ndata: a\n\n' : 'data: b\n\n')
    if (n === 0) setTimeout(() => one.response.end(), 130)
  })
  const { data, told, errors } = observe(t, url)
  await soon(() => data.length === 2, 'both events')
  t.same(data, ['a', 'b'])
  t.equal(asked[0]!.headers['last-event-id'], undefined)
  t.equal(asked[1]!.headers['last-event-id'], '7')
  const waited = asked[1]!.at - asked[0]!.at - 130
  t.ok(waited >= 115 && waited < 2_500, `${waited} ms after the end`)
  t.same(told.map(({ type, status }) => type === 'status' ? status : type), ['open', 'open', 'message', 'waiting', 'error', 'connecting', 'open', 'open', 'message'])
  t.match(errors, [{ code: 'ended', status: 200, readyState: SseClient.CONNECTING }])
})

t.test('a block that has an id alone fires nothing, and moves the position: it is sent when the connection comes again, and read from the client', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => one.stream(n === 0 ? 'id: 1\ndata: a\n\nid: 2\n\nid: 3\n' : 'data: b\n\n'))
  const { data, source } = observe(t, url, FAST)
  await soon(() => data.length === 1, 'the first event')
  asked[0]!.response.destroy()
  await soon(() => data.length === 2, 'the second connection', 6_000)
  t.equal(asked[1]!.headers['last-event-id'], '2', 'and an id whose block was never complete does not count')
  t.equal(source.lastEventId, '2')
})

t.test('lastEventId says where to start; an id is sent as UTF-8, and an empty one not at all', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => {
    one.stream(['retry: 5\nid: ä€😀\n\n', 'id\n\n', 'data: x\n\n'][n])
    if (n < 2) one.response.end()
  })
  const { data } = observe(t, url, { lastEventId: '5-1', ...FAST })
  await soon(() => data.length === 1, 'the third connection')
  t.same(asked.map(({ headers }) => headers['last-event-id'] && Buffer.from(headers['last-event-id'] as string, 'latin1').toString()), ['5-1', 'ä€😀', undefined])
})

t.test('a lastEventId of null, as a storage gives it that has none, is no id', { buffered }, async t => {
  const { url, asked } = await serve(t, one => one.stream('data: a\n\n'))
  const { source, told } = observe(t, url, { lastEventId: null })
  t.equal(source.lastEventId, '')
  await soon(() => told.some(({ type }) => type === 'message'), 'the event')
  t.equal(told.find(({ type }) => type === 'message')!.id, '', 'and not the text "null", which would be stored and sent')
  t.equal(asked[0]!.headers['last-event-id'], undefined)
})

t.test('429 and 503 wait as long as Retry-After says, and the client comes back', { buffered }, async t => {
  for (const status of [429, 503]) {
    const { url, asked } = await serve(t, (one, n) => {
      if (n === 0) one.response.writeHead(status, { 'retry-after': '1' }).end('busy')
      else one.stream('data: x\n\n')
    })
    const { data, told, errors } = observe(t, url)
    await soon(() => told.find(({ status }) => status === 'waiting'), 'the refusal')
    t.match(errors, [{ code: 'status', status, readyState: SseClient.CONNECTING }])
    await soon(() => data.length === 1, 'the stream', 10_000)
    t.ok(asked[1]!.at - asked[0]!.at >= 990)
  }
})

t.test('Retry-After may be a date, and one that is neither is not there', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => {
    if (n === 0) one.response.writeHead(503, { 'retry-after': 'soon' }).end()
    else if (n === 1) one.response.writeHead(503, { 'retry-after': new Date(Date.now() + 86_400_000).toUTCString() }).end()
    else one.stream()
  })
  const { told } = observe(t, url, { retry: { min: 5, max: 5 } })
  await soon(() => told.filter(({ status }) => status === 'waiting').length === 1, 'the first refusal')
  t.ok(told[0]!.until! - Date.now() <= 3_000)
  await soon(() => told.filter(({ status }) => status === 'waiting').length === 2, 'the second refusal', 6_000)
  t.ok(Math.abs(told.findLast(({ status }) => status === 'waiting')!.until! - Date.now() - 86_400_000) < 5_000)
  t.equal(asked.length, 2)
})

t.test('408, 500 and 502 are tried again; 400, 404 and 410 are not, and the error event carries the status', { buffered }, async t => {
  for (const status of [408, 500, 502]) {
    const { url } = await serve(t, (one, n) => n === 0 ? one.response.writeHead(status).end() : one.stream('data: x\n\n'))
    const { data } = observe(t, url, FAST)
    await soon(() => data.length === 1, `the stream after ${status}`, 10_000)
  }
  for (const status of [400, 404, 410]) {
    const { url, asked } = await serve(t, one => one.response.writeHead(status, { 'content-type': 'text/event-stream' }).end('data: x\n\n'))
    const { errors, data } = observe(t, url, FAST)
    await soon(() => errors.length === 1, `the error of ${status}`)
    t.match(errors[0], { code: 'status', status, readyState: SseClient.CLOSED })
    await pause(50)
    t.same([asked.length, data.length], [1, 0])
  }
})

t.test('204 ends: an error event says so, as an EventSource has one, and no try follows', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => {
    if (n === 0) {
      one.stream('retry: 5\ndata: x\n\n')
      one.response.end()
    } else one.response.writeHead(204).end()
  })
  const { errors, source } = observe(t, url, FAST)
  await soon(() => source.readyState === SseClient.CLOSED, 'the end')
  t.match(errors, [{ code: 'ended', status: 200 }, { code: 'ended', status: 204, readyState: SseClient.CLOSED }])
  await pause(50)
  t.equal(asked.length, 2)
})

t.test('sse.end, then the end of the response: the client closes by itself, with no error', { buffered }, async t => {
  const { url, asked } = await serve(t, one => {
    one.stream('retry: 5\n\nid: 4\nevent: sse.end\ndata: {"reason":"done","channels":["a"]}\n\n')
    one.response.end()
  })
  const { told, source, errors } = observe(t, url, { ...FAST, parse: JSON.parse })
  await soon(() => source.readyState === SseClient.CLOSED, 'the end')
  t.same(told.find(({ type }) => type === 'sse.end')!.data, { reason: 'done', channels: ['a'] })
  await pause(50)
  t.same([asked.length, errors.length], [1, 0])
})

t.test('sse.end, then a cut: the next answer of 204 closes, with no error of its own; another event after sse.end takes it back', { buffered }, async t => {
  const END = 'event: sse.end\ndata: {}\n\n'
  const { url, asked } = await serve(t, (one, n) => {
    if (n === 3) {
      one.response.writeHead(204).end()
      return
    }
    one.stream(['retry: 5\n\n' + END + 'data: more\n\n', END, END][n]!)
    if (n === 0) one.response.end()
  })
  const { source, errors } = observe(t, url, FAST)
  source.addEventListener('sse.end', () => asked.length > 1 && asked.at(-1)!.response.destroy())
  await soon(() => source.readyState === SseClient.CLOSED, 'the end')
  t.same(errors.map(({ code }) => code), ['ended', 'cut', 'cut'])
  t.equal(asked.length, 4)
})

t.test('whatever comes after sse.end takes it back, for another channel of the stream may go on: the client comes back from an end in order', { buffered }, async t => {
  for (const after of ['data: more\n\n', 'retry: 5\n\n', 'id: 2\n\n', ':\n\n', ': beat\r\n']) {
    const { url, asked } = await serve(t, (one, n) => {
      one.stream(n === 0 ? 'retry: 5\nid: 1\nevent: sse.end\ndata: {"reason":"done","channels":["a"]}\n\n' : 'data: of b\n\n')
      if (n > 0) return
      one.response.write(after)
      one.response.end()
    })
    const { source, errors, data } = observe(t, url, FAST)
    await soon(() => data.includes('of b') || source.status === 'closed', `the other channel after ${JSON.stringify(after)}`)
    t.same([source.status, asked.length], ['open', 2], JSON.stringify(after))
    t.match(errors, [{ code: 'ended', status: 200, readyState: SseClient.CONNECTING }])
  }
})

t.test('while nobody listens at the port it tries again and again, and comes back with the server', { buffered }, async t => {
  const first = await serve(t, one => one.stream('retry: 5\nid: 1\ndata: a\n\n'))
  const { told, errors, data, source } = observe(t, first.url, { retry: { min: 20, max: 20 } })
  await soon(() => data.length === 1, 'the first event')
  await first.close()
  await soon(() => errors.length >= 4, 'some tries')
  t.equal(errors[0]!.code, 'cut')
  t.match(errors.slice(1, 4), Array(3).fill({ code: 'network', status: 0, readyState: SseClient.CONNECTING }))
  const waits = told.filter(({ status }) => status === 'waiting')
  t.ok(waits.length >= 4 && source.status !== 'closed')
})

t.test('a connection that brings nothing for the time of inactivity is dead; heartbeats count', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => {
    one.stream(n === 0 ? 'retry: 5\nid: 1\n\n' : 'data: x\n\n')
    if (n > 0) return
    const beat = setInterval(() => one.response.write(':\n\n'), 50)
    setTimeout(() => clearInterval(beat), 1_000) // longer than the inactivity
  })
  const { data, errors } = observe(t, url, { ...FAST, inactivity: 600 })
  await soon(() => data.length === 1, 'the second connection')
  t.match(errors, [{ code: 'inactivity', status: 0, readyState: SseClient.CONNECTING }])
  t.ok(asked[1]!.at - asked[0]!.at >= 1_500)
  t.equal(asked[0]!.request.socket.destroyed, true, 'the dead one is given up')
})

t.test('the server says its heartbeat in the response: three of them without a byte are enough; the option stands above it, and 0 is never', { buffered }, async t => {
  const answer = (one: Asked): void => one.stream('retry: 5\n\n', { 'sse-heartbeat': '40' })
  const told = await serve(t, answer)
  const said = observe(t, told.url, FAST)
  const never = observe(t, told.url, { ...FAST, inactivity: 0 })
  const longer = observe(t, told.url, { ...FAST, inactivity: 60_000 })
  const unknown = observe(t, (await serve(t, one => one.stream())).url, FAST)
  await soon(() => said.errors.length >= 2, 'it to be noticed')
  t.match(said.errors[0], { code: 'inactivity' })
  t.same([never, longer, unknown].map(({ errors, source }) => [errors.length, source.status]), Array(3).fill([0, 'open']))
})

t.test('an answer that never comes is inactivity too', { buffered }, async t => {
  const { url, asked } = await serve(t, (one, n) => { if (n > 0) one.stream('data: x\n\n') })
  const { source, data, errors } = observe(t, url, { ...FAST, inactivity: 100 })
  source.addEventListener('message', () => source.close()) // or it would be inactive again
  await soon(() => data.length === 1, 'the second try', 8_000)
  t.match(errors, [{ code: 'inactivity', status: 0 }])
  t.equal(asked.length, 2)
})

t.test('what comes twice within one connection is told twice: the client takes no event for a repeated one', { buffered }, async t => {
  const { url } = await serve(t, one => one.stream('id: 1\ndata: a\n\nid: 1\ndata: a\n\n'))
  const { data } = observe(t, url)
  await soon(() => data.length === 2, 'both')
})
