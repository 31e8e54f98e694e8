/**
 * `npm run replay -- FOLDER`: reads recorded exchanges with real providers through the adapters, whole and cut at every byte,
 * and compares what comes out with what was recorded. FOLDER has a folder for each provider, and in it for each exchange
 * NAME.request.json, NAME.headers.txt and NAME.response.json (or .sse, .ndjson, …). Exits with 1 when one reads badly.
 */
import { statSync } from "node:fs";
import { resolve } from "node:path";
import { findAdapters } from "./adapters.ts";
import { replay } from "./report.ts";

// Whoever reads the lines may have seen enough.
process.stdout.on("error", () => process.exit(1));

const [folder, ...rest] = process.argv.slice(2);
const path = folder === undefined ? undefined : resolve(folder);
if (path === undefined || rest.length > 0 || !statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
  process.stderr.write(path === undefined ? "" : `${path} is no folder\n`);
  process.stderr.write("usage: npm run replay -- FOLDER\n");
  process.exitCode = 2;
} else {
  const well = replay(path, await findAdapters(), (line) => process.stdout.write(`${line}\n`));
  process.exitCode = well ? 0 : 1;
}
