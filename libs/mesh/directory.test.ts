import { describe, expect, it } from "vitest";
import { NodeRecord, RunningWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import { WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { createLogger } from "../telemetry/index.ts";
import { type Entry, MeshDirectory, RUNNING_EXPIRY_MS } from "./directory.ts";
import { keyOf } from "./keys.ts";

const EXPIRY_MS = 6_000;

/** A directory of the node "me", at noon by the clock on the wall, with both clocks in the test's hand. */
function setUp() {
  const time = { epochMs: 43_200_000, monotonicMs: 1_000 };
  const directory = new MeshDirectory({
    self: NodeRecord.create({ id: "me" }),
    expiryMs: EXPIRY_MS,
    store: {
      create: async () => true,
      replace: async () => true,
      remove: async () => true,
      setDrained: async () => {},
    },
    clock: { epochMs: () => time.epochMs, monotonicMs: () => time.monotonicMs },
    log: createLogger({ level: "silent", readable: false, node: "me" }),
  });
  let revision = 0;
  const node = (id: string, record: Partial<NodeRecord> = {}): Entry => ({
    key: keyOf(id),
    revision: ++revision,
    value: NodeRecord.encode(NodeRecord.create({ id, expiresAtMs: time.epochMs + EXPIRY_MS, ...record })).finish(),
  });
  const worker = (nodeId: string, name: string): Entry => ({
    key: keyOf(nodeId, name),
    revision: ++revision,
    value: RunningWorker.encode({ node: nodeId, added: false, info: WorkerInfo.create({ name }) }).finish(),
  });
  return {
    directory,
    node,
    worker,
    ids: () => directory.nodes().map(({ id }) => id),
    workers: () => directory.workers().map(({ node: nodeId, info }) => `${nodeId}/${info?.name}`),
    /** Time goes by; this node hears itself in every step if it is told to. */
    pass(ms: number, options: { hearing: boolean; puts?: () => void } = { hearing: true }): void {
      for (let left = ms; left > 0; left -= 500) {
        const step = Math.min(500, left);
        time.epochMs += step;
        time.monotonicMs += step;
        if (options.hearing) directory.heardSelf();
        options.puts?.();
        directory.sweep();
      }
    },
  };
}

describe("a directory", () => {
  it("believes a snapshot's entries until they expire, and not at all if they have", () => {
    const { directory, node, ids, pass } = setUp();
    directory.nodesSnapshot([
      node("fresh"),
      node("old", { expiresAtMs: 43_200_000 + 1_000 }),
      node("dead", { expiresAtMs: 43_200_000 - 1 }),
      node("ahead", { expiresAtMs: 43_200_000 + 3_600_000 }),
    ]);
    expect(ids()).toEqual(["ahead", "fresh", "me", "old"]);
    pass(1_500);
    expect(ids()).toEqual(["ahead", "fresh", "me"]);
    pass(EXPIRY_MS);
    expect(ids()).toEqual(["me"]);
  });

  it("takes a heartbeat for a sign of life, whatever the sender's clock says", () => {
    const { directory, node, ids, pass } = setUp();
    directory.nodeEntry(node("slow-clock", { expiresAtMs: 0 }));
    expect(ids()).toEqual(["me", "slow-clock"]);
    pass(EXPIRY_MS - 500);
    expect(ids()).toEqual(["me", "slow-clock"]);
    pass(1_000);
    expect(ids()).toEqual(["me"]);
  });

  it("lets nobody expire while this node does not hear itself, and then gives them one expiry", () => {
    const { directory, node, worker, ids, workers, pass } = setUp();
    directory.nodeEntry(node("other"));
    directory.runningEntry(worker("other", "w"));
    pass(RUNNING_EXPIRY_MS * 2, { hearing: false });
    expect(ids()).toEqual(["me", "other"]);
    expect(workers()).toEqual(["other/w"]);
    pass(EXPIRY_MS);
    expect(ids()).toEqual(["me", "other"]);
    pass(1_000);
    expect(ids()).toEqual(["me"]);
    expect(workers()).toEqual([]);
  });

  it("is deaf as soon as it is told, even if it heard itself a moment ago", () => {
    const { directory, node, ids, pass } = setUp();
    directory.nodeEntry(node("other"));
    directory.heardSelf();
    directory.deafen();
    pass(EXPIRY_MS * 2, { hearing: false });
    expect(ids()).toEqual(["me", "other"]);
  });

  it("a snapshot with the same old entry is no sign of life", () => {
    const { directory, node, ids, pass } = setUp();
    const entry = node("other");
    directory.nodeEntry(entry);
    pass(EXPIRY_MS - 1_000);
    directory.nodesSnapshot([entry]);
    pass(1_500);
    expect(ids()).toEqual(["me"]);
  });

  it("keeps workers that a snapshot lacks for one expiry, and drops deleted ones at once", () => {
    const { directory, node, worker, workers, pass } = setUp();
    const keep = { hearing: true, puts: () => directory.nodeEntry(node("other")) };
    directory.nodeEntry(node("other"));
    const [kept, missing, deleted] = [worker("other", "kept"), worker("other", "missing"), worker("other", "deleted")];
    for (const entry of [kept, missing, deleted]) directory.runningEntry(entry);
    directory.runningSnapshot(
      new Map([
        [kept.key, kept],
        [deleted.key, { ...deleted, value: undefined }],
      ]),
    );
    expect(workers()).toEqual(["other/kept", "other/missing"]);
    pass(EXPIRY_MS - 500, keep);
    expect(workers()).toEqual(["other/kept", "other/missing"]);
    pass(1_000, keep);
    expect(workers()).toEqual(["other/kept"]);
    pass(RUNNING_EXPIRY_MS, keep);
    expect(workers()).toEqual([]);
  });

  it("has the workers of a node again when it comes back within their time", () => {
    const { directory, node, worker, workers, pass } = setUp();
    directory.nodeEntry(node("other"));
    directory.runningEntry(worker("other", "w"));
    pass(EXPIRY_MS + 1_000);
    expect(workers()).toEqual([]);
    directory.nodeEntry(node("other"));
    expect(workers()).toEqual(["other/w"]);
  });

  it("tells listeners once of many changes, and goes on when one of them throws", async () => {
    const { directory, node } = setUp();
    let told = 0;
    directory.onChange(() => {
      throw new Error("broken");
    });
    const stop = directory.onChange(() => told++);
    for (let index = 0; index < 100; index++) directory.nodeEntry(node(`n${index}`));
    await Promise.resolve();
    expect(told).toBe(1);
    stop();
    directory.nodeEntry(node("another"));
    await Promise.resolve();
    expect(told).toBe(1);
  });

  it("passes over what it can't read", () => {
    const { directory, ids } = setUp();
    directory.nodeEntry({ key: "x", revision: 1, value: new Uint8Array([0xff]) });
    directory.runningEntry({ key: "x", revision: 1, value: new Uint8Array([0xff]) });
    directory.desiredEntry({ key: "x", revision: 1, value: new Uint8Array([0xff]) });
    expect(ids()).toEqual(["me"]);
  });
});

describe("keyOf", () => {
  it("makes keys that NATS allows, different ones for different names", () => {
    expect(keyOf("node-1")).toBe("node-1");
    expect(keyOf("a.b", "c d")).toBe("a=2Eb.c=20d");
    expect(keyOf("ü")).toBe("=C3=BC");
    expect(keyOf("a=2Eb")).not.toBe(keyOf("a.b"));
    for (const name of ["*", ">", "$", "a/b", "☃", "\n"]) expect(keyOf(name)).toMatch(/^[-/_=.a-zA-Z0-9]+$/);
  });
});
