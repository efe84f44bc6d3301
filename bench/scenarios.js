/**
 * What is measured. Each scenario runs one subject once and returns its figures; run.js repeats, takes medians and
 * compares. A figure may be a text instead, where there is no number ('hangs').
 *
 * @typedef {object} Metric
 * @property {string} label
 * @property {string} unit
 * @property {'lower' | 'higher'} [better] absent: a note that is not compared
 * @property {boolean} [chart] also in the bar chart
 *
 * @typedef {object} Scenario
 * @property {string} name
 * @property {string} title
 * @property {string[]} subjects
 * @property {number} streams that are open at most
 * @property {Record<string, Metric>} metrics
 * @property {(subject: string, round: number) => Promise<Record<string, number | string>>} run
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { FIRST } from './builds.js'
import { busySeconds, startLoad, startServer } from './processes.js'

export const OURS = 'fastify-sse-channels'
export const PEERS = ['@fastify/sse', 'fastify-sse-v2', 'better-sse']
const ON_FASTIFY = [OURS, ...PEERS]

const EVENT_BYTES = 100
const MB = 1e6

/** What the load client counted and found wrong, by subject, over all runs. */
export const faults = {}

/** Of each measurement, the share of the server's CPU that other processes took: what disturbed the benchmark. */
export const disturbance = []

/** Far from the channels that others use. */
const BUSY = 900_000

