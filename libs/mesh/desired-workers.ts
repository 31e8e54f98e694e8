/**
 * Writes the workers that should run, and which ones are drained, into cortex_workers: one winner for each name. Brings them
 * back when they were lost.
 */
import { DrainedWorker } from "../gen/cortex/mesh/v1/mesh.ts";
import { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { BUCKET, type Buckets, toRpcError } from "./buckets.ts";
import type { DesiredWorkerStore } from "./directory.ts";
import { drainedKeyOf, keyOf } from "./keys.ts";

/** How often a change is tried again that another one has come before. */
const CONFLICTS_MAX = 5;

export class DesiredWorkers implements DesiredWorkerStore {
  readonly #buckets: Buckets;
  readonly #caughtUp: (revision: number) => Promise<void>;

  /** `caughtUp` resolves when this node's directory has seen a revision, so that who made a change then sees it. */
  constructor(buckets: Buckets, caughtUp: (revision: number) => Promise<void>) {
    this.#buckets = buckets;
    this.#caughtUp = caughtUp;
  }

  async create(specification: WorkerSpecification): Promise<boolean> {
    try {
      const value = WorkerSpecification.encode(specification).finish();
      const revision = await this.#buckets.create(BUCKET.workers, keyOf(specification.name), value);
      if (revision === false) return false;
      await this.#caughtUp(revision);
      return true;
    } catch (error) {
      throw toRpcError(error);
    }
  }

  async replace(specification: WorkerSpecification): Promise<boolean> {
    const key = keyOf(specification.name);
    const value = WorkerSpecification.encode(specification).finish();
    try {
      for (let conflicts = 0; ; conflicts++) {
        const current = await this.#buckets.get(BUCKET.workers, key);
        if (current === undefined) return false;
        const revision = await this.#buckets.replace(BUCKET.workers, key, value, current.revision);
        if (revision !== false) {
          await this.#caughtUp(revision);
          return true;
        }
        if (conflicts === CONFLICTS_MAX) throw new Error(`worker ${specification.name} is changed all the time`);
      }
    } catch (error) {
      throw toRpcError(error);
    }
  }

  async remove(name: string): Promise<boolean> {
    try {
      if ((await this.#buckets.get(BUCKET.workers, keyOf(name))) === undefined) return false;
      await this.#buckets.delete(BUCKET.workers, keyOf(name));
      // Another worker of this name, some day, is not meant.
      await this.#buckets.delete(BUCKET.workers, drainedKeyOf(name));
      await this.#seeOwnChange();
      return true;
    } catch (error) {
      throw toRpcError(error);
    }
  }

  async setDrained(name: string, drained: boolean): Promise<void> {
    try {
      if (drained) await this.#buckets.put(BUCKET.workers, drainedKeyOf(name), DrainedWorker.encode({ name }).finish());
      // Also when there is nothing to delete: the trace that it leaves keeps what was lost from being restored.
      else await this.#buckets.delete(BUCKET.workers, drainedKeyOf(name));
      await this.#seeOwnChange();
    } catch (error) {
      throw toRpcError(error);
    }
  }

  /**
   * Puts back what NATS has lost. Every node does this; whatever was added or removed since the loss wins over what is
   * remembered.
   */
  async restore(remembered: readonly WorkerSpecification[], drained: ReadonlySet<string>): Promise<void> {
    for (const specification of remembered) {
      const value = WorkerSpecification.encode(specification).finish();
      await this.#buckets.create(BUCKET.workers, keyOf(specification.name), value, { everUnused: true });
    }
    for (const name of drained) {
      const value = DrainedWorker.encode({ name }).finish();
      await this.#buckets.create(BUCKET.workers, drainedKeyOf(name), value, { everUnused: true });
    }
  }

  async #seeOwnChange(): Promise<void> {
    const { revision } = await this.#buckets.position(BUCKET.workers);
    await this.#caughtUp(revision);
  }
}
