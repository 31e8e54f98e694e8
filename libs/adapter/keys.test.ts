import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type KeyInfo, KeyState } from "../gen/cortex/provider/v1/provider.ts";
import { type Reason, RpcError } from "../rpc/index.ts";
import { isAboutKey, type KeyChange, Keys, type Lease } from "./keys.ts";

const { AVAILABLE, RESTING, OUT } = KeyState;

function createKeys(keys: readonly string[]): { keys: Keys; changes: KeyChange[] } {
  const changes: KeyChange[] = [];
  return {
    keys: new Keys({ keys, clock: Date.now, onChange: (change) => void changes.push(change) }),
    changes,
  };
}

function limited(retryAfterMs?: number): RpcError {
  return new RpcError("PROVIDER_RATE_LIMITED", "slow down", { retryAfterMs });
}

const REFUSED = new RpcError("PROVIDER_REFUSED_KEY", "no");

/** Sends one request and ends it so. */
function serve(keys: Keys, error?: RpcError): string | undefined {
  const lease = keys.take("request", 1);
  if (lease !== undefined) keys.settle(lease, error, undefined);
  return lease?.key.secret;
}

function states(keys: Keys): KeyState[] {
  return keys.info().map(({ state }) => state);
}

beforeEach(() => {
  vi.useFakeTimers({ now: 1_000_000 });
});
afterEach(() => {
  vi.useRealTimers();
});

describe("the choice of a key", () => {
  it("falls on nothing for a worker without keys", () => {
    const { keys } = createKeys([]);
    expect([keys.take("request", 1), keys.refusal(), keys.waitMs(), keys.allOut]).toEqual([
      undefined,
      undefined,
      undefined,
      false,
    ]);
  });

  it("spreads requests evenly, first over those that have the fewest on their way", () => {
    const { keys } = createKeys(["a", "b", "c"]);
    const held = keys.take("request", 1);
    expect(held?.key.secret).toBe("a");
    expect([serve(keys), serve(keys), serve(keys), serve(keys)]).toEqual(["b", "c", "b", "c"]);
    keys.settle(held!, undefined, undefined);
    expect([serve(keys), serve(keys), serve(keys)]).toEqual(["a", "b", "c"]);
  });

  it("takes a key that is given twice for one", () => {
    expect(createKeys(["a", "b", "a"]).keys.info()).toHaveLength(2);
  });

  it("does not let a key that was away make up for it", async () => {
    const { keys } = createKeys(["a", "b"]);
    serve(keys, limited(10_000));
    for (let count = 0; count < 1_000; count += 1) expect(serve(keys)).toBe("b");
    await vi.advanceTimersByTimeAsync(10_000);
    const served = Array.from({ length: 10 }, () => serve(keys));
    expect(served.filter((key) => key === "a")).toHaveLength(5);
  });

  it("avoids a key of whose limit too little is left, while another has room", async () => {
    const { keys } = createKeys(["a", "b"]);
    const report = (requests: number, tokens: number, resetMs: number) => {
      const lease = keys.take("request", 0)!;
      keys.report(lease, { requests: { remaining: requests, resetMs }, tokens: { remaining: tokens, resetMs } });
      keys.settle(lease, undefined, undefined);
    };
    report(0, 1_000, 5_000);
    expect([serve(keys), serve(keys), serve(keys)]).toEqual(["b", "b", "b"]);
    await vi.advanceTimersByTimeAsync(5_000);
    expect([serve(keys), serve(keys)]).toEqual(["a", "b"]);
    report(100, 50, 5_000);
    expect(keys.info()[0]).toMatchObject({ remainingRequests: 100, remainingTokens: 50 });
    expect([keys.take("request", 60)!, keys.take("request", 60)!].map(({ key }) => key.secret)).toEqual(["b", "b"]);
  });

  it("counts down what is left, and uses a key without room when there is no other", () => {
    const { keys } = createKeys(["a"]);
    const lease = keys.take("request", 10)!;
    keys.report(lease, { requests: { remaining: 1 }, tokens: { remaining: 15 } });
    keys.take("request", 10);
    expect(keys.info()[0]).toMatchObject({ remainingRequests: 0, remainingTokens: 5, inFlight: 2 });
    expect(keys.take("request", 10)).toBeDefined();
  });
});

