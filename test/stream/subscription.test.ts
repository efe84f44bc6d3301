import t from 'tap'
import { blocks, build, connect, listen, until } from '../client.ts'
import { data, numbers, settled, start, turn } from './driving.ts'

// Last-Event-ID

for (const missed of [0, 1, 500]) {
  t.test(`a client that missed ${missed} events gets exactly these when it comes back`, async t => {
    const { a, drive, publish } = await start(t)
    const first = await drive(stream => stream.subscribe(a))
    await publish('a', 'known')
    await first.client.first(1)
    first.client.leave()
    await first.stream.closed
    const texts = numbers(1, missed)
    await publish('a', ...texts)
    const again = await drive(stream => stream.subscribe(a), { lastEventId: first.client.lastEventId })
    await publish('a', 'live')
    await again.client.first(missed + 1)
    t.same(data(again.client), [...texts, 'live'])
    t.same(again.client.gaps, [])
  })
}

t.test('a cursor is good down to the floor, and expired just below it', async t => {
  const { app, a, drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const ids = await publish('a', ...numbers(0, 29))
  t.match(app.sse.stats().history, { channels: 1, events: 10 })
  const floor = await drive(stream => stream.subscribe(a), { lastEventId: ids[19]! })
  const below = await drive(stream => stream.subscribe(a), { lastEventId: ids[18]! })
  const oldest = await drive(stream => stream.subscribe(a), { lastEventId: ids[20]! })
  const head = await drive(stream => stream.subscribe(a), { lastEventId: ids[29]! })
  await settled(floor, below, oldest, head)
  t.same(data(floor.client), numbers(20, 29))
  t.same(floor.client.gaps, [])
  t.same(data(below.client), numbers(20, 29))
  t.same(below.client.gaps, [{ id: ids[19], reason: 'expired', channels: ['a'] }])
  t.same(data(oldest.client), numbers(21, 29))
  t.same(oldest.client.gaps, [])
  t.same(data(head.client), [])
  t.same(head.client.gaps, [])
  t.equal(head.client.lastEventId, ids[29])
})

t.test('a cursor that this log did not hand out is an unknown one, and everything kept follows', async t => {
  const other = await start(t)
  const [foreign] = await other.publish('a', 'x')
  const { app, a, drive, publish } = await start(t)
  const before = app.sse.cursor
  const ids = await publish('a', '1', '2')
  const epoch = ids[0]!.slice(0, ids[0]!.lastIndexOf('-') + 1)
  const garbage = ['garbage', foreign!, epoch, `${epoch}01`, `${epoch}1.0`, `${epoch}-1`, `${epoch}1e0`, `${epoch}NaN`, '0', '-', ' ', '💥', 'x'.repeat(129), 'x'.repeat(7000), `${epoch}${'1'.repeat(200)}`,
    '__proto__', `${epoch}９`]
  for (const cursor of garbage) {
    const { client, stream } = await drive(stream => stream.subscribe(a, { lastEventId: cursor }))
    await settled({ client, stream })
    t.same(client.gaps, [{ id: before, reason: 'unknown', channels: ['a'] }], JSON.stringify(cursor.slice(0, 40)))
    t.same(data(client), ['1', '2'])
  }
  const { client, stream } = await drive(stream => stream.subscribe(a), { lastEventId: 'x'.repeat(7000) })
  await settled({ client, stream })
  t.same(client.gaps, [{ id: before, reason: 'unknown', channels: ['a'] }], 'by header')
})

t.test('a cursor beyond the newest of all brings the newest n where rewind is given', async t => {
  const { a, drive, publish } = await start(t)
  const ids = await publish('a', '1', '2', '3')
  const driven = await drive(stream => stream.subscribe(a), { lastEventId: ids[2]!.replace(/3$/, '99'), options: { rewind: 2 } })
  await settled(driven)
  t.match(driven.client.gaps, [{ reason: 'unknown' }])
  t.same(data(driven.client), ['2', '3'])
})

t.test('the option wins over the header, the header over the query; null starts at the head', async t => {
  const { app, a, drive, publish } = await start(t)
  const [one, two, three] = await publish('a', '1', '2', '3') as [string, string, string]
  const query = await drive(stream => stream.subscribe(a), { query: `?lastEventId=${encodeURIComponent(one)}` })
  const header = await drive(stream => stream.subscribe(a), { query: `?lastEventId=${encodeURIComponent(one)}`, lastEventId: two })
  const option = await drive(stream => stream.subscribe(a), { lastEventId: one, options: { lastEventId: two } })
  const none = await drive(stream => stream.subscribe(a), { lastEventId: one, options: { lastEventId: null } })
  const call = await drive(stream => stream.subscribe(a, { lastEventId: two }), { lastEventId: one })
  const callNone = await drive(stream => stream.subscribe(a, { lastEventId: null }), { lastEventId: one })
  const empty = await drive(stream => stream.subscribe(a), { query: '?lastEventId=' })
  const twice = await drive(stream => stream.subscribe(a), { query: '?lastEventId=x&lastEventId=y' })
  const all = [query, header, option, none, call, callNone, empty, twice]
  await settled(...all)
  t.same(all.map(({ stream }) => stream.lastEventId), [one, two, two, null, one, one, null, '?'])
  t.same(all.map(({ client }) => data(client)), [['2', '3'], ['3'], ['3'], [], ['3'], [], [], ['1', '2', '3']])
  t.same(all.map(({ client }) => client.gaps.length), [0, 0, 0, 0, 0, 0, 0, 1])
  t.equal(app.sse.cursor, three)
})

t.test('a cursor ages out with its events', async t => {
  const { app, a, drive, publish } = await start(t, { history: { maxAge: 50 } })
  const before = app.sse.cursor
  await publish('a', 'old')
  await until(() => app.sse.stats().history.events === 0)
  const resumed = await drive(stream => stream.subscribe(a), { lastEventId: before })
  const rewound = await drive(stream => stream.subscribe(a, { rewind: 5 }))
  await settled(resumed, rewound)
  t.match(resumed.client.gaps, [{ reason: 'expired' }])
  t.same(data(resumed.client), [])
  t.same(data(rewound.client), [])
})

t.test('one cursor resumes several channels, each where it was', async t => {
  const { app, a, b, drive, publish } = await start(t)
  const first = await drive(stream => stream.subscribe([a, b]))
  await publish('a', 'a1')
  await publish('b', 'b1')
  await first.client.first(2)
  first.client.leave()
  await first.stream.closed
  await publish('b', 'b2')
  await publish('other', 'x')
  await publish('a', 'a2')
  await app.sse.publish(['a', 'b'], 'both')
  const again = await drive(stream => stream.subscribe(a).subscribe(b), { lastEventId: first.client.lastEventId })
  await settled(again)
  t.same(data(again.client), ['b2', 'a2', 'both'])
  t.same(again.client.gaps, [])
})

t.test('a client that drops before its first event resumes from where it came in', async t => {
  const { a, drive, publish } = await start(t)
  await publish('a', 'before')
  const first = await drive(stream => stream.subscribe(a))
  await until(() => first.client.lastEventId !== '', 'the priming id')
  t.same(first.client.events, [])
  first.client.leave()
  await first.stream.closed
  await publish('a', '1', '2')
  const again = await drive(stream => stream.subscribe(a), { lastEventId: first.client.lastEventId })
  await settled(again)
  t.same(data(again.client), ['1', '2'])
  t.same(again.client.gaps, [])
})

t.test('a body begins with one block of cursor and retry, then events', async t => {
  const { app, a, drive, publish } = await start(t, { retry: 1234 })
  const cursor = app.sse.cursor
  const driven = await drive(stream => { stream.subscribe(a); publish('a', 'x') })
  await driven.client.first(1)
  t.same(blocks(driven.client.text), [{ id: cursor, retry: '1234' }, { id: app.sse.cursor, data: 'x' }])
  const none = await drive(stream => stream.subscribe(a), { options: { retry: 0 } })
  await until(() => none.client.lastEventId !== '')
  t.same(blocks(none.client.text), [{ id: app.sse.cursor }])
})

t.test('a quiet channel resumes by its last event, whatever was published on others since', async t => {
  const { drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const [cursor] = await publish('quiet', 'known')
  await publish('busy', ...numbers(1, 50))
  await publish('quiet', 'news')
  const quiet = await drive(stream => stream.subscribe('quiet'), { lastEventId: cursor! })
  const both = await drive(stream => stream.subscribe(['quiet', 'busy']), { lastEventId: cursor! })
  await settled(quiet, both)
  t.same(data(quiet.client), ['news'])
  t.same(quiet.client.gaps, [])
  t.same(data(both.client), [...numbers(41, 50), 'news'])
  t.match(both.client.gaps, [{ reason: 'expired', channels: ['busy'] }], 'the gap names the busy one alone')
})

t.test('the cursor of a stream stays as it is while others publish, until a heartbeat brings a newer one', async t => {
  const { app, a, drive, publish } = await start(t, { heartbeatInterval: 300, history: { maxEvents: 5 } })
  const { client } = await drive(stream => stream.subscribe(a))
  await until(() => client.lastEventId !== '')
  const first = client.lastEventId
  await publish('other', ...numbers(1, 50))
  await turn()
  t.equal(client.lastEventId, first)
  await until(() => client.lastEventId === app.sse.cursor, 'a heartbeat')
  t.same(client.events, [])
})

// Rewind

t.test('rewind is for those without a good cursor: after a gap too, not with a good one', async t => {
  const { app, a, drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const ids = await publish('a', ...numbers(0, 29))
  const good = await drive(stream => stream.subscribe(a, { rewind: 1 }), { lastEventId: ids[24]! })
  const expired = await drive(stream => stream.subscribe(a, { rewind: 2 }), { lastEventId: ids[3]! })
  const unknown = await drive(stream => stream.subscribe(a, { rewind: 0 }), { lastEventId: 'garbage' })
  await settled(good, expired, unknown)
  t.same(data(good.client), numbers(25, 29))
  t.same(data(expired.client), ['28', '29'])
  t.same(expired.client.gaps, [{ id: ids[27], reason: 'expired', channels: ['a'] }])
  t.same(data(unknown.client), [])
  t.same(unknown.client.gaps, [{ id: app.sse.cursor, reason: 'unknown', channels: ['a'] }])
})

t.test('the id of a gap resumes: what followed it comes, without another gap', async t => {
  const { a, drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const ids = await publish('a', ...numbers(0, 29))
  const first = await drive(stream => stream.subscribe(a, { rewind: 4 }), { lastEventId: ids[3]! })
  await until(() => first.client.gaps.length === 1)
  const again = await drive(stream => stream.subscribe(a), { lastEventId: first.client.gaps[0]!.id! })
  await settled(again)
  t.same(data(again.client), numbers(26, 29))
  t.same(again.client.gaps, [])
})

t.test('rewind sends the newest n of each channel', async t => {
  const { app, a, b, drive, publish } = await start(t)
  for (let i = 1; i <= 6; i++) await publish(i % 3 === 0 ? 'b' : 'a', String(i))
  await publish('other', ...numbers(1, 50))
  await app.sse.publish(['a', 'b'], 'both')
  const one = await drive(stream => stream.subscribe([a, b], { rewind: 1 }))
  const oneCall = await drive(stream => stream.subscribe([a, b], { rewind: 2 }))
  const twoCalls = await drive(stream => stream.subscribe(a, { rewind: 2 }).subscribe(b, { rewind: 3 }))
  const byDefault = await drive(stream => stream.subscribe([a, b]), { options: { rewind: 1 } })
  const zero = await drive(stream => stream.subscribe([a, b], { rewind: 0 }))
  const many = await drive(stream => stream.subscribe(b, { rewind: Infinity }))
  const filtered = await drive(stream => stream.subscribe('a', { rewind: 2, filter: event => event.data !== 'both' }))
  const all = [one, oneCall, twoCalls, byDefault, zero, many, filtered]
  await settled(...all)
  t.same(all.map(({ client }) => data(client)), [['both'], ['5', '6', 'both'], ['3', '5', '6', 'both'], ['both'], [], ['3', '6', 'both'], ['5']])
  t.same(all.flatMap(({ client }) => client.gaps), [])
})

t.test('rewind: 1 on two channels sends one event of each, however far apart they lie', async t => {
  const { drive, publish } = await start(t)
  await publish('quiet', 'long ago', 'a while ago')
  await publish('busy', ...numbers(1, 500))
  const driven = await drive(stream => stream.subscribe(['quiet', 'busy'], { rewind: 1 }))
  await settled(driven)
  t.same(data(driven.client), ['a while ago', '500'])
})

// Several subscriptions

t.test('all subscribe calls of one turn share one resume', async t => {
  const { app, a, b, drive, publish } = await start(t)
  const cursor = app.sse.cursor
  await publish('a', 'a1')
  await publish('b', 'b1')
  await publish('a', 'a2')
  const driven = await drive(stream => { stream.subscribe(b); stream.subscribe(a) }, { lastEventId: cursor })
  await settled(driven)
  t.same(data(driven.client), ['a1', 'b1', 'a2'])
  t.same(driven.client.gaps, [])
})

t.test('a channel that is joined in a later turn starts at the head, with a gap of its own where the client had a cursor', async t => {
  const { app, a, b, drive, publish } = await start(t)
  const cursor = app.sse.cursor
  await publish('a', 'a1')
  await publish('b', 'b1')
  const fresh = await drive(stream => stream.subscribe(a))
  const resumed = await drive(stream => stream.subscribe(a), { lastEventId: cursor })
  await settled(fresh, resumed)
  for (const { stream } of [fresh, resumed]) stream.subscribe([a, b])
  const joined = app.sse.cursor
  await publish('b', 'b2')
  await settled(fresh, resumed)
  t.same(data(fresh.client), ['b2'])
  t.same(fresh.client.gaps, [])
  t.same(data(resumed.client), ['a1', 'b2'])
  t.same(resumed.client.gaps, [{ id: joined, reason: 'unknown', channels: ['b'] }])
})

t.test('the first subscribe uses the cursor, however late it comes', async t => {
  const { app, a, drive, publish } = await start(t)
  const cursor = app.sse.cursor
  await publish('a', '1')
  const driven = await drive(() => {}, { lastEventId: cursor })
  await settled(driven)
  await publish('a', '2')
  driven.stream.subscribe(a)
  await publish('a', '3')
  await settled(driven)
  t.same(data(driven.client), ['1', '2', '3'])
  t.same(driven.client.gaps, [])
})

t.test('a later join may go back with lastEventId, and nothing of the other channels repeats', async t => {
  const { app, a, b, drive, publish } = await start(t)
  const cursor = app.sse.cursor
  const driven = await drive(stream => stream.subscribe(a), { lastEventId: cursor })
  for (let i = 1; i <= 3; i++) {
    await publish('a', `a${i}`)
    await publish('b', `b${i}`)
    await app.sse.publish(['a', 'b'], `both${i}`)
  }
  await settled(driven)
  t.same(data(driven.client), ['a1', 'both1', 'a2', 'both2', 'a3', 'both3'])
  driven.stream.subscribe(b, { lastEventId: cursor })
  await publish('a', 'a4')
  await publish('b', 'b4')
  await settled(driven)
  // An event of both is an event of b, which was not subscribed: it comes again, or not. Nothing that is of a alone does.
  const after = data(driven.client).slice(6)
  t.same(after.filter(text => text.startsWith('b') && !text.startsWith('both')), ['b1', 'b2', 'b3', 'b4'])
  t.same(after.filter(text => text.startsWith('a')), ['a4'])
  t.same(driven.client.gaps, [])
})

t.test('going back with a cursor that is not good is a gap of that channel alone', async t => {
  const { app, a, b, drive, publish } = await start(t)
  const driven = await drive(stream => stream.subscribe(a))
  await publish('a', 'a1')
  await publish('b', 'b1')
  await driven.client.first(1)
  const before = app.sse.cursor
  driven.stream.subscribe(b, { lastEventId: 'garbage', rewind: 0 })
  await publish('b', 'b2')
  await settled(driven)
  t.same(data(driven.client), ['a1', 'b2'])
  t.same(driven.client.gaps, [{ id: before, reason: 'unknown', channels: ['b'] }])
})

t.test('channels that came with different cursors in one turn get each their own', async t => {
  const { app, a, b, drive, publish } = await start(t)
  await publish('a', 'a0')
  const early = app.sse.cursor
  await publish('a', 'a1')
  await publish('b', 'b1')
  const late = app.sse.cursor
  await publish('a', 'a2')
  await publish('b', 'b2')
  const one = await drive(stream => stream.subscribe(a, { lastEventId: early }).subscribe(b, { lastEventId: late }))
  const two = await drive(stream => stream.subscribe(b, { lastEventId: late }).subscribe(a, { lastEventId: early }))
  await settled(one, two)
  for (const { client } of [one, two]) {
    t.same(data(client), ['a1', 'a2', 'b2'])
    t.same(client.gaps, [])
  }
})

t.test('snapshot plus live: nothing between the snapshot and the subscription is lost or comes twice', async t => {
  const { app, a, drive, publish } = await start(t)
  await publish('a', 'in the snapshot')
  const driven = await drive(async stream => {
    const cursor = app.sse.cursor
    const state = await new Promise<string>(resolve => setTimeout(() => resolve('state'), 20))
    await publish('a', 'after the snapshot was read')
    stream.send({ event: 'state', data: state })
    stream.subscribe(a, { lastEventId: cursor })
    publish('a', 'live')
  })
  await publish('a', 'while it was read')
  await driven.client.first(4)
  t.same(data(driven.client), ['state', 'while it was read', 'after the snapshot was read', 'live'])
  t.same(driven.client.gaps, [])
})

t.test('a channel that was left and joined again in a later turn starts at the head', async t => {
  const { a, b, drive, publish } = await start(t)
  const driven = await drive(stream => stream.subscribe([a, b]))
  await publish('a', '1')
  await settled(driven)
  driven.stream.unsubscribe(a)
  await publish('a', 'not subscribed')
  await settled(driven)
  driven.stream.subscribe(a)
  await publish('a', '2')
  await settled(driven)
  t.same(data(driven.client), ['1', '2'])
})

t.test('a call for a channel that is subscribed already tells no gap', async t => {
  const { a, drive, publish } = await start(t)
  await publish('a', '1')
  const driven = await drive(stream => stream.subscribe(a, { lastEventId: null }).subscribe(a), { lastEventId: 'garbage' })
  await settled(driven)
  t.same(driven.client.gaps, [])
  t.same(data(driven.client), [])
})

// Overrun

t.test('a stream that stayed away too long is told so, and goes on from the middle without falling off at once', async t => {
  const { app, a, drive, publish } = await start(t, { history: { maxEvents: 40 } })
  const driven = await drive(stream => stream.subscribe(a), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  await publish('a', 'fills the valve')
  await until(() => driven.stream.blocked)
  const ids = await publish('a', ...numbers(1, 200))
  await turn()
  t.equal(app.sse.stats().blocked, 1)
  driven.valve!.open()
  await until(() => data(driven.client).includes('200'), 'the newest')
  t.equal(app.sse.stats().blocked, 0)
  const from = Number(data(driven.client)[1])
  t.ok(from > 165 && from < 195, `it went on at ${from} of 161 to 200`)
  t.same(data(driven.client), ['fills the valve', ...numbers(from, 200)])
  t.same(driven.client.gaps, [{ id: ids[from - 2], reason: 'overrun', channels: ['a'] }])
  t.equal(app.sse.stats().gaps, 1)
  await publish('a', '201')
  await driven.client.first(driven.client.events.length + 1)
  t.equal(driven.client.gaps.length, 1)
  const again = await drive(stream => stream.subscribe(a), { lastEventId: driven.client.gaps[0]!.id! })
  await settled(again)
  t.same(data(again.client), numbers(from, 201))
  t.same(again.client.gaps, [])
})

t.test('an overrun never skips events of a channel that the gap does not name', async t => {
  const { a, b, drive, publish } = await start(t, { history: { maxEvents: 40 } })
  const driven = await drive(stream => stream.subscribe([a, b]), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  await publish('a', 'fills the valve')
  await until(() => driven.stream.blocked)
  await publish('a', ...numbers(1, 100))
  await publish('b', 'of b')
  await publish('a', ...numbers(101, 138))
  await turn()
  driven.valve!.open()
  await until(() => data(driven.client).includes('138'), 'the newest')
  const [gap] = driven.client.gaps
  t.match(gap, { reason: 'overrun' })
  t.ok(gap!.channels.includes('b') || data(driven.client).includes('of b'), `the gap names ${gap!.channels}, and the event of b came: ${data(driven.client).includes('of b')}`)
})

t.test('an overrun of one channel leaves one that lost nothing out of the gap', async t => {
  const { a, b, drive, publish } = await start(t, { history: { maxEvents: 40 } })
  const driven = await drive(stream => stream.subscribe([a, b]), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  await publish('a', 'fills the valve')
  await until(() => driven.stream.blocked)
  await publish('a', ...numbers(1, 100))
  await publish('b', 'of b')
  await turn()
  driven.valve!.open()
  await until(() => data(driven.client).includes('of b'))
  t.match(driven.client.gaps, [{ reason: 'overrun', channels: ['a'] }])
})

t.test('a gap that is due while the socket is full names no channel that was left meanwhile', async t => {
  const { a, b, drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const driven = await drive(stream => stream.subscribe([a, b]), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  await publish('b', 'fills the valve')
  await until(() => driven.stream.blocked)
  await publish('a', ...numbers(1, 50))
  await turn()
  driven.stream.unsubscribe(a)
  driven.valve!.open()
  await until(() => !driven.stream.blocked)
  await publish('b', 'news')
  await until(() => data(driven.client).includes('news'))
  t.same(driven.client.gaps, [])
})

t.test('a cursor that is not good is not told of once another one takes its place, or none', async t => {
  const app = await build(t)
  const [a, b] = [app.sse.channel('a'), app.sse.channel('b')]
  const cursor = await a.publish('1')
  await a.publish('2')
  app.get('/', (request, reply) => reply.sse([a, b]))
  let again: string | null = cursor
  app.sse.on('open', ({ stream }) => { stream.subscribe(a, { lastEventId: again }) })
  const url = await listen(app)
  const client = await connect(url, { lastEventId: 'of-another-log-1' })
  t.same((await client.first(1)).map(({ data }) => data), ['2'])
  t.match(client.gaps, [{ reason: 'unknown', channels: ['b'] }], 'of the other channel it is told')
  again = null
  const other = await connect(url, { lastEventId: 'of-another-log-1' })
  await until(() => other.gaps.length > 0)
  await a.publish('3')
  t.same((await other.first(1)).map(({ data }) => data), ['3'])
  t.match(other.gaps, [{ reason: 'unknown', channels: ['b'] }])
})
