/** Servers and load clients as child processes: started, pinned, asked, measured, and always ended. */
import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { FIRST, firstRelease, present } from './builds.js'

const here = path => fileURLToPath(new URL(path, import.meta.url))
export const outDir = here('./out')

/** Which CPU the server runs on, and which the load; null where there is no taskset, or one CPU alone. */
export const cpus = { server: null, load: null }

/** Where the programs that are not JavaScript come from. */
export const compiled = {
  load: { source: here('./load.c'), command: ['cc', '-O2', '-o'] },
  'load-gzip': { source: here('./load.c'), command: ['cc', '-O2', '-DGZIP', '-o'], libraries: ['-lz'] },
  'c-write': { source: here('./subjects/c-write.c'), command: ['cc', '-O2', '-o'] },
  'go-channels': { source: here('./subjects/go-channels.go'), command: ['go', 'build', '-o'] }
}

const running = new Set()
const endAll = () => { for (const child of running) child.kill('SIGKILL') }
process.on('exit', endAll)
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))

/** A child that takes commands as lines and answers each with a line of JSON. */
export class Child {
  #process
  #answers = []
  #waiting = []
  #ended = null
  /** Processes of its own, which end with it. */
  pids = []

  /** @param {string[]} command @param {number | string | null} cpu */
  constructor (command, cpu) {
    const [file, ...args] = cpu === null ? command : ['taskset', '-c', String(cpu), ...command]
    // it ends with this process in any case: each child exits when its stdin closes
    this.#process = spawn(file, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_NO_WARNINGS: '1' } // some peers add many listeners to one response
    })
    running.add(this.#process)
    this.#process.stdin.on('error', () => {}) // it died: 'exit' tells
    this.#process.on('exit', (code, signal) => {
      running.delete(this.#process)
      this.#ended = new Error(`${command.at(-1)} ended (${signal ?? code})`)
      for (const { reject } of this.#waiting.splice(0)) reject(this.#ended)
    })
    createInterface({ input: this.#process.stdout }).on('line', line => {
      const waiter = this.#waiting.shift()
      if (waiter) waiter.resolve(JSON.parse(line))
      else this.#answers.push(JSON.parse(line))
    })
  }

  /** The next answer; an error when it takes longer than `ms`. */
  answer (ms = 60_000) {
    if (this.#answers.length) return Promise.resolve(this.#answers.shift())
    if (this.#ended) return Promise.reject(this.#ended)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no answer in ${ms} ms`)), ms)
      this.#waiting.push({
        resolve: value => { clearTimeout(timer); resolve(value) },
        reject: error => { clearTimeout(timer); reject(error) }
      })
    })
  }

  tell (command) {
    this.#process.stdin.write(`${command}\n`)
  }

  ask (command, ms) {
    this.tell(command)
    return this.answer(ms)
  }

  /** Seconds of CPU, user and system, of all its threads and processes, as the operating system counts them. */
  cpu () {
    return [this.#process.pid, ...this.pids].reduce((sum, pid) => {
      // the name in parentheses may hold spaces; utime and stime are fields 14 and 15, in ticks of 10 ms
      const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1].split(' ')
      return sum + (Number(fields[11]) + Number(fields[12])) / 100
    }, 0)
  }

  /** Resident memory in bytes. */
  rss () {
    const status = readFileSync(`/proc/${this.#process.pid}/status`, 'latin1')
    return Number(/VmRSS:\s+(\d+)/.exec(status)[1]) * 1024
  }

  end () {
    this.#process.kill('SIGKILL')
    return new Promise(resolve => {
      if (this.#ended) resolve()
      else this.#process.on('exit', resolve)
    })
  }
}

/** @param {string} subject @param {object} [options] of the library under test @param {number | string | null} [cpu] */
export async function startServer (subject, options = {}, cpu = cpus.server) {
  const name = subject === FIRST ? 'fastify-sse-channels' : subject
  const own = name === 'fastify-sse-channels' || name === 'cluster' ? { dist: subject === FIRST ? firstRelease() : present(), ...options } : options
  const command = compiled[name]
    ? [`${outDir}/${name}`]
    : [process.execPath, '--expose-gc', here('./subjects/server.js'), name.replace('@', '').replace('/', '-'), JSON.stringify(own)]
  const server = new Child(command, cpu)
  server.subject = subject
  const { port, pids = [] } = await server.answer(30_000)
  Object.assign(server, { port, pids })
  return server
}

/** @param {number} port @param {number | string | null} [cpu] @param {'load' | 'load-gzip'} [program] */
export function startLoad (port, cpu = cpus.load, program = 'load') {
  return new Child([`${outDir}/${program}`, String(port)], cpu)
}

/** Both CPUs, where what runs is spread over them. */
export function bothCpus () {
  return cpus.server === null ? null : `${cpus.server},${cpus.load}`
}

/**
 * Gives the server one CPU and the load another: this process stays with the load, for it has little to do.
 * @param {string} [chosen] the two
 */
export function pin (chosen) {
  const allowed = allowedCpus()
  const pins = chosen ? chosen.split(',').map(Number) : [allowed[0], allowed.at(-1)]
  if (allowed.length > 1 && spawnSync('taskset', ['-cp', String(pins[1]), String(process.pid)]).status === 0) [cpus.server, cpus.load] = pins
  else console.log('Nothing is pinned: that takes taskset and two CPUs.')
}

/** Builds it. Returns the compiler's words if it fails. */
export function compile (name) {
  const { source, command, libraries = [] } = compiled[name]
  const [file, ...args] = command
  const { status, stderr, error } = spawnSync(file, [...args, `${outDir}/${name}`, source, ...libraries], { encoding: 'utf8' })
  return status === 0 ? null : error ? `${file} is not installed` : stderr
}

/** Seconds that the server's CPU was busy, whoever used it, and those that a hypervisor took from it. */
export function busySeconds () {
  if (cpus.server === null) return NaN
  const line = new RegExp(`^cpu${cpus.server} (.*)`, 'm').exec(readFileSync('/proc/stat', 'latin1'))[1]
  const [user, nice, system, , , , , steal] = line.split(' ').map(Number)
  return (user + nice + system + steal) / 100
}

/** CPUs that this process may use. */
export function allowedCpus () {
  const list = /Cpus_allowed_list:\s+(\S+)/.exec(readFileSync('/proc/self/status', 'latin1'))[1]
  return list.split(',').flatMap(range => {
    const [from, to = from] = range.split('-').map(Number)
    return Array.from({ length: to - from + 1 }, (_, i) => from + i)
  })
}

export function openFilesLimit () {
  return Number(/Max open files\s+\d+\s+(\d+)/.exec(readFileSync('/proc/self/limits', 'latin1'))[1])
}
