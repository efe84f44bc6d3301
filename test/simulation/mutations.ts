import type { Edit } from './variant.ts'

/** A fault that somebody might write, and the mode whose seeds find it. */
export interface Mutation {
  readonly name: string
  readonly mode: string
  readonly edits: readonly Edit[]
}

const LOG = 'lib/log/log.ts'
const LOGS = 'lib/log/channel-logs.ts'
const CHANNEL_LOG = 'lib/log/channel-log.ts'
const CATCH_UP = 'lib/log/catch-up.ts'
const STORE = 'lib/log/store.ts'
const FORGOTTEN = 'lib/log/forgotten.ts'
const LOG_LIVES = 'lib/log/lives.ts'
const REDIS_LIVES = 'lib/redis/lives.ts'
const READER = 'lib/stream/reader.ts'
const START = 'lib/stream/start.ts'
const PIECES = 'lib/stream/pieces.ts'

const SERVER = 'test/simulation/server.ts'
const SIMULATE = 'test/simulation/simulate.ts'

/** The table of lives holds so few that some leave it: whoever was away for longer is told of a loss, though there was none. */
export const FEW_LIVES: readonly Edit[] = [
  { file: SERVER, text: 'const LIVES = 256', replacement: 'const LIVES = 3' },
  { file: REDIS_LIVES, text: 'const SETTLED = 128', replacement: 'const SETTLED = 2' }
]

const one = (name: string, mode: string, file: string, text: string, replacement: string): Mutation => ({ name, mode, edits: [{ file, text, replacement }] })

