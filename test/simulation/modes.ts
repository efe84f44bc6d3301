import type { ChannelLimits } from '../../lib/log/backplane.ts'

/** What may happen in a run: how often a second, and within which limits. */
export interface Mode {
  /** One process that alone has the history, in place of several over one server. */
  readonly memory?: boolean
  /** Gaps may come. */
  readonly gaps?: boolean
  /** What was acknowledged may be lost. */
  readonly late?: boolean
  /** Faults, each so often a second. */
  readonly faults?: Readonly<Partial<Record<Fault, number>>>
  readonly silentDrop?: number
  /** ms that the server keeps a channel. */
  readonly retention?: number
  /** Entries of a channel, at the server and in a process. */
  readonly maxEvents?: number
  /** ms. */
  readonly maxAge?: number
  /** Bytes, in a process. */
  readonly maxBytes?: number
  /** Clients stay, and do nothing. */
  readonly stay?: boolean
  /** They come back with old cursors. */
  readonly stale?: boolean
  readonly foreign?: boolean
  readonly rejoin?: boolean
  readonly busyFilters?: boolean
  /** A channel of values. */
  readonly latest?: boolean
  /** Channels with other limits than the rest. */
  readonly limits?: Readonly<Record<string, Partial<ChannelLimits>>>
  /** Channels end. */
  readonly ends?: boolean
  /** ms between two acts of clients, at most. */
  readonly haste?: number
  /** So many entries are published at once now and then. */
  readonly burst?: number
}

export type Fault =
  // A connection is broken from outside, half dead, or slow before it breaks.
  | 'cut' | 'cutCommands' | 'half' | 'slow'
  // The server loses one channel, or all, or its hash.
  | 'del' | 'flush' | 'hash'
  // It starts again: with all, without a suffix, with nothing.
  | 'restart' | 'suffix' | 'empty'
  // Another takes over: without a suffix, with all, while the old one lives on; or the old one comes back with the data of the new one.
  | 'failover' | 'planned' | 'split' | 'failback' | 'resync' | 'resyncAll'
  | 'crash'

const LOSS = { gaps: true, late: true, stale: true, foreign: true, rejoin: true } as const

/** A channel of each kind: one that keeps nothing, few, for a short time, its newest value. */
const MIXED = { limits: { b: { maxEvents: 0 }, c: { maxEvents: 3 }, d: { maxAge: 8_000 }, e: { maxEvents: 1, maxAge: 0, latest: true } }, gaps: true } as const

