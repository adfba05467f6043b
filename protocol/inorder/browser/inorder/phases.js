// Where a session is, as its client knows it, and which moves there are.
//
//   NEW → GREETING → OPEN → (DRAINING →) CLOSING → BYE → ENDED
//            ↑___ AWAY ←___|__________________|______|
//
// Besides: GREETING → NEW or AWAY (another try), BYE → CLOSING (another `bye`), any live one or
// GREETING → ENDED (the server ended it), and all but ENDED → LOST or DETACHED.

/** The phases, in the order of a life that goes well. AWAY: between two connections. */
export const Phase = Object.freeze({
  NEW: 0,
  AWAY: 1,
  GREETING: 2,
  OPEN: 3,
  DRAINING: 4,
  CLOSING: 5,
  BYE: 6,
  ENDED: 7,
  LOST: 8,
  DETACHED: 9,
});

const { NEW, AWAY, GREETING, OPEN, DRAINING, CLOSING, BYE, ENDED, LOST, DETACHED } = Phase;

/** @type {Record<number, readonly number[]>} */
export const MOVES = {
  [NEW]: [GREETING, AWAY, LOST, DETACHED],
  [AWAY]: [GREETING, LOST, DETACHED],
  [GREETING]: [NEW, AWAY, OPEN, ENDED, LOST, DETACHED],
  [OPEN]: [DRAINING, CLOSING, AWAY, ENDED, LOST, DETACHED],
  [DRAINING]: [CLOSING, AWAY, ENDED, LOST, DETACHED],
  [CLOSING]: [BYE, AWAY, ENDED, LOST, DETACHED],
  [BYE]: [CLOSING, AWAY, ENDED, LOST, DETACHED],
  [ENDED]: [],
  [LOST]: [],
  [DETACHED]: [],
};

/** @typedef {"connected" | "draining" | "reconnecting" | "resumed" | "closed" | "lost"
 *   | "detached"} StateName */

/** What `state` events say, beside `connected`, `reconnecting` and `resumed`.
 *  @type {Record<number, StateName>} */
export const NAMES = {
  [DRAINING]: "draining",
  [ENDED]: "closed",
  [LOST]: "lost",
  [DETACHED]: "detached",
};

/** Whether the server listens to more than `hello`. @param {number} phase */
export const isLive = (phase) => phase >= OPEN && phase <= BYE;
