/** The third level over Redis: over a simulated one everywhere, and over a real one where this machine has it. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { keyPart } from "../../libs/caching/index.ts";
import { redisKinds, startRedis, type TestRedis } from "../../test/fakes/index.ts";
import { OuterLevel } from "./outer-level.ts";
import { openRedis } from "./redis.ts";

const HOUR_MS = 3_600_000;
/** What a look-up may take here: this machine may be busy with other tests. */
const TIMEOUT_MS = 2_000;
const EVERYTHING = { key: "", tenantPart: "", modelPart: "" };
const later = (): number => Date.now() + HOUR_MS;
const keyOf = (tenant: string, model: string, request: string): string =>
  `${keyPart(tenant)}.${keyPart(model)}.${request}`;

const opened: OuterLevel[] = [];
/** What is wrong by the level's own word. */
let problem: string | undefined;

function open(url: string, timeoutMs = TIMEOUT_MS): OuterLevel {
  problem = undefined;
  const level = new OuterLevel({
    open: (listener) => openRedis(url, listener),
    timeoutMs: () => timeoutMs,
    nowMs: () => performance.now(),
    problem: (sentence) => {
      problem = sentence;
    },
  });
  opened.push(level);
  return level;
}

async function find(level: OuterLevel, key: string): Promise<string | undefined> {
  const [found] = await level.findMany([key], TIMEOUT_MS);
  return found?.entry.toString();
}

afterEach(async () => {
  await Promise.all(opened.splice(0).map((level) => level.close()));
});

