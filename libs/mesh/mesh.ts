/** A node's membership of the mesh: it joins, says that it is alive and what it runs, and leaves. */
import type { NodeLoad } from "../gen/cortex/mesh/v1/mesh.ts";
import type { WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import type { Logger } from "../telemetry/index.ts";
import type { Clock, Directory } from "./directory.ts";
import type { Events } from "./events.ts";

/** What a node is, and stays for as long as it runs. */
export interface NodeDescription {
  /** Unique in the mesh. */
  readonly id: string;
  /** host:port of its gRPC server. */
  readonly address: string;
  /** The services that it runs: "gateway", "router", … */
  readonly services: readonly string[];
  /** The full names of the gRPC services that it answers. */
  readonly interfaces: readonly string[];
  readonly version: string;
  readonly zone: string;
}

export interface JoinOptions {
  /** nats://[user:password@]host:port, several separated by commas; tls:// for TLS. */
  readonly natsUrl: string;
  readonly node: NodeDescription;
  /** Asked at each heartbeat. */
  readonly load: () => NodeLoad;
  readonly log: Logger;
  /** How often the node says that it is alive; 2,000 by default. */
  readonly heartbeatMs?: number;
  /** After how long a silent node is taken for dead; 6,000 by default, at least three heartbeats. */
  readonly expiryMs?: number;
  /** How long to wait for NATS at the start; 30,000 by default. */
  readonly connectTimeoutMs?: number;
  readonly clock?: Clock;
}

/** A node's membership of the mesh. */
export interface Mesh {
  readonly nodeId: string;
  /** There is a connection to NATS now. */
  readonly connected: boolean;
  /**
   * What the nodes of one mesh know and nobody else: they authenticate to each other with it. Read it whenever it is
   * used, for it changes in the rare case that NATS lost its data and a new node was the first to come back.
   */
  readonly secret: string;
  readonly directory: Directory;
  readonly events: Events;
  /** Announces a worker of this node, or what has become of it. Bursts are merged, the latest wins. Never throws. */
  announceWorker(info: WorkerInfo): void;
  /** Takes back a worker of this node. */
  withdrawWorker(name: string): void;
  /** Tells the others at once that this node takes no new calls. Never rejects; told later if NATS is away. */
  drain(): Promise<void>;
  /** Takes everything back that this node announced and disconnects, within two seconds also if NATS is away. */
  leave(): Promise<void>;
}

/** Joins the mesh; resolves when the directory is known. Rejects when NATS can't be reached in time. */
export async function joinMesh(_options: JoinOptions): Promise<Mesh> {
  throw new Error("not written yet");
}
