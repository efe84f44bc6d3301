import { execFile } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, realpath, symlink, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import t from 'tap'

const run = promisify(execFile)
const ROOT = fileURLToPath(new URL('..', import.meta.url))
const MODULES = join(ROOT, 'node_modules')
const NODE_ENV = { ...process.env, NODE_OPTIONS: '' }

/** All that a consumer has beside the package: its dependencies, its peer, what type-checks, and a provider of types. No Redis client is among them. */
const INSTALLED = ['@fastify/error', 'fastify-plugin', 'fastify', '@types/node', '@fastify/type-provider-typebox']

/** Licences that ask for no more than their notice. */
const LICENCES = ['MIT', 'ISC', 'BSD-2-Clause', 'BSD-3-Clause', 'Apache-2.0']

/** Bytes: what a registry sends, and what a consumer has on disk. README.md is the largest file. */
const MAX_PACKED = 125_000
const MAX_UNPACKED = 420_000

/** The compilers that consumers have. */
const COMPILERS = ['5.9.3', '6.0.3', '7.0.2']

const temporary = await mkdtemp(join(tmpdir(), 'fastify-sse-channels-'))
// At the exit, so that a build that fails leaves nothing behind either.
process.on('exit', () => rmSync(temporary, { recursive: true, force: true }))

// What is built and packed is a copy, so that the tests that run beside this one never see half a build.
const source = join(temporary, 'source')
const NOT_COPIED = new Set(['node_modules', '.git', '.tap', '.tsimp', 'dist'])
await cp(ROOT, source, { recursive: true, filter: path => !NOT_COPIED.has(basename(path)) })
await symlink(MODULES, join(source, 'node_modules'))
// What must not be packed: a secret, a stray file, and what an earlier build left of a file that is gone.
await writeFile(join(source, '.env'), 'SECRET=1')
await writeFile(join(source, 'notes.txt'), 'stray')
await mkdir(join(source, 'dist'))
await writeFile(join(source, 'dist', 'gone.js'), 'export {}')
await run('npm', ['run', 'build'], { cwd: source, env: NODE_ENV })
const packed = await run('npm', ['pack', '--json', '--pack-destination', temporary], { cwd: source, env: NODE_ENV })
const [{ filename, files, size, unpackedSize }] = JSON.parse(packed.stdout.slice(packed.stdout.indexOf('[\n'))) as [{ filename: string, files: Array<{ path: string }>, size: number, unpackedSize: number }]
const tarball = join(temporary, filename)

const consumer = join(temporary, 'consumer')
const installed = join(consumer, 'node_modules', 'fastify-sse-channels')
await mkdir(installed, { recursive: true })
await run('tar', ['-xzf', tarball, '-C', installed, '--strip-components=1'])
for (const name of INSTALLED) {
  await mkdir(join(consumer, 'node_modules', name, '..'), { recursive: true })
  await symlink(join(MODULES, name), join(consumer, 'node_modules', name))
}

/** Runs a program of the consumer and gives what it printed. */
async function program (name: string, text: string): Promise<{ stdout: string, stderr: string }> {
  await writeFile(join(consumer, name), text)
  return run(process.execPath, [name], { cwd: consumer, env: NODE_ENV, timeout: 60_000 })
}

/** The packages that come with the one in `folder`, and their licences: name@version → licence. */
async function licences (folder: string, found: Record<string, string> = {}): Promise<Record<string, string>> {
  const json = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'))
  for (const name of Object.keys({ ...json.dependencies, ...json.optionalDependencies })) {
    const places = createRequire(join(folder, 'package.json')).resolve.paths(name)!.map(place => join(place, name))
    const place = await realpath(places.find(place => existsSync(place)) ?? name)
    const { version, license } = JSON.parse(await readFile(join(place, 'package.json'), 'utf8'))
    if (`${name}@${version}` in found) continue
    found[`${name}@${version}`] = String(license)
    await licences(place, found)
  }
  return found
}

