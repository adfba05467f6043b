// The receipt, each of its numbers explained.

/** @type {[string, string][]} */
const LINES = [
  ["accepted", "requests that the server took, and had on the disk before it said so"],
  ["done", "ended with a result"],
  ["failed", "ended with an error"],
  ["cancelled", "were cancelled"],
  ["pending", "have no outcome yet; only a blocked queue leaves any"],
];

/** @param {Record<string, any>} receipt */
export function receiptView(receipt) {
  const title = document.createElement("h3");
  title.className = "verdict";
  title.dataset.verified = String(receipt.verified);
  title.textContent = receipt.verified ? "Verified" : "NOT verified";
  const list = document.createElement("dl");
  for (const [field, meaning] of LINES) {
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = `${receipt[field]} ${field}`;
    dd.textContent = meaning;
    list.append(dt, dd);
  }
  const sum = document.createElement("p");
  const { accepted, done, failed, cancelled, pending } = receipt;
  sum.textContent = `${accepted} = ${done} + ${failed} + ${cancelled} + ${pending}, counted by the
    queue and by the journal, independently.`;
  const id = document.createElement("p");
  id.className = "aside";
  id.textContent = `Session ${receipt.session}`;
  return [title, list, sum, id];
}
