import t from 'tap'
import type { Place, SharedBackplane } from '../../lib/log/backplane.ts'
import { CatchUp } from '../../lib/log/catch-up.ts'
import type { ChannelLog } from '../../lib/log/channel-log.ts'
import { Store } from '../../lib/log/store.ts'
import { channelLog } from './item.ts'

t.test('an answer to the question for the newest entry wakes the channels that wait for it, and those alone', async t => {
  const asked: Array<(place: Place) => void> = []
  const shared = { seq: () => new Promise<Place>(resolve => { asked.push(resolve) }) } as unknown as SharedBackplane
  const woken: string[] = []
  const host = { life: 'L', head: 0, ready: ({ name }: ChannelLog) => { woken.push(name) } } as unknown as ConstructorParameters<typeof CatchUp>[3]
  const catchUp = new CatchUp(shared, new Store(1, new Map()), { now: () => 0, after: () => {} }, host)
  const first = catchUp.ask(channelLog('a'))
  const second = catchUp.ask(channelLog('b'))
  t.equal(catchUp.ask(channelLog('c')), second, 'whoever comes while one is under way shares the next')
  for (const [n, wanted] of [['a'], ['b', 'c'], ['d']].entries()) {
    t.equal(asked.length, n + 1)
    woken.length = 0
    asked[n]!({ life: 'L', seq: n + 1 })
    await null
    t.same(woken, wanted)
    if (n === 0) catchUp.ask(channelLog('d'))
  }
  t.same([first.newest, second.newest], [1, 2])
})
