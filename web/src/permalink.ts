/**
 * Links that carry a declaration in their fragment, which browsers never send to a server:
 * `#v1=` and the base64url of the deflate-raw compressed JSON of a {@link Shared}. A token may stand
 * beside it: `#token=…&v1=…`.
 */
import { type TabKey, isTab } from "./examples.js";

/** What a link carries. */
export interface Shared {
  tab: TabKey;
  text: string;
  /** Digests of bases, by reference. */
  pins: Record<string, string>;
}

/** What a fragment holds. */
export interface Fragment {
  token: string | null;
  /** A declaration, why there is none, or null when the link carries none. */
  shared: Shared | { problem: string } | null;
}

const VERSION = "v1";
/** Largest JSON that a link may unpack to: a small link must not fill memory. */
const MAX_BYTES = 8 * 1024 * 1024;
const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** The value of the fragment, without `#`. */
export async function encode({ tab, text, pins }: Shared): Promise<string> {
  const json = JSON.stringify(Object.keys(pins).length > 0 ? { tab, text, pins } : { tab, text });
  const packed = new Blob([json]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  const text64 = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return `${VERSION}=${text64}`;
}

/** Reads a fragment, with or without its `#`. */
export async function decode(fragment: string): Promise<Fragment> {
  const found: Fragment = { token: null, shared: null };
  for (const part of fragment.replace(/^#/, "").split("&")) {
    const at = part.indexOf("=");
    const name = part.slice(0, Math.max(0, at));
    const value = part.slice(at + 1);
    if (name === "token") found.token = decodeURIComponent(value);
    else if (name === VERSION) found.shared = await unpack(value);
    else if (/^v\d+$/.test(name)) found.shared = { problem: unknownVersion(name) };
    else if (part !== "" && found.shared === null) found.shared = { problem: "The link is damaged: it does not begin as links of this page do." };
  }
  return found;
}

function unknownVersion(name: string): string {
  return `The link has format ${name}, which this page does not know (it knows ${VERSION}). Open it with a newer version of the page.`;
}

async function unpack(value: string): Promise<Shared | { problem: string }> {
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    const binary = atob(value.replaceAll("-", "+").replaceAll("_", "/"));
    bytes = Uint8Array.from(binary, (character) => character.charCodeAt(0));
  } catch {
    return damaged("it holds characters that no link has");
  }
  let json: string;
  try {
    json = await inflate(bytes);
  } catch (reason) {
    return damaged(reason instanceof RangeError ? reason.message : "it was cut off or changed on the way");
  }
  return check(json);
}

async function inflate(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.length;
    if (size > MAX_BYTES) {
      await reader.cancel();
      throw new RangeError("it unpacks to more than 8 MiB");
    }
    text += decoder.decode(value, { stream: true });
  }
}

function check(json: string): Shared | { problem: string } {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return damaged("what it holds is no JSON");
  }
  if (typeof value !== "object" || value === null) return damaged("what it holds is no declaration");
  const { tab, text, pins = {} } = value as Partial<Record<keyof Shared, unknown>>;
  if (!isTab(tab) || typeof text !== "string") return damaged("what it holds is no declaration");
  if (typeof pins !== "object" || pins === null) return damaged("its digests cannot be read");
  const digests = Object.entries(pins);
  if (!digests.every(([, digest]) => typeof digest === "string" && DIGEST.test(digest))) {
    return damaged("its digests cannot be read");
  }
  return { tab, text, pins: Object.fromEntries(digests) as Record<string, string> };
}

function damaged(why: string): { problem: string } {
  return { problem: `The link is damaged: ${why}. Copy it again from where it came; nothing of it was taken over.` };
}
