// Whether to come back after a failure, and when (SPEC.md, "Close codes" and "Error codes").

/** @typedef {import("./errors.js").InorderError} InorderError */
/** @typedef {() => Iterator<number>} Backoff called at the begin of an outage; yields the
 *  seconds before each attempt */

/** Close codes that are named here; the others go by their range. */
export const CLOSE = Object.freeze({
  DONE: 1000,
  ABNORMAL: 1006,
  FORBIDDEN: 4403,
  REPLACED: 4409,
  SESSION_GONE: 4410,
});

/** Seconds: the most that the first attempt waits, and the most that any does, the server's
 *  `after` aside. */
export const FIRST = 0.2;
export const MOST = 15;

const STOP = new Set([1000, 1002, 1003, 1007, 1009]);

/**
 * Whether to reconnect and resume after this close code: 44xx, 1002, 1003, 1007 and 1009 mean
 * stop, 1000 ends a session on purpose, everything else is worth another try.
 *
 * @param {number} closeCode
 */
export function comesBack(closeCode) {
  return !STOP.has(closeCode) && !(closeCode >= 4400 && closeCode <= 4499);
}

/**
 * The one place where it is decided whether a client stops or comes back. By the time it gets
 * here every failure is an error whose `retry` is the server's word or the close code's.
 * "log in anew": other credentials may do; where there are none, stop.
 *
 * @param {InorderError} error
 * @param {boolean} [byALateHello] an attempt of this client's own that it gave up without an
 *   answer may be what has replaced its connection (SPEC.md, "Resume")
 * @returns {"stop" | "come back" | "log in anew"}
 */
export function judge(error, byALateHello = false) {
  if (byALateHello && wasReplaced(error)) return "come back";
  const refused = error.code === "unauthenticated" || error.code === "token_expired";
  if (error.name === "LoginFailed" && refused) return "log in anew";
  return error.retry ? "come back" : "stop";
}

/** Whether another connection has the session now. @param {InorderError} error */
export function wasReplaced(error) {
  return "closeCode" in error && error.closeCode === CLOSE.REPLACED;
}

/**
 * Seconds before each attempt: a random part of a bound that doubles, so that the clients of
 * a server that was restarted do not all come at once.
 *
 * @returns {Generator<number, never, void>}
 */
export function* backoff() {
  for (let bound = FIRST; ; bound = Math.min(2 * bound, MOST)) {
    yield Math.random() * bound;
  }
}
