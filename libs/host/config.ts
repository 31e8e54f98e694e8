/**
 * Configuration: `cortex.yaml`, the environment, and what follows when neither says anything. The only room that reads the
 * environment. Every mistake is reported at once, each with its field.
 */
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { resolve } from "node:path";
import { parseDocument } from "yaml";
import { z } from "zod";
import type { WorkerSettings } from "../adapter/index.ts";
import { fieldName, mistakesOf } from "./configuration-mistakes.ts";
import { readTracing, type TracingSettings, tracingSchema } from "./tracing-settings.ts";

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "silent"] as const;
const nonEmpty = z.string().min(1);
const milliseconds = z.int().positive();

const workerSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$/, "must be lower-case letters, digits and hyphens, at most 64")
    .describe("Unique in the mesh."),
  provider: nonEmpty.describe(
    "The adapter that speaks to it: ollama, openai (and every OpenAI-compatible server), groq, gemini, anthropic, sim.",
  ),
  baseUrl: z
    .url({ protocol: /^https?$/, error: "has to be an address that begins with http:// or https://" })
    .optional()
    .describe("The provider's own when absent."),
  keys: z
    .array(nonEmpty)
    .optional()
    .describe(
      "References to environment variables, never a key itself. When absent: PROVIDER_API_KEYS or PROVIDER_API_KEY.",
    ),
  models: z.array(nonEmpty).min(1).optional().describe("Asked from the provider when absent."),
  priority: z.int().min(0).max(10_000).optional().describe("Lower is tried first."),
  capabilities: z
    .array(nonEmpty)
    .optional()
    .describe("What all its models can do: code, vision, tools, …; docs/routing.md lists the words."),
  weight: z.int().min(0).max(10_000).optional().describe("Its share under the strategy weighted; 1 by default."),
  modelProperties: z
    .record(
      nonEmpty,
      z.strictObject({
        capabilities: z.array(nonEmpty).default([]).describe("Instead of the worker's own."),
        contextTokensMax: z.int().positive().optional().describe("Prompt and answer together."),
        inputCostUsdPerMillion: z.number().min(0).optional().describe("US dollars for a million tokens."),
        outputCostUsdPerMillion: z.number().min(0).optional().describe("US dollars for a million tokens."),
      }),
    )
    .optional()
    .describe('What is known of its models, by name; "*" stands for all others.'),
  pool: z
    .strictObject({
      connections: z.int().positive().max(10_000).optional().describe("Open to the provider at once."),
      keepAliveMs: milliseconds.optional().describe("How long an idle connection is kept."),
    })
    .optional(),
  limits: z
    .strictObject({
      concurrent: z.int().positive().optional().describe("Requests served at once."),
      tokensPerSecondMin: z
        .number()
        .positive()
        .optional()
        .describe("A stream that begins slower counts as broken; no such limit by default."),
    })
    .optional(),
  timeouts: z
    .strictObject({
      connectMs: milliseconds.optional().describe("Until the connection stands."),
      poolMs: milliseconds.optional().describe("Waiting for a free connection."),
      firstTokenMs: milliseconds.optional().describe("Until the first content."),
      stallMs: milliseconds.optional().describe("Between two pieces of an answer."),
      totalMs: milliseconds.optional().describe("For the whole attempt."),
    })
    .optional(),
  breaker: z
    .strictObject({
      failures: z.int().positive().optional().describe("After how many it opens; 5 by default."),
      resetMs: milliseconds.optional().describe("Until a trial is let through; 30,000 by default."),
    })
    .optional(),
  options: z.record(z.string(), z.unknown()).optional().describe("What only this provider's adapter understands."),
});

/** The names of the strategies; docs/routing.md says what each does. */
export const STRATEGY_NAMES = [
  "local_first",
  "round_robin",
  "least_loaded",
  "weighted",
  "latency",
  "cost",
  "affinity",
] as const;
/** The name of a strategy. */
export type StrategyName = (typeof STRATEGY_NAMES)[number];
const strategy = z.enum(STRATEGY_NAMES);

