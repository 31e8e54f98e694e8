import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AttemptOutcome, RequestOutcome } from "../../libs/gen/cortex/events/v1/events.ts";
import { Dimension, type Figures } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { DIMENSIONS, Tally } from "../../libs/tally/index.ts";
import { attempt, request } from "../../libs/tally/test-events.ts";
import { OTHER } from "../../libs/telemetry/index.ts";
import { FINE_MS, MEMORY_MS, Memory } from "./memory.ts";
import { countAttempt, countRequest } from "./test-counting.ts";

const START_MS = 1_800_000_000_000;

/** A copy by way of bytes, as another life of the service gets it. */
function restored(memory: Memory, nowMs: number): Memory {
  const copy = new Memory();
  const { sealed, open } = memory.save(nowMs);
  copy.restore([...sealed.values()].reverse(), open);
  return copy;
}

async function figuresOf(memory: Memory, sinceMs: number) {
  const { fromMs, total, by } = await memory.window(sinceMs, DIMENSIONS);
  const names = [...by].map(([dimension, tallies]) => [
    dimension,
    Object.fromEntries([...tallies].sort().map(([name, tally]) => [name, tally.figures()])),
  ]);
  return { fromMs, total: total.figures(), by: Object.fromEntries(names) as Record<string, Record<string, Figures>> };
}

const requests = fc.record({
  tenant: fc.constantFrom("a", "b", "c"),
  requestedModel: fc.constantFrom("x", "y"),
  strategy: fc.constantFrom("", "local_first", "cost"),
  outcome: fc.constantFrom(RequestOutcome.SERVED, RequestOutcome.FAILED, RequestOutcome.CANCELLED),
  reason: fc.constantFrom("PROVIDER_ERROR", "INVALID_REQUEST", "made up"),
  cache: fc.constantFrom("", "", "l1", "shared"),
  attempts: fc.integer({ min: 0, max: 3 }),
  stream: fc.boolean(),
  durationMs: fc.integer({ min: 1, max: 60_000 }),
  timeToFirstTokenMs: fc.integer({ min: 0, max: 500 }),
});
const attempts = fc.record({
  worker: fc.constantFrom("w1", "w2"),
  provider: fc.constantFrom("p1", "p2"),
  outcome: fc.constantFrom(...Object.values(AttemptOutcome).slice(1)),
  reason: fc.constantFrom("PROVIDER_ERROR", "INVALID_REQUEST"),
  durationMs: fc.integer({ min: 1, max: 60_000 }),
});
/** Events with the time that passes before each. */
const histories = fc.array(
  fc.record({ afterMs: fc.oneof(fc.nat(5_000), fc.nat(200_000)), request: requests, attempt: attempts }),
  { minLength: 1, maxLength: 80 },
);

