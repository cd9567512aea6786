import { h } from "./dom.js";

const GROUP = 8;

/**
 * A digest in groups that the eye can compare. The groups are set apart by margins, so that selecting
 * and copying gives the digits without blanks.
 */
export function hashText(digest: string): HTMLElement {
  const at = digest.indexOf(":") + 1;
  const groups = digest.slice(at).match(new RegExp(`.{1,${GROUP}}`, "g")) ?? [];
  const digits = h("span", { class: "digits" });
  for (const group of groups) digits.append(h("span", {}, group), document.createElement("wbr"));
  return h("code", { class: "hash" }, h("span", { class: "algorithm" }, digest.slice(0, at)), digits);
}
