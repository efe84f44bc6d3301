import type { Backplane, ChannelLimits, Entry } from '../../lib/log/backplane.ts'
import type { ChannelLog } from '../../lib/log/channel-log.ts'
import { Log } from '../../lib/log/log.ts'
import { Pieces } from '../../lib/stream/pieces.ts'
import type { Stream } from './stream.ts'
import type { Truth } from './truth.ts'
import type { World } from './world.ts'

/** As lib/delivery/pass.ts has it. */
const PIECES_A_VISIT = 4

/** What is the same in all processes of a run. */
export interface ProcessOptions {
  readonly maxBytes: number
  readonly limits: (name: string) => ChannelLimits
  /** Bytes of an entry: it need not be as long as it says. */
  readonly measure: (entry: Entry) => number
  /** The clock of the log runs so many times faster, as its waits are long beside those of the model. */
  readonly speed: number
}

/** One process: the real log, with a pass and streams that are as small as can be. */
export class Process {
  readonly name: string
  readonly log: Log<Stream>
  readonly pieces: Pieces
  readonly streams = new Set<Stream>()
  readonly backplane: Backplane
  readonly world: World
  opened = false
  dead = false

  readonly #truth: Truth
  readonly #limits: (name: string) => ChannelLimits
  #ready: Stream[] = []
  readonly #channels = new Set<ChannelLog<Stream>>()
  #pass: Stream[] = []
  #visited = 0
  #head = 0
  #scheduled = false
  #sweeping = false

  constructor (world: World, truth: Truth, name: string, backplane: Backplane, options: ProcessOptions) {
    this.world = world
    this.name = name
    this.backplane = backplane
    this.#truth = truth
    this.#limits = options.limits
    const { speed } = options
    this.log = new Log<Stream>(backplane, options, {
      ready: log => this.#channel(log),
      keeping: () => this.#sweep(),
      state: error => world.tell(name, error === undefined ? 'up' : 'down', this.log.head)
    }, {
      now: () => world.now * speed,
      after: (ms, call) => this.#later(ms / speed, call)
    })
    this.pieces = new Pieces(this.log, JSON.parse)
    this.log.open().then(() => { this.opened = true }, () => {})
  }

  crash (): void {
    this.dead = true
    this.log.close()
    for (const stream of [...this.streams]) stream.gone()
  }

  #later (delay: number, call: () => void): void {
    this.world.at(delay, () => { if (!this.dead) call() })
  }

  publish (uid: number, channels: readonly string[], kind: 'event' | 'end' = 'event'): void {
    this.log.append({ channels, kind, event: undefined, data: String(uid), serialized: false, limits: channels.map(name => this.#limits(name)) }).then(() => {
      if (!this.dead && this.#truth.facts.has(uid)) this.#truth.facts.get(uid)!.acknowledged = true
    }, () => {})
  }

  #sweep (): void {
    if (this.#sweeping) return
    this.#sweeping = true
    this.#later(this.world.int(20, 120), () => {
      this.#sweeping = false
      if (this.log.sweep()) this.#sweep()
      for (const stream of this.streams) stream.sweep()
    })
  }

  // The pass

  stream (stream: Stream): void {
    if (stream.ready) return
    stream.ready = true
    this.#ready.push(stream)
    this.#schedule()
  }

  #channel (log: ChannelLog<Stream>): void {
    if (log.members.size === 0) return
    this.#channels.add(log)
    this.#schedule()
  }

  /** No pass is to visit it. */
  sleeps (stream: Stream): boolean {
    return !stream.ready && !stream.reader.subscriptions.some(({ log }) => this.#channels.has(log))
  }

  #schedule (): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#later(this.world.random() * 2, () => this.#begin())
  }

  #begin (): void {
    this.#pass = this.#ready
    this.#ready = []
    for (const log of this.#channels) {
      for (const stream of log.members) {
        if (stream.ready) continue
        stream.ready = true
        this.#pass.push(stream)
      }
    }
    this.#channels.clear()
    this.#visited = 0
    this.#head = this.log.head
    this.#slice()
  }

  #slice (): void {
    while (this.#visited < this.#pass.length) {
      this.#visit(this.#pass[this.#visited++]!)
      // It gives way to other events.
      if (this.world.chance(0.2)) return this.#later(this.world.random(), () => this.#slice())
    }
    this.#pass = []
    this.pieces.clear()
    let offered = this.#head
    for (const { reader } of this.#ready) offered = Math.min(offered, reader.position)
    this.log.release(offered)
    this.#scheduled = false
    if (this.#ready.length > 0 || this.#channels.size > 0) this.#schedule()
  }

  #visit (stream: Stream): void {
    stream.ready = false
    if (!stream.advance(PIECES_A_VISIT)) return
    if (stream.reader.position >= this.#head) return this.stream(stream)
    stream.ready = true
    this.#pass.push(stream)
  }
}
