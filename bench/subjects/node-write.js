/** A floor: bare node:http, and `response.write(string)` for each event and stream. */
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Members, channelsOf } from './common.js'

export const start = () => startBare((members, data) => {
  const event = `data: ${data}\n\n`
  for (const response of members) response.write(event)
})

/** @param {(members: Iterable<import('node:http').ServerResponse>, data: string) => void} send */
export async function startBare (send) {
  const members = new Members()
  const server = createServer((request, response) => {
    const [, route, first, count] = request.url.split('/')
    if (route === 'other') return response.end('ok')
    const channels = channelsOf({ first, count })
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    response.flushHeaders()
    members.add(channels, response)
    response.on('close', () => members.delete(channels, response))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return {
    port: server.address().port,
    publish: (channel, data) => send(members.of(channel), data)
  }
}
