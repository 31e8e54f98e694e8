/** What was seen, for a terminal. */
import type { Result } from "./run.ts";
import { GROUPS } from "./scenario.ts";

/** What one gateway did. */
export interface Column {
  readonly gateway: string;
  readonly results: readonly Result[];
}

export function passedCount({ results }: Column): number {
  return results.filter(({ passed }) => passed).length;
}

/** How many answers were cut short without a word. */
export function silentCount({ results }: Column): number {
  return results.filter(({ silent }) => silent).length;
}

export function totals(column: Column): string {
  const passed = passedCount(column);
  const silent = silentCount(column);
  const { length } = column.results;
  return `${passed} of ${length} passed, ${length - passed} failed${silent > 0 ? `, ${silent} of them silently` : ""}`;
}

/** For a terminal: scenario, pass or fail, what was seen. */
export function table(column: Column): string {
  const width = Math.max(...column.results.map(({ name }) => name.length));
  const lines: string[] = [`${column.gateway}`, ""];
  let group = "";
  for (const result of column.results) {
    if (result.group !== group) {
      group = result.group;
      lines.push(GROUPS[group as keyof typeof GROUPS]);
    }
    const { name, passed, seen, silent } = result;
    lines.push(
      `  ${name.padEnd(width)}  ${passed ? "pass" : "FAIL"}  ${seen}${silent ? " (cut short, and nothing says so)" : ""}`,
    );
  }
  return `${lines.join("\n")}\n\n${column.gateway}: ${totals(column)}\n`;
}
