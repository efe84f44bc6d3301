import { kRegistry, type Channel, type PublishEvent } from '../stream/channel.ts'
import type { StoredEvent } from '../wire/event.ts'

/** What a handle asks of its registry. */
export interface ChannelHost {
  size (name: string): number
  publish (channel: string, event: any): Promise<string>
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

  publish (event: PublishEvent<any>): Promise<string> { return this[kRegistry].publish(this.name, event) }

  history (limit?: number): Promise<Array<StoredEvent<any>>> { return this[kRegistry].recent(this.name, limit) }
}
