import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t from 'tap'
import sse, { memoryBackplane, type Backplane, type SseOptions, type SsePluginOptions } from '../lib/index.ts'
import { channelLimits, resolveOptions } from '../lib/options.ts'
import { checkStreamOptions, checkSubscribeOptions } from '../lib/stream/sse-stream.ts'
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

const LIMITS = { maxEvents: 10_000, maxAge: 600_000, latest: false }
const HISTORY = { limits: LIMITS, maxBytes: 64 * 1024 * 1024, channel: undefined }
const DRAIN = { retry: [1_000, 5_000], timeout: 5_000, finish: 5_000 }

const RULES: readonly Rule[] = [
  group('history', HISTORY),
  count('history.maxEvents', LIMITS.maxEvents, 0, maxEvents => ({ history: { maxEvents } }), ({ history }) => history.limits.maxEvents),
  count('history.maxBytes', HISTORY.maxBytes, 0, maxBytes => ({ history: { maxBytes } }), ({ history }) => history.maxBytes),
  duration('history.maxAge', LIMITS.maxAge, maxAge => ({ history: { maxAge } }), ({ history }) => history.limits.maxAge),
  fn('history.channel', channel => ({ history: { channel } }), ({ history }) => history.channel, undefined),
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
  {
    name: 'compress',
    give: compress => ({ compress }),
    read: options => options.compress,
    byDefault: undefined,
    taken: [{ minBytes: 0, window: 0 }, { minBytes: Infinity, window: 32_768 }],
    rule: 'true, false or an object',
    refused: [[null, 'null'], ['gzip', '"gzip"'], [0, '0'], [1, '1'], [[], 'an object (array)'], [() => true, 'a function'], [new Date(0), 'an object (Date)']]
  },
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
  duration('drain.timeout', DRAIN.timeout, timeout => ({ drain: { timeout } }), ({ drain }) => drain.timeout),
  duration('drain.finish', DRAIN.finish, finish => ({ drain: { finish } }), ({ drain }) => drain.finish)
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
  const { limits: { latest, ...limits }, ...history } = given.history // latest is of single channels alone
  const names = [...Object.keys({ ...limits, ...history }).map(name => `history.${name}`), ...Object.keys(given.drain).map(name => `drain.${name}`),
    ...Object.keys(given).filter(name => name !== 'history' && name !== 'drain')]
  t.same(names.sort(), RULES.map(({ name }) => name).filter(name => name !== 'history' && name !== 'drain').sort())
})

t.test('the defaults of one group hold where only others of it are given', async t => {
  t.same(resolveOptions({ history: { maxEvents: 5 } }).history, { ...HISTORY, limits: { ...LIMITS, maxEvents: 5 } })
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
  t.equal(resolved.history.limits.maxEvents, 5)
})

t.test('Fastify\'s own options of a registration are taken', async t => {
  const app = await build(t, { prefix: '/x', logLevel: 'warn', logSerializers: {} } as SsePluginOptions)
  t.ok(app.hasDecorator('sse'))
})

t.test('an option that there is not is refused, with the nearest there is, so nobody wonders why it does nothing', async t => {
  const left = (name: string, nearest: string, received: string): string => `option "${name}" must be left out: there is no such option. Did you mean "${nearest}"?, received ${received}`
  const given: ReadonlyArray<readonly [options: object, message: string | RegExp]> = [
    [{ histroy: {} }, left('histroy', 'history', 'an object')],
    [{ heartbeatinterval: 5 }, left('heartbeatinterval', 'heartbeatInterval', '5')],
    [{ maxStream: 5 }, left('maxStream', 'maxStreams', '5')],
    [{ history: { maxEvent: 5 } }, left('history.maxEvent', 'history.maxEvents', '5')],
    [{ history: { maxage: undefined } }, left('history.maxage', 'history.maxAge', 'undefined')],
    [{ drain: { timeuot: 5 } }, left('drain.timeuot', 'drain.timeout', '5')],
    [{ entirelyElse: true }, /^option "entirelyElse" must be one of backplane, history, .*, drain, .*, received true$/],
    [{ history: { entirelyElse: true } }, 'option "history.entirelyElse" must be one of maxEvents, maxAge, maxBytes, channel, received true']
  ]
  for (const [options, message] of given) {
    const error = refusal(() => resolveOptions(options))
    t.match(error.message, message)
    t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
  }
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => { await app.register(sse, { histroy: {} } as SsePluginOptions) }, { code: 'SSE_ERR_INVALID_OPTION', message: /Did you mean "history"/ })
})

