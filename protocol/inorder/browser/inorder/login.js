// Who one is: the part of `hello` and `register` that proves it.

import { ConnectionLost, InorderError, LoginFailed } from "./errors.js";
import { judge } from "./retry.js";

/**
 * @typedef {string | {token: string} | {username: string, password: string}} Answer a token, or
 *   a name with its password
 * @typedef {Answer | (() => Answer | Promise<Answer>)} Auth a function is asked before each
 *   login, so that a token can be fetched, or a human asked, when it is needed
 * @typedef {{token?: string, username?: string, password?: string, register?: boolean}} Credentials
 */

/** @param {Answer} answer @param {boolean} register @returns {Credentials} */
function credentials(answer, register) {
  if (typeof answer === "string") return { token: answer };
  if ("token" in answer && typeof answer.token === "string") return { token: answer.token };
  if ("username" in answer) {
    const { username, password } = answer;
    if (typeof username === "string" && typeof password === "string") {
      return { username, password, ...(register && { register }) };
    }
  }
  throw new TypeError("auth is a token, or a username with a password");
}

/**
 * Which credentials a connection tries, one after the other.
 *
 * Coming back one has a token from the server, which costs it less than a password; where that
 * is refused, the program's own are tried. What an `auth` function returned and was refused is
 * asked for once again. What it throws is a reason to come back later, but for the first
 * connection. Where the answer to a `register` was lost, the account may be this client's own:
 * when the next one finds the name taken, it is logged in to.
 */
export class Login {
  /** @param {Auth | undefined} auth @param {boolean} register make the account first */
  constructor(auth, register) {
    this._ask = typeof auth === "function" ? auth : null;
    this._given = auth === undefined || typeof auth === "function" ? null : auth;
    this._register = register;
    this._succeeded = false;
    // A `register` waits for its answer; one never had any.
    this._pending = this._inDoubt = false;
    if (this._given !== null) credentials(this._given, register);
  }

  /** Whether the next of `tries` may do better than the one that was refused.
   *  @param {InorderError} refused */
  goesOn(refused) {
    // What may pass may have come after the account was made.
    this._pending &&= refused.retry;
    return refused.code === "name_taken" ? this._inDoubt : judge(refused) === "log in anew";
  }

  /** The account is made: from now on it is only logged in to. */
  succeeded() {
    this._succeeded = true;
    this._register = this._pending = this._inDoubt = false;
  }

  /**
   * Each next one only if the one before was refused.
   *
   * @param {string | null} token the newest that the server gave
   * @returns {AsyncGenerator<Credentials, void, void>}
   */
  async *tries(token) {
    for await (const each of this._own(token)) {
      this._inDoubt ||= this._pending;
      this._pending = each.register === true;
      yield each;
      if (each.register && this._inDoubt) yield { ...each, register: false };
    }
  }

  /** @param {string | null} token @returns {AsyncGenerator<Credentials, void, void>} */
  async *_own(token) {
    if (token !== null) yield { token };
    if (this._given !== null) {
      const own = credentials(this._given, this._register);
      if (token === null || own.token !== token) yield own;
    } else if (this._ask) {
      const first = await this._asked(this._ask);
      yield first;
      if (token === null) {
        const again = await this._asked(this._ask);
        if (JSON.stringify(again) !== JSON.stringify(first)) yield again;
      }
    } else if (token === null) {
      throw new LoginFailed("unauthenticated", "there is no auth, and no token is kept");
    }
  }

  /** @param {() => Answer | Promise<Answer>} ask */
  async _asked(ask) {
    let answer;
    try {
      answer = await ask();
    } catch (error) {
      if (error instanceof InorderError || !this._succeeded) throw error;
      // What it asks may be away for as long as the server was.
      const said = `auth: ${error}`;
      throw new ConnectionLost("login_unavailable", said, { retry: true });
    }
    return credentials(answer, this._register);
  }
}
