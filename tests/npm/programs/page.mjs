// What each page runs with the package as it got it; the outcome is what the test waits for.

import { checkVectors } from "./vectors/check.mjs";

export async function report(load) {
  try {
    globalThis.outcome = await results(await load());
  } catch (error) {
    globalThis.outcome = { error: error.message, code: error.code, hint: error.hint };
  }
}

export async function results({ Image }) {
  const read = async (name) => (await fetch(`/vectors/${name}`)).json();
  const seed = Image.debianSlim("3.12")
    .pipInstall(["requests", "pandas>=2.0"])
    .runCommands("apt-get update && apt-get install -y git curl")
    .workdir("/app")
    .env({ PROJECT_ROOT: "/app" });
  return { counts: await checkVectors(Image, read), seed: await seed.hash() };
}
