import Fastify, { type FastifyRequest } from 'fastify'
import t from 'tap'
import sse, { memoryBackplane, type Backplane, type SseOptions, type SsePluginOptions } from '../lib/index.ts'
import { checkStreamOptions, resolveOptions } from '../lib/options.ts'
import { build, connect, listen } from './client.ts'

const LONGEST = 2 ** 31 - 1

/** One option: how to give it, how to read it back, and what it takes. */
interface Rule {
  readonly name: string
  readonly give: (value: any) => SsePluginOptions
  readonly read: (options: ReturnType<typeof resolveOptions>) => unknown
  readonly byDefault: unknown
  readonly taken: readonly unknown[]
  readonly rule: string
  /** Each with what the message calls it. */
  readonly refused: ReadonlyArray<readonly [value: unknown, received: string]>
}

const NO_NUMBERS = [
  [null, 'null'], ['1', '"1"'], ['', '""'], [true, 'true'], [false, 'false'], [NaN, 'NaN'], [-1, '-1'], [1n, '1n'], [[1], 'an object (array)'],
  [{}, 'an object'], [Object.create(null), 'an object'], [new Date(0), 'an object (Date)'], [() => 1, 'a function'], [Symbol('s'), 'Symbol(s)']
] as const

/** A whole number, or Infinity. */
const count = (name: string, byDefault: number, least: 0 | 1, give: Rule['give'], read: Rule['read']): Rule => ({
  name,
  give,
  read,
  byDefault,
  taken: [least, least + 1, 12_345, Number.MAX_SAFE_INTEGER, Infinity],
  rule: `a whole number >= ${least}, or Infinity`,
  refused: [...NO_NUMBERS, [0.5, '0.5'], [-Infinity, '-Infinity'], [2 ** 53, '9007199254740992'], ...(least === 1 ? [[0, '0'] as const] : [])]
})

const duration = (name: string, byDefault: number, give: Rule['give'], read: Rule['read']): Rule => ({
  name,
  give,
  read,
  byDefault,
  taken: [0, 0.5, 1, 60_000, LONGEST],
  rule: `a number of milliseconds from 0 to ${LONGEST}`,
  refused: [...NO_NUMBERS, [Infinity, 'Infinity'], [-0.5, '-0.5'], [LONGEST + 1, '2147483648'], [1e21, '1e+21']]
})

const fn = (name: string, give: Rule['give'], read: Rule['read'], byDefault: unknown): Rule => ({
  name,
  give,
  read,
  byDefault,
  taken: [() => 'x', function () {}, class {}, async () => {}],
  rule: 'a function',
  refused: [[null, 'null'], ['ip', '"ip"'], [0, '0'], [{}, 'an object'], [true, 'true']]
})

const group = (name: 'history' | 'drain', byDefault: object): Rule => ({
  name,
  give: value => ({ [name]: value }),
  read: options => options[name],
  byDefault,
  taken: [],
  rule: 'an object',
  refused: [[null, 'null'], [5, '5'], ['x', '"x"'], [[], 'an object (array)'], [true, 'true'], [() => {}, 'a function']]
})

const HISTORY = { maxEvents: 10_000, maxBytes: 16 * 1024 * 1024, maxAge: 0 }
const DRAIN = { retry: [1_000, 5_000], timeout: 5_000 }

