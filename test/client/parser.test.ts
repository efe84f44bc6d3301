import { createParser } from 'eventsource-parser'
import t from 'tap'
import { makeParser } from '../../lib/client/parser.ts'

// Beside parsing.test.ts, which says by example what the standard asks for: another's parser is the judge here, and bounds are tested.

/** What is told, in order: ids, retries, comments, and events with the id of their block. */
type Line = ['id', string] | ['retry', number] | ['comment'] | ['event', string, string, string | undefined]

/** What the pieces of a stream tell, and whether all of them were taken. */
function read (pieces: Iterable<string>, maxLength = Infinity): { told: Line[], isTaken: boolean } {
  const told: Line[] = []
  let last: string | undefined
  const parse = makeParser({
    id (id) {
      last = id
      told.push(['id', id])
    },
    event: (type, data, hasId) => told.push(['event', type, data, hasId ? last : undefined]),
    retry: ms => told.push(['retry', ms]),
    comment: () => told.push(['comment'])
  }, maxLength)
  for (const piece of pieces) if (!parse(piece)) return { told, isTaken: false }
  return { told, isTaken: true }
}

/** What eventsource-parser tells of a whole stream. It tells of no id without data. */
function judge (text: string): Line[] {
  const told: Line[] = []
  const parser = createParser({
    onEvent ({ id, event = 'message', data }) {
      if (id !== undefined) told.push(['id', id])
      told.push(['event', event, data, id])
    },
    onRetry: ms => told.push(['retry', ms]),
    onComment: () => told.push(['comment'])
  })
  parser.feed(text)
  return told
}

/** The same numbers for the same seed. */
function random (seed: number): (n: number) => number {
  return n => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7FFFFFFF
    return (seed >> 8) % n
  }
}

const NAMES = ['data', 'data', 'data', 'event', 'id', 'id', 'id', 'retry', '', 'Data', 'dat', 'data ', ' data', 'datas', 'ids', '\uFEFFdata', '__proto__']
const COLONS = [':', ': ', ': ', ':  ', ':\t', '::', '']
const VALUES = ['', 'a', 'b c', 'ä€😀', '\uFEFF', '7', '042', '1e3', '-1', '1.5', ' ', 'id: 1', '\0', '\u2028\u0085\v']
const ENDS = ['\n', '\n', '\r\n', '\r']

/** A stream, and the same one with data in every block. */
function stream (one: <T>(of: readonly T[]) => T): { text: string, full: string } {
  let text = one(['', '', '\uFEFF', '\uFEFF\uFEFF'])
  let full = text
  for (let lines = one([1, 5, 20]); lines > 0; lines--) {
    const line = one([true, false, false]) ? '' : one(NAMES) + one(COLONS) + one(VALUES)
    // After a carriage return, a line feed alone would be the rest of the same end.
    const end = line === '' && text.endsWith('\r') ? '\r' : one(ENDS)
    text += line + end
    full += (line === '' ? 'data\n' : line) + end
  }
  const last = 'data: over\n\n'
  const lost = one(['', 'data: lost', 'id: 9\ndata: lost\n', 'retry: 8', '\uD83D'])
  return { text: `${text}unknown\n\n${last}${lost}`, full: `${full}data\n\n${last}${lost}` }
}

t.test('what it tells is what another parser tells, however the bytes are cut; the ids of blocks without data too', async t => {
  let events = 0
  let ids = 0
  for (let seed = 1; seed <= 4_000; seed++) {
    const below = random(seed)
    const one = <T>(of: readonly T[]): T => of[below(of.length)]!
    const { text, full } = stream(one)
    const bytes = new TextEncoder().encode(text)
    const decoder = new TextDecoder()
    const pieces: string[] = []
    const longest = one([1, 3, 20, 500])
    for (let at = 0; at < bytes.length;) pieces.push(decoder.decode(bytes.subarray(at, at += below(longest + 1)), { stream: true })) // some are empty
    const { told, isTaken } = read(pieces)
    const decode = (text: string): string => new TextDecoder().decode(new TextEncoder().encode(text))
    const isId = ([kind]: Line): boolean => kind === 'id'
    const wanted = judge(decode(full)).filter(isId)
    const same = (found: unknown, wanted: unknown): boolean => JSON.stringify(found) === JSON.stringify(wanted)
    if (!isTaken || !same(told.filter(isId), wanted) || !same(told.filter(line => !isId(line)), judge(decode(text)).filter(line => !isId(line)))) {
      t.fail(`seed ${seed}`, { text, pieces, told, wanted, judge: judge(decode(text)) })
      return
    }
    // An id is told just before the event of its block.
    for (const [n, line] of told.entries()) if (line[0] === 'event' && line[3] !== undefined && !same(told[n - 1], ['id', line[3]])) t.fail(`seed ${seed}: an id after its event`, { text, told })
    events += told.filter(([kind]) => kind === 'event').length
    ids += wanted.length
  }
  t.ok(events > 5_000 && ids > 2_000, `${events} events, ${ids} ids`)
})

