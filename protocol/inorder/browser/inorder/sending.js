// The client's core, first half: what the program wants, and what is sent for it when.

import { bytesOf, encode, pack, randomPrefix, SEQ_BYTES } from "./encoding.js";
import * as errors from "./errors.js";
import { LIMITS } from "./messages.js";
import { isLive, MOVES, NAMES, Phase } from "./phases.js";
import { Call, Line, Place, Window } from "./window.js";

/** @typedef {import("./errors.js").InorderError} InorderError */
/** @typedef {import("./login.js").Credentials} Credentials */
/** @typedef {import("./messages.js").Limits} Limits */
/** @typedef {import("./messages.js").Receipt} Receipt */
/** @typedef {import("./events.js").Ask} Ask */
/** @typedef {import("./events.js").CoreEvent} CoreEvent */
/** @typedef {import("./events.js").Outcome} Outcome */
/** @typedef {import("./events.js").State} State */
/** @typedef {"finish" | "cancel"} Mode */

/** Outcomes after which an `ack` is sent at once, and seconds after which the rest is. */
export const ACK_EVERY = 100;
export const ACK_AFTER = 1;
/** Seconds until a close that waits for outcomes asks whether the queue is blocked. */
const LOOK_FIRST = 0.5;
const LOOK_EVERY = 2;

/** The half of the core that the program talks to, and that fills frames. */
export class Sending {
  /**
   * @param {object} [options]
   * @param {number} [options.window] the most requests without an outcome
   * @param {State | null} [options.resume] go on with an older session
   * @param {string} [options.prefix] what ids begin with, random unless a test sets it
   */
  constructor({ window = 256, resume = null, prefix = randomPrefix() } = {}) {
    if (!(window >= 1)) throw new RangeError("window is at least 1");
    /** @type {number} */
    this.phase = Phase.NEW;
    /** @type {number} */
    this._beforeHello = Phase.NEW;
    /** @type {Limits} */
    this.limits = LIMITS;
    this.session = resume ? resume.session : "";
    this.user = "";
    /** @type {string | null} */
    this.token = null;
    /** @type {Receipt | null} */
    this.receipt = null;
    /** @type {InorderError | null} */
    this.error = null;
    this._foreign = resume !== null;
    this._window = new Window(window);
    if (resume) this._window.resume(resume.held, resume.accepted);
    this._prefix = prefix;
    this._count = 0;
    /** @type {Map<string, Call>} */
    this._calls = new Map();
    /** @type {{status: Ask[], methods: Ask[], ping: Ask[]}} */
    this._asks = { status: [], methods: [], ping: [] };
    /** @type {CoreEvent[]} */
    this._events = [];
    /** @type {string[]} */
    this._control = [];
    /** @type {Map<string, Call>} */
    this._cancels = new Map();
    /** @type {Mode | null} */
    this._mode = null;
    this._welcomed = false;
    this._inherited = 0;
    /** @type {Line<Outcome>} */
    this._outcomes = new Line();
    this._byeAt = -Infinity;
    this._lookAt = Infinity;
    this._blocked = false;
    this._left = 0;
    this._ackEvery = ACK_EVERY;
    /** @type {number | null} */
    this._ackAt = null;
  }

  // ---- what the program wants

  /** What to keep in order to come back later. @returns {State} */
  get state() {
    return { session: this.session, held: this._taken(), accepted: this._window.accepted };
  }

  /** Whether the program has said `close`. */
  get closing() {
    return this._mode !== null;
  }

  /** Requests that have not ended, or had not when the session was over. */
  get open() {
    return this.error ? this._left : this._calls.size;
  }

  /** Takes an outcome of a request that an earlier start had sent, if one is here. */
  nextOutcome() {
    return this._outcomes.shift();
  }

  /** Whether there are, or will be, outcomes for `nextOutcome`. */
  get expectsOutcomes() {
    return this._outcomes.length > 0 || this._window.held < this._inherited;
  }

  /**
   * Greets. Answered by "opened" or "login refused", after which another try is possible.
   *
   * @param {Credentials} credentials
   * @param {string | null} [client] a name for the server's log
   */
  hello({ token, username, password, register }, client = null) {
    this._beforeHello = this.phase;
    this._enter(Phase.GREETING);
    const { session, held, accepted } = this.state;
    this._control.push(
      encode({
        type: register ? "register" : "hello",
        token,
        username,
        password,
        ...(session && { session, seq: held, accepted }),
        ...(client && { client }),
      }),
    );
  }

