const BLANK = /(?:\s|\/\/[^\n]*|\/\*[\s\S]*?\*\/)*/y;
const STATEMENT = /(?:(["'])use strict\1|import\s*(?:[\w$\s{},*]+?\bfrom\s*)?(["'])([^"'\n]*)\2)\s*;?/y;
const PACKAGE = /^chalkcompute(?:\/slim)?$/;

/**
 * Points the imports of `chalkcompute` at another address. Only the imports at the head of the code
 * are touched, where nothing but comments and imports can stand: the same words further down may be
 * part of a command, whose text is hashed.
 */
export function withPackage(code: string, address: string): string {
  let head = "";
  let at = 0;
  for (;;) {
    const blank = match(BLANK, code, at)?.[0] ?? "";
    const found = match(STATEMENT, code, at + blank.length);
    if (!found) return head + code.slice(at);
    const quote = found[2] ?? "";
    const specifier = found[3] ?? "";
    const statement = PACKAGE.test(specifier)
      ? found[0].replace(quote + specifier + quote, quote + address + quote)
      : found[0];
    head += blank + statement;
    at += blank.length + found[0].length;
  }
}

function match(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}
