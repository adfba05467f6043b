// A submitted request, as a program sees it.

import { Cancelled, InorderError } from "./errors.js";
import { Line, Place } from "./window.js";

/** @typedef {import("./window.js").Call} Call */

/** Progress that nobody has looked at yet; the oldest goes first, as progress is lossy. */
const PROGRESS_KEPT = 1000;

/**
 * A promise with its ends in hand.
 *
 * @template T
 */
export class Deferred {
  constructor() {
    /** @type {(value: T) => void} */
    this.resolve = () => {};
    /** @type {(error: unknown) => void} */
    this.reject = () => {};
    /** @type {Promise<T>} */
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

/**
 * A request that was submitted. `await job` gives its result or throws its error; nobody needs
 * to await it. It goes on whether or not somebody waits: only `cancel` ends it.
 *
 * @template [T=any]
 * @implements {PromiseLike<T>}
 */
export class Job {
  /**
   * @param {(call: Call) => boolean | null} cancel
   * @param {(progress: any) => void} [onProgress]
   */
  constructor(cancel, onProgress) {
    /** @type {Call} */
    this._call;
    this._ask = cancel;
    this._onEach = onProgress;
    /** @type {(() => void) | null} */
    this._atEnd = null;
    /** @type {Deferred<T> | null} */
    this._result = null;
    /** @type {Deferred<number> | null} */
    this._acceptance = null;
    /** @type {Deferred<boolean> | null} */
    this._cancelling = null;
    /** @type {Deferred<void> | null} */
    this._news = null;
    /** @type {Line<unknown>} */
    this._progress = new Line();
  }

  /** The name it has in its session. */
  get id() {
    return this._call.id;
  }

  /** Its number; null until it is accepted. */
  get seq() {
    return this._wasAccepted() ? this._call.seq : null;
  }

  /** Whether it has ended. */
  get done() {
    return this._call.place === Place.ENDED;
  }

  /**
   * Its seq, once the server has it for good. Rejects with what ended it before (`Refused`,
   * `ConnectionLost`).
   *
   * @returns {Promise<number>}
   */
  get accepted() {
    if (!this._acceptance) {
      this._acceptance = new Deferred();
      this._call.watched = true;
      this._tellAcceptance();
    }
    return this._acceptance.promise;
  }

  /**
   * @template [A=T]
   * @template [B=never]
   * @param {((value: T) => A | PromiseLike<A>) | null} [done]
   * @param {((error: any) => B | PromiseLike<B>) | null} [failed]
   * @returns {Promise<A | B>}
   */
  then(done, failed) {
    if (!this._result) {
      this._result = new Deferred();
      this._tellResult();
    }
    return this._result.promise.then(done, failed);
  }

  /**
   * @template [B=never]
   * @param {((error: any) => B | PromiseLike<B>) | null} [failed]
   */
  catch(failed) {
    return this.then(null, failed);
  }

  /** @param {(() => void) | null} [finished] */
  finally(finished) {
    return this.then().finally(finished);
  }

  /**
   * What the handler tells while it runs, until the request ends. Lossy.
   *
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *progress() {
    for (;;) {
      while (this._progress.length) yield this._progress.shift();
      if (this.done) return;
      this._news ??= new Deferred();
      await this._news.promise;
    }
  }

  /**
   * Asks that it be cancelled: true when it is being cancelled or was, false when it had ended
   * otherwise. The job then ends with `Cancelled`, in its turn.
   *
   * @returns {Promise<boolean>}
   */
  async cancel() {
    const answer = this._ask(this._call);
    if (answer !== null) return answer;
    this._cancelling ??= new Deferred();
    return this._cancelling.promise;
  }

  // ---- told by the session

  _onAccepted() {
    this._tellAcceptance();
  }

  /** @param {unknown} value */
  _onProgress(value) {
    if (this._progress.length >= PROGRESS_KEPT) this._progress.shift();
    this._progress.push(value);
    this._wake();
    try {
      this._onEach?.(value);
    } catch (error) {
      console.error("inorder: onProgress threw:", error);
    }
  }

  /** @param {boolean | InorderError} answer */
  _onCancel(answer) {
    const waiting = this._cancelling;
    this._cancelling = null;
    if (answer instanceof InorderError) waiting?.reject(answer);
    else waiting?.resolve(answer);
  }

  _onEnded() {
    this._atEnd?.();
    this._tellAcceptance();
    this._tellResult();
    this._wake();
    this._onCancel(this._call.error instanceof Cancelled);
  }

  _wasAccepted() {
    const { place, error } = this._call;
    return place === Place.ENDED ? !error || error.accepted === true : place === Place.ACCEPTED;
  }

  _tellAcceptance() {
    if (this._wasAccepted()) this._acceptance?.resolve(this._call.seq);
    else if (this.done) this._acceptance?.reject(this._call.error);
  }

  _tellResult() {
    if (!this.done) return;
    const { error, result } = this._call;
    if (error) this._result?.reject(error);
    else this._result?.resolve(/** @type {T} */ (result));
  }

  _wake() {
    const news = this._news;
    this._news = null;
    news?.resolve();
  }
}
