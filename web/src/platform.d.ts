// What browsers have and TypeScript's library of the DOM lacks, or has for workers only.

interface Window {
  showDirectoryPicker?(options?: { mode?: "read" }): Promise<FileSystemDirectoryHandle>;
}

declare class FileReaderSync {
  readAsArrayBuffer(blob: Blob): ArrayBuffer;
}
