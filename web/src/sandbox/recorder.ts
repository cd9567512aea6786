/**
 * Script of the sandbox's worker. It takes one piece of code, runs it as a module whose
 * `chalkcompute` is a recorder, and answers with the calls that the code made on `Image`.
 *
 * A classic script, because Chromium refuses module workers in a document without an origin.
 *
 * The worker is the border, not this file: code that tampers with the recorder only spoils its own
 * recording. What this file does keep safe is the page's thread: everything by which a worker could
 * flood it with messages is taken away before the code runs.
 */
import { link } from "./imports.js";
import { placeAt } from "./place.js";
import type { Argument, Call, Place, Recording } from "./recording.js";

const MAX_CALLS = 25_000;
const MAX_TEXT = 16 * 1024 * 1024;
const MAX_CONSOLE_LINES = 100;
const MAX_CONSOLE_LINE = 2_000;

const reply = self.postMessage.bind(self);
const stringify = JSON.stringify;
const objectUrl = URL.createObjectURL.bind(URL);
const recording: Recording = { calls: [], image: null, error: null, asked: null, console: [] };
let url = "";
let ended = false;

const STATICS = ["debianSlim", "base", "scratch", "fromDockerfile", "fromTOML", "fromJSON", "fromFile", "fromDeclaration"];
const METHODS = [
  "pipInstall", "pipInstallFromRequirements", "uvPipInstall", "uvPipInstallFromRequirements", "uvSync",
  "aptInstall", "runCommands", "dockerfileCommands", "addLocalFile", "addLocalDir", "workdir", "user", "platform",
  "name", "env", "runtimeEnv", "label", "entrypoint", "cmd",
];
const QUESTIONS = ["resolve", "hash", "stepKeys", "plan", "toDockerfile", "toTOML", "toJSON"];
const QUESTION_GETTERS = ["spec", "steps", "mounts"];

/** Ends the run from inside; never seen by the page. */
class Ended extends Error {}

class Image {
  readonly #index: number;

  constructor(index?: number) {
    if (typeof index !== "number") {
      throw new TypeError("an Image is made by Image.debianSlim(), Image.base() and the like");
    }
    this.#index = index;
  }

