import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import type { Entry } from '../lib/backplane.ts'
import { encodeEvent } from '../lib/event.ts'
import { History, Positions } from '../lib/history.ts'
import type { HistoryLimits } from '../lib/options.ts'
import { build, connect, listen, until } from './client.ts'

const EVERYTHING: HistoryLimits = { maxEvents: Infinity, maxBytes: Infinity, maxAge: 0 }

/** Cursors of these tests are `c<n>`, or `c<n>.<letter>` for another entry of the same order. */
function compare (a: string, b: string): number {
  compared++
  return order(a) - order(b)
}
let compared = 0

function order (cursor: string): number {
  return /^c\d+(\.[a-z])?$/.test(cursor) ? parseInt(cursor.slice(1)) : NaN
}

interface Evicted { channels: readonly string[], position: number }

/** A history whose floor is c0, and what it evicted. */
function make (limits: Partial<HistoryLimits> = {}): { history: History, evicted: Evicted[] } {
  const evicted: Evicted[] = []
  const history = new History({ ...EVERYTHING, ...limits }, compare, (channels, position) => evicted.push({ channels, position }))
  history.mark('c0', 0)
  return { history, evicted }
}

function entry (n: number | string, channels: readonly string[] = ['a'], data: string | undefined = 'd'): Entry {
  return { cursor: `c${n}`, channels, event: undefined, data, serialized: false }
}

/** Appends c<from> to c<to>, at the times from and to, and offers them. */
function fill (history: History, from: number, to: number, channels?: readonly string[]): void {
  for (let n = from; n <= to; n++) history.append(entry(n, channels), n)
  history.release(history.head, to)
}

/** The cursors that are kept, oldest first. */
function kept (history: History): string[] {
  return Array.from({ length: history.events }, (_, i) => history.at(history.first + i).cursor)
}

t.test('an empty history has its floor, and nothing else', async t => {
  const { history } = make()
  t.equal(history.events, 0)
  t.equal(history.bytes, 0)
  t.equal(history.cursorBefore(history.head), 'c0')
  t.same(history.find('c0'), { position: 0, state: 'good' })
  t.equal(history.positions('a').length, 0)
  t.equal(history.rewind(['a'], 5), 0)
  t.throws(() => history.at(0), RangeError)
  t.throws(() => history.at(-1), RangeError)
  history.release(0, 0)
  history.evict(1e9)
  t.equal(history.first, 0)
})

t.test('entries are kept in order, each at the position that append gave it', async t => {
  const { history } = make()
  t.equal(history.append({ cursor: 'c1', channels: ['a', 'b'], event: 'e', data: '1', serialized: true }, 5), 0)
  t.equal(history.append(entry(2), 6), 1)
  t.match(history.at(0), { cursor: 'c1', channels: ['a', 'b'], event: 'e', data: '1', serialized: true, time: 5 })
  t.match(history.at(1), { cursor: 'c2', channels: ['a'], event: undefined, data: 'd', serialized: false, time: 6 })
  t.throws(() => history.at(2), RangeError, 'the head is not kept yet')
  t.equal(history.cursorBefore(0), 'c0')
  t.equal(history.cursorBefore(1), 'c1')
  t.equal(history.cursorBefore(2), 'c2')
})

t.test('bytes are those of the encoded events, cursors included', async t => {
  const { history } = make()
  const fields = { event: 'é', data: 'a\nb\uD800😀' }
  history.append({ cursor: 'c1', channels: ['a'], serialized: false, ...fields }, 0)
  t.equal(history.bytes, Buffer.from(encodeEvent({ id: 'c1', ...fields })).length)
  t.equal(history.at(0).bytes, history.bytes)
  history.append({ cursor: 'c2', channels: ['a'], event: undefined, data: undefined, serialized: false }, 0)
  t.equal(history.bytes, Buffer.from(encodeEvent({ id: 'c1', ...fields }) + 'id: c2\n\n').length)
})