const RULES: readonly Rule[] = [
  group('history', HISTORY),
  count('history.maxEvents', HISTORY.maxEvents, 0, maxEvents => ({ history: { maxEvents } }), ({ history }) => history.maxEvents),
  count('history.maxBytes', HISTORY.maxBytes, 0, maxBytes => ({ history: { maxBytes } }), ({ history }) => history.maxBytes),
  duration('history.maxAge', HISTORY.maxAge, maxAge => ({ history: { maxAge } }), ({ history }) => history.maxAge),
  duration('heartbeatInterval', 15_000, heartbeatInterval => ({ heartbeatInterval }), options => options.heartbeatInterval),
  {
    name: 'retry',
    give: retry => ({ retry }),
    read: options => options.retry,
    byDefault: 3_000,
    taken: [0, 1, 60_000, Number.MAX_SAFE_INTEGER],
    rule: 'a whole number of milliseconds >= 0',
    refused: [[null, 'null'], ['3000', '"3000"'], [-1, '-1'], [0.5, '0.5'], [NaN, 'NaN'], [Infinity, 'Infinity'], [3n, '3n'], [false, 'false'], [{}, 'an object'], [2 ** 53, '9007199254740992']]
  },
  fn('serialize', serialize => ({ serialize }), options => options.serialize, JSON.stringify),
  fn('parse', parse => ({ parse }), options => options.parse, JSON.parse),
  count('maxEventBytes', 1024 * 1024, 1, maxEventBytes => ({ maxEventBytes }), options => options.maxEventBytes),
  count('maxBufferedBytes', 1024 * 1024, 1, maxBufferedBytes => ({ maxBufferedBytes }), options => options.maxBufferedBytes),
  duration('stallTimeout', 120_000, stallTimeout => ({ stallTimeout }), options => options.stallTimeout),
  duration('maxAge', 0, maxAge => ({ maxAge }), options => options.maxAge),
  count('maxStreams', Infinity, 0, maxStreams => ({ maxStreams }), options => options.maxStreams),
  count('maxStreamsPerKey', Infinity, 0, maxStreamsPerKey => ({ maxStreamsPerKey }), options => options.maxStreamsPerKey),
  fn('streamKey', streamKey => ({ streamKey }), options => options.streamKey({ ip: '::1' } as FastifyRequest), '::1'),
  group('drain', DRAIN),
  {
    name: 'drain.retry',
    give: retry => ({ drain: { retry } }),
    read: options => options.drain.retry,
    byDefault: DRAIN.retry,
    taken: [[0, 0], [0, 1], [5, 5], [1, Number.MAX_SAFE_INTEGER]],
    rule: 'two whole numbers of milliseconds >= 0, the smaller first',
    refused: [[null, 'null'], [1_000, '1000'], ['1,2', '"1,2"'], [{ 0: 1, 1: 2, length: 2 }, 'an object'], [[], '[]'], [[1], '[1]'], [[1, 2, 3], '[1,2,3]'],
      [[2, 1], '[2,1]'], [[-1, 1], '[-1,1]'], [[0.5, 1], '[0.5,1]'], [[1, '2'], '[1,"2"]'], [[1, Infinity], '[1,Infinity]'], [[NaN, 1], '[NaN,1]'],
      [[1n, 2n], '[1n,2n]'], [[null, 1], '[null,1]']]
  },
  duration('drain.timeout', DRAIN.timeout, timeout => ({ drain: { timeout } }), ({ drain }) => drain.timeout)
]

function refusal (fn: () => unknown): { code?: string, statusCode?: number, message: string } {
  try {
    fn()
  } catch (error) {
    return error as Error
  }
  return { message: 'nothing was thrown' }
}

for (const { name, give, read, byDefault, taken, rule, refused } of RULES) {
  t.test(`the option ${name} has its default, takes what it may be, and refuses all else`, async t => {
    t.same(read(resolveOptions({})), byDefault, 'left out')
    t.same(read(resolveOptions(give(undefined))), byDefault, 'undefined')
    for (const value of taken) {
      if (name === 'streamKey') t.equal(resolveOptions(give(value)).streamKey, value)
      else t.same(read(resolveOptions(give(value))), value)
    }
    for (const [value, received] of refused) {
      const error = refusal(() => resolveOptions(give(value)))
      t.equal(error.message, `option "${name}" must be ${rule}, received ${received}`)
      t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
      t.equal(error.statusCode, 500)
      t.ok(error instanceof TypeError)
    }
  })
}

t.test('every option has a rule here, and none is made up', async t => {
  const given = resolveOptions({})
  const names = Object.entries(given).flatMap(([name, value]) => name === 'history' || name === 'drain' ? Object.keys(value as object).map(inner => `${name}.${inner}`) : [name])
  t.same(names.filter(name => name !== 'backplane').sort(), RULES.map(({ name }) => name).filter(name => name !== 'history' && name !== 'drain').sort())
})

