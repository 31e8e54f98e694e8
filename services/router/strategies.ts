/**
 * The strategies: which of the workers that could serve a request is asked next. A choice is a few scans over arrays, with no
 * sorting and nothing allocated for a candidate, since it is made for every attempt and there may be a thousand workers.
 */
import type { StrategyName } from "../../libs/host/index.ts";
import type { Candidate } from "./candidates.ts";
import type { Latencies } from "./latencies.ts";
import type { Loads } from "./loads.ts";
import type { RequestTraits } from "./traits.ts";

/** Sets of candidates whose turns are remembered. */
const ROTATIONS_MAX = 1_000;

/** Requests that a worker without a limit of its own is taken to serve at once before they slow each other. */
const UNLIMITED_SLOTS = 8;

/** As many requests show what a newcomer is like. */
const TRIALS = 3;
/** A worker that was not measured for so long is due to be measured again… */
const PROBE_AFTER_MS = 60_000;
/** …by one request of so many. */
const PROBE_ONE_IN = 20;

/** How long an answer is when the request does not say. */
const OUTPUT_TOKENS_USUAL = 500;

/** No worker is overloaded with a conversation's requests below this, nor while it has at most 1.25 times the average. */
const AFFINITY_LOAD_MIN = 4;
const AFFINITY_LOAD_FACTOR = 1.25;

/** What a chooser decides by. */
export interface ChooserOptions {
  readonly loads: Loads;
  readonly latencies: Latencies;
  /** 0 ≤ x < 1. */
  random(): number;
  /** Milliseconds on a clock that never goes back. */
  now(): number;
}

/** A candidate that has been tried to see what it is like. */
interface Trial {
  count: number;
  readonly sinceMs: number;
  lastMs: number;
}

/** Chooses among candidates. What turns and trials it remembers is its own: each router has one chooser for all its requests. */
export class Chooser {
  readonly #loads: Loads;
  readonly #latencies: Latencies;
  readonly #options: ChooserOptions;
  /** Who had the last turn, by set of candidates. */
  readonly #rotations = new Map<number, Candidate>();
  readonly #trials = new WeakMap<Candidate, Trial>();
  /** Those among whom the choice is, and a score for each, the lowest being the best. Kept, so that a choice allocates nothing. */
  readonly #pool: Candidate[] = [];
  readonly #scores: number[] = [];
  readonly #ties: Candidate[] = [];
  #count = 0;

  constructor(options: ChooserOptions) {
    this.#loads = options.loads;
    this.#latencies = options.latencies;
    this.#options = options;
  }

  /**
   * The best candidate not yet tried: lowest tier first, within it the strategy's order. The tier is the caller's: health, and how
   * well a candidate fits. Undefined when all have been tried. What it returns is taken to be asked.
   */
  next(
    strategy: StrategyName,
    candidates: readonly Candidate[],
    tried: ReadonlySet<Candidate>,
    traits: RequestTraits,
    tierOf: (candidate: Candidate) => number,
  ): Candidate | undefined {
    if (!this.#fill(candidates, tried, tierOf)) return undefined;
    return this.#choose(strategy, candidates, traits, true);
  }

  /** All candidates in the order in which they would be tried now. Nobody's turn or trial is used up by looking. */
  ranking(
    strategy: StrategyName,
    candidates: readonly Candidate[],
    traits: RequestTraits,
    tierOf: (candidate: Candidate) => number,
  ): Candidate[] {
    const key = strategy === "round_robin" ? rotationKey(candidates) : 0;
    const turn = this.#rotations.get(key);
    const ranked = new Set<Candidate>();
    while (this.#fill(candidates, ranked, tierOf)) {
      const chosen = this.#choose(strategy, candidates, traits, false);
      ranked.add(chosen);
      // Whoever would be tried after it is its successor.
      if (strategy === "round_robin") this.#rotations.set(key, chosen);
    }
    if (turn === undefined) this.#rotations.delete(key);
    else this.#rotations.set(key, turn);
    return [...ranked];
  }

  /** Why a candidate stands where it does under the strategy, for people: "priority 10", "3 requests running". */
  why(strategy: StrategyName, candidate: Candidate, traits: RequestTraits): string {
    const { info, worker, model } = candidate;
    switch (strategy) {
      case "local_first":
        return `priority ${info.priority}`;
      case "round_robin":
        return "each in turn";
      case "least_loaded":
        return this.#running(candidate);
      case "weighted":
        return `weight ${info.weight}`;
      case "latency": {
        const firstTokenMs = this.#latencies.of(worker, model);
        const measured =
          firstTokenMs === undefined
            ? "first token not measured yet"
            : `first token after ${Math.round(firstTokenMs)} ms`;
        return `${measured}, ${this.#running(candidate)}`;
      }
      case "cost": {
        const cost = costOf(candidate, traits);
        return cost === undefined ? "price not known" : `about $${cost === 0 ? "0" : Number(cost.toPrecision(2))}`;
      }
      case "affinity": {
        const share = affinityOf(candidate, traits.conversation) / 2 ** 32;
        return `${share.toFixed(3)} for this conversation, ${this.#running(candidate)}`;
      }
    }
  }

  #running(candidate: Candidate): string {
    const load = this.#loads.of(candidate.worker);
    const slots = slotsOf(candidate);
    const of = slots > 0 ? ` of at most ${slots}` : "";
    return `${load}${of} ${load === 1 && slots === 0 ? "request" : "requests"} running`;
  }

