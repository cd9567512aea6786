import * as chalkcompute from "./node_modules/chalkcompute/dist/index.js";
import { results } from "./page.mjs";

postMessage(await results(chalkcompute));