/** This project's own compiler, which is installed, and how to install the others. */
const own: string = JSON.parse(await readFile(join(MODULES, 'typescript', 'package.json'), 'utf8')).version
const compilers = join(temporary, 'compilers')
const others = COMPILERS.filter(version => version !== own).map(version => `typescript-${version}@npm:typescript@${version}`)

/** Installs the other compilers, and gives npm's code where it could not. */
async function installCompilers (): Promise<string> {
  await mkdir(compilers)
  const args = ['install', '--prefix', compilers, '--no-save', '--no-package-lock', '--no-audit', '--no-fund', '--ignore-scripts', '--prefer-offline', '--fetch-retries=0', '--fetch-timeout=20000', ...others]
  try {
    await run('npm', args, { cwd: compilers, env: NODE_ENV, timeout: 60_000 })
    return ''
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string }
    return /^npm error code (.+)/m.exec(stderr)?.[1] ?? String(error)
  }
}

/** Type-checks files of the consumer and gives the complaints. */
async function check (version: string, name: string, { files, ...options }: { files: string[] } & Record<string, unknown>): Promise<string> {
  const tsc = join(version === own ? join(MODULES, 'typescript') : join(compilers, 'node_modules', `typescript-${version}`), 'lib', 'tsc.js')
  const compilerOptions = { noEmit: true, strict: true, exactOptionalPropertyTypes: true, skipLibCheck: false, target: 'es2022', ...options }
  await writeFile(join(consumer, `${name}.json`), JSON.stringify({ compilerOptions, files }))
  try {
    return (await run(process.execPath, [tsc, '--project', `${name}.json`], { cwd: consumer, env: NODE_ENV, timeout: 90_000 })).stdout
  } catch (error) {
    return (error as { stdout?: string }).stdout || String(error)
  }
}

/** The same program for import and for require: a server, one client, one event. */
const PROGRAM = `
async function main () {
  const app = Fastify()
  await app.register(sse, { backplane: memoryBackplane(), retry: 0 })
  const time = app.sse.channel('time')
  app.get('/', (request, reply) => reply.sse(time))
  const response = await fetch(await app.listen({ port: 0, host: '127.0.0.1' }))
  const cursor = await time.publish({ event: 'tick', data: { n: 1 } })
  let text = ''
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    text += chunk
    if (text.includes('tick')) break
  }
  await app.close()
  console.log(JSON.stringify({ type: response.headers.get('content-type'), received: text.includes('id: ' + cursor + '\\nevent: tick\\ndata: {"n":1}\\n\\n') }))
}
main()
`

t.test('the package holds the built library, README, CHANGELOG, LICENSE and its package.json, and nothing else', async t => {
  const modules = (await readdir(join(ROOT, 'lib'), { recursive: true })).filter(name => name.endsWith('.ts') && !name.startsWith('client')).map(name => name.replace(/\.ts$/, ''))
  t.ok(modules.includes('index') && modules.includes('redis/index'))
  const client = (await readdir(join(ROOT, 'lib', 'client'))).filter(name => name.endsWith('.ts')).map(name => name.replace(/\.ts$/, ''))
  t.same(files.map(({ path }) => path).sort(), [
    'CHANGELOG.md', 'LICENSE', 'README.md', 'package.json',
    ...modules.flatMap(name => [`dist/${name}.d.ts`, `dist/${name}.js`]),
    // The client is one file, and what sharing takes another: a page loads them as they are.
    ...client.map(name => `dist/client/${name}.d.ts`), 'dist/client/index.js', 'dist/client/shared.js'
  ].sort())
})

t.test('what is promised of the package stands in its package.json', async t => {
  const json = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8'))
  t.match(json, { name: 'fastify-sse-channels', license: 'MIT', type: 'module', engines: { node: '>=20.19' }, peerDependencies: { fastify: /^\^5/ } })
  t.same(Object.keys(json.dependencies).sort(), ['@fastify/error', 'fastify-plugin'])
})

