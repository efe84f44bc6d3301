import { createParser, type EventSourceMessage } from 'eventsource-parser'
import t from 'tap'
import { isRetry } from '../../lib/checks.ts'
import { checkFields, encodeComment, encodeCursor, encodeEvent, measureEvent, type SseEvent } from '../../lib/wire/event.ts'
// The other parser: unlike eventsource-parser it tells of ids that come without data. It is not in the package's index.
import { getLines, getMessages } from '../../node_modules/@microsoft/fetch-event-source/lib/cjs/parse.js'

/** An event as a stream sends it: checked, then encoded. */
function encode (event: SseEvent | string): string {
  return encodeEvent(checkFields(event, JSON.stringify))
}

/** What fires in a client that is fed these bytes, decoded like a browser does: a BOM at the start of the stream is dropped. */
function read (...texts: string[]): { events: EventSourceMessage[], retries: number[], comments: string[], errors: string[] } {
  const events: EventSourceMessage[] = []
  const retries: number[] = []
  const comments: string[] = []
  const errors: string[] = []
  const parser = createParser({
    onEvent: event => events.push(event),
    onRetry: retry => retries.push(retry),
    onComment: comment => comments.push(comment),
    onError: error => errors.push(error.message)
  })
  const decoder = new TextDecoder()
  for (const text of texts) parser.feed(decoder.decode(Buffer.from(text), { stream: true }))
  return { events, retries, comments, errors }
}

/** Every id that a client takes, those of blocks without data too. */
function ids (text: string): string[] {
  const taken: string[] = []
  const onLine = getMessages(id => taken.push(id), () => {})
  getLines(onLine)(Buffer.from(text))
  return taken
}

/** What UTF-8 makes of a text: lone surrogates become U+FFFD. */
function wellFormed (text: string): string {
  return Buffer.from(text).toString()
}

function thrownBy (fn: () => unknown): Error & { code?: string } {
  try {
    fn()
  } catch (error) {
    return error as Error
  }
  throw new Error('nothing was thrown')
}

t.test('an event has its fields in the order id, event, retry, data, and ends with a blank line', async t => {
  t.equal(encode({ data: 'd', retry: 5, event: 'e', id: '1' }), 'id: 1\nevent: e\nretry: 5\ndata: d\n\n')
  t.equal(encode({ data: 'd', comment: 'c', id: '1' }), ': c\nid: 1\ndata: d\n\n', 'a comment leads')
  t.equal(encode('text'), 'data: text\n\n')
  const { events, retries, errors } = read(encode({ data: 'd', retry: 5, event: 'e', id: '1' }))
  t.same(events, [{ id: '1', event: 'e', data: 'd' }])
  t.same(retries, [5])
  t.same(errors, [])
})

t.test('a field that is undefined is the same as one left out', async t => {
  t.equal(encode({ id: undefined, event: undefined, retry: undefined, comment: undefined, data: 'd' } as unknown as SseEvent), 'data: d\n\n')
})

t.test('data is split into lines at CRLF, CR and LF', async t => {
  t.equal(encode('a\nb'), 'data: a\ndata: b\n\n')
  t.equal(encode('a\rb'), 'data: a\ndata: b\n\n')
  t.equal(encode('a\r\nb'), 'data: a\ndata: b\n\n')
  t.equal(encode('a\n\rb'), 'data: a\ndata: \ndata: b\n\n', 'LF CR is two line ends')
  t.equal(encode('a\r\r\nb'), 'data: a\ndata: \ndata: b\n\n', 'CR CRLF is two line ends')
  t.equal(encode('\n'), 'data: \ndata: \n\n')
  t.equal(encode('\r\na\r\n'), 'data: \ndata: a\ndata: \n\n')
  t.equal(encode('a\u2028b\u2029c\u0085d\ve\ff'), 'data: a\u2028b\u2029c\u0085d\ve\ff\n\n', 'nothing else ends a line')
  for (const text of ['a\nb', '\n', '\n\n', 'a\n', '\na', '\n\na\n\n']) t.same(read(encode(text)).events, [{ id: undefined, event: undefined, data: text }])
})

