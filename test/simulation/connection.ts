import type { Answer, Request, Row, Server, Subscriber } from './server.ts'
import type { World } from './world.ts'

/** ms without an answer after which a connection is given up. */
const PATIENCE = 1_200

type Command = Request | { readonly type: 'subscribe', readonly names: readonly string[] } | { readonly type: 'unsubscribe', readonly name: string } | { readonly type: 'ping' }

interface Waiting { readonly fail: () => void }

/** One connection to a server: what is sent on it arrives in order, late, or never. */
export class Connection implements Subscriber {
  readonly names = new Set<string>()
  readonly server: Server
  /** The process's end. */
  open = true
  onclose = (): void => {}
  onmessage = (_row: Row): void => {}

  readonly #world: World
  /** The server's end. */
  #alive = true
  #arrives = 0
  #returns = 0
  readonly #waiting = new Set<Waiting>()
  /** ms that some of what it carries takes longer, at most. */
  #slowness: number

  constructor (world: World, server: Server) {
    this.#world = world
    this.server = server
    this.#slowness = world.chance(0.2) ? world.int(20, 150) : 0
    server.connections.add(this)
  }

  #latency (): number {
    const world = this.#world
    return world.random() * 8 + (this.#slowness > 0 && world.chance(0.2) ? world.random() * this.#slowness : 0)
  }

  #return (call: () => void): void {
    const world = this.#world
    this.#returns = Math.max(world.now + this.#latency(), this.#returns)
    world.at(this.#returns - world.now, () => { if (this.open) call() })
  }

  /** What is on its way to the process stays there for a while. */
  stall (delay: number): void {
    this.#slowness = 200
    this.#returns = Math.max(this.#returns, this.#world.now + delay)
  }

  push (row: Row): void {
    this.#return(() => this.onmessage(row))
  }

  /** @param run the server that the sender takes it for */
  send (command: Command, run: string | undefined, done: (answer: Answer) => void, fail: () => void): void {
    if (!this.open) return fail()
    const world = this.#world
    const waiting = { fail }
    this.#waiting.add(waiting)
    this.#arrives = Math.max(world.now + this.#latency(), this.#arrives)
    world.at(this.#arrives - world.now, () => {
      if (!this.#alive) return
      const answer = this.#execute(command, run)
      this.#return(() => { if (this.#waiting.delete(waiting)) done(answer) })
    })
    world.at(PATIENCE, () => { if (this.#waiting.has(waiting)) this.close() })
  }

  #execute (command: Command, run: string | undefined): Answer {
    if (command.type === 'subscribe') for (const name of command.names) this.names.add(name)
    else if (command.type === 'unsubscribe') this.names.delete(command.name)
    else if (command.type !== 'ping') return this.server.execute(run, command)
    return { life: '', seq: 0 }
  }

  /** The server's end breaks. @param notice ms after which the process hears of it; Infinity: it never does */
  kill (notice: number): void {
    if (!this.#alive) return
    this.#die()
    if (notice < Infinity) this.#world.at(notice, () => this.#end())
  }

  /** The process gives it up. */
  close (): void {
    this.#world.at(this.#world.random() * 20, () => this.#die())
    this.#end()
  }

  #die (): void {
    this.#alive = false
    this.server.connections.delete(this)
  }

  #end (): void {
    if (!this.open) return
    this.open = false
    const waiting = [...this.#waiting]
    this.#waiting.clear()
    for (const { fail } of waiting) fail()
    this.onclose()
  }
}