/** Quick: few streams and short runs, to see that all works. */
export function makeScenarios (quick) {
  const many = quick ? 500 : 10_000
  const thousand = quick ? 200 : 1_000
  const seconds = quick ? 0.5 : 4
  const warmDeliveries = quick ? 2_000 : 100_000
  // quick: one floor of each language
  const all = [...ON_FASTIFY, ...(quick ? [] : ['go-channels']), 'node-chunk', ...(quick ? [] : ['node-write']), 'c-write']
  const number = n => n.toLocaleString('en')

  /** @type {Scenario[]} */
  return [
    {
      name: 'fanout',
      title: `One event every 250 ms to ${number(many)} streams`,
      subjects: all,
      streams: many,
      metrics: {
        cpu: { label: 'server CPU a delivery', unit: 'µs', better: 'lower', chart: true },
        p99: { label: 'latency, p99', unit: 'ms', better: 'lower' },
        joined: { label: 'events a write (HTTP chunk)', unit: '' },
        serverBusy: { label: 'server busy', unit: '%' },
        busy: { label: 'load client busy', unit: '%' }
      },
      run: subject => withStreams(subject, [{ count: many }], async (server, load) => {
        await publish(server, load, { count: 3, every: 0.25, audience: many }) // warm
        const m = await publish(server, load, { count: quick ? 4 : 20, every: 0.25, audience: many, grace: 15 })
        return { cpu: m.cpuPerDelivery, p99: m.p99, joined: m.joined, serverBusy: m.serverBusy, busy: m.busy }
      })
    },
    {
      name: 'burst',
      title: `300 events in one turn to ${number(thousand)} streams`,
      subjects: all,
      streams: thousand,
      metrics: {
        rate: { label: 'deliveries a second', unit: 'M/s', better: 'higher', chart: true },
        cpu: { label: 'server CPU a delivery', unit: 'µs', better: 'lower' },
        joined: { label: 'events a write (HTTP chunk)', unit: '' },
        serverBusy: { label: 'server busy', unit: '%' },
        busy: { label: 'load client busy', unit: '%' }
      },
      run: subject => withStreams(subject, [{ count: thousand }], async (server, load) => {
        const burst = { count: 300, every: 0, audience: thousand, grace: 30 }
        await publish(server, load, { ...burst, count: 30 }) // warm
        // One takes from 0.03 s to 5 s: as many as fill a second.
        const bursts = []
        const sum = key => bursts.reduce((sum, m) => sum + m[key], 0)
        while (bursts.length === 0 || sum('seconds') < 1) bursts.push(await publish(server, load, burst))
        const per = key => sum(key) / bursts.length
        return { rate: sum('events') / sum('seconds') / 1e6, cpu: sum('serverCpu') / sum('events') * 1e6, joined: per('joined'), serverBusy: per('serverBusy'), busy: per('busy') }
      })
    },
    openLoop('rate-1000', thousand, 2_000, [25, 50, 100, 200, 350, 500, 700, 1_000, 1_500, 2_000, 3_000, 4_000]),
    openLoop('rate-10000', many, 100, [2, 4, 8, 12, 16, 20, 35, 50, 70, 100, 150, 200]),
    {
      name: 'storm',
      title: `${number(many)} clients connect at once; reconnect, with 100 events to replay each`,
      subjects: all,
      streams: many,
      metrics: {
        connect: { label: 'until all are connected', unit: 's', better: 'lower' },
        connectCpu: { label: 'server CPU a connect: the first ones of a process, whose code is not compiled yet', unit: 'µs', better: 'lower' },
        againCpu: { label: 'server CPU a connect: as many again', unit: 'µs', better: 'lower' },
        reconnect: { label: 'until all are reconnected and have the 100 events', unit: 's', better: 'lower' },
        reconnectCpu: { label: 'server CPU a reconnect', unit: 'µs', better: 'lower' }
      },
      run: async subject => withStreams(subject, [{ count: 200 }], async (server, load) => { // warm
        await load.ask('close')
        const first = startLoad(server.port)
        const connected = await timed(server, () => open(first, { count: many }))
        await first.end()
        await sleep(1_000) // the server sees them leave
        const storm = startLoad(server.port)
        try {
          const again = await timed(server, () => open(storm, { count: many }))
          const figures = { connect: connected.seconds, connectCpu: connected.cpu / many * 1e6, againCpu: again.cpu / many * 1e6 }
          if (subject !== OURS) return figures
          const reconnected = await reconnect(server, storm, many, () => server.ask(line({ count: 100, every: 0 })))
          return { ...figures, reconnect: reconnected.seconds, reconnectCpu: reconnected.cpu / many * 1e6 }
        } finally {
          await storm.end()
        }
      })
    },
    idle('memory', `${number(many)} idle streams on one channel`, [OURS, FIRST, ...PEERS, 'go-channels', 'node-write'], many),
    idle('memory-own', `${number(many)} idle streams, each on a channel of its own`, [OURS, FIRST, ...PEERS, 'go-channels'], many, many),
    {
      name: 'stalled',
      title: `${number(thousand)} streams, of which 10 get ${quick ? 20 : 200} MB, and one of these 10 reads nothing`,
      subjects: ON_FASTIFY,
      streams: thousand,
      metrics: {
        rss: { label: 'more resident memory than if it read, after a collection', unit: 'MB', better: 'lower', chart: true },
        peak: { label: 'more at the peak', unit: 'MB' },
        p99: { label: 'latency of the others, p99', unit: 'ms' },
        p99Without: { label: 'the same if it reads', unit: 'ms' }
      },
      run: async subject => {
        const without = await besideBulk(subject, false)
        const stalled = await besideBulk(subject, true)
        return { rss: stalled.rss - without.rss, peak: stalled.peak - without.peak, p99: stalled.p99, p99Without: without.p99 }
      }
    },
    {
      name: 'other-route',
      title: `Another route of the server while ${number(many)} streams get 50 events a second`,
      subjects: [...ON_FASTIFY, 'go-channels', 'node-write'],
      streams: many,
      metrics: {
        p50: { label: 'latency, p50', unit: 'ms', better: 'lower' },
        p99: { label: 'latency, p99', unit: 'ms', better: 'lower', chart: true },
        max: { label: 'latency, max', unit: 'ms' }
      },
      run: subject => withStreams(subject, [{ count: many }], async (server, load) => {
        const prober = startLoad(server.port)
        try {
          await prober.ask('probe /other 100 50')
          prober.tell('reset')
          await prober.answer()
          const patience = seconds * 1000 + 10_000
          const probing = prober.ask(`probe /other 50 ${Math.round(seconds * 50)}`, patience)
            .catch(() => ({ p50: '> 10,000', p99: '> 10,000', max: '> 10,000' }))
          await publish(server, load, { count: seconds * 50, every: 1 / 50, audience: many, unfinished: true })
          const { p50, p99, max } = await probing
          return { p50, p99, max }
        } finally {
          await prober.end()
        }
      })
    },
    {
      name: 'own-channels',
      title: `${number(many)} channels with one stream each, ${number(quick ? 2_000 : 5_000)} events a second in turn`,
      subjects: [OURS, FIRST, ...all.filter(subject => subject !== OURS)],
      streams: many,
      metrics: {
        cpu: { label: 'server CPU a delivery', unit: 'µs', better: 'lower', chart: true },
        p99: { label: 'latency, p99', unit: 'ms', better: 'lower' }
      },
      run: subject => withStreams(subject, [{ count: many, mod: many, step: many }], async (server, load) => {
        const every = 1 / (quick ? 2_000 : 5_000)
        await publish(server, load, { count: many, every, channels: many, audience: 1 }) // warm
        const m = await publish(server, load, { count: Math.round(seconds / every), every, channels: many, audience: 1 })
        return { cpu: m.cpuPerDelivery, p99: m.p99 }
      })
    },
    {
      name: 'in-50-channels',
      title: `${number(thousand)} streams in the same 50 channels, 20 events a second in turn`,
      subjects: ON_FASTIFY,
      streams: thousand,
      metrics: { cpu: { label: 'server CPU a delivery', unit: 'µs', better: 'lower' } },
      run: subject => withStreams(subject, [{ count: thousand, channels: 50 }], async (server, load) => {
        await publish(server, load, { count: 20, every: 0.02, channels: 50, audience: thousand }) // warm
        const m = await publish(server, load, { count: quick ? 20 : 100, every: 0.05, channels: 50, audience: thousand })
        return { cpu: m.cpuPerDelivery }
      })
    },
    answers(quick ? 20 : 200, quick ? 40 : 400),
    values(),
    {
      name: 'close',
      title: `app.close() with ${number(thousand)} open streams`,
      subjects: ON_FASTIFY,
      streams: thousand,
      metrics: {
        ms: { label: 'until it resolves', unit: 'ms', better: 'lower' },
        ended: { label: 'streams ended in order', unit: '%' },
        told: { label: 'clients told when to come back', unit: '%' }
      },
      run: subject => withStreams(subject, [{ count: thousand }], async (server, load) => {
        await load.ask('reset')
        const patience = quick ? 500 : 3_000
        const closing = server.ask('close', patience).catch(() => ({ ms: `hangs (${patience / 1000} s)` }))
        const { ended, retries } = await load.ask(`waitclosed ${thousand} ${patience}`)
        return { ms: (await closing).ms, ended: ended / thousand * 100, told: retries / thousand * 100 }
      })
    }
  ]

  /** @returns {Scenario} */
  function idle (name, title, subjects, streams, channels = 1) {
    return {
      name,
      title,
      subjects,
      streams,
      metrics: { rss: { label: 'resident memory a stream, after a collection', unit: 'KB', better: 'lower', chart: true } },
      run: subject => withStreams(subject, [{ count: 500 }], async (server, load) => { // warm
        await load.ask('close')
        const idle = startLoad(server.port)
        try {
          const before = await settledRss(server)
          await open(idle, { count: streams, first: 1, mod: channels })
          return { rss: (await settledRss(server) - before) / streams / 1024 }
        } finally {
          await idle.end()
        }
      })
    }
  }

  /**
   * Answers of a model, each on a channel of its own, with five readers: two that stay, one that is away for eight tenths of the
   * time, a second tab in the middle, and one that comes when all is over; beside them a busy channel. No peer keeps a history, so
   * only the first release can be asked to do the same.
   * @returns {Scenario}
   */
  function answers (count, tokens) {
    const perSecond = 40
    const ms = tokens / perSecond * 1_000
    const busy = { count: 500 * ms / 1_000, every: 1 / 500, first: BUSY }
    const readers = { live: 2, away: 1, tab: 1, after: 1 }
    const exact = label => ({ label: `exact: ${label}`, unit: '%' })
    return {
      name: 'answers',
      title: `${count} answers of ${tokens} tokens at once, ${perSecond} a second each, with five readers each, beside a channel of 500 events a second with 20, at the default options`,
      subjects: [OURS, FIRST],
      streams: 5 * count + 20,
      metrics: {
        live: exact('the two that stay'),
        away: exact(`one that is away for ${ms * 0.8 / 1_000} s`),
        tab: exact('one that comes in the middle'),
        after: exact('one that comes after the end'),
        cpu: { label: 'server CPU a delivery', unit: 'µs' },
        serverBusy: { label: 'server busy', unit: '%' },
        p50: { label: 'latency of a token, p50', unit: 'ms' },
        p99: { label: 'latency of a token, p99', unit: 'ms' },
        p99Busy: { label: 'latency on the busy channel, p99', unit: 'ms' }
      },
      run: subject => withStreams(subject, [{ count: 20, first: BUSY }], async (server, load) => {
        const loads = Object.fromEntries(Object.keys(readers).map(kind => [kind, startLoad(server.port)]))
        const { live, away, tab, after } = loads
        const come = kind => open(loads[kind], { count: readers[kind] * count, mod: count })
        try {
          await publish(server, load, { ...busy, count: 500, audience: 20 }) // warm
          await Promise.all([come('live'), come('away')])
          const begin = performance.now()
          const at = share => sleep(Math.max(0, begin + share * ms - performance.now()))
          const before = server.cpu()
          server.tell(line(busy))
          server.tell(`answers ${count} ${tokens} ${perSecond} 0`)
          const done = Promise.all([server.answer(), server.answer()])
          await at(0.1)
          await away.ask('close')
          await at(0.5)
          await come('tab')
          await at(0.9)
          await away.ask('reopen')
          await done
          // what takes longer is late, and counts as not exact
          const wait = kind => loads[kind].ask(`wait ${readers[kind] * count * tokens} 3000`)
          const [told] = await Promise.all([wait('live'), wait('away'), wait('tab')])
          const [cpu, seconds] = [server.cpu() - before, (performance.now() - begin) / 1_000]
          await come('after')
          await wait('after')
          await sleep(200) // the end follows the last token
          const figures = {}
          let events = 0
          for (const kind in readers) {
            figures[kind] = (await loads[kind].ask(`exact ${tokens}`)).exact / readers[kind] / count * 100
            if (kind !== 'after') events += (await loads[kind].ask('report')).events
          }
          const beside = await load.ask(`wait ${20 * busy.count} 1000`)
          return {
            ...figures, cpu: cpu / (events + beside.events) * 1e6, serverBusy: cpu / seconds * 100, p50: told.p50, p99: told.p99, p99Busy: beside.p99
          }
        } finally {
          await Promise.all([live, away, tab, after].map(load => load.end()))
        }
      }, { rewind: 10_000 })
    }
  }

  /**
   * Channels of which only the newest event counts. For the peers they are channels as any other: they have no such thing.
   * @returns {Scenario}
   */
  function values () {
    const [channels, each] = quick ? [100, 20] : [500, 20]
    const groups = { mod: channels / each, channels: each, step: 0 }
    const [slowCount, count] = [thousand / 20, Math.round(2_000 * seconds / channels) * channels]
    return {
      name: 'values',
      title: `${channels} channels of values, 2,000 a second in turn, ${number(thousand)} streams with ${each} of them each, ${slowCount} of which read nothing until the end`,
      subjects: ON_FASTIFY,
      streams: thousand,
      metrics: {
        cpu: { label: 'server CPU a delivery', unit: 'µs', better: 'lower' },
        serverBusy: { label: 'server busy', unit: '%' },
        p99: { label: 'latency of those that read, p99', unit: 'ms', better: 'lower' },
        fresh: { label: 'values that are there 0.25 s after the last was due', unit: '%' },
        peak: { label: 'more resident memory at the peak', unit: 'MB' },
        slowEvents: { label: 'events that each of the others gets when it reads at last', unit: '' },
        slowFresh: { label: 'its values that are the newest, after 1 s', unit: '%' },
        gaps: { label: 'gap events', unit: '' }
      },
      run: subject => withStreams(subject, [], async (server, load) => {
        const slow = startLoad(server.port)
        try {
          for (const client of [load, slow]) await client.ask(`values ${channels}`)
          await open(load, { ...groups, count: thousand - slowCount })
          const warm = 2 * channels
          await publish(server, load, { count: warm, every: 0.005, channels, audience: (thousand - slowCount) * each / channels })
          const before = await settledRss(server)
          let peak = before
          const sampler = setInterval(() => { peak = Math.max(peak, server.rss()) }, 50)
          await open(slow, { ...groups, count: slowCount, stalled: 2 })
          await load.ask('reset')
          const [cpu, begin] = [server.cpu(), performance.now()]
          await server.ask(line({ count, every: 1 / 2_000, channels, limit: count / 2_000 + 0.25 }))
          await sleep(Math.max(0, begin + count / 2 + 250 - performance.now()))
          const [used, took] = [server.cpu() - cpu, performance.now() - begin]
          const { events, p99, gaps } = await load.ask('report')
          const total = warm + count
          const fresh = async (client, streams) => 100 - (await client.ask(`stale ${total}`)).stale / streams / each * 100
          const figures = { fresh: await fresh(load, thousand - slowCount) }
          clearInterval(sampler)
          await slow.ask('reset')
          await slow.ask('resume')
          await sleep(1_000)
          const late = await slow.ask('report')
          return {
            ...figures,
            cpu: used / events * 1e6,
            serverBusy: used / took * 1e5,
            p99,
            peak: (peak - before) / MB,
            slowEvents: late.events / slowCount,
            slowFresh: await fresh(slow, slowCount),
            gaps: gaps + late.gaps
          }
        } finally {
          await slow.end()
        }
      }, subject === OURS ? { latest: true } : {})
    }
  }

  /** @returns {Scenario} */
  function openLoop (name, streams, rate, ladder) {
    /** It holds if all that was due has arrived, a quarter of a second after the last event was due at the latest. */
    const attempt = (subject, eventsPerSecond) => withStreams(subject, [{ count: streams }], async (server, load) => {
      const every = 1 / eventsPerSecond
      // warm: no more than every subject can take, and enough for the compiler to have seen the code
      await publish(server, load, { count: Math.round(warmDeliveries / streams), every: streams / 25_000, audience: streams, grace: 15 })
      const count = Math.max(2, Math.round(seconds * eventsPerSecond))
      const m = await publish(server, load, { count, every, audience: streams, unfinished: true })
      return { ...m, holds: m.events === count * streams && m.seconds < count * every + 0.25 }
    })
    return {
      name,
      title: `${number(streams)} streams, ${number(rate)} events a second, open loop`,
      subjects: all,
      streams,
      metrics: {
        holds: { label: 'holds', unit: '' },
        rate: { label: 'deliveries a second', unit: 'k/s', better: 'higher' },
        p50: { label: 'latency, p50', unit: 'ms' },
        p99: { label: 'latency, p99', unit: 'ms', better: 'lower' },
        max: { label: 'latency, max', unit: 'ms' },
        cpu: { label: 'server CPU a delivery', unit: 'µs' },
        joined: { label: 'events a write (HTTP chunk)', unit: '' },
        serverBusy: { label: 'server busy', unit: '%' },
        busy: { label: 'load client busy', unit: '%' },
        reach: { label: 'highest rate tried that holds', unit: 'events/s', better: 'higher', chart: true }
      },
      run: async (subject, round) => {
        const m = await attempt(subject, rate)
        const figures = {
          holds: m.holds ? 'yes' : 'falls behind',
          rate: m.events / m.seconds / 1e3,
          p50: m.p50,
          p99: m.p99,
          max: m.max,
          cpu: m.cpuPerDelivery,
          joined: m.joined,
          serverBusy: m.serverBusy,
          busy: m.busy
        }
        // a search costs several runs: once, for ours alone, and not where all is only tried
        if (quick || round > 0 || subject !== OURS) return figures
        let [holds, fails] = m.holds ? [ladder.indexOf(rate), ladder.length] : [-1, ladder.indexOf(rate)]
        while (fails - holds > 1) {
          const middle = (holds + fails) >> 1
          if ((await attempt(subject, ladder[middle])).holds) holds = middle
          else fails = middle
        }
        return { ...figures, reach: ladder[holds] ?? `< ${ladder[0]}` }
      }
    }
  }

  /** 10 streams get large events, the others a small one every 100 ms. */
  function besideBulk (subject, stalled) {
    const bulk = { channel: 1, count: quick ? 320 : 3_200, every: 0.003, bytes: 62_500 } // times count: 20 or 200 MB
    const small = { count: quick ? 10 : 96, every: 0.1 }
    const groups = [{ count: thousand - 10 }, { count: 9, first: bulk.channel }, { count: 1, first: bulk.channel, stalled }]
    return withStreams(subject, groups, async (server, load) => {
      await publish(server, load, { count: 10, every: 0.02, audience: thousand - 10 }) // warm
      const before = await settledRss(server)
      let peak = before
      const sampler = setInterval(() => { peak = Math.max(peak, server.rss()) }, 50)
      server.tell(line({ ...bulk, first: bulk.channel, limit: 30 }))
      const readers = stalled ? 9 : 10
      const m = await publish(server, load, { ...small, audience: thousand - 10, more: bulk.count * readers, grace: 20 })
        .finally(() => clearInterval(sampler))
      await server.answer()
      return { rss: (await settledRss(server) - before) / MB, peak: (peak - before) / MB, p99: m.p99 }
    })
  }
}

