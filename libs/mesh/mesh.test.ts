import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { jetstreamManager } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect as connectNats } from "@nats-io/transport-node";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { AttemptFinished, AttemptsFinished, NodeChanged, NodeChanged_Change } from "../gen/cortex/events/v1/events.ts";
import type { NodeLoad } from "../gen/cortex/mesh/v1/mesh.ts";
import { WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "../host/nats-server.ts";
import { createLogger, EVENT, NO_TRACE, type TraceContext } from "../telemetry/index.ts";
import { type JoinOptions, joinMesh, type Mesh } from "./index.ts";

const HEARTBEAT_MS = 100;
const EXPIRY_MS = 800;
const ROUTER = "cortex.router.v1.RouterService";
const log = createLogger({ level: "silent", readable: false, node: "test" });
const trace: TraceContext = {
  traceId: "0af7651916cd43dd8448eb211c80319c",
  spanId: "b7ad6b7169203331",
  sampled: true,
  state: "a=b",
};

let bin: string;
let folder: string;
let server: NatsServer;
const members: Mesh[] = [];
const children: ChildProcess[] = [];

beforeAll(async () => {
  bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: joinPath(tmpdir(), "cortex-test-cache"),
    notify: console.error,
  });
  folder = await mkdtemp(joinPath(tmpdir(), "cortex-mesh-"));
  server = await startNatsServer({ bin, storeDir: joinPath(folder, "data") });
});

afterEach(async () => {
  for (const child of children.splice(0)) child.kill("SIGKILL");
  await Promise.all(members.splice(0).map((member) => member.leave()));
});

afterAll(async () => {
  await server.stop();
  await rm(folder, { recursive: true, force: true });
});

/** Waits for something to become true. */
function until(condition: () => boolean, timeoutMs = 10_000): Promise<void> {
  return vi.waitFor(() => expect(condition()).toBe(true), { timeout: timeoutMs, interval: 5 });
}

async function join(id: string, more: Partial<JoinOptions> & { services?: string[] } = {}): Promise<Mesh> {
  const member = await joinMesh({
    natsUrl: server.url,
    node: {
      id,
      name: id,
      address: "127.0.0.1:1",
      services: more.services ?? ["router"],
      interfaces: [ROUTER],
      version: "1.0.0",
      zone: "here",
    },
    load: () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] }),
    log,
    heartbeatMs: HEARTBEAT_MS,
    expiryMs: EXPIRY_MS,
    ...more,
  });
  members.push(member);
  return member;
}

