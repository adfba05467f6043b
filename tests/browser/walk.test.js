// The core against a server whose connections break, which crashes, refuses, and takes time to
// commit, at random. Whatever happens, everything that was submitted ends exactly once, with the
// right outcome or a true word on its acceptance, and the server has accepted each id once.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as errors from "../../protocol/inorder/browser/inorder/errors.js";
import { Phase } from "../../protocol/inorder/browser/inorder/phases.js";
import { Bench, Model } from "./bench.js";

const FINAL = ["unknown_method", "invalid_params", "forbidden"];
const PASSING = ["rate_limited", "overloaded", "store_unavailable", "internal"];

/** Mulberry32: the same numbers for the same seed. */
function random(seed) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (n) => Math.floor(next() * n);
  return {
    below,
    within: (low, high) => low + below(high - low + 1),
    pick: (of) => of[below(of.length)],
  };
}

/** A core and a server, and frames under way between them while there is a connection. */
class Road {
  constructor(rng, { window, refuses = false, queue, ...limits }) {
    this.rng = rng;
    const refuse = () => {
      const code = refuses ? rng.pick([...Array(12).fill(null), ...FINAL, ...PASSING]) : null;
      return code && { code, retry: PASSING.includes(code), after: 0.5 };
    };
    this.far = new Model({ refuse, queue, ...limits });
    const backoff = function* () {
      for (;;) yield 0.5;
    };
    this.bench = new Bench({ window, giveUpAfter: null, backoff });
    this.up = [];
    this.down = [];
    this.connected = false;
    this.calls = [];
    this.ended = [];
    this.accepted = [];
    this.asked = [];
    this.answered = [];
    this.bench.core.begin(this.bench.now);
    this.greet();
    this.pump();
    this.move("arrive");
    this.move("answer");
    this.pump();
  }

  greet() {
    this.bench.core.hello({ token: "t" });
    this.connected = true;
  }

  pump() {
    const { core } = this.bench;
    if (!this.connected && core.phase === Phase.AWAY && core.due(this.bench.now)) this.greet();
    const frames = this.bench.frames();
    if (this.connected) this.up.push(...frames);
    else assert.deepEqual(frames, []);
    for (const event of this.bench.seen.splice(0)) {
      if (event.kind === "ended") this.ended.push(event.call);
      else if (event.kind === "accepted") this.accepted.push(event.call);
      else if (event.kind === "cancel answered") this.answered.push(event.call);
      else if (event.kind === "dropped") this.cut();
    }
  }

  cut() {
    this.connected = false;
    this.up.length = this.down.length = 0;
  }

  step(what) {
    const { rng, bench } = this;
    const { core } = bench;
    if (what === "submit") {
      if (core.closing || core.phase >= Phase.ENDED) return;
      for (let n = rng.within(1, 9); n; n -= 1) {
        const call = core.submit("echo", this.calls.length + 1);
        call.watched = true;
        this.calls.push(call);
      }
    } else if (what === "cancel") {
      const call = this.calls[rng.below(30)];
      if (call && core.cancel(call) === null) this.asked.push(call);
    } else if (what === "wait") {
      bench.now += 1;
    } else if (what === "drop" || what === "crash") {
      if (this.connected) {
        for (let n = rng.below(5); n; n -= 1) this.move("arrive");
        for (let n = rng.below(5); n; n -= 1) this.move("answer");
      }
      if (this.connected) {
        this.cut();
        core.connectionLost(1006, "", bench.now);
      }
      if (what === "crash") this.far.crash();
    } else {
      for (let n = rng.within(1, 9); n; n -= 1) this.move(what);
    }
    this.pump();
  }

  move(what) {
    if (what === "arrive" && this.up.length) {
      for (const message of [JSON.parse(this.up.shift())].flat())
        this.say(this.far.handle(message));
    } else if (what === "answer" && this.down.length) {
      this.bench.say(this.down.shift());
      this.pump();
    } else if (what === "commit" || what === "settle") {
      this.say(this.far[what]());
    }
  }

  say(messages) {
    if (this.connected) this.down.push(...messages);
  }