/**
 * Starts a server and a load client, opens streams, and ends both in any case.
 * @template T
 * @param {string} subject
 * @param {object[]} groups of streams
 * @param {(server: import('./processes.js').Child, load: import('./processes.js').Child) => Promise<T>} use
 * @param {object} [options] of the library under test
 * @returns {Promise<T>}
 */
export async function withStreams (subject, groups, use, options) {
  const server = await startServer(subject, options)
  const load = startLoad(server.port)
  try {
    for (const group of groups) await open(load, group)
    return await use(server, load)
  } finally {
    await Promise.all([load.end(), server.end()])
  }
}

export async function open (load, { count, first = 0, mod = 1, channels = 1, step = 1, stalled = 0 }) {
  const before = (await load.ask('reset')).streams
  const { streams, refused } = await load.ask(`open ${count} ${first} ${mod} ${channels} ${step} ${Number(stalled)}`)
  if (streams !== before + count) throw new Error(`${streams - before} of ${count} streams opened, ${refused} refused`)
}

/** The command for a schedule; times in seconds. order, kind, stamp: see server.js. */
export function line ({ count, every, bytes = EVENT_BYTES, first = 0, channels = 1, limit, order = first, kind = 'text', stamp = 'due' }) {
  return `publish ${count} ${Math.round(every * 1e6)} ${bytes} ${first} ${channels} ${Math.round((limit ?? count * every + 10) * 1000)} ${order} ${kind} ${stamp}`
}

