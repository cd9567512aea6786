import { Image } from "chalkcompute/slim";

/** Contents whose progress is worth telling. */
const LARGE = 8 * 1024 * 1024;

/**
 * SHA-256 of a file, as the package computes it: an image that holds nothing but the file names its
 * digest.
 */
export async function digestOf(file: Blob, signal: AbortSignal, onProgress: (done: number) => void): Promise<Uint8Array> {
  const image = Image.scratch().addLocalFile(file, "/file", { strategy: "copy" });
  const resolved = await image.resolve({
    signal,
    onProgress: file.size >= LARGE ? ({ bytes }) => onProgress(bytes) : undefined,
  });
  const step = resolved.steps[0];
  if (step?.kind !== "add_file") throw new Error("the engine gave no digest");
  const hex = step.digest.slice("sha256:".length);
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}
