/**
 * `npm run bench -- --observing`: what it costs to see everything. Two meshes of one process: one counts, summarizes, keeps what it has
 * counted, traces, is scraped and has a live page open; the other one does none of it. They are asked in turns of half a second, so
 * that whatever else goes on in the machine meets both alike, and are started several times, as no two lives of a process are
 * compiled alike.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as pause } from "node:timers/promises";
import type { CallsJob, CallsResult, Outcome, TokensJob, TokensResult } from "./load.ts";
import { FULL, Generator, Meter, type Plan, QUICK } from "./measure.ts";
import type { Processes, Started } from "./processes.ts";
import { machine, table } from "./report.ts";
import { spreadOf } from "./summary.ts";
import { portOf, startCortex, startOwn, type Target } from "./targets.ts";
import { countCpu, type Process, processTree } from "./usage.ts";

export const OBSERVING_HEADING = "## The cost of observing";

/** So much more CPU than without. */
const BUDGET = { call: 1.15, token: 1.05 };
/** Three times as often as usual. */
const SCRAPE_EVERY_MS = 5_000;
/** How often both are started, and how many turns each has in such a life. With so many streams that tokens are what is seen. */
const LIVES = 6;
const TURNS = { calls: 20, tokens: 8 };
const TURN_MS = 500;
const WARM_UPS = 2;
/** For so long nobody is asked, to see what is done by the clock. */
const IDLE_MS = 5_000;
const PLAN: Plan = {
  ...FULL,
  warmUp: { calls: 50_000, callsMs: 12_000, tokensMs: 1_500 },
  calls: { ...FULL.calls, forMs: TURN_MS },
  tokens: { ...FULL.tokens, streams: 400, windowMs: 1_500 },
};

/** µs of CPU of the one and the other, in one life or one turn. */
interface Costs {
  readonly without: number;
  readonly all: number;
}

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
  const turns = quick ? { calls: 4, tokens: 1 } : TURNS;
  const upstream = await startOwn(around.processes, "upstream");
  const generator = new Generator(await startOwn(around.processes, "load"));
  const surroundings = { ...around, upstream: `http://127.0.0.1:${portOf(upstream)}` };
  const collector = await startCollector();
  const calls: Costs[] = [];
  const tokens: Costs[] = [];
  let scrapes = 0;
  try {
    for (let life = 0; life < (quick ? 1 : LIVES); life++) {
      say(`life ${life + 1} of ${quick ? 1 : LIVES}`);
      const without = await startCortex(surroundings, ["up"], {
        replica: 2 * life,
        settings: { metrics: { enabled: false } },
      });
      const all = await startCortex(surroundings, ["up"], {
        replica: 2 * life + 1,
        environment: { OTEL_EXPORTER_OTLP_ENDPOINT: collector.address },
      });
      const both = [targetOf(without), targetOf(all)] as const;
      const leave = new AbortController();
      const watching = watch(all.ready.rest!, leave.signal);
      try {
        const meters = both.map((target) => new Meter(target, generator, plan));
        for (const meter of meters) await meter.untilUsable();
        // What was made for calls alone is given up when streams come, and made again for both: not before a second time.
        for (let time = 0; time < WARM_UPS; time++) for (const meter of meters) await meter.warmUp();
        const processes = both.map(({ roots }) => processTree(roots));
        const idle = await idleUsPerMs(processes, quick ? 1_000 : IDLE_MS);
        const meshes = both.map((target, place) => ({
          target,
          processes: processes[place]!,
          idleUsPerMs: idle[place]!,
        }));
        calls.push(
          await inTurns(meshes, { pairs: turns.calls, ms: plan.calls.forMs }, async ({ door }) => {
            const job: CallsJob = { kind: "calls", door, processes: processes.flat(), ...plan.calls };
            const { cpuUs, calls: count } = succeeded(await generator.do(job));
            return { cpuUs, count };
          }),
        );
        tokens.push(
          await inTurns(meshes, { pairs: turns.tokens, ms: plan.tokens.windowMs }, async ({ door }) => {
            const job: TokensJob = { kind: "tokens", door, processes: processes.flat(), ...plan.tokens };
            const { cpuUs, tokens: count } = succeeded(await generator.do(job));
            return { cpuUs, count };
          }),
        );
      } finally {
        leave.abort();
        scrapes += (await watching).scrapes;
      }
      await around.processes.end(without.child);
      await around.processes.end(all.child);
    }
  } finally {
    await collector.close();
  }
  return report({ calls, tokens, turns, date, received: collector.received(), scrapes });
}

