import t from 'tap'
import type { SseStream } from '../../lib/index.ts'
import { build, driver, listen, until, type Driven } from '../client.ts'
import { block, settled, turn } from './driving.ts'
import { random } from './model.ts'
import { SharedLog } from './shared-log.ts'

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
const DELIVERIES = Number(process.env.DELIVERIES ?? 40_000)

const NAMES = ['prices', 'news', 'private']

/** A client that takes gzip and one that does not, whose streams are driven as one. */
interface Twins { readonly gzip: Driven, readonly plain: Driven, blocked: boolean, everBlocked: boolean }

t.test(`a compressed stream inflates to the bytes of a plain one that is treated like it (SEED=${SEED}, DELIVERIES=${DELIVERIES})`, { timeout: 0 }, async t => {
  const chance = random(SEED)
  const below = (n: number): number => Math.floor(chance() * n)
  const one = <T>(of: readonly T[]): T => of[below(of.length)]!
  let delivered = 0
  let saved = 0
  let equal = 0
  let unequal = 0

  while (delivered < DELIVERIES) {
    const app = await build(t, {
      compress: { minBytes: one([0, 60, 256, 4_000]), window: one([0, 500, 8_192, 32_768]) },
      heartbeatInterval: chance() < 0.5 ? 30 : 0,
      history: { maxEvents: one([4, 20, 300, 10_000]) },
      // Of what is read from a shared log, each channel has objects of its own.
      backplane: chance() < 0.5 ? new SharedLog().line() : undefined
    })
    const drive = driver(t, app)
    await listen(app)
    const twins: Twins[] = []
    let bytes = 0
    const published = new Set<string>()
    const cursors: string[] = []

    const open = async (lastEventId?: string): Promise<void> => {
      const channels = NAMES.filter(() => chance() < 0.7)
      const rewind = chance() < 0.5 ? one([1, 10, Infinity, Infinity]) : 0
      const filtered = chance() < 0.15
      const act = (stream: SseStream): void => {
        stream.send('hello').catch(t.fail)
        stream.subscribe(channels.length > 0 ? channels : 'prices', { rewind, ...(filtered && { filter: ({ data }) => data.n % 3 > 0 }) })
      }
      const options = { ...(lastEventId !== undefined && { lastEventId }), valve: true }
      const compress = one([undefined, undefined, true, { window: 2_000 }, { minBytes: 1 }])
      const gzip = await drive(act, { ...options, options: { compress }, headers: { 'accept-encoding': 'gzip' } })
      const plain = await drive(act, options)
      if (gzip.client.headers['content-encoding'] !== 'gzip') t.fail('one must be compressed')
      if (plain.client.headers['content-encoding'] !== undefined) t.fail('and the other plain')
      twins.push({ gzip, plain, blocked: false, everBlocked: false })
    }
    const both = ({ gzip, plain }: Twins, act: (one: Driven) => void): void => {
      act(gzip)
      act(plain)
    }
    const publish = (n: number): void => {
      for (let i = 0; i < n; i++) {
        const kind = below(3)
        const data = kind === 0
          ? { n: i, symbol: one(['ACME', 'INIT']), price: below(10_000) / 100 }
          : kind === 1 ? { n: i, text: 'wörds of a text \n€ '.repeat(below(20)) } : { n: i, list: Array.from({ length: below(8) }, () => below(1e9)) }
        const event = one(['price', 'news'])
        app.sse.publish(chance() < 0.3 ? NAMES.filter(() => chance() < 0.6).concat('elsewhere') : one(NAMES), { event, data }).then(id => {
          cursors.push(id)
          published.add(`id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}`)
        }, t.fail)
      }
    }
    const unblock = (pair: Twins): void => {
      both(pair, ({ valve }) => valve!.open())
      pair.blocked = false
    }
    const finish = async (pair: Twins): Promise<void> => {
      unblock(pair)
      await until(() => !pair.gzip.stream.blocked && !pair.plain.stream.blocked, 'both to go on')
      await settled(pair.gzip)
      await settled(pair.plain)
      both(pair, ({ stream }) => { stream.close().catch(t.fail) })
      await until(() => pair.gzip.client.closed !== undefined && pair.plain.client.closed !== undefined, 'both to end')
      if (pair.gzip.client.closed !== 'end') t.fail('the compressed one must end cleanly: its length and CRC-32 hold')
      const { text } = pair.plain.client
      const strange = blocksOf(pair.gzip.client.text).filter(block => block.startsWith('id: ') && !block.includes('\nevent: sse.gap\n') && !published.has(block))
      if (strange.length > 0) t.same(strange, [], 'what was published, and nothing else')
      if (comparable(pair.gzip.client.text) === comparable(text)) equal++
      else if (!pair.everBlocked) unequal++
      bytes += Buffer.byteLength(text)
      delivered += 2 * pair.plain.client.events.length
    }

    publish(below(80)) // which a shared log keeps, and nobody here has heard
    await turn(8)
    for (let n = 0; n < 12; n++) await open()
    for (let step = 0; step < 150; step++) {
      const pair = one(twins)
      const what = chance()
      if (what < 0.45) publish(chance() < 0.2 ? below(400) : below(5))
      else if (what < 0.55) both(pair, ({ stream }) => { stream.send({ event: 'own', data: 'x'.repeat(step) }).catch(t.fail) })
      else if (what < 0.62) {
        const name = one(NAMES)
        const back = one([{}, {}, { lastEventId: one([...cursors.slice(-40), null]) }])
        both(pair, ({ stream }) => { stream.subscribe(name, back) })
      } else if (what < 0.67) both(pair, ({ stream }) => { stream.unsubscribe('news') })
      else if (what < 0.72 && !pair.blocked) {
        pair.blocked = pair.everBlocked = true
        await Promise.all([block(pair.gzip), block(pair.plain)])
      } else if (what < 0.8 && pair.blocked) unblock(pair)
      else if (what < 0.87) {
        twins.splice(twins.indexOf(pair), 1)
        await finish(pair)
        await open(pair.plain.client.lastEventId)
      }
      if (chance() < 0.5) await turn(1)
      if (chance() < 0.03) await new Promise(resolve => setTimeout(resolve, 60)) // for heartbeats
    }
    for (const pair of twins) await finish(pair)
    saved += 2 * bytes - app.sse.stats().bytesWritten
    await app.close()
  }
  t.ok(saved > 0, `${delivered} deliveries, ${saved} bytes saved`)
  // Two sockets do not fill in the same moment. And where a pass is cut by its slice, what a test does in between meets one twin before its events and the other after them.
  t.ok(unequal <= 3 + equal / 20, `${equal} pairs got the same bytes, ${unequal} that were never blocked did not`)
})

