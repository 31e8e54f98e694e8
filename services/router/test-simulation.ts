/**
 * A mesh in virtual time: several routers, each with its own chooser and its own belief of the loads, ask workers that take their
 * time; the workers' nodes report their loads as adapters do. Nothing waits and nothing is left to luck: the same seed gives the
 * same run.
 */
import type { StrategyName } from "../../libs/host/index.ts";
import type { Candidate } from "./candidates.ts";
import { Latencies } from "./latencies.ts";
import { Loads } from "./loads.ts";
import { Chooser } from "./strategies.ts";
import { seeded, traitsOf } from "./test-candidates.ts";

/** As the adapters do it (cortex.events.v1.WorkerLoads), and what the report takes to arrive. */
const REPORT_EVERY_MS = 50;
const FULL_REPORT_EVERY_MS = 5_000;
const REPORT_TAKES_MS = 3;

const NOBODY: ReadonlySet<Candidate> = new Set();

/** What is simulated. */
export interface SimulationOptions {
  readonly strategy: StrategyName;
  readonly candidates: readonly Candidate[];
  /** Requests a second, all routers together; they arrive as a Poisson process. */
  readonly requestsPerSecond: number;
  readonly forMs: number;
  /** A worker's time to the first token, and from it to the end; 50 ms and 950 ms by default. */
  firstTokenMs?(candidate: Candidate, nowMs: number, inFlight: number): number;
  restMs?(candidate: Candidate, random: () => number): number;
  /** The share of the requests that come to the first of the two routers; a half by default. */
  readonly firstRouterShare?: number;
  /** The requests of the first router name a worker, and may go nowhere else. */
  readonly firstRouterAsksOnly?: Candidate;
  /** False: the nodes say nothing, and each router knows its own requests only. */
  readonly reports?: boolean;
  /** How many conversations there are; each request belongs to one of them. */
  readonly conversations?: number;
  readonly seed?: number;
}

/** One request. */
export interface Choice {
  readonly atMs: number;
  readonly router: number;
  readonly worker: string;
  readonly conversation: number;
}

/** What came of it. */
export interface Simulated {
  readonly choices: readonly Choice[];
  /** By worker, as often as it was chosen. */
  readonly counts: ReadonlyMap<string, number>;
  /** Requests in flight of each worker, in the order of the candidates, every 10 ms of the second half. */
  readonly inFlight: readonly (readonly number[])[];
}

export function simulate(options: SimulationOptions): Simulated {
  const { strategy, candidates, requestsPerSecond, forMs, firstRouterShare = 0.5, reports = true } = options;
  const { firstTokenMs = () => 50, restMs = () => 950, conversations = 1_000, seed = 1 } = options;
  const first = options.firstRouterAsksOnly === undefined ? candidates : [options.firstRouterAsksOnly];
  const random = seeded(seed);
  const clock = { nowMs: 0, now: () => clock.nowMs };
  const routers = [0, 1].map((index) => {
    const loads = new Loads();
    const latencies = new Latencies(clock);
    return {
      loads,
      latencies,
      chooser: new Chooser({ loads, latencies, random: seeded(seed + 1 + index), now: clock.now }),
    };
  });
  const active = new Map(candidates.map(({ worker }) => [worker, 0]));
  const reported = new Map<string, number>();
  const choices: Choice[] = [];
  const inFlight: number[][] = [];
  /** What happens in each millisecond. */
  const agenda: (() => void)[][] = [];
  const at = (ms: number, happen: () => void) => {
    const when = Math.max(clock.nowMs + 1, Math.round(ms));
    agenda[when] ??= [];
    agenda[when].push(happen);
  };

  const ask = () => {
    const index = random() < firstRouterShare ? 0 : 1;
    const { loads, latencies, chooser } = routers[index]!;
    const conversation = Math.imul(Math.floor(random() * conversations) + 1, 0x9e3779b1) >>> 0;
    const candidate = chooser.next(
      strategy,
      index === 0 ? first : candidates,
      NOBODY,
      traitsOf(conversation),
      () => 0,
    )!;
    const { worker, model } = candidate;
    choices.push({ atMs: clock.nowMs, router: index, worker, conversation });
    loads.begin(worker);
    active.set(worker, active.get(worker)! + 1);
    const firstMs = firstTokenMs(candidate, clock.nowMs, active.get(worker)!);
    at(clock.nowMs + firstMs, () => latencies.record(worker, model, firstMs));
    at(clock.nowMs + firstMs + restMs(candidate, random), () => {
      active.set(worker, active.get(worker)! - 1);
      loads.end(worker);
    });
  };
  const report = (all: boolean) => {
    const changed = candidates.filter(({ worker }) => all || active.get(worker) !== (reported.get(worker) ?? 0));
    // Every second worker is on one node, the others on another.
    for (const node of [0, 1]) {
      const loads = changed
        .filter((candidate) => candidates.indexOf(candidate) % 2 === node)
        .map(({ worker }) => ({ worker, activeRequests: active.get(worker)! }));
      if (loads.length === 0) continue;
      for (const { worker, activeRequests } of loads) reported.set(worker, activeRequests);
      at(clock.nowMs + REPORT_TAKES_MS, () => {
        for (const router of routers) router.loads.report({ node: `node-${node}`, loads });
      });
    }
  };

  let arrivesAtMs = 0;
  for (clock.nowMs = 0; clock.nowMs < forMs; clock.nowMs += 1) {
    for (const happen of agenda[clock.nowMs] ?? []) happen();
    delete agenda[clock.nowMs];
    for (; arrivesAtMs < clock.nowMs; arrivesAtMs += (-Math.log(1 - random()) * 1_000) / requestsPerSecond) ask();
    if (reports && clock.nowMs % REPORT_EVERY_MS === 0) report(clock.nowMs % FULL_REPORT_EVERY_MS === 0);
    if (clock.nowMs >= forMs / 2 && clock.nowMs % 10 === 0)
      inFlight.push(candidates.map(({ worker }) => active.get(worker)!));
  }
  return { choices, counts: countsOf(choices), inFlight };
}

/** By worker, how often it was chosen. */
export function countsOf(choices: readonly Choice[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { worker } of choices) counts.set(worker, (counts.get(worker) ?? 0) + 1);
  return counts;
}
