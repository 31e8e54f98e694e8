/** Services that crash in a node: each is restarted alone, and its neighbours go on as if nothing were. */
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { adapterSim } from "../../services/adapter-sim/start.ts";
import { gateway } from "../../services/gateway/start.ts";
import { router } from "../../services/router/start.ts";
import { ServiceChanged_Change as Change, ServiceChanged } from "../gen/cortex/events/v1/events.ts";
import { HealthServiceDefinition, Status } from "../gen/cortex/health/v1/health.ts";
import { joinMesh, type Mesh } from "../mesh/index.ts";
import { connect, RpcError, startCall } from "../rpc/index.ts";
import { createLogger, EVENT, NO_TRACE } from "../telemetry/index.ts";
import { loadConfiguration } from "./config.ts";
import { type Host, type RunningService, type ServiceEntry, StartError } from "./host.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";
import { type RunningNode, startNode } from "./node.ts";
import { type ServiceLife, Supervisor } from "./supervisor.ts";

let folder: string;
let nats: NatsServer;
const ends: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-supervisor-"));
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

const NAMES = { services: ["gateway", "router"], providers: ["sim"] };
const SIM = {
  name: "sim-main",
  provider: "sim",
  keys: [],
  models: ["m"],
  options: { firstTokenMs: 0, tokens: 120, tokensPerSecond: 60 },
};

async function start(...services: ServiceEntry[]): Promise<RunningNode> {
  const environment = { PORT: "0", CORTEX_GRPC_PORT: "0", CORTEX_LOG_LEVEL: "silent", HOSTNAME: "node" };
  const configuration = {
    ...loadConfiguration({ providers: NAMES.providers, environment }),
    grpcPort: 0,
    workers: [SIM],
  };
  const node = await startNode({ configuration, services, natsUrl: nats.url, version: "1", readableLogs: false });
  ends.push(() => node.stop(0));
  return node;
}

/** Another member of the mesh, which hears what becomes of services. */
async function observe(): Promise<{ mesh: Mesh; heard: ServiceChanged[] }> {
  const log = createLogger({ level: "silent", readable: false, node: "observer" });
  const node = { id: "observer", name: "observer", address: "127.0.0.1:1", version: "1", zone: "" };
  const load = () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] });
  const mesh = await joinMesh({ natsUrl: nats.url, node: { ...node, services: [], interfaces: [] }, load, log });
  ends.push(() => mesh.leave());
  const heard: ServiceChanged[] = [];
  mesh.events.subscribe(EVENT.serviceChanged, ServiceChanged, (event) => heard.push(event));
  // Its own event comes back, so the subscription stands.
  await vi.waitFor(() => {
    const probe = { change: Change.UNSPECIFIED, node: "observer", service: "probe", reason: "" };
    mesh.events.publish(EVENT.serviceChanged, ServiceChanged, probe, NO_TRACE);
    expect(heard).not.toHaveLength(0);
  });
  return { mesh, heard };
}

/** A service that answers the HealthService, and crashes when it is told to. */
function crashing(options: { readonly restart?: () => Promise<unknown> } = {}) {
  const victim = { starts: 0, stops: 0, host: undefined as Host | undefined, crash: (_reason: string): void => {} };
  const entry: ServiceEntry = {
    name: "victim",
    interfaces: [HealthServiceDefinition],
    async start(host): Promise<RunningService> {
      victim.starts++;
      if (victim.starts > 1) await options.restart?.();
      victim.host = host;
      host.serve(HealthServiceDefinition, { check: async () => host.health(), getReport: () => host.report() });
      host.run("loop", (signal) => {
        const stopped = once(signal, "abort");
        const crashed = new Promise<never>((_, reject) => {
          victim.crash = (reason) => reject(new RpcError("INTERNAL", reason));
        });
        return Promise.race([stopped.then(() => {}), crashed]);
      });
      return {
        stop: async () => {
          victim.stops++;
        },
      };
    },
  };
  return { victim, entry };
}

async function ask(address: string) {
  const channel = connect(address, {});
  const call = startCall({
    tenant: "",
    admin: false,
    requestId: "test",
    trace: NO_TRACE,
    deadlineAtMs: Date.now() + 10_000,
  });
  try {
    return await channel.client(HealthServiceDefinition).check({}, call);
  } finally {
    call.finish();
    channel.close();
  }
}

