/** Writes the workers that should run into cortex_workers, one winner for each name, and brings them back when lost. */
import { WorkerSpecification } from "../gen/cortex/registry/v1/registry.ts";
import { BUCKET, type Buckets, toRpcError } from "./buckets.ts";
import { type DesiredWorkerStore, keyOf } from "./directory.ts";

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

  async remove(name: string): Promise<boolean> {
    try {
      if ((await this.#buckets.get(BUCKET.workers, keyOf(name))) === undefined) return false;
      await this.#buckets.delete(BUCKET.workers, keyOf(name));
      const { revision } = await this.#buckets.position(BUCKET.workers);
      await this.#caughtUp(revision);
      return true;
    } catch (error) {
      throw toRpcError(error);
    }
  }

  /**
   * Puts back what NATS has lost. Every node does this; whatever was added or removed since the loss wins over what is
   * remembered.
   */
  async restore(remembered: readonly WorkerSpecification[]): Promise<void> {
    for (const specification of remembered) {
      const value = WorkerSpecification.encode(specification).finish();
      await this.#buckets.create(BUCKET.workers, keyOf(specification.name), value, { everUnused: true });
    }
  }
}
