import { h } from "./dom.js";

/** Words wait this long, so that typing does not read out every hash on the way. */
const QUIET_MS = 700;

/** The one place that screen readers are told things from. */
export class Announcer {
  readonly element = h("p", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  #timer = 0;

  say(text: string): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.element.textContent = text), QUIET_MS);
  }
}

export const announcer = new Announcer();
