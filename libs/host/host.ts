/** What a service is given by the node that runs it, and what it gives back. */
import type { Dialect, ProviderService, Worker, WorkerDependencies, WorkerSettings } from "../adapter/index.ts";
import type { CacheLevel } from "../caching/index.ts";
import type { CheckResponse, GetReportResponse } from "../gen/cortex/health/v1/health.ts";
import type { Clients, Mesh } from "../mesh/index.ts";
import type { Service, ServiceDefinition } from "../rpc/index.ts";
import type { Logger, Metrics, Tracer } from "../telemetry/index.ts";
import type { Identity } from "./authentication.ts";
import type { Configuration } from "./config.ts";
import type { Operations } from "./operations.ts";

/** A mistake that the person who starts the node can mend: told in a sentence, without a stack. */
export class StartError extends Error {
  override readonly name = "StartError";
}

/** The node, as its services see it. */
export interface Host {
  readonly nodeId: string;
  /** As it is now: read it whenever it is used, for its file may change while the node runs. */
  readonly configuration: Configuration;
  /** Calls `listener` after each change of the configuration. Returns how to stop that. */
  onConfiguration(listener: (configuration: Configuration, before: Configuration) => void): () => void;
  readonly mesh: Mesh;
  readonly clients: Clients;
  /** The workers of this node; adapters put theirs in. */
  readonly workers: ProviderService;
  readonly tracer: Tracer;
  /** What the node counts, for Prometheus. */
  readonly metrics: Metrics;
  /** What it answers to whoever runs it. */
  readonly operations: Operations;
  readonly log: Logger;
  /** Adds a level of the cache: the node's CacheService tells of it, and empties it. Returns how to take it away. */
  addCacheLevel(level: CacheLevel): () => void;
  /** Makes a service reachable: in this node, from other nodes, and for any gRPC client. */
  serve<D extends ServiceDefinition>(definition: D, implementation: Service<D>): void;
  /**
   * Runs a loop of the service in the background until `signal` is aborted: when the service stops, or crashes. A loop that
   * rejects has crashed, and its service with it, which is then restarted alone.
   */
  run(name: string, loop: (signal: AbortSignal) => Promise<void>): void;
  /** Something is wrong that people should know, in a sentence; undefined when it is mended. Whoever asks for health reads it. */
  problem(name: string, sentence: string | undefined): void;
  /** How the mesh is, seen from here, from memory; with `causes`, for administrators, also why each worker is down. */
  health(options?: { readonly causes: boolean }): CheckResponse;
  /** Everything behind that, for administrators alone: others are asked, and have a second to answer. */
  report(): Promise<GetReportResponse>;
  /** Whom an `Authorization` header proves; throws UNAUTHENTICATED. */
  authenticate(authorization: string): Identity;
}

/** A service that runs. Each step is bounded by the node's drain time. */
export interface RunningService {
  /** Where people reach it, for the greeting: `REST` → `http://127.0.0.1:8080`. */
  readonly addresses?: Readonly<Record<string, string>>;
  /** Takes nothing new from outside, and resolves when what it has from outside has ended. */
  drain?(): Promise<void>;
  /** Lets go of everything. */
  stop?(): Promise<void>;
}

/** A service that a node can run. */
export interface ServiceEntry {
  /** Its name on the command line and in the directory. */
  readonly name: string;
  /** What it answers over gRPC. */
  readonly interfaces: readonly ServiceDefinition[];
  /** Those of them that only nodes of the mesh and administrators may ask. */
  readonly meshOnly?: readonly ServiceDefinition[];
  /** Starts it. After a crash it is started again, and given what had run before, which may still serve its last requests. */
  start(host: Host, before?: RunningService): Promise<RunningService>;
  /** Of an adapter: the provider that it speaks to, and how to make a worker of it. */
  readonly adapter?: {
    readonly provider: string;
    createWorker(settings: WorkerSettings, dependencies: WorkerDependencies): Worker;
    /** How such a worker speaks; absent when there is no provider behind it. */
    createDialect?(settings: WorkerSettings): Dialect;
  };
}
