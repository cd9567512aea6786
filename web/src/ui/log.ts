/**
 * The log of a build. It follows its end until the reader scrolls up or selects text, and then holds
 * still; new lines wait. The document holds a bounded number of lines, memory a larger one.
 */
import { announcer } from "./announce.js";
import { copy } from "./copy.js";
import { h } from "./dom.js";

/** Lines in one element of the document. */
const CHUNK = 200;
/** Elements in the document. */
const MAX_CHUNKS = 25;
/** Lines in memory, for copying. */
const MAX_LINES = 100_000;
/** How close to the end counts as being there, in pixels. */
const NEAR = 24;

export class LogView {
  readonly element: HTMLElement;
  readonly #box = h("div", { class: "log", tabindex: 0, role: "log", "aria-live": "off", "aria-label": "Build log" });
  readonly #state = h("span", { class: "log-state" });
  readonly #follow = h("button", { type: "button", hidden: true, onclick: () => this.#resume() }, "Follow");
  #lines: string[] = [];
  #dropped = 0;
  /** Lines that came since the reader stopped following. */
  #waiting = 0;
  #following = true;

  constructor() {
    const copyAll = h("button", { type: "button", class: "quiet", onclick: () => void this.#copy() }, "Copy log");
    this.element = h("div", { class: "log-box" }, this.#box, h("div", { class: "actions" }, this.#state, this.#follow, copyAll));
    this.#box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    document.addEventListener("selectionchange", () => this.#selecting() && this.#pause());
    this.clear();
  }

  clear(): void {
    this.#lines = [];
    this.#dropped = 0;
    this.#resume();
  }

  add(lines: readonly string[]): void {
    this.#lines.push(...lines);
    const over = this.#lines.length - MAX_LINES;
    if (over > 0) {
      this.#lines.splice(0, over);
      this.#dropped += over;
    }
    if (this.#following) {
      this.#append(lines);
      this.#box.scrollTop = this.#box.scrollHeight;
    } else {
      this.#waiting += lines.length;
    }
    this.#tell();
  }

  #append(lines: readonly string[]): void {
    let at = 0;
    while (at < lines.length) {
      let chunk = this.#box.lastElementChild as HTMLElement | null;
      const held = Number(chunk?.dataset["lines"] ?? CHUNK);
      const some = lines.slice(at, at + (held < CHUNK ? CHUNK - held : CHUNK));
      if (!chunk || held >= CHUNK) {
        chunk = h("pre", { class: "log-chunk", "data-lines": 0 });
        this.#box.append(chunk);
      }
      chunk.append(`${some.join("\n")}\n`);
      chunk.dataset["lines"] = String(Number(chunk.dataset["lines"]) + some.length);
      at += some.length;
    }
    while (this.#box.childElementCount > MAX_CHUNKS) this.#box.firstElementChild?.remove();
  }

  #scrolled(): void {
    const { scrollTop, clientHeight, scrollHeight } = this.#box;
    const atEnd = scrollTop + clientHeight >= scrollHeight - NEAR;
    if (!atEnd) this.#pause();
    else if (!this.#following && !this.#selecting()) this.#resume();
  }

  #selecting(): boolean {
    const selection = getSelection();
    return selection !== null && !selection.isCollapsed && this.#box.contains(selection.anchorNode);
  }

  #pause(): void {
    this.#following = false;
    this.#tell();
  }

  #resume(): void {
    this.#following = true;
    if (this.#waiting > 0 || this.#lines.length === 0) {
      this.#box.replaceChildren();
      this.#append(this.#lines.slice(-CHUNK * MAX_CHUNKS));
    }
    this.#waiting = 0;
    this.#box.scrollTop = this.#box.scrollHeight;
    this.#tell();
  }

  #tell(): void {
    this.#follow.hidden = this.#following;
    const dropped = this.#dropped > 0 ? `, the first ${this.#dropped.toLocaleString("en")} dropped` : "";
    const total = `${(this.#lines.length + this.#dropped).toLocaleString("en")} lines${dropped}`;
    this.#state.textContent = this.#following ? total : `Paused · ${this.#waiting.toLocaleString("en")} new · ${total}`;
  }

  async #copy(): Promise<void> {
    const done = await copy(this.#lines.join("\n"));
    announcer.say(done ? "Copied the log" : "The browser did not allow copying");
  }
}
