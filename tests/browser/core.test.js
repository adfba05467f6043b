// The core message by message, in virtual time: what a walk at random would not say clearly.

import assert from "node:assert/strict";
import { test } from "node:test";

import { bytesOf, encode } from "../../protocol/inorder/browser/inorder/encoding.js";
import * as errors from "../../protocol/inorder/browser/inorder/errors.js";
import { MOVES, Phase } from "../../protocol/inorder/browser/inorder/phases.js";
import {
  backoff,
  comesBack,
  FIRST,
  judge,
  MOST,
} from "../../protocol/inorder/browser/inorder/retry.js";
import { Line } from "../../protocol/inorder/browser/inorder/window.js";
import { back, Bench, lasting, of, refusal } from "./bench.js";

// ---- requests

test("a request as it is sent", () => {
  const bench = new Bench();
  bench.core.submit("echo", { a: 1 }, { timeout: 2.5 });
  bench.core.submit("echo");
  bench.core.submit("echo", null, { id: "mine" });
  bench.open();
  assert.deepEqual(bench.hello, [{ type: "hello", token: "t0", client: "test" }]);
  assert.deepEqual(bench.sent(), [
    { type: "request", method: "echo", id: "r1", params: { a: 1 }, timeout: 2.5, seq: 1 },
    { type: "request", method: "echo", id: "r2", seq: 2 },
    { type: "request", method: "echo", id: "mine", seq: 3 },
  ]);
});

test("ids and params that can't be used", () => {
  const { core } = new Bench().open();
  for (const id of ["", "#1", "x".repeat(65), 7]) {
    assert.throws(() => core.submit("echo", 1, { id }), /1 to 64/);
  }
  core.submit("echo", 1, { id: "😀".repeat(64) });
  core.submit("echo", 1, { id: "mine" });
  assert.throws(() => core.submit("echo", 1, { id: "mine" }), /in use/);
  for (const params of [() => 1, Symbol("a"), 1n, { a: 1n }, "\ud800", ["\udc00\ud800"]]) {
    assert.throws(() => core.submit("echo", params), TypeError);
  }
  core.submit("echo", "\\ud800");
  core.submit("echo", "\\\\ud800 😀");
});

test("params that are nested deeper than a server reads are not sent", () => {
  const { core } = new Bench().open();
  const nested = (depth) => JSON.parse(`${"[".repeat(depth)}${"]".repeat(depth)}`);
  core.submit("echo", nested(499)); // the message itself is one
  core.submit("echo", ['[{"\\'.repeat(2000), "]".repeat(10)]);
  core.submit("echo", Array(2000).fill({}));
  assert.throws(() => core.submit("echo", nested(500)), /nested more than 500 deep/);
  assert.throws(() => core.submit("echo", { a: [nested(600), 1] }), RangeError);
  assert.throws(() => core.submit("echo", nested(20_000)), RangeError);
});

test("bytes are those of UTF-8", () => {
  for (const text of ["", "abc", "ä", "€", "😀", "a€ä😀", "\u07ff\u0800\ue000\uffff"]) {
    assert.equal(bytesOf(text), new TextEncoder().encode(text).length, text);
  }
  assert.throws(() => encode(undefined), TypeError);
});

test("frames keep to the limits, and what is larger is never sent", () => {
  const bench = new Bench().open({ limits: { message_bytes: 400, batch: 5 } });
  const calls = [..."a€😀"].map((text) => bench.core.submit("echo", text.repeat(60)));
  const large = bench.core.submit("echo", "😀".repeat(85));
  for (let n = 0; n < 20; n += 1) bench.core.submit("echo");
  const frames = bench.frames();
  for (const frame of frames) assert.ok(Buffer.byteLength(frame) <= 400, frame);
  const batches = frames.map((frame) => [JSON.parse(frame)].flat());
  assert.ok(Math.max(...batches.map((batch) => batch.length)) <= 5);
  assert.deepEqual(
    batches.flat().map(({ seq }) => seq),
    [...Array(23).keys()].map((n) => n + 1),
  );
  assert.ok(large.error instanceof errors.MessageTooLarge && large.error.accepted === false);
  assert.ok(calls.every(({ error }) => error === null));
});

