/** The page: what it knows, and who is told when that changes. */
import { Engine } from "./engine/client.js";
import type { Answer, Fault, Preview, ServicePlanView, Source } from "./engine/protocol.js";
import { TABS, type TabKey } from "./examples.js";
import { JavaScriptRunner } from "./javascript.js";
import { type Shared, decode, encode } from "./permalink.js";
import { announcer } from "./ui/announce.js";
import { BuildPanel } from "./ui/build.js";
import { Compare } from "./ui/compare.js";
import { Connection, tabToken } from "./ui/connection.js";
import { copy } from "./ui/copy.js";
import { h } from "./ui/dom.js";
import { Editor } from "./ui/editor.js";
import { FilesPanel } from "./ui/files.js";
import { bytes } from "./ui/format.js";
import { HashCard } from "./ui/hash-card.js";
import { layout } from "./ui/layout.js";
import { Outputs, type StepMark } from "./ui/outputs.js";
import { Problems } from "./ui/problems.js";
import { Tabs } from "./ui/tabs.js";

const FILES = { toml: "image.toml", dockerfile: "Dockerfile", requirements: "requirements.txt" } as const;
/** How long after the last edit the address and the service's plan follow. */
const SETTLE_MS = 400;
/** A spec that takes longer than this to hash is said to be on its way. */
const PATIENCE_MS = 120;
/** Longest fragment that goes into the address without being asked for. */
const MAX_ADDRESS = 30_000;

const HINTS: Record<TabKey, string> = {
  javascript: "Runs in a sandbox without network for at most 2 s; paths are those of the project folder.",
  toml: "Paths are those of the project folder.",
  dockerfile: "The project folder is the build context.",
  requirements: "Alone it is debian_slim with pip_install_from_requirements.",
};
const KEYS = " Esc, then Tab leaves the editor.";

