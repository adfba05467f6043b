// One core with its sockets, its timer and its comings back.

import { ConnectionLost, InorderError } from "./errors.js";
import { Deferred } from "./job.js";
import { SUBPROTOCOL } from "./messages.js";
import { isLive, Phase } from "./phases.js";
import { CLOSE } from "./retry.js";

/** @typedef {import("./core.js").Core} Core */
/** @typedef {import("./events.js").CoreEvent} CoreEvent */
/** @typedef {import("./host.js").Host} Host */
/** @typedef {import("./host.js").SocketLike} SocketLike */
/** @typedef {import("./job.js").Job} Job */
/** @typedef {import("./keeper.js").Keeper} Keeper */
/** @typedef {import("./login.js").Login} Login */
/** @typedef {import("./phases.js").StateName} StateName */

/** The longest that `setTimeout` can wait. */
const LONGEST = 2 ** 31 - 1;
/** A socket's `readyState`; more: it closes, or is closed. */
const OPEN = 1;

/**
 * What a session's `state` event says: `connected`; then `draining`, `reconnecting` and
 * `resumed` as often as it happens; at last `closed`, `lost` or `detached`.
 */
export class StateEvent extends Event {
  /** @param {StateName} state @param {InorderError | null} error why it was lost */
  constructor(state, error) {
    super("state");
    this.state = state;
    this.error = error;
  }
}

/** What keeps a session going: it connects, comes back, sends, and tells jobs what happened. */
export class Shell extends EventTarget {
  /**
   * @param {Core} core
   * @param {string} url
   * @param {Login} login
   * @param {Keeper} keeper
   * @param {Host} host
   * @param {{client?: string, openTimeout: number}} options
   */
  constructor(core, url, login, keeper, host, { client, openTimeout }) {
    super();
    this._core = core;
    this._url = url;
    this._login = login;
    this._keeper = keeper;
    this._host = host;
    this._client = client;
    this._openTimeout = openTimeout;
    /** @type {SocketLike | null} */
    this._socket = null;
    /** @type {Deferred<InorderError | null>} */
    this._greeted = new Deferred();
    this._attempts = 0;
    this._connecting = false;
    this._dispatching = false;
    this._flushing = false;
    /** @type {unknown} */
    this._timer = null;
    this._timerAt = Infinity;
    /** @type {Deferred<void> | null} */
    this._nap = null;
    /** @type {Deferred<void> | null} */
    this._outcomeCame = null;
    /** @type {Deferred<void>} */
    this._over = new Deferred();
    this._hurry = () => this._hurryUp();
    this._looked = () => {
      if (host.document?.visibilityState === "visible") this._hurryUp();
    };
  }

  // ---- connecting

  /** The first connection, tried again for so many seconds. @param {number} patience */
  async _open(patience) {
    this._core.begin(this._host.now(), patience);
    this._host.window?.addEventListener("online", this._hurry);
    this._host.document?.addEventListener("visibilitychange", this._looked);
    try {
      await this._connect();
      if (this._core.error) throw this._core.error;
    } catch (error) {
      this._core.detach();
      this._turn();
      throw error;
    }
  }

  /** Tries until a connection stands or the core has had enough. */
  async _connect() {
    const core = this._core;
    const { now } = this._host;
    this._connecting = true;
    try {
      while (core.phase <= Phase.AWAY) {
        if (core.due(now())) {
          await this._attempt();
        } else if (core.nextDeadline() < Infinity) {
          this._nap = new Deferred();
          this._setTimer();
          await this._nap.promise;
          this._nap = null;
        }
        this._dispatch();
      }
    } finally {
      this._connecting = false;
    }
  }

