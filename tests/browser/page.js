// A page's surroundings in a test: a clock that stands until it is moved, sockets whose far end
// is in hand, storages, locks and channels as browsers have them.

/** Lets promises that can go on do so. */
export async function settled() {
  for (let n = 0; n < 50; n += 1) await null;
}

export class Clock {
  constructor() {
    this.seconds = 1000;
    this.timers = new Map();
    this.count = 0;
    this.now = () => this.seconds;
    this.setTimeout = (run, ms) => {
      this.timers.set(++this.count, { at: this.seconds + ms / 1000, run });
      return this.count;
    };
    this.clearTimeout = (timer) => void this.timers.delete(timer);
  }

  /** So many seconds pass, and everything that is due in them happens in its turn. */
  async pass(seconds) {
    const end = this.seconds + seconds;
    await settled();
    for (;;) {
      const due = [...this.timers].filter(([, { at }]) => at <= end + 1e-9);
      if (!due.length) break;
      const [key, { at, run }] = due.reduce((a, b) => (b[1].at < a[1].at ? b : a));
      this.timers.delete(key);
      this.seconds = Math.max(this.seconds, at);
      run();
      await settled();
    }
    this.seconds = end;
  }
}

export function fakeStorage(copied) {
  const kept = new Map(copied?.kept);
  return {
    kept,
    get length() {
      return kept.size;
    },
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, String(value)),
    removeItem: (key) => void kept.delete(key),
  };
}

/** Web Locks of one browser: exclusive, first come first served, `signal` while one waits. */
export class FakeLocks {
  constructor() {
    this.tails = new Map();
    this.held = new Set();
  }

  async request(name, { signal }, run) {
    const before = this.tails.get(name) ?? Promise.resolve();
    let done;
    this.tails.set(name, Promise.all([before, new Promise((resolve) => (done = resolve))]));
    try {
      await new Promise((resolve, reject) => {
        before.then(resolve);
        signal.addEventListener("abort", () => reject(signal.reason));
      });
      this.held.add(name);
      await run({ name });
      this.held.delete(name);
    } finally {
      done();
    }
  }
}

/** BroadcastChannels of one browser. */
export function fakeChannels() {
  const all = new Set();
  return class {
    constructor(name) {
      this.name = name;
      this.onmessage = null;
      all.add(this);
    }

    postMessage(data) {
      for (const other of all) {
        if (other === this || other.name !== this.name) continue;
        queueMicrotask(() => all.has(other) && other.onmessage?.({ data }));
      }
    }

    close() {
      all.delete(this);
    }
  };
}

/** A WebSocket whose server is the test. */
export class FakeSocket {
  constructor(url, protocols) {
    Object.assign(this, { url, protocols, sent: [], closed: false });
    FakeSocket.opened.push(this);
  }

  static opened = [];

  static get last() {
    return FakeSocket.opened.at(-1);
  }

  send(frame) {
    if (this.closed) throw new Error("it is closed");
    this.sent.push(...[JSON.parse(frame)].flat());
  }

  close() {
    this.closed = true;
  }

  /** What was sent since the last time. */
  take() {
    return this.sent.splice(0);
  }

  async open() {
    this.onopen({});
    await settled();
  }

  async say(...messages) {
    for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
    await settled();
  }

  async drop(code = 1006, reason = "") {
    this.closed = true;
    this.onclose({ code, reason });
    await settled();
  }
}

export class FakeDocument extends EventTarget {
  visibilityState = "visible";

  turn(state) {
    this.visibilityState = state;
    this.dispatchEvent(new Event("visibilitychange"));
  }
}

/** The tab is gone, and nothing more of it runs or is heard. */
export async function vanish(session) {
  session._keeper.release();
  session._keeper._storage = null;
  session._socket?.terminate?.();
  await session.detach();
}
