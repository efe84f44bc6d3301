import { SSE_ERR_INVALID_OPTION, received } from './errors.ts'

/** Nobody must be left to wonder why a misspelt option does nothing. @throws SSE_ERR_INVALID_OPTION naming the nearest one */
export function checkNames (group: string, options: object, known: readonly string[]): void {
  for (const name of Object.keys(options)) {
    if (known.includes(name)) continue
    const nearest = known.map(option => ({ option, distance: distance(name, option) })).sort((a, b) => a.distance - b.distance)[0]!
    const rule = nearest.distance <= 3 ? `left out: there is no such option. Did you mean "${group}${nearest.option}"?` : `one of ${known.join(', ')}`
    throw new SSE_ERR_INVALID_OPTION(group + name, rule, received(options[name as keyof typeof options]))
  }
}

/** How many letters must be changed, added or left out to make one word of the other. */
function distance (a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1]
    for (let j = 0; j < b.length; j++) next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (a[i] === b[j] ? 0 : 1)))
    row = next
  }
  return row[b.length]!
}

/** A reconnection time that the wire format can carry: digits alone (WHATWG HTML 9.2.6). */
export function isRetry (value: unknown): value is number {
  return Number.isSafeInteger(value) && value as number >= 0
}

/** An object that has no class: what options are. */
export function isPlain (value: unknown): value is object {
  return typeof value === 'object' && value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value))
}

export function isThenable (value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}

/** What an option answered: a promise would count as yes, or as a key that nobody else has. @throws SSE_ERR_INVALID_OPTION */
export function checkAnswer<T> (option: string, answer: T): T {
  if (!isThenable(answer)) return answer
  answer.then(undefined, () => {}) // Told already: that it rejects must not end the process.
  throw new SSE_ERR_INVALID_OPTION(option, 'synchronous', 'one that returns a promise')
}

/** @throws SSE_ERR_INVALID_OPTION */
export function checkSignal (signal: unknown): void {
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw new SSE_ERR_INVALID_OPTION('signal', 'an AbortSignal', received(signal))
}

/** The options of a call: an event or a number given in their place would be lost in silence. @throws SSE_ERR_INVALID_OPTION */
export function checkOptions (options: object, known: readonly string[]): void {
  if (!isPlain(options)) throw new SSE_ERR_INVALID_OPTION('options', 'an object', received(options))
  checkNames('', options, known)
}

/** Some options in an object of their own. @throws SSE_ERR_INVALID_OPTION */
export function group<T extends object> (name: string, value: T | undefined, known: readonly string[]): Partial<T> {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new SSE_ERR_INVALID_OPTION(name, 'an object', received(value))
  checkNames(name + '.', value, known)
  return value
}

/** A whole number, or Infinity. @throws SSE_ERR_INVALID_OPTION */
export function count (name: string, value: unknown, byDefault: number, least: number): number {
  if (value === undefined) return byDefault
  if (value === Infinity || (Number.isSafeInteger(value) && value as number >= least)) return value as number
  throw new SSE_ERR_INVALID_OPTION(name, `a whole number >= ${least}, or Infinity`, received(value))
}

/** The longest time that Node's timers take, 2^31 - 1 ms, is the longest that makes sense here. */
const LONGEST = 2_147_483_647

function isDuration (value: unknown): value is number {
  return typeof value === 'number' && value >= 0 && value <= LONGEST
}

/** Milliseconds. @throws SSE_ERR_INVALID_OPTION */
export function duration (name: string, value: unknown, byDefault: number): number {
  if (value === undefined) return byDefault
  if (isDuration(value)) return value
  throw new SSE_ERR_INVALID_OPTION(name, `a number of milliseconds from 0 to ${LONGEST}`, received(value))
}

/** @throws SSE_ERR_INVALID_OPTION */
export function retryTime (name: string, value: unknown, byDefault: number): number {
  if (value === undefined) return byDefault
  if (isRetry(value)) return value
  throw new SSE_ERR_INVALID_OPTION(name, 'a whole number of milliseconds >= 0', received(value))
}

/** @throws SSE_ERR_INVALID_OPTION */
export function fn<F extends Function> (name: string, value: F | undefined, byDefault: F): F {
  if (value === undefined) return byDefault
  if (typeof value === 'function') return value
  throw new SSE_ERR_INVALID_OPTION(name, 'a function', received(value))
}
