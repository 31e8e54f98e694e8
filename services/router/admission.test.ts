/** The queue for full workers: whatever comes and goes, limits hold, nobody is forgotten, and tenants take turns. */
import { getEventListeners } from "node:events";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { type OwnedCall, RpcError, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { Admission } from "./admission.ts";
import type { Candidate } from "./candidates.ts";
import { Loads } from "./loads.ts";

function candidateOf(worker: string, concurrentRequestsMax: number): Candidate {
  const info = { ...WorkerInfo.decode(new Uint8Array()), name: worker, concurrentRequestsMax };
  const capabilities = new Set<string>();
  return { worker, provider: "p", model: "m", nodes: ["n"], info, properties: undefined, capabilities, hash: 0 };
}

const callOf = (tenant: string): OwnedCall => startCall({ tenant, requestId: "r", trace: NO_TRACE });
const turn = () => new Promise((resolve) => setImmediate(resolve));

type Step =
  | { readonly kind: "ask"; readonly tenant: string; readonly workers: readonly number[] }
  | { readonly kind: "end"; readonly which: number }
  | { readonly kind: "leave"; readonly which: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("ask" as const),
      tenant: fc.constantFrom("a", "b", "c"),
      workers: fc.uniqueArray(fc.nat({ max: 2 }), { minLength: 1, maxLength: 3 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("end" as const), which: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("leave" as const), which: fc.nat() }) },
);

interface Asked {
  readonly call: OwnedCall;
  readonly tenant: string;
  outcome: Candidate | RpcError | undefined;
  ended: boolean;
}

describe("the queue", () => {
  it("keeps every limit, its own bound, and forgets nobody", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 60 }),
        fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 3 }), fc.integer({ min: 1, max: 3 })),
        fc.nat({ max: 6 }),
        async (steps, limits, size) => {
          const loads = new Loads();
          const admission = new Admission({ loads, limits: () => ({ size, waitMaxMs: 60_000 }), now: () => 0 });
          const candidates = limits.map((limit, index) => candidateOf(`w${index}`, limit));
          const asked: Asked[] = [];
          const running = (worker: string) =>
            asked.filter(
              ({ outcome, ended }) => !ended && !(outcome instanceof RpcError) && outcome?.worker === worker,
            );

          for (const taken of steps) {
            if (taken.kind === "ask") {
              const wanted = taken.workers.map((index) => candidates[index]!);
              const entry: Asked = {
                call: callOf(taken.tenant),
                tenant: taken.tenant,
                outcome: undefined,
                ended: false,
              };
              asked.push(entry);
              const free = wanted.find((candidate) => !admission.full(candidate));
              if (free !== undefined) {
                loads.begin(free.worker);
                entry.outcome = free;
              } else {
                admission.wait(wanted, entry.call).then(
                  (candidate) => {
                    entry.outcome = candidate;
                  },
                  (error: RpcError) => {
                    entry.outcome = error;
                  },
                );
              }
            } else {
              const one = asked[taken.which % Math.max(asked.length, 1)];
              if (one === undefined || one.ended) continue;
              if (taken.kind === "leave" && one.outcome === undefined) one.call.cancel();
              if (taken.kind === "end" && one.outcome !== undefined && !(one.outcome instanceof RpcError)) {
                one.ended = true;
                loads.end(one.outcome.worker);
              }
            }
            await turn();
            for (const [index, { worker }] of candidates.entries()) {
              expect(running(worker).length).toBeLessThanOrEqual(limits[index]!);
              expect(loads.of(worker)).toBe(running(worker).length);
            }
            const waiting = asked.filter(({ outcome }) => outcome === undefined);
            expect(admission.waiting).toBe(waiting.length);
            expect(waiting.length).toBeLessThanOrEqual(size);
          }

          // Once everything that runs has ended, everybody has been served or told.
          for (let rounds = 0; asked.some(({ outcome }) => outcome === undefined); rounds++) {
            expect(rounds).toBeLessThan(100);
            for (const entry of asked) {
              if (entry.ended || entry.outcome === undefined || entry.outcome instanceof RpcError) continue;
              entry.ended = true;
              loads.end(entry.outcome.worker);
            }
            await turn();
          }
          expect(admission.waiting).toBe(0);
          for (const { call } of asked) {
            expect(getEventListeners(call.signal, "abort")).toEqual([]);
            call.finish();
          }
        },
      ),
      { numRuns: 150 },
    );
  });

  it("serves the requests of a tenant in the order in which they came", async () => {
    const loads = new Loads();
    const admission = new Admission({ loads, limits: () => ({ size: 100, waitMaxMs: 60_000 }), now: () => 0 });
    const only = candidateOf("w", 1);
    loads.begin("w");
    const order: string[] = [];
    for (const name of ["a1", "a2", "a3", "b1", "b2", "c1"]) {
      void admission.wait([only], callOf(name[0]!)).then(() => order.push(name));
    }
    for (let served = 0; served < 6; served++) {
      loads.end("w");
      await turn();
    }
    expect(order).toEqual(["a1", "b1", "c1", "a2", "b2", "a3"]);
  });

  it("says when to come back from the pace at which it moves, and refuses whoever would be too late", async () => {
    const loads = new Loads();
    let nowMs = 0;
    const admission = new Admission({ loads, limits: () => ({ size: 5, waitMaxMs: 20_000 }), now: () => nowMs });
    const only = candidateOf("w", 1);
    const refusalOf = (call: OwnedCall): Promise<RpcError> => admission.wait([only], call).catch((error) => error);
    loads.begin("w");
    const outcomes = Array.from({ length: 5 }, () => admission.wait([only], callOf("a")).catch((error) => error));
    for (let served = 0; served < 3; served++) {
      nowMs += 3_000;
      loads.end("w");
      await turn();
    }
    // Two wait, and each takes 3 s.
    const hurried = startCall({ tenant: "a", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 5_000 });
    const refused = await refusalOf(hurried);
    expect(refused).toMatchObject({ reason: "OVERLOADED" });
    expect(refused.retryAfterMs).toBe(9_000);
    hurried.finish();
    for (const tenant of ["a", "a", "a"]) outcomes.push(admission.wait([only], callOf(tenant)).catch((error) => error));
    expect((await refusalOf(callOf("a"))).retryAfterMs).toBe(18_000);
    for (let served = 0; served < 6; served++) {
      loads.end("w");
      await turn();
    }
    expect((await Promise.all(outcomes)).filter((outcome) => outcome instanceof RpcError)).toEqual([]);
  });

  it("does not hold a bad time against a worker for ever: after a while somebody waits again", async () => {
    const loads = new Loads();
    let nowMs = 0;
    const admission = new Admission({ loads, limits: () => ({ size: 5, waitMaxMs: 60_000 }), now: () => nowMs });
    const only = candidateOf("w", 1);
    const outcomeOf = (call: OwnedCall) => admission.wait([only], call).catch((error: RpcError) => error.reason);
    const call = () => startCall({ tenant: "a", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 15_000 });
    loads.begin("w");
    const slow = Array.from({ length: 3 }, () => outcomeOf(callOf("a")));
    for (const pauseMs of [0, 30_000, 30_000]) {
      nowMs += pauseMs;
      loads.end("w");
      await turn();
    }
    expect(await Promise.all(slow)).toEqual([only, only, only]);
    expect(await outcomeOf(call())).toBe("OVERLOADED");
    nowMs += 61_000;
    const later = outcomeOf(call());
    loads.end("w");
    expect(await later).toBe(only);
  });
});
