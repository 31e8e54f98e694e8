#!/usr/bin/env node
// The first thing every npm script runs, on whatever Node the machine has: installs what is missing and goes on with the
// Node that the project pins. Plain JavaScript without dependencies, as neither is there yet.
//
//   node libs/host/bootstrap.mjs cortex …      the command line
//   node libs/host/bootstrap.mjs FILE.ts …     a script of the project
//   node libs/host/bootstrap.mjs PROGRAM …     a program of node_modules/.bin
import { spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import module from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const bin = join(root, "node_modules", ".bin");
const pinnedNode = join(bin, process.platform === "win32" ? "node.cmd" : "node");
const NODE_MAJOR_MIN = 24;

const [command = "cortex", ...args] = invokedAsCortex() ? ["cortex", ...process.argv.slice(2)] : process.argv.slice(2);

if (!isInstalled()) install();
await run();

/** True when npm has linked this file as the command `cortex`. */
function invokedAsCortex() {
  return !/bootstrap\.mjs$/.test(process.argv[1] ?? "");
}

function isInstalled() {
  const marker = join(root, "node_modules", ".package-lock.json");
  if (!existsSync(marker)) return false;
  // npm writes the marker last, so one that is older than the lock file belongs to other versions.
  return statSync(marker).mtimeMs >= statSync(join(root, "package-lock.json")).mtimeMs || sameLock(marker);
}

/** A checkout gives the lock file a new time without changing it; then the installed versions decide. */
function sameLock(marker) {
  const versions = (file) => {
    const { packages } = JSON.parse(readFileSync(file, "utf8"));
    return new Map(Object.entries(packages).map(([path, { version }]) => [path, version]));
  };
  const locked = versions(join(root, "package-lock.json"));
  for (const [path, version] of versions(marker)) if (locked.get(path) !== version) return false;
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const installed = versions(marker);
  return Object.keys({ ...dependencies, ...devDependencies }).every((name) => installed.has(`node_modules/${name}`));
}

function install() {
  process.stderr.write("Cortex: installing what is missing (once) …\n");
  const npm = process.platform === "win32" ? "npm.cmd" : "npm";
  const result = spawnSync(npm, ["ci", "--loglevel=error", "--no-audit", "--no-fund"], {
    cwd: root,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (result.status === 0) return;
  process.stderr.write("Cortex: npm ci did not succeed. Mend what it says above, then run the same command again.\n");
  process.exit(1);
}

async function run() {
  const [file, rest] =
    command === "cortex"
      ? [join("services", "cortex.ts"), args]
      : command.endsWith(".ts")
        ? [command, args]
        : [undefined, args];
  const major = Number(process.versions.node.split(".")[0]);
  if (file !== undefined && major >= NODE_MAJOR_MIN) {
    // Already on a Node that runs TypeScript: no second process.
    process.argv = [process.argv[0], join(root, file), ...rest];
    // Halves the time to start: compiled code is kept beside what it was compiled from.
    module.enableCompileCache?.(join(root, "node_modules", ".cache", "cortex"));
    await import(pathToFileURL(join(root, file)).href);
    return;
  }
  const node = existsSync(pinnedNode) ? pinnedNode : undefined;
  if (node === undefined && major < NODE_MAJOR_MIN) {
    process.stderr.write(
      `Cortex needs Node ${NODE_MAJOR_MIN} or later; this is ${process.version}, and there is no Node package for ` +
        `${process.platform}-${process.arch} to bring its own.\nInstall Node ${NODE_MAJOR_MIN} or later and run the same command again.\n`,
    );
    process.exit(1);
  }
  const program = file === undefined ? join(bin, command) : (node ?? process.execPath);
  const child = spawn(program, file === undefined ? rest : [join(root, file), ...rest], {
    stdio: "inherit",
    env: { ...process.env, PATH: `${bin}${process.platform === "win32" ? ";" : ":"}${process.env.PATH ?? ""}` },
    shell: process.platform === "win32",
  });
  // The terminal sends Ctrl-C to both; whoever sends a signal to this process only means the child.
  process.on("SIGINT", () => {});
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  child.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGINT" ? 130 : 1)));
}
