// The lane: one chip a request, in the order of the numbers, as text is read. However many there
// are, only those in view are in the page.

import { Announcer } from "./announcer.js";
import { share, spent } from "./book.js";

/** @typedef {import("./book.js").Book} Book */
/** @typedef {import("./book.js").Entry} Entry */

/** Of a chip, in `rem`; the width is the least: what there is is shared among those of a row. */
const WIDTH = 4;
const HEIGHT = 2.75;
/** Rows beside those in view. */
const SPARE = 3;

const WORDS = {
  unsent: "to be sent",
  waiting: "waiting",
  running: "running",
  done: "done",
  failed: "failed",
  cancelled: "cancelled",
};

export class Lane {
  /**
   * @param {Book} book
   * @param {() => number} now
   * @param {(entry: Entry | null) => void} onChoose null: none is chosen any more
   */
  constructor(book, now, onChoose) {
    this._book = book;
    this._now = now;
    this._choose = onChoose;
    this._box = element("lane");
    this._list = element("chips");
    this._empty = element("empty");
    this._counts = element("counts");
    this._announcer = new Announcer((text) => (element("announcer").textContent = text));
    this._follow = /** @type {HTMLInputElement} */ (element("follow"));
    /** @type {Map<Entry, HTMLLIElement>} */
    this._chips = new Map();
    /** @type {Entry | null} */
    this.chosen = null;
    this._focus = 0;
    this._columns = 1;
    this._least = this._width = this._height = NaN;
    this._drawing = false;
    this._box.addEventListener("scroll", () => this.draw(), { passive: true });
    for (const byHand of ["wheel", "touchmove"]) {
      this._box.addEventListener(byHand, () => this._stay(), { passive: true });
    }
    this._list.addEventListener("click", (event) => this._clicked(event));
    this._list.addEventListener("keydown", (event) => this._keyed(event));
    this._measure();
    new ResizeObserver(() => {
      this._measure();
      this.draw();
    }).observe(this._box);
  }

  /** Goes on with another book. @param {Book} book */
  restart(book) {
    this._book = book;
    this._chips.clear();
    this._list.replaceChildren();
    this.chosen = null;
    this._focus = 0;
    this.draw();
    return book;
  }

  /** Draws what has changed, once for everything that a frame brings. */
  draw() {
    if (this._drawing) return;
    this._drawing = true;
    requestAnimationFrame(() => {
      this._drawing = false;
      this._draw();
    });
  }

  /** The time of what runs goes on. */
  tick() {
    if (this._book.running) this.draw();
    this._announcer.tick(this._book, this._now());
  }

  /** Lets go of the one that is chosen, and leads back to where it stands. */
  release() {
    const entry = this.chosen;
    if (!entry) return;
    this.chosen = null;
    this._choose(null);
    this._go(entry.at);
  }

