/** Replaying a folder: a line for each exchange, and what it came to. */
import { FinishReason } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { RpcError } from "../../libs/rpc/index.ts";
import { check, type Verdict } from "./checking.ts";
import { type Exchange, readExchanges } from "./exchanges.ts";
import { type Adapters, judge, type Reading } from "./judging.ts";

interface Counts {
  read: number;
  errors: number;
  skipped: number;
  failed: number;
}

/** Replays every exchange in `folder`. True when all that could be read reads well. */
export function replay(folder: string, adapters: Adapters, print: (line: string) => void): boolean {
  const counts = new Map<string, Counts>();
  const reasons = new Map<string, number>();
  const exchanges = readExchanges(folder);
  for (const exchange of exchanges) {
    const count = counts.get(exchange.folder) ?? { read: 0, errors: 0, skipped: 0, failed: 0 };
    counts.set(exchange.folder, count);
    const { line, result, reason } = replayOne(exchange, adapters);
    count[result] += 1;
    if (reason !== undefined) reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
    print(line);
  }
  if (exchanges.length === 0) print(`no exchanges in ${folder}`);
  else for (const line of table(counts)) print(line);
  if (reasons.size > 0) print(`skipped: ${[...reasons].map(([reason, count]) => `${count} × ${reason}`).join("; ")}`);
  return exchanges.length > 0 && [...counts.values()].every(({ failed }) => failed === 0);
}

interface Result {
  readonly line: string;
  readonly result: keyof Counts;
  /** Why it was skipped. */
  readonly reason?: string;
}

function replayOne(exchange: Exchange, adapters: Adapters): Result {
  const name = `${exchange.folder}/${exchange.name}`.padEnd(50);
  try {
    const reading = judge(exchange, adapters);
    if ("skipped" in reading) {
      return {
        line: `- ${name}  ${"".padEnd(9)}  skipped     ${reading.skipped}`,
        result: "skipped",
        reason: reading.skipped,
      };
    }
    const verdict = check(reading);
    const how = `${reading.dialect.provider.padEnd(9)}  ${reading.kind.padEnd(10)}`;
    const line = `${name}  ${how}  ${describe(reading, verdict).join(" · ")}`;
    const { complaints, outcome } = verdict;
    if (complaints.length > 0) return { line: `✗ ${line}\n    ${complaints.join("\n    ")}`, result: "failed" };
    return { line: `✓ ${line}`, result: outcome.error === undefined ? "read" : "errors" };
  } catch (thrown) {
    // Not of a dialect, but of what is here.
    const what = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
    return { line: `✗ ${name}  the replay itself failed: ${what}`, result: "failed" };
  }
}

function describe({ kind, status }: Reading, { outcome, said, cuts }: Verdict): string[] {
  const { error, embeddings, models } = outcome;
  const facts: string[] = [];
  if (kind === "error") facts.push(`HTTP ${status}`);
  if (embeddings !== undefined) {
    const [first] = embeddings.embeddings;
    facts.push(`${embeddings.embeddings.length} vectors of ${first?.values.length ?? 0}`);
    facts.push(`usage ${embeddings.usage?.inputTokens ?? "none"}`);
  }
  if (models !== undefined) facts.push(`${models.length} models`);
  if (kind === "whole" || kind === "stream") {
    facts.push(`text ${said.text.length}`);
    if (said.reasoning !== "") facts.push(`reasoning ${said.reasoning.length}`);
    if (said.refusal !== "") facts.push(`refusal ${said.refusal.length}`);
    facts.push(`tool calls ${said.calls.length}`, `usage ${describeUsage(said.usage)}`);
    facts.push(`finish ${said.finishes.map(finishName).join(", ") || "none"}`);
  }
  if (error !== undefined) facts.push(describeError(error));
  if (cuts !== undefined) {
    facts.push(cuts.step === 1 ? `${cuts.count} cuts` : `${cuts.count} cuts, one in ${cuts.step}: it is long`);
  }
  return facts;
}

function describeUsage(usage: Verdict["said"]["usage"]): string {
  if (usage === undefined) return "none";
  const { inputTokens, outputTokens, cachedInputTokens, reasoningTokens } = usage;
  const details = [
    cachedInputTokens ? `${cachedInputTokens} cached` : "",
    reasoningTokens ? `${reasoningTokens} reasoning` : "",
  ].filter(Boolean);
  return `${inputTokens ?? "?"}→${outputTokens ?? "?"}${details.length > 0 ? ` (${details.join(", ")})` : ""}`;
}

function finishName(reason: number): string {
  const found = Object.entries(FinishReason).find(([, value]) => value === reason)?.[0];
  return (found ?? String(reason)).toLowerCase();
}

function describeError(error: RpcError): string {
  const { retryAfterMs } = error;
  const wait = retryAfterMs === undefined ? "no wait" : `wait ${retryAfterMs / 1000} s`;
  return `${error.reason} (${error.class}), ${wait}`;
}

function table(counts: ReadonlyMap<string, Counts>): string[] {
  const sum: Counts = { read: 0, errors: 0, skipped: 0, failed: 0 };
  const row = (name: string, values: readonly (string | number)[]) =>
    `${name.padEnd(24)}${values.map((value) => String(value).padStart(13)).join("")}`;
  const rows = [...counts].map(([folder, { read, errors, skipped, failed }]) => {
    sum.read += read;
    sum.errors += errors;
    sum.skipped += skipped;
    sum.failed += failed;
    return row(folder, [read, errors, skipped, failed]);
  });
  return [
    "",
    row("provider", ["read", "errors read", "skipped", "failed"]),
    ...rows,
    row("all", [sum.read, sum.errors, sum.skipped, sum.failed]),
  ];
}
