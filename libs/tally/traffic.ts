/** Tallies of everything that ended in a while: of all requests, and by each dimension that figures are kept by. */
import { type AttemptFinished, type RequestFinished, RequestOutcome } from "../gen/cortex/events/v1/events.ts";
import { Dimension } from "../gen/cortex/metrics/v1/metrics.ts";
import type { Tally as EncodedTally, NamedTally } from "../gen/cortex/metrics/v1/tally.ts";
import type { Reason } from "../rpc/index.ts";
import { OTHER } from "../telemetry/index.ts";
import { Tally } from "./tally.ts";

/** The dimensions that figures are kept by. */
export const DIMENSIONS = [
  Dimension.WORKER,
  Dimension.PROVIDER,
  Dimension.MODEL,
  Dimension.TENANT,
  Dimension.STRATEGY,
] as const satisfies readonly Dimension[];

/** Longer names are cut. */
export const NAME_CHARACTERS_MAX = 200;

/** How a request for a model that there is ends without an attempt. */
const NOBODY_FREE: ReadonlySet<string> = new Set<string>(["NO_WORKERS_AVAILABLE", "OVERLOADED"] satisfies Reason[]);

/**
 * Whether somebody has the model. A client may make up any number of names, and have its requests end before anybody looks whose they
 * are: it leaves, or wants answers of the cache alone. Such names push out none that is somebody's.
 */
function isSomebodys({ outcome, attempts, reason }: RequestFinished): boolean {
  return outcome === RequestOutcome.SERVED || attempts > 0 || NOBODY_FREE.has(reason);
}

/** Traffic as it is sent and kept. */
export interface EncodedTraffic {
  readonly total?: EncodedTally | undefined;
  readonly tallies: readonly NamedTally[];
}

/** What has ended, added up. */
export class Traffic {
  /** Of all requests. */
  readonly total = new Tally();
  /** Of attempts by worker and provider, of requests by the others. */
  readonly by: ReadonlyMap<Dimension, ReadonlyMap<string, Tally>>;
  readonly #by: ReadonlyMap<Dimension, Map<string, Tally>>;

  #names = 0;

  /** What is merged is kept for these dimensions only. */
  constructor(dimensions: readonly Dimension[] = DIMENSIONS) {
    this.#by = new Map(dimensions.map((dimension) => [dimension, new Map<string, Tally>()]));
    this.by = this.#by;
  }

  /** How many names something was counted for. */
  get names(): number {
    return this.#names;
  }

  /** The tally of a name, which is made if there is none; undefined for a dimension that is not kept. */
  of(dimension: Dimension, name: string): Tally | undefined {
    const tallies = this.#by.get(dimension);
    if (tallies === undefined) return undefined;
    const known = tallies.get(name);
    if (known !== undefined) return known;
    const tally = new Tally();
    tallies.set(name, tally);
    return tally;
  }

  /** Counts a try of a worker. */
  addAttempt(attempt: AttemptFinished): void {
    this.#ofOneMore(Dimension.WORKER, attempt.worker)?.addAttempt(attempt);
    this.#ofOneMore(Dimension.PROVIDER, attempt.provider)?.addAttempt(attempt);
  }

  /** Counts what a client had asked for. */
  addRequest(request: RequestFinished): void {
    this.total.addRequest(request);
    const model = isSomebodys(request) ? request.requestedModel.slice(0, NAME_CHARACTERS_MAX) : OTHER;
    this.#ofOneMore(Dimension.MODEL, model)?.addRequest(request);
    this.#ofOneMore(Dimension.TENANT, request.tenant)?.addRequest(request);
    if (request.strategy !== "") this.#ofOneMore(Dimension.STRATEGY, request.strategy)?.addRequest(request);
  }

  #ofOneMore(dimension: Dimension, name: string): Tally | undefined {
    const tally = this.of(dimension, name);
    if (tally?.requests === 0) this.#names++;
    return tally;
  }

  /** Adds what was encoded. */
  merge({ total, tallies }: EncodedTraffic): void {
    this.total.merge(total);
    for (const { dimension, name, tally } of tallies) this.of(dimension, name)?.merge(tally);
  }

  encode(): { total: EncodedTally; tallies: NamedTally[] } {
    const tallies: NamedTally[] = [];
    for (const [dimension, names] of this.#by) {
      for (const [name, tally] of names) {
        if (tally.requests > 0) tallies.push({ dimension, name, tally: tally.encode() });
      }
    }
    return { total: this.total.encode(), tallies };
  }

  /** Begins anew. Names that were counted just now are likely to be counted again: their tallies stay, empty. */
  clear(): void {
    this.#names = 0;
    this.total.clear();
    for (const names of this.#by.values()) {
      for (const [name, tally] of names) {
        if (tally.requests === 0) names.delete(name);
        else tally.clear();
      }
    }
  }
}
