/* global document, ResizeObserver, setTimeout */
import { SseClient } from '/sse-client.js'

const MAX_LINES = 300
const GAPS = {
  expired: 'Some messages are missing here: this page was away for longer than the server remembers',
  unknown: 'Server restarted: some messages may be missing here',
  reset: 'Some messages may be missing here: the server lost some of its history',
  overrun: 'Some messages are missing here: this page could not keep up'
}

const messages = document.getElementById('messages')
const status = document.getElementById('status')
const clients = document.getElementById('clients')
const newest = document.getElementById('newest')

// Someone is looking: after a failure it is never away for much longer than the server asks for.
const source = new SseClient('/events/', { retry: { max: 5_000 } })
source.addEventListener('message', event => append('message', event.data))
source.addEventListener('clients', event => {
  clients.textContent = `${event.data} ${event.data === '1' ? 'browser' : 'browsers'} right now`
})
source.addEventListener('sse.gap', event => append('gap', GAPS[JSON.parse(event.data).reason] ?? 'Some messages may be missing here'))
source.addEventListener('status', event => {
  if (event.status === 'open') return show('connected')
  show(event.status === 'offline' ? 'offline' : 'reconnecting')
  clients.textContent = ''
})

function show (text) {
  if (status.dataset.status === text) return
  status.dataset.status = status.textContent = text
}

let waiting = []

/** Lines that arrive together, as after an absence, go in together: the layout is measured once for all of them. */
function append (kind, text) {
  if (waiting.length === 0) setTimeout(flush, 20)
  waiting.push({ kind, text })
  if (waiting.length > MAX_LINES) waiting.shift()
}

function flush () {
  keepAtBottom()
  const follow = isAtBottom()
  for (const { kind, text } of waiting) {
    const line = document.createElement('p')
    line.className = kind
    line.textContent = text
    messages.append(line)
  }
  waiting = []
  while (messages.childElementCount > MAX_LINES) messages.firstElementChild.remove()
  if (follow) toBottom()
  else newest.hidden = false
}

function isAtBottom () {
  return messages.scrollHeight - messages.scrollTop - messages.clientHeight < 24
}

function toBottom () {
  messages.scrollTop = messages.scrollHeight
}

let size = ''

/** A phone was turned, or the lines above need more room: who followed goes on following. A flush may come before the observer. */
function keepAtBottom () {
  const { clientWidth, clientHeight } = messages
  if (size === `${clientWidth} ${clientHeight}`) return
  size = `${clientWidth} ${clientHeight}`
  if (newest.hidden) toBottom()
}

function settle () {
  newest.hidden = isAtBottom()
}

messages.addEventListener('scroll', settle, { passive: true })
new ResizeObserver(() => {
  keepAtBottom()
  settle()
}).observe(messages)
newest.addEventListener('click', () => {
  toBottom()
  messages.focus()
})