t.test('the oldest go when there are more than maxEvents', async t => {
  const { history, evicted } = make({ maxEvents: 3 })
  fill(history, 1, 3)
  t.same(kept(history), ['c1', 'c2', 'c3'], 'as many as allowed stay')
  fill(history, 4, 5, ['b', 'a'])
  t.same(kept(history), ['c3', 'c4', 'c5'])
  t.same(evicted, [{ channels: ['a'], position: 0 }, { channels: ['a'], position: 1 }])
  t.equal(history.first, 2)
  t.throws(() => history.at(1), RangeError, 'an evicted position is no position any more')
})

t.test('the oldest go when there are more than maxBytes', async t => {
  const size = Buffer.byteLength('id: c1\ndata: d\n\n')
  const { history } = make({ maxBytes: 3 * size })
  fill(history, 1, 3)
  t.same(kept(history), ['c1', 'c2', 'c3'])
  fill(history, 4, 4)
  t.same(kept(history), ['c2', 'c3', 'c4'])
  history.append(entry(5, ['a'], 'd'.repeat(3 * size)), 5)
  history.release(history.head, 5)
  t.same(kept(history), [], 'an event larger than maxBytes is offered, and not kept')
  t.equal(history.bytes, 0)
  t.same(history.find('c5'), { position: 5, state: 'good' })
})

t.test('the oldest go when they are older than maxAge, and only then', async t => {
  const { history } = make({ maxAge: 10 })
  fill(history, 1, 3)
  history.evict(11)
  t.same(kept(history), ['c1', 'c2', 'c3'], 'at maxAge an event is still kept')
  history.evict(12)
  t.same(kept(history), ['c2', 'c3'])
  history.evict(100)
  t.same(kept(history), [])
  const { history: noLimit } = make({ maxAge: 0 })
  fill(noLimit, 1, 3)
  noLimit.evict(1e12)
  t.equal(noLimit.events, 3, '0 is no limit')
})

t.test('any one of the limits is enough', async t => {
  const { history } = make({ maxEvents: 100, maxBytes: 1e6, maxAge: 10 })
  fill(history, 1, 5)
  history.evict(13)
  t.same(kept(history), ['c3', 'c4', 'c5'])
  fill(history, 6, 8)
  t.equal(history.events, 6)
})

t.test('maxEvents 0 and maxBytes 0 keep nothing that was offered', async t => {
  for (const limits of [{ maxEvents: 0 }, { maxBytes: 0 }]) {
    const { history, evicted } = make(limits)
    history.append(entry(1), 1)
    history.append(entry(2), 1)
    history.evict(1)
    t.same(kept(history), ['c1', 'c2'])
    history.release(1, 1)
    t.same(kept(history), ['c2'])
    history.release(2, 1)
    t.same(kept(history), [])
    t.equal(evicted.length, 2)
    t.equal(history.cursorBefore(history.head), 'c2')
    t.same(history.find('c2'), { position: 2, state: 'good' }, 'the head is good all the same')
    t.same(history.find('c1'), { position: 2, state: 'expired' })
  }
})

t.test('what was not offered yet is kept, whatever the limits say', async t => {
  const { history } = make({ maxEvents: 2, maxAge: 1 })
  for (let n = 1; n <= 6; n++) history.append(entry(n), n)
  history.evict(1e6)
  t.equal(history.events, 6)
  history.release(1, 6)
  t.same(kept(history), ['c2', 'c3', 'c4', 'c5', 'c6'], 'the limits hold as far as was offered')
  history.release(6, 6)
  t.same(kept(history), ['c5', 'c6'])
  history.append(entry(7), 1)
  history.evict(1e6)
  t.same(kept(history), ['c7'], 'offered stays what it was: a new entry is not')
})

t.test('a cursor is good at the head, at a kept entry and at the floor', async t => {
  const { history } = make({ maxEvents: 3 })
  fill(history, 1, 10)
  t.same(history.find('c10'), { position: 10, state: 'good' }, 'the head')
  t.same(history.find('c9'), { position: 9, state: 'good' })
  t.same(history.find('c8'), { position: 8, state: 'good' }, 'the oldest kept')
  t.same(history.find('c7'), { position: 7, state: 'good' }, 'the floor: nothing after it was evicted')
  t.equal(history.first, 7)
})

