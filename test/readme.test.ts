import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { runInThisContext } from 'node:vm'
import cookie from '@fastify/cookie'
import session from '@fastify/session'
import { EventSource } from 'eventsource'
import Fastify, { type FastifyInstance } from 'fastify'
import * as ioredis from 'ioredis'
import t, { type Test } from 'tap'
import ts from 'typescript'
import * as errors from '../lib/errors.ts'
import * as library from '../lib/index.ts'
import { resolveOptions } from '../lib/options.ts'
import * as redis from '../lib/redis/index.ts'
import { launch, skip } from './browser.ts'
import { build, connect, listen, until, within, type Client } from './client.ts'
import { freePort, guard, noRedis, RedisServer } from './redis/redis-server.ts'

// Everything that the README shows is run as it stands there; what it says in tables and links is compared with the code.

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8')
const README = read('README.md')
const PACKAGE = JSON.parse(read('package.json'))

/** A block of code, or a statement in the text: its key is its section and its place there, whatever stands around it. */
interface Snippet { key: string, lang: string, code: string }
const snippets = new Map<string, Snippet>()
/** The text of each section, by its heading, without the blocks of code. */
const sections = new Map<string, string>()

let section = ''
for (const [i, part] of README.split(/^(#+ .+|```\w*\n[^]*?^```)$/m).entries()) {
  const add = (lang: string, code: string, kind: string): void => {
    let n = 1
    while (snippets.has(`${section}: ${kind} ${n}`)) n++
    snippets.set(`${section}: ${kind} ${n}`, { key: `${section}: ${kind} ${n}`, lang, code })
  }
  if (i % 2 === 0) {
    sections.set(section, (sections.get(section) ?? '') + part)
    for (const [, code] of part.matchAll(/`((?:for|if|await|const|import) [^`]+)`/g)) add('ts', code!, 'statement')
  } else if (part.startsWith('#')) {
    section = part.replace(/^#+ /, '')
    if (sections.has(section)) throw new Error(`the README has two sections "${section}"`)
  } else {
    const [, lang, code] = /^```(\w*)\n([^]*)```$/.exec(part)!
    add(lang!, code!, 'block')
  }
}

/** The keys of the snippets that tests know. */
const known = new Set<string>()

/** Takes a snippet: a test of this file knows it from now on. What is not there any more fails the test that uses it. */
function take (key: string): () => Snippet {
  known.add(key)
  return () => snippets.get(key) ?? (() => { throw new Error(`the README has no "${key}"`) })()
}

const COMMANDS = take('fastify-sse-channels: block 1')
const SERVER = take('fastify-sse-channels: block 2')
const PAGE = take('fastify-sse-channels: block 3')
const GAP = take('Gaps: block 1')
const ANSWER = take('reply.sse(source, options?), reply.sse(options?): block 1')
const SNAPSHOT = take('stream: block 1')
const TYPES = take('channel: block 1')
const CLOSE_BY_USER = take('app.sse: statement 1')
const REDIS = take('Several processes: block 1')
const TWO_DEMOS = take('Several processes: block 2')
const SESSION = take('Who may listen: block 1')
const BEARER = take('Who may listen: block 2')
const CLOSE_BY_NAME = take('Who may listen: statement 1')
const INJECT = take('Testing your routes: block 1')
const TYPED_PAGE = take('In the browser: block 1')

/** Those that are no code. */
const DRAWINGS = ['How it works: block 1']
/** Those that other tests run, as they stand. */
const ELSEWHERE: Record<string, string> = Object.fromEntries([1, 2, 3, 4].map(n => [`Coming from elsewhere: block ${n}`, 'test/migration.test.ts']))

t.test('every snippet of the README has its test, and every test its snippet', async t => {
  t.strictSame([...known, ...DRAWINGS, ...Object.keys(ELSEWHERE)].sort(), [...snippets.keys()].sort())
  const blocks = [...snippets.keys()].filter(key => key.includes(': block '))
  t.equal(README.match(/^[ \t>]*(```|~~~)/gm)?.length, 2 * blocks.length, 'and no fence was overlooked')
  for (const key of DRAWINGS) t.equal(snippets.get(key)?.lang, '', `${key} is no code`)
  const plain = (text: string): string => text.replace(/^\s+/gm, '')
  for (const [key, file] of Object.entries(ELSEWHERE)) {
    for (const part of snippets.get(key)?.code.split(/^(?=\/\/ after$)/m) ?? []) t.ok(plain(read(file)).includes(plain(part)), `${file} runs ${key}`)
  }
})