export const MUTATIONS: readonly Mutation[] = [
  one('no check of prev', 'silent', LOG, 'const whole = prev', 'const whole = true || prev'),
  one('head moved by an answer of read', 'hasty', LOG, 'ready: log => host.ready(log)', 'ready: one => { log.head = Math.max(log.head, one.last); host.ready(one) }'),
  one('no hold after broken()', 'cut', READER, 'if (!found || !current) return false', 'if (!found) return false'),
  one('floor ignored', 'del', CATCH_UP, 'const lost = floor > after', 'const lost = false'),
  one('no gap for a lost range', 'del', READER, "        this.#gaps.add('reset', log)\n        return { ...subscription, from: log.base", '        return { ...subscription, from: log.base'),
  one('no gap for what was moved past', 'silent', READER, "if (lacked <= this.position) this.#gaps.add('reset', log)", ''),
  one('no overrun gap', 'trim', READER, "      this.#gaps.add('overrun', log)\n", ''),
  one('no read after mended()', 'cut', LOG, '      this.#distrust(log)\n      this.#catchUp?.load(log)\n', '      log.current = true\n'),
  {
    name: 'mended() taken for what is not watched yet',
    mode: 'hasty',
    edits: [
      { file: LOGS, text: 'const LINGER = 30_000', replacement: 'const LINGER = 500' }, // so that more is watched
      { file: LOG, text: '      this.#distrust(log)\n      this.#catchUp?.load(log)\n', replacement: '      this.#distrust(log)\n      log.watched = true\n      this.#catchUp?.load(log)\n' }
    ]
  },
  one('broken() not seen', 'cut', LOG, 'if (!this.#up) return\n', 'return\n'),
  one('lives not told apart: cursors', 'suffix', LOG_LIVES, 'const good = i >= 0 &&', 'const good = true ||'),
  one('a cursor from before a loss', 'suffix', LOG_LIVES, '&& !this.#lives.some(({ broken }, j) => broken && j > i)', ''),
  one('evidence of a loss not told', 'suffix', REDIS_LIVES, 'const seen = this.#evidence.get(life)', 'if (seq > 0) return\n    const seen = this.#evidence.get(life)'),
  one('a loss not seen in the table', 'split', REDIS_LIVES, 'return table.slice(at + 1).some(({ broken }) => broken)', 'return false'),
  {
    name: 'what is kept outlives the name of its life',
    mode: 'losses',
    edits: [...FEW_LIVES, { file: LOG_LIVES, text: 'return this.#lives[0]?.start ?? 0 }\n\n  /** Below', replacement: 'return 0 }\n\n  /** Below' }]
  },
  {
    name: 'what was seen in a life that has left the table taken for kept',
    mode: 'everything',
    edits: [...FEW_LIVES, { file: SERVER, text: '(ends.get(life) ?? -1)', replacement: '(ends.get(life) ?? hash.lives[0]!.start)' }]
  },
  one('restarted not told to streams', 'suffix', LOG, 'for (const member of members) member.restarted()', ''),
  one('what is heard during a read not kept', 'cut', CATCH_UP, 'log.aside.push({ item, prev })', ''),
  one('an entry of several channels put in copy by copy', 'calm', LOG, 'if (log !== undefined) this.#take(log, item, prevs?.[i], now)', 'if (log !== undefined && item.seq > log.last) { this.#take(log, item, prevs?.[i], now); break }'),
  one('liveness not checked', 'cut', 'test/simulation/connection.ts', 'const PATIENCE = 1_200', 'const PATIENCE = 1e9'),

  { name: 'too much put aside, not read again', mode: 'calm', edits: [{ file: CATCH_UP, text: 'const MAX_ASIDE = 1_000', replacement: 'const MAX_ASIDE = 1' }, { file: CATCH_UP, text: 'if (log.asking !== undefined) log.asking.again = true', replacement: '' }] },
  one('read before it is watched', 'hasty', LOG, 'shared.watch([name]).then(', 'shared.watch([name]); Promise.resolve().then('),
  one('a failed read not made again', 'cut', CATCH_UP, '}, () => this.#loadLater(log, asking))', '}, () => {})'),
  one('an answer from before the break taken', 'hasty', CATCH_UP, '      if (log.asking !== asking) return\n      if (kept', '      if (kept'),
  one('what an answer brought not sent once the head is there', 'calm', CATCH_UP, '      this.#host.ready(log)\n    }\n  }\n\n  /** Nobody', '    }\n  }\n\n  /** Nobody'),
  one('a hole between what was read and what was evicted', 'bytes', CATCH_UP, ' || (log.base !== base && kept.last < log.base)', ''),
  one('what is too old is not missed by who asks for all', 'age', CATCH_UP, '    if (tooOld >= 0) log.cut = true\n', ''),
  one('what is evicted is not missed by who asks for all', 'trim', CHANNEL_LOG, '    this.cut = true\n', ''),
  one('what is left is all', 'trim', START, 'rewind === Infinity && channel.cut', 'false'),
  one('a forgotten channel never had anything', 'memoryBytes', LOGS, 'cut: log.cut && !log.ended', 'cut: false'),
  one('what is too old leaves no trace', 'age', CATCH_UP, 'tooOld < 0 ? floor : older[tooOld]!.seq', 'floor'),
  one('evicted, and base stays', 'trim', CHANNEL_LOG, 'this.base = item.seq', ''),
  one('forgotten channels begin anew', 'memoryBytes', FORGOTTEN, '    this.#channels.set(name, channel)\n', ''),
  one('evicted while a filter runs', 'memoryFilters', STORE, '    if (this.frozen) {\n', '    if (this.bytes < 0) {\n'),

  one('older entries not read', 'calm', START, '? place! >= channel.base : channel.events', '? true : channel.events'),
  one('a read of older entries lost with its connection', 'hasty', START, ' || (!this.#older.done && this.#older !== channel.askingOlder)', ''),
  one('a cursor newer than the head is unknown', 'hasty', START, 'if (mayBeNewer)', 'if (place === -1)'),
  {
    name: 'a life that began elsewhere is unknown',
    mode: 'planned',
    edits: [
      { file: SERVER, text: 'die (notice = 300)', replacement: 'die (notice = 1_000)' }, // so that more come before it is known
      { file: START, text: 'cursor !== null && this.#log.lives.isUnknown(cursor)', replacement: 'false' }
    ]
  },
  one('what went out repeated after going back', 'calm', READER, 'seen: Math.max(subscription.seen, stood)', 'seen: subscription.seen'),
  {
    name: 'ages by the clock of another server believed',
    mode: 'planned',
    edits: [
      { file: LOGS, text: 'const LINGER = 30_000', replacement: 'const LINGER = 500' },
      { file: CATCH_UP, text: '    log.aside = []\n    log.born = -Infinity\n', replacement: '    log.aside = []\n' }
    ]
  },
  one('a channel that was read goes back', 'calm', CHANNEL_LOG, '!this.current && !this.watched && ', '!this.current && '),
  one('what came after it was joined taken for older', 'calm', CATCH_UP, 'now - age + 1 <= log.born', 'now - age <= log.born + 2_000'),
  one('no fresh cursor after going back', 'calm', READER, 'return this.cursor < this.#reached', 'return false'),
  one('no gap for a channel joined late', 'calm', START, 'cursor !== null || late', 'cursor !== null'),
  one('no gap for an expired cursor', 'trim', START, "      gaps.add('expired', channel)\n", ''),
  one('no gap for an unknown cursor', 'foreign', START, "      gaps.add('unknown', channel)\n", ''),
  one('a gap for what a faster process had sent', 'cut', READER, 'const from = Math.max(after, subscription.from)', 'const from = after'),
  one('no gap for what was evicted before the start', 'burstTrim', START, 'if (cursor === null && !late && head < channel.base)', 'if (place === -1)'),
  one('what was published since it was joined left out', 'calm', START, 'return Math.min(after, Math.max(head, channel.base))', 'return after'),
  one('several rewinds begin at the newest of them', 'calm', READER, 'least = Math.min(least, from)', 'least = stood === Infinity && least !== Infinity ? Math.max(least, from) : Math.min(least, from)'),
  one('a rewind reaches over a loss', 'suffix', START, "if (cursor === null && index < channel.events && channel.at(index).seq <= this.#log.lives.edge) gaps.add('reset', channel)", ''),

  one('asked for again, a channel begins anew', 'calm', READER, 'if (i >= 0 && !chosen) {', 'if (i < -1) {'),
  one('history begins with the oldest', 'memory', LOG, 'log.at(log.events - count + i)', 'log.at(i)'),
  one('what a read left out is not missed', 'mixedEnds', CATCH_UP, 'this.#store.empty(log, floor)', 'this.#store.empty(log, after)'),
  one('nothing to come where one channel has ended', 'ends', READER, '!this.owesGaps && this.ended', '!this.owesGaps && (this.ended || this.endedInPart)'),
  one('an end that was read is none', 'endsQuiet', CATCH_UP, 'log.ended = ended ||', 'log.ended ='),

  one('a full piece steps over an event', 'calm', PIECES, 'return piece(item.seq - 1, true)', 'return piece(item.seq, true)'),
  one('an event of two channels twice', 'calm', PIECES, 'next[i]!++\n', 'next[i]!++; if (i > 0) continue\n'),
  one('pieces shared by different filters', 'calm', PIECES, ' || one.filter !== other.filter', '')
]

