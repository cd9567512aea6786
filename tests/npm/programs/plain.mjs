import { report } from "./page.mjs";

report(() => import("./node_modules/chalkcompute/dist/index.js"));
