/**
 * How each strategy shares out requests: two routers before the same workers, in virtual time (test-simulation.ts). Each knows of
 * the other only what the workers' nodes report, every 50 ms and a little late.
 */
import { describe, expect, it } from "vitest";
import type { Candidate } from "./candidates.ts";
import { candidatesOf } from "./test-candidates.ts";
import { countsOf, type Simulated, simulate } from "./test-simulation.ts";

function byRouter({ choices }: Simulated, router: number): Map<string, number> {
  return countsOf(choices.filter((choice) => choice.router === router));
}

/** How far apart the busiest and the idlest worker are, on average over time. */
function meanSpread({ inFlight }: Simulated): number {
  return inFlight.reduce((sum, now) => sum + Math.max(...now) - Math.min(...now), 0) / inFlight.length;
}

function spreadOf(counts: ReadonlyMap<string, number>): number {
  return Math.max(...counts.values()) - Math.min(...counts.values());
}

/** Every second worker takes four times as long as the others. */
function uneven({ worker }: Candidate, random: () => number): number {
  return -Math.log(1 - random()) * (Number(worker.slice(1)) % 2 === 0 ? 500 : 2_000);
}

describe("two routers under local_first", () => {
  it("both ask the first worker only", () => {
    const candidates = candidatesOf(4, (index) => ({ info: { priority: index === 2 ? 10 : 50 } }));
    const { counts, choices } = simulate({ strategy: "local_first", candidates, requestsPerSecond: 50, forMs: 10_000 });
    expect([...counts]).toEqual([["w0002", choices.length]]);
  });
});

describe("two routers under round_robin", () => {
  it("each ask all workers equally often, within one request", () => {
    const candidates = candidatesOf(7);
    const run = simulate({
      strategy: "round_robin",
      candidates,
      requestsPerSecond: 100,
      forMs: 20_000,
      restMs: uneven,
    });
    for (const router of [0, 1]) {
      expect(byRouter(run, router).size).toBe(7);
      expect(spreadOf(byRouter(run, router))).toBeLessThanOrEqual(1);
    }
    expect(spreadOf(run.counts)).toBeLessThanOrEqual(2);
  });
});

describe("two routers under weighted", () => {
  it("both ask each worker as often as its weight says, within a few percent", () => {
    const weights = [1, 2, 5, 0];
    const candidates = candidatesOf(4, (index) => ({ info: { weight: weights[index]! } }));
    const run = simulate({ strategy: "weighted", candidates, requestsPerSecond: 500, forMs: 40_000 });
    for (const counts of [run.counts, byRouter(run, 0), byRouter(run, 1)]) {
      const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
      for (const [index, { worker }] of candidates.entries()) {
        const share = (counts.get(worker) ?? 0) / total;
        expect(Math.abs(share - weights[index]! / 8)).toBeLessThan(0.02);
      }
      expect(counts.has("w0003")).toBe(false);
    }
  });
});

describe("two routers under least_loaded", () => {
  const options = {
    strategy: "least_loaded",
    candidates: candidatesOf(10),
    requestsPerSecond: 100,
    forMs: 60_000,
  } as const;

  it("together keep all workers equally busy, however long their answers take", () => {
    const run = simulate({ ...options, restMs: uneven });
    // About 9 run at each at a time. What ends at random sets them apart even where one router sees everything.
    const alone = simulate({ ...options, restMs: uneven, firstRouterShare: 1 });
    expect(meanSpread(run)).toBeLessThan(3);
    expect(meanSpread(run)).toBeLessThan(meanSpread(alone) + 1);
    expect(meanSpread(simulate({ ...options, restMs: uneven, strategy: "round_robin" }))).toBeGreaterThan(12);
    // The fast ones serve more.
    expect(run.counts.get("w0000")! / run.counts.get("w0001")!).toBeGreaterThan(2);
  });

  it("see each other's requests: one gives a worker the less the more the other one gives it", () => {
    // Half of all requests can only go to one worker; the second router has the other half, and nine other workers.
    const few = { ...options, requestsPerSecond: 20, firstRouterAsksOnly: options.candidates[0]! };
    const seeing = byRouter(simulate(few), 1);
    const blind = byRouter(simulate({ ...few, reports: false }), 1);
    const total = (counts: ReadonlyMap<string, number>) => [...counts.values()].reduce((sum, count) => sum + count, 0);
    expect((seeing.get("w0000") ?? 0) / total(seeing)).toBeLessThan(0.005);
    expect(blind.get("w0000")! / total(blind)).toBeGreaterThan(0.05);
  });

  it("fill workers in proportion to what each may serve at once", () => {
    const sizes = [10, 20, 40, 80];
    const candidates = candidatesOf(4, (index) => ({ info: { concurrentRequestsMax: sizes[index]! } }));
    const { inFlight } = simulate({ ...options, candidates, requestsPerSecond: 90 });
    const mean = sizes.map((_, index) => inFlight.reduce((sum, now) => sum + now[index]!, 0) / inFlight.length);
    // 90 of 150 slots are taken.
    for (const [index, size] of sizes.entries()) expect(Math.abs(mean[index]! / size - 0.6)).toBeLessThan(0.1);
  });
});

