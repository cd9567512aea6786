/** The project folder: what was dropped, with sizes, digests and progress. */
import type { FileRow, FileState } from "../engine/protocol.js";
import { announcer } from "./announce.js";
import { type Collected, fromDrop, fromFiles, fromHandle } from "./collect.js";
import { copyButton } from "./copy.js";
import { fill, h } from "./dom.js";
import { bytes, count, shortDigest } from "./format.js";
import { VirtualList } from "./virtual-list.js";

const ROW_HEIGHT = 46;
/** Files that the editor's tabs can show. */
const DECLARATION = /(?:^|\/)(?:image\.toml|requirements[\w.-]*\.txt|(?:[\w.-]+\.)?Dockerfile|Dockerfile\.[\w.-]+|[\w.-]+\.m?js)$/;
/** Loose files up to so many are hashed when they are dropped; of a folder, those that are used. */
const HASH_AT_ONCE = 50;

export interface FilesHost {
  add(collected: Collected): void;
  remove(path: string | null): void;
  setExecutable(path: string, on: boolean): void;
  hash(path: string): void;
  open(path: string): void;
  cancel(): void;
  retry(): void;
}

export class FilesPanel {
  readonly element: HTMLElement;
  readonly #summary = h("p", { class: "summary" });
  readonly #progress = h("progress", { "aria-label": "Reading files", max: 1, value: 0, hidden: true });
  readonly #empty: HTMLElement;
  readonly #bits: HTMLElement;
  readonly #actions = h("div", { class: "actions" });
  readonly #filter = h("input", { type: "search", placeholder: "Filter by path", "aria-label": "Filter files by path", hidden: true });
  readonly #list: VirtualList;
  #rows: FileRow[] = [];
  #states: FileState[] = [];
  #shown: number[] = [];
  #version = 0;
  #folder: string | null = null;
  #again: Collected["again"] = null;
  #busy = false;

  constructor(private readonly host: FilesHost) {
    this.#list = new VirtualList("Files", ROW_HEIGHT, (at) => this.#row(this.#shown[at] ?? 0));
    this.#list.element.hidden = true;
    this.#empty = h(
      "p",
      { class: "hint" },
      "Drop the project folder or files anywhere on the page. Relative paths of the declaration are looked up in it. ",
      "Everything is read here, in the browser; nothing is uploaded.",
    );
    this.#bits = h("p", { class: "hint", hidden: true }, "Browsers hide what is executable and follow symbolic links: tick the files that are executable.");
    this.#filter.addEventListener("input", () => this.#show());
    this.element = h(
      "section",
      { class: "files card", "aria-labelledby": "files-title" },
      h("div", { class: "card-head" }, h("h2", { id: "files-title" }, "Project files"), ...this.#pickers()),
      this.#empty,
      this.#summary,
      this.#progress,
      this.#actions,
      this.#bits,
      this.#filter,
      this.#list.element,
    );
    this.#draw();
    this.#acceptDrops();
  }

  /** The rows as the engine knows them now. */
  setRows(version: number, rows: FileRow[]): void {
    this.#version = version;
    this.#rows = rows;
    this.#states = rows.map(() => ({ state: "unused" }));
    if (rows.length === 0) this.#folder = this.#again = null;
    this.#show();
    this.#draw();
  }

  setStates(version: number, states: readonly [number, FileState][]): void {
    if (version !== this.#version) return;
    for (const [index, state] of states) this.#states[index] = state;
    const changed = new Set(states.map(([index]) => index));
    this.#shown.forEach((index, at) => changed.has(index) && this.#list.refresh(at));
    this.#draw();
  }

  #pickers(): HTMLElement[] {
    const files = h("input", { type: "file", multiple: true, class: "visually-hidden", id: "pick-files", tabindex: -1, "aria-label": "Files" });
    const folder = h("input", { type: "file", webkitdirectory: true, class: "visually-hidden", id: "pick-folder", tabindex: -1, "aria-label": "Folder" });
    for (const input of [files, folder]) {
      input.addEventListener("change", () => {
        const collected = fromFiles(input.files ?? []);
        input.value = "";
        if (collected.files.length > 0) this.#take(() => Promise.resolve(collected));
      });
    }
    const choose = async () => {
      if (!window.showDirectoryPicker) return folder.click();
      try {
        const handle = await window.showDirectoryPicker();
        this.#take(() => fromHandle(handle));
      } catch (reason) {
        if (!(reason instanceof DOMException && reason.name === "AbortError")) folder.click();
      }
    };
    return [
      files,
      folder,
      h("button", { type: "button", onclick: () => files.click() }, "Add files"),
      h("button", { type: "button", onclick: () => void choose() }, "Choose folder"),
    ];
  }

