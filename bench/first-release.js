/** The first release, for a comparison in the same run: its commit, built in a directory of its own. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const FIRST = 'first release'
const COMMIT = '62d29ce'

const root = fileURLToPath(new URL('..', import.meta.url))
let built

/** Its `dist` directory, or undefined where there is no such commit: a copy without its history. Gone when this process ends. */
export function firstRelease () {
  if (built === undefined) built = { dist: build() }
  return built.dist
}

function build () {
  const directory = mkdtempSync(join(os.tmpdir(), 'sse-first-release-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  const archive = spawnSync('git', ['archive', COMMIT, 'lib', 'package.json', 'tsconfig.json', 'tsconfig.build.json'], { cwd: root, maxBuffer: 2 ** 26 })
  if (archive.status !== 0) return undefined
  must(spawnSync('tar', ['-x', '-C', directory], { input: archive.stdout }))
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'))
  must(spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'], { cwd: directory }))
  return join(directory, 'dist')
}

function must ({ status, stdout, stderr, error }) {
  if (status !== 0) throw new Error(`the first release cannot be built: ${error ?? `${stdout}${stderr}`}`)
}