// What runs a snippet

/** What its imports give. */
const MODULES: Record<string, object> = { fastify: { default: Fastify }, 'fastify-sse-channels': library, 'fastify-sse-channels/redis': redis, ioredis }

/** Runs a snippet as it stands: `free` are the names that it does not declare, `modules` stand in for what it imports. */
async function run ({ key, code }: Snippet, free: Record<string, unknown>, modules: Record<string, object> = {}): Promise<void> {
  const { outputText } = ts.transpileModule(code, { compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS } })
  const names = { exports: {}, require: (name: string) => ({ ...MODULES[name], ...modules[name], __esModule: true }), ...free }
  await runInThisContext(`(async (${Object.keys(names).join()}) => {${outputText}\n})`, { filename: `README.md, ${key}` })(...Object.values(names))
}

async function open (t: Test, url: string, options?: Parameters<typeof connect>[1]): Promise<Client> {
  const client = await connect(url, options)
  t.teardown(() => client.leave())
  return client
}

const post = (url: string, body: unknown): Promise<any> =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }).then(response => response.json())

/** The first snippet, listening: its port 3000 may be taken here. */
async function serve (t: Test): Promise<{ app: FastifyInstance, url: string }> {
  let app!: FastifyInstance
  await run(SERVER(), {}, {
    fastify: {
      default () {
        app = Fastify({ forceCloseConnections: true })
        t.teardown(() => app.close())
        const listen = app.listen.bind(app) as any
        return Object.assign(app, { listen: () => listen({ port: 0, host: '127.0.0.1' }) })
      }
    }
  })
  return { app, url: app.listeningOrigin }
}

t.test('the first snippet is a whole server: what is posted arrives, who comes back gets what it missed, and close() says when to come back', async t => {
  const { app, url } = await serve(t)
  const client = await open(t, `${url}/events`)
  const { id } = await post(`${url}/news`, { n: 1 })
  t.match(await client.first(1), [{ id, event: 'item', data: '{"n":1}' }])
  client.leave()
  await until(() => app.sse.streams.size === 0, 'the server to see it leave')
  const missed = await post(`${url}/news`, { n: 2 })
  const back = await open(t, `${url}/events`, { lastEventId: id })
  t.match(await back.first(1), [{ id: missed.id, event: 'item', data: '{"n":2}' }])
  t.strictSame(back.gaps, [])
  const closed = app.close()
  await until(() => back.closed === 'end', 'the end of the stream')
  await within(closed, 'app.close()', 10_000)
  t.ok(back.retries.at(-1)! >= 1_000 && back.retries.at(-1)! <= 5_000, `after ${back.retries.at(-1)} ms`)
})

t.test('the page of the second snippet shows what is posted, comes back by itself and gets what it missed, and reloads after a gap', { skip }, async t => {
  const { app, url } = await serve(t)
  const page = await (await launch(t)).newPage()
  page.on('pageerror', error => t.fail(`the page threw: ${error}`))
  const shown: unknown[] = []
  let reloads = 0
  await page.exposeFunction('show', (item: unknown) => { shown.push(item) })
  await page.exposeFunction('reload', () => { reloads++ })
  await page.route(`${url}/`, route => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }))
  await page.goto(`${url}/`)
  await page.addScriptTag({ content: PAGE().code })
  await until(() => app.sse.streams.size === 1, 'the page to connect')
  await post(`${url}/news`, { n: 1 })
  await until(() => shown.length === 1, 'the first item')

  const away = (): void => { for (const stream of app.sse.streams) stream.close({ retry: 300 }) }
  away()
  await app.sse.channel('news').publish({ event: 'item', data: { n: 2 } })
  await until(() => shown.length === 2, 'the item that it missed')
  t.strictSame(shown, [{ n: 1 }, { n: 2 }])
  t.equal(reloads, 0)

  away()
  const lost = resolveOptions({}).history.maxEvents + 1
  await Promise.all(Array.from({ length: lost }, () => app.sse.channel('other').publish('')))
  await until(() => reloads === 1, 'the gap')
})

