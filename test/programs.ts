/**
 * Programs of other makers that some tests drive: Prometheus and Chromium. They are Debian's packages, which CI installs; on a
 * developer's machine without them their tests are skipped, and in CI they fail.
 */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { describe } from "vitest";

/** What each program may be called. */
const NAMES = {
  prometheus: ["prometheus"],
  promtool: ["promtool"],
  chromium: ["chromium", "chromium-browser", "google-chrome"],
} as const;

/** The Debian package that brings each program. */
const PACKAGES: Readonly<Record<Program, string>> = {
  prometheus: "prometheus",
  promtool: "prometheus",
  chromium: "chromium",
};

export type Program = keyof typeof NAMES;

/** Where a program is; undefined when the machine does not have it. */
export function findProgram(program: Program): string | undefined {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    for (const name of NAMES[program]) {
      const path = join(folder, name);
      try {
        accessSync(path, constants.X_OK);
        return path;
      } catch {
        // Not there: the next place.
      }
    }
  }
  return undefined;
}

/** Where a program is; throws a sentence that says how to install it. */
export function requireProgram(program: Program): string {
  const path = findProgram(program);
  if (path === undefined) throw new Error(`${program} is not on the PATH: apt-get install ${PACKAGES[program]}`);
  return path;
}

/**
 * `describe` for tests that need these programs. Where one is missing they are skipped, and their name says why; in CI they run all
 * the same and fail, so that nobody takes skipped tests for passed ones.
 */
export function describeWith(programs: readonly Program[], name: string, tests: () => void): void {
  const missing = programs.filter((program) => findProgram(program) === undefined);
  if (missing.length === 0 || process.env["CI"] === "true") describe(name, tests);
  else describe.skip(`${name} (skipped: ${missing.join(" and ")} not installed)`, tests);
}
