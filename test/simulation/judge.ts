import type { Item, Session, Span } from './session.ts'
import type { Fact, Truth } from './truth.ts'

/** How strict the judge is, by what may happen in a run. */
export interface Law {
  /** Gaps may come. */
  readonly gaps: boolean
  /** What was acknowledged may be lost: who knows of it tells the others, so their gap may come behind some newer entries. */
  readonly late: boolean
  /** Nothing is evicted: what is due of the past must come. */
  readonly due: boolean
  /** A channel is not forgotten, and nothing of it vanishes without a trace: it is known when it is not whole. */
  readonly whole: boolean
  /** A hint may be lost without a sign: only an entry that came through the channel itself shows it. */
  readonly traceless: boolean
  /** The end of what can be proved is that of the present life. */
  readonly isLost: (order: number) => boolean
  /** The channel is live alone: who comes without a cursor begins where it is known what was there before. */
  readonly keepsNothing: (channel: string) => boolean
  /** Only the newest entry of the channel counts. */
  readonly isLatest: (channel: string) => boolean
}

export interface Verdict {
  readonly complaints: string[]
  /** Gap events, times the channels they name. */
  gaps: number
  /** Those behind which nothing was lost. */
  falseGaps: number
  /** Entries that were not received, and lie behind a gap; those of which the gap came later. */
  covered: number
  late: number
}

/** Compares what the clients got with what there was. */
export function judge (truth: Truth, sessions: readonly Session[], law: Law): Verdict {
  const verdict: Verdict = { complaints: [], gaps: 0, falseGaps: 0, covered: 0, late: 0 }
  const facts = [...truth.facts.values()].sort((a, b) => a.order - b.order)
  for (const session of sessions) {
    verdict.complaints.push(...session.complaints)
    judgeOrder(session, law, verdict)
    for (const span of session.spans) if (span.first < Infinity) judgeSpan(session, span, facts, truth, law, verdict)
  }
  return verdict
}

/** Nothing comes twice, or before an older one, but after a gap or after going back. */
function judgeOrder (session: Session, law: Law, verdict: Verdict): void {
  const { items, number } = session
  /** Of each channel, up to where it was received. */
  const highest = new Map<string, number>()
  const seen = new Set<number>()
  const channels = new Set(session.spans.map(({ channel }) => channel))
  /** A gap or going back allows what is older, for the channels concerned. */
  let newest = -1
  for (const item of items) {
    if (item.type === 'connection') {
      for (const [channel, order] of highest) highest.set(channel, Math.min(order, item.order))
      newest = item.order
    } else if (item.type === 'back') {
      highest.delete(item.channel)
      newest = -1
    } else if (item.type === 'gap') {
      for (const channel of item.gap.channels) highest.delete(channel)
      newest = -1
    } else {
      const { order, uid, seq } = item.fact
      const mine = item.fact.channels.filter(channel => channels.has(channel))
      // After a loss the newest value may be an older one.
      if (law.late && mine.some(law.isLatest)) continue
      // Through whichever channel it came: one for which it is new is enough.
      if (!mine.some(channel => order > (highest.get(channel) ?? -1))) verdict.complaints.push(`${seen.has(uid) ? 'repeated' : 'disorder'} C${number} ${mine.join()} ${seq}`)
      if (order < newest) verdict.complaints.push(`merge C${number} ${seq}`)
      if (item.fact.kind === 'event' && !mine.some(channel => session.client.accepts(channel, uid))) verdict.complaints.push(`unwanted C${number} ${seq}`)
      for (const channel of mine) highest.set(channel, Math.max(order, highest.get(channel) ?? -1))
      newest = order
      seen.add(uid)
    }
  }
}

