// The shell around the core, in a page whose clock, network and tabs are the test's.

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { connect } from "../../protocol/inorder/browser/inorder.js";
import { refusal, welcome } from "./bench.js";
import { FakeSocket, settled } from "./page.js";
import { back, clock, host, opened, states, URL } from "./surroundings.js";

const kinds = (messages) => messages.map(({ type }) => type);

test("hello comes first and alone; what one moment brings goes in one frame", async () => {
  const connecting = connect(URL, { auth: { username: "ann", password: "pw" }, host, client: "c" });
  await settled();
  const [socket] = FakeSocket.opened;
  assert.deepEqual([socket.url, socket.protocols], [URL, ["inorder.v1"]]);
  await socket.open();
  const frames = [];
  socket.send = (frame) => frames.push(JSON.parse(frame));
  await socket.say(welcome());
  const session = await connecting;
  for (let n = 0; n < 600; n += 1) session.submit("echo", n);
  assert.deepEqual(socket.take(), [
    { type: "hello", username: "ann", password: "pw", client: "c" },
  ]);
  await settled();
  assert.deepEqual(
    frames.map((frame) => frame.length),
    [256],
    "a window, in an array",
  );
});

test("to a socket that is closing nothing is sent: a browser would complain of it", async () => {
  const session = await opened();
  const [socket] = FakeSocket.opened;
  socket.take();
  socket.readyState = 2;
  const job = session.submit("echo", 1);
  await settled();
  assert.deepEqual(socket.take(), []);
  await socket.drop();
  await back();
  await settled();
  assert.deepEqual(
    FakeSocket.last.take().map(({ type, seq }) => [type, seq]),
    [["request", 1]],
  );
  await FakeSocket.last.say({ type: "result", id: job.id, seq: 1, result: 1 });
  assert.equal(await job, 1);
});

test("the heart beats: a ping after silence, and another connection after ten seconds", async () => {
  const session = await opened();
  const [socket] = FakeSocket.opened;
  socket.take();
  await clock.pass(19.9);
  assert.deepEqual(socket.take(), []);
  await clock.pass(0.2);
  assert.deepEqual(kinds(socket.take()), ["ping"]);
  await clock.pass(9);
  await socket.say({ type: "pong" });
  await clock.pass(20);
  assert.deepEqual(kinds(socket.take()), ["ping"]);
  await clock.pass(9.9);
  assert.deepEqual(states, ["connected"]);
  await clock.pass(0.1);
  assert.deepEqual(states, ["connected", "reconnecting"]);
  assert.ok(socket.closed && !session.connected);
  await back();
  assert.deepEqual(states, ["connected", "reconnecting", "resumed"]);
  await socket.say({ type: "result", id: "x", seq: 9, result: 1 });
  assert.ok(session.connected, "an older socket is not listened to");
  await session.detach();
});

test("one ping at once when the network is back or somebody looks", async () => {
  const session = await opened();
  const [socket] = FakeSocket.opened;
  socket.take();
  host.document.turn("hidden");
  await settled();
  assert.deepEqual(socket.take(), []);
  for (const happens of [
    () => host.document.turn("visible"),
    () => host.window.dispatchEvent(new Event("online")),
  ]) {
    happens();
    happens();
    await settled();
    assert.deepEqual(kinds(socket.take()), ["ping"]);
    await socket.say({ type: "pong" });
  }
  await session.detach();
  host.document.turn("visible");
  await settled();
  assert.deepEqual(kinds(socket.take()), [], "it is not listened to any more");
});

test("while away `online` tries at once", async () => {
  const session = await opened({ backoff: () => [30, 30][Symbol.iterator]() });
  await FakeSocket.last.drop();
  await clock.pass(29);
  assert.equal(FakeSocket.opened.length, 1);
  host.window.dispatchEvent(new Event("online"));
  await settled();
  assert.equal(FakeSocket.opened.length, 2);
  await FakeSocket.last.drop();
  await clock.pass(29);
  assert.equal(FakeSocket.opened.length, 2);
  await session.detach();
  assert.equal(clock.timers.size, 0, "no timer is left");
});

