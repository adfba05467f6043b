// What passes between the core and its shell, as types.

/** @typedef {import("./errors.js").InorderError} InorderError */
/** @typedef {import("./messages.js").Receipt} Receipt */
/** @typedef {import("./phases.js").StateName} StateName */
/** @typedef {import("./window.js").Call} Call */

/**
 * @typedef {object} State what a program keeps of a session to come back to it (SPEC.md,
 *   "Resume"): outcomes up to `held` were taken, the highest seq accepted is `accepted`
 * @property {string} session
 * @property {number} held
 * @property {number} accepted
 */
/**
 * @typedef {object} Outcome how a request ended that an earlier start of this page had sent
 * @property {string} id
 * @property {number} seq
 * @property {unknown} [result]
 * @property {InorderError | null} error
 */
/**
 * @typedef {object} Ask a question that is answered in turn. `message` is its encoding: what a
 *   lost connection left unanswered is asked again
 * @property {"status" | "methods" | "ping"} kind
 * @property {string} message
 * @property {unknown} owner
 */
/**
 * @typedef {{kind: "opened"} | {kind: "login refused", error: InorderError}
 *   | {kind: "accepted", call: Call} | {kind: "progress", call: Call, value: unknown}
 *   | {kind: "ended", call: Call} | {kind: "outcome"}
 *   | {kind: "cancel answered", call: Call, answer: boolean | InorderError}
 *   | {kind: "answered", ask: Ask, answer: unknown}
 *   | {kind: "state", name: StateName} | {kind: "receipt", receipt: Receipt}
 *   | {kind: "dropped", error: InorderError} | {kind: "lost", error: InorderError}} CoreEvent
 *   what the core has to tell its shell. "dropped": the connection is of no more use, and
 *   another is wanted when `due` says so; "lost": the session is over here
 */

export {};
