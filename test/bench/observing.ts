/**
 * `npm run bench -- --observing`: what it costs to see everything. Meshes of one process, one after the other: one that counts,
 * summarizes, keeps the last hour's events, traces, is scraped and has a live page open; and one that does none of it. Each has the
 * machine for itself, as two that take turns find the processor's caches full of the other, and is started several times, as no two
 * lives of a process are compiled alike.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { FULL, Generator, Meter, type Plan, QUICK, type Round } from "./measure.ts";
import type { Processes, Started } from "./processes.ts";
import { machine, table } from "./report.ts";
import { spreadOf } from "./summary.ts";
import { portOf, startCortex, startOwn } from "./targets.ts";

export const OBSERVING_HEADING = "## The cost of observing";

/** So much more CPU than without. */
const BUDGET = { call: 1.15, token: 1.05 };
/** Fifteen times as often as usual. */
const SCRAPE_EVERY_MS = 1_000;
/** Pairs of lives, and what is measured in each; with so many streams that what is done once a second is not all that is seen. */
const PAIRS = 4;
const PLAN: Plan = {
  rounds: 3,
  warmUp: { calls: 50_000, callsMs: 12_000, tokensMs: 1_500 },
  calls: { ...FULL.calls, forMs: 1_500 },
  alone: { forMs: 20 },
  tokens: { ...FULL.tokens, streams: 400, windowMs: 1_500 },
};

/** What the bench is given to run in. */
interface Around {
  readonly processes: Processes;
  readonly folder: string;
}

/** Runs it. Whoever calls it ends the processes. */
export async function benchObserving(
  around: Around,
  { date, say, quick }: { readonly date: string; readonly say: (line: string) => void; readonly quick: boolean },
): Promise<{ readonly section: string; readonly withinBudget: boolean }> {
  const plan = quick ? QUICK : PLAN;
  const upstream = await startOwn(around.processes, "upstream");
  const generator = new Generator(await startOwn(around.processes, "load"));
  const surroundings = { ...around, upstream: `http://127.0.0.1:${portOf(upstream)}` };
  const collector = await startCollector();
  const kinds = {
    without: { settings: { metrics: { enabled: false } } },
    all: { environment: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.address } },
  };
  const lives: Record<keyof typeof kinds, Round[]> = { without: [], all: [] };
  let scrapes = 0;
  try {
    for (let pair = 0; pair < (quick ? 1 : PAIRS); pair++) {
      say(`pair ${pair + 1} of ${quick ? 1 : PAIRS}`);
      for (const kind of pair % 2 === 0 ? (["without", "all"] as const) : (["all", "without"] as const)) {
        const node = await startCortex(surroundings, ["up"], {
          replica: 2 * pair + Number(kind === "all"),
          ...kinds[kind],
        });
        const leave = new AbortController();
        const watching = kind === "all" ? watch(node.ready.rest!, leave.signal) : undefined;
        const meter = new Meter(targetOf(node), generator, plan);
        try {
          await meter.untilUsable();
          // What was made for calls alone is given up when streams come, and made again for both: not before a second time.
          for (let time = 0; time < 2; time++) await meter.warmUp();
          for (let round = 0; round < plan.rounds; round++) await meter.round();
        } finally {
          leave.abort();
          scrapes += (await watching)?.scrapes ?? 0;
        }
        lives[kind].push(typical(meter.measurement.rounds));
        await around.processes.end(node.child);
      }
    }
  } finally {
    await collector.close();
  }
  return report(lives.without, lives.all, { date, received: collector.received(), scrapes });
}

/** The cheapest round of a life: what else goes on in the machine only adds. */
function typical(rounds: readonly Round[]): Round {
  const cheapest = (pick: (round: Round) => { ownUs: number; natsUs: number }) =>
    rounds.map(pick).reduce((best, cpu) => (cpu.ownUs + cpu.natsUs < best.ownUs + best.natsUs ? cpu : best));
  return { ...rounds[0]!, perCall: cheapest(({ perCall }) => perCall), perToken: cheapest(({ perToken }) => perToken) };
}

function targetOf(node: Started) {
  const door = { port: portOf(node), headers: { authorization: "Bearer bench" } };
  return { key: "one" as const, name: node.name, door, roots: [node.child.pid!] };
}

/** Takes spans, and throws them away. */
async function startCollector() {
  let bytes = 0;
  const server = createServer((request, response) => {
    request.on("data", (piece: Buffer) => {
      bytes += piece.length;
    });
    request.on("end", () => response.writeHead(200, { "content-type": "application/x-protobuf" }).end());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received: () => bytes,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Scrapes, and reads what the live page reads, until `signal` is aborted. */
async function watch(rest: string, signal: AbortSignal): Promise<{ scrapes: number }> {
  let scrapes = 0;
  const live = readAll(`${rest}/api/live`, signal).catch(() => {});
  while (!signal.aborted) {
    await readAll(`${rest}/metrics`, signal, { accept: "application/openmetrics-text; version=1.0.0" }).catch(() => {});
    scrapes++;
    await new Promise((resolve) => setTimeout(resolve, SCRAPE_EVERY_MS));
  }
  await live;
  return { scrapes };
}

async function readAll(address: string, signal: AbortSignal, headers: Record<string, string> = {}): Promise<void> {
  const { body, ok, status } = await fetch(address, { signal, headers });
  if (!ok) throw new Error(`${address}: ${status}`);
  for await (const _piece of body!) if (signal.aborted) return;
}

function report(
  without: readonly Round[],
  all: readonly Round[],
  { date, received, scrapes }: { readonly date: string; readonly received: number; readonly scrapes: number },
): { readonly section: string; readonly withinBudget: boolean } {
  const parts = [
    { name: "a call", of: ({ perCall }: Round) => perCall.ownUs + perCall.natsUs, budget: BUDGET.call },
    { name: "a streamed token", of: ({ perToken }: Round) => perToken.ownUs + perToken.natsUs, budget: BUDGET.token },
  ];
  const rows = parts.map(({ name, of, budget }) => {
    const ratio = spreadOf(all.map((round, index) => of(round) / of(without[index]!)));
    const cells = [
      name,
      spreadOf(without.map(of)).of.toFixed(1),
      spreadOf(all.map(of)).of.toFixed(1),
      ratio.of.toFixed(3),
      `${ratio.from.toFixed(2)}–${ratio.to.toFixed(2)}`,
      `≤ ${budget} ${ratio.of <= budget ? "(met)" : "(over)"}`,
    ];
    return { cells, met: ratio.of <= budget };
  });
  const section = `${OBSERVING_HEADING}

Written by \`npm run bench -- --observing\` on ${date}. Machine: ${machine()}.

${table(
  ["CPU, µs", "seeing nothing", "seeing everything", "ratio", "min–max", "budget"],
  rows.map(({ cells }) => cells),
)}

- Both are \`cortex up\` in one process, nats-server included, without the cache, one after the other, started ${without.length} times each; of each life
  the cheapest of ${PLAN.rounds} rounds after a warm-up, of the lives the median.
- Seeing nothing: \`metrics.enabled: false\`, no collector. Seeing everything: as it comes, with a collector (5 % of the traces, ten a
  second at most, and what is of interest; ${(received / 1024).toFixed(0)} KB were sent), the last hour's events in JetStream, the metrics service, ${scrapes} scrapes a second apart (Prometheus
  makes one in 15 s), and a client of \`/api/live\`.
`;
  return { section, withinBudget: rows.every(({ met }) => met) };
}
