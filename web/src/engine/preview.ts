import { type Image, type ResolvedImage, diff } from "chalkcompute/slim";
import { faultsOf } from "./fault.js";
import type { BaseImage, Output, Preview } from "./protocol.js";

/** Everything that the page shows of an image. */
export async function previewOf(
  image: Image,
  pinned: ResolvedImage,
  bases: BaseImage[],
  kept: ResolvedImage | null,
): Promise<Preview> {
  const plan = pinned.plan();
  return {
    recipeHash: pinned.recipeHash,
    imageHash: pinned.imageHash,
    bases,
    platform: plan.platform,
    steps: plan.steps.map(({ kind, key, title }) => ({ kind, key, title })),
    warnings: pinned.warnings.map(({ path, message, hint }) => ({
      severity: "warning",
      message,
      hint,
      field: path,
      file: null,
      line: null,
      column: null,
    })),
    secrets: [...new Set(pinned.steps.flatMap((step) => ("secrets" in step ? (step.secrets ?? []) : [])))],
    outputs: {
      dockerfile: output(() => pinned.toDockerfile()),
      canonical: output(() => pinned.canonical),
      spec: output(() => JSON.stringify(pinned.spec, null, 2)),
      toml: output(() => image.toTOML()),
    },
    diff: kept && (await diff(kept, pinned)),
  };
}

function output(make: () => string): Output {
  try {
    return { text: make() };
  } catch (reason) {
    const [fault] = faultsOf(reason, null, null);
    return { none: [fault?.message, fault?.hint].filter(Boolean).join("; ") };
  }
}

interface Instruction {
  images?: unknown[];
}

interface SpecBases {
  base?: { dockerfile?: { stages: { base: unknown; instructions?: Instruction[] }[] } } | string;
  steps?: Instruction[];
}

/** The images that a spec starts from or copies from, each once, in order. */
export function basesOf(spec: object, pins: Readonly<Record<string, string>>): BaseImage[] {
  const { base, steps = [] } = spec as SpecBases;
  const found = new Map<string, BaseImage>();
  const add = (image: unknown) => {
    const { ref, digest } = (image ?? {}) as { ref?: unknown; digest?: unknown };
    if (typeof ref !== "string" || found.has(ref)) return;
    const declared = typeof digest === "string" ? digest : null;
    const given = declared === null ? (pins[ref] ?? null) : null;
    found.set(ref, { ref, digest: declared ?? given, given: given !== null });
  };
  add(base);
  const stages = typeof base === "object" ? (base.dockerfile?.stages ?? []) : [];
  for (const stage of stages) {
    add(stage.base);
    for (const { images = [] } of stage.instructions ?? []) images.forEach(add);
  }
  for (const { images = [] } of steps) images.forEach(add);
  return [...found.values()];
}
