/**
 * What the option `compress` saves, and what it costs: `node bench/compress.js`. Without it, with it, and with a gzip for each connection (bare
 * node:http, flushed after each event). All have their streams open at the same time, and are measured in turn. Writes compress.md.
 *
 *   --quick            few streams and short runs: to see that all works, not to quote. Written to out/, as each part is
 *   --only a,b         of memory, idle, and numbers of streams: 1, 10, 1000, 10000
 *   --rounds n         1: medians of so many
 *   --cpus s,l         as for run.js
 *
 * Linux only; it takes zlib's header for the load client, which inflates what it gets (apt-get install zlib1g-dev).
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { present } from './builds.js'
import { compile, outDir, pin, startLoad, startServer } from './processes.js'
import { format, machine, median } from './report.js'
import { OURS, line, open, settledRss } from './scenarios.js'
import { kinds } from './subjects/json.js'

const { values: args } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    rounds: { type: 'string', default: '1' },
    cpus: { type: 'string' }
  }
})
const { quick } = args
const wanted = part => args.only === undefined || args.only.split(',').includes(String(part))
const numberOf = n => n.toLocaleString('en')

const OFF = 'without'
const ON = 'with'
const EACH = 'a gzip for each'
/** node:http keeps the headers of each response: how much of what a compressed stream takes more are its two? */
const HEADERS = 'without, but with two more headers'
const SUBJECTS = {
  [OFF]: { name: OURS, options: { compress: false } },
  [ON]: { name: OURS, options: { compress: true } },
  [HEADERS]: { name: OURS, options: { compress: false, headers: { 'x-content-encoding': 'gzip', 'x-vary': 'accept-encoding' } } },
  [EACH]: { name: 'node-gzip', options: {} }
}
/** With so many, the gzip for each connection is measured, and there are targets. */
const THOUSAND = quick ? 100 : 1_000

/** Single events: one at a time, so that each is a write. Of a burst, all in one turn. */
const AUDIENCES = (quick
  ? [
      { streams: 1, single: { count: 200, every: 0.002 }, bursts: 5 },
      { streams: THOUSAND, single: { count: 10, every: 0.05 }, bursts: 2 }
    ]
  : [
      { streams: 1, single: { count: 3_000, every: 0.001 }, bursts: 200 },
      { streams: 10, single: { count: 1_500, every: 0.002 }, bursts: 100 },
      { streams: THOUSAND, single: { count: 40, every: 0.25 }, bursts: 10 },
      { streams: 10_000, single: { count: 20, every: 0.25 }, bursts: 3 }
    ]).filter(({ streams }) => wanted(streams))
const BURST = 300
const LOADS = { single: 'one at a time', burst: `${BURST} in one turn` }

/** What was measured, by rows of words: values of the rounds. */
const found = new Map()
const note = (...row) => value => {
  const key = row.join(', ')
  found.set(key, [...found.get(key) ?? [], value])
  return value
}
const of = (...row) => median(found.get(row.join(', ')) ?? [])

const started = performance.now()
present()
mkdirSync(outDir, { recursive: true })
const failed = compile('load-gzip')
if (failed) fail(`The load client needs a C compiler and zlib (apt-get install gcc libc6-dev zlib1g-dev): ${failed}`)
pin(args.cpus)
for (let round = 0; round < Number(args.rounds); round++) {
  for (const audience of AUDIENCES) await deliveries(audience)
  if (wanted('memory')) for (const subject of [OFF, ON, EACH]) await memory(subject)
  if (wanted('idle')) for (const subject of [OFF, HEADERS, ON]) await idle(subject)
}
write()

/** Starts a server of each, uses them, and ends all in any case. */
async function withSubjects (subjects, use) {
  const runs = []
  try {
    for (const subject of subjects) {
      const { name, options } = SUBJECTS[subject]
      const run = { subject, server: await startServer(name, options), loads: [] }
      runs.push(run)
      run.load = async () => {
        const load = startLoad(run.server.port, undefined, 'load-gzip')
        run.loads.push(load)
        await load.ask(`gzip ${Number(subject === ON || subject === EACH)}`)
        return load
      }
    }
    return await use(runs)
  } finally {
    await Promise.all(runs.flatMap(({ server, loads }) => [server, ...loads].map(child => child.end())))
  }
}

