/** The ProviderService of a node: finds the worker that a request names and hands the request on. */
import type { CompletionRequest, EmbeddingRequest } from "../gen/cortex/llm/v1/llm.ts";
import type { ProviderServiceDefinition, WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { RpcError, type Service } from "../rpc/index.ts";
import type { Worker, WorkerChange } from "./worker.ts";

/** A worker has come, gone, or is different. */
export interface ProviderServiceChange {
  readonly worker: string;
  readonly change: "added" | "replaced" | "removed" | WorkerChange;
}

/**
 * How long at least a worker that retires stays open: a request may have been handed to it that it has not begun. And how long
 * it is remembered that a worker was here, as others may still send it requests.
 */
const RETIRE_MIN_MS = 1_000;
const LEFT_MS = 10_000;

/** The workers of a node. */
export interface ProviderService {
  readonly service: Service<ProviderServiceDefinition>;
  /** Takes a worker in and owns it from then on. Throws WORKER_ALREADY_REGISTERED if the name is taken. */
  add(worker: Worker): void;
  /**
   * Takes a worker in in the place of the one of its name, in one step: no request finds none. The other one retires. Resolves
   * when that is closed; without another one it is as `add`.
   */
  replace(worker: Worker): Promise<void>;
  /** Sends no more requests to the worker and closes it; resolves when it is closed, with false if there is none. */
  remove(name: string): Promise<boolean>;
  /** As `remove`, but the worker is closed when the requests that it serves have ended, however long they take. */
  retire(name: string): Promise<boolean>;
  /** What a worker of this node is now; undefined if there is none. */
  info(name: string): WorkerInfo | undefined;
  /** Which workers are drained, of any node, from now on: `info` tells it. */
  setDrained(names: ReadonlySet<string>): void;
  /** In the order in which they were added. */
  workers(): readonly Worker[];
  /** Calls `listener` after each change until the returned function is called. */
  onChange(listener: (change: ProviderServiceChange) => void): () => void;
  /** Removes every worker, and closes those that retire. */
  close(): Promise<void>;
}

/** Makes a service without workers. */
export function createProviderService(): ProviderService {
  const entries = new Map<string, { readonly worker: Worker; readonly unwatch: () => void }>();
  const listeners = new Set<(change: ProviderServiceChange) => void>();
  /** Workers that serve their last requests, and how to end that. */
  const retiring = new Map<Worker, () => void>();
  /** When workers were removed. */
  const left = new Map<string, number>();
  let drained: ReadonlySet<string> = new Set();

  function notify(worker: string, change: ProviderServiceChange["change"]): void {
    for (const listener of listeners) listener({ worker, change });
  }

  function find(name: string): Worker {
    if (name === "") throw missing("worker");
    const entry = entries.get(name);
    if (entry !== undefined) return entry.worker;
    const leftAtMs = left.get(name) ?? Number.NEGATIVE_INFINITY;
    // Who asks has not heard of it yet, and may find the worker at another node.
    if (performance.now() - leftAtMs < LEFT_MS) {
      throw new RpcError("NODE_UNREACHABLE", `worker "${name}" does not run on this node any more`);
    }
    throw new RpcError("WORKER_NOT_FOUND", `there is no worker "${name}" on this node`);
  }

  function infoOf(worker: Worker): WorkerInfo {
    const info = worker.info();
    return drained.has(worker.name) ? { ...info, draining: true } : info;
  }

  function put(worker: Worker): void {
    const { name } = worker;
    entries.get(name)?.unwatch();
    entries.set(name, { worker, unwatch: worker.onChange((change) => notify(name, change)) });
    left.delete(name);
  }

  /** Takes a worker out, not yet closed. */
  function take(name: string): Worker | undefined {
    const entry = entries.get(name);
    if (entry === undefined) return undefined;
    entries.delete(name);
    entry.unwatch();
    const nowMs = performance.now();
    for (const [other, leftAtMs] of left) if (nowMs - leftAtMs >= LEFT_MS) left.delete(other);
    left.set(name, nowMs);
    notify(name, "removed");
    return entry.worker;
  }

  async function remove(name: string): Promise<boolean> {
    const worker = take(name);
    await worker?.close();
    return worker !== undefined;
  }

  async function closeWhenIdle(worker: Worker): Promise<void> {
    await new Promise<void>((resolve) => {
      let ripe = false;
      const unwatch = worker.onLoad((activeRequests) => {
        if (ripe && activeRequests === 0) end();
      });
      const end = (): void => {
        clearTimeout(timer);
        unwatch();
        retiring.delete(worker);
        resolve();
      };
      const timer = setTimeout(() => {
        ripe = true;
        if (worker.info().activeRequests === 0) end();
      }, RETIRE_MIN_MS).unref();
      retiring.set(worker, end);
    });
    await worker.close();
  }

  return {
    service: {
      checkHealth: async ({ worker, ageMaxMs }, call) => find(worker).checkHealth(call, { ageMaxMs }),
      complete: async ({ worker, completion, lastResort }, call) =>
        find(worker).complete(checkCompletion(completion), call, { lastResort }),
      stream: ({ worker, completion, lastResort }, call) =>
        find(worker).stream(checkCompletion(completion), call, { lastResort }),
      embed: async ({ worker, embedding, lastResort }, call) =>
        find(worker).embed(checkEmbedding(embedding), call, { lastResort }),
      listModels: async ({ worker }, call) => ({ models: await find(worker).listModels(call) }),
      getInfo: async ({ worker }) => ({
        workers: worker === "" ? [...entries.values()].map((entry) => infoOf(entry.worker)) : [infoOf(find(worker))],
      }),
    },
    add(worker) {
      const { name } = worker;
      if (entries.has(name)) {
        throw new RpcError("WORKER_ALREADY_REGISTERED", `a worker "${name}" is already registered on this node`);
      }
      put(worker);
      notify(name, "added");
    },
    async replace(worker) {
      const before = entries.get(worker.name)?.worker;
      put(worker);
      notify(worker.name, before === undefined ? "added" : "replaced");
      if (before !== undefined) await closeWhenIdle(before);
    },
    remove,
    async retire(name) {
      const worker = take(name);
      if (worker !== undefined) await closeWhenIdle(worker);
      return worker !== undefined;
    },
    info(name) {
      const entry = entries.get(name);
      return entry === undefined ? undefined : infoOf(entry.worker);
    },
    setDrained(names) {
      drained = names;
    },
    workers: () => [...entries.values()].map((entry) => entry.worker),
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async close() {
      const ending = [...retiring].map(([worker, end]) => {
        end();
        return worker.close();
      });
      await Promise.all([...ending, ...[...entries.keys()].map(remove)]);
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