  /**
   * Takes a request, to be sent when its turn comes. Throws the session's error where it is
   * over, `Refused` (`closing`) after `close`, `RangeError` for an id that can't be used,
   * `TypeError` for params that are no JSON.
   *
   * @param {string} method
   * @param {unknown} [params]
   * @param {object} [options]
   * @param {string} [options.id]
   * @param {number} [options.timeout]
   * @param {unknown} [options.owner]
   */
  submit(method, params, { id, timeout, owner } = {}) {
    if (this._mode !== null || this.phase >= Phase.CLOSING) throw this._over();
    if (id === undefined) {
      id = `${this._prefix}${++this._count}`;
    } else if (typeof id !== "string" || id === "" || id[0] === "#" || [...id].length > 64) {
      throw new RangeError("an id has 1 to 64 characters and no # at its start");
    } else if (this._calls.has(id)) {
      throw new RangeError(`the id ${JSON.stringify(id)} is in use`);
    }
    if (typeof params === "function" || typeof params === "symbol") {
      throw new TypeError("params must be JSON");
    }
    const head = encode({ type: "request", method, id, params: params ?? undefined, timeout });
    const call = new Call(id, head.slice(0, -1), bytesOf(head) - 1, owner);
    this._calls.set(id, call);
    this._window.unsent.push(call);
    return call;
  }

  /**
   * Asks that a call be cancelled. Returns whether it is, where that is known at once; else
   * "cancel answered" follows.
   *
   * @param {Call} call
   * @returns {boolean | null}
   */
  cancel(call) {
    if (call.place === Place.ENDED) return call.error instanceof errors.Cancelled;
    if (call.place === Place.UNSENT) {
      this._end(call, errors.unsent());
      return true;
    }
    call.cancelledIn = this._window.generation;
    this._cancels.set(call.id, call);
    if (isLive(this.phase)) this._control.push(encode({ type: "cancel", id: call.id }));
    return null;
  }

  /** Asks for a `status`; "answered" follows. @param {number} [from] @param {unknown} [owner] */
  status(from, owner) {
    return this._ask("status", { from }, owner);
  }

  /** Asks for `methods`; "answered" follows. @param {unknown} [owner] */
  methods(owner) {
    return this._ask("methods", {}, owner);
  }

  /** Asks for the same `data` back; "answered" follows. @param {unknown} [data]
   *  @param {unknown} [owner] */
  ping(data, owner) {
    return this._ask("ping", { data }, owner);
  }

  /**
   * Ends the session: `bye` follows what was submitted. Answered by "receipt". "finish" waits
   * for the outcomes first, unless the queue is blocked: the server forgets them with the
   * session, and a connection may break. With "cancel" what was not sent yet is refused here
   * (`closing`). Throws the session's error where it is over.
   *
   * @param {Mode} [mode]
   */
  close(mode = "finish") {
    if (mode !== "finish" && mode !== "cancel") throw new RangeError("mode is finish or cancel");
    if (!this._welcomed || this._mode !== null || this.phase >= Phase.CLOSING) throw this._over();
    this._mode = mode;
    this._lookAt = -Infinity;
    if (isLive(this.phase)) this._enter(Phase.CLOSING);
    if (mode === "cancel") this._refuseUnsent();
  }

  /** Leaves the connection, not the session. All open calls end with an error. */
  detach() {
    if (this.phase >= Phase.ENDED) return;
    if (isLive(this.phase) && this._taken() > this._window.acked) this._ack();
    const left = new errors.ConnectionLost("detached", "the program left the session", {
      retry: true,
    });
    this._fail(Phase.DETACHED, (accepted) => left.about(accepted));
  }

  // ---- what the shell does

  /** What happened since the last time. Outcomes in it count as taken. */
  events() {
    const events = this._events;
    this._events = [];
    return events;
  }

  /**
   * What is to be sent now, as text frames. Call it after `events`.
   *
   * @param {number} now
   * @returns {string[]}
   */
  framesToSend(now) {
    if (!isLive(this.phase)) return pack(this._control.splice(0), this.limits);
    if (this._ackDue(now)) this._ack();
    return pack(this._messages(now), this.limits);
  }

  /** When `framesToSend` is to be called at the latest; `Infinity`: not for time. */
  nextDeadline() {
    const times = [Infinity];
    if (!isLive(this.phase)) return Infinity;
    if (this._ackAt !== null && this._taken() > this._window.acked) times.push(this._ackAt);
    const { pausedUntil } = this._window;
    if (pausedUntil > -Infinity && this._window.next()) times.push(pausedUntil);
    if (this.phase === Phase.CLOSING) {
      const looks = !this._window.sent.length && this._waitsForOutcomes();
      const at = looks ? this._lookAt : this._byeAt;
      if (at > -Infinity) times.push(at);
    }
    return Math.min(...times);
  }

  // ---- sending

