import t from 'tap'
import { DRIVERS } from './drivers.ts'
import { ADDRESS } from './scenarios.ts'
import { expect, messages, of, statuses, upTo, waitFor, world, type Page } from './world.ts'

// share: true in real browsers, over HTTP/1.1, with the plugin as the server.

const TABS = 8

const share = (options = ''): string => `{ share: true, ${options} }`

for (const [name, { start, skip }] of Object.entries(DRIVERS)) {
  t.test(`${name}: tabs share one connection`, { skip }, async t => {
    const driver = await start(t)
    t.comment(`${name} ${driver.version}`)

    await t.test(`${TABS} tabs have one connection, each event reaches each of them once, in order, and when the leader is closed another goes on`, async t => {
      const it = await world(t, driver)
      const tabs: Page[] = []
      for (let n = 0; n < TABS; n++) tabs.push(await it.open(share()))
      const leader = await it.leader(tabs)
      for (let n = 0; n < 20; n++) await it.publish()
      const first = upTo(20)
      await expect(t, tabs, first, 'with the first leader')
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
      const all = upTo(50)
      await expect(t, rest, all, 'with the next leader')

      for (const tab of rest) await tab.close()
      await waitFor('the last connection to go', () => it.app.sse.streams.size === 0)
    })

    await t.test('a tab that comes later gets what the route gives to whoever comes, then shares', async t => {
      const it = await world(t, driver, { rewind: 2 })
      const first = await it.open(share())
      await it.leader([first])
      for (let n = 0; n < 5; n++) await it.publish()
      await expect(t, [first], ['1', '2', '3', '4', '5'], 'the first')
      const late = await it.open(share())
      await expect(t, [late], ['4', '5'], 'rewind')
      t.equal(await it.leader([first, late]), first)
      await it.publish()
      await expect(t, [first], ['1', '2', '3', '4', '5', '6'], 'the first')
      await expect(t, [late], ['4', '5', '6'], 'the late one')
      const resumed = await it.open(share(`lastEventId: ${JSON.stringify(first.told.find(({ type }) => type === 'message')!.id)}`))
      await expect(t, [resumed], ['2', '3', '4', '5', '6'], 'one that resumes')
      await it.leader([first, late, resumed])
      for (const tab of [first, late, resumed]) await tab.close()
    })

    await t.test('what the leader is told of its connection, all are; close() of the leader closes it alone; the end of the channel closes all', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(share()), await it.open(share()), await it.open(share())]
      const leader = await it.leader(tabs)
      const rest = tabs.filter(tab => tab !== leader)
      for (const stream of it.app.sse.streams) await stream.close()
      for (const tab of tabs) await waitFor('the statuses', () => statuses(tab).join().includes('open,waiting,connecting,open'))
      await leader.evaluate('source.close()')
      const next = await it.leader(rest)
      t.equal(statuses(leader).at(-1), 'closed')
      await it.publish()
      await expect(t, rest, ['1'], 'after close()')
      t.same(messages(leader), [])
      await it.app.sse.channel('time').end({ reason: 'done' })
      for (const tab of rest) await waitFor('the end', () => statuses(tab).at(-1) === 'closed')
      for (const tab of rest) t.same([of('sse.end')(tab).length, statuses(tab).filter(one => one === 'closed').length], [1, 1])
      t.ok(next)
      for (const tab of tabs) await tab.close()
    })

    await t.test('a leader that hangs is replaced, and is a tab among others when it wakes', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(share('inactivity: 3_000')), await it.open(share('inactivity: 3_000'))]
      const leader = await it.leader(tabs)
      const [other] = tabs.filter(tab => tab !== leader)
      const pid = await leader.process()
      process.kill(pid, 'SIGSTOP')
      try {
        await it.publish()
        await waitFor('another leader', () => [...it.app.sse.streams].some(({ request }) => request.headers['x-page'] === other!.id), 30_000)
        await it.publish()
        await expect(t, [other!], upTo(2), 'while it hangs')
        t.same(messages(leader), [])
      } finally {
        process.kill(pid, 'SIGCONT')
      }
      await expect(t, tabs, upTo(2), 'awake')
      t.equal(await it.leader(tabs), other)
      await it.publish()
      await expect(t, tabs, upTo(3), 'afterwards')
      for (const tab of tabs) await tab.close()
    })

    await t.test('where there may be one connection for each user, a tab that is refused its own follows the leader, and leads when that is closed', async t => {
      const it = await world(t, driver, { plugin: { maxStreamsPerKey: 1 } })
      const first = await it.open(share())
      await it.leader([first])
      const late = await it.open(share())
      await waitFor('what it was told', () => statuses(late).at(-1) === 'open' && statuses(late)[0] === 'waiting' && of('error')(late)[0] === 'status')
      t.equal(await it.leader([first, late]), first)
      for (let n = 0; n < 3; n++) await it.publish()
      await expect(t, [first, late], upTo(3), 'both')

      // A page that comes back has a place to resume from: following the leader, it would miss what was told meanwhile.
      await late.evaluate("document.dispatchEvent(new Event('freeze'))")
      for (let n = 0; n < 2; n++) await it.publish()
      await expect(t, [first], upTo(5), 'the leader')
      await late.evaluate("document.dispatchEvent(new Event('resume'))")
      await waitFor('it to be refused', () => statuses(late).at(-1) === 'waiting')
      await it.publish()
      await expect(t, [first], upTo(6), 'the leader')
      t.same(messages(late), upTo(3))
      await first.close()
      await waitFor('the other to lead', () => [...it.app.sse.streams].some(({ request }) => request.headers['x-page'] === late.id))
      await it.publish()
      await expect(t, [late], upTo(7), 'with the next leader')
      await late.close()
    })

    await t.test('where there may be one connection for each user, and a tab that does not lead has it, that tab goes on with it, leads, and misses nothing; the leader follows', async t => {
      const it = await world(t, driver, { plugin: { maxStreamsPerKey: 1, retry: 1_000 } })
      // The first to come leads, and its request is the last.
      let leads = false
      it.app.server.on('request', ({ url }) => { if (url === '/away?leads') leads = true })
      const opening = it.open(share(`headers: () => window.asked ??= new Promise(async resolve => {
        new BroadcastChannel('go').onmessage = () => resolve({ 'x-page': '0' })
        while ((await navigator.locks.query()).held.length === 0) await new Promise(resolve => setTimeout(resolve, 20))
        fetch('/away?leads')
      })`))
      opening.catch(() => {})
      await waitFor('the first to lead', () => leads)
      const tab = await it.open(share())
      await new Promise(resolve => setTimeout(resolve, 1_500)) // longer than a tab whose connection is quiet keeps it beside a leader's
      await it.publish()
      await expect(t, [tab], ['1'], 'a leader that has been nowhere is not followed')
      let count = 1
      const timer = setInterval(() => { it.publish().then(() => count++, () => {}) }, 100) // never quiet
      await tab.evaluate("new BroadcastChannel('go').postMessage('')")
      const first = await opening.finally(() => clearInterval(timer))
      t.equal(await it.leader([first, tab]), tab)
      await waitFor('what was published', () => messages(tab).length === count)
      await it.publish()
      await expect(t, [tab], upTo(count + 1), 'the one that leads')
      await waitFor('the other to have it', () => messages(first).at(-1) === String(count + 1))
      const seen = messages(first)
      t.same(seen, upTo(count + 1).slice(-seen.length), 'the one that follows')
      await tab.close()
      await it.leader([first])
      await it.publish()
      await expect(t, [first], [...seen, String(count + 2)], 'afterwards')
      await first.close()
    })

    await t.test('a leader that was taken for dead, and closes when it is told so, makes no new connection', async t => {
      const it = await world(t, driver)
      const tab = await it.open(share('headers: () => { window.asked = (window.asked ?? 0) + 1; return {} }'))
      await waitFor('it to lead', async () => await tab.evaluate('navigator.locks.query().then(({ held }) => held.length)') === 1)
      await tab.evaluate(`new Promise(resolve => {
        source.addEventListener('status', ({ status }) => status === 'paused' && source.close())
        source.addEventListener('status', ({ status }) => status === 'closed' && setTimeout(resolve)) // a new one would ask for headers at once
        navigator.locks.request('sse GET same-origin ${it.url}/events', { steal: true }, () => {})
      })`)
      t.equal(await tab.evaluate('asked'), 1)
      await waitFor('the connection to go', () => it.app.sse.streams.size === 0)
      await waitFor('what it was told', () => statuses(tab).includes('closed'))
      t.same(statuses(tab), ['open', 'paused', 'closed'])
      await tab.close()
    })

    await t.test('a leader that is frozen hands over, and has missed nothing when it is active again', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(share()), await it.open(share()), await it.open(share())]
      const leader = await it.leader(tabs)
      await it.publish()
      await expect(t, tabs, ['1'], 'before')
      const rest = tabs.filter(tab => tab !== leader)
      const front = await driver.open(`${it.url}/away`) // only what is hidden can be frozen
      // Where a browser freezes nothing when it is asked to, the page is told so all the same.
      const setFrozen = leader.setFrozen ?? ((isFrozen: boolean) => leader.evaluate(`document.dispatchEvent(new Event('${isFrozen ? 'freeze' : 'resume'}'))`))
      await setFrozen(true)
      const next = await it.leader(rest)
      for (let n = 0; n < 5; n++) await it.publish()
      await expect(t, rest, upTo(6), 'while it is frozen')
      t.same(messages(leader), ['1'])
      await setFrozen(false)
      await expect(t, [leader], upTo(6), 'active again')
      t.ok(statuses(leader).includes('paused'))
      t.equal(await it.leader(tabs), next)
      for (const tab of [...tabs, front]) await tab.close()
    })

    await t.test('a POST is not shared: each tab has the answer to its own body, and keeps it when another is closed', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(share("body: 'one'")), await it.open(share("body: 'two'"))]
      t.equal(await tabs[0]!.evaluate('navigator.locks.query().then(({ held, pending }) => held.length + pending.length)'), 0, 'nobody leads')
      t.same([...it.app.sse.streams].map(({ request }) => request.body), ['one', 'two'])
      await it.publish()
      await expect(t, tabs, ['1'], 'each')
      await tabs[0]!.close()
      await waitFor('the first to go', () => it.app.sse.streams.size === 1)
      await it.publish()
      await expect(t, [tabs[1]!], upTo(2), 'the other')
      t.equal(of('open')(tabs[1]!).length, 1)
      await tabs[1]!.close()
    })

    await t.test('without Web Locks, which a page over http does not have, each tab has its own connection', { skip: ADDRESS === undefined && process.env.CI !== 'true' && 'this machine has no address but loopback' }, async t => {
      const it = await world(t, driver, { host: ADDRESS! })
      const tabs = [await it.open(share()), await it.open(share())]
      t.same(await tabs[0]!.evaluate('String(navigator.locks)'), 'undefined')
      for (let n = 0; n < 3; n++) await it.publish()
      await expect(t, tabs, upTo(3), 'each')
      t.same([...it.app.sse.streams].map(({ request }) => request.headers['x-page']).sort(), tabs.map(({ id }) => id))
      for (const tab of tabs) await tab.close()
    })

    await t.test('what another script of the origin says on the channel, if it makes no sense, harms nobody', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(share()), await it.open(share()), await it.open(share())]
      await it.leader(tabs)
      const messages = "null, 5, 'text', [], {}, { kind: 'here' }, { kind: 'here', ids: 5 }, { kind: 'here', status: 'open' }, { kind: 'status' }, { kind: 'event', type: 'message' }, { kind: 'id' }, { kind: 'x' }"
      // The last tab begins while they come: it has not met the leader yet.
      const forge = tabs[0]!.evaluate(`(() => { const channel = new BroadcastChannel('sse GET same-origin ${it.url}/events'); for (let n = 0; n < 40; n++) setTimeout(() => { for (const one of [${messages}]) channel.postMessage(one) }, n * 50) })()`)
      tabs.push(await it.open(share()))
      await forge
      for (let n = 0; n < 20; n++) {
        await it.publish()
        await new Promise(resolve => setTimeout(resolve, 50))
      }
      await it.leader(tabs)
      await expect(t, tabs, upTo(20), 'all the same')
      for (const tab of tabs) {
        t.ok(statuses(tab).every(status => ['connecting', 'open'].includes(status)), statuses(tab).join())
        t.same([of('error')(tab), await tab.evaluate('source.status + typeof source.lastEventId')], [[], 'openstring'])
      }
      for (const tab of tabs) await tab.close()
    })

    // The last one: WebKit's driver ends its session when a page crashes. The pages go on.
    await t.test('a leader whose process is killed is replaced, and the others miss nothing', async t => {
      const it = await world(t, driver)
      const tabs = [await it.open(share()), await it.open(share()), await it.open(share())]
      const leader = await it.leader(tabs)
      const rest = tabs.filter(tab => tab !== leader)
      const pid = await leader.process()
      for (let n = 1; n <= 30; n++) {
        await it.publish()
        if (n === 10) process.kill(pid, 'SIGKILL')
        await new Promise(resolve => setTimeout(resolve, 10))
      }
      await expect(t, rest, upTo(30), 'the others')
      t.ok(await it.leader(rest))
      for (const tab of rest) t.same(of('sse.gap')(tab), [])
    })
  })
}
