import { type Language, StreamLanguage } from "@codemirror/language";
import { dockerFile } from "@codemirror/legacy-modes/mode/dockerfile";
import { javascript } from "@codemirror/legacy-modes/mode/javascript";
import { toml } from "@codemirror/legacy-modes/mode/toml";
import type { TabKey } from "../examples.js";

const requirements = StreamLanguage.define<null>({
  name: "requirements",
  startState: () => null,
  token(stream) {
    const lineStart = stream.sol();
    if (stream.eatSpace()) return null;
    if (stream.match(/^#.*/)) return "comment";
    if (stream.match(/^--?[a-zA-Z][\w-]*/)) return "keyword";
    if (stream.match(/^(?:===|[=!~<>]=|[<>])/)) return "operator";
    if (lineStart && stream.match(/^[A-Za-z0-9][\w.-]*/)) return "variableName";
    if (stream.match(/^;.*/)) return "string";
    if (stream.match(/^[\w.*+!-]+/)) return "number";
    stream.next();
    return null;
  },
  languageData: { commentTokens: { line: "#" } },
});

/** Colouring of each tab's text. */
export const languages: Record<TabKey, Language> = {
  javascript: StreamLanguage.define(javascript),
  toml: StreamLanguage.define(toml),
  dockerfile: StreamLanguage.define(dockerFile),
  requirements,
};
