// What a screen reader says of the lane: what has ended, in few words however much it was. No page
// in it.

/** @typedef {import("./book.js").Entry} Entry */
/** @typedef {import("./book.js").Book} Book */

/** Seconds that what ends together is waited for. */
const GATHER = 0.4;
/** Seconds between two things said: as long as one takes to be said. */
const EVERY = 3;
/** So many are named one by one, more are only counted. */
const NAMED = 2;

export class Announcer {
  /** @param {(text: string) => void} say */
  constructor(say) {
    this._say = say;
    /** @type {Entry[]} */
    this._ended = [];
    this._firstAt = NaN;
    this._saidAt = -Infinity;
  }

  /** Something has changed. @param {Entry[]} changed @param {number} now seconds */
  told(changed, now) {
    for (const entry of changed) {
      if (!Number.isNaN(entry.ended)) {
        if (!this._ended.length) this._firstAt = now;
        this._ended.push(entry);
      }
    }
  }

  /** Says it when its time has come. @param {Book} book @param {number} now seconds */
  tick(book, now) {
    const due = Math.max(this._firstAt + GATHER, this._saidAt + EVERY);
    if (!this._ended.length || now < due) return;
    const ended = this._ended.splice(0);
    this._saidAt = now;
    const parts = ended.length > NAMED ? [summary(ended)] : ended.map(named);
    const left = book.counts.unsent + book.counts.waiting + book.counts.running;
    if (left) parts.push(`${left} to go.`);
    else if (ended.length > NAMED) parts.push("None is left.");
    this._say(parts.join(" "));
  }
}

/** @param {Entry} entry */
function named({ seq, method, place, error }) {
  const who = seq === null ? "A request" : `Request ${seq}`;
  const why = place === "failed" && error ? `: ${error.code.replaceAll("_", " ")}` : "";
  return `${[who, method].filter(Boolean).join(", ")}, ${place}${why}.`;
}

/** @param {Entry[]} ended */
function summary(ended) {
  const places = /** @type {const} */ (["done", "failed", "cancelled"]);
  const counts = places.map((place) => [ended.filter((one) => one.place === place).length, place]);
  const parts = counts.filter(([count]) => count);
  return `${parts.map((part) => part.join(" ")).join(", ")}.`;
}
