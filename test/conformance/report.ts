/** Tables of what was seen: in the terminal, and side by side in docs/conformance.md. */
import type { Result } from "./run.ts";
import { GROUPS } from "./scenario.ts";

/** What one gateway did. */
export interface Column {
  readonly gateway: string;
  readonly results: readonly Result[];
}

export function totals({ results }: Column): string {
  const passed = results.filter((result) => result.passed).length;
  const silent = results.filter((result) => result.silent).length;
  const failed = results.length - passed;
  return `${passed} of ${results.length} passed, ${failed} failed${silent > 0 ? `, ${silent} of them silently` : ""}`;
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

/** For the document: a row for each scenario, a column for each gateway. */
export function sideBySide(columns: readonly Column[]): string {
  const lines: string[] = [];
  const row = (cells: readonly string[]) => lines.push(`| ${cells.join(" | ")} |`);
  row(["", ...columns.map(({ gateway }) => gateway)]);
  row(["---", ...columns.map(() => "---")]);
  row([
    "**passed**",
    ...columns.map(({ results }) => `**${results.filter(({ passed }) => passed).length} of ${results.length}**`),
  ]);
  row([
    "cut short, and nothing says so",
    ...columns.map(({ results }) => String(results.filter(({ silent }) => silent).length)),
  ]);
  let group = "";
  for (const [index, { group: own, name, must }] of columns[0]!.results.entries()) {
    if (own !== group) {
      group = own;
      row([`**${GROUPS[group as keyof typeof GROUPS]}**`, ...columns.map(() => "")]);
    }
    const cells = columns.map(({ results }) => verdict(results[index]!));
    row([`<span title="${must.replaceAll('"', "&quot;")}">${name}</span>`, ...cells]);
  }
  return lines.join("\n");
}

function verdict({ passed, seen, silent }: Result): string {
  if (passed) return "pass";
  return `**${silent ? "fails silently" : "fails"}**: ${cell(seen)}`;
}

function cell(text: string): string {
  return text.split("\n")[0]!.replaceAll("|", "\\|").slice(0, 160);
}
