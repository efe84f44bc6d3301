/* global clearTimeout, document, fetch, history, location, requestAnimationFrame, setInterval, setTimeout, URLSearchParams */
import { SseClient } from '/sse-client.js'

const CHOSEN = 20
const price = new Intl.NumberFormat('en', { minimumFractionDigits: 2, maximumFractionDigits: 2 })
const percent = new Intl.NumberFormat('en', { style: 'percent', minimumFractionDigits: 2, maximumFractionDigits: 2, signDisplay: 'exceptZero' })
const element = id => document.getElementById(id)
const status = element('status')

const symbols = await (await fetch('/symbols')).json()
element('symbols').append(...symbols.map(symbol => Object.assign(document.createElement('option'), { value: symbol })))

/** The address says what is shown, so that it can be bookmarked. */
let chosen = new URLSearchParams(location.search).get('symbols')?.split(',').filter(symbol => symbols.includes(symbol)).slice(0, CHOSEN) ?? random()
const cards = new Map()
let source

function random () {
  return symbols.map(symbol => [Math.random(), symbol]).sort().slice(0, CHOSEN).map(([, symbol]) => symbol).sort()
}

/** Other symbols are another request. It needs no cursor: the newest of each comes at once. */
function read () {
  history.replaceState(null, '', `?symbols=${chosen}`)
  source?.close()
  for (const symbol of [...cards.keys()].filter(symbol => !chosen.includes(symbol))) {
    cards.get(symbol).section.remove()
    cards.delete(symbol)
  }
  for (const symbol of chosen) if (!cards.has(symbol)) cards.set(symbol, makeCard(symbol))
  element('prices').append(...chosen.map(symbol => cards.get(symbol).section))
  if (chosen.length === 0) return show('nothing chosen')
  source = new SseClient(`/prices?symbols=${chosen}`, { retry: { max: 5_000 }, parse: JSON.parse })
  source.addEventListener('trade', ({ data }) => take(data))
  source.addEventListener('status', ({ status }) => {
    if (status === 'closed') return
    show(status === 'open' ? 'live' : status === 'connecting' ? 'connecting' : status === 'offline' ? 'offline' : 'reconnecting')
  })
}

function makeCard (symbol) {
  const section = element('price').content.cloneNode(true).firstElementChild
  section.dataset.symbol = symbol
  section.querySelector('h2').textContent = symbol
  const remove = section.querySelector('button')
  remove.setAttribute('aria-label', `Remove ${symbol}`)
  remove.onclick = () => {
    chosen = chosen.filter(one => one !== symbol)
    read()
  }
  return { section, output: section.querySelector('output'), change: section.querySelector('small'), first: undefined, shown: undefined, newest: undefined }
}

const changed = new Set()
let count = 0

/** Only the newest is drawn, once a frame. */
function take (trade) {
  count++
  const card = cards.get(trade.symbol)
  if (card === undefined) return
  card.newest = trade.price
  if (changed.size === 0) requestAnimationFrame(draw)
  changed.add(card)
}

function draw () {
  for (const card of changed) {
    const { section, output, change, newest, shown } = card
    card.first ??= newest
    card.shown = newest
    output.value = price.format(newest)
    change.textContent = percent.format(newest / card.first - 1)
    if (shown === undefined || shown === newest) continue
    section.className = newest > shown ? 'up' : 'down'
    clearTimeout(card.calm)
    card.calm = setTimeout(() => { section.className = '' }, 400)
  }
  changed.clear()
}

setInterval(() => {
  element('rate').textContent = `${count} changes in the last second`
  count = 0
}, 1_000)

function show (text) {
  status.dataset.status = status.textContent = text
}

element('choose').addEventListener('submit', event => {
  event.preventDefault()
  const input = element('symbol')
  const symbol = input.value.toUpperCase()
  if (!symbols.includes(symbol) || chosen.includes(symbol)) return input.select()
  input.value = ''
  chosen = [symbol, ...chosen].slice(0, CHOSEN)
  read()
})
element('others').addEventListener('click', () => {
  chosen = random()
  read()
})

read()
