import t from 'tap'
import { noRedis } from '../redis/redis-server.ts'
import { soak, type SoakOptions } from './soak.ts'

// Twenty seconds of what `npm run soak` does for twenty minutes. SEED=n repeats a run, as far as the machine does.
const seed = Number(process.env.SEED ?? Date.now() % 1_000_000)
const options: SoakOptions = { seconds: 10, seed, streams: 120, rate: 40 }

for (const redis of [false, true]) {
  t.test(`after a storm of clients ${redis ? 'and restarts of Redis ' : ''}everything is back to where it was, and nothing was lost in silence`, { skip: redis && noRedis }, async t => {
    const { complaints, summary, most, delivered, restarts } = await soak({ ...options, redis })
    t.comment(summary)
    t.same(complaints, [])
    // How much it takes to be a storm, on a machine that is busy with other tests.
    t.ok(most >= 40, `${most} streams at a time`)
    t.ok(delivered > 1_000, `${delivered} events received`)
    if (redis) t.ok(restarts >= 2, `${restarts} restarts`)
  })
}

t.test('a server that keeps some of its streams is found out by the heap snapshot', async t => {
  const { complaints } = await soak({ ...options, seconds: 3, streams: 40, fault: 'leak' })
  for (const name of ['Stream', 'Outlet', 'ServerResponse', 'IncomingMessage', 'Socket']) {
    t.match(complaints.filter(text => text.startsWith('heap: ') && text.includes(` ${name}, `)), [/^heap: \d+ \w+, and \d+ before$/], name)
  }
})

t.test('an entry that is withheld from the registry is found out by the clients', async t => {
  const { complaints } = await soak({ ...options, seconds: 3, streams: 40, fault: 'loss' })
  t.ok(complaints.length > 0)
  t.match(complaints, complaints.map(() => /^client \d+ did not get event \d*[05]0 of [\d,]+, in silence$/))
})