t.test('a leading space is kept, in every field', async t => {
  t.equal(encode({ id: ' 1', event: ' e', data: ' a\n b', comment: ' c' }), ':  c\nid:  1\nevent:  e\ndata:  a\ndata:  b\n\n')
  t.same(read(encode({ id: ' 1', event: '  e', data: ' a\n  b ' })).events, [{ id: ' 1', event: '  e', data: ' a\n  b ' }])
  t.same(read(encode({ comment: ' c' })).comments, [' c'])
})

t.test('an empty id, which resets the client\'s, is kept apart from no id', async t => {
  t.equal(encode({ id: '', data: 'd' }), 'id: \ndata: d\n\n')
  t.same(read(encode({ id: '', data: 'd' })).events, [{ id: '', event: undefined, data: 'd' }])
  t.same(read(encode({ data: 'd' })).events, [{ id: undefined, event: undefined, data: 'd' }])
  t.same(ids(encode({ id: '7', data: 'd' }) + encode({ id: '' })), ['7', ''])
})

t.test('empty data, which is an event, is kept apart from no data, which is none', async t => {
  t.equal(encode({ data: '' }), 'data: \n\n')
  t.equal(encode(''), 'data: \n\n')
  t.same(read(encode({ data: '' })).events, [{ id: undefined, event: undefined, data: '' }])
  t.equal(encode({ id: '1' }), 'id: 1\n\n')
  t.same(read(encodeEvent({ event: 'e' })).events, [], 'no client fires an event without data')
})

t.test('an empty event name is sent, and means the default type to a client', async t => {
  t.equal(encode({ event: '', data: 'd' }), 'event: \ndata: d\n\n')
  t.same(read(encode({ event: '', data: 'd' })).events, [{ id: undefined, event: undefined, data: 'd' }])
})

t.test('a block without data leaves nothing behind for the next event but its id', async t => {
  const { events } = read(encodeEvent({ event: 'lost', id: '1' }), encode('d'))
  t.same(events, [{ id: undefined, event: undefined, data: 'd' }])
})

t.test('0, false, null and other falsy values are data', async t => {
  t.equal(encode({ data: 0 }), 'data: 0\n\n')
  t.equal(encode({ data: false }), 'data: false\n\n')
  t.equal(encode({ data: null }), 'data: null\n\n')
  t.equal(encode({ data: -0 }), 'data: 0\n\n')
  t.equal(encode({ data: NaN }), 'data: null\n\n')
  t.equal(encode({ data: [] }), 'data: []\n\n')
})

t.test('a string is sent as it is, and anything else as "serialize" makes it', async t => {
  t.equal(encode('"quoted"'), 'data: "quoted"\n\n')
  t.equal(encode({ data: '{"n":1}' }), 'data: {"n":1}\n\n')
  t.equal(encode({ data: { n: 1 } }), 'data: {"n":1}\n\n')
  t.equal(encodeEvent(checkFields({ data: { n: 1 } }, () => 'a\nb')), 'data: a\ndata: b\n\n', 'what it makes is split too')
  const unasked = (): string => { throw new Error('strings are not serialized') }
  t.equal(checkFields('x', unasked).serialized, false)
  t.equal(checkFields({ data: 'x' }, unasked).serialized, false)
  t.equal(checkFields({ id: '1' }, unasked).serialized, false)
  let calls = 0
  const fields = checkFields({ data: 1 }, data => { calls++; return String(data) })
  t.match(fields, { data: '1', serialized: true })
  t.equal(calls, 1)
})

t.test('lone surrogates become U+FFFD, in every field', async t => {
  const lone = 'a\uD800b\uDC00c'
  const { events, comments } = read(encode({ id: lone, event: lone, data: lone + '\uD83D\n\uDE00', comment: lone }))
  t.same(events, [{ id: 'a\uFFFDb\uFFFDc', event: 'a\uFFFDb\uFFFDc', data: 'a\uFFFDb\uFFFDc\uFFFD\n\uFFFD' }])
  t.same(comments, ['a\uFFFDb\uFFFDc'])
  t.same(read(encode('\uD83D\uDE00')).events[0]!.data, '😀', 'a pair is left alone')
})

