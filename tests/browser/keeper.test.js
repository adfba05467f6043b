// What a tab keeps of its session, and how a duplicated one is told apart.

import assert from "node:assert/strict";
import { test } from "node:test";

import { CHANNEL_WAIT, Keeper, LOCK_WAIT } from "../../protocol/inorder/browser/inorder/keeper.js";
import { Clock, fakeChannels, FakeLocks, fakeStorage, settled } from "./page.js";

const KEY = "inorder:ws://a/ws";
const KEPT = { state: { session: "s1", held: 3, accepted: 5 }, token: "t", open: 1 };
const COPY = { state: null, token: "t", open: 0 };

/** Tabs of one browser. */
class Browser {
  constructor({ locks = null, channels = null }) {
    this.clock = new Clock();
    const { now, setTimeout, clearTimeout } = this.clock;
    this.host = { now, setTimeout, clearTimeout, locks, BroadcastChannel: channels };
  }

  tab(storage) {
    return new Keeper(storage, KEY, this.host);
  }

  async recall(keeper) {
    let answer;
    keeper.recall().then((kept) => (answer = kept));
    await this.clock.pass(LOCK_WAIT + 0.01);
    await settled();
    assert.notEqual(answer, undefined, "it does not wait longer");
    return answer;
  }
}

const WAYS = {
  "web locks": () => new Browser({ locks: new FakeLocks() }),
  "a broadcast channel": () => new Browser({ channels: fakeChannels() }),
};

for (const [name, browser] of Object.entries(WAYS)) {
  test(`a tab that is reloaded finds its session (${name})`, async () => {
    const tabs = browser();
    const storage = fakeStorage();
    const first = tabs.tab(storage);
    assert.equal(await tabs.recall(first), null);
    first.keep(KEPT);
    first.release();
    assert.deepEqual(await tabs.recall(tabs.tab(storage)), KEPT);
  });

  test(`a duplicate starts a session of its own (${name})`, async () => {
    const tabs = browser();
    const storage = fakeStorage();
    const first = tabs.tab(storage);
    first.keep(KEPT);
    await tabs.clock.pass(1);
    const copies = [fakeStorage(storage), fakeStorage(storage)];
    const duplicates = copies.map((copy) => tabs.tab(copy));
    for (const tab of duplicates) assert.deepEqual(await tabs.recall(tab), COPY);
    duplicates[0].keep({ ...KEPT, state: { session: "s2", held: 0, accepted: 1 } });
    await tabs.clock.pass(1);
    first.release();
    duplicates[0].release();
    assert.equal((await tabs.recall(tabs.tab(storage))).state.session, "s1");
    assert.equal((await tabs.recall(tabs.tab(copies[0]))).state.session, "s2");
  });

  test(`of two that come at the same time one has it (${name})`, async () => {
    const tabs = browser();
    const storage = fakeStorage();
    storage.setItem(KEY, JSON.stringify(KEPT));
    const answers = [];
    for (let n = 0; n < 3; n += 1) {
      void tabs
        .tab(fakeStorage(storage))
        .recall()
        .then((kept) => answers.push(kept.state));
    }
    await tabs.clock.pass(LOCK_WAIT + 0.01);
    await settled();
    assert.deepEqual(answers.filter(Boolean), [KEPT.state]);
    assert.equal(answers.length, 3);
  });
}

test("a tab that is just going lets go a little late", async () => {
  const locks = new FakeLocks();
  const tabs = new Browser({ locks });
  const storage = fakeStorage();
  const first = tabs.tab(storage);
  first.keep(KEPT);
  await settled();
  assert.deepEqual([...locks.held], ["inorder:s1"]);
  const recalled = tabs.tab(storage).recall();
  await tabs.clock.pass(LOCK_WAIT / 2);
  first.release();
  assert.deepEqual(await recalled, KEPT);
  assert.deepEqual([...locks.held], ["inorder:s1"]);
});

test("an owner is heard within the time", () => assert.ok(CHANNEL_WAIT < LOCK_WAIT));

test("a lock follows the session, and goes with it", async () => {
  const locks = new FakeLocks();
  const keeper = new Browser({ locks }).tab(fakeStorage());
  keeper.keep(COPY);
  await settled();
  assert.equal(locks.held.size, 0);
  for (const session of ["s1", "s2"]) {
    keeper.keep({ ...KEPT, state: { ...KEPT.state, session } });
    await settled();
    assert.deepEqual([...locks.held], [`inorder:${session}`]);
  }
  keeper.forget();
  await settled();
  assert.equal(locks.held.size, 0);
});

test("without locks and channels a session is one's own", async () => {
  const tabs = new Browser({});
  const storage = fakeStorage();
  tabs.tab(storage).keep(KEPT);
  assert.deepEqual(await tabs.recall(tabs.tab(storage)), KEPT);
});

test("a token that is of no more use is dropped, the session is kept", async () => {
  const tabs = new Browser({});
  const storage = fakeStorage();
  tabs.tab(storage).dropToken();
  assert.equal(storage.length, 0);
  tabs.tab(storage).keep(KEPT);
  tabs.tab(storage).dropToken();
  assert.deepEqual(await tabs.recall(tabs.tab(storage)), { ...KEPT, token: null });
});

test("what is not ours counts for nothing", async () => {
  const tabs = new Browser({});
  for (const text of [
    "",
    "{",
    "7",
    "null",
    "[]x",
    JSON.stringify({ ...KEPT, token: 5 }),
    JSON.stringify({ ...KEPT, open: -1 }),
    JSON.stringify({ ...KEPT, state: { session: "", held: 0, accepted: 0 } }),
    JSON.stringify({ ...KEPT, state: { session: "s", held: "0", accepted: 0 } }),
    JSON.stringify({ ...KEPT, state: "s" }),
  ]) {
    const storage = fakeStorage();
    storage.setItem(KEY, text);
    assert.equal(await tabs.recall(tabs.tab(storage)), null, text);
  }
  assert.equal(await tabs.recall(tabs.tab(null)), null);
});

test("a storage that is full or forbidden does no harm", async (t) => {
  const warned = t.mock.method(console, "warn", () => {});
  const no = () => {
    throw new DOMException("no", "QuotaExceededError");
  };
  const keeper = new Browser({}).tab({ getItem: no, setItem: no, removeItem: no });
  assert.equal(await keeper.recall(), null);
  keeper.keep(KEPT);
  keeper.forget();
  assert.equal(warned.mock.callCount(), 2);
});

test("it writes only what has changed", () => {
  const storage = fakeStorage();
  let writes = 0;
  const keeper = new Browser({}).tab({ ...storage, setItem: () => (writes += 1) });
  keeper.keep(KEPT);
  keeper.keep({ ...KEPT });
  assert.equal(writes, 1);
});
