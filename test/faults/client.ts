import http from 'node:http'
import { readBlock } from '../client.ts'
import { itemOf, type Dice, type Item, type Reception } from './model.ts'

/** A browser's EventSource, as far as it matters here, with a user who is never content where he is. */
export class Client implements Reception {
  readonly name: string
  readonly channels: readonly number[]
  readonly items: Item[] = []
  readonly #dice: Dice
  readonly #urls: () => readonly string[]
  #lastEventId = ''
  #request: http.ClientRequest | undefined
  #timer: NodeJS.Timeout | undefined
  #restless = true
  #over = false

  /** @param urls of the applications that it may go to */
  constructor (name: string, channels: readonly number[], dice: Dice, urls: () => readonly string[]) {
    this.name = name
    this.channels = channels
    this.#dice = dice
    this.#urls = urls
  }

  connect (): void {
    clearTimeout(this.#timer)
    const url = this.#dice.pick(this.#urls())
    const request = this.#request = http.request(`${url}/events?channels=${this.channels.join()}`, {
      agent: false,
      headers: { accept: 'text/event-stream', ...(this.#lastEventId !== '' && { 'last-event-id': this.#lastEventId }) }
    })
    request.on('error', () => this.#lost(request))
    let answered = false
    request.on('response', response => {
      answered = true
      if (response.statusCode !== 200) return request.destroy()
      response.setEncoding('latin1') // it is ASCII
      let rest = ''
      response.on('data', (chunk: string) => {
        if (this.#request !== request) return
        const blocks = (rest + chunk).split('\n\n')
        rest = blocks.pop()!
        for (const block of blocks) this.#take(block)
      })
      response.on('error', () => {})
      response.on('close', () => this.#lost(request))
      if (this.#restless && this.#dice.next() < 0.1) {
        setTimeout(() => response.pause(), this.#dice.between(0, 500))
        setTimeout(() => response.resume(), this.#dice.between(500, 1_500))
      }
    })
    request.end()
    if (this.#restless) this.#timer = setTimeout(() => this.#move(), this.#dice.between(100, 5_000))
    // Whoever is at a process that stands still goes elsewhere after a while.
    else this.#timer = setTimeout(() => { if (!answered) this.#move() }, 3_000)
  }

  /** From now on it stays where it is. */
  rest (): void {
    this.#restless = false
    if (this.#request === undefined) this.connect()
    else clearTimeout(this.#timer)
  }

  leave (): void {
    this.#over = true
    clearTimeout(this.#timer)
    this.#request?.destroy()
    this.#request = undefined
  }

  #move (): void {
    this.#request?.destroy()
    this.#request = undefined
    this.#later(this.#dice.next() < 0.5 ? 0 : this.#dice.between(0, 500))
  }

  #lost (request: http.ClientRequest): void {
    if (this.#request !== request) return
    this.#request = undefined
    this.#later(this.#dice.between(20, 100))
  }

  #later (ms: number): void {
    clearTimeout(this.#timer)
    if (!this.#over) this.#timer = setTimeout(() => this.connect(), ms)
  }

  #take (block: string): void {
    const item = itemOf(readBlock(block))
    if (item === undefined) return
    this.#lastEventId = item.cursor
    this.items.push(item)
  }
}
