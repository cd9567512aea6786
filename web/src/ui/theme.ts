import { h } from "./dom.js";

const STORED = "chalk.theme";
const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

/** A button that goes through the system's colours, light and dark, and keeps the choice. */
export function themeButton(): HTMLButtonElement {
  let theme: Theme = THEMES.find((name) => name === stored()) ?? "auto";
  const button = h("button", { type: "button", class: "quiet" });
  const apply = () => {
    document.documentElement.dataset["theme"] = theme;
    button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}`);
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
    try {
      localStorage.setItem(STORED, theme);
    } catch {
      // Where storage is off, the choice lasts as long as the page.
    }
    apply();
  });
  apply();
  return button;
}

function stored(): string | null {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null;
  }
}
