// What must, and what must not, type-check. `npm run typecheck` compiles this file; nothing runs it.
import { Readable } from 'node:stream'
import { ReadableStream as WebStream } from 'node:stream/web'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import sse, {
  memoryBackplane,
  type Backplane,
  type Channel,
  type ChannelLimits,
  type ChannelOrName,
  type CloseReason,
  type Entry,
  type EventsOf,
  type Filter,
  type GapReason,
  type HeardEntry,
  type Kept,
  type KeptEntry,
  type Life,
  type NewEntry,
  type Place,
  type PublishEvent,
  type Receiver,
  type SharedBackplane,
  type SseChannels,
  type SseEvent,
  type SseItem,
  type SseOptions,
  type SsePluginOptions,
  type SseRegistry,
  type SseRegistryEvents,
  type SseSource,
  type SseStats,
  type SseStream,
  type StoredEvent,
  type StoredEventOf,
  type SubscribeOptions
} from 'fastify-sse-channels'

declare module 'fastify-sse-channels' {
  interface SseChannels {
    'typed-time': { tick: { n: number }, stop: null }
    'typed-chat': { message: string, joined: { user: string } }
    [user: `typed-user/${string}`]: { note: { id: number } }
  }
}

/** Both types are the same, `any` included. */
function same<A> () {
  return <B>(..._: (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? [] : [error: 'the types differ']): void => {}
}

/** Only the type of a value matters here. */
function used (value: unknown): void {}

const app = Fastify()

// The plugin and its options

app.register(sse)
app.register(sse, {})
app.register(sse, {
  backplane: memoryBackplane(),
  history: { maxEvents: 10, maxBytes: 1024, maxAge: 0 },
  heartbeatInterval: 15_000,
  retry: 3_000,
  serialize: JSON.stringify,
  parse: JSON.parse,
  maxEventBytes: 1024,
  maxBufferedBytes: 1024,
  stallTimeout: 1_000,
  maxAge: 0,
  maxStreams: Infinity,
  maxStreamsPerKey: 5,
  streamKey: request => { same<FastifyRequest>()<typeof request>(); return request.ip },
  drain: { retry: [1_000, 5_000], timeout: 5_000 }
})
app.register(sse, { heartbeatInterval: 0 }).after(() => {})
const options: SsePluginOptions = { history: {}, drain: {} }
app.register(sse, options)
// An option may be given as undefined, though the consumer compiles with exactOptionalPropertyTypes.
app.register(sse, { retry: process.env.RETRY === undefined ? undefined : 5, history: { maxAge: undefined }, backplane: undefined, drain: { retry: undefined } })
app.register(sse, { streamKey: () => undefined, drain: { retry: [1, 2] as const } })
// @ts-expect-error no such option
app.register(sse, { heartbeat: 5 })
// @ts-expect-error no such limit
app.register(sse, { history: { events: 5 } })
// @ts-expect-error a number of milliseconds
app.register(sse, { retry: '3s' })
// @ts-expect-error null is no number
app.register(sse, { maxStreams: null })
// @ts-expect-error two numbers
app.register(sse, { drain: { retry: [1] } })
// @ts-expect-error two numbers
app.register(sse, { drain: { retry: 1_000 } })
// @ts-expect-error a string comes out
app.register(sse, { serialize: (data: unknown) => Buffer.from(String(data)) })
// @ts-expect-error not a backplane
app.register(sse, { backplane: {} })

// A backplane of one's own

class MyBackplane implements Backplane {
  receiver: Receiver | undefined
  last = 0

  async open (receiver: Receiver): Promise<void> {
    this.receiver = receiver
    const life: Life = { id: 'a', start: 0, end: Infinity, broken: false }
    receiver.mended([life], 0)
    receiver.restarted([life], 0)
    receiver.broken(new Error('away'))
    same<string | undefined>()<ReturnType<typeof receiver.endOf>>()
    // @ts-expect-error an error must be told
    receiver.broken()
    // @ts-expect-error the head must be told
    receiver.mended([life])
  }

  async append (entry: NewEntry): Promise<string> {
    const [limits] = entry.limits
    same<ChannelLimits | undefined>()<typeof limits>()
    used(limits)
    const kept: Entry = { ...entry, seq: ++this.last }
    const heard: HeardEntry = { ...kept, life: 'a', prevs: [this.last - 1] }
    this.receiver!.hear(heard)
    this.receiver!.advance({ life: 'a', seq: this.last })
    // @ts-expect-error an entry is of a life
    this.receiver!.hear(kept)
    return `a-${this.last}`
  }

  async close (): Promise<void> {}
}
app.register(sse, { backplane: new MyBackplane() })

class MySharedBackplane extends MyBackplane implements SharedBackplane {
  async watch (names: readonly string[]): Promise<void> {}
  unwatch (names: readonly string[]): void {}
  async read (name: string, after: number, newest?: number): Promise<Kept> {
    const entries: KeptEntry[] = []
    return { life: 'a', entries, floor: after, last: after, ended: false }
  }

  async seq (): Promise<Place> { return { life: 'a', seq: this.last } }
}
app.register(sse, { backplane: new MySharedBackplane() })

// The registry

same<SseRegistry>()<typeof app.sse>()
same<ReadonlySet<SseStream>>()<typeof app.sse.streams>()
same<string>()<typeof app.sse.cursor>()
// @ts-expect-error read-only
app.sse.cursor = ''
// @ts-expect-error read-only
app.sse.streams.clear()

const stats: SseStats = app.sse.stats()
same<number>()<typeof stats.streams>()
same<number>()<typeof stats.delivered>()
same<Record<CloseReason, number>>()<typeof stats.closed>()
same<{ channels: number, events: number, bytes: number }>()<typeof stats.history>()
same<'up' | 'down'>()<typeof stats.backplane>()
same<'client' | 'end' | 'server' | 'age' | 'stall' | 'overflow' | 'drain' | 'error'>()<CloseReason>()
same<'expired' | 'unknown' | 'reset' | 'overrun'>()<GapReason>()
// @ts-expect-error no such counter
stats.clients // eslint-disable-line @typescript-eslint/no-unused-expressions

app.sse.on('open', ({ stream }) => same<SseStream>()<typeof stream>())
app.sse.on('close', ({ stream, reason, durationMs, events, bytes }) => {
  same<SseStream>()<typeof stream>()
  same<CloseReason>()<typeof reason>()
  same<[number, number, number]>()<[typeof durationMs, typeof events, typeof bytes]>()
})
app.sse.once('subscribe', ({ channel, stream }) => same<[string, SseStream]>()<[typeof channel, typeof stream]>())
app.sse.once('unsubscribe', ({ channel, stream }) => same<[string, SseStream]>()<[typeof channel, typeof stream]>())
app.sse.on('gap', ({ stream, reason, channels }) => same<[SseStream, GapReason, readonly string[]]>()<[typeof stream, typeof reason, typeof channels]>())
app.sse.on('up', () => {})
app.sse.on('down', ({ error }) => same<Error>()<typeof error>())
same<keyof SseRegistryEvents>()<'open' | 'close' | 'subscribe' | 'unsubscribe' | 'gap' | 'up' | 'down'>()
// @ts-expect-error a close has no code
app.sse.on('close', ({ code }) => code)
// @ts-expect-error nothing comes with it
app.sse.on('up', ({ error }) => error)

// Events, where nothing is said of a channel

const anything = app.sse.channel('untyped')
same<Channel<any>>()<typeof anything>()
same<string>()<typeof anything.name>()
same<number>()<typeof anything.size>()
const published: Promise<string> = anything.publish({ event: 'e', data: { whatever: 1 } })
used(published)
anything.publish('text')
anything.publish({ event: 'e', data: null })
// @ts-expect-error no client ever fires an event without data
anything.publish({ event: 'e' })
// @ts-expect-error one object, not a name and its data
anything.publish('tick', { n: 1 })
app.sse.publish('untyped', 'text')
app.sse.publish(['untyped', 'another'], { data: [1] })
app.sse.publish(['untyped'] as readonly string[], { data: [1] })
same<Promise<Array<StoredEvent<any>>>>()<ReturnType<typeof anything.history>>()
anything.history(5)
// @ts-expect-error ids are the log's
anything.publish({ data: 1, id: '1' })
// @ts-expect-error retry belongs to one stream
anything.publish({ data: 1, retry: 5 })
// @ts-expect-error comments belong to one stream
anything.publish({ comment: 'c' })
// @ts-expect-error not an event
anything.publish(5)
// @ts-expect-error a name is a string
anything.publish({ event: 5, data: 1 })
// @ts-expect-error ids are the log's
app.sse.publish('untyped', { data: 1, id: '1' })
// @ts-expect-error a channel has a name
app.sse.publish(5, 'text')
app.sse.publish(anything, 'text')
app.sse.publish([anything, 'another'], { data: 1 })
// @ts-expect-error read-only
anything.name = 'other'

// Typed channels: the event's name and its data are checked together

const time = app.sse.channel<{ tick: { n: number }, stop: null }>('any-name')
time.publish({ event: 'tick', data: { n: 1 } })
time.publish({ event: 'stop', data: null })
// @ts-expect-error wrong data
time.publish({ event: 'tick', data: { n: '1' } })
// @ts-expect-error the data of another event
time.publish({ event: 'tick', data: null })
// @ts-expect-error no data
time.publish({ event: 'tick' })
// @ts-expect-error no such event
time.publish({ event: 'tock', data: { n: 1 } })
// What is undefined is as if it were not there
const maybe = undefined as string | undefined
anything.publish({ event: maybe, data: 1 })
app.sse.channel<{ message: unknown }>('of-all').publish('text')
app.sse.channel<{ message: string | { n: number } }>('of-both').publish('text')
// @ts-expect-error a number alone is no event
app.sse.channel<{ message: any }>('of-any').publish(5)
// @ts-expect-error wrong data, though the other channel would take it
app.sse.publish(['typed-time', 'untyped'], { event: 'tick', data: { n: '1' } })
// @ts-expect-error the other channel has no such event
app.sse.publish(['typed-time', 'typed-chat'], { event: 'tick', data: { n: 1 } })
// @ts-expect-error an event without a name is none of this channel
time.publish({ data: { n: 1 } })
// @ts-expect-error nor is a string
time.publish('tick')
// @ts-expect-error ids are the log's
time.publish({ event: 'tick', data: { n: 1 }, id: '1' })
for (const event of await time.history()) {
  same<'tick' | 'stop'>()<typeof event.event>()
  if (event.event === 'tick') same<{ n: number }>()<typeof event.data>()
  else same<null>()<typeof event.data>()
  same<[string, readonly string[]]>()<[typeof event.id, typeof event.channels]>()
}

// The key `message` types an event without a name

const chat = app.sse.channel<{ message: string, joined: { user: string } }>('any-other')
chat.publish('hello')
chat.publish({ data: 'hello' })
chat.publish({ event: 'message', data: 'hello' })
chat.publish({ event: 'joined', data: { user: 'u' } })
// @ts-expect-error wrong data
chat.publish({ data: 5 })
// @ts-expect-error the data of another event
chat.publish({ data: { user: 'u' } })
const numbers = app.sse.channel<{ message: number }>('numbers')
numbers.publish({ data: 5 })
// @ts-expect-error a string would be sent as text, and read back as text
numbers.publish('5')
for (const event of await numbers.history()) {
  same<number>()<typeof event.data>()
  // Without a name there is no `event`.
  const name: 'message' | undefined = event.event
  used(name)
}
const words: PublishEvent<{ message: 'a' | 'b' }> = 'a'
used(words)
// @ts-expect-error not one of the words
const word: PublishEvent<{ message: 'a' | 'b' }> = 'c'
used(word)

// A typed channel goes wherever a channel does

const channels: Channel[] = [time, chat, anything]
function takes (channel: Channel): void {}
takes(time)
takes(app.sse.channel('typed-time'))

// Declared once, typed by name

const declared = app.sse.channel('typed-time')
same<Channel<{ tick: { n: number }, stop: null }>>()<typeof declared>()
declared.publish({ event: 'tick', data: { n: 1 } })
// @ts-expect-error wrong data
declared.publish({ event: 'tick', data: { n: '1' } })
// @ts-expect-error no such event
declared.publish({ event: 'tock', data: { n: 1 } })
const [newest] = await declared.history(1)
if (newest?.event === 'tick') same<number>()<typeof newest.data.n>()
app.sse.publish('typed-time', { event: 'tick', data: { n: 1 } })
app.sse.publish('typed-chat', 'hello')
app.sse.publish(['typed-time'], { event: 'stop', data: null })
app.sse.publish(['typed-time', 'untyped'], { event: 'stop', data: null })
// @ts-expect-error wrong data
app.sse.publish('typed-time', { event: 'tick', data: 5 })
// @ts-expect-error not a text
app.sse.publish('typed-time', 'hello')
// @ts-expect-error no such event
app.sse.publish(['typed-time'], { event: 'tock', data: { n: 1 } })
same<{ tick: { n: number }, stop: null }>()<SseChannels['typed-time']>()
// A name that is not known before the program runs is any channel.
app.sse.publish(`user:${process.pid}`, { data: 1 })
app.sse.channel(`user:${process.pid}`).publish({ data: 1 })
app.sse.channel('typed-time' as string).publish({ data: 1 })
// The one named in angle brackets is meant where the name is not declared.
const named = app.sse.channel<{ a: 1 }>('untyped')
used(named)
same<Channel<{ a: 1 }>>()<typeof named>()

// Filters are typed by the channel

const tick: Filter = event => event.data.whatever === 1
const untypedOptions: SubscribeOptions = { filter: tick, rewind: 5, lastEventId: null }
const typedOptions: SubscribeOptions<StoredEventOf<{ tick: { n: number } }>> = { filter: event => event.data.n > 5 }

// The reply

app.get('/sources', (request, reply) => {
  same<typeof reply>()<ReturnType<typeof reply.sse<any>>>()
  const returned: FastifyReply = reply.sse(time)
  used(returned)
  reply.sse(anything, untypedOptions)
  reply.sse(time, { filter: event => event.event === 'tick' && event.data.n > 5 })
  reply.sse(declared, { filter: event => event.event === 'stop' || event.data.n > 5, rewind: 3, retry: 5, maxAge: 1_000, lastEventId: 'x-1' })
  reply.sse([declared, declared], { filter: event => event.id !== '' })
  reply.sse(channels)
  reply.sse([time, anything] as const)
  // @ts-expect-error no such field in the data
  reply.sse(time, { filter: event => event.event === 'tick' && event.data.m > 5 })
  // @ts-expect-error no such event
  reply.sse(time, { filter: event => event.event === 'tock' })
  // @ts-expect-error no such option
  reply.sse(time, { since: 5 })
  // @ts-expect-error a cursor is a text
  reply.sse(time, { lastEventId: 5 })
  // @ts-expect-error synchronous
  reply.sse(time, { filter: async event => event.event === 'tick' })

  reply.sse([{ data: 1 }, 'text', Buffer.from('bytes'), { comment: 'c' }])
  reply.sse(new Set(['a', 'b']))
  reply.sse((function * () { yield { data: 1 } })())
  reply.sse((function * (): Generator<SseItem, void, undefined> { yield 'text' })())
  reply.sse((async function * () { yield { event: 'e', data: 1, id: '1', retry: 5 }; yield 'text'; yield new Uint8Array(1) })())
  reply.sse(Readable.from(['a']))
  reply.sse(process.stdin)
  reply.sse(new WebStream<string>())
  reply.sse(new ReadableStream<Uint8Array>())
  reply.sse(new Response('x').body!)
  reply.sse(async function * () { yield 'text' })
  reply.sse(async stream => { await stream.send('text') })
  reply.sse(stream => { same<SseStream>()<typeof stream>(); stream.subscribe(time) })
  reply.sse(() => [1, 2].map(data => ({ data })))
  reply.sse((async function * () { yield { data: 1 } })(), { retry: 5, maxAge: 1_000 })
  reply.sse(memoryChannels() as SseSource)
  // @ts-expect-error a text: one event or many?
  reply.sse('text')
  // @ts-expect-error bytes: one event or many?
  reply.sse(new Uint8Array(1))
  // @ts-expect-error bytes: one event or many?
  reply.sse(Buffer.from('x'))
  // @ts-expect-error not a source
  reply.sse(5)
  // @ts-expect-error not a source
  reply.sse(null)
  // @ts-expect-error not a source
  reply.sse(true)
  // @ts-expect-error not items
  reply.sse([1, 2])
  // @ts-expect-error not an event
  reply.sse([{ date: 1 }])
  // @ts-expect-error not items
  reply.sse((async function * () { yield 5 })())
  // @ts-expect-error a promise of a source is awaited first
  reply.sse(Promise.resolve(['x']))
  return reply.sse(time)
})

app.get('/returned', async (request, reply) => reply.sse(time))

function memoryChannels (): unknown { return channels }

// The stream

app.get('/driven', async (request, reply) => {
  same<boolean>()<ReturnType<typeof request.acceptsSse>>()
  const stream = reply.sse()
  same<SseStream>()<typeof stream>()
  const again: SseStream = reply.sse({ retry: 0, filter: tick })
  used(again)
  const sseOptions: SseOptions = { retry: undefined, maxAge: undefined, rewind: undefined, filter: undefined, lastEventId: undefined }
  reply.sse(sseOptions)
  same<FastifyRequest>()<typeof stream.request>()
  same<string | null>()<typeof stream.lastEventId>()
  same<'opening' | 'open' | 'closed'>()<typeof stream.state>()
  same<boolean>()<typeof stream.blocked>()
  same<ReadonlySet<string>>()<typeof stream.channels>()
  same<AbortSignal>()<typeof stream.signal>()
  same<Promise<CloseReason>>()<typeof stream.closed>()
  // @ts-expect-error read-only
  stream.state = 'closed'
  // @ts-expect-error read-only
  stream.lastEventId = null

  const event: SseEvent = { data: { n: 1 }, event: 'e', id: '1', retry: 5, comment: 'c' }
  const sent: boolean = await stream.send(event)
  used(sent)
  await stream.send('text')
  await stream.send({ id: '' })
  const commented: boolean = await stream.comment('c')
  used(commented)
  // @ts-expect-error not an event
  await stream.send(5)
  // @ts-expect-error no such field
  await stream.send({ name: 'e', data: 1 })
  // @ts-expect-error a number
  await stream.send({ retry: '5' })
  // @ts-expect-error null is no id
  await stream.send({ id: null, data: 1 })

  stream.subscribe(time, { filter: ({ event, data }) => event === 'tick' && data !== null }).subscribe(anything, { lastEventId: app.sse.cursor }).unsubscribe(time)
  stream.subscribe(time, typedOptionsOfTime).unsubscribe([time, anything])
  stream.subscribe([time, anything], { rewind: 5 })
  // @ts-expect-error no such field
  stream.subscribe(app.sse.channel<{ tick: { n: number } }>('t'), { filter: event => event.data.m > 5 })
  stream.subscribe('untyped', tickOptions).subscribe(['untyped', time]).unsubscribe('untyped').unsubscribe([time, 'untyped'])
  // @ts-expect-error neither a handle nor a name
  stream.subscribe(5)
  // @ts-expect-error the events of a declared channel are known by its name
  stream.subscribe('typed-time', { filter: event => event.event === 'tock' })
  // @ts-expect-error the channels go into an array
  stream.subscribe(time, anything)
  // @ts-expect-error retry is an option of the stream
  stream.subscribe(time, { retry: 5 })
  // @ts-expect-error so is signal
  stream.subscribe(time, { signal: stream.signal })
  stream.subscribe(app.sse.channel<{ tick: { n: number } }>('t'), typedOptions)

  const done: Promise<void> = stream.close({ retry: 5 })
  used(done)
  await stream.close()
  // @ts-expect-error a number
  await stream.close({ retry: '5' })
})

const typedOptionsOfTime: SubscribeOptions<StoredEventOf<{ tick: { n: number }, stop: null }>> = { filter: event => event.event === 'stop' }

const tickOptions: SubscribeOptions = { filter: event => event.data.n > 5 }

// Several typed channels: the filter gets the events of all, and an event is published to all only if each of them has it

app.get('/several', (request, reply) => {
  const stream = reply.sse()
  stream.subscribe([time, chat], {
    filter: event => {
      same<'tick' | 'stop' | 'message' | 'joined' | undefined>()<typeof event.event>()
      if (event.event === 'tick') same<{ n: number }>()<typeof event.data>()
      if (event.event === 'joined') same<{ user: string }>()<typeof event.data>()
      return event.id !== ''
    }
  })
  stream.subscribe(['typed-time', chat], {
    filter: event => {
      same<'tick' | 'stop' | 'message' | 'joined' | undefined>()<typeof event.event>()
      return true
    }
  })
  // With one of which nothing is known, nothing is known.
  stream.subscribe([time, anything], { filter: event => event.data.whatever === event.event })
  // @ts-expect-error none of the channels has such an event
  stream.subscribe([time, chat], { filter: event => event.event === 'tock' })
  // @ts-expect-error the data is not any
  stream.subscribe([time, chat], { filter: event => event.data.whatever })
  const small = app.sse.channel<{ tick: { n: number } }>('small')
  stream.subscribe([time, small], { filter: event => event.event === 'stop' })
  return reply.sse([time, chat], { filter: event => event.event === 'joined' && event.data.user !== '' })
})
app.sse.publish([time, 'typed-time'], { event: 'tick', data: { n: 1 } })
app.sse.publish([chat, 'typed-chat'], 'hello')
// @ts-expect-error the other channel has no such event
app.sse.publish([time, chat], { event: 'tick', data: { n: 1 } })
// @ts-expect-error wrong data
app.sse.publish([time, 'untyped'], { event: 'tick', data: { n: '1' } })
const either: ChannelOrName = process.pid > 5 ? time : 'untyped'
app.sse.publish(either, 'anything')
same<{ tick: { n: number }, stop: null }>()<EventsOf<'typed-time'>>()
same<{ tick: { n: number }, stop: null }>()<EventsOf<typeof time>>()
same<any>()<EventsOf<'untyped'>>()

// Many channels declared at once, by a pattern

const user = app.sse.channel('typed-user/7')
same<Channel<{ note: { id: number } }>>()<typeof user>()
const userOf = app.sse.channel(`typed-user/${process.pid}`)
same<Channel<{ note: { id: number } }>>()<typeof userOf>()
used(userOf)
user.publish({ event: 'note', data: { id: 1 } })
app.sse.publish('typed-user/7', { event: 'note', data: { id: 1 } })
app.sse.publish(`typed-user/${process.pid}`, { event: 'note', data: { id: 1 } })
app.sse.publish(['typed-user/7', 'typed-user/8'], { event: 'note', data: { id: 1 } })
// @ts-expect-error wrong data
app.sse.publish('typed-user/7', { event: 'note', data: { id: '1' } })
// @ts-expect-error wrong data
app.sse.publish(`typed-user/${process.pid}`, { event: 'note', data: {} })
// @ts-expect-error no such event
user.publish({ event: 'tick', data: { n: 1 } })
app.sse.publish('users', 'not of the pattern')

// A stream's request is the route's

app.get<{ Params: { room: string }, Querystring: { since: string } }>('/rooms/:room', (request, reply) => {
  const stream = reply.sse()
  same<{ room: string }>()<typeof stream.request.params>()
  same<{ since: string }>()<typeof stream.request.query>()
  // @ts-expect-error no such parameter
  stream.request.params.user // eslint-disable-line @typescript-eslint/no-unused-expressions
  takesStream(stream)
  reply.sse(stream => { same<{ room: string }>()<typeof stream.request.params>() })
  return reply.sse(async function * (stream) { yield stream.request.params.room })
})
function takesStream (stream: SseStream): void {}
const http2 = Fastify({ http2: true })
http2.get<{ Params: { room: string } }>('/rooms/:room', (request, reply) => {
  const stream = reply.sse()
  same<{ room: string }>()<typeof stream.request.params>()
  used(stream)
  return reply.sse(http2.sse.channel('time'))
})

// A route that says what it replies: an async handler returns the reply, not the stream (Fastify's rule for its handlers)

app.get<{ Reply: { ok: boolean } }>('/replies', async (request, reply) => {
  const stream = reply.sse()
  stream.subscribe(time)
  return reply
})
app.get<{ Reply: { ok: boolean } }>('/replies/source', async (request, reply) => reply.sse(time))
// @ts-expect-error the stream is not what the route replies
app.get<{ Reply: { ok: boolean } }>('/replies/stream', async (request, reply) => reply.sse())

// What is stored

const stored: StoredEvent = { id: 'x-1', channels: ['a'], data: 1 }
same<unknown>()<typeof stored.data>()
same<string | undefined>()<typeof stored.event>()
const typed: StoredEvent<{ n: number }> = { id: 'x-1', channels: ['a'], event: 'e', data: { n: 1 } }
used(typed)
// @ts-expect-error read-only
stored.channels.push('b')