t.test('a BOM at the start of data stays data, at the start of a stream too', async t => {
  for (const data of ['\uFEFFx', '\uFEFF', '\u00EF\u00BB\u00BFx', 'a\n\uFEFFb']) t.same(read(encode(data)).events[0]!.data, data)
  t.same(read(encode({ id: '\uFEFF1', event: '\uFEFFe', data: '' })).events, [{ id: '\uFEFF1', event: '\uFEFFe', data: '' }])
  t.same(read(encode({ comment: '\uFEFFc' })).comments, ['\uFEFFc'])
})

t.test('NUL is refused in an id alone', async t => {
  t.throws(() => encode({ id: 'a\0' }), { code: 'SSE_ERR_INVALID_EVENT' })
  const { events, comments } = read(encode({ event: '\0', data: 'a\0b', comment: '\0' }))
  t.same(events, [{ id: undefined, event: '\0', data: 'a\0b' }])
  t.same(comments, ['\0'])
})

t.test('a comment is split at line ends like data, and fires nothing', async t => {
  t.equal(encodeComment('c'), ': c\n\n')
  t.equal(encodeComment(''), ': \n\n')
  t.equal(encodeComment('a\r\nb\rc\nd'), ': a\n: b\n: c\n: d\n\n')
  t.equal(encode({ comment: 'a\ndata: forged\n\nid: 1' }), ': a\n: data: forged\n: \n: id: 1\n\n')
  const { events, comments } = read(encode({ comment: 'a\ndata: forged\n\nid: 1' }))
  t.same(events, [])
  t.same(comments, ['a', 'data: forged', '', 'id: 1'])
})

t.test('a retry block sets the reconnection time and fires nothing', async t => {
  t.equal(encodeEvent({ retry: 3000 }), 'retry: 3000\n\n')
  t.equal(encodeEvent({ retry: 0 }), 'retry: 0\n\n')
  t.equal(encode({ retry: -0 }), 'retry: 0\n\n')
  const most = encode({ retry: Number.MAX_SAFE_INTEGER })
  t.equal(most, 'retry: 9007199254740991\n\n', 'never with an exponent')
  t.match(read(encodeEvent({ retry: 3000 }), most), { events: [], retries: [3000, Number.MAX_SAFE_INTEGER], errors: [] })
})

t.test('a cursor block sets the id and fires nothing', async t => {
  t.equal(encodeCursor('x-1'), 'id: x-1\n\n')
  t.equal(encode({ id: 'x-1' }), 'id: x-1\n\n')
  t.same(ids(encodeCursor('x-1') + encodeCursor('x-2')), ['x-1', 'x-2'])
  const { events, errors } = read(encodeCursor('x-1'), encode('d'))
  t.same(events, [{ id: undefined, event: undefined, data: 'd' }], 'what follows has no id of its own')
  t.same(errors, [])
})

const NO_DATA = 'must be given with the name NAME: no client ever fires an event without data, so write "data: \'\'" or "data: null", received undefined'

