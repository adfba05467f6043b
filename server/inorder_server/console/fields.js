// Form fields from a JSON Schema, and params from form fields. No page in it.

/** @typedef {Record<string, any>} Schema */
/**
 * @typedef {object} Field
 * @property {string} name
 * @property {"text" | "number" | "integer" | "boolean" | "json"} kind
 * @property {boolean} required
 * @property {string} hint what it takes, for a human
 */

/** The fields for a method's params. @param {Schema} schema @returns {Field[]} */
export function fieldsOf(schema) {
  const required = new Set(schema.required ?? []);
  return Object.entries(schema.properties ?? {}).map(([name, given]) => {
    const one = resolve(given, schema);
    return { name, kind: kindOf(one), required: required.has(name), hint: hintOf(one, given) };
  });
}

/**
 * Params from what stands in the fields; empty ones that are not required are left out. Throws
 * with the field's name as `field` where its text is not of its kind.
 *
 * @param {Field[]} fields
 * @param {(name: string) => string | boolean} read
 */
export function paramsOf(fields, read) {
  /** @type {Record<string, unknown>} */
  const params = {};
  for (const { name, kind, required } of fields) {
    const given = read(name);
    if (given === "" && !(required && kind === "text")) {
      if (required) throw wrong(name, "is needed");
      continue;
    }
    if (kind === "boolean" || kind === "text") {
      if (given !== false || required) params[name] = given;
    } else if (kind === "json") {
      params[name] = parse(name, String(given));
    } else {
      const number = Number(given);
      if (!Number.isFinite(number)) throw wrong(name, "is a number");
      if (kind === "integer" && !Number.isInteger(number)) throw wrong(name, "is a whole number");
      params[name] = number;
    }
  }
  return Object.keys(params).length ? params : undefined;
}

/** @param {Schema} given @param {Schema} root @returns {Schema} */
function resolve(given, root) {
  const name = typeof given.$ref === "string" ? given.$ref.split("/").at(-1) : null;
  if (name) return root.$defs?.[name] ?? {};
  // `int | None` and the like: null is the same as leaving it out.
  const choices = (given.anyOf ?? []).filter((/** @type {Schema} */ one) => one.type !== "null");
  return choices.length === 1 ? resolve(choices[0], root) : given;
}

/** @param {Schema} schema @returns {Field["kind"]} */
function kindOf({ type, enum: words }) {
  if (type === "string" || (words && !type)) return "text";
  if (type === "number" || type === "integer" || type === "boolean") return type;
  return "json";
}

/** @param {Schema} one @param {Schema} given */
function hintOf(one, given) {
  const said = [];
  if (one.enum) said.push(`one of ${one.enum.join(", ")}`);
  else if (kindOf(one) === "json") said.push(typeof one.type === "string" ? one.type : "JSON");
  const low = one.minimum ?? one.exclusiveMinimum;
  const high = one.maximum ?? one.exclusiveMaximum;
  if (low !== undefined) said.push(`${one.minimum === undefined ? "above" : "from"} ${low}`);
  if (high !== undefined) said.push(`${one.maximum === undefined ? "below" : "to"} ${high}`);
  if (given.default != null) said.push(`default ${JSON.stringify(given.default)}`);
  return said.join(", ");
}

/** @param {string} name @param {string} text */
function parse(name, text) {
  try {
    return JSON.parse(text);
  } catch {
    throw wrong(name, "is JSON");
  }
}

/** @param {string} field @param {string} said */
function wrong(field, said) {
  return Object.assign(new Error(`${field} ${said}`), { field });
}
