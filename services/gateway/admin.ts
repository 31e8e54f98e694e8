/**
 * The administration of workers over HTTP: what comes as JSON in the names of cortex.yaml goes to the RegistryService, and
 * its answers, and what is wrong with a worker, come back in the same names.
 */
import type { KeyInfo, ModelProperties } from "../../libs/gen/cortex/provider/v1/provider.ts";
import {
  Locality,
  type RegisteredWorker,
  type RegistryServiceDefinition,
  WorkerSpecification,
  type WorkerTimeouts,
} from "../../libs/gen/cortex/registry/v1/registry.ts";
import { BREAKER_NAMES, HEALTH_NAMES, KEY_NAMES } from "../../libs/host/index.ts";
import { type Call, RpcError, type Service } from "../../libs/rpc/index.ts";

type Registry = Service<typeof RegistryServiceDefinition>;

/** A request for the administration, as far as HTTP matters to it. */
export interface AdminRequest {
  /** What the path names after /admin/workers/; empty where it names none. */
  readonly worker: string;
  readonly query: URLSearchParams;
  /** The body, parsed. */
  readonly body: unknown;
}

/** What it answers. */
export interface AdminAnswer {
  readonly status: number;
  /** Absent for an answer without a body. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

/** One thing that can be asked of the administration. */
export type AdminAction = (request: AdminRequest, registry: Registry, call: Call) => Promise<AdminAnswer>;

/** GET /admin/workers */
export const listWorkers: AdminAction = async ({ query }, registry, call) => {
  for (const name of query.keys()) {
    if (name !== "provider" && name !== "locality")
      throw invalid(name, "there is no such filter; there are provider, locality");
  }
  const locality = LOCALITIES[query.get("locality") ?? ""];
  if (locality === undefined) throw invalid("locality", "has to be local or remote");
  const { workers } = await registry.list({ provider: query.get("provider") ?? "", locality }, call);
  return { status: 200, body: { workers: workers.map(writeRunning) } };
};

/** GET /admin/workers/{name} */
export const getWorker: AdminAction = async ({ worker }, registry, call) => {
  const { workers } = await registry.get({ name: worker }, call);
  const { info, added, specification } = workers[0]!;
  const running = workers.filter(({ node }) => node !== "").map(writeRunning);
  const written = specification === undefined ? {} : { specification: writeSpecification(specification) };
  return { status: 200, body: { name: info!.name, provider: info!.provider, added, ...written, running } };
};

/** POST /admin/workers */
export const addWorker: AdminAction = async ({ body }, registry, call) => {
  const specification = readSpecification(body);
  await inNamesOfTheFile(registry.register({ worker: specification }, call));
  const location = `/admin/workers/${encodeURIComponent(specification.name)}`;
  return { status: 201, body: writeSpecification(specification), headers: { location } };
};

/** PUT /admin/workers/{name} */
export const replaceWorker: AdminAction = async ({ worker, body }, registry, call) => {
  const specification = readSpecification(withName(body, worker));
  await inNamesOfTheFile(registry.update({ worker: specification }, call));
  return { status: 200, body: writeSpecification(specification) };
};

/** PATCH /admin/workers/{name}: a JSON merge patch (RFC 7396). */
export const changeWorker: AdminAction = async ({ worker, body }, registry, call) => {
  const patch = withName(body, worker);
  const current = (await registry.get({ name: worker }, call)).workers.find(
    (known) => known.specification !== undefined,
  );
  // The registry knows best why a worker that was not added can't be changed.
  const base = current?.specification ?? WorkerSpecification.fromPartial({ name: worker });
  const specification = readSpecification(merged(writeSpecification(base), patch));
  await inNamesOfTheFile(registry.update({ worker: specification }, call));
  return { status: 200, body: writeSpecification(specification) };
};

/** DELETE /admin/workers/{name} */
export const removeWorker: AdminAction = async ({ worker }, registry, call) => {
  await registry.remove({ name: worker }, call);
  return { status: 204 };
};

/** POST /admin/workers/{name}/drain */
export const drainWorker: AdminAction = async ({ worker }, registry, call) => {
  await registry.drain({ name: worker, undo: false }, call);
  return { status: 200, body: { name: worker, draining: true } };
};

/** POST /admin/workers/{name}/undrain */
export const undrainWorker: AdminAction = async ({ worker }, registry, call) => {
  await registry.drain({ name: worker, undo: true }, call);
  return { status: 200, body: { name: worker, draining: false } };
};

/** GET /admin/distribution */
export const getDistribution: AdminAction = async (_request, registry, call) => {
  const { workersByNode } = await registry.getDistribution({}, call);
  return { status: 200, body: { workersByNode } };
};

/**
 * Throws PERMISSION_DENIED for a request that a web page of somebody else has made a browser send. Without client keys
 * nothing else tells it from a request of the operator: the browser stands on the operator's machine.
 */
export function refuseForeignPages(headers: {
  readonly origin: string | undefined;
  readonly host: string | undefined;
  /** The address of this machine that it came to. */
  readonly localAddress: string | undefined;
  /** Only those who have a key are let in anyway. */
  readonly keysRequired: boolean;
}): void {
  const { origin, host = "" } = headers;
  if (origin !== undefined && URL.parse(origin)?.host !== URL.parse(`http://${host}`)?.host) {
    throw new RpcError("PERMISSION_DENIED", "a page of another site may not administer workers (the Origin header)");
  }
  // A name that its owner has made lead to this machine (DNS rebinding) is the same site for the browser.
  const name = URL.parse(`http://${host}`)?.hostname ?? "";
  const fromThisMachine = /^(::ffff:)?127\.|^::1$/.test(headers.localAddress ?? "");
  const ownName = name === "localhost" || name.endsWith(".localhost") || /^[\d.]+$|^\[/.test(name);
  if (!headers.keysRequired && !ownName && (fromThisMachine || origin !== undefined)) {
    const message =
      "without client keys workers can be administered at localhost or an IP address only, not at the name in the Host header";
    throw new RpcError("PERMISSION_DENIED", message);
  }
}

// Reading.

/** What JSON a field takes. */
type Kind = "text" | "texts" | "integer" | "number";

const FIELDS = {
  name: "text",
  provider: "text",
  baseUrl: "text",
  models: "texts",
  priority: "integer",
  capabilities: "texts",
  keysVariable: "text",
  weight: "integer",
  preferredNode: "text",
} as const satisfies Record<string, Kind>;
const POOL = { connections: "integer" } as const;
const LIMITS = { concurrent: "integer", tokensPerSecondMin: "number" } as const;
const TIMEOUTS = {
  connectMs: "integer",
  poolMs: "integer",
  firstTokenMs: "integer",
  stallMs: "integer",
  totalMs: "integer",
} as const satisfies Record<keyof WorkerTimeouts, Kind>;
const MODEL_PROPERTIES = {
  capabilities: "texts",
  contextTokensMax: "integer",
  inputCostUsdPerMillion: "number",
  outputCostUsdPerMillion: "number",
} as const satisfies Record<keyof ModelProperties, Kind>;
const GROUPS = ["pool", "limits", "timeouts", "modelProperties"] as const;

interface KindValue {
  text: string;
  texts: readonly string[];
  integer: number;
  number: number;
}

type Values<F extends Readonly<Record<string, Kind>>> = { readonly [K in keyof F]?: KindValue[F[K]] };

type JsonObject = Readonly<Record<string, unknown>>;

/** A field that holds null is as good as absent, as in a merge patch. */
function readSpecification(body: unknown): WorkerSpecification {
  const worker = objectOf(body, "");
  const known = readFields(worker, FIELDS, "", GROUPS);
  const pool = readFields(objectOf(worker["pool"] ?? {}, "pool"), POOL, "pool.");
  const limits = readFields(objectOf(worker["limits"] ?? {}, "limits"), LIMITS, "limits.");
  const timeouts = readFields(objectOf(worker["timeouts"] ?? {}, "timeouts"), TIMEOUTS, "timeouts.");
  const modelProperties = Object.entries(objectOf(worker["modelProperties"] ?? {}, "modelProperties"))
    .filter(([, properties]) => properties !== null)
    .map(([model, properties]) => {
      const path = modelPath(model);
      const read = readFields(objectOf(properties, path), MODEL_PROPERTIES, `${path}.`);
      return [model, { capabilities: [], ...read }] as const;
    });
  return WorkerSpecification.fromPartial({
    ...known,
    models: [...(known.models ?? [])],
    capabilities: [...(known.capabilities ?? [])],
    poolConnections: pool.connections,
    concurrentRequestsMax: limits.concurrent,
    tokensPerSecondMin: limits.tokensPerSecondMin,
    timeouts: Object.keys(timeouts).length === 0 ? undefined : timeouts,
    modelProperties: Object.fromEntries(modelProperties),
  });
}

function readFields<F extends Readonly<Record<string, Kind>>>(
  object: JsonObject,
  fields: F,
  prefix: string,
  others: readonly string[] = [],
): Values<F> {
  const values: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(object)) {
    if (others.includes(name)) continue;
    const kind = Object.hasOwn(fields, name) ? fields[name] : undefined;
    if (kind === undefined) {
      const all = [...Object.keys(fields), ...others].join(", ");
      throw invalid(`${prefix}${name.slice(0, 100)}`, `there is no such field; there are ${all}`);
    }
    if (value === null) continue;
    if (!MATCHES[kind](value)) throw invalid(`${prefix}${name}`, `has to be ${KIND_NAMES[kind]}`);
    values[name] = value;
  }
  return values as Values<F>;
}

const UINT32_MAX = 4_294_967_295;

const MATCHES: Readonly<Record<Kind, (value: unknown) => boolean>> = {
  text: (value) => typeof value === "string",
  texts: (value) => Array.isArray(value) && value.every((item) => typeof item === "string"),
  // What the contract's numbers hold; the registry has each field's own bounds.
  integer: (value) => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= UINT32_MAX,
  number: (value) => typeof value === "number",
};

const KIND_NAMES: Readonly<Record<Kind, string>> = {
  text: "a text",
  texts: "a list of texts",
  integer: "a whole number, at least 0",
  number: "a number",
};

function objectOf(value: unknown, field: string): JsonObject {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject;
  if (field === "") throw new RpcError("INVALID_REQUEST", "the body has to be a JSON object: a worker");
  throw invalid(field, "has to be an object");
}

function withName(body: unknown, name: string): JsonObject {
  const worker = objectOf(body, "");
  if (worker["name"] !== undefined && worker["name"] !== name) {
    throw invalid("name", `can't change: the path says ${JSON.stringify(name.slice(0, 100))}`);
  }
  return { ...worker, name };
}

/** RFC 7396: objects are merged, null takes away, everything else takes the place of what was. */
function merged(target: unknown, patch: unknown): unknown {
  if (typeof patch !== "object" || patch === null || Array.isArray(patch)) return patch;
  const base = typeof target === "object" && target !== null && !Array.isArray(target) ? target : {};
  const result = new Map<string, unknown>(Object.entries(base));
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) result.delete(name);
    else result.set(name, merged(result.get(name), value));
  }
  return Object.fromEntries(result);
}

