/** Makes the Markdown table and the charts from the figures. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { cpus } from './processes.js'

const escape = text => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;')

export function median (values) {
  if (!values.length) return undefined
  const numbers = values.filter(value => typeof value === 'number').sort((a, b) => a - b)
  // where a run gave no number, the subject has none to show
  if (numbers.length < values.length) return values.find(value => typeof value !== 'number')
  const half = numbers.length >> 1
  return numbers.length % 2 ? numbers[half] : (numbers[half - 1] + numbers[half]) / 2
}

export function format (value) {
  if (value === undefined) return ''
  if (typeof value === 'string') return value
  if (!Number.isFinite(value)) return 'none'
  const size = Math.abs(value)
  return value.toLocaleString('en', { maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3 })
}

/** What a report says of where and when it was made. @param {string} command without its arguments @param {string[]} packages */
export function machine (command, packages) {
  const json = path => JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8'))
  const own = json('../package.json')
  const go = spawnSync('go', ['version'], { encoding: 'utf8' }).stdout?.split(' ')[2]
  const args = process.argv.slice(2)
  return {
    date: new Date().toISOString().slice(0, 10),
    command: [command, ...(args.length ? [...(command.startsWith('npm') ? ['--'] : []), ...args] : [])].join(' '),
    machine: `${os.cpus()[0].model.trim()}, ${os.cpus().length} CPUs, ${Math.round(os.totalmem() / 2 ** 30)} GB, Linux ${os.release().split('-')[0]}`,
    placement: cpus.server === null ? 'nothing pinned' : 'server on one CPU, load on another',
    versions: [`Node ${process.versions.node}`, `${own.name} ${own.version}`, ...packages.map(name => `${name} ${json(`./node_modules/${name}/package.json`).version}`), go].filter(Boolean)
  }
}

/** How many times better `ours` is: above 1 is better, whichever way the metric counts. Of each round, then the median. */
function ratio (metric, ours, other) {
  const pairs = ours.map((value, round) => metric.better === 'lower' ? other[round] / value : value / other[round])
  return pairs.length && pairs.every(Number.isFinite) ? median(pairs) : undefined
}

const times = value => value === undefined ? '' : `${format(Math.round(value * 100) / 100)} ×`

/**
 * @param {import('./scenarios.js').Scenario[]} scenarios
 * @param {Record<string, Record<string, Record<string, (number | string)[]>>>} results scenario, subject, metric: rounds
 */
