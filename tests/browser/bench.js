// A core with its far end in hand, and a server's numbering rules in memory.

import assert from "node:assert/strict";

import { Core } from "../../protocol/inorder/browser/inorder/core.js";

export const LIMITS = {
  queue: 1000,
  unacked: 10000,
  message_bytes: 262144,
  outcome_bytes: 262144,
  batch: 256,
  rate: 0,
  ping: 20,
};

export function welcome({ limits = {}, ...fields } = {}) {
  return {
    type: "welcome",
    session: "s1",
    user: "ann",
    epoch: 1,
    resumed: false,
    accepted: 0,
    settled: 0,
    acked: 0,
    token: "t1",
    expires_in: 60,
    limits: { ...LIMITS, ...limits },
    ...fields,
  };
}

export function refusal(code, id, { retry = false, ...fields } = {}) {
  return { type: "error", code, message: code, retry, of: "request", id, ...fields };
}

/** A core, and what a server would see and say. Time stands until it is moved. */
export class Bench {
  constructor(options) {
    this.core = new Core({ prefix: "r", ...options });
    this.now = 100;
    this.seen = [];
  }

  /** `hello` and `welcome`; also after the connection was lost. */
  open(fields) {
    this.core.hello({ token: "t0" }, "test");
    this.hello = this.sent();
    this.say(welcome(fields));
    return this;
  }

  say(...messages) {
    const frame = messages.length === 1 ? messages[0] : messages;
    this.core.receive(JSON.stringify(frame), this.now);
    return this.events();
  }

  lose(closeCode = 1006, reason = "") {
    this.core.connectionLost(closeCode, reason, this.now);
    return this.events();
  }

  accept(id, seq) {
    return this.say({ type: "accepted", id, seq, ahead: 0 });
  }

  result(id, seq, result = null) {
    return this.say({ type: "result", id, seq, result });
  }

  events() {
    const events = this.core.events();
    this.seen.push(...events);
    return events;
  }

  frames() {
    const frames = this.core.framesToSend(this.now);
    this.events();
    return frames;
  }

  sent() {
    return this.frames().flatMap((frame) => JSON.parse(frame));
  }

  requests() {
    return this.sent()
      .filter((message) => message.type === "request")
      .map(({ id, seq }) => [id, seq]);
  }

  states() {
    return of(this.seen, "state").map((event) => event.name);
  }
}

export function of(events, kind) {
  return events.filter((event) => event.kind === kind);
}

/** Half a second before each attempt. */
export function* halves() {
  for (;;) yield 0.5;
}

/** An open session that comes back after half a second, for a minute. */
export const lasting = () => new Bench({ giveUpAfter: 60, backoff: halves }).open();

/** Half a second later it is back. */
export function back(bench, fields) {
  bench.now += 0.5;
  assert.ok(bench.core.due(bench.now));
  return bench.open({ resumed: true, ...fields });
}

/**
 * SPEC.md's "Numbers" and "Resume" for one session, slow to commit. `refuse` gets each request
 * that is next in line, and returns null or the fields of a refusal.
 */
export class Model {
  constructor({ refuse = () => null, ...limits } = {}) {
    this.limits = { ...LIMITS, ...limits };
    this.refuse = refuse;
    this.requests = [];
    this.seqs = new Map();
    this.committed = 0;
    this.settled = 0;
    this.acked = 0;
    this.gap = false;
    this.cancelled = new Set();
    this.bye = null;
    this.receipt = null;
    this.most = 0;
    this.connections = 0;
  }

  handle(message) {
    return message.type === "bye" ? this.end(message) : this[message.type](message);
  }

