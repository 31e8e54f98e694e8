/**
 * Who is in the mesh, in memory: nodes, the workers they run, and the workers that should run. It is fed by watches of
 * the directory's buckets and knows nothing of NATS; all that a request needs of it is synchronous.
 *
 * The one hard question is when the silence of another node means that it is gone. Here a node trusts silence only while
 * it hears itself: while its own heartbeats come back through the same watch. When they don't (NATS is away, the watch
 * hangs, this process was paused), nobody expires; and when they come back, everybody has the time of one expiry to be
 * heard again. So neither an outage of NATS nor the loss of all its data makes a hole in routing.
 */
import { DrainedWorker, type NodeLoad, NodeRecord, RunningWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import { Health, type WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { RpcError } from "../rpc/index.ts";
import type { Logger } from "../telemetry/index.ts";
import { isDrainedKey, keyOf } from "./keys.ts";

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
  /** How many nodes fell silent and were taken for dead since the start. */
  readonly nodesLost: number;
  /** The nodes that are alive: not expired, not marked unreachable; this one included, draining ones too. By id. */
  nodes(): readonly NodeRecord[];
  /** A node that has not left or expired. Also one that is marked unreachable, so that its address can be tried again. */
  node(id: string): NodeRecord | undefined;
  /** Whether `node(id)` has an answer: false once a node has left or expired. */
  known(id: string): boolean;
  /** The nodes that answer the gRPC service of this full name, are alive and not draining. By id. */
  nodesServing(interfaceName: string): readonly NodeRecord[];
  /**
   * The workers that run on nodes that are alive, draining ones too. By name, then by node. Whether one is drained is what this
   * node knows of it, whatever its own node has announced: so all replicas are drained at once, that of a dead node too.
   */
  workers(): readonly RunningWorker[];
  /** The workers that should run. By name. */
  desiredWorkers(): readonly WorkerSpecification[];
  /**
   * Adds a worker to those that should run; every node knows within milliseconds. A name that is desired, or that a worker
   * of a configuration file has, is refused with WORKER_ALREADY_REGISTERED; NODE_UNREACHABLE while NATS is away.
   */
  addDesiredWorker(specification: WorkerSpecification): Promise<void>;
  /** Changes a worker that should run. WORKER_NOT_FOUND without one of its name, NODE_UNREACHABLE while NATS is away. */
  updateDesiredWorker(specification: WorkerSpecification): Promise<void>;
  /**
   * Removes a worker from those that should run, and forgets that it was drained. WORKER_NOT_FOUND without it,
   * NODE_UNREACHABLE while NATS is away.
   */
  removeDesiredWorker(name: string): Promise<void>;
  /**
   * Whether this node, given that it has the provider's adapter, should run a worker that was added. With `runsHere`, one
   * that ran here in place of its preferred node stays until it can serve there, so that it is always somewhere.
   */
  belongsHere(specification: WorkerSpecification, runsHere: boolean): boolean;
  /** The workers that should take no new requests, wherever they come from; the same set until `generation` changes. */
  drainedWorkers(): ReadonlySet<string>;
  /**
   * A worker of any origin shall take no new requests, or take them again; every node knows within milliseconds.
   * NODE_UNREACHABLE while NATS is away.
   */
  setDrained(name: string, drained: boolean): Promise<void>;
  /** Takes a node out of routing at once: the connection to it is lost. Unknown nodes and this one are ignored. */
  markUnreachable(nodeId: string): void;
  /** Takes a node back into routing: there is a connection again. */
  markReachable(nodeId: string): void;
  /** Calls `listener` once after one or several changes of `generation`. Returns how to stop that. */
  onChange(listener: () => void): () => void;
}

/** What a bucket holds under a key. */
export interface Entry {
  readonly key: string;
  readonly revision: number;
  /** Undefined when the key was deleted. */
  readonly value: Uint8Array | undefined;
}

/** Where the workers that should run are kept. */
export interface DesiredWorkerStore {
  /** False when the name is taken. */
  create(specification: WorkerSpecification): Promise<boolean>;
  /** False when there is no such worker. */
  replace(specification: WorkerSpecification): Promise<boolean>;
  /** False when there is no such worker. */
  remove(name: string): Promise<boolean>;
  /** Notes that a worker is drained, or that it is not. */
  setDrained(name: string, drained: boolean): Promise<void>;
}

interface DirectoryOptions {
  /** This node as it is now. */
  readonly self: NodeRecord;
  readonly expiryMs: number;
  readonly store: DesiredWorkerStore;
  readonly clock: Clock;
  readonly log: Logger;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

interface KnownNode {
  /** Its load and expiry are replaced in place by heartbeats; whatever else changes makes a new record. */
  record: Mutable<NodeRecord>;
  /** The record without what every heartbeat changes, encoded: equal bytes, equal node. */
  identity: Uint8Array;
  revision: number;
  deadlineMs: number;
  unreachable: boolean;
}

interface KnownWorker {
  readonly running: Mutable<RunningWorker>;
  identity: Uint8Array;
  deadlineMs: number;
}

/** How long a worker's entry is believed without being put again. Its node puts it again every RUNNING_REPEAT_MS. */
export const RUNNING_EXPIRY_MS = 120_000;
/** How often a node puts its workers again, for readers and for the bucket's own expiry. */
export const RUNNING_REPEAT_MS = 30_000;

const NO_NODES: readonly NodeRecord[] = Object.freeze([]);

/** The directory, and how it is fed. */
export class MeshDirectory implements Directory {
  readonly #options: DirectoryOptions;
  readonly #nodes = new Map<string, KnownNode>();
  readonly #workers = new Map<string, KnownWorker>();
  readonly #ownWorkers = new Map<string, KnownWorker>();
  readonly #desired = new Map<string, { readonly specification: WorkerSpecification; readonly bytes: Uint8Array }>();
  /** The names of drained workers, by key. */
  readonly #drained = new Map<string, string>();
  #self: Mutable<NodeRecord>;
  #generation = 1;
  #nodesLost = 0;
  /** When this node last heard itself; -Infinity when it can't hear. */
  #heardMs: number;
  #deaf = false;

  #nodesCache: readonly NodeRecord[] | undefined;
  #servingCache: Map<string, readonly NodeRecord[]> | undefined;
  #workersCache: RunningWorker[] | undefined;
  #desiredCache: readonly WorkerSpecification[] | undefined;
  #drainedCache: ReadonlySet<string> | undefined;
  readonly #listeners = new Set<() => void>();
  #notifying = false;

  constructor(options: DirectoryOptions) {
    this.#options = options;
    this.#self = { ...options.self };
    this.#heardMs = options.clock.monotonicMs();
  }

  // What everybody may ask.

  get generation(): number {
    return this.#generation;
  }

  get nodesLost(): number {
    return this.#nodesLost;
  }

  nodes(): readonly NodeRecord[] {
    this.#nodesCache ??= [this.#self, ...this.#reachableNodes()].sort((a, b) => compare(a.id, b.id));
    return this.#nodesCache;
  }

  node(id: string): NodeRecord | undefined {
    return id === this.#self.id ? this.#self : this.#nodes.get(id)?.record;
  }

  known(id: string): boolean {
    return this.node(id) !== undefined;
  }

  nodesServing(interfaceName: string): readonly NodeRecord[] {
    this.#servingCache ??= this.#indexByInterface();
    return this.#servingCache.get(interfaceName) ?? NO_NODES;
  }

  workers(): readonly RunningWorker[] {
    this.#workersCache ??= [...this.#ownWorkers.values(), ...this.#workers.values()]
      .map(({ running }) => running)
      .filter(({ node }) => node === this.#self.id || this.#nodes.get(node)?.unreachable === false)
      .sort((a, b) => compare(a.info?.name ?? "", b.info?.name ?? "") || compare(a.node, b.node));
    return this.#workersCache;
  }

  desiredWorkers(): readonly WorkerSpecification[] {
    this.#desiredCache ??= [...this.#desired.values()]
      .map(({ specification }) => specification)
      .sort((a, b) => compare(a.name, b.name));
    return this.#desiredCache;
  }

  async addDesiredWorker(specification: WorkerSpecification): Promise<void> {
    const { name } = specification;
    if (name === "") throw new RpcError("INVALID_REQUEST", "a worker needs a name", { field: "worker.name" });
    // One that was added and is not desired any more is on its way out: its name is free.
    const taken =
      this.desiredWorkers().some((desired) => desired.name === name) ||
      this.workers().some(({ info, added }) => info?.name === name && !added);
    if (taken || !(await this.#options.store.create(specification))) {
      throw new RpcError("WORKER_ALREADY_REGISTERED", `worker ${name} is already registered`, { field: "worker.name" });
    }
    // Somebody drained another worker of this name, which is gone.
    if (this.drainedWorkers().has(name)) await this.#options.store.setDrained(name, false);
  }

  async removeDesiredWorker(name: string): Promise<void> {
    if (name === "" || !(await this.#options.store.remove(name))) {
      throw new RpcError("WORKER_NOT_FOUND", `no worker ${name} was added`);
    }
  }

  async updateDesiredWorker(specification: WorkerSpecification): Promise<void> {
    const { name } = specification;
    if (name === "" || !(await this.#options.store.replace(specification))) {
      throw new RpcError("WORKER_NOT_FOUND", `no worker ${name} was added`);
    }
  }

  belongsHere({ name, provider, preferredNode }: WorkerSpecification, runsHere: boolean): boolean {
    if (preferredNode === "" || isCalled(this.#self, preferredNode)) return true;
    const preferred = this.nodes().filter(
      ({ draining, services, ...node }) =>
        isCalled(node, preferredNode) && !draining && services.some((service) => providerOf(service) === provider),
    );
    if (!runsHere) return preferred.length === 0;
    const there = new Set(preferred.map(({ id }) => id));
    return !this.workers().some(({ node, info }) => info?.name === name && there.has(node) && serves(info));
  }

  drainedWorkers(): ReadonlySet<string> {
    this.#drainedCache ??= new Set(this.#drained.values());
    return this.#drainedCache;
  }

  async setDrained(name: string, drained: boolean): Promise<void> {
    if (name === "") throw new RpcError("INVALID_REQUEST", "a worker needs a name", { field: "name" });
    await this.#options.store.setDrained(name, drained);
  }

  markUnreachable(nodeId: string): void {
    this.#setUnreachable(nodeId, true);
  }

  markReachable(nodeId: string): void {
    this.#setUnreachable(nodeId, false);
  }

  onChange(listener: () => void): () => void {
    // A wrapper, so that the same function may listen twice.
    const entry = (): void => listener();
    this.#listeners.add(entry);
    return () => this.#listeners.delete(entry);
  }

  // What this node knows of itself.

  /** Replaces this node's load without a change of generation, and returns the record to announce. */
  refreshSelf(load: NodeLoad): NodeRecord {
    this.#self.load = load;
    this.#self.expiresAtMs = this.#options.clock.epochMs() + this.#options.expiryMs;
    return this.#self;
  }

  /** This node takes new calls, or does not. */
  setSelfDraining(draining: boolean): void {
    if (this.#self.draining === draining) return;
    this.#self = { ...this.#self, draining };
    this.#changed();
  }

  /** Where this node tells its metrics. */
  setSelfMetricsAddress(metricsAddress: string): void {
    if (this.#self.metricsAddress === metricsAddress) return;
    this.#self = { ...this.#self, metricsAddress };
    this.#changed();
  }

  /** A worker that this node runs, whether NATS knows of it yet or not. */
  setOwnWorker(name: string, info: WorkerInfo, added: boolean): void {
    this.#putWorker(this.#ownWorkers, name, { node: this.#self.id, info, added }, Number.POSITIVE_INFINITY);
  }

  /** This node no longer runs that worker. */
  deleteOwnWorker(name: string): void {
    if (this.#ownWorkers.delete(name)) this.#changed();
  }

  /** The workers that this node runs. */
  ownWorkers(): readonly RunningWorker[] {
    return [...this.#ownWorkers.values()].map(({ running }) => running);
  }

  // What the watches bring.

  /** All that cortex_nodes holds. Nodes that are missing are not dropped: their silence shows. */
  nodesSnapshot(entries: Iterable<Entry>): void {
    for (const entry of entries) this.nodeEntry(entry, true);
  }

  /**
   * One entry of cortex_nodes. One that a snapshot brings may be old: of a node not known yet it tells when it expires, of
   * others it is a sign of life only when it is a newer one.
   */
  nodeEntry(entry: Entry, fromSnapshot = false): void {
    if (entry.value === undefined) {
      this.#removeNodeByKey(entry.key);
      return;
    }
    const record = this.#decode(NodeRecord, entry);
    if (record === undefined || record.id === "" || record.id === this.#self.id) return;
    const { clock, expiryMs } = this.#options;
    const nowMs = clock.monotonicMs();
    const known = this.#nodes.get(record.id);
    const identity = nodeIdentity(record);
    let deadlineMs = nowMs + expiryMs;
    if (fromSnapshot && known === undefined) {
      const leftMs = record.expiresAtMs - clock.epochMs();
      if (leftMs <= 0) return;
      deadlineMs = nowMs + Math.min(leftMs, expiryMs);
    } else if (fromSnapshot && known?.revision === entry.revision) {
      deadlineMs = known.deadlineMs;
    }
    if (known === undefined || !equalBytes(known.identity, identity)) {
      // A node that was started anew under its old id has new connections: what was lost with the old ones is no longer so.
      const unreachable = known?.record.startedAtMs === record.startedAtMs && known.unreachable;
      this.#nodes.set(record.id, {
        record: { ...record },
        identity,
        revision: entry.revision,
        deadlineMs,
        unreachable,
      });
      this.#changed();
      return;
    }
    known.record.load = record.load;
    known.record.expiresAtMs = record.expiresAtMs;
    known.revision = entry.revision;
    known.deadlineMs = deadlineMs;
  }

  /** All that cortex_running holds. What is missing is given the time of one expiry to be announced again. */
  runningSnapshot(entries: ReadonlyMap<string, Entry>): void {
    for (const entry of entries.values()) this.runningEntry(entry);
    const graceMs = this.#options.clock.monotonicMs() + this.#options.expiryMs;
    for (const [key, worker] of this.#workers) {
      if (!entries.has(key)) worker.deadlineMs = Math.min(worker.deadlineMs, graceMs);
    }
  }

  /** One entry of cortex_running. */
  runningEntry(entry: Entry): void {
    if (entry.value === undefined) {
      if (this.#workers.delete(entry.key)) this.#changed();
      return;
    }
    const running = this.#decode(RunningWorker, entry);
    // This node knows its own workers best, and before NATS does.
    if (running?.info === undefined || running.node === this.#self.id) return;
    this.#putWorker(this.#workers, entry.key, running, this.#options.clock.monotonicMs() + RUNNING_EXPIRY_MS);
  }

  /** All that cortex_workers holds. */
  desiredSnapshot(entries: ReadonlyMap<string, Entry>): void {
    for (const key of [...this.#desired.keys(), ...this.#drained.keys()]) {
      if (!entries.has(key)) this.#deleteDesired(key);
    }
    for (const entry of entries.values()) this.desiredEntry(entry);
  }

  /** One entry of cortex_workers. */
  desiredEntry(entry: Entry): void {
    if (entry.value === undefined) {
      this.#deleteDesired(entry.key);
      return;
    }
    if (isDrainedKey(entry.key)) {
      const drained = this.#decode(DrainedWorker, entry);
      if (drained === undefined || this.#drained.get(entry.key) === drained.name) return;
      this.#drained.set(entry.key, drained.name);
      this.#drainedChanged(drained.name);
      return;
    }
    const known = this.#desired.get(entry.key);
    if (known !== undefined && equalBytes(known.bytes, entry.value)) return;
    const specification = this.#decode(WorkerSpecification, entry);
    if (specification === undefined) return;
    this.#desired.set(entry.key, { specification, bytes: entry.value });
    this.#changed();
  }

  // Time.

  /** This node's own heartbeat came back: what the watch brings is fresh. */
  heardSelf(): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#isDeaf(nowMs)) {
      this.#deaf = false;
      const graceMs = nowMs + this.#options.expiryMs;
      for (const node of this.#nodes.values()) node.deadlineMs = Math.max(node.deadlineMs, graceMs);
      for (const worker of this.#workers.values()) worker.deadlineMs = Math.max(worker.deadlineMs, graceMs);
    }
    this.#heardMs = nowMs;
  }

  /** NATS is away: until this node hears itself again, nobody expires. */
  deafen(): void {
    this.#deaf = true;
  }

  /** Drops what has expired; to be called a few times per heartbeat. */
  sweep(): void {
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#isDeaf(nowMs)) {
      this.#deaf = true;
      return;
    }
    for (const [id, node] of this.#nodes) {
      if (node.deadlineMs > nowMs) continue;
      this.#nodes.delete(id);
      this.#nodesLost++;
      this.#options.log.warn({ peer: id }, "a node has been silent for too long and is taken for dead");
      this.#changed();
    }
    for (const [key, worker] of this.#workers) {
      if (worker.deadlineMs > nowMs) continue;
      this.#workers.delete(key);
      this.#changed();
    }
  }

  /**
   * Half an expiry without an own heartbeat is deafness: later than an own heartbeat may reasonably be, sooner than
   * another node that fell silent at the same moment would expire.
   */
  #isDeaf(nowMs: number): boolean {
    return this.#deaf || nowMs - this.#heardMs > this.#options.expiryMs / 2;
  }

  *#reachableNodes(): Iterable<NodeRecord> {
    for (const { record, unreachable } of this.#nodes.values()) if (!unreachable) yield record;
  }

  #indexByInterface(): Map<string, readonly NodeRecord[]> {
    const index = new Map<string, NodeRecord[]>();
    for (const node of this.nodes()) {
      if (node.draining) continue;
      for (const name of new Set(node.interfaces)) {
        const serving = index.get(name);
        if (serving === undefined) index.set(name, [node]);
        else serving.push(node);
      }
    }
    return index;
  }

  #removeNodeByKey(key: string): void {
    for (const id of this.#nodes.keys()) {
      if (keyOf(id) !== key) continue;
      this.#nodes.delete(id);
      this.#changed();
      return;
    }
  }

  #deleteDesired(key: string): void {
    if (this.#desired.delete(key)) this.#changed();
    const drained = this.#drained.get(key);
    if (drained === undefined) return;
    this.#drained.delete(key);
    this.#drainedChanged(drained);
  }

  /** Tells of every replica of a worker that it is drained now, or is not any more. */
  #drainedChanged(name: string): void {
    this.#changed();
    for (const workers of [this.#workers, this.#ownWorkers]) {
      for (const [key, { running, deadlineMs }] of workers) {
        if (running.info?.name === name) this.#putWorker(workers, key, running, deadlineMs);
      }
    }
  }

  #putWorker(into: Map<string, KnownWorker>, key: string, announced: RunningWorker, deadlineMs: number): void {
    const running = this.#withDraining(announced);
    const identity = workerIdentity(running);
    const known = into.get(key);
    if (known === undefined || !equalBytes(known.identity, identity)) {
      into.set(key, { running: { ...running }, identity, deadlineMs });
      this.#changed();
      return;
    }
    known.running.info = running.info;
    known.deadlineMs = deadlineMs;
  }

  #withDraining(running: RunningWorker): RunningWorker {
    const { info } = running;
    const draining = info !== undefined && this.drainedWorkers().has(info.name);
    return info === undefined || info.draining === draining ? running : { ...running, info: { ...info, draining } };
  }

  #setUnreachable(nodeId: string, unreachable: boolean): void {
    const node = this.#nodes.get(nodeId);
    if (node === undefined || node.unreachable === unreachable) return;
    node.unreachable = unreachable;
    this.#changed();
  }

  #decode<T>(type: { decode(input: Uint8Array): T }, entry: Entry): T | undefined {
    try {
      return type.decode(entry.value!);
    } catch (error) {
      this.#options.log.warn({ key: entry.key, err: error }, "an entry of the directory can't be read");
      return undefined;
    }
  }

  #changed(): void {
    this.#generation++;
    this.#nodesCache = undefined;
    this.#servingCache = undefined;
    this.#workersCache = undefined;
    this.#desiredCache = undefined;
    this.#drainedCache = undefined;
    if (this.#notifying || this.#listeners.size === 0) return;
    this.#notifying = true;
    queueMicrotask(() => {
      this.#notifying = false;
      for (const listener of this.#listeners) {
        try {
          listener();
        } catch (error) {
          this.#options.log.error({ err: error }, "a listener of the directory failed");
        }
      }
    });
  }
}

/** What the services that run the workers of a provider are called. */
const ADAPTER_PREFIX = "adapter-";

/** The provider whose workers a service runs; undefined of a service that runs none. */
export function providerOf(service: string): string | undefined {
  return service.startsWith(ADAPTER_PREFIX) ? service.slice(ADAPTER_PREFIX.length) : undefined;
}

/** Whether `called` means this node: by its id, or by its name, which outlives the process. */
function isCalled({ id, name }: Pick<NodeRecord, "id" | "name">, called: string): boolean {
  return called === id || called === name;
}

function nodeIdentity(record: NodeRecord): Uint8Array {
  return NodeRecord.encode({ ...record, load: undefined, expiresAtMs: 0 }).finish();
}

/** It has been asked, and has answered. */
function serves({ health }: WorkerInfo): boolean {
  return health === Health.AVAILABLE || health === Health.BUSY;
}

/** What a worker is and how it fares; not how busy it is this moment. */
function workerIdentity({ node, info, added }: RunningWorker): Uint8Array {
  const steady = info === undefined ? undefined : { ...info, pool: undefined, activeRequests: 0 };
  return RunningWorker.encode({ node, info: steady, added }).finish();
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** By code units: the same order on every node, whatever its locale. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
