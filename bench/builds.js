/**
 * Builds of the library to measure, each in a directory of its own, so that whoever works in this checkout meanwhile neither disturbs
 * nor is disturbed: the present one, and the first release for a comparison in the same run. Gone when this process ends.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const FIRST = 'first release'
const COMMIT = '62d29ce'

const root = fileURLToPath(new URL('..', import.meta.url))
const built = new Map()

/** The directory of the present build. */
export const present = () => once('present', 'lib', directory => {
  for (const name of ['lib', 'package.json', 'tsconfig.json']) cpSync(join(root, name), join(directory, name), { recursive: true })
  return true
})

/** That of the first release, or undefined where there is no such commit: a copy without its history. */
export const firstRelease = () => once(COMMIT, 'tsconfig.build.json', directory => {
  const { status, stdout } = spawnSync('git', ['archive', COMMIT, 'lib', 'package.json', 'tsconfig.json', 'tsconfig.build.json'], { cwd: root, maxBuffer: 2 ** 26 })
  return status === 0 && must('git archive', spawnSync('tar', ['-x', '-C', directory], { input: stdout }))
})

function once (name, project, fetch) {
  if (!built.has(name)) built.set(name, build(name, project, fetch))
  return built.get(name)
}

function build (name, project, fetch) {
  const directory = mkdtempSync(join(os.tmpdir(), 'sse-bench-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  if (!fetch(directory)) return undefined
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'))
  must(`building ${name}`, spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', project], { cwd: directory }))
  return join(directory, 'dist')
}

function must (what, { status, stdout, stderr, error }) {
  if (status === 0) return true
  throw new Error(`${what} failed: ${error ?? `${stdout}${stderr}`}`)
}
