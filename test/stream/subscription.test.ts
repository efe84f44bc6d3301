import t, { type Test } from 'tap'
import type { FastifyServerOptions } from 'fastify'
import type { Backplane, Entry, NewEntry, Receiver, SsePluginOptions, SseStream } from '../../lib/index.ts'
import { blocks, build, driver, listen, until, type Block, type Client } from '../client.ts'

async function start (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}) {
  const app = await build(t, options, server)
  const drive = driver(t, app)
  await listen(app)
  const a = app.sse.channel('a')
  const b = app.sse.channel('b')
  /** Publishes and gives the cursors. */
  const publish = (channel: string, ...texts: string[]): Promise<string[]> => Promise.all(texts.map(text => app.sse.publish(channel, text)))
  return { app, drive, a, b, publish }
}

const data = (client: Client): string[] => client.events.map(({ data }) => data)

async function turn (): Promise<void> {
  for (let i = 0; i < 3; i++) await new Promise(resolve => setImmediate(resolve))
}

/** Ends when everything that was due to the stream has arrived: a mark of the test's own comes last. */
async function settled (...driven: Array<{ stream: SseStream, client: Client }>): Promise<void> {
  for (const { stream, client } of driven) {
    const text = `settled ${Math.random()}`
    await turn()
    await stream.comment(text)
    await until(() => client.comments.includes(text), 'the mark')
  }
}

const numbers = (from: number, to: number): string[] => Array.from({ length: to - from + 1 }, (_, i) => String(from + i))

/**
 * A log as another process may see it: entries reach the registry when the test says so. Cursors are `L-<n>`, with holes between
 * them, as a real log has them.
 */
function slowLog ({ lagging = false } = {}) {
  const log: Entry[] = []
  const waiting: Array<() => void> = []
  let receiver: Receiver | undefined
  let read = 0
  let last = 0
  const number = (cursor: string): number => /^L-(0|[1-9]\d*)$/.test(cursor) ? Number(cursor.slice(2)) : NaN
  const control = {
    lagging,
    /** How many times `sync` was called. */
    syncs: 0,
    /** Appends as another process would. */
    elsewhere (channel: string, text: string): string {
      const cursor = `L-${last += 10}`
      log.push({ cursor, channels: [channel], event: undefined, data: text, serialized: false })
      if (!control.lagging) control.read()
      return cursor
    },
    /** Reads to the end of the log. */
    read (): void {
      while (read < log.length) receiver!.receive(log[read++]!)
      for (const resolve of waiting.splice(0)) resolve()
    },
    /** Entries between here and what follows are lost. */
    lose (cursor = `L-${last += 10}`): string {
      receiver!.reset(cursor)
      return cursor
    },
    get receiver (): Receiver { return receiver! }
  }
  const backplane: Backplane = {
    async open (to) {
      receiver = to
      to.reset('L-0')
    },
    async append ({ channels, event, data, serialized }: NewEntry) {
      const cursor = `L-${last += 10}`
      log.push({ channels, event, data, serialized, cursor })
      if (!control.lagging) control.read()
      return cursor
    },
    sync () {
      control.syncs++
      if (!control.lagging) return Promise.resolve()
      return new Promise(resolve => { waiting.push(resolve) })
    },
    compare: (a, b) => number(a) - number(b),
    async close () {}
  }
  return { backplane, control }
}

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
  t.equal(app.sse.stats().history.oldest, ids[20])
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

