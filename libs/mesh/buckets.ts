/**
 * The directory's buckets in NATS: how they are made, written, and followed. It hides the traps of the client: a request
 * made during an outage that hangs, a watch that falls silent when its bucket was lost, a bucket that comes back empty.
 */
import {
  JetStreamApiCodes,
  JetStreamApiError,
  type JetStreamManager,
  jetstream,
  jetstreamManager,
} from "@nats-io/jetstream";
import { type KV, Kvm, type KvOptions, type KvWatchEntry } from "@nats-io/kv";
import type { NatsConnection, QueuedIterator } from "@nats-io/transport-node";
import { RpcError } from "../rpc/index.ts";
import type { Logger } from "../telemetry/index.ts";
import { type Entry, RUNNING_EXPIRY_MS } from "./directory.ts";

/** What is kept where; the values are described in cortex/mesh/v1/mesh.proto. */
export const BUCKET = {
  nodes: "cortex_nodes",
  running: "cortex_running",
  workers: "cortex_workers",
  /** What belongs to the mesh as a whole: its secret. */
  mesh: "cortex_mesh",
} as const;

export type BucketName = (typeof BUCKET)[keyof typeof BUCKET];

/** How long NATS may take to answer one request. */
const REQUEST_TIMEOUT_MS = 3_000;
/** How long the state of a bucket may take to arrive when a watch starts. */
const SNAPSHOT_TIMEOUT_MS = 5_000;
const WATCH_RETRY_MIN_MS = 50;
const WATCH_RETRY_MAX_MS = 2_000;
/** The entries of dead nodes vanish after this, whoever is there to see it. */
const NODES_TTL_MS = 60_000;

// File storage: a bucket in memory is lost when the server restarts. The bounds are what a server reserves for a bucket.
const LIMITS = { history: 1, max_bytes: 16 * 1024 * 1024, maxValueSize: 512 * 1024 } satisfies Partial<KvOptions>;
const OPTIONS: Record<BucketName, Partial<KvOptions>> = {
  [BUCKET.nodes]: { ...LIMITS, ttl: NODES_TTL_MS },
  [BUCKET.running]: { ...LIMITS, ttl: RUNNING_EXPIRY_MS },
  [BUCKET.workers]: LIMITS,
  [BUCKET.mesh]: LIMITS,
};

/** The buckets, over one connection. */
export class Buckets {
  readonly #connection: NatsConnection;
  readonly #manager: JetStreamManager;
  readonly #kvm: Kvm;
  readonly #opened = new Map<BucketName, KV>();
  /** Aborted while there is no connection. */
  #away = new AbortController();

  private constructor(connection: NatsConnection, manager: JetStreamManager) {
    this.#connection = connection;
    this.#manager = manager;
    this.#kvm = new Kvm(jetstream(connection, { timeout: REQUEST_TIMEOUT_MS }));
  }

  static async open(connection: NatsConnection): Promise<Buckets> {
    const manager = await jetstreamManager(connection, { timeout: REQUEST_TIMEOUT_MS, checkAPI: false });
    return new Buckets(connection, manager);
  }

  get connected(): boolean {
    return !this.#away.signal.aborted && !this.#connection.isClosed();
  }

  /** The connection was lost: whatever waits for an answer fails now instead of hanging until its time is up. */
  lost(): void {
    this.#away.abort(new Error("the connection to NATS was lost"));
  }

  /** The connection is back. */
  regained(): void {
    this.#away = new AbortController();
  }

