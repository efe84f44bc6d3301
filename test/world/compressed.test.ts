import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createGunzip } from 'node:zlib'
import t, { type Test } from 'tap'
import type { SseStream } from '../../lib/index.ts'
import { build, listen, until } from '../client.ts'
import { DRIVERS } from '../client/drivers.ts'

/** What a client has said of a stream: its lines as they came, and at last how it ended. */
interface Reading { text: string, ended: string | undefined }
type Read = (t: Test, url: string) => Reading | Promise<Reading>

const file = (name: string): string => fileURLToPath(new URL(`readers/${name}`, import.meta.url))

function program (command: string, ...given: string[]): Read {
  return (t, url) => {
    const child = spawn(command, [...given, url], { stdio: ['ignore', 'pipe', 'pipe'] })
    t.teardown(async () => {
      if (child.exitCode !== null) return
      child.kill('SIGKILL')
      await once(child, 'close')
    })
    const reading: Reading = { text: '', ended: undefined }
    let errors = ''
    child.stdout.on('data', chunk => { reading.text += chunk })
    child.stderr.on('data', chunk => { errors += chunk })
    child.on('close', code => {
      // What prints no END of its own says by its exit code that the body was whole.
      reading.ended = code === 0 && (given.includes('--compressed') || reading.text.includes('END')) ? 'whole' : `${code} ${reading.text.slice(-200)} ${errors}`
    })
    return reading
  }
}

const CLIENTS: Record<string, Read> = {
  'node:http and node:zlib': (t, url) => {
    const reading: Reading = { text: '', ended: undefined }
    request(url, { headers: { 'accept-encoding': 'gzip' } }, response => {
      response.pipe(createGunzip()).on('data', chunk => { reading.text += chunk })
        .on('end', () => { reading.ended = 'whole' }).on('error', error => { reading.ended = error.message })
    }).end()
    return reading
  },
  'fetch (undici)': async (t, url) => {
    const response = await fetch(url)
    const reading: Reading = { text: '', ended: undefined }
    const read = async (): Promise<void> => {
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) reading.text += chunk
    }
    read().then(() => { reading.ended = 'whole' }, error => { reading.ended = String(error) })
    return reading
  },
  'curl --compressed': program('curl', '--silent', '--no-buffer', '--compressed'),
  'Python, zlib': program('python3', file('read.py')),
  'Go, net/http': (t, url) => program(go(t))(t, url),
  'Java, GZIPInputStream': program('java', file('Read.java'))
}

function go (t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'read-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const binary = join(folder, 'read')
  execFileSync('go', ['build', '-o', binary, file('read.go')], { env: { ...process.env, GOCACHE: join(tmpdir(), 'go-cache'), GO111MODULE: 'off' } })
  return binary
}

const NEEDS: Record<string, string> = { 'curl --compressed': 'curl', 'Python, zlib': 'python3', 'Go, net/http': 'go', 'Java, GZIPInputStream': 'javac' }

function missing (program: string | undefined): string | false {
  try {
    if (program !== undefined) execFileSync('sh', ['-c', `command -v ${program}`])
    return false
  } catch {
    return process.env.CI !== 'true' && `there is no program named ${program}`
  }
}

async function serve (t: Test) {
  const app = await build(t, { compress: true, heartbeatInterval: 100 }, { forceCloseConnections: true })
  const streams: SseStream[] = []
  app.get('/', async (request, reply) => reply.type('text/html').send('<!doctype html><title>compressed</title>'))
  app.get('/events/:channel', (request, reply) => {
    streams.push(reply.sse())
    streams.at(-1)!.subscribe((request.params as { channel: string }).channel)
    return reply
  })
  const url = await listen(app)
  return { app, url, streams }
}

const ENDS: Array<[string, (server: Awaited<ReturnType<typeof serve>>) => unknown]> = [
  ['close()', ({ streams }) => streams.at(-1)!.close()],
  ['the end of its channel', ({ app }) => app.sse.channel('the end of its channel').end()],
  ['app.close()', ({ app }) => app.close()]
]

for (const [name, read] of Object.entries(CLIENTS)) {
  t.test(`${name} reads each event of a compressed stream as it comes, and takes its end for one`, { skip: missing(NEEDS[name]) }, async t => {
    const server = await serve(t)
    for (const [way, end] of ENDS) {
      const reading = await read(t, `${server.url}/events/${encodeURIComponent(way)}`)
      await until(() => reading.text.includes('retry: ') || reading.ended, 'the first bytes')
      for (let n = 0; n < 30; n++) {
        const text = `event ${n} of a stream that is ended by ${way}`
        server.app.sse.publish(way, text).catch(t.fail)
        await until(() => reading.text.includes(text) || reading.ended, text)
        if (reading.ended !== undefined) break
      }
      await until(() => /\n:/.test(reading.text) || /\n\nid: [^\n]+\n\n/.test(reading.text), 'a heartbeat')
      await end(server)
      await until(() => reading.ended, 'the end')
      t.equal(reading.ended, 'whole', way)
    }
  })
}

for (const [name, { start, skip }] of Object.entries(DRIVERS)) {
  t.test(`${name} reads each event of a compressed stream as it comes, comes back after its end, and resumes`, { skip }, async t => {
    const server = await serve(t)
    const tab = await (await start(t)).open(server.url)
    await tab.evaluate(`(() => {
      window.got = []
      window.errors = 0
      window.source = new EventSource('/events/a')
      source.onmessage = event => got.push(event.data)
      source.onerror = () => { errors++ }
    })()`)
    await until(() => server.streams.length === 1, 'the stream')
    for (let n = 0; n < 20; n++) {
      if (n === 10) {
        await server.streams.at(-1)!.close({ retry: 10 })
        server.app.sse.publish('a', 'while it was away').catch(t.fail)
        await until(() => server.streams.length === 2, 'it to come back')
      }
      server.app.sse.publish('a', `event ${n}`).catch(t.fail)
      const end = Date.now() + 20_000
      while (await tab.evaluate('got.at(-1)') !== `event ${n}`) if (Date.now() > end) throw new Error(`event ${n} did not come`)
    }
    t.same(await tab.evaluate('got'), [...Array.from({ length: 10 }, (_, n) => `event ${n}`), 'while it was away', ...Array.from({ length: 10 }, (_, n) => `event ${n + 10}`)])
    t.equal(await tab.evaluate('errors'), 1, 'the end was the only interruption')
  })
}