describe("a key that is limited", () => {
  it("rests for as long as the provider said, and comes back by itself", async () => {
    const { keys, changes } = createKeys(["a"]);
    serve(keys, limited(10_000));
    expect(keys.info()).toMatchObject([{ state: RESTING, restingUntilMs: 1_010_000, reason: "PROVIDER_RATE_LIMITED" }]);
    await vi.advanceTimersByTimeAsync(9_999);
    expect(serve(keys)).toBeUndefined();
    expect(keys.refusal()).toMatchObject({ reason: "PROVIDER_RATE_LIMITED", retryAfterMs: 1 });
    expect(changes).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(1);
    expect(keys.refusal()).toBeUndefined();
    expect(keys.info()).toMatchObject([{ state: AVAILABLE, restingUntilMs: 0, reason: "" }]);
    expect(changes.map(({ state }) => state)).toEqual([RESTING, AVAILABLE]);
    expect(serve(keys)).toBe("a");
  });

  it("rests for the longest time said, whoever says it", async () => {
    const { keys, changes } = createKeys(["a"]);
    const [first, second, third] = [keys.take("request", 1)!, keys.take("request", 1)!, keys.take("request", 1)!];
    keys.settle(first, limited(60_000), undefined);
    keys.settle(second, limited(1_000), undefined);
    expect(keys.waitMs()).toBe(60_000);
    await vi.advanceTimersByTimeAsync(30_000);
    keys.settle(third, limited(90_000), undefined);
    expect(keys.waitMs()).toBe(90_000);
    await vi.advanceTimersByTimeAsync(89_999);
    expect(serve(keys)).toBeUndefined();
    await vi.advanceTimersByTimeAsync(1);
    expect(changes.map(({ state }) => state)).toEqual([RESTING, RESTING, AVAILABLE]);
  });

  it("is told once when many answers say nearly the same", () => {
    const { keys, changes } = createKeys(["a"]);
    const leases = Array.from({ length: 50 }, () => keys.take("request", 1)!);
    for (const [index, lease] of leases.entries()) keys.settle(lease, limited(5_000 + index), undefined);
    expect(changes).toHaveLength(1);
    expect(keys.waitMs()).toBe(5_049);
  });

  it("rests ever longer when the provider does not say, until a request is served", async () => {
    const { keys } = createKeys(["a"]);
    const waits: (number | undefined)[] = [];
    for (let round = 0; round < 8; round += 1) {
      serve(keys, limited(round % 2 === 0 ? undefined : 0));
      waits.push(keys.waitMs());
      await vi.advanceTimersByTimeAsync(keys.waitMs()!);
    }
    expect(waits).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    serve(keys);
    serve(keys, limited());
    expect(keys.waitMs()).toBe(1_000);
  });

  it("does not rest longer because many requests were on their way", () => {
    const { keys } = createKeys(["a"]);
    const leases = Array.from({ length: 20 }, () => keys.take("request", 1)!);
    for (const lease of leases) keys.settle(lease, limited(), undefined);
    expect(keys.waitMs()).toBe(1_000);
  });

  it("rests until its limit is whole again when only the headers say when", () => {
    const { keys } = createKeys(["a"]);
    const limits = { requests: { remaining: 3, resetMs: 90_000 }, tokens: { remaining: 0, resetMs: 7_000 } };
    keys.settle(keys.take("request", 1)!, limited(), limits);
    expect(keys.waitMs()).toBe(7_000);
  });

  it("rests long when its account has used up its quota", async () => {
    const { keys } = createKeys(["a", "b"]);
    serve(keys, new RpcError("PROVIDER_QUOTA_EXHAUSTED", "pay"));
    expect(keys.info()[0]).toMatchObject({ state: RESTING, reason: "PROVIDER_QUOTA_EXHAUSTED" });
    expect(serve(keys, new RpcError("PROVIDER_QUOTA_EXHAUSTED", "pay"))).toBe("b");
    expect(keys.refusal()).toMatchObject({ reason: "PROVIDER_QUOTA_EXHAUSTED", retryAfterMs: 600_000 });
    await vi.advanceTimersByTimeAsync(600_000);
    expect(serve(keys)).toBe("a");
  });

  it("leaves no timer behind", () => {
    const { keys, changes } = createKeys(["a"]);
    serve(keys, limited(10_000));
    keys.shutdown();
    expect(vi.getTimerCount()).toBe(0);
    expect(changes).toHaveLength(1);
  });

  it("can rest for longer than a timer runs", async () => {
    const { keys } = createKeys(["a"]);
    serve(keys, limited(40 * 86_400_000));
    await vi.advanceTimersByTimeAsync(39 * 86_400_000);
    expect(states(keys)).toEqual([RESTING]);
    await vi.advanceTimersByTimeAsync(86_400_000);
    expect(states(keys)).toEqual([AVAILABLE]);
  });
});