  /** Gathers the untried candidates of the lowest tier; false when there are none. */
  #fill(
    candidates: readonly Candidate[],
    tried: ReadonlySet<Candidate>,
    tierOf: (candidate: Candidate) => number,
  ): boolean {
    const pool = this.#pool;
    let lowest = Number.POSITIVE_INFINITY;
    let count = 0;
    for (const candidate of candidates) {
      if (tried.size > 0 && tried.has(candidate)) continue;
      const tier = tierOf(candidate);
      if (tier > lowest) continue;
      if (tier < lowest) {
        lowest = tier;
        count = 0;
      }
      pool[count] = candidate;
      count += 1;
    }
    this.#count = count;
    return count > 0;
  }

  #choose(
    strategy: StrategyName,
    candidates: readonly Candidate[],
    traits: RequestTraits,
    remember: boolean,
  ): Candidate {
    switch (strategy) {
      case "local_first":
        return this.#localFirst();
      case "round_robin":
        return this.#roundRobin(candidates, remember);
      case "least_loaded":
        return this.#leastLoaded();
      case "weighted":
        return this.#weighted();
      case "latency":
        return this.#soonest(remember);
      case "cost":
        return this.#cheapest(traits);
      case "affinity":
        return this.#affine(traits.conversation);
    }
  }

  #localFirst(): Candidate {
    for (let index = 0; index < this.#count; index += 1) this.#scores[index] = 0;
    return this.#lowestScore();
  }

  /**
   * The candidates stand on a ring, and the turn goes from each to the next one that can have it. So a worker that has failed does
   * not bring a second turn to its successor.
   */
  #roundRobin(candidates: readonly Candidate[], remember: boolean): Candidate {
    const key = rotationKey(candidates);
    const last = this.#rotations.get(key);
    let chosen: Candidate;
    if (last === undefined) {
      // Routers that start together do not all begin with the same worker.
      chosen = this.#pool[Math.floor(this.#options.random() * this.#count)]!;
    } else {
      let first = this.#pool[0]!;
      let after: Candidate | undefined;
      for (let index = 0; index < this.#count; index += 1) {
        const candidate = this.#pool[index]!;
        if (isAfter(candidate, last)) {
          if (after === undefined || isAfter(after, candidate)) after = candidate;
        } else if (isAfter(first, candidate)) first = candidate;
      }
      chosen = after ?? first;
    }
    if (remember) {
      // The set that was asked for the longest time ago is the first to go.
      this.#rotations.delete(key);
      if (this.#rotations.size >= ROTATIONS_MAX) this.#rotations.delete(this.#rotations.keys().next().value!);
      this.#rotations.set(key, chosen);
    }
    return chosen;
  }

  /** Relative to what each may serve at once; one without a limit counts as large as the largest beside it. */
  #leastLoaded(): Candidate {
    let largest = 0;
    for (let index = 0; index < this.#count; index += 1) largest = Math.max(largest, slotsOf(this.#pool[index]!));
    const unlimited = largest === 0 ? 1 : largest;
    for (let index = 0; index < this.#count; index += 1) {
      const candidate = this.#pool[index]!;
      this.#scores[index] = this.#loads.of(candidate.worker) / (slotsOf(candidate) || unlimited);
    }
    return this.#lowestScoreAtRandom();
  }

  #weighted(): Candidate {
    let sum = 0;
    for (let index = 0; index < this.#count; index += 1) sum += this.#pool[index]!.info.weight;
    if (sum === 0) return this.#pool[Math.floor(this.#options.random() * this.#count)]!;
    let left = this.#options.random() * sum;
    let chosen = this.#pool[0]!;
    for (let index = 0; index < this.#count; index += 1) {
      const candidate = this.#pool[index]!;
      chosen = candidate;
      left -= candidate.info.weight;
      if (left < 0) break;
    }
    return chosen;
  }

  /** The soonest first token, dearer the more a worker has to do already, so that requests do not all run to one. */
  #soonest(remember: boolean): Candidate {
    const nowMs = this.#options.now();
    if (remember && this.#options.random() * PROBE_ONE_IN < 1) {
      const due = this.#longestUnmeasured(nowMs);
      if (due !== undefined) {
        this.#tryOut(due, nowMs);
        return due;
      }
    }
    const scores = this.#scores;
    let best = Number.POSITIVE_INFINITY;
    let worst = 0;
    for (let index = 0; index < this.#count; index += 1) {
      const { worker, model } = this.#pool[index]!;
      const measurement = this.#latencies.measurement(worker, model);
      const firstTokenMs = measurement?.firstTokenMs ?? Number.NaN;
      // What is below zero is not certain yet.
      scores[index] = measurement !== undefined && measurement.count < TRIALS ? -firstTokenMs : firstTokenMs;
      if (firstTokenMs < best) best = firstTokenMs;
      if (firstTokenMs > worst) worst = firstTokenMs;
    }
    if (best === Number.POSITIVE_INFINITY) best = worst = 1;
    let lowest = Number.POSITIVE_INFINITY;
    for (let index = 0; index < this.#count; index += 1) {
      const candidate = this.#pool[index]!;
      let firstTokenMs = scores[index]!;
      if (!(firstTokenMs > 0)) {
        const trial = this.#trials.get(candidate);
        if (trial === undefined || trial.count < TRIALS) firstTokenMs = best;
        else if (!Number.isNaN(firstTokenMs)) firstTokenMs = -firstTokenMs;
        // It has kept everybody waiting until now.
        else firstTokenMs = Math.max(worst, nowMs - trial.sinceMs);
      }
      // Its load can only make it worse, and is not worth a look then.
      if (firstTokenMs <= lowest) {
        firstTokenMs *= 1 + this.#loads.of(candidate.worker) / (slotsOf(candidate) || UNLIMITED_SLOTS);
        if (firstTokenMs < lowest) lowest = firstTokenMs;
      }
      scores[index] = firstTokenMs;
    }
    const chosen = this.#lowestScoreAtRandom();
    if (remember) {
      const measurement = this.#latencies.measurement(chosen.worker, chosen.model);
      if (measurement === undefined || measurement.count < TRIALS) this.#tryOut(chosen, nowMs);
    }
    return chosen;
  }

  #tryOut(candidate: Candidate, nowMs: number): void {
    const trial = this.#trials.get(candidate);
    if (trial === undefined) this.#trials.set(candidate, { count: 1, sinceMs: nowMs, lastMs: nowMs });
    else {
      trial.count += 1;
      trial.lastMs = nowMs;
    }
  }

  /** Of those that have room, who was neither measured nor tried for the longest time; undefined when nobody is due. */
  #longestUnmeasured(nowMs: number): Candidate | undefined {
    let longest: Candidate | undefined;
    let earliestMs = nowMs - PROBE_AFTER_MS;
    for (let index = 0; index < this.#count; index += 1) {
      const candidate = this.#pool[index]!;
      const measuredAtMs =
        this.#latencies.measurement(candidate.worker, candidate.model)?.atMs ?? Number.NEGATIVE_INFINITY;
      const triedAtMs = this.#trials.get(candidate)?.lastMs ?? Number.NEGATIVE_INFINITY;
      const atMs = Math.max(measuredAtMs, triedAtMs);
      const slots = slotsOf(candidate);
      if (atMs >= earliestMs || (slots > 0 && this.#loads.of(candidate.worker) >= slots)) continue;
      longest = candidate;
      earliestMs = atMs;
    }
    return longest;
  }

  #cheapest(traits: RequestTraits): Candidate {
    for (let index = 0; index < this.#count; index += 1) {
      this.#scores[index] = costOf(this.#pool[index]!, traits) ?? Number.POSITIVE_INFINITY;
    }
    return this.#lowestScore();
  }

  /** Rendezvous hashing with bounded load: all routers agree on whom a conversation belongs to, with nothing remembered. */
  #affine(conversation: number): Candidate {
    const scores = this.#scores;
    let inFlight = 0;
    for (let index = 0; index < this.#count; index += 1) {
      scores[index] = this.#loads.of(this.#pool[index]!.worker);
      inFlight += scores[index]!;
    }
    const share = Math.ceil((AFFINITY_LOAD_FACTOR * (inFlight + 1)) / this.#count);
    const cap = Math.max(share, AFFINITY_LOAD_MIN);
    for (let index = 0; index < this.#count; index += 1) {
      const candidate = this.#pool[index]!;
      const full = scores[index]! >= Math.min(cap, slotsOf(candidate) || cap);
      scores[index] = (full ? 2 ** 33 : 2 ** 32) - affinityOf(candidate, conversation);
    }
    return this.#lowestScore();
  }

  /** Of equal ones, the first by `local_first`. */
  #lowestScore(): Candidate {
    let chosen = this.#pool[0]!;
    let lowest = this.#scores[0]!;
    for (let index = 1; index < this.#count; index += 1) {
      const score = this.#scores[index]!;
      if (score > lowest) continue;
      const candidate = this.#pool[index]!;
      if (score === lowest && !isBefore(candidate, chosen)) continue;
      lowest = score;
      chosen = candidate;
    }
    return chosen;
  }

  /** Of equal ones, any, so that routers that know the same do not all take the same one. */
  #lowestScoreAtRandom(): Candidate {
    let lowest = Number.POSITIVE_INFINITY;
    let ties = 0;
    for (let index = 0; index < this.#count; index += 1) {
      const score = this.#scores[index]!;
      if (score > lowest) continue;
      if (score < lowest) {
        lowest = score;
        ties = 0;
      }
      this.#ties[ties] = this.#pool[index]!;
      ties += 1;
    }
    return ties === 1 ? this.#ties[0]! : this.#ties[Math.floor(this.#options.random() * ties)]!;
  }
}