t.test('what the wire cannot carry is refused with field, rule and value', async t => {
  const refused: Array<[what: string, event: unknown, message: string]> = [
    ['LF in id', { id: 'a\nb' }, 'event: "id" must be a string without CR, LF and NUL, received "a\\nb"'],
    ['CR in id', { id: '\r' }, 'event: "id" must be a string without CR, LF and NUL, received "\\r"'],
    ['NUL in id', { id: '\0', data: 'd' }, 'event: "id" must be a string without CR, LF and NUL, received "\\u0000"'],
    ['a number as id', { id: 1 }, 'event: "id" must be a string without CR, LF and NUL, received 1'],
    ['0 as id', { id: 0 }, 'event: "id" must be a string without CR, LF and NUL, received 0'],
    ['null as id', { id: null }, 'event: "id" must be a string without CR, LF and NUL, received null'],
    ['LF in event', { event: 'a\n', data: 'd' }, 'event: "event" must be a string without CR and LF, received "a\\n"'],
    ['CR in event', { event: '\ra', data: 'd' }, 'event: "event" must be a string without CR and LF, received "\\ra"'],
    ['false as event', { event: false, data: 'd' }, 'event: "event" must be a string without CR and LF, received false'],
    ['the name of the plugin\'s gap', { event: 'sse.gap', data: 'd' }, 'event: "event" must not be one of the plugin\'s own names, received "sse.gap"'],
    ['the name of the plugin\'s end', { event: 'sse.end', data: 'd' }, 'event: "event" must not be one of the plugin\'s own names, received "sse.end"'],
    ['null as event', { event: null, data: 'd' }, 'event: "event" must be a string without CR and LF, received null'],
    ['negative retry', { retry: -1 }, 'event: "retry" must be a whole number of milliseconds >= 0, received -1'],
    ['fractional retry', { retry: 0.5 }, 'event: "retry" must be a whole number of milliseconds >= 0, received 0.5'],
    ['NaN as retry', { retry: NaN }, 'event: "retry" must be a whole number of milliseconds >= 0, received NaN'],
    ['Infinity as retry', { retry: Infinity }, 'event: "retry" must be a whole number of milliseconds >= 0, received Infinity'],
    ['retry too large to be exact', { retry: 2 ** 53 }, 'event: "retry" must be a whole number of milliseconds >= 0, received 9007199254740992'],
    ['retry that would need an exponent', { retry: 1e21 }, 'event: "retry" must be a whole number of milliseconds >= 0, received 1e+21'],
    ['a string as retry', { retry: '5' }, 'event: "retry" must be a whole number of milliseconds >= 0, received "5"'],
    ['a bigint as retry', { retry: 5n }, 'event: "retry" must be a whole number of milliseconds >= 0, received 5n'],
    ['null as retry', { retry: null, data: 'd' }, 'event: "retry" must be a whole number of milliseconds >= 0, received null'],
    ['a number as comment', { comment: 1 }, 'event: "comment" must be a string, received 1'],
    ['null as comment', { comment: null, data: 'd' }, 'event: "comment" must be a string, received null'],
    ['no field', {}, 'event: "event" must have one of data, id, retry and comment, received an object'],
    ['undefined fields', { data: undefined, id: undefined }, 'event: "event" must have one of data, id, retry and comment, received an object'],
    ['a misspelt field', { date: 'd' }, 'event: "event" must have one of data, id, retry and comment, received an object'],
    ['bytes', new Uint8Array(2), 'event: "event" must have one of data, id, retry and comment, received an object (Uint8Array)'],
    ['a name without data', { event: 'ping' }, `event: "data" ${NO_DATA.replace('NAME', '"ping"')}`],
    ['a name and data that is undefined', { event: 'item', data: undefined }, `event: "data" ${NO_DATA.replace('NAME', '"item"')}`],
    ['a name beside an id, without data', { event: 'e', id: '1', retry: 5, comment: 'c' }, `event: "data" ${NO_DATA.replace('NAME', '"e"')}`],
    ['an empty name without data', { event: '' }, `event: "data" ${NO_DATA.replace('NAME', '""')}`],
    ['undefined', undefined, 'event: "event" must be an object or a string, received undefined'],
    ['null', null, 'event: "event" must be an object or a string, received null'],
    ['a number', 7, 'event: "event" must be an object or a string, received 7'],
    ['a function', () => {}, 'event: "event" must be an object or a string, received a function'],
    ['data that serialises to undefined', { data: () => {} }, 'event: "data" must serialize to a string, not to undefined, received a function'],
    ['a symbol as data', { data: Symbol('s') }, 'event: "data" must serialize to a string, not to undefined, received Symbol(s)'],
    ['data whose toJSON gives undefined', { data: { toJSON () {} } }, 'event: "data" must serialize to a string, not to undefined, received an object'],
    ['a bigint as data', { data: 1n }, 'event: "data" must be something that "serialize" takes, received 1n']
  ]
  for (const [what, event, message] of refused) {
    const error = thrownBy(() => encode(event as SseEvent))
    t.equal(error.message, message, what)
    t.equal(error.code, 'SSE_ERR_INVALID_EVENT', what)
    t.ok(error instanceof TypeError, what)
  }
})

