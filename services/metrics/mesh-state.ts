/** How workers and nodes are now, for who watches: from the directory, the loads that nodes tell, and what was lost. */
import type { ProviderService } from "../../libs/adapter/index.ts";
import { WorkerLoads } from "../../libs/gen/cortex/events/v1/events.ts";
import type { RunningWorker } from "../../libs/gen/cortex/mesh/v1/mesh.ts";
import type { WatchedNode } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import {
  BreakerState,
  Health,
  ProviderServiceDefinition,
  type WorkerInfo,
} from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { Clients, Mesh } from "../../libs/mesh/index.ts";
import { EVENT } from "../../libs/telemetry/index.ts";

/** A worker as far as it does not follow from what was counted. */
export interface WorkerState {
  readonly name: string;
  readonly provider: string;
  readonly state: "available" | "busy" | "unavailable" | "draining";
  readonly breaker: "closed" | "open" | "half_open";
  readonly activeRequests: number;
  readonly concurrentRequestsMax: number;
  readonly priority: number;
  readonly nodes: readonly string[];
  readonly simulated: boolean;
  readonly added: boolean;
  readonly models: number;
  readonly connectionsOpen: number;
  readonly connectionsMax: number;
  /** Why it can't serve, or has no room; empty while it serves. */
  readonly reason: string;
  readonly message: string;
}

interface MeshStateOptions {
  readonly mesh: Mesh;
  readonly clients: Pick<Clients, "at">;
  /** The workers of this node: it is not told of their load while it is alone. */
  readonly workers: ProviderService;
  /** A node is gone without a word, and these workers with it. */
  readonly onLost: (node: string, workers: readonly string[]) => void;
  readonly onBack: (node: string) => void;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

/** For how long a worker is shown that was lost with its node. */
const LOST_MS = 900_000;
const LOST_MAX = 2_000;

interface KnownNode {
  readonly name: string;
  readonly draining: boolean;
  readonly workers: readonly RunningWorker[];
}

/** The workers and nodes of the mesh. */
export class MeshState {
  readonly #options: MeshStateOptions;
  readonly #loads = new Map<string, Map<string, number>>();
  #nodes: ReadonlyMap<string, KnownNode>;
  /** Nodes that were lost, by id: they may come back. */
  readonly #lostNodes = new Map<string, number>();
  readonly #lostWorkers = new Map<string, { readonly worker: RunningWorker; readonly atMs: number }>();
  readonly #stop: () => void;

  constructor(options: MeshStateOptions) {
    this.#options = options;
    const { directory, events } = options.mesh;
    this.#nodes = this.#readNodes();
    const stopLoads = events.subscribe(EVENT.workerLoad, WorkerLoads, (loads) => this.#onLoads(loads));
    const stopWatching = directory.onChange(() => this.#onChange());
    this.#stop = () => {
      stopLoads();
      stopWatching();
    };
    this.#connect();
  }

  stop(): void {
    this.#stop();
  }

  /** What people call a node. */
  nameOf(id: string): string {
    return this.#options.mesh.directory.node(id)?.name || id;
  }

  /** All workers, by name. */
  workers(): WorkerState[] {
    const { directory } = this.#options.mesh;
    const states: WorkerState[] = [];
    const running = directory.workers();
    const own = new Map(this.#options.workers.workers().map((worker) => [worker.name, worker]));
    const activeRequests = ({ node, info }: RunningWorker): number =>
      (node === this.#options.mesh.nodeId
        ? own.get(info!.name)?.info().activeRequests
        : this.#loads.get(node)?.get(info!.name)) ?? info!.activeRequests;
    for (let from = 0; from < running.length; ) {
      const name = running[from]!.info!.name;
      let until = from + 1;
      while (until < running.length && running[until]!.info!.name === name) until++;
      states.push(stateOfAll(running.slice(from, until), activeRequests));
      this.#lostWorkers.delete(name);
      from = until;
    }
    const desired = new Set(directory.desiredWorkers().map((specification) => specification.name));
    const nowMs = this.#options.now();
    for (const [name, { worker, atMs }] of this.#lostWorkers) {
      // One that was added, and has been removed since, is not missed.
      if (nowMs - atMs > LOST_MS || (worker.added && !desired.has(name))) this.#lostWorkers.delete(name);
      else states.push(lostStateOf(worker));
    }
    return states;
  }

  /** All nodes. */
  nodes(): WatchedNode[] {
    return this.#options.mesh.directory.nodes().map(({ id, name, services, draining, zone, version, load }) => ({
      id,
      name: name || id,
      services,
      draining,
      zone,
      version,
      callsInFlight: load?.callsInFlight ?? 0,
      eventLoopDelayMs: load?.eventLoopDelayMs ?? 0,
      eventLoopUtilization: load?.eventLoopUtilization ?? 0,
      rssBytes: load?.rssBytes ?? 0,
      problems: load?.problems ?? [],
    }));
  }

