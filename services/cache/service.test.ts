/** What the owner of keys answers routers. */
import { describe, expect, it } from "vitest";
import { keyPart } from "../../libs/caching/index.ts";
import type { AcquireResponse } from "../../libs/gen/cortex/cache/v1/cache.ts";
import { type OwnedCall, RpcError, startCall } from "../../libs/rpc/index.ts";
import { NO_TRACE } from "../../libs/telemetry/index.ts";
import { Leads } from "./leads.ts";
import { MemoryLevel } from "./memory-level.ts";
import { OuterLevel } from "./outer-level.ts";
import { CacheStore } from "./service.ts";

const EVERYTHING = { key: "", tenantPart: "", modelPart: "" };
const later = (): number => Date.now() + 3_600_000;

function callFor(timeoutMs = 10_000): OwnedCall {
  return startCall({ tenant: "t", requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + timeoutMs });
}

/** A store whose third level, if it has one, answers when the test says so. */
async function setUp({ bytes = 1_000_000, outer = false } = {}) {
  const memory = new MemoryLevel({ entries: 1_000, bytes });
  const leads = new Leads({ isThere: () => true, nowMs: () => performance.now() });
  const kept = new Map<string, string>();
  const asked: { readonly keys: readonly string[]; answer(): void }[] = [];
  const level = new OuterLevel({
    open: async () => ({
      ready: true,
      getMany: (keys) =>
        new Promise((resolve) => {
          const found = keys.map((key) => kept.get(key));
          asked.push({ keys, answer: () => resolve(found) });
        }),
      set: async (key, value) => void kept.set(key, value),
      delete: async (key) => kept.delete(key),
      drop: async () => 0,
      close: () => {},
    }),
    timeoutMs: () => 10_000,
    nowMs: () => performance.now(),
    problem: () => {},
  });
  if (outer) await expect.poll(() => level.usable).toBe(true);
  const store = new CacheStore(memory, leads, () => (outer ? level : undefined));
  const acquire = (
    node: string,
    options: { key?: string; lookOnly?: boolean; whole?: boolean; timeoutMs?: number } = {},
  ) => {
    const { key = "k", lookOnly = false, whole = false, timeoutMs } = options;
    return store.acquire({ key, node, lookOnly, whole }, callFor(timeoutMs)).then(wordsOf);
  };
  const put = (entry: string, node = "", key = "k", expiresAtMs = later()) =>
    store.put({ key, entry: Buffer.from(entry), expiresAtMs, node }, callFor());
  return { store, memory, leads, kept, asked, acquire, put };
}

function wordsOf({ outcome, level }: AcquireResponse): string {
  if (outcome === undefined) return "nothing";
  if (outcome.$case === "entry") return `${level}: ${outcome.value}`;
  return outcome.$case === "lead" ? "lead" : `follow ${outcome.value}`;
}

describe("who asks the owner of a key", () => {
  it("gets the answer that is there, leads when there is none, and follows who leads", async () => {
    const { acquire, put } = await setUp();
    expect([await acquire("a"), await acquire("b"), await acquire("a")]).toEqual(["lead", "follow a", "lead"]);
    await put("answer", "a");
    expect([await acquire("a"), await acquire("b")]).toEqual(["l2: answer", "l2: answer"]);
  });

  it("leads when the one that led has given up, or has brought what can't be kept", async () => {
    const { store, acquire, put } = await setUp({ bytes: 10_000 });
    await acquire("a");
    await store.release({ key: "k", node: "a" }, callFor());
    expect(await acquire("b")).toBe("lead");
    await put("x".repeat(20_000), "b");
    expect(await acquire("c")).toBe("lead");
    await put("late", "c", "k", Date.now() - 1);
    expect(await acquire("d")).toBe("lead");
  });

  it("gets what somebody stored who did not lead, while who leads still does", async () => {
    const { acquire, put, leads } = await setUp();
    await acquire("a");
    await put("answer");
    expect(await acquire("b")).toBe("l2: answer");
    expect(leads.size).toBe(1);
  });

  it("never leads when it only looks", async () => {
    const { acquire, put, leads } = await setUp();
    expect(await acquire("a", { lookOnly: true })).toBe("nothing");
    expect(leads.size).toBe(0);
    await acquire("b");
    expect(await acquire("a", { lookOnly: true })).toBe("nothing");
    await put("answer", "b");
    expect(await acquire("a", { lookOnly: true })).toBe("l2: answer");
  });

  it("is not handed what was invalidated, and does not follow who was getting it", async () => {
    const { acquire, put, store } = await setUp();
    const key = `${keyPart("acme")}.${keyPart("m")}.1`;
    await put("answer", "", key);
    expect(store.drop({ ...EVERYTHING, tenantPart: keyPart("acme") })).toBe(1);
    expect(await acquire("a", { key })).toBe("lead");
    store.drop({ ...EVERYTHING, tenantPart: keyPart("acme") });
    expect(await acquire("b", { key })).toBe("lead");
  });

  it.each([
    ["no key", { key: "", node: "a", lookOnly: false, whole: false }, "key"],
    ["a key that is none", { key: "k".repeat(2_000), node: "a", lookOnly: false, whole: false }, "key"],
    ["no node to follow", { key: "k", node: "", lookOnly: false, whole: false }, "node"],
  ])("is refused with %s", async (_what, request, field) => {
    const { store } = await setUp();
    const refused = await store.acquire(request, callFor()).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(RpcError);
    expect(refused).toMatchObject({ reason: "INVALID_REQUEST", field });
  });
});