t.test('what "serialize" throws is the cause, and what it returns must be a string', async t => {
  const thrown = new RangeError('deep')
  t.throws(() => checkFields({ data: {} }, () => { throw thrown }), { code: 'SSE_ERR_INVALID_EVENT', cause: thrown })
  t.throws(() => checkFields({ data: {} }, () => 5 as unknown as string), { code: 'SSE_ERR_INVALID_EVENT', message: 'event: "data" must serialize to a string, not to 5, received an object' })
  t.throws(() => checkFields({ data: {} }, () => Buffer.from('x') as unknown as string), { code: 'SSE_ERR_INVALID_EVENT', message: /not to an object \(Buffer\)/ })
})

t.test('a reconnection time is a safe whole number that is not negative', async t => {
  for (const value of [0, -0, 1, 3000, Number.MAX_SAFE_INTEGER]) t.ok(isRetry(value), String(value))
  for (const value of [-1, 0.1, NaN, Infinity, 2 ** 53, '1', null, undefined, 1n, [1]]) t.notOk(isRetry(value), String(value))
})

t.test('a block of id, retry or comment alone can be sent', async t => {
  t.equal(encode({ id: '1' }) + encode({ retry: 5 }) + encode({ comment: 'c' }), 'id: 1\n\nretry: 5\n\n: c\n\n')
  t.equal(encode({ id: '1', retry: 5, comment: 'c' }), ': c\nid: 1\nretry: 5\n\n')
})

const EVENTS = 1_000_000
const BATCH = 2_000

