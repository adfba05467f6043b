// Whether the server is still there, in virtual time.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as errors from "../../protocol/inorder/browser/inorder/errors.js";
import { PATIENCE } from "../../protocol/inorder/browser/inorder/heartbeat.js";
import { Phase } from "../../protocol/inorder/browser/inorder/phases.js";
import { back, Bench, lasting, of } from "./bench.js";

test("a ping after 20 s of silence; dead is who says nothing at all within 10 s", () => {
  const bench = lasting();
  assert.equal(bench.core.nextDeadline(), bench.now + 20);
  bench.now += 19;
  assert.deepEqual(bench.sent(), []);
  bench.say({ type: "token", token: "t2", expires_in: 9 });
  bench.now += 19.9;
  assert.deepEqual(bench.sent(), []);
  bench.now += 0.1;
  assert.deepEqual(bench.sent(), [{ type: "ping" }]);
  bench.now += PATIENCE - 0.1;
  assert.deepEqual(bench.sent(), []);
  bench.say({ type: "progress", id: "x", seq: 1, attempt: 1, n: 1, progress: 0 });
  assert.equal(bench.core.nextDeadline(), bench.now + 20, "any frame will do");
  bench.say({ type: "pong" });
  bench.now += 20;
  assert.deepEqual(bench.sent(), [{ type: "ping" }]);
  bench.now += PATIENCE;
  assert.deepEqual(bench.sent(), []);
  assert.equal(bench.core.phase, Phase.AWAY);
  const [dropped] = of(bench.seen, "dropped");
  assert.match(dropped.error.message, /within 10 s of a ping/);
  back(bench, {});
  assert.deepEqual(bench.sent(), [], "an older ping is not asked again");
});

test("who has slept does not say that the other is dead, but asks once more", () => {
  const bench = lasting();
  bench.now += 20;
  assert.deepEqual(bench.sent(), [{ type: "ping" }]);
  bench.now += 3600;
  assert.deepEqual(bench.sent(), [{ type: "ping" }]);
  bench.say({ type: "pong" }, { type: "pong" });
  bench.now += 3600;
  assert.deepEqual(bench.sent(), [{ type: "ping" }]);
  bench.now += 60;
  assert.deepEqual(bench.sent(), [{ type: "ping" }], "timers of a hidden page come each minute");
  bench.now += 60;
  assert.deepEqual(bench.sent(), []);
  assert.equal(bench.core.phase, Phase.AWAY);
});

test("a hurry: one ping at once, or the next attempt at once", () => {
  const bench = lasting();
  bench.core.hurry(bench.now);
  bench.core.hurry(bench.now);
  assert.deepEqual(bench.sent(), [{ type: "ping" }]);
  bench.core.hurry(bench.now);
  assert.deepEqual(bench.sent(), []);
  bench.lose();
  assert.ok(!bench.core.due(bench.now));
  bench.core.hurry(bench.now);
  assert.ok(bench.core.due(bench.now));
  bench.core.hello({ token: "t" });
  bench.sent();
  const busy = new errors.LoginFailed("overloaded", "", { retry: true, after: 7 });
  bench.core.connectFailed(busy, bench.now);
  bench.core.hurry(bench.now);
  assert.ok(!bench.core.due(bench.now + 6.9), "what the server asked for is kept");
  assert.ok(bench.core.due(bench.now + 7));
});

test("it beats only while there is a connection", () => {
  const bench = new Bench();
  bench.core.hurry(bench.now);
  bench.core.hello({ token: "t" });
  bench.sent();
  bench.say({ type: "error", code: "x", message: "", retry: false, of: "hello" });
  assert.equal(bench.core.nextDeadline(), Infinity);
  bench.open();
  bench.core.detach();
  assert.equal(bench.core.nextDeadline(), Infinity);
});
