/** Who is asked next under each strategy. How they share out many requests is in simulation.test.ts. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { STRATEGY_NAMES, type StrategyName } from "../../libs/host/index.ts";
import type { Candidate } from "./candidates.ts";
import { Latencies } from "./latencies.ts";
import { Loads } from "./loads.ts";
import { Chooser } from "./strategies.ts";
import { type CandidateOptions, candidateOf, candidatesOf, seeded, traitsOf } from "./test-candidates.ts";
import type { RequestTraits } from "./traits.ts";

const NOBODY: ReadonlySet<Candidate> = new Set();

function router(seed = 1) {
  const clock = { nowMs: 0, now: () => clock.nowMs };
  const loads = new Loads();
  const latencies = new Latencies(clock);
  const chooser = new Chooser({ loads, latencies, random: seeded(seed), now: clock.now });
  return {
    clock,
    loads,
    latencies,
    chooser,
    next: (strategy: StrategyName, candidates: readonly Candidate[], options: Partial<Choice> = {}) =>
      chooser.next(
        strategy,
        candidates,
        options.tried ?? NOBODY,
        options.traits ?? traitsOf(),
        options.tierOf ?? (() => 0),
      ),
    /** The names of those that are asked for one request after which all fail. */
    order: (strategy: StrategyName, candidates: readonly Candidate[], options: Partial<Choice> = {}) => {
      const tried = new Set<Candidate>();
      for (;;) {
        const { traits = traitsOf(), tierOf = () => 0 } = options;
        const candidate = chooser.next(strategy, candidates, tried, traits, tierOf);
        if (candidate === undefined) return [...tried].map(({ worker }) => worker);
        tried.add(candidate);
      }
    },
    begin: (worker: string, times: number) => {
      for (let time = 0; time < times; time += 1) loads.begin(worker);
    },
    measured: (worker: string, firstTokenMs: number, times = 3) => {
      for (let time = 0; time < times; time += 1) latencies.record(worker, "m", firstTokenMs);
    },
  };
}

interface Choice {
  readonly tried: ReadonlySet<Candidate>;
  readonly traits: RequestTraits;
  tierOf(candidate: Candidate): number;
}

function counted(count: number, choose: () => Candidate | undefined): Record<string, number> {
  const counts: Record<string, number> = {};
  for (let time = 0; time < count; time += 1) {
    const { worker } = choose()!;
    counts[worker] = (counts[worker] ?? 0) + 1;
  }
  return counts;
}

