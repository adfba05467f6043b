// What can go wrong, as exceptions. The names, and what each means, are the Python client's.
//
//   InorderError                 everything below; never thrown itself
//   ├── LoginFailed              `hello` or `register` was refused
//   ├── Refused                  the request (or `cancel`, `status` …) was not taken
//   │   └── MessageTooLarge      … by this library: it would not fit into a frame
//   ├── RequestFailed            the outcome of a request; also any code of a handler's own
//   │   ├── HandlerFailed
//   │   ├── TimedOut
//   │   ├── Cancelled
//   │   ├── Interrupted
//   │   ├── Skipped
//   │   └── ResultTooLarge
//   ├── SessionGone              the session ended, expired, or belongs to somebody else
//   ├── HistoryLost              the server has forgotten what it had promised
//   └── ConnectionLost           the socket broke or could not be opened

import { CLOSE, comesBack } from "./retry.js";

/** @typedef {import("./messages.js").ErrorMessage} ErrorMessage */
/** @typedef {import("./messages.js").Receipt} Receipt */
/**
 * @typedef {object} About
 * @property {unknown} [details]
 * @property {boolean} [retry]
 * @property {boolean | null} [accepted]
 * @property {number | null} [after]
 */

/**
 * The base of all errors.
 *
 * `code` is a word of SPEC.md's list, of a handler's own, or of this library
 * (`connection_lost`, `protocol_error`, `detached`, `unreachable`, `login_unavailable`,
 * `message_too_large`). `retry` says whether the same may succeed later, `after` how many
 * seconds to wait where the server said it. `accepted` says of a request whether the server
 * accepted it: true, false, or null where that is not known or where it is no request.
 */
export class InorderError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {About} [about]
   */
  constructor(code, message, { details, retry = false, accepted = null, after = null } = {}) {
    super(message);
    this.name = new.target.name;
    this.code = code;
    /** @type {unknown} */
    this.details = details;
    this.retry = retry;
    this.accepted = accepted;
    this.after = after;
  }

  /**
   * The same error, said of a request that was accepted or not.
   *
   * @param {boolean | null} accepted
   * @returns {InorderError}
   */
  about(accepted) {
    const kind = /** @type {typeof InorderError} */ (this.constructor);
    return Object.assign(new kind(this.code, this.message), this, { accepted });
  }
}

/** The credentials were not taken, or the server takes none at the moment (`retry`). */
export class LoginFailed extends InorderError {}

/**
 * Not taken, and not run. A refused request has `accepted` false; but for
 * `already_acknowledged`: it was accepted and has run, and its outcome is forgotten.
 */
export class Refused extends InorderError {}

/** A request over `limits.message_bytes`; it was never sent. */
export class MessageTooLarge extends Refused {}

/** The outcome of a request that did not succeed. */
export class RequestFailed extends InorderError {}

/** The handler raised an error, in every attempt that it had. */
export class HandlerFailed extends RequestFailed {}

/** The handler ran longer than it may. */
export class TimedOut extends RequestFailed {}

/** The request was cancelled. `accepted` is false where it had not even been sent. */
export class Cancelled extends RequestFailed {}

/** The server stopped while the request ran, and it must not run again. */
export class Interrupted extends RequestFailed {}

/** An operator skipped the request. */
export class Skipped extends RequestFailed {}

/** The result was over `limits.outcome_bytes`. */
export class ResultTooLarge extends RequestFailed {}

/** There is no such session. `receipt` is set where it was ended in an orderly way. */
export class SessionGone extends InorderError {
  /** @type {Receipt | null} */
  receipt = null;
}

/** Client and server disagree about what was promised: the store was rolled back. */
export class HistoryLost extends InorderError {}

/** The connection is gone. `closeCode` is the WebSocket's, where there was one. */
export class ConnectionLost extends InorderError {
  /** @type {number | null} */
  closeCode = null;
}

