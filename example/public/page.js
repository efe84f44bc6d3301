/* global addEventListener, clearTimeout, document, EventSource, navigator, ResizeObserver, setTimeout */

const MAX_LINES = 300
const GAPS = {
  expired: 'Some messages are missing here: this page was away for longer than the server remembers',
  unknown: 'Some messages may be missing here: the server was restarted',
  reset: 'Some messages may be missing here: the server lost some of its history',
  overrun: 'Some messages are missing here: this page could not keep up'
}

const messages = document.getElementById('messages')
const status = document.getElementById('status')
const clients = document.getElementById('clients')
const newest = document.getElementById('newest')

let source
let lastEventId = ''
let pause

/** EventSource comes back by itself, with the last id that it got; one that is made anew has to be told that id. */
function connect () {
  clearTimeout(pause)
  source?.close()
  source = new EventSource('/events/' + (lastEventId && `?lastEventId=${encodeURIComponent(lastEventId)}`))
  source.onopen = () => show('connected')
  source.onmessage = event => {
    take(event)
    append('message', event.data)
  }
  source.addEventListener('clients', event => {
    take(event)
    clients.textContent = `${event.data} ${event.data === '1' ? 'browser' : 'browsers'} right now`
  })
  source.addEventListener('sse.gap', event => {
    take(event)
    append('gap', GAPS[JSON.parse(event.data).reason] ?? 'Some messages may be missing here')
  })
  source.onerror = () => {
    show(navigator.onLine ? 'reconnecting' : 'offline')
    clients.textContent = ''
    // Any answer but 200 (a proxy's 503, say) makes it give up for good. All pages that it failed should not come back at once.
    if (source.readyState === EventSource.CLOSED) pause = setTimeout(connect, 2_000 + 2_000 * Math.random())
  }
}

function take (event) {
  lastEventId = event.lastEventId || lastEventId
  show('connected') // "offline" was wrong, if the server is on this machine
}

function show (text) {
  if (status.dataset.status === text) return
  status.dataset.status = status.textContent = text
}

addEventListener('offline', () => show('offline'))
// The old connection may be dead without anybody having noticed, and the next try some seconds away.
addEventListener('online', () => {
  show('reconnecting')
  connect()
})

let waiting = []

/** Lines that arrive together, as after an absence, go in together: the layout is measured once for all of them. */
function append (kind, text) {
  if (waiting.length === 0) setTimeout(flush, 20)
  waiting.push({ kind, text })
  if (waiting.length > MAX_LINES) waiting.shift()
}

function flush () {
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

function settle () {
  newest.hidden = isAtBottom()
}

messages.addEventListener('scroll', settle, { passive: true })
new ResizeObserver(() => { // a phone was turned, or the lines above need more room
  if (newest.hidden) toBottom()
  settle()
}).observe(messages)
newest.addEventListener('click', () => {
  toBottom()
  messages.focus()
})

connect()
