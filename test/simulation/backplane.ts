import type { Kept, NewEntry, Place, Receiver, SharedBackplane } from '../../lib/log/backplane.ts'
import { formatCursor } from '../../lib/log/cursor.ts'
import { Lives } from '../../lib/redis/lives.ts'
import { Connection } from './connection.ts'
import type { Answer, Request, Row, Server } from './server.ts'
import { defer, type World } from './world.ts'

/** ms without news after which it is asked how far the log is. */
const SILENCE = 300
/** ms between two looks. */
const LOOK = 100

/** Where a process finds a server. */
export interface Cluster {
  /** The one that it is told to connect to now, if there is one. */
  find (): Server | undefined
  /** ms on the clock of the process, of so many of the world. */
  scale (ms: number): number
  /** Bytes of what an entry says. */
  measure (data: string): number
}

/** Two connections to one server, one that commands and one that hears. They break as one. */
interface Pair {
  readonly commands: Connection
  readonly subscriber: Connection
  /** Which server that is, once hello has told it. */
  run: string | undefined
  up: boolean
}

interface Watched { resolve: () => void }

/** The backplane of one process over a modelled server: what lib/redis does, without the network. */
export class ModelBackplane implements SharedBackplane {
  readonly #world: World
  readonly #cluster: Cluster
  readonly #lives = new Lives()
  #receiver!: Receiver
  #opened: (() => void) | undefined
  #closed = false
  #pair: Pair | undefined
  readonly #names = new Map<string, Watched>()
  #heard = 0

  constructor (world: World, cluster: Cluster) {
    this.#world = world
    this.#cluster = cluster
  }

  open (receiver: Receiver): Promise<void> {
    this.#receiver = receiver
    const { promise, resolve } = defer<void>(this.#world)
    this.#opened = () => resolve(undefined)
    this.#connectLater()
    this.#look()
    return promise
  }

  async close (): Promise<void> {
    this.#closed = true
    this.#pair?.commands.close()
    this.#pair?.subscriber.close()
  }

  /** The connections of now, for faults. */
  get connections (): readonly Connection[] {
    return this.#pair === undefined ? [] : [this.#pair.commands, this.#pair.subscriber]
  }

  // Connecting

  #connectLater (): void {
    this.#world.at(this.#world.int(2, 60), () => { if (!this.#closed) this.#connect() })
  }

