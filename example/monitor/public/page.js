/* global clearTimeout, document, EventSource, fetch, getComputedStyle, matchMedia, performance, ResizeObserver, setTimeout */
import UPlot from '/uplot/uPlot.esm.js'

const KEPT = 300
const count = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 })
const precise = new Intl.NumberFormat('en', { maximumSignificantDigits: 2 })
const whole = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000].flatMap(n => [n, 2 * n, 5 * n])
const small = value => value < 10 ? precise.format(value) : count.format(Math.round(value))

const CARDS = [
  { key: 'streams', title: 'Streams', unit: 'open' },
  { key: 'channels', title: 'Channels', unit: 'with a subscription' },
  { key: 'received', title: 'Events', unit: 'a second', format: small },
  { key: 'delivered', title: 'Deliveries', unit: 'a second', format: small },
  { key: 'bytes', title: 'Bytes', unit: 'a second', top: 1_000 },
  { key: 'latency', title: 'Latency', unit: 'ms, to a channel and back', format: small },
  { key: 'blocked', title: 'Blocked', unit: 'streams with a full socket' },
  { key: 'gaps', title: 'Gaps', unit: 'told to clients', paths: UPlot.paths.bars({ size: [0.9, 12, 3] }) }
]

const status = document.getElementById('status')
const time = document.getElementById('time')
let samples = []

const cards = CARDS.map(({ key, title, unit, format = count.format, top = 4, paths }) => {
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
      { ...axis, grid: { stroke: () => card.borderTopColor, width: 1 }, gap: 4, size: 42, space: 28, incrs: whole, values: (chart, values) => values.map(count.format) }
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

let source
let pause

function connect () {
  clearTimeout(pause)
  source?.close()
  source = new EventSource('/monitor')
  source.onopen = () => show('live')
  source.addEventListener('samples', event => {
    // What this page has measured itself is not in them.
    const measured = new Map(samples.map(({ at, latency }) => [at, latency]))
    samples = []
    probe = undefined
    take(JSON.parse(event.data).map(sample => ({ ...sample, latency: measured.get(sample.at) ?? null })))
    measure()
  })
  source.addEventListener('sample', event => {
    take([{ ...JSON.parse(event.data), latency }])
    measure()
  })
  source.addEventListener('probe', event => {
    if (event.data !== probe?.token) return // of another page
    latency = performance.now() - probe.at
    probe = undefined
  })
  source.onerror = () => {
    show('reconnecting')
    if (source.readyState === EventSource.CLOSED) pause = setTimeout(connect, 2_000 + 2_000 * Math.random()) // any answer but 200 ends it
  }
}

function show (text) {
  status.dataset.status = status.textContent = text
}

connect()
