/** What is wanted of workers: changed, drained and placed, known to all nodes, and kept when NATS loses it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join as joinPath } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { Health, WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "../host/nats-server.ts";
import { createLogger } from "../telemetry/index.ts";
import { joinMesh, type Mesh } from "./index.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });
const members: Mesh[] = [];
let bin: string;
let folder: string;
let nats: NatsServer;

beforeAll(async () => {
  bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: joinPath(tmpdir(), "cortex-test-cache"),
    notify: console.error,
  });
  folder = await mkdtemp(joinPath(tmpdir(), "cortex-desired-"));
  nats = await startNatsServer({ bin, storeDir: joinPath(folder, "data") });
});

afterEach(async () => {
  await Promise.all(members.splice(0).map((member) => member.leave()));
});

afterAll(async () => {
  await nats.stop();
  await rm(folder, { recursive: true, force: true });
});

/** A node of that name; its id is another one each time, as it is of a real one. */
async function join(name: string, services = ["adapter-sim"]): Promise<Mesh> {
  const member = await joinMesh({
    natsUrl: nats.url,
    node: {
      id: `${name}-${members.length}`,
      name,
      address: "127.0.0.1:1",
      services,
      interfaces: [],
      version: "1",
      zone: "",
    },
    load: () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] }),
    log,
    heartbeatMs: 100,
    expiryMs: 800,
  });
  members.push(member);
  return member;
}

async function leave(mesh: Mesh): Promise<void> {
  members.splice(members.indexOf(mesh), 1);
  await mesh.leave();
}

function specification(name: string, more: Partial<WorkerSpecification> = {}): WorkerSpecification {
  return WorkerSpecification.create({ name, provider: "sim", ...more });
}

function worker(name: string): WorkerInfo {
  return WorkerInfo.create({ name, provider: "sim" });
}

const models = (mesh: Mesh) => mesh.directory.desiredWorkers().map(({ name, models: listed }) => [name, ...listed]);
const drained = (mesh: Mesh) => [...mesh.directory.drainedWorkers()].sort();
const soon = { timeout: 1_000, interval: 5 };

describe("a desired worker", () => {
  it("is changed for everybody within a second", async () => {
    const [a, b] = [await join("a"), await join("b")];
    await a.directory.addDesiredWorker(specification("w", { models: ["old"] }));
    await b.directory.updateDesiredWorker(specification("w", { models: ["new"] }));
    expect(models(b)).toEqual([["w", "new"]]);
    await vi.waitFor(() => expect(models(a)).toEqual([["w", "new"]]), soon);
    await a.directory.removeDesiredWorker("w");
  });

  it("is changed by all who change it at once, one after the other, and is not changed back to life", async () => {
    const all = [await join("a"), await join("b"), await join("c")];
    await all[0]!.directory.addDesiredWorker(specification("w"));
    const names = ["one", "two", "three"];
    await Promise.all(
      all.map(({ directory }, index) => directory.updateDesiredWorker(specification("w", { models: [names[index]!] }))),
    );
    await vi.waitFor(() => expect(new Set(all.map((mesh) => JSON.stringify(models(mesh)))).size).toBe(1), soon);
    await all[0]!.directory.removeDesiredWorker("w");
    await expect(all[1]!.directory.updateDesiredWorker(specification("w"))).rejects.toMatchObject({
      reason: "WORKER_NOT_FOUND",
    });
  });

  it("can be added again while the one that was removed still runs", async () => {
    const a = await join("a");
    await a.directory.addDesiredWorker(specification("w"));
    a.announceWorker(worker("w"), { added: true });
    await a.directory.removeDesiredWorker("w");
    expect(a.directory.workers().map(({ info }) => info?.name)).toEqual(["w"]);
    await a.directory.addDesiredWorker(specification("w"));
    await a.directory.removeDesiredWorker("w");
  });

  it("can't have the name of one that a configuration file has", async () => {
    const [a, b] = [await join("a"), await join("b")];
    a.announceWorker(worker("file"));
    await vi.waitFor(() => expect(b.directory.workers()).toHaveLength(1), soon);
    await expect(b.directory.addDesiredWorker(specification("file"))).rejects.toMatchObject({
      reason: "WORKER_ALREADY_REGISTERED",
    });
  });
});

