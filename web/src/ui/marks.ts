/** Faults under the words that they are about. Small: CodeMirror's own lint package is 10 KB of the page. */
import { type Extension, StateEffect, StateField, type Text } from "@codemirror/state";
import { Decoration, type DecorationSet, EditorView } from "@codemirror/view";
import type { Fault } from "../engine/protocol.js";

const setMarks = StateEffect.define<DecorationSet>();

const marks = StateField.define<DecorationSet>({
  create: () => Decoration.none,
  update(shown, { changes, effects }) {
    let next = shown.map(changes);
    for (const effect of effects) if (effect.is(setMarks)) next = effect.value;
    return next;
  },
  provide: (field) => EditorView.decorations.from(field),
});

const SQUIGGLE = "url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='6' height='3'%3E%3Cpath d='M0 2.5 L1.5 .7 L4.5 2.5 L6 .7' fill='none' stroke='COLOUR' stroke-width='1.1'/%3E%3C/svg%3E\")";

const look = EditorView.baseTheme({
  ".cm-fault": { backgroundPosition: "left bottom", backgroundRepeat: "repeat-x", paddingBottom: "3px" },
  ".cm-fault.error": { backgroundImage: SQUIGGLE.replace("COLOUR", "%23d0453a") },
  ".cm-fault.warning, .cm-fault.info": { backgroundImage: SQUIGGLE.replace("COLOUR", "%23b07a00") },
  ".cm-fault-line": { boxShadow: "inset 3px 0 0 var(--bad)" },
});

export const faultMarks: Extension = [marks, look];

/** Marks these faults and no others. */
export function markFaults(doc: Text, faults: readonly Fault[]): StateEffect<DecorationSet> {
  const ranges = faults.flatMap((fault) => {
    const range = rangeOf(fault, doc);
    if (!range) return [];
    const title = fault.hint ? `${fault.message}\n${fault.hint}` : fault.message;
    const line = Decoration.line({ class: fault.severity === "error" ? "cm-fault-line" : "" });
    const mark = Decoration.mark({ class: `cm-fault ${fault.severity}`, attributes: { title } });
    const start = line.range(doc.lineAt(range.from).from);
    return range.to > range.from ? [start, mark.range(range.from, range.to)] : [start];
  });
  return setMarks.of(Decoration.set(ranges, true));
}

/** What a fault is about: the word at its place, or its line. */
export function rangeOf({ line: number, column }: Fault, doc: Text): { from: number; to: number } | null {
  if (number === null || number > doc.lines) return null;
  const line = doc.line(number);
  if (column === null) return { from: line.to - line.text.trimStart().length, to: line.to };
  // Columns are counted in characters, the editor counts UTF-16 units.
  const from = Math.min(line.to, line.from + [...line.text].slice(0, column - 1).join("").length);
  const word = /^(?:[\w.-]+|\S)/.exec(doc.sliceString(from, line.to));
  return { from, to: from + (word?.[0].length ?? 0) };
}
