import t from 'tap'
import type { Failure, SseErrorCode } from '../../lib/client/error.ts'
import { initial, next, type Circumstances, type Input, type State } from '../../lib/client/state.ts'

// The machine is small enough to be asked everything: each state with each input, in one table.

const NOW = 1_000_000
const RULES: Circumstances = { min: 100, max: 60_000, retry: 3_000, canAsk: true, canRepeat: true, isOnline: true, isVisible: true, now: NOW, random: 0 }
const failure = (code: SseErrorCode, status = 0): Failure => ({ code, status, message: code })
const CUT = failure('cut', 200)
const failed = (error: Failure, retryAfter = NaN): Input => ({ type: 'failed', error, retryAfter })

const WAITING: State = { name: 'waiting', failures: 2, asked: false, until: NOW + 5_000, held: false, error: CUT }
const STATES: Record<State['name'], State> = {
  connecting: { name: 'connecting', failures: 2, asked: false },
  open: { name: 'open', failures: 2, since: NOW - 3_000 },
  asking: { name: 'asking', failures: 2, error: failure('status', 401) },
  waiting: WAITING,
  offline: { ...WAITING, name: 'offline' },
  paused: { name: 'paused' },
  closed: { name: 'closed' }
}
const INPUTS: Record<string, Input> = {
  opened: { type: 'opened' },
  cut: failed(CUT),
  503: failed(failure('status', 503)),
  401: failed(failure('status', 401)),
  404: failed(failure('status', 404)),
  204: failed(failure('ended', 204)),
  due: { type: 'due' },
  authorized: { type: 'authorized', isAuthorized: true },
  'not authorized': { type: 'authorized', isAuthorized: false },
  online: { type: 'online' },
  visibilitychange: { type: 'visibilitychange' },
  offline: { type: 'offline' },
  pagehide: { type: 'pagehide' },
  freeze: { type: 'freeze' },
  pageshow: { type: 'pageshow' },
  resume: { type: 'resume' },
  close: { type: 'close' }
}
/** '-': the same object. */
const TABLE: Record<string, Record<State['name'], State['name'] | '-'>> = {
  opened: { connecting: 'open', open: '-', asking: '-', waiting: '-', offline: '-', paused: '-', closed: '-' },
  cut: { connecting: 'waiting', open: 'waiting', asking: '-', waiting: '-', offline: '-', paused: '-', closed: '-' },
  503: { connecting: 'waiting', open: 'waiting', asking: '-', waiting: '-', offline: '-', paused: '-', closed: '-' },
  401: { connecting: 'asking', open: 'asking', asking: '-', waiting: '-', offline: '-', paused: '-', closed: '-' },
  404: { connecting: 'closed', open: 'closed', asking: '-', waiting: '-', offline: '-', paused: '-', closed: '-' },
  204: { connecting: 'closed', open: 'closed', asking: '-', waiting: '-', offline: '-', paused: '-', closed: '-' },
  due: { connecting: '-', open: '-', asking: '-', waiting: 'connecting', offline: 'connecting', paused: '-', closed: '-' },
  authorized: { connecting: '-', open: '-', asking: 'connecting', waiting: '-', offline: '-', paused: '-', closed: '-' },
  'not authorized': { connecting: '-', open: '-', asking: 'closed', waiting: '-', offline: '-', paused: '-', closed: '-' },
  online: { connecting: '-', open: 'connecting', asking: '-', waiting: 'connecting', offline: 'connecting', paused: '-', closed: '-' },
  visibilitychange: { connecting: '-', open: '-', asking: '-', waiting: 'connecting', offline: 'connecting', paused: '-', closed: '-' },
  offline: { connecting: '-', open: '-', asking: '-', waiting: 'offline', offline: '-', paused: '-', closed: '-' },
  pagehide: { connecting: 'paused', open: 'paused', asking: 'paused', waiting: 'paused', offline: 'paused', paused: '-', closed: '-' },
  freeze: { connecting: 'paused', open: 'paused', asking: 'paused', waiting: 'paused', offline: 'paused', paused: '-', closed: '-' },
  pageshow: { connecting: '-', open: '-', asking: '-', waiting: '-', offline: '-', paused: 'connecting', closed: '-' },
  resume: { connecting: '-', open: '-', asking: '-', waiting: '-', offline: '-', paused: 'connecting', closed: '-' },
  close: { connecting: 'closed', open: 'closed', asking: 'closed', waiting: 'closed', offline: 'closed', paused: 'closed', closed: '-' }
}

