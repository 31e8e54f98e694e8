/** The registry over a real directory whose NATS is a map: who may change what, what is refused, and what is listed. */
import { beforeEach, describe, expect, it } from "vitest";
import { DrainedWorker, NodeRecord, RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import { WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import { Locality, WorkerSpecification } from "../../libs/gen/cortex/registry/v1/registry.ts";
import { MeshDirectory } from "../../libs/mesh/directory.ts";
import { systemClock } from "../../libs/mesh/index.ts";
import { drainedKeyOf, keyOf } from "../../libs/mesh/keys.ts";
import { type OwnedCall, RpcError, startCall } from "../../libs/rpc/index.ts";
import { createLogger, NO_TRACE } from "../../libs/telemetry/index.ts";
import { createRegistry } from "./registry.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });

function setUp(active: Readonly<Record<string, number>> = {}) {
  let revision = 0;
  const written = new Set<string>();
  const directory: MeshDirectory = new MeshDirectory({
    self: NodeRecord.create({ id: "here-1", name: "here", services: ["router", "adapter-sim"] }),
    expiryMs: 6_000,
    clock: systemClock,
    log,
    store: {
      async create(specification) {
        if (written.has(specification.name)) return false;
        put(specification);
        return true;
      },
      async replace(specification) {
        if (!written.has(specification.name)) return false;
        put(specification);
        return true;
      },
      async remove(name) {
        if (!written.delete(name)) return false;
        directory.desiredEntry({ key: keyOf(name), revision: ++revision, value: undefined });
        directory.desiredEntry({ key: drainedKeyOf(name), revision: ++revision, value: undefined });
        return true;
      },
      async setDrained(name, drained) {
        const value = drained ? DrainedWorker.encode({ name }).finish() : undefined;
        directory.desiredEntry({ key: drainedKeyOf(name), revision: ++revision, value });
      },
    },
  });
  function put(specification: WorkerSpecification): void {
    written.add(specification.name);
    const value = WorkerSpecification.encode(specification).finish();
    directory.desiredEntry({ key: keyOf(specification.name), revision: ++revision, value });
  }
  const there = NodeRecord.create({
    id: "there-1",
    services: ["adapter-openai"],
    expiresAtMs: Number.MAX_SAFE_INTEGER,
  });
  directory.nodeEntry({ key: keyOf(there.id), revision: 1, value: NodeRecord.encode(there).finish() });
  return {
    directory,
    registry: createRegistry({
      directory,
      nodeId: "here-1",
      activeRequests: (node, name) => active[`${node} ${name}`],
    }),
    run(node: string, name: string, provider = "sim", added = false): void {
      const worker = { node, added, info: WorkerInfo.create({ name, provider, activeRequests: 3 }) };
      if (node === "here-1") directory.setOwnWorker(name, worker.info, added);
      else {
        const value = RunningWorker.encode(worker).finish();
        directory.runningEntry({ key: keyOf(node, name), revision: ++revision, value });
      }
    },
  };
}

function specification(more: Partial<WorkerSpecification> = {}): WorkerSpecification {
  return WorkerSpecification.create({ name: "w", provider: "sim", ...more });
}

const callOf = (admin: boolean): OwnedCall => startCall({ tenant: "t", admin, requestId: "r", trace: NO_TRACE });
const admin = callOf(true);

async function refusal(promise: Promise<unknown>): Promise<RpcError> {
  const thrown = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(thrown).toBeInstanceOf(RpcError);
  return thrown as RpcError;
}

let mesh: ReturnType<typeof setUp>;
beforeEach(() => {
  mesh = setUp();
});

describe("who may change workers", () => {
  it("an administrator, and nobody else; everybody may read", async () => {
    const anybody = callOf(false);
    const { registry } = mesh;
    await registry.register({ worker: specification() }, admin);
    for (const change of [
      registry.register({ worker: specification({ name: "v" }) }, anybody),
      registry.update({ worker: specification() }, anybody),
      registry.drain({ name: "w", undo: false }, anybody),
      registry.remove({ name: "w" }, anybody),
    ]) {
      expect(await refusal(change)).toMatchObject({
        reason: "PERMISSION_DENIED",
        message: expect.stringMatching(/clients\[\]\.admin/),
      });
    }
    expect((await registry.get({ name: "w" }, anybody)).workers).toHaveLength(1);
    expect(mesh.directory.drainedWorkers().size).toBe(0);
  });
});

describe("a specification", () => {
  const wrong: [string, Partial<WorkerSpecification>][] = [
    ["worker.name", { name: "" }],
    ["worker.name", { name: "Upper" }],
    ["worker.name", { name: "a".repeat(65) }],
    ["worker.name", { name: "w.x" }],
    ["worker.provider", { provider: "" }],
    ["worker.provider", { provider: "nope" }],
    ["worker.base_url", { baseUrl: "ftp://host" }],
    ["worker.base_url", { baseUrl: "localhost:8000" }],
    ["worker.base_url", { baseUrl: "http://" }],
    ["worker.base_url", { baseUrl: "http://user:secret@host" }],
    ["worker.models[1]", { models: ["a", ""] }],
    ["worker.capabilities[0]", { capabilities: [""] }],
    ["worker.keys_variable", { keysVariable: "OPENAI_API_KEY" }],
    ["worker.keys_variable", { keysVariable: "CORTEX_KEYS_" }],
    ["worker.preferred_node", { preferredNode: "n".repeat(301) }],
    ["worker.priority", { priority: 10_001 }],
    ["worker.weight", { weight: 10_001 }],
    ["worker.pool_connections", { poolConnections: 0 }],
    ["worker.concurrent_requests_max", { concurrentRequestsMax: 0 }],
    ["worker.tokens_per_second_min", { tokensPerSecondMin: 0 }],
    ["worker.tokens_per_second_min", { tokensPerSecondMin: Number.NaN }],
    ["worker.timeouts.first_token_ms", { timeouts: { firstTokenMs: 0 } }],
    ["worker.timeouts.connect_ms", { timeouts: { connectMs: 1.5 } }],
    ["worker.model_properties", { modelProperties: { "": { capabilities: [] } } }],
    ['worker.model_properties["m"].capabilities', { modelProperties: { m: { capabilities: [""] } } }],
    [
      'worker.model_properties["m"].context_tokens_max',
      { modelProperties: { m: { capabilities: [], contextTokensMax: 0 } } },
    ],
    [
      'worker.model_properties["*"].input_cost_usd_per_million',
      { modelProperties: { "*": { capabilities: [], inputCostUsdPerMillion: -1 } } },
    ],
    ["worker", { models: Array.from({ length: 10_000 }, (_, index) => `model-${index}`) }],
  ];

  it.each(wrong)("whose %s is wrong is refused by its name", async (field, more) => {
    const { registry } = mesh;
    const error = await refusal(registry.register({ worker: specification(more) }, admin));
    expect(error).toMatchObject({ reason: "INVALID_REQUEST", field });
    expect(error.message).toContain(field);
    expect(error.message).not.toContain("secret");
    expect(mesh.directory.desiredWorkers()).toEqual([]);
  });

  it("has to be there, and can have everything", async () => {
    const { registry, directory } = mesh;
    expect(await refusal(registry.register({ worker: undefined }, admin))).toMatchObject({ field: "worker" });
    const full = specification({
      baseUrl: "https://host:8443/v1",
      models: ["m"],
      priority: 0,
      capabilities: ["code"],
      keysVariable: "CORTEX_KEYS_W",
      poolConnections: 10_000,
      concurrentRequestsMax: 1,
      preferredNode: "gpu-1",
      weight: 0,
      modelProperties: { "*": { capabilities: ["vision"], contextTokensMax: 1, outputCostUsdPerMillion: 0 } },
      tokensPerSecondMin: 0.5,
      timeouts: { totalMs: 1 },
    });
    await registry.register({ worker: full }, admin);
    expect(directory.desiredWorkers()).toEqual([full]);
  });

  it("of an unknown provider hears which ones the nodes of the mesh have adapters for", async () => {
    const error = await refusal(mesh.registry.register({ worker: specification({ provider: "vllm" }) }, admin));
    expect(error.message).toContain("adapter for: openai, sim (");
  });
});

describe("a name", () => {
  it("that is taken is refused, whether the worker was added, runs, or comes from a file", async () => {
    const { registry, run } = mesh;
    await registry.register({ worker: specification() }, admin);
    run("there-1", "file", "openai");
    for (const name of ["w", "file"]) {
      expect(await refusal(registry.register({ worker: specification({ name }) }, admin))).toMatchObject({
        reason: "WORKER_ALREADY_REGISTERED",
        message: expect.stringContaining("already registered"),
      });
    }
  });

  it("is free as soon as its worker is removed, though that still runs", async () => {
    const { registry, run } = mesh;
    await registry.register({ worker: specification() }, admin);
    run("there-1", "w", "sim", true);
    await registry.remove({ name: "w" }, admin);
    await registry.register({ worker: specification({ weight: 7 }) }, admin);
    expect((await registry.get({ name: "w" }, admin)).workers[0]?.specification?.weight).toBe(7);
  });
});

describe("a change", () => {
  it("takes the place of what was", async () => {
    const { registry, directory } = mesh;
    await registry.register({ worker: specification({ weight: 1, models: ["a"] }) }, admin);
    await registry.update({ worker: specification({ priority: 3 }) }, admin);
    expect(directory.desiredWorkers()).toEqual([specification({ priority: 3 })]);
  });

  it("is checked like a new worker, and can't be of the provider", async () => {
    const { registry } = mesh;
    await registry.register({ worker: specification() }, admin);
    expect(await refusal(registry.update({ worker: specification({ weight: 99_999 }) }, admin))).toMatchObject({
      field: "worker.weight",
    });
    expect(await refusal(registry.update({ worker: specification({ provider: "openai" }) }, admin))).toMatchObject({
      reason: "INVALID_REQUEST",
      field: "worker.provider",
    });
  });

  it("of a worker from a file is refused, and so is its removal: the file is to be changed", async () => {
    const { registry, run } = mesh;
    run("here-1", "file");
    for (const change of [
      registry.update({ worker: specification({ name: "file" }) }, admin),
      registry.remove({ name: "file" }, admin),
    ]) {
      expect(await refusal(change)).toMatchObject({
        reason: "INVALID_REQUEST",
        message: expect.stringContaining("change cortex.yaml"),
      });
    }
  });

  it("of a worker that does not exist is WORKER_NOT_FOUND", async () => {
    const { registry } = mesh;
    for (const change of [
      registry.update({ worker: specification({ name: "nobody" }) }, admin),
      registry.remove({ name: "nobody" }, admin),
      registry.drain({ name: "nobody", undo: false }, admin),
      registry.drain({ name: "nobody", undo: true }, admin),
      registry.get({ name: "nobody" }, admin),
    ]) {
      expect((await refusal(change)).reason).toBe("WORKER_NOT_FOUND");
    }
  });
});

describe("draining", () => {
  it("is for workers of any origin, and can be undone", async () => {
    const { registry, directory, run } = mesh;
    await registry.register({ worker: specification() }, admin);
    run("there-1", "file", "openai");
    await registry.drain({ name: "w", undo: false }, admin);
    await registry.drain({ name: "file", undo: false }, admin);
    expect([...directory.drainedWorkers()]).toEqual(["w", "file"]);
    await registry.drain({ name: "file", undo: true }, admin);
    expect([...directory.drainedWorkers()]).toEqual(["w"]);
  });
});

describe("the list", () => {
  async function listed(filter: { provider?: string; locality?: Locality } = {}): Promise<string[]> {
    const request = { provider: "", locality: Locality.UNSPECIFIED, ...filter };
    const { workers } = await mesh.registry.list(request, admin);
    return workers.map(({ info, node }) => `${info?.name}@${node}`);
  }

  beforeEach(async () => {
    await mesh.registry.register({ worker: specification({ name: "added", preferredNode: "gpu" }) }, admin);
    await mesh.registry.register({ worker: specification({ name: "waiting", provider: "openai" }) }, admin);
    mesh.run("here-1", "added", "sim", true);
    mesh.run("here-1", "local");
    mesh.run("there-1", "remote", "openai");
    mesh.run("there-1", "local");
  });

  it("has every worker on every node, and those that should run and don't", async () => {
    expect(await listed()).toEqual(["added@here-1", "local@here-1", "local@there-1", "remote@there-1", "waiting@"]);
  });

  it("is by provider, by locality, and by both", async () => {
    expect(await listed({ provider: "openai" })).toEqual(["remote@there-1", "waiting@"]);
    expect(await listed({ locality: Locality.LOCAL })).toEqual(["added@here-1", "local@here-1"]);
    expect(await listed({ locality: Locality.REMOTE })).toEqual(["local@there-1", "remote@there-1"]);
    expect(await listed({ locality: Locality.REMOTE, provider: "sim" })).toEqual(["local@there-1"]);
    expect(await listed({ provider: "nope" })).toEqual([]);
  });

  it("tells who was added, where it should run, and how it should be", async () => {
    const { workers } = await mesh.registry.get({ name: "added" }, admin);
    expect(workers).toMatchObject([
      { added: true, preferredNode: "gpu", locality: Locality.LOCAL, specification: { name: "added" } },
    ]);
    const [file] = (await mesh.registry.get({ name: "remote" }, admin)).workers;
    expect(file).toMatchObject({ added: false, preferredNode: "", locality: Locality.REMOTE });
    expect(file?.specification).toBeUndefined();
  });

  it("tells how many requests each serves now, and only of a node that has not said so what it announced", async () => {
    mesh = setUp({ "there-1 local": 7, "here-1 local": 0 });
    mesh.run("here-1", "local");
    mesh.run("there-1", "local");
    mesh.run("there-1", "silent");
    const { workers } = await mesh.registry.list({ provider: "", locality: Locality.UNSPECIFIED }, admin);
    expect(workers.map(({ node, info }) => [node, info!.name, info!.activeRequests])).toEqual([
      ["here-1", "local", 0],
      ["there-1", "local", 7],
      ["there-1", "silent", 3],
    ]);
  });

  it("tells how many workers each node runs that could run some", async () => {
    expect(await mesh.registry.getDistribution({}, admin)).toEqual({ workersByNode: { "here-1": 2, "there-1": 2 } });
    mesh = setUp();
    expect(await mesh.registry.getDistribution({}, admin)).toEqual({ workersByNode: { "here-1": 0, "there-1": 0 } });
  });
});
