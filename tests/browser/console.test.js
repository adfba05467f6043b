// What the console knows of its requests, and its forms: without a page.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Announcer } from "../../server/inorder_server/console/announcer.js";
import { Book, share, spent } from "../../server/inorder_server/console/book.js";
import { fieldsOf, paramsOf } from "../../server/inorder_server/console/fields.js";
import { settled } from "./page.js";

/** A job whose server is the test. */
function fakeJob(id) {
  const job = { id, seq: null };
  job.accepted = new Promise((resolve, reject) => {
    job.accept = (seq) => {
      job.seq = seq;
      resolve(seq);
      return settled();
    };
    job.unaccepted = reject;
  });
  const result = new Promise((resolve, reject) => {
    job.end = (value) => (resolve(value), settled());
    job.fail = (code) => (reject({ code, message: code }), settled());
  });
  job.then = result.then.bind(result);
  return job;
}

test("the first accepted one without an outcome is the one that runs", async () => {
  let now = 10;
  const book = new Book(() => now);
  const jobs = ["a", "b", "c"].map(fakeJob);
  const entries = jobs.map((job) => book.follow(job, "echo", 1));
  const places = () => entries.map(({ place }) => place);
  assert.deepEqual(places(), ["unsent", "unsent", "unsent"]);
  now = 11;
  await jobs[0].accept(1);
  await jobs[1].accept(2);
  assert.deepEqual(places(), ["running", "waiting", "unsent"]);
  assert.equal(book.running, entries[0]);
  now = 13;
  await jobs[0].end("one");
  assert.deepEqual(places(), ["done", "running", "unsent"]);
  now = 14;
  await jobs[1].fail("cancelled");
  await jobs[2].accept(3);
  now = 16;
  await jobs[2].fail("no_money");
  assert.deepEqual(places(), ["done", "cancelled", "failed"]);
  assert.deepEqual(
    entries.map(({ started, ended }) => ended - started),
    [2, 1, 2],
  );
  assert.deepEqual(book.counts, {
    unsent: 0,
    waiting: 0,
    running: 0,
    done: 1,
    failed: 1,
    cancelled: 1,
  });
  assert.deepEqual([book.running, book.acceptedInAll], [null, 3]);
  assert.deepEqual([book.takeLatencies(), book.takeLatencies()], [[3], []]);
});

test("what is refused has no number, and holds up nobody", async () => {
  const book = new Book(() => 1);
  const [refused, next] = ["a", "b"].map(fakeJob);
  const entries = [refused, next].map((job) => book.follow(job, "echo", 1));
  await next.accept(1);
  assert.equal(entries[1].place, "waiting");
  refused.unaccepted(new Error("no"));
  await refused.fail("unknown_method");
  assert.deepEqual(
    entries.map(({ place, seq }) => [place, seq]),
    [
      ["failed", null],
      ["running", 1],
    ],
  );
});

test("an earlier life's requests, and how they ended", () => {
  const book = new Book(() => 1);
  book.inherit({ id: "x", seq: 4, method: "sleep" });
  book.inherit({ id: "y", seq: 5, method: "sleep" });
  assert.deepEqual(
    book.entries.map(({ place }) => place),
    ["running", "waiting"],
  );
  book.settle({ id: "x", seq: 4, result: 1, error: null });
  book.settle({ id: "y", seq: 5, error: { code: "cancelled" } });
  book.settle({ id: "z", seq: 6, error: { code: "other" } });
  assert.deepEqual(
    book.entries.map(({ seq, place }) => [seq, place]),
    [
      [4, "done"],
      [5, "cancelled"],
      [6, "failed"],
    ],
  );
});

test("changes are told once", async () => {
  const book = new Book(() => 1);
  const job = fakeJob("a");
  const entry = book.follow(job, "echo", 1);
  assert.deepEqual([book.changes(), book.changes()], [[entry], []]);
  book.progress(entry, 0.5);
  await job.accept(1);
  assert.deepEqual(book.changes(), [entry]);
});