const routeTargets = z.array(nonEmpty).min(1).describe("Models, each tried only when those before it have failed.");
const routeSchema = z.strictObject({
  targets: routeTargets,
  strategy: strategy.optional().describe("Orders the workers of all targets together."),
  continuation: z.boolean().optional().describe("Instead of routing.continuation."),
  hedging: z.boolean().optional().describe("Instead of routing.hedging.enabled."),
});

const fileSchema = z.strictObject({
  workers: z.array(workerSchema).optional(),
  routing: z
    .strictObject({
      strategy: strategy.default("local_first").describe("The order in which workers are tried; docs/routing.md."),
      models: z
        .record(
          nonEmpty,
          z.union(
            [routeTargets.transform((targets) => ({ targets })), routeSchema],
            "expected a list of models, or targets with options",
          ),
        )
        .default({})
        .describe(
          "Routes: a name that clients ask for, or a pattern such as gpt-*, and the models that it stands for, " +
            "first choice first.",
        ),
      attemptsMax: z.int().positive().max(100).default(8).describe("Attempts for one request, all workers together."),
      waitMaxMs: z
        .int()
        .min(0)
        .default(10_000)
        .describe("How long a request waits for a worker that rests, when nobody else is left; 0 for not at all."),
      retryRatio: z
        .number()
        .min(0)
        .max(1)
        .default(0.2)
        .describe("A worker that has failed is tried again at most so often, as a part of all requests."),
      continuation: z
        .boolean()
        .default(true)
        .describe("A text whose worker fails in the middle is continued by another one."),
      hedging: z
        .strictObject({
          enabled: z.boolean().default(false).describe("Ask a second worker when the first one is late."),
          ratio: z.number().positive().max(1).default(0.02).describe("At most so many extra calls, as a part of all."),
        })
        .prefault({}),
      queue: z
        .strictObject({
          size: z.int().min(0).max(1_000_000).default(1_000).describe("Requests that wait, in each router."),
          waitMaxMs: z.int().positive().default(30_000).describe("How long one waits at most."),
        })
        .prefault({})
        .describe("For requests whose workers are all at limits.concurrent."),
      timeoutMs: milliseconds.default(1_800_000).describe("For a whole request, unless the client gives a deadline."),
    })
    .prefault({}),
  cache: z
    .strictObject({
      enabled: z.boolean().default(true).describe("Answers are kept, and identical requests share one call."),
      ttlMs: milliseconds.default(900_000).describe("For how long an answer is kept."),
      temperatureMax: z.number().min(0).max(2).default(0.9).describe("Answers to requests above it are not kept."),
      tokensMax: z
        .int()
        .positive()
        .default(2_000)
        .describe("Longer answers are not kept; four characters are a token."),
      l1: z
        .strictObject({
          entries: z.int().min(0).default(10_000).describe("In each router; 0 for no first level."),
          bytes: z
            .int()
            .min(0)
            .default(100 * 1024 * 1024),
        })
        .prefault({}),
      l2: z
        .strictObject({
          entries: z.int().min(0).default(50_000).describe("In each node of the cache service; 0 for no second level."),
          bytes: z
            .int()
            .min(0)
            .default(500 * 1024 * 1024),
          timeoutMs: milliseconds.default(200).describe("A look-up that takes longer is a miss."),
        })
        .prefault({}),
      l3: z
        .strictObject({
          url: z
            .url({ protocol: /^rediss?$/ })
            .describe("redis://[user:password@]host:port[/database], or rediss:// for TLS."),
          timeoutMs: milliseconds.default(50).describe("A look-up that takes longer is a miss."),
        })
        .optional()
        .describe("A store behind the second level that outlives the mesh; none by default."),
    })
    .prefault({}),
  gateway: z
    .strictObject({
      bodyBytesMax: z
        .int()
        .positive()
        .default(32 * 1024 * 1024),
      keepAliveMs: milliseconds.default(15_000).describe("Between the comments that keep a silent stream open."),
    })
    .prefault({}),
  clients: z
    .array(
      z.strictObject({
        key: nonEmpty,
        tenant: nonEmpty.default("default"),
        admin: z.boolean().default(false).describe("May add, change, remove and drain workers."),
      }),
    )
    .default([])
    .describe("Keys that clients must send. Without any, everybody who reaches the port is served."),
  node: z
    .strictObject({
      zone: z.string().default("").describe("Where the node is, for whoever reads the directory."),
      drainMs: milliseconds.default(30_000).describe("How long a stopping node waits for its streams to end."),
      metricsPort: z
        .int()
        .min(0)
        .max(65_535)
        .optional()
        .describe(
          "Where it answers /metrics, /live and /ready; 0 for any free port. A node with a gateway needs none.",
        ),
    })
    .prefault({}),
  metrics: z
    .strictObject({
      enabled: z.boolean().default(true).describe("Nodes count what they do, and tell it at /metrics."),
      token: nonEmpty
        .optional()
        .describe("What a scraper sends as Authorization: Bearer TOKEN; an administrator's client key does too."),
      eventsBytesMax: z
        .int()
        .min(1_048_576)
        .default(536_870_912)
        .describe("How much of NATS' disk the events of the last hour may take; the oldest give way."),
      memoryBytesMax: z
        .int()
        .min(1_048_576)
        .default(268_435_456)
        .describe("How much memory the summaries of the last hour may take; beyond it, the oldest get coarser."),
    })
    .prefault({}),
  health: z
    .strictObject({
      intervalMs: milliseconds
        .default(30_000)
        .describe("How often each worker is asked how it is, unless its requests have shown it."),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z.enum(LOG_LEVELS).default("info").describe("From this level on."),
    })
    .prefault({}),
  tracing: tracingSchema,
});

