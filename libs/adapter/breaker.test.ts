import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { BreakerState } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";
import { Breaker, type Ticket } from "./breaker.ts";

const { CLOSED, OPEN, HALF_OPEN } = BreakerState;

function createBreaker(): { breaker: Breaker; changes: BreakerState[] } {
  const changes: BreakerState[] = [];
  const onChange = (state: BreakerState) => void changes.push(state);
  const breaker = new Breaker({ failures: 5, resetMs: 30_000, clock: Date.now, onChange });
  return { breaker, changes };
}

function fail(breaker: Breaker, times: number): void {
  for (let count = 0; count < times; count += 1) breaker.settle(breaker.admit(), "failure");
}

async function openedAndHalfOpen(breaker: Breaker): Promise<Ticket> {
  fail(breaker, 5);
  await vi.advanceTimersByTimeAsync(30_000);
  expect(breaker.state).toBe(HALF_OPEN);
  return breaker.admit();
}

function refusal(breaker: Breaker): RpcError | undefined {
  try {
    breaker.settle(breaker.admit(), "neutral");
    return undefined;
  } catch (error) {
    return error as RpcError;
  }
}

describe("the breaker", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("opens after five failures in a row and says how long it will rest", async () => {
    const { breaker, changes } = createBreaker();
    fail(breaker, 4);
    expect(breaker.state).toBe(CLOSED);
    fail(breaker, 1);
    expect(breaker.state).toBe(OPEN);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN", retryAfterMs: 20_000 });
    expect(changes).toEqual([OPEN]);
    breaker.shutdown();
  });

  it("stays closed when a worker that mostly succeeds fails now and then", async () => {
    const { breaker } = createBreaker();
    for (let count = 0; count < 1_000; count += 1) {
      fail(breaker, 4);
      breaker.settle(breaker.admit(), "success");
    }
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(CLOSED);
    breaker.shutdown();
  });

  it("counts failures of a quiet worker however far they lie apart", async () => {
    const { breaker } = createBreaker();
    for (let count = 0; count < 5; count += 1) {
      fail(breaker, 1);
      await vi.advanceTimersByTimeAsync(600_000);
    }
    expect(breaker.state).toBe(HALF_OPEN);
    breaker.shutdown();
  });

  it("counts streams by when they die, however long they have run", async () => {
    const { breaker } = createBreaker();
    const tickets = Array.from({ length: 5 }, () => breaker.admit());
    await vi.advanceTimersByTimeAsync(3_600_000);
    for (const ticket of tickets) breaker.settle(ticket, "failure");
    expect(breaker.state).toBe(OPEN);
    breaker.shutdown();
  });

  it("takes outcomes that say nothing about the provider for neither failure nor success", () => {
    const { breaker } = createBreaker();
    for (let count = 0; count < 20; count += 1) breaker.settle(breaker.admit(), "neutral");
    fail(breaker, 4);
    breaker.settle(breaker.admit(), "neutral");
    fail(breaker, 1);
    expect(breaker.state).toBe(OPEN);
    breaker.shutdown();
  });

  it("lets one request at a time try once it is half open, and closes when that succeeds", async () => {
    const { breaker, changes } = createBreaker();
    const trial = await openedAndHalfOpen(breaker);
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN", retryAfterMs: 1_000 });
    breaker.settle(trial, "success");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(CLOSED);
    expect(changes).toEqual([OPEN, HALF_OPEN, CLOSED]);
    breaker.shutdown();
  });

  it("opens again for the whole time when the trial fails", async () => {
    const { breaker, changes } = createBreaker();
    breaker.settle(await openedAndHalfOpen(breaker), "failure");
    await vi.advanceTimersByTimeAsync(29_999);
    expect(breaker.state).toBe(OPEN);
    await vi.advanceTimersByTimeAsync(1);
    expect(changes).toEqual([OPEN, HALF_OPEN, OPEN, HALF_OPEN]);
    breaker.shutdown();
  });

  it("stays half open when the trial's client hangs up, and lets the next request try at once", async () => {
    const { breaker } = createBreaker();
    breaker.settle(await openedAndHalfOpen(breaker), "neutral");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(HALF_OPEN);
    breaker.settle(breaker.admit(), "success");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(CLOSED);
    breaker.shutdown();
  });

  it("lets only the trial decide, not requests from before it opened", async () => {
    const { breaker } = createBreaker();
    const [late, later] = [breaker.admit(), breaker.admit()];
    const trial = await openedAndHalfOpen(breaker);
    breaker.settle(late, "success");
    breaker.settle(later, "failure");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(HALF_OPEN);
    breaker.settle(trial, "success");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(CLOSED);
    breaker.shutdown();
  });

  it("closes at the trial's first content, and opens again if that stream dies", async () => {
    const { breaker } = createBreaker();
    const trial = await openedAndHalfOpen(breaker);
    breaker.contentBegan(trial);
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(CLOSED);
    breaker.settle(trial, "failure");
    expect(breaker.state).toBe(OPEN);
    breaker.shutdown();
  });

  it("admits two at a time after the trial, one more with each that goes well, and then everything", async () => {
    const { breaker, changes } = createBreaker();
    breaker.settle(await openedAndHalfOpen(breaker), "success");
    await vi.advanceTimersByTimeAsync(0);
    const widths: number[] = [];
    for (let round = 0; round < 4; round += 1) {
      const tickets: Ticket[] = [];
      while (tickets.length < 100 && refusal(breaker) === undefined) tickets.push(breaker.admit());
      widths.push(tickets.length);
      if (tickets.length < 100) {
        const message = `it recovers and serves ${tickets.length} requests at a time`;
        expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN", retryAfterMs: 1_000, message });
        expect(breaker.statistics().concurrentRequestsMax).toBe(tickets.length);
      }
      for (const ticket of tickets) breaker.settle(ticket, "success");
    }
    expect(widths).toEqual([2, 4, 8, 16]);
    expect(breaker.statistics().concurrentRequestsMax).toBe(0);
    const many = Array.from({ length: 1_000 }, () => breaker.admit());
    for (const ticket of many) breaker.settle(ticket, "success");
    expect(changes).toEqual([OPEN, HALF_OPEN, CLOSED]);
    breaker.shutdown();
  });

  it("admits everything again after the time that it had rested, however long the first streams run", async () => {
    const { breaker } = createBreaker();
    breaker.contentBegan(await openedAndHalfOpen(breaker));
    await vi.advanceTimersByTimeAsync(0);
    const streams = [breaker.admit()];
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN" });
    // What has begun to answer lets another in.
    breaker.contentBegan(streams[0]!);
    breaker.contentBegan(streams[0]!);
    streams.push(breaker.admit());
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN" });
    await vi.advanceTimersByTimeAsync(30_000);
    for (let count = 0; count < 100; count += 1) breaker.admit();
    expect(breaker.statistics().concurrentRequestsMax).toBe(0);
    breaker.shutdown();
  });

  it("opens at the first failure while the provider recovers, and takes the usual number after that", async () => {
    const { breaker, changes } = createBreaker();
    breaker.settle(await openedAndHalfOpen(breaker), "success");
    await vi.advanceTimersByTimeAsync(0);
    fail(breaker, 1);
    expect(breaker.state).toBe(OPEN);
    expect(refusal(breaker)?.message).toBe("it rests after a failure (PROVIDER_ERROR)");
    await vi.advanceTimersByTimeAsync(30_000);
    for (let count = 0; count < 16; count += 1) {
      breaker.settle(breaker.admit(), "success");
      await vi.advanceTimersByTimeAsync(0);
    }
    fail(breaker, 4);
    expect(breaker.state).toBe(CLOSED);
    fail(breaker, 1);
    expect(breaker.state).toBe(OPEN);
    expect(changes).toEqual([OPEN, HALF_OPEN, CLOSED, OPEN, HALF_OPEN, CLOSED, OPEN]);
    breaker.shutdown();
  });

  it("gives back the places of those whose clients hang up while the provider recovers", async () => {
    const { breaker } = createBreaker();
    breaker.settle(await openedAndHalfOpen(breaker), "success");
    await vi.advanceTimersByTimeAsync(0);
    for (let count = 0; count < 100; count += 1) breaker.settle(breaker.admit(), "neutral");
    expect([breaker.admit(), breaker.admit()]).toHaveLength(2);
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN" });
    breaker.shutdown();
  });

  it("takes nothing from before it opened for a sign, also once it has closed again", async () => {
    const { breaker } = createBreaker();
    const old = Array.from({ length: 10 }, () => breaker.admit());
    breaker.settle(await openedAndHalfOpen(breaker), "success");
    await vi.advanceTimersByTimeAsync(0);
    for (const ticket of old) {
      breaker.contentBegan(ticket);
      breaker.settle(ticket, "failure");
    }
    expect(breaker.state).toBe(CLOSED);
    expect(breaker.statistics().concurrentRequestsMax).toBe(2);
    breaker.shutdown();
  });

  it("has no time-out of its own, for a trial neither", async () => {
    const { breaker } = createBreaker();
    const trial = await openedAndHalfOpen(breaker);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(breaker.state).toBe(HALF_OPEN);
    breaker.settle(trial, "success");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(CLOSED);
    breaker.shutdown();
  });

  it("lets a last resort through while it is open, and closes when that succeeds", async () => {
    const { breaker, changes } = createBreaker();
    fail(breaker, 5);
    const attempts = [breaker.admit(true), breaker.admit(true)];
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN" });
    breaker.settle(attempts[0]!, "neutral");
    expect(breaker.state).toBe(OPEN);
    breaker.settle(attempts[1]!, "success");
    expect(breaker.state).toBe(CLOSED);
    expect(breaker.statistics()).toMatchObject({ failuresInRow: 0, concurrentRequestsMax: 2 });
    await vi.advanceTimersByTimeAsync(30_000);
    expect(changes).toEqual([OPEN, CLOSED]);
    breaker.shutdown();
  });

  it("closes at a last resort's first content too", () => {
    const { breaker } = createBreaker();
    fail(breaker, 5);
    const ticket = breaker.admit(true);
    breaker.contentBegan(ticket);
    expect(breaker.state).toBe(CLOSED);
    breaker.settle(ticket, "failure");
    expect(breaker.state).toBe(OPEN);
    breaker.shutdown();
  });

  it("rests anew when a last resort fails, which is no change that anybody has to hear of", async () => {
    const { breaker, changes } = createBreaker();
    fail(breaker, 5);
    await vi.advanceTimersByTimeAsync(20_000);
    breaker.settle(breaker.admit(true), "failure");
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN", retryAfterMs: 30_000 });
    expect(refusal(breaker)?.message).toBe("it rests after 6 failures in a row, the last one PROVIDER_ERROR");
    await vi.advanceTimersByTimeAsync(29_999);
    expect(breaker.state).toBe(OPEN);
    await vi.advanceTimersByTimeAsync(1);
    expect(breaker.state).toBe(HALF_OPEN);
    expect(changes).toEqual([OPEN, HALF_OPEN]);
    expect(breaker.statistics()).toMatchObject({ opened: 1, failures: 6 });
    breaker.shutdown();
  });

  it("lets a last resort through beside the trial, and either decides", async () => {
    for (const outcome of ["success", "failure"] as const) {
      const { breaker, changes } = createBreaker();
      const trial = await openedAndHalfOpen(breaker);
      const beside = breaker.admit(true);
      breaker.settle(beside, outcome);
      await vi.advanceTimersByTimeAsync(0);
      expect(breaker.state).toBe(outcome === "success" ? CLOSED : OPEN);
      breaker.settle(trial, "neutral");
      expect(changes).toEqual([OPEN, HALF_OPEN, outcome === "success" ? CLOSED : OPEN]);
      breaker.shutdown();
    }
  });

  it("takes a last resort for the trial when there is none, and refuses it while the provider recovers neither", async () => {
    const { breaker } = createBreaker();
    fail(breaker, 5);
    await vi.advanceTimersByTimeAsync(30_000);
    const trial = breaker.admit(true);
    expect(refusal(breaker)?.message).toBe("it is being tried after a rest");
    breaker.settle(trial, "success");
    await vi.advanceTimersByTimeAsync(0);
    const running = [breaker.admit(), breaker.admit()];
    expect(refusal(breaker)).toMatchObject({ reason: "BREAKER_OPEN" });
    running.push(breaker.admit(true));
    for (const ticket of running) breaker.settle(ticket, "success");
    expect(breaker.state).toBe(CLOSED);
    breaker.shutdown();
  });

  it("works the tenth time as it did the first", async () => {
    const { breaker } = createBreaker();
    for (let round = 0; round < 10; round += 1) {
      const trial = await openedAndHalfOpen(breaker);
      await vi.advanceTimersByTimeAsync(60_000);
      breaker.settle(trial, "success");
      await vi.advanceTimersByTimeAsync(30_000);
      expect(breaker.state).toBe(CLOSED);
    }
    expect(breaker.statistics()).toMatchObject({ opened: 10, successes: 10, failures: 50, concurrentRequestsMax: 0 });
    breaker.shutdown();
  });

  it("counts what it sees", async () => {
    const { breaker } = createBreaker();
    const nothing = { failuresInRow: 0, successes: 0, failures: 0, rejected: 0, opened: 0, openedAtMs: 0 };
    expect(breaker.statistics()).toEqual({ ...nothing, concurrentRequestsMax: 0 });
    breaker.settle(breaker.admit(), "success");
    breaker.settle(breaker.admit(), "neutral");
    fail(breaker, 5);
    refusal(breaker);
    refusal(breaker);
    const openedAtMs = Date.now();
    const seen = { failuresInRow: 5, successes: 1, failures: 5, rejected: 2, opened: 1, openedAtMs };
    expect(breaker.statistics()).toMatchObject(seen);
    breaker.shutdown();
  });

  it("opens again when the trial's stream dies in the same moment as it began", async () => {
    const { breaker } = createBreaker();
    const trial = await openedAndHalfOpen(breaker);
    breaker.contentBegan(trial);
    breaker.settle(trial, "failure");
    await vi.advanceTimersByTimeAsync(0);
    expect(breaker.state).toBe(OPEN);
    breaker.shutdown();
  });

  it("has no limit of its own on how many requests run", () => {
    const { breaker } = createBreaker();
    const tickets = Array.from({ length: 10_000 }, () => breaker.admit());
    for (const ticket of tickets) breaker.settle(ticket, "success");
    expect(breaker.state).toBe(CLOSED);
    breaker.shutdown();
  });

  it("leaves no timer behind", async () => {
    const { breaker } = createBreaker();
    fail(breaker, 5);
    breaker.shutdown();
    expect(vi.getTimerCount()).toBe(0);
    await vi.advanceTimersByTimeAsync(60_000);
  });

  it("refuses with an error that says why", () => {
    const { breaker } = createBreaker();
    fail(breaker, 4);
    expect(breaker.whyOpen()).toBeUndefined();
    breaker.settle(breaker.admit(), "failure", new RpcError("PROVIDER_TIMEOUT", "no content"));
    expect(refusal(breaker)).toBeInstanceOf(RpcError);
    expect(refusal(breaker)?.message).toBe("it rests after 5 failures in a row, the last one PROVIDER_TIMEOUT");
    expect(breaker.whyOpen()).toBe(refusal(breaker)?.message);
    breaker.shutdown();
  });
});
