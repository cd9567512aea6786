// Errors: thrown at the call, with code and place, whatever was passed.

import assert from "node:assert/strict";
import { test } from "node:test";

import { ChalkError, Image } from "chalkcompute";

/** Checks the message and code of what a call throws, and that the stack begins at the call. */
function check(call, message, code) {
  assert.throws(call, (error) => {
    assert.ok(error instanceof ChalkError, String(error));
    assert.equal(error.message, message);
    if (code) assert.equal(error.code, code);
    const [first, second] = error.stack.split("\n");
    assert.equal(first, `ChalkError: ${message}`);
    assert.match(second, /errors\.test\.mjs/);
    return true;
  });
}

const scratch = Image.scratch();

test("what the engine refuses", () => {
  check(
    () => Image.debianSlim("latest").env({}),
    "call 1: debianSlim: `latest` is not a Python version; write `3.12` or `3.12.4`; for another image use `base`",
    "value",
  );
  check(
    () => scratch.addLocalFile("x", "y"),
    "call 2: addLocalFile.dest: `y` is not an absolute path; begin with `/`, such as `/y`",
    "path",
  );
  check(
    () => scratch.addLocalFile("..", "/y"),
    "call 2: addLocalFile.src: `..` names no file; for a directory use `addLocalDir`",
    "path",
  );
  check(() => scratch.runCommands(), "call 2: runCommands: the list is empty; write a command", "empty");
  check(
    () => scratch.addLocalFile("x", "/y", { strategy: "copi" }),
    "call 2: addLocalFile.strategy: `copi` is no strategy; did you mean `copy`?",
    "value",
  );
  assert.match(messageOf(() => scratch.pipInstall("a", "not one!")), /^call 2: pipInstall\[1\]: /);
  assert.match(messageOf(() => scratch.env({ "1A": "" })), /^call 2: env/);
  assert.match(messageOf(() => scratch.pipInstall("a", { env: { "1A": "" } })), /^call 2: pipInstall\.env/);
  // Calls are counted behind those of a declaration too.
  const read = Image.fromTOML(scratch.runCommands("a").toTOML());
  assert.match(messageOf(() => read.workdir("x")), /^call 3: workdir: /);
});

test("values of other types", () => {
  check(() => scratch.pipInstall(3), 'call 2: pipInstall: expected a text, found the number 3; write "3"', "wrong-type");
  check(() => scratch.pipInstall(["a", null]), "call 2: pipInstall[1]: expected a text, found null", "wrong-type");
  check(() => scratch.pipInstall("a", ["b"]), "call 2: pipInstall[1]: expected a text, found a list");
  check(() => scratch.pipInstall({ force: true }), "call 2: pipInstall: expected a text, found an object");
  check(() => scratch.runCommands("a", { forse: true }), "call 2: runCommands.forse: no such option: `forse`; known here: env, secrets, force", "unknown-field");
  check(() => scratch.runCommands("a", { force: 1 }), "call 2: runCommands.force: expected true or false, found the number 1");
  check(() => scratch.runCommands("a", { secrets: "x" }), "call 2: runCommands.secrets: expected a list of texts, found a text");
  check(() => scratch.env({ PORT: 8080 }), 'call 2: env.PORT: expected a text, found the number 8080; write "8080"');
  check(() => scratch.env({ A: undefined }), "call 2: env.A: expected a text, found nothing");
  check(() => scratch.env([["A", "1"]]), "call 2: env: expected an object of texts, found a list");
  check(() => scratch.env(new Map()), "call 2: env: expected an object of texts, found a Map");
  check(() => scratch.label("a"), "call 2: label.value: expected a text, found nothing");
  check(() => scratch.cmd("a", {}), "call 2: cmd: expected texts, found an object");
  check(() => scratch.workdir(), "call 2: workdir: expected a text, found nothing");
  check(() => scratch.workdir(Promise.resolve("/")), "call 2: workdir: expected a text, found a Promise");
  check(() => Image.debianSlim(3.12), 'call 1: debianSlim: expected a text, found the number 3.12; write "3.12"');
  check(() => Image.base(null), "call 1: base: expected a text, found null");
  check(() => Image.fromJSON(3), "call 1: fromJSON: expected a spec or its JSON, found the number 3");
  check(() => Image.fromTOML(Buffer.from("")), "call 1: fromTOML.text: expected a text, found a Buffer");
  check(() => Image.fromTOML("", { fil: "x" }), "call 1: fromTOML.fil: no such option: `fil`; known here: file, files");
  check(() => scratch.addLocalFile(3, "/x"), "call 2: addLocalFile.src: expected a local file (a path in Node, a File, a Blob, bytes or { text }), found the number 3");
  check(() => scratch.addLocalFile("a", "/x", { mode: "rwx" }), 'call 2: addLocalFile.mode: `rwx` is no mode; write 0o755, or "755"', "value");
  check(() => scratch.addLocalFile("a", "/x", { mode: -1, strategy: "copy" }), 'call 2: addLocalFile.mode: `-1` is no mode; write 0o755, or "755"', "value");
  check(() => scratch.addLocalFile("a", "/x", { mode: true }), "call 2: addLocalFile.mode: expected permission bits, found true");
  check(() => scratch.addLocalFile({ text: "x" }, "/x/", { strategy: "copy" }), "call 2: addLocalFile.dest: the contents have no name of their own to take below `/x/`; write the whole path of the file", "path");
  check(() => scratch.addLocalDir({ "../x": "" }, "/x"), "call 2: addLocalDir.src: the given file `../x` is not the path of a file in a directory", "path");
  check(() => scratch.addLocalDir({ a: "", "a/b": "" }, "/x"), "call 2: addLocalDir.src: the given file `a/b` lies below `a`, which is a file", "path");
  check(() => scratch.addLocalDir({ a: 3 }, "/x"), "call 2: addLocalDir.src.a: expected contents (text, bytes or a Blob), found the number 3");
  check(() => scratch.addLocalDir([3], "/x"), "call 2: addLocalDir.src[0]: expected a File, found the number 3");
  check(() => scratch.addLocalDir(new URL("https://example.org/"), "/x"), "call 2: addLocalDir.src: expected a file: address, found https:; fetch it and pass the Blob", "value");
});