test("outcomes as errors", () => {
  const kinds = {
    handler_failed: errors.HandlerFailed,
    timed_out: errors.TimedOut,
    cancelled: errors.Cancelled,
    interrupted: errors.Interrupted,
    skipped: errors.Skipped,
    result_too_large: errors.ResultTooLarge,
    no_funds: errors.RequestFailed,
    toString: errors.RequestFailed,
  };
  for (const [code, kind] of Object.entries(kinds)) {
    const bench = new Bench().open();
    const call = bench.core.submit("echo");
    bench.sent();
    const said = { type: "error", id: "r1", seq: 1, code, message: "m", retry: false };
    bench.say({ ...said, details: [1] });
    assert.equal(call.error.constructor, kind);
    assert.equal(call.error.name, kind.name);
    const { code: word, message, details, retry, accepted } = call.error;
    assert.deepEqual([word, message, details, retry, accepted], [code, "m", [1], false, true]);
  }
});

test("acks each 100 outcomes, and each second", () => {
  const bench = new Bench().open();
  for (let n = 1; n <= 250; n += 1) bench.core.submit("echo");
  bench.sent();
  for (let n = 1; n <= 99; n += 1) bench.result(`r${n}`, n);
  assert.deepEqual(bench.sent(), []);
  assert.equal(bench.core.nextDeadline(), bench.now + 1);
  bench.result("r100", 100);
  assert.deepEqual(bench.sent(), [{ type: "ack", seq: 100 }]);
  bench.result("r101", 101);
  bench.now += 1;
  assert.deepEqual(bench.sent(), [{ type: "ack", seq: 101 }]);
});

test("goes back once, with a window of 32 that doubles", () => {
  const bench = new Bench().open();
  for (let n = 1; n <= 200; n += 1) bench.core.submit("echo", n);
  assert.equal(bench.requests().length, 200);
  bench.say(refusal("rate_limited", "r1", { retry: true, after: 2, details: { seq: 1 } }));
  bench.say(refusal("rate_limited", "r2", { retry: true, after: 9, details: { seq: 2 } }));
  assert.deepEqual(bench.requests(), []);
  assert.equal(bench.core.nextDeadline(), bench.now + 2);
  bench.now += 2;
  assert.deepEqual(
    bench.requests(),
    [...Array(32).keys()].map((n) => [`r${n + 1}`, n + 1]),
  );
  bench.accept("r32", 32);
  assert.equal(bench.requests().length, 64);
  bench.say(refusal("unknown_method", "r33", { details: { seq: 33 } }));
  assert.deepEqual(bench.requests()[0], ["r34", 33]);
});

// ---- losing and coming back

test("close codes: stop or come back, in one place", () => {
  for (const code of [
    1001, 1005, 1006, 1011, 1012, 1013, 3000, 4000, 4503, 4508, 4509, 4510, 4529,
  ]) {
    assert.ok(comesBack(code), String(code));
  }
  for (const code of [1000, 1002, 1003, 1007, 1009, 4400, 4401, 4403, 4409, 4410, 4499]) {
    assert.ok(!comesBack(code), String(code));
  }
  const passing = { retry: true };
  assert.equal(judge(new errors.Refused("overloaded", "", passing)), "come back");
  assert.equal(judge(new errors.Refused("unauthenticated", "")), "stop");
  for (const code of ["unauthenticated", "token_expired"]) {
    assert.equal(judge(new errors.LoginFailed(code, "")), "log in anew");
  }
  assert.equal(judge(new errors.LoginFailed("forbidden", "")), "stop");
  assert.equal(judge(new errors.LoginFailed("rate_limited", "", passing)), "come back");
});

test("backoff: a random part of a bound that doubles", () => {
  const most = Array(12).fill(0);
  for (let n = 0; n < 2000; n += 1) {
    const delays = backoff();
    for (const at of most.keys()) most[at] = Math.max(most[at], delays.next().value);
  }
  for (const [at, delay] of most.entries()) {
    const bound = Math.min(FIRST * 2 ** at, MOST);
    assert.ok(delay <= bound && delay > 0.9 * bound, `${at}: ${delay}`);
  }
});

