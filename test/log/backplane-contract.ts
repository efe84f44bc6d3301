import type { Test } from 'tap'
import { parseCursor } from '../../lib/log/cursor.ts'
import type { Backplane, ChannelLimits, HeardEntry, Life, NewEntry, Place, Receiver, SharedBackplane } from '../../lib/log/backplane.ts'

/** A fresh log, on which `backplane()` makes one more backplane. */
export interface Log {
  backplane (): Backplane | SharedBackplane
}

type Seen =
  | { what: 'hear', entry: HeardEntry }
  | { what: 'advance', place: Place }
  | { what: 'broken', error: Error }
  | { what: 'mended' | 'restarted', lives: readonly Life[], head: number }

/** A receiver that keeps what it was called with. */
export class Recorder implements Receiver {
  readonly seen: Seen[] = []

  hear (entry: HeardEntry): void { this.seen.push({ what: 'hear', entry }) }
  advance (place: Place): void { this.seen.push({ what: 'advance', place }) }
  broken (error: Error): void { this.seen.push({ what: 'broken', error }) }
  mended (lives: readonly Life[], head: number): void { this.seen.push({ what: 'mended', lives, head }) }
  restarted (lives: readonly Life[], head: number): void { this.seen.push({ what: 'restarted', lives, head }) }
  endOf (name: string): string | undefined {
    const end = this.entries.find(({ kind, channels }) => kind === 'end' && channels[0] === name)
    return end && `${end.life}-${end.seq.toString(36)}`
  }

  /** Without the repeats that an entry of several channels may bring. */
  get entries (): HeardEntry[] {
    return this.seen.flatMap(seen => seen.what === 'hear' ? [seen.entry] : []).filter(({ life, seq }, i, all) => i === 0 || all[i - 1]!.seq !== seq || all[i - 1]!.life !== life)
  }

  get data (): string[] { return this.entries.map(entry => entry.data) }
  get lives (): readonly Life[] { return this.seen.flatMap(seen => 'lives' in seen ? [seen.lives] : []).at(-1) ?? [] }
  get head (): number { return this.seen.flatMap(seen => 'head' in seen ? [seen.head] : []).at(-1) ?? NaN }
  get places (): Place[] { return this.seen.flatMap(seen => seen.what === 'advance' ? [seen.place] : []) }
  /** What happened to the connection, in order. */
  get story (): string { return this.seen.flatMap(({ what }) => what === 'hear' || what === 'advance' ? [] : [what]).join(' ') }

  count (what: Seen['what']): number { return this.seen.filter(seen => seen.what === what).length }
}

