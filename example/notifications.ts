// A channel for each user, behind a session cookie. A page gets what is unread, and then what comes, without a hole between.
//
//   node --import tsx example/notifications.ts
//   curl -c jar http://localhost:8000/login -H 'content-type: application/json' -d '{"user":"ann"}'
//   curl -b jar -N http://localhost:8000/notifications     # leave it open
//   curl http://localhost:8000/users/ann/notifications -H 'content-type: application/json' -d '{"text":"Your order is on its way"}'
//
// In a page: `new SseClient('/notifications', { parse: JSON.parse })`, from fastify-sse-channels/client. `unread` replaces the list that it
// shows, `added` and `read` change it. The browser sends the cookie by itself.
import { randomBytes, randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import cookie from '@fastify/cookie'
import session from '@fastify/session'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import sse, { type Channel, type SseStream } from 'fastify-sse-channels'

declare module 'fastify' {
  interface Session { user?: string }
}

interface Notification { id: string, text: string }
interface Events { added: Notification, read: { id: string } }

const { PORT = '8000', HOST = 'localhost', SESSION_SECRET = randomBytes(32).toString('hex') } = process.env

const app = Fastify({ logger: { level: 'warn' } })
await app.register(cookie)
await app.register(session, { secret: SESSION_SECRET, saveUninitialized: false, cookie: { secure: false, sameSite: 'lax' } }) // secure: true with HTTPS
await app.register(sse)

// In place of a database: what it answers is some milliseconds old when it arrives.
const lists = new Map<string, Notification[]>()
const store = {
  unread: (user: string) => setTimeout(5, lists.get(user) ?? []),
  add: async (user: string, added: Notification) => { lists.set(user, [...lists.get(user) ?? [], added]) },
  remove: async (user: string, id: string) => { lists.set(user, (lists.get(user) ?? []).filter(one => one.id !== id)) }
}

const channelOf = (user: string): Channel<Events> => app.sse.channel<Events>(`notifications of ${user}`)

/**
 * What is unread, and what was published since just before that was read. Every change is stored first and published second, so
 * none falls between the two. One can be in both: its id tells.
 */
async function snapshot (stream: SseStream, user: string): Promise<void> {
  stream.unsubscribe(channelOf(user))
  const cursor = app.sse.cursor
  await stream.send({ event: 'unread', data: await store.unread(user) })
  stream.subscribe(channelOf(user), { lastEventId: cursor })
}

function bodyWith (name: string) {
  return { schema: { body: { type: 'object', required: [name], properties: { [name]: { type: 'string', minLength: 1 } } } } }
}

async function signedIn (request: FastifyRequest, reply: FastifyReply): Promise<void> {
  if (request.session.user === undefined) await reply.code(401).send({ error: 'Log in first' }) // at a 401 the page's client gives up
}

app.get('/notifications', { onRequest: signedIn }, async (request, reply) => {
  await snapshot(reply.sse(), request.session.user!)
  return reply
})

// It was too slow, or the log lost events: send what is unread again. If the database is away, let the page come back later.
app.sse.on('gap', ({ stream }) => { snapshot(stream, stream.request.session.user!).catch(() => stream.close()) })

// For the rest of the application, so it asks for no session.
app.post<{ Params: { user: string }, Body: { text: string } }>('/users/:user/notifications', bodyWith('text'), async request => {
  const { params: { user }, body: { text } } = request
  const added = { id: randomUUID(), text }
  await store.add(user, added)
  await channelOf(user).publish({ event: 'added', data: added })
  return added
})

app.delete<{ Params: { id: string } }>('/notifications/:id', { onRequest: signedIn }, async request => {
  const { session: { user }, params: { id } } = request
  await store.remove(user!, id)
  await channelOf(user!).publish({ event: 'read', data: { id } }) // the user's other pages hear it too
  return { id }
})

app.post<{ Body: { user: string } }>('/login', bodyWith('user'), async request => { // in place of a check of the password
  await request.session.regenerate()
  request.session.user = request.body.user
  return { user: request.body.user }
})

app.post('/logout', { onRequest: signedIn }, async request => {
  const { sessionId } = request.session
  await request.session.destroy()
  // Who may read was asked when a stream began, so the streams end too. Their pages come back, and get the 401.
  for (const stream of app.sse.streams) if (stream.request.session.sessionId === sessionId) stream.close()
  return {}
})

for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => app.close())

console.log(`Listening at ${await app.listen({ port: Number(PORT), host: HOST })}`)