t.test('each state with each input goes where the table says', t => {
  t.same(Object.keys(TABLE), Object.keys(INPUTS), 'no input is left out')
  for (const [name, input] of Object.entries(INPUTS)) {
    for (const [from, state] of Object.entries(STATES)) {
      const to = next(state, input, RULES)
      t.equal(to === state ? '-' : to.name, TABLE[name]![from as State['name']], `${from}, ${name}`)
    }
  }
  t.end()
})

t.test('a page that is hidden tries no sooner, and one that knows itself offline waits as such', t => {
  t.equal(next(WAITING, { type: 'visibilitychange' }, { ...RULES, isVisible: false }), WAITING)
  for (const from of [STATES.connecting, STATES.open]) t.equal(next(from, failed(CUT), { ...RULES, isOnline: false }).name, 'offline')
  t.end()
})

t.test('a status that may pass is tried again, any other closes, and an answer that is no stream too', t => {
  const goes = (code: SseErrorCode, status: number): string => next(initial, failed(failure(code, status)), { ...RULES, canAsk: false }).name
  for (const status of [408, 429, 500, 502, 503, 504, 599]) t.equal(goes('status', status), 'waiting', String(status))
  for (const status of [100, 201, 206, 304, 400, 401, 403, 404, 410, 422]) t.equal(goes('status', status), 'closed', String(status))
  for (const code of ['type', 'request', 'size'] as const) t.equal(goes(code, 200), 'closed', code)
  for (const code of ['network', 'cut', 'inactivity', 'headers', 'ended'] as const) t.equal(goes(code, 0), 'waiting', code)
  t.end()
})

t.test('onUnauthorized is asked once; a second refusal closes, with that refusal; an open connection gives it back', t => {
  for (const status of [401, 403]) {
    const refused = failed(failure('status', status))
    const asking = next(initial, refused, RULES)
    t.equal(asking.name, 'asking')
    const again = next(asking, { type: 'authorized', isAuthorized: true }, RULES)
    t.match(next(again, refused, RULES), { name: 'closed', error: { status } })
    const cutBetween = next(next(again, failed(failure('network')), RULES), { type: 'due' }, RULES)
    t.equal(next(cutBetween, refused, RULES).name, 'closed', 'a network failure between the two changes nothing')
    const reopened = next(next(again, { type: 'opened' }, RULES), failed(CUT), RULES)
    t.equal(next(next(reopened, { type: 'due' }, RULES), refused, RULES).name, 'asking')
    t.match(next(asking, { type: 'authorized', isAuthorized: false, cause: 'no' }, RULES), { name: 'closed', error: { status, cause: 'no' } })
    t.equal(next(initial, refused, { ...RULES, canAsk: false }).name, 'closed')
  }
  t.end()
})

const until = (state: State, input: Input, rules: Partial<Circumstances> = {}): number => {
  const to = next(state, input, { ...RULES, ...rules })
  if (to.name !== 'waiting') throw new Error(to.name)
  return to.until - NOW
}
const after = (failures: number): State => ({ name: 'connecting', failures, asked: false })

t.test('the wait is never less than the server said, and random above it: up to twice as long after each failure, and never over the maximum', t => {
  for (let n = 0; n < 40; n++) {
    const ceiling = Math.min(60_000, 3_000 * 2 ** (n + 1))
    t.equal(until(after(n), failed(CUT)), 3_000)
    t.equal(until(after(n), failed(CUT), { random: 0.5 }), 3_000 + (ceiling - 3_000) / 2)
    t.ok(until(after(n), failed(CUT), { random: 0.999_999 }) <= 60_000)
  }
  t.equal(until(after(9), failed(CUT), { random: 1, retry: 100_000 }), 100_000, 'what the server asks for stands above the maximum')
  t.equal(until(after(0), failed(CUT), { retry: 0 }), 100, 'never without a pause')
  t.end()
})