async function deliveries ({ streams, single, bursts }) {
  const subjects = streams === THOUSAND ? [OFF, ON, EACH] : [OFF, ON]
  await withSubjects(subjects, async runs => {
    for (const run of runs) await open(run.client = await run.load(), { count: streams })
    for (const kind of Object.keys(kinds)) {
      for (const load in LOADS) {
        for (const { subject, server, client } of runs) {
          const once = load === 'single' ? { ...single, kind } : { count: BURST, every: 0, kind }
          // what came before is in the window, and the code is compiled
          await deliver(server, client, streams, { ...once, count: subject === EACH ? 20 : 100, every: 0 }, 1)
          if (load === 'single') await deliver(server, client, streams, { ...once, count: Math.ceil(once.count / 4) }, 1)
          const times = load === 'single' || subject === EACH ? 1 : bursts
          const { bytes, cpu, p99, joined } = await deliver(server, client, streams, once, times)
          note(streams, load, kind, subject, 'bytes')(bytes)
          note(streams, load, kind, subject, 'cpu')(cpu)
          note(streams, load, kind, subject, 'p99')(p99)
          console.log(`${numberOf(streams).padStart(6)} streams, ${load.padEnd(6)} ${kind.padEnd(5)} ${subject.padEnd(15)} ${format(bytes)} bytes, ${format(cpu)} µs, p99 ${format(p99)} ms, ${format(joined)} events a write`)
        }
      }
    }
  })
}

/** Publishes so many times, each when the one before has arrived, and says what a delivery cost. */
async function deliver (server, client, streams, schedule, times) {
  const ms = (schedule.count * schedule.every + 60) * 1_000
  await client.ask('reset')
  const before = server.cpu()
  let stats
  for (let i = 1; i <= times; i++) {
    server.tell(line({ ...schedule, limit: ms / 1_000 }))
    const expected = i * schedule.count * streams
    stats = await client.ask(`wait ${expected} ${ms}`, ms + 10_000)
    await server.answer()
    if (stats.events !== expected || stats.missing || stats.disorder || stats.gaps) throw new Error(`${expected} events were due: ${JSON.stringify(stats)}`)
  }
  const { events, wire, chunks, p99 } = stats
  return { bytes: wire / events, cpu: (server.cpu() - before) / events * 1e6, p99, joined: events / chunks }
}

/** What a stream takes that has had 100 events. */
async function memory (subject) {
  await withSubjects([subject], async ([{ server, load }]) => {
    const use = async client => {
      await open(client, { count: THOUSAND })
      await deliver(server, client, THOUSAND, { count: 100, every: 0.01, kind: 'chat' }, 1)
    }
    const warm = await load()
    await use(warm)
    await warm.ask('close')
    const before = await settled(server)
    await use(await load())
    const after = await settled(server)
    const kb = note('memory', subject)((after.rss - before.rss) / THOUSAND / 1024)
    console.log(`memory of ${numberOf(THOUSAND)} streams, ${subject}: ${format(kb)} KB each`)
  })
}

/** What a stream takes that has had nothing yet: of the heap, where a tenth of a KB can be seen. */
async function idle (subject) {
  const streams = quick ? 500 : 10_000
  await withSubjects([subject], async ([{ server, load }]) => {
    const warm = await load()
    await open(warm, { count: 500 })
    await warm.ask('close')
    const before = await settled(server)
    await open(await load(), { count: streams, first: 1 })
    const after = await settled(server)
    note('idle', subject, 'heap')((after.heap - before.heap) / streams)
    note('idle', subject, 'rss')((after.rss - before.rss) / streams / 1024)
    console.log(`an idle stream, ${subject}: ${format(of('idle', subject, 'heap'))} bytes of heap, ${format(of('idle', subject, 'rss'))} KB resident`)
  })
}

async function settled (server) {
  const rss = await settledRss(server)
  return { rss, heap: (await server.ask('gc')).heap }
}

// The report

