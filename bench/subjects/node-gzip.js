/** What middleware does that compresses: bare node:http with a gzip for each response, flushed after each event, with zlib's defaults. */
import { constants, createGzip } from 'node:zlib'
import { startBare } from './node-write.js'

export const start = () => startBare((members, data) => {
  const event = `data: ${data}\n\n`
  for (const gzip of members) {
    gzip.write(event)
    gzip.flush(constants.Z_SYNC_FLUSH)
  }
}, { 'content-encoding': 'gzip', vary: 'accept-encoding' }, response => {
  const gzip = createGzip()
  gzip.pipe(response)
  response.on('close', () => gzip.destroy())
  return gzip
})
