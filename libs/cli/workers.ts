/** `cortex workers`: lists the workers of the mesh, adds, changes and removes them, and drains them. */
import Table from "cli-table3";
import { type Command, InvalidArgumentError } from "commander";
import { Health, type KeyInfo, KeyState, ModelProperties } from "../gen/cortex/provider/v1/provider.ts";
import {
  Locality,
  type RegisteredWorker,
  RegistryServiceDefinition,
  WorkerSpecification,
  type WorkerTimeouts,
} from "../gen/cortex/registry/v1/registry.ts";
import { BREAKER_NAMES, HEALTH_NAMES, KEY_NAMES } from "../host/index.ts";
import { CATALOGUE, type Call, isReason, RpcError, type Service } from "../rpc/index.ts";
import { type ClientOptions, QUESTION_TIMEOUT_MS, withNode } from "./client.ts";

type Registry = Service<typeof RegistryServiceDefinition>;

const LOCALITY_NAMES: Record<Locality, string | null> = {
  [Locality.UNSPECIFIED]: null,
  [Locality.LOCAL]: "local",
  [Locality.REMOTE]: "remote",
};

/** Adds the commands to `program`; `common` gives a command the options that all have, `ended` takes the exit code. */
export function addWorkerCommands(
  program: Command,
  common: (command: Command) => Command,
  ended: (exitCode: number) => void,
): void {
  const workers = program.command("workers").description("the workers of the mesh");
  common(workers.command("list"))
    .description("list the workers, where they run and how they are")
    .option("--provider <provider>", "only those of one provider", "")
    .option("--local", "only those that run in the node that is asked")
    .option("--remote", "only those that run in other nodes")
    .action(async (options: ListOptions) => ended(await listWorkers(options)));
  common(workers.command("distribution"))
    .description("say how many workers each node runs")
    .action(async (options: ClientOptions) => ended(await showDistribution(options)));
  for (const command of [workers.command("add"), program.command("add-worker", { hidden: true })]) {
    withSpecification(common(command))
      .description("add a worker; it serves at once, and again after a restart")
      .argument("<name>", "lower-case letters, digits and hyphens")
      .requiredOption("--provider <provider>", "ollama, openai (and every OpenAI-compatible server), sim, …")
      .action(async (name: string, options: ChangeOptions) => ended(await addWorker(name, options)));
  }
  withSpecification(common(workers.command("update")))
    .description(`change a worker that was added; what is not named stays, "${DEFAULT}" takes a setting back`)
    .argument("<name>")
    .action(async (name: string, options: ChangeOptions) => ended(await updateWorker(name, options)));
  common(workers.command("remove"))
    .description("remove a worker that was added; requests that it serves end undisturbed")
    .argument("<name>")
    .action(async (name: string, options: ClientOptions) => ended(await removeWorker(name, options)));
  common(workers.command("drain"))
    .description("send a worker no new requests, until it is undrained")
    .argument("<name>")
    .action(async (name: string, options: ClientOptions) => ended(await drainWorker(name, false, options)));
  common(workers.command("undrain"))
    .description("let a drained worker take requests again")
    .argument("<name>")
    .action(async (name: string, options: ClientOptions) => ended(await drainWorker(name, true, options)));
}

// What a worker is to be.

/** Takes a setting back to what it is without it. */
const DEFAULT = "default";

type Setting<T> = T | typeof DEFAULT;

interface ChangeOptions extends ClientOptions {
  readonly provider?: string;
  readonly baseUrl?: Setting<string>;
  readonly models?: Setting<string[]>;
  readonly capabilities?: Setting<string[]>;
  readonly keysVariable?: Setting<string>;
  readonly preferredNode?: Setting<string>;
  readonly priority?: Setting<number>;
  readonly weight?: Setting<number>;
  readonly concurrent?: Setting<number>;
  readonly connections?: Setting<number>;
  readonly tokensPerSecondMin?: Setting<number>;
  readonly connectMs?: Setting<number>;
  readonly poolMs?: Setting<number>;
  readonly firstTokenMs?: Setting<number>;
  readonly stallMs?: Setting<number>;
  readonly totalMs?: Setting<number>;
  readonly modelProperties?: Setting<Record<string, ModelProperties>>;
}

