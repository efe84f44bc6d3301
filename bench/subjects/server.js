/**
 * A server under test, in a process of its own: `node server.js <subject> [options as JSON]`.
 *
 * It listens on a free port of the loopback, serves `GET /stream/<first>/<count>` (a stream of that many channels) and
 * `GET /other` (another route of the same app), and takes commands as lines on stdin, each answered with a line of JSON:
 *
 *   publish <count> <every µs> <bytes> <first channel> <channels> <limit ms> [order] [kind] [stamp]
 *       open loop: event k is due at start + k * every, whether or not the events before it are out yet, and goes to
 *       channel first + k % channels. every 0: all in one turn. Gives up at the limit. Schedules of the same order share
 *       their sequence numbers; without one, those of the same first channel. kind: JSON, see json.js, in place of so many bytes;
 *       text: those bytes. stamp: an event's latency is counted from when it was due, or, `call`, from when it was published
 *   answers <count> <tokens> <tokens a second> <first channel>
 *       all at once, each a source that is published to a channel of its own
 *   gc       collects garbage, so that resident memory is what is in use; and says how many bytes of the heap are
 *   stats    what the library counted
 *   close    closes the app, and says how long that took
 *
 * Publishing is scheduled here, in the measured process, because that is where an application publishes.
 *
 * @typedef {object} Subject
 * @property {number} port
 * @property {(channel: string, data: string) => unknown} publish
 * @property {() => Promise<unknown>} [close]
 * @property {(channel: string, tokens: AsyncIterable<string>) => Promise<unknown>} [answer]
 * @property {() => object} [stats]
 * @property {number[]} [pids] of its other processes
 */
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { kinds } from './json.js'

const [name, options = '{}'] = process.argv.slice(2)
const { start } = await import(`./${name}.js`)
/** @type {Subject} */
const subject = await start(JSON.parse(options))

/** Sequence numbers, by the order of a schedule. */
const seqs = new Map()

/** Microseconds of CLOCK_MONOTONIC, which the load client reads too. */
const now = () => Number(process.hrtime.bigint() / 1000n)

/** Too few bytes for a due time: the sequence number alone. */
const makeData = (seq, due, bytes) => (bytes < 24 ? `${seq} ` : `${seq} ${due} `).padEnd(bytes, 'x')

function publish (count, every, bytes, first, channels, limit, order = first, kind = 'text', stamp = 'due') {
  const begin = now()
  const giveUp = begin + limit * 1000
  let taken = 0
  let done = 0
  const one = () => {
    if (now() >= giveUp) return
    const seq = (seqs.get(order) ?? 0) + 1
    seqs.set(order, seq)
    const from = stamp === 'call' ? now() : begin + done * every
    subject.publish(`c${first + done % channels}`, kind === 'text' ? makeData(seq, from, bytes) : kinds[kind](seq, from))
    done++
  }
  const turn = () => {
    if (every === 0) while (taken++ < count) one()
    // each in a callback of its own, as if each had come by a read of its own since the last turn
    else for (const time = now(); taken < count && begin + taken * every <= time; taken++) setImmediate(one)
    setImmediate(() => {
      if (taken >= count || now() >= giveUp) answer({ published: done })
      else setTimeout(turn, (begin + taken * every - now()) / 1000)
    })
  }
  turn()
}

/** What a model says: a token is there when it is due, however late those before it were taken. */
async function * model (tokens, perSecond) {
  const begin = now()
  for (let k = 0; k < tokens; k++) {
    const due = begin + Math.round(k * 1e6 / perSecond)
    if (due > now()) await sleep((due - now()) / 1000)
    yield makeData(k + 1, due, 30)
  }
}

const commands = {
  publish: (...parameters) => publish(...parameters.slice(0, 7).map(Number), ...parameters.slice(7)),
  async answers (...numbers) {
    const [count, tokens, perSecond, first] = numbers.map(Number)
    await Promise.all(Array.from({ length: count }, (_, i) => subject.answer(`c${first + i}`, model(tokens, perSecond))))
    answer({ answered: count })
  },
  stats: () => answer(subject.stats()),
  gc: () => {
    globalThis.gc()
    const { heapUsed, external } = process.memoryUsage()
    answer({ heap: heapUsed + external })
  },
  close: async () => {
    const begin = now()
    await subject.close()
    answer({ ms: (now() - begin) / 1000 })
  }
}

const answer = object => console.log(JSON.stringify(object))

createInterface({ input: process.stdin })
  .on('line', line => { const [command, ...args] = line.split(' '); commands[command](...args) })
  .on('close', () => process.exit()) // the driver is gone

answer({ port: subject.port, pids: subject.pids })
