import { setImmediate as nextTurn } from 'node:timers/promises'

interface Asked<Question, Answer> {
  readonly question: Question
  readonly resolve: (answer: Answer | Promise<Answer>) => void
  readonly reject: (error: unknown) => void
}

/** Questions that are asked together: what comes while an answer is awaited goes out next, as one. */
export class Together<Question, Answer> {
  readonly #most: number
  readonly #ask: (questions: Question[]) => Promise<ReadonlyArray<Answer | Promise<Answer>>>
  readonly #waiting: Array<Asked<Question, Answer>> = []
  #asking = false

  /**
   * @param most in one
   * @param ask answers them in their order, the first one at least, or rejects for all; those without an answer go first the next time
   */
  constructor (most: number, ask: (questions: Question[]) => Promise<ReadonlyArray<Answer | Promise<Answer>>>) {
    this.#most = most
    this.#ask = ask
  }

  ask (question: Question): Promise<Answer> {
    return new Promise<Answer>((resolve, reject) => {
      this.#waiting.push({ question, resolve, reject })
      if (!this.#asking) this.#askAll()
    })
  }

  async #askAll (): Promise<void> {
    this.#asking = true
    await nextTurn() // Those of the same turn of the event loop go with it.
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, this.#most)
      try {
        const answers = await this.#ask(batch.map(({ question }) => question))
        this.#waiting.unshift(...batch.splice(answers.length))
        batch.forEach(({ resolve }, i) => resolve(answers[i]!))
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    this.#asking = false
  }
}
