import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { build, listen } from '../client.ts'
import { DRIVERS, type Driver, type Tab } from './drivers.ts'
import { bundle } from './scenarios.ts'

// share: true in real browsers, over HTTP/1.1, with the plugin as the server.

const TABS = 8
const files = await bundle()

interface Seen { data: string, id: string, type: string }
interface World {
  app: FastifyInstance
  open (options?: string): Promise<Tab & { id: string }>
  told (tab: Tab): Promise<Seen[]>
  publish (): Promise<string>
  /** The tab whose connection is the only one, once there is only one. */
  leader (tabs: Array<Tab & { id: string }>): Promise<Tab & { id: string }>
}

async function waitFor<T> (what: string, condition: () => T | undefined | false | Promise<T | undefined | false>, ms = 20_000): Promise<T> {
  const end = Date.now() + ms
  for (;;) {
    const value = await condition()
    if (value !== undefined && value !== false) return value
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 50))
  }
}

async function world (t: Test, driver: Driver, rewind = 0): Promise<World> {
  const app = await build(t, { retry: 100, drain: { timeout: 500 }, heartbeatInterval: 1_000 }, { forceCloseConnections: true })
  const channel = app.sse.channel('time')
  app.get('/events', (request, reply) => reply.sse(channel, { rewind }))
  app.get('/client/:file', (request, reply) => reply.type('text/javascript').send(files.get(request.url)))
  app.get<{ Querystring: { tab: string, options: string } }>('/', ({ query: { tab, options } }, reply) => reply.type('text/html').send(`<!doctype html><script type=module>
    import { SseClient } from '/client/index.js'
    window.told = []
    window.source = new SseClient('/events', { share: true, headers: () => ({ 'x-tab': '${tab}' }), ...${options} })
    for (const type of ['message', 'sse.gap', 'sse.end']) source.addEventListener(type, ({ data, lastEventId }) => told.push({ type, data, id: lastEventId }))
    window.statuses = []
    source.onstatus = ({ status }) => statuses.push(status)
  </script>`))
  const url = await listen(app)
  let n = 0
  let published = 0
  return {
    app,
    async open (options = '{}') {
      const id = String(n++)
      const tab = await driver.open(`${url}/?tab=${id}&options=${encodeURIComponent(options)}`)
      await waitFor('it to be open', async () => await tab.evaluate('window.source?.status') === 'open')
      return { id, ...tab }
    },
    told: tab => tab.evaluate('window.told') as Promise<Seen[]>,
    publish: () => channel.publish(String(++published)),
    leader: tabs => waitFor('one connection', () => {
      const ids = [...app.sse.streams].map(({ request }) => request.headers['x-tab'])
      return ids.length === 1 && tabs.find(({ id }) => id === ids[0])
    })
  }
}

/** Each tab is told these and no others, in order, with the same ids. */
async function expect (t: Test, { told }: World, tabs: Tab[], data: string[], what: string): Promise<void> {
  for (const [n, tab] of tabs.entries()) {
    await waitFor(`${what}: tab ${n}`, async () => (await told(tab)).length >= data.length).catch(error => t.comment(String(error)))
    t.same((await told(tab)).map(({ data }) => data), data, `${what}: tab ${n}`)
  }
}