/** Requests that the worker may serve at once, on all its nodes together; 0 for no limit. */
function slotsOf({ info, nodes }: Candidate): number {
  return info.concurrentRequestsMax * nodes.length;
}

/** What the request would cost, in US dollars; undefined where a price that matters is not known. */
function costOf({ properties }: Candidate, { inputTokens, outputTokensMax }: RequestTraits): number | undefined {
  const input = properties?.inputCostUsdPerMillion;
  const output = properties?.outputCostUsdPerMillion;
  const outputTokens = outputTokensMax ?? OUTPUT_TOKENS_USUAL;
  if ((input === undefined && inputTokens > 0) || (output === undefined && outputTokens > 0)) return undefined;
  return (inputTokens * (input ?? 0) + outputTokens * (output ?? 0)) / 1_000_000;
}

/** How much a worker is meant for a conversation, 32 bits: every router finds the same. */
function affinityOf({ hash }: Candidate, conversation: number): number {
  let mixed = conversation ^ Math.imul(hash, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}

/** The order of `local_first`: lowest priority number, then name. */
function isBefore(a: Candidate, b: Candidate): boolean {
  return a.info.priority === b.info.priority ? a.worker < b.worker : a.info.priority < b.info.priority;
}

/** The order of the ring. */
function isAfter(a: Candidate, b: Candidate): boolean {
  if (a.hash !== b.hash) return a.hash > b.hash;
  return a.worker === b.worker ? a.model > b.model : a.worker > b.worker;
}

/** Tells sets of candidates apart, in whatever order they come. */
function rotationKey(candidates: readonly Candidate[]): number {
  let key = candidates.length;
  for (const { hash } of candidates) key = (key + Math.imul(hash, 0x9e3779b1)) | 0;
  const model = candidates[0]?.model ?? "";
  for (let index = 0; index < model.length; index += 1) key = Math.imul(key ^ model.charCodeAt(index), 0x01000193);
  return key;
}
