/** A floor: bare node:http, and `response.write(string)` for each event and stream. */
import { createServer } from 'node:http'
import { once } from 'node:events'
import { Members, channelsOf } from './common.js'

export const start = () => startBare((members, data) => {
  const event = `data: ${data}\n\n`
  for (const response of members) response.write(event)
})

/**
 * @template T
 * @param {(members: Iterable<T>, data: string) => void} send
 * @param {object} [head] more of it
 * @param {(response: import('node:http').ServerResponse) => T} [member] what is sent to in place of the response
 */
export async function startBare (send, head = {}, member = response => response) {
  const members = new Members()
  const server = createServer((request, response) => {
    const [, route, first, count] = request.url.split('/')
    if (route === 'other') return response.end('ok')
    const channels = channelsOf({ first, count })
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache', ...head })
    response.flushHeaders()
    const receiver = member(response)
    members.add(channels, receiver)
    response.on('close', () => members.delete(channels, receiver))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return {
    port: server.address().port,
    publish: (channel, data) => send(members.of(channel), data)
  }
}
