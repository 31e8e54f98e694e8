/**
 * Portkey's gateway, the nearest peer in this language, from npm into a cache folder: it is a reference to measure
 * against, never a dependency.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";

const PACKAGE = "@portkey-ai/gateway";
export const PORTKEY_VERSION = "1.15.2";

/**
 * The one its package.json names as the least. With the newer ones that npm would take, every stream fails with
 * "TypeError: immutable": https://github.com/Portkey-AI/gateway/issues/1389
 */
export const NODE_SERVER_VERSION = "1.3.3";
const INSTALL_WITHIN_MS = 120_000;

/** The one that Cortex itself uses. */
export function cacheFolder(): string {
  return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "cortex");
}

/** The program to start; installed if it is not there yet. Throws when it cannot be installed, as without a network. */
export async function portkeyProgram(): Promise<string> {
  const folder = join(cacheFolder(), `bench-portkey-${PORTKEY_VERSION}`);
  if (!existsSync(folder)) await install(folder);
  return join(folder, "node_modules", PACKAGE, "build", "start-server.js");
}

/** Into a folder beside, moved into place when complete: an interrupted install is never taken for a whole one. */
async function install(folder: string): Promise<void> {
  console.error(`installing ${PACKAGE}@${PORTKEY_VERSION} into the cache folder, once`);
  await mkdir(dirname(folder), { recursive: true });
  const partial = await mkdtemp(`${folder}-`);
  const manifest = {
    private: true,
    dependencies: { [PACKAGE]: PORTKEY_VERSION },
    overrides: { "@hono/node-server": NODE_SERVER_VERSION },
  };
  // Install scripts of a program that is only looked at are not run; it works without them.
  const args = ["install", "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"];
  try {
    await writeFile(join(partial, "package.json"), JSON.stringify(manifest));
    await promisify(execFile)("npm", args, { cwd: partial, timeout: INSTALL_WITHIN_MS });
    await rename(partial, folder);
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    const { stderr, message } = error as Error & { stderr?: string };
    throw new Error(`${PACKAGE} could not be installed: ${(stderr?.trim() || message).split("\n")[0]}`);
  }
}
