// Types of the client, as a program sees them. Compiled, never run.

import {
  type Build,
  type BuildEvent,
  Client,
  Image,
  type Progress,
  type Sandbox,
  type SandboxProcess,
  ServiceError,
} from "chalkcompute";

const client = new Client({ server: "http://127.0.0.1:7474", token: "token" });
const image = Image.debianSlim().runCommands("true");
const signal = AbortSignal.timeout(1000);

const run = await client.build(image, {
  name: "team/app:v1",
  force: true,
  secrets: { TOKEN: "secret" },
  compression: "zstd",
  cancelOnDisconnect: true,
  onUpload: ({ bytes, bytesTotal }: Progress) => void (bytes / bytesTotal),
  signal,
});
for await (const event of run) {
  event satisfies BuildEvent;
  event.seq satisfies number;
  switch (event.type) {
    case "log":
      event.text satisfies string;
      event.stream satisfies "stdout" | "stderr";
      break;
    case "step_failed":
      event.exit_code satisfies number | null | undefined;
      break;
    case "finished":
      event.build satisfies Build;
      // @ts-expect-error an end has no output
      event.text;
      break;
  }
  // @ts-expect-error there is no such event
  if (event.type === "exploded") break;
}
const build = await run.done;
build.status satisfies "queued" | "running" | "built" | "reused" | "failed" | "cancelled";
build.error?.title satisfies string | undefined;
(await run.cancel()) satisfies Build;
// @ts-expect-error names a build for good
run.id = "other";

for await (const text of client.logs(run.id, { step: 0, follow: true, signal })) text satisfies string;
for await (const event of client.follow(run.id, { after: 7 })) event.time satisfies string;
(await client.builds({ limit: 1, name: "a", hash: "b" }))[0]?.image_hash satisfies string | undefined;
(await client.images({ signal }))[0]?.names satisfies string[] | undefined;
(await client.image("12345678")).spec.schema satisfies string;
(await client.resolve(image)).image_hash satisfies string;
(await client.plan(image.toJSON())).steps.map(({ state }) => state) satisfies ("cached" | "run")[];
(await client.diff("12345678", await image.resolve())).changes[0]?.path satisfies string | undefined;
const why = await client.why(image, { name: "a" });
why.equal satisfies boolean;
why.against.image_hash satisfies string;

try {
  await client.info();
} catch (error) {
  if (error instanceof ServiceError) error.status satisfies number;
}

// @ts-expect-error a token is needed
new Client({ server: "http://127.0.0.1:7474" });
// @ts-expect-error no such compression
await client.build(image, { compression: "rar" });
// @ts-expect-error not an image
await client.build("image.toml");
// @ts-expect-error the signal is an option
await client.info(signal);

// Nodes.
(await client.nodes.list({ signal }))[0]?.state satisfies "ready" | "draining" | "lost" | undefined;
(await client.nodes.drain("n1")).labels["gpu"] satisfies string | undefined;
(await client.nodes.remove("n1")) satisfies void;
(await client.nodes.cache("n1")).items.map(({ kind }) => kind) satisfies ("layer" | "blob" | "file")[];
(await client.nodes.unpin("n1", "12345678")) satisfies void;
(await client.nodes.removeFromCache("n1", "12345678")).freed_bytes satisfies number;
(await client.nodes.collect("n1", { dryRun: true, targetBytes: 5 })).kept[0]?.why satisfies string | undefined;
(await client.joinTokens.create({ region: "eu", ttlSeconds: 60, uses: 1 })).token satisfies string | null | undefined;
(await client.joinTokens.list())[0]?.expires satisfies string | undefined;
(await client.regions())[0]?.home satisfies boolean | undefined;
(await client.setPrewarm((await client.prewarm()).images)).states?.[0]?.nodes_ready satisfies number | undefined;
// @ts-expect-error bytes are a number
await client.nodes.collect("n1", { targetBytes: "5 GiB" });

// Warms.
const warm = await client.warm(
  { images: [image, await image.resolve(), "12345678"], labels: { gpu: "a100" }, pin: true, timeoutSeconds: 60 },
  { wait: true, signal, onEvent: (event) => void (event.type === "pulling" && event.layers.length) },
);
warm.status satisfies "running" | "ready" | "partly" | "failed" | "cancelled";
for (const { node, state, bytes_fetched, verified, error } of warm.nodes) {
  node satisfies string;
  state satisfies "queued" | "pulling" | "ready" | "failed";
  bytes_fetched satisfies number;
  verified satisfies boolean;
  error?.title satisfies string | undefined;
}
for await (const event of client.warms.events(warm.id, { after: 1 })) {
  if (event.type === "finished") event.warm.nodes.length satisfies number;
}
(await client.warms.wait((await client.warms.retry(warm.id)).id)).finished satisfies string | null | undefined;
// @ts-expect-error images are needed
await client.warm({ all: true });

// Sandboxes.
const sandbox = await client.sandboxes.run(image, {
  args: ["python3"],
  entrypoint: [],
  env: { A: "b" },
  mounts: [{ src: "data", dest: "/data", writable: true, exclude: ["*.log"] }, { src: { text: "a" }, dest: "/a" }],
  cpus: 0.5,
  memory: 1 << 30,
  gpus: "all",
  network: "none",
  tty: { rows: 24, cols: 80 },
  onUpload: ({ phase }) => phase satisfies "list" | "hash" | "upload",
  signal,
});
sandbox satisfies Sandbox;
sandbox.info.warm satisfies boolean;
for await (const bytes of sandbox.stdout) bytes satisfies Uint8Array;
for await (const line of sandbox.stderr.lines()) line satisfies string;
(await sandbox.stdout.text()) satisfies string;
for await (const item of sandbox.output) {
  if (item.type === "dropped") item.bytes satisfies number;
  else item.data satisfies Uint8Array;
}
await sandbox.write("text");
await sandbox.write(new Uint8Array(1));
await sandbox.closeStdin();
await sandbox.resize({ rows: 1, cols: 2 });
await sandbox.signal("TERM");
const process = await sandbox.exec(["ls"], { stdin: true, tty: true });
process satisfies SandboxProcess;
const { exitCode, endedBy } = await process.wait({ signal });
exitCode satisfies number;
endedBy satisfies "stopped" | "timed_out" | "out_of_memory" | "disconnected" | null;
(await sandbox.stop({ graceSeconds: 1 })).state satisfies "starting" | "running" | "exited" | "failed" | "lost";
(await sandbox.remove({ force: true })) satisfies void;
(await client.sandboxes.list({ all: true }))[0]?.node satisfies string | undefined;
(await client.sandboxes.attach("s1", { after: 3 })).attach("p1") satisfies SandboxProcess;
// @ts-expect-error a command has no commands in it
await process.exec(["ls"]);
// @ts-expect-error no such network
await client.sandboxes.run(image, { network: "bridge" });
// @ts-expect-error a mount has a place
await client.sandboxes.run(image, { mounts: [{ src: "a" }] });
