// The client's core, second part: what a lost connection means, and how one comes back.
//
// Source: SPEC.md, "Resume". Callers see nothing of it but the time it takes: what was accepted
// is the server's to finish, the rest is sent again under the same ids and numbers.

import { encode } from "./encoding.js";
import * as errors from "./errors.js";
import { Heartbeat, PATIENCE } from "./heartbeat.js";
import { LIMITS } from "./messages.js";
import { isLive, Phase } from "./phases.js";
import * as retry from "./retry.js";
import { ACK_AFTER, ACK_EVERY, Sending } from "./sending.js";
import { Place } from "./window.js";

/** @typedef {import("./errors.js").InorderError} InorderError */
/** @typedef {import("./messages.js").Welcome} Welcome */

/** Seconds after which a connection counts as good even if nothing was done on it. */
const STEADY = 5;
/** Seconds for which a `hello` that was not answered may still be read by the server. */
const LATE = 60;

export class Returning extends Sending {
  /**
   * @param {object} [options]
   * @param {number} [options.window]
   * @param {import("./events.js").State | null} [options.resume]
   * @param {string} [options.prefix]
   * @param {number | null} [options.giveUpAfter] seconds without a connection until the session
   *   is lost; 0: at the first failure, null: never
   * @param {retry.Backoff} [options.backoff] yields the seconds between attempts
   */
  constructor({ giveUpAfter = 0, backoff = retry.backoff, ...options } = {}) {
    super(options);
    this._patience = giveUpAfter ?? Infinity;
    this._backoff = backoff;
    this._delays = backoff();
    this._retryAt = Infinity;
    this._notBefore = -Infinity;
    /** @type {InorderError | null} */
    this._last = null;
    this._outSince = -Infinity;
    this._giveUpAt = -Infinity;
    this._welcomedAt = 0;
    this._mark = "";
    this._repeats = false;
    this._heart = new Heartbeat();
    /** When attempts were given up whose hello, with a session, was not answered.
     *  @type {number[]} */
    this._unanswered = [];
  }

  /** Whether an older session was resumed. */
  get resumed() {
    return this._foreign;
  }

  // ---- what the shell does

  /**
   * Before the first connection: for how many seconds it may be tried again.
   *
   * @param {number} now
   * @param {number} [patience]
   */
  begin(now, patience = 0) {
    this._outSince = now;
    this._giveUpAt = now + patience;
  }

  /** Whether a connection is to be opened now. Past the deadline it gives up.
   *  @param {number} now */
  due(now) {
    if (this.phase !== Phase.AWAY) return this.phase === Phase.NEW;
    if (now >= this._giveUpAt && this._last) {
      this._forget(this._gaveUp(this._last, now));
      return false;
    }
    return now >= this._retryAt;
  }

  /** How many seconds an attempt that is begun now may take. @param {number} now */
  timeLeft(now) {
    return this.phase === Phase.AWAY ? this._giveUpAt - now : Infinity;
  }

  /** Something says that the network may be back, or that somebody looks: sees at once whether
   *  the server is there. @param {number} now */
  hurry(now) {
    if (this.phase === Phase.AWAY) {
      this._retryAt = Math.min(this._retryAt, Math.max(now, this._notBefore));
    } else if (isLive(this.phase)) {
      this._heart.hurry(now);
    }
  }

  /** While away: when to ask `due`; else when `framesToSend` is to be called. */
  nextDeadline() {
    if (this.phase === Phase.AWAY) return Math.min(this._retryAt, this._giveUpAt);
    return Math.min(super.nextDeadline(), this._heart.deadline());
  }

  /** @param {number} now */
  framesToSend(now) {
    const pulse = this._heart.check(now);
    if (pulse === "dead") {
      const said = `nothing came within ${PATIENCE} s of a ping`;
      this._lose(new errors.ConnectionLost("connection_lost", said, { retry: true }), now);
    } else if (pulse === "ping") {
      this.ping(undefined, this);
    }
    return super.framesToSend(now);
  }

  /**
   * An attempt came to nothing: no socket, no `welcome` in time, or a login refused for good.
   *
   * @param {InorderError} error
   * @param {number} now
   */
  connectFailed(error, now) {
    if (this.phase < Phase.OPEN) this._lose(error, now);
  }

  /**
   * The socket has closed (1006: without a close frame).
   *
   * @param {number} closeCode
   * @param {string} reason
   * @param {number} now
   */
  connectionLost(closeCode, reason, now) {
    if (this.phase > Phase.AWAY && this.phase < Phase.ENDED) {
      this._lose(errors.closed(closeCode, reason), now);
    }
  }

  /** @param {number} phase */
  _enter(phase) {
    super._enter(phase);
    if (!isLive(phase)) this._heart.stop();
  }

  // ---- losing

  /** The connection can't be trusted any more.
   *  @param {string} message @param {number} now @param {string} [code] */
  _break(message, now, code = "protocol_error") {
    this._lose(new errors.ConnectionLost(code, message, { retry: true }), now, true);
  }

