import t, { type Test } from 'tap'
import { Sweep, type Swept } from '../../lib/delivery/sweep.ts'
import { until } from '../client.ts'

/** In place of the timers of Node: what is set, and a way to let a period pass. */
function timers (t: Test): { periods: () => number[], pass: () => void, set: () => number, unrefs: () => number } {
  const running = new Map<object, { period: number, fn: () => void }>()
  let set = 0
  let unrefs = 0
  t.intercept(globalThis, 'setInterval', {
    value: (fn: () => void, period: number) => {
      const timer = { unref: () => { unrefs++; return timer } }
      running.set(timer, { period, fn })
      set++
      return timer
    }
  })
  t.intercept(globalThis, 'clearInterval', { value: (timer: object) => { running.delete(timer) } })
  return {
    periods: () => [...running.values()].map(({ period }) => period),
    pass: () => { for (const { fn } of running.values()) fn() },
    set: () => set,
    unrefs: () => unrefs
  }
}

interface Limited extends Swept { limit: number }

function swept (limit: number): Limited & { times: number[] } {
  const times: number[] = []
  return { limit, times, sweep: now => { times.push(now) } }
}

/** A sweep, with what opens and is gone, as a registry does it. */
function sweeping (look: () => boolean): { sweep: Sweep<Limited>, add: (one: Limited) => void, remove: (one: Limited) => void } {
  const streams = new Set<Limited>()
  const sweep = new Sweep(streams, look)
  return {
    sweep,
    add: one => {
      streams.add(one)
      sweep.run(one.limit)
    },
    remove: one => { streams.delete(one) }
  }
}

/** In place of what is kept besides the streams: there is nothing. */
const nothingElse = (): boolean => false

t.test('one timer serves all, once a second', async t => {
  const { periods, pass, set } = timers(t)
  const { add } = sweeping(nothingElse)
  t.same(periods(), [], 'none before there is anything to sweep')
  const some = [15_000, 120_000, 10_000, Infinity].map(swept)
  for (const one of some) add(one)
  t.same(periods(), [1_000])
  t.equal(set(), 1)
  pass()
  pass()
  for (const { times } of some) t.equal(times.length, 2)
})

t.test('it looks ten times within a limit that is short, and not more often than every 10 ms', async t => {
  const { periods } = timers(t)
  for (const [limit, period] of [[9_999, 999.9], [5_000, 500], [200, 20], [100, 10], [50, 10], [1, 10]] as const) {
    const { sweep, add } = sweeping(nothingElse)
    const one = swept(limit)
    add(one)
    t.same(periods(), [period], `a limit of ${limit} ms`)
    sweep.stop()
  }
})

t.test('a shorter limit that comes later makes it look more often, a longer one changes nothing', async t => {
  const { periods, set } = timers(t)
  const { add } = sweeping(nothingElse)
  for (const [limit, period] of [[60_000, 1_000], [2_000, 200], [5_000, 200], [Infinity, 200], [1_000, 100]] as const) {
    add(swept(limit))
    t.same(periods(), [period])
  }
  t.equal(set(), 3)
})

t.test('the timer stops at the first look after the last one is gone, and starts anew with its own limit', async t => {
  const { periods, pass } = timers(t)
  const { add, remove } = sweeping(nothingElse)
  const short = swept(100)
  const long = swept(60_000)
  add(short)
  add(long)
  remove(short)
  pass()
  t.equal(periods().length, 1)
  remove(long)
  remove(long)
  remove(swept(5))
  pass()
  t.same(periods(), [])
  t.equal(long.times.length, 1)
  add(long)
  t.same(periods(), [1_000])
})

t.test('it looks for as long as something else is kept, without anything to sweep', async t => {
  const { periods, pass } = timers(t)
  let looks = 0
  const { sweep } = sweeping(() => ++looks < 3)
  sweep.run()
  t.same(periods(), [1_000])
  sweep.run()
  pass()
  pass()
  t.equal(periods().length, 1)
  pass()
  t.same(periods(), [])
  t.equal(looks, 3)
})

t.test('stopped, it looks no more', async t => {
  const { periods } = timers(t)
  const { sweep, add } = sweeping(() => true)
  add(swept(100))
  sweep.stop()
  sweep.stop()
  t.same(periods(), [])
})

t.test('what has ended is swept until it is flushed, and the timer goes on for it', async t => {
  const { periods, pass } = timers(t)
  const { sweep, add, remove } = sweeping(nothingElse)
  const one = swept(1_000)
  add(one)
  remove(one)
  sweep.ending.add(one)
  pass()
  t.equal(one.times.length, 1)
  t.equal(periods().length, 1)
  sweep.ending.delete(one)
  pass()
  t.equal(one.times.length, 1)
  t.same(periods(), [])
})

t.test('it tells before it sweeps, and sweeps all with the same time', async t => {
  const { pass } = timers(t)
  const told: string[] = []
  const { add } = sweeping(() => { told.push('before'); return false })
  const begin = performance.now()
  const some = [swept(1_000), swept(2_000)]
  for (const one of some) add({ limit: one.limit, sweep: now => { told.push('sweep'); one.sweep(now) } })
  pass()
  t.same(told, ['before', 'sweep', 'sweep'])
  const [time] = some[0]!.times
  t.equal(some[1]!.times[0], time)
  t.ok(time! >= begin && time! <= performance.now(), 'on the clock of performance.now()')
})

t.test('what is deleted while it sweeps is not swept any more, and the others are', async t => {
  const { pass } = timers(t)
  const { add, remove } = sweeping(nothingElse)
  const last = swept(1_000)
  const later = swept(1_000)
  const first: Limited = { limit: 1_000, sweep: () => { remove(first); remove(later) } }
  for (const one of [first, later, last]) add(one)
  pass()
  pass()
  t.equal(later.times.length, 0)
  t.equal(last.times.length, 2)
})

t.test('its timer keeps no process alive', async t => {
  const alive = (): number => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = alive()
  const { sweep, add } = sweeping(nothingElse)
  const one = swept(50)
  add(one)
  t.equal(alive(), before)
  add(swept(Infinity))
  const shorter = swept(10)
  add(shorter)
  t.equal(alive(), before, 'nor that of a shorter limit')
  await until(() => shorter.times.length >= 3 && one.times.length >= 3, 'three looks')
  t.ok(shorter.times[2]! > shorter.times[0]!, 'though it runs')
  sweep.stop()
})