describe("a key that is refused", () => {
  it("serves no more, and is tried again after a long while when others serve", async () => {
    const { keys, changes } = createKeys(["a", "b"]);
    serve(keys, REFUSED);
    expect(changes).toMatchObject([{ state: OUT, reason: "PROVIDER_REFUSED_KEY", restingUntilMs: 0 }]);
    for (let count = 0; count < 10; count += 1) expect(serve(keys)).toBe("b");
    await vi.advanceTimersByTimeAsync(599_999);
    expect(keys.trialsDue()).toEqual([]);
    await vi.advanceTimersByTimeAsync(1);
    const [due] = keys.trialsDue();
    expect(due?.secret).toBe("a");
    keys.settle(keys.takeForTrial(due!), REFUSED, undefined);
    await vi.advanceTimersByTimeAsync(600_000);
    expect(keys.trialsDue()).toEqual([]);
    await vi.advanceTimersByTimeAsync(600_000);
    keys.settle(keys.takeForTrial(keys.trialsDue()[0]!), undefined, undefined);
    expect(states(keys)).toEqual([AVAILABLE, AVAILABLE]);
    expect(changes.map(({ state }) => state)).toEqual([OUT, AVAILABLE]);
  });

  it("is tried again at once when no key is left, then ever more rarely", async () => {
    const { keys } = createKeys(["a"]);
    serve(keys, REFUSED);
    expect(keys.allOut).toBe(true);
    expect(keys.refusal()).toMatchObject({ reason: "PROVIDER_REFUSED_KEY", retryAfterMs: undefined });
    const waits: number[] = [];
    for (let round = 0; round < 8; round += 1) {
      let waitMs = 0;
      for (; keys.trialsDue().length === 0; waitMs += 1_000) await vi.advanceTimersByTimeAsync(1_000);
      waits.push(waitMs);
      keys.settle(keys.takeForTrial(keys.trialsDue()[0]!), REFUSED, undefined);
    }
    expect(waits).toEqual([0, 30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000]);
  });

  it("goes on with its waits when a trial succeeds but the next request is refused again", () => {
    const { keys } = createKeys(["a"]);
    serve(keys, REFUSED);
    keys.settle(keys.takeForTrial(keys.trialsDue()[0]!), undefined, undefined);
    serve(keys, REFUSED);
    expect(keys.trialsDue()).toEqual([]);
  });

  it("is not brought back by an answer to what was sent before", () => {
    const { keys } = createKeys(["a"]);
    const [stream, other] = [keys.take("request", 1)!, keys.take("request", 1)!];
    keys.settle(other, REFUSED, undefined);
    keys.settle(stream, undefined, undefined);
    expect(states(keys)).toEqual([OUT]);
  });

  it("that was resting rests on when it is taken again", async () => {
    const { keys, changes } = createKeys(["a"]);
    const [one, other] = [keys.take("request", 1)!, keys.take("request", 1)!];
    keys.settle(one, limited(60_000), undefined);
    keys.settle(other, REFUSED, undefined);
    keys.settle(keys.takeForTrial(keys.trialsDue()[0]!), undefined, undefined);
    expect(keys.info()).toMatchObject([{ state: RESTING, reason: "PROVIDER_RATE_LIMITED" }]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(changes.map(({ state }) => state)).toEqual([RESTING, OUT, RESTING, AVAILABLE]);
  });
});

describe("a secret", () => {
  it("does not show when its key is shown", async () => {
    const { inspect } = await import("node:util");
    const { keys, changes } = createKeys(["canary-key"]);
    const lease = keys.take("request", 1)!;
    keys.settle(lease, limited(), undefined);
    const shown = [inspect(lease, { depth: 9, showHidden: true }), inspect(keys, { depth: 9 }), JSON.stringify(lease)];
    expect([...shown, JSON.stringify([keys.info(), changes, keys.refusal()])].join()).not.toContain("canary");
    expect(lease.key.fingerprint).toMatch(/^[0-9a-f]{8}$/);
  });
});

type Step =
  | { readonly step: "take"; readonly tokens: number; readonly use: "request" | "look" }
  | { readonly step: "settle"; readonly which: number; readonly outcome: Outcome }
  | { readonly step: "wait"; readonly ms: number }
  | { readonly step: "trial" };
interface Outcome {
  readonly reason: Reason | undefined;
  readonly retryAfterMs: number | undefined;
  readonly remaining: number;
}

const outcome: fc.Arbitrary<Outcome> = fc.record({
  reason: fc.constantFrom<(Reason | undefined)[]>(
    undefined,
    undefined,
    "PROVIDER_RATE_LIMITED",
    "PROVIDER_RATE_LIMITED",
    "PROVIDER_REFUSED_KEY",
    "PROVIDER_QUOTA_EXHAUSTED",
    "PROVIDER_ERROR",
    "CANCELLED",
  ),
  retryAfterMs: fc.option(fc.integer({ min: 0, max: 20_000 }), { nil: undefined }),
  remaining: fc.integer({ min: 0, max: 5 }),
});
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      step: fc.constant("take" as const),
      tokens: fc.integer({ min: 0, max: 4 }),
      use: fc.constantFrom("request" as const, "look" as const),
    }),
  },
  { weight: 4, arbitrary: fc.record({ step: fc.constant("settle" as const), which: fc.nat(), outcome }) },
  { weight: 2, arbitrary: fc.record({ step: fc.constant("wait" as const), ms: fc.integer({ min: 1, max: 30_000 }) }) },
  { weight: 1, arbitrary: fc.constant({ step: "trial" as const }) },
);

