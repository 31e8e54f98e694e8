/** What a router makes of its own memory and of the owners of keys. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { type CacheStoreServiceDefinition, Entry } from "../../../libs/gen/cortex/cache/v1/cache.ts";
import { type Call, RpcError, type Service, startCall } from "../../../libs/rpc/index.ts";
import { createLogger, NO_TRACE } from "../../../libs/telemetry/index.ts";
import { CacheLevels, type LevelsDependencies } from "./levels.ts";

type Store = Service<typeof CacheStoreServiceDefinition>;

const EVERYTHING = { key: "", tenantPart: "", modelPart: "" };
const LOOK = { whole: false, lookOnly: false, maxAgeMs: Number.POSITIVE_INFINITY };
const TIMEOUT_MS = 200;
const call = startCall({ tenant: "t", requestId: "r", trace: NO_TRACE });

afterEach(() => {
  vi.useRealTimers();
});

/** The levels of a router whose keys all belong to this owner. */
function levelsAt(owner: Partial<Store>): CacheLevels {
  const settings = {
    enabled: true,
    ttlMs: 60_000,
    temperatureMax: 1,
    tokensMax: 1_000,
    l1: { entries: 10, bytes: 1_000_000 },
    l2: { entries: 10, bytes: 1_000_000, timeoutMs: TIMEOUT_MS },
  };
  const dependencies = {
    nodeId: "here",
    clients: { at: () => owner, ownerOf: () => "owner" },
    log: createLogger({ level: "silent", readable: false, node: "" }),
    settings: () => settings,
  };
  return new CacheLevels(dependencies as unknown as LevelsDependencies);
}

function entry(): Buffer {
  const nowMs = Date.now();
  const content = { $case: "answer" as const, value: { parts: [] } };
  return Buffer.from(Entry.encode({ content, createdAtMs: nowMs, expiresAtMs: nowMs + 60_000 }).finish());
}

describe("an owner", () => {
  it("is told how long it has, a little more than is waited for", async () => {
    const toldMs: number[] = [];
    const told = async (asked: Call) => toldMs.push(asked.deadlineAtMs - Date.now());
    const levels = levelsAt({
      acquire: async (_request, asked) => {
        await told(asked);
        return { outcome: { $case: "lead", value: true }, level: "" };
      },
      getMany: async (_request, asked) => {
        await told(asked);
        return { entries: {} };
      },
    });
    await levels.acquire("k", LOOK, call);
    await levels.lookMany(["k"], Number.POSITIVE_INFINITY, call);
    expect(toldMs).toHaveLength(2);
    for (const ms of toldMs) {
      expect(ms).toBeGreaterThan(TIMEOUT_MS);
      expect(ms).toBeLessThanOrEqual(2 * TIMEOUT_MS);
    }
  });

  it("is left alone for a second after it has failed, once for all who asked at the same time", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const acquire = vi.fn(async () => {
      throw new RpcError("NODE_UNREACHABLE", "it is lost");
    });
    const levels = levelsAt({ acquire });
    const ask = () => levels.acquire("k", LOOK, call);
    await Promise.all(Array.from({ length: 5 }, ask));
    for (const [afterMs, asked] of [
      [900, 5],
      [200, 6],
      [1_900, 6],
      [200, 7],
    ] as const) {
      vi.setSystemTime(Date.now() + afterMs);
      await ask();
      expect(acquire).toHaveBeenCalledTimes(asked);
    }
  });

  it("is sent no more at a time than a bounded number of answers", () => {
    const put = vi.fn(() => new Promise<never>(() => {}));
    const levels = levelsAt({ put });
    const one = Entry.decode(entry());
    for (let count = 0; count < 1_100; count++) levels.store(`k${count}`, one, false);
    expect(put).toHaveBeenCalledTimes(1_000);
  });

  it("is not taken at its word when answers were taken out while it was asked", async () => {
    let levels: CacheLevels;
    levels = levelsAt({
      acquire: async () => {
        levels.drop(EVERYTHING);
        return { outcome: { $case: "entry", value: entry() }, level: "l2" };
      },
      getMany: async () => {
        levels.drop(EVERYTHING);
        return { entries: { v: entry() } };
      },
    });
    expect(await levels.acquire("k", LOOK, call)).toEqual({ kind: "alone" });
    expect((await levels.lookMany(["v"], Number.POSITIVE_INFINITY, call)).entries.size).toBe(0);
    expect([levels.look("k"), levels.look("v")]).toEqual([undefined, undefined]);
  });

  it("is believed otherwise, and what it has is in the memory from then on", async () => {
    const levels = levelsAt({
      acquire: async () => ({ outcome: { $case: "entry", value: entry() }, level: "l2" }),
      getMany: async () => ({ entries: { v: entry() } }),
    });
    expect(await levels.acquire("k", LOOK, call)).toMatchObject({ kind: "entry", level: "l2" });
    expect((await levels.lookMany(["v"], Number.POSITIVE_INFINITY, call)).entries.size).toBe(1);
    expect([levels.look("k"), levels.look("v")]).not.toContain(undefined);
  });
});
