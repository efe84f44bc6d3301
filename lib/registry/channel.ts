import { checkOptions, checkSignal } from '../checks.ts'
import { SSE_ERR_INVALID_CHANNEL, SSE_ERR_INVALID_OPTION, received } from '../errors.ts'
import { isChannel, kRegistry, type Channel, type EndOptions, type PublishEvent, type PublishFromOptions } from '../stream/channel.ts'
import type { SseFeed } from '../stream/feed.ts'
import type { StoredEvent } from '../wire/event.ts'

/** What a handle asks of its registry. */
export interface ChannelHost {
  size (name: string): number
  publish (channel: string, ...event: any[]): Promise<string>
  end (channel: string, options?: EndOptions): Promise<string>
  publishFrom (channel: string, source: SseFeed, options?: PublishFromOptions): Promise<string>
  recent (name: string, limit?: number): Promise<StoredEvent[]>
}

/** The handle: a name and its registry. Nothing is kept for a channel that has no members and no history. */
export class ChannelHandle implements Channel {
  readonly name: string
  readonly [kRegistry]: ChannelHost

  constructor (name: string, host: ChannelHost) {
    this.name = name
    this[kRegistry] = host
  }

  get size (): number { return this[kRegistry].size(this.name) }

  publish (...event: [PublishEvent<any>]): Promise<string> { return this[kRegistry].publish(this.name, ...event) }

  end (options?: EndOptions): Promise<string> { return this[kRegistry].end(this.name, options) }

  publishFrom (source: SseFeed, options?: PublishFromOptions): Promise<string> { return this[kRegistry].publishFrom(this.name, source, options) }

  history (limit?: number): Promise<Array<StoredEvent<any>>> { return this[kRegistry].recent(this.name, limit) }
}

/** The names of channels of this host, each once. @throws SSE_ERR_INVALID_CHANNEL */
export function namesOf (channels: unknown, host: ChannelHost): string[] {
  const all: readonly unknown[] = Array.isArray(channels) ? channels : [channels]
  if (all.length === 0) throw new SSE_ERR_INVALID_CHANNEL('one, or several in an array', 'an empty array')
  if (all.length === 1) return [nameOf(all[0], host)]
  return [...new Set(all.map(one => nameOf(one, host)))]
}

function nameOf (channel: unknown, host: ChannelHost): string {
  if (!isChannel(channel)) return checkName(channel)
  if (channel[kRegistry] === host) return channel.name
  throw new SSE_ERR_INVALID_CHANNEL('a channel of this application, app.sse.channel(name)', received(channel))
}

/** @throws SSE_ERR_INVALID_CHANNEL */
export function checkName (name: unknown): string {
  if (typeof name === 'string' && name !== '') return name
  throw new SSE_ERR_INVALID_CHANNEL('a channel of this application or its name, a string that is not empty', received(name))
}

/** Checks the options of `channel.end()`. @throws SSE_ERR_INVALID_OPTION */
export function checkEndOptions (options: EndOptions): EndOptions {
  checkOptions(options, ['reason'])
  if (options.reason !== undefined && typeof options.reason !== 'string') throw new SSE_ERR_INVALID_OPTION('reason', 'a string', received(options.reason))
  return options
}

/** Checks the options of `channel.publishFrom()`. @throws SSE_ERR_INVALID_OPTION */
export function checkPublishFromOptions (options: PublishFromOptions): PublishFromOptions {
  checkOptions(options, ['signal', 'end'])
  checkSignal(options.signal)
  if (options.end !== undefined && typeof options.end !== 'boolean') throw new SSE_ERR_INVALID_OPTION('end', 'true or false', received(options.end))
  return options
}
