import t from 'tap'
import { parseCursor } from '../../lib/log/cursor.ts'
import { memoryBackplane } from '../../lib/log/memory-backplane.ts'
import type { Receiver } from '../../lib/log/backplane.ts'
import { build } from '../client.ts'
import { contract, entry, Recorder } from './backplane-contract.ts'

t.test('the contract', t => contract(t, 'memory', () => ({ backplane: memoryBackplane }), { shared: false }))

t.test('an entry is heard before append() returns, so what is published in a turn is there in that turn', async t => {
  const backplane = memoryBackplane()
  const receiver = new Recorder()
  await backplane.open(receiver)
  const appended = backplane.append(entry('a'))
  t.same(receiver.data, ['a'])
  const { life, seq } = receiver.entries[0]!
  t.same(parseCursor(await appended), { life, seq })
})

t.test('each start is a life of its own, so a cursor of before a restart is known to be foreign', async t => {
  const ids = new Set<string>()
  for (let i = 0; i < 100; i++) {
    const backplane = memoryBackplane()
    const receiver = new Recorder()
    await backplane.open(receiver)
    ids.add(receiver.lives[0]!.id)
    t.equal(parseCursor(await backplane.append(entry('a')))!.life, receiver.lives[0]!.id)
  }
  t.equal(ids.size, 100)
})

t.test('a channel that has ended gives the cursor of its end, whatever the backplane went through meanwhile', async t => {
  const inner = memoryBackplane()
  let receiver: Receiver | undefined
  const app = await build(t, { backplane: { ...inner, open: async to => { receiver = to; await inner.open(to) } } })
  const end = await app.sse.channel('a').end()
  const newer = await app.sse.publish('b', 'newer')
  const { life, seq } = parseCursor(newer)!
  receiver!.broken(new Error('of the test'))
  receiver!.mended([{ id: life, start: 0, end: Infinity, broken: false }], seq)
  t.equal(await app.sse.channel('a').end(), end)
})

t.test('no entry names a predecessor: nothing is lost on the way within a process', async t => {
  const backplane = memoryBackplane()
  const receiver = new Recorder()
  await backplane.open(receiver)
  for (const channels of [['a'], ['a', 'b'], ['b']]) await backplane.append(entry('x', { channels }))
  t.same(receiver.entries.map(({ prevs }) => prevs), [undefined, undefined, undefined])
})
