/** `npm run chaos`: kills and freezes what a mesh is made of, at random under load, and checks every answer. See chaos.ts. */
import { writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { type ChaosReport, runChaos } from "./chaos.ts";

const USAGE = `usage: npm run chaos [-- --seconds 120] [--seed N] [--rate 8] [--json FILE]

  --seconds  how long
  --seed     the same blows in the same order; a new one by default, which is printed
  --rate     questions a second, of which three quarters are streamed
  --json     also write everything to a file
`;

/** The others are in the file that --json writes. */
const FAILURES_SHOWN = 5;

const options = {
  seconds: { type: "string", default: "120" },
  seed: { type: "string" },
  rate: { type: "string", default: "8" },
  json: { type: "string" },
  help: { type: "boolean", default: false },
} as const;

function count(text: string, name: string): number {
  const value = Number(text);
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${name} ${text} is no number\n${USAGE}`);
  return value;
}

/** The blows between a second before and the end of a failure. */
function around({ events }: ChaosReport, fromMs: number, toMs: number): string[] {
  return events
    .filter(({ atMs }) => atMs > fromMs - 3_000 && atMs < toMs + 200)
    .map(({ atMs, what }) => `      ${(atMs / 1_000).toFixed(1)} s ${what}`);
}

function print(report: ChaosReport): void {
  const { tally, blows, unhealed, options: used } = report;
  const lines = ["", "What was done to the mesh:"];
  for (const [blow, times] of Object.entries(blows).sort()) lines.push(`  ${String(times).padStart(3)}  ${blow}`);
  const sorted = [...tally.durationsMs].sort((one, other) => one - other);
  const at = (share: number) => `${((sorted[Math.floor((sorted.length - 1) * share)] ?? 0) / 1_000).toFixed(1)} s`;
  lines.push(
    "",
    `${tally.streams} streams and ${tally.wholes} whole answers were asked for; ${tally.failedOver} needed more than one worker`,
    `before the first word, ${tally.continued} streams went on at another one. Half took ${at(0.5)}, 99 % at most ${at(0.99)}, the longest ${at(1)}.`,
    "",
  );
  for (const failure of tally.failures.slice(0, FAILURES_SHOWN)) {
    const { fromMs, toMs, asked, seen, requestId, traceId, tail } = failure;
    lines.push(`FAILED ${(fromMs / 1_000).toFixed(1)} to ${(toMs / 1_000).toFixed(1)} s  ${asked}`);
    lines.push(`    seen: ${seen}`, `    request ${requestId}, trace ${traceId}`, "    blows:");
    lines.push(...around(report, fromMs, toMs), `    its last bytes: ${JSON.stringify(tail.slice(-300))}`, "    log:");
    lines.push(...(report.logs[requestId] ?? []).map((line) => `      ${line.slice(0, 400)}`), "");
  }
  for (const what of unhealed) lines.push(`NOT HEALED ${what}`);
  const asked = tally.streams + tally.wholes;
  lines.push(
    `seed ${used.seed}: ${asked - tally.failures.length} of ${asked} answers whole, ${tally.failures.length} failed`,
  );
  process.stdout.write(`${lines.join("\n")}\n`);
}

try {
  const { values } = parseArgs({ options });
  if (values.help) process.stdout.write(USAGE);
  else {
    const seed = count(values.seed ?? String(Date.now() % 1_000_000), "seed");
    const seconds = count(values.seconds, "seconds");
    process.stderr.write(`seed ${seed}\n`);
    const report = await runChaos({
      seconds,
      seed,
      rate: count(values.rate, "rate"),
      onEvent: (line) => process.stderr.write(`${line}\n`),
    });
    print(report);
    if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report, undefined, 2)}\n`);
    process.exitCode = report.tally.failures.length + report.unhealed.length > 0 ? 1 : 0;
  }
} catch (error) {
  process.stderr.write(`${(error as Error).stack}\n`);
  process.exitCode = 2;
}
