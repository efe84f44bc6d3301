import { once } from 'node:events'
import net from 'node:net'
import type { Teardown } from './redis-server.ts'

/** Connections of one kind: a subscriber has sent SUBSCRIBE, the other one SCRIPT. */
export type Kind = 'subscribers' | 'commands' | 'all'

/** Stands between a backplane and Redis, and does to its connections what networks do. */
export class Proxy {
  port = 0
  /** Connections that were accepted so far. */
  made = 0
  /** Where the next connection leads: by its number, or all to the same server. */
  target: (n: number) => number
  /** ms that everything takes in each direction, on connections that are made from now on. */
  latency = 0
  /** Bytes a second of answers, on each connection. */
  rate = Infinity
  #dead = false
  readonly #connections = new Set<Connection>()

  private constructor (target: number) { this.target = () => target }

  static async start (t: Teardown, target: number): Promise<Proxy> {
    const proxy = new Proxy(target)
    const server = net.createServer(client => proxy.#connect(client)).listen(0, '127.0.0.1')
    await once(server, 'listening')
    proxy.port = (server.address() as net.AddressInfo).port
    t.teardown(() => {
      proxy.cut()
      server.close()
    })
    return proxy
  }

  #connect (client: net.Socket): void {
    client.on('error', () => {})
    if (this.#dead) { client.destroy(); return }
    const server = net.connect(this.target(this.made++), '127.0.0.1')
    const connection: Connection = { client, server, kind: undefined, swallow: undefined, delay: this.latency }
    this.#connections.add(connection)
    client.on('data', data => {
      const text = data.toString('latin1').toUpperCase()
      if (text.includes('\r\nSUBSCRIBE\r\n')) connection.kind = 'subscribers'
      else if (text.includes('\r\nSCRIPT\r\n')) connection.kind = 'commands'
      if (connection.swallow === 'requests') return
      if (connection.delay === 0) server.write(data)
      else setTimeout(() => server.write(data), connection.delay)
    })
    server.on('data', data => {
      if (connection.swallow === 'answers') return
      if (this.rate < Infinity) {
        server.pause()
        setTimeout(() => server.resume(), data.length / this.rate * 1_000)
      }
      if (connection.delay === 0) client.write(data)
      else setTimeout(() => client.write(data), connection.delay)
    })
    server.on('error', () => {})
    for (const socket of [client, server]) {
      socket.on('close', () => {
        client.destroy()
        server.destroy()
        this.#connections.delete(connection)
      })
    }
  }

  of (kind: Kind): Connection[] {
    return [...this.#connections].filter(connection => kind === 'all' || connection.kind === kind)
  }

  cut (kind: Kind = 'all'): void { for (const { client } of this.of(kind)) client.destroy() }
  /** One direction no longer comes through, on the connections there are. */
  swallow (kind: Kind, what: 'answers' | 'requests' = 'answers'): void { for (const connection of this.of(kind)) connection.swallow = what }
  /** Requests and answers take so many ms more, on the connections there are. */
  delay (kind: Kind, ms: number): void { for (const connection of this.of(kind)) connection.delay = ms }
  /** Answers wait, until resume(). */
  stall (kind: Kind): void { for (const { server } of this.of(kind)) server.pause() }
  resume (): void { for (const { server } of this.#connections) server.resume() }
  /** Cuts all connections; new ones go there. */
  retarget (port: number): void {
    this.target = () => port
    this.cut()
  }

  /** Whether new connections are refused. */
  refuse (dead: boolean): void { this.#dead = dead }
}

interface Connection {
  readonly client: net.Socket
  readonly server: net.Socket
  kind: Kind | undefined
  swallow: 'answers' | 'requests' | undefined
  delay: number
}
