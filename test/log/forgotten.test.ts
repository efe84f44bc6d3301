import { test } from 'tap'
import { Forgotten } from '../../lib/log/forgotten.ts'

test('a channel that was never there begins at the bound', t => {
  t.equal(new Forgotten(7).take('a').last, 7)
  t.end()
})

test('a channel that is remembered begins at its last entry, once', t => {
  const forgotten = new Forgotten(0)
  forgotten.add('a', { last: 5, cut: false })
  forgotten.add('b', { last: 9, cut: true })
  t.same(['a', 'b', 'a'].map(name => forgotten.take(name)), [{ last: 5, cut: false }, { last: 9, cut: true }, { last: 0, cut: false }])
  t.end()
})

test('what falls out of the list raises the bound of all that are not in it', t => {
  const forgotten = new Forgotten(0)
  for (let i = 1; i <= 10_002; i++) forgotten.add(`c${i}`, { last: i, cut: false })
  t.same(['c1', 'c2', 'other', 'c3', 'c10002'].map(name => forgotten.take(name).last), [2, 2, 2, 3, 10_002])
  t.end()
})

test('names may be long, but not all of them together', t => {
  const forgotten = new Forgotten(0)
  const name = (i: number): string => String(i).padStart(300_000, 'x')
  for (let i = 1; i <= 5; i++) forgotten.add(name(i), { last: i, cut: false })
  t.same([5, 4, 3, 2, 1].map(i => forgotten.take(name(i)).last), [5, 4, 3, 2, 2])
  t.end()
})