  #onLoads({ node, loads }: WorkerLoads): void {
    // Of a node that has left, a last word may come late.
    if (!this.#nodes.has(node)) return;
    let known = this.#loads.get(node);
    if (known === undefined) {
      known = new Map();
      this.#loads.set(node, known);
    }
    for (const { worker, activeRequests } of loads) known.set(worker, activeRequests);
  }

  #onChange(): void {
    const { onLost, onBack, now } = this.#options;
    const before = this.#nodes;
    this.#nodes = this.#readNodes();
    for (const [id, node] of before) {
      if (this.#nodes.has(id)) continue;
      this.#loads.delete(id);
      if (node.draining) continue;
      this.#lostNodes.set(id, now());
      if (this.#lostNodes.size > LOST_MAX) this.#lostNodes.delete(this.#lostNodes.keys().next().value!);
      for (const worker of node.workers) {
        if (this.#lostWorkers.size < LOST_MAX) this.#lostWorkers.set(worker.info!.name, { worker, atMs: now() });
      }
      onLost(node.name, node.workers.map(({ info }) => info!.name).sort());
    }
    for (const [id, { name }] of this.#nodes) if (this.#lostNodes.delete(id)) onBack(name);
    this.#connect();
  }

  #readNodes(): ReadonlyMap<string, KnownNode> {
    const { directory } = this.#options.mesh;
    const workers = Map.groupBy(directory.workers(), ({ node }) => node);
    return new Map(
      directory
        .nodes()
        .map(({ id, name, draining }) => [id, { name: name || id, draining, workers: workers.get(id) ?? [] }]),
    );
  }

  /** Whoever has a connection to a node is told at once when it dies; everybody else, when its entry has expired. */
  #connect(): void {
    for (const id of this.#nodes.keys()) {
      if (id !== this.#options.mesh.nodeId) this.#options.clients.at(ProviderServiceDefinition, id);
    }
  }
}

/** A worker, over all nodes that run it. */
function stateOfAll(
  replicas: readonly RunningWorker[],
  activeRequests: (replica: RunningWorker) => number,
): WorkerState {
  const infos = replicas.map(({ info }) => info!);
  const { name, provider, priority, simulated } = infos[0]!;
  const models = new Set(infos.flatMap((info) => info.models));
  const state = infos.every(({ draining }) => draining) ? "draining" : bestOf(infos);
  const troubled = state === "available" ? undefined : infos.find(({ reason }) => reason !== "");
  const limits = infos.map(({ concurrentRequestsMax }) => concurrentRequestsMax);
  return {
    name,
    provider,
    priority,
    simulated,
    state,
    breaker: BREAKERS.find((breaker) => infos.some((info) => breakerOf(info) === breaker)) ?? "closed",
    activeRequests: replicas.reduce((sum, replica) => sum + activeRequests(replica), 0),
    // One without a limit makes them one without.
    concurrentRequestsMax: limits.includes(0) ? 0 : limits.reduce((sum, limit) => sum + limit, 0),
    nodes: replicas.map(({ node }) => node),
    added: replicas.some(({ added }) => added),
    models: models.size,
    connectionsOpen: infos.reduce((sum, { pool }) => sum + (pool?.connected ?? 0), 0),
    connectionsMax: infos.reduce((sum, { pool }) => sum + (pool?.size ?? 0), 0),
    reason: troubled?.reason ?? "",
    message: troubled?.message ?? "",
  };
}

const BREAKERS = ["closed", "half_open", "open"] as const;

function breakerOf({ breaker }: WorkerInfo): (typeof BREAKERS)[number] {
  return breaker === BreakerState.OPEN ? "open" : breaker === BreakerState.HALF_OPEN ? "half_open" : "closed";
}

const STATES = ["available", "busy", "unavailable"] as const;

/** One that serves is enough. */
function bestOf(infos: readonly WorkerInfo[]): (typeof STATES)[number] {
  const states = infos.filter(({ draining }) => !draining).map(stateOf);
  return STATES.find((state) => states.includes(state)) ?? "unavailable";
}

function stateOf(info: WorkerInfo): (typeof STATES)[number] {
  if (breakerOf(info) === "open") return "unavailable";
  if (info.health === Health.AVAILABLE) return "available";
  return info.health === Health.BUSY ? "busy" : "unavailable";
}

function lostStateOf({ info, added }: RunningWorker): WorkerState {
  const { name, provider, priority, simulated, models, concurrentRequestsMax } = info!;
  return {
    name,
    provider,
    priority,
    simulated,
    added,
    concurrentRequestsMax,
    state: "unavailable",
    breaker: breakerOf(info!),
    activeRequests: 0,
    nodes: [],
    models: models.length,
    connectionsOpen: 0,
    connectionsMax: 0,
    reason: "NODE_UNREACHABLE",
    message: "the node that ran it is gone",
  };
}