  /** Time goes on and everything gets through, until all has ended and is acknowledged. */
  quiet() {
    const { core } = this.bench;
    for (let left = 600, more = 4; left; left -= 1) {
      this.step("wait");
      while (this.up.length || this.down.length) {
        this.move("arrive");
        this.move("answer");
        this.pump();
      }
      for (let n = 0; n < 20; n += 1) {
        this.move("commit");
        this.move("settle");
      }
      while (this.down.length) this.move("answer");
      this.pump();
      if (this.ended.length === this.calls.length && core.phase !== Phase.AWAY) more -= 1;
      if (!more || core.phase >= Phase.ENDED) return;
    }
    assert.fail(`phase ${core.phase}: ${this.ended.length} of ${this.calls.length}`);
  }

  check() {
    const { calls, ended, far } = this;
    assert.equal(ended.length, calls.length);
    assert.equal(new Set(ended).size, calls.length);
    // Each id was accepted once, and in the order of submission.
    const ids = far.requests.map(({ id }) => id);
    const known = new Set(ids);
    assert.equal(known.size, ids.length);
    assert.deepEqual(
      ids,
      calls.filter(({ id }) => known.has(id)).map(({ id }) => id),
    );
    for (const [n, call] of calls.entries()) {
      const accepted = call.error ? call.error.accepted : true;
      if (accepted !== null) assert.equal(accepted, known.has(call.id), String(call.error));
      if (!call.error) {
        assert.equal(call.result, n + 1);
        assert.equal(far.seqs.get(call.id), call.seq);
      }
    }
    // Outcomes came in order, and whoever waits for acceptance was told.
    if (!this.bench.core.error) {
      const done = ended.filter(({ error }) => !error || error.accepted);
      assert.deepEqual(
        done,
        calls.filter((call) => done.includes(call)),
      );
      assert.deepEqual(new Set(this.accepted), new Set(done));
    }
    for (const call of this.asked) assert.ok(this.answered.includes(call) || ended.includes(call));
  }
}

const KINDS = ["submit", "arrive", "commit", "settle", "answer", "cancel", "wait", "drop", "crash"];

function walk(seed, steps, kinds, options) {
  const rng = random(seed);
  const queue = rng.within(1, 12);
  const road = new Road(rng, { window: rng.within(1, 40), queue, ...options(rng) });
  // Something is accepted, so that the session can be resumed.
  for (let rounds = 50; rounds && !road.bench.core.state.accepted; rounds -= 1) {
    for (const step of ["submit", "wait", "arrive", "commit", "answer"]) road.step(step);
  }
  assert.ok(road.bench.core.state.accepted);
  for (let n = 0; n < steps; n += 1) road.step(rng.pick(kinds));
  return { rng, road, queue };
}

test("everything ends once whatever breaks", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const { road, queue } = walk(seed, 80, KINDS, () => ({}));
    road.quiet();
    road.check();
    const { core } = road.bench;
    assert.equal(core.error, null, `seed ${seed}`);
    for (const { error } of road.calls) assert.ok(!error || error instanceof errors.Cancelled);
    assert.ok(road.far.most <= queue);
    assert.deepEqual([road.far.acked, core.state.held], [road.far.settled, road.far.settled]);
  }
});

test("everything ends once whatever is refused", () => {
  const kinds = KINDS.filter((kind) => kind !== "drop" && kind !== "crash");
  for (let seed = 1; seed <= 300; seed += 1) {
    const { road } = walk(seed, 80, kinds, (rng) => ({
      refuses: true,
      unacked: rng.within(1, 40),
      batch: rng.within(1, 6),
    }));
    road.quiet();
    road.check();
    assert.equal(road.far.connections, 1, `seed ${seed}`);
    for (const { error } of road.calls) {
      assert.ok(!error || [...FINAL, "cancelled"].includes(error.code), String(error));
    }
  }
});

test("close gets its receipt whatever breaks", () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const { road, rng } = walk(seed, 20, KINDS, () => ({}));
    const { core } = road.bench;
    const mode = rng.pick(["finish", "cancel"]);
    core.close(mode);
    for (let n = 0; n < 12; n += 1) road.step(rng.pick(KINDS));
    road.quiet();
    road.check();
    assert.equal(core.phase, Phase.ENDED, `seed ${seed}`);
    assert.equal(core.receipt.accepted, road.far.requests.length);
    if (mode === "finish") {
      for (const { error } of road.calls) assert.ok(!error || error instanceof errors.Cancelled);
    }
  }
});
