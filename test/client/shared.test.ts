import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { resolve } from '../../lib/client/options.ts'
import { Shared } from '../../lib/client/shared.ts'
import type { Signal } from '../../lib/client/signal.ts'
import { build, soon } from '../client.ts'
import { FAST, observe } from './server.ts'

// What other tabs say, by hand. Real tabs are in share.test.ts.

setFlagsFromString('--expose-gc')
const gc: () => void = runInNewContext('gc')

let fromLeader: (data: unknown) => void
class Channel {
  onmessage = (message: { data: unknown }): void => {}
  constructor () { fromLeader = data => this.onmessage({ data }) }
  postMessage (): void {}
  close (): void {}
}
Object.assign(globalThis, { BroadcastChannel: Channel })
const navigatorOf = (request: (name: string, options: unknown, run: () => Promise<void>) => Promise<void>): void => {
  Object.defineProperty(globalThis, 'navigator', { value: { locks: { request } }, configurable: true })
}
navigatorOf(() => new Promise(() => {})) // another tab leads

/** A connection of one's own, by hand. */
class Connection {
  static tell: (signal: Signal) => void
  constructor (settings: unknown, tell: (signal: Signal) => void) { Connection.tell = tell }
  close (): void {}
}

const event = (data: string): Signal => ({ kind: 'event', type: 'message', data, origin: '', hasId: false, lastEventId: '' })

t.test('a tab of a stream without ids, which never meets the leader\'s, keeps no more than some of what that one tells', async t => {
  const told: string[] = []
  const shared = new Shared(resolve('http://127.0.0.1/', {}), signal => { if (signal.kind === 'event') told.push(signal.data) }, Connection, () => {})
  t.teardown(() => shared.close())
  Connection.tell({ kind: 'status', status: 'open' })
  fromLeader({ kind: 'here', status: 'open', ids: [] })
  const first = new WeakRef(event('0'))
  const tell = (one: Signal): void => {
    fromLeader(one)
    Connection.tell(event((one as Signal & { kind: 'event' }).data))
  }
  tell(first.deref()!)
  await new Promise(resolve => setImmediate(resolve)) // a WeakRef holds what it was asked for until then
  const count = 12_000
  for (let n = 1; n < count; n++) tell(event(String(n)))
  await soon(() => {
    gc()
    return first.deref() === undefined
  }, 'the first to be let go')
  t.same(told, Array.from({ length: count }, (_, n) => String(n)), 'each once, from its own connection')
})

t.test('a gap has the id of what the tab had last, where another channel of the stream goes on from there: it is told', async t => {
  const app = await build(t, { retry: 5, history: { maxEvents: 2 } }, { forceCloseConnections: true })
  app.get('/both', (request, reply) => reply.sse([app.sse.channel('busy'), app.sse.channel('quiet')]))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const url = `${app.listeningOrigin}/both`
  const { source, told } = observe(t, url, { ...FAST, share: true })
  await soon(() => source.lastEventId !== '', 'the stream')
  await app.sse.channel('busy').publish('seen')
  await soon(() => told.some(({ data }) => data === 'seen'), 'the event')
  for (const stream of app.sse.streams) stream.close()
  for (let n = 0; n < 5; n++) await app.sse.channel('busy').publish(`later ${n}`)
  await soon(() => told.some(({ data }) => data === 'later 4'), 'what is kept')
  t.match(told.filter(({ data }) => data !== undefined).map(({ type, data }) => [type, data]), [
    ['message', 'seen'], ['sse.gap', '{"reason":"expired","channels":["busy"]}'], ['message', 'later 3'], ['message', 'later 4']
  ])
})

t.test('a gap that the leader tells is told, also where a tab has had its id; an event that it has had is not', async t => {
  const told: string[] = []
  const shared = new Shared(resolve('http://127.0.0.1/', {}), signal => { if (signal.kind === 'event') told.push(signal.data) }, Connection, () => {})
  t.teardown(() => shared.close())
  const one = (type: string, data: string): Signal => ({ kind: 'event', type, data, origin: '', hasId: true, lastEventId: 'x-1' })
  Connection.tell({ kind: 'status', status: 'open' })
  Connection.tell(one('message', 'a'))
  fromLeader({ kind: 'here', status: 'open', ids: ['x-1'] }) // they meet: from here on it follows
  for (const [type, data] of [['sse.gap', 'reset'], ['message', 'a']] as const) fromLeader(one(type, data))
  t.same(told, ['a', 'reset'])
})

t.test('an event is told whose id came alone before: of a channel that the stream has joined since', async t => {
  const app = await build(t, { history: { channel: name => name === 'value' ? { latest: true } : undefined } }, { forceCloseConnections: true })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('news')))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const id = await app.sse.channel('value').publish('newest')
  const plain = observe(t, `${app.listeningOrigin}/events`)
  const sharing = observe(t, `${app.listeningOrigin}/events`, { share: true })
  await soon(() => [plain, sharing].every(({ source }) => source.lastEventId === id), 'where the log stands')
  for (const stream of app.sse.streams) stream.subscribe('value')
  await soon(() => plain.data.length === 1, 'the value')
  await app.sse.channel('news').publish('next')
  await soon(() => [plain, sharing].every(({ data }) => data.at(-1) === 'next'), 'the next event')
  t.same([plain.data, sharing.data], [['newest', 'next'], ['newest', 'next']])
})

t.test('a leader says where its stream stands, also where it has had what it tells: a tab that comes meets it there and no earlier', async t => {
  const posted: any[] = []
  Channel.prototype.postMessage = (message?: unknown) => { posted.push(message) }
  navigatorOf((name, options, run) => run())
  t.teardown(() => { Channel.prototype.postMessage = () => {} })
  const told: Signal[] = []
  const shared = new Shared(resolve('http://127.0.0.1/', {}), signal => { told.push(signal) }, Connection, () => {})
  t.teardown(() => shared.close())
  Connection.tell({ kind: 'status', status: 'open' })
  const one = (id: string): Signal => ({ kind: 'event', type: 'message', data: id, origin: '', hasId: true, lastEventId: id })
  const at = (id: string): Signal => ({ kind: 'id', lastEventId: id })
  // The stream goes back for a channel that it joins, and says then how far it had been.
  for (const signal of [one('x-3'), at('x-3'), one('x-1'), at('x-1'), at('x-3'), at('x-3')]) Connection.tell(signal)
  for (const [whom, heard] of [['the tab itself', told], ['the others', posted]] as const) {
    t.match(heard.filter(({ kind }) => kind === 'event' || kind === 'id'), [one('x-3'), one('x-1'), at('x-3')], `${whom}: each place once`)
  }
  fromLeader({ kind: 'hello' })
  t.match(posted.at(-1), { kind: 'here', ids: ['x-3', 'x-3'] })
})
