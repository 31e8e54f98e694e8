/** A node's membership of the mesh: it joins, says that it is alive and what it runs, and leaves. */
import { randomBytes } from "node:crypto";
import type { NatsConnection } from "@nats-io/transport-node";
import { NodeChanged, NodeChanged_Change } from "../gen/cortex/events/v1/events.ts";
import { type NodeLoad, NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import type { WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import { EVENT, type Logger, NO_TRACE } from "../telemetry/index.ts";
import { Announcer } from "./announcer.ts";
import { BUCKET, Buckets, BucketWatch } from "./buckets.ts";
import { connectNats } from "./connection.ts";
import { DesiredWorkers } from "./desired-workers.ts";
import { type Clock, type Directory, type Entry, MeshDirectory, RUNNING_REPEAT_MS, systemClock } from "./directory.ts";
import { type EventLog, MeshEventLog } from "./event-log.ts";
import { type Events, MeshEvents } from "./events.ts";
import { keyOf } from "./keys.ts";
import { type SnapshotStore, Snapshots } from "./snapshots.ts";

/** What a node is, and stays for as long as it runs. */
export interface NodeDescription {
  /** Unique in the mesh, and another one whenever the node is started again. */
  readonly id: string;
  /** What people call it; stays when it is started again. */
  readonly name: string;
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
  /** The node joins without taking calls, until it is opened: its services are not there yet. */
  readonly closed?: boolean;
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
  /** The last hour's events, for whoever counts them. It is there once somebody has asked for it. */
  readonly eventLog: EventLog;
  /** What a service wants to have back when it is started again, on whatever node. */
  snapshots(name: string): SnapshotStore;
  /**
   * Announces a worker of this node, or what has become of it; `added` when it does not come from a configuration file.
   * Bursts are merged, the latest wins. Never throws.
   */
  announceWorker(info: WorkerInfo, origin?: { readonly added: boolean }): void;
  /** Takes back a worker of this node. */
  withdrawWorker(name: string): void;
  /** Notes where this node tells its metrics, as host:port; the others hear of it at the next heartbeat. */
  setMetricsAddress(address: string): void;
  /** Tells the others that this node, which joined closed, takes calls now. Never rejects; told later if NATS is away. */
  open(): Promise<void>;
  /** Tells the others at once that this node takes no new calls. Never rejects; told later if NATS is away. */
  drain(): Promise<void>;
  /** Takes everything back that this node announced and disconnects, within two seconds also if NATS is away. */
  leave(): Promise<void>;
}

/** How long joining waits for NATS unless told otherwise. */
const CONNECT_TIMEOUT_MS = 30_000;
const HEARTBEAT_MS = 2_000;
const EXPIRY_MS = 6_000;
/** After a failure, when to try again: doubled each time, up to a heartbeat. */
const RETRY_MIN_MS = 50;
/** Every so many heartbeats it is checked that the watches are not behind. */
const CHECK_EVERY_BEATS = 5;
/** How long a change of the desired workers may take to come back before the one who made it goes on. */
const ECHO_TIMEOUT_MS = 1_000;
/** How long leaving may take: taking back what was announced, and closing. */
const LEAVE_TIMEOUT_MS = 1_500;
const CLOSE_TIMEOUT_MS = 500;
const SECRET_KEY = "secret";

/** Joins the mesh; resolves when the directory is known. Rejects when NATS can't be reached in time. */
export async function joinMesh(options: JoinOptions): Promise<Mesh> {
  const expiryMs = options.expiryMs ?? EXPIRY_MS;
  const heartbeatMs = options.heartbeatMs ?? HEARTBEAT_MS;
  if (options.node.id === "") throw new Error("a node needs an id");
  if (expiryMs < 3 * heartbeatMs) throw new Error("expiryMs must be at least three times heartbeatMs");
  const timeoutMs = options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
  const deadlineMs = performance.now() + timeoutMs;
  const { natsUrl, log } = options;
  const connection = await connectNats({ natsUrl, name: options.node.id, expiryMs, timeoutMs, log });
  try {
    const member = new Member(options, connection, await Buckets.open(connection), { heartbeatMs, expiryMs });
    await member.start(deadlineMs);
    return member;
  } catch (error) {
    await connection.close();
    throw error;
  }
}

class Member implements Mesh {
  readonly nodeId: string;
  readonly directory: MeshDirectory;
  readonly events: MeshEvents;
  readonly eventLog: MeshEventLog;
  readonly #options: JoinOptions;
  readonly #log: Logger;
  readonly #heartbeatMs: number;
  readonly #connection: NatsConnection;
  readonly #buckets: Buckets;
  readonly #key: string;
  readonly #startedAtMs: number;
  readonly #watches: { readonly nodes: BucketWatch; readonly running: BucketWatch; readonly workers: BucketWatch };
  readonly #sweeping: NodeJS.Timeout;
  #secret: string | undefined;
  /** When cortex_workers was made, as far as we know: another time means that NATS has lost its data. */
  #workersCreated: string | undefined;
  /** The buckets may be gone or behind: everything is to be made sure of and put again. */
  #unsettled = true;
  #left = false;
  #leaving: Promise<void> | undefined;
  #living: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #woken = false;
  #warnedOfDouble = false;
  #load: NodeLoad = { callsInFlight: 0, eventLoopDelayMs: 0, problems: [] };
  readonly #announcer: Announcer;
  readonly #desired: DesiredWorkers;
  /** Which watches were behind at the last check. */
  #behind = new Set<BucketWatch>();

  constructor(
    options: JoinOptions,
    connection: NatsConnection,
    buckets: Buckets,
    { heartbeatMs, expiryMs }: { readonly heartbeatMs: number; readonly expiryMs: number },
  ) {
    const { node, log, clock = systemClock } = options;
    this.#options = options;
    this.#log = log;
    this.#heartbeatMs = heartbeatMs;
    this.#connection = connection;
    this.#buckets = buckets;
    this.nodeId = node.id;
    this.#key = keyOf(node.id);
    this.#startedAtMs = clock.epochMs();
    const self = NodeRecord.create({
      ...node,
      startedAtMs: this.#startedAtMs,
      load: this.#load,
      draining: options.closed ?? false,
    });
    this.#desired = new DesiredWorkers(buckets, (revision) =>
      this.#watches.workers.caughtUp(revision, ECHO_TIMEOUT_MS),
    );
    this.directory = new MeshDirectory({ self, expiryMs, store: this.#desired, clock, log });
    this.events = new MeshEvents({ connection, log });
    this.eventLog = new MeshEventLog(connection);
    this.#announcer = new Announcer({ nodeId: node.id, buckets, directory: this.directory, log });
    this.#watches = {
      nodes: new BucketWatch({
        buckets,
        log,
        bucket: BUCKET.nodes,
        listener: {
          snapshot: (entries) => this.#onNodes(entries),
          change: (entry) => (entry.key === this.#key ? this.#onSelf(entry) : this.directory.nodeEntry(entry)),
        },
      }),
      running: new BucketWatch({
        buckets,
        log,
        bucket: BUCKET.running,
        listener: {
          snapshot: (entries) => this.#onRunning(entries),
          change: (entry) => this.directory.runningEntry(entry),
        },
      }),
      workers: new BucketWatch({
        buckets,
        log,
        bucket: BUCKET.workers,
        listener: {
          snapshot: (entries) => this.directory.desiredSnapshot(entries),
          change: (entry) => this.directory.desiredEntry(entry),
        },
      }),
    };
    this.#sweeping = setInterval(() => this.directory.sweep(), Math.max(10, expiryMs / 12)).unref();
    void this.#followConnection();
  }

  get connected(): boolean {
    return this.#buckets.connected;
  }

  get secret(): string {
    return this.#secret!;
  }

  /** Makes the node known; to be called once. */
  async start(deadlineMs: number): Promise<void> {
    try {
      await this.#prepare(deadlineMs);
      const snapshots = Promise.all(Object.values(this.#watches).map((watch) => watch.start()));
      if (!(await inTime(snapshots, deadlineMs - performance.now()))) {
        throw new Error("NATS did not tell what the directory holds in time: look at its log, or restart it");
      }
      this.#unsettled = false;
      // NATS may go in this very moment: all else is known, and who has joined goes on without it.
      await this.#announceSelf();
    } catch (error) {
      await this.leave();
      throw error;
    }
    this.#publishChange(NodeChanged_Change.JOINED);
    this.#living = this.#live();
  }

  announceWorker(info: WorkerInfo, origin: { readonly added: boolean } = { added: false }): void {
    try {
      if (info.name === "") throw new Error("a worker needs a name");
      this.directory.setOwnWorker(info.name, info, origin.added);
    } catch (error) {
      this.#log.error({ worker: info.name, err: error }, "a worker can't be announced");
      return;
    }
    this.#announcer.announce([info.name]);
  }

  snapshots(name: string): SnapshotStore {
    return new Snapshots(this.#connection, this.#buckets, name);
  }

  withdrawWorker(name: string): void {
    this.directory.deleteOwnWorker(name);
    this.#announcer.announce([name]);
  }

  setMetricsAddress(address: string): void {
    this.directory.setSelfMetricsAddress(address);
  }

  async open(): Promise<void> {
    this.directory.setSelfDraining(false);
    await this.#announceSelf();
  }

  async drain(): Promise<void> {
    this.directory.setSelfDraining(true);
    this.#publishChange(NodeChanged_Change.DRAINING);
    await this.#announceSelf();
  }

  async #announceSelf(): Promise<void> {
    try {
      await this.#putSelf();
    } catch (error) {
      this.#unsettled = true;
      this.#log.debug({ err: error }, "what has changed of this node is announced when NATS is back");
    }
  }

  leave(): Promise<void> {
    this.#leaving ??= this.#leave();
    return this.#leaving;
  }

  async #leave(): Promise<void> {
    this.#left = true;
    clearInterval(this.#sweeping);
    this.#rouse();
    if (this.#buckets.connected) await inTime(this.#takeBack(), LEAVE_TIMEOUT_MS);
    this.events.close();
    if (this.#buckets.connected) await inTime(this.#connection.flush(), CLOSE_TIMEOUT_MS);
    const closing = Promise.all([
      this.#connection.close(),
      this.eventLog.close(),
      ...Object.values(this.#watches).map((watch) => watch.stop()),
    ]);
    // Whatever still waits for NATS has waited long enough.
    this.#buckets.lost();
    await inTime(closing, CLOSE_TIMEOUT_MS);
  }

  /** Takes back what this node announced; nothing of it may be put again after that. */
  async #takeBack(): Promise<void> {
    await Promise.all([this.#living, this.#announcer.stop()]);
    await this.#buckets.delete(BUCKET.nodes, this.#key);
    this.#publishChange(NodeChanged_Change.LEFT);
    await this.#announcer.withdrawAll();
    await this.#connection.flush();
  }

  // The connection.

  async #followConnection(): Promise<void> {
    for await (const status of this.#connection.status()) {
      if (status.type === "disconnect") {
        this.#buckets.lost();
        this.events.lost();
        this.directory.deafen();
        if (!this.#left) this.#log.warn("the connection to NATS is lost; going on with what is known");
      } else if (status.type === "reconnect") {
        this.#log.info("the connection to NATS is back");
        this.#unsettled = true;
        this.#buckets.regained();
        this.events.regained();
        this.eventLog.regained();
        this.#rouse();
      } else if (status.type === "error") {
        this.#log.warn({ error: String(status.error) }, "NATS reported an error");
      }
    }
    if (!this.#left) this.#log.error("the connection to NATS was closed for good; restart this node");
  }

  /** Waits until JetStream answers and the buckets are there. */
  async #prepare(deadlineMs: number): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    for (let tries = 1; ; tries++) {
      try {
        this.#workersCreated = (await this.#buckets.ensure()).workersCreated;
        await this.#agreeOnSecret();
        return;
      } catch (error) {
        if (performance.now() + retryMs >= deadlineMs) {
          throw new Error(
            `NATS at ${this.#connection.getServer()} does not keep the directory (${(error as Error).message}): ` +
              "it needs JetStream (nats-server -js)",
            { cause: error },
          );
        }
        if (tries === 1)
          this.#log.warn({ error: String(error) }, "waiting for NATS, whose JetStream does not answer yet");
        await pause(retryMs);
        retryMs = Math.min(retryMs * 2, this.#heartbeatMs);
      }
    }
  }

  // Being alive.

  /** The node's life: a heartbeat, and after an outage whatever it takes to be whole again. */
  async #live(): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    let repeatedMs = performance.now();
    for (let beat = 1; !this.#left; beat++) {
      const startedMs = performance.now();
      let waitMs = this.#heartbeatMs;
      try {
        if (this.#buckets.connected && this.#unsettled) await this.#settle();
        else if (this.#buckets.connected) await this.#putSelf();
        if (this.#buckets.connected && beat % CHECK_EVERY_BEATS === 0) await this.#checkWatches();
        retryMs = RETRY_MIN_MS;
      } catch (error) {
        this.#unsettled = true;
        if (this.#buckets.connected)
          this.#log.warn({ error: String(error) }, "NATS did not take a heartbeat; trying again");
        waitMs = retryMs;
        retryMs = Math.min(retryMs * 2, this.#heartbeatMs);
      }
      if (performance.now() - repeatedMs >= RUNNING_REPEAT_MS) {
        repeatedMs = performance.now();
        this.#announcer.announceAll();
      }
      await this.#idle(Math.max(0, startedMs + waitMs - performance.now()));
    }
  }

  /** After a loss of the connection, or of data: makes the buckets, puts everything, and follows the buckets anew. */
  async #settle(): Promise<void> {
    const { workersCreated } = await this.#buckets.ensure();
    await this.#agreeOnSecret();
    await this.#putSelf();
    if (workersCreated !== this.#workersCreated) {
      this.#log.warn("NATS has lost the workers that should run; restoring them from memory");
      await this.#desired.restore(this.directory.desiredWorkers(), this.directory.drainedWorkers());
      this.#workersCreated = workersCreated;
    }
    this.#unsettled = false;
    this.#announcer.announceAll();
    for (const watch of Object.values(this.#watches)) watch.restart();
  }

  async #putSelf(): Promise<void> {
    try {
      this.#load = this.#options.load();
    } catch (error) {
      this.#log.error({ err: error }, "the load of this node can't be told");
    }
    const record = this.directory.refreshSelf(this.#load);
    await this.#buckets.put(BUCKET.nodes, this.#key, NodeRecord.encode(record).finish());
  }

  /** One watch that is behind twice in a row, having told nothing in between, has fallen silent. */
  async #checkWatches(): Promise<void> {
    const behind = new Set<BucketWatch>();
    for (const name of ["nodes", "running", "workers"] as const) {
      const watch = this.#watches[name];
      const seen = watch.seenRevision;
      const { revision } = await this.#buckets.position(BUCKET[name]);
      if (seen >= revision || watch.seenRevision > seen) continue;
      if (this.#behind.has(watch)) {
        this.#log.warn({ bucket: BUCKET[name] }, "a watch of the directory has fallen silent; starting it again");
        watch.restart();
      } else {
        behind.add(watch);
      }
    }
    this.#behind = behind;
  }

  #onNodes(entries: ReadonlyMap<string, Entry>): void {
    this.directory.nodesSnapshot(entries.values());
    if (!this.#unsettled && entries.get(this.#key)?.value === undefined) this.#rouse();
  }

  /** This node's own entry has changed: mostly its heartbeat, come back. */
  #onSelf(entry: Entry): void {
    if (entry.value === undefined) {
      // Somebody took it for dead.
      this.#rouse();
      return;
    }
    if (NodeRecord.decode(entry.value).startedAtMs === this.#startedAtMs) {
      this.directory.heardSelf();
    } else if (!this.#warnedOfDouble) {
      this.#warnedOfDouble = true;
      this.#log.error("another process is in the mesh under this node's id: give each node an id of its own");
    }
  }

  #onRunning(entries: ReadonlyMap<string, Entry>): void {
    this.directory.runningSnapshot(entries);
    this.#announcer.deleteLeftovers(entries);
  }

  #publishChange(change: NodeChanged_Change): void {
    const { services } = this.#options.node;
    this.events.publish(EVENT.nodeChanged, NodeChanged, { change, node: this.nodeId, services }, NO_TRACE);
  }

  /** Waits, unless there is something to do. */
  async #idle(ms: number): Promise<void> {
    if (this.#woken || this.#left) {
      this.#woken = false;
      return;
    }
    await new Promise<void>((resolve) => {
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        this.#woken = false;
        resolve();
      };
      const timer = setTimeout(this.#wake, ms).unref();
    });
  }

  #rouse(): void {
    this.#woken = true;
    this.#wake?.();
  }

  // The secret.

  /** The first node makes the secret, all others read it; after a loss of data it is the first to come back. */
  async #agreeOnSecret(): Promise<void> {
    const own = this.#secret ?? randomBytes(32).toString("base64url");
    let stored = await this.#buckets.get(BUCKET.mesh, SECRET_KEY);
    if (stored === undefined && (await this.#buckets.create(BUCKET.mesh, SECRET_KEY, Buffer.from(own))) === false) {
      stored = await this.#buckets.get(BUCKET.mesh, SECRET_KEY);
    }
    const secret = stored === undefined ? own : Buffer.from(stored.value).toString();
    if (this.#secret !== undefined && secret !== this.#secret) this.#log.warn("the secret of the mesh has changed");
    this.#secret = secret;
  }
}

/** Whether `promise` fulfilled within `ms`; a rejection counts as not. */
async function inTime(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), Math.max(0, ms));
  });
  const done = promise.then(
    () => true,
    () => false,
  );
  const result = await Promise.race([done, late]);
  clearTimeout(timer);
  return result;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