test("text that is no valid Unicode", () => {
  check(() => scratch.runCommands("a\ud800"), "call 2: runCommands: the text holds half of a surrogate pair; it must be valid Unicode", "value");
  check(() => scratch.env({ A: "\udc00" }), "call 2: env.A: the text holds half of a surrogate pair; it must be valid Unicode");
  assert.throws(() => Image.fromJSON({ schema: "chalk.image/v1", base: "scratch", labels: { a: "\ud800" } }), { code: "syntax" });
  assert.equal(scratch.runCommands("a😀").steps[0].command, "a😀");
});

test("declarations tell file, line and column, in the file's own words", () => {
  const text = '[image]\nbase = "scratch"\n\n[[step]]\nadd_local_file = { src = "x", dest = "y" }\n';
  assert.throws(() => Image.fromTOML(text, { file: "my/image.toml" }), (error) => {
    assert.equal(error.file, "my/image.toml");
    assert.deepEqual([error.line, error.code], [5, "path"]);
    assert.equal(error.path, "step[0].add_local_file.dest");
    assert.equal(error.message, `my/image.toml:5:${error.column}: step[0].add_local_file.dest: ${error.reason}; ${error.hint}`);
    return true;
  });
});

test("several errors at once", async () => {
  const image = Image.scratch()
    .addLocalDir("not here", "/a", { strategy: "copy" })
    .addLocalDir("nor here", "/b", { strategy: "copy" });
  await assert.rejects(image.hash(), (error) => {
    assert.equal(error.message, "call 2: addLocalDir.src: not here: no such directory; paths are relative to the working directory");
    assert.deepEqual(error.errors.map((one) => [one.code, one.path]), [["file", "call 3: addLocalDir.src"]]);
    return true;
  });
});

test("what has not been read", () => {
  const image = Image.scratch().addLocalFile("x", "/x", { strategy: "copy" });
  const message = "the image names local files, which have not been read; call `await image.resolve()` before";
  for (const read of [() => image.spec, () => image.steps, () => image.mounts, () => image.toJSON()]) {
    assert.throws(read, { code: "unread", message });
  }
});

function messageOf(call) {
  try {
    call();
  } catch (error) {
    return error.message;
  }
  return assert.fail("threw nothing");
}
