import type { Life } from '../../lib/log/backplane.ts'
import type { Truth } from './truth.ts'
import type { World } from './world.ts'

/** No suffix that was lost reaches over this, into the next life. */
const JUMP = 2 ** 32
/** Lives that the table holds. */
const LIVES = 256
/** ms after which a channel whose entries have expired may be forgotten. */
const FORGET_AFTER = 2_500

/** An entry as the server has it. */
export interface Row {
  readonly life: string
  readonly seq: number
  readonly channels: readonly string[]
  readonly prevs: readonly number[]
  readonly kind: 'event' | 'end'
  readonly data: string
  /** By the server's own clock. */
  readonly time: number
}

interface Hash {
  run: string
  seq: number
  forgotten: number
  lives: Life[]
  /** Of each life, up to where a loss was marked. */
  lost: Map<string, number>
  marked: number
  recent: number
  old: number
}

/** All that the server stores: what a snapshot, a replica and a backup have. */
export class Data {
  hash: Hash | undefined
  /** Channel -> its newest entry, kept or not. */
  lasts = new Map<string, { seq: number, ended: boolean }>()
  channels = new Map<string, { rows: Row[], expires: number }>()

  copy (): Data {
    const copy = new Data()
    const { hash } = this
    copy.hash = hash && { ...hash, lives: [...hash.lives], lost: new Map(hash.lost) }
    copy.lasts = new Map(this.lasts)
    copy.channels = new Map(Array.from(this.channels, ([name, { rows, expires }]) => [name, { rows: [...rows], expires }]))
    return copy
  }
}

export type Request =
  | { readonly type: 'hello', readonly evidence: readonly string[] }
  | { readonly type: 'seq' }
  | { readonly type: 'read', readonly name: string, readonly after: number }
  | { readonly type: 'publish', readonly channels: readonly string[], readonly kind: 'event' | 'end', readonly data: string }

/** The life is '' where the asker does not know which server this is. */
export interface Answer {
  readonly life: string
  readonly seq: number
  /** To hello. */
  readonly run?: string
  readonly lives?: readonly Life[]
  /** To read. */
  readonly rows?: readonly Row[]
  readonly floor?: number
  readonly cut?: boolean
  readonly last?: number
  readonly ended?: boolean
  readonly time?: number
  /** To publish: the channel has ended. */
  readonly refused?: boolean
}

export interface ServerLimits {
  maxEvents: (name: string) => number
  /** ms. */
  retention: number
  /** How likely a message is dropped without a sign, as no server should. */
  silentDrop: number
}

/** What hears messages. */
export interface Subscriber {
  readonly names: ReadonlySet<string>
  push (row: Row): void
  kill (notice: number): void
}

/** The Redis server with its scripts: each runs alone, as one step. */
export class Server {
  data: Data
  up = true
  /** It never comes up again. */
  #dead = false
  readonly connections = new Set<Subscriber>()
  readonly runId: string
  /** Run id and replication id: what hello tells, and what every other request must name. */
  run: string

  readonly #world: World
  readonly #truth: Truth
  readonly #limits: ServerLimits
  /** ms that its clock is ahead. */
  readonly #skew: number

  constructor (world: World, truth: Truth, limits: ServerLimits, data: Data, skew = 0, runId = world.int(1, 1e9).toString(36)) {
    this.#world = world
    this.#truth = truth
    this.#limits = limits
    this.data = data
    this.#skew = skew
    this.runId = runId
    this.run = `${runId}:${world.int(1, 1e9).toString(36)}`
  }

  /** Another replication id: it was a replica for a while, with the data of another server. Its connections live on. */
  resync (data: Data): void {
    this.data = data
    this.run = `${this.runId}:${this.#world.int(1, 1e9).toString(36)}`
  }