test("times and shares as a person reads them", () => {
  const times = [
    [NaN, ""],
    [-Infinity, ""],
    [0.0004, "<1 ms"],
    [0.25, "250 ms"],
    [0.9996, "1.0 s"],
  ];
  for (const [seconds, text] of [...times, [59.94, "59.9 s"], [61, "1 min 1 s"]]) {
    assert.equal(spent(seconds), text);
  }
  for (const [progress, part] of [
    [0.4, 0.4],
    [7, null],
    ["half", null],
    [null, null],
    [{ slept: 2, of: 5 }, 0.4],
    [{ at: 9, total: 6 }, 1],
    [{ step: "x" }, null],
    [{ of: 0, slept: 0 }, null],
  ]) {
    assert.equal(share(progress), part, JSON.stringify(progress));
  }
});

const SCHEMA = {
  type: "object",
  properties: {
    to: { $ref: "#/$defs/Account" },
    amount: { type: "integer", exclusiveMinimum: 0, maximum: 9 },
    source: { anyOf: [{ $ref: "#/$defs/Account" }, { type: "null" }], default: null },
    rate: { type: "number", default: 1.5 },
    loud: { type: "boolean", default: false },
    tags: { type: "array" },
    colour: { enum: ["red", "blue"] },
  },
  required: ["to", "amount"],
  $defs: { Account: { type: "string", minLength: 1 } },
};

test("fields from a schema", () => {
  assert.deepEqual(fieldsOf(SCHEMA), [
    { name: "to", kind: "text", required: true, hint: "" },
    { name: "amount", kind: "integer", required: true, hint: "above 0, to 9" },
    { name: "source", kind: "text", required: false, hint: "" },
    { name: "rate", kind: "number", required: false, hint: "default 1.5" },
    { name: "loud", kind: "boolean", required: false, hint: "default false" },
    { name: "tags", kind: "json", required: false, hint: "array" },
    { name: "colour", kind: "text", required: false, hint: "one of red, blue" },
  ]);
  assert.deepEqual(fieldsOf({}), []);
});

test("params from fields", () => {
  const fields = fieldsOf(SCHEMA);
  const empty = { to: "", amount: "", source: "", rate: "", loud: false, tags: "", colour: "" };
  const params = (given) => paramsOf(fields, (name) => ({ ...empty, ...given })[name]);
  assert.deepEqual(params({ to: "eve", amount: "5" }), { to: "eve", amount: 5 });
  const all = {
    to: "eve",
    amount: "5",
    source: "x",
    rate: "2.5",
    loud: true,
    tags: "[1]",
    colour: "red",
  };
  assert.deepEqual(params(all), { ...all, amount: 5, rate: 2.5, tags: [1] });
  for (const [wrong, field, said] of [
    [{}, "amount", /is needed/],
    [{ amount: "five" }, "amount", /is a number/],
    [{ amount: "1.5" }, "amount", /whole number/],
    [{ amount: "1", tags: "[" }, "tags", /is JSON/],
  ]) {
    assert.throws(() => params({ to: "eve", ...wrong }), { field, message: said });
  }
  assert.equal(
    paramsOf([], () => ""),
    undefined,
  );
});

test("a screen reader is told of what ends, in few words", async () => {
  let now = 0;
  const said = [];
  const book = new Book(() => now);
  const announcer = new Announcer((text) => said.push(text));
  const pass = (seconds) => {
    announcer.told(book.changes(), now);
    now += seconds;
    announcer.tick(book, now);
    return said.splice(0);
  };
  const jobs = Array.from({ length: 9 }, (_, at) => fakeJob(`j${at}`));
  for (const job of jobs) book.follow(job, "echo", 1);
  for (const [at, job] of jobs.entries()) await job.accept(at + 1);
  assert.deepEqual(pass(60), []);
  await jobs[0].end(1);
  assert.deepEqual(pass(0.3), []);
  await jobs[1].fail("no_money");
  assert.deepEqual(pass(0.2), ["Request 1, echo, done. Request 2, echo, failed: no money. 7 to go."]);
  for (const job of jobs.slice(2, 5)) await job.end(1);
  await jobs[5].fail("cancelled");
  assert.deepEqual(pass(2.9), []);
  assert.deepEqual(pass(0.2), ["3 done, 1 cancelled. 3 to go."]);
  for (const job of jobs.slice(6)) await job.end(1);
  assert.deepEqual(pass(3), ["3 done. None is left."]);
  assert.deepEqual(pass(60), []);
  const refused = fakeJob("r");
  book.follow(refused, "", 1);
  refused.unaccepted(new Error("no"));
  await refused.fail("unknown_method");
  assert.deepEqual(pass(1), ["A request, failed: unknown method."]);
});