t.test('a cursor below the floor is expired, and what is kept follows it', async t => {
  const { history } = make({ maxEvents: 3 })
  fill(history, 1, 10)
  t.same(history.find('c6'), { position: 7, state: 'expired' }, 'just below')
  t.same(history.find('c0'), { position: 7, state: 'expired' })
})

t.test('a cursor beyond the head is ahead', async t => {
  const { history } = make({ maxEvents: 3 })
  t.same(history.find('c1'), { position: 0, state: 'ahead' }, 'of an empty history too')
  fill(history, 1, 10)
  t.same(history.find('c11'), { position: 10, state: 'ahead' })
  t.same(history.find('c999999'), { position: 10, state: 'ahead' })
})

t.test('a cursor that no entry has, between those that are kept, is unknown and has its place', async t => {
  const { history } = make()
  for (const n of [10, 20, 30]) history.append(entry(n), 0)
  t.same(history.find('c5'), { position: 0, state: 'unknown' }, 'between floor and first')
  t.same(history.find('c15'), { position: 1, state: 'unknown' })
  t.same(history.find('c29'), { position: 2, state: 'unknown' })
  t.same(history.find('c20.x'), { position: 2, state: 'unknown' }, 'the same order is not the same entry')
  t.same(history.find('c30.x'), { position: 3, state: 'unknown' }, 'nor is it ahead')
  t.same(history.find('c0.x'), { position: 0, state: 'unknown' }, 'at the floor')
})

t.test('garbage, a foreign cursor and an over-long one are unknown and have no place: all that is kept follows', async t => {
  const { history } = make({ maxEvents: 3 })
  fill(history, 1, 10)
  const asked: string[] = []
  const strict = new History(EVERYTHING, (a, b) => { asked.push(a); return compare(a, b) }, () => {})
  strict.mark('c0', 0)
  strict.append(entry('1'), 0)
  for (const cursor of ['', 'c', 'x-1', 'c1 ', ' c10', 'c-1', '\0', 'constructor', '__proto__', '\uD800', 'c10\uFEFF']) {
    t.same(history.find(cursor), { position: 7, state: 'unknown' }, JSON.stringify(cursor))
  }
  t.same(strict.find('c' + '1'.repeat(128)), { position: 0, state: 'unknown' })
  t.same(strict.find('€'.repeat(43)), { position: 0, state: 'unknown' }, 'bytes count, not characters')
  t.same(asked, [], 'over 128 bytes it is not even looked at')
  strict.find('€'.repeat(42))
  t.ok(asked.length > 0)
})

t.test('a cursor of exactly 128 bytes can be good', async t => {
  const long = 'c' + '0'.repeat(126) + '1'
  const { history } = make()
  history.append(entry(long.slice(1)), 0)
  t.same(history.find(long), { position: 1, state: 'good' })
})

t.test('the first marker only says where the log begins', async t => {
  const history = new History(EVERYTHING, compare, () => {})
  t.equal(history.mark('c7', 0), -1)
  t.equal(history.cursorBefore(0), 'c7')
  t.same(history.markers, [])
  t.equal(history.events, 0)
  t.same(history.find('c7'), { position: 0, state: 'good' })
  t.same(history.find('c6'), { position: 0, state: 'expired' })
})

t.test('any other marker is told of, though nothing was published yet: who read the beginning may have lost something', async t => {
  const { history } = make()
  t.equal(history.mark('c7', 0), 0)
  t.same(history.markers, [0])
  t.equal(history.events, 1)
  t.equal(history.cursorBefore(history.head), 'c7')
  t.same(history.find('c0'), { position: 0, state: 'good' }, 'stands before the marker')
  t.same(history.find('c7'), { position: 1, state: 'good' })
})

