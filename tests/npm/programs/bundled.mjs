import { Image } from "chalkcompute";

import { report } from "./page.mjs";

report(async () => ({ Image }));