  /** @param notice ms after which the other side hears of it, at most */
  die (notice = 300): void {
    this.up = false
    this.#dead = true
    for (const connection of [...this.connections]) connection.kill(this.#world.int(0, notice))
  }

  start (): void { this.up = !this.#dead }

  get now (): number { return this.#world.now + this.#skew }

  execute (run: string | undefined, request: Request): Answer {
    for (const [name, { expires }] of this.data.channels) if (expires <= this.now) this.data.channels.delete(name)
    if (request.type === 'hello') return this.#hello(request.evidence)
    if (run !== this.run) return { life: '', seq: 0 }
    const hash = this.#present()
    switch (request.type) {
      case 'seq': return { life: presentLife(hash), seq: hash.seq }
      case 'read': return this.#read(hash, request.name, request.after)
      case 'publish': return this.#publish(hash, request.channels, request.kind, request.data)
    }
  }

  #present (): Hash {
    const { hash } = this.data
    return hash?.run === this.run ? hash : this.#begin(false, 0)
  }

  /** A new life. */
  #begin (broken: boolean, above: number): Hash {
    const world = this.#world
    const { hash, lasts } = this.data
    const id = `L${world.int(1, 1e12).toString(36)}`
    if (hash === undefined) for (const { seq } of lasts.values()) above = Math.max(above, seq)
    const start = hash === undefined && above === 0 ? 0 : Math.max(hash?.seq ?? 0, above) + JUMP + Math.floor(world.random() * 2 ** 36)
    const lives = (hash?.lives ?? []).map((life, i, { length }) => i === length - 1 ? { ...life, end: hash!.seq } : life)
    lives.push({ id, start, end: Infinity, broken })
    if (lives.length > LIVES) lives.shift()
    this.data.hash = {
      run: this.run,
      seq: start,
      forgotten: hash?.forgotten ?? start,
      lives,
      lost: hash?.lost ?? new Map(),
      marked: hash?.marked ?? this.now,
      recent: hash?.recent ?? 0,
      old: hash?.old ?? 0
    }
    this.#truth.born(id, start)
    world.tell('server', 'life', lives)
    return this.data.hash
  }

  #hello (evidence: readonly string[]): Answer {
    let hash = this.#present()
    const ends = new Map(hash.lives.map(({ id, end }) => [id, end]))
    const lost: Array<[string, number]> = []
    for (let i = 0; i < evidence.length; i += 2) {
      const life = evidence[i]!
      const seq = Number(evidence[i + 1])
      if (seq > (ends.get(life) ?? -1) && !((hash.lost.get(life) ?? -1) >= seq)) lost.push([life, seq])
    }
    if (lost.length > 0) {
      hash = this.#begin(true, Math.max(...lost.map(([, seq]) => seq)))
      for (const [life, seq] of lost) hash.lost.set(life, seq)
    }
    return { life: presentLife(hash), seq: hash.seq, run: this.run, lives: [...hash.lives] }
  }

  #read (hash: Hash, name: string, after: number): Answer {
    const rows = this.data.channels.get(name)?.rows ?? []
    const newest = this.data.lasts.get(name)
    const last = newest?.seq ?? hash.forgotten
    const oldest = rows[0]
    const prev = oldest?.prevs[oldest.channels.indexOf(name)] ?? -last
    return {
      life: presentLife(hash),
      seq: hash.seq,
      rows: rows.filter(({ seq }) => seq > after),
      floor: Math.max(after, Math.abs(prev)),
      cut: prev > 0,
      last,
      ended: newest?.ended ?? false,
      time: this.now
    }
  }

  #publish (hash: Hash, channels: readonly string[], kind: Row['kind'], data: string): Answer {
    const { lasts } = this.data
    const life = presentLife(hash)
    for (const name of channels) {
      const newest = lasts.get(name)
      if (newest?.ended === true) return kind === 'end' ? { life, seq: newest.seq } : { life, seq: 0, refused: true }
    }
    const seq = ++hash.seq
    const prevs = channels.map(name => lasts.get(name)?.seq ?? -hash.forgotten)
    const row: Row = { life, seq, channels, prevs, kind, data, time: this.now }
    this.#truth.executed(Number(data), life, seq, channels, kind, this.#world.now)
    for (const name of channels) this.#keep(name, row)
    for (const name of channels) for (const connection of this.connections) if (connection.names.has(name) && !this.#drops()) connection.push(row)
    if (seq % 4 === 0) this.#forget(hash)
    return { life, seq }
  }

  #drops (): boolean {
    return this.#limits.silentDrop > 0 && this.#world.chance(this.#limits.silentDrop)
  }

  #keep (name: string, row: Row): void {
    const { retention } = this.#limits
    const maxEvents = this.#limits.maxEvents(name) + (row.kind === 'end' ? 1 : 0)
    this.data.lasts.set(name, { seq: row.seq, ended: row.kind === 'end' })
    if (maxEvents === 0) return
    let channel = this.data.channels.get(name)
    if (channel === undefined) this.data.channels.set(name, channel = { rows: [], expires: 0 })
    channel.rows.push(row)
    // As with MAXLEN ~, some more stay for a while.
    while (channel.rows.length > maxEvents + row.seq % 3) channel.rows.shift()
    channel.expires = this.now + retention
  }

  /** Channels whose entries have expired, and that were not in use for a while: no process's head is below that. */
  #forget (hash: Hash): void {
    const now = this.now
    if (now - hash.marked > FORGET_AFTER || now < hash.marked) {
      hash.old = hash.recent
      hash.recent = hash.seq
      hash.marked = now
    }
    for (const [name, { seq }] of this.data.lasts) {
      if (seq > hash.old || this.data.channels.has(name)) continue
      this.data.lasts.delete(name)
      hash.forgotten = Math.max(hash.forgotten, seq)
      this.#world.tell('server', 'forgets', [name, seq])
    }
  }
}

function presentLife ({ lives }: Hash): string {
  return lives.at(-1)!.id
}