function write () {
  const about = machine('node bench/compress.js', ['fastify'])
  const rows = AUDIENCES.flatMap(({ streams }) => Object.keys(LOADS).flatMap(load => Object.keys(kinds).map(kind => ({ streams, load, kind, value: (...rest) => of(streams, load, kind, ...rest) }))))
  const share = (value, subject) => value(subject, 'bytes') / value(OFF, 'bytes') * 100
  const ratio = value => value(ON, 'cpu') / value(OFF, 'cpu')
  const table = (head, lines) => [head, head.map((_, i) => i < 3 ? '---' : '--:'), ...lines].map(cells => `| ${cells.join(' | ')} |`).join('\n')
  const columns = (label, key, unit) => [OFF, ON, EACH].map(subject => `${label}, ${subject}${unit}`)
  const delivered = table(
    ['streams', 'events', 'JSON', ...columns('bytes', 'bytes', ''), `${ON} / ${OFF}, %`, `${EACH} / ${OFF}, %`, ...columns('CPU', 'cpu', ', µs'), `${ON} / ${OFF}`, ...columns('p99', 'p99', ', ms')],
    rows.map(({ streams, load, kind, value }) => {
      const all = key => [OFF, ON, EACH].map(subject => format(value(subject, key)))
      const each = value(EACH, 'bytes') === undefined ? '' : format(share(value, EACH))
      return [numberOf(streams), LOADS[load], kind, ...all('bytes'), format(share(value, ON)), each, ...all('cpu'), `${format(ratio(value))} ×`, ...all('p99')]
    })
  )
  const more = than => of('idle', ON, 'heap') - of('idle', than, 'heap')
  const memoryTable = [
    ['', OFF, HEADERS, ON, EACH],
    ['---', '--:', '--:', '--:', '--:'],
    [`a stream, of ${numberOf(THOUSAND)} that have had 100 events: resident, KB`, ...[OFF, HEADERS, ON, EACH].map(subject => format(of('memory', subject)))],
    [`an idle stream, of ${numberOf(quick ? 500 : 10_000)}: heap, bytes`, ...[OFF, HEADERS, ON].map(subject => format(of('idle', subject, 'heap'))), ''],
    ['the same: resident, KB', ...[OFF, HEADERS, ON].map(subject => format(of('idle', subject, 'rss'))), '']
  ].map(cells => `| ${cells.join(' | ')} |`).join('\n')
  const targets = [
    ...rows.filter(({ streams }) => streams === THOUSAND).flatMap(({ load, kind, value }) => [
      [`CPU, ${kind}, ${LOADS[load]}`, load === 'burst' ? 1 : 1.3, ratio(value), ' ×'],
      [`bytes, ${kind}, ${LOADS[load]}`, 25, share(value, ON), ' %']
    ]),
    ['an idle stream, more heap', 102, more(OFF), ' bytes'],
    ['the same, without what node:http keeps of two more headers', 102, more(HEADERS), ' bytes']
  ].map(([what, limit, value, unit]) => `| ${what} | ${limit}${unit} | ${format(value)}${unit} | ${value <= limit ? 'met' : 'missed'} |`)
  const markdown = [
    '# Figures of compression',
    `\`${about.command}\`, ${about.date}. ${about.machine}; ${about.placement}. ${about.versions.join(', ')}. Median of ${args.rounds} round${args.rounds === '1' ? '' : 's'}. ` +
    `All three in the same run, by turns: \`compress\` off (${OFF}), on (${ON}), and bare node:http with ${EACH} connection, flushed after each event. ` +
    'Bytes are all that a client reads for an event, ids and the framing of HTTP included; CPU is that of the server for a delivery.' + (quick ? ' **A quick run: not to be quoted.**' : ''),
    delivered,
    '## Memory',
    memoryTable,
    `## What was to be reached, with ${numberOf(THOUSAND)} streams`,
    ['| | at most | found | |', '| --- | --: | --: | --- |', ...targets].join('\n')
  ].join('\n\n') + '\n'
  const complete = !quick && args.only === undefined
  const directory = complete ? fileURLToPath(new URL('.', import.meta.url)) : `${outDir}/`
  writeFileSync(`${directory}compress.md`, markdown)
  console.log(`\n${markdown}\nIn ${Math.round((performance.now() - started) / 6_000) / 10} minutes. Written to bench/${complete ? '' : 'out/'}compress.md`)
  process.exit()
}

function fail (text) {
  console.error(text)
  process.exit(1)
}
