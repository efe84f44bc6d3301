/**
 * Events as applications send them, in JSON: made of a sequence number and the time it was due, the same for each subject. Values change as
 * real ones do: prices walk, identifiers are random, and people say what they have not said before.
 */
import { readFileSync } from 'node:fs'

let state = 1
/** A random number below `n`, the same ones in each process (xorshift). */
function random (n) {
  state ^= state << 13
  state ^= state >>> 17
  state ^= state << 5
  return (state >>> 0) % n
}
const oneOf = list => list[random(list.length)]
const id = (prefix, digits) => prefix + Array.from({ length: digits }, () => oneOf('0123456789abcdefghijklmnopqrstuvwxyz')).join('')

/** Sentences of the documentation: no list of words is as hard to compress as what people write. */
const sentences = ['README.md', 'docs/design.md', 'docs/guarantees.md', 'docs/operations.md', 'docs/client.md']
  .map(file => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8').replace(/```[^]*?```/g, ''))
  .flatMap(text => text.match(/[A-Z][^.|`#<>]{20,160}\./g).map(sentence => sentence.replace(/\s+/g, ' ')))
const people = Array.from({ length: 40 }, (_, i) => ({ id: id('u_', 8), name: 'Ada Ben Cleo Dan Eve Finn Gus Hana Ivo Jana Kim Lea Max Nora Olaf Pia Quinn Rosa Sam Tea'.split(' ')[i % 20] }))
const prices = new Map('ADBE AMZN BAYN CSCO DTE EBAY GOOG IBM INTC KO MSFT NFLX NVDA ORCL PFE SAP SIE TSLA UBER VOW'.split(' ').map(symbol => [symbol, 2_000 + random(30_000)]))

/** @type {Record<string, (n: number, t: number) => string>} */
export const kinds = {
  /** Some 80 bytes. */
  price (n, t) {
    const symbol = oneOf([...prices.keys()])
    const bid = prices.get(symbol) + random(21) - 10
    prices.set(symbol, bid)
    return JSON.stringify({ n, t, symbol, bid: bid / 100, ask: (bid + 1 + random(4)) / 100, volume: (1 + random(50)) * 100 })
  },
  /** Some 200 bytes, half of them what somebody writes. */
  chat: (n, t) => JSON.stringify({ n, t, type: 'message', id: id('m_', 12), room: oneOf(['general', 'support', 'random']), author: oneOf(people), text: oneOf(sentences) }),
  /** Some 310 bytes. */
  order: (n, t) => JSON.stringify({
    n,
    t,
    type: 'order.updated',
    order: {
      id: id('ord_', 10),
      status: oneOf(['placed', 'paid', 'packed', 'shipped', 'delivered']),
      customer: { id: id('cus_', 8), country: oneOf(['AT', 'CH', 'DE', 'DK', 'FR', 'NL', 'PL']) },
      items: Array.from({ length: 1 + random(3) }, () => ({ sku: `A-${1_000 + random(800)}`, quantity: 1 + random(4), price: (99 + random(400) * 50) / 100 })),
      total: (1_000 + random(50_000)) / 100,
      currency: 'EUR',
      paid: random(4) > 0
    },
    changedBy: `worker-${random(8)}`
  })
}