  static {
    for (const method of STATICS) {
      define(Image, method, (...args: unknown[]) => new Image(record(method, -1, args)));
    }
    for (const method of METHODS) {
      define(Image.prototype, method, function (this: Image, ...args: unknown[]) {
        return new Image(record(method, this.#index, args));
      });
    }
    for (const method of QUESTIONS) {
      define(Image.prototype, method, function (this: Image) {
        return ask(method, this.#index);
      });
    }
    for (const name of QUESTION_GETTERS) {
      const get = function (this: Image) {
        return ask(name, this.#index);
      };
      Object.defineProperty(Image.prototype, name, { get });
    }
  }

  /** Index of the call that made an image; null for anything else. */
  static indexOf(value: unknown): number | null {
    return typeof value === "object" && value !== null && #index in value ? value.#index : null;
  }
}

const indexOf = Image.indexOf;
Reflect.deleteProperty(Image, "indexOf");

class ChalkError extends Error {}

class Client {
  constructor() {
    throw new Error("the sandbox has no network; connect the page itself to a service instead");
  }
}

function diff(): never {
  return ask("diff", recording.calls.length - 1);
}

const API = { ChalkError, Client, diff, Image };

function define(target: object, name: string, value: unknown): void {
  Object.defineProperty(target, name, { value, writable: true, configurable: true });
}

function record(method: string, on: number, args: unknown[]): number {
  if (recording.calls.length >= MAX_CALLS) {
    throw new RangeError(`more than ${MAX_CALLS} calls on images`);
  }
  const call: Call = { method, on, args: args.map((arg, i) => encode(arg, `${method}: argument ${i + 1}`)), place: caller() };
  return recording.calls.push(call) - 1;
}

/** Ends the run where it asks for an answer; the image that it asks about is the one to show. */
function ask(method: string, image: number): never {
  if (!ended) {
    recording.asked = { method, place: caller() };
    recording.image = image < 0 ? null : image;
    finish();
  }
  throw new Ended();
}

/** Place in the code of the innermost frame that belongs to it. */
function caller(): Place | null {
  return placeIn(new Error().stack ?? "");
}

function placeIn(stack: string): Place | null {
  const at = stack.indexOf(`${url}:`);
  const found = at < 0 ? null : /^(\d+):(\d+)/.exec(stack.slice(at + url.length + 1));
  return found ? { line: Number(found[1]), column: Number(found[2]) } : null;
}

function encode(value: unknown, where: string): Argument {
  switch (typeof value) {
    case "undefined":
      return { $omitted: true };
    case "string":
    case "boolean":
      return value;
    case "number":
      if (Number.isFinite(value)) return value;
      break;
    case "object":
      if (value === null) return null;
      if (Array.isArray(value)) return value.map((item) => encode(item, where));
      if (value instanceof ArrayBuffer) return { $bytes: base64(new Uint8Array(value)) };
      if (ArrayBuffer.isView(value)) {
        return { $bytes: base64(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)) };
      }
      if (isPlain(value)) {
        const entries = Object.entries(value).filter(([, field]) => field !== undefined);
        return Object.fromEntries(entries.map(([name, field]) => [name, encode(field, where)]));
      }
      break;
  }
  const what = typeof value === "object" ? (value?.constructor?.name ?? "object") : typeof value;
  throw new TypeError(`${where} is a ${what}; the sandbox takes texts, numbers, lists, plain objects and bytes`);
}

function isPlain(value: object): boolean {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function base64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

function finish(): void {
  if (ended) return;
  ended = true;
  let text = stringify(recording);
  if (text.length > MAX_TEXT) {
    const error = { name: "RangeError", message: "the arguments of the calls hold more than 16 MiB", place: null };
    text = stringify({ ...recording, calls: [], image: null, error, console: [] });
  }
  reply(text);
}

function isolate(): void {
  const names = [
    "postMessage", "reportError", "BroadcastChannel", "Worker", "SharedWorker", "importScripts", "fetch",
    "XMLHttpRequest", "WebSocket", "EventSource", "WebTransport",
  ];
  for (let target: object | null = self; target; target = Object.getPrototypeOf(target) as object | null) {
    for (const name of names) Reflect.deleteProperty(target, name);
  }
  const log = (...values: unknown[]) => {
    if (recording.console.length < MAX_CONSOLE_LINES) {
      recording.console.push(values.map(show).join(" ").slice(0, MAX_CONSOLE_LINE));
    }
  };
  const quiet = { log, info: log, warn: log, error: log, debug: log, trace: log, dir: log, table: log, assert: () => {} };
  define(self, "console", Object.freeze(quiet));
  // Unhandled rejections and errors would be reported to the page's thread one by one.
  self.addEventListener("unhandledrejection", (event) => event.preventDefault());
  self.addEventListener("error", (event) => event.preventDefault());
}

function show(value: unknown): string {
  const index = indexOf(value);
  if (index !== null) return `Image (call ${index + 1})`;
  if (typeof value === "string") return value;
  try {
    return stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}

/** The package as a module that code can import, with its address. */
async function publish(): Promise<string> {
  const key = "chalkcompute";
  define(self, key, API);
  const names = Object.keys(API).join(", ");
  const module = objectUrl(script(`export const { ${names} } = self.${key};`));
  await import(/* @vite-ignore */ module);
  Reflect.deleteProperty(self, key);
  return module;
}

function script(text: string): Blob {
  return new Blob([text], { type: "text/javascript" });
}

async function run(code: string, module: string): Promise<void> {
  const linked = link(code, module);
  if (linked.foreign) {
    const { name, offset } = linked.foreign;
    const message = `\`${name}\` cannot be imported: the sandbox has no network and no files, only chalkcompute`;
    recording.error = { name: "Error", message, place: placeAt(code, offset) };
    return finish();
  }
  url = objectUrl(script(linked.code));
  isolate();
  try {
    const exports = (await import(/* @vite-ignore */ url)) as Record<string, unknown>;
    const last = recording.calls.length - 1;
    recording.image = indexOf(await exports["default"]) ?? indexOf(await exports["image"]) ?? (last < 0 ? null : last);
  } catch (reason) {
    if (!(reason instanceof Ended)) recording.error = errorOf(reason);
  }
  finish();
}

function errorOf(reason: unknown): Recording["error"] {
  const { name, message, stack } = reason instanceof Error ? reason : new Error(String(reason));
  // What Chromium says of a module that imports something that it may not fetch.
  if (message.endsWith(url)) {
    return { name: "Error", message: "something that the code imports cannot be: the sandbox has no network", place: null };
  }
  return { name, message, place: placeIn(stack ?? "") };
}

const published = publish();
self.addEventListener(
  "message",
  (event: MessageEvent<string>) => void published.then((module) => run(event.data, module)),
  { once: true },
);