describe.each(STRATEGY_NAMES)("under %s", (strategy) => {
  const candidate = fc
    .record({
      priority: fc.nat({ max: 3 }),
      weight: fc.nat({ max: 3 }),
      concurrentRequestsMax: fc.nat({ max: 3 }),
      input: fc.option(fc.nat({ max: 3 }), { nil: undefined }),
      tier: fc.nat({ max: 2 }),
      load: fc.nat({ max: 4 }),
      firstTokenMs: fc.option(fc.nat({ max: 1_000 }), { nil: undefined }),
      samples: fc.nat({ max: 4 }),
      // Two workers may have the same one.
      hash: fc.nat({ max: 4 }),
      model: fc.constantFrom("m", "n"),
    })
    .map((one) => {
      const { priority, weight, concurrentRequestsMax, hash, model, input } = one;
      const options: CandidateOptions = {
        hash,
        model,
        info: { priority, weight, concurrentRequestsMax },
        properties: { inputCostUsdPerMillion: input, outputCostUsdPerMillion: 1 },
      };
      return { ...one, options };
    });

  it("each candidate is tried once, those of a lower tier before all others", () => {
    fc.assert(
      fc.property(fc.array(candidate, { maxLength: 12 }), fc.nat(), fc.nat(), (drawn, seed, conversation) => {
        const mesh = router(seed);
        mesh.clock.nowMs = 100_000;
        const candidates = drawn.map(({ options }, index) => candidateOf(`w${index >> 1}${options.model}`, options));
        const tiers = new Map(candidates.map((one, index) => [one, drawn[index]!.tier]));
        for (const [index, { load, firstTokenMs, samples }] of drawn.entries()) {
          const { worker, model } = candidates[index]!;
          mesh.begin(worker, load);
          for (let sample = 0; sample < samples; sample += 1) {
            if (firstTokenMs !== undefined) mesh.latencies.record(worker, model, firstTokenMs);
          }
        }
        const traits = traitsOf(conversation);
        const tierOf = (one: Candidate) => tiers.get(one)!;
        for (let request = 0; request < 5; request += 1) {
          const tried = new Set<Candidate>();
          for (;;) {
            const next = mesh.chooser.next(strategy, candidates, tried, traits, tierOf);
            if (next === undefined) break;
            expect(candidates).toContain(next);
            expect(tried).not.toContain(next);
            tried.add(next);
          }
          expect(tried.size).toBe(candidates.length);
          const order = [...tried].map(tierOf);
          expect(order).toEqual(order.toSorted((a, b) => a - b));
          mesh.clock.nowMs += 50_000;
        }
      }),
      { numRuns: 100 },
    );
  });

  it("nobody is chosen where there is nobody", () => {
    const candidates = candidatesOf(2);
    expect(router().next(strategy, [])).toBeUndefined();
    expect(router().next(strategy, candidates, { tried: new Set(candidates) })).toBeUndefined();
  });

  it("the ranking says who would be tried, and looking changes nothing", () => {
    const candidates = candidatesOf(6, (index) => ({
      info: { priority: 6 - index, weight: index, concurrentRequestsMax: 4 },
      properties: { inputCostUsdPerMillion: index, outputCostUsdPerMillion: 1 },
    }));
    const tierOf = ({ worker }: Candidate) => (worker === "w0002" ? 1 : 0);
    const looking = router();
    const blind = router();
    for (const { loads, latencies } of [looking, blind]) {
      for (const [index, { worker }] of candidates.entries()) {
        for (let load = 0; load < index % 3; load += 1) loads.begin(worker);
        for (let sample = 0; sample < 3; sample += 1) latencies.record(worker, "m", 100 * (index + 1));
      }
    }
    const random = ["weighted", "least_loaded"].includes(strategy);
    for (let request = 0; request < 20; request += 1) {
      const ranking = looking.chooser.ranking(strategy, candidates, traitsOf(7), tierOf);
      expect(ranking.toSorted((a, b) => (a.worker < b.worker ? -1 : 1))).toEqual(candidates);
      expect(ranking.at(-1)!.worker).toBe("w0002");
      if (random) continue;
      // The very first turn falls at random.
      const [first] = looking.order(strategy, candidates, { traits: traitsOf(7), tierOf });
      if (strategy !== "round_robin" || request > 0) expect(first).toBe(ranking[0]!.worker);
    }
    if (strategy !== "round_robin") return;
    const turns = (mesh: typeof looking) => mesh.next(strategy, candidates, { tierOf })!;
    turns(blind);
    while (turns(blind) !== turns(looking)) turns(blind);
    for (let request = 0; request < 20; request += 1) {
      looking.chooser.ranking(strategy, candidates, traitsOf(), tierOf);
      expect(turns(looking)).toBe(turns(blind));
    }
  });
});

describe("local_first", () => {
  it("goes by priority, then by name, whatever the order in which the candidates come", () => {
    const priorities: Record<string, number> = { cloud: 100, b: 10, a: 10, first: 0 };
    const candidates = Object.entries(priorities).map(([name, priority]) => candidateOf(name, { info: { priority } }));
    expect(router().order("local_first", candidates)).toEqual(["first", "a", "b", "cloud"]);
    expect(router().order("local_first", candidates.toReversed())).toEqual(["first", "a", "b", "cloud"]);
    expect(router().chooser.why("local_first", candidates[0]!, traitsOf())).toBe("priority 100");
  });

  it("keeps the order of a worker's models", () => {
    const candidates = ["n", "m"].map((model) => candidateOf("w", { model }));
    expect(router().next("local_first", candidates)!.model).toBe("n");
  });
});

