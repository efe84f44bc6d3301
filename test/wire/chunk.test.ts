import t from 'tap'
import { makeFrame } from '../../lib/wire/chunk.ts'

t.test('a frame is one chunk of a chunked body, with its length in bytes, and the body alone', async t => {
  for (const text of [':\n\n', 'data: x\n\n', 'data: €💡\n\n', `data: ${'é'.repeat(100_000)}\n\n`]) {
    for (const { chunk, body } of [makeFrame(text), makeFrame(text, Buffer.byteLength(text))]) {
      t.equal(body.toString(), text)
      const [, size, rest] = /^([0-9a-f]+)\r\n(.*)$/s.exec(chunk.toString())!
      t.equal(parseInt(size!, 16), Buffer.byteLength(text))
      t.equal(rest, `${text}\r\n`)
      t.equal(body.buffer, chunk.buffer, 'the bytes are kept once')
    }
  }
})

t.test('lone surrogates are counted as what UTF-8 makes of them', async t => {
  const { chunk, body } = makeFrame('data: \uD800\n\n')
  t.equal(body.toString(), 'data: \uFFFD\n\n')
  t.equal(chunk.toString(), 'b\r\ndata: \uFFFD\n\n\r\n')
})