  async _attempt() {
    const core = this._core;
    const { now, setTimeout, clearTimeout } = this._host;
    const limit = Math.min(this._openTimeout, core.timeLeft(now()));
    const said = `no welcome within ${Number(limit.toPrecision(3))} s`;
    const late = new ConnectionLost("unreachable", said, { retry: true });
    /** @type {Deferred<InorderError>} */
    const tooLate = new Deferred();
    const timer = setTimeout(() => tooLate.resolve(late), Math.min(1000 * limit, LONGEST));
    let error;
    try {
      error = await Promise.race([this._greet(++this._attempts), tooLate.promise]);
    } catch (thrown) {
      if (!(thrown instanceof InorderError)) throw thrown;
      error = thrown;
    } finally {
      clearTimeout(timer);
    }
    if (error) {
      this._leave();
      core.connectFailed(error, now());
    }
  }

  /** Opens a socket and logs in. Returns the error of a refusal; what else went wrong the core
   *  knows. @param {number} attempt @returns {Promise<InorderError | null>} */
  async _greet(attempt) {
    const failed = await this._dial();
    if (failed || attempt !== this._attempts) return failed;
    /** @type {InorderError | null} */
    let refused = null;
    for await (const credentials of this._login.tries(this._core.token)) {
      if (attempt !== this._attempts || this._core.phase > Phase.AWAY) return null;
      this._greeted = new Deferred();
      this._core.hello(credentials, this._client);
      this._flush();
      const error = await this._greeted.promise;
      if (!error) return null;
      // That the name is taken says more than that its password is another.
      if (refused?.code !== "name_taken") refused = error;
      if (!this._login.goesOn(error)) break;
    }
    return refused;
  }

  /** @returns {Promise<InorderError | null>} null: it is open */
  _dial() {
    const socket = new this._host.WebSocket(this._url, [SUBPROTOCOL]);
    this._socket = socket;
    return new Promise((resolve) => {
      let opened = false;
      socket.onopen = () => {
        opened = true;
        resolve(null);
      };
      socket.onerror = () => {}; // a close follows, which says more
      socket.onmessage = ({ data }) => {
        if (socket === this._socket) {
          this._core.receive(data, this._host.now());
          this._turn();
        }
      };
      socket.onclose = ({ code, reason }) => {
        if (!opened) {
          // A page is not told whether it was the network, or which status the server gave.
          const said = `${this._url} can't be reached, or does not let this page in`;
          resolve(new ConnectionLost("unreachable", said, { retry: true }));
        } else if (socket === this._socket) {
          this._core.connectionLost(code || CLOSE.ABNORMAL, reason || "", this._host.now());
          this._turn();
        }
      };
    });
  }

  async _comeBack() {
    try {
      await this._connect();
    } catch (error) {
      // Of a program's own making, such as a URL that is none.
      const lost = new ConnectionLost("internal", `coming back failed: ${error}`);
      this._leave();
      this._core.connectFailed(lost, this._host.now());
      this._dispatch();
    }
  }

  /** The socket is of no more use: what still comes from it is not looked at. */
  _leave() {
    const socket = this._socket;
    this._socket = null;
    if (!socket) return;
    if (this._core.phase === Phase.DETACHED) this._send(socket);
    try {
      socket.close(CLOSE.DONE);
    } catch {
      // It was not even open.
    }
  }

  _hurryUp() {
    this._core.hurry(this._host.now());
    this._nap?.resolve();
    this._turn();
  }

  // ---- inside

  /** After everything that happened to the core. */
  _turn() {
    this._dispatch();
    this._wake();
  }

  /** Sends what there is to send, together with what else this moment brings. */
  _wake() {
    if (this._flushing) return;
    this._flushing = true;
    queueMicrotask(() => {
      this._flushing = false;
      this._dispatch();
      this._flush();
    });
  }

  _flush() {
    if (this._socket && this._core.phase > Phase.AWAY) this._send(this._socket);
    this._dispatch();
    this._setTimer();
  }

