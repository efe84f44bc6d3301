/**
 * The benchmark: `npm run bench` in the root, or `node run.js` here.
 *
 *   --quick            few streams, one short round: to see that all works, not to quote
 *   --only a,b         scenarios by name (--list names them)
 *   --subjects a,b     subjects by name
 *   --rounds n         3; how cost grows is measured once, at many points
 *   --cpus s,l         the CPU of the server and that of the load; the first and the last
 *   --check            tries the load client: does it find faults, and how much can it read?
 *
 * Linux only: CPU and memory are read from /proc, and the load comes from many addresses of the loopback.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { compile, compiled, openFilesLimit, outDir, pin } from './processes.js'
import { FIRST, firstRelease, present } from './builds.js'
import { barChart, format, lineChart, machine, median, sweepTable, table } from './report.js'
import { OURS, PEERS, disturbance, faults, makeScenarios } from './scenarios.js'
import { makeSweeps } from './sweeps.js'
import { check } from './check.js'

const FLOOR = 'node-chunk'
const here = fileURLToPath(new URL('.', import.meta.url))

const { values: args } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string' },
    subjects: { type: 'string' },
    rounds: { type: 'string' },
    cpus: { type: 'string' },
    check: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false }
  }
})
const rounds = args.quick ? 1 : Number(args.rounds ?? 3)
const wanted = (list, name) => !list || list.split(',').includes(name)

const scenarios = makeScenarios(args.quick).filter(({ name }) => wanted(args.only, name))
const sweeps = makeSweeps(args.quick).filter(({ name }) => wanted(args.only, name))

if (args.list) {
  for (const { name, title } of [...scenarios, ...sweeps]) console.log(`${name.padEnd(16)} ${title}`)
  process.exit()
}

const skipped = prepare()
if (args.check) {
  await check()
  process.exit()
}

const chosen = subjects => subjects.filter(subject => wanted(args.subjects, subject) && !skipped.has(subject))
const results = {}
const growth = {}
const started = performance.now()

// subjects take turns within a round, so that what disturbs the machine for a while disturbs all of them
for (const { name, title, subjects, metrics, run } of scenarios) {
  if (outOfTime(title)) continue
  console.log(`\n${title}`)
  results[name] = {}
  for (let round = 0; round < rounds; round++) {
    for (const subject of chosen(subjects)) {
      const begin = performance.now()
      const figures = await run(subject, round).catch(error => {
        console.log(`  ${subject}: ${error.message}`)
        return Object.fromEntries(Object.keys(metrics).map(key => [key, 'failed']))
      })
      const kept = results[name][subject] ??= {}
      for (const key in figures) (kept[key] ??= []).push(figures[key])
      const shown = Object.keys(figures).map(key => `${key} ${format(figures[key])}`)
      console.log(`  ${subject.padEnd(22)} ${shown.join(', ')} (${format((performance.now() - begin) / 1000)} s)`)
    }
  }
}

for (const { name, title, points, lines, run } of sweeps) {
  if (outOfTime(title)) continue
  console.log(`\nHow cost grows: ${title}`)
  growth[name] = {}
  for (const line of lines) {
    if (line === FLOOR && !chosen([FLOOR]).length) continue
    growth[name][line] = {}
    for (const x of points) {
      growth[name][line][x] = await run(line, x).catch(error => `failed: ${error.message}`)
      console.log(`  ${line.padEnd(32)} ${x.toLocaleString('en').padStart(9)}  ${format(growth[name][line][x])}`)
    }
  }
}

write()

/** A quick run stays below two minutes on a busy machine too, and says what it left out. */
function outOfTime (title) {
  const over = args.quick && performance.now() - started > 100_000
  if (over) console.log(`\nLeft out, as the machine is too busy for two minutes: ${title}`)
  return over
}