describe("round_robin", () => {
  it("gives each its turn, however many share a number", () => {
    const candidates = [...candidatesOf(5, () => ({ hash: 7 })), candidateOf("w0000", { model: "n", hash: 7 })];
    const { next } = router();
    const asked = Array.from({ length: 60 }, () => candidates.indexOf(next("round_robin", candidates)!));
    for (let turn = 0; turn + 6 <= 60; turn += 1) expect(new Set(asked.slice(turn, turn + 6)).size).toBe(6);
  });

  it("goes on where it was in each set, whatever is asked of other sets", () => {
    const [first, second, third] = candidatesOf(3);
    const both = [first!, second!];
    for (const other of [
      [second!],
      [first!, third!],
      [first!, second!, third!],
      candidatesOf(2, () => ({ model: "n" })),
    ]) {
      for (const times of [1, 2, 3]) {
        const { next } = router();
        // Were the turns of both sets one, the other one would always take the same worker's.
        const counts = counted(60, () => {
          for (let time = 0; time < times; time += 1) next("round_robin", other);
          return next("round_robin", both);
        });
        expect(counts).toEqual({ w0000: 30, w0001: 30 });
      }
    }
  });

  it("gives the successor of one that always fails no more than the others", () => {
    const candidates = candidatesOf(5);
    const { next } = router();
    const counts = counted(100, () => {
      const first = next("round_robin", candidates)!;
      return first === candidates[2] ? next("round_robin", candidates, { tried: new Set([first]) }) : first;
    });
    expect(counts).toEqual({ w0000: 25, w0001: 25, w0003: 25, w0004: 25 });
  });

  it("passes over those of a worse tier, and shares their turns out", () => {
    const candidates = candidatesOf(5);
    const { next } = router();
    const tierOf = (candidate: Candidate) => (candidate === candidates[1] ? 1 : 0);
    expect(counted(80, () => next("round_robin", candidates, { tierOf }))).toEqual({
      w0000: 20,
      w0002: 20,
      w0003: 20,
      w0004: 20,
    });
    // Back again it has its turn like the others, and nothing to catch up on.
    expect(counted(50, () => next("round_robin", candidates))["w0001"]).toBe(10);
  });

  it("begins anywhere, so that routers that start together do not ask the same worker", () => {
    const candidates = candidatesOf(4);
    const firsts = Array.from({ length: 40 }, (_, seed) => router(seed).next("round_robin", candidates));
    expect(new Set(firsts).size).toBe(4);
  });

  it("remembers the turns of a bounded number of sets", () => {
    const { next } = router();
    const first = candidatesOf(50);
    const others = Array.from({ length: 1_000 }, (_, index) => candidatesOf(2, () => ({ model: `m${index}` })));
    const begun = next("round_robin", first)!;
    for (const other of others.slice(0, 900)) next("round_robin", other);
    const second = next("round_robin", first)!;
    // It is used, so the sets that are not are forgotten before it.
    for (const other of others.slice(900)) next("round_robin", other);
    const rest = Array.from({ length: 48 }, () => next("round_robin", first));
    expect(new Set([begun, second, ...rest]).size).toBe(50);
  });
});

describe("least_loaded", () => {
  it("asks the one with the fewest requests in the whole mesh", () => {
    const mesh = router();
    const candidates = candidatesOf(3);
    mesh.begin("w0000", 2);
    mesh.loads.report({ node: "n", loads: [{ worker: "w0001", activeRequests: 1 }] });
    mesh.loads.report({ node: "n", loads: [{ worker: "w0002", activeRequests: 5 }] });
    expect(mesh.order("least_loaded", candidates)).toEqual(["w0001", "w0000", "w0002"]);
    expect(mesh.chooser.why("least_loaded", candidates[2]!, traitsOf())).toBe("5 requests running");
    expect(mesh.chooser.why("least_loaded", candidates[1]!, traitsOf())).toBe("1 request running");
  });

  it("goes by what each may serve at once, on all its nodes, one without a limit counting as large as the largest", () => {
    const mesh = router();
    const info = (concurrentRequestsMax: number) => ({ info: { concurrentRequestsMax } });
    const candidates = [
      candidateOf("small", info(2)),
      candidateOf("large", info(16)),
      candidateOf("two-nodes", { ...info(2), nodes: ["a", "b"] }),
      candidateOf("unlimited"),
    ];
    mesh.begin("small", 1);
    mesh.begin("large", 4);
    mesh.begin("two-nodes", 3);
    mesh.begin("unlimited", 2);
    expect(mesh.order("least_loaded", candidates)).toEqual(["unlimited", "large", "small", "two-nodes"]);
    expect(mesh.chooser.why("least_loaded", candidates[2]!, traitsOf())).toBe("3 of at most 4 requests running");
  });

  it("takes any of those that are equal", () => {
    const { next } = router();
    const candidates = candidatesOf(4);
    const counts = counted(4_000, () => next("least_loaded", candidates));
    for (const { worker } of candidates) expect(Math.abs(counts[worker]! - 1_000)).toBeLessThan(120);
  });
});

describe("weighted", () => {
  it("asks a worker of weight 0 only when nobody else is left", () => {
    const weights = [0, 3, 0, 1];
    const candidates = candidatesOf(4, (index) => ({ info: { weight: weights[index]! } }));
    const mesh = router();
    for (let request = 0; request < 200; request += 1) {
      const order = mesh.order("weighted", candidates);
      expect(order.slice(0, 2).sort()).toEqual(["w0001", "w0003"]);
    }
    expect(mesh.chooser.why("weighted", candidates[1]!, traitsOf())).toBe("weight 3");
  });

  it("has no preference among those of weight 0", () => {
    const { next } = router();
    const candidates = candidatesOf(2, () => ({ info: { weight: 0 } }));
    const counts = counted(1_000, () => next("weighted", candidates));
    expect(Math.abs(counts["w0000"]! - 500)).toBeLessThan(80);
  });
});