export class App {
  readonly #editor = new Editor(TABS, "javascript", () => this.#edited());
  readonly #panel = h("div", { class: "editor-panel" }, this.#editor.element);
  readonly #tabs = new Tabs("Ways to declare", TABS, this.#panel, (key) => this.#show(key as TabKey));
  readonly #problems = new Problems((fault) => this.#editor.goTo(fault));
  readonly #card = new HashCard({
    pin: (ref, digest) => this.#pin(ref, digest),
    resolve: () => this.#engine.send({ type: "resolve-bases" }),
    keep: () => this.#engine.send({ type: "keep" }),
  });
  readonly #compare = new Compare({ forget: () => this.#forget(), restore: () => this.#restore() });
  readonly #outputs = new Outputs();
  readonly #files = new FilesPanel({
    add: ({ folder, files, dirs }) => this.#changeFiles({ type: "add", files, dirs, replace: folder !== null }),
    remove: (path) => this.#changeFiles({ type: "remove", path }),
    setExecutable: (path, on) => this.#changeFiles({ type: "executable", path, on }),
    hash: (path) => this.#engine.send({ type: "hash", path }),
    open: (path) => this.#engine.send({ type: "read", path }),
    cancel: () => this.#engine.send({ type: "cancel-hashing" }),
    retry: () => this.#changeFiles({ type: "retry-hashing" }),
  });
  readonly #connection = new Connection({
    connect: (token) => this.#connect(token),
    disconnect: () => this.#disconnect(),
  });
  readonly #build = new BuildPanel({
    build: (options) => this.#engine.send({ type: "build", ...options }),
    cancel: () => this.#engine.send({ type: "cancel-build" }),
  });
  readonly #layout = layout({
    editorTabs: this.#tabs.list,
    editorPanel: this.#panel,
    problems: this.#problems.element,
    files: this.#files.element,
    card: this.#card.element,
    compare: this.#compare.element,
    build: this.#build.element,
    outputs: this.#outputs.element,
    connect: this.#connection.button,
    dialog: this.#connection.dialog,
    share: () => void this.#share(),
    example: () => this.#editor.replace(TABS.find(({ key }) => key === this.#tab)?.example ?? ""),
  });
  readonly #javascript = new JavaScriptRunner(document.body);
  readonly #engine = new Engine((answer) => this.#receive(answer));

  #tab: TabKey = "javascript";
  #pins: Record<string, string> = {};
  /** Number of the newest edit; answers to older ones are dropped. */
  #edit = 0;
  #usable = true;
  #source: Source | null = null;
  #notes: Fault[] = [];
  #preview: Preview | null = null;
  #plan: ServicePlanView | null = null;
  #built: StepMark[] | null = null;
  #kept: Shared | null = null;
  #settling = 0;
  #patience = 0;
  #loading = true;

  async start(): Promise<void> {
    this.#tabs.select(this.#tab);
    addEventListener("hashchange", () => void this.#readAddress());
    await this.#readAddress();
    this.#loading = false;
    this.#show(this.#tab);
  }

  // The text.

  #show(tab: TabKey): void {
    this.#tab = tab;
    this.#tabs.select(tab);
    this.#editor.show(tab);
    this.#layout.hint(HINTS[tab] + KEYS);
    this.#edited();
  }

  #edited(): void {
    if (this.#loading) return;
    this.#edit += 1;
    this.#wait();
    this.#problems.showConsole([]);
    if (this.#tab === "javascript") {
      this.#source = null;
      const edit = this.#edit;
      this.#javascript.run(this.#editor.text, ({ recording, notes, faults }) => {
        if (edit !== this.#edit) return;
        this.#problems.showConsole(recording?.console ?? []);
        this.#notes = notes;
        if (recording) this.#evaluate({ kind: "javascript", recording });
        else this.#fail(faults);
      });
    } else {
      this.#javascript.cancel();
      this.#notes = [];
      this.#evaluate({ kind: "declaration", file: FILES[this.#tab], text: this.#editor.text });
    }
  }

  #evaluate(source: Source): void {
    this.#source = source;
    this.#engine.send({ type: "evaluate", id: this.#edit, source, pins: this.#pins });
  }

  /** Hashes the same text again, since something else has changed. */
  #again(): void {
    if (!this.#source) return;
    this.#edit += 1;
    this.#wait();
    this.#evaluate(this.#source);
  }

  /** What an edit came to is there; the rest follows when no other edit does. */
  #settle(): void {
    clearTimeout(this.#patience);
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => {
      void this.#writeAddress();
      this.#askPlan();
    }, SETTLE_MS);
  }

  #wait(): void {
    clearTimeout(this.#patience);
    this.#patience = setTimeout(() => {
      this.#card.show({ wait: "Computing…" });
      this.#showFaults([]);
    }, PATIENCE_MS);
  }

  #fail(faults: Fault[]): void {
    this.#settle();
    this.#preview = null;
    this.#plan = null;
    this.#showFaults(faults);
    const [first] = faults;
    this.#card.show({ fault: first ? `${first.line === null ? "" : `line ${first.line}: `}${first.message}` : "" });
    this.#compare.show(null);
    this.#outputs.show(null);
    this.#build.setPossible(false);
    this.#build.plan(null);
  }

  #showPreview(preview: Preview): void {
    this.#settle();
    this.#preview = preview;
    this.#plan = null;
    this.#built = null;
    this.#showFaults([...this.#notes, ...preview.warnings]);
    this.#card.show({ preview });
    this.#compare.show(preview);
    this.#mark();
    this.#outputs.show(preview);
    this.#build.setPossible(true);
    this.#build.secrets(preview.secrets);
  }

  #showFaults(faults: Fault[]): void {
    this.#problems.show(faults);
    this.#editor.mark(faults);
  }

  #mark(): void {
    const { diff, steps = [] } = this.#preview ?? {};
    const reruns = new Set(diff?.reruns.map(({ step }) => step));
    const marks = steps.map((_, i): StepMark | undefined => {
      const known = this.#built?.[i] ?? this.#plan?.states[i];
      return known ?? (diff ? (reruns.has(i) ? "reruns" : "reused") : undefined);
    });
    this.#outputs.mark(marks);
  }

  #pin(ref: string, digest: string | null): void {
    const { [ref]: old, ...others } = this.#pins;
    if ((old ?? null) === digest) return;
    this.#pins = digest === null ? others : { ...others, [ref]: digest };
    this.#again();
  }

  #forget(): void {
    this.#engine.send({ type: "forget" });
    this.#kept = null;
    this.#compare.keep(null);
    this.#again();
  }

  #restore(): void {
    if (this.#kept) this.#open(this.#kept);
  }

  #open({ tab, text, pins }: Shared): void {
    this.#pins = { ...pins };
    this.#show(tab);
    this.#editor.replace(text);
  }

  #changeFiles(request: Parameters<Engine["send"]>[0]): void {
    this.#engine.send(request);
    this.#again();
  }

  /** Shows a file of the project in the tab of its kind. */
  #openFile(path: string, text: string): void {
    const name = path.slice(path.lastIndexOf("/") + 1);
    const tab: TabKey = name.endsWith(".toml") ? "toml" : name.endsWith(".txt") ? "requirements" : /\.m?js$/.test(name) ? "javascript" : "dockerfile";
    this.#show(tab);
    this.#editor.replace(text);
    this.#editor.focus();
  }

  // The address.

  async #readAddress(): Promise<void> {
    const { token, shared } = await decode(location.hash);
    if (token) {
      tabToken.write(token);
      const rest = location.hash.replace(/^#/, "").split("&").filter((part) => !part.startsWith("token="));
      history.replaceState(null, "", rest.length > 0 ? `#${rest.join("&")}` : location.pathname + location.search);
    }
    const stored = tabToken.read();
    if (stored && !this.#connection.connected) this.#connect(stored);
    if (!shared) return;
    if ("problem" in shared) this.#layout.notify("error", shared.problem);
    else this.#open(shared);
  }

  async #writeAddress(): Promise<void> {
    const text = this.#editor.text;
    const untouched = TABS[0]?.key === this.#tab && TABS[0].example === text && Object.keys(this.#pins).length === 0;
    const fragment = untouched ? "" : await encode(this.#shared());
    if (text !== this.#editor.text || fragment.length > MAX_ADDRESS) return;
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
  }

  #shared(): Shared {
    const used = Object.entries(this.#pins).filter(([ref]) => this.#preview?.bases.some((base) => base.ref === ref));
    return { tab: this.#tab, text: this.#editor.text, pins: Object.fromEntries(used) };
  }

  async #share(): Promise<void> {
    const url = new URL(location.href);
    url.hash = await encode(this.#shared());
    const done = await copy(url.href);
    const long = url.href.length > MAX_ADDRESS ? ` It is ${bytes(url.href.length)} long; some programs cut such links.` : "";
    this.#layout.notify(
      "info",
      done ? `The link is copied. It holds the text and the digests of the bases, not the files.${long}` : "The browser did not allow copying; take the link from the address.",
    );
    announcer.say(done ? "Link copied" : "Link not copied");
  }

  // The service.

  #connect(token: string): void {
    this.#connection.set({ is: "connecting" });
    this.#engine.send({ type: "connect", server: location.origin, token });
    tabToken.write(token);
  }

  #disconnect(): void {
    tabToken.forget();
    this.#engine.send({ type: "disconnect" });
    this.#connection.set({ is: "off" });
    this.#setConnected(false);
    this.#plan = null;
    this.#mark();
  }

  #setConnected(connected: boolean): void {
    this.#card.setConnected(connected);
    this.#build.setConnected(connected);
  }

  #askPlan(): void {
    if (this.#connection.connected && this.#preview) this.#engine.send({ type: "plan" });
  }

  // What the engine says.

  #receive(answer: Answer): void {
    switch (answer.type) {
      case "unusable":
        this.#usable = false;
        this.#fail([]);
        this.#card.show({ wait: "The hash engine does not run." });
        return this.#layout.notify("error", answer.message, answer.hint);
      case "preview":
        if (answer.id === this.#edit) this.#showPreview(answer.preview);
        return;
      case "faults":
        if (answer.id === this.#edit && this.#usable) this.#fail(answer.faults);
        return;
      case "reading": {
        if (answer.id !== this.#edit) return;
        const { files, filesTotal, bytes: done, bytesTotal } = answer;
        const total = filesTotal > 0 ? ` of ${filesTotal.toLocaleString("en")}` : "";
        clearTimeout(this.#patience);
        return this.#card.show({ wait: `Reading files: ${files.toLocaleString("en")}${total}, ${bytes(done)} of ${bytes(bytesTotal)}` });
      }
      case "kept":
        this.#kept = this.#shared();
        this.#compare.keep({ hash: answer.hash, pinned: answer.pinned, tab: TABS.find(({ key }) => key === this.#tab)?.name ?? "" });
        return this.#again();
      case "files":
        return this.#files.setRows(answer.version, answer.rows);
      case "file-states":
        return this.#files.setStates(answer.version, answer.states);
      case "text":
        return this.#openFile(answer.path, answer.text);
      default:
        this.#receiveFromService(answer);
    }
  }

  #receiveFromService(answer: Answer): void {
    switch (answer.type) {
      case "connected":
        this.#connection.set({ is: "on", server: answer.server, version: answer.version, registry: answer.registry });
        this.#connection.dialog.close();
        this.#setConnected(true);
        return this.#askPlan();
      case "refused":
        if (answer.token) tabToken.forget();
        this.#connection.set({ is: "refused", message: answer.message, hint: answer.hint });
        this.#setConnected(false);
        return this.#layout.notify("error", `Not connected: ${answer.message}.`, answer.hint);
      case "bases":
        if (answer.id !== this.#edit) return;
        this.#pins = { ...this.#pins, ...answer.pins };
        return this.#again();
      case "service-plan":
        if (answer.id !== this.#edit) return;
        this.#plan = answer.plan;
        this.#build.plan(answer.plan);
        return this.#mark();
      case "service-problem":
        if (answer.about === "build") return this.#build.problem([answer.message, answer.hint].filter(Boolean).join("; "));
        return this.#layout.notify("error", `${answer.about === "plan" ? "No plan" : "Base not resolved"}: ${answer.message}.`, answer.hint);
      case "build-phase":
        return this.#build.phase(answer.phase, answer.text);
      case "build-started":
        this.#built = this.#sameSteps(answer.steps) ? answer.steps.map(() => "run") : null;
        return this.#mark();
      case "build-step":
        if (this.#built) this.#built[answer.step] = answer.state;
        return this.#mark();
      case "build-log":
        return this.#build.log(answer.lines);
      case "build-ended":
        this.#build.ended(answer);
        return this.#askPlan();
    }
  }

  /** Whether a build is of the spec that is shown: it may have been edited since. */
  #sameSteps(steps: readonly { key: string }[]): boolean {
    const shown = this.#preview?.steps ?? [];
    return shown.length === steps.length && shown.every(({ key }, i) => key === steps[i]?.key);
  }
}
