import type { SharedBackplane } from '../log/backplane.ts'
import { checkOptions } from '../checks.ts'
import { SSE_ERR_INVALID_OPTION, received } from '../errors.ts'
import { RedisBackplane } from './backplane.ts'
import { checkClient, fullKey, type RedisClient } from './link.ts'

export type { IoRedisClient, NodeRedisClient, RedisClient } from './link.ts'

export const DEFAULT_REDIS_KEY = 'sse'

/** The options of `redisBackplane()`. */
export interface RedisBackplaneOptions {
  /**
   * A client of ioredis, iovalkey or node-redis, connected or not. Two connections are made with its `duplicate()`; it is
   * itself never used, changed or closed.
   */
  client: RedisClient
  /** What all names in Redis begin with, in braces: processes with the same key, in the same database, are one application. @default 'sse' */
  key?: string | undefined
}

/** ms without news after which Redis is asked whether there are any. */
const SILENCE = 5_000

/**
 * Makes any number of processes act as one, through one Redis (7.0 or later, or Valkey; not a cluster). What it promises is written at `SharedBackplane`.
 *
 * - `open()` rejects with SSE_ERR_BACKPLANE_DOWN, after some seconds at the latest, where Redis is out of reach, or refuses what is needed
 *   (EVALSHA, SCRIPT LOAD, INFO, SUBSCRIBE).
 * - `append()` rejects with SSE_ERR_BACKPLANE_DOWN, its `cause` saying why: at once while there is no connection, and when nothing comes from
 *   Redis for 5 s. Where the answer alone was lost, the entry is in the log nevertheless. Nothing is sent twice.
 * - Lost connections are made anew for ever, both together, after pauses that grow from 50 ms to 3 s.
 * - A channel is kept for a minute after its last entry at least, whatever its `maxAge`, or who was cut off for a moment had lost it.
 * @throws SSE_ERR_INVALID_OPTION
 */
export function redisBackplane (options: RedisBackplaneOptions, { silence = SILENCE } = {}): SharedBackplane {
  checkOptions(options, ['client', 'key'])
  const { client, key = DEFAULT_REDIS_KEY } = options
  // With braces, names of two applications could meet.
  if (typeof key !== 'string' || !/^[^{}]+$/.test(key)) throw new SSE_ERR_INVALID_OPTION('key', 'a string without braces that is not empty', received(key))
  return new RedisBackplane(checkClient(client), fullKey(client, `{${key}}`), silence)
}
