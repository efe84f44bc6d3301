import { execFile } from 'node:child_process'
import { rmSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, symlink, writeFile } from 'node:fs/promises'
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

/** All that a consumer has beside the package: its dependencies, its peer, and what type-checks. No Redis client is among them. */
const INSTALLED = ['@fastify/error', 'fastify-plugin', 'fastify', '@types/node']

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
const [{ filename, files }] = JSON.parse(packed.stdout.slice(packed.stdout.indexOf('[\n'))) as [{ filename: string, files: Array<{ path: string }> }]
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

/** Type-checks files of the consumer, all declarations included, and gives the complaints. */
async function check (texts: Record<string, string>): Promise<string> {
  for (const [name, text] of Object.entries(texts)) await writeFile(join(consumer, name), text)
  const args = ['--noEmit', '--strict', '--exactOptionalPropertyTypes', '--skipLibCheck', 'false', '--target', 'es2022', '--module', 'nodenext', '--types', 'node', ...Object.keys(texts)]
  try {
    return (await run(process.execPath, [join(MODULES, 'typescript', 'bin', 'tsc'), ...args], { cwd: consumer, env: NODE_ENV })).stdout
  } catch (error) {
    return (error as { stdout?: string }).stdout ?? String(error)
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
  const modules = (await readdir(join(ROOT, 'lib'))).map(name => name.replace(/\.ts$/, ''))
  t.ok(modules.includes('index'))
  t.same(files.map(({ path }) => path).sort(), [
    'CHANGELOG.md', 'LICENSE', 'README.md', 'package.json',
    ...modules.flatMap(name => [`dist/${name}.d.ts`, `dist/${name}.js`])
  ].sort())
})

t.test('what is promised of the package stands in its package.json', async t => {
  const json = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8'))
  t.match(json, { name: 'fastify-sse-channels', license: 'MIT', type: 'module', engines: { node: '>=20.19' }, peerDependencies: { fastify: /^\^5/ } })
  t.same(Object.keys(json.dependencies).sort(), ['@fastify/error', 'fastify-plugin'])
})

t.test('nothing in the package leads out of it', async t => {
  for (const { path } of files.filter(({ path }) => path.startsWith('dist/'))) {
    const text = await readFile(join(installed, path), 'utf8')
    const specifiers = [...text.matchAll(/^(?:import|export)\b.* from '([^']+)'|^import '([^']+)'|\bimport\('([^']+)'\)/gm)].map(([, from, bare, dynamic]) => from ?? bare ?? dynamic!)
    for (const specifier of specifiers) {
      if (!specifier.startsWith('.')) t.match(specifier, /^(node:\w+(\/\w+)?|fastify|fastify-plugin|@fastify\/error)$/, path)
      else if (path.endsWith('.js')) t.match(specifier, /^\.\/[\w-]+\.js$/, `${path} imports what is built`)
      else t.match(specifier, /^\.\/[\w-]+\.(js|ts)$/, path)
    }
  }
})

t.test('publint finds nothing', async t => {
  const { messages } = await publint({ pack: { tarball: new Uint8Array(await readFile(tarball)).buffer }, level: 'suggestion', strict: true })
  const json = JSON.parse(await readFile(join(installed, 'package.json'), 'utf8'))
  t.same(messages.map(message => formatMessage(message, json)), [])
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

t.test('the files behind the entries cannot be reached past them', async t => {
  const { stdout } = await program('inside.mjs', `
    const codes = []
    for (const path of ['dist/index.js', 'dist/registry.js', 'lib/index.ts']) {
      await import('fastify-sse-channels/' + path).then(() => codes.push('loaded'), error => codes.push(error.code))
    }
    const { default: json } = await import('fastify-sse-channels/package.json', { with: { type: 'json' } })
    console.log(JSON.stringify([...codes, json.name]))
  `)
  t.same(JSON.parse(stdout), [...Array(3).fill('ERR_PACKAGE_PATH_NOT_EXPORTED'), 'fastify-sse-channels'])
})

t.test('a TypeScript consumer type-checks, declarations included, and its mistakes are found', async t => {
  const imports = `
    import Fastify from 'fastify'
    import sse, { memoryBackplane, type SseStream, type StoredEvent } from 'fastify-sse-channels'
    import { redisBackplane } from 'fastify-sse-channels/redis'

    declare module 'fastify-sse-channels' {
      interface SseChannels { time: { tick: { n: number } } }
    }

    const app = Fastify()
    await app.register(sse, { backplane: memoryBackplane(), history: { maxEvents: 5 }, retry: undefined })
    await app.register(sse, {
      backplane: redisBackplane({ client: { call: async () => {}, duplicate: () => ({}) }, key: 'sse' })
    })
    const time = app.sse.channel('time')
    await time.publish({ event: 'tick', data: { n: 1 } })
    await app.sse.publish(['time'], { event: 'tick', data: { n: 1 } })
    const n: number | undefined = time.history(1)[0]?.data.n
    console.log(n, app.sse.stats().closed.drain)
    app.get('/', (request, reply) => request.acceptsSse() ? reply.sse(time, { filter: event => event.data.n > 1 }) : reply.send('page'))
    app.get('/driven', async (request, reply) => {
      const stream: SseStream = reply.sse()
      await stream.send({ data: { any: 'thing' } })
      stream.subscribe(time)
    })
    app.sse.on('close', ({ reason, bytes }) => { const told: [string, number] = [reason, bytes]; console.log(told) })
    // @ts-expect-error wrong data
    time.publish({ event: 'tick', data: { n: '1' } })
    // @ts-expect-error no such event
    app.sse.publish('time', { event: 'tock', data: { n: 1 } })
    // @ts-expect-error a text is no source
    app.get('/text', (request, reply) => reply.sse('text'))
    export type { StoredEvent }
  `
  const requires = `
    import Fastify = require('fastify')
    import sse = require('fastify-sse-channels')

    const app = Fastify()
    app.register(sse.default, { backplane: sse.memoryBackplane() })
    app.get('/', (request, reply) => reply.sse(app.sse.channel('any')))
  `
  t.equal(await check({ 'imports.mts': imports, 'requires.cts': requires }), '')
})
