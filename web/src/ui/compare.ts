/** “What would rebuild?”: the spec that was kept as A against the one in the editor. */
import type { Diff } from "chalkcompute/slim";
import type { Preview } from "../engine/protocol.js";
import { announcer } from "./announce.js";
import { fill, h } from "./dom.js";
import { count, shortDigest } from "./format.js";

/** Leaves beyond these are told by their number. */
const MAX_CHANGES = 200;

export interface Kept {
  hash: string;
  pinned: boolean;
  /** Tab that it was written in. */
  tab: string;
}

export class Compare {
  readonly element: HTMLElement;
  readonly #body = h("div", {});
  readonly #actions: HTMLElement;
  #kept: Kept | null = null;
  #said = "";

  constructor(host: { forget(): void; restore(): void }) {
    this.#actions = h(
      "div",
      { class: "actions" },
      h("button", { type: "button", class: "quiet", onclick: () => host.restore() }, "Back to A"),
      h("button", { type: "button", class: "quiet", onclick: () => host.forget() }, "Forget A"),
    );
    this.element = h(
      "section",
      { class: "card compare", "aria-labelledby": "compare-title" },
      h("div", { class: "card-head" }, h("h2", { id: "compare-title" }, "What would rebuild?"), this.#actions),
      this.#body,
    );
    this.keep(null);
  }

  keep(kept: Kept | null): void {
    this.#kept = kept;
    this.#actions.hidden = kept === null;
    this.show(null);
  }

  show(preview: Preview | null): void {
    const kept = this.#kept;
    if (!kept) {
      fill(this.#body, h("p", { class: "hint" }, "Keep the spec as A, then edit: this shows what the edit runs again, and which leaf is the reason."));
      return;
    }
    const kind = kept.pinned ? "image hash" : "recipe hash";
    const about = h("p", { class: "hint" }, `A is from ${kept.tab}, ${kind} `, h("code", { title: kept.hash }, shortDigest(kept.hash)), ".");
    const diff = preview?.diff;
    if (!diff) {
      fill(this.#body, about, h("p", {}, preview ? "Nothing was edited since." : "There is nothing to compare with while the text is wrong."));
      return;
    }
    const steps = preview?.steps.length ?? 0;
    const verdict = verdictOf(diff, steps);
    if (verdict !== this.#said) announcer.say(verdict);
    this.#said = verdict;
    fill(
      this.#body,
      about,
      h("p", { class: diff.equal ? "verdict equal" : "verdict differs" }, verdict),
      diff.reruns.length > 0 && reruns(diff),
      diff.changes.length > 0 && changes(diff),
    );
  }
}

function verdictOf({ equal, first_step: first, reruns }: Diff, steps: number): string {
  if (equal) return "Equal: same hash, nothing would rebuild.";
  if (first === null || first === undefined) return "Differs: another hash, but no step runs again; only the image's config is written.";
  const reused = steps - reruns.length;
  const kept = reused > 0 ? `${count(reused, "step")} reused` : "nothing reused";
  return `Differs: step ${first + 1} of ${steps} is the first that runs again, ${count(reruns.length, "step")} in all, ${kept}.`;
}

function reruns({ reruns }: Diff): HTMLElement {
  return h(
    "div",
    {},
    h("h3", {}, "Runs again"),
    h("ol", { class: "reruns" }, ...reruns.map(({ step, title }) => h("li", { value: step + 1 }, h("span", {}, title)))),
  );
}

function changes({ changes }: Diff): HTMLElement {
  const rows = changes.slice(0, MAX_CHANGES).map(({ path, before, after }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, path)),
      h("td", { class: "before" }, value(before)),
      h("td", { class: "after" }, value(after)),
    ),
  );
  const rest = changes.length - rows.length;
  return h(
    "div",
    { class: "table-box", tabindex: 0, role: "group", "aria-label": "Leaves that differ" },
    h("h3", {}, "Differs in"),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Leaf"), h("th", { scope: "col" }, "A"), h("th", { scope: "col" }, "Now"))),
      h("tbody", {}, ...rows),
    ),
    rest > 0 && h("p", { class: "hint" }, `and ${rest} more`),
  );
}

function value(leaf: unknown): HTMLElement {
  if (leaf === null || leaf === undefined) return h("span", { class: "absent" }, "absent");
  return h("code", {}, typeof leaf === "string" ? leaf : JSON.stringify(leaf));
}
