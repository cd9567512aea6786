/** Connecting to the service that serves the page. */
import { fill, h } from "./dom.js";

const STORED = "chalk.token";

/** The token for this tab; other tabs and later sessions do not see it. Where storage is off, a reload forgets it. */
export const tabToken = {
  read: (): string | null => stored(() => sessionStorage.getItem(STORED)),
  write: (token: string): unknown => stored(() => sessionStorage.setItem(STORED, token)),
  forget: (): unknown => stored(() => sessionStorage.removeItem(STORED)),
};

function stored<T>(access: () => T): T | null {
  try {
    return access();
  } catch {
    return null;
  }
}

export interface ConnectionHost {
  connect(token: string): void;
  disconnect(): void;
}

type State =
  | { is: "off" }
  | { is: "connecting" }
  | { is: "on"; server: string; version: string; registry: string }
  | { is: "refused"; message: string; hint: string };

export class Connection {
  /** The button in the head of the page. */
  readonly button: HTMLButtonElement;
  readonly dialog: HTMLDialogElement;
  readonly #body = h("div", {});
  #state: State = { is: "off" };

  constructor(private readonly host: ConnectionHost) {
    this.button = h("button", { type: "button", "aria-haspopup": "dialog", onclick: () => this.#open() });
    this.dialog = h(
      "dialog",
      { class: "connection", "aria-labelledby": "connection-title" },
      h(
        "div",
        { class: "card-head" },
        h("h2", { id: "connection-title" }, "Service"),
        h("button", { type: "button", class: "quiet", onclick: () => this.dialog.close() }, "Close"),
      ),
      this.#body,
    );
    this.set({ is: "off" });
  }

  get connected(): boolean {
    return this.#state.is === "on";
  }

  set(state: State): void {
    this.#state = state;
    const names = { off: "Connect", connecting: "Connecting…", on: "Connected", refused: "Not connected" };
    this.button.textContent = names[state.is];
    this.button.dataset["state"] = state.is;
    if (state.is === "on") {
      fill(
        this.#body,
        h("p", {}, `chalk ${state.version} at ${state.server}`),
        h("p", { class: "hint" }, "Images are pulled from ", h("code", {}, state.registry), "."),
        h("button", { type: "button", onclick: () => this.host.disconnect() }, "Disconnect and forget the token"),
      );
    } else {
      this.#form(state);
    }
  }

  #form(state: State): void {
    const field = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true });
    const form = h(
      "form",
      {
        onsubmit: (event: SubmitEvent) => {
          event.preventDefault();
          if (field.value.trim()) this.host.connect(field.value.trim());
        },
      },
      h("label", { for: "token" }, "Token"),
      field,
      h("button", { type: "submit", disabled: state.is === "connecting" }, state.is === "connecting" ? "Connecting…" : "Connect"),
    );
    const refused = state.is === "refused" && h("p", { class: "field-problem", role: "alert" }, [state.message, state.hint].filter(Boolean).join("; "));
    fill(
      this.#body,
      h(
        "p",
        { class: "hint" },
        "A connected page shows which steps are cached, resolves bases and builds. The service is the one that serves this page, ",
        h("code", {}, location.origin),
        "; ",
        h("code", {}, "chalk serve"),
        " prints an address with the token in it. The token stays in this tab.",
      ),
      form,
      refused,
    );
  }

  #open(): void {
    this.dialog.showModal();
    this.dialog.querySelector("input")?.focus();
  }
}
