// For everybody: axe, keyboard only, announcements, widths, colours.
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { test } from "node:test";
import { violations } from "./axe.mjs";
import { DIGEST, SEED, withBrowser } from "./browser.mjs";

const browser = withBrowser();
const SHOTS = process.env.SCREENSHOTS;

for (const colorScheme of ["light", "dark"]) {
  for (const width of [360, 900, 1600]) {
    test(`${colorScheme} at ${width} px: no axe violations, nothing wider than the window`, async (t) => {
      const page = await browser.open(t, { colorScheme, viewport: { width, height: width < 500 ? 760 : 1000 }, quiet: false });
      await page.hash("Recipe hash", SEED);
      assert.deepEqual(await violations(page), []);
      await shot(page, `start-${width}-${colorScheme}`);
      // All that can show at once: an error, a kept spec, a file, the forms.
      await page.role("button", { name: "Keep as A" }).click();
      await page.page.locator("#pick-files").setInputFiles([{ name: "app.py", mimeType: "", buffer: Buffer.from("x\n") }]);
      await page.write("image.toml", '[image]\ndebian_slim = "3.11"\nworkdir = "/srv"\n[[step]]\npip_install = ["requests"]\n[[step]]\nadd_local_file = { src = "app.py", dest = "/app.py" }\n[[step]]\nrun_commands = ["python /app.py"]\n');
      await page.page.getByText("Differs:").waitFor();
      await page.output("Canonical JSON");
      assert.deepEqual(await violations(page), []);
      await shot(page, `diff-${width}-${colorScheme}`);
      await page.write("image.toml", '[image]\ndebian_slim = "3.12"\n\n[[step]]\nrun_command = ["true"]\n');
      await page.card.getByText("No hash").waitFor();
      assert.deepEqual(await violations(page), []);
      await shot(page, `error-${width}-${colorScheme}`);
      const wide = await page.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${wide} px wider than the window`);
    });
  }
}

async function shot(page, name) {
  if (!SHOTS) return;
  await mkdir(SHOTS, { recursive: true });
  await page.page.screenshot({ path: `${SHOTS}/${name}.png`, fullPage: true });
}

test("everything is reached by keyboard, and the editor lets go", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  const { keyboard } = page.page;
  const focused = () =>
    page.page.evaluate(() => {
      let at = document.activeElement;
      while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
      return at?.getAttribute("aria-label") ?? at?.labels?.[0]?.textContent ?? at?.textContent ?? "";
    });
  const seen = [];
  for (let i = 0; i < 40; i += 1) {
    await keyboard.press("Tab");
    const name = await focused();
    if (i > 0 && name === "Skip to the hash") break;
    if (name === "JavaScript that makes the image") {
      await keyboard.press("Tab");
      assert.equal(await focused(), name, "Tab indents");
      await keyboard.press("Control+Z");
      await keyboard.press("Escape");
    }
    seen.push(name.trim());
  }
  const order = ["Skip to the hash", "Connect", "Copy link", "JavaScript", "JavaScript that makes the image", "Example", "Copy hash", "Keep as A"];
  const places = order.map((name) => seen.findIndex((one) => one === name));
  assert.ok(places.every((place, i) => place >= 0 && (i === 0 || place > places[i - 1])), `${order} in ${seen}`);
  assert.ok(seen.includes("Add files") && seen.includes("Choose folder"), String(seen));
});

test("the focus stays where it is while a hash takes its time", async (t) => {
  const page = await browser.open(t);
  await page.hash("Recipe hash", SEED);
  // From here on no hash is asked of the engine until the test lets it.
  await page.page.evaluate(() => {
    const post = Worker.prototype.postMessage;
    const held = [];
    Worker.prototype.postMessage = function (request) {
      const send = () => post.call(this, request);
      if (request.type === "evaluate") held.push(send);
      else send();
    };
    window.goOn = () => {
      Worker.prototype.postMessage = post;
      for (const send of held) send();
    };
  });
  const keep = page.role("button", { name: "Keep as A" });
  await keep.focus();
  await page.page.keyboard.press("Enter");
  const field = page.role("textbox", { name: /^Digest of base/ });
  await field.focus();
  for (const part of DIGEST.match(/.{1,24}/g)) {
    await page.page.keyboard.insertText(part);
    await page.card.getByText("Computing…").waitFor();
    assert.ok(await field.evaluate((element) => element === document.activeElement), "typing goes on");
  }
  await page.page.evaluate(() => window.goOn());
  await page.card.getByText("base pinned", { exact: true }).waitFor();
  assert.equal(await field.inputValue(), DIGEST);
  await keep.focus();
  await page.write("image.toml", "[image]\nbase = 1\n");
  await page.card.getByText("No hash").waitFor();
  assert.equal(await keep.count(), 0, "nothing to keep");
});

test("tabs go by arrow keys, Home and End", async (t) => {
  const page = await browser.open(t);
  const tab = (name) => page.role("tablist", { name: "Ways to declare" }).getByRole("tab", { name });
  await tab("JavaScript").focus();
  for (const [key, name] of [["ArrowRight", "image.toml"], ["End", "requirements.txt"], ["ArrowRight", "JavaScript"], ["ArrowLeft", "requirements.txt"], ["Home", "JavaScript"]]) {
    await page.page.keyboard.press(key);
    assert.equal(await tab(name).getAttribute("aria-selected"), "true");
    assert.ok(await tab(name).evaluate((element) => element === document.activeElement));
  }
});

test("the hash is announced when typing rests, and so is what is wrong", async (t) => {
  const page = await browser.open(t);
  const status = page.page.locator("[aria-live=polite]");
  await status.filter({ hasText: `Recipe hash ${SEED}, base not pinned` }).waitFor();
  await page.write("image.toml", "[image]\nbase = 1\n");
  await status.filter({ hasText: /No hash: line 2/ }).waitFor();
});

test("the colours can be chosen and are kept", async (t) => {
  const page = await browser.open(t, { colorScheme: "dark" });
  const ground = () => page.page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const dark = await ground();
  await page.role("button", { name: "Colours: auto" }).click();
  const light = await ground();
  assert.notEqual(light, dark);
  await page.page.reload();
  await page.hash("Recipe hash", SEED);
  assert.equal(await ground(), light);
});
