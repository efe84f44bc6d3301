import { fork } from 'node:child_process'
import { once } from 'node:events'
import http from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createParser } from 'eventsource-parser'
import t, { type Test } from 'tap'
import { RedisServer, noRedis } from '../redis/redis-server.ts'

/**
 * Answers of a model at the default options, beside a channel with 500 events a second. Time is not scaled: 400 tokens, 40 a second,
 * are ten seconds. What is judged are counts: a machine that is too slow for the load takes longer, and that is all.
 */
const TOKENS = 400
/** ms after which a reader that has not got its end gives up. */
const PATIENCE = 120_000

interface Server { url: string }

async function serve (t: Test, env: Record<string, string> = {}): Promise<Server> {
  const child = fork(fileURLToPath(new URL('answers.ts', import.meta.url)), { execArgv: ['--import', 'tsx'], env: { ...process.env, REDIS_URL: '', ...env }, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  t.teardown(async () => {
    const exit = once(child, 'exit')
    child.kill('SIGKILL')
    await exit
  })
  const [{ url }] = await once(child, 'message') as [{ url: string }]
  return { url }
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 20 })

async function call (method: string, url: string): Promise<any> {
  const request = http.request(url, { method, agent }).end()
  const [response] = await once(request, 'response') as [http.IncomingMessage]
  let text = ''
  for await (const chunk of response) text += chunk
  return JSON.parse(text)
}

/** What a reader has by all of its connections together. */
class Reader {
  readonly name: string
  readonly tokens: number[] = []
  readonly gaps: string[] = []
  readonly ends: string[] = []
  lastEventId = ''
  connections = 0
  /** The status of the last answer. */
  status = 0

  constructor (name: string) { this.name = name }

  /** Reads until the response ends, or for so long; then it leaves without a word. */
  async read (url: string, ms = Infinity): Promise<void> {
    this.connections++
    const headers = { accept: 'text/event-stream', ...(this.lastEventId !== '' && { 'last-event-id': this.lastEventId }) }
    const request = http.request(url, { agent: false, headers }).end()
    const [response] = await once(request, 'response') as [http.IncomingMessage]
    this.status = response.statusCode!
    const parser = createParser({
      onEvent: ({ id, event, data }) => {
        if (id !== undefined) this.lastEventId = id
        if (event === 'sse.gap') this.gaps.push(data)
        else if (event === 'sse.end') this.ends.push(JSON.parse(data).reason)
        else this.tokens.push(event === 'token' ? Number(data) : JSON.parse(data).n)
      }
    })
    response.setEncoding('utf8').on('data', chunk => parser.feed(chunk)).on('error', () => {})
    const timer = setTimeout(() => request.destroy(), Math.min(ms, PATIENCE))
    await once(response, 'close').catch(() => {})
    clearTimeout(timer)
  }

  get over (): boolean { return this.ends.length > 0 || this.status === 204 }

  /** What is wrong with what it has got, in words, or ''. */
  complaint (count: number, reason: string): string {
    const { name, tokens, gaps, ends } = this
    const wrong = tokens.findIndex((token, i) => token !== i)
    const complaints = [
      wrong >= 0 ? `token ${tokens[wrong]} in the place of ${wrong}` : '',
      tokens.length !== count ? `${tokens.length} of ${count} tokens` : '',
      gaps.length > 0 ? `gaps ${gaps.join()}` : '',
      ends.join() !== reason ? `ends: ${ends.join()}` : '',
      this.status !== 204 ? `status ${this.status} at the end` : ''
    ].filter(Boolean)
    return complaints.length === 0 ? '' : `${name}: ${complaints.join(', ')}`
  }
}

/** Five readers of an answer, each of its own kind. Resolves when all have it, and were answered 204. `urls`: of the processes, which they change among. */
function readAnswer (id: string, urls: readonly string[], over: Promise<unknown>): Array<Promise<Reader>> {
  let turn = Number(id)
  const next = (): string => `${urls[turn++ % urls.length]}/answers/${id}`
  const last = async (reader: Reader): Promise<Reader> => {
    await reader.read(next()) // its browser comes back once more, and is told by 204 that it is over
    return reader
  }
  const live = async (): Promise<Reader> => {
    const reader = new Reader(`answer ${id}, live`)
    await reader.read(next())
    return await last(reader)
  }
  const reload = async (): Promise<Reader> => {
    const reader = new Reader(`answer ${id}, away for 8 s`)
    await reader.read(next(), 1_000)
    await sleep(8_000)
    await reader.read(next())
    return await last(reader)
  }
  const secondTab = async (): Promise<Reader> => {
    const reader = new Reader(`answer ${id}, second tab`)
    await sleep(5_000)
    await reader.read(next())
    return await last(reader)
  }
  const afterTheEnd = async (): Promise<Reader> => {
    const reader = new Reader(`answer ${id}, after the end`)
    await over
    await reader.read(next())
    return await last(reader)
  }
  const flaky = async (): Promise<Reader> => {
    const reader = new Reader(`answer ${id}, connection breaks again and again`)
    for (let i = 0; !reader.over && i < 100; i++) {
      await reader.read(next(), 700 + Math.random() * 1_500)
      await sleep(Math.random() * 700)
    }
    return reader.status === 204 ? reader : await last(reader)
  }
  return [live(), reload(), secondTab(), afterTheEnd(), flaky()]
}

async function load (t: Test, servers: readonly Server[], answers: number, stopped: number): Promise<void> {
  const urls = servers.map(({ url }) => url)
  const url = (n: number): string => urls[n % urls.length]!
  await call('PUT', `${urls[0]}/busy`)
  const watchers = Array.from({ length: 4 }, (_, i) => new Reader(`watcher ${i} of the busy channel`))
  const leave = sleep(14_000)
  const watching = Promise.all(watchers.map((watcher, i) => watcher.read(url(i) + '/busy', 14_000)))

  /** Resolves when this answer is over, which its process knows. */
  const reasons: Record<string, string> = {}
  const overs = new Map<string, () => void>()
  const looking = new AbortController()
  const look = (async () => {
    while (!looking.signal.aborted) {
      await sleep(250)
      for (const { reasons: told } of await Promise.all(urls.map(url => call('GET', `${url}/stats`)))) Object.assign(reasons, told)
      for (const id of Object.keys(reasons)) overs.get(id)?.()
    }
  })()

  const readers: Array<Promise<Reader>> = []
  const ids = Array.from({ length: answers + stopped }, (_, i) => String(i))
  for (const id of ids) {
    const over = new Promise<void>(resolve => overs.set(id, resolve))
    readers.push(...readAnswer(id, urls, over))
  }
  await Promise.all(ids.map((id, i) => call('PUT', `${url(i)}/answers/${id}`)))
  await sleep(3_000)
  for (const id of ids.slice(answers)) await call('DELETE', `${url(Number(id) + 1)}/answers/${id}`)

  const read = await Promise.all(readers)
  looking.abort()
  await look
  await leave
  await watching
  const { published } = await call('DELETE', `${urls[0]}/busy`)

  const whole = read.slice(0, answers * 5)
  const complaints = whole.map(reader => reader.complaint(TOKENS, 'done')).filter(Boolean)
  t.strictSame(complaints.slice(0, 10), [], 'no reader has anything to complain of')
  t.equal(whole.length - complaints.length, answers * 5, `exact: ${whole.length - complaints.length} of ${answers * 5} readers`)
  t.equal(ids.slice(0, answers).filter(id => reasons[id] === 'done').length, answers, 'publishFrom() resolved with "done"')
  for (let i = 0; i < stopped; i++) {
    const five = read.slice((answers + i) * 5, (answers + i) * 5 + 5)
    const count = five[0]!.tokens.length
    t.strictSame(five.map(reader => reader.complaint(count, 'stopped')).filter(Boolean), [], `an answer that was stopped in the middle has ${count} tokens for all of its readers`)
    t.ok(count < TOKENS && count > 0)
    t.equal(reasons[ids[answers + i]!], 'stopped')
  }
  for (const { name, tokens, gaps } of watchers) {
    t.strictSame(gaps, [], name)
    t.equal(tokens.findIndex((n, i) => n !== tokens[0]! + i), -1, `${name}: ${tokens.length} events in order, none left out`)
    t.ok(tokens.length > 0)
  }
  const stats = await Promise.all(urls.map(url => call('GET', `${url}/stats`)))
  t.strictSame(stats.map(({ streams, gaps }) => ({ streams, gaps })), urls.map(() => ({ streams: 0, gaps: 0 })))
  t.comment(`${whole.length} readers by ${read.reduce((sum, { connections }) => sum + connections, 0)} connections; ${published} events on the busy channel; ${stats.map(({ delivered }) => delivered).join(' + ')} deliveries`)
}

t.test('200 answers of 400 tokens, 40 a second each, at the default options: each of their 1,000 readers has every token once, in order, and then 204', async t => {
  const start = performance.now()
  await load(t, [await serve(t)], 200, 3)
  t.comment(`${Math.round((performance.now() - start) / 100) / 10} s`)
})

t.test('60 answers over two processes on Redis, whose readers change processes as they come back: the same', { skip: noRedis }, async t => {
  const redis = await RedisServer.start(t)
  const start = performance.now()
  await load(t, await Promise.all([serve(t, { REDIS_URL: redis.url }), serve(t, { REDIS_URL: redis.url })]), 60, 3)
  t.comment(`${Math.round((performance.now() - start) / 100) / 10} s`)
})