type ConfigurationFile = z.output<typeof fileSchema>;

/** Where the workers come from; `nothing` means that Ollama is looked for and `sim` answers if there is none. */
export type WorkersFrom = "file" | "environment" | "nothing";

/** Everything a node is told. */
export interface Configuration extends Omit<ConfigurationFile, "workers" | "tracing"> {
  readonly workers: readonly WorkerSettings[];
  readonly workersFrom: WorkersFrom;
  /** The file that was read; undefined if none. */
  readonly file: string | undefined;
  /** Where the file is, or would be. */
  readonly filePath: string;
  readonly host: string;
  readonly restPort: number;
  readonly grpcPort: number;
  /** The environment names the gRPC port. */
  readonly grpcPortGiven: boolean;
  /** Where the node tells how it is, over HTTP; undefined where a gateway may do so. */
  readonly metricsPort: number | undefined;
  readonly natsUrl: string | undefined;
  readonly natsBin: string | undefined;
  /** Where the embedded nats-server keeps its state. */
  readonly dataDir: string;
  readonly cacheDir: string;
  readonly path: string;
  readonly hostname: string;
  /** What people call the node, also when it is started again. */
  readonly nodeName: string;
  readonly tracing: TracingSettings;
}

/** One or more mistakes in the configuration. Its message is for the person who wrote it. */
export class ConfigurationError extends Error {
  override readonly name = "ConfigurationError";
  readonly problems: readonly string[];

  /** `file` is where the mistakes are; undefined when it is not a file. Each problem is a sentence. */
  constructor(file: string | undefined, problems: readonly string[]) {
    const head = `the configuration${file === undefined ? "" : ` in ${file}`} is not right:`;
    super([head, ...problems.map((problem) => `  - ${problem}`)].join("\n"));
    this.problems = problems;
  }
}

