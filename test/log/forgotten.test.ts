import { test } from 'tap'
import { Forgotten } from '../../lib/log/forgotten.ts'

test('a channel that was never there begins at the bound', t => {
  t.equal(new Forgotten(7).take('a'), 7)
  t.end()
})

test('a channel that is remembered begins at its last entry, once', t => {
  const forgotten = new Forgotten(0)
  forgotten.add('a', 5)
  forgotten.add('b', 9)
  t.same(['a', 'b', 'a'].map(name => forgotten.take(name)), [5, 9, 0])
  t.end()
})

test('what falls out of the list raises the bound of all that are not in it', t => {
  const forgotten = new Forgotten(0)
  for (let i = 1; i <= 10_002; i++) forgotten.add(`c${i}`, i)
  t.same(['c1', 'c2', 'other', 'c3', 'c10002'].map(name => forgotten.take(name)), [2, 2, 2, 3, 10_002])
  t.end()
})

test('names may be long, but not all of them together', t => {
  const forgotten = new Forgotten(0)
  const name = (i: number): string => String(i).padStart(300_000, 'x')
  for (let i = 1; i <= 5; i++) forgotten.add(name(i), i)
  t.same([5, 4, 3, 2, 1].map(i => forgotten.take(name(i))), [5, 4, 3, 2, 2])
  t.end()
})
