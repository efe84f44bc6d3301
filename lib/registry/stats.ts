import type { StreamCounters } from '../stream/host.ts'

/** Counters of one process: for metrics. */
export interface SseStats extends StreamCounters {
  /** Open now, those included whose onSend hooks are still running. */
  streams: number
  /** Channels with a stream, now. */
  channels: number
  /** Events of this process that were acknowledged, those of `publishFrom()` included. */
  published: number
  /** Entries that came from the backplane, whoever published them. */
  received: number
  /** What is kept in this process: channels, their entries, and bytes as encoded. An entry of several channels counts for each. */
  history: { channels: number, events: number, bytes: number }
  /** Whether the backplane can be reached. */
  backplane: 'up' | 'down'
}

/** What is counted while streams and the backplane work. */
export type Counters = StreamCounters & Pick<SseStats, 'published'>

export function makeCounters (): Counters {
  return {
    subscriptions: 0,
    blocked: 0,
    published: 0,
    delivered: 0,
    bytesWritten: 0,
    gaps: 0,
    opened: 0,
    closed: { client: 0, end: 0, server: 0, age: 0, stall: 0, overflow: 0, drain: 0, error: 0 }
  }
}
