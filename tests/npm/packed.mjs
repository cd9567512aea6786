// The packed package as strangers use it: in old and new Node.js, in a browser, through bundlers and
// TypeScript. One process and one browser for all.

import "./packed/node.test.mjs";
import "./packed/typescript.test.mjs";
import "./packed/browser.test.mjs";
import "./packed/bundlers.test.mjs";
