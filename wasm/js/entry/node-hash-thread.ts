/**
 * A thread that helps with hashing many files.
 */

import { parentPort, workerData } from "node:worker_threads";

import { AT_ONCE } from "../files/disk-read.js";
import { type Share, hashBlock } from "../files/disk-share.js";

const buffer = Buffer.allocUnsafe(AT_ONCE);
while (hashBlock(workerData as Share, buffer));
parentPort?.postMessage("done");