test("a socket that does not open, and a welcome that does not come", async () => {
  const failed = connect(URL, { auth: "t", host, openTimeout: 5 }).catch((error) => error);
  await clock.pass(5);
  assert.match((await failed).message, /no welcome within 5 s/);
  const session = await opened({ openTimeout: 5 });
  const job = session.submit("echo", 1);
  await FakeSocket.last.drop();
  await clock.pass(0.5);
  await FakeSocket.last.open();
  await clock.pass(5); // no welcome
  assert.ok(FakeSocket.last.closed);
  await back();
  assert.deepEqual(kinds(FakeSocket.last.take()), ["request"]);
  await FakeSocket.last.say({ type: "result", id: job.id, seq: 1, result: "one" });
  assert.equal(await job, "one");
  await session.detach();
});

test("given up after its time, whatever an attempt does meanwhile", async () => {
  const session = await opened({ giveUpAfter: 8 });
  const job = session.submit("echo", 1);
  await FakeSocket.last.drop();
  await clock.pass(0.5);
  await clock.pass(7.5);
  const { code, accepted, message } = await job.catch((error) => error);
  assert.deepEqual([code, accepted], ["unreachable", false]);
  assert.match(message, /no connection for 8 s/);
  assert.equal(states.at(-1), "lost");
  assert.equal(clock.timers.size, 0);
});

test("a login by the newest token, then by one's own credentials", async () => {
  const session = await opened({ auth: { username: "ann", password: "pw" }, register: true });
  assert.deepEqual(kinds(FakeSocket.last.take()), ["register"]);
  await FakeSocket.last.say({ type: "token", token: "t2", expires_in: 60 });
  assert.equal(session.token, "t2");
  await FakeSocket.last.drop();
  await clock.pass(0.5);
  await FakeSocket.last.open();
  assert.deepEqual(FakeSocket.last.take()[0].token, "t2");
  await FakeSocket.last.say({ ...refusal("token_expired", undefined), of: "hello" });
  const [hello] = FakeSocket.last.take();
  assert.deepEqual([hello.type, hello.username, hello.session], ["hello", "ann", "s1"]);
  await FakeSocket.last.say(welcome({ resumed: true }));
  assert.equal(states.at(-1), "resumed");
  await session.detach();
});

test("an account that was made without an answer is one's own", async () => {
  const options = { auth: { username: "ann", password: "pw" }, register: true, keepTrying: true };
  for (const theirs of [false, true]) {
    const connecting = connect(URL, { ...options, host });
    const ended = connecting.catch((error) => error);
    await settled();
    await FakeSocket.last.open();
    assert.deepEqual(kinds(FakeSocket.last.take()), ["register"]);
    await FakeSocket.last.drop();
    await clock.pass(0.5);
    await FakeSocket.last.open();
    assert.deepEqual(kinds(FakeSocket.last.take()), ["register"]);
    await FakeSocket.last.say({ ...refusal("name_taken"), of: "register" });
    assert.deepEqual(kinds(FakeSocket.last.take()), ["hello"]);
    if (theirs) {
      await FakeSocket.last.say({ ...refusal("unauthenticated"), of: "hello" });
      assert.equal((await ended).code, "name_taken");
    } else {
      await FakeSocket.last.say(welcome());
      await (await connecting).detach();
    }
  }
});

test("auth that fails later is a reason to come back later", async () => {
  const answers = ["a", new Error("no network"), { username: "ann", password: "pw" }];
  const auth = () => {
    const answer = answers.shift();
    if (answer instanceof Error) throw answer;
    return answer;
  };
  const session = await opened({ auth });
  for (let round = 0; round < 2; round += 1) {
    await (round ? clock.pass(0.5) : FakeSocket.last.drop().then(() => clock.pass(0.5)));
    await FakeSocket.last.open();
    await FakeSocket.last.say({ ...refusal("unauthenticated"), of: "hello" });
  }
  assert.equal(FakeSocket.last.take().at(-1).username, "ann");
  await FakeSocket.last.say(welcome({ resumed: true }));
  assert.ok(session.connected);
  await session.detach();
  const strange = connect(URL, { auth: () => ({ name: "ann" }), host });
  await settled();
  void FakeSocket.last.open();
  await assert.rejects(strange, /auth is a token, or a username with a password/);
  await assert.rejects(connect(URL, { auth: { username: "ann" }, host }), TypeError);
});

