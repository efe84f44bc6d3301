/** A floor: bare node:http, and one prebuilt HTTP/1.1 chunk per event, written to each socket. */
import { startBare } from './node-write.js'

export const start = () => startBare((members, data) => {
  const event = `data: ${data}\n\n`
  const chunk = Buffer.from(`${Buffer.byteLength(event).toString(16)}\r\n${event}\r\n`)
  for (const response of members) response.socket.write(chunk)
})
