import t from 'tap'
import { random, World } from './model.ts'

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
const ROUNDS = Number(process.env.ROUNDS ?? 12)

for (let round = 0; round < ROUNDS; round++) {
  const seed = SEED + round
  const shared = seed % 2 === 1
  const tight = seed % 4 < 2
  const compressed = seed % 8 < 4
  t.test(`whatever handlers, filters and listeners do, each event comes once, in order, or lies behind a gap that names its channel: ${shared ? 'two processes' : 'one process'}, ${tight ? 'short' : 'long'} histories${compressed ? ', compressed' : ''} (SEED=${seed})`, async t => {
    const world = new World(t, random(seed), tight)
    await world.open(shared, compressed)
    await world.run(120)
    t.same(world.wrong, [])
    t.comment(`${world.judged} streams, ${world.log.length} events, ${world.gaps} gaps`)
    t.ok(world.judged > 6 && world.log.length > 100)
    for (const stats of world.stats) t.match(stats, { streams: 0, subscriptions: 0, channels: 0, blocked: 0 })
  })
}
