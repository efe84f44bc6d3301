import t from 'tap'
import { memoryBackplane } from '../lib/memory-backplane.ts'
import { backplaneContract, entry, Recorder } from './backplane-contract.ts'

t.test('the contract', t => backplaneContract(t, { log: () => ({ backplane: memoryBackplane }), shared: false }))

t.test('an entry is received before append() resolves, in the same turn', async t => {
  const backplane = memoryBackplane()
  const receiver = new Recorder()
  await backplane.open(receiver)
  const appended = backplane.append(entry('a'))
  t.same(receiver.data, ['a'])
  t.equal(await appended, receiver.cursors[0])
})

t.test('a cursor of another start is foreign, so a restarted process says gap instead of guessing', async t => {
  const before = memoryBackplane()
  const after = memoryBackplane()
  const receivers = [new Recorder(), new Recorder()] as const
  await before.open(receivers[0])
  await after.open(receivers[1])
  const old = await before.append(entry('a'))
  const now = await after.append(entry('a'))
  t.ok(Number.isNaN(after.compare(old, now)))
  t.ok(Number.isNaN(after.compare(now, old)))
  t.ok(Number.isNaN(after.compare(receivers[0].resets[0]!, now)))
  t.equal(after.compare(now, now), 0)
})

t.test('a number that this log would not have written is no cursor', async t => {
  const backplane = memoryBackplane()
  const receiver = new Recorder()
  await backplane.open(receiver)
  const good = await backplane.append(entry('a'))
  const epoch = good.slice(0, good.lastIndexOf('-'))
  for (const number of ['', '01', '00', '-1', '+1', '1.0', '1e1', '0x1', ' 1', '1 ', '1\n', '１', '9'.repeat(17), '9'.repeat(400), 'Infinity', 'NaN']) {
    t.ok(Number.isNaN(backplane.compare(`${epoch}-${number}`, good)), JSON.stringify(number.slice(0, 20)))
  }
  t.ok(backplane.compare(`${epoch}-0`, good) < 0)
  t.ok(backplane.compare(`${epoch}-2`, good) > 0, 'one ahead of the head is a cursor')
})