function withSpecification(command: Command): Command {
  return command
    .option("--base-url <url>", "where it is; the provider's own when absent")
    .option("--models <models>", "its models, separated by commas; asked from the provider when absent", readList)
    .option("--priority <number>", "lower is tried first", readNumber)
    .option("--capabilities <words>", "what it can do, separated by commas: code,vision,tools", readList)
    .option("--keys-variable <name>", "the variable on the adapter's node that holds its keys: CORTEX_KEYS_…")
    .option("--weight <number>", "its share under the strategy weighted", readNumber)
    .option("--concurrent <number>", "requests served at once", readNumber)
    .option("--connections <number>", "connections to the provider", readNumber)
    .option("--tokens-per-second-min <number>", "a stream that begins slower counts as broken", readNumber)
    .option("--connect-ms <number>", "time-out until the connection stands", readNumber)
    .option("--pool-ms <number>", "time-out for a free connection", readNumber)
    .option("--first-token-ms <number>", "time-out until the first content", readNumber)
    .option("--stall-ms <number>", "time-out between two pieces of an answer", readNumber)
    .option("--total-ms <number>", "time-out for the whole attempt", readNumber)
    .option("--model-properties <json>", "what is known of its models, as in cortex.yaml", readModelProperties)
    .option("--preferred-node <name>", "the node that should run it while it is there, by its name or id");
}

function readList(text: string): Setting<string[]> {
  if (text === DEFAULT) return DEFAULT;
  return text.split(",").map((item) => item.trim());
}

function readNumber(text: string): Setting<number> {
  if (text === DEFAULT) return DEFAULT;
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0 && value <= UINT32_MAX)) {
    throw new InvalidArgumentError(`It has to be a number, at least 0, or ${DEFAULT}.`);
  }
  return value;
}

/** The most that the contract's numbers hold. */
const UINT32_MAX = 4_294_967_295;

function readModelProperties(text: string): Setting<Record<string, ModelProperties>> {
  if (text === DEFAULT) return DEFAULT;
  const form = `It has to be JSON: {"MODEL": {"contextTokensMax": 128000}}.`;
  let models: unknown;
  try {
    models = JSON.parse(text);
  } catch {
    throw new InvalidArgumentError(form);
  }
  if (!isObject(models)) throw new InvalidArgumentError(form);
  return Object.fromEntries(
    Object.entries(models).map(([model, properties]) => {
      if (!isObject(properties)) throw new InvalidArgumentError(form);
      for (const [name, value] of Object.entries(properties)) checkProperty(model, name, value);
      return [model, ModelProperties.fromPartial(properties)];
    }),
  );
}

type Check = readonly [rule: string, isKept: (value: unknown) => boolean];

const AMOUNT: Check = ["a number, at least 0", (value) => typeof value === "number" && value >= 0];

/** What can be said of a model, and what it has to be. */
const MODEL_PROPERTIES: Readonly<Record<keyof ModelProperties, Check>> = {
  capabilities: ["a list of texts", (value) => Array.isArray(value) && value.every((word) => typeof word === "string")],
  contextTokensMax: [
    "a whole number, at least 1",
    (value) => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= UINT32_MAX,
  ],
  inputCostUsdPerMillion: AMOUNT,
  outputCostUsdPerMillion: AMOUNT,
};

