// The client's core: everything it decides, without I/O.
//
// A shell gives it frames with `receive`, and then asks for `events`, `framesToSend` and
// `nextDeadline`, in this order: taking the events is what allows their outcomes to be
// acknowledged. `now` is any monotonic clock in seconds.

import * as errors from "./errors.js";
import { decode } from "./messages.js";
import { Phase } from "./phases.js";
import { Returning } from "./returning.js";
import { ACK_AFTER } from "./sending.js";
import { Place } from "./window.js";

/** @typedef {import("./messages.js").ErrorMessage} ErrorMessage */
/** @typedef {import("./messages.js").ServerMessage} ServerMessage */
/** @typedef {import("./messages.js").StatusReport} StatusReport */
/** @typedef {import("./events.js").Ask} Ask */
/** @typedef {import("./window.js").Call} Call */

/** Seconds to wait after a retryable refusal that names no `after`. */
const WAIT = 1;

export class Core extends Returning {
  /**
   * Takes a frame of the server. Never throws for what the frame holds.
   *
   * @param {unknown} frame
   * @param {number} now
   */
  receive(frame, now) {
    if (!this._listens()) return;
    let messages;
    try {
      messages = decode(frame);
    } catch (error) {
      this._break(`the server's frame can't be read: ${/** @type {Error} */ (error).message}`, now);
      return;
    }
    this._heart.heard(now);
    for (const message of messages) if (this._listens()) this._on(message, now);
  }

  _listens() {
    return this.phase > Phase.AWAY && this.phase < Phase.ENDED;
  }

  /** @param {ServerMessage} message @param {number} now */
  _on(message, now) {
    switch (message.type) {
      case "welcome":
        if (this.phase === Phase.GREETING) this._welcome(message, now);
        else this._break("a second welcome", now);
        break;
      case "accepted":
        this._onAccepted(message.id, message.seq, now);
        break;
      case "progress": {
        const call = this._calls.get(message.id);
        if (call) this._events.push({ kind: "progress", call, value: message.progress });
        break;
      }
      case "result":
        this._onOutcome(message.id, message.seq, message.result, null, now);
        break;
      case "error":
        this._onError(message, now);
        break;
      case "cancelling": {
        const call = this._calls.get(message.id);
        if (call) this._cancelAnswered(call, true);
        break;
      }
      case "status":
        this._answer("status", message);
        break;
      case "methods":
        this._answer("methods", message.methods);
        break;
      case "pong":
        this._answer("ping", message.data);
        break;
      case "token":
        this.token = message.token;
        break;
      case "draining":
        this._window.pause(Infinity);
        if (this.phase === Phase.OPEN) this._enter(Phase.DRAINING);
        break;
      case "bye":
        this._onBye(message.receipt);
        break;
    }
  }

  /** @param {string} id @param {number} seq @param {number} now */
  _onAccepted(id, seq, now) {
    const call = this._calls.get(id);
    if (call && call.seq !== seq && call.place <= Place.SENT) {
      this._window.known(call, seq);
      if (call.watched) this._events.push({ kind: "accepted", call });
    } else {
      this._accept(seq, now);
    }
  }

  /** @param {number} seq @param {number} now */
  _accept(seq, now) {
    if (seq >= this._window.nextSeq) {
      this._break(`the server accepted ${seq}, which was not sent`, now);
      return false;
    }
    if (seq > this._window.accepted) {
      for (const call of this._window.accept(seq)) this._events.push({ kind: "accepted", call });
    }
    return true;
  }

  /**
   * @param {string} id
   * @param {number} seq
   * @param {unknown} result
   * @param {errors.InorderError | null} error
   * @param {number} now
   */
  _onOutcome(id, seq, result, error, now) {
    if (!this._settle(id, seq, now)) return;
    const call = this._calls.get(id);
    if (call) {
      call.result = result;
      this._end(call, error);
    } else {
      this._outcomes.push({ id, seq, result, error });
      this._events.push({ kind: "outcome" });
    }
  }

  /** An outcome came. Returns whether it is news.
   *  @param {string} id @param {number} seq @param {number} now */
  _settle(id, seq, now) {
    const window = this._window;
    const call = this._calls.get(id);
    if (call && call.seq !== seq && call.place <= Place.SENT) window.known(call, seq);
    if (seq <= window.held) return call !== undefined;
    if (seq !== window.held + 1) {
      this._break(`after outcome ${window.held} came ${seq}`, now);
      return false;
    }
    if (!call && seq > this._inherited) {
      this._break(`outcome ${seq} is for an id that was not sent`, now);
      return false;
    }
    if (!this._accept(seq, now)) return false;
    window.held = seq;
    this._ackAt ??= now + ACK_AFTER;
    return true;
  }

