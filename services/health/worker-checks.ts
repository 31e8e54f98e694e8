/**
 * The regular checks of all workers (W8). Each worker of each node has one owner among the nodes that run the health service,
 * which every one of them tells from its directory alone, and a moment of its own within the interval: so no worker is asked
 * twice, and not all are asked at once. The node that runs a worker is asked; it asks the provider unless the provider has just
 * shown how it is.
 */

import { createHash } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";
import { HealthServiceDefinition } from "../../libs/gen/cortex/health/v1/health.ts";
import { ProviderServiceDefinition } from "../../libs/gen/cortex/provider/v1/provider.ts";
import type { Clients, Directory } from "../../libs/mesh/index.ts";
import { RpcError, startCall } from "../../libs/rpc/index.ts";
import { type Logger, NO_TRACE } from "../../libs/telemetry/index.ts";

/** From the moment that a check is due to its answer, whatever it waits for. */
const TIMEOUT_MS = 5_000;
/** How many are asked at once. */
const PLACES = 64;
/** A check that takes longer than this leaves its place to another one, so that workers that hang hold up nobody. */
const PLACE_MS = 200;
/** Between two looks at what is due: a part of the interval, at most this. */
const LOOK_MS_MAX = 1_000;
const LOOKS_PER_INTERVAL = 30;
/** What was found out within this part of the interval need not be found out again. */
const YOUNG = 0.9;
/** So many workers are named when they can't be checked. */
const NAMED_MAX = 5;

/** A worker of a node. */
interface Instance {
  readonly node: string;
  readonly worker: string;
  /** Its moment, as a part of the interval. */
  readonly phase: number;
}

export interface WorkerChecksOptions {
  readonly nodeId: string;
  readonly directory: Pick<Directory, "generation" | "workers">;
  readonly clients: Pick<Clients, "at" | "ownerOf">;
  readonly intervalMs: () => number;
  /** Milliseconds since the Unix epoch: all nodes have the same moments. */
  readonly nowMs: () => number;
  /** Tells people what is wrong; undefined when nothing is any more. */
  readonly problem: (sentence: string | undefined) => void;
  readonly log: Logger;
}

/** The checks of the workers that this node owns. */
export class WorkerChecks {
  readonly #options: WorkerChecksOptions;
  readonly #places = new Places(PLACES);
  /** By node and worker: those that are being asked, and those that could not be asked the last time. */
  readonly #running = new Set<string>();
  readonly #unanswered = new Map<string, string>();
  #instances: readonly Instance[] = [];
  #generation: number | undefined;

  constructor(options: WorkerChecksOptions) {
    this.#options = options;
  }