/** Providers that give out keys: on as soon as a key is in the environment. */
const ENVIRONMENT_WORKERS: readonly { variable: string; worker: Omit<WorkerSettings, "keys"> }[] = [
  { variable: "OPENAI", worker: { name: "openai", provider: "openai" } },
  { variable: "GROQ", worker: { name: "groq", provider: "groq" } },
  { variable: "GEMINI", worker: { name: "gemini", provider: "gemini" } },
  { variable: "ANTHROPIC", worker: { name: "anthropic", provider: "anthropic" } },
  { variable: "COHERE", worker: { name: "cohere", provider: "cohere" } },
  { variable: "MISTRAL", worker: openAiWorker("mistral", "https://api.mistral.ai/v1", 60) },
  { variable: "DEEPSEEK", worker: openAiWorker("deepseek", "https://api.deepseek.com", 60) },
  { variable: "OPENROUTER", worker: openAiWorker("openrouter", "https://openrouter.ai/api/v1", 110) },
];

/** A worker of the OpenAI adapter that knows its server by name, wherever its base URL is made to lead. */
function openAiWorker(name: string, baseUrl: string, priority: number): Omit<WorkerSettings, "keys"> {
  return { name, provider: "openai", baseUrl, priority, options: { server: name } };
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Another name that a provider's keys go by, in its own SDK. */
const OTHER_NAMES: Readonly<Record<string, string>> = { GEMINI: "GOOGLE", COHERE: "CO" };

/** A provider's keys in the environment, under its name or its other one. */
function providerKeys(name: string, environment: Environment): string[] {
  const keys = keysOf(name, environment);
  const other = OTHER_NAMES[name];
  return keys.length === 0 && other !== undefined ? keysOf(other, environment) : keys;
}

/** Keys in the environment under a name: `GROQ_API_KEYS=a,b` or `GROQ_API_KEY=a`. */
function keysOf(prefix: string, environment: Environment): string[] {
  return splitKeys(environment[`${prefix}_API_KEYS`] || environment[`${prefix}_API_KEY`] || "");
}

function splitKeys(listed: string): string[] {
  return listed
    .split(",")
    .map((key) => key.trim())
    .filter((key) => key !== "");
}

/** The keys of a provider that the environment holds under its name, for a worker at the provider's own address. */
export function readProviderKeys(provider: string, environment: Environment = process.env): string[] {
  return providerKeys(provider.toUpperCase().replaceAll("-", "_"), environment);
}

/**
 * Keys that a worker added at run time names by a variable. Whoever may add a worker chooses the address that its keys are
 * sent to, so they can't be just any: only those of variables made for this, `CORTEX_KEYS_…`.
 */
export function readKeysVariable(variable: string, environment: Environment = process.env): string[] {
  return KEYS_VARIABLE.test(variable) ? splitKeys(environment[variable] ?? "") : [];
}

/** The variables that a worker added at run time may name. */
export const KEYS_VARIABLE = /^CORTEX_KEYS_[A-Z0-9_]+$/;

/**
 * Reads the configuration. `file` is the command line's `--config`, `text` what it says if it has been read already. Throws
 * ConfigurationError with every mistake found.
 */
export function loadConfiguration(options: {
  readonly file?: string | undefined;
  readonly text?: string | undefined;
  readonly providers: readonly string[];
  readonly environment?: Environment;
}): Configuration {
  const environment = options.environment ?? process.env;
  const named = options.file ?? (environment["CORTEX_CONFIG"] || undefined);
  const path = resolve(named ?? "cortex.yaml");
  const text = options.text ?? readText(path, named !== undefined);
  const problems: string[] = [];
  const parsed = text === undefined ? fileSchema.parse({}) : parseFile(text, environment, options.providers, problems);
  const fromEnvironment = parsed?.workers === undefined ? environmentWorkers(environment, problems) : [];
  const workersFrom = parsed?.workers !== undefined ? "file" : fromEnvironment.length > 0 ? "environment" : "nothing";
  const workers = (parsed?.workers ?? fromEnvironment).map((worker) => ({
    ...worker,
    keys: worker.keys ?? readProviderKeys(worker.provider, environment),
  }));
  const restPort = port("PORT", 8080, environment, problems);
  const grpcPort = port("CORTEX_GRPC_PORT", 50051, environment, problems);
  if (restPort === grpcPort && restPort !== 0) problems.push(`PORT and CORTEX_GRPC_PORT are both ${restPort}`);
  const metricsPort =
    environment["CORTEX_METRICS_PORT"] === undefined
      ? undefined
      : port("CORTEX_METRICS_PORT", 0, environment, problems);
  const logLevel = levelOf(environment, problems);
  const tracing = readTracing((parsed ?? fileSchema.parse({})).tracing, environment, problems);
  if (problems.length > 0 || parsed === undefined) {
    const told = problems.map((problem) => problem.replaceAll(OPEN, "${").replaceAll(CLOSE, "}"));
    throw new ConfigurationError(text === undefined ? undefined : path, told);
  }

  const clientKeys = (environment["CORTEX_CLIENT_KEYS"] ?? "").split(",").filter((key) => key.trim() !== "");
  return {
    ...parsed,
    clients: [...parsed.clients, ...clientKeys.map((key) => ({ key: key.trim(), tenant: "default", admin: false }))],
    log: { level: logLevel ?? parsed.log.level },
    workers,
    workersFrom,
    file: text === undefined ? undefined : path,
    filePath: path,
    host: environment["HOST"] || "127.0.0.1",
    restPort,
    grpcPort,
    grpcPortGiven: Boolean(environment["CORTEX_GRPC_PORT"]),
    metricsPort: metricsPort ?? parsed.node.metricsPort,
    natsUrl: environment["CORTEX_NATS_URL"] || undefined,
    natsBin: environment["CORTEX_NATS_BIN"] || undefined,
    dataDir: resolve(environment["CORTEX_DATA"] || ".cortex"),
    cacheDir: resolve(environment["XDG_CACHE_HOME"] || `${environment["HOME"] ?? "."}/.cache`, "cortex"),
    path: environment["PATH"] ?? "",
    hostname: environment["HOSTNAME"] || hostname(),
    nodeName: environment["CORTEX_NODE_NAME"] || environment["HOSTNAME"] || hostname(),
    tracing,
  };
}

/** Where a node that `cortex up` has started in the same environment answers gRPC. */
export function localGrpcAddress(environment: Environment = process.env): string {
  const host = environment["HOST"] || "127.0.0.1";
  const reached = host === "0.0.0.0" || host === "::" ? "127.0.0.1" : host.includes(":") ? `[${host}]` : host;
  return `${reached}:${port("CORTEX_GRPC_PORT", 50051, environment, []) || 50051}`;
}

/** The schema of `cortex.yaml` for editors, as JSON Schema. */
export function configurationJsonSchema(): object {
  return { title: "cortex.yaml", ...z.toJSONSchema(fileSchema, { io: "input" }) };
}

function environmentWorkers(environment: Environment, problems: string[]): WorkerSettings[] {
  const workers: WorkerSettings[] = [];
  for (const { variable, worker } of ENVIRONMENT_WORKERS) {
    const keys = providerKeys(variable, environment);
    if (keys.length === 0) continue;
    const given = environment[`${variable}_BASE_URL`] || undefined;
    if (given !== undefined && !workerSchema.shape.baseUrl.safeParse(given).success) {
      problems.push(`the environment's ${variable}_BASE_URL has to be an http or https address`);
    }
    const baseUrl = given ?? worker.baseUrl;
    workers.push({ ...worker, ...(baseUrl === undefined ? {} : { baseUrl }), keys });
  }
  return workers;
}

function readText(path: string, required: boolean): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (!required && (error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new ConfigurationError(path, [`it can't be read: ${(error as Error).message}`]);
  }
}

/** Stand for `${` and `}` while YAML is parsed, as braces have a meaning of their own there. */
const OPEN = "\uE000";
const CLOSE = "\uE001";

/** What the file says; undefined, and why in `problems`, when it is not right. */
function parseFile(
  text: string,
  environment: Environment,
  providers: readonly string[],
  problems: string[],
): ConfigurationFile | undefined {
  const document = parseDocument(text.replaceAll(/\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, `${OPEN}$1${CLOSE}`), {
    prettyErrors: true,
  });
  let written: unknown;
  try {
    for (const { message } of document.errors) problems.push(withoutQuotation(message));
    if (document.errors.length > 0) return undefined;
    written = document.toJS() ?? {};
  } catch (error) {
    problems.push((error as Error).message);
    return undefined;
  }
  const missing = new Map<string, string>();
  const value = substitute(written, environment, missing);
  for (const [name, field] of missing) problems.push(`${field}: \${${name}} is not set in the environment`);
  const result = fileSchema.safeParse(value);
  if (result.error !== undefined) {
    for (const { path, message } of mistakesOf(result.error.issues, configurationJsonSchema())) {
      // Where a variable is missing, that has been told.
      const told = missing.size > 0 && String(at(written, path)).includes(OPEN);
      if (!told) problems.push(message);
    }
  }
  problems.push(...wrongWorkers(value, providers), ...repeated(value, "clients", "key"));
  return result.data;
}

/** YAML's message without the pieces of the file that it quotes: they may be what is not to be shown. */
function withoutQuotation(message: string): string {
  const [line = ""] = message.split("\n");
  return line.replace(/: ".*"(?= at line)/, "").replace(/:$/, "");
}

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce((inner, step) => (inner as Record<PropertyKey, unknown> | undefined)?.[step], value);
}

