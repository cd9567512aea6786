import { defineConfig } from "vite";
import { sandboxPage } from "./build/sandbox.js";

export default defineConfig({
  // Works below any path of any static host.
  base: "./",
  plugins: [sandboxPage()],
  worker: { format: "es" },
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
});
