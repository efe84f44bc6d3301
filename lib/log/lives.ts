import type { Life } from './backplane.ts'
import { formatCursor, parseCursor } from './cursor.ts'

/** The lives that the log has had, as far as they are known: what a cursor is worth. */
export class Lives {
  /** Oldest first; the last one is the present one. */
  readonly #lives: readonly Life[]

  constructor (lives: readonly Life[]) {
    this.#lives = lives
  }

  /** The present life. */
  get id (): string | undefined { return this.#lives.at(-1)?.id }

  /** Where the present life began. */
  get start (): number { return this.#lives.at(-1)?.start ?? 0 }

  /** What lies up to here counts as gone: it is of no life that is known, and could not be named as it was. */
  get floor (): number { return this.#lives[0]?.start ?? 0 }

  /** Below this nothing can be proved: acknowledged entries were lost. */
  get edge (): number { return this.#lives.findLast(({ broken }) => broken)?.start ?? 0 }

  cursorAt (seq: number): string {
    const lives = this.#lives
    let i = lives.length - 1
    while (i > 0 && lives[i]!.start > seq) i--
    return formatCursor(lives[i]!.id, seq)
  }

  /** The cursor is of a life that is not known: of another log, or of one that began since the backplane told. */
  isUnknown (cursor: string): boolean {
    const place = parseCursor(cursor)
    return place !== undefined && !this.#lives.some(({ id }) => id === place.life)
  }

  /** The sequence number that a cursor names, where it can be proved what came after it. It may be newer than the head. */
  placeOf (cursor: string): number | undefined {
    const place = parseCursor(cursor)
    if (place === undefined) return undefined
    const i = this.#lives.findIndex(({ id }) => id === place.life)
    const good = i >= 0 && place.seq <= this.#lives[i]!.end && !this.#lives.some(({ broken }, j) => broken && j > i)
    return good ? place.seq : undefined
  }
}
