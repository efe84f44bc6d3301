import t from 'tap'
import { DRIVERS } from './drivers.ts'
import { bundle, KINDS, listen, SCENARIOS, start, type Case, type Kind } from './scenarios.ts'

// What a page's own EventSource does, and what the client does, in real browsers. docs/client.md has this table.

type Outcome = 'comes back' | 'stops' | 'notices nothing' | 'told'

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
  'sse.gap': { EventSource: 'told', SseClient: 'told' },
  'sse.end, the end of the response, and 204': { EventSource: 'stops', SseClient: 'stops' }
}

/** ms: longer than any browser waits before it comes back. */
const PATIENCE = 12_000

function outcome ({ told }: Case): Outcome {
  if (told.some(({ type }) => type === 'sse.gap')) return 'told'
  if (told.filter(({ type }) => type === 'open').length >= 2) return 'comes back'
  return told.some(({ readyState }) => readyState === 2) ? 'stops' : 'notices nothing'
}

for (const [name, { start: launch, skip }] of Object.entries(DRIVERS)) {
  t.test(`${name}: what its EventSource does, and what the client does`, { skip }, async t => {
    const { cases, url } = await start(t)
    const driver = await launch(t)
    t.comment(`${name} ${driver.version}`)
    const tab = await driver.open(url)
    const end = Date.now() + PATIENCE
    const isOver = (): boolean => Object.entries(SCENARIOS).every(([name, { isOver }]) => KINDS.every(kind => isOver(cases[name]![kind])))
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
    const ended = cases['sse.end, the end of the response, and 204']!
    t.same(KINDS.map(kind => ended[kind].asked.length), [2, 1], 'an EventSource asks once more')
    await tab.close()
  })
}

t.test('Chromium: without a network the client says so, and with one it is back before its time to wait is over', { skip: DRIVERS.Chromium!.skip }, async t => {
  const files = await bundle()
  const { port } = await listen(t, (request, response) => {
    if (request.url !== '/events') {
      return response.writeHead(200, { 'content-type': files.has(request.url!) ? 'text/javascript' : 'text/html' }).end(files.get(request.url!) ?? `<!doctype html><script type=module>
      import { SseClient } from '/client/index.js'
      window.source = new SseClient('/events', { retry: { min: 60_000 } })
      window.told = []
      source.onstatus = ({ status }) => told.push(status)
    </script>`)
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' }).write('id: 1\ndata: a\n\n')
  })
  const tab = await (await DRIVERS.Chromium!.start(t)).open(`http://127.0.0.1:${port}/`)
  const status = async (wanted: string): Promise<void> => {
    const end = Date.now() + 10_000
    while (await tab.evaluate('window.source?.status') !== wanted) {
      if (Date.now() > end) throw new Error(`waited in vain for ${wanted}: ${String(await tab.evaluate('told.join()'))}`)
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }
  await status('open')
  await tab.setOffline!(true)
  await tab.evaluate('source.close(), window.source = new source.constructor("/events", { retry: { min: 60_000 } }), 0')
  await status('offline')
  await tab.setOffline!(false)
  await status('open')
})