t.test('a marker takes a position, and belongs to no channel', async t => {
  const { history } = make()
  fill(history, 1, 2)
  t.equal(history.mark('c5', 3), 2)
  t.equal(history.append(entry(6), 6), 3)
  t.same(history.markers, [2])
  t.equal(history.evictedMarker, -1)
  t.match(history.at(2), { cursor: 'c5', channels: [], data: undefined, bytes: 0, time: 3 })
  t.equal(history.cursorBefore(3), 'c5')
  t.equal(history.positions('a').length, 3)
})

t.test('a cursor from before a marker leads to the marker, not past it', async t => {
  const { history } = make()
  fill(history, 1, 3)
  history.mark('c10', 0)
  fill(history, 11, 12)
  t.same(history.find('c1'), { position: 1, state: 'good' })
  t.same(history.find('c3'), { position: 3, state: 'good' }, 'the last one before the marker stands at the marker')
  t.same(history.find('c10'), { position: 4, state: 'good' }, 'the marker\'s own cursor stands after it')
  t.same(history.find('c12'), { position: 6, state: 'good' })
  t.same(history.find('c7'), { position: 3, state: 'unknown' }, 'lost in the gap: what is known of its place is kept')
  t.same(history.find('c13'), { position: 6, state: 'ahead' })
})

t.test('after a marker the order may begin anew: the newest stretch decides, unless an older one knows the very cursor', async t => {
  const { history } = make()
  fill(history, 5, 8)                // positions 0 to 3
  history.mark('c2', 0)              // 4
  for (const n of ['3', '6.x']) history.append(entry(n), 0) // 5, 6
  history.mark('c0', 0)              // 7
  for (const n of ['1', '8.y']) history.append(entry(n), 0) // 8, 9
  t.same(history.find('c8.y'), { position: 10, state: 'good' }, 'the newest stretch')
  t.same(history.find('c1'), { position: 9, state: 'good' })
  t.same(history.find('c0'), { position: 8, state: 'good' }, 'the floor of all has the same cursor as the newest marker: the newest is meant')
  t.same(history.find('c6.x'), { position: 7, state: 'good' }, 'the middle stretch, up to its end')
  t.same(history.find('c2'), { position: 5, state: 'good' })
  t.same(history.find('c8'), { position: 4, state: 'good' }, 'the oldest stretch')
  t.same(history.find('c6'), { position: 2, state: 'good' })
  t.same(history.find('c7.z'), { position: 9, state: 'unknown' }, 'known to none: its place in the newest')
  t.same(history.find('c9'), { position: 10, state: 'ahead' }, 'of the newest')
})

t.test('a marker is evicted like an entry, and remembered', async t => {
  const { history, evicted } = make({ maxEvents: 2 })
  fill(history, 1, 2)
  history.mark('c5', 3)
  fill(history, 6, 6)
  t.same(kept(history), ['c5', 'c6'])
  t.same(history.markers, [2])
  t.equal(history.evictedMarker, -1)
  fill(history, 7, 7)
  t.same(history.markers, [])
  t.equal(history.evictedMarker, 2)
  t.equal(history.cursorBefore(history.first), 'c5', 'its cursor is the floor now')
  t.same(history.find('c5'), { position: 3, state: 'good' })
  t.same(history.find('c2'), { position: 3, state: 'expired' })
  t.same(evicted.at(-1), { channels: [], position: 2 })
})

t.test('rewind gives the position of the nth newest entry of the channels', async t => {
  const { history } = make()
  const channels = [['a'], ['b'], ['a', 'b'], ['c'], ['a'], ['b']]
  channels.forEach((names, i) => history.append(entry(i + 1, names), 0))
  t.equal(history.rewind(['a'], 0), 6)
  t.equal(history.rewind(['a'], 1), 4)
  t.equal(history.rewind(['a'], 2), 2)
  t.equal(history.rewind(['a'], 3), 0)
  t.equal(history.rewind(['a'], 4), 0, 'fewer are kept: the oldest')
  t.equal(history.rewind(['a'], Infinity), 0)
  t.equal(history.rewind(['b'], Infinity), 1)
  t.equal(history.rewind(['a', 'b'], 2), 4, 'over all channels of the call')
  t.equal(history.rewind(['a', 'b'], 3), 2, 'an entry of both counts once')
  t.equal(history.rewind(['a', 'b'], 4), 1)
  t.equal(history.rewind(['b', 'a', 'b'], 3), 2, 'a channel named twice counts once')
  t.equal(history.rewind(['nobody'], 3), 6)
  t.equal(history.rewind([], 3), 6)
})

