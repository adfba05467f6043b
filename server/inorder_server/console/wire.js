// A WebSocket that can be cut on purpose, and stays cut until one resumes.

/** @type {WebSocket | null} */
let last = null;
let cut = false;

/** What a socket does where there is no network: it closes, and never was open. */
class NoWire {
  constructor() {
    /** @type {((event: any) => void) | null} */
    this.onclose = null;
    this.onopen = this.onerror = this.onmessage = null;
    queueMicrotask(() => this.onclose?.({ code: 1006, reason: "" }));
  }

  send() {}

  close() {}
}

/** In place of `WebSocket`. */
export const Wire = /** @type {any} */ (
  class {
    /** @param {string} url @param {string[]} protocols */
    constructor(url, protocols) {
      if (cut) return /** @type {any} */ (new NoWire());
      last = new WebSocket(url, protocols);
      return /** @type {any} */ (last);
    }
  }
);

/** As if the network had gone. */
export function breakOff() {
  cut = true;
  last?.close();
}

/** It is back, which a browser tells by `online`. */
export function mend() {
  cut = false;
  window.dispatchEvent(new Event("online"));
}
