// The messages of the protocol as types, and frames to messages (SPEC.md, "Messages").

/**
 * @typedef {object} Limits what `welcome` says of the bounds (counts, bytes, requests a
 *   second, seconds)
 * @property {number} queue
 * @property {number} unacked
 * @property {number} message_bytes
 * @property {number} outcome_bytes
 * @property {number} batch
 * @property {number} rate
 * @property {number} ping
 */
/**
 * @typedef {object} Receipt the proof that a queue ended empty (SPEC.md, "Receipt"):
 *   `accepted = done + failed + cancelled + pending`
 * @property {string} session
 * @property {number} accepted
 * @property {number} done
 * @property {number} failed
 * @property {number} cancelled
 * @property {number} pending
 * @property {boolean} verified
 */
/**
 * @typedef {object} StatusReport how a session stands at the server (SPEC.md, "status")
 * @property {"status"} type
 * @property {string} session
 * @property {number} epoch
 * @property {number} accepted
 * @property {number} settled
 * @property {number} acked
 * @property {number} queued
 * @property {{id: string, seq: number, method: string, attempt: number, for_s: number,
 *   overdue?: boolean}} [running]
 * @property {{id: string, seq: number, code: string, next_retry_s?: number}} [blocked]
 * @property {{id: string, seq: number, method: string, state: string}[]} [requests]
 */
/**
 * @typedef {object} MethodLine one method, its doc line and the JSON Schema of its params
 * @property {string} name
 * @property {string} doc
 * @property {Record<string, unknown>} params
 * @property {boolean} [admin]
 */
/**
 * @typedef {{type: "welcome", session: string, user: string, epoch: number, resumed: boolean,
 *   accepted: number, settled: number, acked: number, token?: string | null,
 *   expires_in?: number | null, limits?: Limits | null}} Welcome
 * @typedef {{type: "accepted", id: string, seq: number, ahead: number}} Accepted
 * @typedef {{type: "progress", id: string, seq: number, attempt: number, n: number,
 *   progress: unknown}} Progress
 * @typedef {{type: "result", id: string, seq: number, result: unknown}} Result
 * @typedef {{type: "error", code: string, message: string, retry: boolean, id?: string | null,
 *   seq?: number | null, of?: string | null, after?: number | null,
 *   details?: unknown}} ErrorMessage
 * @typedef {{type: "cancelling", id: string, seq: number}} Cancelling
 * @typedef {{type: "methods", methods: MethodLine[]}} MethodsReport
 * @typedef {{type: "pong", data?: unknown}} Pong
 * @typedef {{type: "token", token: string, expires_in: number}} Token
 * @typedef {{type: "draining", deadline: number}} Draining
 * @typedef {{type: "bye", receipt: Receipt}} ByeReceipt
 * @typedef {{type: "hint", message: string}} Hint
 * @typedef {Welcome | Accepted | Progress | Result | ErrorMessage | Cancelling | StatusReport
 *   | MethodsReport | Pong | Token | Draining | ByeReceipt | Hint} ServerMessage
 */

export const SUBPROTOCOL = "inorder.v1";

/** Where `welcome` names none: the server's defaults. @type {Readonly<Limits>} */
export const LIMITS = Object.freeze({
  queue: 1000,
  unacked: 10_000,
  message_bytes: 262_144,
  outcome_bytes: 262_144,
  batch: 256,
  rate: 0,
  ping: 20,
});

const text = (/** @type {unknown} */ value) => typeof value === "string";
const truth = (/** @type {unknown} */ value) => typeof value === "boolean";
const number = (/** @type {unknown} */ value) => typeof value === "number";
const count = (/** @type {unknown} */ value) =>
  Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0;
const list = (/** @type {unknown} */ value) => Array.isArray(value);
const present = (/** @type {unknown} */ value) => value !== undefined;
const object = (/** @type {unknown} */ value) =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** @typedef {(value: unknown) => boolean} Check */
/** @typedef {{[field: string]: Check}} Shape */

/** @type {Shape} */
const RECEIPT = {
  session: text,
  accepted: count,
  done: count,
  failed: count,
  cancelled: count,
  pending: count,
  verified: truth,
};
/** @type {Shape} */
const BOUNDS = {
  queue: count,
  unacked: count,
  message_bytes: count,
  outcome_bytes: count,
  batch: count,
  rate: number,
  ping: number,
};

/** @param {Shape} shape @returns {Check} */
const shaped = (shape) => (value) => object(value) && !misfit(value, shape);
/** @param {Check} check @returns {Check} */
const optional = (check) => (value) => value === undefined || value === null || check(value);

/** @type {Record<string, Shape>} */
const SHAPES = {
  welcome: {
    session: text,
    user: text,
    epoch: count,
    resumed: truth,
    accepted: count,
    settled: count,
    acked: count,
    token: optional(text),
    expires_in: optional(number),
    limits: optional(shaped(BOUNDS)),
  },
  accepted: { id: text, seq: count, ahead: count },
  progress: { id: text, seq: count, attempt: count, n: count, progress: present },
  result: { id: text, seq: count, result: present },
  error: {
    code: text,
    message: text,
    retry: truth,
    id: optional(text),
    seq: optional(count),
    of: optional(text),
    after: optional(number),
  },
  cancelling: { id: text, seq: count },
  status: {
    session: text,
    epoch: count,
    accepted: count,
    settled: count,
    acked: count,
    queued: count,
    running: optional(object),
    blocked: optional(object),
    requests: optional(list),
  },
  methods: { methods: list },
  pong: {},
  token: { token: text, expires_in: number },
  draining: { deadline: number },
  bye: { receipt: shaped(RECEIPT) },
  hint: { message: text },
};

/** A frame that can't be understood. */
export class Malformed extends Error {}

/**
 * The first field that is not as it must be, or undefined.
 *
 * @param {any} value
 * @param {Shape} shape
 */
function misfit(value, shape) {
  for (const field in shape) if (!shape[field](value[field])) return field;
  return undefined;
}

/**
 * The messages of a server's frame. Types that are not known are skipped: a later server may
 * send them. Throws `Malformed`.
 *
 * @param {unknown} frame
 * @returns {ServerMessage[]}
 */
export function decode(frame) {
  if (typeof frame !== "string") throw new Malformed("a binary frame");
  let value;
  try {
    value = JSON.parse(frame);
  } catch (error) {
    throw new Malformed(`not JSON: ${/** @type {Error} */ (error).message}`);
  }
  const messages = Array.isArray(value) ? value : [value];
  return messages.filter((message) => {
    if (!object(message) || !text(message.type)) throw new Malformed("a message needs a type");
    if (!Object.hasOwn(SHAPES, message.type)) return false;
    const wrong = misfit(message, SHAPES[message.type]);
    if (wrong) throw new Malformed(`${message.type}: ${wrong} is not as it must be`);
    return true;
  });
}