/** Limits of the code made so small that runs meet them. They must change nothing. */
export const SMALL: readonly Edit[] = [
  { file: CATCH_UP, text: 'const MAX_ASIDE = 1_000', replacement: 'const MAX_ASIDE = 2' },
  { file: LOGS, text: 'const A_SWEEP = 10_000', replacement: 'const A_SWEEP = 2' },
  { file: LOGS, text: 'const LINGER = 30_000', replacement: 'const LINGER = 2_000' },
  { file: STORE, text: 'const LEAST_ROOM = 128', replacement: 'const LEAST_ROOM = 2' },
  { file: STORE, text: 'const LEAST_ROOM_BYTES = 4 * 1024 * 1024', replacement: 'const LEAST_ROOM_BYTES = 1' },
  { file: FORGOTTEN, text: 'const REMEMBERED = 10_000', replacement: 'const REMEMBERED = 1' },
  // A channel whose name was forgotten is a new one.
  { file: SIMULATE, text: 'whole: mode.late', replacement: 'whole: servers !== undefined && mode.late' },
  { file: REDIS_LIVES, text: 'const REMEMBERED = 16', replacement: 'const REMEMBERED = 8' },
  { file: PIECES, text: 'const SHARED_KINDS = 8', replacement: 'const SHARED_KINDS = 1' },
  { file: PIECES, text: 'const SHARED_BYTES = 8 * 1024 * 1024', replacement: 'const SHARED_BYTES = 200' },
  { file: PIECES, text: 'const PIECE_ENTRIES = 512', replacement: 'const PIECE_ENTRIES = 3' }
]
