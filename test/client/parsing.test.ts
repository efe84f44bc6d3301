import t from 'tap'
import { SseClient } from '../../lib/client/index.ts'
import { soon } from '../client.ts'
import { observe, serve } from './server.ts'

// What the standard asks for, by example, as a user of the client is told it. parser.test.ts compares the parser with another's.

const enough = 'event: over\ndata\n\n'

/** What is told of a body that comes in these pieces. */
async function tell (t: Parameters<typeof serve>[0], pieces: Array<string | Uint8Array>, types: string[] = []): Promise<Array<[string, string, string]>> {
  const body = new ReadableStream<Uint8Array>({
    start (controller) {
      for (const piece of [...pieces, enough]) controller.enqueue(typeof piece === 'string' ? new TextEncoder().encode(piece) : piece)
    }
  })
  const { told, source } = observe(t, 'http://127.0.0.1/', { fetch: async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } }) }, [...types, 'over'])
  await soon(() => told.find(({ type }) => type === 'over'), 'the last event')
  source.close()
  return told.filter(({ type }) => !['open', 'status', 'over'].includes(type)).map(({ type, data, id }) => [type, data, id!])
}

const CASES: Record<string, { text: string | Uint8Array, told: Array<[string, string, string]>, types?: string[] }> = {
  'one byte order mark is left out': { text: '\uFEFFdata: a\n\ndata: b\n\n', told: [['message', 'a', ''], ['message', 'b', '']] },
  'a second one is part of the first line': { text: '\uFEFF\uFEFFdata: a\n\ndata: b\n\n', told: [['message', 'b', '']] },
  'one in the middle too': { text: 'data: a\n\n\uFEFFdata: b\n\ndata: \uFEFFc\n\n', told: [['message', 'a', ''], ['message', '\uFEFFc', '']] },
  'CR, LF and CRLF end a line': { text: 'data: a\rdata: b\r\ndata: c\n\r\ndata: d\n\ndata: e\r\rdata: f\r\n\r\n', told: [['message', 'a\nb\nc', ''], ['message', 'd', ''], ['message', 'e', ''], ['message', 'f', '']] },
  'comments fire nothing, and are not in the data': { text: ':\n: a\ndata: a\n:b\ndata: b\n\n:\n\n', told: [['message', 'a\nb', '']] },
  'one space after the colon is left out': { text: 'data:a\n\ndata: a\n\ndata:  a\n\ndata:\ta\n\n', told: [['message', 'a', ''], ['message', 'a', ''], ['message', ' a', ''], ['message', '\ta', '']] },
  'a field may have no colon, and no value': { text: 'data\n\ndata:\n\ndata\ndata\n\n', told: [['message', '', ''], ['message', '', ''], ['message', '\n', '']] },
  'names of fields have a case': { text: 'Data: a\nDATA: b\n data: c\ndata : d\n\ndata: e\n\n', told: [['message', 'e', '']] },
  'an event without data does not fire, and its name is forgotten': { text: 'event: tick\n\ndata: a\n\n', told: [['message', 'a', '']], types: ['tick'] },
  'an empty name is message': { text: 'event:\ndata: a\n\nevent: tick\nevent:\ndata: b\n\n', told: [['message', 'a', ''], ['message', 'b', '']] },
  'the last name counts': { text: 'event: no\nevent: ä b\ndata: a\n\n', told: [['ä b', 'a', '']], types: ['ä b'] },
  'an id stays until another comes; an empty one is one': { text: 'id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid\ndata: d\n\ndata: e\n\n', told: [['message', 'a', '1'], ['message', 'b', '1'], ['message', 'c', '2'], ['message', 'd', ''], ['message', 'e', '']] },
  'an id with NUL is none': { text: 'id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n', told: [['message', 'a', '1'], ['message', 'b', '1']] },
  'NUL in data stays': { text: 'data: \0\n\n', told: [['message', '\0', '']] },
  'a name as of a property of any object is a name': { text: 'event: constructor\ndata: a\n\nevent: __proto__\ndata: b\n\n', told: [['constructor', 'a', ''], ['__proto__', 'b', '']], types: ['constructor', '__proto__'] },
  'bytes that are no UTF-8 become U+FFFD': { text: new Uint8Array([...Buffer.from('data: '), 0xC3, 0x28, 0xF0, 0x9F, ...Buffer.from('\n\n')]), told: [['message', '\uFFFD(\uFFFD', '']] }
}

for (const [name, { text, told, types }] of Object.entries(CASES)) {
  t.test(name, async t => t.same(await tell(t, [text], types), told))
}

t.test('however a body is cut into chunks, within characters too, what is told is the same', async t => {
  const parts = Object.values(CASES).filter(({ text }) => typeof text === 'string' && !text.startsWith('\uFEFF')).map(({ text }) => text as string)
  const whole = new TextEncoder().encode('\uFEFF' + parts.join('data: ä€😀 \u2028\n\n'))
  const types = ['tick', 'ä b', 'constructor', '__proto__']
  const wanted = await tell(t, [whole], types)
  t.ok(wanted.length > 30)
  t.strictSame(await tell(t, [...whole].map(byte => new Uint8Array([byte])), types), wanted, 'byte by byte')
  let seed = 1
  const random = (n: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7FFFFFFF
    return (seed >> 8) % n
  }
  for (let round = 0; round < 60; round++) {
    const pieces: Uint8Array[] = []
    for (let at = 0; at < whole.length;) {
      const length = random(round % 2 === 0 ? 4 : 60)
      pieces.push(whole.subarray(at, at += length)) // some are empty
    }
    t.strictSame(await tell(t, pieces, types), wanted, `round ${round}`)
  }
})

t.test('an event whose blank line did not come before the end is not fired, nor is its id taken', async t => {
  const { url, asked } = await serve(t, (one, n) => {
    one.stream(n === 0 ? 'retry: 5\nid: 1\ndata: a\n\nid: 2\ndata: lost\n' : enough)
    if (n === 0) one.response.end()
  })
  const { data, told } = observe(t, url, { retry: { min: 5, max: 5 } }, ['over'])
  await soon(() => told.find(({ type }) => type === 'over'), 'the second connection')
  t.same(data, ['a', ''])
  t.equal(asked[1]!.headers['last-event-id'], '1')
  t.type(SseClient, 'function')
})
