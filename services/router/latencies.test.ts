/** Times to the first token: what is new counts more, what is old fades. */
import { describe, expect, it } from "vitest";
import { Latencies } from "./latencies.ts";

function onClock() {
  const clock = { nowMs: 0, now: () => clock.nowMs };
  return { clock, latencies: new Latencies(clock) };
}

describe("the average time to the first token", () => {
  it("is known by worker and model", () => {
    const { latencies } = onClock();
    expect(latencies.of("w", "m")).toBeUndefined();
    latencies.record("w", "m", 100);
    expect(latencies.of("w", "m")).toBe(100);
    expect([latencies.of("w", "n"), latencies.of("x", "m")]).toEqual([undefined, undefined]);
    latencies.record("w", "n", 300);
    latencies.record("x", "m", 500);
    expect([latencies.of("w", "m"), latencies.of("w", "n"), latencies.of("x", "m")]).toEqual([100, 300, 500]);
    expect(latencies.measurement("w", "m")).toMatchObject({ firstTokenMs: 100, count: 1, atMs: 0 });
  });

  it("is the mean of what came at the same time", () => {
    const { latencies } = onClock();
    for (const ms of [100, 200, 600]) latencies.record("w", "m", ms);
    expect(latencies.of("w", "m")).toBeCloseTo(300);
  });

  it("follows a change within seconds, and forgets the old value the sooner the longer it is ago", () => {
    const { clock, latencies } = onClock();
    for (let second = 0; second < 60; second += 1) {
      clock.nowMs = second * 1_000;
      latencies.record("w", "m", 100);
    }
    clock.nowMs += 10_000;
    const before = latencies.of("w", "m")!;
    for (let second = 0; second < 10; second += 1) {
      clock.nowMs += 1_000;
      latencies.record("w", "m", 1_000);
    }
    const after = latencies.of("w", "m")!;
    expect(before).toBeCloseTo(100);
    // Twenty seconds are two half-lives.
    expect(after).toBeGreaterThan(500);
    clock.nowMs += 300_000;
    latencies.record("w", "m", 50);
    expect(latencies.of("w", "m")).toBeCloseTo(50, 2);
  });

  it("is never zero", () => {
    const { latencies } = onClock();
    latencies.record("w", "m", 0);
    expect(latencies.of("w", "m")).toBeGreaterThan(0);
  });
});

describe("the 95th percentile", () => {
  it("is said of at least 20 recent samples", () => {
    const { clock, latencies } = onClock();
    for (let sample = 1; sample <= 19; sample += 1) latencies.record("w", "m", sample);
    expect(latencies.percentile95("w", "m")).toBeUndefined();
    latencies.record("w", "m", 20);
    expect(latencies.percentile95("w", "m")).toBe(19);
    expect(latencies.percentile95("w", "other")).toBeUndefined();
    clock.nowMs = 700_000;
    expect(latencies.percentile95("w", "m")).toBeUndefined();
  });

  it("is of the newest samples, whatever the order in which they came", () => {
    const { latencies } = onClock();
    for (let sample = 0; sample < 500; sample += 1) latencies.record("w", "m", 9_999);
    for (let sample = 0; sample < 64; sample += 1) latencies.record("w", "m", ((sample * 37) % 64) + 1);
    expect(latencies.percentile95("w", "m")).toBe(61);
  });
});

describe("what is remembered", () => {
  it("is bounded, and the pair that was measured last the longest time ago goes first", () => {
    const { clock, latencies } = onClock();
    latencies.record("w", "kept", 1);
    for (let index = 0; index < 10_000; index += 1) {
      clock.nowMs += 1;
      latencies.record("w", `m${index}`, 1);
      if (index === 9_000) latencies.record("w", "kept", 1);
    }
    expect(latencies.of("w", "m0")).toBeUndefined();
    expect([latencies.of("w", "m1"), latencies.of("w", "kept"), latencies.of("w", "m9999")]).toEqual([1, 1, 1]);
  });
});
