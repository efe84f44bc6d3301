/** What the page, or the worker, is told by its browser. */
export type PageEvent = 'online' | 'offline' | 'shown' | 'pause' | 'resume'

interface Target { addEventListener?: (name: string, listener: (event: { persisted?: boolean }) => void, options: { signal: AbortSignal }) => void }
const scope = globalThis as Target & { document?: Target & { visibilityState: string }, navigator?: { onLine?: boolean } }

/** False where the browser is sure that there is no network; it may be wrong about one on this machine. */
export const isOnline = (): boolean => scope.navigator?.onLine !== false

/** Tells what happens to the page until the signal aborts. Where there is no page, nothing does. */
export function watchPage (tell: (event: PageEvent) => void, signal: AbortSignal): void {
  const { document } = scope
  const on = (target: Target | undefined, name: string, event: PageEvent, unless?: (event: { persisted?: boolean }) => boolean | undefined): void => {
    target?.addEventListener?.(name, it => { if (!unless?.(it)) tell(event) }, { signal })
  }
  on(scope, 'online', 'online')
  on(scope, 'offline', 'offline')
  // A page that goes for good has no use for its connection either; one that comes back makes a new one.
  on(scope, 'pagehide', 'pause')
  on(scope, 'pageshow', 'resume')
  on(document, 'freeze', 'pause')
  on(document, 'resume', 'resume')
  on(document, 'visibilitychange', 'shown', () => document?.visibilityState === 'hidden')
}
