// The service and its page, as all tests here use them.

import { before } from "node:test";

import { Page } from "../../../web/test/page.mjs";
import { openPage } from "../chromium.mjs";
import { Service } from "../service.mjs";

/** The one service; only tests that put it back may stop it. @type {Service} */
export let service;

before(async () => {
  service = await Service.start();
});

/** The page, with nothing in its address but what is given. */
export async function open(t, fragment = "") {
  return openAt(t, `${service.url}/${fragment}`);
}

/** The page at the address that `chalk web` prints, connected. */
export async function connect(t) {
  const page = await openAt(t, await service.address());
  await page.role("button", { name: "Connected" }).waitFor();
  return page;
}

async function openAt(t, url) {
  const { page, noise, context } = await openPage(t, { viewport: { width: 1200, height: 900 } });
  await page.goto(url);
  return Object.assign(new Page(page), { noise, context });
}

/** Drops a file or folder of the disk on the page, as a hand does it. */
export async function drop(page, path) {
  const session = await page.context.newCDPSession(page.page);
  const data = { items: [], files: [path], dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    await session.send("Input.dispatchDragEvent", { type, x: 300, y: 300, data });
  }
}

/** The panel of the files that were dropped. */
export const files = (page) => page.role("region", { name: "Project files" });

/** The panel for builds. */
export const builds = (page) => page.role("region", { name: "Build", exact: true });