t.test('rewind does not reach below what is kept', async t => {
  const { history } = make({ maxEvents: 3 })
  fill(history, 1, 5, ['a'])
  fill(history, 6, 7, ['b'])
  t.equal(history.rewind(['a'], 10), 4)
  t.equal(history.rewind(['a', 'b'], 10), 4)
})

t.test('the positions of a channel are those of its kept entries', async t => {
  const { history } = make({ maxEvents: 4 })
  for (let n = 1; n <= 9; n++) history.append(entry(n, n % 3 === 0 ? ['a', 'b'] : ['a']), n)
  const list = (name: string): number[] => Array.from({ length: history.positions(name).length }, (_, i) => history.positions(name).at(i))
  t.same(list('b'), [2, 5, 8])
  history.release(history.head, 9)
  t.same(list('a'), [5, 6, 7, 8])
  t.same(list('b'), [5, 8])
  t.same(list('nobody'), [])
})

t.test('positions are searched by halves, and dropped from the front', async t => {
  const positions = new Positions(2, 5, 5, 9)
  t.equal(positions.length, 4)
  t.equal(positions.from(0), 0)
  t.equal(positions.from(2), 0)
  t.equal(positions.from(3), 1)
  t.equal(positions.from(5), 1)
  t.equal(positions.from(9), 3)
  t.equal(positions.from(10), 4)
  t.equal(new Positions().from(0), 0)
  t.equal(positions.shift(), 3)
  t.equal(positions.at(0), 5)
  positions.push(12)
  t.equal(positions.from(10), 3)
  for (const left of [3, 2, 1, 0]) t.equal(positions.shift(), left)
  t.equal(positions.from(5), 0)
  positions.push(20)
  t.equal(positions.at(0), 20)
})

t.test('whether there is a position in a stretch', async t => {
  const positions = new Positions(2, 5, 9)
  t.ok(positions.any(2, 3))
  t.ok(positions.any(0, 100))
  t.ok(positions.any(9, 10))
  t.notOk(positions.any(3, 5), 'the end does not belong to it')
  t.notOk(positions.any(5, 5))
  t.notOk(positions.any(10, 100))
  t.notOk(new Positions().any(0, 100))
})

t.test('the ring grows and shrinks without losing or mixing up an entry', async t => {
  const { history } = make({ maxEvents: 10 })
  let next = 1
  const check = (): boolean => {
    for (let position = history.first; position < history.head; position++) if (history.at(position).cursor !== `c${position + 1}`) return false
    return history.head === next - 1
  }
  for (const burst of [1, 63, 64, 65, 128, 129, 5_000, 3, 1_000, 0, 40_000, 1, 1, 1]) {
    for (let i = 0; i < burst; i++) history.append(entry(next++), 0)
    t.ok(check(), `after ${burst} more`)
    // Offered bit by bit, so the ring shrinks through all its sizes with its entries at every place in it.
    while (history.events > 10) {
      history.release(history.first + Math.ceil(history.events / 3), 0)
      if (!check()) return t.fail(`mixed up at ${history.first} to ${history.head}`)
    }
    t.ok(check())
  }
  t.same(history.find(`c${next - 1}`), { position: next - 1, state: 'good' })
})

function collector (): () => void {
  setFlagsFromString('--expose-gc')
  return runInNewContext('gc') as () => void
}

