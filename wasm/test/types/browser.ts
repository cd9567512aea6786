// Types of what a page hands over. Compiled, never run.

import { Image } from "chalkcompute";
import { init, initSync, Image as SlimImage } from "chalkcompute/slim";

declare const file: File;
declare const files: FileList;
declare const fileHandle: FileSystemFileHandle;
declare const dirHandle: FileSystemDirectoryHandle;
declare const transfer: DataTransfer;
declare const entry: FileSystemDirectoryEntry;

const image = Image.scratch()
  .addLocalFile(file, "/x/")
  .addLocalFile(fileHandle, "/x/")
  .addLocalDir(files, "/x")
  .addLocalDir([file], "/x")
  .addLocalDir(dirHandle, "/x")
  .addLocalDir(transfer, "/x")
  .addLocalDir(entry, "/x")
  .pipInstallFromRequirements(file);
Image.fromDockerfile(file, { context: dirHandle });
Image.fromTOML("", { files: transfer });

// @ts-expect-error a directory is no file
image.addLocalFile(dirHandle, "/x");
// @ts-expect-error a file is no directory
image.addLocalDir(fileHandle, "/x");

// Both entries have the same classes.
const same: Image = SlimImage.scratch();
same.workdir("/");

await init("/chalk.wasm");
await init(new URL("https://example.org/chalk.wasm"));
await init(fetch("/chalk.wasm"));
initSync(new Uint8Array());
// @ts-expect-error something has to be given
await init();
