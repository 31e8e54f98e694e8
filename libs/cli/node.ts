/** `cortex up` and `cortex run`: a node from start to end. */
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type Configuration,
  checkWorkerSettings,
  loadConfiguration,
  type NatsServer,
  type RunningNode,
  resolveNatsServer,
  type ServiceEntry,
  StartError,
  startNatsServer,
  startNode,
} from "../host/index.ts";

/** A signal came while the node was still starting, as when it waits for a NATS that is not there. */
export class StartInterrupted extends Error {}

export interface NodeCommandOptions {
  readonly config?: string | undefined;
  readonly json?: boolean | undefined;
  readonly services: readonly ServiceEntry[];
  readonly version: string;
}

/** Where a mesh that has a nats-server of its own says how to reach it, for `cortex run` in the same folder. */
const NATS_URL_FILE = "nats-url";
/** A second Ctrl-C ends the process at once; npm passes the first one on a second time, which is not meant so. */
const IMPATIENT_AFTER_MS = 1_000;

/** How long what runs may go on in a process that has failed in an unknown way. */
const FAILED_DRAIN_MS = 5_000;
const UNCAUGHT = "uncaught";

/** The names of the providers that the adapters of `services` speak to. */
export function providersOf(services: readonly ServiceEntry[]): string[] {
  return services.flatMap(({ adapter }) => (adapter === undefined ? [] : [adapter.provider]));
}

/** Runs every service in one node until a signal ends it. */
export async function up(options: NodeCommandOptions): Promise<number> {
  const configuration = configurationOf(options);
  let nats: NatsServer | undefined;
  if (configuration.natsUrl === undefined) nats = await startEmbeddedNats(configuration);
  const urlFile = join(configuration.dataDir, NATS_URL_FILE);
  try {
    if (nats !== undefined) await writeFile(urlFile, `${nats.url}\n`);
    const natsUrl = nats?.url ?? configuration.natsUrl!;
    return await untilStopped(options, configuration, options.services, natsUrl, nats);
  } finally {
    if (nats !== undefined) await rm(urlFile, { force: true });
    await nats?.stop();
  }
}

/** Runs the named services in one node until a signal ends it. */
export async function run(names: readonly string[], options: NodeCommandOptions): Promise<number> {
  const known = options.services.map(({ name }) => name);
  const unknown = names.filter((name) => !known.includes(name));
  if (unknown.length > 0) {
    throw new StartError(`there is no service ${unknown.join(", ")}; there are ${known.join(", ")}`);
  }
  const configuration = configurationOf(options);
  const natsUrl = configuration.natsUrl ?? (await meshOfThisFolder(configuration));
  const services = options.services.filter(({ name }) => names.includes(name));
  // Several nodes of one machine can't all have the same gRPC port: without one of its own, a node takes a free one.
  const grpcPort = configuration.grpcPortGiven ? configuration.grpcPort : 0;
  return untilStopped(options, { ...configuration, grpcPort }, services, natsUrl, undefined);
}

/** What holds for a node: as it is found, or with `text` in the place of what the file says. Throws ConfigurationError. */
function configurationOf({ config, services }: NodeCommandOptions, text?: string): Configuration {
  const loaded = loadConfiguration({ file: config, text, providers: providersOf(services) });
  const configuration = loaded.workersFrom === "nothing" ? withDemonstration(loaded) : loaded;
  checkWorkerSettings(configuration, services);
  return configuration;
}

/** With nothing configured: the Ollama of this machine, and a simulation that answers when there is none. */
export function withDemonstration(configuration: Configuration): Configuration {
  return {
    ...configuration,
    workers: [
      { name: "ollama-local", provider: "ollama", keys: [], assumed: true },
      { name: "sim", provider: "sim", keys: [] },
    ],
  };
}

async function startEmbeddedNats(configuration: Configuration): Promise<NatsServer> {
  const { natsBin, path, cacheDir, dataDir } = configuration;
  try {
    const bin = await resolveNatsServer({
      bin: natsBin,
      path,
      cacheDir,
      notify: (line) => process.stderr.write(`cortex: ${line}\n`),
    });
    await mkdir(dataDir, { recursive: true });
    return await startNatsServer({ bin, storeDir: join(dataDir, "nats") });
  } catch (error) {
    throw new StartError((error as Error).message, { cause: error });
  }
}

async function meshOfThisFolder({ dataDir }: Configuration): Promise<string> {
  try {
    return (await readFile(join(dataDir, NATS_URL_FILE), "utf8")).trim();
  } catch {
    throw new StartError(
      "no mesh to join: set CORTEX_NATS_URL to the NATS that the nodes share (nats://host:4222),\n" +
        "or start `cortex up` in this folder first and run this beside it.",
    );
  }
}

