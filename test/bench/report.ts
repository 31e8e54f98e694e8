/** Tables for people: the same in the terminal and in docs/benchmarks.md. */
import { availableParallelism } from "node:os";
import type { Plan } from "./measure.ts";
import { NODE_SERVER_VERSION } from "./portkey.ts";
import type { Added, Cost, Summary } from "./summary.ts";
import { BUDGET, NAMES, STREAM_BUDGET_BYTES } from "./targets.ts";

/** Below it the tokens were not spread as a provider spreads them, and their price is not comparable. */
const PACE_KEPT = 0.97;

/** A share of the machine used by others beyond it shows in the numbers. */
const QUIET_BELOW = 0.1;

export type Report = {
  date: string;
  command: string;
  plan: Plan;
  summaries: Summary[];
  /** What was not measured, and why. */
  missing: string[];
  /** Share of the machine that processes outside the bench used during the rounds. */
  others: number;
};

export function machine(): string {
  return `${availableParallelism()} cores, ${process.platform} ${process.arch}, Node ${process.version}`;
}

export function table(head: string[], rows: string[][]): string {
  const widths = head.map((title, column) =>
    Math.max(3, title.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const pad = (cell: string, column: number): string =>
    column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0);
  const line = (cells: string[]): string => `| ${cells.map(pad).join(" | ")} |`;
  const rule = widths.map((width, column) => (column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`));
  return [line(head), `| ${rule.join(" | ")} |`, ...rows.map(line)].join("\n");
}

function microseconds(us: number): string {
  return us.toFixed(us < 100 ? 1 : 0);
}

function factor(ratio: number): string {
  return ratio.toFixed(2);
}

function signed(ms: number): string {
  return `${ms < 0 ? "−" : "+"}${Math.abs(ms).toFixed(2)}`;
}

function budget(limit: number | undefined, ratio: number): string {
  if (limit === undefined) return "";
  return `≤ ${limit} ${ratio <= limit ? "(met)" : "(over)"}`;
}

function costTable(summaries: Summary[], of: "call" | "token"): string {
  const rows = summaries.map((summary) => {
    const { us, natsUs, ratio }: Cost = summary[of];
    const limit = budget(BUDGET[summary.key]?.[of], ratio.of);
    const range = `${factor(ratio.from)}–${factor(ratio.to)}`;
    const nats = summary.key === "one" || summary.key === "three" ? microseconds(natsUs) : "";
    return [NAMES[summary.key], microseconds(us), nats, factor(ratio.of), range, limit];
  });
  const unit = of === "call" ? "µs a call" : "µs a token";
  return table(
    [`CPU per ${of === "call" ? "call" : "streamed token"}`, unit, "of it NATS", "× pipe", "min–max", "budget"],
    rows,
  );
}

function secondTable(summaries: Summary[]): string {
  const latency = ({ p50Ms, p99Ms }: Added): string[] => [signed(p50Ms), signed(p99Ms)];
  const rows = summaries.map((summary) => [
    NAMES[summary.key],
    ...(summary.key === "pipe"
      ? ["0", "0", "0", "0"]
      : [...latency(summary.addedCall), ...latency(summary.addedFirstToken)]),
    summary.bytesPerStream === undefined ? "" : (summary.bytesPerStream / 1_000).toFixed(1),
    `${(summary.pace * 100).toFixed(0)} %`,
    summary.tokensPerRead.toFixed(2),
  ]);
  const head = [
    "added ms, memory",
    "call p50",
    "p99",
    "first token p50",
    "p99",
    "KB a stream",
    "pace kept",
    "tokens a read",
  ];
  return table(head, rows);
}

export function tables({ summaries }: Report): string {
  return [costTable(summaries, "call"), costTable(summaries, "token"), secondTable(summaries)].join("\n\n");
}

/** What a reader of the numbers must know beside them. */
export function remarks({ summaries, missing, others }: Report): string[] {
  const slow = summaries.filter(({ pace }) => pace < PACE_KEPT).map(({ key }) => NAMES[key]);
  const busy =
    others > QUIET_BELOW ? [`Others used ${(others * 100).toFixed(0)} % of the machine meanwhile: noisy.`] : [];
  return [
    ...busy,
    ...missing.map((reason) => `Not measured: ${reason.split("\n")[0]}`),
    ...(slow.length > 0
      ? [`Did not keep the pace, so their price of a token is not comparable: ${slow.join(", ")}.`]
      : []),
  ];
}

export function document(report: Report): string {
  const { plan, date, command } = report;
  const pace = 1_000 / plan.tokens.everyMs;
  const notes = remarks(report).map((remark) => `- ${remark}\n`);
  const samples = report.summaries.map(({ key, calls, tokens }) => `${NAMES[key]} ${calls} calls and ${tokens} tokens`);
  const memory = plan.memory
    ? `- Memory: growth of the resident memory of all processes over ${plan.memory.streams} more open, silent streams, after
  ${plan.memory.base} were open. One sample. Budget for Cortex: at most ${STREAM_BUDGET_BYTES / 1_000} KB.
`
    : "";
  return `# Benchmarks

Written by \`${command}\` on ${date}. Machine: ${machine()}. Do not edit: run it again.

CPU per call and per token, summed over all processes of the thing measured, is what we compare: unlike latency and
throughput it hardly depends on what else the machine does. The unit is the **bare pipe**, the least that a gateway on
Node can cost: \`node:http\` in, undici out, nothing between. Portkey's gateway is the nearest peer in this language.

${tables(report)}

${notes.length > 0 ? `${notes.join("")}\n` : ""}## How it is measured

- All targets run at the same time on 127.0.0.1, before one fake provider that speaks OpenAI's format, and are asked in
  turn by one load generator; provider and generator are processes of their own and are not counted. Every answer is
  checked in full (status, every word, finish reason, usage, \`[DONE]\`), and a run with a single failure is invalid.
- ${plan.rounds} rounds after a warm-up of up to ${plan.warmUp.calls} calls, every second one in reverse order, so that drift cancels. "× pipe" is the median over
  the rounds of the ratio to the bare pipe of the same round; "µs" is the median of the absolute values, and depends on
  the machine.
- Portkey runs headless and in production mode, with @hono/node-server ${NODE_SERVER_VERSION}: with the newer ones that npm would
  take, none of its streams is answered (Portkey-AI/gateway#1389). It holds each stream's first token back for 25 ms.
- A call: a chat completion of 20 words as JSON, ${plan.calls.concurrency} callers on keep-alive connections, each asking again as soon as it
  has its answer, ${plan.calls.forMs} ms a round. All CPU from before the first call until after the last is counted.
- A token: ${plan.tokens.streams} streams of ${pace} tokens/s, one chunk of about 290 bytes each, every stream on its own clock. Counted for
  ${plan.tokens.windowMs} ms a round while all of them run, so without opening and ending them. "Pace kept" is the share of the tokens
  due that came; "tokens a read" is above 1 when tokens of a stream arrived together.
- Added latency: a call by one caller alone, and the first token of a stream opened while the others run, less the bare
  pipe's; all rounds together. Secondary: it varies with the machine's load.
${memory}- CPU is read from Linux' \`/proc\`, over all threads. It includes what a target does beside its calls, such as heartbeats;
  "of it NATS" is nats-server's share.
- Samples: ${samples.join(", ")}.
`;
}
