// The client's side of protocol/vectors: the core plays the conversations that have calls.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { decode } from "../../protocol/inorder/browser/inorder/messages.js";
import { Place } from "../../protocol/inorder/browser/inorder/window.js";
import { Bench, welcome } from "./bench.js";

const FOLDER = new URL("../../protocol/vectors/", import.meta.url);
const CONVERSATIONS = readdirSync(FOLDER)
  .filter((name) => name.endsWith(".json"))
  .sort()
  .flatMap((name) => JSON.parse(readFileSync(new URL(name, FOLDER))).conversations);
const SAMPLES = {
  $string: "words",
  $int: 1,
  $number: 1,
  $bool: true,
  $object: {},
  $array: [],
  $any: "",
};

/** What placeholders stand for in one run of a conversation. */
class Words {
  constructor() {
    this.kept = { "session.a": "s1", "session.b": "s2", "token.a": "t1" };
  }

  fill(value) {
    if (typeof value === "string") {
      const whole = /^\$ref:([\w.]+)$/.exec(value);
      if (whole) return this.kept[whole[1]];
      return value.replace(/\$(user|password|basic|ref):([\w.@+-]+)/g, (_, kind, name) => {
        if (kind === "ref") return this.kept[name];
        const password = `pw-of-${name}`;
        return { user: name, password, basic: btoa(`${name}:${password}`) }[kind];
      });
    }
    return mapped(value, (item) => this.fill(item));
  }

  /** A value that the pattern matches. */
  match(pattern) {
    if (typeof pattern === "string") {
      const [, kind, rest] = /^(\$\w+):?(.*)$/.exec(pattern) ?? [];
      if (kind === "$capture") return (this.kept[rest] ??= `${rest}'s value`);
      if (kind === "$has") return rest;
      if (kind === "$lacks") return "";
      return pattern in SAMPLES ? SAMPLES[pattern] : this.fill(pattern);
    }
    const [special, ...others] = Object.keys(pattern ?? {});
    if (special?.startsWith("$") && !others.length) {
      const inner = pattern[special];
      if (special === "$lacks") return [];
      return this.match(special === "$one_of" ? inner[0] : inner);
    }
    return mapped(pattern, (item) => this.match(item));
  }
}

function mapped(value, change) {
  if (Array.isArray(value)) return value.map(change);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(([, item]) => item !== "$absent");
  return Object.fromEntries(kept.map(([key, item]) => [key, change(item)]));
}

/**
 * A program with its core, led through a conversation. `lasting`: it outlives a `drop`, and its
 * core comes back by itself; else it starts again with the state that it kept.
 */
class Program {
  constructor(lasting) {
    this.lasting = lasting;
    this.words = new Words();
    this.bench = new Bench({ giveUpAfter: lasting ? 60 : 0 });
    this.calls = {};
    this.outcomes = {};
    this.out = [];
  }

  play(step) {
    const [kind] = Object.keys(step);
    if (kind === "call") this[`call_${step.call}`](step);
    else this[kind](step);
    for (let outcome; (outcome = this.bench.core.nextOutcome());) {
      this.outcomes[outcome.id] = outcome;
    }
  }

  connect() {
    this.bench.core.hello({ username: "ann", password: "pw-of-ann" });
  }

  login() {
    this.connect();
    assert.deepEqual(
      this.bench.sent().map(({ type }) => type),
      ["hello"],
    );
    this.bench.say(welcome());
  }

  drop() {
    const { state } = this.bench.core;
    this.bench.lose();
    if (this.lasting) {
      this.bench.now = this.bench.core.nextDeadline();
      assert.ok(this.bench.core.due(this.bench.now));
    } else {
      this.bench = new Bench({ resume: state });
    }
  }

  send(step) {
    this.out.push(...this.bench.sent());
    for (const message of [this.words.fill(step.send)].flat()) {
      // An ack is never answered: one may come where the conversation has none.
      while (this.out[0]?.type === "ack" && message.type !== "ack") this.out.shift();
      const sent = this.out.shift();
      assert.ok(sent, `nothing is sent, ${JSON.stringify(message)} was to be`);
      assert.deepEqual({ ...sent, ...message }, sent);
    }
  }

  expect(step) {
    const message = this.words.match(step.expect);
    if (message.type !== "welcome") return this.bench.say(message);
    const { limits, ...fields } = message;
    return this.bench.say(welcome({ ...fields, limits: limits ?? {} }));
  }

  pause() {}

  closed(step) {
    this.bench.lose(step.closed, step.reason);
  }

  call_submit({ id, method, params, timeout }) {
    this.calls[id] = this.bench.core.submit(method, params, { id, timeout });
  }

  call_cancel({ id }) {
    this.bench.core.cancel(this.calls[id]);
  }

  call_close({ mode }) {
    this.bench.core.close(mode);
  }

  call_wait({ seconds }) {
    this.bench.now += seconds;
  }

  call_accepted({ id }) {
    assert.ok(this.calls[id].place >= Place.ACCEPTED);
  }

  call_result({ id, result }) {
    const ended = this.outcomes[id] ?? this.calls[id];
    assert.deepEqual([ended.error, ended.result], [null, this.words.fill(result)]);
  }

  call_error({ id, code, accepted }) {
    const { error } = this.calls[id];
    assert.equal(error?.code, code);
    if (accepted !== undefined) assert.equal(error.accepted, accepted);
  }

  call_receipt({ call, ...fields }) {
    const { receipt } = this.bench.core;
    assert.deepEqual({ ...receipt, ...fields }, receipt);
  }

  call_state({ held, accepted }) {
    const { state } = this.bench.core;
    assert.deepEqual([state.held, state.accepted], [held, accepted]);
  }
}

const withCalls = CONVERSATIONS.filter(({ steps }) => steps.some((step) => "call" in step));
assert.ok(withCalls.length >= 7);
for (const { name, steps } of withCalls) {
  for (const lasting of [false, true]) {
    test(`${name}, ${lasting ? "comes back" : "starts again"}`, () => {
      const program = new Program(lasting);
      for (const [number, step] of steps.entries()) {
        try {
          program.play(step);
        } catch (error) {
          error.message = `step ${number + 1} ${JSON.stringify(step)}: ${error.message}`;
          throw error;
        }
      }
      assert.deepEqual(program.out, []);
    });
  }
}

test("every message of a server is understood", () => {
  const understood = new Set();
  for (const { steps } of CONVERSATIONS) {
    const words = new Words();
    for (const step of steps) {
      const patterns = [step.expect, step.until, step.some].filter(Boolean);
      for (const list of [step.expect_any_order, step.among, step.may]) {
        patterns.push(...(list ?? []));
      }
      for (const pattern of patterns) {
        if (typeof pattern.type !== "string") continue;
        let decoded;
        try {
          [decoded] = decode(JSON.stringify(words.match(pattern)));
        } catch (error) {
          // Patterns list only the fields that matter.
          const field = /: (\w+) is not/.exec(error.message)?.[1];
          if (!(field in pattern) || ["receipt", "limits"].includes(field)) continue;
          throw error;
        }
        assert.ok(decoded, `${pattern.type} is not known`);
        understood.add(decoded.type);
      }
    }
  }
  const types =
    "accepted bye cancelling draining error hint methods pong progress result status token welcome";
  assert.deepEqual([...understood].sort(), types.split(" "));
});
