import { createParser, type EventSourceMessage } from 'eventsource-parser'
import t from 'tap'
import type { Member } from '../../lib/log/channel-log.ts'
import { parseCursor } from '../../lib/log/cursor.ts'
import { Log } from '../../lib/log/log.ts'
import { memoryBackplane } from '../../lib/log/memory-backplane.ts'
import { PIECE_BYTES, Pieces, type Filter, type Piece, type Want } from '../../lib/stream/pieces.ts'
import { makeFrame } from '../../lib/wire/chunk.ts'
import { encodeEvent, measureEvent } from '../../lib/wire/event.ts'

/** An event to append: its channels, and its data, which is no string. */
type Given = [channels: readonly string[], data: unknown, event?: string]

interface Made {
  log: Log
  pieces: Pieces
  /** What was parsed. */
  parsed: string[]
  append: (...some: Given[]) => void
  /** What a stream wants of a channel with other members. */
  to: (name: string, options?: { from?: number, seen?: number, filter?: Filter }) => Want
}

const NOBODY: Member = { lacked () {}, restarted () {} }

function make (given: Iterable<Given>, { maxEvents = Infinity } = {}): Made {
  const parsed: string[] = []
  const limits = { maxEvents, maxAge: 0, latest: false }
  const log: Log = new Log(memoryBackplane(), {
    maxBytes: Infinity,
    limits: () => limits,
    measure: ({ event, data }) => measureEvent({ id: log.cursorAt(0), event, data })
  }, { ready () {}, keeping () {}, state () {} }, { now: () => 0, after () {} })
  log.open().catch(t.fail)
  const append = (...some: Given[]): void => {
    for (const [channels, data, event] of some) {
      log.append({ channels, kind: 'event', event, data: JSON.stringify(data), serialized: true, limits: channels.map(() => limits) }).catch(t.fail)
    }
  }
  const to: Made['to'] = (name, { from = 0, seen = 0, filter } = {}) => {
    log.join(name, NOBODY)
    return { log: log.join(name, { ...NOBODY }), from, seen, filter }
  }
  to('a')
  append(...given)
  return { log, append, to, parsed, pieces: new Pieces(log, text => { parsed.push(text); return JSON.parse(text) }) }
}

function read (piece: Piece): EventSourceMessage[] {
  const events: EventSourceMessage[] = []
  const parser = createParser({ onEvent: event => events.push(event) })
  parser.feed(piece.frame?.body.toString() ?? '')
  return events
}

/** All pieces of a stream, from a position to the head. */
function walk (pieces: Pieces, wants: readonly Want[], log: Log, position = 0): Piece[] {
  const taken: Piece[] = []
  while (position < log.head) {
    const piece = pieces.get(wants, position, log.head)
    if (piece.next <= position) throw new Error(`a piece that leads from ${position} to ${piece.next}`)
    taken.push(piece)
    position = piece.next
  }
  return taken
}

const ids = (some: Piece[]): number[] => some.flatMap(piece => read(piece).map(({ id }) => parseCursor(id!)!.seq))
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
  const { log, pieces, to } = make([[['a'], 1, 'tick'], [['b'], 2], [['a'], '3\n4'], [['a'], null]])
  const piece = pieces.get([to('a')], 0, log.head)
  t.equal(piece.frame!.body.toString(), `id: ${log.cursorAt(1)}\nevent: tick\ndata: 1\n\nid: ${log.cursorAt(3)}\ndata: "3\\n4"\n\nid: ${log.cursorAt(4)}\ndata: null\n\n`)
  const size = piece.frame!.body.length.toString(16)
  t.equal(piece.frame!.chunk.toString(), `${size}\r\n${piece.frame!.body.toString()}\r\n`)
  t.match(piece, { events: 3, next: 4, cursor: 4, full: false })
  t.same(ids([pieces.get([to('a')], 3, log.head)]), [4])
})