/**
 * Publishes, waits until everything has arrived, and says what it cost.
 * @param {object} schedule of line(), and: audience, streams that get each event; more, deliveries of another schedule;
 *   grace, seconds to wait after the last event was due; unfinished, whether falling behind is an answer and not an error
 */
export async function publish (server, load, { audience, more = 0, grace = 5, unfinished = false, ...schedule }) {
  const { count, every } = schedule
  const deliveries = count * audience + more
  if (unfinished) grace = 1
  await load.ask('reset')
  const [serverBefore, loadBefore, busyBefore] = [server.cpu(), load.cpu(), busySeconds()]
  const begin = performance.now()
  server.tell(line({ ...schedule, limit: count * every + grace }))
  const stats = await load.ask(`wait ${deliveries} ${Math.round((count * every + grace) * 1000)}`, (count * every + grace) * 1000 + 20_000)
  const wall = (performance.now() - begin) / 1000
  const [serverCpu, loadCpu] = [server.cpu() - serverBefore, load.cpu() - loadBefore]
  disturbance.push(Math.max(0, busySeconds() - busyBefore - serverCpu) / wall)
  noteFaults(server.subject, stats)
  if (stats.events < deliveries && !unfinished) throw new Error(`${stats.events} of ${deliveries} deliveries in time`)
  if (stats.events === deliveries) await server.answer()
  const joined = stats.events / stats.chunks
  return { ...stats, joined, serverCpu, loadCpu, cpuPerDelivery: serverCpu / stats.events * 1e6, busy: loadCpu / wall * 100, serverBusy: serverCpu / wall * 100 }
}

