import { createParser, type EventSourceMessage } from 'eventsource-parser'
import t from 'tap'
import { encodeEvent } from '../../lib/wire/event.ts'
import { History } from '../../lib/log/channel-log.ts'
import { makeFrame, PIECE_BYTES, Pieces, type Piece } from '../../lib/stream/pieces.ts'
import type { Filter, Members, Subscription } from '../../lib/stream/reader.ts'

/** An event to append: its channels, and its data, which is no string. */
type Given = [channels: readonly string[], data: unknown, event?: string]

function make (given: Iterable<Given>): { history: History, pieces: Pieces, parsed: string[], append: (...some: Given[]) => void } {
  const parsed: string[] = []
  const history = new History({ maxEvents: Infinity, maxBytes: Infinity, maxAge: 0 }, (a, b) => Number(a) - Number(b), () => {})
  history.mark('0', 0)
  const append = (...some: Given[]): void => {
    for (const [channels, data, event] of some) history.append({ cursor: `${history.head + 1}`, channels, event, data: JSON.stringify(data), serialized: true }, 0)
  }
  append(...given)
  return { history, append, parsed, pieces: new Pieces(history, text => { parsed.push(text); return JSON.parse(text) }) }
}

const everyone = new Map<string, Members>()

/** A stream's subscription to a channel. Members are one object for each channel, as they are in a registry. */
function to (name: string, { from = 0, filter }: { from?: number, filter?: Filter } = {}): Subscription {
  let members = everyone.get(name)
  if (members === undefined) everyone.set(name, members = { name, streams: new Set(), evicted: -1, ready: false, pieces: undefined })
  return { members, from, filter, held: undefined }
}

t.afterEach(() => everyone.clear())

function read (piece: Piece): EventSourceMessage[] {
  const events: EventSourceMessage[] = []
  const parser = createParser({ onEvent: event => events.push(event) })
  parser.feed(piece.frame?.body.toString() ?? '')
  return events
}

/** All pieces of a stream, from a position to the head. */
function walk (pieces: Pieces, subscriptions: readonly Subscription[], history: History, position = 0): Piece[] {
  const taken: Piece[] = []
  while (position < history.head) {
    const piece = pieces.get(subscriptions, position, history.head)
    if (piece.next <= position) throw new Error(`a piece that leads from ${position} to ${piece.next}`)
    taken.push(piece)
    position = piece.next
  }
  return taken
}

const ids = (some: Piece[]): number[] => some.flatMap(piece => read(piece).map(({ id }) => Number(id)))
const numbers = (n: number): Given[] => Array.from({ length: n }, (_, i) => [['a'], i])

