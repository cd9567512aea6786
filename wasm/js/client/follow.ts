/**
 * Following the events of a build over broken connections and restarts of the service.
 */

import type { Build, BuildEvent } from "../generated/wire.js";
import { Backoff } from "./backoff.js";
import { type CallOptions, type Connection, segment } from "./connection.js";
import { isTransient, strange, unreachable } from "./problem.js";
import { EventParser } from "./sse.js";
import { pieces } from "./stream.js";

/** Milliseconds without a sign of life; the service sends one every 15 s. */
const SILENCE = 45_000;
/** A connection that held so many milliseconds was a good one, even if nothing happened in the build. */
const STEADY = 10_000;
/** No event has this number: who asks for what comes after it is told the end of the build only. */
const NO_EVENT = Number.MAX_SAFE_INTEGER;

/**
 * Events of a build after number `after`, each once and in order, to its end.
 *
 * @throws {@link ChalkError} `not-found` when the service does not know the build (any more);
 *   `unreachable` when it stays away longer than the client's patience
 */
export async function* follow(
  connection: Connection,
  id: string,
  after: number,
  { signal }: CallOptions,
): AsyncGenerator<BuildEvent, void, undefined> {
  const backoff = new Backoff(connection.patience);
  let last = after;
  for (;;) {
    const began = performance.now();
    let lost: unknown;
    let steady = false;
    try {
      for await (const data of messages(connection, id, last, signal)) {
        const event = eventOf(connection, data);
        if (event.seq <= last) continue;
        if (event.seq !== last + 1) {
          throw strange(connection.server, `event ${event.seq} came after event ${last}`);
        }
        last = event.seq;
        steady = true;
        yield event;
        if (event.type === "finished") return;
      }
      lost = unreachable(connection.server, new Error("the events ended before the build"));
    } catch (error) {
      if (!isTransient(error)) throw error;
      lost = error;
    }
    if (steady || performance.now() - began >= STEADY) backoff.reset();
    await backoff.wait(lost, signal);
  }
}

/** Waits for the end of a build without its events. Counts as following it. */
export async function ended(
  connection: Connection,
  id: string,
  { signal }: CallOptions,
): Promise<Build> {
  const backoff = new Backoff(connection.patience);
  for (;;) {
    const began = performance.now();
    let lost: unknown = unreachable(connection.server, new Error("the build does not end"));
    try {
      for await (const _ of messages(connection, id, NO_EVENT, signal));
      const build = await connection.json<Build>("GET", `/v1/builds/${segment(id)}`, { signal });
      if (build.status !== "queued" && build.status !== "running") return build;
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
  id: string,
  after: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<string, void, undefined> {
  const path = `/v1/builds/${segment(id)}/events`;
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

function eventOf(connection: Connection, data: string): BuildEvent {
  try {
    const event = JSON.parse(data) as BuildEvent | null;
    if (typeof event?.seq === "number" && typeof event.type === "string") return event;
  } catch (error) {
    throw strange(connection.server, "an event is no JSON", error);
  }
  throw strange(connection.server, "an event has no number or no type");
}