/** Closes all streams, lets `meanwhile` publish 100 events, and connects them again with the id that each had. */
export async function reconnect (server, load, streams, meanwhile) {
  await sleep(300) // their ids are under way
  await load.ask('close')
  await sleep(500) // the server sees that they left
  await meanwhile()
  await load.ask('reset')
  return timed(server, async () => {
    const { refused } = await load.ask('reopen')
    const stats = await load.ask(`wait ${streams * 100} 30000`)
    noteFaults(server.subject, stats)
    if (refused || stats.events !== streams * 100 || stats.missing || stats.disorder || stats.gaps) {
      throw new Error(`replayed ${stats.events} of ${streams * 100}: ${JSON.stringify(stats)}`)
    }
  })
}

function noteFaults (subject, stats) {
  const found = faults[subject] ??= { events: 0, missing: 0, disorder: 0, gaps: 0 }
  for (const key in found) found[key] += stats[key]
}

async function timed (server, work) {
  const before = server.cpu()
  const begin = performance.now()
  await work()
  return { seconds: (performance.now() - begin) / 1000, cpu: server.cpu() - before }
}

export async function settledRss (server) {
  await sleep(300)
  await server.ask('gc')
  await server.ask('gc') // what the first one let finalizers free
  await sleep(200)
  return server.rss()
}