  /** @param {SocketLike} socket */
  _send(socket) {
    // A browser doesn't throw here, it writes an error to the console of the page.
    if ((socket.readyState ?? OPEN) > OPEN) return;
    for (const frame of this._core.framesToSend(this._host.now())) {
      try {
        socket.send(frame);
      } catch {
        return; // it is closing, and will say so
      }
    }
  }

  /** One timer, and only where there is something to wait for. */
  _setTimer() {
    const { phase } = this._core;
    const waits = isLive(phase) || (phase === Phase.AWAY && this._nap);
    const deadline = waits ? this._core.nextDeadline() : Infinity;
    if (deadline === this._timerAt) return;
    this._host.clearTimeout(this._timer);
    this._timerAt = deadline;
    if (deadline === Infinity) return;
    const ms = Math.max(0, Math.min(1000 * (deadline - this._host.now()), LONGEST));
    this._timer = this._host.setTimeout(() => {
      this._timerAt = Infinity;
      this._nap?.resolve();
      this._wake();
    }, ms);
  }

  _dispatch() {
    if (this._dispatching) return;
    this._dispatching = true;
    try {
      for (let events; (events = this._core.events()).length;) {
        for (const event of events) this._on(event);
      }
    } finally {
      this._dispatching = false;
    }
    if (this._core.phase > Phase.GREETING && this._core.phase < Phase.ENDED) this._keep();
  }

  /** @param {CoreEvent} event */
  _on(event) {
    switch (event.kind) {
      case "ended":
        /** @type {Job} */ (event.call.owner)._onEnded();
        break;
      case "accepted":
        /** @type {Job} */ (event.call.owner)._onAccepted();
        break;
      case "progress":
        /** @type {Job} */ (event.call.owner)._onProgress(event.value);
        break;
      case "cancel answered":
        /** @type {Job} */ (event.call.owner)._onCancel(event.answer);
        break;
      case "answered": {
        const asked = /** @type {Deferred<unknown>} */ (event.ask.owner);
        if (event.answer instanceof InorderError) asked.reject(event.answer);
        else asked.resolve(event.answer);
        break;
      }
      case "outcome":
        this._tellOutcomes();
        break;
      case "state":
        this.dispatchEvent(new StateEvent(event.name, this._core.error));
        break;
      case "opened":
        this._login.succeeded();
        this._greeted.resolve(null);
        break;
      case "login refused":
        this._greeted.resolve(event.error);
        break;
      case "dropped":
        this._leave();
        this._greeted.resolve(null);
        if (!this._connecting) {
          this._connecting = true;
          void this._comeBack();
        }
        break;
      case "receipt":
        if (!event.receipt.verified) {
          console.error("inorder: the server's two countings differ:", event.receipt);
        }
        this._keeper.forget();
        this._end();
        break;
      case "lost":
        this._part(event.error);
        this._end();
        break;
    }
  }

  _end() {
    this._leave();
    this._attempts += 1;
    this._host.window?.removeEventListener("online", this._hurry);
    this._host.document?.removeEventListener("visibilitychange", this._looked);
    this._greeted.resolve(null);
    this._nap?.resolve();
    this._tellOutcomes();
    this._setTimer();
    this._over.resolve();
  }

  _tellOutcomes() {
    const came = this._outcomeCame;
    this._outcomeCame = null;
    came?.resolve();
  }

  // ---- what is kept

  _keep() {
    const { state, token, open } = this._core;
    // A session that accepted nothing ends with its connection.
    this._keeper.keep({ state: state.accepted > 0 ? state : null, token, open });
  }

  /** It is over here; can one come back to it? @param {InorderError} error */
  _part(error) {
    if (error.retry) {
      // What an earlier life kept stays as it is where this one never had a connection.
      if (this._core.user) this._keep();
      this._keeper.release();
    } else if (error.name === "LoginFailed" || error.code === "forbidden") {
      this._keeper.dropToken();
      this._keeper.release();
    } else {
      this._keeper.forget();
    }
  }
}
