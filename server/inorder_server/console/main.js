// The console: who is in, one session, and what is drawn of it.
//
//   SignIn → connect → Book (what is known) → Lane, detail (what is drawn)
//   Composer → session.submit → Book

import { connect, LoginFailed } from "/inorder.js";
import { Book } from "./book.js";
import { Composer } from "./composer.js";
import { Detail } from "./detail.js";
import { Figures } from "./figures.js";
import { Lane } from "./lane.js";
import { receiptView } from "./receipt.js";
import { SignIn } from "./signin.js";
import { breakOff, mend, Wire } from "./wire.js";

/** @typedef {import("../../../protocol/inorder/browser/inorder.js").Session} Session */

const WORDS = {
  connected: "Connected",
  resumed: "Connected again",
  reconnecting: "Connection lost, coming back…",
  draining: "The server is going down…",
  closed: "Left",
  lost: "The session is over",
  detached: "Left",
};
/** How the states look. */
const SHOWN = {
  connected: "here",
  resumed: "here",
  reconnecting: "away",
  draining: "away",
  lost: "away",
  closed: "left",
  detached: "left",
};
const now = () => performance.now() / 1000;
const url = `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/ws`;
const storageKey = "inorder:console";
const storage = storageOfTab();
const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));

/** @type {Session | null} */
let session = null;
let book = new Book(now);
const lane = new Lane(book, now, (entry) => detail.show(entry));
const detail = new Detail($("detail"), now, () => lane.release());
const composer = new Composer(send);
const signIn = new SignIn((auth, register) => enter({ auth, register }));

/** Null where the browser forbids it, and a reload begins anew. */
function storageOfTab() {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

/** @param {{auth?: {username: string, password: string}, register?: boolean}} who */
async function enter(who) {
  session = await connect(url, {
    ...who,
    storage,
    storageKey,
    giveUpAfter: null,
    client: "console",
    onState: told,
    host: { WebSocket: Wire },
  });
  book = lane.restart(new Book(now));
  detail.show(null);
  $("signin").hidden = true;
  $("desk").hidden = $("who").hidden = false;
  const which = document.createElement("span");
  which.textContent = ` · session ${session.id.slice(0, 8)}`;
  $("who").replaceChildren(session.user, which);
  $("receipt").replaceChildren();
  $("earlier").hidden = true;
  buttons(true);
  composer.offer(await session.methods());
  if (who.auth) $("method").focus(); // the form that had it is gone
  if (session.resumed) await inherit(session);
}

/** What an earlier life of this tab had sent. @param {Session} resumed */
async function inherit(resumed) {
  const known = book;
  const { acked, accepted } = await resumed.status();
  $("earlier").hidden = acked === 0;
  const which = acked === 1 ? "Request 1" : `Requests 1 to ${acked}`;
  $("earlier").textContent = `${which} ended before this page was loaded, and what came of that was
    acknowledged: the server has forgotten it.`;
  for (let from = acked + 1; from <= accepted; from += 100) {
    const { requests = [] } = await resumed.status(from);
    for (const line of requests) known.inherit(line);
  }
  lane.draw();
  for await (const outcome of resumed.outcomes()) {
    known.settle(outcome);
    lane.draw();
  }
}

/** @param {string} method @param {unknown} params @param {number} times */
function send(method, params, times) {
  if (!session) throw new Error("There is no session any more; sign in again");
  const mine = book;
  for (let n = 0; n < times; n += 1) {
    const job = session.submit(method, params, {
      onProgress: (progress) => {
        mine.progress(entry, progress);
        lane.draw();
      },
    });
    const entry = mine.follow(job, method, params);
    job.accepted.then(
      () => lane.draw(),
      () => {},
    );
    job.then(
      () => lane.draw(),
      () => lane.draw(),
    );
  }
  lane.draw();
}

/** @param {keyof typeof WORDS} state */
function told(state) {
  if (state === "lost" && !session) return; // one was never in, and the form says why
  $("connection").hidden = false;
  $("connection").textContent = WORDS[state];
  $("connection").dataset.state = SHOWN[state];
  if (state === "lost") over(new Error("The session is over"));
}

/** @param {unknown} error */
function over(error) {
  const lost = session;
  session = null;
  buttons(false);
  $("desk").hidden = $("who").hidden = true;
  $("signin").hidden = false;
  $("name").focus();
  lost?.close().catch((why) => signIn.complain(why ?? error));
}

/** @param {boolean} here */
function buttons(here) {
  for (const name of ["cut", "leave", "drop"]) $(name).disabled = !here;
  $("resume").disabled = true;
  composer.enable(here);
}

$("cut").addEventListener("click", () => {
  breakOff();
  $("cut").disabled = true;
  $("resume").disabled = false;
  $("resume").focus();
});
$("resume").addEventListener("click", () => {
  mend();
  $("cut").disabled = false;
  $("resume").disabled = true;
  $("cut").focus();
});
$("reload").addEventListener("click", () => location.reload());
$("leave").addEventListener("click", () => leave("finish"));
$("drop").addEventListener("click", () => leave("cancel"));

/** @param {"finish" | "cancel"} mode */
async function leave(mode) {
  if (!session) return;
  const leaving = session;
  mend(); // else there is nobody to say it to
  buttons(false);
  const wait = document.createElement("p");
  wait.textContent = "Leaving: the receipt comes when the last request has ended.";
  $("receipt").replaceChildren(wait);
  try {
    const receipt = await leaving.close({ mode });
    session = null;
    const again = document.createElement("button");
    again.textContent = "Sign in again";
    again.addEventListener("click", () => location.reload());
    $("receipt").replaceChildren(...receiptView(receipt), again);
    again.focus();
    lane.draw();
  } catch (error) {
    over(error);
  }
}

const figures = new Figures($("figures"));
$("by-hand").textContent = `wscat -c ${url}`;
setInterval(() => lane.tick(), 250);
setInterval(() => figures.sample(book), 1000);

if (storage?.getItem(storageKey)) {
  enter({}).catch((error) => {
    if (!(error instanceof LoginFailed)) signIn.complain(error);
  });
}
