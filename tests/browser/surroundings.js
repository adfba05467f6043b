// A page for each test, with one way to open a session in it.

import assert from "node:assert/strict";
import { beforeEach } from "node:test";

import { connect } from "../../protocol/inorder/browser/inorder.js";
import { halves, welcome } from "./bench.js";
import { Clock, FakeDocument, FakeLocks, FakeSocket, settled } from "./page.js";

export const URL = "ws://inorder.example/ws";
/** Fresh for each test. */
export let clock, host, locks, states;

beforeEach(() => {
  clock = new Clock();
  locks = new FakeLocks();
  const { now, setTimeout, clearTimeout } = clock;
  const window = new EventTarget();
  const document = new FakeDocument();
  host = { WebSocket: FakeSocket, now, setTimeout, clearTimeout, locks, window, document };
  FakeSocket.opened = [];
  states = [];
});

export const onState = (state) => states.push(state);

/** The answer to the last socket's `hello`, and the session. */
export async function opened(options = {}, fields = {}) {
  const connecting = connect(URL, { auth: "t0", onState, backoff: halves, host, ...options });
  await settled();
  await FakeSocket.last.open();
  await FakeSocket.last.say(welcome(fields));
  return connecting;
}

/** After half a second the client is back. */
export async function back(fields = {}) {
  const before = FakeSocket.opened.length;
  await clock.pass(0.5);
  assert.equal(FakeSocket.opened.length, before + 1);
  await FakeSocket.last.open();
  const hello = FakeSocket.last.take();
  await FakeSocket.last.say(welcome({ resumed: true, ...fields }));
  return hello;
}
