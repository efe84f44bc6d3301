/* global addEventListener, document, fetch, location, requestAnimationFrame */
import { SseClient } from '/sse-client.js'

const OVER = { done: 'over', stopped: 'stopped', error: 'The model failed', closed: 'The server was stopped' }
const element = id => document.getElementById(id)
const [card, asked, answer, status, stop, tab] = ['card', 'asked', 'answer', 'status', 'stop', 'tab'].map(element)

let source

/** The address of the page says which answer it shows, so that a reload, a bookmark and a second tab find it. */
function read () {
  source?.close()
  const id = location.hash.slice(1)
  card.hidden = id === ''
  if (id === '') return
  asked.textContent = text = ''
  draw()
  tab.href = location.href
  stop.onclick = () => fetch(`/answers/${id}`, { method: 'DELETE' })
  show('connecting')

  const reader = source = new SseClient(`/answers/${id}`, { retry: { max: 5_000 } })
  let over = false
  reader.addEventListener('question', event => { asked.textContent = event.data })
  reader.addEventListener('token', event => {
    text += event.data
    draw()
  })
  reader.addEventListener('sse.gap', () => { // the first tokens are no longer kept
    text += ' […] '
    draw()
  })
  reader.addEventListener('sse.end', event => {
    over = true
    const { reason } = JSON.parse(event.data)
    show(reason === 'done' ? 'over' : 'stopped', OVER[reason] ?? reason)
    reader.close()
  })
  reader.addEventListener('status', ({ status }) => {
    if (over) return
    if (status === 'open') show('live', 'The model is writing')
    else if (status !== 'closed') show('connecting', status === 'connecting' ? 'connecting' : 'reconnecting')
  })
  reader.addEventListener('error', ({ status }) => {
    if (reader.readyState === SseClient.CLOSED && !over) show('stopped', status === 404 ? 'There is no such answer, or it was over long ago' : 'The answer cannot be read')
  })
}

let text = ''
let drawing = false

/** Tokens that arrive together, as after a reload, are drawn together. */
function draw () {
  if (drawing) return
  drawing = true
  requestAnimationFrame(() => {
    drawing = false
    answer.textContent = text.trimStart()
  })
}

function show (state, words = state) {
  status.dataset.status = state
  status.textContent = words
  stop.hidden = tab.hidden = state !== 'live'
}

element('ask').addEventListener('submit', async event => {
  event.preventDefault()
  const question = element('question').value
  const response = await fetch('/answers', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ question }) })
  if (!response.ok) return
  element('question').value = ''
  location.hash = (await response.json()).id
})

addEventListener('hashchange', read)
read()
