/** Workers of a node that are added, changed, drained and removed at run time, as another node of the mesh hears of it. */
import { mkdtemp, rm } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import {
  collect,
  createTestDialect,
  GOOD,
  REQUEST,
  serveHttp,
  startSse,
  startTestCall,
} from "../adapter/test-provider.ts";
import { WorkerChanged_Change as Change, WorkerChanged } from "../gen/cortex/events/v1/events.ts";
import type { RunningWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { joinMesh, type Mesh } from "../mesh/index.ts";
import { createLogger, EVENT } from "../telemetry/index.ts";
import { adapterService, dialectService } from "./adapter.ts";
import { type Configuration, loadConfiguration } from "./config.ts";
import type { Host, ServiceEntry } from "./host.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";
import { type RunningNode, startNode } from "./node.ts";

let folder: string;
let nats: NatsServer;
let host: Host;
const ends: (() => Promise<unknown>)[] = [];
const soon = { timeout: 10_000, interval: 10 };
const log = createLogger({ level: "silent", readable: false, node: "test" });

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-running-"));
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

/** Shows the node as its services see it. */
const witness: ServiceEntry = {
  name: "witness",
  interfaces: [],
  start: async (given) => {
    host = given;
    return {};
  },
};

const testAdapter = dialectService("test", () => createTestDialect("sse"));

async function start(workers: Configuration["workers"] = [], adapter = testAdapter): Promise<RunningNode> {
  const environment = { HOSTNAME: "runs", CORTEX_LOG_LEVEL: "silent", CORTEX_GRPC_PORT: "1" };
  const loaded = loadConfiguration({ text: "workers: []", providers: [], environment });
  const configuration = { ...loaded, grpcPort: 0, workers };
  const services = [adapter, witness];
  const node = await startNode({ configuration, services, natsUrl: nats.url, version: "1", readableLogs: false });
  ends.push(() => node.stop(0));
  return node;
}

async function observe(): Promise<Mesh> {
  const node = { id: "watches", name: "watches", address: "127.0.0.1:1", services: [], interfaces: [] };
  const load = () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] });
  const mesh = await joinMesh({ natsUrl: nats.url, node: { ...node, version: "1", zone: "" }, load, log });
  ends.push(() => mesh.leave());
  return mesh;
}

const seenBy = (mesh: Mesh, name: string): RunningWorker | undefined =>
  mesh.directory.workers().find(({ info }) => info?.name === name);

/** A worker that should run; it is forgotten at the end of the test. */
function specify(name: string, fields: Partial<WorkerSpecification>): WorkerSpecification {
  ends.push(() => host.mesh.directory.removeDesiredWorker(name).catch(() => {}));
  return WorkerSpecification.fromPartial({ name, provider: "test", models: ["m"], ...fields });
}

