import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { redisBackplane } from '../../lib/redis/index.ts'
import { noRedis, freePort, RedisServer } from '../redis/redis-server.ts'
import { DRIVERS } from './drivers.ts'
import { nginx, noNginx } from './scenarios.ts'
import { expect, messages, of, statuses, upTo, waitFor, world } from './world.ts'

// What becomes of a page, and of the process that it listens to, with the plugin as the server.

const seconds = (n: number): Promise<void> => new Promise(resolve => setTimeout(resolve, n * 1_000))

/** Whether a browser keeps a page that the user leaves and comes back to. Firefox keeps none that has a connection, whatever it does with it when it is left. */
const KEPT: Record<string, boolean> = { Chromium: true, Firefox: false, WebKit: true }

/** What an EventSource does that finds no network. WebKit cannot be told to be offline. */
const WITHOUT_NETWORK: Record<string, string> = { Chromium: 'comes back', Firefox: 'stops' }

/** Two servers on one Redis, each in a process of its own, behind one nginx: the second is asked where the first does not answer. */
async function fleet (t: Test): Promise<{ redis: RedisServer, ports: number[], servers: ChildProcess[] }> {
  const redis = await RedisServer.start(t)
  const ports = [await freePort(), await freePort()]
  const file = fileURLToPath(new URL('server-process.ts', import.meta.url))
  const servers = ports.map(port => fork(file, [String(port), String(redis.port)], { execArgv: ['--import', 'tsx'], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] }))
  for (const server of servers) t.teardown(() => server.kill('SIGKILL'))
  await Promise.all(servers.map(server => once(server, 'message')))
  return { redis, ports, servers }
}

