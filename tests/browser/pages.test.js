// What SPEC.md and README.md show of pages, run as it stands.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createContext, runInContext } from "node:vm";

import { fakeStorage } from "./page.js";
import { direct, test, WebSocket } from "./stage.js";

const ROOT = new URL("../../", import.meta.url);
const address = new URL(direct);

/** The only script of the only page in a document. */
function scriptOf(name) {
  const pages = readFileSync(new URL(name, ROOT), "utf8").match(/```html\n.*?```/gs);
  assert.equal(pages.length, 1);
  assert.ok(pages[0].split("\n").length <= 22, "twenty lines");
  return /<script[^>]*>\n(.*?)<\/script>/s.exec(pages[0])[1];
}

/** A browser says whose page it is. */
class PageSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { origin: `http://${address.host}` });
    PageSocket.last = this;
  }
}

test("README's module registers, sends, and gets its receipt", async (t) => {
  const script = scriptOf("README.md")
    .replace(
      "http://127.0.0.1:3000/inorder.js",
      new URL("protocol/inorder/browser/inorder.js", ROOT).href,
    )
    .replace("ws://127.0.0.1:3000/ws", direct);
  Object.assign(globalThis, { WebSocket: PageSocket, sessionStorage: fakeStorage() });
  const printed = t.mock.method(console, "log", () => {});
  await import(`data:text/javascript,${encodeURIComponent(script)}`);
  const said = printed.mock.calls.map((call) => call.arguments[0]);
  printed.mock.restore();
  assert.deepEqual(said.slice(0, 3), [{ word: "hello" }, 2, Array(3).fill({ slept: 0.1 })]);
  assert.deepEqual([said[3].accepted, said[3].done, said[3].verified], [4, 4, true]);
  assert.equal(said.length, 4);
});

test("SPEC.md's raw page logs in, sends, and acknowledges", async () => {
  const out = { textContent: "" };
  const line = {};
  const form = { elements: { name: { value: "joe" }, password: { value: "a long word" } } };
  const page = { out, line, document: { forms: [form] }, location: address };
  runInContext(scriptOf("protocol/SPEC.md"), createContext({ ...page, WebSocket: PageSocket }));
  const said = () =>
    out.textContent
      .split("\n")
      .filter((text) => text.startsWith("{"))
      .map(JSON.parse);
  const until = async (fits) => {
    for (;;) {
      const found = said().find(fits);
      if (found) return found;
      await new Promise((resolve) =>
        PageSocket.last.addEventListener("message", resolve, { once: true }),
      );
    }
  };

  form.onsubmit({ preventDefault() {}, target: form });
  const welcome = await until(({ type }) => type === "welcome");
  assert.equal(welcome.user, "joe");
  for (const request of [
    { method: "echo", params: "hi" },
    { method: "no such method" },
    { method: "echo", params: "ho" },
    { method: "fail" },
  ]) {
    line.value = JSON.stringify(request);
    line.onchange();
  }
  await until(({ seq, code }) => seq === 3 && code === "handler_failed");
  const outcomes = said().filter(({ type, seq }) => type !== "accepted" && seq);
  assert.deepEqual(
    outcomes.map(({ seq, result }) => [seq, result]),
    [
      [1, "hi"],
      [2, "ho"],
      [3, undefined],
    ],
  );
  PageSocket.last.send('{"type": "status"}');
  assert.equal((await until(({ type }) => type === "status")).acked, 3);
  const closed = new Promise((resolve) => PageSocket.last.addEventListener("close", resolve));
  PageSocket.last.send('{"type": "bye"}');
  await closed;
  assert.match(out.textContent, /closed 1000 done\n$/);
});