  /** Checks until `signal` is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    let sinceMs = this.#options.nowMs();
    while (!signal.aborted) {
      const lookMs = Math.min(this.#options.intervalMs() / LOOKS_PER_INTERVAL, LOOK_MS_MAX);
      // It rejects when the service stops, and then nothing is left to do.
      await pause(lookMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      const untilMs = this.#options.nowMs();
      // Not waited for: the next ones are due whatever becomes of these.
      void this.checkDue(sinceMs, untilMs, signal);
      sinceMs = untilMs;
    }
  }

  /**
   * Checks the workers whose moment lies after `sinceMs` and not after `untilMs`. Resolves when all have answered, or have not,
   * which is 5 s later at most. Never rejects.
   */
  async checkDue(sinceMs: number, untilMs: number, signal?: AbortSignal): Promise<void> {
    const intervalMs = this.#options.intervalMs();
    const due = this.#own().filter(({ phase }) => {
      const momentsUntil = (atMs: number) => Math.floor(atMs / intervalMs - phase);
      return momentsUntil(untilMs) > momentsUntil(sinceMs);
    });
    if (due.length === 0) return;
    const deadlineAtMs = Date.now() + TIMEOUT_MS;
    await Promise.all(due.map((instance) => this.#check(instance, intervalMs, deadlineAtMs, signal)));
    this.#tell();
  }

  /** The workers that this node owns, found anew when the mesh has changed. */
  #own(): readonly Instance[] {
    const { directory, clients, nodeId } = this.#options;
    if (directory.generation !== this.#generation) {
      this.#generation = directory.generation;
      this.#instances = directory.workers().flatMap(({ node, info }) => {
        const worker = info?.name ?? "";
        const key = keyOf(node, worker);
        return clients.ownerOf(HealthServiceDefinition, key) === nodeId ? [{ node, worker, phase: phaseOf(key) }] : [];
      });
      const known = new Set(this.#instances.map(({ node, worker }) => keyOf(node, worker)));
      for (const key of this.#unanswered.keys()) if (!known.has(key)) this.#unanswered.delete(key);
    }
    return this.#instances;
  }

  async #check(
    { node, worker }: Instance,
    intervalMs: number,
    deadlineAtMs: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const key = keyOf(node, worker);
    // It has been asked and has not answered yet: asking again would pile up.
    if (this.#running.has(key)) return;
    this.#running.add(key);
    const call = startCall({ tenant: "", admin: true, requestId: "health", trace: NO_TRACE, deadlineAtMs });
    const cancel = () => call.cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      await this.#places.hold(call.signal, async () => {
        const service = this.#options.clients.at(ProviderServiceDefinition, node);
        await service.checkHealth({ worker, ageMaxMs: intervalMs * YOUNG }, call);
      });
      this.#unanswered.delete(key);
    } catch (thrown) {
      const { reason } = RpcError.from(thrown);
      if (reason === "CANCELLED" || reason === "WORKER_NOT_FOUND") this.#unanswered.delete(key);
      else this.#unanswered.set(key, `${worker} on node ${node}`);
      this.#options.log.debug({ worker, peer: node, reason }, "a worker's node did not answer a health check");
    } finally {
      signal?.removeEventListener("abort", cancel);
      call.finish();
      this.#running.delete(key);
    }
  }

  #tell(): void {
    const names = [...this.#unanswered.values()].sort();
    if (names.length === 0) {
      this.#options.problem(undefined);
      return;
    }
    const more = names.length > NAMED_MAX ? ` and ${names.length - NAMED_MAX} more` : "";
    const named = names.slice(0, NAMED_MAX).join(", ");
    this.#options.problem(`no answer to a health check within ${TIMEOUT_MS / 1_000} s from: ${named}${more}`);
  }
}

/** So many things at once, of which those that take long are not counted any more. */
class Places {
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(count: number) {
    this.#free = count;
  }

  /** Does it when there is a place. Throws why `signal` was aborted when that is before. */
  async hold(signal: AbortSignal, work: () => Promise<void>): Promise<void> {
    await this.#take(signal);
    let held = true;
    const giveBack = () => {
      if (!held) return;
      held = false;
      this.#give();
    };
    const timer = setTimeout(giveBack, PLACE_MS);
    try {
      await work();
    } finally {
      clearTimeout(timer);
      giveBack();
    }
  }

  #take(signal: AbortSignal): Promise<void> {
    if (this.#free > 0) {
      this.#free -= 1;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const take = () => {
        signal.removeEventListener("abort", giveUp);
        resolve();
      };
      const giveUp = () => {
        this.#waiting.delete(take);
        reject(signal.reason);
      };
      this.#waiting.add(take);
      signal.addEventListener("abort", giveUp, { once: true });
      if (signal.aborted) giveUp();
    });
  }

  #give(): void {
    const [next] = this.#waiting;
    if (next === undefined) this.#free += 1;
    else {
      this.#waiting.delete(next);
      next();
    }
  }
}

function keyOf(node: string, worker: string): string {
  return `${node}/${worker}`;
}

/** Where in the interval its moment is, from 0 to below 1: everywhere the same. */
function phaseOf(key: string): number {
  return createHash("sha256").update(key).digest().readUInt32BE(0) / 2 ** 32;
}