describe("draining", () => {
  it("is known to everybody within a second, and undone", async () => {
    const [a, b] = [await join("a"), await join("b")];
    await a.directory.setDrained("w", true);
    expect(drained(a)).toEqual(["w"]);
    await vi.waitFor(() => expect(drained(b)).toEqual(["w"]), soon);
    expect(a.directory.drainedWorkers()).toBe(a.directory.drainedWorkers());
    // At once, without waiting for what the other one has done.
    await a.directory.setDrained("v", true);
    await b.directory.setDrained("v", false);
    await b.directory.setDrained("w", false);
    await vi.waitFor(() => expect([drained(a), drained(b)]).toEqual([[], []]), soon);
  });

  it("is of all replicas of a worker at once, whatever their nodes have announced", async () => {
    const [a, b] = [await join("a"), await join("b")];
    a.announceWorker({ ...worker("w"), draining: true });
    b.announceWorker(worker("w"));
    const told = (mesh: Mesh) => mesh.directory.workers().map(({ info }) => info?.draining);
    await vi.waitFor(
      () =>
        expect([told(a), told(b)]).toEqual([
          [false, false],
          [false, false],
        ]),
      soon,
    );
    await a.directory.setDrained("w", true);
    expect(told(a)).toEqual([true, true]);
    await vi.waitFor(() => expect(told(b)).toEqual([true, true]), soon);
    b.announceWorker({ ...worker("w"), activeRequests: 3 });
    expect(b.directory.workers().map(({ info }) => [info?.draining, info?.activeRequests])).toEqual([
      [true, 0],
      [true, 3],
    ]);
    await b.directory.setDrained("w", false);
    expect(told(b)).toEqual([false, false]);
  });

  it("tells those who listen", async () => {
    const a = await join("a");
    let told = 0;
    a.directory.onChange(() => told++);
    const { generation } = a.directory;
    await a.directory.setDrained("w", true);
    expect(a.directory.generation).toBeGreaterThan(generation);
    await vi.waitFor(() => expect(told).toBeGreaterThan(0), soon);
    await a.directory.setDrained("w", false);
  });

  it("ends with the worker: another one of its name is not drained", async () => {
    const a = await join("a");
    await a.directory.addDesiredWorker(specification("w"));
    await a.directory.setDrained("w", true);
    await a.directory.removeDesiredWorker("w");
    expect(drained(a)).toEqual([]);
    await a.directory.setDrained("v", true);
    await a.directory.addDesiredWorker(specification("v"));
    expect(drained(a)).toEqual([]);
    await a.directory.removeDesiredWorker("v");
  });

  it("is no desired worker, and is remembered when everything was stopped", async () => {
    const a = await join("a");
    await a.directory.setDrained("w", true);
    expect(a.directory.desiredWorkers()).toEqual([]);
    await leave(a);
    const again = await join("a");
    expect(drained(again)).toEqual(["w"]);
    await again.directory.setDrained("w", false);
  });
});

describe("when NATS has lost its data", () => {
  it("what is wanted is restored, and what was undone since then is not", async () => {
    const [a, b] = [await join("a"), await join("b")];
    await a.directory.addDesiredWorker(specification("w", { models: ["m"] }));
    await a.directory.setDrained("w", true);
    await a.directory.setDrained("file", true);
    await vi.waitFor(() => expect(drained(b)).toEqual(["file", "w"]), soon);
    process.kill(nats.pid, "SIGKILL");
    await vi.waitFor(() => expect([a.connected, b.connected]).toEqual([false, false]), { timeout: 5_000 });
    await expect(a.directory.setDrained("w", false)).rejects.toMatchObject({
      reason: "NODE_UNREACHABLE",
      message: expect.stringMatching(/NATS.*Try again/),
    });
    await rm(joinPath(folder, "data"), { recursive: true });
    const { port } = new URL(nats.url);
    nats = await startNatsServer({ bin, storeDir: joinPath(folder, "data"), port: Number(port) });
    await vi.waitFor(async () => a.directory.setDrained("file", false), { timeout: 10_000 });
    await vi.waitFor(() => expect([drained(a), drained(b)]).toEqual([["w"], ["w"]]), { timeout: 10_000 });
    const c = await join("c");
    expect(drained(c)).toEqual(["w"]);
    expect(models(c)).toEqual([["w", "m"]]);
    await c.directory.removeDesiredWorker("w");
  });
});

describe("a worker with a preferred node", () => {
  const wanted = specification("w", { preferredNode: "gpu" });

  it("belongs to it, under its name or its id, and to all nodes when it has none", async () => {
    const [gpu, other] = [await join("gpu"), await join("other")];
    await vi.waitFor(() => expect(other.directory.nodes()).toHaveLength(2), soon);
    const places = (spec: WorkerSpecification) =>
      [gpu, other].map(({ directory }) => directory.belongsHere(spec, false));
    expect(places(wanted)).toEqual([true, false]);
    expect(places(specification("w", { preferredNode: gpu.nodeId }))).toEqual([true, false]);
    expect(places(specification("w"))).toEqual([true, true]);
  });

  it("belongs to the others while the node is not there, leaves it, or has no adapter for it", async () => {
    const other = await join("other");
    expect(other.directory.belongsHere(wanted, false)).toBe(true);
    const router = await join("gpu", ["router"]);
    await vi.waitFor(() => expect(other.directory.nodes()).toHaveLength(2), soon);
    expect(other.directory.belongsHere(wanted, false)).toBe(true);
    await leave(router);
    const gpu = await join("gpu");
    await vi.waitFor(() => expect(other.directory.belongsHere(wanted, false)).toBe(false), soon);
    await gpu.drain();
    await vi.waitFor(() => expect(other.directory.belongsHere(wanted, false)).toBe(true), soon);
  });

  it("stays where it ran instead until the node that is back can serve it", async () => {
    const other = await join("other");
    const gpu = await join("gpu");
    await vi.waitFor(() => expect(other.directory.belongsHere(wanted, false)).toBe(false), soon);
    expect(other.directory.belongsHere(wanted, true)).toBe(true);
    gpu.announceWorker(worker("w"), { added: true });
    await vi.waitFor(() => expect(other.directory.workers()).toHaveLength(1), soon);
    expect(other.directory.belongsHere(wanted, true)).toBe(true);
    gpu.announceWorker({ ...worker("w"), health: Health.AVAILABLE }, { added: true });
    await vi.waitFor(() => expect(other.directory.belongsHere(wanted, true)).toBe(false), soon);
  });
});