test("codes that stop end everything with the reason", () => {
  for (const [code, word] of [
    [4409, "replaced"],
    [4403, "forbidden"],
    [1009, ""],
  ]) {
    const bench = lasting();
    const sent = bench.core.submit("echo");
    bench.sent();
    const unsent = bench.core.submit("echo");
    const [lost] = of(bench.lose(code, word), "lost");
    assert.ok(lost.error instanceof errors.ConnectionLost);
    assert.equal(lost.error.closeCode, code);
    assert.deepEqual([sent.error.code, sent.error.accepted], [word || "connection_lost", null]);
    assert.equal(unsent.error.accepted, false);
    assert.equal(bench.states().at(-1), "lost");
    assert.throws(() => bench.core.submit("echo"), { code: word || "connection_lost" });
  }
});

test("an outage has its deadline, and says what became of each request", () => {
  const bench = lasting();
  const calls = ["a", "b", "c"].map((id) => bench.core.submit("echo", 1, { id }));
  bench.sent();
  bench.accept("a", 1);
  bench.lose(1012, "draining");
  calls.push(bench.core.submit("echo"));
  const no = new errors.ConnectionLost("unreachable", "no", { retry: true });
  for (let n = 0; n < 119; n += 1) {
    bench.now += 0.5;
    assert.ok(bench.core.due(bench.now));
    bench.core.connectFailed(no, bench.now);
  }
  bench.now += 0.5;
  assert.ok(!bench.core.due(bench.now));
  bench.events();
  assert.deepEqual(
    calls.map(({ error }) => error.accepted),
    [true, null, null, false],
  );
  assert.equal(calls[1].error.message, "no connection for 60 s; no");
  assert.deepEqual([bench.core.phase, bench.states().at(-1)], [Phase.LOST, "lost"]);
});

test("what is not answered is sent again, under the same ids and seqs", () => {
  const bench = lasting();
  for (let n = 1; n <= 5; n += 1) bench.core.submit("echo", n);
  bench.sent();
  bench.accept("r1", 1);
  bench.core.cancel(bench.core._calls.get("r2"));
  bench.core.methods("someone");
  bench.sent();
  bench.lose();
  back(bench, { accepted: 3 });
  assert.deepEqual(bench.hello[0], {
    type: "hello",
    token: "t0",
    session: "s1",
    seq: 0,
    accepted: 1,
    client: "test",
  });
  const again = bench.sent().map(({ type, id, seq }) => [type, id, seq]);
  assert.deepEqual(again, [
    ["request", "r4", 4],
    ["request", "r5", 5],
    ["cancel", "r2", undefined],
    ["methods", undefined, undefined],
  ]);
});

test("a gap, an alien, a frame that can't be read: the connection is left", () => {
  for (const message of [
    { type: "result", id: "r2", seq: 2, result: 1 },
    { type: "result", id: "stranger", seq: 1, result: 1 },
    { type: "accepted", id: "stranger", seq: 9, ahead: 0 },
    { type: "accepted", id: 5, seq: 9, ahead: 0 },
    { type: "result", id: "r1", seq: 1 },
    { type: "error", code: "bad_json", message: "not JSON", retry: false },
    "no object",
  ]) {
    const bench = lasting();
    const call = bench.core.submit("echo");
    bench.core.submit("echo");
    bench.sent();
    assert.equal(of(bench.say(message), "dropped").length, 1, JSON.stringify(message));
    bench.result("r1", 1);
    assert.equal(call.result, undefined, "an older socket is not listened to");
    back(bench, { accepted: 2, settled: 2 });
    bench.result("r1", 1, "one");
    assert.equal(call.result, "one");
  }
  const bench = lasting();
  bench.core.receive(new ArrayBuffer(1), bench.now);
  assert.equal(of(bench.events(), "dropped").length, 1);
});

