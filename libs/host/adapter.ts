/** Runs the workers of one provider in a node: those that are configured, and those that are added while it runs. */
import {
  createHttpWorker,
  type Dialect,
  type KeyChange,
  type Worker,
  type WorkerDependencies,
  type WorkerSettings,
} from "../adapter/index.ts";
import {
  WorkerChanged_Change as Change,
  KeyChanged,
  KeyChanged_Change,
  WorkerChanged,
} from "../gen/cortex/events/v1/events.ts";
import { Health, KeyState, ProviderServiceDefinition, type WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import type { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { RpcError, startCall } from "../rpc/index.ts";
import { createLogger, EVENT, NO_TRACE, silentTracer } from "../telemetry/index.ts";
import { type Configuration, ConfigurationError, readKeysVariable, readProviderKeys } from "./config.ts";
import type { Host, RunningService, ServiceEntry } from "./host.ts";

/** How often a worker is asked for its health (W8), and how long it may take to answer. */
const HEALTH_INTERVAL_MS = 30_000;
const HEALTH_TIMEOUT_MS = 5_000;
/** A worker that is down is asked again after this time, doubled each time up to the usual interval. */
const RECOVERY_MIN_MS = 500;
/** How long a starting adapter waits for the first answers, so that a node that is ready knows its workers. */
const FIRST_HEALTH_MS = 1_000;

const KEY_CHANGES: Readonly<Record<KeyState, KeyChanged_Change>> = {
  [KeyState.UNSPECIFIED]: KeyChanged_Change.UNSPECIFIED,
  [KeyState.AVAILABLE]: KeyChanged_Change.BACK,
  [KeyState.RESTING]: KeyChanged_Change.RESTED,
  [KeyState.OUT]: KeyChanged_Change.OUT,
};

type CreateWorker = (settings: WorkerSettings, dependencies: WorkerDependencies) => Worker;

/** The service `adapter-<provider>`: a worker for each setting with that provider's name. */
export function adapterService(provider: string, createWorker: CreateWorker): ServiceEntry {
  return {
    name: `adapter-${provider}`,
    interfaces: [ProviderServiceDefinition],
    adapter: { provider, createWorker },
    start: (host) => startAdapter(host, provider, createWorker),
  };
}

/** As adapterService, for a provider that is reached over HTTP and known by its dialect. */
export function dialectService(provider: string, createDialect: (settings: WorkerSettings) => Dialect): ServiceEntry {
  const createWorker: CreateWorker = (settings, dependencies) =>
    createHttpWorker(createDialect(settings), settings, dependencies);
  return { ...adapterService(provider, createWorker), adapter: { provider, createWorker, createDialect } };
}

/**
 * Makes each worker once, to see whether it could run; nothing is asked of its provider. Throws ConfigurationError with every
 * mistake that only an adapter knows, also of adapters that run in other nodes.
 */
export function checkWorkerSettings(configuration: Configuration, services: readonly ServiceEntry[]): void {
  const log = createLogger({ level: "silent", readable: false, node: "" });
  const problems = configuration.workers.flatMap((settings) => {
    const adapter = services.find((service) => service.adapter?.provider === settings.provider)?.adapter;
    try {
      void adapter?.createWorker(settings, { log, tracer: silentTracer }).close();
      return [];
    } catch (thrown) {
      return [`worker ${settings.name}: ${RpcError.from(thrown).message}`];
    }
  });
  if (problems.length > 0) throw new ConfigurationError(configuration.file, problems);
}

async function startAdapter(host: Host, provider: string, createWorker: CreateWorker): Promise<RunningService> {
  const { mesh, workers, log } = host;
  const checks = new Map<string, HealthChecks>();
  /** Workers that were added at run time and run here. */
  const added = new Set<string>();

  function create(settings: WorkerSettings): Worker {
    try {
      return createWorker(settings, host);
    } catch (thrown) {
      const { reason, message, field, cause } = RpcError.from(thrown);
      throw new RpcError(reason, `worker ${settings.name}: ${message}`, { field, cause });
    }
  }

  function publish(worker: Worker, change: Change): void {
    const event = { change, node: host.nodeId, info: worker.info() };
    mesh.events.publish(EVENT.workerChanged, WorkerChanged, event, NO_TRACE);
  }

  function publishKey(worker: string, { fingerprint, state, reason, restingUntilMs }: KeyChange): void {
    const event: KeyChanged = {
      change: KEY_CHANGES[state],
      node: host.nodeId,
      worker,
      provider,
      fingerprint,
      reason: reason ?? "",
      restingUntilMs,
    };
    mesh.events.publish(EVENT.keyChanged, KeyChanged, event, NO_TRACE);
  }

  async function run(settings: WorkerSettings): Promise<void> {
    const worker = create(settings);
    const origin = { added: added.has(worker.name) };
    worker.onChange((change) => {
      mesh.announceWorker(worker.info(), origin);
      if (typeof change === "object") publishKey(worker.name, change);
      if (change === "breaker") publish(worker, Change.BREAKER);
      if (change === "health") {
        publish(worker, Change.HEALTH);
        health.changed();
      }
    });
    const health = new HealthChecks(worker, log, (info) => mesh.announceWorker(info, origin));
    workers.add(worker);
    mesh.announceWorker(worker.info(), origin);
    publish(worker, Change.STARTED);
    checks.set(worker.name, health);
    return health.check();
  }

  async function end(name: string): Promise<void> {
    checks.get(name)?.stop();
    checks.delete(name);
    const worker = workers.workers().find((known) => known.name === name);
    mesh.withdrawWorker(name);
    if (worker !== undefined) publish(worker, Change.STOPPED);
    await workers.remove(name);
  }

  function isWanted(specification: WorkerSpecification): boolean {
    if (specification.provider !== provider) return false;
    return mesh.directory.belongsHere(specification, added.has(specification.name));
  }

  /** Runs what should run here and stops what should not any more. */
  function reconcile(): void {
    const wanted = new Map(
      mesh.directory
        .desiredWorkers()
        .filter(isWanted)
        .map((specification) => [specification.name, specification]),
    );
    for (const name of added) {
      if (wanted.has(name)) continue;
      added.delete(name);
      end(name).catch((error: unknown) => log.error({ err: error, worker: name }, "a worker did not stop well"));
    }
    for (const [name, specification] of wanted) {
      if (checks.has(name)) continue;
      added.add(name);
      run(fromSpecification(specification)).catch((error: unknown) => {
        added.delete(name);
        log.error({ err: error, worker: name }, "a worker that was added could not be started");
      });
    }
  }

  const configured = host.configuration.workers.filter((settings) => settings.provider === provider);
  const firstChecks = Promise.all(configured.map(run));
  reconcile();
  const stopWatching = mesh.directory.onChange(reconcile);
  await Promise.race([firstChecks, new Promise((resolve) => setTimeout(resolve, FIRST_HEALTH_MS).unref())]);

  return {
    async stop() {
      stopWatching();
      await Promise.all([...checks.keys()].map(end));
    },
  };
}

/** Asks a worker for its health every so often, and soon again while it is down. */
class HealthChecks {
  readonly #worker: Worker;
  readonly #log: Host["log"];
  readonly #announce: (info: WorkerInfo) => void;
  #timer: NodeJS.Timeout | undefined;
  #recoveryMs = RECOVERY_MIN_MS;
  #down = false;
  #stopped = false;

  constructor(worker: Worker, log: Host["log"], announce: (info: WorkerInfo) => void) {
    this.#worker = worker;
    this.#log = log;
    this.#announce = announce;
  }

  /** Asks now, and from then on; what the worker has counted meanwhile is announced. */
  async check(): Promise<void> {
    const deadlineAtMs = Date.now() + HEALTH_TIMEOUT_MS;
    const call = startCall({ tenant: "", requestId: "health", trace: NO_TRACE, deadlineAtMs });
    try {
      await this.#worker.checkHealth(call);
    } catch (error) {
      this.#log.debug({ err: error, worker: this.#worker.name }, "a health check did not end in time");
    } finally {
      call.finish();
    }
    if (this.#stopped) return;
    const info = this.#worker.info();
    this.#announce(info);
    this.#down = info.health === Health.UNAVAILABLE;
    if (!this.#down) this.#recoveryMs = RECOVERY_MIN_MS;
    this.#schedule();
  }

  /** Something else has shown how the worker is: one that has just gone down is asked soon. */
  changed(): void {
    const wasDown = this.#down;
    this.#down = this.#worker.info().health === Health.UNAVAILABLE;
    if (this.#down && !wasDown) this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(): void {
    clearTimeout(this.#timer);
    if (this.#stopped) return;
    let delayMs = HEALTH_INTERVAL_MS;
    if (this.#down) {
      delayMs = Math.min(this.#recoveryMs, HEALTH_INTERVAL_MS);
      this.#recoveryMs *= 2;
    }
    // Spread, so that many workers, and many nodes, do not ask at the same moment.
    this.#timer = setTimeout(() => void this.check(), delayMs * (0.9 + 0.2 * Math.random())).unref();
  }
}

/** A provider's usual keys go to its own address only: another one was chosen by whoever added the worker. */
function keysOf({ keysVariable, baseUrl, provider }: WorkerSpecification): string[] {
  if (keysVariable !== "") return readKeysVariable(keysVariable);
  return baseUrl === "" ? readProviderKeys(provider) : [];
}

function fromSpecification(specification: WorkerSpecification): WorkerSettings {
  const { name, provider, baseUrl, models, priority, capabilities } = specification;
  return {
    name,
    provider,
    baseUrl: baseUrl === "" ? undefined : baseUrl,
    keys: keysOf(specification),
    models: models.length === 0 ? undefined : models,
    priority,
    capabilities: capabilities.length === 0 ? undefined : capabilities,
    pool: { connections: specification.poolConnections },
    limits: { concurrent: specification.concurrentRequestsMax },
  };
}