function invalid(field: string, rule: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field}: ${rule}`, { field });
}

function modelPath(model: string): string {
  return `modelProperties["${model.slice(0, 100)}"]`;
}

/** The contract's names of fields that go by another name in cortex.yaml; all others differ in their spelling alone. */
const OTHER_NAMES: Readonly<Record<string, string>> = {
  pool_connections: "pool.connections",
  concurrent_requests_max: "limits.concurrent",
  tokens_per_second_min: "limits.tokensPerSecondMin",
};

/** Tells what is wrong with a worker in the names that the client has used. */
async function inNamesOfTheFile<T>(change: Promise<T>): Promise<T> {
  try {
    return await change;
  } catch (thrown) {
    if (!(thrown instanceof RpcError) || thrown.field?.startsWith("worker.") !== true) throw thrown;
    const theirs = thrown.field.slice("worker.".length);
    // A model's name is the client's own, and stays as it is.
    const field =
      OTHER_NAMES[theirs] ??
      theirs.replace(/^\w+|\.\w+$/g, (name) =>
        name.replaceAll(/_(\w)/g, (_match, letter: string) => letter.toUpperCase()),
      );
    throw new RpcError(
      thrown.reason,
      thrown.message.replace(thrown.field, () => field),
      { field, cause: thrown },
    );
  }
}

// Writing.

const LOCALITIES: Readonly<Record<string, Locality>> = {
  "": Locality.UNSPECIFIED,
  local: Locality.LOCAL,
  remote: Locality.REMOTE,
};

/** A specification as it can be sent back. */
function writeSpecification(specification: WorkerSpecification): JsonObject {
  const { poolConnections, concurrentRequestsMax, tokensPerSecondMin, modelProperties, timeouts, ...same } =
    specification;
  return pruned({
    ...same,
    pool: { connections: poolConnections },
    limits: { concurrent: concurrentRequestsMax, tokensPerSecondMin },
    timeouts: { ...timeouts },
    modelProperties,
  });
}

/** A worker as it runs, or as it would. */
function writeRunning({ info, node, locality, added, preferredNode }: RegisteredWorker): JsonObject {
  const { concurrentRequestsMax, tokensPerSecondMin, breakerStatistics: _, ...same } = info!;
  return {
    ...same,
    limits: pruned({
      concurrent: concurrentRequestsMax === 0 ? undefined : concurrentRequestsMax,
      tokensPerSecondMin: tokensPerSecondMin === 0 ? undefined : tokensPerSecondMin,
    }),
    health: HEALTH_NAMES[info!.health],
    breaker: BREAKER_NAMES[info!.breaker],
    keys: info!.keys.map(writeKey),
    node: node === "" ? null : node,
    locality: locality === Locality.UNSPECIFIED ? null : locality === Locality.LOCAL ? "local" : "remote",
    added,
    preferredNode: preferredNode === "" ? null : preferredNode,
  };
}

function writeKey({ state, ...key }: KeyInfo): JsonObject {
  return { ...key, state: KEY_NAMES[state] };
}

/** Without what says nothing. */
function pruned(object: object): JsonObject {
  const entries = Object.entries(object).flatMap(([name, value]: [string, unknown]) => {
    if (value === undefined || value === "") return [];
    if (Array.isArray(value)) return value.length === 0 ? [] : [[name, value] as const];
    if (typeof value !== "object" || value === null) return [[name, value] as const];
    const inner = pruned(value);
    return Object.keys(inner).length === 0 ? [] : [[name, inner] as const];
  });
  return Object.fromEntries(entries);
}