  #acceptDrops(): void {
    const over = (on: boolean) => document.documentElement.classList.toggle("dropping", on);
    const carriesFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      over(true);
    });
    addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
    // Capturing, so that the editor does not take a dropped file for text.
    addEventListener(
      "drop",
      (event) => {
        over(false);
        if (!carriesFiles(event) || !event.dataTransfer) return;
        event.preventDefault();
        event.stopPropagation();
        this.#take(fromDrop(event.dataTransfer));
      },
      { capture: true },
    );
  }

  #take(collect: () => Promise<Collected>): void {
    this.#busy = true;
    this.#draw();
    collect()
      .then((collected) => {
        this.#busy = false;
        if (collected.folder !== null) this.#folder = collected.folder;
        this.#again = collected.folder !== null ? collected.again : this.#again;
        this.host.add(collected);
        if (collected.folder === null && collected.files.length <= HASH_AT_ONCE) {
          for (const { path } of collected.files) this.host.hash(path);
        }
        announcer.say(`${count(collected.files.length, "file")} added`);
      })
      .catch((reason: unknown) => {
        this.#busy = false;
        this.#draw();
        this.#summary.textContent = `The folder could not be read: ${reason instanceof Error ? reason.message : String(reason)}. Drop it again.`;
      });
  }

  #show(): void {
    this.#filter.hidden = this.#rows.length <= 8;
    const wanted = this.#filter.hidden ? "" : this.#filter.value.toLowerCase();
    this.#shown = [];
    this.#rows.forEach(({ path }, index) => path.toLowerCase().includes(wanted) && this.#shown.push(index));
    this.#list.element.hidden = this.#rows.length === 0;
    this.#list.show(this.#shown.length);
  }

  #draw(): void {
    const tally = { reading: 0, hashed: 0, stopped: 0, done: 0, total: 0, size: 0 };
    this.#rows.forEach(({ size }, index) => {
      const state = this.#states[index] ?? { state: "unused" };
      tally.size += size;
      if (state.state === "unused") return;
      if (state.state === "cancelled" || state.state === "failed") {
        tally.stopped += 1;
        return;
      }
      tally.total += size;
      if (state.state === "hashed") {
        tally.hashed += 1;
        tally.done += size;
      } else {
        tally.reading += 1;
        if (state.state === "hashing") tally.done += state.done;
      }
    });
    const some = this.#rows.length > 0;
    this.#empty.hidden = some || this.#busy;
    this.#bits.hidden = !some;
    this.#summary.textContent = this.#busy ? "Listing files…" : some ? this.#words(tally) : "";
    this.#progress.hidden = tally.reading === 0;
    this.#progress.value = tally.total > 0 ? tally.done / tally.total : 0;
    const again = this.#again;
    const button = (name: string, act: () => void) => h("button", { type: "button", class: "quiet", onclick: act }, name);
    const wanted = [
      tally.reading > 0 && "Cancel reading",
      tally.stopped > 0 && "Read stopped files",
      again && "Read folder again",
      some && "Remove all",
    ].filter((name) => typeof name === "string");
    // Buttons that stay keep their focus.
    if (this.#actions.dataset["names"] === wanted.join()) return;
    this.#actions.dataset["names"] = wanted.join();
    const acts: Record<string, () => void> = {
      "Cancel reading": () => this.host.cancel(),
      "Read stopped files": () => this.host.retry(),
      "Read folder again": () => this.#again && this.#take(this.#again),
      "Remove all": () => this.host.remove(null),
    };
    fill(this.#actions, ...wanted.map((name) => button(name, acts[name]!)));
  }

  #words({ reading, hashed, stopped, done, total, size }: Record<string, number>): string {
    const parts = [`${count(this.#rows.length, "file")}, ${bytes(size ?? 0)}`];
    if (this.#folder !== null) parts[0] = `${this.#folder}: ${parts[0]}`;
    if (hashed) parts.push(`${hashed.toLocaleString("en")} hashed`);
    if (reading) parts.push(`reading ${bytes(done ?? 0)} of ${bytes(total ?? 0)}`);
    if (stopped) parts.push(`${stopped} stopped`);
    return parts.join(" · ");
  }

  #row(index: number): HTMLLIElement {
    const row = this.#rows[index];
    const state = this.#states[index] ?? { state: "unused" };
    if (!row) return h("li", {});
    const { path, size } = row;
    const executable = h("input", { type: "checkbox", "aria-label": `${path} is executable` });
    executable.checked = row.executable;
    executable.addEventListener("change", () => {
      row.executable = executable.checked;
      this.host.setExecutable(path, executable.checked);
    });
    return h(
      "li",
      { class: "file" },
      h("span", { class: "path", title: path }, path),
      h("span", { class: "size" }, bytes(size)),
      h("label", { class: "executable", title: "Browsers do not tell whether a file is executable" }, executable, "exec"),
      DECLARATION.test(path) &&
        h("button", { type: "button", class: "quiet", "aria-label": `Open ${path} in the editor`, onclick: () => this.host.open(path) }, "Open"),
      h("button", { type: "button", class: "quiet", "aria-label": `Remove ${path}`, onclick: () => this.host.remove(path) }, "Remove"),
      h("span", { class: "state" }, ...this.#stateOf(state, row)),
    );
  }

  #stateOf(state: FileState, { path, size }: FileRow): (HTMLElement | string)[] {
    switch (state.state) {
      case "unused":
        return ["not read: nothing uses it yet"];
      case "waiting":
        return ["waiting"];
      case "hashing":
        return [`reading, ${Math.floor((100 * state.done) / Math.max(1, size))} %`];
      case "cancelled":
        return ["cancelled"];
      case "failed":
        return [state.reason];
      case "hashed":
        return [
          h("code", { title: state.digest }, `sha256:${shortDigest(state.digest)}`),
          copyButton(`digest of ${path}`, () => state.digest),
        ];
    }
  }
}
