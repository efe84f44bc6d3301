/**
 * For `run.js --check` alone: bare node:http that makes mistakes which the load client must find, on the first stream:
 * event 3 is left out, 5 and 6 are swapped, 8 is sent twice, and a gap event comes after 9. Before 12 the
 * server stands still for 300 ms. On the second stream the
 * events are cut into pieces of 7 bytes, each a chunk of its own, and nothing is wrong.
 */
import { startBare } from './node-write.js'

const FAULTS = new Map([[3, []], [5, [6]], [6, [5]], [8, [8, 8]]])

export const start = () => startBare((members, data) => {
  const [first, second, ...others] = members
  const [seq, rest] = [parseInt(data), data.slice(data.indexOf(' '))]
  for (const sent of FAULTS.get(seq) ?? [seq]) first.write(`data: ${sent}${rest}\n\n`)
  if (seq === 12) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300)
  if (seq === 9) first.write('event: sse.gap\ndata: {"reason":"overrun"}\n\n')
  for (const piece of `id: ${seq}\r\ndata: "${data}"\r\n\r\n`.match(/[^]{1,7}/g)) second.write(piece)
  for (const other of others) other.write(`data: ${data}\n\n`)
})