  /** Makes the buckets that are missing. Says when cortex_workers was made, which tells a lost bucket from an emptied one. */
  async ensure(): Promise<{ readonly workersCreated: string }> {
    for (const name of Object.values(BUCKET)) {
      this.#opened.set(name, await this.run(() => this.#kvm.create(name, { ...OPTIONS[name] })));
    }
    const { created } = await this.run(() => this.#manager.streams.info(`KV_${BUCKET.workers}`));
    return { workersCreated: String(created) };
  }

  /** Does something with NATS, and fails at once when the connection is or gets lost. */
  async run<T>(operation: () => Promise<T>): Promise<T> {
    const { signal } = this.#away;
    signal.throwIfAborted();
    let stop: (() => void) | undefined;
    const lost = new Promise<never>((_resolve, reject) => {
      const onLost = (): void => reject(signal.reason);
      signal.addEventListener("abort", onLost, { once: true });
      stop = () => signal.removeEventListener("abort", onLost);
    });
    try {
      return await Promise.race([operation(), lost]);
    } finally {
      stop?.();
    }
  }

  /** Writes an entry, whatever was there; returns its revision. */
  put(bucket: BucketName, key: string, value: Uint8Array): Promise<number> {
    return this.run(() => this.#bucket(bucket).put(key, value));
  }

  /** Writes an entry if its key holds none, or, with `everUnused`, if it never did. False when it does. */
  async create(
    bucket: BucketName,
    key: string,
    value: Uint8Array,
    options?: { everUnused: boolean },
  ): Promise<number | false> {
    try {
      const kv = this.#bucket(bucket);
      if (options?.everUnused === true) return await this.run(() => kv.put(key, value, { previousSeq: 0 }));
      return await this.run(() => kv.create(key, value));
    } catch (error) {
      if (isConflict(error)) return false;
      throw error;
    }
  }

  /** Writes an entry in the place of the one of `revision`; false when that is not the current one any more. */
  async replace(bucket: BucketName, key: string, value: Uint8Array, revision: number): Promise<number | false> {
    try {
      return await this.run(() => this.#bucket(bucket).update(key, value, revision));
    } catch (error) {
      if (isConflict(error)) return false;
      throw error;
    }
  }

  /** What a key holds. */
  async get(
    bucket: BucketName,
    key: string,
  ): Promise<{ readonly value: Uint8Array; readonly revision: number } | undefined> {
    const entry = await this.run(() => this.#bucket(bucket).get(key));
    return entry === null || entry.operation !== "PUT" ? undefined : { value: entry.value, revision: entry.revision };
  }

  /** Deletes an entry; those who watch are told. */
  delete(bucket: BucketName, key: string): Promise<void> {
    return this.run(() => this.#bucket(bucket).delete(key));
  }

  /** How far a bucket is, and whether it holds anything. */
  async position(bucket: BucketName): Promise<{ readonly revision: number; readonly empty: boolean }> {
    const { state } = await this.run(() => this.#manager.streams.info(`KV_${bucket}`));
    return { revision: state.last_seq, empty: state.messages === 0 };
  }

  /** The client's own watch, for BucketWatch. */
  async watch(bucket: BucketName): Promise<QueuedIterator<KvWatchEntry>> {
    const watching = this.#bucket(bucket).watch();
    try {
      return await this.run(() => watching);
    } catch (error) {
      // It may yet start after we have given it up.
      void watching.then(
        (iterator) => iterator.stop(),
        () => {},
      );
      throw error;
    }
  }

  #bucket(name: BucketName): KV {
    const kv = this.#opened.get(name);
    if (kv === undefined) throw new Error(`bucket ${name} is not open`);
    return kv;
  }
}

/** Turns a failure of NATS into an error for a caller. */
export function toRpcError(error: unknown): RpcError {
  if (error instanceof RpcError) return error;
  // An answer, if not the one that was hoped for: too large, full, not permitted.
  if (error instanceof JetStreamApiError) return RpcError.from(error);
  const message =
    "NATS, which keeps the workers, can't be reached now, so the change may not have been made; what runs goes on. " +
    "Try again when NATS is back: cortex health tells";
  return new RpcError("NODE_UNREACHABLE", message, { cause: error });
}

function isConflict(error: unknown): boolean {
  return (
    error instanceof JetStreamApiError &&
    (error.code === JetStreamApiCodes.StreamWrongLastSequence ||
      error.code === JetStreamApiCodes.StreamWrongLastSequenceUnknown)
  );
}

/** What a watch tells. */
export interface WatchListener {
  /** The whole state of the bucket: at the start and whenever the watch had to start again. */
  snapshot(entries: ReadonlyMap<string, Entry>): void;
  /** One change. */
  change(entry: Entry): void;
}

interface WatchOptions {
  readonly buckets: Buckets;
  readonly bucket: BucketName;
  readonly listener: WatchListener;
  readonly log: Logger;
}

/** Follows a bucket for as long as the node lives: starts again, with a snapshot, whenever it ends or is told to. */
export class BucketWatch {
  readonly #options: WatchOptions;
  #iterator: QueuedIterator<KvWatchEntry> | undefined;
  #stopped = false;
  #restarting = false;
  #wake: (() => void) | undefined;
  #seenRevision = 0;
  #live = false;
  #running: Promise<void> | undefined;
  readonly #waiting = new Set<{ readonly revision: number; readonly done: () => void }>();
  #firstSnapshot: (() => void) | undefined;

  constructor(options: WatchOptions) {
    this.#options = options;
  }

  /** The newest revision that was told. */
  get seenRevision(): number {
    return this.#seenRevision;
  }

  /** Starts; resolves with the first snapshot. */
  start(): Promise<void> {
    const first = new Promise<void>((resolve) => {
      this.#firstSnapshot = resolve;
    });
    this.#running = this.#run();
    return first;
  }

  /** Starts again at once, whatever state it is in. */
  restart(): void {
    this.#restarting = true;
    this.#live = false;
    this.#iterator?.stop();
    this.#wake?.();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#iterator?.stop();
    this.#wake?.();
    await this.#running;
  }

  /** Resolves when everything up to `revision` has been told, or after `timeoutMs`. */
  async caughtUp(revision: number, timeoutMs: number): Promise<void> {
    if (this.#live && this.#seenRevision >= revision) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(waiter);
        resolve();
      };
      const waiter = { revision, done };
      const timer = setTimeout(done, timeoutMs);
      this.#waiting.add(waiter);
    });
  }

  async #run(): Promise<void> {
    let retryMs = WATCH_RETRY_MIN_MS;
    while (!this.#stopped) {
      this.#restarting = false;
      try {
        await this.#follow();
      } catch (error) {
        this.#options.log.debug({ bucket: this.#options.bucket, err: error }, "a watch of the directory ended");
      }
      if (this.#live) retryMs = WATCH_RETRY_MIN_MS;
      this.#live = false;
      this.#iterator = undefined;
      if (this.#stopped || this.#restarting) continue;
      await this.#pause(retryMs);
      retryMs = Math.min(retryMs * 2, WATCH_RETRY_MAX_MS);
    }
    for (const { done } of this.#waiting) done();
  }

  /** One life of the client's watch: the state of the bucket, then its changes. */
  async #follow(): Promise<void> {
    const { buckets, bucket, listener } = this.#options;
    const iterator = await buckets.watch(bucket);
    this.#iterator = iterator;
    const givenUp = (): boolean => this.#restarting || this.#stopped;
    let collected: Map<string, Entry> | undefined = new Map();
    const timer = setTimeout(() => iterator.stop(new Error("the snapshot took too long")), SNAPSHOT_TIMEOUT_MS);
    const complete = (revision: number): void => {
      clearTimeout(timer);
      listener.snapshot(collected ?? new Map());
      collected = undefined;
      this.#live = true;
      this.#told(revision);
      this.#firstSnapshot?.();
    };
    try {
      // Asked after the watch has started, so that it can't miss anything before this revision.
      const position = await buckets.position(bucket);
      if (givenUp()) return;
      if (position.empty) complete(position.revision);
      for await (const entry of iterator) {
        if (givenUp()) return;
        const { key, revision, operation } = entry;
        const change: Entry = { key, revision, value: operation === "PUT" ? entry.value : undefined };
        if (collected === undefined) {
          listener.change(change);
          this.#told(revision);
        } else {
          collected.set(key, change);
          // The last message of the bucket, or nothing pending after this one: it may have expired meanwhile.
          if (revision >= position.revision || entry.delta === 0) complete(Math.max(revision, position.revision));
        }
      }
    } finally {
      clearTimeout(timer);
      iterator.stop();
    }
  }

  #told(revision: number): void {
    this.#seenRevision = revision;
    for (const waiter of this.#waiting) if (waiter.revision <= revision) waiter.done();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#wake?.(), ms);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
    });
  }
}