test("close waits for outcomes, asks whether the queue is blocked, and says bye", async () => {
  const session = await opened();
  const [socket] = FakeSocket.opened;
  const job = session.submit("echo", 1);
  const closing = session.close();
  await settled();
  socket.take();
  await socket.say({ type: "accepted", id: job.id, seq: 1, ahead: 0 });
  await clock.pass(0.5);
  assert.deepEqual(kinds(socket.take()), ["status"]);
  const status = { type: "status", session: "s1", epoch: 1, accepted: 1, settled: 0, acked: 0 };
  const blocked = { id: job.id, seq: 1, code: "handler_failed" };
  await socket.say({ ...status, queued: 1, blocked });
  assert.deepEqual(kinds(socket.take()), ["bye"]);
  const counts = { accepted: 1, done: 0, failed: 0, cancelled: 0, pending: 1, verified: true };
  await socket.say({ type: "bye", receipt: { session: "s1", ...counts } });
  assert.equal((await closing).pending, 1);
  const { name, accepted } = await job.catch((error) => error);
  assert.deepEqual([name, accepted], ["SessionGone", true]);
  assert.equal(clock.timers.size, 0);
});

test("a receipt that is not verified is complained of", async (t) => {
  const complained = t.mock.method(console, "error", () => {});
  const session = await opened();
  const closing = session.close();
  await settled();
  const counts = { accepted: 0, done: 0, failed: 0, cancelled: 0, pending: 0, verified: false };
  await FakeSocket.last.say({ type: "bye", receipt: { session: "s1", ...counts } });
  assert.equal((await closing).verified, false);
  assert.equal(complained.mock.callCount(), 1);
});

test("a listener that throws takes nothing with it", async (t) => {
  const complained = t.mock.method(console, "error", () => {});
  const session = await opened();
  const job = session.submit("echo", 1, {
    onProgress: () => {
      throw new Error("mine");
    },
  });
  await settled();
  const progress = { type: "progress", id: job.id, seq: 1, attempt: 1, n: 1, progress: 5 };
  await FakeSocket.last.say(progress, { type: "result", id: job.id, seq: 1, result: 1 });
  assert.equal(await job, 1);
  assert.equal(complained.mock.callCount(), 1);
  await session.detach();
});

test("progress that nobody reads is bounded, and the oldest goes", async () => {
  const session = await opened();
  const job = session.submit("echo", 1);
  await settled();
  const base = { type: "progress", id: job.id, seq: 1, attempt: 1 };
  for (let n = 1; n <= 1500; n += 1)
    FakeSocket.last.onmessage({ data: JSON.stringify({ ...base, n, progress: n }) });
  await FakeSocket.last.say({ type: "result", id: job.id, seq: 1, result: null });
  const seen = [];
  for await (const value of job.progress()) seen.push(value);
  assert.deepEqual([seen.length, seen[0], seen.at(-1)], [1000, 501, 1500]);
  await session.detach();
});

test("a signal is let go when its job has ended", async () => {
  const session = await opened();
  const { signal } = new AbortController();
  const job = session.submit("echo", 1, { signal });
  await settled();
  assert.equal(getEventListeners(signal, "abort").length, 1);
  await FakeSocket.last.say({ type: "result", id: job.id, seq: 1, result: 1 });
  assert.equal(getEventListeners(signal, "abort").length, 0);
  await session.detach();
});

test("nobody need await a job", async () => {
  const unhandled = [];
  const note = (reason) => unhandled.push(reason);
  process.on("unhandledRejection", note);
  const session = await opened({ giveUpAfter: 0 });
  const control = new AbortController();
  session.submit("echo", 1, { signal: control.signal });
  session.submit("echo", 2);
  await settled();
  control.abort();
  await FakeSocket.last.drop();
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", note);
  assert.deepEqual(unhandled, []);
});
