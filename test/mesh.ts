/**
 * A mesh of real processes for end-to-end tests, in the two shapes that Cortex runs in: all services in one node, or each
 * service in a process of its own. The command line, the configuration file, the ports and nats-server are the real ones.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Health } from "../libs/gen/cortex/provider/v1/provider.ts";
import { Locality, RegistryServiceDefinition } from "../libs/gen/cortex/registry/v1/registry.ts";
import { type NatsServer, resolveNatsServer, startNatsServer } from "../libs/host/nats-server.ts";
import { type Channel, connect, type OwnedCall, startCall } from "../libs/rpc/index.ts";
import { NO_TRACE } from "../libs/telemetry/index.ts";

/** The shapes that every end-to-end test runs in. */
export const SHAPES = ["one node", "many nodes"] as const;
export type Shape = (typeof SHAPES)[number];

const ROOT = new URL("..", import.meta.url).pathname;
const READY_TIMEOUT_MS = 20_000;
const EXIT_TIMEOUT_MS = 20_000;

/** Tests, fakes and benches ask the same again and again, and mean to be answered by a provider each time. */
export const CACHE_OFF = { enabled: false } as const;

/** A worker as in cortex.yaml. */
export interface TestWorker {
  readonly name: string;
  readonly provider: string;
  readonly baseUrl?: string;
  readonly models?: readonly string[];
  readonly [setting: string]: unknown;
}

export interface TestMeshOptions {
  readonly workers: readonly TestWorker[];
  /** The rest of cortex.yaml. Without a word on the cache it is off; when it is on, many nodes have a cache service. */
  readonly settings?: Readonly<Record<string, unknown>>;
  readonly environment?: Readonly<Record<string, string>>;
  /** How often each service runs, in the shape of many nodes; once when absent. */
  readonly replicas?: Readonly<Record<string, number>>;
}

/** A process of Cortex. */
export interface TestNode {
  readonly name: string;
  readonly id: string;
  readonly pid: number;
  readonly rest: string | null;
  readonly grpc: string;
  /** Where it tells its metrics. */
  readonly metrics: string | null;
  readonly nats: string;
  /** Everything it has written. */
  output(): string;
  kill(signal: NodeJS.Signals): void;
  /** Resolves with the exit code, or the signal's name. */
  readonly exited: Promise<number | string>;
}

/** A mesh that runs. */
export interface TestMesh extends AsyncDisposable {
  readonly shape: Shape;
  /** `http://127.0.0.1:PORT` of the first gateway. */
  readonly rest: string;
  /** `host:port` of a node that answers the RouterService. */
  readonly grpc: string;
  /** The nats-server that was started last. */
  readonly nats: NatsServer;
  /** Starts nats-server again where the last one was that has ended: same port, same data. */
  reviveNats(): Promise<NatsServer>;
  /** Where its configuration and the data of its nats-server are. */
  readonly folder: string;
  readonly nodes: readonly TestNode[];
  node(name: string): TestNode;
  /** Starts one more process with these services. */
  run(...services: string[]): Promise<TestNode>;
  /** The same under the name `name`, as CORTEX_NODE_NAME gives it. */
  runAs(name: string, ...services: string[]): Promise<TestNode>;
  /** Everything that all processes have written. */
  output(): string;
  /** The names of the workers that are so, in order, as the registry of {@link grpc} tells. */
  workersWithHealth(health: Health): Promise<string[]>;
}

/** Where the tests find nats-server. */
export async function natsServerBin(): Promise<string> {
  return resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: join(process.env["XDG_CACHE_HOME"] || join(process.env["HOME"] ?? tmpdir(), ".cache"), "cortex"),
    notify: (line) => process.stderr.write(`${line}\n`),
  });
}

/** One question to a node over gRPC, with a client's key if there is one. */
export async function ask<T>(
  address: string,
  question: (channel: Channel, call: OwnedCall) => Promise<T>,
  clientKey?: string,
): Promise<T> {
  const channel = connect(address, { clientKey });
  const call = startCall({ tenant: "", requestId: "test", trace: NO_TRACE, deadlineAtMs: Date.now() + 10_000 });
  try {
    return await question(channel, call);
  } finally {
    call.finish();
    channel.close();
  }
}