  /** @param {number} now */
  _messages(now) {
    const messages = this._control.splice(0);
    const window = this._window;
    if (now >= window.pausedUntil) window.pausedUntil = -Infinity;
    const largest = this.limits.message_bytes - SEQ_BYTES;
    let call;
    for (let room = window.room(now); room > 0 && (call = window.next());) {
      if (call.size > largest) {
        const said = `a request has at most ${this.limits.message_bytes} bytes`;
        const no = { accepted: false };
        this._end(call, new errors.MessageTooLarge("message_too_large", said, no));
        continue;
      }
      room -= 1;
      messages.push(window.send(call));
    }
    if (this.phase === Phase.CLOSING && now >= this._byeAt && !window.next()) {
      // A request that is refused after `bye` could not be sent again.
      if (this._mode === "finish" && (window.sent.length || this._waitsForOutcomes())) {
        if (!window.sent.length) this._look(now, messages);
      } else {
        if (this._taken() > window.acked) messages.push(this._acknowledged());
        this._enter(Phase.BYE);
        messages.push(encode({ type: "bye", mode: this._mode }));
      }
    }
    return messages;
  }

  _waitsForOutcomes() {
    return this._calls.size > 0 && !this._blocked;
  }

  /**
   * Asks from time to time whether the queue is blocked: then no outcome will come.
   *
   * @param {number} now
   * @param {string[]} messages
   */
  _look(now, messages) {
    if (now < this._lookAt) return;
    const first = this._lookAt === -Infinity;
    this._lookAt = now + (first ? LOOK_FIRST : LOOK_EVERY);
    if (first) return;
    const message = encode({ type: "status" });
    this._asks.status.push({ kind: "status", message, owner: this });
    messages.push(message);
  }

  /** @param {number} now */
  _ackDue(now) {
    const ripe = this._ackAt !== null && now >= this._ackAt ? 1 : this._ackEvery;
    return this._taken() - this._window.acked >= ripe;
  }

  /** Outcomes up to this seq are with the program. */
  _taken() {
    return this._outcomes.first ? this._outcomes.first.seq - 1 : this._window.held;
  }

  _ack() {
    this._control.push(this._acknowledged());
  }

  _acknowledged() {
    this._window.acked = this._taken();
    this._ackAt = null;
    return encode({ type: "ack", seq: this._window.acked });
  }

  /**
   * @param {Ask["kind"]} kind
   * @param {object} fields
   * @param {unknown} owner
   */
  _ask(kind, fields, owner) {
    if (!this._welcomed || this.phase >= Phase.ENDED) throw this._over();
    const ask = { kind, message: encode({ type: kind, ...fields }), owner };
    this._asks[kind].push(ask);
    if (isLive(this.phase)) this._control.push(ask.message);
    return ask;
  }

  // ---- endings

  /** The only way from phase to phase. @param {number} phase */
  _enter(phase) {
    if (!MOVES[this.phase].includes(phase)) throw new Error(`${this.phase} to ${phase}`);
    this.phase = phase;
    if (NAMES[phase]) this._events.push({ kind: "state", name: NAMES[phase] });
  }

  /** @param {Call} call @param {InorderError | null} error */
  _end(call, error) {
    call.error = error;
    call.move(Place.ENDED);
    this._calls.delete(call.id);
    this._cancels.delete(call.id);
    this._events.push({ kind: "ended", call });
  }

  _refuseUnsent() {
    for (let call; (call = this._window.next());) this._end(call, errors.closing());
  }

  /**
   * Ends everything that is open. A call that was sent and not answered may have been accepted
   * or not: its error says null.
   *
   * @param {number} phase
   * @param {(accepted: boolean | null) => InorderError} error
   */
  _fail(phase, error) {
    const verdict = [false, null, true];
    this._left = this._calls.size;
    this.error = error(null);
    this._enter(phase);
    if (phase === Phase.ENDED && this._window.sent.first) {
      this._window.goBack(this._window.sent.first); // the receipt says that they are not
    }
    for (const call of [...this._calls.values()]) this._end(call, error(verdict[call.place]));
    for (const asks of Object.values(this._asks)) {
      for (const ask of asks.splice(0)) {
        if (ask.owner !== this) this._events.push({ kind: "answered", ask, answer: error(null) });
      }
    }
    if (phase === Phase.ENDED && this.receipt) {
      this._events.push({ kind: "receipt", receipt: this.receipt });
    } else {
      this._events.push({ kind: "lost", error: this.error });
    }
  }

  /** Why nothing more is taken. */
  _over() {
    if (this.error) return this.error.about(false);
    if (this._mode !== null) return errors.closing();
    return new errors.ConnectionLost("connection_lost", "not connected", { accepted: false });
  }
}
