// A session, as a page sees it.

import { Deferred, Job } from "./job.js";
import { isLive, Phase } from "./phases.js";
import { Shell } from "./shell.js";

/** @typedef {import("./events.js").Outcome} Outcome */
/** @typedef {import("./events.js").State} State */
/** @typedef {import("./messages.js").MethodLine} MethodLine */
/** @typedef {import("./messages.js").Receipt} Receipt */
/** @typedef {import("./messages.js").StatusReport} StatusReport */
/** @typedef {import("./window.js").Call} Call */

/**
 * A session, which comes back by itself when its connection is lost; `connect` makes it. It is
 * an `EventTarget` with `state` events. All durations are in seconds.
 */
export class Session extends Shell {
  // ---- what it is

  /** The session's id, by which it can be resumed. */
  get id() {
    return this._core.session;
  }

  /** The name that one is logged in by. */
  get user() {
    return this._core.user;
  }

  /** The newest token for this user; good for the next login. */
  get token() {
    return this._core.token;
  }

  /** What to keep, in order to pass it to `resume` later; `storage` does so by itself. */
  get state() {
    return this._core.state;
  }

  /** Whether an older session was resumed: then `outcomes` may have something. */
  get resumed() {
    return this._core.resumed;
  }

  /** Whether there is a connection just now. */
  get connected() {
    return isLive(this._core.phase);
  }

  /** The proof that the queue ended empty, once `close` has brought it. */
  get receipt() {
    return this._core.receipt;
  }

  // ---- requests

  /**
   * Calls a method and waits for its result. Rejects with an `InorderError`.
   *
   * @param {string} method
   * @param {unknown} [params]
   * @param {{id?: string, timeout?: number, signal?: AbortSignal,
   *   onProgress?: (progress: any) => void}} [options]
   * @returns {Promise<any>}
   */
  async request(method, params, options) {
    return this.submit(method, params, options);
  }

  /**
   * Takes a request and returns at once; it is sent in its turn.
   *
   * `params`: an object (by name), an array (by position) or any other JSON value (the only
   * argument). `id` names the request in its session; sent again, it is not run again.
   * `timeout`: seconds that an attempt may run. `signal`: when it is aborted, the request is
   * cancelled, and ends as the server says: with `Cancelled` in its turn, or with its result
   * where that was quicker. Throws the session's error where it is over, `RangeError` for an
   * id that can't be used and for params that are nested more than 500 deep, `TypeError` for
   * params that are no JSON.
   *
   * @param {string} method
   * @param {unknown} [params]
   * @param {{id?: string, timeout?: number, signal?: AbortSignal,
   *   onProgress?: (progress: any) => void}} [options]
   * @returns {Job<any>}
   */
  submit(method, params, { id, timeout, signal, onProgress } = {}) {
    const job = new Job((call) => this._cancel(call), onProgress);
    job._call = this._core.submit(method, params, { id, timeout, owner: job });
    if (signal) {
      const abort = () => void job.cancel().catch(() => {});
      job._atEnd = () => signal.removeEventListener("abort", abort);
      signal.addEventListener("abort", abort);
      if (signal.aborted) abort();
    }
    this._wake();
    return job;
  }

  /**
   * After a resume: how the requests ended that an earlier life of this page had sent, in
   * order. Ends after the last of them. What is not read here stays with the server.
   *
   * @returns {AsyncGenerator<Outcome, void, void>}
   */
  async *outcomes() {
    for (;;) {
      for (let outcome; (outcome = this._core.nextOutcome());) {
        this._wake();
        yield outcome;
      }
      if (!this._core.expectsOutcomes) return;
      if (this._core.error) throw this._core.error;
      this._outcomeCame ??= new Deferred();
      await this._outcomeCame.promise;
    }
  }

  // ---- questions

  /**
   * How the session stands at the server; with `from` up to 100 of its requests, beginning with
   * that seq.
   *
   * @param {number} [from]
   * @returns {Promise<StatusReport>}
   */
  async status(from) {
    return this._ask((owner) => this._core.status(from, owner));
  }

  /**
   * What can be called: names, doc lines, and the JSON Schemas of the params.
   *
   * @returns {Promise<MethodLine[]>}
   */
  async methods() {
    return this._ask((owner) => this._core.methods(owner));
  }

  /**
   * Seconds to the server and back, through everything that a message goes through.
   *
   * @param {unknown} [data]
   */
  async ping(data) {
    const start = this._host.now();
    await this._ask((owner) => this._core.ping(data, owner));
    return this._host.now() - start;
  }

  // ---- endings

  /**
   * Ends the session and returns its receipt. "finish" waits for everything that was submitted,
   * "cancel" has it cancelled. A lost connection does not keep it from its receipt. Rejects with
   * the error that ended the session where that came first.
   *
   * @param {{mode?: "finish" | "cancel"}} [options]
   * @returns {Promise<Receipt>}
   */
  async close({ mode = "finish" } = {}) {
    if (this._core.phase < Phase.CLOSING && !this._core.closing) {
      this._core.close(mode);
      this._turn();
    }
    await this._over.promise;
    if (this._core.receipt && this._core.phase === Phase.ENDED) return this._core.receipt;
    throw this._core.error;
  }

  /**
   * Leaves the session without ending it; what was accepted goes on at the server. Jobs that
   * are open end with `ConnectionLost`. Returns the state to resume with.
   *
   * @returns {Promise<State>}
   */
  async detach() {
    this._core.detach();
    this._turn();
    await this._over.promise;
    return this.state;
  }

  // ---- inside

  /** @param {(owner: Deferred<any>) => unknown} ask */
  _ask(ask) {
    /** @type {Deferred<any>} */
    const answer = new Deferred();
    ask(answer);
    this._wake();
    return answer.promise;
  }

  /** @param {Call} call */
  _cancel(call) {
    const answer = this._core.cancel(call);
    this._turn();
    return answer;
  }
}