describe("the memory of an hour", () => {
  it("adds up any window exactly as the events themselves do, from the beginning of its first step", async () => {
    await fc.assert(
      fc.asyncProperty(histories, fc.integer({ min: 1_000, max: MEMORY_MS }), async (history, windowMs) => {
        const memory = new Memory();
        let nowMs = START_MS;
        const events = history.map((event) => {
          nowMs += event.afterMs;
          countRequest(memory, request(event.request), nowMs);
          countAttempt(memory, attempt(event.attempt), nowMs);
          return { ...event, atMs: nowMs };
        });
        const found = await figuresOf(memory, nowMs - windowMs);
        expect(found.fromMs).toBeLessThanOrEqual(nowMs - windowMs);
        expect(found.fromMs).toBeGreaterThan(nowMs - windowMs - 60_000);
        const within = events.filter(({ atMs }) => atMs >= found.fromMs);
        const total = new Tally();
        const workers = new Map<string, Tally>();
        for (const event of within) {
          total.addRequest(request(event.request));
          const tally = workers.get(event.attempt.worker) ?? new Tally();
          tally.addAttempt(attempt(event.attempt));
          workers.set(event.attempt.worker, tally);
        }
        // Whole milliseconds and tokens: sums of them are exact in any order.
        expect(found.total).toEqual(total.figures());
        for (const [name, tally] of workers) expect(found.by[Dimension.WORKER]![name]).toEqual(tally.figures());
        expect(Object.keys(found.by[Dimension.WORKER]!)).toHaveLength(workers.size);
        const byTenant = Object.values(found.by[Dimension.TENANT]!);
        expect(byTenant.reduce((sum, figures) => sum + figures.requests, 0)).toBe(total.requests);
        expect(memory.total(nowMs - windowMs).figures()).toEqual(found.total);
      }),
      { numRuns: 60 },
    );
  });

  it("is the same after it was kept and taken over at any moment", async () => {
    await fc.assert(
      fc.asyncProperty(histories, fc.nat(79), async (history, at) => {
        const one = new Memory();
        let other = new Memory();
        let nowMs = START_MS;
        for (const [index, event] of history.entries()) {
          nowMs += event.afterMs;
          for (const memory of [one, other]) {
            countRequest(memory, request(event.request), nowMs);
            countAttempt(memory, attempt(event.attempt), nowMs);
          }
          if (index === at) other = restored(other, nowMs);
        }
        expect(await figuresOf(other, nowMs - MEMORY_MS)).toEqual(await figuresOf(one, nowMs - MEMORY_MS));
        expect(other.history(nowMs - MEMORY_MS)).toEqual(one.history(nowMs - MEMORY_MS));
      }),
      { numRuns: 40 },
    );
  });

  it("keeps fine steps for ten minutes, coarse ones for an hour, and nothing beyond", () => {
    const memory = new Memory();
    const seconds = 2 * 3_600;
    for (let second = 0; second < seconds; second++) countRequest(memory, request(), START_MS + second * 1_000);
    const nowMs = START_MS + (seconds - 1) * 1_000;
    const steps = memory.history(0);
    const lengths = steps.map(({ startMs, endMs }) => endMs - startMs);
    expect(new Set(lengths)).toEqual(new Set([60_000, 10_000]));
    expect(
      steps
        .filter(({ endMs, startMs }) => endMs - startMs === 10_000)
        .every(({ startMs }) => startMs >= nowMs - FINE_MS - 60_000),
    ).toBe(true);
    expect(steps[0]!.endMs).toBeGreaterThan(nowMs - MEMORY_MS);
    expect(steps.reduce((sum, { tally }) => sum + tally.requests, 0)).toBeGreaterThanOrEqual(3_600);
    expect(steps.length).toBeLessThanOrEqual(50 + 66 + 1);
    for (const [index, step] of steps.slice(1).entries()) expect(step.startMs).toBe(steps[index]!.endMs);
  });

  it("is the same for who has time between the events, and puts minutes together ahead, as for who reads them in one go", async () => {
    const [steady, hurried] = [new Memory(), new Memory()];
    const count = (memory: Memory, second: number): void => {
      const durationMs = 100 + ((second * 7_919) % 5_000);
      countRequest(memory, request({ durationMs }), START_MS + second * 1_000);
      countAttempt(memory, attempt({ durationMs, worker: `w${second % 5}` }), START_MS + second * 1_000);
    };
    for (let second = 0; second < 2_400; second += 3) {
      count(steady, second);
      for (let turn = 0; turn < 8; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    for (let second = 0; second < 2_400; second += 3) count(hurried, second);
    expect(await figuresOf(steady, START_MS)).toEqual(await figuresOf(hurried, START_MS));
    expect(steady.save(START_MS)).toEqual(hurried.save(START_MS));
    expect(steady.steps).toBeLessThan(100);
  });

  it("tells so many names apart, and gives the place of one that was not seen for an hour to another", async () => {
    const namesMax = { 0: 0, 1: 3, 2: 3, 3: 2, 4: 3, 5: 3 };
    const memory = new Memory({ namesMax });
    for (const name of ["a", "b", "c", "d", "a"]) countRequest(memory, request({ requestedModel: name }), START_MS);
    const models = async (sinceMs: number) => {
      const { by } = await memory.window(sinceMs, [Dimension.MODEL]);
      return Object.fromEntries([...by.get(Dimension.MODEL)!].map(([name, tally]) => [name, tally.requests]));
    };
    expect(await models(START_MS)).toEqual({ a: 2, b: 1, [OTHER]: 2 });
    const laterMs = START_MS + MEMORY_MS + 20_000;
    countRequest(memory, request({ requestedModel: "a" }), START_MS + 1_800_000);
    countRequest(memory, request({ requestedModel: "a" }), laterMs);
    countRequest(memory, request({ requestedModel: "c" }), laterMs);
    countRequest(memory, request({ requestedModel: "d" }), laterMs);
    expect(await models(laterMs - 10_000)).toEqual({ a: 1, c: 1, [OTHER]: 1 });
  });

  it.each([
    [RequestOutcome.FAILED, "MODEL_NOT_FOUND"],
    [RequestOutcome.FAILED, "CACHE_MISS"],
    [RequestOutcome.FAILED, "DEADLINE_EXCEEDED"],
    [RequestOutcome.CANCELLED, "CANCELLED"],
  ])("gives no place to models of which nobody knows whose they are: %s %s", async (outcome, reason) => {
    const memory = new Memory();
    for (let index = 0; index < 1_000; index++) {
      countRequest(memory, request({ outcome, reason, attempts: 0, requestedModel: `made-up-${index}` }), START_MS);
    }
    countRequest(memory, request(), START_MS);
    const { by } = await memory.window(START_MS, [Dimension.MODEL]);
    expect([...by.get(Dimension.MODEL)!.keys()].sort()).toEqual([OTHER, "gpt-4o"]);
  });

  it("gives a place to models that somebody has, also when nobody is free and when the answer was kept", async () => {
    const memory = new Memory();
    const refused = { outcome: RequestOutcome.FAILED, attempts: 0 };
    countRequest(memory, request({ requestedModel: "kept", attempts: 0, cache: "l1" }), START_MS);
    countRequest(memory, request({ requestedModel: "full", ...refused, reason: "OVERLOADED" }), START_MS);
    countRequest(memory, request({ requestedModel: "gone", ...refused, reason: "NO_WORKERS_AVAILABLE" }), START_MS);
    const left = { outcome: RequestOutcome.CANCELLED, reason: "CANCELLED", attempts: 1 };
    countRequest(memory, request({ requestedModel: "left", ...left }), START_MS);
    const { by } = await memory.window(START_MS, [Dimension.MODEL]);
    expect([...by.get(Dimension.MODEL)!.keys()].sort()).toEqual(["full", "gone", "kept", "left"]);
  });

  it("levels off, and within its bound: the oldest steps get longer, and every count stays", async () => {
    const bytesMax = 1_000_000;
    const memory = new Memory({ bytesMax });
    const sizes: number[] = [];
    let counted = 0;
    const countedAt = new Map<number, number>();
    // An hour and a half of 300 workers, each of whose answers takes another time.
    for (let step = 0; step < 540; step++) {
      const atMs = START_MS + step * 10_000;
      for (let worker = 0; worker < 300; worker++) {
        const durationMs = Math.exp(4 + 3 * Math.sin(step * 300 + worker));
        countAttempt(memory, attempt({ worker: `worker-${worker}`, durationMs }), atMs);
        countRequest(memory, request({ durationMs }), atMs);
        counted++;
      }
      countedAt.set(atMs, counted);
      sizes.push(memory.bytes);
    }
    expect(Math.max(...sizes)).toBeLessThanOrEqual(bytesMax);
    expect(Math.max(...sizes.slice(400))).toBeGreaterThan(bytesMax / 2);
    const nowMs = START_MS + 539 * 10_000;
    const { fromMs, total } = await memory.window(nowMs - MEMORY_MS, []);
    expect(total.requests).toBe(counted - (countedAt.get(fromMs - 10_000) ?? 0));
    expect(total.duration.count).toBe(total.requests);
    expect(memory.steps).toBeGreaterThan(12);
  });

  it("begins anew when the clock of NATS was set back", () => {
    const memory = new Memory();
    countRequest(memory, request(), START_MS);
    countRequest(memory, request(), START_MS - 5_000);
    expect(memory.total(0).requests).toBe(2);
    countRequest(memory, request(), START_MS - 600_000);
    expect(memory.total(0).requests).toBe(1);
  });
});
