import { test } from 'tap'
import { formatCursor, parseCursor } from '../../lib/log/cursor.ts'

test('a cursor names its place', t => {
  for (const seq of [0, 1, 35, 36, 1e13, 2 ** 52, Number.MAX_SAFE_INTEGER]) {
    t.same(parseCursor(formatCursor('0aZ', seq)), { life: '0aZ', seq })
  }
  t.equal(formatCursor('life', 35), 'life-z')
  t.end()
})

test('no text but that of formatCursor is a cursor', t => {
  const garbage = ['', '-', 'a', 'a-', '-1', 'a-00', 'a-01', 'a-Z', 'a--1', 'a-1-1', 'a-1 ', ' a-1', 'a-1\n', 'a b-1', 'ä-1', 'a-1.5', 'a-zzzzzzzzzzz', 'a-zzzzzzzzzzzz', 'x'.repeat(33) + '-1', 'a'.repeat(200) + '-1']
  t.same(garbage.filter(text => parseCursor(text) !== undefined), [])
  t.end()
})
