import { gzipSync } from 'node:zlib'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import t from 'tap'

const ENTRY = fileURLToPath(new URL('../../lib/client/index.ts', import.meta.url))

/** Bytes, minified and gzipped. What `share` takes is loaded by who shares. */
const MAX = { 'index.js': 4 * 1024, 'shared.js': 1.5 * 1024 }

t.test('a page loads at most 4 KB, and who shares at most 1.5 KB more', async t => {
  const { outputFiles } = await build({ entryPoints: [ENTRY], bundle: true, splitting: true, minify: true, format: 'esm', target: 'es2022', chunkNames: '[name]', outdir: 'out', write: false })
  const sizes = Object.fromEntries(outputFiles.map(({ path, contents }) => [path.split('/').at(-1)!, gzipSync(contents, { level: 9 }).length]))
  t.comment(sizes)
  t.same(Object.keys(sizes).sort(), Object.keys(MAX).sort())
  for (const [name, size] of Object.entries(sizes)) t.ok(size <= MAX[name as keyof typeof MAX], `${name}: ${size} bytes`)
})

t.test('the client asks for nothing of Node, and needs no global but fetch, streams and events', async t => {
  const { metafile, outputFiles } = await build({ entryPoints: [ENTRY], bundle: true, format: 'esm', platform: 'browser', metafile: true, write: false, splitting: true, outdir: 'out', chunkNames: '[name]' })
  for (const path of Object.keys(metafile.inputs)) t.match(path, /^lib\/client\/[\w-]+\.ts$/, 'it imports nothing of the plugin, and no package')
  for (const { text } of outputFiles) t.notMatch(text, /\b(window|self)\./)
})