t.test('what is evicted is let go of, at once', async t => {
  const gc = collector()
  const history = new History({ ...EVERYTHING, maxEvents: 1_000 }, compare, () => {})
  history.mark('c0', 0)
  let references: Array<WeakRef<object>> = []
  const append = (): void => {
    for (let n = 1; n <= 2_000; n++) {
      const channels = ['a', `only ${n}`]
      if (n <= 1_000) references.push(new WeakRef(channels))
      history.append(entry(n, channels), 0)
    }
    history.release(history.head, 0)
  }
  append()
  t.equal(history.first, 1_000)
  await until(() => {
    gc()
    references = references.filter(reference => reference.deref() !== undefined)
    return references.length === 0
  }, 'the entries below the floor to be collected')
  t.equal(history.events, 1_000)
})

for (const [what, channels] of [['ring', []], ['index', ['a']]] as const) {
  t.test(`after a burst the ${what} gives its memory back`, async t => {
    const gc = collector()
    const used = (): number => {
      gc()
      return process.memoryUsage().heapUsed
    }
    const before = used()
    const histories = Array.from({ length: 10 }, () => new History({ ...EVERYTHING, maxEvents: 10 }, compare, () => {}))
    const same = entry(1, channels)
    for (const history of histories) {
      for (let n = 0; n < 140_000; n++) history.append(same, 0)
      history.release(history.head, 0)
      // It shrinks by halves, with what goes on.
      for (let n = 0; n < 20; n++) history.evict(0)
    }
    // A ring for 140,000 entries has 262,144 places of 8 bytes, the positions of a channel are 140,000 and more.
    const limit = histories.length * 512 * 1024
    await until(() => used() - before < limit, 'the memory to be given back')
    t.ok(histories.every(history => history.events === 10))
  })
}

t.test('a hundred thousand channels that were published to once leave no trace', async t => {
  const { history } = make({ maxEvents: 100 })
  const none = history.positions('never published to')
  for (let n = 1; n <= 100_000; n++) {
    history.append(entry(n, [`user:${n}`, 'all']), 0)
    if (n % 1_000 === 0) history.release(history.head, 0)
  }
  let traces = 0
  for (let n = 1; n <= 100_000; n++) if (history.positions(`user:${n}`) !== none) traces++
  t.equal(traces, 100, 'those that are kept, and no other')
  t.equal(history.positions('all').length, 100)
  fill(history, 100_001, 100_100, ['other'])
  for (let n = 99_000; n <= 100_000; n++) if (history.positions(`user:${n}`) !== none) return t.fail(`user:${n} is still there`)
  t.equal(history.positions('all'), none)
})

t.test('appending, evicting and finding do not slow down at a million events', async t => {
  const BATCH = 10_000
  const BATCHES = 100
  for (const maxEvents of [10_000, Infinity]) {
    const evicted = { count: 0 }
    const history = new History({ ...EVERYTHING, maxEvents }, compare, () => { evicted.count++ })
    history.mark('c0', 0)
    const times: number[] = []
    let next = 1
    let mostCompared = 0
    for (let batch = 0; batch < BATCHES; batch++) {
      const begin = performance.now()
      for (let i = 0; i < BATCH; i++) {
        history.append(entry(next++, i % 2 === 0 ? ['a', 'b'] : ['a']), 0)
        if (i % 100 !== 0) continue
        history.release(history.head, 0)
        compared = 0
        const wanted = history.first + (i * 7919) % history.events
        if (history.find(`c${wanted + 1}`).position !== wanted + 1) return t.fail('found the wrong place')
        mostCompared = Math.max(mostCompared, compared)
        history.positions('b').from(wanted)
        history.rewind(['a', 'b'], 10)
      }
      times.push(performance.now() - begin)
    }
    t.equal(history.head, 1_000_000)
    history.release(history.head, 0)
    t.equal(evicted.count, maxEvents === Infinity ? 0 : 1_000_000 - maxEvents, 'each is evicted once')
    t.ok(mostCompared <= 2 * Math.log2(1_000_000) + 5, `a search takes ${mostCompared} comparisons at most`)
    const median = (some: number[]): number => some.toSorted((a, b) => a - b)[some.length >> 1]!
    const early = median(times.slice(5, 25))
    const late = median(times.slice(-20))
    t.ok(late < early * 12, `a batch takes ${early.toFixed(1)} ms early and ${late.toFixed(1)} ms late`)
  }
})

