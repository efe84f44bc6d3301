import type { Test } from 'tap'
import type { Backplane, Entry, NewEntry, Receiver } from '../lib/backplane.ts'

/** A fresh log, on which `backplane()` makes one more backplane. */
export interface Log {
  backplane (): Backplane
}

export interface ContractOptions {
  /** Makes a log that nothing else uses. What it starts it cleans up in t.teardown(). */
  log (t: Test): Promise<Log> | Log
  /** Several backplanes of one log see the same entries: the tests of that run too. */
  shared: boolean
}

type Seen =
  | { what: 'entry', entry: Entry, age: number }
  | { what: 'reset', cursor: string }
  | { what: 'up' }
  | { what: 'down', error: Error }

/** A receiver that keeps what it was called with. */
export class Recorder implements Receiver {
  readonly maxEvents: number
  readonly seen: Seen[] = []

  constructor (maxEvents = 1_000) {
    this.maxEvents = maxEvents
  }

  receive (entry: Entry, age = 0): void { this.seen.push({ what: 'entry', entry, age }) }
  reset (cursor: string): void { this.seen.push({ what: 'reset', cursor }) }
  up (): void { this.seen.push({ what: 'up' }) }
  down (error: Error): void { this.seen.push({ what: 'down', error }) }

  get entries (): Entry[] { return this.seen.flatMap(seen => seen.what === 'entry' ? [seen.entry] : []) }
  get ages (): number[] { return this.seen.flatMap(seen => seen.what === 'entry' ? [seen.age] : []) }
  get cursors (): string[] { return this.entries.map(entry => entry.cursor) }
  get data (): Array<string | undefined> { return this.entries.map(entry => entry.data) }
  get resets (): string[] { return this.seen.flatMap(seen => seen.what === 'reset' ? [seen.cursor] : []) }
  /** As short text: data, or what else it was. */
  get story (): string[] { return this.seen.map(seen => seen.what === 'entry' ? String(seen.entry.data) : `(${seen.what})`) }

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

export function entry (data: string | undefined, more: Partial<NewEntry> = {}): NewEntry {
  return { channels: ['news'], event: undefined, data, serialized: false, ...more }
}

export const GARBAGE = [
  '', ' ', '-', '.', '0', '-1', '1-', 'a-1', '1.5', 'NaN', 'Infinity', '0-0', '1-1-1', '١-١', '1e3-1', '0x1-1', '+1-1', '1 -1',
  '\u0000', '\ud800', '\r\n', '🦊', '__proto__', 'constructor', '1-1.', '1-1.!!!!!!!!', '1'.repeat(200), '1-'.repeat(50_000), 'x'.repeat(1_000_000)
]

/** Every promise of lib/backplane.ts, as far as it can be kept without breaking something on purpose. */
export async function backplaneContract (t: Test, { log: newLog, shared }: ContractOptions): Promise<void> {
  /** An open backplane on a log, closed at the end. */
  async function opened (t: Test, log: Log, maxEvents?: number): Promise<[Backplane, Recorder]> {
    const backplane = log.backplane()
    t.teardown(() => backplane.close())
    const receiver = new Recorder(maxEvents)
    await backplane.open(receiver)
    return [backplane, receiver]
  }

  async function fresh (t: Test, maxEvents?: number): Promise<[Backplane, Recorder]> {
    return opened(t, await newLog(t), maxEvents)
  }

  const received = (receiver: Recorder, n: number) => until(`${n} entries were received`, () => receiver.entries.length >= n)

  await t.test('open() of an empty log says where it begins, and nothing else', async t => {
    const [, { seen }] = await fresh(t)
    t.equal(seen.length, 1)
    t.equal(seen[0]?.what, 'reset')
  })

  await t.test('a second open() rejects, and the first receiver stays', async t => {
    const [backplane, receiver] = await fresh(t)
    const second = new Recorder()
    await t.rejects(backplane.open(second))
    await backplane.append(entry('a'))
    await received(receiver, 1)
    t.same(second.seen, [])
  })

  await t.test('append() resolves with the cursor with which the entry is received', async t => {
    const [backplane, receiver] = await fresh(t)
    const cursors = [await backplane.append(entry('a')), await backplane.append(entry('b'))]
    await received(receiver, 2)
    t.same(receiver.cursors, cursors)
    t.same(receiver.data, ['a', 'b'])
  })

  await t.test('every entry is received once, in the order of the calls, without waiting between them', async t => {
    const [backplane, receiver] = await fresh(t)
    const data = Array.from({ length: 2_000 }, (_, i) => String(i))
    const cursors = await Promise.all(data.map(text => backplane.append(entry(text))))
    await received(receiver, data.length)
    await backplane.sync()
    t.equal(receiver.data.join(), data.join())
    t.equal(receiver.cursors.join(), cursors.join())
    t.equal(receiver.resets.length, 1)
  })

  await t.test('an entry is received as it was appended, whatever is in it', async t => {
    const [backplane, receiver] = await fresh(t)
    const entries: NewEntry[] = [
      entry(undefined, { event: 'only a name' }),
      entry(''),
      entry('', { event: '' }),
      entry('{"a":1}', { serialized: true }),
      entry('{"a":1}'),
      entry('null', { serialized: true }),
      entry('lines\nand\r\nends\rand\u0000 🦊 \u2028'),
      entry('x'.repeat(300_000)),
      entry('a', { channels: ['one', 'two', 'three'] }),
      entry('a', { channels: ['spaces and , commas', '"quotes"', '[]', '\n', '\u0000', '🦊', '\ud800', '__proto__'] }),
      entry('a', { event: 'n' }),
      entry('n', { channels: ['n', 'c'], event: 'c' })
    ]
    for (const each of entries) await backplane.append(each)
    await received(receiver, entries.length)
    t.strictSame(receiver.entries.map(({ cursor, ...rest }) => rest), entries)
  })

  await t.test('cursors are short, of one line, and never the same twice', async t => {
    const [backplane, receiver] = await fresh(t)
    const cursors = await Promise.all(Array.from({ length: 500 }, () => backplane.append(entry('a'))))
    cursors.push(...receiver.resets)
    for (const cursor of cursors) {
      if (Buffer.byteLength(cursor) > 128 || /[\r\n\0]/.test(cursor)) t.fail(`bad cursor ${JSON.stringify(cursor)}`)
    }
    t.equal(new Set(cursors).size, 501)
  })

  await t.test('compare() orders the cursors, the one where the log begins being the first', async t => {
    const [backplane, receiver] = await fresh(t)
    const appended = await Promise.all(Array.from({ length: 40 }, () => backplane.append(entry('a'))))
    const cursors = [...receiver.resets, ...appended]
    for (let i = 0; i < cursors.length; i++) {
      for (let j = 0; j < cursors.length; j++) {
        if (Math.sign(backplane.compare(cursors[i]!, cursors[j]!)) !== Math.sign(i - j)) t.fail(`${cursors[i]} and ${cursors[j]}`)
      }
    }
  })

  await t.test('compare() says NaN to what is no cursor of this log, at once, and never throws', async t => {
    const [backplane, receiver] = await fresh(t)
    const [good] = receiver.resets as [string]
    const start = performance.now()
    const taken = [...GARBAGE, good + '!', '!' + good, good + '\n', ' ' + good, good.slice(0, 5)].filter(garbage =>
      ![backplane.compare(garbage, good), backplane.compare(good, garbage), backplane.compare(garbage, garbage)].every(Number.isNaN))
    t.same(taken, [])
    t.ok(performance.now() - start < 1_000)
    t.equal(backplane.compare(good, good), 0)
  })

  await t.test('sync() resolves when what was acknowledged before it has been received', async t => {
    const [backplane, receiver] = await fresh(t)
    for (let i = 1; i <= 20; i++) {
      await backplane.append(entry('a'))
      if (i % 10 !== 0) continue
      await backplane.sync()
      t.equal(receiver.entries.length, i)
    }
  })

  await t.test('sync() resolves where nothing was ever appended, for all who wait', async t => {
    const [backplane] = await fresh(t)
    await Promise.all([backplane.sync(), backplane.sync()])
  })

  await t.test('append() rejects before open() and after close(), and never throws', async t => {
    const log = await newLog(t)
    const backplane = log.backplane()
    const early = backplane.append(entry('early'))
    await t.rejects(early, { code: 'SSE_ERR_CLOSED' })
    const receiver = new Recorder()
    await backplane.open(receiver)
    await backplane.close()
    const late = backplane.append(entry('late'))
    await t.rejects(late, { code: 'SSE_ERR_CLOSED' })
    t.equal(receiver.entries.length, 0)
  })

  await t.test('after close() nothing calls the receiver, and a second close() does nothing', async t => {
    const [backplane, receiver] = await fresh(t)
    const pending = Array.from({ length: 100 }, () => backplane.append(entry('a')).catch(() => {}))
    await backplane.close()
    const calls = receiver.seen.length
    await backplane.close()
    await Promise.all(pending)
    await new Promise(resolve => setTimeout(resolve, 50))
    t.equal(receiver.seen.length, calls)
  })

  await t.test('close() before open() is fine', async t => {
    await (await newLog(t)).backplane().close()
  })

  await t.test('what was appended just now has no age, and a log in reach is not said to be up or down', async t => {
    const [backplane, receiver] = await fresh(t)
    await backplane.append(entry('a'))
    await received(receiver, 1)
    t.ok(receiver.ages[0]! < 500, String(receiver.ages[0]))
    t.equal(receiver.count('up') + receiver.count('down'), 0)
  })

  if (!shared) return

  await t.test('open() hands over what the log has kept, in order, with its age, before it resolves', async t => {
    const log = await newLog(t)
    const [first, one] = await opened(t, log)
    const cursors = [await first.append(entry('a')), await first.append(entry('b')), await first.append(entry('c'))]
    await new Promise(resolve => setTimeout(resolve, 60))
    const [second, two] = await opened(t, log)
    t.same(two.story, ['(reset)', 'a', 'b', 'c'])
    t.same(two.cursors, cursors)
    t.same(two.resets, one.resets, 'both begin at the same place')
    t.ok(second.compare(two.resets[0]!, cursors[0]!) < 0)
    t.ok(two.ages.every(age => age >= 50 && age < 5_000), String(two.ages))
  })

  await t.test('open() hands over the newest maxEvents, and begins at the cursor of the entry before them', async t => {
    const log = await newLog(t)
    const [first] = await opened(t, log)
    const cursors = await Promise.all(['a', 'b', 'c', 'd', 'e'].map(data => first.append(entry(data))))
    const [, two] = await opened(t, log, 2)
    t.same(two.story, ['(reset)', 'd', 'e'])
    t.same(two.resets, [cursors[2]])
  })

  await t.test('with maxEvents 0 nothing is loaded, and what comes afterwards is received', async t => {
    const log = await newLog(t)
    const [first] = await opened(t, log)
    await first.append(entry('a'))
    const newest = await first.append(entry('b'))
    const [second, two] = await opened(t, log, 0)
    t.same(two.resets, [newest])
    await Promise.all([first.append(entry('c')), second.append(entry('d'))])
    await received(two, 2)
    t.same(two.data.sort(), ['c', 'd'])
    t.equal(two.resets.length, 1)
  })

  await t.test('with maxEvents Infinity everything is loaded', async t => {
    const log = await newLog(t)
    const [first] = await opened(t, log, Infinity)
    const data = Array.from({ length: 1_700 }, (_, i) => String(i))
    await Promise.all(data.map(text => first.append(entry(text))))
    const [, two] = await opened(t, log, Infinity)
    t.equal(two.data.join(), data.join())
  })

  await t.test('several backplanes of one log receive all entries once, in the same order, and each one\'s own in the order of its calls', async t => {
    const log = await newLog(t)
    const all = await Promise.all(Array.from({ length: 4 }, () => opened(t, log)))
    const cursors = await Promise.all(all.map(([backplane], writer) =>
      Promise.all(Array.from({ length: 300 }, (_, i) => backplane.append(entry(`${writer}:${i}`))))))
    for (const [, receiver] of all) await received(receiver, 1_200)
    await Promise.all(all.map(([backplane]) => backplane.sync()))
    const [[, first]] = all as [[Backplane, Recorder]]
    const order = first.cursors
    t.equal(new Set(order).size, 1_200)
    t.ok(order.every((cursor, i) => i === 0 || all[0]![0].compare(order[i - 1]!, cursor) < 0))
    for (const [writer, [, receiver]] of all.entries()) {
      t.equal(receiver.cursors.join(), order.join())
      const own = new Set(cursors[writer])
      t.equal(order.filter(cursor => own.has(cursor)).join(), cursors[writer]!.join())
      t.equal(receiver.resets.length, 1)
    }
  })

  await t.test('sync() of one backplane covers what another one has acknowledged', async t => {
    const log = await newLog(t)
    const [first] = await opened(t, log)
    const [second, two] = await opened(t, log)
    for (let i = 1; i <= 30; i++) {
      const cursor = await first.append(entry('a'))
      if (i % 10 !== 0) continue
      await second.sync()
      t.equal(two.cursors.at(-1), cursor)
    }
  })
}
