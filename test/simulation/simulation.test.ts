import { test } from 'tap'
import { MODES } from './modes.ts'
import { FEW_LIVES, SMALL } from './mutations.ts'
import { simulate } from './simulate.ts'
import { Workshop } from './variant.ts'

/** Of each mode. `run.ts` runs as many as you like. */
const SEEDS = 50
const SMALL_SEEDS = 25

/** The first of so many seeds that fails, and its complaints. */
async function firstFailure (run: typeof simulate, mode: string, seeds: number): Promise<string | undefined> {
  for (let seed = 1; seed <= seeds; seed++) {
    const { complaints } = await run(mode, seed)
    if (complaints.length > 0) return `seed ${seed} of ${mode}: ${complaints.slice(0, 3).join('; ')}`
  }
}

for (const mode of Object.keys(MODES)) {
  test(`${mode}: every event of its channels, in order, or a gap in its place`, { timeout: 300_000 }, async t => {
    t.equal(await firstFailure(simulate, mode, SEEDS), undefined)
  })
}

test('the limits of the code made so small that they are met change nothing', { timeout: 300_000 }, async t => {
  const workshop = new Workshop()
  t.teardown(() => workshop.close())
  const small = await workshop.make(SMALL)
  for (const mode of Object.keys(MODES)) t.equal(await firstFailure(small, mode, SMALL_SEEDS), undefined, mode)
})

test('what leaves the table of lives is never lost in silence', { timeout: 300_000 }, async t => {
  const workshop = new Workshop()
  t.teardown(() => workshop.close())
  const few = await workshop.make(FEW_LIVES)
  for (const mode of ['failover', 'split', 'failback', 'lag', 'losses', 'everything', 'flushes', 'mixedLosses', 'endsLosses']) t.equal(await firstFailure(few, mode, SEEDS), undefined, mode)
})

test('a seed gives the same run again', async t => {
  for (const mode of ['everything', 'losses', 'filters', 'memoryFilters']) {
    const [one, again] = [await simulate(mode, 7, true), await simulate(mode, 7)]
    t.ok(one.received > 100, mode)
    t.equal(one.checksum, again.checksum, mode)
    t.same([one.published, one.received, one.gaps, one.covered], [again.published, again.received, again.gaps, again.covered])
    t.not((await simulate(mode, 8)).checksum, one.checksum)
  }
})

test('the faults do happen', async t => {
  let [gaps, covered, late] = [0, 0, 0]
  for (let seed = 1; seed <= 10; seed++) {
    const result = await simulate('everything', seed)
    gaps += result.gaps
    covered += result.covered
    late += result.late
  }
  t.ok(gaps > 50 && covered > 50 && late > 0, `${gaps} gaps, ${covered} lost entries behind them, ${late} told later`)
})
