/**
 * Images as callers name them.
 */

import { ChalkError } from "../error.js";
import type { ReadOptions } from "../files/tree.js";
import type { ResolveRequest, ResolvedSpec, Spec } from "../generated/wire.js";
import { type Image, resolvedOf } from "../image.js";
import type { ResolvedImage } from "../resolved.js";
import type { CallOptions, Connection } from "./connection.js";

/** An image in any form. A {@link Spec} comes without its files: they must be on the service already. */
export type AnyImage = Image | ResolvedImage | Spec;

/** What a service is asked about an image. */
export async function requestFor(image: AnyImage, options: ReadOptions): Promise<ResolveRequest> {
  const { spec, uploads } = await resolvedOf(image, options);
  return { spec, blobs: Object.fromEntries(uploads.map(({ digest, size }) => [digest, size])) };
}

/**
 * What an image is called on a service: its hash, for which the service may have to pin its base, or the
 * text that was given.
 */
export async function imageAt(
  connection: Connection,
  image: AnyImage | string,
  { signal }: CallOptions,
): Promise<{ name: string; resolved?: ResolvedImage }> {
  if (typeof image === "string") return { name: image };
  if (typeof image !== "object" || image === null) {
    throw new ChalkError({
      code: "wrong-type",
      path: "image",
      reason: "expected an image, or the text of its hash, name or reference",
    });
  }
  const resolved = await resolvedOf(image, { signal });
  if (resolved.imageHash !== null) return { name: resolved.imageHash, resolved };
  const request = await requestFor(resolved, { signal });
  const pinned = await connection.json<ResolvedSpec>("POST", "/v1/resolve", { signal }, request);
  return { name: pinned.image_hash, resolved };
}