t.test('a million random events, cut anywhere, are read back by a parser that others wrote', async t => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32)) >>> 0
  t.comment(`SEED=${seed}`)
  const random = numbers(seed)
  const below = (n: number): number => Math.floor(random() * n)
  const TEXTS = [
    '\r', '\n', '\r\n', '\n\n', '\0', ' ', '  ', ':', ': ', '\uFEFF', '\uD800', '\uDC00', '\uD83D', '\uDE00', '😀', 'é', '€', '\u2028', '\u0085', '\t',
    'data', 'data:', 'data: x', 'event: x', 'event', 'id', 'id: 7', 'retry: 5', 'retry', ':c', '0', 'a', 'some words', '{"n":1}', '\u00EF\u00BB\u00BF'
  ]
  const VALUES = [0, false, null, '', -1.5, [], {}, [null], { a: '\r\n' }, '0', 'false', 'null', 'undefined', true, ['\uD800']]
  const RETRIES: unknown[] = [0, -0, 1, 3000, 2 ** 31, Number.MAX_SAFE_INTEGER, 3000, 1, 0, -1, 1.5, NaN, Infinity, 2 ** 53, '1', null]

  function text (): string {
    let text = ''
    for (let n = below(6); n > 0; n--) text += TEXTS[below(TEXTS.length)]!
    return text
  }

  /** Mostly what an id or a name may be: every refusal costs a stack trace. */
  function lineText (): string {
    const value = text()
    return below(50) === 0 ? value : value.replace(/[\r\n\0]/g, '')
  }

  function event (): { [Field in keyof SseEvent]: unknown } {
    const made: { [Field in keyof SseEvent]: unknown } = {}
    if (below(3) > 0) made.id = lineText()
    if (below(3) === 0) made.event = below(500) === 0 ? VALUES[below(VALUES.length)] : lineText()
    if (below(8) === 0) made.retry = below(3) > 0 ? below(100_000) : RETRIES[below(RETRIES.length)]
    if (below(8) === 0) made.comment = text()
    if (below(8) > 0) made.data = below(4) === 0 ? VALUES[below(VALUES.length)] : text()
    return made
  }

  /** The rules of the wire, said once more, in other words than the code's. */
  function valid ({ id, event, retry, comment, data }: { [Field in keyof SseEvent]: unknown }): boolean {
    if ([id, event, retry, comment, data].every(value => value === undefined)) return false
    if (id !== undefined && (typeof id !== 'string' || ['\r', '\n', '\0'].some(c => id.includes(c)))) return false
    if (event !== undefined && (data === undefined || typeof event !== 'string' || ['\r', '\n'].some(c => event.includes(c)))) return false
    return retry === undefined || (typeof retry === 'number' && Math.floor(retry) === retry && Math.abs(retry) < 2 ** 53 && retry >= 0)
  }

  const SURROGATE = /[\uD800-\uDFFF]/
  const received = (text: string): string => SURROGATE.test(text) ? wellFormed(text) : text

  /** What has to happen in a client, one after the other (WHATWG HTML 9.2.6). */
  function expect ({ id, event, retry, comment, data }: SseEvent, happenings: unknown[]): void {
    if (comment !== undefined) for (const line of received(comment).split(/\r\n|\r|\n/)) happenings.push('comment', line)
    if (retry !== undefined) happenings.push('retry', retry === 0 ? 0 : retry)
    if (data === undefined) return
    const lines = typeof data === 'string' ? received(data).replace(/\r\n?/g, '\n') : JSON.stringify(data)
    happenings.push('event', id === undefined ? undefined : received(id), event === undefined || event === '' ? undefined : received(event), lines)
  }

  let expected: unknown[] = []
  let happened: unknown[] = []
  const parser = createParser({
    onEvent: ({ id, event, data }) => happened.push('event', id, event, data),
    onRetry: retry => happened.push('retry', retry),
    onComment: comment => happened.push('comment', comment),
    onError: error => happened.push('error', error.message)
  })
  const decoder = new TextDecoder()
  let accepted = 0
  let refused = 0
  let chunks = 0
  while (accepted < EVENTS) {
    let batch = ''
    const blocks: string[] = []
    expected = []
    happened = []
    while (blocks.length < BATCH) {
      const made = event()
      let block: string | undefined
      try {
        block = encode(made as SseEvent)
      } catch (error) {
        if ((error as { code?: string }).code !== 'SSE_ERR_INVALID_EVENT') throw error
      }
      if ((block !== undefined) !== valid(made)) return t.fail(`${block === undefined ? 'refused' : 'accepted'}, against the rules`, { made, seed })
      if (block === undefined) {
        refused++
        continue
      }
      expect(made as SseEvent, expected)
      blocks.push(block)
      if (measureEvent(checkFields(made as SseEvent, JSON.stringify)) !== Buffer.byteLength(block)) return t.fail('measured as something else', { made, seed })
      batch += block
    }
    accepted += blocks.length
    const bytes = Buffer.from(batch)
    for (let at = 0; at < bytes.length; chunks++) {
      const end = at + 1 + below(below(4) === 0 ? 3 : 400)
      parser.feed(decoder.decode(bytes.subarray(at, end), { stream: true }))
      at = end
    }
    const wrong = expected.findIndex((value, i) => !Object.is(value, happened[i]))
    if (wrong >= 0 || happened.length !== expected.length) {
      const at = wrong < 0 ? expected.length : wrong
      return t.fail('read back as something else', { seed, expected: expected.slice(at - 4, at + 8), happened: happened.slice(at - 4, at + 8) })
    }
  }
  t.comment(`${accepted} events in ${chunks} chunks, ${refused} refused`)
  t.ok(accepted >= EVENTS)
  t.ok(refused > 1_000, 'what must be refused was tried too')
})

/** mulberry32: the same numbers for the same seed. */
function numbers (seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}