t.test('nothing in the package leads out of it', async t => {
  const inside = new Set(files.map(({ path }) => path))
  for (const { path } of files.filter(({ path }) => path.startsWith('dist/'))) {
    const text = await readFile(join(installed, path), 'utf8')
    const specifiers = [...text.matchAll(/^(?:import|export)\b.* from '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm)].map(([, from, bare, dynamic]) => from ?? bare ?? dynamic!)
    for (const specifier of specifiers) {
      if (!specifier.startsWith('.')) t.match(specifier, /^(node:\w+(\/\w+)?|fastify|fastify-plugin|@fastify\/error)$/, path)
      else if (path.endsWith('.js')) t.ok(inside.has(join(path, '..', specifier)), `${path} imports ${specifier}, which is built`)
      else t.ok(inside.has(join(path, '..', specifier.replace(/\.ts$/, '.d.ts'))), `${path} names ${specifier}`)
    }
  }
})

t.test('the package stays small, with no source maps', t => {
  t.comment(`${size} bytes packed, ${unpackedSize} unpacked`)
  t.ok(size <= MAX_PACKED, `${size} bytes packed of ${MAX_PACKED} at most`)
  t.ok(unpackedSize <= MAX_UNPACKED, `${unpackedSize} bytes unpacked of ${MAX_UNPACKED} at most`)
  t.same(files.filter(({ path }) => path.endsWith('.map')), [])
  t.end()
})

t.test('what is installed with the package has licences that ask for no more than their notice', async t => {
  const found = await licences(installed)
  t.match(Object.keys(found), [/^@fastify\/error@/, /^fastify-plugin@/])
  for (const [name, licence] of Object.entries(found)) t.ok(LICENCES.includes(licence), `${name}: ${licence}`)
  t.comment(found)
})

t.test('publint finds nothing', async t => {
  const { messages } = await publint({ pack: { tarball: new Uint8Array(await readFile(tarball)).buffer }, level: 'suggestion', strict: true })
  const json = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8'))
  t.same(messages.map(message => formatMessage(message, json)), [])
})

t.test('each entry resolves to its types and its code, for node and for bundlers: no type is wrong', async t => {
  const cli = join(MODULES, '@arethetypeswrong', 'cli', 'dist', 'index.js')
  // No rule is ignored; the profile leaves out what no package of ES modules can do.
  const args = [cli, tarball, '--profile', 'esm-only', '--format', 'json']
  const { stdout, code } = await run(process.execPath, args, { cwd: temporary, env: NODE_ENV, timeout: 60_000 }).then(({ stdout }) => ({ stdout, code: 0 }), (error: { stdout: string, code: number }) => error)
  const { entrypoints, problems } = JSON.parse(stdout).analysis as {
    entrypoints: Record<string, { resolutions: Record<string, { resolution?: { fileName: string }, visibleProblems: number[] }> }>
    problems: Array<{ kind: string }>
  }
  const resolved = Object.entries(entrypoints).map(([entry, { resolutions }]) => [entry, ...['node16-esm', 'bundler'].flatMap(kind => {
    const { resolution, visibleProblems } = resolutions[kind]!
    return [resolution?.fileName.replace(/.*\/fastify-sse-channels\//, ''), ...visibleProblems.map(index => problems[index]!.kind)]
  })])
  t.same(resolved, [
    ['.', 'dist/index.d.ts', 'dist/index.d.ts'],
    ['./redis', 'dist/redis/index.d.ts', 'dist/redis/index.d.ts'],
    ['./client', 'dist/client/index.d.ts', 'dist/client/index.d.ts'],
    ['./package.json', 'package.json', 'package.json']
  ])
  t.equal(code, 0)
})

t.test('the package works by import', async t => {
  const { stdout, stderr } = await program('import.mjs', `import Fastify from 'fastify'\nimport sse, { memoryBackplane } from 'fastify-sse-channels'\n${PROGRAM}`)
  t.same(JSON.parse(stdout), { type: 'text/event-stream', received: true })
  t.equal(stderr, '')
})

t.test('the package works by require', async t => {
  const { stdout, stderr } = await program('require.cjs', `const Fastify = require('fastify')\nconst { default: sse, memoryBackplane } = require('fastify-sse-channels')\n${PROGRAM}`)
  t.same(JSON.parse(stdout), { type: 'text/event-stream', received: true })
  t.equal(stderr, '')
})

t.test('what require gives can be registered as it is', async t => {
  const { stdout, stderr } = await program('whole.cjs', `const Fastify = require('fastify')\nconst sse = require('fastify-sse-channels')\nconst { memoryBackplane } = sse\n${PROGRAM}`)
  t.same(JSON.parse(stdout), { type: 'text/event-stream', received: true })
  t.equal(stderr, '')
})

t.test('the entry ./redis loads without a Redis client installed', async t => {
  const text = (load: string): string => `
    ${load}
    let code
    try { redisBackplane({ client: {} }) } catch (error) { code = error.code }
    console.log(JSON.stringify([typeof redisBackplane, code]))
  `
  const imported = await program('redis.mjs', text("import { redisBackplane } from 'fastify-sse-channels/redis'"))
  const required = await program('redis.cjs', text("const { redisBackplane } = require('fastify-sse-channels/redis')"))
  t.same(JSON.parse(imported.stdout), ['function', 'SSE_ERR_INVALID_OPTION'])
  t.same(JSON.parse(required.stdout), ['function', 'SSE_ERR_INVALID_OPTION'])
})

t.test('the entry ./client works in Node, by import and by require, and needs no package', async t => {
  const text = (load: string): string => `
    ${load}
    const source = new SseClient('http://127.0.0.1/', { fetch: async () => new Response('id: 1\\ndata: a\\n\\n', { headers: { 'content-type': 'text/event-stream' } }) })
    source.onmessage = event => {
      console.log(JSON.stringify([event.data, event.lastEventId]))
      source.close()
    }
  `
  for (const [name, load] of [['client.mjs', "import { SseClient } from 'fastify-sse-channels/client'"], ['client.cjs', "const { SseClient } = require('fastify-sse-channels/client')"]] as const) {
    const { stdout, stderr } = await program(name, text(load))
    t.same(JSON.parse(stdout), ['a', '1'])
    t.equal(stderr, '')
  }
})

t.test('the files behind the entries cannot be reached past them', async t => {
  const { stdout } = await program('inside.mjs', `
    const codes = []
    for (const path of ['dist/index.js', 'dist/registry/registry.js', 'lib/index.ts']) {
      await import('fastify-sse-channels/' + path).then(() => codes.push('loaded'), error => codes.push(error.code))
    }
    const { default: json } = await import('fastify-sse-channels/package.json', { with: { type: 'json' } })
    console.log(JSON.stringify([...codes, json.name]))
  `)
  t.same(JSON.parse(stdout), [...Array(3).fill('ERR_PACKAGE_PATH_NOT_EXPORTED'), 'fastify-sse-channels'])
})

/** What a consumer writes: every name that the package exports, what a channel's types allow, and what they must not. */
const IMPORTS = `
import Fastify from 'fastify'
import sse, { memoryBackplane, type Backplane, type Channel, type ChannelLimits, type ChannelOrName, type CloseReason, type Entry, type EventsOf, type Filter, type Gap as StreamGap, type GapReason, type HeardEntry, type Kept, type KeptEntry, type Life, type NewEntry, type Place, type PublishEvent, type Receiver, type SharedBackplane, type SseChannels, type SseEvent, type SseItem, type SseOptions, type SsePluginOptions, type SseRegistry, type SseRegistryEvents, type SseSource, type SseStats, type SseStream, type StoredEvent, type StoredEventOf, type SubscribeOptions } from 'fastify-sse-channels'
import { redisBackplane, DEFAULT_REDIS_KEY, type IoRedisClient, type NodeRedisClient, type RedisBackplaneOptions, type RedisClient } from 'fastify-sse-channels/redis'
import { SseClient, SseErrorEvent, SseStatusEvent, type End, type Failure, type Gap, type HeadersLike, type ParsedData, type ParsedMessageEvent, type SseClientConstructor, type SseClientOptions, type SseErrorCode, type SseStatus, type TypedEventSource, type TypedMessageEvent } from 'fastify-sse-channels/client'

declare module 'fastify-sse-channels' {
  interface SseChannels {
    time: { tick: { n: number } }
    chat: { message: string }
    [user: \`user/\${string}\`]: { note: { id: number } }
  }
}

const app = Fastify()
await app.register(sse, { backplane: memoryBackplane(), history: { maxEvents: 5 }, retry: undefined })
await app.register(sse, {
  backplane: redisBackplane({ client: { call: async () => {}, duplicate: () => ({}) }, key: DEFAULT_REDIS_KEY })
})
const time = app.sse.channel('time')
await time.publish({ event: 'tick', data: { n: 1 } })
await app.sse.publish(['time'], { event: 'tick', data: { n: 1 } })
const n: number | undefined = (await time.history(1))[0]?.data.n
console.log(n, app.sse.stats().closed.drain)
app.get('/', (request, reply) => request.acceptsSse() ? reply.sse(time, { filter: event => event.data.n > 1 }) : reply.send('page'))
app.get('/driven', async (request, reply) => {
  const stream: SseStream = reply.sse()
  await stream.send({ data: { any: 'thing' } })
  stream.subscribe(time)
  stream.subscribe([time, app.sse.channel('chat')], { filter: event => event.event === 'tick' ? event.data.n > 1 : event.data.length > 1 })
  // @ts-expect-error the data of a tick has no such field
  stream.subscribe([time, app.sse.channel('chat')], { filter: event => event.event === 'tick' && event.data.m > 1 })
})
app.get<{ Params: { id: string } }>('/users/:id', (request, reply) => {
  const stream = reply.sse()
  const id: string = stream.request.params.id
  // @ts-expect-error the route has no such parameter
  console.log(stream.request.params.name)
  stream.subscribe(\`user/\${id}\`, { filter: event => event.data.id > 1 })
  return reply
})
await app.sse.publish('user/5', { event: 'note', data: { id: 1 } })
await app.sse.channel('user/5').publish({ event: 'note', data: { id: 1 } })
// @ts-expect-error wrong data
await app.sse.publish('user/5', { event: 'note', data: { id: '1' } })
// An async handler returns what reply.sse() was called on.
app.get('/async', async (request, reply) => reply.sse(time))
app.sse.on('close', ({ reason, bytes }) => { const told: [string, number] = [reason, bytes]; console.log(told) })
// @ts-expect-error wrong data
time.publish({ event: 'tick', data: { n: '1' } })
// @ts-expect-error no such event
app.sse.publish('time', { event: 'tock', data: { n: 1 } })
// @ts-expect-error a text is no source
app.get('/text', (request, reply) => reply.sse('text'))
// @ts-expect-error a retry of null
export const options: SsePluginOptions = { retry: null }
export type { Backplane, Channel, ChannelLimits, ChannelOrName, CloseReason, Entry, EventsOf, Filter, StreamGap, GapReason, HeardEntry, Kept, KeptEntry, Life, NewEntry, Place, PublishEvent, Receiver, SharedBackplane, SseChannels, SseEvent, SseItem, SseOptions, SseRegistry, SseRegistryEvents, SseSource, SseStats, StoredEvent, StoredEventOf, SubscribeOptions }
const client = new SseClient<{ tick: { n: number } }>('http://127.0.0.1/', { parse: JSON.parse })
client.addEventListener('tick', event => event.data.n.toFixed())
client.onerror = event => console.log(event instanceof SseErrorEvent, event.code, event.status)
client.addEventListener('status', event => console.log(event instanceof SseStatusEvent, event.until))
for await (const event of client) if (event.type === 'tick') event.data.n.toFixed()
export type { IoRedisClient, NodeRedisClient, RedisBackplaneOptions, RedisClient, End, Failure, Gap, HeadersLike, ParsedData, ParsedMessageEvent, SseClientConstructor, SseClientOptions, SseErrorCode, SseStatus, TypedEventSource, TypedMessageEvent }
`

const REQUIRES = `
import Fastify = require('fastify')
import sse = require('fastify-sse-channels')

const app = Fastify()
app.register(sse.default, { backplane: sse.memoryBackplane() })
app.get('/', (request, reply) => reply.sse(app.sse.channel('any')))
`

/**
 * With a provider of types and a response schema, Fastify takes what a handler returns for the body, be it `reply` of a handler that is not
 * async: what compiles is an async handler that returns `reply`.
 */
const TYPEBOX = `
import Fastify from 'fastify'
import { Type, type TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import sse from 'fastify-sse-channels'

const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
await app.register(sse)
const time = app.sse.channel('time')
const schema = { querystring: Type.Object({ from: Type.String() }), response: { 200: Type.Object({ n: Type.Number() }) } }
app.get('/', { schema }, async (request, reply) => reply.sse(time, { lastEventId: request.query.from }))
app.get('/both', { schema }, async (request, reply) => request.acceptsSse() ? reply.sse(time) : { n: 1 })
app.get('/driven', { schema }, async (request, reply) => {
  const from: string = reply.sse().subscribe(time).request.query.from
  console.log(from)
  return reply
})
app.get('/nothing', { schema }, (request, reply) => { reply.sse(time) })
// @ts-expect-error a stream is no { n }
app.get('/stream', { schema }, async (request, reply) => reply.sse().subscribe(time))
// @ts-expect-error nor is reply
app.get('/sync', { schema }, (request, reply) => reply.sse(time))
// @ts-expect-error as without the plugin
app.get('/bare', { schema }, (request, reply) => reply.send({ n: 1 }))
`

/** A page knows neither Node's types nor Fastify's. */
const PAGE = `
import { SseClient, type ParsedData, type TypedEventSource } from 'fastify-sse-channels/client'

const source: TypedEventSource<{ tick: { n: number } }> = new EventSource('/events')
source.addEventListener('tick', event => {
  const { n } = JSON.parse(event.data) as ParsedData<typeof event>
  n.toFixed()
  // @ts-expect-error data is text
  event.data.n.toFixed()
})
// @ts-expect-error no such event
source.addEventListener('tock', () => {})
new SseClient<{ tick: { n: number } }>('/events', { parse: JSON.parse, share: true }).addEventListener('tick', event => event.data.n.toFixed())
`

/** All declarations are checked once for Node and once for a page: most of the time goes into that. */
const CONFIGURATIONS: Record<string, { files: string[] } & Record<string, unknown>> = {
  nodenext: { module: 'nodenext', lib: ['es2022'], types: ['node'], files: ['imports.mts', 'requires.cts'] },
  bundler: { module: 'esnext', moduleResolution: 'bundler', lib: ['es2022'], types: ['node'], skipLibCheck: true, files: ['imports.mts'] },
  typebox: { module: 'nodenext', lib: ['es2022'], types: ['node'], skipLibCheck: true, files: ['typebox.mts'] },
  page: { module: 'esnext', moduleResolution: 'bundler', lib: ['es2022', 'dom'], types: [], files: ['page.mts'] }
}

for (const [name, text] of Object.entries({ 'imports.mts': IMPORTS, 'requires.cts': REQUIRES, 'typebox.mts': TYPEBOX, 'page.mts': PAGE })) await writeFile(join(consumer, name), text)
const missing = await installCompilers()

for (const version of new Set([own, ...COMPILERS])) {
  const reason = version === own ? '' : missing
  const skip = reason !== '' && process.env.CI !== 'true' && `npm cannot install it: ${reason}`
  t.test(`TypeScript ${version}: a consumer type-checks, declarations included, and its mistakes are found`, { skip }, async t => {
    t.equal(reason, '', 'it is installed')
    for (const [name, configuration] of Object.entries(CONFIGURATIONS)) t.equal(await check(version, name, configuration), '', name)
  })
}