describe("whatever the answers are", () => {
  it("no key is used before its time, waits are true, and every count returns to zero", () => {
    vi.useRealTimers();
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), fc.array(step, { maxLength: 80 }), (count, steps) => {
        let nowMs = 1_000_000;
        const changes: KeyChange[] = [];
        const keys = new Keys({
          keys: Array.from({ length: count }, (_, index) => `k${index}`),
          clock: () => nowMs,
          onChange: (change) => void changes.push(change),
        });
        /** What the provider said, told apart from what the pool makes of it. */
        const said = new Map<string, { untilMs: number; refused: boolean }>();
        const model = (secret: string) => {
          if (!said.has(secret)) said.set(secret, { untilMs: 0, refused: false });
          return said.get(secret)!;
        };
        const running: Lease[] = [];
        const settle = (lease: Lease, { reason, retryAfterMs, remaining }: Outcome) => {
          const key = model(lease.key.secret);
          if (reason === "PROVIDER_REFUSED_KEY") key.refused = true;
          const waits = reason === "PROVIDER_RATE_LIMITED" || reason === "PROVIDER_QUOTA_EXHAUSTED";
          if (waits) key.untilMs = Math.max(key.untilMs, nowMs + (retryAfterMs ?? 0));
          const error = reason && new RpcError(reason, "no", { retryAfterMs });
          keys.report(lease, { requests: { remaining }, tokens: { remaining } });
          keys.settle(lease, error, undefined);
        };
        const check = (before: readonly KeyInfo[], lease: Lease | undefined) => {
          const usable = before.filter(({ state }) => state === AVAILABLE);
          expect(lease === undefined).toBe(usable.length === 0);
          expect(keys.refusal() === undefined).toBe(usable.length > 0);
          if (lease === undefined) return;
          expect(usable.map(({ fingerprint }) => fingerprint)).toContain(lease.key.fingerprint);
          expect(model(lease.key.secret).untilMs).toBeLessThanOrEqual(nowMs);
          expect(model(lease.key.secret).refused).toBe(false);
        };
        for (const each of steps) {
          if (each.step === "wait") nowMs += each.ms;
          else if (each.step === "take") {
            const before = keys.info();
            const lease = keys.take(each.use, each.tokens);
            check(before, lease);
            if (lease !== undefined) running.push(lease);
          } else if (each.step === "trial") {
            for (const key of keys.trialsDue()) {
              expect(model(key.secret).refused).toBe(true);
              const lease = keys.takeForTrial(key);
              keys.settle(lease, undefined, undefined);
              model(key.secret).refused = false;
            }
          } else if (running.length > 0) {
            const [lease] = running.splice(each.which % running.length, 1);
            settle(lease!, each.outcome);
          }
          const waitMs = keys.waitMs();
          if (waitMs !== undefined) {
            // Not a moment too early, and not one too late.
            const returns = keys.info().flatMap((key) => (key.state === RESTING ? [key.restingUntilMs] : []));
            expect(Math.ceil(Math.min(...returns) - nowMs)).toBe(waitMs);
            nowMs += waitMs - 1;
            expect(keys.take("request", 1)).toBeUndefined();
            nowMs -= waitMs - 1;
          }
        }
        for (const lease of running.splice(0))
          settle(lease, { reason: undefined, retryAfterMs: undefined, remaining: 1 });
        const info = keys.info();
        expect(info.map(({ inFlight }) => inFlight)).toEqual(info.map(() => 0));
        // What was told last of each key is what it is, but for the returns, which the timer tells.
        for (const { fingerprint, state } of info) {
          const told = changes.findLast((change) => change.fingerprint === fingerprint)?.state ?? AVAILABLE;
          if (told !== RESTING) expect(told).toBe(state);
        }
        keys.shutdown();
      }),
      { numRuns: 1_000 },
    );
  });

  it("another key is tried only for what is about the key", () => {
    const reasons: Reason[] = ["PROVIDER_RATE_LIMITED", "PROVIDER_QUOTA_EXHAUSTED", "PROVIDER_REFUSED_KEY"];
    for (const reason of reasons) expect(isAboutKey(new RpcError(reason, "x"))).toBe(true);
    const others: Reason[] = ["PROVIDER_OVERLOADED", "PROVIDER_ERROR", "INVALID_REQUEST", "PROVIDER_REQUEST_TOO_LARGE"];
    for (const reason of others) expect(isAboutKey(new RpcError(reason, "x"))).toBe(false);
  });
});
