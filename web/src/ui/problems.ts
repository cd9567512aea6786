/** What is wrong, and where. */
import type { Fault } from "../engine/protocol.js";
import { fill, h } from "./dom.js";

/** More than these are told by their number. */
const MAX_SHOWN = 50;

const WORDS: Record<Fault["severity"], string> = { error: "Error", warning: "Warning", info: "Note" };

export class Problems {
  readonly element: HTMLElement;
  readonly #list = h("ul", { class: "problems" });
  readonly #console = h("pre", { class: "console", tabindex: 0, "aria-label": "Console output of the code" });
  readonly #consoleBox = h("details", { class: "console-box" }, h("summary", {}, "Console output"), this.#console);

  constructor(private readonly goTo: (fault: Fault) => void) {
    this.element = h("section", { class: "problem-box", "aria-label": "Problems" }, this.#list, this.#consoleBox);
    this.show([]);
    this.showConsole([]);
  }

  show(faults: readonly Fault[]): void {
    const shown = faults.slice(0, MAX_SHOWN).map((fault) => this.#item(fault));
    const rest = faults.length - shown.length;
    fill(this.#list, ...shown, rest > 0 && h("li", {}, `and ${rest} more`));
    this.#list.hidden = faults.length === 0;
    this.#update();
  }

  showConsole(lines: readonly string[]): void {
    this.#console.textContent = lines.join("\n");
    this.#consoleBox.hidden = lines.length === 0;
    this.#update();
  }

  #update(): void {
    this.element.hidden = this.#list.hidden && this.#consoleBox.hidden;
  }

  #item(fault: Fault): HTMLLIElement {
    const place = fault.file ?? (fault.line === null ? "" : `line ${fault.line}${fault.column === null ? "" : `:${fault.column}`}`);
    return h(
      "li",
      { class: `problem ${fault.severity}` },
      h("strong", {}, WORDS[fault.severity]),
      fault.line === null
        ? place && h("span", { class: "place" }, place)
        : h("button", { type: "button", class: "link place", onclick: () => this.goTo(fault) }, place),
      fault.field && h("code", { class: "field" }, fault.field),
      h("span", { class: "message" }, fault.message),
      fault.hint && h("span", { class: "advice" }, fault.hint),
    );
  }
}
