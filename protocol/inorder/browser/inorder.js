// inorder's client for pages, without dependencies: `import { connect } from ".../inorder.js"`.
//
//   const session = await connect("wss://HOST/ws", { auth: { username, password } });
//   await session.request("echo", { word: "hello" });       // the result, or a typed error
//
// README.md has more; the protocol is SPEC.md's. All durations are in seconds.

import { Core } from "./inorder/core.js";
import { host as surroundings } from "./inorder/host.js";
import { Keeper } from "./inorder/keeper.js";
import { Login } from "./inorder/login.js";
import { backoff as defaultBackoff } from "./inorder/retry.js";
import { Session } from "./inorder/session.js";

/** @typedef {import("./inorder/login.js").Auth} Auth */
/** @typedef {import("./inorder/messages.js").MethodLine} MethodLine */
/** @typedef {import("./inorder/messages.js").Receipt} Receipt */
/** @typedef {import("./inorder/messages.js").StatusReport} StatusReport */
/** @typedef {import("./inorder/phases.js").StateName} StateName */
/** @typedef {import("./inorder/events.js").Outcome} Outcome */
/** @typedef {import("./inorder/events.js").State} State */

/**
 * @typedef {object} Options
 * @property {Auth} [auth] a token, or a username with a password, or a function that returns
 *   one of them (also later). Not needed where `storage` has a token
 * @property {boolean} [register] make the account first
 * @property {import("./inorder/keeper.js").StorageLike | null} [storage] where the session's
 *   state and its token are kept, so that a reloaded tab goes on: `sessionStorage`. Without it
 *   they are in memory only
 * @property {string} [storageKey] under which name; default: by the URL. Two sessions in one
 *   page need two names
 * @property {State | null} [resume] go on with an older session; goes before what `storage` has
 * @property {number} [window] the most requests on their way at once (256)
 * @property {(state: StateName) => void} [onState] is told what `state` events say
 * @property {string} [client] a name for the server's log
 * @property {number} [openTimeout] until the first connection must stand (30)
 * @property {boolean} [keepTrying] try the first connection, too, again for that long
 * @property {number | null} [giveUpAfter] without a connection until the session is lost (60);
 *   0: at once, null: never
 * @property {import("./inorder/retry.js").Backoff} [backoff] yields the seconds before each
 *   attempt to come back
 * @property {Partial<import("./inorder/host.js").Host>} [host] in place of what the browser
 *   offers: `WebSocket`, a clock
 */

/**
 * Opens a session; with a `storage`, goes on with the one that an earlier life of this tab had.
 *
 * A tab that was duplicated has a copy of the storage: it is told apart by a lock on the session
 * and starts a session of its own.
 *
 * Rejects with `LoginFailed`, `SessionGone`, `HistoryLost` or `ConnectionLost`. A page is not
 * told why a first connection failed, so that is `ConnectionLost` (`unreachable`) also where
 * the server does not admit the page's origin. A stored session that is gone is replaced by a
 * new one where nothing was owed; otherwise that is `SessionGone`, once.
 *
 * @param {string | URL} url `ws://HOST:3000/ws`
 * @param {Options} [options]
 * @returns {Promise<Session>}
 */
export async function connect(url, options = {}) {
  const { auth, register = false, storage = null, resume = null, window = 256 } = options;
  const { giveUpAfter = 60, backoff = defaultBackoff, openTimeout = 30, client } = options;
  const { keepTrying = false, onState, storageKey = `inorder:${url}` } = options;
  const host = surroundings(options.host);
  const keeper = new Keeper(storage, storageKey, host);

  /** @param {State | null} from @param {string | null} token */
  const open = async (from, token) => {
    const core = new Core({ window, resume: from, giveUpAfter, backoff });
    core.token = token;
    const login = new Login(auth, register);
    const session = new Session(core, String(url), login, keeper, host, { client, openTimeout });
    if (onState) {
      session.addEventListener("state", (event) => onState(/** @type {any} */ (event).state));
    }
    await session._open(keepTrying ? openTimeout : 0);
    return session;
  };

  const kept = await keeper.recall();
  const token = kept ? kept.token : null;
  if (resume || !kept?.state) return open(resume, token);
  try {
    return await open(kept.state, token);
  } catch (error) {
    const owed = kept.open > 0 || kept.state.held < kept.state.accepted;
    if (owed || /** @type {any} */ (error).name !== "SessionGone") throw error;
    return open(null, token);
  }
}

export * from "./inorder/errors.js";
export { Job } from "./inorder/job.js";
export { backoff } from "./inorder/retry.js";
export { Session } from "./inorder/session.js";
export { StateEvent } from "./inorder/shell.js";
