/** Building on the connected service. */
import type { Answer, BuildPhase, ServicePlanView } from "../engine/protocol.js";
import { announcer } from "./announce.js";
import { copyButton } from "./copy.js";
import { fill, h } from "./dom.js";
import { bytes, count, seconds } from "./format.js";
import { LogView } from "./log.js";

export interface BuildHost {
  build(options: { name: string; force: boolean; secrets: Record<string, string> }): void;
  cancel(): void;
}

type Ended = Extract<Answer, { type: "build-ended" }>;

export class BuildPanel {
  readonly element: HTMLElement;
  readonly #plan = h("p", { class: "hint" });
  readonly #status = h("p", { class: "build-status" });
  readonly #name = h("input", { id: "build-name", type: "text", placeholder: "team/app:v1", spellcheck: "false", autocomplete: "off" });
  readonly #force = h("input", { id: "build-force", type: "checkbox" });
  readonly #start: HTMLButtonElement;
  readonly #cancel: HTMLButtonElement;
  readonly #secrets = h("div", { class: "secrets" });
  readonly #log = new LogView();
  #possible = false;
  #running = false;

  constructor(host: BuildHost) {
    this.#start = h("button", { type: "submit", class: "primary" }, "Build");
    this.#cancel = h("button", { type: "button", hidden: true, onclick: () => host.cancel() }, "Cancel build");
    const form = h(
      "form",
      {
        class: "build-form",
        onsubmit: (event: SubmitEvent) => {
          event.preventDefault();
          if (!this.#possible || this.#running) return;
          this.#log.clear();
          host.build({ name: this.#name.value.trim(), force: this.#force.checked, secrets: this.#given() });
        },
      },
      h("label", { for: "build-name" }, "Name (optional)"),
      this.#name,
      this.#secrets,
      h("label", { class: "check" }, this.#force, "Run cached steps too"),
      this.#start,
      this.#cancel,
    );
    this.#log.element.hidden = true;
    this.element = h(
      "section",
      { class: "card build", "aria-labelledby": "build-title", hidden: true },
      h("div", { class: "card-head" }, h("h2", { id: "build-title" }, "Build")),
      this.#plan,
      form,
      this.#status,
      this.#log.element,
    );
  }

  setConnected(connected: boolean): void {
    this.element.hidden = !connected;
    if (!connected) this.#run(false);
  }

  /** Whether there is a spec to build. */
  setPossible(possible: boolean): void {
    this.#possible = possible;
    this.#start.disabled = !possible;
  }

  /** Asks for the values of secrets; what was typed for one that stays is kept. */
  secrets(names: readonly string[]): void {
    if (names.join() === this.#secrets.dataset["names"]) return;
    const given = this.#given();
    this.#secrets.dataset["names"] = names.join();
    const fields = names.map((name) => {
      const field = h("input", { type: "password", name, autocomplete: "off" });
      field.value = given[name] ?? "";
      return h("label", {}, `Secret ${name}`, field);
    });
    fill(this.#secrets, ...fields);
  }

  #given(): Record<string, string> {
    const fields = [...this.#secrets.querySelectorAll("input")].filter(({ value }) => value !== "");
    return Object.fromEntries(fields.map(({ name, value }) => [name, value]));
  }

  plan(plan: ServicePlanView | null): void {
    if (!plan) {
      this.#plan.textContent = "";
      return;
    }
    const runs = plan.states.filter((state) => state === "run").length;
    const parts = plan.exists && runs === 0
      ? ["The image is there: a build would run nothing."]
      : [`${count(plan.states.length - runs, "step")} cached in the region, ${runs} to run.`];
    if (plan.uploadBytes > 0) parts.push(`${bytes(plan.uploadBytes)} to upload.`);
    if (plan.warmNodes.length > 0) parts.push(`Warm on ${plan.warmNodes.join(", ")}.`);
    this.#plan.textContent = parts.join(" ");
  }

  phase(phase: BuildPhase, text: string): void {
    if (phase !== "ended") this.#run(true);
    this.#status.textContent = text;
    this.#status.dataset["phase"] = phase;
  }

  log(lines: readonly string[]): void {
    this.#log.element.hidden = false;
    this.#log.add(lines);
  }

  ended({ status, image, digest, seconds: took }: Ended): void {
    this.#run(false);
    this.#status.dataset["phase"] = status;
    const words = { built: `Built in ${seconds(took)}`, reused: "Reused: the image was there" }[status] ?? `Ended: ${status}`;
    fill(this.#status, h("strong", {}, words));
    if (image) this.#status.append(" ", h("code", {}, image), copyButton("reference of the image", () => image));
    if (digest) this.#status.append(h("span", { class: "hint" }, " manifest ", h("code", {}, digest)));
    announcer.say(words);
  }

  problem(message: string): void {
    this.#run(false);
    this.#status.dataset["phase"] = "failed";
    this.#status.textContent = message;
    announcer.say(message);
  }

  #run(running: boolean): void {
    this.#running = running;
    this.#start.disabled = !this.#possible;
    this.#start.hidden = running;
    this.#cancel.hidden = !running;
  }
}
