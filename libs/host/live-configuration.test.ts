/** A configuration file that changes under a running node: what is good is in force at once, and what is not changes nothing. */
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { adapterSim } from "../../services/adapter-sim/start.ts";
import { gateway } from "../../services/gateway/start.ts";
import { router } from "../../services/router/start.ts";
import { ConfigurationChanged } from "../gen/cortex/events/v1/events.ts";
import { joinMesh } from "../mesh/index.ts";
import { createLogger, EVENT } from "../telemetry/index.ts";
import { checkWorkerSettings } from "./adapter.ts";
import { type Configuration, loadConfiguration } from "./config.ts";
import type { Host, ServiceEntry } from "./host.ts";
import { LiveConfiguration } from "./live-configuration.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "./nats-server.ts";
import { type RunningNode, startNode } from "./node.ts";

let data: string;
let folder: string;
let file: string;
let nats: NatsServer;
const ends: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  data = await mkdtemp(join(tmpdir(), "cortex-live-nats-"));
  const bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: join(tmpdir(), "cortex-test-cache"),
    notify: () => {},
  });
  nats = await startNatsServer({ bin, storeDir: join(data, "nats") });
});

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "cortex-live-"));
  file = join(folder, "cortex.yaml");
});

afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
  await rm(folder, { recursive: true, force: true });
});

afterAll(async () => {
  await nats.stop();
  await rm(data, { recursive: true, force: true });
});

type Settings = Readonly<Record<string, unknown>>;

/** A reference to a variable of the environment. */
const SECRET = ["$", "{SECRET}"].join("");
const FAST = { firstTokenMs: 0, tokens: 3, tokensPerSecond: 1_000 };
const sim = (name: string, settings: Settings = {}) => ({
  name,
  provider: "sim",
  models: ["m"],
  options: FAST,
  ...settings,
});
/** JSON is YAML. */
const write = (workers: readonly Settings[], settings: Settings = {}) =>
  writeFile(file, JSON.stringify({ workers, ...settings }));

let host: Host;
/** Shows the node as its services see it. */
const witness: ServiceEntry = {
  name: "witness",
  interfaces: [],
  start: async (given) => {
    host = given;
    return {};
  },
};
const SERVICES = [gateway, router, adapterSim, witness];

function load(text?: string): Configuration {
  const environment = {
    PORT: "0",
    CORTEX_GRPC_PORT: "1",
    HOSTNAME: "node",
    CORTEX_LOG_LEVEL: "silent",
    SECRET: "canary",
  };
  const loaded = loadConfiguration({ file, text, providers: ["sim"], environment });
  checkWorkerSettings(loaded, SERVICES);
  return { ...loaded, grpcPort: 0 };
}

async function start(initial: Configuration = load()): Promise<RunningNode> {
  const node = await startNode({
    configuration: initial,
    reload: load,
    services: SERVICES,
    natsUrl: nats.url,
    version: "1",
    readableLogs: false,
  });
  ends.push(() => node.stop(0));
  return node;
}

