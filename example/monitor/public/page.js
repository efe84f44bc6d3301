/* global document, fetch, getComputedStyle, matchMedia, performance, ResizeObserver */
import { SseClient } from '/sse-client.js'
import UPlot from '/uplot/uPlot.esm.js'

const KEPT = 300
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 })
const precise = new Intl.NumberFormat('en', { notation: 'compact', minimumSignificantDigits: 3, maximumSignificantDigits: 3 })
const whole = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000].flatMap(n => [n, 2 * n, 5 * n])
/** Three significant figures, whatever the size: "4K" hides that anything moves. */
const figures = value => value === 0 ? '0' : precise.format(value)

const CARDS = [
  { key: 'streams', title: 'Streams', unit: 'open' },
  { key: 'channels', title: 'Channels', unit: 'with a subscription' },
  { key: 'received', title: 'Events', unit: 'a second', format: figures },
  { key: 'delivered', title: 'Deliveries', unit: 'a second', format: figures },
  { key: 'bytes', title: 'Bytes', unit: 'a second', format: figures, top: 1_000 },
  { key: 'latency', title: 'Latency', unit: 'ms, to a channel and back', format: figures },
  { key: 'blocked', title: 'Blocked', unit: 'streams with a full socket' },
  { key: 'gaps', title: 'Gaps', unit: 'told to clients', paths: UPlot.paths.bars({ size: [0.9, 12, 3] }) }
]

const status = document.getElementById('status')
const time = document.getElementById('time')
let samples = []

const cards = CARDS.map(({ key, title, unit, format = short.format, top = 4, paths }) => {
  const section = document.getElementById('card').content.cloneNode(true).firstElementChild
  section.id = key
  section.querySelector('h2').textContent = title
  section.querySelector('span').textContent = unit
  document.getElementById('cards').append(section)
  const output = section.querySelector('output')
  const place = section.querySelector('.chart')
  const size = () => ({ width: place.clientWidth, height: place.clientHeight })
  // Drawn in the colors of these elements: they differ by card, and by day and night.
  const [card, line] = [getComputedStyle(section), getComputedStyle(place)]
  const axis = { stroke: () => card.color, font: '11px system-ui, sans-serif', ticks: { show: false } }

  const chart = new UPlot({
    ...size(),
    legend: { show: false },
    padding: [8, 24, 0, 0], // room for half of the last time
    // What one chart points at, all show.
    cursor: { sync: { key: 'all' }, y: false, drag: { x: false, y: false }, points: { size: 7 } },
    hooks: { setCursor: [({ cursor }) => show(cursor.idx)] },
    scales: {
      x: { range: (chart, from, to) => [Math.min(from, to - 60), to] },
      y: { range: (chart, from, to) => [0, Math.max(to * 1.1, top)] }
    },
    axes: [
      { ...axis, grid: { show: false }, gap: 8, size: 26, space: 70, values: '{HH}:{mm}:{ss}' },
      { ...axis, grid: { stroke: () => card.borderTopColor, width: 1 }, gap: 4, size: 42, space: 28, incrs: whole, values: (chart, values) => values.map(short.format) }
    ],
    series: [
      {},
      { stroke: () => line.color, fill: () => paths ? line.color : `color-mix(in srgb, ${line.color} 15%, transparent)`, width: paths ? 0 : 1.5, paths, points: { show: false } }
    ]
  }, [[], []], place)
  new ResizeObserver(() => chart.setSize(size())).observe(place)

  function show (index) {
    const pointed = samples[index] !== undefined
    const sample = pointed ? samples[index] : samples.at(-1)
    if (sample === undefined) return
    output.value = sample[key] === null ? '–' : format(sample[key])
    section.classList.toggle('some', sample[key] > 0)
    time.textContent = new Date(sample.at * 1_000).toLocaleTimeString('en-GB')
    time.classList.toggle('pointed', pointed)
  }

  return {
    draw () {
      chart.setData([samples.map(({ at }) => at), samples.map(sample => sample[key])])
      show(chart.cursor.idx)
    },
    redraw: () => chart.redraw()
  }
})

matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { for (const card of cards) card.redraw() })

function take (more) {
  samples = [...samples, ...more].slice(-KEPT)
  for (const card of cards) card.draw()
}

let probe
let latency = null

/** One at a time. While it is under way, the latency is at least its age. */
function measure () {
  if (probe !== undefined) {
    latency = Math.max(latency, performance.now() - probe.at)
    return
  }
  probe = { token: String(Math.random()), at: performance.now() }
  fetch('/monitor/probe', { method: 'POST', body: probe.token }).catch(() => { probe = undefined })
}

const source = new SseClient('/monitor', { retry: { max: 5_000 }, parse: (text, type) => type === 'probe' ? text : JSON.parse(text) })
source.addEventListener('samples', ({ data }) => {
  // What this page has measured itself is not in them.
  const measured = new Map(samples.map(({ at, latency }) => [at, latency]))
  samples = []
  probe = undefined
  take(data.map(sample => ({ ...sample, latency: measured.get(sample.at) ?? null })))
  measure()
})
source.addEventListener('sample', ({ data }) => {
  take([{ ...data, latency }])
  measure()
})
source.addEventListener('probe', ({ data }) => {
  if (data !== probe?.token) return // of another page
  latency = performance.now() - probe.at
  probe = undefined
})
source.addEventListener('status', ({ status }) => show(status === 'open' ? 'live' : 'reconnecting'))

function show (text) {
  status.dataset.status = status.textContent = text
}