t.test('the defaults of one group hold where only others of it are given', async t => {
  t.same(resolveOptions({ history: { maxEvents: 5 } }).history, { ...HISTORY, maxEvents: 5 })
  t.same(resolveOptions({ history: {} }).history, HISTORY)
  t.same(resolveOptions({ drain: { timeout: 0 } }).drain, { ...DRAIN, timeout: 0 })
})

t.test('options that are changed after the registration change nothing', async t => {
  const retry: [number, number] = [1, 2]
  const history = { maxEvents: 5 }
  const resolved = resolveOptions({ drain: { retry }, history })
  retry[0] = 99
  history.maxEvents = 99
  t.same(resolved.drain.retry, [1, 2])
  t.equal(resolved.history.maxEvents, 5)
})

t.test('options that are not the plugin\'s are none of its business: Fastify passes its own', async t => {
  const app = await build(t, { prefix: '/x', logLevel: 'warn' } as SsePluginOptions)
  t.ok(app.hasDecorator('sse'))
})

t.test('a backplane has all of its methods', async t => {
  t.equal(resolveOptions({}).backplane, undefined)
  const whole = memoryBackplane()
  t.equal(resolveOptions({ backplane: whole }).backplane, whole)
  class Mine implements Backplane {
    open = whole.open
    async append (): Promise<string> { return '' }
    async sync (): Promise<void> {}
    compare (): number { return 0 }
    async close (): Promise<void> {}
  }
  const mine = new Mine()
  t.equal(resolveOptions({ backplane: mine }).backplane, mine)
  for (const method of ['open', 'append', 'sync', 'compare', 'close']) {
    for (const value of [undefined, null, true, 'x']) {
      const { message, code } = refusal(() => resolveOptions({ backplane: { ...whole, [method]: value } as unknown as Backplane }))
      t.equal(message, `option "backplane" must be a backplane, with a method "${method}", received an object`)
      t.equal(code, 'SSE_ERR_INVALID_OPTION')
    }
  }
  for (const [value, received] of [[null, 'null'], ['redis', '"redis"'], [memoryBackplane, 'a function'], [{}, 'an object'], [5, '5']] as const) {
    t.equal(refusal(() => resolveOptions({ backplane: value as unknown as Backplane })).message, `option "backplane" must be a backplane, with a method "open", received ${received}`)
  }
})

t.test('a wrong option fails the registration', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(sse, { heartbeatInterval: -1 }) }, { code: 'SSE_ERR_INVALID_OPTION', message: /"heartbeatInterval"/ })
})

t.test('a value that is long is shortened in the message', async t => {
  const { message } = refusal(() => resolveOptions({ retry: 'x'.repeat(1_000) as unknown as number }))
  t.equal(message, `option "retry" must be a whole number of milliseconds >= 0, received "${'x'.repeat(60)}…"`)
})

/** What breaks the options of a stream or of a subscription. */
const REFUSED: ReadonlyArray<readonly [options: unknown, message: string]> = [
  ...[[0, '0'], [5, '5'], [false, 'false'], [{}, 'an object'], [['x'], 'an object (array)'], [1n, '1n']]
    .map(([lastEventId, received]) => [{ lastEventId }, `option "lastEventId" must be a string or null, received ${received}`] as const),
  ...[[-1, '-1'], [0.5, '0.5'], [NaN, 'NaN'], ['1', '"1"'], [null, 'null'], [1n, '1n'], [true, 'true']]
    .map(([rewind, received]) => [{ rewind }, `option "rewind" must be a whole number >= 0, or Infinity, received ${received}`] as const),
  ...[[null, 'null'], [true, 'true'], [{}, 'an object'], [/x/, 'an object (RegExp)']]
    .map(([filter, received]) => [{ filter }, `option "filter" must be a function, received ${received}`] as const),
  ...[[null, 'null'], [-1, '-1'], [0.5, '0.5'], ['1', '"1"'], [Infinity, 'Infinity']]
    .map(([retry, received]) => [{ retry }, `option "retry" must be a whole number of milliseconds >= 0, received ${received}`] as const),
  ...[[null, 'null'], [-1, '-1'], [NaN, 'NaN'], ['1', '"1"'], [Infinity, 'Infinity'], [LONGEST + 1, '2147483648']]
    .map(([maxAge, received]) => [{ maxAge }, `option "maxAge" must be a number of milliseconds from 0 to ${LONGEST}, received ${received}`] as const),
  [5, 'option "options" must be an object, received 5'],
  ['x', 'option "options" must be an object, received "x"'],
  [null, 'option "options" must be an object, received null'],
  [() => {}, 'option "options" must be an object, received a function'],
  [[], 'option "options" must be an object, received an object (array)']
]

