import { spawnSync } from 'node:child_process'
import { crc32, deflateRawSync, gunzipSync } from 'node:zlib'
import t from 'tap'
import { Checksum, deflate, GZIP_HEAD, store, type Segment } from '../../lib/wire/gzip.ts'
import { random } from '../stream/model.ts'
import { Inflated } from '../stream/inflated.ts'

const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9))
const NONE = Buffer.alloc(0)

function gzip (...segments: Segment[]): Buffer {
  const checksum = new Checksum()
  for (const segment of segments) checksum.add(segment)
  return Buffer.concat([GZIP_HEAD, ...segments.map(({ body }) => body), checksum.end()])
}

t.test('segments are a gzip stream whose length and CRC-32 hold, however long they are', async t => {
  for (const bytes of [0, 1, 2, 255, 256, 257, 65_534, 65_535, 65_536, 65_537, 131_070, 131_071, 200_000]) {
    const plain = Buffer.alloc(bytes, 'an event of a kind ')
    t.same(gunzipSync(gzip(store(plain))), plain, `${bytes} bytes as they are`)
    t.same(gunzipSync(gzip(deflate(plain, NONE))), plain, `${bytes} bytes made smaller`)
    t.same(gunzipSync(gzip(store(plain), deflate(plain, plain), store(plain))), Buffer.concat([plain, plain, plain]), `${bytes} bytes, three times`)
  }
})

t.test(`any segments after each other inflate to what they were made of, write by write (SEED=${SEED})`, async t => {
  const chance = random(SEED)
  for (let round = 0; round < 40; round++) {
    let plain = Buffer.from('')
    const segments: Segment[] = []
    const inflated = new Inflated()
    let came = ''
    for (let n = Math.floor(chance() * 60); n >= 0; n--) {
      const length = Math.floor(chance() ** 4 * 20_000)
      const text = Buffer.from(Array.from({ length }, () => String.fromCharCode(chance() < 0.02 ? 0x20ac : 97 + Math.floor(chance() * 6))).join(''))
      const back = Math.floor(chance() * 33_000)
      const segment = chance() < 0.3 ? store(text) : deflate(text, plain.subarray(Math.max(0, plain.length - Math.min(back, 32_768))))
      if (text.length > 0) came += inflated.add(segments.length === 0 ? Buffer.concat([GZIP_HEAD, segment.body]) : segment.body)
      else if (segments.length === 0) inflated.add(GZIP_HEAD)
      segments.push(segment)
      plain = Buffer.concat([plain, text])
    }
    if (!gunzipSync(gzip(...segments)).equals(plain)) return t.fail(`round ${round}: the whole`)
    if (came !== plain.toString()) return t.fail(`round ${round}: write by write`)
  }
  t.pass()
})

t.test('the CRC-32 of a stream is put together from those of its segments', async t => {
  const parts = ['', 'a', 'b'.repeat(100_000), '\0'.repeat(70_000), 'Zürich €']
  const trailer = gzip(...parts.map(part => store(Buffer.from(part)))).subarray(-8)
  const whole = Buffer.from(parts.join(''))
  t.equal(trailer.readUInt32LE(0), crc32(whole))
  t.equal(trailer.readUInt32LE(4), whole.length)
})

t.test('what cannot be made smaller goes as it is, with ten bytes around it', async t => {
  const noise = Buffer.from(Array.from({ length: 300 }, () => Math.floor(Math.random() * 256)))
  t.equal(deflate(noise, NONE).body.length, 310)
  t.equal(deflate(noise, noise).body.length < 30, true, 'but what the client has had can be referred to')
  t.equal(deflate(Buffer.alloc(300, 'x'), NONE).body.length < 30, true)
})

t.test('one that is large is compressed at the fastest level: it must not hold the event loop', async t => {
  const plain = Buffer.from(Array.from({ length: 1024 * 1024 }, () => 97 + Math.floor(Math.random() * 2)))
  const time = (call: () => unknown): number => {
    const before = process.cpuUsage()
    call()
    return process.cpuUsage(before).user
  }
  t.ok(time(() => deflate(plain, NONE)) < time(() => deflateRawSync(plain)) / 2)
})

t.test('gzip itself reads it', async t => {
  const events = Array.from({ length: 50 }, (_, i) => Buffer.from(`data: {"n":${i}}\n\n`))
  const body = gzip(...events.map((event, i) => deflate(event, Buffer.concat(events.slice(0, i)))))
  const { status, stdout, stderr } = spawnSync('gzip', ['-dc'], { input: body })
  t.equal(status, 0, stderr.toString())
  t.same(stdout, Buffer.concat(events))
})

t.test('a segment is a chunk of a chunked body', async t => {
  const { chunk, body } = store(Buffer.from('hello'))
  t.equal(chunk.toString('latin1'), 'f\r\n' + body.toString('latin1') + '\r\n')
  t.equal(body.subarray(5, 10).toString(), 'hello')
})
