/**
 * How cost grows: one quantity goes up by powers of ten, and the server's CPU is measured at each.
 *
 * @typedef {object} Sweep
 * @property {string} name
 * @property {string} title
 * @property {string} x what grows
 * @property {string} y what it costs
 * @property {number[]} points
 * @property {string[]} lines subjects, or aspects of ours
 * @property {number} streams that are open at most
 * @property {(line: string, x: number) => Promise<number>} run
 */
import { OURS, line, open, publish, reconnect, withStreams } from './scenarios.js'

const FLOOR = 'node-chunk'

/** @returns {Sweep[]} */
export function makeSweeps (quick) {
  const seconds = quick ? 0.5 : 2
  const lines = quick ? [OURS] : [OURS, FLOOR]
  const most = quick ? 500 : 10_000
  // one event a turn, and the server about a quarter busy: a busier one joins events, which is another measurement
  const pace = audience => Math.max(0.002, audience / 25_000)

  return [
    {
      name: 'grow-streams',
      title: 'Streams of one channel',
      x: 'streams',
      y: 'µs CPU a delivery',
      points: quick ? [10, 1_000] : [10, 100, 1_000, 5_000, 10_000, 15_000],
      lines,
      streams: quick ? 1_000 : 15_000,
      run: (subject, x) => withStreams(subject, [{ count: x }], async (server, load) => {
        const every = pace(x)
        await publish(server, load, { count: 3, every, audience: x })
        return (await publish(server, load, { count: Math.ceil(seconds / every), every, audience: x })).cpuPerDelivery
      })
    },
    {
      name: 'grow-channels',
      title: 'Channels (an event goes to one stream)',
      x: 'channels',
      y: 'µs CPU an event',
      points: quick ? [1, 1_000] : [1, 10, 100, 1_000, 10_000, 100_000],
      lines,
      streams: 1_000,
      run (subject, x) {
        const streams = Math.min(x, 1_000)
        const groups = [{ count: streams, mod: streams, channels: x / streams, step: x > streams ? 0 : streams }]
        return withStreams(subject, groups, async (server, load) => {
          const schedule = { every: 0.001, channels: x, audience: 1 }
          await publish(server, load, { ...schedule, count: 1_000 }) // whole turns of the channels
          return (await publish(server, load, { ...schedule, count: seconds * 1_000 * 2 })).cpuPerDelivery
        })
      }
    },
    {
      name: 'grow-audience',
      title: `Streams that get an event, of ${most.toLocaleString('en')}`,
      x: 'streams that get it; each of the others is in a channel of its own',
      y: 'µs CPU an event',
      points: quick ? [1, 100] : [1, 10, 100, 1_000, 10_000],
      lines,
      streams: most,
      run (subject, x) {
        const groups = [{ count: x }, { count: most - x, first: 1, mod: most }]
        return withStreams(subject, groups.filter(group => group.count), async (server, load) => {
          const every = pace(x)
          await publish(server, load, { count: 3, every, audience: x })
          const m = await publish(server, load, { count: Math.ceil(seconds / every), every, audience: x })
          return m.cpuPerDelivery * x
        })
      }
    },
    {
      name: 'grow-event',
      title: `Bytes of an event, to ${quick ? 10 : 100} streams`,
      x: 'bytes',
      y: 'µs CPU a delivery',
      points: quick ? [10, 100_000] : [10, 100, 1_000, 10_000, 100_000, 1_000_000],
      lines,
      streams: 100,
      run (subject, x) {
        const streams = quick ? 10 : 100
        return withStreams(subject, [{ count: streams }], async (server, load) => {
          const every = Math.max(0.005, x * streams / 250e6)
          await publish(server, load, { count: 3, every, bytes: x, audience: streams })
          const schedule = { count: Math.ceil(seconds / every), every, bytes: x, audience: streams }
          return (await publish(server, load, schedule)).cpuPerDelivery
        })
      }
    },
    {
      name: 'grow-history',
      title: 'Events kept, in a full history of one channel',
      x: 'events kept',
      y: 'µs CPU',
      points: quick ? [100, 10_000] : [100, 1_000, 10_000, 100_000, 1_000_000],
      lines: ['an event published', '100 replayed, of this channel', '100 replayed, of another one'],
      streams: 1_000,
      run: (aspect, x) => withHistory(x, quick ? 200 : 1_000, aspect)
    }
  ]
}

/** What an event, or a reconnect that replays 100 events, costs when `kept` events are in the history of one channel. */
function withHistory (kept, streams, aspect) {
  const options = { history: { maxEvents: kept, maxAge: 0, maxBytes: 2 ** 40 } }
  return withStreams(OURS, [], async (server, load) => {
    // in parts, as the history only lets go between turns
    const fill = async count => {
      for (let left = count; left > 0; left -= 10_000) {
        await server.ask(line({ count: Math.min(left, 10_000), every: 0 }))
      }
    }
    if (aspect === 'an event published') {
      await fill(kept + 10_000)
      const before = server.cpu()
      await fill(50_000)
      return (server.cpu() - before) / 50_000 * 1e6
    }
    await fill(kept)
    // the cursor of who saw the last event before those 100 must still be good
    const first = aspect.endsWith('this channel') ? 0 : 1
    await open(load, { count: streams, first })
    const { cpu } = await reconnect(server, load, streams, () => server.ask(line({ count: 100, every: 0, first })))
    return cpu / streams * 1e6
  }, options)
}
