/**
 * Checks of what callers without TypeScript may pass. What a text may hold is checked by the engine.
 */

import { ChalkError } from "./error.js";

/** A call that is being made, for errors. */
export class Call {
  /** As in errors: `call 3: addLocalFile`. */
  readonly path: string;

  /** `number` counts the calls of a chain, the constructor being 1. */
  constructor(number: number, method: string) {
    this.path = `call ${number}: ${method}`;
  }

  /** An error about an argument: `field` is `.dest`, `[0]`, or empty. */
  error(code: string, field: string, reason: string, hint = ""): ChalkError {
    return new ChalkError({ code, path: this.path + field, reason, hint });
  }

  /** The error of a value of another type. */
  wrongType(field: string, expected: string, found: unknown, hint = ""): ChalkError {
    return this.error("wrong-type", field, `expected ${expected}, found ${described(found)}`, hint);
  }

  /** A text. */
  text(value: unknown, field = ""): string {
    if (typeof value !== "string") {
      const quoted = typeof value === "number" || typeof value === "boolean";
      throw this.wrongType(field, "a text", value, quoted ? `write ${JSON.stringify(String(value))}` : "");
    }
    if (!isWellFormed(value)) {
      throw this.error("value", field, "the text holds half of a surrogate pair", "it must be valid Unicode");
    }
    return value;
  }

  /** A list of texts. */
  texts(value: unknown, field = ""): string[] {
    if (!Array.isArray(value)) throw this.wrongType(field, "a list of texts", value);
    return Array.from(value, (item, i) => this.text(item, `${field}[${i}]`));
  }

  /** A map of texts. */
  textMap(value: unknown, field = ""): Record<string, string> {
    if (!isPlainObject(value)) throw this.wrongType(field, "an object of texts", value);
    const entries = Object.entries(value).map(([name, text]) => {
      this.text(name, field);
      return [name, this.text(text, `${field}.${name}`)] as const;
    });
    return Object.fromEntries(entries);
  }

  /**
   * Options, of which only those that are there and known are given back; `undefined` counts as
   * absent.
   */
  options<K extends string>(value: unknown, known: readonly K[]): { [name in K]?: unknown } {
    if (value === undefined) return {};
    if (!isPlainObject(value)) throw this.wrongType("", "an object of options", value);
    const found: { [name in K]?: unknown } = {};
    for (const [name, option] of Object.entries(value)) {
      if (!known.includes(name as K)) {
        throw this.error(
          "unknown-field",
          `.${name}`,
          `no such option: \`${name}\``,
          `known here: ${known.join(", ")}`,
        );
      }
      if (option !== undefined) found[name as K] = option;
    }
    return found;
  }

  /**
   * Texts given one by one or as one list, and the options behind them:
   * `f("a", "b")`, `f(["a", "b"], { force: true })`.
   */
  textsAndOptions(given: readonly unknown[]): [texts: string[], options: unknown] {
    let rest = given;
    let options: unknown;
    const last = rest.at(-1);
    if (rest.length > 1 && (last === undefined || isPlainObject(last))) {
      options = last;
      rest = rest.slice(0, -1);
    }
    const [first] = rest;
    if (rest.length === 1 && Array.isArray(first)) return [this.texts(first), options];
    return [rest.map((item, i) => this.text(item, rest.length > 1 ? `[${i}]` : "")), options];
  }
}

/** Whether a value is an object as `{…}` makes it. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  // Objects of another realm have another `Object.prototype`, which has no prototype either.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

const LONE_SURROGATE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

function isWellFormed(text: string): boolean {
  const { isWellFormed: native } = text as { isWellFormed?: () => boolean };
  return native ? native.call(text) : !LONE_SURROGATE.test(text);
}

/** A value in words: `a number`, `nothing`, `a Promise`. */
export function described(value: unknown): string {
  switch (typeof value) {
    case "undefined":
      return "nothing";
    case "string":
      return "a text";
    case "number":
    case "bigint":
      return `the number ${value}`;
    case "boolean":
      return String(value);
    case "function":
      return "a function";
    case "symbol":
      return "a symbol";
  }
  if (value === null) return "null";
  if (Array.isArray(value)) return "a list";
  if (isPlainObject(value)) return "an object";
  const name = (value as { constructor?: { name?: string } }).constructor?.name;
  return name ? `${/^[aeiou]/i.test(name) ? "an" : "a"} ${name}` : "an object";
}
