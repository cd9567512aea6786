import { createHash } from "node:crypto";
import { build, type Plugin, type Rolldown } from "vite";

const VIRTUAL = "virtual:recorder";

/**
 * Makes `sandbox.html`: one document that holds its script, and the worker's script inside that, so
 * that it needs no request of its own and its policy can name the one script that may run.
 */
export function sandboxPage(): Plugin {
  return {
    name: "chalk-sandbox-page",
    async generateBundle() {
      const recorder = await bundle("src/sandbox/recorder.ts");
      const frame = await bundle("src/sandbox/frame.ts", {
        name: "chalk-recorder",
        resolveId: (id) => (id === VIRTUAL ? VIRTUAL : null),
        load: (id) => (id === VIRTUAL ? `export default ${JSON.stringify(recorder)}` : null),
      });
      this.emitFile({ type: "asset", fileName: "sandbox.html", source: page(frame) });
    },
  };
}

async function bundle(entry: string, plugin?: Plugin): Promise<string> {
  const result = (await build({
    configFile: false,
    logLevel: "warn",
    plugins: plugin ? [plugin] : [],
    build: { write: false, target: "es2022", lib: { entry, formats: ["iife"], name: "sandbox" } },
  })) as Rolldown.RolldownOutput[];
  const code = result[0]?.output[0]?.code;
  if (!code) throw new Error(`${entry} gave no code`);
  return code.trim();
}

function page(script: string): string {
  if (script.includes("</script")) throw new Error("the sandbox's script would end its own element");
  const hash = createHash("sha256").update(script).digest("base64");
  const policy = `default-src 'none'; script-src 'sha256-${hash}' blob:; worker-src blob:`;
  return [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8">',
    `<meta http-equiv="Content-Security-Policy" content="${policy}">`,
    "<title>Sandbox for JavaScript</title></head>",
    `<body><script>${script}</script></body></html>\n`,
  ].join("\n");
}