/** Starts a mesh; resolves when every worker can be asked through the gateway. */
export async function startMesh(shape: Shape, options: TestMeshOptions): Promise<TestMesh> {
  const folder = await mkdtemp(join(tmpdir(), "cortex-test-"));
  const config = join(folder, "cortex.yaml");
  // JSON is YAML.
  const settings = { cache: CACHE_OFF, ...options.settings };
  await writeFile(config, JSON.stringify({ workers: options.workers, ...settings }));
  const storeDir = join(folder, "nats");
  let nats = await startNatsServer({ bin: await natsServerBin(), storeDir });
  const nodes: TestNode[] = [];
  const environment = {
    CORTEX_CONFIG: config,
    CORTEX_DATA: folder,
    CORTEX_NATS_URL: nats.url,
    ...options.environment,
  };

  async function start(
    name: string,
    args: readonly string[],
    more: Readonly<Record<string, string>> = {},
  ): Promise<TestNode> {
    const node = await startNode(name, args, { ...environment, ...more });
    nodes.push(node);
    return node;
  }

  async function dispose(): Promise<void> {
    await Promise.all(nodes.map(endNode));
    await nats.stop();
    await rm(folder, { recursive: true, force: true });
  }

  try {
    if (shape === "one node") await start("cortex", ["up"]);
    else {
      const adapters = new Set(options.workers.map(({ provider }) => `adapter-${provider}`));
      const cache = (settings.cache as { enabled?: boolean }).enabled === true ? ["cache"] : [];
      const services = ["gateway", "router", ...cache, ...adapters];
      await Promise.all(
        services.flatMap((service) =>
          Array.from({ length: options.replicas?.[service] ?? 1 }, (_, index) =>
            start(index === 0 ? service : `${service}-${index + 1}`, ["run", service]),
          ),
        ),
      );
    }
    const find = (name: string): TestNode => {
      const node = nodes.find((known) => known.name === (shape === "one node" ? "cortex" : name));
      if (node === undefined) throw new Error(`there is no node ${name}`);
      return node;
    };
    const mesh: TestMesh = {
      shape,
      rest: find("gateway").rest!,
      grpc: find("router").grpc,
      get nats() {
        return nats;
      },
      reviveNats: async () => {
        nats = await startNatsServer({ bin: await natsServerBin(), storeDir, port: Number(new URL(nats.url).port) });
        return nats;
      },
      folder,
      nodes,
      node: find,
      run: (...names) => start(names.join("+"), ["run", ...names]),
      runAs: (name, ...names) => start(name, ["run", ...names], { CORTEX_NODE_NAME: name }),
      output: () => nodes.map((node) => node.output()).join(""),
      workersWithHealth: async (health) => {
        const { workers } = await ask(find("router").grpc, (channel, call) =>
          channel.client(RegistryServiceDefinition).list({ provider: "", locality: Locality.UNSPECIFIED }, call),
        );
        return workers.flatMap(({ info }) => (info?.health === health ? [info.name] : [])).sort();
      },
      [Symbol.asyncDispose]: dispose,
    };
    const expected = options.workers.flatMap(({ name, models = [] }) => models.map((model) => `${name}/${model}`));
    for (const node of nodes) if (node.rest !== null) await untilServed(node.rest, expected, options);
    return mesh;
  } catch (error) {
    const output = nodes.map((node) => node.output()).join("");
    await dispose();
    throw new Error(`the mesh did not start: ${(error as Error).message}\n${output}`, { cause: error });
  }
}

async function startNode(
  name: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<TestNode> {
  const child = spawn(process.execPath, [join(ROOT, "services", "cortex.ts"), ...args, "--json"], {
    stdio: ["ignore", "pipe", "pipe"],
    env: {
      PATH: process.env["PATH"],
      HOME: process.env["HOME"],
      PORT: "0",
      CORTEX_GRPC_PORT: "0",
      NODE_COMPILE_CACHE: join(ROOT, "node_modules", ".cache", "cortex"),
      ...environment,
    },
  });
  const pieces: string[] = [];
  child.stderr.setEncoding("utf8").on("data", (piece: string) => pieces.push(piece));
  const exited = once(child, "close").then(([code, signal]) => (code ?? signal) as number | string);
  const ready = await readyLine(child, name, exited, pieces);
  return {
    name,
    id: ready.node,
    pid: child.pid!,
    rest: ready.rest,
    grpc: ready.grpc,
    metrics: ready.metrics,
    nats: ready.nats,
    output: () => pieces.join(""),
    kill: (signal) => void child.kill(signal),
    exited,
  };
}

interface Ready {
  readonly event: string;
  readonly node: string;
  readonly rest: string | null;
  readonly grpc: string;
  readonly metrics: string | null;
  readonly nats: string;
}

async function readyLine(
  child: ChildProcess,
  name: string,
  exited: Promise<number | string>,
  pieces: string[],
): Promise<Ready> {
  const lines = createInterface({ input: child.stdout! });
  const line = new Promise<Ready>((resolve) => {
    lines.on("line", (text) => {
      pieces.push(`${text}\n`);
      const parsed = JSON.parse(text) as Ready;
      if (parsed.event === "ready") resolve(parsed);
    });
  });
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${name} was not ready in time:\n${pieces.join("")}`)), READY_TIMEOUT_MS);
  });
  const ended = exited.then((code): never => {
    throw new Error(`${name} ended with ${code}:\n${pieces.join("")}`);
  });
  try {
    return await Promise.race([line, late, ended]);
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  } finally {
    clearTimeout(timer);
    ended.catch(() => {});
  }
}

async function endNode(node: TestNode): Promise<void> {
  node.kill("SIGTERM");
  const timer = setTimeout(() => node.kill("SIGKILL"), EXIT_TIMEOUT_MS);
  await node.exited;
  clearTimeout(timer);
}

/** Waits until the gateway at `rest` lists every model that is expected. */
async function untilServed(rest: string, expected: readonly string[], options: TestMeshOptions): Promise<void> {
  const clients = options.settings?.["clients"] as { key: string }[] | undefined;
  const headers: Record<string, string> = clients === undefined ? {} : { authorization: `Bearer ${clients[0]!.key}` };
  const deadlineMs = performance.now() + READY_TIMEOUT_MS;
  let last = "";
  while (performance.now() < deadlineMs) {
    const response = await fetch(`${rest}/v1/models`, { headers });
    last = await response.text();
    if (response.ok) {
      const { data } = JSON.parse(last) as { data: { id: string }[] };
      const listed = new Set(data.map(({ id }) => id));
      if (expected.every((id) => listed.has(id))) return;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`the gateway never listed ${expected.join(", ")}; it said ${last}`);
}