/** The same, with an array and no wit. */
class Model {
  entries: Array<{ position: number, cursor: string, channels: readonly string[], bytes: number, time: number, marker: boolean }> = []
  floor = 'c0'
  head = 0
  offered = 0
  evictedMarker = -1
  readonly limits: HistoryLimits

  constructor (limits: HistoryLimits) { this.limits = limits }

  get first (): number { return this.entries[0]?.position ?? this.head }
  get bytes (): number { return this.entries.reduce((sum, { bytes }) => sum + bytes, 0) }

  append (cursor: string, channels: readonly string[], data: string, time: number): void {
    const bytes = Buffer.from(`id: ${cursor}\ndata: ${data}\n\n`).length
    this.entries.push({ position: this.head++, cursor, channels, bytes, time, marker: false })
  }

  mark (cursor: string, time: number): void {
    this.entries.push({ position: this.head++, cursor, channels: [], bytes: 0, time, marker: true })
  }

  evict (now: number): void {
    const { maxEvents, maxBytes, maxAge } = this.limits
    for (let oldest = this.entries[0]; oldest !== undefined && oldest.position < this.offered; oldest = this.entries[0]) {
      const tooOld = maxAge > 0 && now - oldest.time > maxAge
      if (this.entries.length <= maxEvents && this.bytes <= maxBytes && !tooOld) return
      this.entries.shift()
      this.floor = oldest.cursor
      if (oldest.marker) this.evictedMarker = oldest.position
    }
  }

  find (cursor: string): { position: number, state: string } {
    if (Buffer.from(cursor).length > 128 || Number.isNaN(order(cursor))) return { position: this.first, state: 'unknown' }
    const known = this.entries.findLast(entry => entry.cursor === cursor)
    if (known !== undefined) return { position: known.position + 1, state: 'good' }
    if (cursor === this.floor) return { position: this.first, state: 'good' }
    if (order(cursor) > order(this.entries.at(-1)?.cursor ?? this.floor)) return { position: this.head, state: 'ahead' }
    for (let end = this.entries.length; end >= 0;) {
      const marker = this.entries.slice(0, end).findLastIndex(entry => entry.marker)
      const before = marker < 0 ? this.floor : this.entries[marker]!.cursor
      if (order(cursor) >= order(before)) {
        const next = this.entries.slice(marker + 1, end).find(entry => order(entry.cursor) > order(cursor)) ?? this.entries[end]
        return { position: next?.position ?? this.head, state: 'unknown' }
      }
      end = marker
    }
    return { position: this.first, state: 'expired' }
  }

  rewind (channels: readonly string[], n: number): number {
    const theirs = this.entries.filter(entry => entry.channels.some(name => channels.includes(name)))
    return (n === 0 ? undefined : theirs.slice(-n)[0]?.position) ?? this.head
  }

  positions (channel: string): number[] {
    return this.entries.filter(({ channels }) => channels.includes(channel)).map(({ position }) => position)
  }
}

