// The page's parts, found by roles as users of a screen reader find them.
import assert from "node:assert/strict";
import { inflateRawSync } from "node:zlib";

const TEXTBOX = {
  JavaScript: "JavaScript that makes the image",
  "image.toml": "Text of image.toml",
  Dockerfile: "Text of the Dockerfile",
  "requirements.txt": "Text of requirements.txt",
};

/** Around a page of Playwright, which the caller opens. */
export class Page {
  constructor(page) {
    this.page = page;
  }

  role(...args) {
    return this.page.getByRole(...args);
  }

  editor(tab) {
    return this.role("textbox", { name: TEXTBOX[tab] });
  }

  /** Shows a tab and replaces its text. */
  async write(tab, text) {
    await this.role("tab", { name: tab, exact: true }).first().click();
    await this.editor(tab).focus();
    await this.page.keyboard.press("Control+A");
    await this.page.keyboard.press("Delete");
    await this.page.keyboard.insertText(text);
  }

  /** What stands in the editor, if it is short enough to be drawn whole. */
  async text(tab) {
    return (await this.editor(tab).locator(".cm-line").allTextContents()).join("\n");
  }

  get card() {
    return this.role("region", { name: /hash$/i });
  }

  /** Waits until this hash is shown. */
  async hash(kind, digest) {
    const card = this.role("region", { name: kind });
    await card.getByText(digest).waitFor({ timeout: 300_000 });
  }

  /** The hash that is shown, once one is. */
  async shownHash() {
    const digits = this.card.locator(".hash-value code");
    await digits.waitFor();
    return digits.innerText().then((text) => text.replace(/\s/g, ""));
  }

  /** Waits until the address holds this text, which is when all that is shown is of it. */
  async settled(text) {
    const link = () => this.page.evaluate(() => location.hash);
    const read = (hash) => hash.startsWith("#v1=") && JSON.parse(inflateRawSync(Buffer.from(hash.slice(4), "base64url"))).text;
    const end = Date.now() + 60_000;
    while (read(await link()) !== text) {
      assert.ok(Date.now() < end, "the address does not follow the text");
      await this.page.waitForTimeout(50);
    }
  }

  async output(name) {
    const outputs = this.role("region", { name: "Spec" });
    await outputs.getByRole("tab", { name }).click();
    return outputs.getByRole("tabpanel");
  }

  problem(text) {
    return this.role("region", { name: "Problems" }).getByRole("listitem").filter({ hasText: text });
  }
}