  /** @param {ErrorMessage} error @param {number} now */
  _onError(error, now) {
    const of = error.of ?? null;
    const id = error.id ?? "";
    const greeting = of === "hello" || of === "register";
    if (of === null && error.id != null && error.seq != null) {
      this._onOutcome(id, error.seq, undefined, errors.outcome(error), now);
    } else if (of === "request" && error.id != null) {
      const call = this._calls.get(id);
      if (call) this._refused(call, error, now);
    } else if (of === "cancel") {
      const call = this._calls.get(id);
      if (call) this._notCancelled(call, error);
    } else if (greeting && this.phase === Phase.GREETING) {
      this._enter(this._beforeHello);
      this._events.push({ kind: "login refused", error: errors.login(error) });
    } else if (of === "status" || of === "methods" || of === "ping") {
      this._answer(of, errors.refusal(error));
    } else if (of === "bye" && error.retry && this.phase === Phase.BYE) {
      this._enter(Phase.CLOSING);
      this._byeAt = now + (error.after ?? WAIT);
    } else {
      // It answers something of ours, and what that was can't be known.
      this._break(error.message, now, error.code);
    }
  }

  /** Goes back once (SPEC.md, "Numbers").
   *  @param {Call} call @param {ErrorMessage} error @param {number} now */
  _refused(call, error, now) {
    const window = this._window;
    const details = /** @type {{seq?: unknown, expected?: unknown}} */ (
      typeof error.details === "object" && error.details !== null ? error.details : {}
    );
    const { seq = call.seq, expected = call.seq } = details;
    if (!error.retry) {
      // True of this id whenever it was said, also of an earlier sending.
      if (call.place === Place.SENT) window.goBack(call);
      this._end(call, errors.refusal(error, wasAccepted(call, error, seq)));
    } else if (call.place !== Place.SENT || seq !== call.seq) {
      return; // of an earlier sending: it has gone back since
    } else if (error.code === "out_of_order") {
      if (typeof expected !== "number" || expected <= window.accepted) {
        if ("seq" in details) {
          // Without it this may be the echo of an old gap.
          this._break(`the server expects ${expected} after ${window.accepted}`, now);
        }
        return;
      }
      // Numbers that were not given here belong to requests of somebody else's.
      if (expected > window.nextSeq) this._inherited = expected - 1;
      window.goBack(call, expected);
      window.pause(now + (error.after ?? 0));
    } else {
      window.goBack(call);
      window.pause(error.code === "draining" ? Infinity : now + (error.after ?? WAIT));
    }
    if (this.phase === Phase.BYE) this._refuseUnsent();
  }

  /** @param {Call} call @param {ErrorMessage} error */
  _notCancelled(call, error) {
    if (error.code !== "not_found") {
      this._cancelAnswered(call, errors.refusal(error));
    } else if (call.place === Place.UNSENT) {
      // The server had refused it, and now it need not be sent again.
      this._end(call, errors.unsent());
      this._cancelAnswered(call, true);
    } else if (call.sentIn > call.cancelledIn) {
      this.cancel(call);
    } else {
      this._cancelAnswered(call, false);
    }
  }

  /** @param {Call} call @param {boolean | errors.InorderError} answer */
  _cancelAnswered(call, answer) {
    this._cancels.delete(call.id);
    this._events.push({ kind: "cancel answered", call, answer });
  }

  /** @param {Ask["kind"]} kind @param {unknown} answer */
  _answer(kind, answer) {
    const ask = this._asks[kind].shift();
    if (!ask) return;
    if (ask.owner !== this) {
      this._mark = "";
      this._events.push({ kind: "answered", ask, answer });
    } else if (kind === "status" && !(answer instanceof errors.InorderError)) {
      const { blocked } = /** @type {StatusReport} */ (answer);
      this._blocked = blocked != null && blocked.next_retry_s == null;
    }
  }

  /** @param {import("./messages.js").Receipt} receipt */
  _onBye(receipt) {
    this._window.accept(Math.min(receipt.accepted, this._window.nextSeq - 1));
    if (this.phase === Phase.GREETING && this._mode === null) {
      // Somebody else has ended it.
      this._fail(Phase.LOST, (accepted) => errors.ended(receipt, accepted));
      return;
    }
    this.receipt = receipt;
    this._fail(Phase.ENDED, (accepted) => errors.ended(receipt, accepted === true));
  }
}

/**
 * Of a request that is refused for good: whether it had been accepted before.
 *
 * @param {Call} call
 * @param {ErrorMessage} error
 * @param {unknown} seq
 */
function wasAccepted(call, error, seq) {
  if (error.code !== "already_acknowledged") return false;
  // With its own number: the server does not remember the id.
  return seq !== call.seq ? true : null;
}