describe("the third level behind the second", () => {
  it("is asked when the second has nothing; what it has is in the second from then on", async () => {
    const { store, kept, asked, acquire, put } = await setUp({ outer: true });
    await put("answer");
    await expect.poll(() => kept.size).toBe(1);
    store.drop(EVERYTHING);
    const first = acquire("a");
    await expect.poll(() => asked.length).toBe(1);
    asked[0]!.answer();
    expect(await first).toBe("l3: answer");
    expect(await acquire("b")).toBe("l2: answer");
  });

  it("is asked once for all who ask at the same time; one of them leads", async () => {
    const { asked, acquire } = await setUp({ outer: true });
    const together = ["a", "b", "c"].map((node) => acquire(node));
    await expect.poll(() => asked.length).toBe(1);
    // Those that come while it is being asked are no others.
    const late = acquire("d");
    await new Promise((resolve) => setImmediate(resolve));
    asked[0]!.answer();
    expect(await Promise.all([...together, late])).toEqual(["lead", "follow a", "follow a", "follow a"]);
    // Who follows need not wait for it again.
    expect(await acquire("e")).toBe("follow a");
    expect(asked.length).toBe(1);
  });

  it("is no reason to get an answer that was stored while it was asked", async () => {
    const { asked, acquire, put } = await setUp({ outer: true });
    const asking = acquire("a");
    await expect.poll(() => asked.length).toBe(1);
    await put("answer");
    asked[0]!.answer();
    expect(await asking).toBe("l2: answer");
  });

  it("gives out nothing that was invalidated while it was asked", async () => {
    const { store, kept, asked, acquire, put } = await setUp({ outer: true });
    await put("answer");
    await expect.poll(() => kept.size).toBe(1);
    store.drop(EVERYTHING);
    const asking = acquire("a");
    await expect.poll(() => asked.length).toBe(1);
    store.drop(EVERYTHING);
    asked[0]!.answer();
    expect(await asking).toBe("lead");
  });

  it("takes only a share of the time that there is, so that a router is told in time who leads", async () => {
    const { store } = await setUp({ outer: true });
    const call = callFor(300);
    // The third level never answers.
    const told = await store.acquire({ key: "k", node: "a", lookOnly: false, whole: false }, call);
    expect([wordsOf(told), call.signal.aborted]).toEqual(["lead", false]);
  });
});

describe("who asks for many", () => {
  it("gets what is there, of both levels, and leads nothing", async () => {
    const { store, asked, kept, put, leads } = await setUp({ outer: true });
    await put("1", "", "one");
    await expect.poll(() => kept.size).toBe(1);
    store.drop(EVERYTHING);
    await put("2", "", "two");
    const asking = store.getMany({ keys: ["one", "two", "three", "two"] }, callFor());
    await expect.poll(() => asked.length).toBe(1);
    expect(asked[0]!.keys).toEqual(["one", "three"]);
    asked[0]!.answer();
    const { entries } = await asking;
    expect(Object.entries(entries).map(([key, entry]) => `${key}: ${entry}`)).toEqual(
      expect.arrayContaining(["one: 1", "two: 2"]),
    );
    expect(Object.keys(entries)).toHaveLength(2);
    expect(leads.size).toBe(0);
  });

  it("is what was kept at once, in both levels", async () => {
    const { store, kept } = await setUp({ outer: true });
    const items = ["one", "two"].map((key) => ({ key, entry: Buffer.from(key) }));
    await store.putMany({ items, expiresAtMs: later() }, callFor());
    const { entries } = await store.getMany({ keys: ["one", "two"] }, callFor());
    expect(
      Object.entries(entries)
        .map(([key, entry]) => `${key}: ${entry}`)
        .sort(),
    ).toEqual(["one: one", "two: two"]);
    await expect.poll(() => [...kept.keys()].sort()).toEqual(["one", "two"]);
    const tooMany = Array.from({ length: 10_001 }, () => items[0]!);
    await expect(store.putMany({ items: tooMany, expiresAtMs: later() }, callFor())).rejects.toMatchObject({
      reason: "INVALID_REQUEST",
    });
  });

  it("is refused when they are too many, and gets no more than a message carries", async () => {
    const { store, put } = await setUp({ bytes: 100 * 1024 * 1024 });
    const keys = Array.from({ length: 12 }, (_, index) => `k${index}`);
    for (const key of keys) await put("x".repeat(4 * 1024 * 1024), "", key);
    const { entries } = await store.getMany({ keys }, callFor());
    expect(Object.keys(entries)).toEqual(keys.slice(0, 8));
    const tooMany = Array.from({ length: 10_001 }, (_, index) => `k${index}`);
    await expect(store.getMany({ keys: tooMany }, callFor())).rejects.toMatchObject({ reason: "INVALID_REQUEST" });
  });
});