t.test('an expired cursor of a channel whose lost events were of other channels is a gap too: the log decides', async t => {
  const { a, drive, publish } = await start(t, { history: { maxEvents: 10 } })
  const [cursor] = await publish('a', 'known')
  await publish('other', ...numbers(1, 20))
  const { client, stream } = await drive(stream => stream.subscribe(a), { lastEventId: cursor! })
  await settled({ client, stream })
  t.match(client.gaps, [{ reason: 'expired', channels: ['a'] }])
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

t.test('a cursor beyond the head of a log is unknown, and nothing is repeated', async t => {
  const { app, a, drive, publish } = await start(t)
  const ids = await publish('a', '1', '2')
  const ahead = ids[1]!.replace(/2$/, '99')
  const driven = await drive(stream => stream.subscribe(a), { lastEventId: ahead })
  await settled(driven)
  t.same(driven.client.gaps, [{ id: app.sse.cursor, reason: 'unknown', channels: ['a'] }])
  t.same(data(driven.client), [])
  await publish('a', '3')
  await driven.client.first(1)
  t.same(data(driven.client), ['3'])
})

t.test('a cursor beyond the head of a log brings the newest n where rewind is given', async t => {
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
  await new Promise(resolve => setTimeout(resolve, 80))
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

t.test('a body begins with retry, then an id-only block, then events', async t => {
  const { app, a, drive, publish } = await start(t, { retry: 1234 })
  const cursor = app.sse.cursor
  const driven = await drive(stream => { stream.subscribe(a); publish('a', 'x') })
  await driven.client.first(1)
  t.same(blocks(driven.client.text), [{ retry: '1234' }, { id: cursor }, { id: app.sse.cursor, data: 'x' }])
  const none = await drive(stream => stream.subscribe(a), { options: { retry: 0 } })
  await until(() => none.client.lastEventId !== '')
  t.same(blocks(none.client.text), [{ comment: '' }, { id: app.sse.cursor }])
})

t.test('a quiet channel beside one that publishes more than maxEvents keeps a good cursor', async t => {
  const { a, drive, publish } = await start(t, { history: { maxEvents: 20 }, heartbeatInterval: 0 })
  const quiet = await drive(stream => stream.subscribe(a))
  for (let i = 0; i < 20; i++) {
    await publish('noisy', ...numbers(1, 7))
    await turn()
  }
  await settled(quiet)
  quiet.client.leave()
  await quiet.stream.closed
  t.same(quiet.client.gaps, [])
  await publish('a', 'news')
  const again = await drive(stream => stream.subscribe(a), { lastEventId: quiet.client.lastEventId })
  await settled(again)
  t.same(data(again.client), ['news'])
  t.same(again.client.gaps, [])
})

t.test('a quiet channel beside one that publishes three times maxEvents in one turn keeps a good cursor', async t => {
  const { a, drive, publish } = await start(t, { history: { maxEvents: 20 }, heartbeatInterval: 0 })
  const quiet = await drive(stream => stream.subscribe(a))
  await settled(quiet)
  await publish('noisy', ...numbers(1, 60))
  await settled(quiet)
  quiet.client.leave()
  await quiet.stream.closed
  await publish('a', 'news')
  const again = await drive(stream => stream.subscribe(a), { lastEventId: quiet.client.lastEventId })
  await settled(again)
  t.same(data(again.client), ['news'])
  t.same(again.client.gaps, [])
})

t.test('large events of another channel refresh the cursor by their bytes', async t => {
  const { a, drive, publish } = await start(t, { history: { maxBytes: 40_000 }, heartbeatInterval: 0 })
  const quiet = await drive(stream => stream.subscribe(a))
  for (let i = 0; i < 12; i++) {
    await publish('noisy', 'x'.repeat(9_000))
    await turn()
  }
  await settled(quiet)
  const again = await drive(stream => stream.subscribe(a), { lastEventId: quiet.client.lastEventId })
  await settled(again)
  t.same(again.client.gaps, [])
})

t.test('a filter that lets nothing through keeps a good cursor', async t => {
  const { a, drive, publish } = await start(t, { history: { maxEvents: 20 }, heartbeatInterval: 0 })
  const deaf = await drive(stream => stream.subscribe(a, { filter: () => false }))
  for (let i = 0; i < 20; i++) {
    await publish('a', ...numbers(1, 7))
    await turn()
  }
  await settled(deaf)
  t.same(deaf.client.events, [])
  const again = await drive(stream => stream.subscribe(a, { filter: () => false }), { lastEventId: deaf.client.lastEventId })
  await settled(again)
  t.same(again.client.gaps, [])
})

t.test('a quiet stream whose socket was full comes back with a fresh cursor and no gap', async t => {
  const { a, b, drive, publish } = await start(t, { history: { maxEvents: 10 }, heartbeatInterval: 0 })
  const driven = await drive(stream => stream.subscribe([a, b]), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  driven.stream.comment('fills the valve')
  await until(() => driven.stream.blocked)
  await publish('noisy', ...numbers(1, 100))
  await turn()
  driven.valve!.open()
  await until(() => !driven.stream.blocked)
  await publish('a', 'news')
  await driven.client.first(1)
  t.same(driven.client.gaps, [])
  const again = await drive(stream => stream.subscribe([a, b]), { lastEventId: driven.client.lastEventId })
  await settled(again)
  t.same(again.client.gaps, [])
})

// Rewind

t.test('rewind sends the newest n over all channels of the call', async t => {
  const { app, a, b, drive, publish } = await start(t)
  for (let i = 1; i <= 6; i++) await publish(i % 3 === 0 ? 'b' : 'a', String(i))
  await publish('other', ...numbers(1, 50))
  await app.sse.publish(['a', 'b'], 'both')
  const oneCall = await drive(stream => stream.subscribe([a, b], { rewind: 3 }))
  const twoCalls = await drive(stream => stream.subscribe(a, { rewind: 2 }).subscribe(b, { rewind: 2 }))
  const byDefault = await drive(stream => stream.subscribe([a, b]), { options: { rewind: 1 } })
  const zero = await drive(stream => stream.subscribe([a, b], { rewind: 0 }))
  const many = await drive(stream => stream.subscribe(b, { rewind: Infinity }))
  const all = [oneCall, twoCalls, byDefault, zero, many]
  await settled(...all)
  t.same(all.map(({ client }) => data(client)), [['5', '6', 'both'], ['3', '5', '6', 'both'].slice(1), ['both'], [], ['3', '6', 'both']])
  t.same(all.flatMap(({ client }) => client.gaps), [])
})

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

// The log lost something

t.test('a loss in the log is a gap "reset" at its place, for every stream that passes it', async t => {
  const { backplane, control } = slowLog()
  const { a, b, drive } = await start(t, { backplane })
  control.elsewhere('a', '1')
  const live = await drive(stream => stream.subscribe([a, b]))
  const late = await drive(stream => stream.subscribe(a), { lastEventId: 'L-0' })
  await settled(live, late)
  control.elsewhere('a', '2')
  const cursor = control.lose()
  control.elsewhere('a', '3')
  await settled(live, late)
  t.same(data(live.client), ['2', '3'])
  t.same(data(late.client), ['1', '2', '3'])
  t.same(live.client.gaps, [{ id: cursor, reason: 'reset', channels: ['a', 'b'] }])
  t.same(late.client.gaps, [{ id: cursor, reason: 'reset', channels: ['a'] }])
  const order = blocks(late.client.text).filter(({ data }) => data !== undefined).map(({ event, data }) => event ?? data)
  t.same(order, ['1', '2', 'sse.gap', '3'])
  const replayed = await drive(stream => stream.subscribe(a), { lastEventId: 'L-10' })
  const resumed = await drive(stream => stream.subscribe(a), { lastEventId: cursor })
  const after = await drive(stream => stream.subscribe(a))
  await settled(replayed, resumed, after)
  t.same(data(replayed.client), ['2', '3'])
  t.equal(replayed.client.gaps.length, 1, 'a replay passes it too')
  t.same(data(resumed.client), ['3'])
  t.same(resumed.client.gaps, [])
  t.same(after.client.gaps, [])
})

t.test('a loss before the first event of a log is told too', async t => {
  const { backplane, control } = slowLog()
  const { a, drive } = await start(t, { backplane })
  const driven = await drive(stream => stream.subscribe(a))
  await settled(driven)
  control.lose('L-50')
  await settled(driven)
  t.match(driven.client.gaps, [{ reason: 'reset', channels: ['a'], id: 'L-50' }])
  const stale = await drive(stream => stream.subscribe(a), { lastEventId: 'L-0' })
  await settled(stale)
  t.equal(stale.client.gaps.length, 1)
})

t.test('a loss that was evicted before a full socket drained is told too', async t => {
  const { backplane, control } = slowLog()
  const { a, drive } = await start(t, { backplane, history: { maxEvents: 5 } })
  control.elsewhere('other', 'x')
  const driven = await drive(stream => stream.subscribe(a), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  driven.stream.comment('fills the valve')
  await until(() => driven.stream.blocked)
  control.lose()
  for (let i = 0; i < 20; i++) control.elsewhere('other', 'x')
  await turn()
  driven.valve!.open()
  await until(() => driven.client.gaps.length > 0, 'the gap')
  t.match(driven.client.gaps, [{ reason: 'reset', channels: ['a'] }])
})

t.test('an overrun that steps over a loss in the log tells it to the channels that were not overrun', async t => {
  const { backplane, control } = slowLog()
  const { a, b, drive } = await start(t, { backplane, history: { maxEvents: 40 } })
  const driven = await drive(stream => stream.subscribe([a, b]), { valve: true })
  await settled(driven)
  driven.valve!.shut()
  driven.stream.comment('fills the valve')
  await until(() => driven.stream.blocked)
  for (let i = 0; i < 100; i++) control.elsewhere('a', String(i))
  control.lose()
  for (let i = 0; i < 37; i++) control.elsewhere('a', String(100 + i))
  await turn()
  driven.valve!.open()
  await until(() => data(driven.client).includes('136'))
  t.ok(driven.client.gaps.some(({ channels }) => channels.includes('b')), 'b is told')
})

t.test('several losses in a row are each told, and events between them arrive', async t => {
  const { backplane, control } = slowLog()
  const { a, drive } = await start(t, { backplane })
  const driven = await drive(stream => stream.subscribe(a))
  await settled(driven)
  control.elsewhere('a', '1')
  control.lose()
  control.lose()
  control.elsewhere('a', '2')
  control.lose()
  await settled(driven)
  t.same(data(driven.client), ['1', '2'])
  t.ok(driven.client.gaps.length >= 2)
  const again = await drive(stream => stream.subscribe(a), { lastEventId: driven.client.lastEventId })
  await settled(again)
  t.same(again.client.gaps, [])
})

t.test('a cursor between two entries of the log is unknown, and what lies after its place follows', async t => {
  const { backplane, control } = slowLog()
  const { a, drive } = await start(t, { backplane })
  for (let i = 1; i <= 5; i++) control.elsewhere('a', String(i))
  const driven = await drive(stream => stream.subscribe(a), { lastEventId: 'L-35' })
  await settled(driven)
  t.same(data(driven.client), ['4', '5'])
  t.same(driven.client.gaps, [{ id: 'L-30', reason: 'unknown', channels: ['a'] }])
})

// A client from a process that has read more

t.test('a client whose cursor is ahead of this process is held until it has read as much', async t => {
  const { backplane, control } = slowLog()
  const { a, b, drive } = await start(t, { backplane })
  control.elsewhere('a', '1')
  control.lagging = true
  control.elsewhere('a', '2')
  const ahead = control.elsewhere('a', '3')
  control.elsewhere('a', '4')
  const held = await drive(stream => stream.subscribe([a, b]), { lastEventId: ahead })
  await settled(held)
  t.same(blocks(held.client.text).filter(({ id }) => id !== undefined), [], 'no cursor that is older than its own')
  control.read()
  control.lagging = false
  control.elsewhere('b', '5')
  await settled(held)
  t.same(data(held.client), ['4', '5'])
  t.same(held.client.gaps, [])
  t.equal(blocks(held.client.text).find(({ id }) => id !== undefined)!.id, ahead)
})

t.test('a cursor that is still ahead when the log was read to its end is unknown', async t => {
  const { backplane, control } = slowLog({ lagging: true })
  const { a, drive } = await start(t, { backplane })
  control.elsewhere('a', '1')
  const held = await drive(stream => stream.subscribe(a), { lastEventId: 'L-990' })
  await settled(held)
  t.same(held.client.gaps, [])
  control.read()
  await settled(held)
  t.match(held.client.gaps, [{ reason: 'unknown', channels: ['a'] }])
})

t.test('a held stream sends its own events and heartbeats meanwhile', async t => {
  const { backplane, control } = slowLog({ lagging: true })
  const { a, drive } = await start(t, { backplane, heartbeatInterval: 30 })
  const held = await drive(stream => stream.subscribe(a), { lastEventId: 'L-10' })
  held.stream.send('own')
  await held.client.first(1)
  await until(() => held.client.comments.length >= 3, 'heartbeats')
  t.equal(held.client.lastEventId, 'L-10')
  control.elsewhere('a', '1')
  control.elsewhere('a', '2')
  control.read()
  await held.client.first(2)
  t.same(data(held.client), ['own', '2'])
})

t.test('a held stream that joins and leaves channels meanwhile loses nothing', async t => {
  const { backplane, control } = slowLog({ lagging: true })
  const { a, b, drive } = await start(t, { backplane })
  const held = await drive(stream => stream.subscribe(a), { lastEventId: 'L-20' })
  const left = await drive(stream => stream.subscribe(a), { lastEventId: 'L-20' })
  await settled(held, left)
  held.stream.subscribe(b)
  left.stream.unsubscribe(a)
  control.elsewhere('b', 'b1')
  control.elsewhere('b', 'b2')
  control.elsewhere('b', 'b3')
  control.elsewhere('a', 'a4')
  control.read()
  await settled(held, left)
  t.same(data(held.client), ['b3', 'a4'])
  t.same(held.client.gaps, [])
  left.stream.subscribe(b)
  await settled(left)
  control.elsewhere('b', 'b5')
  control.read()
  await until(() => data(left.client).includes('b5'))
  t.same(left.client.gaps, [])
})

t.test('what was evicted while a stream was held is a gap', async t => {
  const { backplane, control } = slowLog({ lagging: true })
  const { a, drive } = await start(t, { backplane, history: { maxEvents: 10 } })
  const held = await drive(stream => stream.subscribe(a), { lastEventId: 'L-20' })
  await settled(held)
  for (let i = 1; i <= 50; i++) control.elsewhere('a', String(i))
  control.read()
  await until(() => data(held.client).includes('50'))
  t.ok(held.client.gaps.length > 0 || data(held.client)[0] === '3', `gaps ${JSON.stringify(held.client.gaps)}, events from ${data(held.client)[0]}`)
})

t.test('when the client leaves while it is held, nothing is left of it', async t => {
  const { backplane, control } = slowLog({ lagging: true })
  const { app, a, drive } = await start(t, { backplane })
  const held = await drive(stream => stream.subscribe(a), { lastEventId: 'L-20' })
  held.client.leave()
  t.equal(await held.stream.closed, 'client')
  control.read()
  await turn()
  t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0 })
})

t.test('up and down of the backplane are told once each, and streams go on', async t => {
  const { backplane, control } = slowLog()
  const { app, a, drive } = await start(t, { backplane })
  const heard: string[] = []
  app.sse.on('up', () => heard.push('up'))
  app.sse.on('down', ({ error }) => heard.push(error.message))
  const driven = await drive(stream => stream.subscribe(a))
  control.receiver.up()
  control.receiver.down(new Error('first'))
  control.receiver.down(new Error('second'))
  t.equal(app.sse.stats().backplane, 'down')
  control.receiver.up()
  control.receiver.up()
  t.same(heard, ['first', 'up'])
  t.equal(app.sse.stats().backplane, 'up')
  control.elsewhere('a', '1')
  await driven.client.first(1)
  t.same(driven.client.gaps, [])
})

// The invariant

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

interface Published { n: number, channels: string[], value: number }
/** A time that a stream was subscribed to a channel: events with from < n <= to. Those that were not written when it left are not owed. */
interface Membership { channel: string, filter: number, from: number, to: number }

/** One connection and what the model knows of it. */
interface Connection {
  driven: Awaited<ReturnType<ReturnType<typeof driver>>>
  /** The cursor that it came with. */
  came: number | null
  memberships: Membership[]
}

const accepts = (filter: number, { value }: Published): boolean => filter === 0 || value % filter === 0

/**
 * Reads a body against the model: every event of the stream's channels, in the order of the log, once, or a gap that names the
 * channel; and an id never runs ahead of what was received. Returns what is wrong.
 */
function check (body: Block[], { memberships }: Connection, log: Published[], number: (id: string) => number, complete: boolean, came: number | null): string[] {
  const wrong: string[] = []
  // Per membership: everything up to here is received, or was told to be lost.
  const done = memberships.map(({ from }) => from)
  let at = came ?? -1
  let last = -1
  const owed = (to: number, why: string): void => {
    memberships.forEach(({ channel, filter, to: end }, i) => {
      // Left already: what was not written by then is not owed, and which that is cannot be told from outside.
      if (end !== Infinity) return
      for (let n = done[i]! + 1; n <= to; n++) {
        const event = log[n]
        if (event !== undefined && event.channels.includes(channel) && accepts(filter, event) && !seen.has(n)) wrong.push(`event ${n} of ${channel} was lost without a word, ${why}`)
      }
      done[i] = Math.max(done[i]!, to)
    })
  }
  const seen = new Set<number>()
  for (const [i, { id, event, data }] of body.entries()) {
    if (id === undefined) continue
    const n = number(id)
    if (n < at) wrong.push(`the id went back from ${at} to ${n}`)
    if (event === 'sse.gap') {
      const { channels } = JSON.parse(data!) as { channels: string[] }
      if (channels.length === 0) wrong.push('a gap of no channel')
      memberships.forEach((membership, i) => { if (channels.includes(membership.channel)) done[i] = Math.max(done[i]!, n) })
    } else if (data !== undefined) {
      const text = log[n]
      if (n <= last) wrong.push(`event ${n} came after ${last}`)
      last = n
      if (text === undefined || data !== `${n} ${text.value}`) wrong.push(`event ${n} came as ${data}`)
      else if (!memberships.some(({ channel, filter, from, to }) => n > from && n <= to && text.channels.includes(channel) && accepts(filter, text))) wrong.push(`event ${n} was not asked for`)
      seen.add(n)
    }
    at = n
    // Gaps that are told together have one id.
    const next = body[i + 1]
    if (event === 'sse.gap' && next?.event === 'sse.gap' && next.id === id) continue
    owed(n, `when the id was ${n}`)
  }
  if (complete) owed(log.length - 1, 'at the end')
  return wrong
}

const ROUNDS = Number(process.env.ROUNDS ?? 8)
for (let round = 0; round < ROUNDS; round++) {
  const seed = SEED + round
  t.test(`every stream gets every event of its channels in order, once, or a gap that names the channel (SEED=${seed})`, async t => {
    const chance = random(seed)
    const below = (n: number): number => Math.floor(chance() * n)
    const maxEvents = [0, 1, 5, 20, 60][below(5)]!
    const { app, drive } = await start(t, { history: { maxEvents, ...(chance() < 0.3 && { maxBytes: 1500 }) }, heartbeatInterval: chance() < 0.5 ? 20 : 0 })
    const names = ['a', 'b', 'c', 'd']
    const prefix = app.sse.cursor.replace(/\d+$/, '')
    const number = (id: string): number => id.startsWith(prefix) ? Number(id.slice(prefix.length)) : NaN
    const head = (): number => number(app.sse.cursor)
    const log: Published[] = [{ n: 0, channels: [], value: 0 }]
    const filters = [0, 0, 2, 3].map(filter => ({ filter, accept: ({ data }: { data: any }) => filter === 0 || Number(String(data).split(' ')[1]) % filter === 0 }))
    const finished: Array<{ connection: Connection, body: Block[] }> = []
    const wrong: string[] = []

    const publish = (): void => {
      // Busy ones and quiet ones: what happens to one of them must not be taken for all.
      const channels = names.filter((_, i) => chance() < [0.6, 0.3, 0.1, 0.03][i]!)
      if (channels.length === 0) channels.push('elsewhere')
      const event = { n: log.length, channels, value: below(12) }
      log.push(event)
      app.sse.publish(channels, `${event.n} ${event.value}`)
    }
    const join = (connection: Pick<Connection, 'memberships'>, stream: SseStream, channels: string[], from: number): void => {
      const { filter, accept } = filters[below(filters.length)]!
      stream.subscribe(channels.map(name => app.sse.channel(name)), filter === 0 ? {} : { filter: accept })
      for (const channel of channels) connection.memberships.push({ channel, filter, from, to: Infinity })
    }
    const open = async (lastEventId?: string): Promise<Connection> => {
      const memberships: Membership[] = []
      const channels = names.filter(() => chance() < 0.5)
      if (channels.length === 0) channels.push('a')
      const apart = chance() < 0.3 ? channels.splice(1, 1) : []
      const driven = await drive(stream => {
        const from = lastEventId === undefined ? head() : number(lastEventId)
        join({ memberships }, stream, channels, from)
        if (chance() < 0.5) publish()
        // Of the same turn: one resume, from the cursor or from the head of the moment.
        if (apart.length > 0) join({ memberships }, stream, apart, lastEventId === undefined ? head() : from)
      }, { valve: chance() < 0.7, ...(lastEventId !== undefined && { lastEventId }) })
      return { driven, came: lastEventId === undefined ? null : number(lastEventId), memberships }
    }
    const finish = async (connection: Connection, complete: boolean): Promise<string> => {
      const { client, stream, valve } = connection.driven
      if (complete) {
        valve?.open()
        const mark = `the end ${Math.random()}`
        await until(() => !stream.blocked)
        await turn()
        stream.comment(mark)
        await until(() => client.comments.includes(mark), 'the mark')
      }
      const body = blocks(client.text)
      client.leave()
      await stream.closed
      finished.push({ connection, body })
      wrong.push(...check(body, connection, log, number, complete, connection.came))
      return client.lastEventId
    }

    const connections = await Promise.all(Array.from({ length: 6 }, () => open()))
    for (let step = 0; step < 120; step++) {
      const i = below(connections.length)
      const connection = connections[i]!
      const { stream, valve } = connection.driven
      const what = chance()
      if (what < 0.45) for (let n = below(chance() < 0.2 ? 3 * maxEvents + 5 : 6); n >= 0; n--) publish()
      else if (what < 0.55) valve?.shut()
      else if (what < 0.68) valve?.open()
      else if (what < 0.76) {
        const id = await finish(connection, false)
        for (let n = below(8); n > 0; n--) publish()
        connections[i] = await open(id === '' ? undefined : id)
      } else if (what < 0.84) {
        const channel = names.find(name => !stream.channels.has(name))
        if (channel !== undefined) {
          await turn()
          join(connection, stream, [channel], head())
        }
      } else if (what < 0.9) {
        const channel = [...stream.channels][0]
        if (channel !== undefined && stream.channels.size > 1) {
          stream.unsubscribe(app.sse.channel(channel))
          for (const membership of connection.memberships) if (membership.channel === channel && membership.to === Infinity) membership.to = head()
        }
      } else if (what < 0.94) stream.send({ event: 'own', data: 'own' })
      else await turn()
      if (chance() < 0.5) await new Promise(resolve => setImmediate(resolve))
    }
    for (const connection of connections) await finish(connection, true)
    t.same(wrong, [], `${finished.length} connections, ${log.length} events, history of ${maxEvents}`)
    const gaps = finished.flatMap(({ body }) => body.filter(({ event }) => event === 'sse.gap')).length
    t.comment(`seed ${seed}: ${finished.length} connections, ${log.length} events, maxEvents ${maxEvents}, ${gaps} gaps`)
    t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0, blocked: 0 })
  })
}
