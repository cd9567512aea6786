// The page that `chalk serve` has in it, and the package in a page of its origin, against that very
// service with its node, in Chromium. One service and one browser for all.

import "./connected/hash.test.mjs";
import "./connected/folder.test.mjs";
import "./connected/build.test.mjs";
import "./connected/sandbox.test.mjs";
import "./connected/failures.test.mjs";