test("a server that breaks the rules each time is given up", () => {
  const bench = lasting();
  const call = bench.core.submit("echo");
  bench.sent();
  bench.accept("r1", 1);
  for (let n = 0; n < 200; n += 1) {
    bench.result("r9", 9);
    bench.now += 0.5;
    if (!bench.core.due(bench.now)) break;
    bench.open({ resumed: true, accepted: 1 });
  }
  assert.equal(bench.core.phase, Phase.LOST);
  assert.deepEqual([call.error.code, call.error.accepted], ["protocol_error", true]);
});

test("never a half recovery", () => {
  const State = { session: "s1", held: 3, accepted: 5 };
  for (const [fields, kind] of [
    [{ resumed: false }, errors.SessionGone],
    [{ session: "other" }, errors.SessionGone],
    [{ settled: 2 }, errors.HistoryLost],
    [{ accepted: 4 }, errors.HistoryLost],
  ]) {
    const bench = new Bench({ resume: State });
    const call = bench.core.submit("echo");
    bench.open({ resumed: true, accepted: 5, settled: 5, acked: 3, ...fields });
    assert.equal(call.error.constructor, kind);
    assert.equal(call.error.accepted, false);
  }
});

test("outcomes of an earlier start are acknowledged when they were taken", () => {
  const resume = { session: "s1", held: 1, accepted: 3 };
  const bench = new Bench({ resume }).open({ resumed: true, accepted: 3, settled: 1, acked: 1 });
  bench.result("old2", 2, "two");
  bench.say({ type: "error", id: "old3", seq: 3, code: "x", message: "", retry: false });
  bench.now += 5;
  assert.deepEqual(bench.sent(), []);
  assert.deepEqual(bench.core.state, resume);
  assert.equal(bench.core.nextOutcome().result, "two");
  assert.deepEqual(bench.sent(), [{ type: "ack", seq: 2 }]);
  assert.equal(bench.core.nextOutcome().error.code, "x");
  assert.ok(!bench.core.expectsOutcomes);
});

test("a session that accepted nothing is replaced; one with something at stake is not", () => {
  const gone = new errors.SessionGone("session_gone", "no such session");
  for (const risk of [false, true]) {
    const bench = lasting();
    if (risk) bench.core.submit("echo");
    bench.sent();
    bench.lose();
    bench.now += 0.5;
    bench.core.hello({ token: "t" });
    bench.core.connectFailed(gone, bench.now);
    bench.core.phase === Phase.LOST
      ? assert.ok(risk)
      : assert.ok(!risk && bench.core.session === "" && bench.core.due(bench.now));
  }
});

// ---- small things

test("every phase knows its moves", () => {
  assert.deepEqual(
    Object.keys(MOVES).map(Number),
    Object.values(Phase).sort((a, b) => a - b),
  );
  const { core } = new Bench();
  assert.throws(() => core._enter(Phase.BYE), /0 to 6/);
});

test("a line goes both ways", () => {
  const line = new Line();
  const plain = [];
  for (let n = 0; n < 20_000; n += 1) {
    const what = (n * 7919) % 10;
    if (what < 5) (plain.push(n), line.push(n));
    else if (what < 8) assert.equal(line.shift(), plain.shift());
    else if (what < 9) (plain.unshift(n), line.unshift(n));
    else assert.equal(line.pop(), plain.pop());
    assert.equal(line.length, plain.length);
    assert.deepEqual([line.first, line.last], [plain[0], plain.at(-1)]);
  }
  assert.deepEqual([...line], plain);
  while (plain.length) assert.equal(line.shift(), plain.shift());
  assert.deepEqual([line.shift(), line.pop(), line.first], [undefined, undefined, undefined]);
});

test("an error is said of a request, and keeps what it is", () => {
  const lost = errors.closed(4409, "replaced");
  const about = lost.about(true);
  assert.ok(about instanceof errors.ConnectionLost && about !== lost);
  assert.deepEqual([about.accepted, about.closeCode, about.name], [true, 4409, "ConnectionLost"]);
  assert.equal(about.message, lost.message);
});
