import type { Life, Place } from '../log/backplane.ts'

/** Lives for which a process remembers what it has seen. */
const REMEMBERED = 16
/** So many lives later it is settled what was of one: half of what the table holds, or evidence of a life that has left it would prove a loss. */
const SETTLED = 128

/**
 * What this process knows of the lives of the log: their table as Redis told it last, and the evidence of what it has seen in them, by
 * which a loss is proved. Evidence is not dropped because it was used: an old primary may go on to acknowledge after the mark.
 */
export class Lives {
  #table: readonly Life[] = []
  /** All that ever stood in the table. */
  readonly #ever = new Set<string>()
  readonly #evidence = new Map<string, number>()

  /** `'present'`; `'ended'`: an earlier one, or one of a log that is lost; `'unknown'`: began since the table was told, or is of another log. */
  state (life: string): 'present' | 'ended' | 'unknown' {
    return this.#table.at(-1)?.id === life ? 'present' : this.#ever.has(life) ? 'ended' : 'unknown'
  }

  /** An entry of an earlier life that stands in the table, and is kept: who reads finds it. */
  isKept ({ life, seq }: Place): boolean {
    return this.#table.some(({ id, end }) => id === life && seq <= end)
  }

  /** The life that a seq of this log is of. */
  of (seq: number): string | undefined {
    return this.#table.findLast(({ start }) => start < seq)?.id
  }

  /** Something was heard, read, acknowledged or told. */
  see ({ life, seq }: Place): void {
    const seen = this.#evidence.get(life)
    if (seen !== undefined && seen >= seq) return
    // An empty life proves nothing.
    if (seen === undefined && this.#table.some(({ id, start }) => id === life && start >= seq)) return
    this.#evidence.set(life, seq)
    if (this.#evidence.size > REMEMBERED) this.#evidence.delete(this.#evidence.keys().next().value!)
  }

  /** As arguments of the script `hello`: life and seq, in turn. */
  evidence (): string[] {
    return [...this.#evidence].flatMap(([life, seq]) => [life, String(seq)])
  }

  /**
   * Takes the table that Redis told, and says whether something that was acknowledged is lost: a life in it began with a proof of that,
   * or it does not extend the one before. It may have lost its oldest lives, as it is bounded.
   */
  learn (table: readonly Life[]): boolean {
    const old = this.#table
    this.#table = table
    for (const { id } of table) this.#ever.add(id)
    for (const { id, end } of table.slice(0, -SETTLED)) if (this.#evidence.get(id)! <= end) this.#evidence.delete(id)
    if (old.length === 0) return false
    const at = table.findIndex(({ id }) => id === old.at(-1)!.id)
    if (at < 0) return true
    for (let i = 1; i <= at && i < old.length; i++) if (old[old.length - 1 - i]!.id !== table[at - i]!.id) return true
    return table.slice(at + 1).some(({ broken }) => broken)
  }
}

/** `<id> <start> <broken> <end>` of each, the last one without its end. */
export function parseLives (text: string): Life[] {
  const words = text.trim().split(' ')
  const lives: Life[] = []
  for (let i = 0; i + 2 < words.length; i += 4) {
    lives.push({ id: words[i]!, start: Number(words[i + 1]), broken: words[i + 2] === '1', end: Number(words[i + 3] ?? Infinity) })
  }
  return lives
}
