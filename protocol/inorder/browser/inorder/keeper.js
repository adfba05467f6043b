// The session's state in a `Storage`, so that a reloaded tab goes on with its session.
//
// A duplicated tab gets a copy of `sessionStorage`, and two tabs would take the one session from
// each other. So a session in a storage is also claimed: by a Web Lock under its id, held as long
// as the tab lives; where there are no locks (a page that is not served over TLS, nor by this
// machine), over a BroadcastChannel, on which the owner answers. Whoever finds the session
// claimed starts one of its own. A tab that is being reloaded lets go a little late, which is
// waited for.

/** @typedef {import("./host.js").Host} Host */
/** @typedef {import("./events.js").State} State */
/** @typedef {Pick<Storage, "getItem" | "setItem" | "removeItem">} StorageLike */
/**
 * @typedef {object} Kept what stands in the storage, as JSON
 * @property {State | null} state null: nothing was accepted yet, so there is nothing to resume
 * @property {string | null} token
 * @property {number} open requests that had not ended
 */

/** Seconds that a claim waits for a tab that is just going. */
export const LOCK_WAIT = 1;
/** Seconds within which an owner answers on the channel. */
export const CHANNEL_WAIT = 0.3;
const CHANNEL = "inorder";

/** One session, claimed for this tab. */
class Claim {
  /** @param {Host} host @param {string} session */
  constructor(host, session) {
    this.session = session;
    this._host = host;
    this._release = () => {};
  }

  release() {
    this._release();
    this._release = () => {};
  }

  /** @returns {Promise<boolean>} whether the session is ours now */
  take() {
    const { locks, BroadcastChannel } = this._host;
    if (locks) return this._lock(locks);
    return BroadcastChannel ? this._ask(new BroadcastChannel(CHANNEL)) : Promise.resolve(true);
  }

  /** @param {Pick<LockManager, "request">} locks @returns {Promise<boolean>} */
  _lock(locks) {
    return new Promise((resolve) => {
      const given = new AbortController();
      const timer = this._host.setTimeout(() => given.abort(), LOCK_WAIT * 1000);
      const held = locks.request(`inorder:${this.session}`, { signal: given.signal }, () => {
        this._host.clearTimeout(timer);
        resolve(true);
        return new Promise((release) => (this._release = () => release(undefined)));
      });
      held.catch(() => resolve(false));
    });
  }

  /** @param {BroadcastChannel} channel @returns {Promise<boolean>} */
  _ask(channel) {
    const me = Math.random();
    let owned = false;
    return new Promise((resolve) => {
      const timer = this._host.setTimeout(() => {
        owned = true;
        resolve(true);
      }, CHANNEL_WAIT * 1000);
      this._release = () => channel.close();
      channel.onmessage = ({ data }) => {
        const { session, asks, refuses } = data ?? {};
        if (session !== this.session) return;
        // Of several that ask at the same time the lowest number has it.
        if (asks !== undefined && (owned || me < asks)) {
          channel.postMessage({ session, refuses: asks });
        } else if (!owned && (asks !== undefined || refuses === me)) {
          this._host.clearTimeout(timer);
          this.release();
          resolve(false);
        }
      };
      channel.postMessage({ session: this.session, asks: me });
    });
  }
}

export class Keeper {
  /** @param {StorageLike | null} storage @param {string} key @param {Host} host */
  constructor(storage, key, host) {
    this._storage = storage;
    this._key = key;
    this._host = host;
    this._written = "";
    /** @type {Claim | null} */
    this._claim = null;
  }

  /**
   * What an earlier life of this tab kept; null where there is none, or where the session in it
   * is another tab's.
   *
   * @returns {Promise<Kept | null>}
   */
  async recall() {
    const kept = this._read();
    if (!kept) return null;
    if (kept.state && !(await this._take(kept.state.session))) {
      // A copy of somebody else's. The token is the user's, and good for a session of its own.
      return { state: null, token: kept.token, open: 0 };
    }
    return kept;
  }

  /** @param {Kept} kept */
  keep(kept) {
    if (!this._storage) return;
    const text = JSON.stringify(kept);
    if (text === this._written) return;
    this._written = text;
    const session = kept.state?.session;
    if (session && this._claim?.session !== session) void this._take(session);
    this._try((storage) => storage.setItem(this._key, text));
  }

  /** The token is of no more use; one can come back with another. */
  dropToken() {
    const kept = this._read();
    if (kept) this.keep({ ...kept, token: null });
  }

  /** There is nothing to come back to. */
  forget() {
    this._written = "";
    this._try((storage) => storage.removeItem(this._key));
    this.release();
  }

  release() {
    this._claim?.release();
    this._claim = null;
  }

  /** @param {string} session */
  async _take(session) {
    this.release();
    const claim = new Claim(this._host, session);
    this._claim = claim;
    const mine = await claim.take();
    if (this._claim !== claim) claim.release();
    else if (!mine) this._claim = null;
    return mine;
  }

  /** @returns {Kept | null} */
  _read() {
    try {
      const value = JSON.parse(this._storage?.getItem(this._key) ?? "null");
      if (typeof value !== "object") return null;
      const { state = null, token = null, open = 0 } = value;
      const numbers = state === null || (isCount(state.held) && isCount(state.accepted));
      const words = state === null || (typeof state.session === "string" && state.session !== "");
      const good = numbers && words && (token === null || typeof token === "string");
      return good && isCount(open) ? { state, token, open } : null;
    } catch {
      return null; // nothing, or not ours, or a storage that is forbidden
    }
  }

  /** A storage may be full or forbidden, which is no reason to lose a session.
   *  @param {(storage: StorageLike) => void} use */
  _try(use) {
    try {
      if (this._storage) use(this._storage);
    } catch (error) {
      console.warn("inorder: the state can't be stored:", error);
    }
  }
}

/** @param {unknown} value */
const isCount = (value) => Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0;