  hello({ session, seq = 0, accepted = 0 }) {
    this.gap = false;
    this.bye = null;
    this.connections += 1;
    if (this.receipt) return [{ type: "bye", receipt: this.receipt }];
    if (session === undefined && this.committed) throw new Error("there is a session already");
    if (seq > this.settled || accepted > this.committed) throw new Error("history lost");
    this.acked = Math.max(this.acked, seq);
    const { committed, settled, acked, limits } = this;
    const resumed = session !== undefined;
    const first = welcome({ accepted: committed, settled, acked, resumed, limits });
    const again = [];
    for (let n = seq + 1; n <= this.settled; n += 1) again.push(this.outcome(n));
    return [first, ...again];
  }

  request(message) {
    const { id, seq } = message;
    const known = this.seqs.get(id);
    if (known !== undefined) {
      if (known <= this.acked) {
        return [refusal("already_acknowledged", id, { details: { seq: known } })];
      }
      if (known <= this.settled) return [this.outcome(known)];
      return known <= this.committed ? [{ type: "accepted", id, seq: known, ahead: 0 }] : [];
    }
    if (this.bye) return [refusal("closing", id, { details: { seq } })];
    const expected = this.requests.length + 1;
    if (seq !== expected) {
      if (this.gap) return [];
      this.gap = true;
      const details = { expected, seq };
      return [refusal("out_of_order", id, { retry: true, after: 0, details })];
    }
    const unsettled = this.requests.length - this.settled;
    const full =
      unsettled >= this.limits.queue || this.requests.length - this.acked >= this.limits.unacked;
    const no = full ? { code: "queue_full", retry: true, after: 1 } : this.refuse(message);
    if (no) {
      this.gap = true;
      const { code, ...fields } = no;
      return [refusal(code, id, { details: { seq }, ...fields })];
    }
    this.gap = false;
    this.requests.push(message);
    this.seqs.set(id, seq);
    this.most = Math.max(this.most, unsettled + 1);
    return [];
  }

  commit() {
    if (this.committed === this.requests.length) return [];
    const { id } = this.requests[this.committed];
    this.committed += 1;
    return [{ type: "accepted", id, seq: this.committed, ahead: 0 }];
  }

  outcome(seq) {
    const { id, params = null } = this.requests[seq - 1];
    if (this.cancelled.has(id)) {
      return { type: "error", id, seq, code: "cancelled", message: "cancelled", retry: false };
    }
    return { type: "result", id, seq, result: params };
  }

  settle() {
    return this.settled < this.committed ? [this.outcome(++this.settled)] : [];
  }

  cancel({ id }) {
    if ((this.seqs.get(id) ?? 0) <= this.settled) {
      return [{ ...refusal("not_found", id), of: "cancel" }];
    }
    this.cancelled.add(id);
    return [{ type: "cancelling", id, seq: this.seqs.get(id) }];
  }

  ack({ seq }) {
    if (seq > this.settled || seq < this.acked) throw new Error(`ack ${seq}`);
    this.acked = seq;
    return [];
  }

  ping(message) {
    return [{ ...message, type: "pong" }];
  }

  methods() {
    return [{ type: "methods", methods: [{ name: "echo", doc: "Says it again.", params: {} }] }];
  }

  status() {
    const { committed, settled, acked } = this;
    const queued = committed - settled;
    return [
      { type: "status", session: "s1", epoch: 1, accepted: committed, settled, acked, queued },
    ];
  }

  end({ mode = "finish" }) {
    while (this.committed < this.requests.length) this.commit();
    this.bye = mode;
    const out = [];
    if (mode === "cancel") {
      for (const { id } of this.requests.slice(this.settled)) this.cancelled.add(id);
    }
    while (this.settled < this.requests.length) out.push(...this.settle());
    const accepted = this.requests.length;
    const cancelled = this.cancelled.size;
    this.receipt = {
      session: "s1",
      accepted,
      done: accepted - cancelled,
      failed: 0,
      cancelled,
      pending: 0,
      verified: true,
    };
    return [...out, { type: "bye", receipt: this.receipt }];
  }

  crash() {
    for (const { id } of this.requests.splice(this.committed)) {
      this.seqs.delete(id);
      this.cancelled.delete(id);
    }
  }
}