describe.each(redisKinds())("the third level, with a %s Redis", (kind) => {
  let redis: TestRedis;
  let level: OuterLevel;

  beforeEach(async () => {
    redis = await startRedis(kind);
    level = open(redis.url);
    await vi.waitFor(() => expect(level.usable).toBe(true));
    return () => redis[Symbol.asyncDispose]();
  });

  /** Keeps an answer, and waits until it is there. */
  async function keep(key: string, answer: string | Buffer, expiresAtMs = later()): Promise<void> {
    const before = await redis.size();
    level.keep(key, Buffer.from(answer as string), expiresAtMs);
    await expect.poll(() => redis.size()).toBe(before + 1);
  }

  it("gives back what it was given, byte for byte, and until when it may be taken", async () => {
    const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    const expiresAtMs = later();
    await keep("k", every, expiresAtMs);
    const [found] = await level.findMany(["k"], TIMEOUT_MS);
    expect(found?.entry.equals(every)).toBe(true);
    expect(found!.expiresAtMs).toBeGreaterThanOrEqual(expiresAtMs - 1_000);
    expect(found!.expiresAtMs).toBeLessThanOrEqual(expiresAtMs + 1_000);
  });

  it("outlives the node that wrote it", async () => {
    await keep("k", "answer");
    await level.close();
    const another = open(redis.url);
    await vi.waitFor(async () => expect(await find(another, "k")).toBe("answer"));
  });

  it("looks several up at once, and counts", async () => {
    await keep("a", "1");
    await keep("b", "2");
    const found = await level.findMany(["a", "nobody", "b"], TIMEOUT_MS);
    expect(found.map((entry) => entry?.entry.toString())).toEqual(["1", undefined, "2"]);
    expect(level.statistics()).toMatchObject({ level: "l3", hits: 2, misses: 1, failures: 0 });
  });

  it("forgets what has expired", async () => {
    await keep("short", "answer", Date.now() + 200);
    await keep("long", "answer");
    await expect.poll(() => find(level, "short")).toBeUndefined();
    await expect.poll(() => redis.size()).toBe(1);
    level.keep("past", Buffer.from("answer"), Date.now() - 1);
    expect(await find(level, "past")).toBeUndefined();
  });

  it("takes out what is of a tenant, of a model, one alone, and everything, and nothing of others", async () => {
    await redis.set("somebody-else", "theirs");
    const names = [
      ["acme", "m1"],
      ["acme", "m2"],
      ["umbrella", "m1"],
      ["umbrella", "m2"],
    ] as const;
    for (const [tenant, model] of names) await keep(keyOf(tenant, model, "1"), "answer");
    const drop = (what: object) => level.drop({ ...EVERYTHING, ...what }, new AbortController().signal);
    expect(await drop({ tenantPart: keyPart("acme"), modelPart: keyPart("m1") })).toBe(1);
    expect(await drop({ modelPart: keyPart("m1") })).toBe(1);
    expect(await find(level, keyOf("acme", "m2", "1"))).toBe("answer");
    expect(await drop({ key: keyOf("acme", "m2", "1"), tenantPart: keyPart("umbrella") })).toBe(0);
    expect(await drop({ key: keyOf("acme", "m2", "1") })).toBe(1);
    // A key is a key, and no pattern.
    expect(await drop({ key: "*" })).toBe(0);
    expect(await find(level, keyOf("umbrella", "m2", "1"))).toBe("answer");
    expect(await drop({})).toBe(1);
    expect(await redis.keys()).toEqual(["somebody-else"]);
  });

  it("takes out thousands", async () => {
    for (let index = 0; index < 3_500; index++) {
      level.keep(keyOf("acme", "m", String(index)), Buffer.from("answer"), later());
      if (index % 500 === 499) await expect.poll(() => redis.size()).toBe(index + 1);
    }
    expect(await level.drop({ ...EVERYTHING, tenantPart: keyPart("acme") }, new AbortController().signal)).toBe(3_500);
    expect(await redis.size()).toBe(0);
  });

  it("is a miss while Redis is away, says so, and is used again when Redis is back", async () => {
    await keep("k", "answer");
    await redis.kill();
    await vi.waitFor(() => expect(level.usable).toBe(false));
    expect(await find(level, "k")).toBeUndefined();
    level.keep("other", Buffer.from("lost"), later());
    await vi.waitFor(() => expect(problem).toMatch(/third level can't be used.*127\.0\.0\.1:\d+.*ECONNREFUSED/));
    const dropped = level.drop(EVERYTHING, new AbortController().signal);
    await expect(dropped).rejects.toMatchObject({ reason: "CACHE_STORE_UNREACHABLE" });
    expect(level.statistics()).toMatchObject({ hits: 0, misses: 1, failures: 1 });
    await redis.revive();
    await vi.waitFor(() => expect(level.usable).toBe(true), { timeout: 10_000 });
    await vi.waitFor(() => expect(problem).toBeUndefined());
    await keep("k", "again");
    expect(await find(level, "k")).toBe("again");
  });

  it("waits no longer than its bound for a Redis that hangs, leaves it alone after a few times, and comes back", async () => {
    await keep("k", "answer");
    const impatient = open(redis.url, 30);
    await vi.waitFor(() => expect(impatient.usable).toBe(true));
    redis.freeze();
    for (let time = 0; time < 3; time++) expect(await find(impatient, "k")).toBeUndefined();
    expect(impatient.usable).toBe(false);
    expect(problem).toContain("it is too slow");
    const askedAtMs = performance.now();
    for (let time = 0; time < 100; time++) expect(await find(impatient, "k")).toBeUndefined();
    // None of them has waited.
    expect(performance.now() - askedAtMs).toBeLessThan(100 * 30);
    expect(impatient.statistics()).toMatchObject({ hits: 0, misses: 103, failures: 103 });
    redis.thaw();
    await expect.poll(() => find(impatient, "k"), { timeout: 10_000 }).toBe("answer");
    expect(problem).toBeUndefined();
  });

  it("does not hold a router up that has less time, and thinks no worse of Redis for it", async () => {
    await keep("k", "answer");
    redis.freeze();
    for (let time = 0; time < 5; time++) expect(await level.findMany(["k"], 5)).toEqual([]);
    expect(level.usable).toBe(true);
    redis.thaw();
    expect(await find(level, "k")).toBe("answer");
  });

  it("takes what it can't read for a miss", async () => {
    await keep("k", "answer");
    const [name] = await redis.keys();
    for (const strange of ["", "strange", "{}", "12 ###"]) {
      await redis.set(name!, strange);
      expect(await find(level, "k")).toBeUndefined();
    }
    expect(level.usable).toBe(true);
  });

  it("gives its password, and never tells it", async () => {
    const locked = await startRedis(kind, "secret-9f1c");
    try {
      const inside = open(locked.url);
      await vi.waitFor(() => expect(inside.usable).toBe(true));
      const outside = open(locked.url.replace("secret-9f1c", "wrong-secret-77aa"));
      await vi.waitFor(() => expect(problem).toMatch(/WRONGPASS/));
      expect(problem).not.toMatch(/secret/);
      expect(outside.usable).toBe(false);
      expect(await find(outside, "k")).toBeUndefined();
    } finally {
      await locked[Symbol.asyncDispose]();
    }
  });
});

describe("the third level", () => {
  it("starts without its Redis, and finds it as soon as it is there", async () => {
    const redis = await startRedis("simulated");
    await redis.kill();
    const level = open(redis.url);
    expect(await find(level, "k")).toBeUndefined();
    await vi.waitFor(() => expect(problem).toMatch(/ECONNREFUSED/));
    await redis.revive();
    await vi.waitFor(() => expect(level.usable).toBe(true), { timeout: 10_000 });
    expect(problem).toBeUndefined();
    await redis[Symbol.asyncDispose]();
  });

  it("says when there is no understanding its address, and goes on", async () => {
    const level = open("redis://127.0.0.1:99999999");
    await vi.waitFor(() => expect(problem).toMatch(/third level can't be used/));
    expect(level.usable).toBe(false);
  });

  it("is left alone when it always answers, but always too late", async () => {
    let asked = 0;
    let nowMs = 0;
    const level = new OuterLevel({
      open: async () => ({
        ready: true,
        getMany: async () => {
          asked++;
          await new Promise((resolve) => setTimeout(resolve, 30));
          nowMs += 30;
          return [];
        },
        set: async () => {},
        delete: async () => false,
        drop: async () => 0,
        close: () => {},
      }),
      timeoutMs: () => 10,
      nowMs: () => nowMs,
      problem: () => {},
    });
    await vi.waitFor(() => expect(level.usable).toBe(true));
    for (let time = 1; time <= 3; time++) {
      await find(level, "k");
      await vi.waitFor(() => expect(nowMs).toBe(time * 30));
    }
    await find(level, "k");
    expect(asked).toBe(3);
    // After a rest it is tried again, once.
    nowMs += 10_000;
    await find(level, "k");
    await find(level, "k");
    expect(asked).toBe(4);
    await level.close();
  });

  it("writes no more than a bounded number at a time", async () => {
    let writing = 0;
    const never = new Promise<never>(() => {});
    const level = new OuterLevel({
      open: async () => ({
        ready: true,
        getMany: async () => [],
        set: () => {
          writing++;
          return never;
        },
        delete: async () => false,
        drop: async () => 0,
        close: () => {},
      }),
      timeoutMs: () => TIMEOUT_MS,
      nowMs: () => performance.now(),
      problem: () => {},
    });
    await vi.waitFor(() => expect(level.usable).toBe(true));
    for (let index = 0; index < 5_000; index++) level.keep(`k${index}`, Buffer.alloc(10), later());
    await vi.waitFor(() => expect(writing).toBe(1_000));
    await level.close();
  });
});
