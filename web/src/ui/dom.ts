/** Makes elements. */

export type Child = Node | string | null | false | undefined;

type Props = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

let ids = 0;

/** An id that nothing else on the page has. */
export function freshId(stem: string): string {
  ids += 1;
  return `${stem}-${ids}`;
}

/**
 * An element. Functions become listeners (`onclick`), booleans attributes that are there or not, all
 * else attributes.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter(isShown));
  return element;
}

/** Replaces what is in an element. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren(...children.filter(isShown));
}

function isShown(child: Child): child is Node | string {
  return child !== null && child !== undefined && child !== false;
}
