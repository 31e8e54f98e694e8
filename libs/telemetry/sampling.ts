/** What is drawn when a trace begins: a share of all, and of each kind of request a few in any case. */
import type { KeptFor } from "./trace.ts";

/** Which traces are exported. */
export interface SamplingRules {
  /** Of ordinary traces, from 0 to 1. */
  readonly share: number;
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

/** What was not used of the rate is saved for so long: who tries something out sees all of it. */
const SAVED_S = 10;
/** Kinds of requests that have a rate of their own; names of spans are few. */
const NAMES_MAX = 1_000;
/** Digits of a trace id that are taken for random, and the number that they stand for at most. */
const RANDOM_DIGITS = 13;
const RANDOM_END = 16 ** RANDOM_DIGITS;

interface Allowance {
  left: number;
  atMs: number;
}

/** Draws. The share depends on the trace id alone, so that all nodes draw alike. */
export class HeadSampler {
  readonly #now: () => number;
  readonly #allowances = new Map<string, Allowance>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Whether a trace that begins with a span of that name is drawn. */
  drawsNew(name: string, traceId: string, rules: SamplingRules): boolean {
    return this.draws(traceId, rules) || this.#allows(name, rules.perSecondMin);
  }

  /** Whether the trace is within the share. */
  draws(traceId: string, { share }: SamplingRules): boolean {
    if (share >= 1) return true;
    if (share <= 0) return false;
    return Number.parseInt(traceId.slice(-RANDOM_DIGITS), 16) >= (1 - share) * RANDOM_END;
  }

  #allows(name: string, perSecond: number): boolean {
    if (perSecond <= 0) return false;
    const nowMs = this.#now();
    const most = Math.max(1, perSecond * SAVED_S);
    let allowance = this.#allowances.get(name);
    if (allowance === undefined) {
      if (this.#allowances.size >= NAMES_MAX) return false;
      allowance = { left: most, atMs: nowMs };
      this.#allowances.set(name, allowance);
    }
    allowance.left = Math.min(most, allowance.left + ((nowMs - allowance.atMs) / 1_000) * perSecond);
    allowance.atMs = nowMs;
    if (allowance.left < 1) return false;
    allowance.left--;
    return true;
  }
}
