import { freshId, h } from "./dom.js";

export interface Tab {
  key: string;
  name: string;
}

/** A row of tabs for one panel, driven by arrow keys as the ARIA practices have it. */
export class Tabs {
  readonly list: HTMLElement;
  readonly #buttons = new Map<string, HTMLButtonElement>();
  #selected = "";

  constructor(
    label: string,
    tabs: readonly Tab[],
    private readonly panel: HTMLElement,
    private readonly onSelect: (key: string) => void,
  ) {
    panel.id ||= freshId("panel");
    panel.setAttribute("role", "tabpanel");
    this.list = h("div", { role: "tablist", "aria-label": label, class: "tabs", onkeydown: (e: KeyboardEvent) => this.#key(e) });
    for (const { key, name } of tabs) {
      const button = h(
        "button",
        { type: "button", role: "tab", id: freshId("tab"), "aria-controls": panel.id, onclick: () => this.#choose(key) },
        name,
      );
      this.#buttons.set(key, button);
      this.list.append(button);
    }
  }

  get selected(): string {
    return this.#selected;
  }

  /** Marks a tab as selected, without telling anybody. */
  select(key: string): void {
    this.#selected = key;
    for (const [other, button] of this.#buttons) {
      button.setAttribute("aria-selected", String(other === key));
      button.tabIndex = other === key ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", this.#buttons.get(key)?.id ?? "");
  }

  /** Puts a small number behind a tab's name; 0 takes it away. */
  badge(key: string, count: number): void {
    const button = this.#buttons.get(key);
    button?.querySelector(".count")?.remove();
    if (count > 0) button?.append(h("span", { class: "count" }, ` ${count}`));
  }

  #choose(key: string): void {
    if (key === this.#selected) return;
    this.select(key);
    this.onSelect(key);
  }

  #key(event: KeyboardEvent): void {
    const keys = [...this.#buttons.keys()];
    const at = keys.indexOf(this.#selected);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: keys.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const key = keys[(to + keys.length) % keys.length] ?? "";
    this.#choose(key);
    this.#buttons.get(key)?.focus();
  }
}
