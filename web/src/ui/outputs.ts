/** What the declaration comes to: steps, and the texts that it can be written as. */
import type { Output, OutputName, Preview, StepView } from "../engine/protocol.js";
import { copyButton } from "./copy.js";
import { fill, h } from "./dom.js";
import { count } from "./format.js";
import { Tabs } from "./tabs.js";

type Pane = "steps" | OutputName;

const TABS: readonly { key: Pane; name: string; what: string }[] = [
  { key: "steps", name: "Steps", what: "Steps with the keys of the layers up to and including each." },
  { key: "dockerfile", name: "Dockerfile", what: "An equivalent Dockerfile." },
  { key: "canonical", name: "Canonical JSON", what: "The exact bytes whose SHA-256 is the hash." },
  { key: "spec", name: "Spec JSON", what: "What SDKs send to the service; chalk reads it too." },
  { key: "toml", name: "image.toml", what: "The same declaration as image.toml." },
];

/** What a service says of a step. */
export type StepMark = "cached" | "run" | "running" | "ran" | "failed" | "reused" | "reruns";

const MARKS: Record<StepMark, string> = {
  cached: "cached",
  run: "will run",
  running: "running",
  ran: "ran",
  failed: "failed",
  reused: "as in A",
  reruns: "reruns",
};

export class Outputs {
  readonly element: HTMLElement;
  readonly #tabs: Tabs;
  readonly #panel = h("div", { class: "panel", tabindex: 0 });
  #preview: Preview | null = null;
  #marks: readonly (StepMark | undefined)[] = [];

  constructor() {
    this.#tabs = new Tabs("Forms of the spec", TABS, this.#panel, () => this.#draw());
    this.#tabs.select("steps");
    this.element = h("section", { class: "card outputs", "aria-label": "Spec" }, this.#tabs.list, this.#panel);
    this.#draw();
  }

  show(preview: Preview | null): void {
    this.#preview = preview;
    this.#tabs.badge("steps", preview?.steps.length ?? 0);
    this.#draw();
  }

  /** What is known of each step. */
  mark(marks: readonly (StepMark | undefined)[]): void {
    this.#marks = marks;
    if (this.#tabs.selected === "steps") this.#draw();
  }

  #draw(): void {
    const tab = TABS.find(({ key }) => key === this.#tabs.selected);
    if (!tab || !this.#preview) {
      fill(this.#panel, h("p", { class: "hint" }, "Nothing to show yet."));
      return;
    }
    if (tab.key === "steps") {
      fill(this.#panel, h("p", { class: "hint" }, tab.what), this.#steps(this.#preview.steps));
      return;
    }
    this.#text(tab.key, tab.what, this.#preview.outputs[tab.key]);
  }

  #text(name: OutputName, what: string, output: Output): void {
    if ("none" in output) {
      fill(this.#panel, h("p", { class: "hint" }, `There is none: ${output.none}`));
      return;
    }
    const { text } = output;
    const size = new TextEncoder().encode(text).length;
    const wrap = name === "canonical" ? "text wrap" : "text";
    fill(
      this.#panel,
      h(
        "div",
        { class: "panel-head" },
        h("p", { class: "hint" }, name === "canonical" ? `${what} ${count(size, "byte")}.` : what),
        copyButton(TABS.find(({ key }) => key === name)?.name ?? name, () => text),
      ),
      h("pre", { class: wrap, tabindex: 0 }, text),
    );
  }

  #steps(steps: readonly StepView[]): HTMLElement {
    if (steps.length === 0) return h("p", {}, "No steps: the image is its base.");
    return h("ol", { class: "steps" }, ...steps.map((step, i) => stepRow(step, this.#marks[i])));
  }
}

function stepRow({ kind, key, title }: StepView, mark: StepMark | undefined): HTMLElement {
  return h(
    "li",
    { class: "step" },
    h(
      "div",
      { class: "step-head" },
      h("span", { class: "kind" }, kind),
      h("span", { class: "title" }, titleWithout(kind, title)),
      mark && h("span", { class: `mark ${mark}` }, MARKS[mark]),
    ),
    h("div", { class: "step-key" }, h("code", {}, key), copyButton(`key of ${title}`, () => key)),
  );
}

/** Titles begin with the kind, which stands beside them. */
function titleWithout(kind: string, title: string): string {
  const start = title.slice(0, kind.length + 1).toLowerCase();
  return start === `${kind} ` ? title.slice(kind.length + 1) : title;
}
