// What a test against a real server needs in Node: sockets, and orders to whoever leads it.

import { createRequire } from "node:module";
import { createConnection } from "node:net";
import { test as bare } from "node:test";

const packages = createRequire(process.env.INORDER_NPM);
const { WebSocket: Socket } = packages("ws");

/** A browser gives up a closing handshake by itself; here a test would wait for it. */
export class WebSocket extends Socket {
  close(code, reason) {
    super.close(code, reason);
    setTimeout(() => this.terminate(), 500).unref();
  }
}

/** Through the proxy, and past it. */
export const url = process.env.INORDER_URL;
export const direct = process.env.INORDER_DIRECT;
export const EVE = { username: "eve", password: "correct horse" };

/** Comes back at once, and again: tests do not wait. */
export function* soon() {
  for (;;) yield 0.02;
}

export const options = { host: { WebSocket }, auth: EVE, backoff: soon };

/** A test that says so when it hangs. */
export function test(name, run) {
  bare(name, { timeout: Number(process.env.INORDER_PATIENCE ?? 10) * 1000 }, run);
}

/** Gives an order (tests/browser/conftest.py has them); how often the proxy was connected to. */
export function order(...words) {
  return new Promise((resolve, reject) => {
    const line = createConnection(Number(process.env.INORDER_STAGE), "127.0.0.1");
    line.setEncoding("utf8");
    line.on("error", reject);
    line.on("data", (said) => {
      line.destroy();
      if (/^\d+\n$/.test(said)) resolve(Number(said));
      else reject(new Error(said));
    });
    line.write(`${words.join(" ")}\n`);
  });
}

/** Resolves when the session says so. */
export function until(session, state) {
  return new Promise((resolve) => {
    session.addEventListener("state", function heard(event) {
      if (event.state !== state) return;
      session.removeEventListener("state", heard);
      resolve(event);
    });
  });
}
