// What the page knows of its requests, in the order of their numbers. No page in it: who draws
// asks for what has changed.
//
// The server does not say when a request begins. It need not: the first one that is accepted and
// has no outcome is the one that runs, and it began when the one before it ended, or when it was
// accepted, whichever was later.

/** @typedef {"unsent" | "waiting" | "running" | "done" | "failed" | "cancelled"} Place */
/** @typedef {import("../../../protocol/inorder/browser/inorder/job.js").Job} Job */
/**
 * @typedef {object} Entry
 * @property {number} at its place in the lane, from 0
 * @property {string} id
 * @property {number | null} seq
 * @property {string} method "" where it is not known: of an earlier life of the page
 * @property {unknown} params
 * @property {Place} place
 * @property {number} submitted seconds, as all times here; NaN where it is not known
 * @property {number} accepted
 * @property {number} started
 * @property {number} ended
 * @property {unknown} progress
 * @property {unknown} result
 * @property {any} error
 * @property {Job | null} job
 * @property {boolean} cancelling somebody has asked for it
 */

export class Book {
  /** @param {() => number} now seconds of a monotonic clock */
  constructor(now) {
    this._now = now;
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Map<string, Entry>} */
    this._inherited = new Map();
    this._head = 0;
    this._lastEnd = -Infinity;
    /** Of this page: what an earlier life had sent was accepted then. */
    this.acceptedInAll = 0;
    /** @type {number[]} */
    this._latencies = [];
    /** @type {Record<Place, number>} */
    this.counts = { unsent: 0, waiting: 0, running: 0, done: 0, failed: 0, cancelled: 0 };
    /** @type {Set<Entry>} */
    this._changed = new Set();
  }

  /** The request that runs, if one does. */
  get running() {
    const entry = this.entries[this._head];
    return entry?.place === "running" ? entry : null;
  }

  /** The one that runs, or else the last that ended; null where there is none. */
  get front() {
    return this.running ?? this.entries[this._head - 1] ?? null;
  }

  /** Seconds from submitted to ended, of those that ended since the last time. */
  takeLatencies() {
    return this._latencies.splice(0);
  }

  /** What has changed since the last time. */
  changes() {
    const changed = [...this._changed];
    this._changed.clear();
    return changed;
  }

  /**
   * A request of this page, followed until it ends.
   *
   * @param {Job} job
   * @param {string} method
   * @param {unknown} params
   */
  follow(job, method, params) {
    const entry = this._add(job.id, null, method, params, "unsent");
    entry.submitted = this._now();
    entry.job = job;
    job.accepted.then(
      (seq) => this._accept(entry, seq),
      () => {}, // its end says why
    );
    job.then(
      (result) => this._end(entry, "done", result, null),
      (error) => this._end(entry, error.code === "cancelled" ? "cancelled" : "failed", null, error),
    );
    return entry;
  }

  /** What its handler tells. @param {Entry} entry @param {unknown} progress */
  progress(entry, progress) {
    entry.progress = progress;
    this._changed.add(entry);
  }

  /**
   * A request of an earlier life of this page, as `status` lists it.
   *
   * @param {{id: string, seq: number, method: string}} line
   */
  inherit({ id, seq, method }) {
    const entry = this._add(id, seq, method, undefined, "waiting");
    this._inherited.set(id, entry);
    entry.accepted = this._now();
    this._beginNext();
    return entry;
  }

  /**
   * How one of an earlier life ended.
   *
   * @param {{id: string, seq: number, result?: unknown, error: any}} outcome
   */
  settle({ id, seq, result, error }) {
    const entry = this._inherited.get(id) ?? this.inherit({ id, seq, method: "" });
    const place = error ? (error.code === "cancelled" ? "cancelled" : "failed") : "done";
    this._end(entry, place, result, error);
  }

  /**
   * @param {string} id
   * @param {number | null} seq
   * @param {string} method
   * @param {unknown} params
   * @param {Place} place
   * @returns {Entry}
   */
  _add(id, seq, method, params, place) {
    const times = { submitted: NaN, accepted: NaN, started: NaN, ended: NaN };
    const open = { progress: undefined, result: undefined, error: null };
    const asked = { job: null, cancelling: false };
    const at = this.entries.length;
    const entry = { at, id, seq, method, params, place, ...times, ...open, ...asked };
    this.entries.push(entry);
    this.counts[place] += 1;
    this._changed.add(entry);
    return entry;
  }

  /** @param {Entry} entry @param {number} seq */
  _accept(entry, seq) {
    this.acceptedInAll += 1;
    entry.seq = seq;
    entry.accepted = this._now();
    if (entry.place === "unsent") this._move(entry, "waiting");
    this._beginNext();
  }

  /** @param {Entry} entry @param {Place} place @param {unknown} result @param {any} error */
  _end(entry, place, result, error) {
    Object.assign(entry, { result, error, ended: this._now() });
    if (entry.submitted && place === "done") this._latencies.push(entry.ended - entry.submitted);
    if (entry.job?.seq != null) entry.seq = entry.job.seq;
    if (entry.seq !== null) {
      if (Number.isNaN(entry.started)) entry.started = this._startOf(entry);
      this._lastEnd = entry.ended;
    }
    this._move(entry, place);
    this._beginNext();
  }

  /** The first that has no outcome runs, once it is accepted. */
  _beginNext() {
    while (this._head < this.entries.length && this._ended(this.entries[this._head])) {
      this._head += 1;
    }
    const entry = this.entries[this._head];
    if (entry?.place !== "waiting") return;
    entry.started = this._startOf(entry);
    this._move(entry, "running");
  }

  /** @param {Entry} entry */
  _startOf(entry) {
    return Math.max(entry.accepted || -Infinity, this._lastEnd, entry.submitted || -Infinity);
  }

  /** @param {Entry} entry */
  _ended(entry) {
    return entry.place === "done" || entry.place === "failed" || entry.place === "cancelled";
  }

  /** @param {Entry} entry @param {Place} place */
  _move(entry, place) {
    this.counts[entry.place] -= 1;
    this.counts[place] += 1;
    entry.place = place;
    this._changed.add(entry);
  }
}

/** Seconds as a person reads them. @param {number} seconds */
export function spent(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds >= 0 && seconds < 0.0005) return "<1 ms";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

/** How far a handler is, 0 to 1, where its progress says so: `0.4`, `{slept: 2, of: 5}`, …
 *  @param {unknown} progress @returns {number | null} */
export function share(progress) {
  if (typeof progress === "number") return progress >= 0 && progress <= 1 ? progress : null;
  if (typeof progress !== "object" || progress === null) return null;
  const values = Object.values(progress).filter((value) => typeof value === "number");
  const { of, total = of } = /** @type {any} */ (progress);
  const part = values.find((value) => value !== total);
  if (typeof total !== "number" || !(total > 0)) return null;
  return Math.min(1, Math.max(0, part ?? total) / total);
}
