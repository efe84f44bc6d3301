import t from 'tap'
import { DRIVERS } from './drivers.ts'
import { KINDS, SCENARIOS, start, type Case, type Kind } from './scenarios.ts'

// What a page's own EventSource does, and what the client does, in real browsers. docs/client.md has this table.

type Outcome = 'comes back' | 'tries again' | 'stops' | 'notices nothing' | 'told'

const BOTH = { EventSource: 'comes back', SseClient: 'comes back' } as const
const EXPECTED: Record<string, Record<Kind, Outcome>> = {
  'the stream ended': BOTH,
  'the connection was cut': BOTH,
  'nothing comes any more, and nobody says so': { EventSource: 'notices nothing', SseClient: 'comes back' },
  '204 after a cut': { EventSource: 'stops', SseClient: 'stops' },
  '401 after a cut, as the session has expired': { EventSource: 'stops', SseClient: 'comes back' },
  '429 with Retry-After after a cut': { EventSource: 'stops', SseClient: 'comes back' },
  '502 by nginx, while the application restarts': { EventSource: 'stops', SseClient: 'comes back' },
  'HTML in place of the stream': { EventSource: 'stops', SseClient: 'stops' },
  'another origin that does not allow it': { EventSource: 'stops', SseClient: 'tries again' },
  'http in a page of https': { EventSource: 'stops', SseClient: 'tries again' },
  'sse.gap': { EventSource: 'told', SseClient: 'told' },
  'sse.end, the end of the response, and 204': { EventSource: 'stops', SseClient: 'stops' }
}

/** ms: longer than any browser waits before it comes back. */
const PATIENCE = 20_000

function outcome ({ told }: Case): Outcome {
  if (told.some(({ type }) => type === 'sse.gap')) return 'told'
  if (told.filter(({ type }) => type === 'open').length >= 2) return 'comes back'
  if (told.some(({ readyState }) => readyState === 2)) return 'stops'
  return told.filter(({ type }) => type === 'error').length >= 3 ? 'tries again' : 'notices nothing'
}

for (const [name, { start: launch, skip }] of Object.entries(DRIVERS)) {
  t.test(`${name}: what its EventSource does, and what the client does`, { skip }, async t => {
    const { cases, url } = await start(t)
    const driver = await launch(t)
    t.comment(`${name} ${driver.version}`)
    const tab = await driver.open(url)
    const end = Date.now() + PATIENCE
    const isOver = (): boolean => Object.entries(SCENARIOS).every(([name, { isOver }]) => KINDS.every(kind => isOver(cases[name]![kind], kind)))
    while (!isOver() && Date.now() < end) await new Promise(resolve => setTimeout(resolve, 50))

    for (const scenario of Object.keys(SCENARIOS)) {
      const found = Object.fromEntries(KINDS.map(kind => [kind, outcome(cases[scenario]![kind])]))
      t.same(found, EXPECTED[scenario], scenario)
    }
    const { SseClient: cut } = cases['the connection was cut']!
    t.equal(cut.asked[1]!.request.headers['last-event-id'], '2', 'it comes back with the id of the last block, which had an id alone')
    t.match(cut.asked[0]!.request.headers, { accept: 'text/event-stream', 'cache-control': 'no-cache' })
    const { SseClient: busy } = cases['429 with Retry-After after a cut']!
    t.ok(busy.asked[2]!.at - busy.asked[1]!.at >= 990, 'Retry-After was obeyed')
    t.match(busy.told.filter(({ type }) => type === 'error'), [{ code: /^(cut|ended)$/ }, { code: 'status', status: 429 }])
    t.same(busy.told.filter(({ type }) => type === 'status').map(({ status }) => status), ['open', 'waiting', 'connecting', 'waiting', 'connecting', 'open'])
    const { SseClient: html } = cases['HTML in place of the stream']!
    t.match(html.told.at(-1), { type: 'error', code: 'type', status: 200, readyState: 2 })
    for (const scenario of ['another origin that does not allow it', 'http in a page of https']) {
      const errors = cases[scenario]!.SseClient.told.filter(({ type }) => type === 'error')
      t.match(errors, Array(errors.length).fill({ code: 'network', status: 0, readyState: 0 }), 'a page is not told the reason')
      const tries = cases[scenario]!.SseClient.told.filter(({ status }) => status === 'connecting' || status === 'waiting')
      t.ok(tries.length >= 3, 'it tries again')
      for (const [n, { status, now, until }] of tries.entries()) {
        if (n === 0) continue
        // A failure comes after the connection was begun, so what a busy page tells late makes no pause shorter. A timer may be a ms early.
        if (status === 'waiting') t.ok(until! >= tries[n - 1]!.now! + 300, 'with a pause after each')
        else t.ok(now! >= tries[n - 1]!.until! - 2, 'that is kept')
      }
    }
    t.same(KINDS.map(kind => cases['http in a page of https']![kind].asked.length), [0, 0])
    const ended = cases['sse.end, the end of the response, and 204']!
    t.same(KINDS.map(kind => ended[kind].asked.length), [2, 1], 'an EventSource asks once more')
    await tab.close()
  })
}
