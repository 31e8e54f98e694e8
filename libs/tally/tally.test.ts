import { describe, expect, it } from "vitest";
import { AttemptOutcome, RequestOutcome } from "../gen/cortex/events/v1/events.ts";
import { Tally } from "./tally.ts";
import { attempt, request } from "./test-events.ts";

const { SERVED, FAILED, INTERRUPTED, CANCELLED, SUPERSEDED } = AttemptOutcome;

function score(served: number, meanMs: number, others: readonly Parameters<typeof attempt>[0][]) {
  const tally = new Tally();
  for (let index = 0; index < served; index++) tally.addAttempt(attempt({ durationMs: meanMs }));
  for (const other of others) tally.addAttempt(attempt(other));
  return tally.score("w");
}

const failures = (count: number) =>
  Array.from({ length: count }, (_, index) => ({
    outcome: index % 2 === 0 ? FAILED : INTERRUPTED,
    reason: "PROVIDER_ERROR",
    durationMs: 60_000,
  }));

describe("the score of a worker or provider", () => {
  it.each([
    [95, 5, 999, 100],
    [95, 5, 1_000, 80],
    [94, 6, 500, 80],
    [90, 10, 1_999, 80],
    [90, 10, 2_000, 60],
    [89, 11, 100, 60],
    [80, 20, 4_999, 60],
    [80, 20, 5_000, 40],
    [79, 21, 100, 40],
    [60, 40, 90_000, 40],
    [59, 41, 100, 20],
    [0, 5, 0, 20],
    [0, 0, 0, 0],
  ])("of %i served and %i failed attempts at %i ms is %i", (served, failed, meanMs, expected) => {
    const { score: found, attempts, success } = score(served, meanMs, failures(failed));
    expect([found, attempts]).toEqual([expected, served + failed]);
    expect(success).toBeCloseTo(served + failed === 0 ? 0 : served / (served + failed));
  });

  it("does not count what is not its making: clients that left, slower hedges, requests that are wrong, our own limit", () => {
    const others = [
      { outcome: CANCELLED, reason: "CANCELLED" },
      { outcome: SUPERSEDED },
      ...["INVALID_REQUEST", "CONTEXT_LENGTH_EXCEEDED", "CONTENT_FILTERED", "UNSUPPORTED_PARAMETER", "WORKER_BUSY"].map(
        (reason) => ({ outcome: FAILED, reason }),
      ),
    ];
    expect(score(10, 100, others)).toMatchObject({ score: 100, attempts: 10, success: 1 });
    expect(score(0, 0, others)).toMatchObject({ score: 0, attempts: 0 });
  });

  it.each(["PROVIDER_REFUSED_KEY", "PROVIDER_QUOTA_EXHAUSTED", "PROVIDER_RATE_LIMITED", "NODE_UNREACHABLE", "new one"])(
    "counts %s: it could not serve",
    (reason) => {
      expect(score(1, 100, [{ outcome: FAILED, reason }])).toMatchObject({ score: 20, attempts: 2, success: 0.5 });
    },
  );
});

describe("figures", () => {
  it("of attempts tell tokens and cost of all, speed and latency of those that were served", () => {
    const tally = new Tally();
    const usage = { inputTokens: 100, outputTokens: 51 };
    tally.addAttempt(attempt({ usage, stream: true, timeToFirstTokenMs: 500, durationMs: 1_000, costUsd: 0.25 }));
    tally.addAttempt(attempt({ usage, stream: false, durationMs: 3_000 }));
    tally.addAttempt(
      attempt({ usage, outcome: INTERRUPTED, reason: "PROVIDER_STREAM_CUT", durationMs: 9_000, costUsd: 0.5 }),
    );
    tally.addAttempt(attempt({ outcome: FAILED, reason: "what nobody knows", usage: undefined }));
    tally.addAttempt(attempt({ outcome: SERVED, durationMs: 1_000, usage: undefined }));
    expect(tally.figures()).toMatchObject({
      requests: 5,
      errors: 2,
      errorsByReason: { "(other)": 1, PROVIDER_STREAM_CUT: 1 },
      inputTokens: 300,
      outputTokens: 153,
      tokensPerSecond: 100,
      costUsd: 0.75,
      duration: { count: 3, maxMs: 3_000 },
      timeToFirstToken: { count: 1, maxMs: 500 },
    });
  });

  it("of requests do not count as used what came from the cache, or from another one's call", () => {
    const tally = new Tally();
    tally.addRequest(request({ costUsd: 0.1, attempts: 2 }));
    tally.addRequest(request({ cache: "l1", attempts: 0, durationMs: 1 }));
    tally.addRequest(request({ cache: "l2", attempts: 0, durationMs: 1 }));
    tally.addRequest(request({ cache: "shared", attempts: 0 }));
    tally.addRequest(request({ outcome: RequestOutcome.CANCELLED, reason: "CANCELLED" }));
    tally.addRequest(request({ outcome: RequestOutcome.FAILED, reason: "OVERLOADED", attempts: 0, usage: undefined }));
    expect(tally.figures()).toMatchObject({
      requests: 6,
      errors: 1,
      errorsByReason: { OVERLOADED: 1 },
      cancelled: 1,
      cacheHits: 2,
      shared: 1,
      failovers: 1,
      inputTokens: 20,
      outputTokens: 40,
      costUsd: 0.1,
      duration: { count: 4 },
    });
  });
});
