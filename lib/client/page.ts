/** What a page, or a worker, is told by its browser; the names are the browser's. */
export type PageEvent = 'online' | 'offline' | 'pagehide' | 'pageshow' | 'freeze' | 'resume' | 'visibilitychange'

interface Target { addEventListener?: (name: string, listener: () => void, options: { signal: AbortSignal }) => void }
const scope = globalThis as Target & { document?: Target & { visibilityState: string }, navigator?: { onLine?: boolean } }

/** What the page believes now. Not online: the browser is sure that there is no network, but may be wrong about one on this machine. */
export const lookAtPage = (): { isOnline: boolean, isVisible: boolean } => ({
  isOnline: scope.navigator?.onLine !== false,
  isVisible: scope.document?.visibilityState !== 'hidden'
})

/** Tells what happens to the page until the signal aborts. Where there is no page, nothing does. */
export function watchPage (tell: (event: PageEvent) => void, signal: AbortSignal): void {
  for (const name of ['online', 'offline', 'pagehide', 'pageshow', 'freeze', 'resume', 'visibilitychange'] as const) {
    // The page's life is told to the document, and some of it bubbles on to the window.
    const target = /^[frv]/.test(name) ? scope.document : scope
    target?.addEventListener?.(name, () => tell(name), { signal })
  }
}
