// The client against a real server: what a page sees of it.

import assert from "node:assert/strict";
import { createServer } from "node:net";

import * as inorder from "../../protocol/inorder/browser/inorder.js";
import { fakeStorage, settled, vanish } from "./page.js";
import { direct, EVE, options, order, test, until, url, WebSocket } from "./stage.js";

const { connect } = inorder;

test("a first session: register, results in order, progress, a receipt", async () => {
  const states = [];
  const session = await connect(direct, {
    ...options,
    register: true,
    client: "tests",
    onState: (state) => states.push(state),
  });
  assert.deepEqual([session.user, session.connected, session.resumed], ["eve", true, false]);
  assert.match(session.id, /^[0-9a-f]{32}$/);
  assert.deepEqual(await session.request("echo", { word: "hello" }), { word: "hello" });
  const order = [];
  const jobs = [0.05, 0.01, 0].map((seconds) => {
    const job = session.submit("sleep", { seconds });
    job.then(() => order.push(job.seq));
    return job;
  });
  assert.deepEqual(await Promise.all(jobs.map((job) => job.accepted)), [2, 3, 4]);
  assert.deepEqual(
    (await Promise.all(jobs)).map(({ slept }) => slept),
    [0.05, 0.01, 0],
  );
  assert.deepEqual(order, [2, 3, 4]);

  const heard = [];
  const telling = session.submit("tell", [[1, 2, 3]], { onProgress: (value) => heard.push(value) });
  const read = [];
  for await (const value of telling.progress()) {
    read.push(value);
    if (value === 3) assert.equal(await telling.cancel(), true);
  }
  assert.deepEqual(
    [heard, read],
    [
      [1, 2, 3],
      [1, 2, 3],
    ],
  );
  await assert.rejects(telling, inorder.Cancelled);
  assert.equal(await telling.catch((error) => error.code), "cancelled");

  const receipt = await session.close();
  assert.deepEqual(receipt, {
    session: session.id,
    accepted: 5,
    done: 4,
    failed: 0,
    cancelled: 1,
    pending: 0,
    verified: true,
  });
  assert.deepEqual(session.receipt, receipt);
  assert.deepEqual(states, ["connected", "closed"]);
  assert.throws(() => session.submit("echo"), { code: "session_gone", accepted: false });
  await assert.rejects(session.status(), inorder.SessionGone);
  assert.deepEqual(await session.close(), receipt, "it stays so");
});

test("a pipeline of a thousand, with ids of one's own", async () => {
  for (const window of [7, 256]) {
    const session = await connect(direct, { ...options, window });
    const jobs = [...Array(1000).keys()].map((n) => session.submit("echo", n, { id: `mine-${n}` }));
    const ended = [];
    for (const [n, job] of jobs.entries()) job.then((value) => ended.push([n, job.seq, value]));
    await jobs.at(-1);
    assert.deepEqual(
      ended,
      [...Array(1000).keys()].map((n) => [n, n + 1, n]),
    );
    assert.equal((await session.close()).done, 1000);
  }
});

test("what is refused takes no number, and what is behind it moves up", async () => {
  const session = await connect(direct, options);
  const jobs = [...Array(300).keys()].map((n) =>
    n % 10 === 3 ? session.submit("no such method") : session.submit("echo", n),
  );
  const outcomes = await Promise.allSettled(jobs);
  let seq = 0;
  for (const [n, { value, reason }] of outcomes.entries()) {
    if (n % 10 === 3) {
      assert.ok(reason instanceof inorder.Refused);
      assert.deepEqual(
        [reason.code, reason.accepted, reason.retry],
        ["unknown_method", false, false],
      );
      assert.equal(jobs[n].seq, null);
      await assert.rejects(jobs[n].accepted, inorder.Refused);
    } else {
      assert.equal(value, n);
      assert.equal(jobs[n].seq, (seq += 1));
    }
  }
  assert.equal((await session.close()).accepted, 270);
});

test("typed errors", async () => {
  const session = await connect(direct, options);
  for (const [kind, code, method, params, more] of [
    [inorder.HandlerFailed, "handler_failed", "fail"],
    [inorder.RequestFailed, "no_money", "refuse", undefined, { details: { balance: 3 } }],
    [inorder.TimedOut, "timed_out", "sleep", [60]],
    [inorder.ResultTooLarge, "result_too_large", "big", [300_000]],
  ]) {
    const error = await session.request(method, params, { timeout: 0.2 }).catch((it) => it);
    assert.equal(error.constructor, kind, String(error));
    assert.deepEqual([error.code, error.accepted, error.retry], [code, true, false]);
    if (more) assert.deepEqual(error.details, more.details);
  }
  const wrong = await session.request("strict", { b: 1 }).catch((it) => it);
  assert.deepEqual([wrong.name, wrong.code, wrong.accepted], ["Refused", "invalid_params", false]);
  const large = await session.request("echo", "x".repeat(300_000)).catch((it) => it);
  assert.deepEqual([large.name, large.accepted], ["MessageTooLarge", false]);
  const mine = session.submit("echo", 1, { id: "mine" });
  await mine;
  const other = await session.request("echo", 2, { id: "mine" }).catch((it) => it);
  assert.equal(other.code, "id_conflict");
  assert.equal((await session.close()).failed, 4);
});

