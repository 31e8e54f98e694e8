/** The registry: which workers there are, where they live, and which there should be. A thin face of the directory. */
import type { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import {
  Locality,
  type RegisteredWorker,
  type RegistryServiceDefinition,
  type WorkerSpecification,
} from "../../libs/gen/cortex/registry/v1/registry.ts";
import { KEYS_VARIABLE } from "../../libs/host/index.ts";
import type { Directory } from "../../libs/mesh/index.ts";
import { RpcError, type Service } from "../../libs/rpc/index.ts";

const NAME = /^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$/;

/** Makes the registry of this node's directory. */
export function createRegistry({
  directory,
  nodeId,
}: {
  readonly directory: Directory;
  readonly nodeId: string;
}): Service<typeof RegistryServiceDefinition> {
  const toRegistered = ({ info, node }: RunningWorker): RegisteredWorker => ({
    info,
    node,
    locality: node === nodeId ? Locality.LOCAL : Locality.REMOTE,
    added: false,
    preferredNode: "",
  });
  return {
    async register({ worker }) {
      await directory.addDesiredWorker(checked(worker));
      return {};
    },
    async get({ name }) {
      const workers = directory.workers().filter(({ info }) => info?.name === name);
      if (workers.length === 0) {
        throw new RpcError("WORKER_NOT_FOUND", `there is no worker "${name.slice(0, 100)}"`, { field: "name" });
      }
      return { workers: workers.map(toRegistered) };
    },
    async list({ provider }) {
      const workers = directory.workers().filter(({ info }) => provider === "" || info?.provider === provider);
      return { workers: workers.map(toRegistered) };
    },
    async update() {
      throw new RpcError("UNIMPLEMENTED", "not yet");
    },
    async drain() {
      throw new RpcError("UNIMPLEMENTED", "not yet");
    },
    async remove({ name }) {
      await directory.removeDesiredWorker(name);
      return {};
    },
    async getDistribution() {
      const workersByNode: Record<string, number> = {};
      for (const { node } of directory.workers()) workersByNode[node] = (workersByNode[node] ?? 0) + 1;
      return { workersByNode };
    },
  };
}

function checked(worker: WorkerSpecification | undefined): WorkerSpecification {
  if (worker === undefined) throw new RpcError("INVALID_REQUEST", "worker is missing", { field: "worker" });
  if (!NAME.test(worker.name)) {
    const rule = "has to be lower-case letters, digits and hyphens, at most 64";
    throw new RpcError("INVALID_REQUEST", `worker.name ${rule}`, { field: "worker.name" });
  }
  if (worker.provider === "") {
    throw new RpcError("INVALID_REQUEST", "worker.provider is missing", { field: "worker.provider" });
  }
  if (worker.keysVariable !== "" && !KEYS_VARIABLE.test(worker.keysVariable)) {
    const rule = "has to begin with CORTEX_KEYS_: other variables are never sent to an address chosen at run time";
    throw new RpcError("INVALID_REQUEST", `worker.keys_variable ${rule}`, { field: "worker.keys_variable" });
  }
  if (worker.baseUrl !== "" && !/^https?:\/\//.test(worker.baseUrl)) {
    const rule = "has to begin with http:// or https://";
    throw new RpcError("INVALID_REQUEST", `worker.base_url ${rule}`, { field: "worker.base_url" });
  }
  return worker;
}
