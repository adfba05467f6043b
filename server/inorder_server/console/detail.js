// One request, with everything that is known of it.

import { spent } from "./book.js";

/** @typedef {import("./book.js").Entry} Entry */

/** @param {Entry} entry @param {number} now */
export function detail(entry, now) {
  const { seq, id, method, params, place, accepted, submitted, started, ended } = entry;
  const until = place === "running" ? now : ended;
  const open = place === "unsent" || place === "waiting" || place === "running";
  const list = document.createElement("dl");
  row(list, "Number", seq === null ? "none yet: not accepted" : String(seq));
  row(list, "Id", id);
  row(list, "Method", method || "of an earlier life of this page");
  row(list, "State", place === "unsent" ? "to be sent" : place);
  row(list, "Accepted after", spent(accepted - submitted));
  row(list, "Ran", spent(until - started));
  if (params !== undefined) row(list, "Params", params, true);
  if (open && entry.progress !== undefined) row(list, "Progress", entry.progress, true);
  if (place === "done") row(list, "Result", entry.result ?? null, true);
  if (entry.error) {
    row(list, "Error", `${entry.error.code}: ${entry.error.message}`);
    if (entry.error.details != null) row(list, "Details", entry.error.details, true);
    if (seq === null) row(list, "Accepted", verdict(entry.error.accepted));
  }
  if (!open || !entry.job) return [list];
  const cancel = document.createElement("button");
  const { job } = entry;
  cancel.type = "button";
  cancel.textContent = "Cancel";
  cancel.addEventListener("click", () => void job.cancel().catch(() => {}));
  return [list, cancel];
}

/** @param {boolean | null} accepted */
function verdict(accepted) {
  if (accepted === null) return "not known";
  return accepted ? "yes: the server has it" : "no: it has not run";
}

/**
 * @param {HTMLDListElement} list
 * @param {string} term
 * @param {unknown} value
 * @param {boolean} [asJson]
 */
function row(list, term, value, asJson = false) {
  if (value === "") return;
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = term;
  if (asJson) {
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.textContent = JSON.stringify(value, null, 1).slice(0, 10_000);
    dd.append(pre);
  } else {
    dd.textContent = String(value);
  }
  list.append(dt, dd);
}
