import { Redis } from 'ioredis'
import t from 'tap'
import { redisBackplane } from '../lib/redis-backplane.ts'
import { until } from './backplane-contract.ts'
import { build, connect, listen, soon } from './client.ts'
import { faults } from './faults/faults.ts'
import { App } from './faults/fleet.ts'
import { breakAfter, breakAt, check, NUMBERS, type Evidence, type Item, type Reception } from './faults/model.ts'
import { header, row, trial, type Outcome } from './faults/trial.ts'
import { noRedis, RedisServer } from './redis-server.ts'

// The seed repeats a run, as far as the machine does. The long run is test/faults/run.ts.
const seed = Number(process.env.FAULT_SEED ?? Date.now() % 100_000)
const seconds = Number(process.env.FAULT_SECONDS ?? 4)

t.test('the judge', async t => {
  // Times and ids are the same small numbers here. All is published to channel 1.
  const number = (i: number) => NUMBERS + 20 * i + 1
  const cursor = (i: number, hash = 'AAAAAAAA') => `${i}-0.${hash}`
  const event = (i: number, time = i, n = number(i)): Item => ({ kind: 'event', time, cursor: cursor(i), n })
  const at = (i: number, time = i): Item => ({ kind: 'cursor', time, cursor: cursor(i) })
  const gap = (i: number, time = i, reason = 'reset', channels = [1]): Item => ({ kind: 'gap', time, cursor: cursor(i), reason, channels })
  const log = (...ids: number[]) => new Map(ids.map(i => [number(i), cursor(i)]))
  const judge = (items: Item[], evidence: Partial<Evidence> = {}) => check({
    acknowledged: log(1, 2, 3, 4, 5), found: new Map(), breaks: [], lossFrom: 0, clients: [{ name: 'client', channels: [1, 3], items }], ...evidence
  })
  const kinds = (items: Item[], evidence?: Partial<Evidence>) => judge(items, evidence).complaints.map(text => text.split(':')[0])

  await t.test('finds nothing where there is nothing', async t => {
    t.same(judge([at(0), event(1), event(2), event(3), at(3), event(4), event(5)], { lossFrom: undefined }), {
      acknowledged: 5, delivered: 5, gaps: 0, behind: 0, repeated: 0, missing: 0, complaints: []
    })
    t.same(kinds([at(2), event(3), event(4), event(5)]), [], 'what was published before it subscribed is not owed')
    t.same(kinds([at(0), event(1), event(2), event(3), event(4), event(5), event(6)]), [], 'more than was acknowledged may be in the log')
  })

  await t.test('finds what is missing, repeated, or out of order', async t => {
    t.match(judge([at(0), event(1), event(2), event(4), event(5)]), { missing: 1, complaints: [/^missing: client did not get event 1000061, 3-0\.A/] })
    t.match(judge([at(0), event(1), event(2), event(3), event(4)]), { missing: 1, complaints: [/never came so far/] })
    t.match(judge([at(0), event(1), event(2), at(5)]), { missing: 3 }, 'a cursor that was given too early')
    t.match(judge([at(0), event(1), event(2), event(4), event(5)], { acknowledged: log(1, 2, 4, 5), found: log(3) }), { missing: 1 }, 'what was in the log unacknowledged')
    t.same(kinds([at(0), event(1), event(3), event(2), event(4), event(5)]), ['out of order'])
    t.same(kinds([at(0), event(1), event(2), event(2), event(3), event(4), event(5)]), ['repeated'])
    t.same(kinds([at(0), event(1), event(2), at(1), event(3), event(4), event(5)]), ['cursor goes back'])
    t.same(kinds([at(0), event(1), event(2), event(3), event(4), event(5), event(6, 6, NUMBERS + 122)]), ['foreign channel'])
    t.same(kinds([at(0), event(1), event(2), event(3), event(4), { ...event(5), cursor: cursor(5, 'BBBBBBBB') }]), ['two cursors'])
    t.same(kinds([]), ['never subscribed'])
    t.same(kinds([at(5)], { acknowledged: new Map([[number(2), cursor(1)], [number(1), cursor(2)]]) }), ['publisher order'])
    t.same(kinds([at(5)], { acknowledged: new Map([[number(1), cursor(1)], [number(2), cursor(1)]]) }), ['one place'])
  })

  await t.test('takes a gap for what it says, and for no more', async t => {
    t.match(judge([at(0), event(1), gap(3), event(4), event(5)]), { behind: 2, missing: 0, complaints: [] })
    t.match(judge([at(0), event(1), gap(3), event(5)]), { behind: 2, missing: 1 }, 'what is lost after the gap')
    t.match(judge([at(0), event(2), gap(3), event(4), event(5)]), { behind: 1, missing: 1 }, 'what is lost before the gap')
    t.match(judge([at(0), event(1), gap(3, 3, 'overrun', [3]), event(4), event(5)]), { behind: 0, missing: 2 }, 'the gap of another channel')
    t.match(judge([at(0), event(1), event(2), gap(1, 3, 'unknown'), event(2, 4), event(3), event(4), event(5)]), { repeated: 1, missing: 0, complaints: [] })
    t.same(kinds([at(0), event(1), event(2), gap(1, 3, 'overrun'), event(2, 4), event(3), event(4), event(5)]), ['gap', 'repeated'])
    t.same(kinds([at(0), event(1), gap(1), event(2), event(3), event(4), event(5)], { lossFrom: undefined }), ['gap without a loss'])
    t.same(kinds([at(0), event(1), gap(1, 1), event(2), event(3), event(4), event(5)], { lossFrom: 2 }), ['gap without a loss'])
  })

  await t.test('knows what was destroyed, and that nobody may have passed it before', async t => {
    const breaks = [breakAt(3, [cursor(1)])]
    t.match(judge([at(0), event(1), event(4), gap(4), event(5)], { breaks }), { behind: 2, missing: 0, complaints: [] }, 'told late')
    t.match(judge([at(0), event(1), event(4), event(5)], { breaks }), { missing: 2 }, 'never told')
    t.match(judge([at(0), gap(0, 2), event(1), event(4), event(5)], { breaks }), { missing: 2 }, 'told of something else, before')
    t.match(judge([at(0), event(1), event(3, 2), gap(4), event(4), event(5)], { breaks: [breakAt(3, [])] }), { missing: 1 }, 'passed before')
    t.match(judge([at(0), event(1), event(5), gap(5)], { breaks: [breakAt(3, [cursor(1), cursor(2)])] }), { behind: 1, missing: 2 }, 'what was not destroyed')
  })

  await t.test('tells an id from the same id of another log', async t => {
    const again = (time: number): Item => ({ kind: 'event', time, cursor: cursor(2, 'BBBBBBBB'), n: number(9) })
    const evidence = { acknowledged: new Map([...log(1, 2), [number(9), cursor(2, 'BBBBBBBB')]]), breaks: [breakAfter(3, [cursor(1), cursor(2)], [cursor(1)])] }
    t.match(judge([at(0), event(1), event(2), gap(1, 4), again(5)], evidence), { missing: 0, complaints: [] })
    t.match(judge([at(0), event(1), again(5)], evidence), { missing: 1 })
    t.match(judge([at(0), event(1), event(2), gap(1, 4)], evidence), { missing: 1 })
    t.same(kinds([at(0), event(1), again(4), event(2, 5)], evidence), ['out of order'])
  })
})