t.test('a frame is one chunk of a chunked body: size in hex, bytes, CRLF', async t => {
  t.equal(makeFrame('data: x\n\n').chunk.toString(), '9\r\ndata: x\n\n\r\n')
  t.equal(makeFrame('data: x\n\n').body.toString(), 'data: x\n\n')
  for (const text of ['x', 'é', '\uD800', '😀'.repeat(5_000), 'x'.repeat(15), 'x'.repeat(16), 'x'.repeat(65_536)]) {
    const body = Buffer.from(text)
    const { chunk, body: part } = makeFrame(text)
    t.ok(chunk.equals(Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')])), `${body.length} bytes`)
    t.ok(part.equals(body))
    t.same(makeFrame(text, body.length).chunk, chunk, 'the length may be given')
  }
})

t.test('a piece holds the encoded events after a position, with their cursors as ids', async t => {
  const { history, pieces } = make([[['a'], 1, 'tick'], [['b'], 2], [['a'], '3\n4'], [['a'], null]])
  const piece = pieces.get([to('a')], 0, history.head)
  t.equal(piece.frame!.body.toString(), 'id: 1\nevent: tick\ndata: 1\n\nid: 3\ndata: "3\\n4"\n\nid: 4\ndata: null\n\n')
  const size = piece.frame!.body.length.toString(16)
  t.equal(piece.frame!.chunk.toString(), `${size}\r\n${piece.frame!.body.toString()}\r\n`)
  t.match(piece, { events: 3, next: 4, cursor: 4, full: false })
  t.same(ids([pieces.get([to('a')], 3, history.head)]), [4])
})

t.test('a size line counts bytes, also of what is no ASCII and of lone surrogates', async t => {
  const history = new History({ maxEvents: Infinity, maxBytes: Infinity, maxAge: 0 }, (a, b) => Number(a) - Number(b), () => {})
  history.mark('0', 0)
  let text = ''
  for (const data of ['é€😀', '\uD800', 'a\r\nb\rc\uDC00', '\uFEFF']) {
    history.append({ cursor: `${history.head + 1}`, channels: ['a'], event: 'é', data, serialized: false }, 0)
    text += encodeEvent({ id: `${history.head}`, event: 'é', data })
  }
  const { chunk } = new Pieces(history, JSON.parse).get([to('a')], 0, history.head).frame!
  const body = Buffer.from(text)
  t.ok(chunk.equals(Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')])))
})

t.test('a piece ends where it is asked to', async t => {
  const { pieces } = make(numbers(10))
  const piece = pieces.get([to('a')], 2, 5)
  t.same(ids([piece]), [3, 4, 5])
  t.match(piece, { events: 3, next: 5, cursor: 5, full: false })
})

t.test('a piece has 64 KiB at most, and no event is lost or twice between pieces', async t => {
  const { history, pieces } = make(Array.from({ length: 300 }, (_, i): Given => [['a'], 'x'.repeat((i * 7919) % 3_000)]))
  const taken = walk(pieces, [to('a')], history)
  t.same(ids(taken), Array.from({ length: 300 }, (_, i) => i + 1))
  for (const [i, { frame, full, next, cursor }] of taken.entries()) {
    t.ok(frame!.body.length <= PIECE_BYTES)
    if (i === taken.length - 1) continue
    t.equal(full, true)
    t.equal(cursor, next)
    t.ok(frame!.body.length + history.at(next).bytes > PIECE_BYTES, 'and the next event would not have fitted in')
  }
  t.equal(PIECE_BYTES, 65_536)
})

t.test('a piece may have exactly 64 KiB', async t => {
  const { history, pieces, append } = make([[['a'], 'x'.repeat(60_000)]])
  const rest = PIECE_BYTES - history.bytes - Buffer.byteLength('id: 2\ndata: ""\n\n')
  append([['a'], 'y'.repeat(rest)], [['a'], 'z'])
  const piece = pieces.get([to('a')], 0, history.head)
  t.equal(piece.frame!.body.length, PIECE_BYTES)
  t.match(piece, { events: 2, next: 2, full: true })
  t.match(piece.frame!.chunk.toString('latin1', 0, 7), '10000\r\n')
})

t.test('an event larger than a piece goes alone', async t => {
  const { history, pieces } = make([[['a'], 'small'], [['a'], 'x'.repeat(200_000)], [['a'], 'y'.repeat(200_000)], [['a'], 'small']])
  const taken = walk(pieces, [to('a')], history)
  t.same(taken.map(piece => ids([piece])), [[1], [2], [3], [4]])
})

t.test('a frame is never empty: where nothing is for the stream there is none', async t => {
  const { history, pieces } = make(Array.from({ length: 10_000 }, (_, i): Given => [['a'], i]))
  const none = pieces.get([to('b')], 0, history.head)
  t.match(none, { frame: undefined, events: 0, next: 10_000, cursor: 0, full: false })
  t.equal(pieces.get([to('a', { from: 10_000 })], 0, history.head).frame, undefined)
  for (const piece of walk(pieces, [to('a', { filter: () => false })], history)) {
    t.match(piece, { frame: undefined, events: 0 })
  }
})

t.test('a filter that lets nothing through gives way after a while', async t => {
  const { history, pieces } = make(numbers(10_000))
  let calls = 0
  const filter = (): boolean => { calls++; return false }
  const piece = pieces.get([to('a', { filter })], 0, history.head)
  t.ok(calls < 5_000, `looked at ${calls}`)
  t.equal(piece.next, calls)
  t.equal(piece.full, true)
  t.equal(piece.cursor, 0, 'the client\'s cursor stays where it is')
  walk(pieces, [to('a', { filter })], history, piece.next)
  t.equal(calls, 10_000)
})

t.test('the cursor of a piece is after its last event, and next is where the stream goes on', async t => {
  const { history, pieces } = make([[['a'], 1], [['a'], 2], [['b'], 3], [['b'], 4]])
  t.match(pieces.get([to('a')], 0, history.head), { cursor: 2, next: 4 })
  t.match(pieces.get([to('a', { filter: ({ id }) => id === '1' })], 0, history.head), { cursor: 1, next: 4 })
})

t.test('several channels are merged in the order of the log, each event once', async t => {
  const NAMES = ['a', 'b', 'c', 'd']
  const given = Array.from({ length: 2_000 }, (_, i): Given => [NAMES.filter((_, bit) => (i * 2654435761 >>> 7) & (1 << bit)), i])
  const { history, pieces } = make(given)
  for (const names of [['a', 'b'], ['b', 'a'], ['c', 'a', 'b'], ['a', 'b', 'c', 'd'], ['d']]) {
    const wanted = given.flatMap(([channels], i) => channels.some(name => names.includes(name)) ? [i + 1] : [])
    const taken = walk(pieces, names.map(name => to(name)), history)
    t.same(ids(taken), wanted, names.join())
    t.equal(taken.reduce((sum, { events }) => sum + events, 0), wanted.length)
  }
})

t.test('a subscription takes nothing from before its "from", beside one that does', async t => {
  const { history, pieces } = make([[['a'], 1], [['b'], 2], [['a', 'b'], 3], [['a'], 4], [['b'], 5]])
  t.same(ids([pieces.get([to('a', { from: 3 }), to('b')], 0, history.head)]), [2, 3, 4, 5])
  t.same(ids([pieces.get([to('a', { from: 3 }), to('b', { from: 4 })], 0, history.head)]), [4, 5])
  t.same(ids([pieces.get([to('a', { from: 2 })], 0, history.head)]), [3, 4], 'from itself is taken')
})

t.test('an event of several channels passes if the filter of one of them accepts it', async t => {
  const { history, pieces } = make([[['a', 'b'], 1], [['a'], 2], [['b'], 3]])
  const no: Filter = () => false
  t.same(ids([pieces.get([to('a', { filter: no }), to('b')], 0, history.head)]), [1, 3])
  t.same(ids([pieces.get([to('a'), to('b', { filter: no })], 0, history.head)]), [1, 2])
  t.same(ids([pieces.get([to('a', { filter: no }), to('b', { filter: no })], 0, history.head)]), [])
})

t.test('a filter sees id, channels, event and data, parsed once for all filters', async t => {
  const { history, pieces, parsed } = make([[['a', 'b'], { n: 1 }, 'tick'], [['a'], { n: 2 }]])
  const seen: unknown[] = []
  const filter: Filter = event => { seen.push(event); return event.data.n === 2 }
  const other: Filter = event => { seen.push(event); return event.data.n === 1 }
  t.same(ids([pieces.get([to('a', { filter })], 0, history.head)]), [2])
  t.same(seen, [{ id: '1', channels: ['a', 'b'], event: 'tick', data: { n: 1 } }, { id: '2', channels: ['a'], data: { n: 2 } }])
  t.same(ids([pieces.get([to('b', { filter: other })], 0, history.head)]), [1])
  t.equal(seen[2], seen[0], 'the same stored event')
  t.same(parsed, ['{"n":1}', '{"n":2}'])
  pieces.get([to('b', { filter: () => true })], 0, history.head)
  t.equal(parsed.length, 2, 'and none for a filter that does not look at the data')
})

t.test('what a filter throws comes out, and spoils nothing for other streams', async t => {
  const { history, pieces } = make(numbers(3))
  const filter: Filter = ({ data }) => { if (data === 1) throw new RangeError('mine'); return true }
  t.throws(() => pieces.get([to('a', { filter })], 0, history.head), { message: 'mine' })
  t.throws(() => pieces.get([to('a', { filter })], 0, history.head), { message: 'mine' }, 'again, for the next stream with it')
  t.same(ids([pieces.get([to('a')], 0, history.head)]), [1, 2, 3])
})

t.test('a filter that makes the history evict loses nothing of what is being read', async t => {
  const history = new History({ maxEvents: 2, maxBytes: Infinity, maxAge: 10 }, (a, b) => Number(a) - Number(b), () => {})
  history.mark('0', 0)
  for (let n = 1; n <= 10; n++) history.append({ cursor: `${n}`, channels: ['a'], event: undefined, data: `${n}`, serialized: true }, 0)
  const pieces = new Pieces(history, JSON.parse)
  // What was offered to others may go at any time, by stats() or history() say; not while this stream reads.
  const filter: Filter = () => { history.release(5, 1e6); return true }
  t.same(ids([pieces.get([to('a', { filter })], 0, history.head)]), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  t.equal(history.first, 0)
  const failing: Filter = () => { throw new Error('mine') }
  t.throws(() => pieces.get([to('a', { filter: failing })], 0, history.head), { message: 'mine' })
  history.evict(1e6)
  t.equal(history.first, 5, 'and afterwards it goes')
})

t.test('streams with the same subscriptions at the same position share one piece', async t => {
  const { history, pieces } = make(numbers(10))
  const filter: Filter = ({ data }) => data % 2 === 0
  const first = pieces.get([to('a'), to('b', { filter })], 3, history.head)
  t.equal(pieces.get([to('a'), to('b', { filter })], 3, history.head), first)
  t.equal(pieces.get(first.subscriptions, 3, history.head), first)
  t.equal(pieces.get([to('a', { from: 2 }), to('b', { filter, from: 3 })], 3, history.head), first, 'wherever below the position they began')
})

t.test('a piece is not shared where position, end, channels, filter or "from" differ', async t => {
  const { pieces } = make(Array.from({ length: 10 }, (_, i): Given => [i % 2 === 0 ? ['a'] : ['a', 'b'], i]))
  const even: Filter = ({ data }) => data % 2 === 0
  const low: Filter = ({ data }) => data < 4
  const wanted: Array<[subscriptions: Subscription[], position: number, end: number, ids: number[]]> = [
    [[to('a')], 0, 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
    [[to('a')], 4, 10, [5, 6, 7, 8, 9, 10]],
    [[to('a')], 4, 6, [5, 6]],
    [[to('a')], 4, 10, [5, 6, 7, 8, 9, 10]],
    [[to('a', { from: 7 })], 4, 10, [8, 9, 10]],
    [[to('a', { from: 8 })], 4, 10, [9, 10]],
    [[to('a')], 4, 10, [5, 6, 7, 8, 9, 10]],
    [[to('a', { filter: even })], 0, 10, [1, 3, 5, 7, 9]],
    [[to('a', { filter: low })], 0, 10, [1, 2, 3, 4]],
    [[to('a'), to('b')], 0, 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]],
    [[to('a', { filter: low }), to('b')], 0, 10, [1, 2, 3, 4, 6, 8, 10]],
    [[to('b')], 0, 10, [2, 4, 6, 8, 10]]
  ]
  // In this order, then backwards, and each twice: whatever is remembered of the one before must not be given for it.
  for (const [subscriptions, position, end, expected] of [...wanted, ...wanted.toReversed()]) {
    t.same(ids([pieces.get(subscriptions, position, end)]), expected)
    t.same(ids([pieces.get(subscriptions, position, end)]), expected)
  }
})

t.test('a piece that was not full is made anew when the head has moved, and a full one is kept', async t => {
  const { history, pieces, append } = make(numbers(3))
  const early = pieces.get([to('a')], 0, history.head)
  append([['a'], 3])
  const late = pieces.get([to('a')], 0, history.head)
  t.same(ids([early]), [1, 2, 3])
  t.same(ids([late]), [1, 2, 3, 4])
  append([['a'], 'x'.repeat(PIECE_BYTES)])
  const full = pieces.get([to('a')], 0, history.head)
  t.equal(full.full, true)
  append([['a'], 6])
  t.equal(pieces.get([to('a')], 0, history.head), full)
})

t.test('a filter is called once for each event, however many streams share it', async t => {
  const { history, pieces, parsed } = make(numbers(100))
  const called: string[] = []
  const filter: Filter = event => { called.push(event.id); return event.data > 50 }
  for (let stream = 0; stream < 1_000; stream++) {
    if (ids([pieces.get([to('a', { filter })], 0, history.head)]).length !== 49) return t.fail('the wrong events')
  }
  t.equal(called.length, 100)
  t.equal(new Set(called).size, 100)
  t.equal(parsed.length, 100)
})

t.test('streams of two kinds at one position, in turn, have two pieces made, and not one for each stream', async t => {
  const { history, pieces } = make(numbers(100))
  const called = { even: 0, low: 0 }
  const even: Filter = ({ data }) => { called.even++; return data % 2 === 0 }
  const low: Filter = ({ data }) => { called.low++; return data < 50 }
  for (let stream = 0; stream < 100; stream++) {
    pieces.get([to('a')], 0, history.head)
    pieces.get([to('a', { filter: even })], 0, history.head)
    pieces.get([to('a', { filter: low })], 0, history.head)
  }
  t.same(called, { even: 100, low: 100 })
})

t.test('at the end of a pass pieces and parsed events are let go of', async t => {
  const { history, pieces, parsed } = make(numbers(3))
  const subscriptions = [to('a', { filter: ({ data }) => data >= 0 })]
  const first = pieces.get(subscriptions, 0, history.head)
  pieces.clear()
  const second = pieces.get(subscriptions, 0, history.head)
  t.not(second, first)
  t.same(second.frame, first.frame)
  t.equal(parsed.length, 6)
})