t.test('a channel may have limits of its own, and has the others of all', async t => {
  const own: Record<string, object | undefined> = {
    busy: { maxEvents: 5 }, long: { maxAge: 0 }, none: {}, all: undefined, value: { latest: true }, aging: { latest: true, maxAge: 50 }, many: { latest: false, maxEvents: Infinity }
  }
  const { history } = resolveOptions({ history: { maxEvents: 100, maxAge: 1_000, channel: name => own[name] } })
  const expected: Record<string, object> = {
    busy: { maxEvents: 5, maxAge: 1_000, latest: false },
    long: { maxEvents: 100, maxAge: 0, latest: false },
    none: { maxEvents: 100, maxAge: 1_000, latest: false },
    all: { maxEvents: 100, maxAge: 1_000, latest: false },
    value: { maxEvents: 1, maxAge: 0, latest: true },
    aging: { maxEvents: 1, maxAge: 50, latest: true },
    many: { maxEvents: Infinity, maxAge: 1_000, latest: false }
  }
  for (const [name, limits] of Object.entries(expected)) t.same(channelLimits(history, name), limits, name)
})

t.test('what "history.channel" answers is checked, and what it throws is the cause', async t => {
  const answers: ReadonlyArray<readonly [answer: unknown, message: string]> = [
    [{ maxEvents: -1 }, 'option "history.channel().maxEvents" must be a whole number >= 0, or Infinity, received -1'],
    [{ maxAge: '1' }, `option "history.channel().maxAge" must be a number of milliseconds from 0 to ${LONGEST}, received "1"`],
    [{ latest: 1 }, 'option "history.channel().latest" must be true or false, received 1'],
    [{ latest: true, maxEvents: -1 }, 'option "history.channel().maxEvents" must be a whole number >= 0, or Infinity, received -1'],
    [{ maxEvent: 1 }, 'option "history.channel("a").maxEvent" must be left out: there is no such option. Did you mean "history.channel("a").maxEvents"?, received 1'],
    [5, 'option "history.channel("a")" must be an object, received 5'],
    [null, 'option "history.channel("a")" must be an object, received null']
  ]
  for (const [answer, message] of answers) {
    const { history } = resolveOptions({ history: { channel: () => answer as object } })
    const error = refusal(() => channelLimits(history, 'a'))
    t.equal(error.message, message)
    t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
  }
  const cause = new Error('no such table')
  const { history } = resolveOptions({ history: { channel: () => { throw cause } } })
  const error = refusal(() => channelLimits(history, 'a')) as Error
  t.equal(error.message, 'option "history.channel" must be a function that does not throw, received an error for the channel "a"')
  t.equal(error.cause, cause)
})

t.test('a promise for the limits of a channel is refused, as they are needed at once', async t => {
  const { history } = resolveOptions({ history: { channel: (async () => ({ maxEvents: 5 })) as never } })
  const error = refusal(() => channelLimits(history, 'a'))
  t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
  t.match(error.message, /"history\.channel".*synchronous/)
})

