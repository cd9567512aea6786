/**
 * Following numbered events over broken connections and restarts of the service.
 */

import { Backoff } from "./backoff.js";
import { type CallOptions, type Connection } from "./connection.js";
import { isTransient, strange, unreachable } from "./problem.js";
import { EventParser } from "./sse.js";
import { pieces } from "./stream.js";

/** Milliseconds without a sign of life; the service sends one every 15 s. */
const SILENCE = 45_000;
/** A connection that held so many milliseconds was a good one, even if nothing happened meanwhile. */
const STEADY = 10_000;
/** No event has this number: who asks for what comes after it is told the end only. */
const NO_EVENT = Number.MAX_SAFE_INTEGER;

/** What every event has. */
export interface Numbered {
  /** From 1. */
  readonly seq: number;
  readonly type: string;
}

/** Events that a service tells one after the other. */
export interface Feed<E extends Numbered> {
  /** Where they are asked for. */
  readonly path: string;
  /** What they tell of: `build`. */
  readonly of: string;
  /** Whether an event is the last one. */
  isEnd(event: E): boolean;
  /** Numbers may be missing, and the end is told whatever number was asked for. */
  readonly gaps?: boolean;
  /** More may follow an end: it is over when the service ends the answer behind one. */
  readonly reopens?: boolean;
}

/**
 * Events after number `after`, each once and in order, to the end.
 *
 * @throws {@link ChalkError} `not-found` when the service does not know what they tell of (any more);
 *   `unreachable` when it stays away longer than the client's patience
 */
export async function* follow<E extends Numbered>(
  connection: Connection,
  feed: Feed<E>,
  after: number,
  { signal }: CallOptions,
): AsyncGenerator<E, void, undefined> {
  const backoff = new Backoff(connection.patience);
  let last = after;
  let atEnd = false;
  for (;;) {
    const began = performance.now();
    let lost: unknown;
    let steady = false;
    try {
      for await (const data of messages(connection, feed.path, last, signal)) {
        const event = eventOf<E>(connection, data);
        const isEnd = feed.isEnd(event);
        if (event.seq <= last && !(isEnd && feed.gaps)) continue;
        if (event.seq !== last + 1 && !feed.gaps) {
          throw strange(connection.server, `event ${event.seq} came after event ${last}`);
        }
        last = Math.max(last, event.seq);
        atEnd = isEnd;
        steady = true;
        yield event;
        if (isEnd && !feed.reopens) return;
      }
      if (atEnd) return;
      lost = unreachable(connection.server, new Error(`the events ended before the ${feed.of}`));
    } catch (error) {
      if (!isTransient(error)) throw error;
      lost = error;
    }
    if (steady || performance.now() - began >= STEADY) backoff.reset();
    await backoff.wait(lost, signal);
  }
}

/**
 * Waits for the end without the events before it. Counts as following.
 *
 * @param look - Told the last event, where the service tells it. Gives what is wanted, or `undefined`
 *   when it was no end.
 */
export async function ended<E extends Numbered, T>(
  connection: Connection,
  feed: Feed<E>,
  { signal }: CallOptions,
  look: (end: E | undefined) => Promise<T | undefined>,
): Promise<T> {
  const backoff = new Backoff(connection.patience);
  for (;;) {
    const began = performance.now();
    let lost: unknown = unreachable(connection.server, new Error(`the ${feed.of} does not end`));
    try {
      let end: E | undefined;
      for await (const data of messages(connection, feed.path, NO_EVENT, signal)) {
        const event = eventOf<E>(connection, data);
        if (!feed.isEnd(event)) continue;
        end = event;
        break;
      }
      const found = await look(end);
      if (found !== undefined) return found;
    } catch (error) {
      if (!isTransient(error)) throw error;
      lost = error;
    }
    if (performance.now() - began >= STEADY) backoff.reset();
    await backoff.wait(lost, signal);
  }
}

/** Data of the events that one connection gives. */
async function* messages(
  connection: Connection,
  path: string,
  after: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<string, void, undefined> {
  const headers = { accept: "text/event-stream", "last-event-id": String(after) };
  const parser = new EventParser();
  const silence = Math.min(SILENCE, Math.max(connection.patience, 1));
  for await (const piece of pieces(connection, path, { headers, signal }, silence)) {
    let events: string[];
    try {
      events = parser.push(piece);
    } catch (error) {
      throw strange(connection.server, String(error), error);
    }
    yield* events;
  }
}

function eventOf<E extends Numbered>(connection: Connection, data: string): E {
  try {
    const event = JSON.parse(data) as E | null;
    if (typeof event?.seq === "number" && typeof event.type === "string") return event;
  } catch (error) {
    throw strange(connection.server, "an event is no JSON", error);
  }
  throw strange(connection.server, "an event has no number or no type");
}