export function table (scenarios, results, { ours, peers, floor }) {
  const subjects = [...new Set(scenarios.flatMap(({ name }) => Object.keys(results[name] ?? {})))]
  const head = ['', ...subjects, 'better than the best peer', `better than ${floor}`]
  const rows = [head, head.map((_, i) => i ? '--:' : '---')]
  for (const { name, title, metrics } of scenarios) {
    if (!results[name]) continue
    rows.push([`**${title}**`, ...head.slice(1).map(() => '')])
    for (const [key, metric] of Object.entries(metrics)) {
      const values = subject => results[name][subject]?.[key] ?? []
      if (!subjects.some(subject => values(subject).length)) continue
      const ratios = peers.map(peer => ratio(metric, values(ours), values(peer))).filter(value => value !== undefined)
      rows.push([
        metric.unit ? `${metric.label}, ${metric.unit}` : metric.label,
        ...subjects.map(subject => format(median(values(subject)))),
        metric.better && ratios.length ? times(Math.min(...ratios)) : '',
        metric.better ? times(ratio(metric, values(ours), values(floor))) : ''
      ])
    }
  }
  return rows.map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

export function sweepTable (sweep, lines) {
  const rows = [[sweep.x, ...Object.keys(lines).map(name => `${name}, ${sweep.y}`)]]
  rows.push(rows[0].map(() => '--:'))
  for (const x of sweep.points) rows.push([x.toLocaleString('en'), ...Object.values(lines).map(line => format(line[x]))])
  return rows.map(cells => `| ${cells.join(' | ')} |`).join('\n')
}

const STYLE = `<style>
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600 } .small { font-size: 10px; fill: #59636e }
  .ours { fill: #0969da } .peer { fill: #8c959f } .floor { fill: #d0d7de }
  .grid { stroke: #d0d7de; fill: none } .line { fill: none; stroke-width: 2 }
  .s0 { stroke: #0969da } .s1 { stroke: #8c959f } .s2 { stroke: #bc4c00 }
  .f0 { fill: #0969da } .f1 { fill: #8c959f } .f2 { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .small { fill: #9198a1 }
    .ours { fill: #4493f8 } .peer { fill: #656c76 } .floor { fill: #3d444d }
    .grid { stroke: #3d444d } .s0 { stroke: #4493f8 } .f0 { fill: #4493f8 } .s2 { stroke: #db6d28 } .f2 { fill: #db6d28 }
  }
</style>`

const svg = (width, height, label, parts) =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${escape(label)}">\n${STYLE}\n${parts.join('\n')}\n</svg>\n`

/** One panel for each charted metric, one bar for each subject. */
export function barChart (scenarios, results, { ours, peers }) {
  const panels = scenarios.flatMap(({ name, title, metrics }) => Object.entries(metrics)
    .filter(([key, metric]) => metric.chart && Object.values(results[name] ?? {}).some(figures => figures[key]?.length))
    .map(([key, metric]) => ({ title, metric, bars: Object.entries(results[name]).map(([subject, figures]) => [subject, median(figures[key] ?? [])]) })))
  const parts = []
  let y = 10
  for (const { title, metric, bars } of panels) {
    parts.push(`<text class="title" x="10" y="${y + 12}">${escape(title)}</text>`)
    parts.push(`<text class="small" x="10" y="${y + 28}">${escape(metric.label)}, ${metric.unit} (${metric.better} is better)</text>`)
    y += 36
    const longest = Math.max(...bars.map(([, value]) => typeof value === 'number' ? value : 0))
    for (const [subject, value] of bars) {
      const width = typeof value === 'number' && longest > 0 ? Math.max(1, value / longest * 420) : 0
      const kind = subject === ours ? 'ours' : peers.includes(subject) ? 'peer' : 'floor'
      parts.push(`<text x="150" y="${y + 12}" text-anchor="end">${escape(subject)}</text>`)
      parts.push(`<rect class="${kind}" x="158" y="${y + 2}" width="${width.toFixed(1)}" height="13" rx="2"/>`)
      parts.push(`<text x="${(164 + width).toFixed(1)}" y="${y + 12}">${escape(format(value))}</text>`)
      y += 18
    }
    y += 16
  }
  return svg(680, y, 'Benchmark: a bar for each library and measurement', parts)
}

/** One panel for each sweep, both axes logarithmic, so that a straight level line is a cost that does not grow. */
export function lineChart (sweeps, results) {
  const [columns, width, height, left, bottom] = [2, 360, 250, 52, 46]
  const panels = sweeps.filter(({ name }) => results[name])
  const parts = panels.flatMap((sweep, i) => {
    const [ox, oy] = [i % columns * width, Math.floor(i / columns) * height]
    const lines = Object.entries(results[sweep.name])
    const values = lines.flatMap(([, line]) => Object.values(line)).filter(value => value > 0)
    if (!values.length) return []
    const decades = numbers => [Math.floor(Math.log10(Math.min(...numbers))), Math.max(Math.floor(Math.log10(Math.min(...numbers))) + 1, Math.ceil(Math.log10(Math.max(...numbers))))]
    const [least, most] = [Math.min(...sweep.points), Math.max(...sweep.points)]
    const few = most < 100 * least // no use for powers of ten
    const [x0, x1] = few ? [Math.log10(least), Math.log10(most)] : decades(sweep.points)
    const [y0, y1] = decades(values)
    const px = x => ox + left + (Math.log10(x) - x0) / (x1 - x0) * (width - left - 20)
    const py = y => oy + height - bottom - (Math.log10(y) - y0) / (y1 - y0) * (height - bottom - 56)
    const short = n => Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 3 }).format(n)
    const out = [`<text class="title" x="${ox + 10}" y="${oy + 18}">${escape(sweep.title)}</text>`]
    const ticks = few ? sweep.points : Array.from({ length: x1 - x0 + 1 }, (_, i) => 10 ** (x0 + i))
    for (const x of ticks) out.push(`<text class="small" x="${px(x)}" y="${oy + height - bottom + 14}" text-anchor="middle">${short(x)}</text>`)
    for (let e = y0; e <= y1; e++) {
      out.push(`<path class="grid" d="M${px(10 ** x0)} ${py(10 ** e)}H${px(10 ** x1)}"/>`)
      out.push(`<text class="small" x="${ox + left - 6}" y="${py(10 ** e) + 4}" text-anchor="end">${short(10 ** e)}</text>`)
    }
    out.push(`<text class="small" x="${ox + 10}" y="${oy + 34}">${escape(sweep.y)}</text>`)
    out.push(`<text class="small" x="${ox + width - 20}" y="${oy + height - bottom + 28}" text-anchor="end">${escape(sweep.x)}</text>`)
    lines.forEach(([name, line], k) => {
      const points = Object.entries(line).filter(([, y]) => y > 0).map(([x, y]) => `${px(Number(x)).toFixed(1)} ${py(y).toFixed(1)}`)
      out.push(`<path class="line s${k}" d="M${points.join('L')}"/>`)
      for (const point of points) out.push(`<circle class="f${k}" r="3" cx="${point.split(' ')[0]}" cy="${point.split(' ')[1]}"/>`)
      out.push(`<text class="small f${k}" x="${ox + left + 66}" y="${oy + 34 + k * 11}">${escape(name)}</text>`)
    })
    return out
  })
  return svg(columns * width, Math.ceil(panels.length / columns) * height, 'How cost grows', parts)
}
