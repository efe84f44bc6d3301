import t from 'tap'
import { connect, listen } from '../client.ts'
import { build, ended } from './app.ts'

t.test('request.acceptsSse() reads Accept as RFC 9110 says', async t => {
  const app = await build(t)
  app.get('/', async request => request.acceptsSse())
  const cases: Array<[string | undefined, boolean]> = [
    ['text/event-stream', true],
    ['TEXT/Event-Stream', true],
    ['application/json, text/event-stream', true],
    ['application/json,text/event-stream;q=0.1', true],
    ['text/event-stream; q=1', true],
    ['text/event-stream;q=0', false],
    ['text/event-stream; q=0.000', false],
    ['text/event-stream;Q=0', false],
    ['text/event-stream;q=0.001', true],
    ['text/event-stream; charset=utf-8', true],
    ['text/event-stream-ish', false],
    ['*/*', false],
    ['text/*', false],
    ['application/json', false],
    ['', false],
    [undefined, false]
  ]
  for (const [accept, expected] of cases) {
    const response = await app.inject({ url: '/', headers: accept === undefined ? {} : { accept } })
    t.equal(response.json(), expected, String(accept))
  }
})

t.test('one route serves JSON and a stream', async t => {
  const app = await build(t)
  app.get('/', async (request, reply) => {
    if (request.acceptsSse()) return reply.sse(['one'])
    return { one: 1 }
  })
  const url = await listen(app)
  t.equal((await (await connect(url)).first(1))[0]?.data, 'one')
  t.equal((await ended(await connect(url, { headers: { accept: 'application/json' } }), 'the end')).text, '{"one":1}')
})
