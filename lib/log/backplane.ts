import type { ChannelLimits } from '../options.ts'

export type { ChannelLimits } from '../options.ts'

/**
 * What gives entries their order, keeps them for other processes, and tells each process of those it asks for: the seam between the
 * log of a process and the world. This file is the contract; `test/log/backplane-contract.ts` runs it.
 *
 * - Every entry has a sequence number that rises over all channels and all processes. Within one process, the order of the calls of
 *   `append` is the order of the sequence numbers.
 * - A *life* is one unbroken history of the data. Whenever it cannot be excluded that acknowledged entries were lost, a new life begins,
 *   with an id of its own and a sequence number above all that the old one may have handed out.
 * - What is heard is a hint: `broken()` says that hints may be lost from there on. What is kept is the truth, and `read()` tells it.
 * - Whatever is told carries its life. The receiver drops what is not of the present one.
 *
 * A backplane of one process hears everything and keeps nothing: it has `open`, `append` and `close` alone, and the log of the
 * process is the only history. One that joins several processes is a `SharedBackplane`.
 */
export interface Backplane {
  /**
   * Connects. Calls `receiver.mended` before it resolves; rejects with SSE_ERR_BACKPLANE_DOWN, within seconds, when that fails.
   * Called once: a backplane serves one registry, and a second call rejects with SSE_ERR_INVALID_OPTION.
   */
  open (receiver: Receiver): Promise<void>

  /**
   * Appends an entry. Resolves with its cursor once the backplane has it. Never throws synchronously.
   * - Rejects with SSE_ERR_BACKPLANE_DOWN when it cannot be said that the entry is kept; nothing is sent twice.
   * - Rejects with SSE_ERR_CHANNEL_ENDED for an event on a channel that has ended, or several of which one has.
   * - An end of a channel that has ended resolves with the cursor of the first end.
   */
  append (entry: NewEntry): Promise<string>

  /** Stops, and frees what the backplane itself made. After it nothing calls the receiver. A second call does nothing. */
  close (): Promise<void>
}

/** A backplane that joins several processes. */
export interface SharedBackplane extends Backplane {
  /**
   * Begins to hear channels. From when it has resolved, every entry of them is heard, in the order of the sequence numbers over all
   * channels that are watched, until `receiver.broken()`; and again from `receiver.mended()` on, without another call. Where a connection
   * breaks first, it goes on over the next one: it never rejects, and resolves when the channels are watched, before `mended()` or after.
   * Soon after both, `receiver.advance` is called with a number that was the newest after that: streams wait for it.
   */
  watch (names: readonly string[]): Promise<void>

  /** Stops to hear them. Entries may still come for a moment. */
  unwatch (names: readonly string[]): void

  /**
   * What is kept of a channel after a sequence number. Settles within seconds: where there is no answer it rejects, and is asked again.
   * @param newest only so many of the newest entries are wanted, for `channel.history(limit)`; `floor` says nothing then
   * @param bytes there is no room for more: what is older may be left out, and lies below `floor` then
   */
  read (name: string, after: number, newest?: number, bytes?: number): Promise<Kept>

  /** The newest sequence number there is: everything acknowledged anywhere before the call has this one or a smaller one. */
  seq (): Promise<Place>
}

/** A sequence number, and the life of the log that was the present one when it was told. */
export interface Place {
  readonly life: string
  readonly seq: number
}

/** One unbroken history of the data. */
export interface Life {
  /** Letters and digits, at most 32, never used twice. */
  readonly id: string
  /** Its entries are above this; it is the head of an empty life. */
  readonly start: number
  /** The last sequence number that is proved to be of it; Infinity for the present life. */
  readonly end: number
  /** A loss of acknowledged entries was proved when it began: of cursors of older lives nothing can be proved. */
  readonly broken: boolean
}

/** What goes into the log. */
export interface NewEntry {
  /** At least one, each once. */
  readonly channels: readonly string[]
  /** An end is the last entry of its one channel; its `data` is the reason. */
  readonly kind: 'event' | 'end'
  readonly event: string | undefined
  /** As text: a string as it was published, anything else as `serialize` made it. */
  readonly data: string
  /** True where `data` came from `serialize`, so `parse` gives the value back. */
  readonly serialized: boolean
  /** How much of each channel is worth keeping, in the order of `channels`. */
  readonly limits: readonly ChannelLimits[]
}

/** What comes out of it. */
export interface Entry extends Omit<NewEntry, 'limits'> {
  readonly seq: number
}

/** An entry as it is heard. */
export interface HeardEntry extends Entry, Place {
  /**
   * The sequence number of the entry before it, for each of `channels`. Where the backplane has forgotten the channel: minus a number
   * that the predecessor is not above. Left out by a backplane that loses nothing.
   */
  readonly prevs?: readonly number[]
}

/** An entry as it is read. */
export interface KeptEntry extends Entry {
  /** ms since it was appended, by the backplane's own clock. */
  readonly age: number
}

/** The answer of `read`. */
export interface Kept {
  readonly life: string
  /** Oldest first, all above `after`. */
  readonly entries: readonly KeptEntry[]
  /** All entries of the channel above this are in `entries`. Above `after`, it says that what lies between is gone. */
  readonly floor: number
  /** The newest entry that the channel ever had, kept or not; where that is forgotten, a number that it is not above. */
  readonly last: number
  /** Its newest entry is an end. */
  readonly ended: boolean
  /** Where all was asked for: the channel had entries before the oldest of `entries`, as far as is known. @default false */
  readonly cut?: boolean
}

/** The side of the log that a backplane talks to. No call throws. Before the first `mended` it counts as broken. */
export interface Receiver {
  /** An entry of a watched channel. For one of several channels one call does; further copies are repeats, and are dropped. */
  hear (entry: HeardEntry): void
  /** Nothing of watched channels, up to this place, is still to come. */
  advance (place: Place): void
  /** Hints may be lost from here on, and nothing can be published. Repeated calls are one. */
  broken (error: Error): void
  /**
   * All channels are watched whose `watch` has resolved, and `read()` speaks of the same data. It does not wait for others: while new ones
   * come without end, it would never come.
   * @param lives oldest first, the present one last; it extends what was told before, and may have lost the oldest: what is kept of those counts as gone
   * @param head a sequence number that was the newest after everything was watched that was watched before `broken()`
   */
  mended (lives: readonly Life[], head: number): void
  /** As `mended`, where acknowledged entries were lost, or this is another log: nothing of before can be proved. */
  restarted (lives: readonly Life[], head: number): void
  /** The cursor of the end that the channel had, if it is kept: for a backplane that keeps nothing itself. */
  endOf (name: string): string | undefined
}