/** Values are not quoted: any of them may have come from a variable that holds a secret. */
function wrongWorkers(file: unknown, providers: readonly string[]): string[] {
  const unknown = list(file, "workers").flatMap((worker, index) => {
    const provider = at(worker, ["provider"]);
    if (typeof provider !== "string" || provider === "" || providers.includes(provider)) return [];
    return [
      `workers[${index}].provider: there is no such provider; there are ${providers.join(", ")}` +
        " (use openai with a baseUrl for OpenAI-compatible servers)",
    ];
  });
  return [...repeated(file, "workers", "name"), ...unknown];
}

/** Entries of a list that have a field's value in common, where each needs its own. */
function repeated(file: unknown, name: string, field: string): string[] {
  const values = list(file, name).map((entry) => at(entry, [field]));
  return values.flatMap((value, index) => {
    const first = values.indexOf(value);
    return value !== undefined && first < index ? [`${name}[${index}].${field}: ${name}[${first}] has it already`] : [];
  });
}

function list(file: unknown, name: string): readonly unknown[] {
  const value = at(file, [name]);
  return Array.isArray(value) ? value : [];
}

/** The value with the environment's in place of its variables; those that are not set, and the first field of each, in `missing`. */
function substitute(
  value: unknown,
  environment: Environment,
  missing: Map<string, string>,
  path: readonly PropertyKey[] = [],
): unknown {
  if (typeof value === "string") {
    return value.replaceAll(/\uE000(\w+)\uE001/g, (_match, name: string) => {
      const found = environment[name];
      if (found === undefined && !missing.has(name)) missing.set(name, fieldName(path));
      // Something stands for what is missing, so that it is not told a second time as empty.
      return found ?? name;
    });
  }
  if (Array.isArray(value)) {
    return value.map((item, index) => substitute(item, environment, missing, [...path, index]));
  }
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, substitute(item, environment, missing, [...path, key])]),
  );
}

function levelOf(environment: Environment, problems: string[]): (typeof LOG_LEVELS)[number] | undefined {
  const text = environment["CORTEX_LOG_LEVEL"] || undefined;
  const level = LOG_LEVELS.find((known) => known === text);
  if (text !== undefined && level === undefined) {
    problems.push(`the environment's CORTEX_LOG_LEVEL is "${text}"; it has to be one of ${LOG_LEVELS.join(", ")}`);
  }
  return level;
}

function port(variable: string, fallback: number, environment: Environment, problems: string[]): number {
  const text = environment[variable];
  if (text === undefined || text === "") return fallback;
  const value = Number(text);
  if (Number.isInteger(value) && value >= 0 && value <= 65_535) return value;
  problems.push(`the environment's ${variable} is "${text}"; it has to be a port from 0 (any free one) to 65535`);
  return fallback;
}