t.test('the options of a stream are taken as they may be', async t => {
  const options: SseOptions[] = [{}, { lastEventId: '' }, { lastEventId: 'x-1' }, { lastEventId: null }, { lastEventId: undefined }, { rewind: 0 }, { rewind: 7 }, { rewind: Infinity },
    { filter: () => true }, { filter: undefined }, { retry: 0 }, { retry: 5 }, { maxAge: 0 }, { maxAge: 0.5 }, { maxAge: LONGEST }, Object.create(null) as SseOptions]
  for (const one of options) t.equal(checkStreamOptions(one), one)
})

t.test('the options of a stream that break a rule are refused', async t => {
  for (const [options, message] of REFUSED) {
    const error = refusal(() => checkStreamOptions(options as SseOptions))
    t.equal(error.message, message)
    t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
  }
})

t.test('reply.sse() and stream.subscribe() check their options, and a refusal opens and joins nothing', async t => {
  const app = await build(t)
  const channel = app.sse.channel('a')
  let refused: ReturnType<typeof refusal>[] = []
  app.get('/source', (request, reply) => reply.sse(channel, { rewind: -1 }))
  app.get('/driven', (request, reply) => reply.sse({ maxAge: -1 }))
  app.get('/subscribe', (request, reply) => {
    const stream = reply.sse()
    refused = [
      refusal(() => stream.subscribe(channel, { filter: 5 as never })),
      refusal(() => stream.subscribe(channel, [app.sse.channel('b')] as never)),
      refusal(() => stream.subscribe(channel, app.sse.channel('b') as never))
    ]
    stream.close()
  })
  for (const url of ['/source', '/driven']) {
    const response = await app.inject(url)
    t.equal(response.statusCode, 500)
    t.equal(response.json().code, 'SSE_ERR_INVALID_OPTION')
  }
  t.equal(app.sse.stats().opened, 0)
  const subscribed = new Set<string>()
  app.sse.on('subscribe', ({ channel }) => subscribed.add(channel))
  const client = await connect(await listen(app) + '/subscribe')
  t.equal(client.status, 200)
  t.same(refused.map(({ message }) => message), [
    'option "filter" must be a function, received 5',
    'option "options" must be an object, received an object (array)',
    'option "options" must be an object, received an object (ChannelHandle)'
  ], 'a second channel in the place of the options is a mistake that must not pass in silence')
  t.equal(subscribed.size, 0)
})

t.test('retry is sent first, 0 sends none, and a stream\'s own wins', async t => {
  const given: ReadonlyArray<readonly [plugin: SsePluginOptions, stream: SseOptions, sent: readonly number[]]> = [
    [{}, {}, [3_000]], [{}, { retry: 0 }, []], [{}, { retry: 7 }, [7]], [{ retry: 0 }, {}, []], [{ retry: 0 }, { retry: 9 }, [9]]
  ]
  for (const [plugin, stream, sent] of given) {
    const app = await build(t, plugin)
    app.get('/', (request, reply) => { reply.sse(stream).close() })
    const { body } = await app.inject('/')
    t.same([...body.matchAll(/^retry: (.*)$/gm)].map(([, digits]) => Number(digits)), sent, JSON.stringify([plugin, stream]))
  }
})
