// Whether the server is still there. A page sees no WebSocket pings, so it sends `ping`s.
//
// Dead is a peer of whom no frame at all came within so many seconds of a ping. A page may be
// frozen, or its timers slowed down: who has slept can't say that the other is dead, and asks
// once more.

/** Seconds that a server has to send anything after a ping. */
export const PATIENCE = 10;
/** Seconds that a timer may be late without having slept. */
const LATE = 2;
/** Seconds of silence until a ping, where `welcome` names none. */
const EVERY = 20;

export class Heartbeat {
  constructor() {
    this._beats = false;
    this._slept = false;
    this._every = EVERY;
    this._pingAt = Infinity;
    this._deadAt = Infinity;
  }

  /** A connection stands. @param {number} now @param {number} every seconds of silence */
  start(now, every) {
    this._beats = true;
    this._every = every > 0 ? every : EVERY;
    this.heard(now);
  }

  stop() {
    this._beats = false;
    this._pingAt = this._deadAt = Infinity;
  }

  /** Something came. @param {number} now */
  heard(now) {
    if (!this._beats) return;
    this._slept = false;
    this._pingAt = now + this._every;
    this._deadAt = Infinity;
  }

  /** There is a reason to ask at once, unless an answer is waited for. @param {number} now */
  hurry(now) {
    if (this._beats && this._deadAt === Infinity) this._pingAt = now;
  }

  /** @param {number} now @returns {"quiet" | "ping" | "dead"} */
  check(now) {
    if (now < this.deadline()) return "quiet";
    if (now >= this._deadAt) {
      if (this._slept || now < this._deadAt + LATE) return "dead";
      this._slept = true;
    }
    this._pingAt = Infinity;
    this._deadAt = now + PATIENCE;
    return "ping";
  }

  /** When to `check` again. */
  deadline() {
    return Math.min(this._pingAt, this._deadAt);
  }
}
