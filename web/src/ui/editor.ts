/** The text editor, one text per tab. */
import { history, historyKeymap, indentWithTab, standardKeymap, toggleComment } from "@codemirror/commands";
import { HighlightStyle, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { EditorState } from "@codemirror/state";
import { EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import type { Fault } from "../engine/protocol.js";
import type { TabInfo, TabKey } from "../examples.js";
import { freshId, h } from "./dom.js";
import { languages } from "./languages.js";
import { faultMarks, markFaults, rangeOf } from "./marks.js";

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.typeName, tags.standard(tags.name)], color: "var(--code-keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--code-string)" },
  { tag: [tags.comment, tags.meta], color: "var(--code-comment)" },
  { tag: [tags.number, tags.bool, tags.atom, tags.null], color: "var(--code-number)" },
  { tag: [tags.propertyName, tags.definition(tags.variableName)], color: "var(--code-name)" },
]);

const theme = EditorView.theme({
  "&": { backgroundColor: "transparent", color: "var(--text)", fontSize: "var(--code-size)", height: "100%" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.55" },
  ".cm-content": { padding: "10px 0", caretColor: "var(--text)" },
  ".cm-line": { padding: "0 12px 0 6px" },
  ".cm-gutters": { backgroundColor: "transparent", color: "var(--muted)", border: "none" },
  ".cm-lineNumbers .cm-gutterElement": { minWidth: "2.4em", padding: "0 6px 0 2px" },
  ".cm-activeLine": { backgroundColor: "var(--active-line)" },
  ".cm-content ::selection": { backgroundColor: "var(--selection)" },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: "var(--selection)" },
});

export class Editor {
  readonly element = h("div", { class: "editor" });
  readonly #view: EditorView;
  readonly #states = new Map<TabKey, EditorState>();
  readonly #description = freshId("editor-keys");
  #tab: TabKey;

  constructor(
    tabs: readonly TabInfo[],
    first: TabKey,
    private readonly onChange: () => void,
  ) {
    for (const tab of tabs) this.#states.set(tab.key, this.#newState(tab));
    this.#tab = first;
    // In a shadow root the editor's styles are adopted sheets, which a policy without inline styles allows.
    const root = this.element.attachShadow({ mode: "open" });
    root.append(
      h("p", { id: this.#description, hidden: true }, "Escape, then Tab, leaves the editor; Tab alone indents."),
    );
    this.#view = new EditorView({ state: this.#states.get(first)!, parent: root, root });
  }

  get text(): string {
    return this.#view.state.doc.toString();
  }

  /** Shows a tab's text. */
  show(tab: TabKey): void {
    this.#states.set(this.#tab, this.#view.state);
    this.#tab = tab;
    this.#view.setState(this.#states.get(tab)!);
  }

  /** Replaces the text of the tab that is shown. */
  replace(text: string): void {
    this.#view.dispatch({ changes: { from: 0, to: this.#view.state.doc.length, insert: text } });
  }

  focus(): void {
    this.#view.focus();
  }

  /** Marks the places of faults. */
  mark(faults: readonly Fault[]): void {
    this.#view.dispatch({ effects: markFaults(this.#view.state.doc, faults) });
  }

  /** Puts the cursor at the place of a fault. */
  goTo(fault: Fault): void {
    const place = rangeOf(fault, this.#view.state.doc);
    if (!place) return;
    this.#view.dispatch({
      selection: { anchor: place.from },
      effects: EditorView.scrollIntoView(place.from, { y: "center" }),
    });
    this.#view.focus();
  }

  #newState({ key, label, example }: TabInfo): EditorState {
    return EditorState.create({
      doc: example,
      extensions: [
        lineNumbers(),
        history(),
        highlightActiveLine(),
        bracketMatching(),
        indentOnInput(),
        indentUnit.of("  "),
        syntaxHighlighting(colours),
        languages[key],
        theme,
        faultMarks,
        EditorView.lineWrapping,
        keymap.of([...standardKeymap, ...historyKeymap, indentWithTab, { key: "Mod-/", run: toggleComment }]),
        EditorView.contentAttributes.of({
          "aria-label": label,
          "aria-describedby": this.#description,
          spellcheck: "false",
          autocorrect: "off",
          autocapitalize: "off",
        }),
        EditorView.updateListener.of((update) => {
          if (update.docChanged) this.onChange();
        }),
      ],
    });
  }
}