t.test('the gap event is what the README shows', async t => {
  const app = await build(t, { history: { maxEvents: 1 } })
  const news = app.sse.channel('news')
  app.get('/events', (request, reply) => reply.sse(news))
  const url = await listen(app)
  const cursors = await Promise.all(['one', 'two', 'three'].map(text => news.publish(text)))
  const client = await open(t, `${url}/events`, { lastEventId: cursors[0]! })
  await client.first(1)
  const id = /^id: (.+)$/m
  const shape = /^[0-9a-f]{12}-\d+$/
  const block = client.text.split('\n\n').find(block => block.includes('sse.gap'))!
  t.match(id.exec(GAP().code)?.[1], shape)
  t.match(id.exec(block)?.[1], shape)
  t.equal(GAP().code.replace(id, ''), `${block}\n`.replace(id, ''))
})

t.test('the snippet of a model streams token by token, ends with the model, and stops one that waits when its client leaves', async t => {
  const app = await build(t)
  const asked: unknown[] = []
  let told = false
  const model = {
    async * stream (body: any, { signal }: { signal: AbortSignal }) {
      asked.push(body)
      yield * ['It', 'is']
      if (body.forever) await once(signal, 'abort').then(() => { told = true })
    }
  }
  await run(ANSWER(), { app, model })
  const url = await listen(app)
  const ask = (body: object): Promise<Client> => open(t, `${url}/answer`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  const whole = await ask({ q: 'why' })
  await until(() => whole.closed === 'end', 'the end of the answer')
  t.strictSame(whole.events.map(({ event, data }) => [event, data]), [['token', 'It'], ['token', 'is']])
  const half = await ask({ forever: true })
  await half.first(2)
  t.equal(told, false)
  half.leave()
  await until(() => told, 'the signal')
  t.strictSame(asked, [{ q: 'why' }, { forever: true }])
})

t.test('after the snapshot comes what was published while it was loaded and sent, once and in order', async t => {
  const app = await build(t)
  const board: number[] = []
  const publish = (n: number): Promise<string> => {
    board.push(n)
    return app.sse.channel('board').publish({ data: n })
  }
  const loadBoard = async (): Promise<number[]> => {
    const loaded = [...board]
    await publish(2)
    await new Promise(resolve => setImmediate(resolve))
    queueMicrotask(() => publish(3)) // while the handler goes on
    return loaded
  }
  await run(SNAPSHOT(), { app, loadBoard })
  const url = await listen(app)
  await publish(1)
  const client = await open(t, `${url}/board`)
  await client.first(3)
  await publish(4)
  await client.first(4)
  t.strictSame(client.events.map(({ event, data }) => event ?? data), ['state', '2', '3', '4'])
  t.equal(client.events[0]!.data, '[1]')
})

t.test('typed channels are the same channels when they run', async t => {
  const app = await build(t)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const client = await open(t, `${await listen(app)}/events`)
  await run(TYPES(), { app })
  t.match(await client.first(1), [{ event: 'tick', data: '{"n":1}' }])
})

t.test('the typed listener of a page gets the data of its event', async t => {
  const app = await build(t)
  const ticks = app.sse.channel('ticks')
  app.get('/events', (request, reply) => reply.sse(ticks))
  const base = await listen(app)
  const parsed: string[] = []
  class Source extends EventSource {
    constructor (url: string) {
      super(new URL(url, base))
      t.teardown(() => this.close())
    }
  }
  await run(TYPED_PAGE(), { EventSource: Source, JSON: { parse: (text: string) => { parsed.push(text); return JSON.parse(text) } } })
  await until(() => ticks.size === 1, 'the page to connect')
  await ticks.publish('no tick')
  await ticks.publish({ event: 'tick', data: { n: 1 } })
  await until(() => parsed.length > 0, 'the tick')
  t.strictSame(parsed, ['{"n":1}'])
})

t.test('two processes with the Redis snippet are one: publish here, subscribe there, come back to either', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  const start = async (): Promise<{ app: FastifyInstance, url: string }> => {
    const app = Fastify({ forceCloseConnections: true })
    t.teardown(() => app.close())
    await run(REDIS(), { app, process: { env: { REDIS_URL: server.url } } })
    app.get('/events', (request, reply) => reply.sse(app.sse.channel('news')))
    return { app, url: await listen(app) }
  }
  const [here, there] = await Promise.all([start(), start()])
  const client = await open(t, `${there.url}/events`)
  const id = await here.app.sse.channel('news').publish('one')
  t.match(await client.first(1), [{ id, data: 'one' }])
  client.leave()
  await there.app.sse.channel('news').publish('two')
  const back = await open(t, `${here.url}/events`, { lastEventId: id })
  t.match(await back.first(1), [{ data: 'two' }])
  t.strictSame(back.gaps, [])
  t.equal(await server.command('EXISTS', 'sse'), ':1\r\n', 'the log is under the key of the snippet')
})

