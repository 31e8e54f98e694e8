/** Runs the workers of one provider in a node: those that are configured, and those that are added while it runs. */
import {
  createHttpWorker,
  type Dialect,
  type Worker,
  type WorkerDependencies,
  type WorkerSettings,
} from "../adapter/index.ts";
import { ProviderServiceDefinition } from "../gen/cortex/provider/v1/provider.ts";
import type { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { RpcError } from "../rpc/index.ts";
import { createLogger, silentTracer } from "../telemetry/index.ts";
import { type Configuration, ConfigurationError, readKeysVariable, readProviderKeys } from "./config.ts";
import type { Host, RunningService, ServiceEntry } from "./host.ts";
import { RunningWorkers, type WantedWorker } from "./running-workers.ts";

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
  const { mesh } = host;
  const running = new RunningWorkers(host, provider, (settings) => createWorker(settings, host));

  /** What a specification or an entry of the configuration comes to: the same object for the same one. */
  const readings = new WeakMap<object, WantedWorker>();
  const read = (source: object, make: () => WantedWorker): WantedWorker => {
    const wanted = readings.get(source) ?? make();
    readings.set(source, wanted);
    return wanted;
  };

  /** Runs what should run here, and nothing else. What the configuration says goes before what was added under its name. */
  async function reconcile(): Promise<void> {
    running.drain(mesh.directory.drainedWorkers());
    const wanted = new Map<string, WantedWorker>();
    for (const worker of mesh.directory.desiredWorkers()) {
      if (worker.provider !== provider) continue;
      if (!mesh.directory.belongsHere(worker, running.runsAdded(worker.name))) continue;
      wanted.set(
        worker.name,
        read(worker, () => ({ settings: fromSpecification(worker), added: true })),
      );
    }
    for (const settings of host.configuration.workers) {
      if (settings.provider !== provider) continue;
      wanted.set(
        settings.name,
        read(settings, () => ({ settings, added: false })),
      );
    }
    await running.want(wanted);
  }

  const stopWatching = mesh.directory.onChange(() => void reconcile());
  const stopListening = host.onConfiguration(() => void reconcile());
  await reconcile();
  return {
    async stop() {
      stopWatching();
      stopListening();
      running.stop();
    },
  };
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
    weight: specification.weight,
    modelProperties: specification.modelProperties,
    pool: { connections: specification.poolConnections },
    limits: {
      concurrent: specification.concurrentRequestsMax,
      tokensPerSecondMin: specification.tokensPerSecondMin,
    },
    timeouts: specification.timeouts,
  };
}
