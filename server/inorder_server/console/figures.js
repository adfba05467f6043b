// Three figures over the last minute, a point a second, each a line in a small SVG.

import { spent } from "./book.js";

/** @typedef {import("./book.js").Book} Book */

const SECONDS = 60;
const HEIGHT = 20;
const SVG = "http://www.w3.org/2000/svg";

/** What stands below the value, what it is in full, and the value in words.
 *  @type {[string, string, (value: number) => string][]} */
const FIGURES = [
  ["accepted/s", "accepted in a second", String],
  ["waiting", "waiting", String],
  ["latency", "mean time from submitted to ended", (value) => spent(value) || "–"],
];

export class Figures {
  /** @param {HTMLElement} box */
  constructor(box) {
    this._accepted = 0;
    this._rows = FIGURES.map(([name, meaning, say]) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const words = document.createElement("strong");
      const svg = document.createElementNS(SVG, "svg");
      const area = document.createElementNS(SVG, "polygon");
      const line = document.createElementNS(SVG, "polyline");
      svg.setAttribute("viewBox", `0 -1 ${SECONDS - 1} ${HEIGHT + 2}`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("role", "img");
      svg.append(area, line);
      caption.append(words, ` ${name}`);
      caption.title = meaning;
      figure.append(caption, svg);
      box.append(figure);
      const values = /** @type {number[]} */ (Array(SECONDS).fill(0));
      return { meaning, say, words, svg, area, line, values };
    });
    for (const [at, value] of [0, 0, NaN].entries()) this._draw(at, value);
  }

  /** A second has passed. @param {Book} book */
  sample(book) {
    const lately = book.takeLatencies();
    const mean = lately.length ? lately.reduce((sum, one) => sum + one, 0) / lately.length : NaN;
    const accepted = Math.max(0, book.acceptedInAll - this._accepted);
    this._accepted = book.acceptedInAll;
    const { waiting, unsent } = book.counts;
    for (const [at, value] of [accepted, waiting + unsent, mean].entries()) this._draw(at, value);
  }

  /** @param {number} at @param {number} value NaN: there is none, and the line goes on */
  _draw(at, value) {
    const { meaning, say, words, svg, area, line, values } = this._rows[at];
    values.shift();
    values.push(Number.isNaN(value) ? values[values.length - 1] : value);
    const most = Math.max(...values);
    const points = values.map((one, x) => `${x},${HEIGHT - (most ? (one / most) * HEIGHT : 0)}`);
    line.setAttribute("points", points.join(" "));
    area.setAttribute("points", `0,${HEIGHT} ${points.join(" ")} ${SECONDS - 1},${HEIGHT}`);
    words.textContent = say(value);
    const said = `${meaning}: now ${say(value)}, at most ${say(most)} in the last minute`;
    svg.setAttribute("aria-label", said);
  }
}
