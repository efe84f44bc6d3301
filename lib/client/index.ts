export { SseClient } from './client.ts'
export { SseErrorEvent } from './error.ts'
export { SseStatusEvent } from './status-event.ts'

export type { SseClientConstructor } from './client.ts'
export type { Failure, SseErrorCode } from './error.ts'
export type { End, Gap, ParsedData, ParsedMessageEvent, TypedEventSource, TypedMessageEvent } from './events.ts'
export type { HeadersLike, SseClientOptions } from './options.ts'
export type { SseStatus } from './signal.ts'