  #connect (): void {
    const one = this.#cluster.find()
    const other = this.#cluster.find()
    // A failover between the two: both must be to the same server.
    if (one?.up !== true || one !== other) return this.#connectLater()
    const pair: Pair = { commands: new Connection(this.#world, one), subscriber: new Connection(this.#world, other), run: undefined, up: false }
    this.#pair = pair
    this.#heard = this.#world.now
    pair.subscriber.onmessage = row => this.#hear(pair, row)
    pair.commands.onclose = pair.subscriber.onclose = () => this.#lose(pair)
    this.#subscribe(pair, [...this.#names.keys()], () => this.#hello(pair))
  }

  #lose (pair: Pair): void {
    if (this.#pair !== pair) return
    this.#pair = undefined
    pair.commands.close()
    pair.subscriber.close()
    if (this.#closed) return
    this.#receiver.broken(new Error('the connection broke'))
    this.#connectLater()
  }

  /** Something of a life came that is not in the table: hello is asked again, over new connections. Until then, more of it may come. */
  #doubt (pair: Pair): void {
    const world = this.#world
    if (world.chance(0.5)) this.#lose(pair)
    else world.at(world.random() * 10, () => this.#lose(pair))
  }

  #subscribe (pair: Pair, names: readonly string[], done: () => void): void {
    if (this.#pair !== pair) return
    const watched = names.map(name => this.#names.get(name)!)
    pair.subscriber.send({ type: 'subscribe', names }, undefined, () => {
      if (this.#pair !== pair) return
      for (const { resolve } of watched) resolve()
      done()
    }, () => {})
  }

  #hello (pair: Pair): void {
    pair.commands.send({ type: 'hello', evidence: this.#lives.evidence() }, undefined, answer => {
      if (this.#pair === pair) this.#mend(pair, answer)
    }, () => {})
  }

  #mend (pair: Pair, { run, lives, seq, life }: Answer): void {
    pair.run = run
    pair.up = true
    const reset = this.#lives.learn(lives!)
    this.#lives.see({ life, seq })
    if (reset) this.#receiver.restarted(lives!, seq)
    else this.#receiver.mended(lives!, seq)
    this.#opened?.()
    this.#opened = undefined
    // For those that were watched since hello was sent.
    this.#ask(pair)
  }

  /** Hears nothing, and has no news: how far is the log, and does what came before that still come? */
  #look (): void {
    this.#world.at(LOOK + this.#world.random() * 20, () => {
      if (this.#closed) return
      const pair = this.#pair
      if (pair?.up === true && (this.#world.now - this.#heard > SILENCE || this.#world.chance(0.1))) this.#ask(pair)
      this.#look()
    })
  }

  #ask (pair: Pair): void {
    this.#command(pair, { type: 'seq' }, ({ life, seq }) => {
      // Its answer comes behind all that was published before.
      pair.subscriber.send({ type: 'ping' }, undefined, () => {
        if (this.#pair !== pair) return
        this.#heard = this.#world.now
        this.#receiver.advance({ life, seq })
      }, () => {})
    }, () => {})
  }

  /** Asks a server of which hello has told who it is. What it answers is evidence; another life than is known here, a reason to begin anew. */
  #command (pair: Pair, request: Request, done: (answer: Answer) => void, fail: () => void): void {
    pair.commands.send(request, pair.run, answer => {
      if (answer.life === '') {
        fail()
        return this.#lose(pair)
      }
      if (answer.seq > 0) this.#lives.see(answer)
      for (const { life, seq } of answer.rows ?? []) this.#lives.see({ life, seq })
      done(answer)
      if (this.#lives.state(answer.life) === 'unknown') this.#doubt(pair)
    }, fail)
  }

  // What the log calls

  watch (names: readonly string[]): Promise<void> {
    const { promise, resolve } = defer<void>(this.#world)
    const watched = { resolve: () => resolve(undefined) }
    for (const name of names) this.#names.set(name, watched)
    const world = this.#world
    const pair = this.#pair
    // Where there is none, or it breaks, they are watched over the next one. It may be mended long before this is answered.
    if (pair !== undefined) {
      world.at(world.chance(0.4) ? world.random() * 400 : 0, () => {
        // Some may have been left meanwhile, and asked for again.
        this.#subscribe(pair, names.filter(name => this.#names.get(name) === watched), () => { if (pair.up) this.#ask(pair) })
      })
    }
    return promise
  }

  unwatch (names: readonly string[]): void {
    for (const name of names) {
      this.#names.delete(name)
      this.#pair?.subscriber.send({ type: 'unsubscribe', name }, undefined, () => {}, () => {})
    }
  }

  read (name: string, after: number, newest = Infinity, bytes = Infinity): Promise<Kept> {
    return this.#question({ type: 'read', name, after }, ({ life, rows, floor, cut, last, ended, time }) => {
      const entries = rows!.map(({ seq, channels, kind, data, time: at }) => ({ seq, channels, kind, event: undefined, data, serialized: false, age: this.#cluster.scale(Math.max(0, time! - at)) }))
      let size = entries.reduce((sum, { data }) => sum + this.#cluster.measure(data), 0)
      let from = Math.max(0, entries.length - newest)
      while (size > bytes && from < entries.length - 1) size -= this.#cluster.measure(entries[from++]!.data)
      const left = entries.slice(from)
      return { life, entries: left, floor: from === 0 ? floor! : entries[from - 1]!.seq, cut: from > 0 || cut!, last: last!, ended: ended! }
    })
  }

  seq (): Promise<Place> {
    return this.#question({ type: 'seq' }, ({ life, seq }) => ({ life, seq }))
  }

  #question<T> (request: Request, read: (answer: Answer) => T): Promise<T> {
    const world = this.#world
    const { promise, resolve, reject } = defer<T>(world)
    const fail = (): void => world.at(world.random() * 60, () => reject(new Error('no answer')))
    const pair = this.#pair
    if (pair?.up !== true || world.chance(0.02)) {
      fail()
    } else {
      this.#command(pair, request, answer => {
        const value = read(answer)
        // Told late, it may be told when the connection it came over has been replaced.
        if (world.chance(0.1)) world.at(world.random() * 250, () => resolve(value))
        else resolve(value)
      }, fail)
    }
    return promise
  }

  append ({ channels, kind, data }: NewEntry): Promise<string> {
    const { promise, resolve, reject } = defer<string>(this.#world)
    const fail = (): void => reject(new Error('no answer'))
    const pair = this.#pair
    if (pair?.up !== true) {
      fail()
    } else {
      this.#command(pair, { type: 'publish', channels, kind, data }, ({ life, seq, refused }) => {
        if (refused === true) return reject(new Error('the channel has ended'))
        // An earlier life has its end in the table: what lies behind that is lost.
        if (this.#lives.state(life) === 'ended' && !this.#lives.isKept({ life, seq })) return fail()
        resolve(formatCursor(life, seq))
      }, fail)
    }
    return promise
  }

  // What is heard

  #hear (pair: Pair, row: Row): void {
    if (this.#pair !== pair) return
    this.#heard = this.#world.now
    this.#lives.see({ life: row.life, seq: row.seq })
    const { seq, channels, kind, data, life, prevs } = row
    this.#receiver.hear({ seq, channels, kind, event: undefined, data, serialized: false, life, prevs })
    if (pair.up && this.#lives.state(row.life) === 'unknown') this.#doubt(pair)
  }
}
