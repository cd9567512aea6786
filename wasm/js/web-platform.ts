/**
 * Browsers, workers and the like as a platform: the engine's SHA-256 for what is small or too big, the
 * host's own (WebCrypto) between. The limits come from `bench/digest.mjs`.
 */

import { engine } from "./engine.js";
import type { Platform } from "./platform.js";

/** Up to this many bytes asking WebCrypto takes longer than hashing. */
const SMALL = 1024;

/**
 * Largest contents that are held in memory for WebCrypto, which cannot hash in pieces. What is larger
 * is hashed by the engine in pieces: slower, in memory that does not grow, with progress on the way.
 */
const LARGE = 256 * 1024 * 1024;

/** Browsers, and any other host without a disk. */
export const web: Platform = {
  sha256(bytes) {
    // WebCrypto is only there in secure contexts: https and localhost.
    const subtle = globalThis.crypto?.subtle as SubtleCrypto | undefined;
    if (bytes.length <= SMALL || !subtle) return engine().sha256(bytes);
    return subtle.digest("SHA-256", bytes).then((digest) => new Uint8Array(digest));
  },
  hasher: () => {
    const hasher = new (engine().Sha256)();
    return {
      update: (piece) => hasher.update(piece),
      digest() {
        const digest = hasher.digest();
        hasher.free();
        return digest;
      },
    };
  },
  wholeLimit: LARGE,
};
