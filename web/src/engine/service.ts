/** The service that the page is connected to. */
import { ChalkError, Client, type ResolvedImage } from "chalkcompute/slim";
import { BuildTeller } from "./build.js";
import { basesOf } from "./preview.js";
import type { Answer, BuildPhase, Request as PageRequest } from "./protocol.js";

type BuildOptions = Extract<PageRequest, { type: "build" }>;

export class ServiceLink {
  #client: Client | null = null;
  #planning = new AbortController();
  #building: { cancel(): Promise<unknown>; abort: AbortController } | null = null;

  /** Requests for the events of the build that runs. */
  #connections = 0;

  constructor(private readonly tell: (answer: Answer) => void) {}

  async connect(server: string, token: string): Promise<void> {
    this.disconnect();
    try {
      const client = new Client({ server, token, fetch: (input, init) => this.#fetch(input, init) });
      const { version, registry } = await client.info();
      this.#client = client;
      this.tell({ type: "connected", server, version, registry });
    } catch (reason) {
      const wrongToken = reason instanceof ChalkError && reason.code === "unauthorized";
      this.tell({ type: "refused", ...words(reason), token: wrongToken });
    }
  }

  disconnect(): void {
    this.#planning.abort();
    this.#building?.abort.abort();
    this.#client = null;
  }

  /** Asks for the digests of the bases. */
  resolve(id: number, image: ResolvedImage): Promise<void> {
    return this.#asking("resolve", async (client) => {
      const { spec } = await client.resolve(image);
      const pinned = basesOf(spec, {}).flatMap(({ ref, digest }) => (digest ? [[ref, digest] as const] : []));
      this.tell({ type: "bases", id, pins: Object.fromEntries(pinned) });
    });
  }

  plan(id: number, image: ResolvedImage): Promise<void> {
    this.#planning.abort();
    this.#planning = new AbortController();
    const { signal } = this.#planning;
    return this.#asking("plan", async (client) => {
      try {
        const plan = await client.plan(image, { signal });
        const { exists, steps, upload_bytes: uploadBytes, nodes_warm: warmNodes } = plan;
        const states = steps.map(({ state }) => state);
        if (!signal.aborted) this.tell({ type: "service-plan", id, plan: { exists, states, uploadBytes, warmNodes } });
      } catch (reason) {
        if (!signal.aborted) throw reason;
      }
    });
  }

  async build(image: ResolvedImage, { name, force, secrets }: BuildOptions): Promise<void> {
    if (this.#building) return;
    const abort = new AbortController();
    this.#building = { cancel: () => Promise.resolve(abort.abort()), abort };
    this.#connections = 0;
    const teller = new BuildTeller(this.tell);
    await this.#asking("build", async (client) => {
      teller.phase("starting", "asking the service");
      const run = await client.build(image, {
        name: name || undefined,
        force,
        secrets,
        signal: abort.signal,
        onUpload: (progress) => teller.upload(progress),
      });
      this.#building = { cancel: () => run.cancel(), abort };
      for await (const event of run) teller.event(event);
      teller.end(await run.done);
    });
    this.#building = null;
    teller.flush();
  }

  async cancelBuild(): Promise<void> {
    await this.#asking("build", async () => {
      await this.#building?.cancel();
    });
  }

  /** The client connects again by itself; the user is told that it has to. */
  async #fetch(input: RequestInfo | URL, init: RequestInit | undefined): Promise<Response> {
    const events = /\/v1\/builds\/[^/]+\/events$/.test(input instanceof Request ? input.url : String(input));
    if (!events) return fetch(input, init);
    this.#connections += 1;
    const again = this.#connections > 1;
    const phase = (phase: BuildPhase, text: string) => this.tell({ type: "build-phase", phase, text });
    if (again) phase("reconnecting", "the connection was lost; connecting again");
    const response = await fetch(input, init);
    if (again && response.ok) phase("running", "connected again; nothing of the log was missed");
    return response;
  }

  async #asking(about: "resolve" | "plan" | "build", ask: (client: Client) => Promise<void>): Promise<void> {
    if (!this.#client) return;
    try {
      await ask(this.#client);
    } catch (reason) {
      this.tell({ type: "service-problem", about, ...words(reason) });
    }
  }
}

function words(reason: unknown): { message: string; hint: string } {
  if (reason instanceof ChalkError) return { message: reason.reason, hint: reason.hint };
  return { message: reason instanceof Error ? reason.message : String(reason), hint: "" };
}