function checkProperty(model: string, name: string, value: unknown): void {
  const [rule, isKept] = Object.hasOwn(MODEL_PROPERTIES, name) ? MODEL_PROPERTIES[name as keyof ModelProperties] : [];
  if (isKept === undefined) {
    const known = Object.keys(MODEL_PROPERTIES).join(", ");
    throw new InvalidArgumentError(
      `Of ${JSON.stringify(model)}, there is no ${JSON.stringify(name)}; there are ${known}.`,
    );
  }
  if (!isKept(value)) throw new InvalidArgumentError(`Of ${JSON.stringify(model)}, ${name} has to be ${rule}.`);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function specificationOf(base: WorkerSpecification, options: ChangeOptions): WorkerSpecification {
  const timeouts: WorkerTimeouts = {
    connectMs: chosen(options.connectMs, base.timeouts?.connectMs, undefined),
    poolMs: chosen(options.poolMs, base.timeouts?.poolMs, undefined),
    firstTokenMs: chosen(options.firstTokenMs, base.timeouts?.firstTokenMs, undefined),
    stallMs: chosen(options.stallMs, base.timeouts?.stallMs, undefined),
    totalMs: chosen(options.totalMs, base.timeouts?.totalMs, undefined),
  };
  return {
    name: base.name,
    provider: options.provider ?? base.provider,
    baseUrl: chosen(options.baseUrl, base.baseUrl, ""),
    models: chosen(options.models, base.models, []),
    capabilities: chosen(options.capabilities, base.capabilities, []),
    keysVariable: chosen(options.keysVariable, base.keysVariable, ""),
    preferredNode: chosen(options.preferredNode, base.preferredNode, ""),
    priority: chosen(options.priority, base.priority, undefined),
    weight: chosen(options.weight, base.weight, undefined),
    concurrentRequestsMax: chosen(options.concurrent, base.concurrentRequestsMax, undefined),
    poolConnections: chosen(options.connections, base.poolConnections, undefined),
    tokensPerSecondMin: chosen(options.tokensPerSecondMin, base.tokensPerSecondMin, undefined),
    modelProperties: chosen(options.modelProperties, base.modelProperties, {}),
    timeouts: Object.values(timeouts).some((value) => value !== undefined) ? timeouts : undefined,
  };
}

function chosen<T>(given: Setting<Exclude<T, undefined>> | undefined, current: T, fallback: T): T {
  if (given === undefined) return current;
  return given === DEFAULT ? fallback : given;
}

/** The options that a field of the contract is given by, where they are called otherwise. */
const OPTION_NAMES: Readonly<Record<string, string>> = {
  name: "the name",
  concurrent_requests_max: "--concurrent",
  pool_connections: "--connections",
};

/** Tells what is wrong with a worker in the words of the command line. */
function inWordsOfOptions(error: RpcError): RpcError {
  if (error.field?.startsWith("worker.") !== true) return error;
  const field = error.field.slice("worker.".length);
  const option =
    OPTION_NAMES[field] ??
    `--${field
      .replace(/^timeouts\./, "")
      .replace(/[[.].*$/, "")
      .replaceAll("_", "-")}`;
  return new RpcError(
    error.reason,
    error.message.replace(error.field, () => option),
    { cause: error },
  );
}

// The commands.

function askRegistry<T>(options: ClientOptions, ask: (registry: Registry, call: Call) => Promise<T>): Promise<T> {
  return withNode(options, QUESTION_TIMEOUT_MS, async (channel, call) => {
    try {
      return await ask(channel.client(RegistryServiceDefinition), call);
    } catch (error) {
      throw error instanceof RpcError ? inWordsOfOptions(error) : error;
    }
  });
}

/** How long a command waits to see what has become of its change. */
const EFFECT_WAIT_MS = 2_000;
const EFFECT_POLL_MS = 50;

async function addWorker(name: string, options: ChangeOptions): Promise<number> {
  const worker = specificationOf(WorkerSpecification.fromPartial({ name }), options);
  return askRegistry(options, async (registry, call) => {
    await registry.register({ worker }, call);
    const running = await whenRunning(registry, name, call);
    tell(
      options,
      { worker: name, change: "added", running: running.map(plainOf) },
      `worker ${name} was added; ${whereOf(running)}${whyNot(running)}`,
    );
    return 0;
  });
}

async function updateWorker(name: string, options: ChangeOptions): Promise<number> {
  const { address: _address, key: _key, json: _json, ...settings } = options;
  if (Object.keys(settings).length === 0) {
    throw new RpcError("INVALID_REQUEST", "name a setting to change: cortex workers update --help lists them");
  }
  return askRegistry(options, async (registry, call) => {
    const { workers } = await registry.get({ name }, call);
    // One that was not added is refused by the registry, which says what to do.
    const base = workers.find(({ specification }) => specification !== undefined)?.specification;
    const worker = specificationOf(
      base ?? WorkerSpecification.fromPartial({ name, provider: workers[0]!.info!.provider }),
      options,
    );
    await registry.update({ worker }, call);
    tell(options, { worker: name, change: "updated" }, `worker ${name} was changed`);
    return 0;
  });
}

async function removeWorker(name: string, options: ClientOptions): Promise<number> {
  await askRegistry(options, (registry, call) => registry.remove({ name }, call));
  tell(options, { worker: name, change: "removed" }, `worker ${name} was removed`);
  return 0;
}

async function drainWorker(name: string, undo: boolean, options: ClientOptions): Promise<number> {
  return askRegistry(options, async (registry, call) => {
    await registry.drain({ name, undo }, call);
    if (undo) {
      tell(options, { worker: name, change: "undrained" }, `worker ${name} takes new requests again`);
      return 0;
    }
    const { workers } = await registry.get({ name }, call);
    const active = workers.reduce((sum, { info }) => sum + info!.activeRequests, 0);
    const rest = active === 0 ? "and serves none" : `and ends the ${active} that it serves`;
    tell(
      options,
      { worker: name, change: "drained", activeRequests: active },
      `worker ${name} takes no new requests ${rest}`,
    );
    return 0;
  });
}

async function showDistribution(options: ClientOptions): Promise<number> {
  const { workersByNode } = await askRegistry(options, (registry, call) => registry.getDistribution({}, call));
  const table = new Table({ head: ["node", "workers"], style: { head: [], border: [] } });
  for (const node of Object.keys(workersByNode).sort()) table.push([node, workersByNode[node]]);
  tell(options, { workersByNode }, table.toString());
  return 0;
}

interface ListOptions extends ClientOptions {
  readonly provider: string;
  readonly local?: boolean;
  readonly remote?: boolean;
}

async function listWorkers(options: ListOptions): Promise<number> {
  const { provider, local = false, remote = false } = options;
  const locality = local === remote ? Locality.UNSPECIFIED : local ? Locality.LOCAL : Locality.REMOTE;
  const { workers } = await askRegistry(options, (registry, call) => registry.list({ provider, locality }, call));
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify(workers.map(plainOf), null, 2)}\n`);
    return 0;
  }
  const nobody = `no ${local === remote ? "" : local ? "local " : "remote "}workers ${provider === "" ? "" : `of provider ${provider} `}are running`;
  const head = ["worker", "provider", "priority", "health", "breaker", "keys", "active", "models", "node", "origin"];
  const table = new Table({ head, style: { head: [], border: [] } });
  for (const { info, node, added } of workers) {
    const { name, priority, health, breaker, keys, activeRequests, models, draining } = info!;
    const shown = models.length > 3 ? `${models.slice(0, 3).join(", ")} +${models.length - 3}` : models.join(", ");
    const state = [
      `${HEALTH_NAMES[health]}${draining ? ", draining" : ""}`,
      BREAKER_NAMES[breaker],
      summarizeKeys(keys),
    ];
    const place = node === "" ? "(none runs it)" : node;
    table.push([
      name,
      info!.provider,
      priority,
      ...state,
      activeRequests,
      shown,
      place,
      added ? "added" : "configured",
    ]);
  }
  process.stdout.write(workers.length === 0 ? `${nobody}\n` : `${table.toString()}\n${writeTroubles(workers)}`);
  return 0;
}

/** A line for each worker that can't serve: why, and what to do. */
function writeTroubles(workers: readonly RegisteredWorker[]): string {
  const lines = workers.flatMap(({ info, node }) => {
    const { name, reason, message } = info!;
    if (reason === "") return [];
    const remedy = isReason(reason) ? ` ${CATALOGUE[reason].remedy}` : "";
    return [`  - ${name} on ${node}: ${[message, `(${reason}).`].filter(Boolean).join(" ")}${remedy}\n`];
  });
  return lines.join("");
}

/** The worker's entries as soon as a node runs it and knows how it is, or as they are when that takes too long. */
async function whenRunning(registry: Registry, name: string, call: Call): Promise<RegisteredWorker[]> {
  const untilMs = performance.now() + EFFECT_WAIT_MS;
  for (;;) {
    const { workers } = await registry.get({ name }, call);
    const running = workers.filter(({ node }) => node !== "");
    const known = running.some(({ info }) => info!.health !== Health.UNSPECIFIED);
    if (known || performance.now() > untilMs) return running;
    await new Promise((resolve) => setTimeout(resolve, EFFECT_POLL_MS));
  }
}

function whereOf(running: readonly RegisteredWorker[]): string {
  if (running.length === 0) return "no node runs it yet: see the log of the nodes with its adapter";
  return running
    .map(({ info, node }) => {
      const { length } = info!.models;
      return `${HEALTH_NAMES[info!.health]} on ${node} with ${length} ${length === 1 ? "model" : "models"}`;
    })
    .join(", ");
}

/** Why a worker that runs can't serve, and what to do about it. */
function whyNot(running: readonly RegisteredWorker[]): string {
  const down = running.filter(({ info }) => info!.health === Health.UNAVAILABLE);
  return down.length === 0 ? "" : `\nit is used as soon as it answers\n${writeTroubles(down)}`.trimEnd();
}

function plainOf({ info, node, locality, added, preferredNode }: RegisteredWorker): object {
  return {
    ...info,
    health: HEALTH_NAMES[info!.health],
    breaker: BREAKER_NAMES[info!.breaker],
    keys: info!.keys.map((key) => ({ ...key, state: KEY_NAMES[key.state] })),
    node: node === "" ? null : node,
    locality: LOCALITY_NAMES[locality],
    added,
    preferredNode: preferredNode === "" ? null : preferredNode,
  };
}

/** `2 of 3` when one can't be used; nothing for a worker without keys. */
export function summarizeKeys(keys: readonly KeyInfo[]): string {
  const usable = keys.filter(({ state }) => state === KeyState.AVAILABLE).length;
  if (keys.length === 0) return "";
  return usable === keys.length ? String(keys.length) : `${usable} of ${keys.length}`;
}

function tell(options: ClientOptions, plain: object, words: string): void {
  process.stdout.write(options.json === true ? `${JSON.stringify(plain)}\n` : `${words}\n`);
}
