import { h } from "./dom.js";

/** Rows beyond the visible ones, so that scrolling shows no gaps. */
const SPARE = 6;

/** A list of which only the visible rows are in the document. All rows have the same height. */
export class VirtualList {
  readonly element: HTMLElement;
  readonly #rows = h("ul", { class: "rows" });
  #count = 0;
  #first = 0;
  #last = 0;

  constructor(
    label: string,
    private readonly rowHeight: number,
    private readonly makeRow: (index: number) => HTMLLIElement,
  ) {
    this.element = h("div", { class: "virtual-list", role: "group", "aria-label": label, tabindex: 0 }, this.#rows);
    this.element.addEventListener("scroll", () => this.#draw(false), { passive: true });
    new ResizeObserver(() => this.#draw(false)).observe(this.element);
  }

  /** Shows so many rows, all anew. */
  show(count: number): void {
    this.#count = count;
    this.#rows.style.height = `${count * this.rowHeight}px`;
    this.#draw(true);
  }

  /** Draws a row again, if it is in the document. */
  refresh(index: number): void {
    if (index < this.#first || index >= this.#last) return;
    const old = this.#rows.children[index - this.#first];
    const inside = old?.contains(document.activeElement);
    const label = document.activeElement?.getAttribute("aria-label");
    old?.replaceWith(this.#row(index));
    if (inside && label) this.#focusIn(index, label);
  }

  #focusIn(index: number, label: string): void {
    const controls = this.#rows.children[index - this.#first]?.querySelectorAll<HTMLElement>("button, input") ?? [];
    [...controls].find((control) => control.getAttribute("aria-label") === label)?.focus();
  }

  #draw(anew: boolean): void {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / this.rowHeight) - SPARE);
    const last = Math.min(this.#count, Math.ceil((scrollTop + clientHeight) / this.rowHeight) + SPARE);
    if (!anew && first === this.#first && last === this.#last) return;
    this.#first = first;
    this.#last = last;
    const rows: HTMLElement[] = [];
    for (let index = first; index < last; index += 1) rows.push(this.#row(index));
    this.#rows.replaceChildren(...rows);
  }

  #row(index: number): HTMLLIElement {
    const row = this.makeRow(index);
    row.style.top = `${index * this.rowHeight}px`;
    row.setAttribute("aria-setsize", String(this.#count));
    row.setAttribute("aria-posinset", String(index + 1));
    return row;
  }
}
