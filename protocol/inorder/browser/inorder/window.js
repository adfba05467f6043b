// Numbers: which requests are out, under which seq, and how many more may follow.
//
// No I/O and no clock. The rules are SPEC.md's, section "Numbers": a request is accepted only
// under the number it carries; a refused one takes none; then the client goes back once.
//
//   UNSENT → SENT → ACCEPTED → ENDED
//      ↑______|
//
// UNSENT and SENT may end at once (refused, cancelled, connection lost), and an UNSENT one
// turns out to be ACCEPTED where its id was known to the server from before.

/** @typedef {import("./errors.js").InorderError} InorderError */
/** @typedef {import("./messages.js").Limits} Limits */

/** Requests on their way after going back; it doubles with each round of acceptances. */
export const RESTART = 32;

/** Where a request is in its life. */
export const Place = Object.freeze({ UNSENT: 0, SENT: 1, ACCEPTED: 2, ENDED: 3 });

/** @type {number[][]} */
const MOVES = [
  [Place.SENT, Place.ACCEPTED, Place.ENDED],
  [Place.ACCEPTED, Place.UNSENT, Place.ENDED],
  [Place.ENDED],
  [],
];

/** One request, from `submit` to its outcome. */
export class Call {
  /**
   * @param {string} id
   * @param {string} head the encoded message without its seq and closing brace: encoded once,
   *   it may be sent under several numbers
   * @param {number} size the head's length in bytes
   * @param {unknown} [owner] whoever submitted it
   */
  constructor(id, head, size, owner = null) {
    this.id = id;
    this.head = head;
    this.size = size;
    this.owner = owner;
    this.seq = 0;
    /** @type {number} */
    this.place = Place.UNSENT;
    /** Whether there is to be an event when it is accepted. */
    this.watched = false;
    this.sentIn = 0;
    this.cancelledIn = -1;
    /** @type {unknown} */
    this.result = undefined;
    /** @type {InorderError | null} */
    this.error = null;
  }

  /** The only way from place to place. @param {number} to */
  move(to) {
    if (!MOVES[this.place].includes(to)) throw new Error(`${this.id}: ${this.place} to ${to}`);
    this.place = to;
  }

  /** The encoded message under this number. @param {number} seq */
  under(seq) {
    return `${this.head},"seq":${seq}}`;
  }
}

/**
 * First in, first out, and back again at the front: an array whose head moves.
 *
 * @template T
 */
export class Line {
  constructor() {
    /** @type {(T | undefined)[]} */
    this._items = [];
    this._head = 0;
  }

  get length() {
    return this._items.length - this._head;
  }

  /** @returns {T | undefined} */
  get first() {
    return this._items[this._head];
  }

  /** @returns {T | undefined} */
  get last() {
    return this.length ? this._items[this._items.length - 1] : undefined;
  }

  /** @param {T} item */
  push(item) {
    this._items.push(item);
  }

  /** @param {T} item */
  unshift(item) {
    if (this._head) this._items[--this._head] = item;
    else this._items.unshift(item);
  }

  /** @returns {T | undefined} */
  shift() {
    if (!this.length) return undefined;
    const item = this._items[this._head];
    this._items[this._head++] = undefined;
    if (this._head > 1024 && 2 * this._head > this._items.length) {
      this._items.splice(0, this._head);
      this._head = 0;
    }
    return item;
  }

  /** @returns {T | undefined} */
  pop() {
    return this.length ? this._items.pop() : undefined;
  }

  /** @returns {IterableIterator<T>} */
  [Symbol.iterator]() {
    return /** @type {T[]} */ (this._items.slice(this._head))[Symbol.iterator]();
  }
}

/**
 * The requests that are not accepted yet, and the session's numbers. `accepted`: the highest
 * number known to be accepted; `held`: the highest whose outcome is here; `acked`: the highest
 * that the server was told it may forget.
 */
