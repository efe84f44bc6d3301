import { test } from 'tap'
import type { ChannelLog, Item } from '../../lib/log/channel-log.ts'
import { Store } from '../../lib/log/store.ts'
import { channelLog, item, seqs } from './item.ts'

function storeOf (maxBytes: number, ...logs: ChannelLog[]): { store: Store, hear: (item: Item) => void } {
  const byName = new Map(logs.map(log => [log.name, log]))
  const store = new Store(maxBytes, byName)
  return {
    store,
    hear (item) {
      for (const name of item.channels) {
        const log = byName.get(name)!
        log.push(item)
        store.hold(item, log)
      }
    }
  }
}

test('bytes counts an entry once, however many logs hold it, until none does', t => {
  const [a, b] = [channelLog('a'), channelLog('b')]
  const { store, hear } = storeOf(Infinity, a, b)
  hear(item(1, { channels: ['a', 'b'], bytes: 7 }))
  hear(item(2, { bytes: 5 }))
  t.equal(store.bytes, 12)
  store.empty(a, 2)
  t.equal(store.bytes, 7)
  store.empty(b, 2)
  t.same([store.bytes, a.base, a.last], [0, 2, 2])
  t.end()
})

test('trim keeps maxEvents, and what is young enough', t => {
  for (let maxEvents = 0; maxEvents < 4; maxEvents++) {
    for (let maxAge = 0; maxAge < 5; maxAge++) {
      const log = channelLog('a', { maxEvents, maxAge })
      const { store, hear } = storeOf(Infinity, log)
      for (let seq = 1; seq <= 3; seq++) hear(item(seq, { time: seq }))
      store.trim(log, 4)
      const kept = [1, 2, 3].slice(3 - Math.min(3, maxEvents)).filter(time => maxAge === 0 || 4 - time <= maxAge)
      t.equal(seqs(log), kept.join(), `${maxEvents} ${maxAge}`)
      t.equal(log.base, 3 - kept.length)
      t.equal(log.cut, kept.length < 3)
    }
  }
  t.end()
})

test('what was not offered to members stays, up to twice the limit; when it is offered it goes', t => {
  const log = channelLog('a', { maxEvents: 100 })
  log.members.add({ lacked () {}, restarted () {} })
  const { store, hear } = storeOf(Infinity, log)
  store.release(50, 0)
  for (let seq = 1; seq <= 260; seq++) {
    hear(item(seq))
    store.trim(log, 0)
  }
  t.same([log.events, log.base], [200, 60])
  store.release(150, 0)
  t.same([log.events, log.base], [110, 150])
  store.release(260, 0)
  t.same([log.events, log.base], [100, 160])
  t.end()
})

test('an end is no event: it takes the place of none', t => {
  const log = channelLog('a', { maxEvents: 1 })
  const { store, hear } = storeOf(Infinity, log)
  hear(item(1))
  hear(item(2))
  hear(item(3, { kind: 'end' }))
  store.trim(log, 0)
  t.equal(seqs(log), '2,3')
  t.end()
})

test('over maxBytes a value goes last, whichever channel of its entry is named first, and for as long as it is one', t => {
  for (const channels of [['events', 'value'], ['value', 'events']]) {
    const [events, value, others] = [channelLog('events'), channelLog('value', { maxEvents: 1, latest: true }), channelLog('others')]
    const { store, hear } = storeOf(30, events, value, others)
    hear(item(1, { channels }))
    for (let seq = 2; seq <= 5; seq++) hear(item(seq, { channels: ['others'] }))
    store.trimBytes()
    t.same([events, value, others].map(seqs), ['1', '1', '4,5'], channels.join())
    // Another value takes its place: it is an event like any other now, and the older ones went before it.
    hear(item(6, { channels: ['value'] }))
    store.trim(value, 0)
    for (let seq = 7; seq <= 8; seq++) hear(item(seq, { channels: ['others'] }))
    store.trimBytes()
    t.same([events, value, others].map(seqs), ['', '6', '7,8'], channels.join())
  }
  t.end()
})

test('over maxBytes the oldest of all logs goes first, from all logs that have it', t => {
  const [a, b] = [channelLog('a'), channelLog('b')]
  const { store, hear } = storeOf(30, a, b)
  hear(item(1))
  hear(item(2, { channels: ['a', 'b'] }))
  hear(item(3, { channels: ['b'] }))
  hear(item(4))
  hear(item(5))
  store.release(5, 0)
  t.same([seqs(a), seqs(b), store.bytes], ['4,5', '3', 30])
  t.same([a.base, b.base, a.bottom], [2, 2, false])
  t.end()
})

test('what was not offered to members may take twice maxBytes, and no more', t => {
  const log = channelLog()
  log.members.add({ lacked () {}, restarted () {} })
  const { store, hear } = storeOf(30e6, log)
  for (let seq = 1; seq <= 10; seq++) {
    hear(item(seq, { bytes: 10e6 }))
    store.trimBytes()
  }
  t.same([seqs(log), store.bytes], ['5,6,7,8,9,10', 60e6])
  t.end()
})

test('what was read late, but is older, goes with what was there before it', t => {
  const log = channelLog('a', {}, 5)
  const { store, hear } = storeOf(30, log)
  hear(item(6))
  const older = [item(3), item(4)]
  log.unshift(older, 2)
  for (const each of older) store.hold(each, log)
  hear(item(7))
  store.release(7, 0)
  t.same([seqs(log), log.base, store.bytes], ['7', 6, 10])
  t.end()
})

test('while a filter runs nothing is evicted, and afterwards it is', t => {
  const log = channelLog('a', { maxEvents: 1 })
  const { store, hear } = storeOf(10, log)
  store.frozen = true
  for (let seq = 1; seq <= 5; seq++) {
    hear(item(seq))
    store.trim(log, 0)
    store.trimBytes()
  }
  store.release(5, 0)
  t.equal(log.events, 5)
  store.frozen = false
  store.release(5, 0)
  t.equal(seqs(log), '5')
  t.end()
})

test('values go last: the only one of a quiet channel counts, however old it is', t => {
  const [a, v] = [channelLog('a'), channelLog('v', { maxEvents: 1, latest: true })]
  const { store, hear } = storeOf(20, a, v)
  hear(item(1, { channels: ['v'] }))
  for (let seq = 2; seq <= 6; seq++) hear(item(seq))
  store.release(6, 0)
  t.same([seqs(v), seqs(a)], ['1', '6'])
  t.end()
})