/** @type {Record<string, typeof RequestFailed>} */
const OUTCOMES = {
  handler_failed: HandlerFailed,
  timed_out: TimedOut,
  cancelled: Cancelled,
  interrupted: Interrupted,
  skipped: Skipped,
  result_too_large: ResultTooLarge,
};
/** @type {Record<string, typeof InorderError>} */
const SESSION = { session_gone: SessionGone, history_lost: HistoryLost };
/** @type {Record<number, string>} */
const CLOSES = {
  [CLOSE.REPLACED]: "another connection has taken the session over",
  [CLOSE.FORBIDDEN]: "the user was revoked, deleted or given another password",
};

/** @param {Record<string, typeof InorderError>} kinds @param {string} code */
const own = (kinds, code) => (Object.hasOwn(kinds, code) ? kinds[code] : undefined);

/**
 * The exception for an outcome (SPEC.md, "error").
 *
 * @param {ErrorMessage} error
 */
export function outcome(error) {
  const kind = own(OUTCOMES, error.code) ?? RequestFailed;
  const { details, retry } = error;
  return new kind(error.code, error.message, { details, retry, accepted: true });
}

/**
 * The exception for a refused message; for a request pass `accepted`.
 *
 * @param {ErrorMessage} error
 * @param {boolean | null} [accepted]
 */
export function refusal(error, accepted = null) {
  return answer(own(SESSION, error.code) ?? Refused, error, accepted);
}

/**
 * The exception for a refused `hello` or `register`.
 *
 * @param {ErrorMessage} error
 */
export function login(error) {
  return answer(own(SESSION, error.code) ?? LoginFailed, error, null);
}

/**
 * @param {typeof InorderError} kind
 * @param {ErrorMessage} error
 * @param {boolean | null} accepted
 */
function answer(kind, { code, message, details, retry, after }, accepted) {
  return new kind(code, message, { details, retry, accepted, after });
}

/**
 * The exception for what was still open when the session ended.
 *
 * @param {Receipt} receipt
 * @param {boolean | null} [accepted]
 */
export function ended(receipt, accepted = null) {
  const gone = new SessionGone("session_gone", "the session has ended", { accepted });
  gone.receipt = receipt;
  return gone;
}

/**
 * The exception for a socket that closed (SPEC.md, "Close codes"). The reason is the error
 * code's word.
 *
 * @param {number} closeCode
 * @param {string} reason
 */
export function closed(closeCode, reason) {
  if (closeCode === CLOSE.SESSION_GONE) {
    return new SessionGone("session_gone", "the session is gone");
  }
  const said = `the connection closed (${closeCode}${reason && ` ${reason}`})`;
  const known = CLOSES[closeCode];
  const lost = new ConnectionLost(
    /^[a-z_]+$/.test(reason) ? reason : "connection_lost",
    known ? `${known} (${closeCode})` : said,
    { retry: comesBack(closeCode) },
  );
  lost.closeCode = closeCode;
  return lost;
}

/**
 * The exception for a session that could not be resumed in time.
 *
 * @param {InorderError} last
 * @param {number} seconds
 */
export function gaveUp(last, seconds) {
  const message = `no connection for ${Number(seconds.toPrecision(6))} s; ${last.message}`;
  const lost = new ConnectionLost(last.code, message, { retry: true });
  lost.closeCode = last instanceof ConnectionLost ? last.closeCode : null;
  return lost;
}

/** The exception for a request that was cancelled before the server had it. */
export function unsent() {
  return new Cancelled("cancelled", "cancelled unsent", { accepted: false });
}

/** The exception for a request whose outcome was acknowledged before it came here. */
export function forgotten() {
  const message = "its outcome was acknowledged before, and is forgotten";
  return new Refused("already_acknowledged", message, { accepted: true });
}

/** The exception for a request that comes when the program has said `close`. */
export function closing() {
  return new Refused("closing", "the session is being closed", { accepted: false });
}