describe("latency", () => {
  it("asks the one whose first token comes soonest, unless it has much to do", () => {
    const mesh = router();
    const candidates = candidatesOf(2, () => ({ info: { concurrentRequestsMax: 4 } }));
    mesh.measured("w0000", 300);
    mesh.measured("w0001", 200);
    expect(mesh.order("latency", candidates)).toEqual(["w0001", "w0000"]);
    mesh.begin("w0001", 3);
    // 200 × 1.75 > 300
    expect(mesh.order("latency", candidates)).toEqual(["w0000", "w0001"]);
    expect(mesh.chooser.why("latency", candidates[1]!, traitsOf())).toBe(
      "first token after 200 ms, 3 of at most 4 requests running",
    );
  });

  it("takes a newcomer to be as good as the best one, for three requests and until it is measured", () => {
    const mesh = router();
    const candidates = candidatesOf(3);
    mesh.measured("w0000", 100);
    mesh.measured("w0001", 900);
    mesh.begin("w0000", 1);
    const asked = Array.from({ length: 50 }, () => mesh.next("latency", candidates)!.worker);
    expect(asked.slice(0, 3)).toEqual(["w0002", "w0002", "w0002"]);
    expect(new Set(asked.slice(3))).toEqual(new Set(["w0000"]));
    expect(mesh.chooser.why("latency", candidates[2]!, traitsOf())).toBe(
      "first token not measured yet, 0 requests running",
    );
    mesh.measured("w0002", 50);
    expect(mesh.next("latency", candidates)!.worker).toBe("w0002");
  });

  it("does not judge a newcomer by its first answer alone, which may have waited for the model to be loaded", () => {
    const mesh = router();
    const candidates = candidatesOf(2);
    mesh.measured("w0000", 100);
    mesh.begin("w0000", 1);
    mesh.measured("w0001", 9_000, 1);
    expect(mesh.next("latency", candidates)!.worker).toBe("w0001");
    mesh.measured("w0001", 9_000, 2);
    expect(mesh.next("latency", candidates)!.worker).toBe("w0000");
  });

  it("asks one in twenty of those that are due to be measured again, as long as they have room", () => {
    const mesh = router();
    const candidates = candidatesOf(300, () => ({ info: { concurrentRequestsMax: 1 } }));
    for (const { worker } of candidates) mesh.measured(worker, 1_000);
    mesh.begin("w0007", 1);
    mesh.clock.nowMs = 61_000;
    mesh.measured("w0000", 100);
    const counts = counted(2_000, () => mesh.next("latency", candidates));
    const probes = 2_000 - counts["w0000"]!;
    expect(Math.abs(probes - 100)).toBeLessThan(30);
    expect(counts["w0007"]).toBeUndefined();
    expect(Object.keys(counts)).toHaveLength(probes + 1);
    // All are asked, one after the other, but for the one that has no room.
    expect(Object.keys(counted(8_000, () => mesh.next("latency", candidates))).includes("w0007")).toBe(false);
  });

  it("tries one that was slow again, after a minute, with few requests", () => {
    const mesh = router();
    const candidates = candidatesOf(2);
    const asked = (seconds: number) => {
      const counts = counted(seconds * 10, () => {
        mesh.clock.nowMs += 100;
        const next = mesh.next("latency", candidates)!;
        if (next === candidates[0]) mesh.latencies.record(next.worker, next.model, 100);
        return next;
      });
      return counts["w0001"] ?? 0;
    };
    mesh.measured("w0000", 100);
    mesh.measured("w0001", 5_000);
    expect(asked(59)).toBe(0);
    const probes = asked(300);
    expect(probes).toBeGreaterThanOrEqual(3);
    expect(probes).toBeLessThanOrEqual(5);
    // It has become fast meanwhile, and the next probe shows it.
    mesh.measured("w0001", 20, 1);
    expect(asked(1)).toBe(10);
  });
});

