const worker = new Worker("worker.mjs", { type: "module" });
worker.addEventListener("message", ({ data }) => (globalThis.outcome = data));
worker.addEventListener("error", ({ message }) => (globalThis.outcome = { error: message }));