t.test('a size line counts bytes, also of what is no ASCII and of lone surrogates', async t => {
  const { log, pieces, to } = make([])
  let text = ''
  for (const data of ['é€😀', '\uD800', 'a\r\nb\rc\uDC00', '\uFEFF']) {
    const limits = [{ maxEvents: 10, maxAge: 0, latest: false }]
    const id = await log.append({ channels: ['a'], kind: 'event', event: 'é', data, serialized: false, limits })
    text += encodeEvent({ id, event: 'é', data })
  }
  const { chunk } = pieces.get([to('a')], 0, log.head).frame!
  const body = Buffer.from(text)
  t.ok(chunk.equals(Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')])))
})

t.test('a piece ends where it is asked to', async t => {
  const { pieces, to } = make(numbers(10))
  const piece = pieces.get([to('a')], 2, 5)
  t.same(ids([piece]), [3, 4, 5])
  t.match(piece, { events: 3, next: 5, cursor: 5, full: false })
})

t.test('a piece has 64 KiB at most, and no event is lost or twice between pieces', async t => {
  const { log, pieces, to } = make(Array.from({ length: 300 }, (_, i): Given => [['a'], 'x'.repeat((i * 7919) % 3_000)]))
  const taken = walk(pieces, [to('a')], log)
  t.same(ids(taken), Array.from({ length: 300 }, (_, i) => i + 1))
  for (const [i, { frame, full, next, cursor }] of taken.entries()) {
    t.ok(frame!.body.length <= PIECE_BYTES)
    if (i === taken.length - 1) continue
    t.equal(full, true)
    t.equal(cursor, next)
    t.ok(frame!.body.length + log.channels.get('a')!.at(next).bytes > PIECE_BYTES, 'and the next event would not have fitted in')
  }
  t.equal(PIECE_BYTES, 65_536)
})

t.test('a piece may have exactly 64 KiB', async t => {
  const { log, pieces, append, to } = make([[['a'], 'x'.repeat(60_000)]])
  const rest = PIECE_BYTES - log.store.bytes - Buffer.byteLength(`id: ${log.cursorAt(2)}\ndata: ""\n\n`)
  append([['a'], 'y'.repeat(rest)], [['a'], 'z'])
  const piece = pieces.get([to('a')], 0, log.head)
  t.equal(piece.frame!.body.length, PIECE_BYTES)
  t.match(piece, { events: 2, next: 2, full: true })
  t.match(piece.frame!.chunk.toString('latin1', 0, 7), '10000\r\n')
})

t.test('an event larger than a piece goes alone', async t => {
  const { log, pieces, to } = make([[['a'], 'small'], [['a'], 'x'.repeat(200_000)], [['a'], 'y'.repeat(200_000)], [['a'], 'small']])
  const taken = walk(pieces, [to('a')], log)
  t.same(taken.map(piece => ids([piece])), [[1], [2], [3], [4]])
})

t.test('a frame is never empty: where nothing is for the stream there is none', async t => {
  const { log, pieces, to } = make(Array.from({ length: 10_000 }, (_, i): Given => [['a'], i]))
  const none = pieces.get([to('b')], 0, log.head)
  t.match(none, { frame: undefined, events: 0, next: 10_000, cursor: 0, full: false })
  t.equal(pieces.get([to('a', { from: 10_000 })], 0, log.head).frame, undefined)
  for (const piece of walk(pieces, [to('a', { filter: () => false })], log)) {
    t.match(piece, { frame: undefined, events: 0 })
  }
})

t.test('a filter that lets nothing through gives way after a while', async t => {
  const { log, pieces, to } = make(numbers(10_000))
  let calls = 0
  const filter = (): boolean => { calls++; return false }
  const piece = pieces.get([to('a', { filter })], 0, log.head)
  t.ok(calls < 5_000, `looked at ${calls}`)
  t.equal(piece.next, calls)
  t.equal(piece.full, true)
  t.equal(piece.cursor, 0, 'the client\'s cursor stays where it is')
  walk(pieces, [to('a', { filter })], log, piece.next)
  t.equal(calls, 10_000)
})

t.test('the cursor of a piece is after its last event, and next is where the stream goes on', async t => {
  const { log, pieces, to } = make([[['a'], 1], [['a'], 2], [['b'], 3], [['b'], 4]])
  t.match(pieces.get([to('a')], 0, log.head), { cursor: 2, next: 4 })
  t.match(pieces.get([to('a', { filter: ({ id }) => id === log.cursorAt(1) })], 0, log.head), { cursor: 1, next: 4 })
})

t.test('several channels are merged in the order of the log, each event once', async t => {
  const NAMES = ['a', 'b', 'c', 'd']
  const given = Array.from({ length: 2_000 }, (_, i): Given => [NAMES.filter((_, bit) => (i * 2654435761 >>> 7) & (1 << bit)), i])
  const { log, pieces, to } = make(given)
  for (const names of [['a', 'b'], ['b', 'a'], ['c', 'a', 'b'], ['a', 'b', 'c', 'd'], ['d']]) {
    const wanted = given.flatMap(([channels], i) => channels.some(name => names.includes(name)) ? [i + 1] : [])
    const taken = walk(pieces, names.map(name => to(name)), log)
    t.same(ids(taken), wanted, names.join())
    t.equal(taken.reduce((sum, { events }) => sum + events, 0), wanted.length)
  }
})

t.test('a subscription takes nothing from before its "from", beside one that does', async t => {
  const { log, pieces, to } = make([[['a'], 1], [['b'], 2], [['a', 'b'], 3], [['a'], 4], [['b'], 5]])
  t.same(ids([pieces.get([to('a', { from: 3 }), to('b')], 0, log.head)]), [2, 3, 4, 5])
  t.same(ids([pieces.get([to('a', { from: 3 }), to('b', { from: 4 })], 0, log.head)]), [4, 5])
  t.same(ids([pieces.get([to('a', { from: 2 })], 0, log.head)]), [3, 4], 'from itself is taken')
})

t.test('an event of several channels passes if the filter of one of them accepts it', async t => {
  const { log, pieces, to } = make([[['a', 'b'], 1], [['a'], 2], [['b'], 3]])
  const no: Filter = () => false
  t.same(ids([pieces.get([to('a', { filter: no }), to('b')], 0, log.head)]), [1, 3])
  t.same(ids([pieces.get([to('a'), to('b', { filter: no })], 0, log.head)]), [1, 2])
  t.same(ids([pieces.get([to('a', { filter: no }), to('b', { filter: no })], 0, log.head)]), [])
})

t.test('a filter sees id, channels, event and data, parsed once for all filters', async t => {
  const { log, pieces, parsed, to } = make([[['a', 'b'], { n: 1 }, 'tick'], [['a'], { n: 2 }]])
  const seen: unknown[] = []
  const filter: Filter = event => { seen.push(event); return event.data.n === 2 }
  const other: Filter = event => { seen.push(event); return event.data.n === 1 }
  t.same(ids([pieces.get([to('a', { filter })], 0, log.head)]), [2])
  t.same(seen, [{ id: log.cursorAt(1), channels: ['a', 'b'], event: 'tick', data: { n: 1 } }, { id: log.cursorAt(2), channels: ['a'], data: { n: 2 } }])
  t.same(ids([pieces.get([to('b', { filter: other })], 0, log.head)]), [1])
  t.equal(seen[2], seen[0], 'the same stored event')
  t.same(parsed, ['{"n":1}', '{"n":2}'])
  pieces.get([to('b', { filter: () => true })], 0, log.head)
  t.equal(parsed.length, 2, 'and none for a filter that does not look at the data')
})

t.test('what a filter throws comes out, and spoils nothing for other streams', async t => {
  const { log, pieces, to } = make(numbers(3))
  const filter: Filter = ({ data }) => { if (data === 1) throw new RangeError('mine'); return true }
  t.throws(() => pieces.get([to('a', { filter })], 0, log.head), { message: 'mine' })
  t.throws(() => pieces.get([to('a', { filter })], 0, log.head), { message: 'mine' }, 'again, for the next stream with it')
  t.same(ids([pieces.get([to('a')], 0, log.head)]), [1, 2, 3])
})

t.test('a filter that publishes, and releases what was offered, loses nothing of what is being read', async t => {
  const { log, pieces, append, to } = make(numbers(10), { maxEvents: 2 })
  const filter: Filter = () => {
    append([['a'], 'more'])
    log.release(log.head)
    return true
  }
  t.same(ids([pieces.get([to('a', { filter })], 0, log.head)]), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  t.equal(log.channels.get('a')!.base, 0)
  log.release(log.head)
  t.equal(log.channels.get('a')!.events, 2, 'and afterwards it goes')
  const failing: Filter = () => { throw new Error('mine') }
  append([['a'], 'last'])
  t.throws(() => pieces.get([to('a', { filter: failing })], 0, log.head), { message: 'mine' })
  log.release(log.head)
  t.equal(log.channels.get('a')!.events, 2, 'after one that throws, too')
})

t.test('streams with the same subscriptions at the same position share one piece', async t => {
  const { log, pieces, to } = make(numbers(10))
  const filter: Filter = ({ data }) => data % 2 === 0
  const first = pieces.get([to('a'), to('b', { filter })], 3, log.head)
  t.equal(pieces.get([to('a'), to('b', { filter })], 3, log.head), first)
  t.equal(pieces.get(first.wants, 3, log.head), first)
  t.equal(pieces.get([to('a', { from: 2 }), to('b', { filter, from: 3 })], 3, log.head), first, 'wherever below the position they began')
})

t.test('a piece is not shared where position, end, channels, filter or "from" differ', async t => {
  const { pieces, to } = make(Array.from({ length: 10 }, (_, i): Given => [i % 2 === 0 ? ['a'] : ['a', 'b'], i]))
  const even: Filter = ({ data }) => data % 2 === 0
  const low: Filter = ({ data }) => data < 4
  const wanted: Array<[wants: Want[], position: number, end: number, ids: number[]]> = [
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
  for (const [wants, position, end, expected] of [...wanted, ...wanted.toReversed()]) {
    t.same(ids([pieces.get(wants, position, end)]), expected)
    t.same(ids([pieces.get(wants, position, end)]), expected)
  }
})

t.test('a piece that was not full is made anew when the head has moved, and a full one is kept', async t => {
  const { log, pieces, append, to } = make(numbers(3))
  const early = pieces.get([to('a')], 0, log.head)
  append([['a'], 3])
  const late = pieces.get([to('a')], 0, log.head)
  t.same(ids([early]), [1, 2, 3])
  t.same(ids([late]), [1, 2, 3, 4])
  append([['a'], 'x'.repeat(PIECE_BYTES)])
  const full = pieces.get([to('a')], 0, log.head)
  t.equal(full.full, true)
  append([['a'], 6])
  t.equal(pieces.get([to('a')], 0, log.head), full)
})

t.test('a filter is called once for each event, however many streams share it', async t => {
  const { log, pieces, parsed, to } = make(numbers(100))
  const called: string[] = []
  const filter: Filter = event => { called.push(event.id); return event.data > 50 }
  for (let stream = 0; stream < 1_000; stream++) {
    if (ids([pieces.get([to('a', { filter })], 0, log.head)]).length !== 49) return t.fail('the wrong events')
  }
  t.equal(called.length, 100)
  t.equal(new Set(called).size, 100)
  t.equal(parsed.length, 100)
})

t.test('streams of two kinds at one position, in turn, have two pieces made, and not one for each stream', async t => {
  const { log, pieces, to } = make(numbers(100))
  const called = { even: 0, low: 0 }
  const even: Filter = ({ data }) => { called.even++; return data % 2 === 0 }
  const low: Filter = ({ data }) => { called.low++; return data < 50 }
  for (let stream = 0; stream < 100; stream++) {
    pieces.get([to('a')], 0, log.head)
    pieces.get([to('a', { filter: even })], 0, log.head)
    pieces.get([to('a', { filter: low })], 0, log.head)
  }
  t.same(called, { even: 100, low: 100 })
})

t.test('at the end of a pass pieces and parsed events are let go of', async t => {
  const { log, pieces, parsed, to } = make(numbers(3))
  const wants = [to('a', { filter: ({ data }) => data >= 0 })]
  const first = pieces.get(wants, 0, log.head)
  pieces.clear()
  const second = pieces.get(wants, 0, log.head)
  t.not(second, first)
  t.same(second.frame, first.frame)
  t.equal(parsed.length, 6)
})
