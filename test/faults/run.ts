/**
 * The long run: `node --import tsx test/faults/run.ts --seconds 60 --seed 1 --only kill-tails,promote`
 *
 *   --seconds n     for each fault; 60
 *   --seed n        1
 *   --only a,b      faults by name (--list names them)
 *   --clients n     200
 *   --rate n        events a second, of all processes; 200
 */
import { parseArgs } from 'node:util'
import { faults } from './faults.ts'
import { App } from './fleet.ts'
import { Cleanup, header, row, trial } from './trial.ts'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    clients: { type: 'string', default: '200' },
    rate: { type: 'string', default: '200' },
    list: { type: 'boolean', default: false }
  }
})
const chosen = faults.filter(({ name }) => values.only === undefined || values.only.split(',').includes(name))
if (values.list) {
  for (const { name, title, lossless } of chosen) console.log(`${name.padEnd(15)} ${title}${lossless ? ' (0)' : ''}`)
  process.exit()
}

const cleanup = new Cleanup()
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => { cleanup.run().finally(() => process.exit(1)) })
try {
  const apps = await Promise.all([0, 1, 2].map(() => App.start(cleanup)))
  console.log(header)
  for (const fault of chosen) {
    const seed = Number(values.seed)
    const outcome = await trial(cleanup, fault, apps, { seconds: Number(values.seconds), seed, clients: Number(values.clients), rate: Number(values.rate) })
    console.log(row(fault.name, seed, outcome))
    for (const complaint of outcome.complaints) console.log(`  ${complaint}`)
    if (outcome.complaints.length > 0) process.exitCode = 1
  }
} finally {
  await cleanup.run()
}