async function untilStopped(
  options: NodeCommandOptions,
  configuration: Configuration,
  services: readonly ServiceEntry[],
  natsUrl: string,
  nats: NatsServer | undefined,
): Promise<number> {
  const stop = stopSignal();
  const { grpcPort } = configuration;
  const starting = startNode({
    configuration,
    reload: (text) => ({ ...configurationOf(options, text), grpcPort }),
    services,
    natsUrl,
    version: options.version,
    readableLogs: options.json !== true && process.stderr.isTTY === true,
  });
  const failure = uncaughtFailure();
  const node = await Promise.race([starting, stop.requested.then(() => undefined)]);
  if (node === undefined) {
    starting.catch(() => {});
    throw new StartInterrupted();
  }
  failure.watch(node);
  greet(node, configuration, natsUrl, options.json === true);
  const ended = await Promise.race([stop.requested, failure.happened, nats?.exited ?? stop.requested]);
  const natsEnded = typeof ended === "object" && !ended.expected;
  if (natsEnded) process.stderr.write(`cortex: nats-server has ended by itself:\n${ended.lines.join("\n")}\n`);
  const failed = ended === UNCAUGHT;
  await node.stop(failed ? FAILED_DRAIN_MS : undefined);
  stop.release();
  failure.release();
  return natsEnded || failed ? 1 : 0;
}

/**
 * Watches for what is thrown and caught by nobody. Of a service of the node, the service is restarted and the process goes on;
 * otherwise nobody knows what is broken: `happened` resolves, and the process should end.
 */
function uncaughtFailure(): { happened: Promise<typeof UNCAUGHT>; watch(node: RunningNode): void; release(): void } {
  let node: RunningNode | undefined;
  let resolve: (happened: typeof UNCAUGHT) => void;
  const happened = new Promise<typeof UNCAUGHT>((done) => {
    resolve = done;
  });
  const onError = (error: unknown) => {
    if (node?.uncaught(error) === true) return;
    if (node === undefined) {
      process.stderr.write(`cortex: ${error instanceof Error ? error.stack : String(error)}\n`);
      process.exit(1);
    }
    node.log.fatal({ err: error }, "an error that belongs to no service was caught by nobody; the node ends");
    resolve(UNCAUGHT);
  };
  process.on("uncaughtException", onError);
  process.on("unhandledRejection", onError);
  return {
    happened,
    watch(running) {
      node = running;
    },
    release() {
      process.off("uncaughtException", onError);
      process.off("unhandledRejection", onError);
    },
  };
}

/** Resolves at SIGINT or SIGTERM. While the node drains, another one, meant impatiently, ends the process at once. */
function stopSignal(): { requested: Promise<string>; release(): void } {
  let askedAtMs: number | undefined;
  let resolve: (signal: string) => void;
  const requested = new Promise<string>((done) => {
    resolve = done;
  });
  const onSignal = (signal: string) => {
    if (askedAtMs === undefined) {
      askedAtMs = performance.now();
      resolve(signal);
    } else if (performance.now() - askedAtMs > IMPATIENT_AFTER_MS) process.exit(130);
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  return {
    requested,
    release() {
      process.off("SIGINT", onSignal);
      process.off("SIGTERM", onSignal);
    },
  };
}

function greet(node: RunningNode, configuration: Configuration, natsUrl: string, json: boolean): void {
  const { nodeId, grpcAddress, metricsAddress, addresses } = node;
  if (json) {
    const ready = {
      event: "ready",
      node: nodeId,
      rest: addresses["REST"] ?? null,
      grpc: grpcAddress,
      metrics: metricsAddress === "" ? null : `http://${metricsAddress}/metrics`,
      nats: natsUrl,
    };
    process.stdout.write(`${JSON.stringify(ready)}\n`);
    return;
  }
  const lines = ["", `Cortex is ready (node ${nodeId})`, ""];
  for (const [name, address] of Object.entries(addresses)) lines.push(`  ${name.padEnd(8)} ${address}`);
  if (metricsAddress !== "") lines.push(`  metrics  http://${metricsAddress}/metrics`);
  lines.push(`  gRPC     ${grpcAddress}`, `  NATS     ${natsUrl.replace(/\/\/[^@/]*@/, "//")}`);
  const workers = node.workers.workers().map((worker) => worker.info());
  for (const { name, provider, baseUrl, health, models, simulated } of workers) {
    const where = simulated ? "a simulation: no model behind it" : `${provider} at ${baseUrl}`;
    const state =
      health === 1
        ? `${models.length} ${models.length === 1 ? "model" : "models"}`
        : "not reachable now; used as soon as it is";
    lines.push(`  worker   ${name} (${where}; ${state})`);
  }
  if (!isLoopback(configuration.host) && configuration.clients.length === 0) {
    lines.push("", `  WARNING: open to everybody who reaches ${configuration.host}, as no client keys are configured.`);
    lines.push("  Set CORTEX_CLIENT_KEYS=key1,key2, or clients: in cortex.yaml, or listen on 127.0.0.1 only.");
  }
  const rest = addresses["REST"];
  if (rest !== undefined) {
    const authorization = configuration.clients.length === 0 ? "" : ` -H "authorization: Bearer $KEY"`;
    lines.push("", "Try it:", "");
    lines.push(`  curl -N ${rest}/v1/chat/completions${authorization} -H 'content-type: application/json' \\`);
    lines.push(`    -d '{"model":"auto","stream":true,"messages":[{"role":"user","content":"Hello!"}]}'`);
  }
  process.stdout.write(`${lines.join("\n")}\n\n`);
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}