describe("two routers under latency", () => {
  const candidates = candidatesOf(5);
  const share = (run: Simulated, worker: string, fromMs: number, toMs: number) => {
    const within = run.choices.filter(({ atMs }) => atMs >= fromMs && atMs < toMs);
    return within.filter((choice) => choice.worker === worker).length / within.length;
  };

  it("ask the fast worker, and a slow one now and then to see whether it still is slow", () => {
    const slowness: Record<string, number> = { w0001: 100 };
    const firstTokenMs = ({ worker }: Candidate) => slowness[worker] ?? 900;
    const run = simulate({ strategy: "latency", candidates, requestsPerSecond: 10, forMs: 300_000, firstTokenMs });
    expect(share(run, "w0001", 10_000, 300_000)).toBeGreaterThan(0.97);
    for (const { worker } of candidates) {
      for (const router of [0, 1]) {
        const asked = run.choices.filter((choice) => choice.worker === worker && choice.router === router);
        // In each two minutes by each router, and at most three times at first and once a minute later.
        expect(asked.some(({ atMs }) => atMs > 60_000 && atMs <= 180_000)).toBe(true);
        expect(asked.some(({ atMs }) => atMs > 180_000)).toBe(true);
        if (worker !== "w0001") expect(asked.length).toBeLessThanOrEqual(3 + 5);
      }
    }
  });

  it("leave a worker that becomes slow within seconds, and come back once it is fast again", () => {
    const slowFromMs = 60_000;
    const slowToMs = 120_000;
    const firstTokenMs = ({ worker }: Candidate, nowMs: number) => {
      if (worker === "w0001") return nowMs >= slowFromMs && nowMs < slowToMs ? 2_000 : 100;
      return worker === "w0002" ? 300 : 900;
    };
    const run = simulate({ strategy: "latency", candidates, requestsPerSecond: 10, forMs: 300_000, firstTokenMs });
    expect(share(run, "w0001", 20_000, slowFromMs)).toBeGreaterThan(0.95);
    expect(share(run, "w0002", slowFromMs + 5_000, slowToMs)).toBeGreaterThan(0.85);
    expect(share(run, "w0001", slowToMs + 120_000, 300_000)).toBeGreaterThan(0.95);
  });

  it("do not herd: where a worker becomes the slower the more it serves, others take their part", () => {
    const firstTokenMs = ({ worker }: Candidate, _nowMs: number, inFlight: number) =>
      (worker === "w0000" ? 100 : 200) * Math.max(1, inFlight / 4);
    const run = simulate({ strategy: "latency", candidates, requestsPerSecond: 40, forMs: 120_000, firstTokenMs });
    // Each worker has its part, the one that is twice as fast the largest, and none has them all even for a moment.
    for (const { worker } of candidates) expect(share(run, worker, 60_000, 120_000)).toBeGreaterThan(0.1);
    expect(share(run, "w0000", 60_000, 120_000)).toBeGreaterThan(0.2);
    const busiest = run.inFlight.map((now) => Math.max(...now) / now.reduce((sum, count) => sum + count, 1));
    expect(Math.max(...busiest)).toBeLessThan(0.6);
  });

  it("try a newcomer without running to it: no more than a few requests of each until it has answered", () => {
    const firstTokenMs = ({ worker }: Candidate) => (worker === "w0004" ? 30_000 : 100);
    const run = simulate({ strategy: "latency", candidates, requestsPerSecond: 50, forMs: 25_000, firstTokenMs });
    for (const router of [0, 1]) expect(byRouter(run, router).get("w0004")).toBeLessThanOrEqual(5);
    expect(run.counts.get("w0004")).toBeGreaterThanOrEqual(3);
  });
});

describe("two routers under cost", () => {
  it("both ask the cheapest worker only", () => {
    const prices = [0.6, undefined, 0.15, 0.2];
    const candidates = candidatesOf(4, (index) => ({
      properties: { inputCostUsdPerMillion: prices[index], outputCostUsdPerMillion: 0.6 },
    }));
    const { counts, choices } = simulate({ strategy: "cost", candidates, requestsPerSecond: 50, forMs: 10_000 });
    expect([...counts]).toEqual([["w0002", choices.length]]);
  });
});

describe("two routers under affinity", () => {
  /** How many of the requests went where most of their conversation went. */
  const faithful = ({ choices }: Simulated) => {
    const conversations = Map.groupBy(choices, ({ conversation }) => conversation);
    let most = 0;
    for (const turns of conversations.values()) most += Math.max(...countsOf(turns).values());
    return most / choices.length;
  };

  it("bring all turns of a conversation to one worker while nobody is overloaded", () => {
    const options = { strategy: "affinity", candidates: candidatesOf(10), conversations: 200 } as const;
    const run = simulate({ ...options, requestsPerSecond: 8, forMs: 120_000 });
    expect(faithful(run)).toBeGreaterThan(0.99);
    expect(run.counts.size).toBe(10);
    expect(
      faithful(simulate({ ...options, strategy: "least_loaded", requestsPerSecond: 8, forMs: 120_000 })),
    ).toBeLessThan(0.4);
  });

  it("keep the load of each worker bounded, and most conversations where they were, when there is much to do", () => {
    const options = { strategy: "affinity", candidates: candidatesOf(10), conversations: 500 } as const;
    const run = simulate({ ...options, requestsPerSecond: 200, forMs: 60_000 });
    expect(faithful(run)).toBeGreaterThan(0.8);
    for (const now of run.inFlight) {
      const mean = now.reduce((sum, count) => sum + count, 0) / now.length;
      // 1.25 times the average, and what the other router has begun within the age of a report.
      expect(Math.max(...now)).toBeLessThanOrEqual(Math.ceil(1.25 * (mean + 1)) + 6);
    }
  });

  it("do not let one conversation run a worker over", () => {
    const candidates = candidatesOf(4);
    const run = simulate({ strategy: "affinity", candidates, conversations: 1, requestsPerSecond: 60, forMs: 30_000 });
    for (const counts of [byRouter(run, 0), byRouter(run, 1)]) {
      expect(Math.max(...counts.values()) / [...counts.values()].reduce((sum, count) => sum + count, 0)).toBeLessThan(
        0.45,
      );
    }
  });
});