export const MODES: Readonly<Record<string, Mode>> = {
  calm: { stale: true, rejoin: true },
  cut: { faults: { cut: 3, half: 0.4 }, stale: true, rejoin: true },
  hasty: { faults: { cut: 8, half: 0.3 }, haste: 40, stale: true, rejoin: true },
  commands: { faults: { cutCommands: 3 }, stale: true, rejoin: true },
  slow: { faults: { cut: 1, slow: 3 }, stale: true, rejoin: true },
  foreign: { faults: { cut: 1 }, stale: true, rejoin: true, foreign: true },
  quiet: { faults: { cut: 1 }, retention: 1_500 },
  restart: { faults: { restart: 0.5, cut: 0.5 }, stale: true, rejoin: true },
  planned: { faults: { planned: 1, cut: 0.5, resyncAll: 0.2 }, haste: 40, stale: true, rejoin: true },
  crash: { faults: { crash: 0.8, cut: 0.5 }, stale: true, rejoin: true },
  filters: { faults: { cut: 0.5 }, stale: true, rejoin: true, busyFilters: true },
  ends: { faults: { cut: 1 }, stale: true, rejoin: true, ends: true },
  burst: { faults: { cut: 2, slow: 1 }, stale: true, burst: 400 },
  latest: { faults: { cut: 1 }, stale: true, rejoin: true, latest: true, maxEvents: 30, gaps: true },
  trim: { faults: { cut: 1 }, maxEvents: 8, gaps: true, stale: true, rejoin: true, foreign: true },
  bytes: { faults: { cut: 1 }, maxBytes: 300_000, stale: true, rejoin: true, gaps: true },
  burstTrim: { faults: { cut: 1, slow: 1 }, maxEvents: 4, gaps: true, stale: true, rejoin: true, burst: 60 },
  age: { faults: { cut: 1 }, maxAge: 10_000, stale: true, rejoin: true, gaps: true },
  del: { faults: { del: 2, cut: 1 }, gaps: true, stale: true, rejoin: true, foreign: true },
  suffix: { ...LOSS, faults: { suffix: 0.5, cut: 0.5 } },
  empty: { ...LOSS, faults: { empty: 0.5, cut: 0.5 } },
  flush: { ...LOSS, faults: { flush: 0.5, hash: 0.3, cut: 0.5 } },
  failover: { ...LOSS, faults: { failover: 0.5, cut: 0.5 } },
  split: { ...LOSS, faults: { split: 0.5, cut: 0.5 } },
  failback: { ...LOSS, faults: { failback: 0.5, cut: 0.3, resync: 0.3 } },
  lag: { ...LOSS, faults: { failover: 0.4, split: 0.3, half: 1, cut: 1 } },
  flushes: { ...LOSS, faults: { flush: 3, empty: 0.5, hash: 0.5, cut: 2 }, haste: 40 },
  losses: { ...LOSS, faults: { suffix: 0.8, failover: 0.5, split: 0.5, resync: 0.3, cut: 2 }, haste: 40 },
  silent: { ...LOSS, late: false, silentDrop: 0.02, stay: true },
  everything: {
    ...LOSS,
    faults: { cut: 1, half: 0.2, cutCommands: 1, slow: 0.3, restart: 0.1, del: 0.3, flush: 0.1, suffix: 0.1, empty: 0.1, failover: 0.1, split: 0.15, failback: 0.1, resync: 0.1, hash: 0.1, planned: 0.1 },
    retention: 2_000,
    maxEvents: 40,
    maxBytes: 2_000_000,
    busyFilters: true
  },
  mixed: { ...MIXED, faults: { cut: 1 }, stale: true, rejoin: true, foreign: true },
  mixedEnds: { ...MIXED, faults: { cut: 1, slow: 0.5 }, stale: true, rejoin: true, ends: true, maxBytes: 300_000, maxAge: 20_000, burst: 60 },
  mixedLosses: { ...LOSS, ...MIXED, faults: { suffix: 0.3, failover: 0.3, flush: 0.3, cut: 1 }, haste: 60 },
  endsLosses: { ...LOSS, faults: { suffix: 0.3, failover: 0.3, flush: 0.3, cut: 1 }, haste: 60, ends: true },
  endsTrim: { faults: { cut: 1, del: 0.5 }, gaps: true, stale: true, rejoin: true, ends: true, maxEvents: 4 },
  endsQuiet: { faults: { cut: 1 }, gaps: true, stale: true, rejoin: true, ends: true, retention: 700 },
  memory: { memory: true, stale: true, rejoin: true, foreign: true },
  memoryTrim: { memory: true, stale: true, rejoin: true, foreign: true, gaps: true, maxEvents: 8 },
  memoryBytes: { memory: true, stale: true, rejoin: true, gaps: true, maxBytes: 200_000, maxAge: 20_000 },
  memoryFilters: { memory: true, stale: true, rejoin: true, gaps: true, busyFilters: true, maxEvents: 20, maxBytes: 400_000 },
  memoryLatest: { memory: true, stale: true, rejoin: true, gaps: true, latest: true, maxEvents: 20 },
  memoryEnds: { memory: true, stale: true, rejoin: true, ends: true },
  memoryMixed: { ...MIXED, memory: true, stale: true, rejoin: true, foreign: true, ends: true, maxBytes: 300_000, burst: 60 },
  memoryEndsBytes: { memory: true, stale: true, rejoin: true, gaps: true, ends: true, maxBytes: 200_000, maxAge: 10_000 }
}
