/** The ProviderService of a node: finds the worker that a request names and hands the request on. */
import type { CompletionRequest, EmbeddingRequest } from "../gen/cortex/llm/v1/llm.ts";
import type { ProviderServiceDefinition } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError, type Service } from "../rpc/index.ts";
import type { Worker, WorkerChange } from "./worker.ts";

/** A worker has come, gone, or is different. */
export interface ProviderServiceChange {
  readonly worker: string;
  readonly change: "added" | "removed" | WorkerChange;
}

/** The workers of a node. */
export interface ProviderService {
  readonly service: Service<ProviderServiceDefinition>;
  /** Takes a worker in and owns it from then on. Throws WORKER_ALREADY_REGISTERED if the name is taken. */
  add(worker: Worker): void;
  /** Sends no more requests to the worker and closes it; resolves when it is closed, with false if there is none. */
  remove(name: string): Promise<boolean>;
  /** In the order in which they were added. */
  workers(): readonly Worker[];
  /** Calls `listener` after each change until the returned function is called. */
  onChange(listener: (change: ProviderServiceChange) => void): () => void;
  /** Removes every worker. */
  close(): Promise<void>;
}

/** Makes a service without workers. */
export function createProviderService(): ProviderService {
  const entries = new Map<string, { readonly worker: Worker; readonly unwatch: () => void }>();
  const listeners = new Set<(change: ProviderServiceChange) => void>();

  function notify(worker: string, change: ProviderServiceChange["change"]): void {
    for (const listener of listeners) listener({ worker, change });
  }

  function find(name: string): Worker {
    if (name === "") throw missing("worker");
    const entry = entries.get(name);
    if (entry === undefined) throw new RpcError("WORKER_NOT_FOUND", `there is no worker "${name}" on this node`);
    return entry.worker;
  }

  async function remove(name: string): Promise<boolean> {
    const entry = entries.get(name);
    if (entry === undefined) return false;
    entries.delete(name);
    entry.unwatch();
    notify(name, "removed");
    await entry.worker.close();
    return true;
  }

  return {
    service: {
      checkHealth: async ({ worker }, call) => find(worker).checkHealth(call),
      complete: async ({ worker, completion }, call) => ({
        completion: await find(worker).complete(checkCompletion(completion), call),
        key: "",
      }),
      stream: ({ worker, completion }, call) => find(worker).stream(checkCompletion(completion), call),
      embed: async ({ worker, embedding }, call) => ({
        embedding: await find(worker).embed(checkEmbedding(embedding), call),
        key: "",
      }),
      listModels: async ({ worker }, call) => ({ models: await find(worker).listModels(call) }),
      getInfo: async ({ worker }) => ({
        workers: worker === "" ? [...entries.values()].map((entry) => entry.worker.info()) : [find(worker).info()],
      }),
    },
    add(worker) {
      const { name } = worker;
      if (entries.has(name)) {
        throw new RpcError("WORKER_ALREADY_REGISTERED", `a worker "${name}" is already registered on this node`);
      }
      entries.set(name, { worker, unwatch: worker.onChange((change) => notify(name, change)) });
      notify(name, "added");
    },
    remove,
    workers: () => [...entries.values()].map((entry) => entry.worker),
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async close() {
      await Promise.all([...entries.keys()].map(remove));
    },
  };
}

function checkCompletion(completion: CompletionRequest | undefined): CompletionRequest {
  if (completion === undefined) throw missing("completion");
  if (completion.model === "") throw missing("completion.model");
  if (completion.messages.length === 0) throw missing("completion.messages");
  return completion;
}

function checkEmbedding(embedding: EmbeddingRequest | undefined): EmbeddingRequest {
  if (embedding === undefined) throw missing("embedding");
  if (embedding.model === "") throw missing("embedding.model");
  if (embedding.inputs.length === 0) throw missing("embedding.inputs");
  return embedding;
}

function missing(field: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field} is missing`, { field });
}
