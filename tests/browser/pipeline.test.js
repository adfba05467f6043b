// A thousand requests on the ledger through connections that are cut twenty times. Who started
// this looks into the books.

import assert from "node:assert/strict";

import { connect } from "../../protocol/inorder/browser/inorder.js";
import { options, order, test, url } from "./stage.js";

const PIPELINE = 1000;
const balances = (count) =>
  [...Array(count).keys()].map((n) => ({ account: "eve", balance: ((n + 1) * (n + 2)) / 2 }));

test("cut off twenty times in a pipeline", async () => {
  const states = [];
  const onState = (state) => states.push(state);
  const session = await connect(url, { ...options, register: true, onState });
  assert.deepEqual(await session.request("deposit", { amount: 1 }), balances(1)[0]);
  await order("cut", process.env.INORDER_SEED);
  const jobs = [...Array(PIPELINE - 1).keys()].map((n) =>
    session.submit("deposit", { amount: n + 2 }),
  );
  const ended = [];
  for (const job of jobs) job.then(() => ended.push(job.seq));
  assert.deepEqual(await Promise.all(jobs), balances(PIPELINE).slice(1));
  assert.deepEqual(
    ended,
    [...Array(PIPELINE - 1).keys()].map((n) => n + 2),
  );
  const receipt = await session.close();
  assert.deepEqual([receipt.accepted, receipt.done, receipt.verified], [PIPELINE, PIPELINE, true]);
  assert.ok((await order("opened")) > 20);
  const count = (state) => states.filter((it) => it === state).length;
  assert.equal(count("resumed"), count("reconnecting"));
  assert.ok(count("resumed") > 10);
  console.log(`session ${session.id}`);
});
