/**
 * `npm run bench -- --cache`: what an answer from the cache costs, against the bare pipe's call of a provider; and a thousand
 * clients that ask the same at once through two gateways and two routers.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Door } from "./checked.ts";
import type { CallsJob, CrowdResult } from "./load.ts";
import { type Cpu, Generator, share } from "./measure.ts";
import type { Started } from "./processes.ts";
import { machine, table } from "./report.ts";
import { quantile, type Spread, spreadOf } from "./summary.ts";
import { portOf, type Surroundings, startCortex, startNats, startOwn, startTarget } from "./targets.ts";
import { processTree } from "./usage.ts";

export const CACHE_HEADING = "## The cache";

const ROUNDS = 5;
const ROUND_MS = 1_000;
const WARM_UP_MS = 4_000;
const CONCURRENCY = 16;

/** 1: what the bare pipe's call costs. */
const HIT_BUDGET = 1;

const CROWD = { clients: 1_000, tokens: 20, everyMs: 500, firstMs: 3_000 };
const CROWDS = 3;
const CROWD_SPREAD_MAX_MS = 100;

/** Who is asked, and how. */
interface Subject {
  readonly name: string;
  readonly door: Door;
  readonly roots: readonly number[];
  readonly stream: boolean;
  /** Always the same question: the cache answers. */
  readonly same: boolean;
  /** Its cost has a budget. */
  readonly hit: boolean;
}

interface Row extends Subject {
  /** Round by round. */
  readonly costs: Cpu[];
}

/** Runs both parts. Whoever calls it ends the processes. */
export async function benchCache(
  { processes, folder }: Pick<Surroundings, "processes" | "folder">,
  date: string,
  say: (line: string) => void,
): Promise<{ readonly section: string; readonly withinBudget: boolean }> {
  const upstream = await startOwn(processes, "upstream");
  const generator = new Generator(await startOwn(processes, "load"));
  const around = { processes, folder, upstream: `http://127.0.0.1:${portOf(upstream)}` };

  say("starting the bare pipe and Cortex");
  const rows = (await subjects(around)).map((subject): Row => ({ ...subject, costs: [] }));
  for (const row of rows) {
    await untilUsable(row, generator);
    await cost(row, generator, WARM_UP_MS);
  }
  for (let round = 0; round < ROUNDS; round += 1) {
    say(`round ${round + 1} of ${ROUNDS}`);
    for (const row of round % 2 === 0 ? rows : rows.toReversed()) row.costs.push(await cost(row, generator, ROUND_MS));
  }

  say(`${CROWD.clients} clients at once`);
  const crowds = await runCrowds(around, generator, portOf(upstream));
  return report(rows, crowds, date);
}

async function subjects(around: Surroundings): Promise<Subject[]> {
  const pipe = await startTarget("pipe", around);
  const one = await startCortex(around, ["up"], { cache: { enabled: true } });
  const { front, roots } = await startApart(around);
  const ofPipe = { door: pipe.door, roots: pipe.roots, same: false, hit: false };
  const ofOne = { door: doorOf(one), roots: [one.child.pid!] };
  const apart = { door: doorOf(front), roots };
  return [
    { name: "bare pipe, a call", ...ofPipe, stream: false },
    { name: "bare pipe, streamed", ...ofPipe, stream: true },
    { name: "one process, hit", ...ofOne, stream: false, same: true, hit: true },
    { name: "one process, hit, streamed", ...ofOne, stream: true, same: true, hit: true },
    { name: "one process, miss, kept", ...ofOne, stream: false, same: false, hit: false },
    { name: "four processes, hit", ...apart, stream: false, same: true, hit: false },
    { name: "four processes, hit, streamed", ...apart, stream: true, same: true, hit: false },
    { name: "four processes, miss, kept", ...apart, stream: false, same: false, hit: false },
  ];
}

function doorOf(started: Started): Door {
  return { port: portOf(started), headers: { authorization: "Bearer bench" } };
}

/** Each service in a process of its own. */
async function startApart(around: Surroundings): Promise<{ readonly front: Started; readonly roots: number[] }> {
  const { url: natsUrl, pid } = await startNats(around);
  const started: Started[] = [];
  for (const service of ["adapter-openai", "cache", "router", "gateway"]) {
    started.push(await startCortex(around, ["run", service], { natsUrl, cache: { enabled: true }, replica: 3 }));
  }
  return { front: started.at(-1)!, roots: [...started.map(({ child }) => child.pid!), pid] };
}

async function untilUsable(row: Row, generator: Generator): Promise<void> {
  const untilMs = performance.now() + 20_000;
  for (;;) {
    const failure = await ask(row, generator, 1).then(
      ({ failures }) => failures[0],
      (error: Error) => error.message,
    );
    if (failure === undefined) return;
    if (performance.now() > untilMs) throw new Error(`${row.name}: ${failure}`);
    await sleep(250);
  }
}