t.test('a stream that begins at another place on each of its channels does not refer back to what it has not had', async t => {
  const app = await build(t, { compress: { window: 2_048 } })
  const drive = driver(t, app)
  await listen(app)
  const headers = { 'accept-encoding': 'gzip' }
  const old = await drive(stream => stream.subscribe(['prices', 'news']), { headers })
  const { cursor } = app.sse
  const text = (n: number): string => `the text of event ${n} `.repeat(15)
  for (let n = 0; n < 10; n++) for (const channel of ['prices', 'news']) app.sse.publish(channel, `${channel}: ${text(n)}`)
  await old.client.first(20)
  const late = await drive(stream => stream.subscribe('prices', { lastEventId: cursor }).subscribe('news', { lastEventId: null }), { headers })
  await late.client.first(10)
  for (let n = 10; n < 30; n++) {
    app.sse.publish(n % 2 === 0 ? 'prices' : 'news', text(n))
    await late.client.first(n + 1)
    t.equal(late.client.events[n]!.data, text(n), `event ${n}`)
  }
  await late.stream.close()
  await until(() => late.client.closed, 'the end')
  t.equal(late.client.closed, 'end')
})

t.test('a stream that goes back to where it began does not refer back to what came later', async t => {
  const app = await build(t, { compress: { window: 2_048 } })
  const drive = driver(t, app)
  await listen(app)
  const text = (n: number): string => `the text of event ${n} `.repeat(60)
  // Something that a piece from there on would refer back to.
  const keeper = await drive(stream => stream.subscribe('prices'), { headers: { 'accept-encoding': 'gzip' } })
  app.sse.publish('prices', 'what was published before')
  app.sse.publish('prices', text(-1))
  await keeper.client.first(2)
  const { cursor } = app.sse
  const { client, stream } = await drive(stream => stream.subscribe('prices'), { headers: { 'accept-encoding': 'gzip' } })
  for (let n = 0; n < 5; n++) app.sse.publish('prices', text(n))
  await client.first(5)
  stream.subscribe('prices', { lastEventId: cursor })
  await client.first(10)
  t.same(client.events.map(({ data }) => data), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4].map(text))
  await stream.close()
  await until(() => client.closed, 'the end')
  t.equal(client.closed, 'end')
})

/** The blocks of a body, in order; but for marks of the test's own, and for those that come by the clock. */
function blocksOf (text: string): string[] {
  return text.split('\n\n').filter(block => !/^(: settled|: fills|: ?$|id: \S+$)/.test(block))
}

/** Those of the log, then the stream's own: an event of its own may go out in between others of the log, or after them, as the turn has it. */
function comparable (text: string): string {
  const all = blocksOf(text)
  const own = (block: string): boolean => block.startsWith('event: own')
  return [...all.filter(block => !own(block)), ...all.filter(own)].join('\n\n')
}
