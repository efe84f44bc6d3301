import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import assert from 'node:assert'
import { EventEmitter, once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runInThisContext } from 'node:vm'
import cookie from '@fastify/cookie'
import session from '@fastify/session'
import swagger from '@fastify/swagger'
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

// Everything that the README and docs/ show is run as it stands there, or type-checked; what they say in tables and links is compared with
// the code.

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string): string => readFileSync(ROOT + path, 'utf8')
const PACKAGE = JSON.parse(read('package.json'))
const FILES = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md',
  ...readdirSync(ROOT + 'docs', { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)
].sort()

/** A block of code, or a statement in the text: its key is its page, its section and its place there. */
interface Snippet { key: string, lang: string, code: string }
/** A page: the text of each section, by its heading, without the blocks of code. */
interface Page { path: string, text: string, sections: Map<string, string> }
const snippets = new Map<string, Snippet>()
const pages = new Map<string, Page>()

for (const path of FILES) {
  const name = path.replace(/^docs\/|\.md$/g, '')
  const page: Page = { path, text: read(path), sections: new Map() }
  pages.set(name, page)
  let section = ''
  const add = (lang: string, code: string, kind: string): void => {
    let n = 1
    while (snippets.has(`${name}: ${section}: ${kind} ${n}`)) n++
    snippets.set(`${name}: ${section}: ${kind} ${n}`, { key: `${name}: ${section}: ${kind} ${n}`, lang, code })
  }
  for (const [i, part] of page.text.split(/^(#+ .+|```\w*\n[^]*?^```)$/m).entries()) {
    if (i % 2 === 0) {
      page.sections.set(section, (page.sections.get(section) ?? '') + part)
      for (const [, code] of part.matchAll(/`((?:for|if|await|const|import) [^`]*[(={'][^`]*)`/g)) add('ts', code!, 'statement')
    } else if (part.startsWith('#')) {
      section = part.replace(/^#+ /, '')
      if (page.sections.has(section)) throw new Error(`${path} has two sections "${section}"`)
    } else {
      const [, lang, code] = /^```(\w*)\n([^]*)```$/.exec(part)!
      add(lang!, code!, 'block')
    }
  }
}

/** The keys of the snippets that tests run. */
const known = new Set<string>()

/** Takes a snippet: a test of this file runs it. What is not there any more fails the test that uses it. */
function take (key: string): () => Snippet {
  known.add(key)
  return () => snippets.get(key) ?? (() => { throw new Error(`there is no "${key}"`) })()
}
const taken = (page: string, section: string, ...numbers: number[]): Array<() => Snippet> => numbers.map(n => take(`${page}: ${section}: block ${n}`))

/** What is no code: drawings, and what goes over the wire. */
const DRAWINGS = ['guarantees: Gaps: block 1', 'design: In six sentences: block 1', 'design: The layers: block 1',
  'design: From publish() to the socket: block 1', 'design: How a loss is found: block 1', 'design: Lives and marks: block 1',
  'guide/answers: Read it: block 2', 'README: Gaps: block 1']
/** Those of other libraries, which test/migration.test.ts runs. */
const PEERS = [...snippets.keys()].filter(key => /^coming-from\/.*: block 1$/.test(key))

// What runs a snippet

/** What its imports give. */
const MODULES: Record<string, object> = { fastify: { default: Fastify }, 'fastify-sse-channels': library, 'fastify-sse-channels/redis': redis, ioredis }

/** Runs a snippet as it stands: `free` are the names that it does not declare, `modules` stand in for what it imports. */
async function run ({ key, code }: Snippet, free: Record<string, unknown>, modules: Record<string, object> = {}): Promise<void> {
  const { outputText } = ts.transpileModule(code, { compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.CommonJS } })
  const names = { exports: {}, require: (name: string) => ({ ...MODULES[name], ...modules[name], __esModule: true }), ...free }
  await runInThisContext(`(async (${Object.keys(names).join()}) => {${outputText}\n})`, { filename: key })(...Object.values(names))
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

// The README

const SERVER = take('README: Quick start: block 2')
const CURLS = take('README: Quick start: block 3')
const CURL_BACK = take('README: Quick start: block 4')
const PAGE = take('README: Quick start: block 5')
const GAP = 'README: Gaps: block 1'

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

t.test('the curl lines work: one shows what the other posts, and one with the id that was printed gets what came after it', { skip: spawnSync('curl', ['--version']).error !== undefined && 'there is no curl' }, async t => {
  const { app, url } = await serve(t)
  /** Runs a line of a shell snippet. */
  const curl = (line: string): { text: string, ended: Promise<unknown>, child: ChildProcess } => {
    const command = line.split('    #')[0]!.replace('http://localhost:3000', url)
    const child = spawn('sh', ['-c', `exec ${command}`], { stdio: ['ignore', 'pipe', 'ignore'] })
    t.teardown(() => child.kill())
    const running = { text: '', ended: once(child, 'exit'), child }
    child.stdout.setEncoding('utf8').on('data', text => { running.text += text })
    return running
  }
  const [first, second] = CURLS().code.trim().split('\n') as [string, string]
  const stream = curl(first)
  await until(() => app.sse.streams.size === 1, 'the first curl')
  const posted = curl(second)
  await posted.ended
  const { id } = JSON.parse(posted.text)
  await until(() => stream.text.includes('data: {"title":"Hello"}'), 'the event')
  stream.child.kill()
  await until(() => app.sse.streams.size === 0, 'curl to leave')
  await post(`${url}/news`, { title: 'missed' })
  const back = curl(CURL_BACK().code.trim().replace('PASTE-THE-ID', id))
  await until(() => back.text.includes('data: {"title":"missed"}'), 'what it missed')
  t.notMatch(back.text, /Hello|sse\.gap/)
})

t.test('the page of the quick start shows what is posted, comes back by itself and gets what it missed, and reloads after a gap', { skip }, async t => {
  const { app, url } = await serve(t)
  const { page, calls } = await browse(t, url, PAGE(), ['show', 'reload'])
  await page.ready
  await until(() => app.sse.streams.size === 1, 'the page to connect')
  await post(`${url}/news`, { n: 1 })
  await until(() => calls['show']!.length === 1, 'the first item')

  const away = (): void => { for (const stream of app.sse.streams) stream.close({ retry: 300 }) }
  away()
  const news = app.sse.channel('news')
  await news.publish({ event: 'item', data: { n: 2 } })
  await until(() => calls['show']!.length === 2, 'the item that it missed')
  t.strictSame(calls['show'], [{ n: 1 }, { n: 2 }])
  t.equal(calls['reload']!.length, 0)

  away()
  const lost = resolveOptions({}).history.limits.maxEvents + 1
  await Promise.all(Array.from({ length: lost }, (_, n) => news.publish({ event: 'other', data: n })))
  await until(() => calls['reload']!.length === 1, 'the gap')
})

t.test('the gap event is what the README shows', async t => {
  const app = await build(t, { history: { maxEvents: 1 } })
  const news = app.sse.channel('news')
  app.get('/events', (request, reply) => reply.sse(news))
  const url = await listen(app)
  const cursors = await Promise.all(['one', 'two', 'three'].map(text => news.publish(text)))
  const client = await open(t, `${url}/events`, { lastEventId: cursors[0]! })
  await client.first(1)
  same(t, snippets.get(GAP)!, client.text.split('\n\n').find(block => block.includes('sse.gap'))!)
  t.equal(snippets.get('guarantees: Gaps: block 1')!.code, snippets.get(GAP)!.code)
})

/** A block as it is shown and as it came, whatever the id. */
function same (t: Test, { code }: Snippet, block: string): void {
  const id = /^id: (.+)$/m
  const shape = /^[0-9a-f]{12}-[0-9a-z]+$/
  t.match(id.exec(code)?.[1], shape)
  t.match(id.exec(block)?.[1], shape)
  t.equal(code.replace(id, ''), `${block}\n`.replace(id, ''))
}

interface Shown { page: { ready: Promise<unknown> }, calls: Record<string, unknown[]> }

/** The snippet of a page in Chromium, at an address of the application: `calls` are those of the functions that it is given. */
async function browse (t: Test, url: string, { code }: Snippet, functions: string[], before = ''): Promise<Shown> {
  const page = await (await launch(t)).newPage()
  page.on('pageerror', error => t.fail(`the page threw: ${error}`))
  const calls: Record<string, unknown[]> = {}
  for (const name of functions) {
    calls[name] = []
    await page.exposeFunction(name, (arg: unknown) => { calls[name]!.push(arg) })
  }
  await page.route(`${url}/`, route => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }))
  await page.goto(`${url}/`)
  return { page: { ready: page.addScriptTag({ content: before + code }) }, calls }
}

const ANSWERS = take('README: The answer of a model: block 1')
/** A model of three tokens, which then waits for as long as its signal lets it, if it is asked to. */
const model = {
  told: 0,
  async * stream (body: any, { signal }: { signal?: AbortSignal } = {}) {
    yield * ['It', ' is', ' so']
    if (body.forever !== true) return
    await new Promise<void>(resolve => signal?.addEventListener('abort', () => { model.told++; resolve() }))
  }
}

t.test('an answer is read from its first token by whoever comes, late or again; DELETE stops it, and then there is nothing to come', async t => {
  const app = await build(t)
  await run(ANSWERS(), { app, model })
  const url = await listen(app)
  t.equal((await fetch(`${url}/answers/1`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{}' })).status, 202)
  const reader = await open(t, `${url}/answers/1`)
  t.strictSame((await reader.first(4)).map(({ event, data }) => event === 'sse.end' ? JSON.parse(data).reason : data), ['It', ' is', ' so', 'done'])
  await until(() => reader.closed === 'end', 'the end')
  t.equal((await open(t, `${url}/answers/1`, { lastEventId: reader.lastEventId })).status, 204)

  await fetch(`${url}/answers/2`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"forever":true}' })
  const stopped = await open(t, `${url}/answers/2`)
  await stopped.first(3)
  await fetch(`${url}/answers/2`, { method: 'DELETE' })
  t.match((await stopped.first(4)).at(-1), { event: 'sse.end', data: '{"reason":"stopped","channels":["answer/2"]}' })
})

for (const VALUES of [take('README: A page of values: block 1'), take('guide/values: A page of values: block 1')]) {
  t.test('a page of values gets the newest of each at once, and no gap', async t => {
    const app = Fastify({ forceCloseConnections: true })
    t.teardown(() => app.close())
    const feed = new EventEmitter()
    await run(VALUES(), { app, sse: library.default, feed })
    const url = await listen(app)
    const trade = (symbol: string, price: number): unknown => feed.emit('trade', { symbol, price }) || app.sse.publish(`price/${symbol}`, { event: 'price', data: { symbol, price } })
    for (const n of [1, 2, 3]) for (const symbol of ['A', 'B', 'C']) trade(symbol, n)
    const client = await open(t, `${url}/prices?symbols=A,B`)
    const prices = async (n: number): Promise<unknown[]> => (await client.first(n)).map(({ data }) => Object.values(JSON.parse(data)))
    t.strictSame((await prices(2)).sort(), [['A', 3], ['B', 3]])
    trade('B', 4)
    t.strictSame((await prices(3)).at(-1), ['B', 4])
    client.leave()
    await until(() => app.sse.streams.size === 0, 'the client to leave')
    for (let n = 5; n < 500; n++) trade('A', n)
    const back = await open(t, `${url}/prices?symbols=A,B`, { lastEventId: client.lastEventId })
    t.equal(JSON.parse((await back.first(1))[0]!.data).price, 499)
    t.strictSame(back.gaps, [])
  })
}

for (const SESSION of [take('README: Notifications for each user: block 1'), take('guide/notifications: Behind a session cookie: block 1')]) {
  t.test('behind a session, a visitor gets 401 and each user the events of his own channel', async t => {
    const app = await build(t)
    await app.register(cookie)
    await app.register(session, { secret: 'a secret for tests that has more than 32 characters', cookie: { secure: false } })
    app.get<{ Params: { user: string } }>('/login/:user', async request => Object.assign(request.session, { user: request.params.user }).user)
    await run(SESSION(), { app })
    const url = await listen(app)
    const path = SESSION().code.includes("'/events'") ? '/events' : '/notifications'
    const refused = await open(t, url + path)
    t.equal(refused.status, 401)
    await until(() => refused.text === '{"error":"Unauthorized"}', 'the answer')
    const enter = async (user: string): Promise<Client> => {
      const { headers } = await fetch(`${url}/login/${user}`)
      return open(t, url + path, { headers: { cookie: headers.getSetCookie()[0]!.split(';')[0] } })
    }
    const [alice, bob] = await Promise.all([enter('alice'), enter('bob')])
    for (const user of ['alice', 'bob']) await app.sse.channel(`user/${user}`).publish(`for ${user}`)
    t.strictSame((await alice.first(1)).map(({ data }) => data), ['for alice'])
    t.strictSame((await bob.first(1)).map(({ data }) => data), ['for bob'])
    t.strictSame([alice.events.length, bob.events.length], [1, 1])
  })
}

const REDIS = take('README: Several processes: block 1')
const TWO_DEMOS = take('README: Several processes: block 2')
const COMMANDS = take('README: fastify-sse-channels: block 1')

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
  for (const [key] of table('operations', 'What is in Redis', '| key | what |')) {
    t.equal(await server.command('EXISTS', codes(key!)[0]!.replace('<channel>', 'news')), ':1\r\n', `${key} is there`)
  }
})

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
    t.equal(env['REDIS_URL'], 'redis://127.0.0.1:6379', 'where Redis is by default')
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
  t.strictSame([first!.env['PORT'] === second!.env['PORT'], others], [false, []])
  const [one, two] = await Promise.all([start(first!), start(second!)])
  await until(() => one().length === 5 && two().length === 5, 'five messages in both')
  t.strictSame(one(), two())
  t.strictSame(one().map(([, data]) => Number(/^Message: (\d+)/.exec(data)?.[1])), [0, 1, 2, 3, 4], 'of one ticker')
})

// Notifications, and who may listen

interface User { name: string, expires: number }
const NEVER = Date.now() + 100 * 365 * 86_400_000
const BEARER = take('guide/notifications: Behind a bearer token: block 1')
const EXPIRED = take('guide/notifications: When the login expires while a page is open: block 1')
const SNAPSHOT = take('guide/notifications: Snapshot first, then live: block 1')
const SIGN_OUT = take('guide/notifications: Sign a user out: block 1')
const BY_USER = take('guide/notifications: Limit streams: block 1')

/** The bearer snippet, with tokens that are names of users. */
async function bearer (t: Test, users: Record<string, User>): Promise<{ app: FastifyInstance, enter: (token?: string) => Promise<Client> }> {
  const app = await build(t)
  await run(BEARER(), { app, verify: (token: string) => users[token] ?? null })
  const url = await listen(app)
  return { app, enter: token => open(t, `${url}/events`, { headers: token === undefined ? {} : { authorization: `Bearer ${token}` } }) }
}

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

t.test('one statement ends all streams of one user, and no others', async t => {
  const users = { alice: { name: 'alice', expires: NEVER }, bob: { name: 'bob', expires: NEVER } }
  const { app, enter } = await bearer(t, users)
  const [one, two, bob] = await Promise.all([enter('alice'), enter('alice'), enter('bob')])
  await until(() => app.sse.channel('news').size === 3, 'all streams')
  await run(SIGN_OUT(), { app, user: users.alice })
  for (const client of [one, two]) await until(() => client.closed === 'end', 'the end')
  await app.sse.channel('news').publish('still here')
  await bob.first(1)
})

t.test('a page whose login expires hears of it, where EventSource hides the status', { skip }, async t => {
  const app = await build(t)
  let signedIn = true
  const refuse = async (request: unknown, reply: any): Promise<unknown> => signedIn ? undefined : reply.code(401).send({})
  app.get('/events', { preHandler: refuse }, (request, reply) => reply.sse(app.sse.channel('news'), { retry: 50 }))
  app.get('/me', { preHandler: refuse }, async () => ({}))
  let asked = 0
  app.get('/login', async () => { asked++ })
  const { page } = await browse(t, await listen(app), EXPIRED(), [], "const source = new EventSource('/events')\n")
  await page.ready
  await until(() => app.sse.streams.size === 1, 'the page')
  for (const stream of app.sse.streams) stream.close()
  await until(() => app.sse.stats().opened === 2, 'the page to come back')
  t.equal(asked, 0)
  signedIn = false
  for (const stream of app.sse.streams) stream.close()
  await until(() => asked === 1, 'the page to go to the login')
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

t.test('streams are counted by user: the eleventh is refused, and another user is not', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  app.decorateRequest('session' as any, { getter () { return { user: (this as any).headers['x-user'] } } } as any)
  await run(BY_USER(), { app, sse: library.default })
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('news')))
  const url = await listen(app)
  const enter = async (user: string): Promise<number> => (await open(t, `${url}/events`, { headers: { 'x-user': user } })).status
  t.strictSame(await Promise.all(Array.from({ length: 11 }, () => enter('alice'))).then(all => all.sort()), [...Array(10).fill(200), 429])
  t.equal(await enter('bob'), 200)
})

// Answers that end

const [PUBLISH_ANSWER, READ_ANSWER, READ_PAGE, STOP_ANSWER, OVER, ANSWER_LIMITS] = [...taken('guide/answers', 'Publish it', 1), ...taken('guide/answers', 'Read it', 1, 3),
  ...taken('guide/answers', 'Stop it', 1), ...taken('guide/answers', '"Over" or "never was"', 1), ...taken('guide/answers', 'How much is kept', 1)] as [() => Snippet, () => Snippet, () => Snippet, () => Snippet, () => Snippet, () => Snippet]

const DEAD = take('guide/answers: When the process dies: block 1')

t.test('the routes of an answer: asked, read to its end by a page, stopped by DELETE, which reaches a model that waits', { skip }, async t => {
  const app = await build(t)
  await run(PUBLISH_ANSWER(), { app, model })
  for (const snippet of [READ_ANSWER, STOP_ANSWER]) await run(snippet(), { app, answer: (id: string) => app.sse.channel(`answer/${id}`) })
  const url = await listen(app)
  const ask = (id: number, body: object): Promise<Response> => fetch(`${url}/answers/${id}`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  t.equal((await ask(1, {})).status, 202)
  const { page, calls } = await browse(t, url, READ_PAGE(), ['append', 'showCutOff'])
  await page.ready
  await until(() => calls['append']!.length === 3, 'the answer')
  await until(() => app.sse.streams.size === 0, 'the page to close')
  t.strictSame([calls['append']!.join(''), calls['showCutOff']], ['It is so', []])

  const { told } = model
  await ask(2, { forever: true })
  const reader = await open(t, `${url}/answers/2`)
  await reader.first(3)
  const block = (): string | undefined => reader.text.split('\n\n').find(block => block.includes('sse.end'))
  t.equal(block(), undefined)
  await fetch(`${url}/answers/2`, { method: 'DELETE' })
  await until(() => model.told === told + 1, 'the model to be told')
  await until(() => reader.closed === 'end', 'the end')
  same(t, snippets.get('guide/answers: Read it: block 2')!, block()!.replace('stopped', 'done').replace('answer/2', 'answer/1'))
})

t.test('an answer that never was is a 404, one that is over is read from the store, one that is being made from its channel', async t => {
  const app = await build(t)
  const rows: Record<string, { text?: string }> = { over: { text: 'all of it' }, made: {} }
  await run(OVER(), { app, answers: { find: async (id: string) => rows[id] }, answer: (id: string) => app.sse.channel(`answer/${id}`) })
  await app.sse.channel('answer/made').publish('so far')
  const url = await listen(app)
  t.equal((await fetch(`${url}/answers/never/stream`)).status, 404)
  const over = await open(t, `${url}/answers/over/stream`)
  t.strictSame((await over.first(1)).map(({ event, data }) => [event, data]), [['stored', 'all of it']])
  t.equal((await (await open(t, `${url}/answers/made/stream`)).first(1))[0]!.data, 'so far')
})

t.test('what publishFrom() resolves with is what the table says, and an answer whose process died is ended by the next one', async t => {
  const app = await build(t, { drain: { finish: 0 } })
  const answer = (id: string): library.Channel => app.sse.channel(`answer/${id}`)
  const forever = (id: string, options?: { signal: AbortSignal }): Promise<string> =>
    answer(id).publishFrom((async function * () { yield 'one'; await new Promise(() => {}) })(), options)
  const { signal } = new AbortController()
  const aborted = forever('1', { signal: AbortSignal.timeout(20) })
  const stopped = forever('2', { signal })
  const closed = forever('3')
  const keep = setInterval(() => {}, 1_000) // a timeout of a signal keeps no process alive
  t.teardown(() => clearInterval(keep))
  t.equal(await aborted, 'aborted')
  await run(DEAD(), { answers: { unfinished: async () => ['2'] }, answer })
  t.equal(await stopped, 'error')
  t.equal(await answer('4').publishFrom(['one']), 'done')
  await app.close()
  t.equal(await closed, 'closed')
  t.strictSame(table('guide/answers', 'Publish it', '| it resolves with |').flatMap(([cell]) => codes(cell!)), ['done', 'end()', 'aborted', 'closed'])
})

for (const LIMITS of [ANSWER_LIMITS, take('operations: How much history: block 1')]) {
  t.test('limits of some channels are their own', async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await run(LIMITS(), { app, sse: library.default })
    const [own] = /(\w+)\//.exec(LIMITS().code)!
    const publish = async (name: string, n: number): Promise<number> => {
      for (let i = 0; i < n; i++) app.sse.channel(name).publish('x')
      await until(() => app.sse.stats().published % n === 0, 'all')
      await new Promise(resolve => setImmediate(() => setImmediate(resolve)))
      return (await app.sse.channel(name).history()).length
    }
    t.equal(await publish(`${own}1`, 12_000), 12_000)
    t.ok(await publish('other', 12_000) < 12_000)
  })
}

// Streams without a channel

const GENERATOR = take('guide/streams: From a generator: block 1')

t.test('a generator streams token by token, ends with the model, and stops one that waits when its client leaves', async t => {
  const app = await build(t)
  await run(GENERATOR(), { app, model })
  const url = await listen(app)
  const ask = (body: object): Promise<Client> => open(t, `${url}/answer`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  const whole = await ask({ q: 'why' })
  await until(() => whole.closed === 'end', 'the end of the answer')
  t.strictSame(whole.events.map(({ event, data }) => [event, data]), [['token', 'It'], ['token', ' is'], ['token', ' so']])
  const { told } = model
  const half = await ask({ forever: true })
  await half.first(3)
  half.leave()
  await until(() => model.told === told + 1, 'the signal')
})

const [ROWS, ROWS_ONCE] = taken('guide/streams', 'Your own ids, and resuming', 1, 2) as [() => Snippet, () => Snippet]

t.test('ids of your own resume a stream without a channel; over is a 204', async t => {
  const app = await build(t)
  const table = {
    async * rowsAfter (n: number) { for (let id = n + 1; id <= 4; id++) yield { id: String(id) } },
    newestId: async () => 4
  }
  for (const snippet of [ROWS, ROWS_ONCE]) await run(snippet(), { app, table })
  const url = await listen(app)
  const rows = async (lastEventId?: string, path = '/rows'): Promise<Array<string | undefined>> => {
    const client = await open(t, url + path, lastEventId === undefined ? {} : { lastEventId })
    await until(() => client.closed === 'end', 'the end')
    return [String(client.status), ...client.text.match(/(?<=^id: )\d+/gm) ?? []]
  }
  t.strictSame(await rows(), ['200', '1', '2', '3', '4'])
  t.strictSame(await rows('2'), ['200', '3', '4'])
  t.strictSame(await rows('3', '/rows/once'), ['200', '4'])
  t.strictSame(await rows('4', '/rows/once'), ['204'])
})

const CLOCK = take('guide/streams: By hand: block 1')
const [SEVERAL, JOIN] = taken('guide/streams', 'Several channels, and filters', 1, 2) as [() => Snippet, () => Snippet]
const [LATEST, HISTORY] = taken('guide/streams', 'The newest events for a new client', 1, 2) as [() => Snippet, () => Snippet]

t.test('streams by hand, of several channels, with a filter, joined later, and with the newest events first', async t => {
  const app = await build(t)
  let timers = 0
  const clock = { setInterval: (call: () => void) => { timers++; return setInterval(call, 5) }, clearInterval: (timer: NodeJS.Timeout) => { timers--; clearInterval(timer) } }
  await run(CLOCK(), { app, ...clock })
  const alert = /await app\.sse\.publish.*/.exec(SEVERAL().code)![0]
  await run({ ...SEVERAL(), code: SEVERAL().code.replace(alert, '') }, { app })
  for (const snippet of [JOIN, LATEST, HISTORY]) await run(snippet(), { app })
  const url = await listen(app)
  const ticking = await open(t, `${url}/clock`)
  await ticking.first(2)
  ticking.leave()
  await until(() => timers === 0, 'the timer to be cleared')

  const [both, important] = await Promise.all([open(t, `${url}/both`), open(t, `${url}/important`)])
  await until(() => app.sse.channel('weather').size === 1 && app.sse.channel('news').size === 2, 'the streams')
  await app.sse.channel('news').publish('plain')
  await run({ ...SEVERAL(), code: alert }, { app })
  await app.sse.channel('weather').publish('rain')
  t.strictSame((await both.first(3)).map(({ data }) => data), ['plain', 'Once for each stream', 'rain'])
  t.strictSame((await important.first(1)).map(({ data }) => data), ['Once for each stream'])

  for (let n = 0; n < 12; n++) await app.sse.channel('news').publish(`${n}`)
  const newest = Array.from({ length: 10 }, (_, n) => `${n + 2}`)
  t.strictSame((await (await open(t, `${url}/latest`)).first(10)).map(({ data }) => data), newest)
  t.strictSame(((await (await fetch(`${url}/news.json`)).json()) as Array<{ data: string }>).map(({ data }) => data), newest)
})

// Browsers

const RECONNECT = take('guide/browsers: Start again after an error: block 1')

t.test('a page that starts again after an error goes on where it was', { skip }, async t => {
  const app = await build(t)
  let refuse = false
  app.get('/events', async (request, reply) => refuse ? reply.code(503).send() : reply.sse(app.sse.channel('news'), { retry: 20 }))
  const { page, calls } = await browse(t, await listen(app), RECONNECT(), ['show'])
  await page.ready
  await until(() => app.sse.streams.size === 1, 'the page')
  const publish = (n: number): Promise<string> => app.sse.channel('news').publish({ event: 'item', data: n })
  await publish(1)
  await until(() => calls['show']!.length === 1, 'the first')
  refuse = true
  for (const stream of app.sse.streams) stream.close()
  await publish(2)
  await new Promise(resolve => setTimeout(resolve, 200))
  refuse = false
  await until(() => calls['show']!.length === 2, 'what it missed')
  t.strictSame(calls['show'], [1, 2])
})

// Meeting Fastify

const CLOSED = take('guide/fastify: Hooks: block 1')
const WATCH = take('guide/fastify: Hooks: block 2')
const STATUS = take('guide/fastify: One route for JSON and events: block 1')
const SCHEMA = take('guide/fastify: Schemas and OpenAPI: block 1')

t.test('onResponse does not run when a client leaves, and the registry tells of it all the same', async t => {
  const lines: any[] = []
  const app = Fastify({ logger: { level: 'info', stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } } })
  t.teardown(() => app.close())
  await app.register(library.default)
  let responses = 0
  app.addHook('onResponse', async () => { responses++ })
  await run(CLOSED(), { app })
  await run(WATCH(), { app })
  const url = await listen(app)
  const client = await open(t, `${url}/watch`)
  await until(() => app.sse.streams.size === 1, 'the stream')
  client.leave()
  await until(() => lines.some(({ msg }) => msg === 'over: client'), 'stream.closed')
  t.match(lines.find(({ msg }) => msg === 'over'), { url: '/watch', reason: 'client', events: 0 })
  t.equal(responses, 0)
  const second = await open(t, `${url}/watch`)
  await until(() => app.sse.streams.size === 1, 'the stream')
  for (const stream of app.sse.streams) stream.close()
  await until(() => second.closed === 'end', 'the end')
  await until(() => responses === 1, 'onResponse')
})

t.test('one route serves JSON and events, and a response schema documents a stream and does not touch it', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(swagger, { openapi: { openapi: '3.2.0', info: { title: 'prices', version: '1.0.0' } } })
  await app.register(library.default)
  for (const snippet of [STATUS, SCHEMA]) await run(snippet(), { app })
  const url = await listen(app)
  t.strictSame(await (await fetch(`${url}/status`)).json(), { status: 'fine' })
  await app.sse.channel('status').publish('still fine')
  t.equal((await (await open(t, `${url}/status`)).first(1))[0]!.data, 'still fine')
  const document: any = app.swagger()
  t.match(document.paths['/prices'].get.responses['200'].content['text/event-stream'], { schema: { type: 'string' }, itemSchema: { required: ['data'] } })
  const client = await open(t, `${url}/prices`)
  await until(() => app.sse.channel('prices').size === 1, 'the stream')
  await app.sse.channel('prices').publish({ data: { price: 1, other: 2 } })
  t.equal((await client.first(1))[0]!.data, '{"price":1,"other":2}')
})

// Testing

const TESTING = [...taken('guide/testing', 'A stream that ends', 1), ...taken('guide/testing', 'A client that leaves', 1), ...taken('guide/testing', 'A client that reconnects', 1),
  ...taken('guide/testing', 'A client that leaves', 2)]
const INJECT = take('guide/testing: A stream that stays open: block 1')

t.test('the page on testing: each snippet passes, and leaves nothing behind', async t => {
  const app = await build(t, {}, { forceCloseConnections: true })
  const news = app.sse.channel('news')
  app.get('/events', (request, reply) => reply.sse(news))
  for (const snippet of TESTING) await within(run(snippet(), { app, assert, once }), snippet().key, 10_000)
  t.equal(app.sse.stats().closed.client, 2)
})

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
})

