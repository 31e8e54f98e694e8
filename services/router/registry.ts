/**
 * The registry: which workers there are, where they live, and which there should be. A face of the directory that knows who
 * may change it and what a worker may be.
 */
import type { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import { WorkerInfo } from "../../libs/gen/cortex/provider/v1/provider.ts";
import {
  Locality,
  type RegisteredWorker,
  type RegistryServiceDefinition,
  type WorkerSpecification,
} from "../../libs/gen/cortex/registry/v1/registry.ts";
import { type Directory, providerOf } from "../../libs/mesh/index.ts";
import { type Call, RpcError, type Service } from "../../libs/rpc/index.ts";
import { checkSpecification } from "./specification.ts";

/** Makes the registry of this node's directory. */
export function createRegistry({
  directory,
  nodeId,
  activeRequests,
}: {
  readonly directory: Directory;
  readonly nodeId: string;
  /** How many a worker serves on a node now, where that is known better than from what the node announced last. */
  readonly activeRequests: (node: string, worker: string) => number | undefined;
}): Service<typeof RegistryServiceDefinition> {
  /** Every worker that runs, once for each node that runs it, and those that should run and don't. By name. */
  function registered(): RegisteredWorker[] {
    const desired = new Map(directory.desiredWorkers().map((specification) => [specification.name, specification]));
    const running = directory.workers();
    const names = new Set(running.map(({ info }) => info?.name));
    const waiting = [...desired.values()].filter(({ name }) => !names.has(name)).map(toWaiting);
    const entries = [...running.map((worker) => toRegistered(worker, desired)), ...waiting];
    return entries.sort((a, b) => compare(a.info!.name, b.info!.name) || compare(a.node, b.node));
  }

  function toRegistered(
    { info, node, added }: RunningWorker,
    desired: ReadonlyMap<string, WorkerSpecification>,
  ): RegisteredWorker {
    const specification = added ? desired.get(info!.name) : undefined;
    const locality = node === nodeId ? Locality.LOCAL : Locality.REMOTE;
    const active = activeRequests(node, info!.name) ?? info!.activeRequests;
    const preferredNode = specification?.preferredNode ?? "";
    return { info: { ...info!, activeRequests: active }, node, locality, added, preferredNode, specification };
  }

  function toWaiting(specification: WorkerSpecification): RegisteredWorker {
    const { name, provider, baseUrl, models, capabilities, preferredNode, modelProperties } = specification;
    const info = WorkerInfo.fromPartial({
      name,
      provider,
      baseUrl,
      models,
      capabilities,
      modelProperties,
      priority: specification.priority ?? 0,
      weight: specification.weight ?? 1,
      concurrentRequestsMax: specification.concurrentRequestsMax ?? 0,
      tokensPerSecondMin: specification.tokensPerSecondMin ?? 0,
      draining: directory.drainedWorkers().has(name),
    });
    return { info, node: "", locality: Locality.UNSPECIFIED, added: true, preferredNode, specification };
  }

  /** The providers that some node of the mesh has an adapter for. */
  function providers(): string[] {
    const services = directory.nodes().flatMap((node) => node.services);
    return [...new Set(services.flatMap((service) => providerOf(service) ?? []))].sort();
  }

  function desiredNamed(name: string): WorkerSpecification | undefined {
    return directory.desiredWorkers().find((specification) => specification.name === name);
  }

  /** Throws unless the worker is one that was added. */
  function requireAdded(name: string, field: string): void {
    if (desiredNamed(name) !== undefined) return;
    if (directory.workers().some(({ info, added }) => info?.name === name && !added)) {
      const message = `worker ${name} was not added but configured: change cortex.yaml (or the environment), or drain it`;
      throw new RpcError("INVALID_REQUEST", message, { field });
    }
    // Memory may be a moment behind another node that has just added it: NATS has the last word.
  }

  return {
    async register({ worker }, call) {
      requireAdmin(call);
      await directory.addDesiredWorker(checkSpecification(worker, providers()));
      return {};
    },
    async get({ name }, call) {
      const workers = toldTo(call, registered()).filter(({ info }) => info!.name === name);
      if (workers.length === 0) throw notFound(name);
      return { workers };
    },
    async list({ provider, locality }, call) {
      const workers = toldTo(call, registered()).filter(
        (worker) =>
          (provider === "" || worker.info!.provider === provider) &&
          (locality === Locality.UNSPECIFIED || worker.locality === locality),
      );
      return { workers };
    },
    async update({ worker }, call) {
      requireAdmin(call);
      requireAdded(worker?.name ?? "", "worker.name");
      const specification = checkSpecification(worker, providers());
      const current = desiredNamed(specification.name);
      if (current !== undefined && current.provider !== specification.provider) {
        const rule = `can't change from ${current.provider}: remove the worker, and add another one`;
        throw new RpcError("INVALID_REQUEST", `worker.provider ${rule}`, { field: "worker.provider" });
      }
      await directory.updateDesiredWorker(specification);
      return {};
    },
    async drain({ name, undo }, call) {
      requireAdmin(call);
      const known =
        desiredNamed(name) !== undefined ||
        directory.workers().some(({ info }) => info?.name === name) ||
        (undo && directory.drainedWorkers().has(name));
      if (!known) throw notFound(name);
      await directory.setDrained(name, !undo);
      return {};
    },
    async remove({ name }, call) {
      requireAdmin(call);
      requireAdded(name, "name");
      await directory.removeDesiredWorker(name);
      return {};
    },
    async getDistribution() {
      const workersByNode: Record<string, number> = {};
      for (const { id, services } of directory.nodes()) {
        if (services.some((service) => providerOf(service) !== undefined)) workersByNode[id] = 0;
      }
      for (const { node } of directory.workers()) workersByNode[node] = (workersByNode[node] ?? 0) + 1;
      return { workersByNode };
    },
  };
}

/** Workers as a caller may see them: what exactly is wrong with one is for administrators. */
function toldTo({ admin }: Call, workers: readonly RegisteredWorker[]): RegisteredWorker[] {
  if (admin) return [...workers];
  return workers.map((worker) => ({ ...worker, info: { ...worker.info!, message: "" } }));
}

function requireAdmin(call: Call): void {
  if (call.admin) return;
  const message = "only an administrator's key may change workers: clients[].admin in the configuration";
  throw new RpcError("PERMISSION_DENIED", message);
}

function notFound(name: string): RpcError {
  return new RpcError("WORKER_NOT_FOUND", `there is no worker "${name.slice(0, 100)}"`, { field: "name" });
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
