import { test } from 'tap'
import { MUTATIONS } from './mutations.ts'
import { Workshop } from './variant.ts'

/** Of the mode that is named: more than any mutation takes. */
const MOST_SEEDS = 1_000

test('faults written into the code on purpose are found', { timeout: 600_000 }, async t => {
  const workshop = new Workshop()
  t.teardown(() => workshop.close())
  for (const { name, mode, edits } of MUTATIONS) {
    const simulate = await workshop.make(edits)
    let seed = 0
    let caught: string | undefined
    while (caught === undefined && seed < MOST_SEEDS) {
      // What throws is found as well.
      const complaints = await simulate(mode, ++seed).then(({ complaints }) => complaints, error => [String(error)])
      caught = complaints[0]
    }
    t.ok(caught !== undefined, caught === undefined ? `${name}: not in ${seed} seeds of ${mode}` : `${name}: ${seed} of ${mode}, ${caught.slice(0, 60)}`)
  }
})
