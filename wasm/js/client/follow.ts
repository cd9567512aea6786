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
  /** Whether numbers may be missing before an event, which stands for what they were. */
  isGap?(event: E): boolean;
  /** The end is told whatever number was asked for. */
  readonly tellsEnd?: boolean;
  /** More may follow an end: it is over when the service ends the answer behind one. */
  readonly reopens?: boolean;
  /** Asked where an answer held nothing: whether no event may come any more beside those there are. */
  isOver?(signal: AbortSignal | undefined): Promise<boolean>;
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
  const place = new Place(connection, feed, after);
  for (let isOver = false; ; ) {
    const began = performance.now();
    let lost: unknown;
    let steady = false;
    let isEmpty = true;
    try {
      for await (const data of messages(connection, feed.path, place.last, signal)) {
        isEmpty = false;
        const event = eventOf<E>(connection, data);
        if (!place.takes(event)) continue;
        steady = true;
        yield event;
        if (place.atEnd && !feed.reopens) return;
      }
      if (place.atEnd) return;
      if (isEmpty) {
        // What came to its end while we looked is told by one more answer.
        if (isOver) return;
        isOver = (await feed.isOver?.(signal)) === true;
        if (isOver) continue;
      }
      lost = unreachable(connection.server, new Error(`the events ended before the ${feed.of}`));
    } catch (error) {
      if (!isTransient(error)) throw error;
      lost = error;
    }
    if (steady || performance.now() - began >= STEADY) backoff.reset();
    await backoff.wait(lost, signal);
  }
}

/** How far an iteration is. */
class Place<E extends Numbered> {
  /** Number of the last event that was taken. */
  last: number;
  /** Whether that was an end. */
  atEnd = false;
  readonly #connection: Connection;
  readonly #feed: Feed<E>;
  /** Number of the last event that was a gap. */
  #gap = 0;

  constructor(connection: Connection, feed: Feed<E>, after: number) {
    this.last = after;
    this.#connection = connection;
    this.#feed = feed;
  }

  /** Whether an event is a new one. @throws {@link ChalkError} when others are missing before it */
  takes(event: E): boolean {
    const { seq } = event;
    const isEnd = this.#feed.isEnd(event);
    const isGap = this.#feed.isGap?.(event) === true;
    // What is lost behind an event has no numbers, and so the number of that event.
    const isNew = seq > this.last || (isGap && seq === this.last && seq > this.#gap);
    if (!isNew && !(isEnd && this.#feed.tellsEnd)) return false;
    if (seq > this.last + 1 && !isGap) {
      throw strange(this.#connection.server, `event ${seq} came after event ${this.last}`);
    }
    this.last = Math.max(this.last, seq);
    if (isGap) this.#gap = seq;
    this.atEnd = isEnd;
    return true;
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
  if (parser.isInside) throw unreachable(connection.server, new Error("an event broke off"));
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
