// Three figures over the last minute, a point a second, each one line in a small SVG.

import { spent } from "./book.js";

/** @typedef {import("./book.js").Book} Book */

const SECONDS = 60;
const HEIGHT = 20;
const SVG = "http://www.w3.org/2000/svg";

/** @type {[string, (value: number) => string][]} */
const FIGURES = [
  ["accepted a second", String],
  ["waiting", String],
  ["from submitted to ended", (value) => spent(value) || "–"],
];

export class Figures {
  /** @param {HTMLElement} box */
  constructor(box) {
    this._accepted = 0;
    this._rows = FIGURES.map(([name, say]) => {
      const figure = document.createElement("figure");
      const words = document.createElement("figcaption");
      const svg = document.createElementNS(SVG, "svg");
      const line = document.createElementNS(SVG, "polyline");
      svg.setAttribute("viewBox", `0 -1 ${SECONDS - 1} ${HEIGHT + 2}`);
      svg.setAttribute("preserveAspectRatio", "none");
      svg.setAttribute("role", "img");
      svg.append(line);
      figure.append(words, svg);
      box.append(figure);
      return {
        name,
        say,
        words,
        svg,
        line,
        values: /** @type {number[]} */ (Array(SECONDS).fill(0)),
      };
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
    const { name, say, words, svg, line, values } = this._rows[at];
    values.shift();
    values.push(Number.isNaN(value) ? values[values.length - 1] : value);
    const most = Math.max(...values);
    const points = values.map((one, x) => `${x},${HEIGHT - (most ? (one / most) * HEIGHT : 0)}`);
    line.setAttribute("points", points.join(" "));
    words.textContent = `${say(value)} ${name}`;
    svg.setAttribute("aria-label", `${name}: now ${say(value)}, at most ${say(most)} in a minute`);
  }
}
