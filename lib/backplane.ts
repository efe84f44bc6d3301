/**
 * What orders events, keeps them for other processes, and hands them to every process: the seam between a
 * registry and the world. This file is the contract; `test/backplane-contract.ts` runs it.
 *
 * - One log. All entries, of all channels, have one order, which is the same for every registry.
 * - An entry has a cursor, given by the log: at most 128 bytes, without CR, LF and NUL. It names that entry and
 *   no other, ever: a log that lost its entries must not hand out a cursor again for something else.
 * - Every entry of the log reaches `receive` once, in the log's order, those of this process too and by the
 *   same way. Where that cannot be kept, `reset` is called at the place of the loss, before what follows it.
 */
export interface Backplane {
  /**
   * Starts: calls `receiver.reset` once with the cursor before the first entry, then `receive` for each entry that
   * the log has kept (the newest `receiver.maxEvents` at most), and resolves when all of them were handed over.
   * Rejects, within seconds, when the log cannot be reached or used.
   * Called once: a backplane serves one registry, and a second call rejects.
   */
  open (receiver: Receiver): Promise<void>

  /**
   * Appends one entry. Resolves with its cursor once the log has it; rejects with SSE_ERR_BACKPLANE_DOWN when that
   * cannot be said. The order of the log is the order in which calls were made, within one process.
   * Never throws synchronously.
   */
  append (entry: NewEntry): Promise<string>

  /**
   * Resolves after a read, begun after this call, that reached the end of the log: everything that was acknowledged
   * anywhere before the call has been received by then. Stays pending while the log cannot be read.
   */
  sync (): Promise<void>

  /**
   * The order of two cursors of this log: negative, 0 or positive like a sort function; NaN when one of them is no cursor
   * of this log. Two different cursors may compare as 0: then at most one of them is the entry's.
   * Reads the text alone; must be quick, and never throw, whatever a client sent.
   */
  compare (a: string, b: string): number

  /** Stops and frees what the backplane itself made. After it nothing calls the receiver. A second call does nothing. */
  close (): Promise<void>
}

/** What goes into the log. */
export interface NewEntry {
  readonly channels: readonly string[]
  readonly event: string | undefined
  /** The data as text: a string as it was published, anything else as `serialize` made it. */
  readonly data: string | undefined
  /** True where `data` came from `serialize`, so `parse` gives the value back. */
  readonly serialized: boolean
}

/** What comes out of the log. */
export interface Entry extends NewEntry {
  readonly cursor: string
}

/** The side of the registry that a backplane talks to. No call throws. */
export interface Receiver {
  /** `history.maxEvents` of the plugin: what is worth loading at the start, and worth keeping. */
  readonly maxEvents: number
  /**
   * The next entry of the log.
   * @param age ms since it was appended, where that is known from the log; 0 for what was appended just now
   */
  receive (entry: Entry, age?: number): void
  /**
   * Entries may be missing here: what follows is not contiguous with what came before. Streams that pass this place get a
   * gap event. The first call, before any entry, only says where the log begins.
   * @param cursor the cursor just before what follows
   */
  reset (cursor: string): void
  /** The log is in reach (again). It is taken to be so from the start. */
  up (): void
  /** The log is out of reach. Repeated calls are one. */
  down (error: Error): void
}
