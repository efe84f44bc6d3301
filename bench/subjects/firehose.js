/** For `run.js --check` alone: 500 events in each prebuilt chunk, so that writing costs next to nothing an event. */
import { startBare } from './node-write.js'

let seq = 0

export const start = () => startBare((members, data) => {
  const due = data.slice(data.indexOf(' '))
  const events = Array.from({ length: 500 }, () => `data: ${++seq}${due}\n\n`).join('')
  const chunk = Buffer.from(`${Buffer.byteLength(events).toString(16)}\r\n${events}\r\n`)
  for (const response of members) response.socket.write(chunk)
})