t.test('three processes and 200 clients', { skip: noRedis }, async t => {
  const apps = await Promise.all([0, 1, 2].map(() => App.start(t)))
  t.comment(header)
  let sound: Outcome | undefined

  for (const fault of faults) {
    const promise = fault.lossless ? 'all get everything, once, in order, without a gap' : 'all get everything, in order, or a gap'
    await t.test(`${fault.title}: ${promise}`, async t => {
      const outcome = await trial(t, fault, apps, { seconds, seed })
      t.comment(row(fault.name, seed, outcome))
      t.same(outcome.complaints, [])
      t.equal(outcome.missing, 0)
      t.ok(outcome.acknowledged > 0 && outcome.delivered > outcome.acknowledged)
      t.ok(fault.name === 'nothing' || outcome.times > 0, 'the fault was brought about')
      if (fault.name === 'nothing') sound = outcome
    })
  }

  await t.test('what they received, falsified at one place, is found out', async t => {
    if (sound === undefined) throw new Error('there is nothing to falsify')
    const { evidence } = sound
    t.same(check(evidence).complaints, [])
    const busiest = evidence.clients.reduce((most, client) => client.items.length > most.items.length ? client : most)
    const places = busiest.items.flatMap(({ kind }, i) => kind === 'event' ? [i] : [])
    const [i, j] = places.slice(places.length >> 1) as [number, number]
    const kindsOf = (items: Item[]) => {
      const client: Reception = { name: busiest.name, channels: busiest.channels, items }
      return check({ ...evidence, clients: evidence.clients.map(other => other === busiest ? client : other) }).complaints.map(text => text.split(':')[0])
    }
    t.same(kindsOf(busiest.items.toSpliced(i, 1)), ['missing'])
    t.same(kindsOf(busiest.items.toSpliced(i, 1).toSpliced(j, 0, busiest.items[i]!)), ['out of order'])
    t.same(kindsOf(busiest.items.toSpliced(j, 0, busiest.items[i]!)), ['repeated'])
    t.same(kindsOf(busiest.items.filter((_, k) => k < places.at(-1)!)), ['missing'])
  })
})

t.test('a suffix of the log is lost: a client that has what is left, and comes back, is told of it', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const app = await build(t, { backplane: redisBackplane({ client: new Redis({ port: server.port, host: '127.0.0.1', lazyConnect: true }) }), heartbeatInterval: 0 })
  const news = app.sse.channel('news')
  app.get('/', (request, reply) => reply.sse(news))
  const url = await listen(app)
  const first = await connect(url)
  t.teardown(() => first.leave())
  await news.publish('kept')
  await first.first(1)
  const { lastEventId } = first
  first.leave()
  const lost = await Promise.all([news.publish('lost'), news.publish('lost too')])
  await soon(() => app.sse.stats().history.newest === lost[1], 'both were received')
  await server.command('XDEL', 'sse', ...lost.map(cursor => cursor.split('.')[0]!))
  await until('the loss was seen, and said', async () => await server.command('XLEN', 'sse') === ':3\r\n' && app.sse.cursor !== lost[1])
  const second = await connect(url, { lastEventId })
  t.teardown(() => second.leave())
  await news.publish('new')
  await soon(() => second.gaps.length > 0 && second.events.at(-1)?.data === 'new', 'the gap, and the event after it')
})
