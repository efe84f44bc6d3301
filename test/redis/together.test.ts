import t from 'tap'
import { Together } from '../../lib/redis/together.ts'
import { until } from '../client.ts'

/** Answers when it is told to. */
function held (most: number): { together: Together<number, string>, batches: number[][], answer: (...answers: Array<string | Promise<string>>) => void, fail: (error: Error) => void } {
  const batches: number[][] = []
  let settle: { resolve: (answers: Array<string | Promise<string>>) => void, reject: (error: Error) => void } | undefined
  const together = new Together<number, string>(most, questions => {
    batches.push(questions)
    return new Promise((resolve, reject) => { settle = { resolve, reject } })
  })
  return { together, batches, answer: (...answers) => settle!.resolve(answers), fail: error => settle!.reject(error) }
}

t.test('what is asked in one turn goes out as one, what comes meanwhile as the next, in order and so many at most', async t => {
  const { together, batches, answer } = held(3)
  const first = [1, 2].map(n => together.ask(n))
  await until(() => batches.length === 1, 'the first is asked')
  const later = [3, 4, 5, 6].map(n => together.ask(n))
  answer('one', 'two')
  t.same(await Promise.all(first), ['one', 'two'])
  await until(() => batches.length === 2, 'the second is asked')
  answer('three', 'four', 'five')
  await until(() => batches.length === 3, 'the rest is asked')
  answer('six')
  t.same(await Promise.all(later), ['three', 'four', 'five', 'six'])
  t.same(batches, [[1, 2], [3, 4, 5], [6]])
  const again = together.ask(7)
  await until(() => batches.length === 4, 'it goes on later')
  answer('seven')
  t.equal(await again, 'seven')
})

t.test('those that got no answer go first the next time', async t => {
  const { together, batches, answer } = held(3)
  const asked = [1, 2, 3].map(n => together.ask(n))
  await until(() => batches.length === 1, 'they are asked')
  const more = together.ask(4)
  answer('one')
  t.equal(await asked[0], 'one')
  await until(() => batches.length === 2, 'the rest is asked')
  answer('two', 'three', 'four')
  t.same(await Promise.all([...asked, more]), ['one', 'two', 'three', 'four'])
  t.same(batches, [[1, 2, 3], [2, 3, 4]])
})

t.test('a failure is that of all who asked together, or of one alone, and of nobody after them', async t => {
  const { together, batches, answer, fail } = held(2)
  const asked = [1, 2, 3, 4].map(n => together.ask(n))
  await until(() => batches.length === 1, 'the first two are asked')
  fail(new Error('away'))
  for (const one of asked.slice(0, 2)) await t.rejects(one, { message: 'away' })
  await until(() => batches.length === 2, 'the next two are asked')
  answer(Promise.reject(new Error('of the wrong kind')), 'four')
  await t.rejects(asked[2]!, { message: 'of the wrong kind' })
  t.equal(await asked[3], 'four')
})
