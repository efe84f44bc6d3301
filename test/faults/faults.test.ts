import t from 'tap'
import { noRedis } from '../redis/redis-server.ts'
import { faults } from './faults.ts'
import { App } from './fleet.ts'
import { check, NUMBERS, type Evidence, type Item, type Reception } from './model.ts'
import { header, row, trial, type Outcome } from './trial.ts'

// The seed repeats a run, as far as the machine does. The long run is test/faults/run.ts.
const seed = Number(process.env.FAULT_SEED ?? Date.now() % 100_000)
const seconds = Number(process.env.FAULT_SECONDS ?? 3)
t.setTimeout(600_000)

t.test('the judge', async t => {
  // Times and places are the same small numbers here. All is published to channel 1.
  const number = (i: number) => NUMBERS + 20 * i + 1
  const cursor = (i: number, life = 'A') => `${life}-${i.toString(36)}`
  const event = (i: number, time = i, n = number(i)): Item => ({ kind: 'event', time, cursor: cursor(i), n })
  const at = (i: number, time = i): Item => ({ kind: 'cursor', time, cursor: cursor(i) })
  const gap = (i: number, time = i, reason = 'reset', channels = [1]): Item => ({ kind: 'gap', time, cursor: cursor(i), reason, channels })
  const log = (...places: number[]) => new Map(places.map(i => [number(i), { cursor: cursor(i), sent: i }]))
  const kept = (...places: number[]) => new Set(places.map(i => `1 ${cursor(i)}`))
  const judge = (items: Item[], evidence: Partial<Evidence> = {}) => check({
    acknowledged: log(1, 2, 3, 4, 5), kept: kept(1, 2, 3, 4, 5), lossless: false, clients: [{ name: 'client', channels: [1, 3], items }], ...evidence
  })
  const kinds = (items: Item[], evidence?: Partial<Evidence>) => judge(items, evidence).complaints.map(text => text.split(':')[0])

  await t.test('finds nothing where there is nothing', async t => {
    t.same(judge([at(0), event(1), event(2), event(3), at(3), event(4), event(5)], { lossless: true }), {
      acknowledged: 5, delivered: 5, gaps: 0, behind: 0, repeated: 0, missing: 0, complaints: []
    })
    t.same(kinds([at(0), event(1), event(2), event(3), event(4), event(5), event(6)]), [], 'more than was acknowledged may be in the log')
  })

  await t.test('finds what is missing, repeated, or out of order', async t => {
    t.match(judge([at(0), event(1), event(2), event(4), event(5)]), { missing: 1, complaints: [/^missing: client did not get event 1000061 /] })
    t.match(judge([at(0), event(1), event(2), event(3), event(4)]), { missing: 1 })
    t.match(judge([at(0), event(1), event(2), at(5)]), { missing: 3 })
    t.same(kinds([at(0), event(1), event(3), event(2), event(4), event(5)]), ['out of order'])
    t.same(kinds([at(0), event(1), event(2), event(2), event(3), event(4), event(5)]), ['repeated'])
    t.same(kinds([at(0), event(1), event(2), at(1), event(3), event(4), event(5)]), ['cursor goes back'])
    t.same(kinds([at(0), event(1), event(2), event(3), event(4), event(5), event(6, 6, NUMBERS + 122)]), ['foreign channel'])
    t.same(kinds([at(0), event(1), event(2), event(3), event(4), { ...event(5), cursor: cursor(5, 'B') }]), ['two cursors'])
    t.same(kinds([]), ['never subscribed'])
    const all = { 1: cursor(1), 2: cursor(2) }
    t.same(kinds([at(5), gap(5)], { acknowledged: new Map([[number(2), { cursor: all[1], sent: 1 }], [number(1), { cursor: all[2], sent: 1 }]]), kept: kept() }), ['publisher order'])
    t.same(kinds([at(5), gap(5)], { acknowledged: new Map([[number(1), { cursor: all[1], sent: 1 }], [number(2), { cursor: all[1], sent: 1 }]]), kept: kept() }), ['one place', 'publisher order'])
  })

  await t.test('takes a gap for what it says, and for no more', async t => {
    t.match(judge([at(0), event(1), gap(3), event(4), event(5)]), { behind: 2, missing: 0, complaints: [] })
    t.match(judge([at(0), event(1), gap(3), event(5)]), { behind: 3, missing: 0, complaints: [] })
    t.match(judge([at(0), event(2), gap(3), event(4), event(5)]), { behind: 1, missing: 1 }, 'what is lost before the gap')
    t.match(judge([at(0), event(1), gap(1), event(2), event(4), event(5)]), { behind: 0, missing: 1 }, 'what is lost after the gap')
    t.match(judge([at(0), event(1), gap(3, 3, 'overrun', [3]), event(4), event(5)]), { behind: 0, missing: 2 }, 'the gap of another channel')
    t.match(judge([at(0), event(1), event(2), gap(1, 3, 'unknown'), event(2, 4), event(3), event(4), event(5)]), { repeated: 1, missing: 0, complaints: [] })
    t.same(kinds([at(0), event(1), event(2), gap(1, 3, 'overrun'), event(2, 4), event(3), event(4), event(5)]), ['gap', 'repeated'])
    t.same(kinds([at(0), event(1), gap(1), event(2), event(3), event(4), event(5)], { lossless: true }), ['gap without a loss'])
  })

  await t.test('knows what is lost in Redis itself: any gap tells it that came after it was sent', async t => {
    t.match(judge([at(0), event(1), event(4), gap(4), event(5)], { kept: kept(1, 4, 5) }), { behind: 2, missing: 0, complaints: [] }, 'told late')
    t.match(judge([at(0), event(1), event(4), event(5)], { kept: kept(1, 4, 5) }), { missing: 2 }, 'never told')
    t.match(judge([at(0), gap(0, 1), event(1), event(4), event(5)], { kept: kept(1, 4, 5) }), { missing: 2 }, 'told of something else, before')
    t.match(judge([at(0), event(1), event(4), gap(4), event(5)], { kept: kept(1, 2, 4, 5) }), { behind: 1, missing: 1 }, 'what is not lost')
  })
})

t.test('three processes and 200 clients', { skip: noRedis }, async t => {
  const apps = await Promise.all([0, 1, 2].map(() => App.start(t)))
  t.comment(header)
  let sound: Outcome | undefined

  for (const fault of faults) {
    // A minute is for the long run.
    if (fault.name === 'stop-process-60') continue
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
      return [...new Set(check({ ...evidence, clients: evidence.clients.map(other => other === busiest ? client : other) }).complaints.map(text => text.split(':')[0]))]
    }
    t.same(kindsOf(busiest.items.toSpliced(i, 1)), ['missing'])
    t.same(kindsOf(busiest.items.toSpliced(i, 1).toSpliced(j, 0, busiest.items[i]!)), ['out of order'])
    t.same(kindsOf(busiest.items.toSpliced(j, 0, busiest.items[i]!)), ['repeated'])
    t.same(kindsOf(busiest.items.filter((_, k) => k < places.at(-1)!)), ['missing'])
  })
})