/** Waits, for a bounded time, until something is true, and fails otherwise. */
export async function until (what: string, condition: () => unknown, ms = 8_000): Promise<void> {
  const end = performance.now() + ms
  while (!await condition()) {
    if (performance.now() > end) throw new Error(`waited ${ms} ms in vain until ${what}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

export const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

export const LIMITS: ChannelLimits = { maxEvents: 10_000, maxAge: 600_000, latest: false }

export function entry (data: string, { limits, ...more }: Partial<Omit<NewEntry, 'limits'>> & { limits?: Partial<ChannelLimits> } = {}): NewEntry {
  const { channels = ['news'] } = more
  return { channels, kind: 'event', event: undefined, data, serialized: false, ...more, limits: channels.map(() => ({ ...LIMITS, ...limits })) }
}

export const NAMES = [
  'news', 'spaces and , commas', '"quotes"', '"', "'", '[]', '{', '}', '{}', '}:c:{', '{sse}', ':', '\n', '\r\n', '\u0000', 'a\u0000b', '🦊', '\ud800', '\ufffd', '__proto__',
  'constructor', '*', '?', '[a-z]', '%', '\\', 'n'.repeat(1_000), '🦊'.repeat(250)
]

/** Every promise of lib/log/backplane.ts, as far as it can be kept without breaking something on purpose. */
export async function contract (t: Test, name: string, make: (t: Test) => Log | Promise<Log>, { shared }: { shared: boolean }): Promise<void> {
  await t.test(`the contract, with ${name}`, async t => {
    await promises(t, make)
    if (shared) await sharedPromises(t, make)
  })
}

async function opened (t: Test, log: Log): Promise<[Backplane, Recorder]> {
  const backplane = log.backplane()
  t.teardown(() => backplane.close())
  const receiver = new Recorder()
  await backplane.open(receiver)
  return [backplane, receiver]
}

/** An entry, with which what was heard or read is to be the same. */
const asHeard = ({ limits, ...rest }: NewEntry) => rest
const bare = ({ channels, kind, event, data, serialized }: HeardEntry | Omit<NewEntry, 'limits'>) => ({ channels, kind, event, data, serialized })

const entries: NewEntry[] = [
  entry(''),
  entry('', { event: '' }),
  entry('{"a":1}', { serialized: true }),
  entry('{"a":1}'),
  entry('null', { serialized: true }),
  entry('lines\nand\r\nends\rand\u0000 🦊 \u2028'),
  entry('\n\n1 2 3\n'),
  entry('x'.repeat(300_000)),
  entry('a', { channels: ['news', 'one', 'two'] }),
  entry('a', { channels: ['one', ...NAMES] }),
  entry('a', { event: 'tick' }),
  entry('n', { channels: ['h', 'news', 'd'], event: 'd "quoted" 🦊' })
]

async function promises (t: Test, make: (t: Test) => Log | Promise<Log>): Promise<void> {
  /** A backplane that hears what the tests of one process publish. */
  async function fresh (t: Test): Promise<[Backplane, Recorder]> {
    const [backplane, receiver] = await opened(t, await make(t))
    await (backplane as Partial<SharedBackplane>).watch?.(['news', 'other'])
    return [backplane, receiver]
  }

  const heard = (receiver: Recorder, n: number) => until(`${n} entries were heard`, () => receiver.entries.length >= n)

  await t.test('open() says that it is mended, once, before it resolves: one life, not broken, with a head', async t => {
    const [, receiver] = await opened(t, await make(t))
    t.equal(receiver.story, 'mended')
    const [life] = receiver.lives as [Life]
    t.equal(receiver.lives.length, 1)
    t.match(life.id, /^[0-9A-Za-z]{1,32}$/)
    t.match(life, { end: Infinity, broken: false, start: receiver.head })
  })

  await t.test('a second open() rejects, and the first receiver stays', async t => {
    const [backplane, receiver] = await fresh(t)
    const second = new Recorder()
    await t.rejects(backplane.open(second), { code: 'SSE_ERR_INVALID_OPTION' })
    await backplane.append(entry('a'))
    await heard(receiver, 1)
    t.same(second.seen, [])
  })

  await t.test('append() resolves with the cursor of the entry that is heard, above the head, in the present life', async t => {
    const [backplane, receiver] = await fresh(t)
    const { head } = receiver
    const cursors = [await backplane.append(entry('a')), await backplane.append(entry('b'))].map(parseCursor)
    await heard(receiver, 2)
    t.same(receiver.entries.map(({ life, seq }) => ({ life, seq })), cursors)
    t.same(receiver.data, ['a', 'b'])
    t.ok(cursors[0]!.seq > head && cursors[1]!.seq > cursors[0]!.seq)
    t.equal(cursors[0]!.life, receiver.lives[0]!.id)
  })

  await t.test('every entry is heard once, in the order of the calls, which is that of the sequence numbers, without waiting between them', async t => {
    const [backplane, receiver] = await fresh(t)
    const data = Array.from({ length: 2_000 }, (_, i) => String(i))
    const cursors = await Promise.all(data.map((text, i) => backplane.append(entry(text, { channels: [i % 3 === 0 ? 'other' : 'news'] }))))
    await heard(receiver, data.length)
    t.equal(receiver.data.join(), data.join())
    const seqs = cursors.map(cursor => parseCursor(cursor)!.seq)
    t.equal(receiver.entries.map(({ seq }) => seq).join(), seqs.join())
    t.ok(seqs.every((seq, i) => i === 0 || seq > seqs[i - 1]!))
    t.equal(new Set(cursors).size, data.length)
    t.equal(receiver.story, 'mended')
  })

  await t.test('an entry is heard as it was appended, whatever is in it', async t => {
    const [backplane, receiver] = await fresh(t)
    for (const each of entries) await backplane.append(each)
    await heard(receiver, entries.length)
    t.strictSame(receiver.entries.map(bare), entries.map(asHeard))
  })

  await t.test('a channel that has ended takes no event, and a second end resolves with the cursor of the first', async t => {
    const [backplane, receiver] = await fresh(t)
    await backplane.append(entry('a'))
    const end = entry('done', { kind: 'end' })
    const cursor = await backplane.append(end)
    await heard(receiver, 2)
    t.equal(await backplane.append(entry('other reason', { kind: 'end' })), cursor)
    await t.rejects(backplane.append(entry('b')), { code: 'SSE_ERR_CHANNEL_ENDED', message: /news/ })
    await t.rejects(backplane.append(entry('b', { channels: ['other', 'news'] })), { code: 'SSE_ERR_CHANNEL_ENDED', message: /news/ })
    await backplane.append(entry('c', { channels: ['other'] }))
    await heard(receiver, 3)
    t.same(receiver.data, ['a', 'done', 'c'])
    t.strictSame(bare(receiver.entries[1]!), asHeard(end))
  })

  await t.test('append() rejects before open() and after close(), and never throws', async t => {
    const backplane = (await make(t)).backplane()
    await t.rejects(backplane.append(entry('early')), { code: /^SSE_ERR_(CLOSED|BACKPLANE_DOWN)$/ })
    const receiver = new Recorder()
    await backplane.open(receiver)
    await backplane.close()
    await t.rejects(backplane.append(entry('late')), { code: /^SSE_ERR_(CLOSED|BACKPLANE_DOWN)$/ })
    t.equal(receiver.entries.length, 0)
  })

  await t.test('after close() nothing calls the receiver, what was appended just before has its answer, and a second close() does nothing', async t => {
    const [backplane, receiver] = await fresh(t)
    const pending = Array.from({ length: 100 }, () => backplane.append(entry('a')))
    await backplane.close()
    const calls = receiver.seen.length
    await backplane.close()
    t.equal((await Promise.all(pending)).length, 100)
    await pause(50)
    t.equal(receiver.seen.length, calls)
    t.equal(receiver.count('broken'), 0)
  })

  await t.test('close() before open() is fine', async t => {
    await (await make(t)).backplane().close()
  })
}

async function sharedPromises (t: Test, make: (t: Test) => Log | Promise<Log>): Promise<void> {
  async function several (t: Test, n: number): Promise<Array<[SharedBackplane, Recorder]>> {
    const log = await make(t)
    const all: Array<[SharedBackplane, Recorder]> = []
    for (let i = 0; i < n; i++) all.push(await opened(t, log) as [SharedBackplane, Recorder])
    return all
  }

  const seqOf = (cursor: string) => parseCursor(cursor)!.seq
  const heard = (receiver: Recorder, n: number) => until(`${n} entries were heard, not ${receiver.entries.length}`, () => receiver.entries.length >= n)

  await t.test('all see one life, and whoever opens later has a head that is not below what was acknowledged', async t => {
    const log = await make(t)
    const [first, one] = await opened(t, log)
    const cursor = parseCursor(await first.append(entry('a')))!
    const [, two] = await opened(t, log)
    t.same(two.lives, one.lives)
    t.ok(two.head >= cursor.seq)
  })

  await t.test('from when watch() has resolved, every entry of the channel is heard, and of no other', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await second.append(entry('before'))
    await first.watch(['news', 'more'])
    await Promise.all([second.append(entry('a')), second.append(entry('b', { channels: ['other'] })), first.append(entry('c')), second.append(entry('d', { channels: ['more', 'other'] }))])
    await heard(one, 3)
    await second.append(entry('last'))
    await heard(one, 4)
    t.same(one.data.filter(text => text !== 'c'), ['a', 'd', 'last'])
  })

  await t.test('channels of any name: each is heard and read by itself', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await first.watch(NAMES)
    for (const [i, name] of NAMES.entries()) await second.append(entry(String(i), { channels: [name] }))
    await heard(one, NAMES.length)
    t.same(one.entries.map(({ channels, data }) => [channels[0], data]), NAMES.map((name, i) => [name, String(i)]))
    for (const [i, name] of NAMES.entries()) {
      const { entries } = await first.read(name, 0)
      t.same(entries.map(({ channels, data }) => [channels, data]), [[[name], String(i)]])
    }
  })

  await t.test('unwatch() ends it, and watch() begins it again, how often they may follow each other', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await first.watch(['news', 'other'])
    first.unwatch(['news'])
    await first.watch(['third'])
    await second.append(entry('a'))
    await second.append(entry('b', { channels: ['other'] }))
    await heard(one, 1)
    for (let i = 0; i < 20; i++) {
      first.watch(['news'])
      first.unwatch(['news', 'never watched'])
    }
    await first.watch(['news'])
    await second.append(entry('c'))
    await heard(one, 2)
    first.watch(['news'])
    first.unwatch(['news'])
    first.watch(['news', 'other'])
    first.unwatch(['news'])
    await first.watch(['fourth'])
    await second.append(entry('d'))
    await second.append(entry('e', { channels: ['other'] }))
    await heard(one, 3)
    t.same(one.data, ['b', 'c', 'e'])
  })

  await t.test('every entry names its predecessor in each of its channels', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await first.watch(['a', 'b', 'c'])
    const seqs = []
    for (const channels of [['a'], ['b'], ['a'], ['b', 'a'], ['a'], ['c', 'a', 'b'], ['c']]) seqs.push(seqOf(await second.append(entry('x', { channels }))))
    await heard(one, 7)
    const [s0, s1, s2, s3, s4, s5] = seqs as [number, number, number, number, number, number]
    const start = one.head
    const exact = one.entries.map(({ prevs }) => prevs!.map(prev => prev <= start ? 'none' : prev))
    t.same(exact, [['none'], ['none'], [s0], [s1, s2], [s3], ['none', s4, s3], [s5]])
    t.ok(one.entries.every(({ prevs }) => prevs!.every(prev => prev < s5 + 2)))
  })

  await t.test('what four write at once, all hear once, in one order, and each one\'s own in the order of its calls', async t => {
    const all = await several(t, 4)
    await Promise.all(all.map(([backplane]) => backplane.watch(['news', 'other'])))
    const cursors = await Promise.all(all.map(([backplane], writer) =>
      Promise.all(Array.from({ length: 300 }, (_, i) => backplane.append(entry(`${writer}:${i}`, { channels: i % 4 === 0 ? ['news', 'other'] : i % 2 === 0 ? ['other'] : ['news'] }))))))
    for (const [, receiver] of all) await heard(receiver, 1_200)
    const order = all[0]![1].entries.map(({ seq }) => seq)
    t.equal(new Set(order).size, 1_200)
    t.ok(order.every((seq, i) => i === 0 || order[i - 1]! < seq))
    for (const [writer, [, receiver]] of all.entries()) {
      t.equal(receiver.entries.map(({ seq }) => seq).join(), order.join())
      t.equal(receiver.data.filter(text => text.startsWith(`${writer}:`)).join(), Array.from({ length: 300 }, (_, i) => `${writer}:${i}`).join())
      t.equal(cursors[writer]!.map(seqOf).join(), receiver.entries.filter(({ data }) => data.startsWith(`${writer}:`)).map(({ seq }) => seq).join())
      t.equal(receiver.story, 'mended')
    }
  })

  await t.test('read() tells what is kept after a sequence number, as it was appended, with its age', async t => {
    const [[first], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    const cursors: string[] = []
    for (const each of entries) cursors.push(await first.append(each))
    await pause(60)
    const ofNews = entries.map((each, i) => ({ each, seq: seqOf(cursors[i]!) })).filter(({ each }) => each.channels.includes('news'))
    const all = await second.read('news', 0)
    t.equal(all.life, parseCursor(cursors[0]!)!.life)
    t.strictSame(all.entries.map(({ age, seq, ...rest }) => rest), ofNews.map(({ each }) => asHeard(each)))
    t.same(all.entries.map(({ seq }) => seq), ofNews.map(({ seq }) => seq))
    t.ok(all.entries.every(({ age }) => age >= 50 && age < 10_000), String(all.entries.map(({ age }) => age)))
    t.match(all, { floor: 0, last: ofNews.at(-1)!.seq, ended: false })
    const some = await second.read('news', ofNews[4]!.seq)
    t.same(some.entries.map(({ seq }) => seq), ofNews.slice(5).map(({ seq }) => seq))
    t.equal(some.floor, ofNews[4]!.seq)
    const none = await second.read('news', ofNews.at(-1)!.seq)
    t.match(none, { entries: [], floor: ofNews.at(-1)!.seq, last: ofNews.at(-1)!.seq, ended: false })
    t.equal(none.entries.length, 0)
  })

  await t.test('read() of a channel that nobody ever used, and from a place that is not there yet', async t => {
    const [[first, one]] = await several(t, 1) as [[SharedBackplane, Recorder]]
    const never = await first.read('never', one.head)
    t.same([never.entries, never.floor, never.ended], [[], one.head, false])
    t.ok(never.last <= one.head)
    const seq = seqOf(await first.append(entry('a')))
    t.match(await first.read('news', seq + 1_000), { floor: seq + 1_000, last: seq })
  })

  await t.test('read() of the newest', async t => {
    const [[first]] = await several(t, 1) as [[SharedBackplane, Recorder]]
    const cursors = await Promise.all(Array.from({ length: 1_300 }, (_, i) => first.append(entry(String(i)))))
    const data = async (n: number, after = 0) => (await first.read('news', after, n)).entries.map(({ data }) => Number(data))
    t.same(await data(3), [1297, 1298, 1299])
    t.same(await data(1), [1299])
    t.same(await data(0), [])
    t.same(await data(1_100), Array.from({ length: 1_100 }, (_, i) => 200 + i))
    t.same((await data(5_000)).length, 1_300)
    t.same(await data(100, seqOf(cursors[1296]!)), [1297, 1298, 1299])
  })

  await t.test('what was kept and is not any more: floor says so, and what is above it is there', async t => {
    const [[first]] = await several(t, 1) as [[SharedBackplane, Recorder]]
    const cursors: string[] = []
    for (let i = 0; i < 40; i++) cursors.push(await first.append(entry(String(i), { limits: { maxEvents: 10 } })))
    const all = await first.read('news', seqOf(cursors[0]!))
    const missing = 40 - all.entries.length
    t.ok(all.entries.length >= 10 && missing > 10, String(all.entries.length))
    t.equal(all.floor, seqOf(cursors[missing - 1]!))
    t.equal(all.entries[0]!.data, String(missing))
    const good = await first.read('news', all.floor)
    t.equal(good.floor, all.floor)
    t.equal(good.entries.length, all.entries.length)
  })

  await t.test('of a channel of values the newest is kept, and of one that keeps nothing only what came last is known', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await first.watch(['value', 'live'])
    const seqs = []
    for (let i = 0; i < 5; i++) seqs.push(seqOf(await second.append(entry(String(i), { channels: ['value'], limits: { latest: true, maxAge: 0 } }))))
    t.same((await first.read('value', 0)).entries.map(({ data }) => data), ['4'])
    for (let i = 0; i < 5; i++) seqs.push(seqOf(await second.append(entry(String(i), { channels: ['live'], limits: { maxEvents: 0 } }))))
    const live = await first.read('live', seqs[5]!)
    t.match(live, { floor: seqs[9]!, last: seqs[9]! })
    t.equal(live.entries.length, 0)
    await heard(one, 10)
    t.same(one.entries.slice(6).map(({ prevs }) => prevs), [[seqs[5]], [seqs[6]], [seqs[7]], [seqs[8]]])
  })

  await t.test('one read of 30 MB comes whole and in order, while others publish', async t => {
    const [[first], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    const text = 'x'.repeat(60_000)
    for (let i = 0; i < 500; i += 50) await Promise.all(Array.from({ length: 50 }, (_, j) => first.append(entry(i + j + text))))
    const reading = second.read('news', 0)
    const started = performance.now()
    await Promise.all(Array.from({ length: 20 }, () => second.append(entry('y'))))
    const took = performance.now() - started
    const { entries, floor } = await reading
    t.equal(floor, 0)
    t.ok(entries.length >= 500)
    t.ok(entries.every(({ data }, i) => i >= 500 || data === i + text))
    t.comment(`publishes beside it took ${Math.round(took)} ms`)
  })

  await t.test('thousands of reads, and a publish among them that does not wait for all', async t => {
    const [[first]] = await several(t, 1) as [[SharedBackplane, Recorder]]
    for (let i = 0; i < 100; i++) await first.append(entry('a'.repeat(1_000)))
    let done = 0
    const reads = Promise.all(Array.from({ length: 3_000 }, () => first.read('news', 0).then(() => { done++ })))
    await first.append(entry('b'))
    t.ok(done < 1_000, `${done} reads came first`)
    await reads
  })

  await t.test('where there is room for so many bytes, read() may leave out what is older, and says so by the floor', async t => {
    const [[first], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    const seqs: number[] = []
    for (let i = 0; i < 60; i++) seqs.push(seqOf(await first.append(entry(String(i).padEnd(20_000)))))
    const { entries, floor, last, cut } = await second.read('news', seqs[5]!, undefined, 300_000)
    t.ok(entries.length >= 10 && entries.length <= 15, `${entries.length} entries of 20 KB`)
    t.same(entries.map(({ seq }) => seq), seqs.slice(-entries.length))
    t.same([floor, last, cut], [seqs.at(-entries.length - 1), seqs.at(-1), true])
    const large = await second.read('news', 0, undefined, 1)
    t.same(large.entries.map(({ seq }) => seq), seqs.slice(-1), 'one that is larger than all the room')
    const all = await second.read('news', seqs[5]!, undefined, 2_000_000)
    t.same([all.entries.length, all.floor], [54, seqs[5]])
  })

  await t.test('seq() is not below what was acknowledged anywhere before', async t => {
    const [[first], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    for (let i = 0; i < 20; i++) {
      const cursor = parseCursor(await first.append(entry('a', { channels: [`channel ${i % 3}`] })))!
      const place = await second.seq()
      t.same(place, cursor)
    }
  })

  await t.test('where nothing is heard, advance() tells how far the log is, and never before what was heard', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await first.watch(['news'])
    const quiet = parseCursor(await second.append(entry('a', { channels: ['other'] })))!
    await until('it was told', () => one.places.some(({ seq, life }) => seq >= quiet.seq && life === quiet.life), 15_000)
    for (let i = 0; i < 200; i++) {
      await second.append(entry('b'))
      if (i % 10 === 0) await pause(10)
    }
    await heard(one, 200)
    let head = 0
    for (const seen of one.seen) {
      if (seen.what === 'hear' && seen.entry.seq <= head) t.fail(`${seen.entry.seq} was heard after ${head}`)
      if (seen.what === 'advance') head = seen.place.seq
    }
  })

  await t.test('that a channel has ended, all know, and it is read', async t => {
    const [[first], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    await first.append(entry('a'))
    const cursor = await first.append(entry('done', { kind: 'end' }))
    await t.rejects(second.append(entry('b')), { code: 'SSE_ERR_CHANNEL_ENDED' })
    t.equal(await second.append(entry('other', { kind: 'end' })), cursor)
    const { entries, ended, last } = await second.read('news', 0)
    t.match({ ended, last }, { ended: true, last: seqOf(cursor) })
    t.same(entries.map(({ kind, data }) => [kind, data]), [['event', 'a'], ['end', 'done']])
    t.match(await second.read('news', last), { ended: true, floor: last })
  })

  await t.test('one entry of 1,000 channels', async t => {
    const [[first, one], [second]] = await several(t, 2) as [[SharedBackplane, Recorder], [SharedBackplane, Recorder]]
    const channels = Array.from({ length: 1_000 }, (_, i) => `channel ${i}`)
    await first.watch(channels)
    await second.append(entry('a', { channels }))
    await second.append(entry('b', { channels: ['channel 7'] }))
    await heard(one, 2)
    t.same(one.entries[0]!.channels, channels)
    t.equal(one.entries[0]!.prevs!.length, 1_000)
    t.equal((await first.read('channel 999', 0)).entries.length, 1)
  })
}
