/** `cortex metrics`: what the last minutes have come to, and how well everybody serves. */
import Table from "cli-table3";
import { type Command, InvalidArgumentError } from "commander";
import {
  Dimension,
  type Figures,
  MetricsServiceDefinition,
  type SummarizeResponse,
} from "../gen/cortex/metrics/v1/metrics.ts";
import { type ClientOptions, withNode } from "./client.ts";
import { seconds } from "./durations.ts";

/** A long window of many names takes a while to add up. */
const TIMEOUT_MS = 30_000;

const DIMENSIONS: Readonly<Record<string, Dimension>> = {
  worker: Dimension.WORKER,
  provider: Dimension.PROVIDER,
  model: Dimension.MODEL,
  tenant: Dimension.TENANT,
  strategy: Dimension.STRATEGY,
};

interface MetricsOptions extends ClientOptions {
  readonly window: number;
  readonly by: readonly string[];
}

/** Adds the command to `program`; `common` gives it the options that all have, `ended` takes the exit code. */
export function addMetricsCommand(
  program: Command,
  common: (command: Command) => Command,
  ended: (exitCode: number) => void,
): void {
  common(program.command("metrics"))
    .description("sum up the last minutes: requests, errors, latency, tokens, cost and hits")
    .option("--window <duration>", "how far back: 30s, 5m, 1h", seconds(1, 3_600), 300)
    .option("--by <dimensions>", `some of ${Object.keys(DIMENSIONS).join(", ")}, separated by commas`, readDimensions, [
      "worker",
      "model",
    ])
    .action(async (options: MetricsOptions) => ended(await showMetrics(options)));
}

function readDimensions(text: string): string[] {
  const names = text.split(",").filter(Boolean);
  const unknown = names.find((name) => !Object.hasOwn(DIMENSIONS, name));
  if (unknown !== undefined || names.length === 0) {
    throw new InvalidArgumentError(`there are ${Object.keys(DIMENSIONS).join(", ")}.`);
  }
  return names;
}

async function showMetrics({ window, by, ...options }: MetricsOptions): Promise<number> {
  const dimensions = by.map((name) => DIMENSIONS[name]!);
  const summary = await withNode(options, TIMEOUT_MS, (channel, call) =>
    channel.client(MetricsServiceDefinition).summarize({ windowS: window, dimensions }, call),
  );
  if (options.json === true) {
    const { groups, ...rest } = summary;
    const named = by.map((name) => [
      name,
      groups.flatMap((group) => (group.dimension === DIMENSIONS[name] ? [{ name: group.name, ...group.figures }] : [])),
    ]);
    process.stdout.write(`${JSON.stringify({ ...rest, groups: Object.fromEntries(named) }, null, 2)}\n`);
    return 0;
  }
  process.stdout.write(`${tableOf(summary, by)}\n${reasonsOf(summary.total!)}${lostOf(summary)}`);
  return 0;
}

const HEAD = [
  "",
  "requests",
  "errors",
  "mean",
  "p50",
  "p95",
  "p99",
  "first token p95",
  "tokens/s",
  "tokens in",
  "tokens out",
  "cost",
  "hits",
];

function tableOf({ total, groups }: SummarizeResponse, by: readonly string[]): string {
  const aligned = HEAD.map((_, index) => (index === 0 ? "left" : "right") as "left" | "right");
  const table = new Table({ head: HEAD, colAligns: aligned, style: { head: [], border: [] } });
  table.push(rowOf("all requests", total!));
  for (const name of by) {
    const own = groups.filter(({ dimension }) => dimension === DIMENSIONS[name]);
    own.sort((a, b) => b.figures!.requests - a.figures!.requests);
    for (const group of own) table.push(rowOf(`${name} ${group.name}`, group.figures!));
  }
  return table.toString();
}

function rowOf(name: string, figures: Figures): string[] {
  const { requests, errors, duration, timeToFirstToken, tokensPerSecond, inputTokens, outputTokens } = figures;
  const errorShare = requests === 0 ? "" : ` (${((100 * errors) / requests).toFixed(1)} %)`;
  return [
    name,
    String(requests),
    errors === 0 ? "0" : `${errors}${errorShare}`,
    milliseconds(duration!.meanMs, duration!.count),
    milliseconds(duration!.p50Ms, duration!.count),
    milliseconds(duration!.p95Ms, duration!.count),
    milliseconds(duration!.p99Ms, duration!.count),
    milliseconds(timeToFirstToken!.p95Ms, timeToFirstToken!.count),
    tokensPerSecond === 0 ? "" : tokensPerSecond.toFixed(0),
    String(inputTokens),
    String(outputTokens),
    figures.costUsd === 0 ? "" : `$${figures.costUsd.toPrecision(3)}`,
    String(figures.cacheHits + figures.shared),
  ];
}

/** For people: nothing where nothing was measured, seconds where it takes long. */
export function milliseconds(ms: number, count = 1): string {
  if (count === 0) return "";
  return ms < 1_000 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : `${(ms / 1_000).toFixed(2)} s`;
}

function reasonsOf({ errorsByReason }: Figures): string {
  const reasons = Object.entries(errorsByReason).sort(([, a], [, b]) => b - a);
  return reasons.length === 0 ? "" : `errors: ${reasons.map(([reason, count]) => `${count} ${reason}`).join(", ")}\n`;
}

function lostOf({ eventsLost }: SummarizeResponse): string {
  return eventsLost === 0
    ? ""
    : `incomplete: ${eventsLost} messages of events were lost before they could be counted\n`;
}
