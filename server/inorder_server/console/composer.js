// The composer: a method, its params by form or as JSON, once or a hundred times.

import { fieldsOf, paramsOf } from "./fields.js";

/** @typedef {import("./fields.js").Field} Field */
/** @typedef {{name: string, doc: string, params: Record<string, unknown>}} MethodLine */

export class Composer {
  /** @param {(method: string, params: unknown, times: number) => void} onSend */
  constructor(onSend) {
    this._send = onSend;
    this._form = /** @type {HTMLFormElement} */ (document.getElementById("composer"));
    this._method = /** @type {HTMLSelectElement} */ (document.getElementById("method"));
    this._doc = /** @type {HTMLElement} */ (document.getElementById("doc"));
    this._box = /** @type {HTMLElement} */ (document.getElementById("fields"));
    this._rawMode = /** @type {HTMLInputElement} */ (document.getElementById("raw-mode"));
    this._raw = /** @type {HTMLTextAreaElement} */ (document.getElementById("raw"));
    this._error = /** @type {HTMLElement} */ (document.getElementById("composer-error"));
    /** @type {MethodLine[]} */
    this._methods = [];
    /** @type {Field[]} */
    this._fields = [];
    this._method.addEventListener("change", () => this._choose());
    this._rawMode.addEventListener("change", () => {
      if (this._rawMode.checked) this._write();
      this._turn();
    });
    this._form.addEventListener("submit", (event) => this._submit(event));
  }

  /** @param {MethodLine[]} methods */
  offer(methods) {
    this._methods = methods;
    this._method.replaceChildren(...methods.map(({ name }) => new Option(name, name)));
    this._choose();
  }

  /** Whether there is a session to send in. @param {boolean} on */
  enable(on) {
    for (const button of this._form.querySelectorAll("button")) button.disabled = !on;
  }

  _choose() {
    const line = this._methods.find(({ name }) => name === this._method.value);
    this._doc.textContent = line?.doc ?? "";
    this._fields = fieldsOf(line?.params ?? {});
    this._box.replaceChildren(...this._fields.flatMap(controls));
    this._raw.value = "";
    // What takes any params has no fields to offer.
    this._rawMode.checked = this._fields.length === 0;
    this._turn();
  }

  _turn() {
    this._complain("");
    this._raw.hidden = !this._rawMode.checked;
    this._box.hidden = this._rawMode.checked;
  }

  /** The params of the form as JSON, to go on from there. */
  _write() {
    try {
      const params = paramsOf(this._fields, (name) => this._read(name));
      this._raw.value = params === undefined ? "" : JSON.stringify(params);
    } catch {
      // Not all is filled in yet.
    }
  }

  /** What stands in a field. @param {string} name */
  _read(name) {
    const input = /** @type {HTMLInputElement} */ (document.getElementById(`field-${name}`));
    return input.type === "checkbox" ? input.checked : input.value;
  }

  /** @param {SubmitEvent} event */
  _submit(event) {
    event.preventDefault();
    this._complain("");
    const times = Number(/** @type {HTMLButtonElement | null} */ (event.submitter)?.value || 1);
    try {
      this._send(this._method.value, this._params(), times);
    } catch (error) {
      const { message, field } = /** @type {Error & {field?: string}} */ (error);
      this._complain(message, field);
    }
  }

  _params() {
    if (!this._rawMode.checked) {
      return paramsOf(this._fields, (name) => this._read(name));
    }
    const text = this._raw.value.trim();
    try {
      return text === "" ? undefined : JSON.parse(text);
    } catch {
      throw Object.assign(new Error("This is not JSON"), { field: "" });
    }
  }

  /** @param {string} message @param {string} [field] "" is the text of all params */
  _complain(message, field) {
    this._error.textContent = message;
    for (const wrong of this._form.querySelectorAll("[aria-invalid]")) {
      wrong.removeAttribute("aria-invalid");
    }
    if (field === undefined) return;
    const input = field === "" ? this._raw : document.getElementById(`field-${field}`);
    input?.setAttribute("aria-invalid", "true");
    input?.focus();
  }
}

/** @param {Field} field @returns {HTMLElement[]} */
function controls({ name, kind, required, hint }) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  label.htmlFor = input.id = `field-${name}`;
  label.textContent = required ? name : `${name} (optional)`;
  input.autocomplete = "off";
  input.spellcheck = false;
  input.placeholder = hint;
  input.setAttribute("aria-describedby", "composer-error");
  if (kind === "boolean") input.type = "checkbox";
  else if (kind === "number" || kind === "integer") input.inputMode = "decimal";
  return [label, input];
}
