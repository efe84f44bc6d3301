import { createHmac, timingSafeEqual } from 'node:crypto'
import cookie from '@fastify/cookie'
import session from '@fastify/session'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { build, connect, listen, until, type Client } from '../client.ts'

// Who may open a stream, and for how long: the snippets of the README.

declare module 'fastify' {
  interface Session { user?: string }
  interface FastifyRequest { user: { name: string, expires: number } | null }
}

const NEVER = Date.now() + 3_600_000

/** A token as a small JWT: payload and signature. */
const sign = (payload: string): string => createHmac('sha256', 'a key for tests').update(payload).digest('base64url')
const issue = (name: string, expires = NEVER): string => {
  const payload = Buffer.from(JSON.stringify({ name, expires })).toString('base64url')
  return `${payload}.${sign(payload)}`
}

function verify (token: string | undefined): { name: string, expires: number } | null {
  const [payload = '', signature = ''] = token?.split('.') ?? []
  const wanted = Buffer.from(sign(payload))
  const given = Buffer.from(signature)
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) return null
  const user = JSON.parse(Buffer.from(payload, 'base64url').toString())
  return user.expires > Date.now() ? user : null
}

/** Routes behind a bearer token. */
function guard (app: FastifyInstance): void {
  app.decorateRequest('user', null)
  app.addHook('preHandler', async (request, reply) => {
    request.user = verify(/^Bearer (\S+)$/.exec(request.headers.authorization ?? '')?.[1])
    if (request.user === null) return reply.code(401).header('www-authenticate', 'Bearer').send({ error: 'Unauthorized' })
  })
}

const bearer = (name: string, expires?: number): { headers: Record<string, string> } => ({ headers: { authorization: `Bearer ${issue(name, expires)}` } })

async function closed (client: Client): Promise<Client> {
  await until(() => client.closed, 'the end')
  return client
}

async function cookieApp (t: Test): Promise<{ app: FastifyInstance, url: string, login (user: string): Promise<string> }> {
  const app = await build(t)
  await app.register(cookie)
  await app.register(session, { secret: 'a secret for tests that has more than 32 characters', cookie: { secure: false, sameSite: 'lax' }, saveUninitialized: false })
  app.post<{ Body: { user: string } }>('/login', async request => {
    request.session.set('user', request.body.user)
    return { user: request.body.user }
  })
  app.post('/logout', async request => {
    const { user } = request.session
    await request.session.destroy()
    for (const stream of app.sse.streams) if (stream.request.session.user === user) stream.close()
    return {}
  })
  app.get('/events', {
    preHandler: async (request, reply) => {
      if (request.session.user === undefined) return reply.code(401).send({ error: 'Unauthorized' })
    }
  }, (request, reply) => reply.sse(app.sse.channel(`user/${request.session.user}`)))
  const url = await listen(app)
  return {
    app,
    url,
    async login (user) {
      const answer = await connect(`${url}/login`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ user }) })
      await closed(answer)
      return answer.headers['set-cookie']![0]!.split(';')[0]!
    }
  }
}

t.test('behind a cookie session: a visitor gets 401, a user the events of his own channel, and the session is refreshed on the stream\'s head', async t => {
  const { app, url, login } = await cookieApp(t)
  const refused = await closed(await connect(`${url}/events`))
  t.equal(refused.status, 401)
  t.equal(app.sse.stats().streams, 0)
  t.equal((await closed(await connect(`${url}/events`, { headers: { cookie: 'sessionId=forged.signature' } }))).status, 401)
  const alice = await connect(`${url}/events`, { headers: { cookie: await login('alice') } })
  const bob = await connect(`${url}/events`, { headers: { cookie: await login('bob') } })
  t.strictSame([alice.status, bob.status], [200, 200])
  t.match(alice.headers['set-cookie']?.[0], /^sessionId=/, 'the onSend hook of @fastify/session ran')
  await app.sse.channel('user/bob').publish('for bob')
  await app.sse.channel('user/alice').publish('for alice')
  t.equal((await alice.first(1))[0]!.data, 'for alice')
  t.equal((await bob.first(1))[0]!.data, 'for bob')
  t.strictSame([alice.events.length, bob.events.length], [1, 1])
  alice.leave()
  bob.leave()
})

t.test('behind a cookie session: a cursor of another user carries no rights', async t => {
  const { app, url, login } = await cookieApp(t)
  const before = app.sse.cursor
  await app.sse.channel('user/bob').publish('for bob')
  await app.sse.channel('user/alice').publish('for alice')
  const alice = await connect(`${url}/events`, { headers: { cookie: await login('alice') }, lastEventId: before })
  await alice.first(1)
  t.strictSame(alice.events.map(({ data }) => data), ['for alice'])
  t.notMatch(alice.text, /bob/)
  alice.leave()
})

t.test('logging out ends the streams of that session, and they cannot come back', async t => {
  const { app, url, login } = await cookieApp(t)
  const cookies = await login('alice')
  const streams = await Promise.all([connect(`${url}/events`, { headers: { cookie: cookies } }), connect(`${url}/events`, { headers: { cookie: cookies } })])
  const bob = await connect(`${url}/events`, { headers: { cookie: await login('bob') } })
  await until(() => app.sse.streams.size === 3, 'all streams')
  await closed(await connect(`${url}/logout`, { method: 'POST', headers: { cookie: cookies } }))
  for (const stream of streams) t.equal((await closed(stream)).closed, 'end')
  t.equal((await closed(await connect(`${url}/events`, { headers: { cookie: cookies }, lastEventId: streams[0]!.lastEventId }))).status, 401)
  await app.sse.channel('user/bob').publish('still here')
  t.equal((await bob.first(1))[0]!.data, 'still here')
  t.equal(app.sse.stats().closed.server, 2)
  bob.leave()
})

