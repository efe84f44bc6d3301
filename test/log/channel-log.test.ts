import { test } from 'tap'
import { channelLog, item, seqs } from './item.ts'

test('an empty channel log has its base, and nothing after it', t => {
  const log = channelLog('a', {}, 7)
  t.same([log.base, log.last, log.events, log.oldest, log.newest, log.after(0), log.holdsEnd], [7, 7, 0, undefined, undefined, 0, false])
  t.end()
})

test('push, shift, unshift and after() agree with a plain array, in any order', t => {
  // Every sequence of seven steps.
  for (let steps = 0; steps < 3 ** 7; steps++) {
    const log = channelLog('a', {}, 100)
    let plain: number[] = []
    let base = 100
    let next = 101
    for (let i = 0, rest = steps; i < 7; i++, rest = Math.floor(rest / 3)) {
      if (rest % 3 === 0) {
        next += 2
        log.push(item(next))
        plain.push(next)
      } else if (rest % 3 === 1) {
        if (plain.length === 0) continue
        base = plain.shift()!
        log.shift()
      } else {
        const older = [base - 3, base - 1]
        base -= 4
        log.unshift(older.map(seq => item(seq)), base)
        plain = [...older, ...plain]
      }
      if (seqs(log) !== plain.join() || log.base !== base || log.oldest?.seq !== plain[0] || log.newest?.seq !== plain.at(-1)) return t.fail(`${steps}: ${seqs(log)} is not ${plain.join()}`)
      for (let seq = base - 1; seq <= next + 1; seq++) if (log.after(seq) !== plain.filter(held => held <= seq).length) return t.fail(`${steps}: after(${seq})`)
    }
  }
  t.end()
})

test('last stays where the newest entry was, when all are gone', t => {
  const log = channelLog()
  log.push(item(3))
  log.push(item(5))
  log.shift()
  log.shift()
  t.same([log.base, log.last, log.events], [5, 5, 0])
  t.end()
})

test('an end as the newest entry ends it, held or not', t => {
  const log = channelLog()
  log.push(item(1))
  t.notOk(log.ended)
  log.push(item(2, { kind: 'end' }))
  t.ok(log.ended && log.holdsEnd)
  log.shift()
  log.shift()
  t.same([log.ended, log.holdsEnd], [true, false])
  t.end()
})
