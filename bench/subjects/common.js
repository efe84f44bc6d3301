/** The names of the channels that a path asks for. */
export function channelsOf ({ first, count }) {
  return Array.from({ length: Number(count) }, (_, i) => `c${Number(first) + i}`)
}

/** What all subjects on Fastify do in the same way: another route, the port, the end. */
export async function listen (app) {
  app.get('/other', async () => 'ok')
  await app.listen({ port: 0, host: '127.0.0.1', backlog: 4_096 })
  return { port: app.server.address().port, close: () => app.close() }
}

/** What a user of a library without channels writes: who is in which channel. */
export class Members {
  #channels = new Map()

  add (names, member) {
    for (const name of names) {
      if (!this.#channels.has(name)) this.#channels.set(name, new Set())
      this.#channels.get(name).add(member)
    }
  }

  delete (names, member) {
    for (const name of names) this.#channels.get(name).delete(member)
  }

  of (name) {
    return this.#channels.get(name) ?? []
  }
}
