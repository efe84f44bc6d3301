import t from 'tap'
import * as errors from '../lib/errors.ts'

const { received, ...classes } = errors

/** Code, status and base of each: applications branch on them. */
const CATALOGUE: ReadonlyArray<readonly [code: keyof typeof classes, status: number, isTypeError: boolean]> = [
  ['SSE_ERR_INVALID_OPTION', 500, true],
  ['SSE_ERR_INVALID_EVENT', 500, true],
  ['SSE_ERR_EVENT_TOO_LARGE', 413, false],
  ['SSE_ERR_INVALID_CHANNEL', 500, true],
  ['SSE_ERR_INVALID_SOURCE', 500, true],
  ['SSE_ERR_TOO_MANY_STREAMS', 503, false],
  ['SSE_ERR_TOO_MANY_STREAMS_FOR_KEY', 429, false],
  ['SSE_ERR_ALREADY_SENT', 500, false],
  ['SSE_ERR_ALREADY_REGISTERED', 500, false],
  ['SSE_ERR_BACKPLANE_DOWN', 503, false],
  ['SSE_ERR_CHANNEL_ENDED', 409, false],
  ['SSE_ERR_CLOSED', 503, false]
]

t.test('each error has its code, its status and its kind', async t => {
  t.same(Object.keys(classes).sort(), CATALOGUE.map(([code]) => code).sort(), 'the catalogue is complete')
  for (const [code, status, isTypeError] of CATALOGUE) {
    const error = new (classes[code] as new (...args: unknown[]) => Error & { code: string, statusCode: number })('a', 'b', 'c')
    t.equal(error.code, code)
    t.equal(error.statusCode, status, code)
    t.ok(error instanceof Error)
    t.equal(error instanceof TypeError, isTypeError, code)
    t.match(String(error.stack), /errors\.test\.ts/, 'and says where it was made')
  }
})

t.test('messages name what is wrong, the rule and the value', async t => {
  t.equal(new errors.SSE_ERR_INVALID_OPTION('retry', 'whole', '-1').message, 'option "retry" must be whole, received -1')
  t.equal(new errors.SSE_ERR_INVALID_EVENT('id', 'must be short', '"x"').message, 'event: "id" must be short, received "x"')
  t.equal(new errors.SSE_ERR_EVENT_TOO_LARGE(12, 10).message, 'event: it has 12 bytes when encoded, but "maxEventBytes" is 10')
  t.equal(new errors.SSE_ERR_INVALID_CHANNEL('a name', '5').message, 'channel: must be a name, received 5')
  t.equal(new errors.SSE_ERR_INVALID_SOURCE('reply.sse()', 'one', '"x"').message, 'reply.sse(): the source must be one, received "x"')
  t.equal(new errors.SSE_ERR_TOO_MANY_STREAMS(5).message, '"maxStreams" is 5, and that many streams are open')
  t.equal(new errors.SSE_ERR_TOO_MANY_STREAMS_FOR_KEY(5).message, '"maxStreamsPerKey" is 5, and that many streams are open for this client')
  t.match(new errors.SSE_ERR_ALREADY_SENT('GET', '/x').message, 'GET /x')
  t.match(new errors.SSE_ERR_BACKPLANE_DOWN('no route').message, 'no route')
  t.match(new errors.SSE_ERR_CHANNEL_ENDED('answer:7').message, 'answer:7')
  t.match(new errors.SSE_ERR_CLOSED('publish()').message, 'publish()')
})

t.test('a cause is kept, and is not part of the message', async t => {
  const cause = new Error('deep')
  const invalid = new errors.SSE_ERR_INVALID_EVENT('data', 'must be', 'x', { cause })
  t.equal(invalid.cause, cause)
  t.equal(invalid.message, 'event: "data" must be, received x')
  t.equal(new errors.SSE_ERR_BACKPLANE_DOWN('gone', { cause }).cause, cause)
})

t.test('what was received is told in a few words', async t => {
  const told: ReadonlyArray<readonly [value: unknown, text: string]> = [
    ['x', '"x"'], ['', '""'], ['a\nb"\0', '"a\\nb\\"\\u0000"'], ['x'.repeat(60), `"${'x'.repeat(60)}"`], ['x'.repeat(61), `"${'x'.repeat(60)}…"`],
    ['%s %d', '"%s %d"'], [5, '5'], [-0, '0'], [NaN, 'NaN'], [Infinity, 'Infinity'], [5n, '5n'], [true, 'true'], [null, 'null'], [undefined, 'undefined'],
    [Symbol('s'), 'Symbol(s)'], [() => {}, 'a function'], [class {}, 'a function'], [{}, 'an object'], [Object.create(null), 'an object'], [[], 'an object (array)'],
    [new Map(), 'an object (Map)'], [Buffer.from('secret'), 'an object (Buffer)'], [new (class Mine {})(), 'an object (Mine)'], [new Error('secret'), 'an object (Error)']
  ]
  for (const [value, text] of told) t.equal(received(value), text)
})

t.test('what was received cannot break the message that tells of it', async t => {
  t.equal(new errors.SSE_ERR_INVALID_OPTION('retry', 'whole', received('%s%d%j')).message, 'option "retry" must be whole, received "%s%d%j"')
  for (const value of [{ constructor: null }, { constructor: { name: 5 } }, { toString () { throw new Error('asked') } }, Object.assign(() => {}, { toString: null })]) {
    t.match(received(value), /^an? (object|function)/)
  }
})
