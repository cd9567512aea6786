/** Where everything stands. */
import { announcer } from "./announce.js";
import { fill, h } from "./dom.js";
import { themeButton } from "./theme.js";

interface Parts {
  editorTabs: HTMLElement;
  editorPanel: HTMLElement;
  problems: HTMLElement;
  files: HTMLElement;
  card: HTMLElement;
  compare: HTMLElement;
  build: HTMLElement;
  outputs: HTMLElement;
  connect: HTMLButtonElement;
  dialog: HTMLDialogElement;
  share: () => void;
  example: () => void;
}

export function layout(parts: Parts) {
  const notice = h("section", { class: "notice", "aria-label": "Notice", hidden: true });
  const hint = h("p", { class: "hint editor-hint" });
  const example = h("button", { type: "button", class: "quiet", onclick: parts.example }, "Example");
  document.body.append(
    h("a", { class: "skip", href: "#result", onclick: (event: Event) => skip(event, parts.card) }, "Skip to the hash"),
    h(
      "header",
      {},
      h("div", { class: "brand" }, h("h1", {}, "chalk", h("span", {}, " image hash")), h("p", {}, "Know the hash before anything is uploaded")),
      h("div", { class: "actions" }, parts.connect, h("button", { type: "button", onclick: parts.share }, "Copy link"), themeButton()),
    ),
    notice,
    h(
      "main",
      {},
      h(
        "div",
        { class: "column" },
        h(
          "section",
          { class: "card declare", "aria-labelledby": "declare-title" },
          h("h2", { id: "declare-title", class: "visually-hidden" }, "Declaration"),
          parts.editorTabs,
          parts.editorPanel,
          h("div", { class: "editor-foot" }, hint, example),
        ),
        parts.problems,
      ),
      h("div", { class: "column results" }, parts.card, parts.compare, parts.build, parts.outputs),
      parts.files,
    ),
    h("footer", {}, h("p", {}, "The hash is computed here, in your browser, by the same code as the chalk command. No third party is asked for anything.")),
    parts.dialog,
    announcer.element,
  );
  parts.card.tabIndex = -1;
  parts.card.id = "result";
  return {
    /** A word to the user above everything, until it is closed. */
    notify(kind: "error" | "info", text: string, advice = ""): void {
      notice.className = `notice ${kind}`;
      notice.hidden = false;
      const close = h("button", { type: "button", class: "quiet", onclick: () => (notice.hidden = true) }, "Close");
      fill(notice, h("p", { role: kind === "error" ? "alert" : "status" }, text, advice && h("span", { class: "advice" }, ` ${advice}`)), close);
    },
    hint(text: string): void {
      hint.textContent = text;
    },
  };
}

function skip(event: Event, to: HTMLElement): void {
  event.preventDefault();
  to.focus();
}