// The reference

const ROUTES = take('reference: reply.sse: block 1')
const TYPES = take('reference: A channel: block 1')

t.test('the routes of the reference answer', async t => {
  const app = await build(t)
  await run(ROUTES(), { app })
  const url = await listen(app)
  await app.sse.channel('news').publish('one')
  t.equal((await (await open(t, `${url}/from-a-source`)).first(1))[0]!.data, 'one')
  const byHand = await open(t, `${url}/by-hand`)
  t.match((await byHand.first(1))[0], { event: 'hello', data: '{"n":1}' })
  t.strictSame(byHand.retries, [10_000])
})

t.test('typed channels are the same channels when they run', async t => {
  const app = await build(t)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('time')))
  const client = await open(t, `${await listen(app)}/events`)
  await run(TYPES(), { app })
  t.match(await client.first(1), [{ event: 'tick', data: '{"n":1}' }])
})

// Operations

const BACKPLANE = take('operations: Redis: block 1')
const ACL = take('operations: An ACL user: block 1')
const CONNECTIONS = take('operations: TLS, passwords, a unix socket: block 1')
const SETTINGS = take('operations: Settings: block 1')
const [NGINX, HAPROXY] = taken('operations', 'Proxies', 1, 2) as [() => Snippet, () => Snippet]
const GZIP = take('operations: Compression: block 1')
const OLD_KEY = take('operations: From another release: block 1')

