import type { Settings } from './options.ts'
import type { watchPage } from './page.ts'
import type { Signal, Source, SseStatus, Standing } from './signal.ts'

/** Ids that a tab remembers, to know an event that comes again. */
const MAX_SEEN = 10_000
/** ms: a leader that has said nothing for so long is asked, and one that has not answered by the next time is hung. */
const CHECK = 10_000
/** ms: a connection that brought no event for so long after it opened has none to bring that the leader has not told. */
const QUIET = 1_000

/** What crosses between tabs: what the leader's connection tells, the question of a tab that comes, and its answer. */
type Message = Signal | { readonly kind: 'hello' } | Standing & { readonly kind: 'here', readonly ids: readonly string[] }

/** Makes a connection of one's own. Handed in, as `watchPage` is, so that this file can be loaded apart from the rest. */
type Connect = new (settings: Settings, tell: (signal: Signal) => void) => Source

/** Another script of the origin may speak on the channel too, or a page that has another release of this. */
const isMessage = (data: any): data is Message =>
  data?.kind === 'hello' || (typeof (data?.status ?? data?.lastEventId) === 'string' && (data.kind !== 'here' || Array.isArray(data.ids)))

interface Locks { request (name: string, options: { signal?: AbortSignal, steal?: boolean }, run: () => Promise<void>): Promise<void> }
const scope = globalThis as { navigator?: { locks?: Locks }, BroadcastChannel?: unknown }

/**
 * One connection for all tabs: the leader's, who holds the lock.
 *
 * Each tab begins with a connection of its own, so it gets what the route gives to whoever comes. It leaves that one
 * where it meets the leader's: at an id that both have had, or once its own has nothing to bring, or is
 * refused. What the leader told meanwhile is kept until then. An event whose id a tab has had is not told again, so a
 * new leader may resume from where it was itself. Without Web Locks each tab stays with its own.
 */
export class Shared implements Source {
  #lastEventId: string
  readonly #settings: Settings
  readonly #tell: (signal: Signal) => void
  readonly #Connect: Connect
  readonly #name: string
  /** Ids that this tab has had, and whether it had an event with it: one that came alone may be that of an event of a channel that the stream joins later. */
  readonly #seen = new Map<string, boolean>()
  /** Ends with the client. */
  readonly #life = new AbortController()
  /** Ends with the client too, and before, with a page that is frozen: a browser keeps none that holds a lock. */
  #stay = new AbortController()
  #channel: BroadcastChannel | undefined
  /** The leader's connection, or one that has not met the leader's. */
  #own: Source | undefined
  #isLeader = false
  /** The leader's connection is open, or has a place to resume from: who follows it now misses nothing. */
  #canFollow = false
  /** Takes the lead from whoever has it. */
  #steal!: () => void
  /** 429: the server has as many connections of this user as it takes. */
  #isRefused = false
  #standing: Standing = { status: 'connecting' }
  /** The id of the newest event. */
  #eventId = ''
  /** While this tab reads its own: what the leader told, from its answer on. */
  #pending: Signal[] | undefined
  /** The ids of the leader's position when it answered. */
  #ids: readonly string[] = []
  /** How often nothing was heard of the leader. */
  #misses = 0
  #quiet: ReturnType<typeof setTimeout> | undefined

