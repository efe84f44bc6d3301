import type { HeardEntry, Kept, Life, NewEntry, Place, Receiver, SharedBackplane } from '../../lib/index.ts'

interface KeptChannel { entries: Array<{ entry: HeardEntry, time: number }>, floor: number, last: number, ended: boolean }

/** A log that several processes share, in the memory of the test: each has a line to it. */
export class SharedLog {
  readonly lives: Life[] = [{ id: 'L1', start: 0, end: Infinity, broken: false }]
  readonly lines: Line[] = []
  seq = 0
  readonly #channels = new Map<string, KeptChannel>()

  /** @param turns of the event loop that a message takes; 0 by default */
  line (turns: () => number = () => 0): Line {
    const line = new Line(this, turns)
    this.lines.push(line)
    return line
  }

  get life (): Life { return this.lives.at(-1)! }

  append ({ limits, ...entry }: NewEntry): HeardEntry {
    const prevs = entry.channels.map(name => this.#channels.get(name)?.last ?? this.life.start)
    const heard = { ...entry, life: this.life.id, seq: ++this.seq, prevs }
    entry.channels.forEach((name, i) => {
      const channel = this.#channels.get(name) ?? { entries: [], floor: this.life.start, last: 0, ended: false }
      this.#channels.set(name, channel)
      channel.entries.push({ entry: heard, time: performance.now() })
      channel.last = heard.seq
      channel.ended = entry.kind === 'end'
      while (channel.entries.length > limits[i]!.maxEvents) channel.floor = channel.entries.shift()!.entry.seq
    })
    for (const line of this.lines) line.tell(heard)
    return heard
  }

  /** Appends as another process would. @returns the cursor */
  publish (channel: string, data: string): string {
    const { life, seq } = this.append({ channels: [channel], kind: 'event', event: undefined, data, serialized: false, limits: [{ maxEvents: 1_000, maxAge: 0, latest: false }] })
    return `${life}-${seq.toString(36)}`
  }

  read (name: string, after: number, newest = Infinity): Kept {
    const { entries, floor, last, ended } = this.#channels.get(name) ?? { entries: [], floor: this.life.start, last: this.life.start, ended: false }
    const now = performance.now()
    const kept = entries.filter(({ entry }) => entry.seq > after).map(({ entry, time }) => ({ ...entry, age: now - time }))
    return { life: this.life.id, entries: newest < kept.length ? kept.slice(-newest) : kept, floor, last, ended }
  }

  /** Everything is lost, and it is known. */
  lose (): void {
    this.lives[this.lives.length - 1] = { ...this.life, end: this.seq }
    this.seq += 1_000
    this.lives.push({ id: `L${this.lives.length + 1}`, start: this.seq, end: Infinity, broken: true })
    this.#channels.clear()
    for (const line of this.lines) line.restarted()
  }
}

/** What one process has of it. What it is told comes in order, late, and not at all while it is lagging. */
export class Line implements SharedBackplane {
  /** Nothing is heard, watched, or told by `advance` and `seq` until this is false and `catchUp` was called. */
  lagging = false
  reads = 0
  questions = 0
  readonly watched = new Set<string>()

  readonly #log: SharedLog
  readonly #turns: () => number
  #queue: Array<() => void> = []
  #running = false
  #closed = false
  #receiver: Receiver | undefined

  constructor (log: SharedLog, turns: () => number) {
    this.#log = log
    this.#turns = turns
  }

  async open (receiver: Receiver): Promise<void> {
    this.#receiver = receiver
    receiver.mended([...this.#log.lives], this.#log.seq)
  }

  async append (entry: NewEntry): Promise<string> {
    const { life, seq } = this.#log.append(entry)
    await this.#pause()
    return `${life}-${seq.toString(36)}`
  }

  async watch (names: readonly string[]): Promise<void> {
    await this.#pause()
    for (const name of names) this.watched.add(name)
    await new Promise<void>(resolve => this.#later(resolve))
    this.advance()
  }

  unwatch (names: readonly string[]): void {
    for (const name of names) this.watched.delete(name)
  }

  async read (name: string, after: number, newest?: number): Promise<Kept> {
    this.reads++
    await this.#pause()
    const kept = this.#log.read(name, after, newest)
    await this.#pause()
    return kept
  }

  async seq (): Promise<Place> {
    this.questions++
    await this.#pause()
    if (this.lagging) await new Promise<void>(resolve => this.#later(resolve))
    const place = this.#here()
    await this.#pause()
    return place
  }

  async close (): Promise<void> {
    this.#closed = true
    this.#queue = []
  }

  /** Called by the log. */
  tell (entry: HeardEntry): void {
    if (entry.channels.some(name => this.watched.has(name))) this.#later(() => this.#receiver!.hear(entry))
  }

  /** Tells that nothing of before now is still to come. */
  advance (): void {
    const here = this.#here()
    this.#later(() => this.#receiver!.advance(here))
  }

  restarted (): void {
    this.#queue = []
    this.#receiver!.restarted([...this.#log.lives], this.#log.seq)
  }

  get receiver (): Receiver { return this.#receiver! }

  /** Goes on after lagging. */
  catchUp (): void {
    this.lagging = false
    this.#run()
  }

  #here (): Place { return { life: this.#log.life.id, seq: this.#log.seq } }

  #later (message: () => void): void {
    this.#queue.push(message)
    this.#run()
  }

  #run (): void {
    if (this.#running || this.lagging) return
    this.#running = true
    this.#deliver().catch(() => {})
  }

  async #deliver (): Promise<void> {
    while (this.#queue.length > 0 && !this.lagging && !this.#closed) {
      await this.#pause()
      if (!this.lagging) this.#queue.shift()?.()
    }
    this.#running = false
  }

  async #pause (): Promise<void> {
    for (let turns = this.#turns(); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
  }
}
