/**
 * Who is in the mesh, in memory: nodes, the workers they run, and the workers that should run. It is fed by watches of
 * the directory's buckets and knows nothing of NATS; all that a request needs of it is synchronous.
 *
 * The one hard question is when the silence of another node means that it is gone. Here a node trusts silence only while
 * it hears itself: while its own heartbeats come back through the same watch. When they don't (NATS is away, the watch
 * hangs, this process was paused), nobody expires; and when they come back, everybody has the time of one expiry to be
 * heard again. So neither an outage of NATS nor the loss of all its data makes a hole in routing.
 */
import type { NodeRecord, RunningWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import type { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";

/** Two clocks: one to compare with other nodes, one to measure by. */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  epochMs(): number;
  /** Milliseconds since some moment; never goes back. */
  monotonicMs(): number;
}

/** The clocks of the machine. */
export const systemClock: Clock = { epochMs: () => Date.now(), monotonicMs: () => performance.now() };

/**
 * Who serves what, as this node knows it. Reading is synchronous and cheap enough for every request. Arrays are shared:
 * the same one is returned until `generation` changes. In between, a record's `load` (and a worker's `info`) may be
 * replaced by fresher ones within the same array, so read them when they are used and don't keep them.
 */
export interface Directory {
  /** Increases with every change but load; what is derived from the directory may be kept until then. */
  readonly generation: number;
  /** The nodes that are alive: not expired, not marked unreachable; this one included, draining ones too. By id. */
  nodes(): readonly NodeRecord[];
  /** A node that has not left or expired. Also one that is marked unreachable, so that its address can be tried again. */
  node(id: string): NodeRecord | undefined;
  /** The nodes that answer the gRPC service of this full name, are alive and not draining. By id. */
  nodesServing(interfaceName: string): readonly NodeRecord[];
  /** The workers that run on nodes that are alive, draining ones too. By name, then by node. */
  workers(): readonly RunningWorker[];
  /** The workers that should run. By name. */
  desiredWorkers(): readonly WorkerSpecification[];
  /**
   * Adds a worker to those that should run; every node knows within milliseconds. A name that is desired or running is
   * refused with WORKER_ALREADY_REGISTERED; NODE_UNREACHABLE while NATS is away.
   */
  addDesiredWorker(specification: WorkerSpecification): Promise<void>;
  /** Removes a worker from those that should run. WORKER_NOT_FOUND without it, NODE_UNREACHABLE while NATS is away. */
  removeDesiredWorker(name: string): Promise<void>;
  /** Takes a node out of routing at once: the connection to it is lost. Unknown nodes and this one are ignored. */
  markUnreachable(nodeId: string): void;
  /** Takes a node back into routing: there is a connection again. */
  markReachable(nodeId: string): void;
  /** Calls `listener` once after one or several changes of `generation`. Returns how to stop that. */
  onChange(listener: () => void): () => void;
}