for (const [name, { start, skip }] of Object.entries(DRIVERS)) {
  t.test(`${name}: what becomes of a page`, { skip }, async t => {
    const driver = await start(t)
    t.comment(`${name} ${driver.version}`)
    const noFleet = noRedis || noNginx
    const starting = noFleet === false ? fleet(t) : undefined // it takes its time, beside the first tests
    starting?.catch(() => {})

    await t.test('who leaves a page and comes back finds it as it was, with what was published meanwhile', async t => {
      const it = await world(t, driver)
      const [source, client] = [await it.open('{}', 'EventSource'), await it.open()]
      await it.publish()
      await expect(t, [source, client], ['1'], 'before')
      for (const { go } of [source, client]) await go(`${it.url}/away`)
      await waitFor('the client to give its connection up', () => [...it.app.sse.streams].every(({ request }) => request.headers['x-page'] === undefined))
      for (let n = 0; n < 5; n++) await it.publish()
      for (const { back } of [source, client]) await back()
      if (KEPT[name]) {
        await expect(t, [source, client], upTo(6), 'back')
        t.equal(of('pageshow')(client).length, 1, 'it was in the cache')
        // WebKit cuts the connections of a page before it tells the page.
        const [leaving, errors] = name === 'WebKit' ? [['waiting'], ['cut']] : [[], []]
        t.same([statuses(client), of('error')(client)], [['open', ...leaving, 'paused', 'connecting', 'open'], errors])
      } else {
        for (const page of [source, client]) await waitFor('a page that was loaded anew', () => of('open')(page).length === 1 && messages(page).length === 0)
      }
      await it.publish()
      await expect(t, [source, client], KEPT[name] ? upTo(7) : ['7'], 'afterwards')
      for (const page of [source, client]) await page.close()
    })

    await t.test('a page whose process stands still for longer than three heartbeats misses nothing', async t => {
      const it = await world(t, driver)
      const pages = [await it.open('{}', 'EventSource'), await it.open()]
      await it.publish()
      await expect(t, pages, ['1'], 'before')
      const processes = []
      for (const page of pages) processes.push(await page.process())
      for (const pid of processes) process.kill(pid, 'SIGSTOP')
      try {
        for (let n = 0; n < 5; n++) {
          await it.publish()
          await seconds(1)
        }
        for (const page of pages) t.same(messages(page), ['1'], 'it stands still')
      } finally {
        for (const pid of processes) process.kill(pid, 'SIGCONT')
      }
      await expect(t, pages, upTo(6), 'awake')
      await it.publish()
      await expect(t, pages, upTo(7), 'afterwards')
      for (const page of pages) await page.close()
    })

    await t.test('without a network the client says so, and with one it is back before its time to wait is over', { skip: !(name in WITHOUT_NETWORK) && `${name} cannot be told to be offline` }, async t => {
      const it = await world(t, driver)
      const [source, client] = [await it.open('{}', 'EventSource'), await it.open('{ retry: { min: 60_000 } }')]
      await it.publish()
      await expect(t, [source, client], ['1'], 'before')
      for (const page of [source, client]) await page.setOffline!(true)
      for (const stream of it.app.sse.streams) await stream.close()
      await waitFor('the client to say so', async () => await client.evaluate('source.status') === 'offline')
      await waitFor('the EventSource to try in vain', async () => await source.evaluate('errors') as number >= 2)
      t.equal(it.app.sse.streams.size, 0)
      await it.publish()
      for (const page of [source, client]) await page.setOffline!(false)
      await expect(t, [client], upTo(2), 'with a network again')
      if (WITHOUT_NETWORK[name] === 'comes back') await expect(t, [source], upTo(2), 'with a network again')
      else t.equal(await source.evaluate('source.readyState'), 2, 'it has stopped for good')
      for (const page of [source, client]) await page.close()
    })

    await t.test('the process of their stream is killed: both go on at another one, and miss nothing', { skip: noFleet }, async t => {
      const { redis, ports, servers } = await starting!
      const it = await world(t, driver, {
        plugin: { backplane: redisBackplane({ client: new Redis({ port: redis.port, host: '127.0.0.1', lazyConnect: true }) }) },
        origin: async port => `http://127.0.0.1:${await nginx(t,
          `location / { proxy_pass http://127.0.0.1:${port}; } location /events { proxy_pass http://app; }`,
          `upstream app { server 127.0.0.1:${ports[0]}; server 127.0.0.1:${ports[1]} backup; }`)}`
      })
      const pages = [await it.open('{}', 'EventSource'), await it.open()]
      for (let n = 1; n <= 60; n++) {
        await it.publish()
        await seconds(0.01)
        if (n === 20) servers[0]!.kill('SIGKILL')
      }
      await expect(t, pages, upTo(60), 'both')
      for (const page of pages) t.same([of('sse.gap')(page), of('open')(page).length], [[], 2])
      for (const page of pages) await page.close()
    })

    await t.test('8 tabs with an EventSource each: a browser has six connections to a host, and the others wait until one is closed', async t => {
      const it = await world(t, driver)
      const pages = []
      for (let n = 0; n < 6; n++) pages.push(await it.open('{}', 'EventSource'))
      // Their pages cannot even be loaded: the browser has no connection left.
      const late = [7, 8].map(() => it.open('{}', 'EventSource'))
      await seconds(1)
      t.ok(it.app.sse.streams.size < 8, `${it.app.sse.streams.size} streams`) // Firefox may give one more to the loading of a page
      await it.publish()
      await expect(t, pages, ['1'], 'six')
      for (const page of pages) await page.close()
      for (const page of await Promise.all(late)) await page.close()
    })
  })
}

t.test('Chromium: a page that the browser freezes and wakes misses nothing', { skip: DRIVERS.Chromium!.skip }, async t => {
  const it = await world(t, await DRIVERS.Chromium!.start(t))
  const pages = [await it.open('{}', 'EventSource'), await it.open()]
  await it.open() // before the others: only what is hidden can be frozen
  await it.publish()
  await expect(t, pages, ['1'], 'before')
  for (const page of pages) await page.setFrozen!(true)
  await waitFor('the client to give its connection up', () => it.app.sse.streams.size === 2)
  for (let n = 0; n < 5; n++) {
    await it.publish()
    await seconds(1)
  }
  for (const page of pages) t.same(messages(page), ['1'], 'it is frozen')
  for (const page of pages) await page.setFrozen!(false)
  await expect(t, pages, upTo(6), 'awake')
  t.same(statuses(pages[1]!), ['open', 'paused', 'connecting', 'open'])
})