describe("a worker that is added", () => {
  it("runs with everything that its specification says", async () => {
    await using provider = await serveHttp((_request, response) => void response.end("{}"));
    await start();
    const mesh = await observe();
    const modelProperties = { m: { capabilities: ["tools"], contextTokensMax: 9 } };
    const specification = specify("full", {
      baseUrl: provider.url,
      priority: 3,
      weight: 4,
      capabilities: ["code"],
      modelProperties,
      poolConnections: 5,
      concurrentRequestsMax: 6,
      tokensPerSecondMin: 7,
      timeouts: { totalMs: 1 },
    });
    await host.mesh.directory.addDesiredWorker(specification);
    await vi.waitFor(() => expect(seenBy(mesh, "full")).toBeDefined(), soon);
    expect(seenBy(mesh, "full")).toMatchObject({
      added: true,
      info: {
        baseUrl: provider.url,
        priority: 3,
        weight: 4,
        capabilities: ["code"],
        modelProperties,
        pool: { size: 5 },
        concurrentRequestsMax: 6,
        tokensPerSecondMin: 7,
      },
    });
    const call = startTestCall();
    await expect(
      host.workers.service.complete({ worker: "full", completion: REQUEST, lastResort: false }, call),
    ).rejects.toMatchObject({ reason: expect.stringMatching(/^PROVIDER_/) });
  });

  it("and changed serves to the end with its old settings what it has begun, and the rest with the new ones", async () => {
    const answers: ServerResponse[] = [];
    await using before = await serveHttp((request, response) => {
      request.resume();
      if (request.url === "/chat") answers.push(startSse(response));
      else response.end("{}");
    });
    await using after = await serveHttp((request, response) => {
      request.resume();
      if (request.url === "/chat") startSse(response).end(GOOD);
      else response.end("{}");
    });
    await start();
    const mesh = await observe();
    await host.mesh.directory.addDesiredWorker(specify("moves", { baseUrl: before.url }));
    await vi.waitFor(() => expect(seenBy(mesh, "moves")).toBeDefined(), soon);
    const ask = () =>
      collect(
        host.workers.service.stream({ worker: "moves", completion: REQUEST, lastResort: false }, startTestCall()),
      );
    const first = ask();
    await vi.waitFor(() => expect(answers).toHaveLength(1));
    await host.mesh.directory.updateDesiredWorker(specify("moves", { baseUrl: after.url, priority: 2 }));
    await vi.waitFor(() => expect(seenBy(mesh, "moves")?.info).toMatchObject({ priority: 2 }), soon);
    expect((await ask()).text).toBe("Hello");
    answers[0]!.end(GOOD);
    expect((await first).text).toBe("Hello");
  });

  it("that can't be made is announced nowhere, told to people, and made when it is mended", async () => {
    await start();
    const mesh = await observe();
    await host.mesh.directory.addDesiredWorker(specify("odd", { baseUrl: "no address" }));
    await vi.waitFor(() => expect(host.health().problems[0]).toMatch(/^worker odd can't run as it should: /), soon);
    expect(seenBy(mesh, "odd")).toBeUndefined();
    expect(host.workers.workers()).toEqual([]);
    await host.mesh.directory.updateDesiredWorker(specify("odd", { baseUrl: "http://127.0.0.1:1" }));
    await vi.waitFor(() => expect(seenBy(mesh, "odd")).toBeDefined(), soon);
    expect(host.health().problems.join()).not.toContain("can't run");

    // One that serves goes on as it is rather than not at all.
    await host.mesh.directory.updateDesiredWorker(specify("odd", { baseUrl: "no address" }));
    await vi.waitFor(() => expect(host.health().problems.join()).toContain("can't run"), soon);
    expect(seenBy(mesh, "odd")?.info?.baseUrl).toBe("http://127.0.0.1:1");
    await host.mesh.directory.removeDesiredWorker("odd");
    await vi.waitFor(() => expect(seenBy(mesh, "odd")).toBeUndefined(), soon);
    expect(host.health().problems.join()).not.toContain("can't run");
  });

  it("is the file's if the file has one of its name", async () => {
    const settings = { name: "both", provider: "test", keys: [], models: ["m"], priority: 1 };
    await start();
    const mesh = await observe();
    await host.mesh.directory.addDesiredWorker(specify("both", { baseUrl: "http://127.0.0.1:1", priority: 9 }));
    await vi.waitFor(() => expect(seenBy(mesh, "both")).toMatchObject({ added: true, info: { priority: 9 } }), soon);
    await ends.pop()!();
    await start([settings]);
    await vi.waitFor(() => expect(seenBy(mesh, "both")).toMatchObject({ added: false, info: { priority: 1 } }), soon);
  });

  it("is there all the time when it is removed and added again in one breath", async () => {
    await using provider = await serveHttp((_request, response) => void response.end("{}"));
    await start();
    const mesh = await observe();
    const told: Change[] = [];
    mesh.events.subscribe(EVENT.workerChanged, WorkerChanged, ({ change, info }) => {
      if (info?.name === "back" && (change === Change.STARTED || change === Change.STOPPED)) told.push(change);
    });
    const specification = specify("back", { baseUrl: provider.url });
    const { directory } = host.mesh;
    await directory.addDesiredWorker(specification);
    await vi.waitFor(() => expect(host.workers.workers()).toHaveLength(1), soon);
    const [worker] = host.workers.workers();
    await directory.removeDesiredWorker("back");
    await directory.addDesiredWorker(specification);
    await vi.waitFor(() => expect(seenBy(host.mesh, "back")).toBeDefined(), soon);
    expect(host.workers.workers()).toEqual([worker]);
    // Whoever was told that it leaves is told that it stays.
    await vi.waitFor(() => expect(told.at(-1)).toBe(Change.STARTED), soon);
  });

  it("and changed before it has answered leaves nothing of itself behind", async () => {
    await using silent = await serveHttp(() => {});
    await using provider = await serveHttp((_request, response) => void response.end("{}"));
    const closed: string[] = [];
    const { createWorker } = testAdapter.adapter!;
    const watched = adapterService("test", (settings, dependencies) => {
      const worker = createWorker(settings, dependencies);
      const close = worker.close.bind(worker);
      worker.close = () => {
        closed.push(settings.baseUrl!);
        return close();
      };
      return worker;
    });
    await start([], watched);
    await host.mesh.directory.addDesiredWorker(specify("hasty", { baseUrl: silent.url }));
    await host.mesh.directory.updateDesiredWorker(specify("hasty", { baseUrl: provider.url }));
    await vi.waitFor(() => expect(seenBy(host.mesh, "hasty")?.info?.baseUrl).toBe(provider.url), soon);
    expect(closed).toEqual([silent.url]);
  });
});

describe("a worker that is drained", () => {
  it("is known to be so at once, also when it has just been changed, until it is not", async () => {
    await start([{ name: "tired", provider: "test", keys: [], models: ["m"], baseUrl: "http://127.0.0.1:1" }]);
    const mesh = await observe();
    await vi.waitFor(() => expect(seenBy(mesh, "tired")?.info?.draining).toBe(false), soon);
    await mesh.directory.setDrained("tired", true);
    ends.push(() => mesh.directory.setDrained("tired", false));
    await vi.waitFor(() => expect(seenBy(mesh, "tired")?.info?.draining).toBe(true), soon);
    await mesh.directory.setDrained("tired", false);
    await vi.waitFor(() => expect(seenBy(mesh, "tired")?.info?.draining).toBe(false), soon);
  });
});