export class Window {
  /** @param {number} size */
  constructor(size) {
    this.size = size;
    this.burst = size;
    this.accepted = 0;
    this.held = 0;
    this.acked = 0;
    this.nextSeq = 1;
    /** How often it went back. */
    this.generation = 0;
    this.pausedUntil = -Infinity;
    /** @type {Line<Call>} */
    this.unsent = new Line();
    /** @type {Line<Call>} */
    this.sent = new Line();
    this._unsettled = size;
    this._unacked = 0;
  }

  /**
   * Begins with the numbers that an earlier start of the program kept.
   *
   * @param {number} held
   * @param {number} accepted
   */
  resume(held, accepted) {
    this.held = held;
    this.accepted = accepted;
    this.nextSeq = accepted + 1;
  }

  /**
   * A connection stands; the numbers are those of `welcome`. Returns the watched calls that
   * were accepted, as they were sent in order. What stays in `sent` is to be sent again under
   * its number. It may have been accepted meanwhile, so it is not UNSENT.
   *
   * @param {Limits} limits
   * @param {number} accepted
   * @param {number} held
   * @param {number} acked
   */
  open(limits, accepted, held, acked) {
    this._unsettled = Math.min(this.size, limits.queue);
    this._unacked = limits.unacked;
    this.pausedUntil = -Infinity;
    if (this.sent.first && accepted >= this.nextSeq) {
      // Somebody else has used the session, and these numbers are not ours.
      this.goBack(this.sent.first, accepted + 1);
    }
    const watched = this.accept(accepted);
    this.held = held;
    this.acked = acked;
    this.nextSeq = (this.sent.last ? this.sent.last.seq : accepted) + 1;
    this.generation += 1;
    for (const call of this.sent) call.sentIn = this.generation;
    return watched;
  }

  /** How many requests may be sent now. @param {number} now */
  room(now) {
    if (now < this.pausedUntil) return 0;
    const last = this.nextSeq - 1;
    return Math.min(
      this.burst - this.sent.length,
      this._unsettled - (last - this.held),
      this._unacked - (last - this.acked),
    );
  }

  /** The request whose turn it is; what ended while it waited is passed over. */
  next() {
    for (let call; (call = this.unsent.first); this.unsent.shift()) {
      if (call.place === Place.UNSENT) return call;
    }
    return undefined;
  }

  /** Gives the call that `next` named its number; returns the message. @param {Call} call */
  send(call) {
    this.unsent.shift();
    call.move(Place.SENT);
    call.seq = this.nextSeq++;
    call.sentIn = this.generation;
    this.sent.push(call);
    return call.under(call.seq);
  }

  /** All up to `seq` are accepted. Returns the watched ones among the new. @param {number} seq */
  accept(seq) {
    const watched = [];
    const before = this.sent.length;
    for (let call; (call = this.sent.first) && call.seq <= seq; this.sent.shift()) {
      call.move(Place.ACCEPTED);
      if (call.watched) watched.push(call);
    }
    this.accepted = Math.max(this.accepted, seq);
    this.burst = Math.min(this.size, this.burst + before - this.sent.length);
    return watched;
  }

  /**
   * From `to` on, everything is to be sent again, beginning with number `seq` (default: the
   * number that `to` had). Ids are kept.
   *
   * @param {Call} to
   * @param {number} [seq]
   */
  goBack(to, seq = to.seq) {
    const floor = Math.min(to.seq, seq);
    for (let call; (call = this.sent.last) && call.seq >= floor; this.sent.pop()) {
      call.move(Place.UNSENT);
      this.unsent.unshift(call);
    }
    this.nextSeq = seq;
    this.generation += 1;
    this.burst = Math.min(this.size, RESTART);
  }

  /**
   * The server has had this id before, as `seq`: the number it was sent under is free, and
   * what was sent behind it was out of order.
   *
   * @param {Call} call
   * @param {number} seq
   */
  known(call, seq) {
    if (call.place === Place.SENT) this.goBack(call);
    call.seq = seq;
    call.move(Place.ACCEPTED);
  }

  /** Nothing is sent before `until`. @param {number} until */
  pause(until) {
    this.pausedUntil = Math.max(this.pausedUntil, until);
  }
}