t.test('whatever is done to it, a history answers like an array would', async t => {
  const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 2 ** 32)) >>> 0
  t.comment(`SEED=${seed}`)
  const random = numbers(seed)
  const below = (n: number): number => Math.floor(random() * n)
  const NAMES = ['a', 'b', 'c', 'd']
  let asked = 0
  const states = new Set<string>()
  for (let run = 0; run < 60; run++) {
    const limits = {
      maxEvents: [0, 1, 5, 50, 300, Infinity][below(6)]!,
      maxBytes: [0, 100, 1_000, Infinity, Infinity][below(5)]!,
      maxAge: [0, 0, 1, 100][below(4)]!
    }
    const { history } = make(limits)
    const model = new Model(limits)
    let last = 0
    let now = 0
    for (let step = 0; step < 400; step++) {
      const what = below(100)
      if (what < 55) {
        for (let n = below(below(10) === 0 ? 100 : 4); n > 0; n--) {
          last += 1 + below(3)
          const cursor = `c${last}${below(4) === 0 ? '.x' : ''}`
          const channels = NAMES.filter(() => below(3) === 0)
          const data = 'd'.repeat(below(40))
          history.append({ cursor, channels, event: undefined, data, serialized: false }, now)
          model.append(cursor, channels, data, now)
        }
      } else if (what < 58) {
        last = below(3) === 0 ? below(last + 1) : last + below(5)
        const cursor = `c${last}`
        history.mark(cursor, now)
        model.mark(cursor, now)
      } else if (what < 85) {
        const offered = model.offered + below(model.head - model.offered + 1)
        history.release(offered, now)
        model.offered = offered
        model.evict(now)
      } else {
        now += below(40)
        history.evict(now)
        model.evict(now)
      }
      const cursor = ['', 'c1 ', 'c' + '1'.repeat(128), `c${below(last + 10)}`, `c${below(last + 10)}.x`, `c${below(last + 10)}.y`,
        model.entries[below(model.entries.length + 1)]?.cursor ?? model.floor][below(7)]!
      const names = NAMES.filter(() => below(2) === 0)
      const n = [0, 1, 2, 10, Infinity][below(5)]!
      const name = NAMES[below(4)]!
      const list = history.positions(name)
      const place = history.find(cursor)
      states.add(place.state)
      const answers = {
        events: history.events,
        bytes: history.bytes,
        first: history.first,
        head: history.head,
        evictedMarker: history.evictedMarker,
        markers: [...history.markers],
        newest: history.cursorBefore(history.head),
        floor: history.cursorBefore(history.first),
        find: [cursor, place],
        rewind: [names, n, history.rewind(names, n)],
        positions: Array.from({ length: list.length }, (_, i) => list.at(i)),
        from: list.from(model.first + 3),
        entries: below(20) === 0 ? kept(history) : []
      }
      const theirs = model.positions(name)
      const expected = {
        events: model.entries.length,
        bytes: model.bytes,
        first: model.first,
        head: model.head,
        evictedMarker: model.evictedMarker,
        markers: model.entries.filter(({ marker }) => marker).map(({ position }) => position),
        newest: model.entries.at(-1)?.cursor ?? model.floor,
        floor: model.floor,
        find: [cursor, model.find(cursor)],
        rewind: [names, n, model.rewind(names, n)],
        positions: theirs,
        from: theirs.filter(position => position < model.first + 3).length,
        entries: answers.entries.length === 0 ? [] : model.entries.map(({ cursor }) => cursor)
      }
      asked++
      if (JSON.stringify(answers) !== JSON.stringify(expected)) {
        t.same(answers, expected, `seed ${seed}, run ${run}, step ${step}, limits ${JSON.stringify(limits)}`)
        return
      }
    }
  }
  t.equal(asked, 24_000)
  t.same([...states].sort(), ['ahead', 'expired', 'good', 'unknown'], 'every answer was met')
})

t.test('an event that grew older than maxAge is not replayed, although nothing was published since', async t => {
  const app = await build(t, { history: { maxAge: 50 } })
  const time = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(time))
  const url = await listen(app)
  const start = app.sse.cursor
  await time.publish('old')
  const published = performance.now()
  await until(() => performance.now() - published > 60, 'the event to be too old')
  const client = await connect(url + '/events', { lastEventId: start })
  await until(() => client.gaps.length > 0 || client.events.length > 0, 'the resume')
  t.match(client.gaps, [{ reason: 'expired', channels: ['time'] }])
  t.same(client.events, [])
  client.leave()
})

t.test('history() and stats() do not tell of events that grew older than maxAge', async t => {
  const app = await build(t, { history: { maxAge: 50 } })
  const time = app.sse.channel('time')
  await time.publish('old')
  const published = performance.now()
  t.equal(time.history().length, 1)
  await until(() => performance.now() - published > 60, 'the event to be too old')
  t.same(time.history(), [])
  t.match(app.sse.stats().history, { events: 0, bytes: 0, oldest: null })
})

/** mulberry32: the same numbers for the same seed. */
function numbers (seed: number): () => number {
  return () => {
    seed = (seed + 0x6D2B79F5) | 0
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}