t.test('a publish whose limits cannot be told is refused, and so is a subscription', async t => {
  const app = await build(t, { history: { channel: name => { if (name === 'bad') throw new Error('x'); return undefined } } })
  await t.rejects(app.sse.publish('bad', 'x'), { code: 'SSE_ERR_INVALID_OPTION' })
  await t.rejects(app.sse.publish(['good', 'bad'], 'x'), { code: 'SSE_ERR_INVALID_OPTION' })
  app.get('/', (request, reply) => reply.sse(app.sse.channel('bad')))
  t.match((await app.inject('/')).json(), { code: 'SSE_ERR_INVALID_OPTION' })
  t.match(app.sse.stats(), { streams: 0, channels: 0, subscriptions: 0, received: 0 })
  await app.sse.publish('good', 'x')
})

t.test('a backplane has all of its methods', async t => {
  const whole = memoryBackplane()
  const register = async (backplane: unknown): Promise<FastifyInstance> => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(sse, { backplane: backplane as Backplane })
    return app
  }
  class Mine implements Backplane {
    open = whole.open
    append = whole.append
    async close (): Promise<void> {}
  }
  const app = await register(new Mine())
  t.type(await app.sse.publish('a', 'x'), 'string')
  const shared = { ...memoryBackplane(), watch: async () => {}, unwatch () {}, read: async () => {}, seq: async () => {} }
  const methods = { ...shared } as Record<string, unknown>
  for (const method of ['open', 'append', 'close', 'watch', 'unwatch', 'read', 'seq']) {
    for (const value of [undefined, null, true, 'x']) {
      await t.rejects(register({ ...methods, [method]: value }), {
        code: 'SSE_ERR_INVALID_OPTION',
        message: `option "backplane" must be a backplane, with a method "${method}", received an object`
      })
    }
  }
  for (const [value, received] of [[null, 'null'], ['redis', '"redis"'], [memoryBackplane, 'a function'], [{}, 'an object'], [5, '5']] as const) {
    await t.rejects(register(value), { message: `option "backplane" must be a backplane, with a method "open", received ${received}` })
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
  ...[[null, 'null'], [{}, 'an object'], [new AbortController(), 'an object (AbortController)'], [true, 'true']]
    .map(([signal, received]) => [{ signal }, `option "signal" must be an AbortSignal, received ${received}`] as const),
  [{ filtre: () => true }, 'option "filtre" must be left out: there is no such option. Did you mean "filter"?, received a function'],
  [{ data: 'x' }, 'option "data" must be one of lastEventId, rewind, filter, retry, maxAge, signal, compress, received "x"'],
  [5, 'option "options" must be an object, received 5'],
  ['x', 'option "options" must be an object, received "x"'],
  [null, 'option "options" must be an object, received null'],
  [() => {}, 'option "options" must be an object, received a function'],
  [[], 'option "options" must be an object, received an object (array)']
]

t.test('the options of a stream are taken as they may be', async t => {
  const options: SseOptions[] = [{}, { lastEventId: '' }, { lastEventId: 'x-1' }, { lastEventId: null }, { lastEventId: undefined }, { rewind: 0 }, { rewind: 7 }, { rewind: Infinity },
    { filter: () => true }, { filter: undefined }, { retry: 0 }, { retry: 5 }, { maxAge: 0 }, { maxAge: 0.5 }, { maxAge: LONGEST },
    { signal: AbortSignal.abort() }, Object.create(null) as SseOptions]
  for (const one of options) t.equal(checkStreamOptions(one), one)
})

t.test('the options of a stream that break a rule are refused', async t => {
  for (const [options, message] of REFUSED) {
    const error = refusal(() => checkStreamOptions(options as SseOptions))
    t.equal(error.message, message)
    t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
  }
})

t.test('the options of a subscription are those that it has, and what only a stream has is refused', async t => {
  for (const options of [{}, { lastEventId: null }, { rewind: 3 }, { filter: () => true }]) t.equal(checkSubscribeOptions(options), options)
  for (const options of [{ retry: 5 }, { maxAge: 5 }, { signal: AbortSignal.abort() }, { filtre: () => true }]) {
    const error = refusal(() => checkSubscribeOptions(options as SseOptions))
    t.equal(error.code, 'SSE_ERR_INVALID_OPTION')
    t.match(error.message, Object.keys(options)[0]!)
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
