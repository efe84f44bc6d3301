import { ChannelLog, type Item } from '../../lib/log/channel-log.ts'
import type { ChannelLimits } from '../../lib/log/backplane.ts'

export function item (seq: number, more: Partial<Item> = {}): Item {
  return { seq, channels: ['a'], kind: 'event', event: undefined, data: String(seq), serialized: false, bytes: 10, time: 0, refs: 0, values: 0, earlier: undefined, later: undefined, ...more }
}

export function channelLog (name = 'a', limits: Partial<ChannelLimits> = {}, base = 0): ChannelLog {
  return new ChannelLog(name, { maxEvents: Infinity, maxAge: 0, latest: false, ...limits }, base)
}

/** What it holds, as text. */
export function seqs (log: ChannelLog): string {
  return Array.from({ length: log.events }, (_, i) => log.at(i).seq).join()
}
