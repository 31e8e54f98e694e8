/** The load of a node's workers, as another node hears of it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { createProviderService, type ProviderService, type Worker } from "../adapter/index.ts";
import { WorkerLoads } from "../gen/cortex/events/v1/events.ts";
import type { WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { joinMesh, type Mesh } from "../mesh/index.ts";
import { createLogger, EVENT } from "../telemetry/index.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";
import { publishLoads } from "./worker-loads.ts";

let folder: string;
let nats: NatsServer;
const ends: (() => unknown)[] = [];
const soon = { timeout: 10_000, interval: 5 };
const log = createLogger({ level: "silent", readable: false, node: "test" });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-loads-"));
  const bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: join(tmpdir(), "cortex-test-cache"),
    notify: () => {},
  });
  nats = await startNatsServer({ bin, storeDir: join(folder, "data") });
});

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

afterAll(async () => {
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

async function joined(id: string): Promise<Mesh> {
  const node = { id, name: id, address: "127.0.0.1:1", services: [], interfaces: [], version: "1", zone: "" };
  const load = () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] });
  const mesh = await joinMesh({ natsUrl: nats.url, node, load, log });
  ends.push(() => mesh.leave());
  return mesh;
}

/** A worker whose load the test sets. */
function loaded(workers: ProviderService, name: string, concurrentRequestsMax = 0): (activeRequests: number) => void {
  const listeners = new Set<(activeRequests: number) => void>();
  let active = 0;
  const worker: Partial<Worker> = {
    name,
    info: () => ({ activeRequests: active, concurrentRequestsMax }) as WorkerInfo,
    onChange: () => () => {},
    onLoad(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close: async () => {},
  };
  workers.add(worker as Worker);
  return (activeRequests) => {
    active = activeRequests;
    for (const listener of listeners) listener(active);
  };
}

/** A node with workers, and what another node hears of their load. */
async function start() {
  const runs = await joined("runs");
  const watches = await joined("watches");
  const events: { readonly atMs: number; readonly loads: WorkerLoads["loads"] }[] = [];
  watches.events.subscribe(EVENT.workerLoad, WorkerLoads, ({ node, loads }) => {
    if (node === "runs") events.push({ atMs: performance.now(), loads });
  });
  await vi.waitFor(() => expect(runs.directory.nodes()).toHaveLength(2), soon);
  const workers = createProviderService();
  const heard = (worker: string): number | undefined =>
    events.flatMap(({ loads }) => loads).findLast((load) => load.worker === worker)?.activeRequests;
  return { runs, workers, events, heard };
}

describe("the load of workers", () => {
  it("is told when it changes, for those whose it is, and now and then for all", async () => {
    const { runs, workers, events, heard } = await start();
    const setA = loaded(workers, "a");
    loaded(workers, "b");
    ends.push(publishLoads(runs, workers));
    await vi.waitFor(() => expect([heard("a"), heard("b")]).toEqual([0, 0]), soon);
    events.length = 0;
    setA(3);
    await vi.waitFor(() => expect(events).toHaveLength(1), soon);
    expect(events[0]!.loads).toEqual([{ worker: "a", activeRequests: 3 }]);
    // Nothing has changed, and yet it is told again, of all.
    await vi.waitFor(() => expect(events).toHaveLength(2), soon);
    expect(events[1]!.loads).toEqual([
      { worker: "a", activeRequests: 3 },
      { worker: "b", activeRequests: 0 },
    ]);
  });

  it("is told together when it changes often, the last state in the end", async () => {
    const { runs, workers, events, heard } = await start();
    const set = loaded(workers, "a");
    ends.push(publishLoads(runs, workers));
    await vi.waitFor(() => expect(heard("a")).toBe(0), soon);
    events.length = 0;
    const startedAtMs = performance.now();
    for (let request = 1; request <= 2_000; request++) {
      set(request);
      if (request % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await vi.waitFor(() => expect(heard("a")).toBe(2_000), soon);
    const elapsedMs = performance.now() - startedAtMs;
    expect(events.length).toBeLessThanOrEqual(2 + elapsedMs / 50);
  });

  it("is told at once when a full worker has room again", async () => {
    const { runs, workers, heard } = await start();
    const set = loaded(workers, "a", 2);
    const other = loaded(workers, "b");
    const published = vi.spyOn(runs.events, "publish");
    ends.push(publishLoads(runs, workers));
    await vi.waitFor(() => expect(heard("a")).toBe(0), soon);
    set(1);
    set(2);
    await vi.waitFor(() => expect(heard("a")).toBe(2), soon);
    expect(published.mock.calls.every(([, , , , options]) => options?.atOnce === false)).toBe(true);
    // A change that can wait does not make this one wait.
    other(1);
    set(1);
    await vi.waitFor(() => expect([heard("a"), heard("b")]).toEqual([1, 1]), soon);
    expect(published.mock.calls.at(-1)![4]).toEqual({ atOnce: true });
  });

  it("of a worker that is gone is none", async () => {
    const { runs, workers, heard } = await start();
    const set = loaded(workers, "a");
    ends.push(publishLoads(runs, workers));
    set(5);
    await vi.waitFor(() => expect(heard("a")).toBe(5), soon);
    await workers.remove("a");
    await vi.waitFor(() => expect(heard("a")).toBe(0), soon);
  });

  it("is told to nobody by a node that is alone", async () => {
    const runs = await joined("alone");
    const workers = createProviderService();
    const set = loaded(workers, "a");
    const published = vi.spyOn(runs.events, "publish");
    ends.push(publishLoads(runs, workers));
    set(1);
    // Timers fire in order: an event that waits for its turn would have been published by then.
    await new Promise((resolve) => setTimeout(resolve, 60));
    expect(published).not.toHaveBeenCalled();
    await joined("comes");
    await vi.waitFor(() => expect(published).toHaveBeenCalled(), soon);
    expect(published.mock.calls[0]![2]).toEqual({ node: "alone", loads: [{ worker: "a", activeRequests: 1 }] });
  });
});