/** A text as a client of the gateway sees it, from beginning to end. */
async function stream(node: RunningNode, onBegun: () => unknown = () => {}): Promise<string> {
  const response = await fetch(`${node.addresses["REST"]}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "m", stream: true, messages: [{ role: "user", content: "go on" }] }),
  });
  expect(response.status).toBe(200);
  let text = "";
  for await (const piece of response.body!) {
    if (text === "") onBegun();
    text += Buffer.from(piece).toString();
  }
  return text;
}

const isWhole = (text: string): boolean => text.endsWith("data: [DONE]\n\n") && !text.includes('"error"');

describe("a service whose loop throws", () => {
  it("is restarted alone, while its neighbours stream on", async () => {
    const { victim, entry } = crashing();
    const { heard } = await observe();
    const node = await start(gateway, router, adapterSim, entry);
    let begun = 0;
    const streams = Array.from({ length: 5 }, () => stream(node, () => begun++));
    await vi.waitFor(() => expect(begun).toBe(5), { timeout: 10_000 });
    victim.crash("on command");
    await vi.waitFor(() => expect(victim.starts).toBe(2), { timeout: 10_000 });
    victim.crash("and again");
    await vi.waitFor(() => expect(victim.starts).toBe(3), { timeout: 10_000 });
    for (const text of await Promise.all(streams)) expect(text).toSatisfy(isWhole);
    expect(victim.stops).toBe(2);
    expect((await ask(node.grpcAddress)).status).toBe(Status.HEALTHY);
    await vi.waitFor(() => expect(heard.filter(({ service }) => service === "victim")).toHaveLength(4));
    const told = heard.filter(({ service }) => service === "victim");
    expect(told.map(({ change }) => change)).toEqual([
      Change.CRASHED,
      Change.RESTARTED,
      Change.CRASHED,
      Change.RESTARTED,
    ]);
    expect(told[0]).toEqual({ change: Change.CRASHED, node: node.nodeId, service: "victim", reason: "INTERNAL" });
  });

  it("refuses its calls while it is down, which health tells here and at other nodes, without why", async () => {
    let letStart = (): void => {};
    const { victim, entry } = crashing({
      restart: () =>
        new Promise<void>((resolve) => {
          letStart = resolve;
        }),
    });
    const node = await start(gateway, router, adapterSim, entry);
    const neighbour = await start(crashing().entry);
    expect((await ask(node.grpcAddress)).problems).toEqual([]);
    victim.crash("a secret reason");
    await expect(ask(node.grpcAddress)).rejects.toMatchObject({
      reason: "NODE_UNREACHABLE",
      message: expect.stringContaining("is being restarted"),
    });
    const problem = "service victim has crashed and is being restarted; the log says why";
    const rest = async () => (await (await fetch(`${node.addresses["REST"]}/api/health`)).json()) as object;
    expect(await rest()).toMatchObject({ status: "degraded", problems: [problem] });
    await vi.waitFor(
      async () => expect((await ask(neighbour.grpcAddress)).problems).toContain(`node node: ${problem}`),
      { timeout: 10_000 },
    );
    await vi.waitFor(() => expect(victim.starts).toBe(2), { timeout: 10_000 });
    letStart();
    await vi.waitFor(async () => expect((await ask(node.grpcAddress)).problems).toEqual([]), { timeout: 10_000 });
  });

  it("waits longer before each restart", async () => {
    const lines: { restart_ms?: number }[] = [];
    const log = createLogger({
      level: "error",
      readable: false,
      node: "test",
      destination: { write: (line) => lines.push(JSON.parse(line) as object) },
    });
    let starts = 0;
    const entry: ServiceEntry = {
      name: "hopeless",
      interfaces: [],
      async start() {
        starts++;
        throw new Error("never");
      },
    };
    const supervisor = new Supervisor({
      log,
      hostFor: () => ({}) as Host,
      onChange: () => {},
      drainMs: () => 0,
      random: () => 0.5,
    });
    await supervisor.start([entry]);
    await vi.waitFor(() => expect(starts).toBe(4), { timeout: 10_000 });
    await supervisor.stop();
    expect(lines.slice(0, 3).map((line) => line.restart_ms)).toEqual([100, 200, 400]);
  });

  it("is trusted anew when it has run well for a minute, and not said to run while it crashes as it starts", async () => {
    const pausesMs: unknown[] = [];
    const destination = {
      write: (line: string) => pausesMs.push((JSON.parse(line) as { restart_ms?: number }).restart_ms),
    };
    const changes: string[] = [];
    let starts = 0;
    let crash = (): void => {};
    const entry: ServiceEntry = {
      name: "moody",
      interfaces: [],
      async start(host) {
        const life = host as unknown as ServiceLife;
        crash = () => life.crash(new Error("moody"));
        if (++starts === 2) crash();
        return {};
      },
    };
    const supervisor = new Supervisor({
      log: createLogger({ level: "error", readable: false, node: "test", destination }),
      hostFor: (life) => life as unknown as Host,
      onChange: ({ change }) => changes.push(change),
      drainMs: () => 0,
      random: () => 0.5,
    });
    ends.push(() => supervisor.stop());
    await supervisor.start([entry]);
    crash();
    await vi.waitFor(() => expect(changes).toEqual(["crashed", "crashed", "restarted"]), { timeout: 10_000 });
    expect(pausesMs).toEqual([100, 200]);
    const nowMs = performance.now();
    const clock = vi.spyOn(performance, "now").mockImplementation(() => nowMs + 60_001);
    crash();
    await vi.waitFor(() => expect(changes).toHaveLength(5), { timeout: 10_000 });
    clock.mockRestore();
    expect(pausesMs).toEqual([100, 200, 100]);
  });

  it("serves to the end what it has begun, if it is an adapter, and its workers come back", async () => {
    let crash = (): void => {};
    let starts = 0;
    const fragile: ServiceEntry = {
      ...adapterSim,
      start(host, before) {
        starts++;
        host.run(
          "bomb",
          () =>
            new Promise((_, reject) => {
              crash = () => reject(new Error("on command"));
            }),
        );
        return adapterSim.start(host, before);
      },
    };
    const node = await start(gateway, router, fragile);
    let begun = 0;
    const streams = Array.from({ length: 3 }, () => stream(node, () => ++begun === 3 && crash()));
    for (const text of await Promise.all(streams)) expect(text).toSatisfy(isWhole);
    await vi.waitFor(() => expect(starts).toBe(2), { timeout: 10_000 });
    await vi.waitFor(() => expect(node.workers.workers()).toHaveLength(1), { timeout: 10_000 });
    expect(await stream(node)).toSatisfy(isWhole);
  });

  it("keeps its port and what it streams, if it is the gateway", async () => {
    let crash = (): void => {};
    const fragile: ServiceEntry = {
      ...gateway,
      start(host, before) {
        host.run(
          "bomb",
          () =>
            new Promise((_, reject) => {
              crash = () => reject(new Error("on command"));
            }),
        );
        return gateway.start(host, before);
      },
    };
    const node = await start(fragile, router, adapterSim);
    const { REST } = node.addresses;
    expect(await stream(node, () => crash())).toSatisfy(isWhole);
    await vi.waitFor(() => expect(node.addresses["REST"]).toBe(REST), { timeout: 10_000 });
    expect(await stream(node)).toSatisfy(isWhole);
  });
});

describe("a service that does not start", () => {
  it("is tried again, and the node is there without it", async () => {
    let starts = 0;
    const shy: ServiceEntry = {
      name: "shy",
      interfaces: [],
      async start() {
        starts++;
        if (starts < 3) throw new Error("not today");
        return {};
      },
    };
    const node = await start(gateway, router, adapterSim, shy);
    expect(await stream(node)).toSatisfy(isWhole);
    await vi.waitFor(() => expect(starts).toBe(3), { timeout: 10_000 });
  });

  it("ends the node when it has something to say to who starts it", async () => {
    let stopped = 0;
    const well: ServiceEntry = {
      name: "well",
      interfaces: [],
      start: async () => ({
        stop: async () => {
          stopped++;
        },
      }),
    };
    const wrong: ServiceEntry = {
      name: "wrong",
      interfaces: [],
      start: () => Promise.reject(new StartError("set this to that")),
    };
    await expect(start(well, wrong)).rejects.toThrow("set this to that");
    expect(stopped).toBe(1);
  });
});
