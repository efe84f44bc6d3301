import { test } from 'tap'
import { Lives } from '../../lib/log/lives.ts'

const LIVES = new Lives([
  { id: 'a', start: 0, end: 10, broken: false },
  { id: 'b', start: 100, end: 120, broken: true },
  { id: 'c', start: 200, end: 200, broken: false },
  { id: 'd', start: 300, end: Infinity, broken: false }
])

test('a place has the cursor of the life that it is of', t => {
  t.same([0, 10, 100, 101, 120, 200, 300, 999].map(seq => LIVES.cursorAt(seq).slice(0, 1)).join(''), 'aabbbcdd')
  t.end()
})

test('a cursor is good up to the end of its life, and as far back as nothing was lost', t => {
  const good = ['b-2s', 'b-3c', 'c-5k', 'd-8c', 'd-zz'].map(cursor => LIVES.placeOf(cursor))
  t.same(good, [100, 120, 200, 300, 1_295])
  // Past the end, of before the loss, of no life, no cursor.
  t.same(['b-3d', 'c-5l', 'a-1', 'x-1', 'd'].map(cursor => LIVES.placeOf(cursor)), Array(5).fill(undefined))
  t.same(['b-3d', 'a-1', 'x-1', 'd'].map(cursor => LIVES.isUnknown(cursor)), [false, false, true, false])
  t.equal(LIVES.edge, 100)
  t.equal(LIVES.id, 'd')
  t.end()
})

test('before anything is known there is no life, and no good cursor', t => {
  const none = new Lives([])
  t.same([none.id, none.edge, none.placeOf('a-1')], [undefined, 0, undefined])
  t.end()
})
