/** What a worker tells the mesh, as another node hears it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { createHttpWorker, createProviderService, type WorkerSettings } from "../adapter/index.ts";
import { createTestDialect, REQUEST, serveHttp, startTestCall, type TestServer } from "../adapter/test-provider.ts";
import { KeyChanged, KeyChanged_Change, WorkerChanged } from "../gen/cortex/events/v1/events.ts";
import { BreakerState, Health, KeyState, type WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { joinMesh, type Mesh } from "../mesh/index.ts";
import { RpcError } from "../rpc/index.ts";
import { createLogger, EVENT, silentTracer } from "../telemetry/index.ts";
import { adapterService } from "./adapter.ts";
import type { Host, RunningService } from "./host.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";

const log = createLogger({ level: "silent", readable: false, node: "test" });
const FINGERPRINT_OF_K = "8254c329";

let folder: string;
let nats: NatsServer;
let provider: TestServer;
/** What the provider answers, and to which key. */
let answer: (key: string | undefined) => number;
const ends: (() => Promise<unknown> | undefined)[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-adapter-"));
  const bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: join(tmpdir(), "cortex-test-cache"),
    notify: () => {},
  });
  nats = await startNatsServer({ bin, storeDir: join(folder, "data") });
  provider = await serveHttp((request, response) => {
    request.resume();
    const chat = request.url === "/chat";
    response.writeHead(chat ? answer(request.headers.authorization?.slice(7)) : 200).end('{"text":"Hello"}');
  });
});

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

afterAll(async () => {
  await provider[Symbol.asyncDispose]();
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

/** A node that runs one worker, and another node that watches. */
async function start(name: string, settings: Partial<WorkerSettings>) {
  const [mesh, observer] = await Promise.all([joined(`${name}-runs`), joined(`${name}-watches`)]);
  const workers = createProviderService();
  const error = (status: number) =>
    new RpcError(
      status === 429 ? "PROVIDER_RATE_LIMITED" : status === 401 ? "PROVIDER_REFUSED_KEY" : "PROVIDER_ERROR",
      "no",
      {
        retryAfterMs: status === 429 ? 2_000 : undefined,
      },
    );
  const dialect = createTestDialect("sse", { error });
  const worker = { name, provider: "test", baseUrl: provider.url, keys: [], models: ["m"], ...settings };
  const host = {
    nodeId: `${name}-runs`,
    configuration: { workers: [worker], health: { intervalMs: 30_000 } },
    onConfiguration: () => () => {},
    run: (_name: string, loop: (signal: AbortSignal) => Promise<void>) => void loop(new AbortController().signal),
    problem: () => {},
    mesh,
    workers,
    tracer: silentTracer,
    log,
  };
  const service: RunningService = await adapterService("test", (given, dependencies) =>
    createHttpWorker(dialect, given, dependencies),
  ).start(host as unknown as Host);
  ends.push(() => service.stop?.());
  const seen = (): WorkerInfo | undefined => observer.directory.workers().find(({ info }) => info?.name === name)?.info;
  await vi.waitFor(() => expect(seen()?.health).toBe(Health.AVAILABLE), { timeout: 10_000 });
  const ask = () =>
    workers
      .workers()[0]!
      .complete(REQUEST, startTestCall())
      .catch((thrown: RpcError) => thrown);
  return { observer, seen, ask };
}

describe("a worker", () => {
  it("whose breaker opens is known to rest on other nodes within a second", async () => {
    const { observer, seen, ask } = await start("breaks", { breaker: { failures: 2, resetMs: 2_000 } });
    const events: WorkerChanged[] = [];
    observer.events.subscribe(EVENT.workerChanged, WorkerChanged, (event) => events.push(event));
    answer = () => 500;
    await ask();
    await ask();
    const openedAtMs = performance.now();
    await vi.waitFor(() => expect(seen()?.breaker).toBe(BreakerState.OPEN), { timeout: 1_000, interval: 5 });
    expect(performance.now() - openedAtMs).toBeLessThan(1_000);
    expect(seen()?.breakerStatistics).toMatchObject({ failures: 2, failuresInRow: 2, opened: 1 });
    await vi.waitFor(() => expect(seen()?.breaker).toBe(BreakerState.HALF_OPEN), { timeout: 10_000, interval: 5 });
    answer = () => 200;
    await ask();
    await vi.waitFor(() => expect(seen()?.breaker).toBe(BreakerState.CLOSED), { timeout: 10_000, interval: 5 });
    const heard = () => new Set(events.map(({ info }) => info?.breaker));
    await vi.waitFor(() => expect(heard()).toContain(BreakerState.CLOSED), { timeout: 10_000 });
  });

  it("tells what becomes of its keys, by their fingerprints alone", async () => {
    const { observer, seen, ask } = await start("keyed", { keys: ["k", "canary-key"] });
    const events: KeyChanged[] = [];
    observer.events.subscribe(EVENT.keyChanged, KeyChanged, (event) => events.push(event));
    answer = (key) => (key === "k" ? 429 : 401);
    // The subscription is on its way; what is told meanwhile is heard by nobody.
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await ask()).toMatchObject({ reason: "PROVIDER_RATE_LIMITED" });
    await vi.waitFor(() => expect(seen()?.keys.map(({ state }) => state)).toEqual([KeyState.RESTING, KeyState.OUT]), {
      timeout: 1_000,
      interval: 5,
    });
    expect(seen()).toMatchObject({ health: Health.BUSY });
    await vi.waitFor(() => expect(events).toHaveLength(3), { timeout: 10_000 });
    const { RESTED, OUT, BACK } = KeyChanged_Change;
    const [rested, out, back] = [RESTED, OUT, BACK].map((change) => events.find((event) => event.change === change));
    const key = { node: "keyed-runs", worker: "keyed", provider: "test", fingerprint: FINGERPRINT_OF_K };
    expect(rested).toMatchObject({ ...key, reason: "PROVIDER_RATE_LIMITED" });
    expect(rested?.restingUntilMs).toBeGreaterThan(Date.now() - 10_000);
    expect(out).toMatchObject({ reason: "PROVIDER_REFUSED_KEY", restingUntilMs: 0 });
    expect(back).toMatchObject({ ...key, reason: "", restingUntilMs: 0 });
    await vi.waitFor(() => expect(seen()?.health).toBe(Health.AVAILABLE), { timeout: 10_000, interval: 5 });
    expect(JSON.stringify([events, observer.directory.workers()])).not.toContain("canary");
  });
});