t.test('behind a session, a visitor gets 401 and each user the events of his own channel', async t => {
  const app = await build(t)
  await app.register(cookie)
  await app.register(session, { secret: 'a secret for tests that has more than 32 characters', cookie: { secure: false } })
  app.get<{ Params: { user: string } }>('/login/:user', async request => Object.assign(request.session, { user: request.params.user }).user)
  await run(SESSION(), { app })
  const url = await listen(app)
  const refused = await open(t, `${url}/events`)
  t.equal(refused.status, 401)
  await until(() => refused.text === '{"error":"Unauthorized"}', 'the answer')
  const enter = async (user: string): Promise<Client> => {
    const { headers } = await fetch(`${url}/login/${user}`)
    return open(t, `${url}/events`, { headers: { cookie: headers.getSetCookie()[0]!.split(';')[0] } })
  }
  const [alice, bob] = await Promise.all([enter('alice'), enter('bob')])
  for (const user of ['alice', 'bob']) await app.sse.channel(`user/${user}`).publish(`for ${user}`)
  t.strictSame((await alice.first(1)).map(({ data }) => data), ['for alice'])
  t.strictSame((await bob.first(1)).map(({ data }) => data), ['for bob'])
  t.strictSame([alice.events.length, bob.events.length], [1, 1])
})

interface User { name: string, expires: number }

/** The bearer snippet, with tokens that are names of users. */
async function bearer (t: Test, users: Record<string, User>): Promise<{ app: FastifyInstance, enter: (token?: string) => Promise<Client> }> {
  const app = await build(t)
  await run(BEARER(), { app, verify: (token: string) => users[token] ?? null })
  const url = await listen(app)
  return { app, enter: token => open(t, `${url}/events`, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } }) }
}

const NEVER = Date.now() + 100 * 365 * 86_400_000

t.test('behind a bearer token, none and a bad one get 401; a stream gets its events, and never outlives the token', async t => {
  const expires = Date.now() + 4_000
  const { app, enter } = await bearer(t, { alice: { name: 'alice', expires }, bob: { name: 'bob', expires: NEVER }, late: { name: 'late', expires: 1 } })
  for (const token of [undefined, 'forged']) {
    const { status, headers } = await enter(token)
    t.match({ status, headers }, { status: 401, headers: { 'www-authenticate': 'Bearer' } })
  }
  t.equal(app.sse.stats().opened, 0)
  const [alice, bob, late] = await Promise.all([enter('alice'), enter('bob'), enter('late')])
  t.strictSame([alice, bob, late].map(({ status }) => status), [200, 200, 200])
  await app.sse.channel('news').publish('one')
  await Promise.all([alice.first(1), bob.first(1)])
  await until(() => late.closed === 'end', 'the end of a token that has just expired')
  await until(() => alice.closed === 'end', 'the end before the token')
  t.ok(Date.now() <= expires, `${expires - Date.now()} ms before`)
  t.equal(app.sse.stats().closed.age, 2)
  await app.sse.channel('news').publish('two')
  await bob.first(2)
})

for (const [statement, retry] of [[CLOSE_BY_USER, undefined], [CLOSE_BY_NAME, 60_000]] as const) {
  t.test(`one statement ends all streams of one user, and no others${retry === undefined ? '' : ', until a minute later'}`, async t => {
    const users = { alice: { name: 'alice', expires: NEVER }, bob: { name: 'bob', expires: NEVER } }
    const { app, enter } = await bearer(t, users)
    const [one, two, bob] = await Promise.all([enter('alice'), enter('alice'), enter('bob')])
    await until(() => app.sse.channel('news').size === 3, 'all streams')
    await run(statement(), { app, user: users.alice, name: 'alice' })
    for (const client of [one, two]) {
      await until(() => client.closed === 'end', 'the end')
      t.equal(client.retries.at(-1), retry ?? resolveOptions({}).retry)
    }
    await app.sse.channel('news').publish('still here')
    await bob.first(1)
  })
}

