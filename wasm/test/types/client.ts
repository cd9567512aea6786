// Types of the client, as a program sees them. Compiled, never run.

import { type Build, type BuildEvent, Client, Image, type Progress, ServiceError } from "chalkcompute";

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
