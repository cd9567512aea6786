// The page that `chalk serve` has in it, against that very service, in Chromium. One service and one
// browser for all.

import "./connected/hash.test.mjs";
import "./connected/folder.test.mjs";
import "./connected/build.test.mjs";
import "./connected/failures.test.mjs";
