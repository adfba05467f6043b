// What a tab keeps of its session over a reload, and what becomes of a duplicated one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, SessionGone } from "../../protocol/inorder/browser/inorder.js";
import { refusal, welcome } from "./bench.js";
import { FakeSocket, fakeStorage, settled, vanish } from "./page.js";
import { clock, host, locks, opened, URL } from "./surroundings.js";

const KEY = `inorder:${URL}`;
const kept = (storage) => JSON.parse(storage.getItem(KEY));

test("the state is kept as it changes, and a reloaded tab goes on", async () => {
  const storage = fakeStorage();
  const session = await opened({ storage });
  assert.deepEqual(kept(storage), { state: null, token: "t1", open: 0 });
  const job = session.submit("echo", 1);
  const left = session.submit("echo", 2);
  await settled();
  await FakeSocket.last.say({ type: "accepted", id: left.id, seq: 2, ahead: 1 });
  await FakeSocket.last.say({ type: "result", id: job.id, seq: 1, result: 1 });
  assert.deepEqual(kept(storage).state, { session: "s1", held: 1, accepted: 2 });
  assert.equal(kept(storage).open, 1);
  await FakeSocket.last.say({ type: "token", token: "t9", expires_in: 60 });
  await vanish(session);
  await settled();
  const again = await opened(
    { storage, auth: undefined },
    { resumed: true, accepted: 2, settled: 1, acked: 1 },
  );
  const hello = FakeSocket.last.take()[0];
  assert.deepEqual(hello, { type: "hello", token: "t9", session: "s1", seq: 1, accepted: 2 });
  await FakeSocket.last.say({ type: "result", id: left.id, seq: 2, result: "two" });
  const outcomes = [];
  for await (const outcome of again.outcomes()) outcomes.push(outcome.result);
  assert.deepEqual(outcomes, ["two"]);
  assert.equal(kept(storage).state.held, 2);
  await again.detach();
  assert.equal(kept(storage).state.session, "s1", "leaving is no end");
});

test("a duplicated tab starts a session of its own, and the first one keeps its own", async () => {
  const storage = fakeStorage();
  const first = await opened({ storage });
  const job = first.submit("echo", 1);
  await settled();
  await FakeSocket.last.say({ type: "accepted", id: job.id, seq: 1, ahead: 0 });
  const copy = fakeStorage(storage);
  const connecting = connect(URL, { storage: copy, host });
  await clock.pass(1);
  await FakeSocket.last.open();
  assert.deepEqual(FakeSocket.last.take(), [{ type: "hello", token: "t1" }]);
  await FakeSocket.last.say(welcome({ session: "s2" }));
  const second = await connecting;
  const other = second.submit("echo", 1);
  await settled();
  await FakeSocket.last.say({ type: "accepted", id: other.id, seq: 1, ahead: 0 });
  assert.deepEqual([kept(storage).state.session, kept(copy).state.session], ["s1", "s2"]);
  assert.deepEqual([...locks.held].sort(), ["inorder:s1", "inorder:s2"]);
  assert.ok(first.connected && second.connected);
  await first.detach();
  await second.detach();
  await settled();
  assert.equal(locks.held.size, 0);
});

test("a stored session that is gone: a new one where nothing was owed, else an error, once", async () => {
  for (const [held, open, owed] of [
    [3, 0, false],
    [2, 0, true],
    [3, 1, true],
  ]) {
    const storage = fakeStorage();
    const state = { session: "old", held, accepted: 3 };
    storage.setItem(KEY, JSON.stringify({ state, token: "t1", open }));
    const connecting = connect(URL, { storage, host }).catch((error) => error);
    await settled();
    await FakeSocket.last.open();
    await FakeSocket.last.say({ ...refusal("session_gone"), of: "hello" });
    if (owed) {
      assert.ok((await connecting) instanceof SessionGone);
      assert.equal(storage.length, 0);
      continue;
    }
    await FakeSocket.last.open();
    assert.deepEqual(FakeSocket.last.take(), [{ type: "hello", token: "t1" }]);
    await FakeSocket.last.say(welcome());
    const session = await connecting;
    assert.ok(session.connected && !session.resumed);
    await session.detach();
  }
});

test("what ends a session, and what is kept then", async () => {
  for (const [code, reason, left] of [
    [4409, "replaced", null],
    [4403, "forbidden", { state: { session: "s1", held: 0, accepted: 1 }, token: null }],
    [1012, "draining", { state: { session: "s1", held: 0, accepted: 1 }, token: "t1" }],
  ]) {
    const storage = fakeStorage();
    const session = await opened({ storage, giveUpAfter: 0 });
    const job = session.submit("echo", 1);
    await settled();
    await FakeSocket.last.say({ type: "accepted", id: job.id, seq: 1, ahead: 0 });
    await FakeSocket.last.drop(code, reason);
    await job.catch(() => {});
    assert.deepEqual(kept(storage), left && { ...left, open: 1 }, reason);
    await settled();
    assert.equal(locks.held.size, 0);
  }
});

test("nobody there at the reload: what was kept stays", async () => {
  const storage = fakeStorage();
  const text = JSON.stringify({
    state: { session: "s", held: 1, accepted: 3 },
    token: "t",
    open: 2,
  });
  storage.setItem(KEY, text);
  const connecting = connect(URL, { storage, host }).catch((error) => error);
  await settled();
  await FakeSocket.last.drop();
  assert.equal((await connecting).code, "unreachable");
  assert.equal(storage.getItem(KEY), text);
  await settled();
  assert.equal(locks.held.size, 0);
});