describe("cost", () => {
  const prices = (input: number | undefined, output: number | undefined): CandidateOptions => ({
    properties: { inputCostUsdPerMillion: input, outputCostUsdPerMillion: output },
  });

  it("asks the cheapest for what is asked, those whose price is not known last, equal ones by local_first", () => {
    const candidates = [
      candidateOf("unknown"),
      candidateOf("half-known", prices(0, undefined)),
      candidateOf("talker", prices(5, 1)),
      candidateOf("listener", prices(0.5, 9)),
      candidateOf("free", prices(0, 0)),
      candidateOf("also-free", { ...prices(0, 0), info: { priority: 5 } }),
    ];
    const short = { ...traitsOf(), inputTokens: 100, outputTokensMax: 1_000 };
    const long = { ...traitsOf(), inputTokens: 100_000, outputTokensMax: 10 };
    const { order, chooser } = router();
    const last = ["half-known", "unknown"];
    expect(order("cost", candidates, { traits: short })).toEqual(["free", "also-free", "talker", "listener", ...last]);
    expect(order("cost", candidates, { traits: long })).toEqual(["free", "also-free", "listener", "talker", ...last]);
    expect(candidates.map((candidate) => chooser.why("cost", candidate, short))).toEqual([
      "price not known",
      "price not known",
      "about $0.0015",
      "about $0.0091",
      "about $0",
      "about $0",
    ]);
  });

  it("takes an answer of unknown length to have 500 tokens, and needs no price of an answer that there is not", () => {
    const candidates = [
      candidateOf("a", prices(2, 0)),
      candidateOf("b", prices(0, 3)),
      candidateOf("c", prices(1, undefined)),
    ];
    const { order } = router();
    expect(order("cost", candidates, { traits: { ...traitsOf(), inputTokens: 740 } })).toEqual(["a", "b", "c"]);
    expect(order("cost", candidates, { traits: { ...traitsOf(), inputTokens: 760 } })).toEqual(["b", "a", "c"]);
    const vectors = { ...traitsOf(), inputTokens: 1_000, outputTokensMax: 0 };
    expect(order("cost", candidates, { traits: vectors })).toEqual(["b", "c", "a"]);
  });
});

describe("affinity", () => {
  it("brings all turns of a conversation to one worker, whichever router is asked", () => {
    const candidates = candidatesOf(10);
    const [one, other] = [router(1), router(2)];
    for (let conversation = 0; conversation < 500; conversation += 1) {
      const traits = traitsOf(conversation * 2_654_435_761);
      const order = one.order("affinity", candidates, { traits });
      expect(other.order("affinity", candidates.toReversed(), { traits })).toEqual(order);
    }
  });

  it("moves only the conversations of a worker that leaves, and spreads them over all others", () => {
    const candidates = candidatesOf(8);
    const { next } = router();
    const moved = new Map<string, number>();
    for (let conversation = 0; conversation < 4_000; conversation += 1) {
      const traits = traitsOf(Math.imul(conversation, 0x9e3779b1) >>> 0);
      const before = next("affinity", candidates, { traits })!;
      const after = next("affinity", candidates.slice(1), { traits })!;
      if (before !== candidates[0]) expect(after).toBe(before);
      else moved.set(after.worker, (moved.get(after.worker) ?? 0) + 1);
    }
    const total = [...moved.values()].reduce((sum, count) => sum + count, 0);
    expect(moved.size).toBe(7);
    expect(Math.abs(total - 500)).toBeLessThan(100);
    for (const count of moved.values()) expect(Math.abs(count - total / 7)).toBeLessThan(40);
  });

  it("goes to the next best when the best has more than 1.25 times the average, or all it may serve", () => {
    const mesh = router();
    const candidates = candidatesOf(3);
    const [best, second] = mesh.order("affinity", candidates);
    const asked = () => mesh.next("affinity", candidates)!.worker;
    // A few requests are no overload, whatever the average.
    mesh.begin(best!, 3);
    expect(asked()).toBe(best);
    mesh.begin(best!, 1);
    expect(asked()).toBe(second);
    for (const { worker } of candidates) mesh.begin(worker, 40);
    expect(asked()).toBe(best);
    mesh.begin(best!, 40);
    expect(asked()).toBe(second);
    const limited = candidates.map(({ worker }) => candidateOf(worker, { info: { concurrentRequestsMax: 41 } }));
    mesh.begin(second!, 1);
    expect(mesh.next("affinity", limited)!.worker).not.toBe(second);
    expect(mesh.chooser.why("affinity", candidates[0]!, traitsOf())).toMatch(
      /^0\.\d{3} for this conversation, \d+ requests running$/,
    );
  });

  it("stays with the best when all are over their limits", () => {
    const mesh = router();
    const candidates = candidatesOf(3, () => ({ info: { concurrentRequestsMax: 1 } }));
    const [best] = mesh.order("affinity", candidates);
    for (const { worker } of candidates) mesh.begin(worker, 2);
    expect(mesh.next("affinity", candidates)!.worker).toBe(best);
  });
});
