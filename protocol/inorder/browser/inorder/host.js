// What the client needs of its surroundings: sockets, a clock, and what a page is told.

/**
 * @typedef {object} SocketLike the part of a WebSocket that is used here
 * @property {((event: any) => void) | null} onopen
 * @property {((event: any) => void) | null} onclose
 * @property {((event: any) => void) | null} onerror
 * @property {((event: any) => void) | null} onmessage
 * @property {(data: string) => void} send
 * @property {(code?: number) => void} close
 * @property {number} [readyState]
 */
/**
 * @typedef {object} Host
 * @property {new (url: string, protocols: string[]) => SocketLike} WebSocket
 * @property {() => number} now seconds of a monotonic clock
 * @property {(run: () => void, ms: number) => any} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {Pick<LockManager, "request"> | null} locks
 * @property {(new (name: string) => BroadcastChannel) | null} BroadcastChannel
 * @property {Pick<EventTarget, "addEventListener" | "removeEventListener"> | null} window
 * @property {(Pick<EventTarget, "addEventListener" | "removeEventListener">
 *   & {visibilityState: string}) | null} document
 */

/**
 * What the browser offers, and in its place what the program has brought.
 *
 * @param {Partial<Host>} [given]
 * @returns {Host}
 */
export function host(given = {}) {
  const here = /** @type {any} */ (globalThis);
  return {
    WebSocket: here.WebSocket,
    now: () => performance.now() / 1000,
    setTimeout: (run, ms) => setTimeout(run, ms),
    clearTimeout: (timer) => clearTimeout(timer),
    locks: here.navigator?.locks ?? null,
    BroadcastChannel: here.BroadcastChannel ?? null,
    window: here.window ?? null,
    document: here.document ?? null,
    ...given,
  };
}
