// One request, with everything that is known of it. What is on the page stays there while it
// changes: somebody may have the focus in it, or a part of its text marked.

import { spent } from "./book.js";

/** @typedef {import("./book.js").Entry} Entry */
/** @typedef {[term: string, text: string, json: boolean]} Line */

const NONE = "Choose one in the lane.";

export class Detail {
  /**
   * @param {HTMLElement} box
   * @param {() => number} now
   * @param {() => void} onEscape
   */
  constructor(box, now, onEscape) {
    this._box = box;
    this._now = now;
    /** @type {Entry | null} */
    this._entry = null;
    /** @type {Map<string, HTMLElement>} */
    this._texts = new Map();
    this._list = document.createElement("dl");
    this._cancel = document.createElement("button");
    this._cancel.type = "button";
    this._cancel.addEventListener("click", () => this._ask());
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") onEscape();
    });
    this.show(null);
  }

  /** @param {Entry | null} entry */
  show(entry) {
    if (!entry) {
      const none = document.createElement("p");
      none.className = "aside";
      none.textContent = NONE;
      this._box.replaceChildren(none);
      this._texts.clear();
      this._entry = null;
      return;
    }
    const lines = linesOf(entry, this._now());
    const terms = [...this._texts.keys()];
    const same = lines.length === terms.length && lines.every(([term], at) => term === terms[at]);
    if (entry !== this._entry || !same) this._build(lines);
    this._entry = entry;
    for (const [term, text] of lines) {
      const place = /** @type {HTMLElement} */ (this._texts.get(term));
      if (place.textContent !== text) place.textContent = text;
    }
    this._offer(entry);
  }

  /** @param {Line[]} lines */
  _build(lines) {
    this._texts.clear();
    this._list.replaceChildren();
    for (const [term, , json] of lines) {
      const dt = document.createElement("dt");
      const dd = document.createElement("dd");
      const pre = document.createElement("pre");
      pre.tabIndex = 0; // a long one is scrolled by keyboard
      pre.setAttribute("aria-label", term);
      pre.setAttribute("role", "region");
      dt.textContent = term;
      if (json) dd.append(pre);
      this._list.append(dt, dd);
      this._texts.set(term, json ? pre : dd);
    }
    if (!this._list.isConnected) this._box.replaceChildren(this._list);
  }

  /** @param {Entry} entry */
  _offer({ place, job, cancelling }) {
    const open = job && place !== "done" && place !== "failed" && place !== "cancelled";
    if (!open) {
      const here = document.activeElement === this._cancel;
      this._cancel.remove();
      if (here) this._box.focus();
      return;
    }
    const text = cancelling ? "Cancelling…" : "Cancel";
    if (this._cancel.textContent !== text) this._cancel.textContent = text;
    this._cancel.setAttribute("aria-disabled", String(cancelling));
    if (!this._cancel.isConnected) this._box.append(this._cancel);
  }

  _ask() {
    const entry = this._entry;
    if (!entry?.job || entry.cancelling) return;
    entry.cancelling = true;
    this.show(entry);
    // Where it is not to be had any more, its end says how it was.
    entry.job.cancel().catch(() => {});
  }
}

/** @param {Entry} entry @param {number} now @returns {Line[]} */
function linesOf(entry, now) {
  const { seq, id, method, params, place, accepted, submitted, started, ended, error } = entry;
  const open = place === "unsent" || place === "waiting" || place === "running";
  /** @type {Line[]} */
  const lines = [];
  /** @param {string} term @param {string} text */
  const say = (term, text) => void (text && lines.push([term, text, false]));
  /** @param {string} term @param {unknown} value */
  const show = (term, value) =>
    void lines.push([term, JSON.stringify(value, null, 1).slice(0, 10_000), true]);
  say("Number", seq === null ? "none: not accepted" : String(seq));
  say("Id", id);
  say("Method", method || "of an earlier life of this page");
  say("State", place === "unsent" ? "to be sent" : place);
  say("Accepted after", spent(accepted - submitted));
  say(place === "running" ? "Running for" : "Ran", spent((open ? now : ended) - started));
  if (params !== undefined) show("Params", params);
  if (open && entry.progress !== undefined) show("Progress", entry.progress);
  if (place === "done") show("Result", entry.result ?? null);
  if (!error) return lines;
  say("Error", `${error.code}: ${error.message}`);
  if (error.details != null) show("Details", error.details);
  if (seq === null) say("Accepted", verdict(error.accepted));
  return lines;
}

/** @param {boolean | null} accepted */
function verdict(accepted) {
  if (accepted === null) return "not known";
  return accepted ? "yes: the server has it" : "no: it has not run";
}
