import type { Connection } from './connection.ts'
import type { Fault } from './modes.ts'
import { Data, Server, type ServerLimits } from './server.ts'
import type { Truth } from './truth.ts'
import type { World } from './world.ts'

/** Snapshots that are remembered: what an old replica, or a backup, may have. */
const SNAPSHOTS = 12

/** The servers of a run, and what befalls them. */
export class Servers {
  /** The one that everybody is told to use. */
  master: Server
  readonly #world: World
  readonly #truth: Truth
  readonly #limits: ServerLimits
  readonly #channels: readonly string[]
  /** The one before it, that does not know that it is none any more. */
  #old: Server | undefined
  #snapshots: Data[] = []

  /** @param lossy what was acknowledged may be lost, so older data is to be remembered */
  constructor (world: World, truth: Truth, limits: ServerLimits, channels: readonly string[], lossy: boolean) {
    this.#world = world
    this.#truth = truth
    this.#limits = limits
    this.#channels = channels
    this.master = this.#server(new Data())
    if (lossy) this.#snapshot()
  }

  #server (data: Data, skew = 0, runId?: string): Server {
    return new Server(this.#world, this.#truth, this.#limits, data, skew, runId)
  }

  #snapshot (): void {
    this.#snapshots.push(this.master.data.copy())
    if (this.#snapshots.length > SNAPSHOTS) this.#snapshots.shift()
    this.#world.at(60 * this.#world.random() + 5, () => this.#snapshot())
  }

  find (): Server | undefined {
    const server = this.#old?.up === true && this.#world.chance(0.3) ? this.#old : this.master
    return server.up ? server : undefined
  }

  /** All faults are over. */
  heal (): void {
    this.#old?.die(10)
    this.master.start()
  }

  /** What is left after a loss: sometimes all. */
  #older (): Data {
    return (this.#world.chance(0.2) ? this.master.data : this.#world.pick(this.#snapshots)).copy()
  }

  #restart (data: Data): void {
    this.master.die()
    this.#old = undefined
    const server = this.master = this.#server(data)
    server.up = false
    this.#world.at(this.#world.int(10, 300), () => server.start())
  }

  #takeOver (data: Data): void {
    this.master = this.#server(data, this.#world.int(-600, 600))
  }

  /** @param connections those of one process; none where it has none now */
  strike (fault: Fault, connections: readonly Connection[]): void {
    const world = this.#world
    world.tell('FAULT', fault)
    const [commands, subscriber] = connections
    const one = world.chance(0.6) ? subscriber : commands
    switch (fault) {
      case 'cut': return one?.kill(world.int(0, 200))
      case 'cutCommands': return commands?.kill(world.int(0, 150))
      case 'half': return one?.kill(Infinity)
      case 'slow':
        subscriber?.stall(world.int(50, 400))
        return world.at(world.int(0, 300), () => subscriber?.kill(world.int(0, 300)))
      case 'del':
        this.master.data.channels.delete(world.pick(this.#channels))
        return
      case 'flush':
        this.master.data = new Data()
        return
      case 'hash':
        this.master.data.hash = undefined
        return
      case 'restart': return this.#restart(this.master.data.copy())
      case 'suffix': return this.#restart(this.#older())
      case 'empty': return this.#restart(new Data())
      case 'failover': {
        const data = this.#older()
        this.master.die()
        return this.#takeOver(data)
      }
      case 'planned': {
        const data = this.master.data.copy()
        this.master.die()
        return this.#takeOver(data)
      }
      case 'split': {
        const old = this.#old = this.master
        this.#takeOver(this.#older())
        return world.at(world.int(50, 1_500), () => old.die())
      }
      case 'failback': {
        const data = this.#older()
        const { runId } = this.master
        this.master.die(30)
        this.master = this.#server(data, 0, runId)
        this.#snapshots = [data.copy()]
        return
      }
      case 'resync': return this.master.resync(this.#older())
      case 'resyncAll': return this.master.resync(this.master.data)
      case 'crash': // a matter of processes
    }
  }
}
