import type { Test } from 'tap'
import type { FastifyServerOptions } from 'fastify'
import type { SsePluginOptions, SseStream } from '../../lib/index.ts'
import { build, driver, listen, until, type Client, type Driven } from '../client.ts'

/** An application that listens, and streams of it that a test drives by hand. */
export async function start (t: Test, options: SsePluginOptions = {}, server: FastifyServerOptions = {}) {
  const app = await build(t, options, server)
  const drive = driver(t, app)
  const url = await listen(app)
  const a = app.sse.channel('a')
  const b = app.sse.channel('b')
  /** Publishes and gives the cursors. */
  const publish = (channel: string, ...texts: string[]): Promise<string[]> => Promise.all(texts.map(text => app.sse.publish(channel, text)))
  return { app, url, drive, a, b, publish }
}

export const data = (client: Client): string[] => client.events.map(({ data }) => data)

export const numbers = (from: number, to: number): string[] => Array.from({ length: to - from + 1 }, (_, i) => String(from + i))

/** Long enough for a pass. */
export async function turn (turns = 3): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise(resolve => setImmediate(resolve))
}

export const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

/** Ends when everything that was due to the streams has arrived: a mark of the test's own comes last. */
export async function settled (...driven: Array<{ stream: SseStream, client: Client }>): Promise<void> {
  for (const { stream, client } of driven) {
    const text = `settled ${Math.random()}`
    await turn(8)
    await stream.comment(text)
    await until(() => client.comments.includes(text), 'the mark')
  }
}

/** Shuts the valve and fills it, so that the stream is blocked. */
export async function block ({ stream, valve }: Driven): Promise<void> {
  await turn()
  valve!.shut()
  stream.comment('fills the valve').catch(() => {})
  await until(() => stream.blocked, 'the stream to be blocked')
}
