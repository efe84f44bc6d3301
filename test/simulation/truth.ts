/** An entry as it was executed, whatever became of it. */
export interface Fact {
  /** Its data, as text. */
  readonly uid: number
  readonly life: string
  readonly seq: number
  /** Its place in the order of all lives. */
  readonly order: number
  readonly channels: readonly string[]
  readonly kind: 'event' | 'end'
  /** When. */
  readonly executed: number
  /** The publisher was told that it is kept. */
  acknowledged: boolean
  /** It is among what is kept at the end. */
  kept: boolean
}

/** Lives lie this far apart in the order of all. */
const A_LIFE = 1e13

/** All that was ever written, in all lives, by the judge's own order: a life comes after those that were born before it. */
export class Truth {
  readonly facts = new Map<number, Fact>()
  /** Every cursor is asked for many times. */
  readonly #orders = new Map<string, number>()
  readonly #births = new Map<string, { readonly index: number, readonly start: number }>()

  born (life: string, start: number): void {
    this.#births.set(life, { index: this.#births.size, start })
  }

  /** The place of a sequence number of a life; below all others where no life has that name. */
  order (life: string, seq: number): number {
    const birth = this.#births.get(life)
    return birth === undefined ? -1 : birth.index * A_LIFE + (seq - birth.start)
  }

  /** A cursor's. */
  orderOf (cursor: string | null): number {
    if (cursor === null) return -1
    let order = this.#orders.get(cursor)
    if (order === undefined) {
      const [life, seq] = cursor.split('-') as [string, string]
      order = this.order(life, parseInt(seq, 36))
      // A life that is not known may be born later.
      if (order >= 0) this.#orders.set(cursor, order)
    }
    return order
  }

  executed (uid: number, life: string, seq: number, channels: readonly string[], kind: Fact['kind'], now: number): void {
    this.facts.set(uid, { uid, life, seq, order: this.order(life, seq), channels, kind, executed: now, acknowledged: false, kept: false })
  }

  indexOf (order: number): number { return Math.floor(order / A_LIFE) }
  lifeIndex (life: string): number { return this.#births.get(life)?.index ?? -1 }
}