t.test('an injected stream is read until its item comes', async t => {
  const app = await build(t)
  const news = app.sse.channel('news')
  app.get('/events', (request, reply) => reply.sse(news))
  let over = false
  const done = run(INJECT(), { app }).finally(() => { over = true })
  await until(() => news.size === 1 || over, 'the stream')
  await news.publish({ event: 'other', data: 1 })
  await until(() => app.sse.stats().delivered === 1 || over, 'the first event')
  await new Promise(resolve => setTimeout(resolve, 20))
  t.equal(over, false)
  await news.publish({ event: 'item', data: 2 })
  await within(done, 'the snippet', 10_000)
  await within(app.close(), 'app.close()', 10_000)
})

// Commands and names

/** One command of a shell snippet: `A=1 npm run b  # comment`. */
interface Command { env: Record<string, string>, script: string, comment: string }

function commands ({ code }: Snippet): Command[] {
  return code.trim().split('\n').flatMap(line => {
    const [text, comment = ''] = line.split(' # ')
    return text!.trim().split(' && ').map(command => {
      const [, env, script] = /^((?:\w+=\S+ )*)npm (?:run )?(\S+)$/.exec(command) ?? []
      if (script === undefined) throw new Error(`no test knows the command "${command}"`)
      return { env: Object.fromEntries(env!.trim().split(' ').filter(Boolean).map(pair => pair.split('='))), script, comment }
    })
  }).filter(({ script }) => script !== 'install')
}

t.test('the first commands are the demo, with the address and the pace that the README says, and the tests', async t => {
  const [demo, tests] = commands(COMMANDS()) as [Command, Command]
  t.match(PACKAGE.scripts, { [demo.script]: /^node .*example\/server\.ts$/, [tests.script]: /^tap$/ })
  const [, host, port] = /http:\/\/(\w+):(\d+),.* every five seconds/.exec(demo.comment) ?? []
  t.ok(read('example/server.ts').includes(`PORT = '${port}', HOST = '${host}', TICK_MS = '5000'`), demo.comment)
  t.match(tests.comment, /tests/)
})

t.test('the demo, started twice on one Redis as the README says: both show the same messages', { skip: noRedis }, async t => {
  const server = await RedisServer.start(t)
  /** Starts it, on other ports than those that may be taken, and gives what a page shows. */
  const start = async ({ script, env }: Command): Promise<() => Array<[id: string | undefined, data: string]>> => {
    t.equal(env.REDIS_URL, 'redis://127.0.0.1:6379', 'where Redis is by default')
    const child = spawn(process.execPath, PACKAGE.scripts[script].split(' ').slice(1), {
      cwd: ROOT,
      env: { ...process.env, TICKER: '', HOST: '127.0.0.1', TICK_MS: '200', ...env, REDIS_URL: server.url, PORT: String(await freePort()) },
      stdio: ['ignore', 'pipe', 'inherit']
    })
    const ended = once(child, 'exit')
    const watch = guard(child)
    t.teardown(async () => {
      child.kill('SIGKILL')
      await ended
      watch.kill('SIGKILL')
    })
    let text = ''
    child.stdout.on('data', chunk => { text += chunk })
    const url = await until(() => /Listening at (http:\S+)\n/.exec(text)?.[1], `${script} to start`)
    const client = await open(t, `${url}/events`, { lastEventId: 'from the beginning' })
    return () => client.events.filter(({ event }) => event === undefined).slice(0, 5).map(({ id, data }) => [id, data])
  }
  const [first, second, ...others] = commands(TWO_DEMOS())
  t.strictSame([first!.env.PORT === second!.env.PORT, others], [false, []])
  const [one, two] = await Promise.all([start(first!), start(second!)])
  await until(() => one().length === 5 && two().length === 5, 'five messages in both')
  t.strictSame(one(), two())
  t.strictSame(one().map(([, data]) => Number(/^Message: (\d+)/.exec(data)?.[1])), [0, 1, 2, 3, 4], 'of one ticker')
})