/** A member in a process of its own, which can be killed. Says "joined", and leaves when its input ends. */
async function joinInProcess(id: string, workers: string[] = []): Promise<ChildProcess> {
  const program = `
    import { joinMesh } from ${JSON.stringify(new URL("./index.ts", import.meta.url).href)};
    import { WorkerInfo } from ${JSON.stringify(new URL("../gen/cortex/provider/v1/provider.ts", import.meta.url).href)};
    import { createLogger } from ${JSON.stringify(new URL("../telemetry/index.ts", import.meta.url).href)};
    const mesh = await joinMesh({
      natsUrl: ${JSON.stringify(server.url)},
      node: { id: ${JSON.stringify(id)}, name: "", address: "127.0.0.1:2", services: [], interfaces: [${JSON.stringify(ROUTER)}], version: "", zone: "" },
      load: () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] }),
      log: createLogger({ level: "silent", readable: false, node: "child" }),
      heartbeatMs: ${HEARTBEAT_MS},
      expiryMs: ${EXPIRY_MS},
    });
    for (const name of ${JSON.stringify(workers)}) mesh.announceWorker(WorkerInfo.create({ name, provider: "sim" }));
    console.log("joined");
    process.stdin.on("end", () => mesh.leave().then(() => console.log("left"))).resume();
  `;
  const child = spawn(process.execPath, ["--input-type=module-typescript", "-e", program], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  children.push(child);
  await once(child.stdout!, "data");
  return child;
}

function ids(mesh: Mesh): string[] {
  return mesh.directory.nodes().map(({ id }) => id);
}

function workers(mesh: Mesh): string[] {
  return mesh.directory.workers().map(({ node, info }) => `${node}/${info?.name}`);
}

function desired(mesh: Mesh): string[] {
  return mesh.directory.desiredWorkers().map(({ name }) => name);
}

function worker(name: string, more: Partial<WorkerInfo> = {}): WorkerInfo {
  return WorkerInfo.create({ name, provider: "sim", models: ["m"], ...more });
}

function specification(name: string): WorkerSpecification {
  return WorkerSpecification.create({ name, provider: "sim" });
}

describe("nodes", () => {
  it("see each other, themselves included, in the same order", async () => {
    const b = await join("b");
    const a = await join("a");
    expect(ids(a)).toEqual(["a", "b"]);
    await until(() => ids(b).length === 2);
    expect(ids(b)).toEqual(["a", "b"]);
    expect(b.directory.node("a")).toMatchObject({
      address: "127.0.0.1:1",
      services: ["router"],
      version: "1.0.0",
      zone: "here",
    });
    expect(b.directory.nodesServing(ROUTER).map(({ id }) => id)).toEqual(["a", "b"]);
    expect(b.directory.nodesServing("cortex.cache.v1.CacheService")).toEqual([]);
  });

  it("may have any name", async () => {
    const a = await join("pod-1.cortex.svc/ü *>");
    const b = await join("b");
    a.announceWorker(worker("gpu.1 *"));
    await until(() => workers(b).includes("pod-1.cortex.svc/ü *>/gpu.1 *"));
    await a.leave();
    await until(() => ids(b).length === 1 && workers(b).length === 0);
  });

  it("tell their load without a change of generation, in arrays that stay the same", async () => {
    let load: NodeLoad = { callsInFlight: 1, eventLoopDelayMs: 2, problems: [] };
    const a = await join("a");
    await join("b", { load: () => load });
    await until(() => ids(a).length === 2);
    const { generation } = a.directory;
    const nodes = a.directory.nodes();
    const serving = a.directory.nodesServing(ROUTER);
    load = { callsInFlight: 7, eventLoopDelayMs: 3, problems: [] };
    await until(() => a.directory.node("b")?.load?.callsInFlight === 7);
    expect(serving[1]?.load).toEqual(load);
    expect(a.directory.generation).toBe(generation);
    expect(a.directory.nodes()).toBe(nodes);
    expect(a.directory.nodesServing(ROUTER)).toBe(serving);
  });

  it("are gone at once when they leave", async () => {
    const a = await join("a");
    const b = await join("b");
    b.announceWorker(worker("w"));
    await until(() => workers(a).length === 1);
    const startedMs = performance.now();
    await b.leave();
    await until(() => ids(a).length === 1 && workers(a).length === 0);
    expect(performance.now() - startedMs).toBeLessThan(EXPIRY_MS / 2);
    expect(a.directory.node("b")).toBeUndefined();
    await b.leave();
  });

  it("expire when their process is killed, and so do their workers", async () => {
    const a = await join("a");
    const child = await joinInProcess("b", ["w"]);
    await until(() => workers(a).includes("b/w"));
    const killedMs = performance.now();
    child.kill("SIGKILL");
    await until(() => ids(a).length === 1);
    expect(performance.now() - killedMs).toBeGreaterThan(EXPIRY_MS - 2 * HEARTBEAT_MS);
    expect(performance.now() - killedMs).toBeLessThan(EXPIRY_MS * 1.5);
    expect(workers(a)).toEqual([]);
  });

  it("don't expire while this process was stopped itself, and expire after it goes on if they are gone", async () => {
    const a = await join("a");
    const b = await join("b");
    await until(() => ids(a).length === 2 && ids(b).length === 2);
    const seen: number[] = [];
    a.directory.onChange(() => seen.push(ids(a).length));
    // Nothing in this process runs for longer than an expiry: neither heartbeats nor watches.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, EXPIRY_MS * 2);
    await until(() => (b.directory.node("a")?.expiresAtMs ?? 0) > Date.now() + EXPIRY_MS / 2);
    expect(seen).toEqual([]);
    expect(ids(a)).toEqual(["a", "b"]);
  });

  it("put their entry again when somebody else deleted it", async () => {
    const a = await join("a");
    const b = await join("b");
    await until(() => ids(a).length === 2);
    const connection = await connectNats({ servers: server.url.slice(7) });
    const bucket = await new Kvm(connection).open("cortex_nodes");
    const left = new Promise<void>((resolve) => b.directory.onChange(() => ids(b).includes("a") || resolve()));
    await bucket.delete("a");
    await left;
    await connection.close();
    await until(() => ids(b).includes("a"));
  });

  it("find what an earlier process of their name left, and clear it away", async () => {
    const a = await join("a");
    const child = await joinInProcess("b", ["old"]);
    await until(() => workers(a).includes("b/old"));
    child.kill("SIGKILL");
    const b = await join("b");
    b.announceWorker(worker("new"));
    await until(() => workers(a).join() === "b/new");
  });

  it("are out of routing at once when marked unreachable, and back when marked reachable", async () => {
    const a = await join("a");
    const b = await join("b");
    b.announceWorker(worker("w"));
    await until(() => workers(a).length === 1);
    const { generation } = a.directory;
    a.directory.markUnreachable("b");
    expect(ids(a)).toEqual(["a"]);
    expect(a.directory.nodesServing(ROUTER).map(({ id }) => id)).toEqual(["a"]);
    expect(workers(a)).toEqual([]);
    expect(a.directory.generation).toBeGreaterThan(generation);
    expect(a.directory.node("b")?.address).toBe("127.0.0.1:1");
    expect(a.directory.known("b")).toBe(true);
    // Heartbeats don't change that: who can't be reached can't be reached.
    const expiresAtMs = a.directory.node("b")?.expiresAtMs ?? 0;
    await until(() => (a.directory.node("b")?.expiresAtMs ?? 0) > expiresAtMs);
    expect(ids(a)).toEqual(["a"]);
    a.directory.markReachable("b");
    expect(ids(a)).toEqual(["a", "b"]);
    expect(workers(a)).toEqual(["b/w"]);
    a.directory.markUnreachable("a");
    a.directory.markUnreachable("nobody");
    expect(ids(a)).toEqual(["a", "b"]);
  });

  it("are reachable again when they were started anew under their old name", async () => {
    const a = await join("a");
    const child = await joinInProcess("b");
    await until(() => ids(a).length === 2);
    a.directory.markUnreachable("b");
    child.kill("SIGKILL");
    await join("b");
    await until(() => ids(a).length === 2);
  });

  it("that drain serve nothing new but keep their workers in view", async () => {
    const a = await join("a");
    const b = await join("b");
    b.announceWorker(worker("w"));
    await until(() => workers(a).length === 1);
    await b.drain();
    await until(() => a.directory.node("b")?.draining === true);
    expect(a.directory.nodesServing(ROUTER).map(({ id }) => id)).toEqual(["a"]);
    expect(b.directory.nodesServing(ROUTER).map(({ id }) => id)).toEqual(["a"]);
    expect(ids(a)).toEqual(["a", "b"]);
    expect(workers(a)).toEqual(["b/w"]);
  });

  it("tell when they join, drain and leave", async () => {
    const a = await join("a");
    const changes: [string, NodeChanged_Change][] = [];
    a.events.subscribe(EVENT.nodeChanged, NodeChanged, ({ node, change }) => changes.push([node, change]));
    // A subscription holds once NATS has it; whatever this node asks of NATS after it comes after it.
    await a.drain();
    const b = await join("b");
    await b.drain();
    await b.leave();
    await until(() => changes.length >= 4);
    expect(changes.filter(([node]) => node === "b")).toEqual([
      ["b", NodeChanged_Change.JOINED],
      ["b", NodeChanged_Change.DRAINING],
      ["b", NodeChanged_Change.LEFT],
    ]);
  });
});

describe("workers", () => {
  it("are announced, change, and are withdrawn", async () => {
    const a = await join("a");
    const b = await join("b");
    a.announceWorker(worker("w", { priority: 10 }));
    expect(workers(a)).toEqual(["a/w"]);
    await until(() => b.directory.workers()[0]?.info?.priority === 10);
    a.announceWorker(worker("w", { priority: 20 }));
    await until(() => b.directory.workers()[0]?.info?.priority === 20);
    a.withdrawWorker("w");
    expect(workers(a)).toEqual([]);
    await until(() => workers(b).length === 0);
  });

  it("are merged in a burst, and the last word stands", async () => {
    const a = await join("a");
    const b = await join("b");
    let changes = 0;
    b.directory.onChange(() => changes++);
    for (let priority = 1; priority <= 500; priority++) a.announceWorker(worker("w", { priority }));
    await until(() => b.directory.workers()[0]?.info?.priority === 500);
    expect(changes).toBeLessThan(10);
    for (let round = 0; round < 50; round++) {
      a.withdrawWorker("w");
      a.announceWorker(worker("w", { priority: round }));
    }
    await until(() => b.directory.workers()[0]?.info?.priority === 49);
  });

  it("tell how busy they are without a change of generation", async () => {
    const a = await join("a");
    const b = await join("b");
    a.announceWorker(worker("w"));
    await until(() => workers(b).length === 1);
    const { generation } = b.directory;
    const seen = b.directory.workers();
    a.announceWorker(
      worker("w", { activeRequests: 3, pool: { size: 9, connected: 1, free: 0, running: 1, pending: 0, queued: 0 } }),
    );
    await until(() => seen[0]?.info?.activeRequests === 3);
    expect(seen[0]?.info?.pool?.size).toBe(9);
    expect(b.directory.generation).toBe(generation);
    expect(b.directory.workers()).toBe(seen);
  });

  it("without a name are refused without a throw", async () => {
    const a = await join("a");
    a.announceWorker(worker(""));
    expect(workers(a)).toEqual([]);
  });
});

describe("desired workers", () => {
  it("are added and removed for everybody within a second", async () => {
    const a = await join("a");
    const b = await join("b");
    await a.directory.addDesiredWorker(specification("d1"));
    expect(desired(a)).toEqual(["d1"]);
    await until(() => desired(b).includes("d1"), 1_000);
    await b.directory.removeDesiredWorker("d1");
    expect(desired(b)).toEqual([]);
    await until(() => desired(a).length === 0, 1_000);
    await a.directory.addDesiredWorker(specification("d1"));
    await a.directory.removeDesiredWorker("d1");
  });

  it("are refused when the name is desired or running anywhere", async () => {
    const a = await join("a");
    const b = await join("b");
    await a.directory.addDesiredWorker(specification("d2"));
    await expect(a.directory.addDesiredWorker(specification("d2"))).rejects.toMatchObject({
      reason: "WORKER_ALREADY_REGISTERED",
    });
    await expect(b.directory.addDesiredWorker(specification("d2"))).rejects.toMatchObject({
      reason: "WORKER_ALREADY_REGISTERED",
    });
    b.announceWorker(worker("runs"));
    await until(() => workers(a).length === 1);
    await expect(a.directory.addDesiredWorker(specification("runs"))).rejects.toMatchObject({
      reason: "WORKER_ALREADY_REGISTERED",
    });
    await expect(a.directory.addDesiredWorker(specification(""))).rejects.toMatchObject({ reason: "INVALID_REQUEST" });
    await a.directory.removeDesiredWorker("d2");
  });

  it("are given to exactly one of many who add the same name at once", async () => {
    const all = await Promise.all(["a", "b", "c"].map((id) => join(id)));
    const results = await Promise.allSettled(
      all.map(({ directory }) => directory.addDesiredWorker(specification("d3"))),
    );
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    await all[0]!.directory.removeDesiredWorker("d3");
  });

  it("that don't exist can't be removed", async () => {
    const a = await join("a");
    await expect(a.directory.removeDesiredWorker("nobody")).rejects.toMatchObject({ reason: "WORKER_NOT_FOUND" });
  });
});

describe("events", () => {
  const event = (requestId: string): AttemptFinished => AttemptFinished.create({ requestId });

  /** Subscribes and waits until NATS has it. */
  async function collect(
    mesh: Mesh,
    subject: string,
  ): Promise<{ ids: string[]; traces: (TraceContext | undefined)[] }> {
    const got = { ids: [] as string[], traces: [] as (TraceContext | undefined)[] };
    let ready = false;
    mesh.events.subscribe(subject, AttemptFinished, ({ requestId }, from) => {
      if (requestId === "ready") ready = true;
      else {
        got.ids.push(requestId);
        got.traces.push(from);
      }
    });
    mesh.events.publish(subject, AttemptFinished, event("ready"), NO_TRACE);
    await until(() => ready);
    return got;
  }

  it("arrive with the trace that they belong to", async () => {
    const a = await join("a");
    const b = await join("b");
    const got = await collect(b, "test.trace");
    a.events.publish("test.trace", AttemptFinished, event("1"), trace);
    a.events.publish("test.trace", AttemptFinished, event("2"), NO_TRACE);
    await until(() => got.ids.length === 2);
    expect(got.traces).toEqual([trace, undefined]);
  });

  it("go on after a handler has thrown, in whatever way, and after one that can't be read", async () => {
    const a = await join("a");
    const seen: string[] = [];
    a.events.subscribe("test.throws", AttemptFinished, ({ requestId }) => {
      seen.push(requestId);
      throw new Error("broken");
    });
    a.events.subscribe("test.throws", AttemptFinished, async () => {
      throw new Error("broken too");
    });
    const garbage = { encode: () => ({ finish: () => new Uint8Array([0xff, 0xff, 0xff]) }), decode: () => ({}) };
    a.events.publish("test.throws", AttemptFinished, event("1"), trace);
    a.events.publish("test.throws", garbage, {}, trace);
    a.events.publish("test.throws", AttemptFinished, event("2"), trace);
    await until(() => seen.length === 2);
  });

  it("stop when asked to", async () => {
    const a = await join("a");
    const seen: string[] = [];
    const stop = a.events.subscribe("test.stop", AttemptFinished, ({ requestId }) => seen.push(requestId));
    const got = await collect(a, "test.stop");
    stop();
    stop();
    a.events.publish("test.stop", AttemptFinished, event("1"), trace);
    await until(() => got.ids.length === 1);
    expect(seen).toEqual(["ready"]);
  });

  it("are counted, not thrown, when they can't be encoded or are too large", async () => {
    const a = await join("a");
    a.events.publish("test.broken", AttemptFinished, null as never, trace);
    expect(a.events.dropped).toBe(1);
    a.events.publish("test.large", AttemptFinished, event("x".repeat(2_000_000)), trace);
    await until(() => a.events.dropped === 2);
  });

  it("arrive all, in order, when there are more than fit into one window", async () => {
    const a = await join("a");
    const got = await collect(a, "test.flood");
    const large = "x".repeat(1_000);
    for (let index = 0; index < 8_000; index++) {
      a.events.publish("test.flood", AttemptFinished, { ...event(String(index)), tenant: large }, NO_TRACE);
    }
    await until(() => got.ids.length === 8_000, 10_000);
    expect(got.ids.every((id, index) => id === String(index))).toBe(true);
    expect(a.events.dropped).toBe(0);
  });

  /** The messages of a subject of gathered events, each as the ids that it has. */
  async function collectBatches(mesh: Mesh, subject: string): Promise<string[][]> {
    const batches: string[][] = [];
    mesh.events.subscribe(subject, AttemptsFinished, ({ attempts }, from) => {
      expect(from).toBeUndefined();
      batches.push(attempts.map(({ requestId }) => requestId));
    });
    mesh.events.gather(subject, AttemptsFinished, { attempts: [event("ready")] });
    await until(() => batches.length > 0);
    batches.length = 0;
    return batches;
  }

  it("of one subject travel together when they are gathered, each subject by itself", async () => {
    const a = await join("a");
    const [one, other] = await Promise.all([collectBatches(a, "test.one"), collectBatches(a, "test.other")]);
    for (const id of ["1", "2", "3"]) {
      a.events.gather("test.one", AttemptsFinished, { attempts: [event(id)] });
      a.events.gather("test.other", AttemptsFinished, { attempts: [event(`other ${id}`)] });
    }
    await until(() => one.length > 0 && other.length > 0);
    expect(one).toEqual([["1", "2", "3"]]);
    expect(other).toEqual([["other 1", "other 2", "other 3"]]);
  });

  it("are split well below what NATS takes, and one that it refuses takes no other with it", async () => {
    const a = await join("a");
    const batches = await collectBatches(a, "test.batches");
    const tenant = "x".repeat(1_000);
    for (let index = 0; index < 900; index++) {
      a.events.gather("test.batches", AttemptsFinished, { attempts: [{ ...event(String(index)), tenant }] });
      if (index !== 450) continue;
      a.events.gather("test.batches", AttemptsFinished, { attempts: [event("x".repeat(2_000_000))] });
      a.events.gather("test.batches", AttemptsFinished, { attempts: [null as never] });
    }
    await until(() => batches.flat().length === 900);
    expect(batches.flat()).toEqual(Array.from({ length: 900 }, (_, index) => String(index)));
    expect(batches.length).toBeGreaterThan(3);
    expect(batches.length).toBeLessThan(20);
    expect(a.events.dropped).toBe(2);
  });
});

describe("the secret", () => {
  it("is the same for all, also for those who join at the same moment", async () => {
    const all = await Promise.all(["a", "b", "c"].map((id) => join(id)));
    expect(new Set(all.map(({ secret }) => secret)).size).toBe(1);
    expect(all[0]!.secret.length).toBeGreaterThanOrEqual(43);
  });
});

describe("joining", () => {
  it("waits for NATS, and says what to do when it does not come", async () => {
    const port = await freePort();
    const options = { natsUrl: `nats://user:hidden@127.0.0.1:${port}`, connectTimeoutMs: 700 };
    const failure = join("a", options);
    await expect(failure).rejects.toThrow(new RegExp(`nats://127.0.0.1:${port}.*CORTEX_NATS_URL`, "s"));
    await expect(failure).rejects.not.toThrow(/hidden/);
  });

  it("succeeds when NATS comes late", async () => {
    const port = await freePort();
    const joining = join("a", { natsUrl: `nats://127.0.0.1:${port}`, connectTimeoutMs: 10_000 });
    const late = await startNatsServer({ bin, storeDir: joinPath(folder, "late"), port });
    const mesh = await joining;
    expect(mesh.connected).toBe(true);
    await mesh.leave();
    await late.stop();
  });

  it("refuses a heartbeat that is too slow for the expiry", async () => {
    await expect(join("a", { heartbeatMs: 1_000, expiryMs: 2_000 })).rejects.toThrow(/three times/);
  });

  it("leaves nothing open: a process that has left ends by itself", async () => {
    const child = await joinInProcess("b", ["w"]);
    child.stdin!.end();
    expect(await once(child, "exit")).toEqual([0, null]);
  });
});

describe("when the connection falls silent without a word", () => {
  it("nobody expires, and it is made anew", async () => {
    const { url, proxy, freeze, accepted } = await startProxy(server.url);
    const a = await join("a", { natsUrl: url });
    await join("b");
    await until(() => ids(a).length === 2);
    let fewest = 2;
    a.directory.onChange(() => {
      fewest = Math.min(fewest, ids(a).length);
    });
    freeze();
    await until(() => accepted() === 2 && a.connected, 5_000);
    const expiresAtMs = a.directory.node("b")?.expiresAtMs ?? 0;
    await until(() => (a.directory.node("b")?.expiresAtMs ?? 0) > expiresAtMs);
    expect(fewest).toBe(2);
    await a.leave();
    proxy.close();
  });
});

describe("when NATS is away", () => {
  let url: string;
  let data: string;
  let nats: NatsServer;

  beforeEach(async () => {
    data = await mkdtemp(joinPath(folder, "outage-"));
    nats = await startNatsServer({ bin, storeDir: data });
    url = nats.url;
  });

  afterEach(async () => {
    await Promise.all(members.splice(0).map((member) => member.leave()));
    await nats.stop();
  });

  const joinHere = (id: string, more: Partial<JoinOptions> = {}): Promise<Mesh> => join(id, { natsUrl: url, ...more });

  async function kill(...present: Mesh[]): Promise<void> {
    process.kill(nats.pid, "SIGKILL");
    await nats.exited;
    await until(() => present.every(({ connected }) => !connected));
  }

  async function restart(...present: Mesh[]): Promise<void> {
    nats = await startNatsServer({ bin, storeDir: data, port: Number(new URL(url).port) });
    await until(() => present.every(({ connected }) => connected));
  }

  /** Lets time pass in which something must not happen. */
  function passes(ms: number): Promise<void> {
    const endMs = performance.now() + ms;
    return until(() => performance.now() >= endMs, ms + 1_000);
  }

  /** Notes the fewest nodes and workers that were ever seen, by anybody. */
  function watchForHoles(...present: Mesh[]): { nodes: number; workers: number; desired: number } {
    const fewest = { nodes: 1e9, workers: 1e9, desired: 1e9 };
    const look = (): void => {
      for (const { directory } of present) {
        fewest.nodes = Math.min(fewest.nodes, directory.nodesServing(ROUTER).length);
        fewest.workers = Math.min(fewest.workers, directory.workers().length);
        fewest.desired = Math.min(fewest.desired, directory.desiredWorkers().length);
      }
    };
    for (const { directory } of present) directory.onChange(look);
    look();
    return fewest;
  }

  async function twoWithWorkers(): Promise<[Mesh, Mesh]> {
    const a = await joinHere("a");
    const b = await joinHere("b");
    a.announceWorker(worker("wa"));
    b.announceWorker(worker("wb"));
    await a.directory.addDesiredWorker(specification("wd"));
    await until(() =>
      [a, b].every((mesh) => ids(mesh).length === 2 && workers(mesh).length === 2 && desired(mesh).length === 1),
    );
    return [a, b];
  }

  it.each(["keeps", "loses"])(
    "and comes back, and %s its data, nothing is missing at any time and all goes on",
    async (how) => {
      const [a, b] = await twoWithWorkers();
      const { secret } = a;
      const fewest = watchForHoles(a, b);
      await kill(a, b);
      await passes(EXPIRY_MS * 2);
      a.announceWorker(worker("wa2"));
      if (how === "loses") await rm(data, { recursive: true });
      await restart(a, b);
      await until(() => workers(b).includes("a/wa2"));
      await passes(EXPIRY_MS * 3);
      expect(fewest).toEqual({ nodes: 2, workers: 2, desired: 1 });
      const c = await joinHere("c");
      expect(ids(c)).toEqual(["a", "b", "c"]);
      expect(workers(c)).toEqual(["a/wa", "a/wa2", "b/wb"]);
      expect(desired(c)).toEqual(["wd"]);
      expect([a, b, c].map((mesh) => mesh.secret)).toEqual([secret, secret, secret]);
      await until(() => ids(a).length === 3 && ids(b).length === 3);
      await c.directory.removeDesiredWorker("wd");
      await until(() => desired(a).length === 0 && desired(b).length === 0, 1_000);
      await b.leave();
      await until(() => ids(a).length === 2 && workers(a).length === 2);
    },
  );

  it("a node that is about to announce itself has joined all the same, and is announced when NATS is back", async () => {
    const a = await joinHere("a");
    let killed = false;
    const b = await joinHere("b", {
      load: () => {
        if (!killed) process.kill(nats.pid, "SIGKILL");
        killed = true;
        return { callsInFlight: 0, eventLoopDelayMs: 0, problems: [] };
      },
    });
    await nats.exited;
    await until(() => !a.connected && !b.connected);
    await restart(a, b);
    await until(() => ids(a).length === 2 && ids(b).length === 2);
  });

  it("and comes back empty, changes are seen at once, without waiting for heartbeats", async () => {
    const slow = { heartbeatMs: 20_000, expiryMs: 60_000 };
    const a = await joinHere("a", slow);
    const b = await joinHere("b", slow);
    a.announceWorker(worker("wa"));
    await until(() => workers(b).length === 1);
    await kill(a, b);
    await rm(data, { recursive: true });
    await restart(a, b);
    a.announceWorker(worker("wa2"));
    await until(() => workers(b).includes("a/wa2"), 1_000);
  });

  it("and falls over again and again, nothing is missing", async () => {
    const [a, b] = await twoWithWorkers();
    const fewest = watchForHoles(a, b);
    for (let round = 0; round < 5; round++) {
      await kill(a, b);
      if (round % 2 === 1) await rm(data, { recursive: true });
      await restart(a, b);
    }
    await passes(EXPIRY_MS * 2);
    expect(fewest).toEqual({ nodes: 2, workers: 2, desired: 1 });
  });

  it("a node that died meanwhile is dropped one expiry after it is back, and what was withdrawn at once", async () => {
    const [a, b] = await twoWithWorkers();
    await kill(a, b);
    a.withdrawWorker("wa");
    await b.leave();
    await passes(EXPIRY_MS * 2);
    expect(ids(a)).toEqual(["a", "b"]);
    await restart(a);
    await until(() => ids(a).length === 1 && workers(a).length === 0, EXPIRY_MS * 3);
    expect(workers(await joinHere("c"))).toEqual([]);
  });

  it("events wait and arrive in order when it is back", async () => {
    const [a, b] = await twoWithWorkers();
    const got: string[] = [];
    b.events.subscribe("test.away", AttemptFinished, ({ requestId }) => got.push(requestId));
    await kill(a, b);
    for (const requestId of ["1", "2", "3"]) {
      a.events.publish("test.away", AttemptFinished, AttemptFinished.create({ requestId }), trace);
    }
    await restart(b);
    // Nobody promises that b subscribes before a publishes; core NATS keeps nothing.
    await until(() => a.connected);
    a.events.publish("test.away", AttemptFinished, AttemptFinished.create({ requestId: "4" }), trace);
    await until(() => got.includes("4"));
    expect(["1,2,3,4", "4"]).toContain(got.join());
    expect(a.events.dropped).toBe(0);
  });

  it("events are bounded by count and by bytes, the oldest are dropped and counted", async () => {
    const a = await joinHere("a", { heartbeatMs: 2_000, expiryMs: 6_000 });
    const got: string[] = [];
    a.events.subscribe("test.bounded", AttemptFinished, ({ requestId }) => got.push(requestId));
    // Once this one has come, nothing that was published before it still waits.
    a.events.publish("test.bounded", AttemptFinished, AttemptFinished.create({ requestId: "before" }), NO_TRACE);
    await until(() => got.length === 1);
    got.length = 0;
    await kill(a);
    for (let index = 0; index < 10_100; index++) {
      a.events.publish("test.bounded", AttemptFinished, AttemptFinished.create({ requestId: String(index) }), NO_TRACE);
    }
    expect(a.events.dropped).toBe(100);
    await restart(a);
    await until(() => got.length === 10_000);
    expect(got[0]).toBe("100");
    await kill(a);
    const large = "x".repeat(500_000);
    for (let index = 0; index < 20; index++) {
      a.events.publish("test.bounded", AttemptFinished, AttemptFinished.create({ requestId: large }), NO_TRACE);
    }
    expect(a.events.dropped).toBe(100 + 4);
  });

  it("gathered events wait as well, bounded, and those that gave way are counted one by one", async () => {
    const a = await joinHere("a", { heartbeatMs: 2_000, expiryMs: 6_000 });
    const got: string[] = [];
    a.events.subscribe("test.gathered", AttemptsFinished, ({ attempts }) => {
      got.push(...attempts.map(({ requestId }) => requestId));
    });
    const gather = (requestId: string): void =>
      a.events.gather("test.gathered", AttemptsFinished, { attempts: [AttemptFinished.create({ requestId })] });
    gather("before");
    await until(() => got.length === 1);
    got.length = 0;
    await kill(a);
    for (let index = 0; index < 10_100; index++) gather(String(index));
    const { dropped } = a.events;
    expect(dropped).toBeGreaterThanOrEqual(100);
    expect(dropped).toBeLessThanOrEqual(1_000);
    await restart(a);
    await until(() => got.length === 10_100 - dropped);
    expect(got).toEqual(Array.from({ length: 10_100 - dropped }, (_, index) => String(index + dropped)));
    expect(a.events.dropped).toBe(dropped);
  });

  it("the workers that should run can't be changed, and the error says so at once", async () => {
    const [a] = await twoWithWorkers();
    await kill(a);
    const startedMs = performance.now();
    await expect(a.directory.addDesiredWorker(specification("x"))).rejects.toMatchObject({
      reason: "NODE_UNREACHABLE",
    });
    await expect(a.directory.removeDesiredWorker("wd")).rejects.toMatchObject({ reason: "NODE_UNREACHABLE" });
    expect(performance.now() - startedMs).toBeLessThan(100);
  });

  it("draining is told when it is back", async () => {
    const [a, b] = await twoWithWorkers();
    await kill(a, b);
    await a.drain();
    await restart(a, b);
    await until(() => b.directory.node("a")?.draining === true);
  });

  it("a node can leave within two seconds, also while NATS hangs", async () => {
    const [a, b] = await twoWithWorkers();
    process.kill(nats.pid, "SIGSTOP");
    let startedMs = performance.now();
    await a.leave();
    expect(performance.now() - startedMs).toBeLessThan(2_200);
    process.kill(nats.pid, "SIGCONT");
    await kill(b);
    startedMs = performance.now();
    await b.leave();
    expect(performance.now() - startedMs).toBeLessThan(1_000);
  });

  it("a watch that has fallen silent is noticed and started again", async () => {
    const [a, b] = await twoWithWorkers();
    const connection = await connectNats({ servers: url.slice("nats://".length) });
    const manager = await jetstreamManager(connection);
    const consumers = await manager.consumers.list("KV_cortex_running").next();
    expect(consumers).toHaveLength(2);
    for (const { name } of consumers) await manager.consumers.delete("KV_cortex_running", name);
    await connection.close();
    a.announceWorker(worker("wa2"));
    await until(() => workers(b).includes("a/wa2"), HEARTBEAT_MS * 30);
  });

  it("its buckets are made again when somebody deletes them while it runs", async () => {
    const [a, b] = await twoWithWorkers();
    const fewest = watchForHoles(a, b);
    const connection = await connectNats({ servers: url.slice("nats://".length) });
    const manager = await jetstreamManager(connection);
    for (const name of ["cortex_nodes", "cortex_running", "cortex_workers", "cortex_mesh"]) {
      await manager.streams.delete(`KV_${name}`);
    }
    await connection.close();
    await passes(EXPIRY_MS * 2);
    a.announceWorker(worker("wa2"));
    await until(() => workers(b).includes("a/wa2"));
    expect(fewest).toEqual({ nodes: 2, workers: 2, desired: 1 });
    expect(desired(await joinHere("c"))).toEqual(["wd"]);
  });
});

/** A TCP proxy whose present connections can be made to pass nothing on any more. */
async function startProxy(target: string) {
  const { hostname, port } = new URL(target);
  const pairs: Socket[][] = [];
  let accepted = 0;
  const proxy = createServer((near) => {
    const far = connectSocket(Number(port), hostname);
    near.pipe(far).on("error", () => near.destroy());
    far.pipe(near).on("error", () => far.destroy());
    pairs.push([near, far]);
    accepted++;
  }).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const freeze = (): void => {
    for (const pair of pairs.splice(0)) for (const socket of pair) socket.unpipe().pause();
  };
  return { url: `nats://127.0.0.1:${(proxy.address() as AddressInfo).port}`, proxy, freeze, accepted: () => accepted };
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  return port;
}
