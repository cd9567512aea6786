/** The hash, what kind it is, and the bases that make it so. */
import type { BaseImage, Preview } from "../engine/protocol.js";
import { announcer } from "./announce.js";
import { copyButton } from "./copy.js";
import { fill, freshId, h } from "./dom.js";
import { hashText } from "./hash.js";

export interface HashHost {
  /** Gives a base a digest, or takes it away. */
  pin(ref: string, digest: string | null): void;
  resolve(): void;
  keep(): void;
}

type Shown = { preview: Preview } | { wait: string } | { fault: string };

export class HashCard {
  readonly element: HTMLElement;
  readonly #title = h("h2", { id: "hash-title" }, "Hash");
  readonly #badge = h("span", { class: "badge", hidden: true });
  readonly #value = h("div", { class: "hash-value" });
  readonly #note = h("p", { class: "hint" });
  readonly #bases = h("div", { class: "bases", hidden: true });
  readonly #actions: HTMLElement;
  readonly #resolve: HTMLButtonElement;
  readonly #keep: HTMLButtonElement;
  #busy = false;
  #hash = "";
  #kind = "hash";
  #drawn = "";

  constructor(private readonly host: HashHost) {
    this.#resolve = h("button", { type: "button", hidden: true, onclick: () => host.resolve() }, "Resolve base");
    this.#keep = h("button", { type: "button", onclick: () => host.keep() }, "Keep as A");
    this.#actions = h("div", { class: "actions", hidden: true }, copyButton("hash", () => this.#hash, "plain"), this.#keep, this.#resolve);
    this.#actions.addEventListener("click", (event) => this.#busy && event.stopPropagation(), { capture: true });
    this.element = h(
      "section",
      { class: "card hash-card", "aria-labelledby": "hash-title" },
      h("div", { class: "card-head" }, this.#title, this.#badge),
      this.#value,
      this.#actions,
      this.#note,
      this.#bases,
    );
  }

  /** Whether a service can be asked for digests. */
  setConnected(connected: boolean): void {
    this.#resolve.dataset["connected"] = String(connected);
    this.#showResolve();
  }

  show(shown: Shown): void {
    const preview = "preview" in shown ? shown.preview : null;
    this.#setBusy("wait" in shown);
    // While the next hash is computed they stay: what is hidden loses the focus, and what is being typed.
    if (!this.#busy) this.#actions.hidden = this.#bases.hidden = !preview;
    if (!preview) {
      const text = "wait" in shown ? shown.wait : "No hash: something is wrong with the declaration.";
      this.#title.textContent = "Hash";
      this.#badge.hidden = true;
      fill(this.#value, h("p", { class: "no-hash" }, text));
      this.#note.textContent = "";
      if ("fault" in shown) announcer.say(`No hash: ${shown.fault}`);
      return;
    }
    const pinned = preview.imageHash !== null;
    this.#hash = preview.imageHash ?? preview.recipeHash;
    this.#kind = pinned ? "Image hash" : "Recipe hash";
    this.#title.textContent = this.#kind;
    this.#badge.hidden = false;
    this.#badge.className = pinned ? "badge good" : "badge";
    this.#badge.textContent = pinned ? "base pinned" : "base not pinned";
    if (pinned && preview.bases.length === 0) this.#badge.textContent = "no base";
    fill(this.#value, hashText(this.#hash));
    this.#note.textContent = pinned
      ? `Names the built image everywhere. ${preview.platform}.`
      : `Hash of the spec with its base by tag; it becomes the image hash with the base's digest. ${preview.platform}.`;
    this.#showBases(preview.bases, preview.platform);
    const { element } = announcer;
    if (!element.textContent?.includes(this.#hash)) {
      announcer.say(`${this.#kind} ${this.#hash}, ${this.#badge.textContent}`);
    }
  }

  #setBusy(busy: boolean): void {
    this.#busy = busy;
    this.element.setAttribute("aria-busy", String(busy));
    for (const button of this.#actions.children) button.setAttribute("aria-disabled", String(busy));
  }

  /** Draws the fields of the bases, unless they are as they were: one may be being typed in. */
  #showBases(bases: readonly BaseImage[], platform: string): void {
    const key = JSON.stringify([bases.map(({ ref, digest, given }) => [ref, given ? "" : digest]), platform]);
    if (key !== this.#drawn) {
      this.#drawn = key;
      fill(this.#bases, ...bases.map((base) => this.#base(base, platform)));
    }
    bases.forEach(({ digest, given }, i) => {
      const field = this.#bases.children[i]?.querySelector("input");
      if (field && field !== document.activeElement) field.value = (given && digest) || "";
    });
    this.#resolve.dataset["open"] = String(bases.some(({ digest, given }) => digest === null || given));
    this.#showResolve();
  }

  #showResolve(): void {
    const { connected, open } = this.#resolve.dataset;
    this.#resolve.hidden = connected !== "true" || open !== "true";
  }

  #base({ ref, digest, given }: BaseImage, platform: string): HTMLElement {
    const id = freshId("base");
    if (digest !== null && !given) {
      return h("div", { class: "base" }, h("p", {}, "Base ", h("code", {}, ref), " is pinned by the declaration to"), hashText(digest));
    }
    const problem = h("p", { class: "field-problem", id: `${id}-problem`, role: "alert" });
    const field = h("input", {
      id,
      class: "digest",
      type: "text",
      placeholder: "sha256:…",
      spellcheck: "false",
      autocomplete: "off",
      "aria-describedby": `${id}-hint ${id}-problem`,
    });
    field.addEventListener("input", () => {
      const read = readDigest(field.value);
      problem.textContent = "problem" in read ? read.problem : "";
      field.setAttribute("aria-invalid", String("problem" in read));
      if ("digest" in read) this.host.pin(ref, read.digest);
    });
    return h(
      "div",
      { class: "base" },
      h("label", { for: id }, "Digest of base ", h("code", {}, ref)),
      field,
      problem,
      h("p", { class: "hint", id: `${id}-hint` }, `Of the ${platform} manifest, not of an index of platforms.`),
    );
  }
}

/** Reads a digest as people paste it: with or without its prefix, or behind a reference and `@`. */
function readDigest(text: string): { digest: string | null } | { problem: string } {
  const value = text.trim().toLowerCase().replace(/^.*@/, "").replace(/^sha256:/, "");
  if (value === "") return { digest: null };
  if (!/^[0-9a-f]*$/.test(value)) return { problem: "A digest is sha256: and 64 hex digits; there are other characters in it." };
  if (value.length !== 64) return { problem: `A digest has 64 hex digits; these are ${value.length}.` };
  return { digest: `sha256:${value}` };
}
