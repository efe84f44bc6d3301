/** Tries the load client: whether it finds faults that were made on purpose, and how much it can read. */
import assert from 'node:assert/strict'
import { publish, withStreams } from './scenarios.js'

export async function check () {
  await withStreams('faulty', [{ count: 3 }], async (server, load) => {
    await server.ask('publish 20 1000 100 0 1 5000')
    const stats = await load.ask('wait 60 500')
    const { events, missing, disorder, gaps, max } = stats
    // the first stream: 3 is missing; of 5, 6 swapped, 5 is missing when 6 comes, and out of order when it comes itself;
    // the second 8 is out of order too
    assert.deepEqual({ events, missing, disorder, gaps }, { events: 60, missing: 2, disorder: 2, gaps: 1 })
    console.log('It finds an event left out, two swapped, one sent twice, and a gap; and an event cut into pieces is one event.')
    assert.ok(max >= 300 && max < 500, `${max} ms`)
    console.log('A server that does nothing for 300 ms shows as 300 ms of latency.')
  })

  await withStreams('firehose', [{ count: 1_000 }], async (server, load) => {
    const m = await publish(server, load, { count: 20, every: 0, audience: 1_000 * 500, grace: 30 })
    console.log(`It reads ${(m.events / m.seconds / 1e6).toFixed(1)} M events a second from 1,000 streams, for ${(m.loadCpu / m.events * 1e6).toFixed(3)} µs of its CPU each.`)
  })

  await withStreams('c-write', [{ count: 10_000 }], async (server, load) => {
    const m = await publish(server, load, { count: 40, every: 0, audience: 10_000, grace: 30 })
    console.log(`With the fastest one-write-per-event server and 10,000 streams: ${(m.events / m.seconds / 1e3).toFixed(0)} k events a second, ${(m.events && m.serverCpu / m.events * 1e6).toFixed(1)} µs of the server's CPU and ${(m.loadCpu / m.events * 1e6).toFixed(1)} µs of the load client's each; it is ${m.busy.toFixed(0)} % busy.`)
  })
}
