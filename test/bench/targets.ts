/** What is measured, how each is started, and how it is asked. */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { resolveNatsServer, startNatsServer } from "../../libs/host/nats-server.ts";
import { CACHE_OFF } from "../mesh.ts";
import type { Door } from "./checked.ts";
import { MODEL } from "./exchange.ts";
import { cacheFolder, PORTKEY_VERSION, portkeyProgram } from "./portkey.ts";
import type { Processes, Started } from "./processes.ts";

export const KEYS = ["pipe", "portkey", "one", "three"] as const;
export type Key = (typeof KEYS)[number];

export type Target = { key: Key; name: string; door: Door; roots: number[] };

/** Design §10, as factors of the bare pipe. */
export const BUDGET: Partial<Record<Key, { call: number; token: number }>> = {
  one: { call: 2.5, token: 1.3 },
  three: { call: 5, token: 1.7 },
};
export const STREAM_BUDGET_BYTES = 40_000;

export const NAMES: Record<Key, string> = {
  pipe: "bare pipe",
  portkey: `Portkey ${PORTKEY_VERSION}`,
  one: "Cortex, one process",
  three: "Cortex, three processes",
};

export type Surroundings = { processes: Processes; upstream: string; folder: string };

/** A file of the project, from its root. */
function file(path: string): string {
  return fileURLToPath(new URL(`../../${path}`, import.meta.url));
}

/** Starts one of the bench's own programs. */
export function startOwn(processes: Processes, program: string, args: string[] = []): Promise<Started> {
  const path = file(`test/bench/${program}.ts`);
  return processes.start({ name: program, command: process.execPath, args: [path, ...args], ipc: true });
}

export function portOf(started: Started): number {
  if (!started.ready.rest) throw new Error(`${started.name} did not say where it listens`);
  return Number(new URL(started.ready.rest).port);
}

type TargetOptions = { roots: Started[]; headers?: Record<string, string>; natsPid?: number };

function target(key: Key, front: Started, options: TargetOptions): Target {
  const headers = { authorization: "Bearer bench", ...options.headers };
  const roots = options.roots.map(({ child }) => child.pid as number);
  if (options.natsPid !== undefined) roots.push(options.natsPid);
  return { key, name: NAMES[key], door: { port: portOf(front), headers }, roots };
}

async function startPipe({ processes, upstream }: Surroundings): Promise<Target> {
  const pipe = await startOwn(processes, "pipe", [upstream]);
  return target("pipe", pipe, { roots: [pipe] });
}

async function startPortkey({ processes, upstream }: Surroundings): Promise<Target> {
  const program = await portkeyProgram();
  // Headless and in production mode, its leanest: no page, no log of requests. Its listen address cannot be set.
  const args = ["--import", file("test/bench/loopback.ts"), program, "--headless", "--port=0"];
  const portkey = await processes.start({ name: "portkey", command: process.execPath, args, ipc: true });
  const headers = { "x-portkey-provider": "openai", "x-portkey-custom-host": `${upstream}/v1` };
  return target("portkey", portkey, { roots: [portkey], headers });
}

/** Starts `cortex ARGS` with a configuration that knows the fake upstream alone, and has no cache unless it is told of one. */
export async function startCortex(
  { processes, upstream, folder }: Surroundings,
  args: string[],
  options: {
    natsUrl?: string;
    cache?: object;
    replica?: number;
    /** The rest of the configuration. */
    settings?: object;
    environment?: Record<string, string>;
  } = {},
): Promise<Started> {
  const name = `cortex-${[...args, options.replica ?? 1].join("-")}`;
  const config = join(folder, `${name}.json`);
  // JSON is YAML. The pool holds all streams of the bench at once, as the pools of the others do.
  const workers = [
    {
      name: "bench",
      provider: "openai",
      baseUrl: `${upstream}/v1`,
      keys: ["k"],
      models: [MODEL],
      pool: { connections: 10_000 },
      limits: { concurrent: 10_000 },
    },
  ];
  await writeFile(config, JSON.stringify({ workers, cache: options.cache ?? CACHE_OFF, ...options.settings }));
  await mkdir(join(folder, name));
  return processes.start({
    name,
    command: process.execPath,
    args: [file("services/cortex.ts"), ...args, "--json"],
    env: {
      HOST: "127.0.0.1",
      PORT: "0",
      CORTEX_GRPC_PORT: "0",
      CORTEX_DATA: join(folder, name),
      CORTEX_CONFIG: config,
      ...options.environment,
      ...(options.natsUrl ? { CORTEX_NATS_URL: options.natsUrl } : {}),
      ...(process.env["CORTEX_NATS_BIN"] ? { CORTEX_NATS_BIN: process.env["CORTEX_NATS_BIN"] } : {}),
      ...(process.env["XDG_CACHE_HOME"] ? { XDG_CACHE_HOME: process.env["XDG_CACHE_HOME"] } : {}),
    },
  });
}

async function startOne(around: Surroundings): Promise<Target> {
  const node = await startCortex(around, ["up"]);
  return target("one", node, { roots: [node] });
}

/** A nats-server for a mesh of several processes. */
export async function startNats(around: Surroundings): Promise<{ url: string; pid: number }> {
  const bin = await resolveNatsServer({
    bin: process.env["CORTEX_NATS_BIN"],
    path: process.env["PATH"] ?? "",
    cacheDir: cacheFolder(),
    notify: (line) => console.error(line),
  });
  const nats = await startNatsServer({ bin, storeDir: join(around.folder, "nats") });
  around.processes.adopt(() => nats.stop());
  return nats;
}

async function startThree(around: Surroundings): Promise<Target> {
  const nats = await startNats(around);
  const natsUrl = nats.url;
  const adapter = await startCortex(around, ["run", "adapter-openai"], { natsUrl });
  const router = await startCortex(around, ["run", "router"], { natsUrl });
  const gateway = await startCortex(around, ["run", "gateway"], { natsUrl });
  return target("three", gateway, { roots: [gateway, router, adapter], natsPid: nats.pid });
}

const STARTERS: Record<Key, (around: Surroundings) => Promise<Target>> = {
  pipe: startPipe,
  portkey: startPortkey,
  one: startOne,
  three: startThree,
};

export function startTarget(key: Key, around: Surroundings): Promise<Target> {
  return STARTERS[key](around);
}