test("an AbortSignal cancels: what runs, what waits, what was not sent", async () => {
  const session = await connect(direct, { ...options, window: 3 });
  const control = new AbortController();
  const running = session.submit("sleep", [60], { signal: control.signal });
  const waiting = session.submit("echo", 1, { signal: control.signal });
  const kept = session.submit("echo", 2);
  const unsent = session.submit("echo", 3, { signal: control.signal });
  await waiting.accepted;
  control.abort();
  const early = session.submit("echo", 4, { signal: control.signal });
  assert.equal(await kept, 2);
  for (const [job, accepted] of [
    [running, true],
    [waiting, true],
    [unsent, false],
    [early, false],
  ]) {
    const error = await job.catch((it) => it);
    assert.deepEqual([error.constructor, error.accepted], [inorder.Cancelled, accepted]);
    assert.equal(await job.cancel(), true);
  }
  assert.equal(await kept.cancel(), false);
  assert.equal((await session.close()).cancelled, 2);
});

test("status, methods, ping", async () => {
  const session = await connect(direct, options);
  const job = session.submit("sleep", [60]);
  await job.accepted;
  const status = await session.status(1);
  assert.deepEqual([status.accepted, status.queued, status.requests.length], [1, 1, 1]);
  const methods = await session.methods();
  const echo = methods.find(({ name }) => name === "echo");
  assert.deepEqual(typeof echo.doc, "string");
  assert.ok((await session.ping({ any: "thing" })) >= 0);
  const receipt = await session.close({ mode: "cancel" });
  assert.deepEqual([receipt.cancelled, receipt.verified], [1, true]);
  await assert.rejects(job, inorder.Cancelled);
});

test("a page that starts again resumes by its state", async () => {
  const first = await connect(direct, options);
  assert.equal(await first.request("echo", "one"), "one");
  const left = [
    first.submit("sleep", [0.2]),
    first.submit("echo", "three"),
    first.submit("echo", 4),
  ];
  await left[2].accepted;
  const state = JSON.parse(JSON.stringify(await first.detach()));
  assert.deepEqual(state, { session: first.id, held: 1, accepted: 4 });
  for (const job of left) {
    const { code, accepted } = await job.catch((error) => error);
    assert.deepEqual([code, accepted], ["detached", true]);
  }
  const second = await connect(direct, { ...options, auth: first.token, resume: state });
  assert.deepEqual([second.id, second.resumed], [first.id, true]);
  const outcomes = [];
  for await (const { seq, result, error } of second.outcomes()) outcomes.push([seq, result, error]);
  assert.deepEqual(outcomes, [
    [2, { slept: 0.2 }, null],
    [3, "three", null],
    [4, 4, null],
  ]);
  assert.equal(await second.request("echo", "five"), "five");
  assert.equal((await second.close()).done, 5);
  await assert.rejects(connect(direct, { ...options, resume: state }), (error) => {
    assert.ok(error instanceof inorder.SessionGone);
    assert.equal(error.receipt.done, 5);
    return true;
  });
});

test("a tab that is reloaded goes on by its storage, without a password", async () => {
  const storage = fakeStorage();
  const { auth, ...without } = options;
  const first = await connect(direct, { ...options, storage });
  await first.request("echo", 1);
  const left = first.submit("sleep", [0.1]);
  left.catch(() => {});
  await left.accepted;
  await vanish(first);
  const second = await connect(direct, { ...without, storage });
  assert.deepEqual([second.id, second.resumed], [first.id, true]);
  const outcomes = [];
  for await (const outcome of second.outcomes()) outcomes.push(outcome.result);
  assert.deepEqual(outcomes, [{ slept: 0.1 }]);
  await second.close();
  assert.equal(storage.length, 0, "there is nothing to come back to");
  await assert.rejects(connect(direct, { ...without, storage }), inorder.LoginFailed);
});

