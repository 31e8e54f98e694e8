import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { BreakerState } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError } from "../rpc/index.ts";
import { Breaker, type Ticket } from "./breaker.ts";

const { CLOSED, OPEN, HALF_OPEN } = BreakerState;

function createBreaker(): { breaker: Breaker; changes: BreakerState[] } {
  const changes: BreakerState[] = [];
  const onChange = (state: BreakerState) => void changes.push(state);
  const breaker = new Breaker({ worker: "w", failures: 5, resetMs: 30_000, clock: Date.now, onChange });
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
    fail(breaker, 4);
    expect(breaker.state).toBe(CLOSED);
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

  it("opens at the first failure after a trial until something has succeeded to its end", async () => {
    const { breaker } = createBreaker();
    const trial = await openedAndHalfOpen(breaker);
    breaker.contentBegan(trial);
    await vi.advanceTimersByTimeAsync(0);
    breaker.settle(trial, "success");
    fail(breaker, 4);
    expect(breaker.state).toBe(CLOSED);
    fail(breaker, 1);
    expect(breaker.state).toBe(OPEN);
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

  it("refuses with an error that names the worker", () => {
    const { breaker } = createBreaker();
    fail(breaker, 5);
    expect(refusal(breaker)).toBeInstanceOf(RpcError);
    expect(refusal(breaker)?.message).toBe('worker "w" rests after 5 failures in a row');
    breaker.shutdown();
  });
});
