/** What is drawn when a trace begins: a share of all, and of each kind of request a few in any case. */
import type { KeptFor } from "./trace.ts";

/** Which traces are exported. */
export interface SamplingRules {
  /** Of ordinary traces, from 0 to 1. */
  readonly share: number;
  /** Of those, no more than so many a second on each node: where much happens, so many show as much as all. */
  readonly perSecondMax: number;
  /** So many a second of each kind of request in any case, so that there is something to see where little happens. */
  readonly perSecondMin: number;
  /** A caller who does not sample its trace keeps it from being drawn. */
  readonly parentBased: boolean;
  /** What keeps a trace that was not drawn. Without any, such traces are not recorded at all. */
  readonly keep: readonly KeptFor[];
  /** A model whose first token takes longer is slow. */
  readonly slowFirstTokenMs: number;
  /** A request of a model that takes longer is slow. */
  readonly slowMs: number;
}

/** What was not used of the least rate is saved for so long: who tries something out sees all of it. */
const SAVED_S = 10;
/** Kinds of requests that have a rate of their own; names of spans are few. */
const NAMES_MAX = 1_000;
/** Digits of a trace id that are taken for random. */
const RANDOM_DIGITS = 13;

/** Times are sums of fractions: what is less than a whole one by so little is one. */
const ROUNDING = 1e-6;

/** So many a second, of which some may be saved. Whoever is refused changes nothing: that is what happens to nearly all. */
class Allowance {
  /** When all that may be saved is saved; as many are left as fit between then and now. */
  #fullAtMs = Number.NEGATIVE_INFINITY;

  take(perSecond: number, savedMax: number, nowMs: number): boolean {
    const left = savedMax - ((this.#fullAtMs - nowMs) / 1_000) * perSecond;
    if (left < 1 - ROUNDING) return false;
    this.#fullAtMs = Math.max(this.#fullAtMs, nowMs) + 1_000 / perSecond;
    return true;
  }
}

/** Draws. The share depends on the trace id alone, so that all nodes draw alike. Times are those of `performance.now`. */
export class HeadSampler {
  readonly #least = new Map<string, Allowance>();
  readonly #most = new Allowance();
  #share = 0;
  /** Ids that end on this or more are within the share. */
  #from = "";

  /** Whether a trace that begins now with a span of that name is drawn. */
  drawsNew(name: string, traceId: string, rules: SamplingRules, nowMs: number): boolean {
    return (
      (this.draws(traceId, rules) && this.#withinMost(rules.perSecondMax, nowMs)) ||
      this.#isOwed(name, rules.perSecondMin, nowMs)
    );
  }

  /** Whether the trace is within the share. */
  draws(traceId: string, { share }: SamplingRules): boolean {
    if (share >= 1) return true;
    if (share <= 0) return false;
    if (share !== this.#share) {
      this.#share = share;
      // A share that is next to nothing still is the largest id.
      this.#from = Math.min(Math.ceil((1 - share) * 16 ** RANDOM_DIGITS), 16 ** RANDOM_DIGITS - 1)
        .toString(16)
        .padStart(RANDOM_DIGITS, "0");
    }
    // The first digit mostly decides, without a string being made.
    const difference = traceId.charCodeAt(traceId.length - RANDOM_DIGITS) - this.#from.charCodeAt(0);
    if (difference !== 0) return difference > 0;
    return traceId.slice(-RANDOM_DIGITS) >= this.#from;
  }

  #withinMost(perSecond: number, nowMs: number): boolean {
    if (perSecond === Number.POSITIVE_INFINITY) return true;
    if (perSecond <= 0) return false;
    return this.#most.take(perSecond, Math.max(1, perSecond), nowMs);
  }

  #isOwed(name: string, perSecond: number, nowMs: number): boolean {
    if (perSecond <= 0) return false;
    let allowance = this.#least.get(name);
    if (allowance === undefined) {
      if (this.#least.size >= NAMES_MAX) return false;
      allowance = new Allowance();
      this.#least.set(name, allowance);
    }
    return allowance.take(perSecond, Math.max(1, perSecond * SAVED_S), nowMs);
  }
}
