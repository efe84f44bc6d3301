// What must, and what must not, type-check. `npm run typecheck` compiles this file; nothing runs it.
import { Readable } from 'node:stream'
import { ReadableStream as WebStream } from 'node:stream/web'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import sse, {
  memoryBackplane,
  type Backplane,
  type Channel,
  type CloseReason,
  type Entry,
  type Filter,
  type GapReason,
  type NewEntry,
  type PublishEvent,
  type Receiver,
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
  async open (receiver: Receiver): Promise<void> {
    this.receiver = receiver
    same<number>()<typeof receiver.maxEvents>()
    receiver.reset('0')
    receiver.up()
    receiver.down(new Error('away'))
    // @ts-expect-error an error must be told
    receiver.down()
  }

  async append (entry: NewEntry): Promise<string> {
    const kept: Entry = { ...entry, cursor: '1' }
    this.receiver!.receive(kept)
    this.receiver!.receive(kept, 50)
    // @ts-expect-error an entry has a cursor
    this.receiver!.receive(entry)
    return kept.cursor
  }

  async sync (): Promise<void> {}
  compare (a: string, b: string): number { return Number(a) - Number(b) }
  async close (): Promise<void> {}
}
app.register(sse, { backplane: new MyBackplane() })

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
same<string | null>()<typeof stats.history.oldest>()
same<string>()<typeof stats.history.newest>()
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
anything.publish({ data: undefined })
anything.publish({ event: 'e' })
app.sse.publish('untyped', 'text')
app.sse.publish(['untyped', 'another'], { data: [1] })
app.sse.publish(['untyped'] as readonly string[], { data: [1] })
same<Array<StoredEvent<any>>>()<ReturnType<typeof anything.history>>()
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
// @ts-expect-error by name, not by handle
app.sse.publish(anything, 'text')
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
for (const event of time.history()) {
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
for (const event of numbers.history()) {
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
const [newest] = declared.history(1)
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
  // @ts-expect-error a handle, not a name
  stream.subscribe('time')
  // @ts-expect-error the channels go into an array
  stream.subscribe(time, anything)
  // @ts-expect-error retry is an option of the stream
  stream.subscribe(time, { retry: 5 })
  stream.subscribe(app.sse.channel<{ tick: { n: number } }>('t'), typedOptions)

  const done: Promise<void> = stream.close({ retry: 5 })
  used(done)
  await stream.close()
  // @ts-expect-error a number
  await stream.close({ retry: '5' })
})

const typedOptionsOfTime: SubscribeOptions<StoredEventOf<{ tick: { n: number }, stop: null }>> = { filter: event => event.event === 'stop' }

// What is stored

const stored: StoredEvent = { id: 'x-1', channels: ['a'], data: 1 }
same<unknown>()<typeof stored.data>()
same<string | undefined>()<typeof stored.event>()
const typed: StoredEvent<{ n: number }> = { id: 'x-1', channels: ['a'], event: 'e', data: { n: 1 } }
used(typed)
// @ts-expect-error read-only
stored.channels.push('b')