  /**
   * The connection is of no more use: come back, or stop.
   *
   * @param {InorderError} error
   * @param {number} now
   * @param {boolean} [broken]
   */
  _lose(error, now, broken = false) {
    const live = isLive(this.phase);
    let delay = 0;
    if (live) this._noteOutage(now, broken);
    const late = this._mayBeLate(error, now);
    if (this._patience > 0 && error instanceof errors.SessionGone && this._nothingAtStake()) {
      // The server keeps no session that accepted nothing: another is as good.
      this.session = "";
    } else if (retry.judge(error, late) !== "come back") {
      this._forget(error);
      return;
    } else if (now < this._giveUpAt) {
      const { done, value } = this._delays.next();
      this._notBefore = now + (error.after ?? 0);
      delay = (done ? retry.MOST : value) + (error.after ?? 0);
    } else {
      const tried = this._giveUpAt > this._outSince;
      this._forget(tried ? this._gaveUp(error, now) : error);
      return;
    }
    if (live) this._events.push({ kind: "state", name: "reconnecting" });
    this._last = error;
    this._control.length = 0;
    this._retryAt = now + delay;
    if (this.phase !== Phase.AWAY) this._enter(Phase.AWAY);
    this._events.push({ kind: "dropped", error });
  }

  /** Whether a hello of our own may have replaced us: each that was not answered does it once
   *  at most. @param {InorderError} error @param {number} now */
  _mayBeLate(error, now) {
    this._unanswered = this._unanswered.filter((at) => now - at <= LATE);
    if (retry.wasReplaced(error)) return this._unanswered.shift() !== undefined;
    if (this.phase === Phase.GREETING && this.session) this._unanswered.push(now);
    return false;
  }

  /** @param {InorderError} error @param {number} now */
  _gaveUp(error, now) {
    return errors.gaveUp(error, now - this._outSince);
  }

  /** Begins an outage; or goes on with the last one, where coming back has not helped.
   *  @param {number} now @param {boolean} broken */
  _noteOutage(now, broken) {
    const helped = this._mark !== this._position();
    if (helped || now - this._welcomedAt >= STEADY) {
      this._delays = this._backoff();
      this._repeats = false;
    } else if (broken && this._repeats) {
      return; // a server that breaks the rules each time: this must end
    }
    this._repeats = broken;
    this._outSince = now;
    this._giveUpAt = now + this._patience;
  }

  _position() {
    return `${this._window.held} ${this._window.accepted}`;
  }

  /** Whether nothing was accepted, or may have been. The numbers that a program kept say
   *  nothing of what it had sent besides. */
  _nothingAtStake() {
    return !(this._foreign || this._window.accepted || this._window.sent.length);
  }

  /** @param {InorderError} error */
  _forget(error) {
    this._fail(Phase.LOST, (accepted) => error.about(accepted));
  }

  // ---- coming back

  /** `welcome`'s arithmetic: what is accepted, what is here, what to send again.
   *  @param {Welcome} welcome @param {number} now */
  _welcome(welcome, now) {
    const window = this._window;
    if (this.session && !(welcome.resumed && welcome.session === this.session)) {
      const said = "the server has started another session";
      this._forget(new errors.SessionGone("session_gone", said));
      return;
    }
    if (welcome.settled < window.held || welcome.accepted < window.accepted) {
      const said = "the server has less than it had promised";
      this._forget(new errors.HistoryLost("history_lost", said));
      return;
    }
    const first = !this._welcomed;
    this._welcomed = true;
    this._welcomedAt = now;
    this.session = welcome.session;
    this.user = welcome.user;
    this.token = welcome.token ?? this.token;
    this.limits = welcome.limits ?? LIMITS;
    this._ackEvery = Math.max(1, Math.min(ACK_EVERY, Math.floor(this.limits.unacked / 2)));
    if (first || welcome.accepted >= window.nextSeq) this._inherited = welcome.accepted;
    // What was acknowledged elsewhere does not come again.
    const held = Math.max(window.held, welcome.acked);
    const forgotten = held > window.held;
    const watched = window.open(this.limits, welcome.accepted, held, welcome.acked);
    this._mark = this._position();
    for (const call of watched) this._events.push({ kind: "accepted", call });
    if (forgotten) this._endForgotten(held);
    this._ackAt = held > window.acked ? now + ACK_AFTER : null;
    this._heart.start(now, this.limits.ping);
    this._enter(Phase.OPEN);
    const name = first || !welcome.resumed ? "connected" : "resumed";
    this._events.push({ kind: "state", name }, { kind: "opened" });
    this._sendAgain();
    if (this._mode !== null) this._closeAgain();
  }

  /** @param {number} held */
  _endForgotten(held) {
    for (const call of [...this._calls.values()]) {
      if (call.place === Place.ACCEPTED && call.seq <= held) this._end(call, errors.forgotten());
    }
  }

  /** What was not answered: requests, then cancels, then questions. */
  _sendAgain() {
    const control = this._control;
    for (const call of this._window.sent) control.push(call.under(call.seq));
    for (const call of [...this._cancels.values()]) {
      if (call.place === Place.UNSENT) {
        // It was refused meanwhile, and now it need not be sent again.
        this._end(call, errors.unsent());
        this._events.push({ kind: "cancel answered", call, answer: true });
      } else {
        call.cancelledIn = this._window.generation;
        control.push(encode({ type: "cancel", id: call.id }));
      }
    }
    for (const [kind, asks] of Object.entries(this._asks)) {
      const again = asks.filter((ask) => ask.owner !== this);
      this._asks[/** @type {"ping"} */ (kind)] = again;
      for (const ask of again) control.push(ask.message);
    }
  }

  /** The program has said `close`: go on with it. */
  _closeAgain() {
    this._enter(Phase.CLOSING);
    this._byeAt = this._lookAt = -Infinity;
    this._blocked = false;
    if (this._mode === "cancel") this._refuseUnsent();
  }
}