  constructor (settings: Settings, tell: (signal: Signal) => void, Connect: Connect, watch: typeof watchPage) {
    this.#settings = settings
    this.#tell = tell
    this.#Connect = Connect
    this.#name = `sse ${settings.init.method} ${settings.init.credentials} ${settings.url}`
    this.#lastEventId = settings.lastEventId
    watch(type => {
      if (type === 'pagehide' || type === 'freeze') this.#leave('paused')
      else if ((type === 'pageshow' || type === 'resume') && this.#stay.signal.aborted) this.#join()
    }, this.#life.signal)
    this.#join()
  }

  close (): void {
    this.#life.abort()
    this.#leave('closed')
  }

  #join (): void {
    this.#stay = new AbortController()
    const { signal } = this.#stay
    const locks = scope.navigator?.locks
    this.#connect()
    if (!locks || !scope.BroadcastChannel) return
    this.#channel = new BroadcastChannel(this.#name)
    this.#channel.onmessage = ({ data }) => { if (isMessage(data)) this.#hear(data) }
    this.#post({ kind: 'hello' })
    const lead = (): Promise<void> => new Promise(resolve => {
      if (signal.aborted) return resolve()
      signal.addEventListener('abort', () => resolve())
      this.#isLeader = true
      this.#pending = undefined
      if (!this.#own) this.#connect()
      this.#answer()
    })
    const request = (options: { signal?: AbortSignal, steal?: boolean }): void => {
      locks.request(this.#name, options, lead).catch(() => {
        // It was stolen: this page was taken for dead, and begins as one that comes.
        if (signal.aborted || !this.#isLeader) return
        this.#leave('paused')
        // Who was told so may have closed it.
        if (!this.#life.signal.aborted) this.#join()
      })
    }
    request({ signal })
    this.#steal = () => request({ steal: true })
    // A leader that was frozen without a word still holds the lock.
    const { inactivity } = this.#settings
    const timer = setInterval(() => {
      if (this.#isLeader || this.#own) this.#misses = 0
      else if (++this.#misses === 2) this.#post({ kind: 'hello' })
      else if (this.#misses > 2) this.#steal()
    }, inactivity ? inactivity / 3 : CHECK)
    signal.addEventListener('abort', () => clearInterval(timer))
  }

  #leave (status: SseStatus): void {
    this.#stay.abort()
    this.#isLeader = false
    this.#quit()
    this.#channel?.close()
    this.#stand({ status })
  }

  /** Ends the connection of one's own, without a word. */
  #quit (): void {
    const own = this.#own
    this.#own = this.#pending = undefined
    clearTimeout(this.#quiet)
    this.#quiet = undefined
    own?.close()
  }

  #connect (): void {
    this.#isRefused = this.#canFollow = false
    const own: Source = new this.#Connect({ ...this.#settings, lastEventId: this.#lastEventId }, signal => {
      if (own !== this.#own) return
      if (this.#isLeader && !this.#isKnown(signal)) this.#post(signal)
      this.#take(signal)
      if (signal.kind === 'event') clearTimeout(this.#quiet)
      else if (signal.kind === 'status') {
        this.#isRefused = signal.error?.status === 429
        if (signal.status === 'open') this.#listen()
      }
      this.#meet()
    })
    this.#own = own
  }

  #hear (message: Message): void {
    if (message.kind === 'hello') return this.#answer()
    if (this.#isLeader) return // an old one's last words: what it told comes again, or is seen
    this.#misses = 0
    if (!this.#own) {
      if (message.kind === 'here') this.#stand(message)
      else this.#take(message)
      return
    }
    this.#pending ??= []
    // Its own waits for a try, which brings what is told until then; or it brings much, and never an id that both have had. This would grow for ever.
    if (this.#standing.until || this.#pending.length > MAX_SEEN) {
      this.#pending = this.#pending.filter(({ kind }) => kind === 'status').slice(-1)
      this.#ids = []
    }
    if (message.kind !== 'here') this.#pending.push(message)
    else {
      this.#ids = message.ids
      this.#pending.push({ kind: 'status', status: message.status, until: message.until })
    }
    const could = this.#canFollow
    if (message.kind === 'here') this.#canFollow = message.status === 'open' || message.ids.length > 0
    else if (message.kind !== 'status' || message.status === 'open') this.#canFollow = true
    // What its own has brought until now, that leader does not tell.
    if (this.#canFollow && !could && this.#quiet) this.#listen()
    // A leader that has been nowhere is refused what this one has: nobody misses anything if this one leads.
    if (!this.#canFollow && message.kind === 'status' && message.error?.status === 429 && this.#standing.status === 'open') this.#steal()
    this.#meet()
  }

  /** Looks in a while whether the own connection had anything to bring. */
  #listen (): void {
    clearTimeout(this.#quiet)
    this.#quiet = setTimeout(() => { if (this.#canFollow && this.#standing.status === 'open') this.#meet(true) }, QUIET)
  }

  /** Leaves the own connection for the leader's, if that goes on from where this one is. */
  #meet (isQuiet = false): void {
    const pending = this.#pending
    if (!pending || this.#isLeader) return
    // One that has a place to resume from asks again: it would miss what is between that and the leader's.
    if (this.#isRefused && !this.#lastEventId) isQuiet = true
    let last = pending.length
    while (last-- > 0) {
      const one = pending[last]!
      if (one.kind !== 'status' && (one.kind === 'id' || one.hasId) && this.#seen.has(one.lastEventId)) break
    }
    if (last < 0 && !isQuiet && !this.#ids.some(id => this.#seen.has(id))) return
    this.#quit()
    // What stands before the place where they meet is older.
    pending.forEach((one, n) => { if (n > last || one.kind === 'status') this.#take(one) })
  }

  #take (signal: Signal): void {
    if (signal.kind === 'status') return this.#stand(signal)
    if (this.#isKnown(signal)) return
    const { lastEventId } = signal
    if (lastEventId && (signal.kind === 'id' || signal.hasId)) {
      const had = this.#seen.get(lastEventId)
      // A gap has the id of what came before it, which a tab may have had.
      const isGap = signal.kind === 'event' && signal.type === 'sse.gap'
      if (signal.kind === 'event' && had && !isGap) return
      this.#seen.set(lastEventId, had || (signal.kind === 'event' && !isGap))
      if (this.#seen.size > MAX_SEEN) this.#seen.delete(this.#seen.keys().next().value!) // the oldest
      this.#lastEventId = lastEventId
      if (signal.kind === 'event') this.#eventId = lastEventId
      // The stream had gone back for a channel that it joined, and stands again where it was: what it told meanwhile is older.
      else if (had !== undefined) this.#eventId = had ? lastEventId : ''
    }
    this.#tell(signal)
  }

  /** It stands there already. */
  #isKnown (signal: Signal): boolean {
    return signal.kind === 'id' && signal.lastEventId === this.#lastEventId && this.#seen.has(signal.lastEventId)
  }

  /** Tells where the connection stands, unless that is known. */
  #stand ({ status, until, error }: Standing): void {
    const isKnown = status === this.#standing.status && !error && until === this.#standing.until
    this.#standing = { status, until }
    if (!isKnown) this.#tell({ kind: 'status', status, until, error })
    if (status === 'closed' && !this.#life.signal.aborted) this.close()
  }

  #answer (): void {
    const ids = [this.#lastEventId, this.#eventId].filter(Boolean)
    if (this.#isLeader) this.#post({ kind: 'here', ...this.#standing, ids })
  }

  #post (message: Message): void {
    // What was thrown may be of a kind that cannot cross.
    this.#channel?.postMessage('error' in message && message.error ? { ...message, error: { ...message.error, cause: undefined } } : message)
  }
}