t.test('after any number of failures there is a time for the next try, whatever the limits', t => {
  for (const failures of [1_000, 1_023, 5_000, 1e9]) {
    t.equal(until(after(failures), failed(CUT), { random: 0.5, min: 0, retry: 0 }), 0, `no pause asked for, ${failures} failures`)
    for (const random of [0, 0.5]) t.ok(Number.isFinite(until(after(failures), failed(CUT), { random, max: Infinity })), `no maximum, ${failures} failures`)
  }
  t.end()
})

t.test('a connection that lasted starts the count anew; where the server ended it, the wait is what it said', t => {
  const open: State = { name: 'open', failures: 7, since: NOW - 3_000 }
  t.equal(until(open, failed(failure('ended', 200)), { random: 1 }), 3_000)
  t.equal(until(open, failed(CUT), { random: 1 }), 6_000)
  const short: State = { name: 'open', failures: 7, since: NOW - 2_999 }
  t.equal(until(short, failed(failure('ended', 200)), { random: 1 }), 60_000, 'streams that end at once are failures')
  t.end()
})

t.test('Retry-After is obeyed in place of the retry, and neither a page that is shown nor one that is online comes before it', t => {
  const busy = failed(failure('status', 429), 120_000)
  t.equal(until(after(0), busy), 120_000)
  t.equal(until(after(0), failed(failure('status', 429), 120_000), { random: 1 }), 123_000, 'clients come back one by one')
  t.equal(until(after(0), failed(failure('status', 503), 20)), 100, 'never without a pause')
  for (const retryAfter of [0, -1, NaN]) t.equal(until(after(0), failed(failure('status', 503), retryAfter)), 3_000, 'none is none')
  const waiting = next(after(0), busy, RULES)
  t.equal(next(waiting, { type: 'due' }, RULES).name, 'connecting')
  for (const type of ['visibilitychange', 'online'] as const) {
    t.equal(next(waiting, { type }, RULES).name, 'waiting')
  }
  t.equal(next(next(waiting, { type: 'offline' }, RULES), { type: 'online' }, RULES).name, 'waiting', 'but it is not offline any more')
  t.end()
})

t.test('a request that must not be made again is not: it closes where another waits, and is not given up for a page that hides', t => {
  const rules = { ...RULES, canRepeat: false }
  t.match(next(STATES.open, failed(CUT), rules), { name: 'closed', error: CUT })
  t.match(next(initial, failed(failure('status', 503)), rules), { name: 'closed', error: { status: 503 } })
  t.equal(next(initial, failed(failure('headers')), rules).name, 'waiting', 'nothing was sent')
  t.equal(next(STATES.open, { type: 'online' }, rules), STATES.open)
  t.equal(next(STATES.open, { type: 'pagehide' }, rules), STATES.open)
  t.end()
})

t.test('100,000 random inputs: closed is for ever, a wait is never in the past nor shorter than the minimum, and no input changes a state in place', t => {
  let seed = 7
  const random = (): number => { // mulberry32: the same inputs each time
    seed = (seed + 0x6D2B79F5) | 0
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!
  const inputs = Object.values(INPUTS).filter(({ type }) => type !== 'close')
  let state: State = initial
  let now = NOW
  const reached = new Set<string>()
  for (let n = 0; n < 100_000; n++) {
    now += Math.floor(random() * 5_000)
    const input = pick(inputs)
    const rules = { min: pick([1, 100]), max: pick([0, 1_000, 60_000]), retry: pick([0, 10, 3_000]), canAsk: random() < 0.5, canRepeat: random() < 0.9, isOnline: random() < 0.5, isVisible: random() < 0.5, now, random: random() }
    const to = next(Object.freeze(state), input, rules)
    reached.add(to.name)
    if ('until' in to && to !== state && to.until < now && input.type === 'failed') t.fail('a wait in the past')
    if ('until' in to && !('until' in state) && to.until - now < rules.min) t.fail('a wait shorter than the minimum')
    if (state.name === 'closed' && to !== state) t.fail('closed no more')
    state = to.name === 'closed' && random() < 0.5 ? initial : to
  }
  t.same([...reached].sort(), Object.keys(STATES).sort(), 'each state was reached')
  t.end()
})
