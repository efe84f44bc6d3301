import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { until } from './client.ts'

/** An example that runs, killed with the test. */
export interface Running {
  readonly url: string
  readonly child: ChildProcess
  /** What it printed, its address first. */
  readonly lines: string[]
  /** Sends the signal, and tells how the process ended, how long that took, and what it had complained of. */
  stop (signal: NodeJS.Signals): Promise<{ code: number | null, ms: number, errors: string }>
}

/** Runs an example as its users do, on a free port unless one is given. @param read what to keep of a line */
export async function runExample (t: { teardown: (fn: () => unknown) => void }, file: string, env: Record<string, string> = {}, read = (line: string): string => line): Promise<Running> {
  const child = spawn(process.execPath, ['--import', 'tsx', `example/${file}`], {
    cwd: fileURLToPath(new URL('..', import.meta.url)),
    env: { ...process.env, PORT: '0', HOST: '127.0.0.1', ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const ended = once(child, 'exit')
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const lines: string[] = []
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', text => { errors += text })
  createInterface(child.stdout).on('line', line => lines.push(read(line)))
  await until(() => lines.length > 0 || child.exitCode !== null, `${file} to start`)
  const url = /\bListening at (http:\S+)$/.exec(lines[0] ?? '')?.[1]
  if (url === undefined) throw new Error(`${file} did not start: ${lines[0]} ${errors}`)
  return {
    url,
    child,
    lines,
    async stop (signal) {
      const before = performance.now()
      child.kill(signal)
      await until(() => child.exitCode !== null || child.signalCode !== null, `${file} to end`)
      const [code] = await ended
      return { code, ms: performance.now() - before, errors }
    }
  }
}
