import type { Backplane, ChannelLimits } from '../../lib/log/backplane.ts'
import { memoryBackplane } from '../../lib/log/memory-backplane.ts'
import { ModelBackplane } from './backplane.ts'
import { Client, type Habits } from './client.ts'
import { Servers } from './cluster.ts'
import { judge, type Verdict } from './judge.ts'
import { MODES, type Fault } from './modes.ts'
import { Process, type ProcessOptions } from './process.ts'
import type { ServerLimits } from './server.ts'
import type { Session } from './session.ts'
import { Truth } from './truth.ts'
import { World } from './world.ts'

const CHANNELS = ['a', 'b', 'c', 'd', 'e', 'f'] as const
/** How often each is published to, and asked for. */
const WEIGHTS = [8, 5, 3, 1, 0.3, 0.05]
const CLIENTS = 6
/** ms with faults, and after them until all must be well. */
const FAULTY = 3_500
const CALM = 2_500
/** See ProcessOptions. */
const SPEED = 20

export interface Result extends Verdict {
  readonly story: readonly string[] | undefined
  /** Two runs of a seed have the same. */
  readonly checksum: number
  readonly published: number
  readonly received: number
}

/** One run: a seed of a mode gives the same one again. */
export async function simulate (modeName: string, seed: number, tell = false): Promise<Result> {
  const mode = MODES[modeName]
  if (mode === undefined) throw new Error(`no mode ${modeName}: ${Object.keys(MODES).join(', ')}`)
  const world = new World(seed, tell)
  const truth = new Truth()
  const sessions: Session[] = []
  const limitsOf = (name: string): ChannelLimits => mode.latest === true && name === 'b'
    ? { maxEvents: 1, maxAge: 0, latest: true }
    : { maxEvents: mode.maxEvents ?? Infinity, maxAge: mode.maxAge ?? 0, latest: false, ...mode.limits?.[name] }
  const isLatest = (name: string): boolean => limitsOf(name).latest
  const limits: ServerLimits = { maxEvents: name => limitsOf(name).maxEvents, retention: mode.retention ?? Infinity, silentDrop: mode.silentDrop ?? 0 }
  const servers = mode.memory === true ? undefined : new Servers(world, truth, limits, CHANNELS, mode.late === true)

  const options: ProcessOptions = {
    maxBytes: mode.maxBytes ?? Infinity,
    limits: limitsOf,
    measure: ({ data }) => bytesOf(data),
    speed: SPEED
  }
  const boot = (name: string): Process => {
    const backplane = servers === undefined
      ? recorded(memoryBackplane(), truth, world)
      : new ModelBackplane(world, { find: () => servers.find(), scale: ms => ms * SPEED, measure: bytesOf })
    return new Process(world, truth, name, backplane, options)
  }
  const processes = Array.from({ length: servers === undefined ? 1 : world.int(2, 3) }, (_, i) => boot(`P${i}`))

  // What is published

  const pick = (): string => {
    let at = world.random() * WEIGHTS.reduce((sum, weight) => sum + weight)
    return CHANNELS[WEIGHTS.findIndex(weight => (at -= weight) <= 0)] ?? 'a'
  }
  let uids = 0
  const publish = (process: Process, channels: readonly string[], kind: 'event' | 'end' = 'event'): void => {
    process.publish(++uids, [...new Set(channels)], kind)
    world.settled()
  }
  const publishSome = (): void => {
    if (world.now > FAULTY) return
    const process = world.pick(processes)
    let count = world.chance(0.1) ? world.int(2, 8) : 1
    if (mode.burst !== undefined && world.chance(0.02)) count = world.int(1, mode.burst)
    for (; count > 0; count--) {
      const channels = [pick()]
      if (world.chance(0.25)) channels.push(pick())
      if (world.chance(0.05)) channels.push(pick())
      publish(process, channels)
    }
    if (mode.ends === true && world.chance(0.02)) publish(process, [pick()], 'end')
    world.at(world.random() * 60, publishSome)
  }

  const habits: Habits = {
    channels: CHANNELS,
    pick,
    stale: mode.stale ?? false,
    foreign: mode.foreign ?? false,
    rejoin: mode.rejoin ?? false,
    losses: mode.late ?? false,
    busyFilters: mode.busyFilters ?? false,
    isLatest,
    processes: () => processes,
    publish,
    keptOf: (process, channel) => {
      if (servers !== undefined) {
        const { maxAge } = limitsOf(channel)
        const { now, data } = servers.master
        const rows = data.channels.get(channel)?.rows ?? []
        return rows.filter(({ kind, time }) => kind === 'end' || maxAge === 0 || (now - time) * SPEED <= maxAge).map(({ data }) => Number(data))
      }
      const log = process.log.channels.get(channel)
      return Array.from({ length: log?.events ?? 0 }, (_, i) => Number(log!.at(i).data))
    }
  }

  await world.until(300)
  const clients = Array.from({ length: CLIENTS }, () => new Client(world, truth, habits, sessions))
  publishSome()
  const act = (): void => {
    if (world.now > FAULTY) return
    if (mode.stay !== true) world.pick(clients).act()
    world.at(world.random() * (mode.haste ?? 150), act)
  }
  world.at(400, act)

  // channel.history()
  const complaints: string[] = []
  const look = (): void => {
    if (world.now > FAULTY) return
    const [process, name, newest] = [world.pick(processes), pick(), world.int(1, 12)]
    const there = habits.keptOf(process, name).filter(uid => truth.facts.get(uid)!.acknowledged).slice(-newest)
    const orderOf = (uid: number): number => truth.facts.get(uid)!.order
    process.log.kept(name, newest).then(entries => {
      const uids = entries.map(({ data }) => Number(data))
      const sorted = uids.every((uid, i) => i === 0 || orderOf(uids[i - 1]!) < orderOf(uid))
      if (!sorted || uids.length > newest || entries.some(({ channels }) => !channels.includes(name))) complaints.push(`history ${name}: ${uids.join()}`)
      const still = habits.keptOf(process, name)
      const missing = there.filter(uid => still.includes(uid) && !uids.includes(uid) && (uids.length < newest || orderOf(uid) > orderOf(uids[0]!)))
      if (mode.late !== true && missing.length > 0) complaints.push(`history ${name}: ${missing.join()} of ${there.join()} missing`)
    }, () => {})
    world.settled()
    world.at(world.random() * 300, look)
  }
  world.at(450, look)

  // What befalls them

  const strike = (fault: Fault): void => {
    const i = world.int(0, processes.length - 1)
    if (fault !== 'crash') return servers!.strike(fault, (processes[i]!.backplane as ModelBackplane).connections)
    world.tell('FAULT', 'crash', i)
    const old = processes[i]!
    processes[i] = boot(`P${i}`)
    old.crash()
  }
  for (const [fault, often] of Object.entries(mode.faults ?? {}) as Array<[Fault, number]>) {
    const again = (): void => {
      if (world.now > FAULTY) return
      strike(fault)
      world.at(world.wait(often), again)
    }
    world.at(500 + world.wait(often), again)
  }

  // All is well again

  await world.until(FAULTY)
  servers?.heal()
  limits.silentDrop = 0
  limits.retention = Infinity
  for (const client of clients) client.pace = 1
  await world.until(FAULTY + CALM / 2)
  const ended = new Set<string>()
  for (const name of CHANNELS) if (servers === undefined ? processes[0]!.log.endOf(name) !== undefined : servers.master.data.lasts.get(name)?.ended === true) ended.add(name)
  // One that has ended may be forgotten, and used again: nobody waits for that.
  for (const channel of CHANNELS) if (!ended.has(channel)) for (let n = 0; n < 3; n++) world.at(n * 50, () => publish(processes[0]!, [channel]))
  const isWell = (client: Client): boolean => client.isThrough(ended) ? client.stream === undefined : client.rests
  for (const client of clients) if (client.isThrough(ended)) client.stop()
  // A heartbeat may be on its way.
  for (let time = FAULTY + CALM; time < FAULTY + 2 * CALM; time += 100) {
    await world.until(time)
    if (clients.every(isWell)) break
  }

  for (const { rows } of servers?.master.data.channels.values() ?? []) for (const { data } of rows) truth.facts.get(Number(data))!.kept = true
  if (servers === undefined) for (const fact of truth.facts.values()) fact.kept = true
  const lives = new Set(servers?.master.data.hash?.lives.map(({ id }) => truth.lifeIndex(id)) ?? [0])
  const verdict = judge(truth, sessions, {
    gaps: mode.gaps ?? false,
    late: mode.late ?? false,
    due: mode.late !== true && mode.silentDrop === undefined && mode.limits === undefined && mode.maxEvents === undefined && mode.maxAge === undefined && mode.maxBytes === undefined && mode.retention === undefined && mode.faults?.del === undefined,
    whole: mode.late !== true && mode.silentDrop === undefined && mode.retention === undefined && mode.faults?.del === undefined,
    traceless: mode.silentDrop !== undefined,
    isLost: order => !lives.has(truth.indexOf(order)),
    keepsNothing: name => limitsOf(name).maxEvents === 0,
    isLatest
  })
  verdict.complaints.push(...complaints)
  for (const client of clients) if (!isWell(client)) verdict.complaints.push(`stuck ${client.state}`)
  // Where all channels have ended, a stream that went back ends before it has caught up with the others.
  if (mode.late !== true && mode.ends !== true) for (const client of clients) if (client.isStale) verdict.complaints.push(`stale ${client.state}`)
  return { ...verdict, story: world.story, checksum: world.checksum, published: uids, received: sessions.reduce((sum, { items }) => sum + items.length, 0) }
}

/** Bytes of an entry, as both sides count them: it need not be as long as it says. */
function bytesOf (data: string): number { return 100 + (Number(data) * 7_919) % 30_000 }

/** The real memory backplane, with all that it tells written down. */
function recorded (backplane: Backplane, truth: Truth, world: World): Backplane {
  return {
    open: receiver => backplane.open({
      hear: entry => {
        truth.executed(Number(entry.data), entry.life, entry.seq, entry.channels, entry.kind, world.now)
        receiver.hear(entry)
      },
      advance: place => receiver.advance(place),
      broken: error => receiver.broken(error),
      mended: (lives, head) => {
        truth.born(lives[0]!.id, 0)
        receiver.mended(lives, head)
      },
      restarted: (lives, head) => receiver.restarted(lives, head),
      endOf: name => receiver.endOf(name)
    }),
    append: entry => backplane.append(entry),
    close: () => backplane.close()
  }
}