test("a wrong password, a name that is taken, nobody there", async () => {
  const wrong = { ...EVE, password: "wrong" };
  await assert.rejects(connect(direct, { ...options, auth: wrong }), (error) => {
    assert.ok(error instanceof inorder.LoginFailed);
    assert.deepEqual([error.code, error.retry, error.accepted], ["unauthenticated", false, null]);
    return true;
  });
  await assert.rejects(connect(direct, { ...options, register: true }), { code: "name_taken" });
  await assert.rejects(connect(direct, { ...options, auth: undefined }), inorder.LoginFailed);
  const nobody = createServer();
  await new Promise((resolve) => nobody.listen(0, "127.0.0.1", resolve));
  const there = `ws://127.0.0.1:${nobody.address().port}/ws`;
  await new Promise((resolve) => nobody.close(resolve));
  await assert.rejects(connect(there, options), { code: "unreachable", retry: true });
  await assert.rejects(connect("no url", options), SyntaxError);
  class Foreign extends WebSocket {
    constructor(address, protocols) {
      super(address, protocols, { origin: "https://evil.example" });
    }
  }
  const foreign = { ...options, host: { WebSocket: Foreign } };
  await assert.rejects(connect(direct, foreign), { code: "unreachable" });
});

test("auth as a function is asked when it is needed", async () => {
  let asked = 0;
  const auth = async () => {
    asked += 1;
    return asked === 1 ? { token: "stale" } : EVE;
  };
  const session = await connect(url, { ...options, auth });
  assert.equal(asked, 2);
  await session.request("echo", 1);
  await order("drop");
  assert.equal(await session.request("echo", 2), 2);
  assert.equal(asked, 2, "coming back goes by the server's token");
  await session.close();
});

test("another connection takes the session over: no fight", async () => {
  const first = await connect(direct, options);
  await first.request("echo", 1);
  const lost = until(first, "lost");
  const second = await connect(direct, { ...options, resume: first.state });
  const { error } = await lost;
  assert.deepEqual([error.code, error.closeCode, error.retry], ["replaced", 4409, false]);
  await assert.rejects(first.close(), { code: "replaced" });
  assert.equal(await second.request("echo", 2), 2);
  assert.equal((await second.close()).done, 2);
});

test("given up after a while, or at once", async () => {
  for (const giveUpAfter of [0, 0.2]) {
    const session = await connect(url, { ...options, giveUpAfter });
    await session.request("echo", 1);
    const running = session.submit("sleep", [0.01]);
    await running.accepted;
    const lost = until(session, "lost");
    await order("refuse");
    const job = session.submit("echo", 2);
    await order("drop");
    const { accepted, code } = await job.catch((error) => error);
    assert.notEqual(accepted, true);
    await lost;
    assert.throws(() => session.submit("echo"), { accepted: false, code });
    await order("admit");
    const back = await connect(direct, { ...options, resume: session.state });
    await back.close();
  }
});

test("the first connection may be tried again", async () => {
  await order("refuse");
  const before = await order("opened");
  const connecting = connect(url, { ...options, keepTrying: true });
  while ((await order("opened")) < before + 3);
  await order("admit");
  const session = await connecting;
  assert.equal(await session.request("echo", 1), 1);
  await session.close();
});

test("a half-open connection is noticed, and callers wait no longer than need be", async () => {
  let ahead = 0;
  const now = () => performance.now() / 1000 + ahead;
  const session = await connect(url, { ...options, host: { WebSocket, now } });
  await session.request("echo", 1);
  await order("freeze");
  const job = session.submit("echo", 2);
  session._hurryUp(); // as `online` does
  await settled();
  const reconnecting = until(session, "reconnecting");
  ahead += 10;
  session._wake();
  await reconnecting;
  await order("drop");
  await order("thaw");
  assert.equal(await job, 2);
  assert.equal((await session.close()).done, 2);
});

test("close gets its receipt over cuts before, within and after it", async () => {
  for (let at = 0; at < 15; at += 1) {
    const session = await connect(url, options);
    await session.request("echo", 1);
    await order("cut-down", at * 16);
    const { accepted, done, verified } = await session.close();
    assert.deepEqual([accepted, done, verified], [1, 1, true]);
  }
});

test("a slow road", async () => {
  await order("delay", 0.02);
  const session = await connect(url, options);
  const jobs = [...Array(100).keys()].map((n) => session.submit("echo", n));
  assert.deepEqual(await Promise.all(jobs), [...Array(100).keys()]);
  assert.ok((await session.ping()) >= 0.04);
  await session.close();
  await order("delay", 0);
});

for (const how of ["kill", "stop"]) {
  test(`the server restarts under a page at work (${how})`, async () => {
    const states = [];
    const onState = (state) => states.push(state);
    const session = await connect(url, { ...options, onState });
    const jobs = [...Array(100).keys()].map((n) => session.submit("echo", n));
    await jobs[10];
    await order(how);
    await order("restart");
    jobs.push(...[...Array(100).keys()].map((n) => session.submit("echo", 100 + n)));
    assert.deepEqual(await Promise.all(jobs), [...Array(200).keys()]);
    assert.ok(states.includes("resumed"), String(states));
    assert.equal((await session.close()).done, 200);
  });
}