async function ask({ door, roots, stream, same }: Row, generator: Generator, forMs: number) {
  const processes = processTree(roots);
  const job: CallsJob = {
    kind: "calls",
    door,
    processes,
    concurrency: forMs === 1 ? 1 : CONCURRENCY,
    forMs,
    stream,
    same,
  };
  return { ...(await generator.do(job)), processes };
}

async function cost(row: Row, generator: Generator, forMs: number): Promise<Cpu> {
  const { result, failures, processes } = await ask(row, generator, forMs);
  if (failures.length > 0) throw new Error(`${row.name}: ${failures.length} failed, first: ${failures[0]}`);
  return share(processes, result.cpuUs, result.calls);
}

async function runCrowds(around: Surroundings, generator: Generator, upstreamPort: number): Promise<CrowdResult[]> {
  const { url: natsUrl } = await startNats({ ...around, folder: `${around.folder}/crowd` });
  const gateways: Started[] = [];
  for (const service of ["adapter-openai", "cache", "router", "gateway"]) {
    for (const replica of service === "adapter-openai" ? [1] : [1, 2]) {
      const started = await startCortex(around, ["run", service], { natsUrl, cache: { enabled: true }, replica });
      if (service === "gateway") gateways.push(started);
    }
  }
  const doors = gateways.map(doorOf);
  for (const door of doors) {
    const row = { name: "the crowd's gateway", door, roots: [], stream: true, same: false, hit: false, costs: [] };
    await untilUsable(row, generator);
    // What runs for the first time is slow.
    await ask(row, generator, WARM_UP_MS);
  }
  const crowds: CrowdResult[] = [];
  for (let run = 0; run < CROWDS; run += 1) {
    const { result, failures } = await generator.do({ kind: "crowd", doors, ...CROWD, upstreamPort });
    if (failures.length > 0) throw new Error(`the crowd: ${failures.length} failed, first: ${failures[0]}`);
    crowds.push(result);
  }
  return crowds;
}

function report(
  rows: readonly Row[],
  crowds: readonly CrowdResult[],
  date: string,
): { readonly section: string; readonly withinBudget: boolean } {
  const totals = ({ costs }: Row): number[] => costs.map(({ ownUs, natsUs }) => ownUs + natsUs);
  const pipe = totals(rows[0]!);
  const ratioOf = (row: Row): Spread => spreadOf(totals(row).map((us, round) => us / pipe[round]!));
  const met = (good: boolean) => (good ? "(met)" : "(over)");
  const cells = rows.map((row) => {
    const ratio = ratioOf(row);
    const budget = row.hit ? `≤ ${HIT_BUDGET} ${met(ratio.of <= HIT_BUDGET)}` : "";
    const range = `${ratio.from.toFixed(2)}–${ratio.to.toFixed(2)}`;
    const natsUs = spreadOf(row.costs.map((one) => one.natsUs)).of;
    const nats = row.roots === rows[0]!.roots ? "" : natsUs.toFixed(1);
    return [row.name, spreadOf(totals(row)).of.toFixed(1), nats, ratio.of.toFixed(2), range, budget];
  });
  const spreads = crowds.map(({ firstTokensMs }) => quantile(firstTokensMs, 1));
  const crowdCells = crowds.map(({ calls, firstTokensMs, endsMs }, run) => [
    `run ${run + 1}`,
    String(calls),
    quantile(firstTokensMs, 0.5).toFixed(0),
    quantile(firstTokensMs, 0.99).toFixed(0),
    `${spreads[run]!.toFixed(0)} ${met(spreads[run]! <= CROWD_SPREAD_MAX_MS)}`,
    (quantile(endsMs, 1) / 1_000).toFixed(1),
  ]);
  const section = `${CACHE_HEADING}

Written by \`npm run bench -- --cache\` on ${date}. Machine: ${machine()}.

${table(["CPU per answer", "µs", "of it NATS", "× pipe's call", "min–max", "budget"], cells)}

- The same questions and answers as above (20 words), ${CONCURRENCY} callers, ${ROUNDS} rounds of ${ROUND_MS} ms after a warm-up, CPU summed over all
  processes, nats-server included. A hit asks the same each time, a miss something new each time, which is then kept.
- A streamed hit comes whole, as all its words are there; the streamed bare pipe passes on 20 events.
- Four processes: gateway, router, cache and adapter.

${table([`${CROWD.clients} clients at once`, "provider calls", "first token p50, ms", "p99", `last, ≤ ${CROWD_SPREAD_MAX_MS}`, "all whole after, s"], crowdCells)}

- All ask the same at once and stream, through two gateways, two routers and two nodes of the cache. The provider's first token comes ${CROWD.firstMs / 1_000} s
  after the question, ${CROWD.tokens - 1} more follow ${CROWD.everyMs} ms apart. Times are those since the first client had its first token, as the client
  sees them: one process plays all clients, and shares the machine's cores with the seven processes of Cortex.
`;
  const hits = rows.filter(({ hit }) => hit).every((row) => ratioOf(row).of <= HIT_BUDGET);
  return { section, withinBudget: hits && crowds.every(({ calls }) => calls === 1) };
}
