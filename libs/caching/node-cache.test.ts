/** What operators ask of the cache of a node, whichever levels it has. */
import { describe, expect, it } from "vitest";
import { CacheServiceDefinition, LevelStatistics } from "../gen/cortex/cache/v1/cache.ts";
import type { CacheInvalidated } from "../gen/cortex/events/v1/events.ts";
import { NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import { RpcError, startCall } from "../rpc/index.ts";
import { NO_TRACE } from "../telemetry/index.ts";
import { type CacheLevel, createNodeCache, keyPart } from "./index.ts";
import type { NodeCacheOptions } from "./node-cache.ts";

const EVERYTHING = { key: "", tenant: "", model: "" };
const callOf = (admin: boolean) =>
  startCall({ tenant: "t", admin, requestId: "r", trace: NO_TRACE, deadlineAtMs: Date.now() + 10_000 });

/** A level that notes what it was told to drop, and says that those were so many. */
function level(name: string, dropped: CacheInvalidated[], count = 1): CacheLevel {
  return {
    statistics: () => LevelStatistics.fromPartial({ level: name, hits: 1 }),
    drop(invalidated) {
      dropped.push(invalidated);
      return count;
    },
  };
}

/** A node beside others, of which some don't answer. */
function setUp(others: Readonly<Record<string, "answers" | "is silent">> = {}) {
  const published: CacheInvalidated[] = [];
  let heard: (event: CacheInvalidated) => void = () => {};
  const nodes = ["here", ...Object.keys(others)].map((id) => NodeRecord.fromPartial({ id }));
  const options = {
    nodeId: "here",
    directory: { nodesServing: (name: string) => (name === CacheServiceDefinition.fullName ? nodes : []) },
    clients: {
      at: (_definition: unknown, id: string) => {
        if (others[id] !== "answers") throw new RpcError("NODE_UNREACHABLE", `node ${id} is lost`);
        return { getStatistics: async () => ({ node: id, levels: [], sharedCalls: 2 }) };
      },
    },
    events: {
      publish: (_subject: string, _type: unknown, event: CacheInvalidated) => published.push(event),
      subscribe: (_subject: string, _type: unknown, handler: typeof heard) => {
        heard = handler;
        return () => {
          heard = () => {};
        };
      },
    },
  };
  const cache = createNodeCache(options as unknown as NodeCacheOptions);
  return { ...cache, published, hear: (event: CacheInvalidated) => heard(event) };
}

describe("the cache of a node", () => {
  it("tells of all its levels, in their order, for as long as they are there", async () => {
    const { service, addLevel } = setUp();
    addLevel(level("l2", []));
    const remove = addLevel({ ...level("l1", []), sharedCalls: () => 5 });
    expect(await service.getStatistics({}, callOf(false))).toMatchObject({
      node: "here",
      levels: [{ level: "l1" }, { level: "l2" }],
      sharedCalls: 5,
    });
    remove();
    const { levels, sharedCalls } = await service.getStatistics({}, callOf(false));
    expect([levels.map((one) => one.level), sharedCalls]).toEqual([["l2"], 0]);
  });

  it("asks the others, and says who did not answer", async () => {
    const { service } = setUp({ b: "answers", c: "is silent", a: "is silent" });
    const { nodes, silent } = await service.listStatistics({}, callOf(false));
    expect([nodes.map(({ node }) => node), silent]).toEqual([
      ["here", "b"],
      ["a", "c"],
    ]);
  });

  it("drops in every level, here at once and elsewhere by the event; the names are parts of keys there", async () => {
    const { service, addLevel, published } = setUp();
    const dropped: CacheInvalidated[] = [];
    addLevel(level("l1", dropped, 2));
    addLevel({ ...level("l2", dropped, 3), dropShared: async () => 10 });
    const { entries } = await service.invalidate({ key: "k", tenant: "acme", model: "m" }, callOf(true));
    expect(entries).toBe(15);
    const invalidated = { key: "k", tenantPart: keyPart("acme"), modelPart: keyPart("m") };
    expect([dropped, published]).toEqual([[invalidated, invalidated], [invalidated]]);
    await service.invalidate(EVERYTHING, callOf(true));
    expect(published[1]).toEqual({ key: "", tenantPart: "", modelPart: "" });
  });

  it("drops what another node tells of, but leaves what nodes share to that one", async () => {
    const { addLevel, hear, close } = setUp();
    const dropped: CacheInvalidated[] = [];
    const shared: unknown[] = [];
    addLevel({
      ...level("l3", dropped),
      dropShared: async (invalidated) => shared.push(invalidated),
    });
    const invalidated = { key: "", tenantPart: keyPart("acme"), modelPart: "" };
    hear(invalidated);
    expect([dropped, shared]).toEqual([[invalidated], []]);
    close();
    hear(invalidated);
    expect(dropped).toHaveLength(1);
  });

  it("is emptied by administrators alone, and everywhere else even when a shared store can't be", async () => {
    const { service, addLevel, published } = setUp();
    const dropped: CacheInvalidated[] = [];
    addLevel({
      ...level("l3", dropped),
      dropShared: async () => Promise.reject(new RpcError("CACHE_STORE_UNREACHABLE", "")),
    });
    await expect(service.invalidate(EVERYTHING, callOf(false))).rejects.toMatchObject({
      reason: "PERMISSION_DENIED",
      message: expect.stringMatching(/clients\[\]\.admin/),
    });
    expect([dropped, published]).toEqual([[], []]);
    await expect(service.invalidate(EVERYTHING, callOf(true))).rejects.toMatchObject({
      reason: "CACHE_STORE_UNREACHABLE",
    });
    expect([dropped.length, published.length]).toEqual([1, 1]);
  });
});
