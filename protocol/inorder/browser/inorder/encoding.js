// Messages to frames.

/** @typedef {import("./messages.js").Limits} Limits */

/** What a request's number adds to it, and an array to its only message. */
export const SEQ_BYTES = ',"seq":9007199254740991}[]'.length;
/** Arrays and objects in each other: more a server may not read, and would have to take the
 *  frame, and all that is in it, for none. */
const DEEPEST = 500;
const HALF_A_PAIR = /(?<!\\)(?:\\\\)*\\ud[89a-f]/;

/**
 * A value as JSON. Throws `TypeError` for what is none, `RangeError` for what is nested too deep.
 *
 * @param {unknown} value
 */
export function encode(value) {
  const json = JSON.stringify(value);
  if (json === undefined) throw new TypeError("params must be JSON");
  if (json.includes("\\ud") && HALF_A_PAIR.test(json)) {
    throw new TypeError("there is half of a surrogate pair in it");
  }
  if (json.length > 2 * DEEPEST && depthOf(json) > DEEPEST) {
    throw new RangeError(`it is nested more than ${DEEPEST} deep`);
  }
  return json;
}

/** How many arrays and objects are open at most at once. @param {string} json */
function depthOf(json) {
  let depth = 0;
  let most = 0;
  for (let at = 0; at < json.length; at += 1) {
    const sign = json[at];
    if (sign === "[" || sign === "{") most = Math.max(most, ++depth);
    else if (sign === "]" || sign === "}") depth -= 1;
    else if (sign === '"') for (at += 1; json[at] !== '"'; at += 1) if (json[at] === "\\") at += 1;
  }
  return most;
}

/** A text's length in bytes of UTF-8. @param {string} text */
export function bytesOf(text) {
  let bytes = text.length;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    // Half of a pair counts two: a pair has four bytes.
    if (unit > 0x7f) bytes += unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff) ? 2 : 1;
  }
  return bytes;
}

/**
 * Messages as frames, each an object or an array within the limits.
 *
 * @param {string[]} messages
 * @param {Limits} limits
 */
export function pack(messages, { message_bytes, batch: most }) {
  /** @type {string[]} */
  const frames = [];
  /** @type {string[]} */
  let batch = [];
  let size = 2;
  for (const message of messages) {
    const more = bytesOf(message) + 1;
    if (batch.length && (size + more > message_bytes || batch.length >= most)) {
      frames.push(joined(batch));
      batch = [];
      size = 2;
    }
    size += more;
    batch.push(message);
  }
  if (batch.length) frames.push(joined(batch));
  return frames;
}

/** @param {string[]} messages */
function joined(messages) {
  return messages.length === 1 ? messages[0] : `[${messages.join(",")}]`;
}

/** What the ids of one start begin with. */
export function randomPrefix() {
  const bytes = crypto.getRandomValues(new Uint8Array(4));
  return `${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}-`;
}