/** One of the two that are compared. */
interface Mesh {
  readonly target: Target;
  readonly processes: readonly Process[];
  /** What it uses when nobody asks. */
  readonly idleUsPerMs: number;
}

async function idleUsPerMs(processes: readonly (readonly Process[])[], forMs: number): Promise<number[]> {
  const counted = processes.map((own) => countCpu(own));
  await pause(forMs);
  return counted.map((used) => sum(used()) / forMs);
}

/**
 * Asks both in turns. What one of a pair of turns has cost is all that its processes have used in both, as some of what they do comes
 * later, but for what they would have used in the other one's turn if nobody had asked them. Of the pairs, the median.
 */
async function inTurns(
  meshes: readonly Mesh[],
  { pairs, ms }: { readonly pairs: number; readonly ms: number },
  turn: (target: Target) => Promise<{ readonly cpuUs: readonly number[]; readonly count: number }>,
): Promise<Costs> {
  const first = meshes[0]!.processes.length;
  const costs: Costs[] = [];
  for (let pair = 0; pair < pairs; pair++) {
    const usedUs = meshes.map(({ idleUsPerMs: idle }) => -idle * ms);
    const counts = [0, 0];
    for (const place of pair % 2 === 0 ? [0, 1] : [1, 0]) {
      const { cpuUs, count } = await turn(meshes[place]!.target);
      counts[place] = count;
      usedUs[0]! += sum(cpuUs.slice(0, first));
      usedUs[1]! += sum(cpuUs.slice(first));
    }
    costs.push({ without: usedUs[0]! / counts[0]!, all: usedUs[1]! / counts[1]! });
  }
  // By their ratio, so that both figures are those of the same moment.
  costs.sort((a, b) => a.all / a.without - b.all / b.without);
  return costs[costs.length >> 1]!;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function succeeded<Result extends CallsResult | TokensResult>({ result, failures }: Outcome<Result>): Result {
  if (failures.length > 0) throw new Error(`${failures.length} failed, first: ${failures[0]}`);
  return result;
}

function targetOf(node: Started): Target {
  const door = { port: portOf(node), headers: { authorization: "Bearer bench" } };
  return { key: "one", name: node.name, door, roots: [node.child.pid!] };
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
    await pause(SCRAPE_EVERY_MS, undefined, { signal }).catch(() => {});
  }
  await live;
  return { scrapes };
}

async function readAll(address: string, signal: AbortSignal, headers: Record<string, string> = {}): Promise<void> {
  const { body, ok, status } = await fetch(address, { signal, headers });
  if (!ok) throw new Error(`${address}: ${status}`);
  for await (const _piece of body!) if (signal.aborted) return;
}

function report(run: {
  readonly calls: readonly Costs[];
  readonly tokens: readonly Costs[];
  readonly turns: typeof TURNS;
  readonly date: string;
  readonly received: number;
  readonly scrapes: number;
}): { readonly section: string; readonly withinBudget: boolean } {
  const { turns, date, received, scrapes } = run;
  const parts = [
    { name: "a call", costs: run.calls, budget: BUDGET.call },
    { name: "a streamed token", costs: run.tokens, budget: BUDGET.token },
  ];
  const rows = parts.map(({ name, costs, budget }) => {
    const ratio = spreadOf(costs.map(({ without, all }) => all / without));
    const cells = [
      name,
      spreadOf(costs.map(({ without }) => without)).of.toFixed(1),
      spreadOf(costs.map(({ all }) => all)).of.toFixed(1),
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

- Both are \`cortex up\` in one process, nats-server included, without the cache, asked in turns: ${turns.calls} of half a second for calls and ${turns.tokens}
  of 1.5 s with ${PLAN.tokens.streams} streams for tokens, in each of ${run.calls.length} lives after a warm-up. Of each life the median pair of turns, of the lives the median; a pair
  has what either has used in both turns, but for what it uses in as much time when nobody asks.
- Seeing nothing: \`metrics.enabled: false\`, no collector. Seeing everything: as it comes, with a collector (5 % of the traces, ten a
  second at most, and what is of interest; ${(received / 1024).toFixed(0)} KB were sent), what was counted in the last hour in JetStream, the metrics
  service, ${scrapes} scrapes 5 s apart (Prometheus makes one in 15 s), and a client of \`/api/live\`.
`;
  return { section, withinBudget: rows.every(({ met }) => met) };
}
