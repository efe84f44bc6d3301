import { fork } from 'node:child_process'
import { MODES } from './modes.ts'
import { SMALL } from './mutations.ts'
import { Workshop } from './variant.ts'

/**
 * node --import tsx test/simulation/run.ts [mode|all] [seeds] [@from]
 * TRACE=1 prints the story of the first seed that fails; SMALL=1 makes the limits of the code so small that runs meet them.
 */
const WORKERS = 2

interface Sums { runs: number, failures: Array<[seed: number, complaint: string]>, gaps: number, falseGaps: number, covered: number, late: number, published: number, received: number, story: readonly string[] | undefined }

const args = process.argv.slice(2)
const worker = args.includes('worker') ? Number(args.at(-1)) : undefined
const from = Number(args.find(arg => arg.startsWith('@'))?.slice(1) ?? 1)
const [mode = 'all', seeds = '200'] = args.filter(arg => !arg.startsWith('@') && arg !== 'worker')
const modes = mode === 'all' ? Object.keys(MODES) : mode.split(',')

async function run (simulate: Awaited<ReturnType<Workshop['make']>>, mode: string, first: number): Promise<Sums> {
  const sums: Sums = { runs: 0, failures: [], gaps: 0, falseGaps: 0, covered: 0, late: 0, published: 0, received: 0, story: undefined }
  for (let seed = first; seed < from + Number(seeds); seed += WORKERS) {
    sums.runs++
    const tell = process.env['TRACE'] !== undefined && sums.failures.length === 0
    try {
      const result = await simulate(mode, seed, tell)
      for (const key of ['gaps', 'falseGaps', 'covered', 'late', 'published', 'received'] as const) sums[key] += result[key]
      if (result.complaints.length === 0) continue
      sums.failures.push([seed, `${result.complaints[0]!} (${result.complaints.length})`])
      sums.story ??= result.story
    } catch (error) {
      sums.failures.push([seed, (error as Error).stack!.split('\n').slice(0, 4).join(' | ')])
    }
  }
  return sums
}

function report (mode: string, all: readonly Sums[], ms: number): void {
  const sum = (key: 'runs' | 'gaps' | 'falseGaps' | 'covered' | 'late' | 'published' | 'received'): number => all.reduce((sum, sums) => sum + sums[key], 0)
  const failures = all.flatMap(({ failures }) => failures).sort(([a], [b]) => a - b)
  console.log(`${mode.padEnd(14)} ${failures.length} of ${sum('runs')} failed, ${Math.round(sum('runs') / ms * 1_000)}/s; gaps ${sum('gaps')} (false ${sum('falseGaps')}), covered ${sum('covered')}, late ${sum('late')}, published ${sum('published')}, received ${sum('received')}`)
  for (const [seed, complaint] of failures.slice(0, 5)) console.log(`  seed ${seed}: ${complaint}`)
  const story = all.find(({ story }) => story !== undefined)?.story
  if (story !== undefined) console.log(story.join('\n'))
}

if (worker !== undefined) {
  const workshop = new Workshop()
  const simulate = await workshop.make(process.env['SMALL'] === undefined ? [] : SMALL)
  for (const mode of modes) process.send!(await run(simulate, mode, from + worker))
  workshop.close()
  process.disconnect()
} else {
  const begun = performance.now()
  const results: Sums[][] = modes.map(() => [])
  let failed = false
  let last = begun
  await Promise.all(Array.from({ length: WORKERS }, (_, i) => new Promise<void>((resolve, reject) => {
    const child = fork(process.argv[1]!, [mode, seeds, `@${from}`, 'worker', String(i)], { execArgv: process.execArgv })
    let at = 0
    child.on('message', (sums: Sums) => {
      const all = results[at]!
      all.push(sums)
      failed ||= sums.failures.length > 0
      if (all.length === WORKERS) {
        report(modes[at]!, all, performance.now() - last)
        last = performance.now()
      }
      at++
    })
    child.on('exit', code => { if (code === 0) resolve(); else reject(new Error(`a worker ended with ${code}`)) })
  })))
  console.log(`${Math.round((performance.now() - begun) / 1_000)} s`)
  process.exitCode = failed ? 1 : 0
}
