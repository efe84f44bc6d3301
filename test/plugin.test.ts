import t from 'tap'
import { build, connect, listen } from './client.ts'

t.test('a stream gets the events of its channel', async t => {
  const app = await build(t)
  const time = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(time))
  const url = await listen(app)
  const client = await connect(url + '/events')
  t.equal(client.headers['content-type'], 'text/event-stream')
  const cursor = await time.publish({ event: 'tick', data: { n: 1 } })
  const [event] = await client.first(1)
  t.match(event, { event: 'tick', data: '{"n":1}', id: cursor })
})