  /** In pixels, which depend on how large somebody has letters. */
  _measure() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this._least = WIDTH * rem;
    this._height = HEIGHT * rem;
  }

  _draw() {
    const { entries, running, front } = this._book;
    const news = this._book.changes();
    this._announcer.told(news, this._now());
    const changed = new Set(news);
    if (running) changed.add(running);
    // A scrollbar may have come.
    this._columns = Math.max(1, Math.floor(this._box.clientWidth / this._least));
    this._width = this._box.clientWidth / this._columns;
    this._list.style.setProperty("--chip", `${this._width}px`);
    const rows = Math.ceil(entries.length / this._columns);
    this._list.style.height = `${rows * this._height}px`;
    this._empty.hidden = entries.length > 0;
    if (this._follow.checked && front && news.length) this._reveal(front);
    const first = Math.floor(this._box.scrollTop / this._height) - SPARE;
    const last = Math.ceil((this._box.scrollTop + this._box.clientHeight) / this._height) + SPARE;
    const from = Math.max(0, first * this._columns);
    const shown = new Set(entries.slice(from, Math.max(0, last * this._columns)));
    for (const [entry, chip] of this._chips) {
      // Where the focus is stays: else the keyboard would lose its place.
      if (shown.has(entry) || chip.contains(document.activeElement)) continue;
      chip.remove();
      this._chips.delete(entry);
    }
    this._keepWay(shown);
    /** @type {HTMLLIElement | null} */
    let previous = null;
    for (const entry of shown) {
      const known = this._chips.get(entry);
      /** @type {HTMLLIElement} */
      const chip = known ?? this._add(entry, previous);
      if (!known || changed.has(entry)) this._paint(entry, chip);
      this._place(entry, chip);
      previous = chip;
    }
    this._count();
    if (this.chosen && changed.has(this.chosen)) this._choose(this.chosen);
  }

  /** The tabulator leads to one chip, the last that had the focus. Where that is out of view it
   *  leads to one that is not. @param {Set<Entry>} shown */
  _keepWay(shown) {
    const { entries, front } = this._book;
    const last = entries[this._focus];
    if (!last || this._chips.has(last) || shown.has(last)) return;
    const instead = front && shown.has(front) ? front : [...shown][SPARE * this._columns];
    this._focus = (instead ?? [...shown][0])?.at ?? 0;
  }

  /** @param {Entry} entry @param {Element | null} previous the chip before it */
  _add(entry, previous) {
    const chip = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip";
    const number = document.createElement("span");
    number.className = "number";
    button.append(unseen(), number, unseen());
    button.append(document.createElement("small"));
    chip.append(button);
    chip.dataset.at = String(entry.at);
    // In the order of the lane also for those who read it and do not see it. One that has the
    // focus may stand there from elsewhere.
    const others = /** @type {Iterable<HTMLElement>} */ (this._list.children);
    const before = previous
      ? previous.nextSibling
      : ([...others].find((other) => Number(other.dataset.at) > entry.at) ?? null);
    this._list.insertBefore(chip, before);
    this._chips.set(entry, chip);
    return chip;
  }

  /** @param {Entry} entry @param {HTMLLIElement} chip */
  _place(entry, chip) {
    const column = entry.at % this._columns;
    const row = Math.floor(entry.at / this._columns);
    chip.style.transform = `translate(${column * this._width}px, ${row * this._height}px)`;
    chip.setAttribute("aria-posinset", String(entry.at + 1));
    chip.setAttribute("aria-setsize", String(this._book.entries.length));
    const button = /** @type {HTMLButtonElement} */ (chip.firstElementChild);
    button.tabIndex = entry.at === this._focus ? 0 : -1;
    button.setAttribute("aria-pressed", String(entry === this.chosen));
  }

  /** @param {Entry} entry @param {HTMLLIElement} chip */
  _paint(entry, chip) {
    const button = /** @type {HTMLButtonElement} */ (chip.firstElementChild);
    const took = timeOf(entry, this._now());
    const none = entry.place === "unsent" ? "…" : "–";
    const number = entry.seq === null ? none : String(entry.seq);
    const said = entry.seq === null && entry.place !== "unsent" ? ["not accepted"] : [];
    // What is seen in colours is read in words.
    if (took) said.push(WORDS[entry.place]);
    const words = [entry.method, ...said].filter(Boolean).map((word) => `${word}, `);
    const texts = ["Request ", number, `, ${words.join("")}`, took || WORDS[entry.place]];
    for (const [at, text] of texts.entries()) button.children[at].textContent = text;
    button.dataset.place = entry.place;
    const part = entry.place === "running" ? (share(entry.progress) ?? 0) : 0;
    button.style.setProperty("--progress", String(part));
  }

  /** How many there are of each, with the colour that they have in the lane. */
  _count() {
    const { unsent, waiting, running, done, failed, cancelled } = this._book.counts;
    const all = { running, waiting: waiting + unsent, done, failed, cancelled };
    const parts = Object.entries(all).filter(([, count]) => count > 0);
    const texts = parts.map(([place, count]) => `${count} ${place}`);
    if (this._counts.textContent === texts.join(" · ")) return;
    const spans = parts.flatMap(([place], at) => {
      const span = document.createElement("span");
      span.dataset.place = place;
      span.textContent = texts[at];
      if (!at) return [span];
      const between = unseen();
      between.textContent = " · ";
      return [between, span];
    });
    this._counts.replaceChildren(...spans);
  }

  /** @param {Entry} entry */
  _reveal(entry) {
    const top = Math.floor(entry.at / this._columns) * this._height;
    const { scrollTop, clientHeight } = this._box;
    if (top >= scrollTop && top + this._height <= scrollTop + clientHeight) return;
    this._box.scrollTop = Math.max(0, top - clientHeight / 2);
  }

  /** @param {Event} event */
  _clicked(event) {
    const chip = /** @type {HTMLElement} */ (event.target).closest("li");
    if (chip) this._take(Number(chip.dataset.at));
  }

  /** @param {number} at */
  _take(at) {
    const entry = this._book.entries[at];
    if (!entry) return;
    this._focus = at;
    this.chosen = entry;
    this._choose(entry);
    this.draw();
  }

  /** As in a grid: arrows, Home and End, Page Up and Page Down; Escape lets go.
   *  @param {KeyboardEvent} event */
  _keyed(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = this._columns;
    const page = columns * Math.max(1, Math.floor(this._box.clientHeight / this._height) - 1);
    /** @type {Record<string, number>} */
    const to = {
      ArrowRight: this._focus + 1,
      ArrowLeft: this._focus - 1,
      ArrowDown: this._focus + columns,
      ArrowUp: this._focus - columns,
      PageDown: this._focus + page,
      PageUp: this._focus - page,
      Home: 0,
      End: this._book.entries.length - 1,
    };
    if (event.key === "Escape") this.release();
    else if (event.key in to) this._go(to[event.key]);
    else return;
    event.preventDefault();
  }

  /** Moves the focus. @param {number} at */
  _go(at) {
    this._stay();
    this._focus = Math.min(this._book.entries.length - 1, Math.max(0, at));
    const entry = this._book.entries[this._focus];
    this._reveal(entry);
    this._draw();
    /** @type {HTMLElement} */ (this._chips.get(entry)?.firstElementChild)?.focus();
  }

  /** Somebody looks at one place: it does not go on from there by itself. */
  _stay() {
    this._follow.checked = false;
  }
}

/** How long it ran, or has run. @param {Entry} entry @param {number} now */
function timeOf(entry, now) {
  if (entry.place === "running") return spent(now - entry.started);
  return Number.isNaN(entry.ended) ? "" : spent(entry.ended - entry.started);
}

/** A text for those who do not see. */
function unseen() {
  const text = document.createElement("span");
  text.className = "unseen";
  return text;
}

/** @param {string} id */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