/** Installs, builds and checks what a run needs. Returns the subjects that cannot be run here. */
function prepare () {
  if (process.platform !== 'linux') fail('This benchmark runs on Linux only: it reads CPU and memory from /proc.')
  const streams = Math.max(0, ...[...scenarios, ...sweeps].map(scenario => scenario.streams))
  if (openFilesLimit() < streams + 100) {
    fail(`${streams.toLocaleString('en')} streams need ${streams + 100} open files a process, and the limit is ${openFilesLimit()}: raise it (ulimit -Hn), or use --quick.`)
  }
  if (!existsSync(`${here}/node_modules`)) command('npm', ['ci', '--no-audit', '--no-fund'], here)
  if (!existsSync(`${here}/../node_modules`)) command('npm', ['ci', '--no-audit', '--no-fund'], `${here}/..`)
  present()
  mkdirSync(outDir, { recursive: true })
  const failed = compile('load')
  if (failed) fail(`The load client needs a C compiler (apt-get install gcc libc6-dev): ${failed}`)
  const without = new Set()
  for (const subject of Object.keys(compiled).filter(name => !name.startsWith('load'))) {
    const reason = compile(subject)
    if (!reason) continue
    without.add(subject)
    console.log(`Without ${subject}: ${reason}`)
  }
  if (scenarios.some(({ subjects }) => subjects.includes(FIRST)) && wanted(args.subjects, FIRST) && !firstRelease()) {
    without.add(FIRST)
    console.log('Without the first release: its commit is not in this copy.')
  }
  pin(args.cpus)
  return without
}

function command (file, parameters, cwd) {
  const { status, stderr, stdout } = spawnSync(file, parameters, { cwd, encoding: 'utf8' })
  if (status !== 0) fail(`${file} ${parameters.join(' ')} failed:\n${stdout}${stderr}`)
}

function fail (text) {
  console.error(text)
  process.exit(1)
}

function write () {
  const about = {
    ...machine('npm run bench', ['fastify', ...PEERS]),
    rounds,
    // of a measurement, in the median and in the worst
    othersPercent: [median(disturbance), Math.max(...disturbance)].map(share => Math.round(share * 100)),
    minutes: Math.round((performance.now() - started) / 6_000) / 10
  }
  const subjectsOfTable = { ours: OURS, peers: PEERS, floor: FLOOR }
  const faultRows = Object.entries(faults).map(([subject, f]) => `| ${[subject, ...Object.values(f).map(n => n.toLocaleString('en'))].join(' | ')} |`)
  const markdown = [
    '# Figures of the benchmark',
    `\`${about.command}\`, ${about.date}. ${about.machine}; ${about.placement}. ${about.versions.join(', ')}. ` +
    `Median of ${rounds} round${rounds > 1 ? 's' : ''}; ratios are of the same round, above 1 is better; the first release is measured where it has a column. Events of 100 bytes where nothing else is said. ` +
    `Other processes took ${about.othersPercent[0]} % of the server's CPU in the median measurement, ${about.othersPercent[1]} % in the worst.` +
    (args.quick ? ' **A quick run, with few streams: not to be quoted.**' : ''),
    scenarios.length ? table(scenarios, results, subjectsOfTable) : '',
    '## What arrived',
    '| | events | lost | out of order | gap events |\n| --- | --: | --: | --: | --: |\n' + faultRows.join('\n'),
    ...sweeps.filter(({ name }) => growth[name]).flatMap((sweep, i) => [...(i ? [] : ['## How cost grows', 'Each point was measured once.']), `### ${sweep.title}`, sweepTable(sweep, growth[sweep.name])])
  ].filter(Boolean).join('\n\n') + '\n'

  // a part of the benchmark must not replace the published whole
  const complete = !args.quick && !args.only && !args.subjects
  const directory = complete ? here : `${outDir}/`
  writeFileSync(`${outDir}/results.json`, JSON.stringify({ about, results, growth, faults }, null, 2))
  writeFileSync(`${directory}results.md`, markdown)
  if (Object.keys(results).length) writeFileSync(`${directory}results.svg`, barChart(scenarios, results, subjectsOfTable))
  if (Object.keys(growth).length) writeFileSync(`${directory}growth.svg`, lineChart(sweeps, growth))
  console.log(`\n${markdown}\nIn ${about.minutes} minutes. Written to bench/${complete ? '' : 'out/'}: results.md, results.svg, growth.svg; bench/out/results.json`)
}