t.test('an id with NUL leaves the id before it as it is', async t => {
  t.same(read(['id: 1\nid: 2\0\nid: \0\ndata: a\n\n']).told, [['id', '1'], ['event', 'message', 'a', '1']])
})

t.test('an event is told when the carriage return of its blank line has come, and once', async t => {
  t.same(read(['data: a\r\n\r']).told, [['event', 'message', 'a', undefined]])
  t.same(read(['data: a\r', '\n\r', '\n', '\n', 'data: b\r', '', '\n\r', '\r']).told, [['event', 'message', 'a', undefined], ['event', 'message', 'b', undefined]])
  t.same(read(['data: a\r', 'data: b\n', '\n']).told, [['event', 'message', 'a\nb', undefined]])
})

t.test('the name, the data and the id of a block are not those of the next one', async t => {
  t.same(read(['id: 1\nevent: tick\ndata: a\n\ndata: b\n\nid: 2\nevent: tick\n\ndata: c\n\n']).told,
    [['id', '1'], ['event', 'tick', 'a', '1'], ['event', 'message', 'b', undefined], ['id', '2'], ['event', 'message', 'c', undefined]])
})

t.test('a comment is told when its line has ended, and what else is ignored is not', async t => {
  t.same(read([':\n', ': a\n:', 'b', '\r', '\nunknown: c\n\nid: 1\n: d\ndata: e\n\n: f']).told, [['comment'], ['comment'], ['comment'], ['comment'], ['id', '1'], ['event', 'message', 'e', '1']])
})

t.test('retry takes digits alone', async t => {
  const values = ['5', '007', '', ' 5', '5 ', '+5', '-5', '5.5', '1e3', '0x5', '٣', 'Infinity', '5\0']
  t.same(read(values.map(value => `retry:${value}\n`)).told, [['retry', 5], ['retry', 7], ['retry', 5]])
  t.same(read([`retry: ${'9'.repeat(400)}\n`]).told, [['retry', Infinity]])
})

t.test('a line or an event that is too long is refused as soon as it is, whatever it is, and however it is cut', async t => {
  const cases: Array<[string, boolean, number]> = [
    ['data: 7890\n\ndata: 7890\n\n', true, 2],
    ['data: a\n\ndata: 78901\n\n', false, 1],
    ['data: a\n\ndata: 78901', false, 1],
    [': 3456789\n: 3456789\n: 3456789\n\n', true, 0],
    [': 345678901', false, 0],
    ['unknown: 01\n', false, 0],
    ['id: 5678901\n', false, 0],
    ['data: 12\ndata: 3\n\n', true, 1], // 2 and 7
    ['data: 12\ndata: 34\ndata: 5\n\n', false, 0], // 2 and 2 with a line feed, and 7
    ['data\n'.repeat(8) + '\n', true, 1], // 7 and 4 are too many
    ['data\n'.repeat(9) + '\n', false, 0]
  ]
  for (const [text, isTaken, events] of cases) {
    for (const pieces of [[text], [...text], text.split(/(?<=\n)/)]) {
      const { told, ...found } = read(pieces, 10)
      t.same([found.isTaken, told.filter(([kind]) => kind === 'event').length], [isTaken, events], JSON.stringify(pieces))
    }
  }
})

/** ms: a hundred times what any of them takes, and far less than they would take if each piece were joined or searched with all before it. */
const LONG = 20_000

function * many (n: number, piece: string, ...last: string[]): Iterable<string> {
  const end = performance.now() + LONG
  for (let i = 0; i < n; i++) {
    if (i % 1_000 === 0 && performance.now() > end) throw new Error(`took ${LONG} ms for ${i} pieces`)
    yield piece
  }
  yield * last
}

t.test('the time for an event is in proportion to its length: in one piece, in a million, as one line or as a million', async t => {
  const n = 1_000_000
  const lengths = (pieces: Iterable<string>): number[] => read(pieces).told.map(line => line[0] === 'event' ? line[2].length : NaN)
  t.same(lengths(['data: ' + 'x'.repeat(10 * n) + '\n\n']), [10 * n])
  t.same(lengths(many(n, 'data: 12345678\n', '\n')), [9 * n - 1])
  t.same(lengths((function * () {
    yield 'data:'
    yield * many(n, 'x', '\n\n')
  })()), [n])
  const since = performance.now()
  t.same(lengths(['data: 12345678\n'.repeat(n), '\n']), [9 * n - 1])
  t.equal(lengths(['data: 12345678\n\n'.repeat(n / 10) + '\r']).length, n / 10)
  t.equal(lengths(['data: 12345678\r\r'.repeat(n / 10) + '\n']).length, n / 10)
  t.ok(performance.now() - since < LONG)
})