t.test('what the README names is there: scripts, files, sections, entries of the package', async t => {
  const text = [...sections.values()].join('')
  const all = (pattern: RegExp, text: string): string[] => [...new Set([...text.matchAll(pattern)].map(match => match.slice(1).find(group => group !== undefined)!))]
  const anchors = [...sections.keys()].map(heading => `#${heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')}`)
  const isThere: Record<string, [names: string[], (name: string) => boolean]> = {
    scripts: [all(/`[^`]*\bnpm (?:run )?(\w+)/g, text), name => name in PACKAGE.scripts || ['ci', 'install', 'pack'].includes(name)],
    programs: [all(/`[^`]*\bnode [^`]*?(\w+\/[\w./-]+\.[jt]s)/g, text), name => existsSync(ROOT + name)],
    links: [all(/\]\(([^)\s]+)[^)]*\)|\b(?:src|srcset|href)="([^"]+)"/g, text).filter(link => !/^https?:/.test(link)),
      link => link.startsWith('#') ? anchors.includes(link) : existsSync(ROOT + link.split('#')[0])],
    entries: [all(/from 'fastify-sse-channels([^']*)'/g, README), name => `.${name}` in PACKAGE.exports]
  }
  for (const [kind, [names, test]] of Object.entries(isThere)) {
    t.ok(names.length > 0, kind)
    for (const name of names) t.ok(test(name), `${kind}: ${name}`)
  }
})

// Tables

/** The rows of the table that starts with `head`. */
function table (section: string, head = '| | |'): string[][] {
  const text = sections.get(section)?.split('\n\n').find(text => text.trimStart().startsWith(head))
  if (text === undefined) throw new Error(`the section "${section}" has no table "${head}"`)
  return text.trim().split('\n').slice(2).map(row => row.slice(1, -1).split('|').map(cell => cell.trim()))
}

const codes = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code!)
/** What the first column of a table names, without what stands behind the names. */
const names = (rows: string[][]): string[] => rows.flatMap(([cell]) => codes(cell!)).map(code => /^[\w.]+/.exec(code)![0])

t.test('the defaults in the table of options are those of the code', async t => {
  const defaults: Record<string, unknown> = { ...resolveOptions({}) }
  const value = (text: string): unknown => runInThisContext(`(${text.replace(/^`|`$/g, '').replace(/(\d+) MiB/g, '$1 * 1024 * 1024')})`)
  for (const row of table('Options', '| option | default |')) {
    for (const name of names([row])) {
      if (name === 'backplane') t.strictSame([row[1], defaults[name]], ['`memoryBackplane()`', undefined])
      else if (name === 'serialize' || name === 'parse') t.strictSame([row[1], defaults[name]], ['JSON', name === 'parse' ? JSON.parse : JSON.stringify])
      else if (name === 'streamKey') t.strictSame([value(row[1]!), defaults[name]].map((key: any) => key({ ip: 'the ip', id: 'the id' })), ['the ip', 'the ip'], name)
      else t.strictSame(value(row[1]!), defaults[name], name)
    }
  }
})

t.test('the table of errors has every code, with its status', async t => {
  const rows = table('Errors', '| code | status |')
  t.strictSame(names(rows).sort(), Object.keys(errors).filter(name => name.startsWith('SSE_')).sort())
  for (const [cell, status, text] of rows) {
    const statuses = status!.split(', ').map(Number)
    for (const [i, code] of codes(cell!).entries()) {
      const error = new (errors as unknown as Record<string, new () => Error & { code: string, statusCode: number }>)[code]!()
      t.match(error, { code, statusCode: statuses[i] ?? statuses[0] })
      if (text!.includes('TypeError')) t.type(error, TypeError)
    }
  }
})

// Types

/** What the snippets' free names are. */
const STAND_INS = `
import type { FastifyInstance } from 'fastify'
import '@fastify/session'
interface User { name: string, expires: number }
declare module 'fastify' {
  interface Session { user?: string }
  interface FastifyRequest { user: User | null }
}
declare global {
  const app: FastifyInstance
  const user: User
  function verify (token: string | undefined): User | null
  function loadBoard (): Promise<object>
  const model: { stream (question: unknown, options: { signal: AbortSignal }): AsyncIterable<string> }
}
`

/** The names in the tables, as types: one too many and one too few are mistakes. */
const object = (names: string[]): string => `{ ${names.map(name => `${name}: 0`).join(', ')} }`
const members = (): string => `
import type { EventEmitter } from 'node:events'
import type { Channel, GapReason, SseOptions, SsePluginOptions, SseRegistry, SseRegistryEvents, SseStream } from 'fastify-sse-channels'
export const stream: Record<keyof SseStream, 0> = ${object(names(table('stream')))}
export const channel: Record<keyof Channel, 0> = ${object(names(table('channel')))}
export const registry: Record<Exclude<keyof SseRegistry, keyof EventEmitter | 'channel'> | 'on', 0> = ${object(names(table('app.sse')))}
export const events: Record<keyof SseRegistryEvents, 0> = ${object(codes(table('app.sse').find(([name]) => name!.startsWith('`on('))![1]!))}
export const options: Record<keyof SsePluginOptions, 0> = ${object(names(table('Options', '| option | default |')))}
export const streamOptions: Record<keyof SseOptions, 0> = ${object(names(table('reply.sse(source, options?), reply.sse(options?)', '| option | default |')))}
export const reasons: Record<GapReason, 0> = ${object(names(table('Gaps', '| reason |')))}
`

/** What the compiler says of files that are not on the disk, each with the place where it says it. */
function check (texts: Record<string, string>): Record<string, Array<{ at: number, text: string }>> {
  const { options } = ts.parseJsonConfigFileContent(ts.readConfigFile(`${ROOT}tsconfig.json`, ts.sys.readFile).config, ts.sys, ROOT)
  const host = ts.createCompilerHost(options)
  const { getSourceFile, fileExists } = host
  const files = new Map(Object.entries(texts).map(([name, text], i) => [`${ROOT}test/snippet-${i}.ts`, { name, text }]))
  host.fileExists = path => files.has(path) || fileExists(path)
  host.getSourceFile = (path, version, ...rest) => files.has(path) ? ts.createSourceFile(path, files.get(path)!.text, version) : getSourceFile(path, version, ...rest)
  const program = ts.createProgram([...files.keys()], options, host)
  return Object.fromEntries([...files].map(([path, { name }]) => {
    const source = program.getSourceFile(path)
    return [name, [...program.getSyntacticDiagnostics(source), ...program.getSemanticDiagnostics(source)]
      .map(({ start, messageText }) => ({ at: start!, text: ts.flattenDiagnosticMessageText(messageText, '\n') }))]
  }))
}

t.test('what the README shows type-checks strictly, and what it calls checked is', async t => {
  const isolated = (code: string): string => `${code}\nexport {}\n`
  const right: Record<string, string> = { 'the stand-ins': STAND_INS, 'the tables': members() }
  const others = [...[COMMANDS, PAGE, GAP, TWO_DEMOS].map(taken => taken().key), ...DRAWINGS, ...Object.keys(ELSEWHERE)]
  for (const { key, code } of snippets.values()) {
    if (others.includes(key)) continue
    right[key] = key === CLOSE_BY_NAME().key ? `export default (name: string): void => { ${code} }` : isolated(code)
  }
  right['what the last channel takes'] = isolated(`${TYPES().code}.publish({ event: 'tick', data: { n: 1 } })`)
  const wrong = Object.fromEntries(([
    [TYPES, "app.sse.channel('time').publish({ event: 'tick', data: { n: 'one' } })"],
    [TYPES, "app.sse.channel('time').publish({ event: 'tock', data: { n: 1 } })"],
    [TYPES, ".publish({ event: 'tick', data: { n: 'one' } })"], // goes on with the last line
    [TYPED_PAGE, "source.addEventListener('tock', () => {})"],
    [TYPED_PAGE, "source.addEventListener('tick', event => (JSON.parse(event.data) as ParsedData<typeof event>).m)"]
  ] as const).map(([snippet, line]) => [`${snippet().key} with ${line}`, { length: snippet().code.length, text: isolated(snippet().code + line) }]))

  const found = check({ ...right, ...Object.fromEntries(Object.entries(wrong).map(([key, { text }]) => [key, text])) })
  for (const key of Object.keys(right)) t.strictSame(found[key]!.map(({ text }) => text), [], key)
  for (const [key, { length }] of Object.entries(wrong)) t.ok(found[key]!.length > 0 && found[key]!.every(({ at }) => at >= length), `${key} is refused there`)
})
