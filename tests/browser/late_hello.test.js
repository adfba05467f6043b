// A hello that was given up, read by the server after the newer one (SPEC.md, "Resume").

import assert from "node:assert/strict";
import { test } from "node:test";

import * as errors from "../../protocol/inorder/browser/inorder/errors.js";
import { Phase } from "../../protocol/inorder/browser/inorder/phases.js";
import { back, Bench, lasting, of } from "./bench.js";

/** Half a second later: a hello that nobody answers in time. */
function giveUp(bench, error) {
  bench.now += 0.5;
  assert.ok(bench.core.due(bench.now));
  bench.core.hello({ token: "t0" }, "test");
  assert.deepEqual(
    bench.sent().map(({ type }) => type),
    ["hello"],
  );
  const late = new errors.ConnectionLost("unreachable", "no welcome within 1 s", { retry: true });
  bench.core.connectFailed(error ?? late, bench.now);
  bench.events();
}

test("replaced by a hello that was given up it comes back, once for each", () => {
  const bench = lasting();
  const call = bench.core.submit("echo");
  bench.sent();
  bench.accept("r1", 1);
  bench.lose();
  giveUp(bench);
  giveUp(bench);
  back(bench, { accepted: 1 });
  for (let i = 0; i < 2; i += 1) {
    const [dropped] = of(bench.lose(4409, "replaced"), "dropped");
    assert.equal(dropped.error.closeCode, 4409);
    back(bench, { accepted: 1 });
  }
  assert.equal(call.error, null);
  bench.lose(4409, "replaced");
  assert.equal(bench.core.phase, Phase.LOST);
  assert.deepEqual([call.error.code, call.error.accepted], ["replaced", true]);
});

for (const [seconds, phase] of [
  [60, Phase.AWAY],
  [61, Phase.LOST],
]) {
  test(`replaced ${seconds} s after a hello that was given up`, () => {
    const bench = lasting();
    bench.lose();
    giveUp(bench);
    const givenUp = bench.now;
    back(bench);
    bench.now = givenUp + seconds;
    bench.lose(4409, "replaced");
    assert.equal(bench.core.phase, phase);
  });
}

test("replaced by somebody else it stops", () => {
  const bench = lasting();
  bench.lose();
  back(bench);
  bench.lose(4409, "replaced");
  assert.equal(bench.core.phase, Phase.LOST);
});

test("a hello for a new session replaces nobody", () => {
  const bench = new Bench({ giveUpAfter: 60, backoff: () => [0.5, 0.5, 0.5].values() });
  bench.core.begin(bench.now, 60);
  giveUp(bench);
  bench.now += 0.5;
  bench.open();
  bench.lose(4409, "replaced");
  assert.equal(bench.core.phase, Phase.LOST);
});