function ask(node: RunningNode, model: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  return fetch(`${node.addresses["REST"]}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "hello" }] }),
  });
}

const running = (node: RunningNode): string[] => node.workers.workers().map(({ name }) => name);
const problems = (): readonly string[] => host.health().problems;
const soon = { timeout: 10_000, interval: 20 };

describe("a configuration file that changes", () => {
  it("adds, changes and removes workers, and not one request is refused meanwhile", async () => {
    await write([sim("always"), sim("leaves")]);
    const node = await start();
    const statuses = new Map<number, number>();
    let asking = true;
    const clients = Array.from({ length: 4 }, async () => {
      while (asking) {
        const { status } = await ask(node, "m");
        statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    });
    await write([sim("always", { priority: 7 }), sim("comes", { models: ["m", "n"] })]);
    await vi.waitFor(() => expect(running(node).sort()).toEqual(["always", "comes"]), soon);
    await vi.waitFor(() => expect(node.workers.info("always")?.priority).toBe(7), soon);
    for (let priority = 8; priority < 12; priority++) {
      await write([sim("always", { priority })]);
      await vi.waitFor(() => expect(node.workers.info("always")?.priority).toBe(priority), soon);
    }
    await vi.waitFor(() => expect(running(node)).toEqual(["always"]), soon);
    asking = false;
    await Promise.all(clients);
    expect([...statuses.keys()]).toEqual([200]);
    expect(problems()).toEqual([]);
  });

  it("lets a request end with the worker that it began with", async () => {
    await write([sim("slow", { options: { firstTokenMs: 0, tokens: 60, tokensPerSecond: 30 } })]);
    const node = await start();
    const answer = ask(node, "m");
    await vi.waitFor(() => expect(node.workers.info("slow")?.activeRequests).toBe(1), soon);
    await write([sim("slow")]);
    await vi.waitFor(() => expect(node.workers.info("slow")?.activeRequests).toBe(0), soon);
    // The new one answers at once, the old one is still speaking.
    expect((await ask(node, "m")).status).toBe(200);
    const { choices } = (await (await answer).json()) as { choices: { message: { content: string } }[] };
    expect(choices[0]!.message.content.split(" ").length).toBeGreaterThan(30);
  });

  it("changes routes, client keys and limits of the gateway, and tells the mesh", async () => {
    await write([sim("a")]);
    const node = await start();
    const mesh = await joinMesh({
      natsUrl: nats.url,
      node: { id: "o", name: "o", address: "127.0.0.1:1", services: [], interfaces: [], version: "1", zone: "" },
      load: () => ({ callsInFlight: 0, eventLoopDelayMs: 0, problems: [] }),
      log: createLogger({ level: "silent", readable: false, node: "o" }),
    });
    ends.push(() => mesh.leave());
    const heard: ConfigurationChanged[] = [];
    mesh.events.subscribe(EVENT.configurationChanged, ConfigurationChanged, (event) => heard.push(event));
    expect((await ask(node, "fast")).status).toBe(404);
    const heardAll = () => expect(heard).toContainEqual({ node: node.nodeId, accepted: true, problems: 0 });
    for (let bodyBytesMax = 100; heard.length === 0; bodyBytesMax++) {
      await write([sim("a")], {
        routing: { models: { fast: ["a/m"] } },
        clients: [{ key: SECRET, tenant: "t" }],
        gateway: { bodyBytesMax },
      });
      await vi.waitFor(() => expect(host.configuration.gateway.bodyBytesMax).toBe(bodyBytesMax), soon);
    }
    await vi.waitFor(heardAll, soon);
    const authorization = "Bearer canary";
    expect((await ask(node, "fast")).status).toBe(401);
    expect((await ask(node, "fast", { authorization })).status).toBe(200);
    expect((await ask(node, "m".repeat(200), { authorization })).status).toBe(413);
  });

  it("takes over nothing of a file with mistakes, and shows each until they are mended", async () => {
    await write([sim("a")]);
    const node = await start();
    const before = host.configuration;
    await write([sim("a", { priority: -1 }), sim("b", { provider: "nobody" })], { colour: "blue" });
    await vi.waitFor(() => expect(problems()).toHaveLength(1), soon);
    const [problem] = problems();
    expect(problem).toMatch(/^the configuration file cortex\.yaml has mistakes since .*, so the one before it holds: /);
    for (const field of ["workers[0].priority", "workers[1].provider", "colour"]) expect(problem).toContain(field);
    expect(host.configuration).toBe(before);
    expect(running(node)).toEqual(["a"]);
    expect((await ask(node, "m")).status).toBe(200);

    // A mistake that only the adapter knows.
    await write([sim("b"), sim("a", { options: { pace: 1 } })]);
    await vi.waitFor(() => expect(problems()[0]).toContain("worker a: options.pace"), soon);
    expect(running(node)).toEqual(["a"]);

    await write([sim("a"), sim("b")]);
    await vi.waitFor(() => expect(running(node)).toEqual(["a", "b"]), soon);
    expect(problems()).toEqual([]);

    // What is as it was needs no change to be mended.
    await writeFile(file, "workers: [");
    await vi.waitFor(() => expect(problems()).toHaveLength(1), soon);
    await write([sim("a"), sim("b")]);
    await vi.waitFor(() => expect(problems()).toEqual([]), soon);
  });

  it.each([
    ["cache", { cache: { ttlMs: 1_234 } }],
    ["health", { health: { intervalMs: 12_345 } }],
    ["routing", { routing: { waitMaxMs: 123 } }],
  ])("is told in the log by what of it has changed: %s", async (part, settings) => {
    await write([sim("a")]);
    const lines: string[] = [];
    const destination = { write: (line: string) => lines.push(line) };
    const live = new LiveConfiguration({
      initial: load(),
      load,
      log: createLogger({ level: "info", readable: false, node: "", destination }),
      onReloaded: () => {},
    });
    ends.push(() => live.stop());
    live.follow();
    await write([sim("a")], settings);
    await vi.waitFor(() => expect(lines.map((line) => JSON.parse(line).changed)).toEqual([[part]]), soon);
  });

  it("shows nothing of a secret that a mistake is about", async () => {
    await write([sim("a")]);
    await start();
    await write([sim("a", { baseUrl: SECRET, provider: SECRET })]);
    await vi.waitFor(() => expect(problems()).toHaveLength(1), soon);
    expect(problems()[0]).toContain("workers[0].baseUrl");
    expect(problems()[0]).not.toContain("canary");
  });

  it.each([
    ["is deleted", () => rm(file), "it is not there any more"],
    ["is empty", () => writeFile(file, "\n"), "it is empty"],
    ["is no file", () => rm(file).then(() => mkdir(file)), "it can't be read"],
  ])("holds when it %s", async (_what, spoil, problem) => {
    await write([sim("a")]);
    const node = await start();
    await spoil();
    await vi.waitFor(() => expect(problems()[0]).toContain(problem), soon);
    expect((await ask(node, "m")).status).toBe(200);
    await rm(file, { recursive: true, force: true });
    await write([sim("a")]);
    await vi.waitFor(() => expect(problems()).toEqual([]), soon);
  });

  it("is followed when another file is put in its place, as editors do, or another folder, as Kubernetes does", async () => {
    for (const [version, name] of [
      ["one", "first"],
      ["two", "second"],
    ] as const) {
      await mkdir(join(folder, version));
      await writeFile(join(folder, version, "cortex.yaml"), JSON.stringify({ workers: [sim(name)] }));
    }
    await symlink("one", join(folder, "data"));
    await symlink(join("data", "cortex.yaml"), file);
    const node = await start();
    expect(running(node)).toEqual(["first"]);
    await symlink("two", join(folder, "data.new"));
    await rename(join(folder, "data.new"), join(folder, "data"));
    await vi.waitFor(() => expect(running(node)).toEqual(["second"]), soon);
    await writeFile(join(folder, "edited"), JSON.stringify({ workers: [sim("third")] }));
    await rename(join(folder, "edited"), file);
    await vi.waitFor(() => expect(running(node)).toEqual(["third"]), soon);
  });

  it("is found when there was none before", async () => {
    const node = await start({ ...load("workers: []"), file: undefined });
    expect(running(node)).toEqual([]);
    await write([sim("a")]);
    await vi.waitFor(() => expect(running(node)).toEqual(["a"]), soon);
  });
});
