// Signing in and registering, with each error where it belongs.

/** @typedef {{username: string, password: string}} Credentials */

/** Which field an error is about, by its code. @type {Record<string, string>} */
const FIELDS = { name_taken: "name", unauthenticated: "password" };

export class SignIn {
  /** @param {(auth: Credentials, register: boolean) => Promise<void>} onEnter */
  constructor(onEnter) {
    this._enter = onEnter;
    this._form = /** @type {HTMLFormElement} */ (document.getElementById("signin-form"));
    this._form.addEventListener("submit", (event) => void this._submit(event));
  }

  /** Says why one is not in. @param {unknown} error @param {boolean} [registering] */
  complain(error, registering = false) {
    const { code, message, details } = /** @type {any} */ (error);
    const about = { username: "name", password: "password" };
    const field = about[/** @type {"username"} */ (details?.field)] ?? FIELDS[code];
    const texts = { name: "", password: "", signin: "" };
    texts[/** @type {"name"} */ (field ?? "signin")] =
      registering && code === "forbidden" ? CLOSED : (WORDS[code] ?? message);
    this._say(texts);
  }

  /** @param {SubmitEvent} event */
  async _submit(event) {
    event.preventDefault();
    const { name, password } = /** @type {any} */ (this._form.elements);
    const submitter = /** @type {HTMLButtonElement | null} */ (event.submitter);
    const register = submitter?.value === "register";
    const missing = {
      name: name.value === "" ? "A name is needed" : "",
      password: password.value === "" ? "A password is needed" : "",
      signin: "",
    };
    this._say(missing);
    if (missing.name || missing.password) return;
    const buttons = this._form.querySelectorAll("button");
    for (const button of buttons) button.disabled = true;
    try {
      await this._enter({ username: name.value, password: password.value }, register);
      password.value = "";
    } catch (error) {
      this.complain(error, register);
    } finally {
      for (const button of buttons) button.disabled = false;
      // A button that is disabled loses it.
      if (document.activeElement === document.body) submitter?.focus();
    }
  }

  /** @param {{name: string, password: string, signin: string}} texts */
  _say(texts) {
    let focused = false;
    for (const [field, text] of Object.entries(texts)) {
      const place = /** @type {HTMLElement} */ (document.getElementById(`${field}-error`));
      place.textContent = text;
      const input = document.getElementById(field);
      if (!(input instanceof HTMLInputElement)) continue;
      input.setAttribute("aria-invalid", String(text !== ""));
      if (text && !focused) input.focus();
      focused ||= text !== "";
    }
  }
}

const CLOSED = "Registering is not allowed here; ask the operator for an account";
/** Where the server's words are for programs. @type {Record<string, string>} */
const WORDS = {
  unauthenticated: "The name or the password is wrong",
  name_taken: "There is somebody of this name already",
  unreachable: "The server can't be reached, or does not admit this page",
};
