import { announcer } from "./announce.js";
import { h } from "./dom.js";

const SHOWN_MS = 1_500;

/** A button that copies a text. `what` completes “Copy …”. */
export function copyButton(what: string, text: () => string, look = "quiet"): HTMLButtonElement {
  const button = h("button", { type: "button", class: `${look} copy`, "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", () => {
    void copy(text()).then((done) => {
      button.textContent = done ? "Copied" : "Not copied";
      announcer.say(done ? `Copied ${what}` : "The browser did not allow copying");
      setTimeout(() => (button.textContent = "Copy"), SHOWN_MS);
    });
  });
  return button;
}

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

/** For pages that are served without TLS, where there is no clipboard interface. */
function copyBySelection(text: string): boolean {
  const field = h("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true" });
  field.value = text;
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return done;
}
