const BLANK = /(?:\s|\/\/[^\n]*|\/\*[\s\S]*?\*\/)*/y;
const STATEMENT = /(?:(["'])use strict\1|import\s*(?:[\w$\s{},*]+?\bfrom\s*)?(["'])([^"'\n]*)\2)\s*;?/y;
const PACKAGE = /^chalkcompute(?:\/slim)?$/;

/** Code whose imports lead to what there is in the sandbox. */
export interface Linked {
  code: string;
  /** The first import of anything else, and the offset of its name in the code as it was. */
  foreign: { name: string; offset: number } | null;
}

/**
 * Points the imports of `chalkcompute` at another address. Only the imports at the head of the code
 * are touched, where nothing but comments and imports can stand: the same words further down may be
 * part of a command, whose text is hashed.
 */
export function link(code: string, address: string): Linked {
  let head = "";
  let foreign: Linked["foreign"] = null;
  let at = 0;
  for (;;) {
    const blank = match(BLANK, code, at)?.[0] ?? "";
    const start = at + blank.length;
    const found = match(STATEMENT, code, start);
    if (!found) return { code: head + code.slice(at), foreign };
    const [statement, , quote, name] = found;
    head += blank;
    if (quote === undefined || name === undefined) {
      head += statement;
    } else {
      const offset = statement.lastIndexOf(quote + name + quote) + 1;
      if (PACKAGE.test(name)) {
        head += statement.slice(0, offset) + address + statement.slice(offset + name.length);
      } else {
        foreign ??= { name, offset: start + offset };
        head += statement;
      }
    }
    at = start + statement.length;
  }
}

function match(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}
