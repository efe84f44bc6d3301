import type { HeardEntry, KeptEntry, Life, Place, Receiver, SharedBackplane } from '../../lib/log/backplane.ts'

/** What one channel's reader has seen, in order. */
export type Item = { at: number, entry: KeptEntry | HeardEntry, life: string } | { at: number, gap: string }

interface Channel {
  last: number
  current: boolean
  aside: HeardEntry[]
  readonly items: Item[]
}

/**
 * The log of a process, as small as it can be: it believes what the contract of backplanes promises, and nothing else, so what it
 * has in the end tells whether the promises were kept.
 */
export class Follower implements Receiver {
  readonly channels = new Map<string, Channel>()
  /** What happened to the connection. */
  readonly story: string[] = []
  readonly errors: Error[] = []
  lives: readonly Life[] = []
  head = 0
  serving = false
  #backplane!: SharedBackplane
  #generation = 0

  get life (): string { return this.lives.at(-1)!.id }
  get current (): boolean { return this.serving && [...this.channels.values()].every(({ current }) => current) }
  count (what: string): number { return this.story.filter(each => each === what).length }

  async follow (backplane: SharedBackplane, names: string[]): Promise<void> {
    this.#backplane = backplane
    await backplane.open(this)
    for (const name of names) this.channels.set(name, { last: this.head, current: false, aside: [], items: [] })
    await backplane.watch(names)
    for (const name of names) await this.#load(name)
  }

  hear (entry: HeardEntry): void {
    if (!this.serving || entry.life !== this.life) return
    for (const [i, name] of entry.channels.entries()) {
      const channel = this.channels.get(name)
      if (channel === undefined) continue
      if (channel.current) this.#put(name, channel, entry, entry.prevs![i]!)
      else channel.aside.push(entry)
    }
    this.head = Math.max(this.head, entry.seq)
  }

  #put (name: string, channel: Channel, entry: HeardEntry, prev: number): void {
    if (entry.seq <= channel.last) return
    if (prev > channel.last || -prev > Math.max(channel.last, this.head)) {
      this.story.push('chain')
      channel.current = false
      channel.aside.push(entry)
      this.#load(name)
      return
    }
    channel.last = entry.seq
    channel.items.push({ at: performance.now(), entry, life: entry.life })
  }

  advance ({ life, seq }: Place): void {
    if (this.serving && life === this.life) this.head = Math.max(this.head, seq)
  }

  broken (error: Error): void {
    this.story.push('broken')
    this.errors.push(error)
    this.serving = false
    this.#generation++
    for (const channel of this.channels.values()) Object.assign(channel, { current: false, aside: [] })
  }

  mended (lives: readonly Life[], head: number): void {
    this.story.push('mended')
    this.#begin(lives, Math.max(this.head, head))
  }

  restarted (lives: readonly Life[], head: number): void {
    this.story.push('restarted')
    for (const channel of this.channels.values()) {
      channel.last = head
      channel.items.push({ at: performance.now(), gap: 'restarted' })
    }
    this.#begin(lives, head)
  }

  #begin (lives: readonly Life[], head: number): void {
    this.lives = lives
    this.head = head
    this.serving = true
    this.#generation++
    for (const name of this.channels.keys()) this.#load(name)
  }

  async #load (name: string): Promise<void> {
    const generation = this.#generation
    const channel = this.channels.get(name)!
    const answer = await this.#backplane.read(name, channel.last).catch(() => undefined)
    if (generation !== this.#generation) return
    if (answer === undefined || answer.life !== this.life) {
      setTimeout(() => { if (generation === this.#generation) this.#load(name) }, 30).unref()
      return
    }
    if (answer.floor > channel.last) channel.items.push({ at: performance.now(), gap: 'floor' })
    channel.last = Math.max(channel.last, answer.floor)
    for (const entry of answer.entries) {
      if (entry.seq <= channel.last) continue
      channel.last = entry.seq
      channel.items.push({ at: performance.now(), entry, life: answer.life })
    }
    channel.current = true
    const { aside } = channel
    channel.aside = []
    for (const entry of aside) this.#put(name, channel, entry, entry.prevs![entry.channels.indexOf(name)]!)
  }

  endOf (): undefined { }
}

/** What was published, and acknowledged at this time. */
export interface Published {
  readonly text: string
  readonly channels: readonly string[]
  readonly cursor: string
  readonly sent: number
  readonly at: number
}

/**
 * Complaints about what a follower has: an entry twice or out of order, something that was acknowledged and is neither there nor behind a
 * gap that came later than its publish; and, unless something was lost, a gap at all.
 */
export function judge (who: string, follower: Follower, published: readonly Published[], lossless: boolean): string[] {
  const complaints: string[] = []
  for (const [name, { items }] of follower.channels) {
    const seen = new Set<string>()
    const places = new Set<string>()
    let last: { life: string, seq: number } | undefined
    let gap = -1
    const gaps: string[] = []
    for (const item of items) {
      if ('gap' in item) {
        gap = item.at
        gaps.push(item.gap)
        continue
      }
      const { entry: { data, seq }, life } = item
      if (seen.has(data)) complaints.push(`${who}: ${name}: ${data} twice`)
      if (places.has(`${life} ${seq}`)) complaints.push(`${who}: ${name}: the place ${life} ${seq} twice`)
      if (last !== undefined && seq <= last.seq) complaints.push(`${who}: ${name}: ${seq} of ${life} after ${last.seq} of ${last.life}`)
      seen.add(data)
      places.add(`${life} ${seq}`)
      last = { life, seq }
    }
    if (lossless && gaps.length > 0) complaints.push(`${who}: ${name}: gaps without a loss: ${gaps.join()}`)
    const missing = published.filter(({ channels, text, sent }) => channels.includes(name) && !seen.has(text) && sent > gap)
    if (missing.length > 0) complaints.push(`${who}: ${name}: ${missing.length} acknowledged ones are missing, ${missing[0]!.text} (${missing[0]!.cursor}) first`)
  }
  const cursors = new Set(published.map(({ cursor }) => cursor))
  if (cursors.size !== published.length) complaints.push(`${published.length - cursors.size} cursors were given twice`)
  return complaints
}
