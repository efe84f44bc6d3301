import t from 'tap'
import { SSE_ERR_BACKPLANE_DOWN } from '../../lib/errors.ts'
import { memoryBackplane, type Backplane, type Receiver } from '../../lib/index.ts'
import { Watched } from '../../lib/registry/watched.ts'
import { build, logger } from '../client.ts'

const turns = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 20))

const unhandled: unknown[] = []
process.on('unhandledRejection', error => unhandled.push(error))

const cause = new Error('it failed')

/** Ways to handle a rejection, and what comes of it. */
const HANDLED: Record<string, (promise: Promise<string>) => Promise<unknown>> = {
  await: async promise => { try { return await promise } catch (error) { return error } },
  catch: promise => promise.catch(error => error),
  'then with two handlers': promise => promise.then(() => 'no', error => error),
  'then and catch': promise => promise.then(() => 'no').catch(error => error),
  'finally and catch': promise => promise.finally(() => {}).catch(error => error),
  'Promise.all': promise => Promise.all([promise]).catch(error => error),
  'Promise.allSettled': async promise => (await Promise.allSettled([promise]) as Array<{ reason: unknown }>)[0]!.reason,
  'an async function that returns it': promise => (async () => promise)().catch(error => error),
  'a turn of microtasks later': async promise => { await null; await null; return promise.catch(error => error) }
}

for (const [how, handle] of Object.entries(HANDLED)) {
  t.test(`a failure that is handled by ${how} is not told`, async t => {
    const told: unknown[] = []
    t.equal(await handle(Watched.of<string>(Promise.reject(cause), error => told.push(error))), cause)
    await turns()
    t.same(told, [])
    t.same(unhandled, [])
  })
}

const UNHANDLED: Record<string, (promise: Promise<string>) => unknown> = {
  nothing: () => {},
  'then without a handler of rejections': promise => promise.then(() => {}),
  'two of them': promise => promise.then(() => {}).then(() => {}),
  finally: promise => promise.finally(() => {})
}

for (const [how, leave] of Object.entries(UNHANDLED)) {
  t.test(`a failure that nobody handles, but for ${how}, is told once and does not end the process`, async t => {
    const told: unknown[] = []
    leave(Watched.of<string>(Promise.reject(cause), error => told.push(error)))
    await turns()
    t.same(told, [cause])
    t.same(unhandled, [])
  })
}

t.test('what a caller\'s own function throws is not swallowed', async t => {
  const mine = new Error('a mistake of the caller')
  const told: unknown[] = []
  Watched.of(Promise.resolve('x'), error => told.push(error)).then(() => { throw mine })
  await turns()
  t.same(unhandled.splice(0), [mine])
  t.same(told, [])
})

t.test('what it resolves with is as ever', async t => {
  const promise = Watched.of(Promise.resolve('x'), () => t.fail('told'))
  t.equal(await promise, 'x')
  t.ok(promise instanceof Promise)
  t.equal(await promise.then(text => text + 'y').finally(() => {}), 'xy')
})

t.test('a publish that fails is logged where nobody handles it, and not where somebody does', async t => {
  const lines: any[] = []
  const app = await build(t, {}, logger(lines, 'warn'))
  app.sse.publish('a', { data: 1n })
  await t.rejects(app.sse.publish('a', { data: 1n }), { code: 'SSE_ERR_INVALID_EVENT' })
  app.sse.channel('a').publish({ data: 1n }).catch(() => {})
  await turns()
  t.match(lines, [{ level: 50, msg: 'publish failed', err: { code: 'SSE_ERR_INVALID_EVENT' } }])
  t.equal(lines.length, 1)
})

t.test('while the backplane is away that is one line in the log, not one a publish', async t => {
  const whole = memoryBackplane()
  let receiver: Receiver | undefined
  let up = true
  const backplane: Backplane = {
    open: to => whole.open(receiver = to),
    append: async entry => {
      if (!up) throw new SSE_ERR_BACKPLANE_DOWN('away')
      return whole.append(entry)
    },
    close: () => whole.close()
  }
  const lines: any[] = []
  const app = await build(t, { backplane }, logger(lines, 'info'))
  up = false
  receiver!.broken(new Error('the connection was cut'))
  for (let i = 0; i < 100; i++) app.sse.publish('a', 'x')
  await t.rejects(app.sse.publish('a', 'x'), { code: 'SSE_ERR_BACKPLANE_DOWN', statusCode: 503 })
  await turns()
  t.match(lines.map(({ msg }) => msg), ['backplane is down'])
  t.equal(lines.length, 1)
  up = true
  receiver!.mended([{ id: app.sse.cursor.split('-')[0]!, start: 0, end: Infinity, broken: false }], 0)
  t.match(lines.slice(1), [{ msg: 'backplane is up', failed: 100 }])
  await app.sse.publish('a', 'x')
})

t.test('nothing was left unhandled', async t => { t.same(unhandled, []) })