t.test('behind a bearer token: none, a forged and an expired one get 401 and no stream; a good one its events', async t => {
  const app = await build(t)
  guard(app)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel(`user/${request.user!.name}`)))
  const url = await listen(app)
  const forged = issue('alice').replace(/^[^.]+/, Buffer.from(JSON.stringify({ name: 'bob', expires: NEVER })).toString('base64url'))
  for (const [what, headers] of Object.entries({
    none: {},
    forged: { authorization: `Bearer ${forged}` },
    expired: bearer('alice', Date.now() - 1).headers,
    'of another scheme': { authorization: 'Basic YTpi' },
    'in the query, where it would be logged': {}
  })) {
    const client = await closed(await connect(`${url}/events${what.startsWith('in the query') ? `?token=${issue('alice')}` : ''}`, { headers }))
    t.equal(client.status, 401, what)
    t.equal(client.headers['www-authenticate'], 'Bearer', what)
  }
  t.equal(app.sse.stats().opened, 0)
  const client = await connect(`${url}/events`, bearer('alice'))
  await app.sse.channel('user/alice').publish('for alice')
  t.equal((await client.first(1))[0]!.data, 'for alice')
  client.leave()
})

/** How long a stream may live that must not outlive a token: at least 1 ms, because 0 is no limit; at most what a timer takes. */
const lifetime = (expires: number): number => Math.min(Math.max(expires - Date.now(), 1), 2 ** 31 - 1)

t.test('a stream ends before its token expires, and its client comes back with a new one and misses nothing', async t => {
  const app = await build(t)
  guard(app)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('news'), { maxAge: lifetime(request.user!.expires) }))
  const url = await listen(app)
  const expires = Date.now() + 3_000
  const client = await connect(`${url}/events`, bearer('alice', expires))
  const other = await connect(`${url}/events`, bearer('bob'))
  await app.sse.channel('news').publish('one')
  await client.first(1)
  await closed(client)
  t.ok(Date.now() <= expires, `it did not outlive the token: ${expires - Date.now()} ms before`)
  t.equal(client.closed, 'end')
  t.equal(app.sse.stats().closed.age, 1)
  await app.sse.channel('news').publish('two')
  const again = await connect(`${url}/events`, { ...bearer('alice'), lastEventId: client.lastEventId })
  t.equal((await again.first(1))[0]!.data, 'two')
  t.equal(again.gaps.length, 0)
  await other.first(2)
  t.equal(other.closed, undefined)
  again.leave()
  other.leave()
})

t.test('a token that expires in this millisecond, or in a hundred years, is no stream without an end, and no error', async t => {
  const app = await build(t)
  app.get('/events', (request, reply) => reply.sse(app.sse.channel('news'), { maxAge: lifetime(Number((request.query as { expires: string }).expires)) }))
  const url = await listen(app)
  for (const expires of [Date.now(), Date.now() - 5_000]) t.equal((await closed(await connect(`${url}/events?expires=${expires}`))).closed, 'end')
  const client = await connect(`${url}/events?expires=${Date.now() + 100 * 365 * 86_400_000}`)
  t.equal(client.status, 200)
  client.leave()
})

t.test('all streams of one user can be found and ended, whatever their routes and channels, also while their onSend hooks run', async t => {
  const app = await build(t)
  guard(app)
  let held = 0
  let go: () => void = () => {}
  app.addHook('onSend', async request => {
    if (!request.url.includes('slow')) return
    held++
    await new Promise<void>(resolve => { go = resolve })
  })
  app.get('/news', (request, reply) => reply.sse(app.sse.channel('news')))
  app.get('/both', (request, reply) => reply.sse([app.sse.channel('news'), app.sse.channel('time')]))
  const url = await listen(app)
  const of = (name: string) => (request: FastifyRequest): boolean => request.user?.name === name
  const alice = await Promise.all(['/news', '/both', '/both'].map(path => connect(url + path, bearer('alice'))))
  const bob = await Promise.all(['/news', '/both'].map(path => connect(url + path, bearer('bob'))))
  const slow = connect(`${url}/news?slow`, bearer('alice'))
  await until(() => held === 1 && app.sse.streams.size === 6, 'all streams')

  let ended = 0
  for (const stream of app.sse.streams) {
    if (!of('alice')(stream.request)) continue
    stream.close({ retry: 60_000 })
    ended++
  }

  t.equal(ended, 4, 'a Set may be changed while it is walked')
  t.equal(app.sse.streams.size, 2)
  for (const client of alice) {
    t.equal((await closed(client)).closed, 'end')
    t.equal(client.retries.at(-1), 60_000, 'told to come back in a minute')
  }
  go()
  t.equal((await closed(await slow)).closed, 'end', 'the one that was opening got a head and an end')
  await app.sse.channel('news').publish('still here')
  for (const client of bob) t.equal((await client.first(1))[0]!.data, 'still here')
  t.notMatch(alice.map(({ text }) => text).join(), /still here/)
  for (const client of bob) client.leave()
})