const fixture = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url))

t.test('Redis by TLS, by a unix socket, and as the ACL user of the docs, who may do all that is needed and nothing else', { skip: noRedis }, async t => {
  const dir = mkdtempSync(join(tmpdir(), 'sse-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const [tls, path] = [await freePort(), join(dir, 'redis.sock')]
  const server = await RedisServer.start(t, {
    args: ['--tls-port', String(tls), '--tls-cert-file', fixture('localhost-cert.pem'), '--tls-key-file', fixture('localhost-key.pem'), '--tls-ca-cert-file', fixture('localhost-cert.pem'),
      '--tls-auth-clients', 'no', '--unixsocket', path]
  })
  t.equal(await server.command(...ACL().code.trim().split(' ')), '+OK\r\n')
  for (const line of SETTINGS().code.trim().split('\n')) t.equal(await server.command('CONFIG', 'SET', ...line.split(' ')), '+OK\r\n', line)
  const clients: ioredis.Redis[] = []
  function Redis (url: string | { path?: string }, options: object = {}): ioredis.Redis {
    const there = typeof url === 'string' ? { port: server.port } : url.path === undefined ? { host: 'localhost', port: tls } : { path, username: 'sse', password: 'secret' }
    const client = new ioredis.Redis({ ...typeof url === 'string' ? options : url, ...there })
    clients.push(client)
    return client
  }
  await run(BACKPLANE(), {}, { ioredis: { Redis } })
  await run(CONNECTIONS(), { Redis, certificate: readFileSync(fixture('localhost-cert.pem')) })
  t.equal(clients.length, 3)
  for (const client of clients) {
    const app = Fastify()
    await app.register(library.default, { backplane: redis.redisBackplane({ client: client as any }) })
    app.get('/events', (request, reply) => reply.sse(app.sse.channel('news'), { rewind: 50 }))
    const published = await Promise.all(Array.from({ length: 40 }, () => app.sse.channel('news').publish('x')))
    const reader = await open(t, `${await listen(app)}/events`)
    await until(() => reader.events.some(({ id }) => id === published.at(-1)), 'what was published')
    await app.sse.channel('news').end()
    await app.sse.channel('news').history(1)
    await until(() => reader.closed === 'end', 'the end')
    t.equal(app.sse.stats().backplane, 'up')
    await app.close()
    await server.command('FLUSHALL')
  }
  t.equal(await server.command('ACL', 'LOG'), '*0\r\n', 'nothing was refused')
})

const without = (program: string): string | false => spawnSync(program, ['-v']).error !== undefined && process.env['CI'] !== 'true' ? `there is no ${program}` : false

t.test('nginx takes its settings', { skip: without('nginx') }, async t => {
  const dir = mkdtempSync(join(tmpdir(), 'sse-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const server = NGINX().code.replace('listen 443', `listen 127.0.0.1:${await freePort()}`).replace(/\/etc\S+pem/, fixture('localhost-cert.pem')).replace(/\/etc\S+key/, fixture('localhost-key.pem'))
  writeFileSync(join(dir, 'nginx.conf'), `pid ${dir}/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n${GZIP().code}\n${server}\n}\n`)
  const { status, stderr } = spawnSync('nginx', ['-t', '-p', dir, '-e', 'stderr', '-c', join(dir, 'nginx.conf')], { encoding: 'utf8' })
  t.equal(status, 0, stderr)
})

t.test('HAProxy with its settings passes each event at once, from both processes', { skip: without('haproxy') }, async t => {
  const apps = await Promise.all([build(t), build(t)])
  for (const app of apps) app.get('/events', (request, reply) => reply.sse(app.sse.channel('news')))
  const [one, two] = await Promise.all(apps.map(listen)) as [string, string]
  const port = await freePort()
  const dir = mkdtempSync(join(tmpdir(), 'sse-'))
  const config = HAPROXY().code.replace(':8080', `127.0.0.1:${port}`).replace('127.0.0.1:3000', new URL(one).host).replace('127.0.0.1:3001', new URL(two).host)
  writeFileSync(join(dir, 'haproxy.cfg'), config)
  const child = spawn('haproxy', ['-db', '-f', join(dir, 'haproxy.cfg')], { stdio: 'ignore' })
  const watch = guard(child)
  t.teardown(() => {
    child.kill('SIGKILL')
    watch.kill('SIGKILL')
    rmSync(dir, { recursive: true, force: true })
  })
  let clients: Client[] = []
  await until(() => {
    if (clients.length === 0) {
      clients = [undefined as never]
      Promise.all([0, 1].map(() => open(t, `http://127.0.0.1:${port}/events`))).then(all => { clients = all }, () => { clients = [] })
    }
    return clients.length === 2
  }, 'HAProxy')
  await until(() => apps.every(app => app.sse.streams.size === 1), 'a stream in each process')
  for (let n = 1; n <= 5; n++) {
    for (const app of apps) app.sse.channel('news').publish(`${n}`)
    for (const client of clients) await client.first(n)
  }
  t.pass('all came, each before the next one was published')
})

t.test('the key that is to be removed is not one of this release', async t => {
  const [, key] = /UNLINK (\S+)\n/.exec(OLD_KEY().code)!
  t.notOk(table('operations', 'What is in Redis', '| key | what |').some(([cell]) => codes(cell!)[0] === key))
})

t.test('a client of the first release comes back with its id: one gap, then what is kept and what comes, and no error', async t => {
  const app = await build(t)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('news')))
  const url = await listen(app)
  await app.sse.channel('news').publish('kept')
  const client = await open(t, `${url}/events`, { lastEventId: '1795712589864-0.fbT6RUYJ' })
  await app.sse.channel('news').publish('live')
  t.strictSame((await client.first(2)).map(({ data }) => data), ['kept', 'live'])
  t.match(client.gaps, [{ reason: 'unknown', channels: ['news'] }])
  t.equal(client.gaps.length, 1)
})

t.test('each alert of the docs is in the rules, and each rule in the docs', async t => {
  const alerts = table('operations', 'Metrics', '| alert |').flatMap(([cell]) => codes(cell!))
  t.strictSame(alerts.sort(), [...read('example/metrics/alerts.yml').matchAll(/alert: (\w+)/g)].map(([, name]) => name!).sort())
})

// The packages

t.test('every package in the lock file takes the oldest Node, or npm install would warn', async t => {
  const oldest = `${/\d+\.\d+/.exec(PACKAGE.engines.node)![0]}.0`
  const { packages } = JSON.parse(read('package-lock.json')) as { packages: Record<string, { engines?: { node?: string } }> }
  t.ok(Object.keys(packages).length > 300)
  const { satisfies } = createRequire(import.meta.url)('semver') as { satisfies (version: string, range: string): boolean } // Fastify brings it
  t.strictSame(Object.entries(packages).filter(([, { engines }]) => engines?.node !== undefined && !satisfies(oldest, engines.node)), [])
})

// Commands and names

t.test('the commands of shell snippets name scripts and files that are there', async t => {
  const lines = [...snippets.values()].filter(({ lang }) => lang === 'sh').flatMap(({ code }) => code.trim().split('\n'))
  for (const line of lines.flatMap(line => line.split(/\s+#/)[0]!.split(' && '))) {
    const [program, ...args] = line.trim().replace(/^(\w+=\S+ )+/, '').split(/\s+/) as [string, ...string[]]
    t.ok(['npm', 'npx', 'node', 'curl', 'redis-cli'].includes(program), line)
    if (program === 'npm') t.ok(args[0]! in { ci: 1, install: 1, pkg: 1, ...PACKAGE.scripts } || args[1]! in PACKAGE.scripts, line)
    for (const file of args.filter(arg => /^(test|example|bench|lib)\//.test(arg))) t.ok(existsSync(ROOT + file), file)
  }
})

t.test('what the pages name is there: scripts, files, sections, entries of the package', async t => {
  const anchor = (heading: string): string => heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')
  const anchors = new Map([...pages.values()].map(({ path, sections }) => [path, [...sections.keys()].map(anchor)]))
  let links = 0
  for (const { path, text, sections } of pages.values()) {
    const prose = [...sections.values()].join('') + [...sections.keys()].join('\n')
    for (const [, link] of prose.matchAll(/\]\(([^)\s]+)[^)]*\)/g)) {
      if (/^https?:/.test(link!)) continue
      links++
      const [file, section] = link!.split('#') as [string, string?]
      const target = file === '' ? path : posix.normalize(posix.join(dirname(path), file))
      t.ok(existsSync(ROOT + target), `${path}: ${link}`)
      if (section !== undefined) t.ok(anchors.get(target)?.includes(section), `${path}: ${link}`)
    }
    for (const [, name] of prose.matchAll(/`npm (?:run )?(\w+)/g)) t.ok(name! in PACKAGE.scripts || ['ci', 'install', 'pack', 'publish', 'audit'].includes(name!), `${path}: npm ${name}`)
    for (const [, file] of prose.matchAll(/`[^`]*\bnode [^`]*?(\w+\/[\w./-]+\.[jt]s)/g)) t.ok(existsSync(ROOT + file!), `${path}: ${file}`)
    for (const [, file] of prose.matchAll(/`((?:lib|test|example|bench|types|\.ci)\/[\w./-]*)`/g)) t.ok(existsSync(ROOT + file!), `${path}: ${file}`)
    for (const [, entry] of text.matchAll(/from 'fastify-sse-channels([^']*)'/g)) t.ok(`.${entry}` in PACKAGE.exports, `${path}: ${entry}`)
  }
  t.ok(links > 50)
  for (const path of FILES) t.ok(path === 'README.md' || [...pages.values()].some(page => page.path !== path && page.text.includes(path.split('/').at(-1)!)), `${path} is linked`)
})

t.test('the README is a page that can be read at once', async t => {
  t.ok(pages.get('README')!.text.split('\n').length <= 250)
})

// Tables

/** The rows of the table of a page that starts with `head`. */
function table (page: string, section: string, head = '| member | |'): string[][] {
  const text = pages.get(page)?.sections.get(section)?.split('\n\n').find(text => text.trimStart().startsWith(head))
  if (text === undefined) throw new Error(`${page}: the section "${section}" has no table "${head}"`)
  return text.trim().split('\n').slice(2).map(row => row.slice(1, -1).split('|').map(cell => cell.trim()))
}

function codes (cell: string): string[] { return [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code!) }
/** What the first column of a table names, without what stands behind the names. */
const names = (rows: string[][]): string[] => rows.flatMap(([cell]) => codes(cell!)).map(code => /^[\w.]+/.exec(code)![0])

t.test('the options in the table are those of the code, and so are their defaults', async t => {
  const { history, drain, ...others } = resolveOptions({})
  const { latest, ...limits } = history.limits
  const nested = (group: string, options: object): object => Object.fromEntries(Object.entries(options).map(([name, value]) => [`${group}.${name}`, value]))
  const defaults: Record<string, unknown> = { backplane: undefined, ...others, ...nested('history', { ...limits, maxBytes: history.maxBytes, channel: history.channel }), ...nested('drain', drain) }
  const rows = table('README', 'Options', '| option | default |')
  t.strictSame(names(rows).sort(), Object.keys(defaults).sort())
  t.equal(latest, false)
  const value = (text: string): unknown => text === '' ? undefined : runInThisContext(`(${text.replace(/^`|`$/g, '').replace(/(\d+) MiB/g, '$1 * 1024 * 1024')})`)
  for (const row of rows) {
    for (const name of names([row])) {
      if (name === 'backplane') t.equal(row[1], '`memoryBackplane()`')
      else if (name === 'serialize' || name === 'parse') t.strictSame([row[1], defaults[name]], ['JSON', name === 'parse' ? JSON.parse : JSON.stringify])
      else if (name === 'compress') t.strictSame([row[1], defaults[name]], ['`false`', undefined])
      else if (name === 'streamKey') t.strictSame([value(row[1]!), defaults[name]].map((key: any) => key({ ip: 'the ip', id: 'the id' })), ['the ip', 'the ip'], name)
      else t.strictSame(value(row[1]!), defaults[name], name)
    }
  }
})

t.test('the tables of errors have every code, with its status', async t => {
  const all = Object.keys(errors).filter(name => name.startsWith('SSE_')).sort()
  const rows = table('README', 'Errors', '| code | status |')
  t.strictSame(names(rows).sort(), all)
  t.strictSame(names(table('reference', 'Errors', '| code |')).sort(), all)
  for (const [cell, status, text] of rows) {
    const statuses = status!.split(', ').map(Number)
    for (const [i, code] of codes(cell!).entries()) {
      const error = new (errors as unknown as Record<string, new () => Error & { code: string, statusCode: number }>)[code]!()
      t.match(error, { code, statusCode: statuses[i] ?? statuses[0] })
      if (text!.includes('TypeError')) t.type(error, TypeError)
    }
  }
})

t.test('the table of log lines has every line that is logged, with its level', async t => {
  const logged = new Set<string>()
  for (const name of readdirSync(ROOT + 'lib', { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.ts')) continue
    const code = read(`lib/${name}`)
    for (const [, level, text] of code.matchAll(/(?:log|logger)\.(debug|info|warn|error)\((?:[^'`\n]*, )?['`]([^'`]+)['`]/g)) logged.add(`${level}: ${text!.replace(/\$\{\w+\}/, '…')}`)
    for (const [, text] of code.matchAll(/logged\(.*'([\w ]+ failed)'/g)) logged.add(`error: ${text}`)
  }
  const rows = table('operations', 'Log lines', '| message | level |')
  t.strictSame(rows.flatMap(([cell, level]) => codes(cell!).map(text => `${level}: ${text}`)).sort(), [...logged].sort())
})

// Types

/** What the snippets' free names are. */
const STAND_INS = `
import type { EventEmitter } from 'node:events'
import type { FastifyInstance } from 'fastify'
import type { Channel, SseEvent } from 'fastify-sse-channels'
import type { Redis as IoRedis } from 'ioredis'
import '@fastify/session'
interface User { name: string, expires: number }
declare module 'fastify' {
  interface Session { user?: string }
  interface FastifyRequest { user: User | null }
}
declare global {
  const app: FastifyInstance
  const sse: typeof import('fastify-sse-channels').default
  const user: User
  function verify (token: string | undefined): User | null
  function loadBoard (): Promise<object>
  const model: { stream (question: unknown, options?: { signal: AbortSignal }): AsyncIterable<string> }
  function answer (id: string): Channel
  const answers: { find (id: string): Promise<{ text?: string } | undefined>, unfinished (): Promise<string[]> }
  const feed: EventEmitter
  const clock: EventEmitter
  const table: { rowsAfter (id: number): AsyncIterable<SseEvent>, newestId (): Promise<number> }
  const assert: typeof import('node:assert')
  const once: typeof import('node:events').once
  const Redis: typeof IoRedis
  const certificate: Buffer
  const label: HTMLElement
  const getToken: () => Promise<string>
  const signInAgain: () => Promise<boolean>
  function done (): void
  function show (item: any): void
  function append (text: string): void
  function showCutOff (): void
  function reload (): void
  var source: EventSource
}
`

/** In the guide of the client, the class is imported once, and `source` is one. */
const ofClient = (code: string): string =>
  (code.includes('import { SseClient }') ? '' : "import { SseClient } from 'fastify-sse-channels/client'\n") + (code.includes('const source') ? '' : 'declare const source: SseClient\n') + code

/** The names in the tables, as types: one too many and one too few are mistakes. */
const object = (names: string[]): string => `{ ${[...new Set(names)].map(name => `${name}: 0`).join(', ')} }`
const reference = (section: string, head?: string): string => object(names(table('reference', section, head)))
const members = (): string => `
import type { EventEmitter } from 'node:events'
import type { Channel, CloseReason, GapReason, SseEvent, SseOptions, SsePluginOptions, SseRegistry, SseRegistryEvents, SseStats, SseStream } from 'fastify-sse-channels'
export const event: Record<keyof SseEvent, 0> = ${reference('An event', '| field | |')}
export const stream: Record<keyof SseStream, 0> = ${reference('A stream')}
export const channel: Record<keyof Channel, 0> = ${reference('A channel')}
export const registry: Record<Exclude<keyof SseRegistry, keyof EventEmitter> | 'on', 0> = ${reference('app.sse')}
export const events: Record<keyof SseRegistryEvents, 0> = ${reference('Events of the registry', '| event | with |')}
export const stats: Record<keyof SseStats, 0> = ${reference('Stats', '| number | of |')}
export const options: Record<keyof SsePluginOptions, 0> = ${object(names(table('README', 'Options', '| option | default |')).map(name => name.split('.')[0]!))}
export const streamOptions: Record<keyof SseOptions, 0> = ${reference('Options of a stream', '| option | default |')}
export const closeReasons: Record<CloseReason, 0> = ${reference('Close reasons', '| reason |')}
export const reasons: Record<GapReason, 0> = ${object(names(table('README', 'Gaps', '| reason |')))}
export const reasonsAgain: Record<GapReason, 0> = ${object(names(table('guarantees', 'Gaps', '| reason |')))}
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

t.test('what the pages show type-checks strictly, and what they call checked is', async t => {
  const isolated = (code: string): string => `${code}\nexport {}\n`
  const right: Record<string, string> = { 'the stand-ins': STAND_INS, 'the tables': members() }
  for (const { key, lang, code } of snippets.values()) {
    if (['ts', 'js'].includes(lang) && !PEERS.includes(key)) right[key] = isolated(key.startsWith('client: ') ? ofClient(code) : code)
    if (lang === 'html') right[key] = isolated(code.replace(/<\/?script[^>]*>/g, '').replace('/sse-client/index.js', 'fastify-sse-channels/client'))
  }
  right['what the last channel takes'] = isolated(`${TYPES().code}.publish({ event: 'tick', data: { n: 1 } })`)
  const wrong = Object.fromEntries(([
    [TYPES, "app.sse.channel('time').publish({ event: 'tick', data: { n: 'one' } })"],
    [TYPES, "app.sse.channel('time').publish({ event: 'tock', data: { n: 1 } })"],
    [TYPES, ".publish({ event: 'tick', data: { n: 'one' } })"] // goes on with the last line
  ] as const).map(([snippet, line]) => [`${snippet().key} with ${line}`, { length: snippet().code.length, text: isolated(snippet().code + line) }]))

  const found = check({ ...right, ...Object.fromEntries(Object.entries(wrong).map(([key, { text }]) => [key, text])) })
  for (const key of Object.keys(right)) t.strictSame(found[key]!.map(({ text }) => text), [], key)
  for (const [key, { length }] of Object.entries(wrong)) t.ok(found[key]!.length > 0 && found[key]!.every(({ at }) => at >= length), `${key} is refused there`)
})

t.test('every snippet has its test: it is run or type-checked', async t => {
  for (const { key, lang } of snippets.values()) {
    t.ok(known.has(key) || DRAWINGS.includes(key) || ['ts', 'js', 'html', 'sh'].includes(lang), `${key} is run or checked`)
  }
  for (const key of [...known, ...DRAWINGS]) t.ok(snippets.has(key), `there is "${key}"`)
  const blocks = [...snippets.keys()].filter(key => key.includes(': block '))
  const fences = [...pages.values()].flatMap(({ text }) => text.match(/^[ \t>]*(```|~~~)/gm) ?? [])
  t.equal(fences.length, 2 * blocks.length, 'and no fence was overlooked')
})