function judgeSpan (session: Session, span: Span, facts: readonly Fact[], truth: Truth, law: Law, verdict: Verdict): void {
  const { channel } = span
  const items = session.items.slice(span.first).filter(item => item.type === 'entry' ? item.fact.channels.includes(channel) : item.type === 'gap' && item.gap.channels.includes(channel))
  const name = `C${session.number} ${channel}`
  /** uid -> the index where it came first. */
  const first = new Map<number, number>()
  items.forEach((item, i) => { if (item.type === 'entry' && !first.has(item.fact.uid)) first.set(item.fact.uid, i) })
  // A rewind goes on without a hole from where it began.
  const inSpan = (item: Item): boolean => item.time <= span.ended
  const others = new Set(session.spans.map(({ channel }) => channel))
  // What came through another channel does not say where this one stood.
  const isOwn = ({ channels }: Fact): boolean => !channels.some(other => other !== channel && others.has(other))
  const began = Math.min(...items.map(item => item.type === 'entry' && inSpan(item) && isOwn(item.fact) ? item.fact.order : Infinity))
  const oldest = span.due === undefined ? Infinity : began
  const start = Math.min(span.start, oldest)
  if (law.isLatest(channel) && items.some(item => item.type === 'gap')) verdict.complaints.push(`values ${name}: a gap`)
  verdict.gaps += items.filter(item => item.type === 'gap' && inSpan(item)).length
  if (span.gapDue && !law.isLatest(channel) && items.length > 0 && inSpan(items[0]!) && items[0]!.type !== 'gap' && span.end === Infinity) verdict.complaints.push(`nogap ${name}`)
  /** When the newest entry at the start was written: what was lost before that was lost before the client came. */
  const life = truth.indexOf(span.start)
  let started = -1
  for (const { order, executed } of facts) if (order <= span.start && truth.indexOf(order) === life) started = Math.max(started, executed)
  /** Through another channel it came already, and is not repeated. */
  const cameElsewhere = (fact: Fact): boolean => fact.channels.some(other => other !== channel && others.has(other)) && session.items.some(item => item.type === 'entry' && item.fact === fact)
  const used = new Set<number>()
  const newest = law.isLatest(channel) ? facts.findLast(fact => fact.acknowledged && fact.channels.includes(channel)) : undefined

  for (const fact of facts) {
    if (law.isLatest(channel) && (fact !== newest || span.end < Infinity)) continue
    if (!fact.acknowledged || fact.order <= start || fact.order > span.end || fact.executed > span.ended) continue
    if (!fact.channels.includes(channel) || !session.client.accepts(channel, fact.uid) || first.has(fact.uid)) continue
    if (!fact.kept && fact.order > span.start && fact.executed < (session.cursor !== null ? started : span.began)) continue
    if (span.fresh && fact.executed < span.began && fact.order < began) continue
    if (cameElsewhere(fact)) continue
    const isAt = (i: number): boolean => { const item = items[i]!; return item.type === 'entry' && first.get(item.fact.uid) === i }
    let end = items.findIndex((item, i) => item.type === 'entry' && item.time >= fact.executed && item.fact.order > fact.order && isAt(i) && (!law.traceless || isOwn(item.fact)))
    if (end < 0) end = items.length
    let from = -1
    for (let i = 0; i < end; i++) {
      const item = items[i]!
      if (item.type === 'entry' && isAt(i) && item.fact.order < fact.order && isOwn(item.fact)) from = i
    }
    const inPlace = items.findIndex((item, i) => item.type === 'gap' && item.time >= fact.executed && i > from && i < end)
    const before = items.findIndex((item, i) => item.type === 'gap' && item.time >= fact.executed && i < end)
    const anywhere = items.findIndex(item => item.type === 'gap' && item.time >= fact.executed)
    if (inPlace >= 0) {
      verdict.covered++
      used.add(inPlace)
    } else if (before >= 0 && law.late) {
      verdict.late++
      used.add(before)
    } else if (anywhere >= 0 && law.late) {
      verdict.late++
      used.add(anywhere)
    } else if (law.late && span.end < Infinity && (!fact.kept || law.isLost(span.end))) {
      // It left before anybody could know.
      verdict.late++
    } else if (!span.fresh || !law.keepsNothing(channel) || fact.executed > span.settled) {
      verdict.complaints.push(`silent ${name} ${fact.life}-${fact.seq} executed ${fact.executed.toFixed(0)}, joined ${span.began.toFixed(0)}, ${span.ended < Infinity ? 'left ' + span.ended.toFixed(0) : 'live'}`)
    }
  }
  // It was cut off in the middle of its rewind, and the rest may be gone when it comes back.
  const owed = span.due !== undefined && [...span.due].some(uid => !first.has(uid) && session.client.accepts(channel, uid))
  // Of what there was before it joined, some is gone: all was asked for, or it was cut off on its way through that and came back with a cursor from there.
  const isGone = (gap: Item): boolean => {
    const connection = session.items.slice(0, session.items.indexOf(gap)).findLast(({ type }) => type === 'connection') as Item & { type: 'connection' }
    return facts.some(({ channels, order, uid }) => channels.includes(channel) && (span.all || (connection.order >= 0 && order > connection.order)) && order <= span.start && !first.has(uid))
  }
  items.forEach((item, i) => {
    if (item.type !== 'gap' || used.has(i) || !inSpan(item) || owed) return
    // This channel has it no longer, and cannot know that another one has.
    const next = items[i + 1]
    if (next?.type === 'entry' && !isOwn(next.fact)) return
    if (!span.gapDue) verdict.falseGaps++
    if (!law.gaps && !(item.gap.reason === 'unknown' && span.gapDue) && !(item.gap.reason === 'expired' && isGone(item))) verdict.complaints.push(`false ${name} ${item.gap.reason} ${item.time.toFixed(0)}`)
  })
  // What is left is not to be taken for all.
  if (law.whole && span.all && !law.isLatest(channel) && !law.keepsNothing(channel) && !items.some(({ type }) => type === 'gap')) {
    // One that had ended, and was forgotten, is a new one.
    const end = facts.findLast(({ kind, channels, order }) => kind === 'end' && channels.includes(channel) && order < began)?.order ?? -1
    const gone = facts.find(fact => fact.order > end && fact.acknowledged && fact.kind === 'event' && fact.channels.includes(channel) && fact.order < began && session.client.accepts(channel, fact.uid) && !cameElsewhere(fact))
    if (gone !== undefined && began < Infinity) verdict.complaints.push(`whole ${name}: nothing was said of ${gone.seq}`)
  }
  if (law.due && span.due !== undefined) judgeDue(session, span, facts, fact => first.has(fact.uid) || cameElsewhere(fact), verdict)
}

/** Of what was kept, the newest come: at least so many as were asked for, or as many as there were. */
function judgeDue (session: Session, span: Span, facts: readonly Fact[], came: (fact: Fact) => boolean, verdict: Verdict): void {
  const { channel, due } = span
  if (span.settled > span.ended) return
  const known = new Map(facts.map(fact => [fact.uid, fact]))
  let missing = -1
  for (const uid of due!) {
    const fact = known.get(uid)!
    if (!came(fact) && session.client.accepts(channel, uid) && fact.order <= (span.end === Infinity ? Infinity : span.end)) missing = Math.max(missing, fact.order)
  }
  const count = facts.filter(({ order, channels, executed }) => order > missing && channels.includes(channel) && executed <= span.settled).length
  if (count < due!.length) verdict.complaints.push(`due C${session.number} ${channel}: ${count} of ${due!.length}`)
}
