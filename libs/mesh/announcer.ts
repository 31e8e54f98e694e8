/** Keeps what cortex_running says of this node's workers equal to what runs here, through bursts and outages. */
import { RunningWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import type { Logger } from "../telemetry/index.ts";
import { BUCKET, type Buckets } from "./buckets.ts";
import type { Entry, MeshDirectory } from "./directory.ts";
import { keyOf } from "./keys.ts";

/** Between two puts of the same worker, so that a burst of changes becomes a few puts. */
const SPACING_MS = 50;
/** How long to wait after NATS has refused something; doubled each time. */
const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 10_000;
/** How many workers are put at once. */
const CONCURRENCY = 32;

interface AnnouncerOptions {
  readonly nodeId: string;
  readonly buckets: Buckets;
  readonly directory: MeshDirectory;
  readonly log: Logger;
}

/** Announces the workers that the directory has as this node's own. */
export class Announcer {
  readonly #options: AnnouncerOptions;
  /** The workers whose entry may not be what it should be. Bounded by the workers of this node. */
  readonly #pending = new Set<string>();
  #working = false;
  #stopped = false;
  #putting: Promise<unknown> = Promise.resolve();

  constructor(options: AnnouncerOptions) {
    this.#options = options;
  }

  /** Something has become of these workers: their entries are put, or deleted if they don't run any more. */
  announce(names: readonly string[]): void {
    for (const name of names) this.#pending.add(name);
    if (this.#working || this.#stopped) return;
    this.#working = true;
    void this.#work();
  }

  /** Puts every worker again. */
  announceAll(): void {
    this.announce([...this.#pending, ...this.#ownWorkers().keys()]);
  }

  /** Deletes what an earlier process of this node's id left in the bucket. */
  deleteLeftovers(entries: ReadonlyMap<string, Entry>): void {
    const { nodeId, buckets, log } = this.#options;
    const own = new Set([...this.#ownWorkers().keys()].map((name) => this.#key(name)));
    for (const { key, value } of entries.values()) {
      if (value === undefined || !key.startsWith(`${keyOf(nodeId)}.`) || own.has(key)) continue;
      buckets.delete(BUCKET.running, key).catch((error) => {
        log.debug({ key, error: String(error) }, "an old entry could not be deleted; it will expire");
      });
    }
  }

  /** Puts nothing more; resolves when nothing is on its way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#putting;
  }

  /** Deletes the entries of all workers; to be called after `stop`. */
  async withdrawAll(): Promise<void> {
    const { buckets } = this.#options;
    await Promise.all([...this.#ownWorkers().keys()].map((name) => buckets.delete(BUCKET.running, this.#key(name))));
  }

  /** Works until nothing is pending or NATS is away; whoever brings it back announces all. Never rejects. */
  async #work(): Promise<void> {
    // What is announced in the same turn goes out together.
    await new Promise((resolve) => setImmediate(resolve));
    let retryMs = RETRY_MIN_MS;
    while (this.#pending.size > 0 && !this.#stopped && this.#options.buckets.connected) {
      const names = [...this.#pending].slice(0, CONCURRENCY);
      for (const name of names) this.#pending.delete(name);
      const workers = this.#ownWorkers();
      const putting = Promise.all(names.map((name) => this.#put(name, workers.get(name))));
      this.#putting = putting;
      const succeeded = (await putting).every(Boolean);
      await new Promise((resolve) => setTimeout(resolve, succeeded ? SPACING_MS : retryMs).unref());
      retryMs = succeeded ? RETRY_MIN_MS : Math.min(retryMs * 2, RETRY_MAX_MS);
    }
    this.#working = false;
  }

  async #put(name: string, worker: RunningWorker | undefined): Promise<boolean> {
    const { buckets, log } = this.#options;
    try {
      if (worker === undefined) await buckets.delete(BUCKET.running, this.#key(name));
      else await buckets.put(BUCKET.running, this.#key(name), RunningWorker.encode(worker).finish());
      return true;
    } catch (error) {
      this.#pending.add(name);
      if (buckets.connected) log.warn({ worker: name, error: String(error) }, "a worker could not be announced");
      return false;
    }
  }

  #ownWorkers(): ReadonlyMap<string, RunningWorker> {
    return new Map(this.#options.directory.ownWorkers().map((worker) => [worker.info?.name ?? "", worker]));
  }

  #key(name: string): string {
    return keyOf(this.#options.nodeId, name);
  }
}