for (const [name, { start, skip }] of Object.entries(DRIVERS)) {
  t.test(`${name}: tabs share one connection`, { skip }, async t => {
    const driver = await start(t)
    t.comment(`${name} ${driver.version}`)

    await t.test(`${TABS} tabs have one connection, each event reaches each of them once, in order, and when the leader is closed another goes on`, async t => {
      const it = await world(t, driver)
      const tabs: Array<Tab & { id: string }> = []
      for (let n = 0; n < TABS; n++) tabs.push(await it.open())
      const leader = await it.leader(tabs)
      for (let n = 0; n < 20; n++) await it.publish()
      const first = Array.from({ length: 20 }, (_, n) => String(n + 1))
      await expect(t, it, tabs, first, 'with the first leader')
      t.equal(it.app.sse.streams.size, 1)

      const rest = tabs.filter(tab => tab !== leader)
      // Around the change, so that some are published while nobody reads.
      const closing = leader.close()
      for (let n = 0; n < 30; n++) {
        await it.publish()
        await new Promise(resolve => setTimeout(resolve, 10))
      }
      await closing
      const next = await it.leader(rest)
      t.ok(rest.includes(next))
      const all = Array.from({ length: 50 }, (_, n) => String(n + 1))
      await expect(t, it, rest, all, 'with the next leader')

      for (const tab of rest) await tab.close()
      await waitFor('the last connection to go', () => it.app.sse.streams.size === 0)
    })

    await t.test('a tab that comes later gets what the route gives to whoever comes, then shares', async t => {
      const it = await world(t, driver, 2)
      const first = await it.open()
      await it.leader([first])
      for (let n = 0; n < 5; n++) await it.publish()
      await expect(t, it, [first], ['1', '2', '3', '4', '5'], 'the first')
      const late = await it.open()
      await expect(t, it, [late], ['4', '5'], 'rewind')
      t.equal(await it.leader([first, late]), first)
      await it.publish()
      await expect(t, it, [first], ['1', '2', '3', '4', '5', '6'], 'the first')
      await expect(t, it, [late], ['4', '5', '6'], 'the late one')
      const resumed = await it.open(`{ lastEventId: ${JSON.stringify((await it.told(first))[0]!.id)} }`)
      await expect(t, it, [resumed], ['2', '3', '4', '5', '6'], 'one that resumes')
      await it.leader([first, late, resumed])
      for (const tab of [first, late, resumed]) await tab.close()
    })

    await t.test('what the leader is told of its connection, all are; close() of the leader closes it alone; the end of the channel closes all', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(), await it.open(), await it.open()]
      const leader = await it.leader(tabs)
      const rest = tabs.filter(tab => tab !== leader)
      for (const stream of it.app.sse.streams) await stream.close()
      for (const tab of tabs) await waitFor('the statuses', async () => (await tab.evaluate('statuses') as string[]).join().includes('open,waiting,connecting,open'))
      await leader.evaluate('source.close()')
      const next = await it.leader(rest)
      t.equal(await leader.evaluate('source.status'), 'closed')
      await it.publish()
      await expect(t, it, rest, ['1'], 'after close()')
      t.same(await it.told(leader), [])
      // As a channel that has ended does: whoever comes later, as one that was just connecting, is told too.
      const end = async () => {
        for (const stream of it.app.sse.streams) {
          stream.send({ event: 'sse.end', data: { reason: 'done', channels: ['time'] } })
          await stream.close()
        }
      }
      for (const tab of rest) {
        await waitFor('the end', async () => {
          await end()
          return await tab.evaluate('source.status') === 'closed'
        })
      }
      t.ok(next)
      for (const tab of tabs) await tab.close()
    })

    await t.test('a leader that hangs is replaced, and is a tab among others when it wakes', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open('{ inactivity: 3_000 }'), await it.open('{ inactivity: 3_000 }')]
      const leader = await it.leader(tabs)
      const [other] = tabs.filter(tab => tab !== leader)
      await leader.evaluate('setTimeout(() => { const end = Date.now() + 9_000; while (Date.now() < end); })')
      await it.publish()
      await waitFor('another leader', () => [...it.app.sse.streams].some(({ request }) => request.headers['x-tab'] === other!.id), 15_000)
      await it.publish()
      await expect(t, it, tabs, ['1', '2'], 'both')
      t.equal(await it.leader(tabs), other)
      await it.publish()
      await expect(t, it, tabs, ['1', '2', '3'], 'both')
      for (const tab of tabs) await tab.close()
    })

    // Chromium's debugging protocol freezes no page that is visible, and a page without a screen is: so the event is made here.
    await t.test('a leader that is to be frozen hands over, and has missed nothing when it is active again', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(), await it.open(), await it.open()]
      const leader = await it.leader(tabs)
      await it.publish()
      await expect(t, it, tabs, ['1'], 'before')
      const rest = tabs.filter(tab => tab !== leader)
      await leader.evaluate("document.dispatchEvent(new Event('freeze'))")
      const next = await it.leader(rest)
      for (let n = 0; n < 5; n++) await it.publish()
      await expect(t, it, rest, ['1', '2', '3', '4', '5', '6'], 'while it is frozen')
      t.equal(await leader.evaluate('source.status'), 'paused')
      t.same((await it.told(leader)).map(({ data }) => data), ['1'])
      await leader.evaluate("document.dispatchEvent(new Event('resume'))")
      await expect(t, it, [leader], ['1', '2', '3', '4', '5', '6'], 'active again')
      t.equal(await it.leader(tabs), next)
      for (const tab of tabs) await tab.close()
    })
  })
}
