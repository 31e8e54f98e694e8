/** How soon each worker's first token comes. */

/** After this long without new ones, what was measured counts half as much as what is measured next. */
const HALF_LIFE_MS = 10_000;

/** Samples kept for percentiles, how old they may be, and how many it takes to say one. */
const SAMPLES_MAX = 64;
const SAMPLE_AGE_MAX_MS = 600_000;
const SAMPLES_MIN = 20;

/** No time is zero: times are multiplied. */
const SHORTEST_MS = 0.001;

/** Pairs of worker and model that are remembered. */
const MEASUREMENTS_MAX = 10_000;

/** What is known of one worker with one model. */
export interface Measurement {
  /** The decayed average. */
  readonly firstTokenMs: number;
  /** How often it was measured, ever. */
  readonly count: number;
  /** When it was measured last. */
  readonly atMs: number;
}

class Measured implements Measurement {
  firstTokenMs = 0;
  count = 0;
  atMs = 0;
  /** How many samples the average stands for. */
  #weight = 0;
  /** The newest samples in a ring. */
  readonly #samplesMs: number[] = [];
  readonly #sampledAtMs: number[] = [];

  add(firstTokenMs: number, nowMs: number): void {
    this.#weight *= 2 ** (-(nowMs - this.atMs) / HALF_LIFE_MS);
    this.firstTokenMs = (this.firstTokenMs * this.#weight + firstTokenMs) / (this.#weight + 1);
    this.#weight += 1;
    this.atMs = nowMs;
    this.#samplesMs[this.count % SAMPLES_MAX] = firstTokenMs;
    this.#sampledAtMs[this.count % SAMPLES_MAX] = nowMs;
    this.count += 1;
  }

  percentile95(nowMs: number): number | undefined {
    const recent = this.#samplesMs.filter((_, index) => nowMs - this.#sampledAtMs[index]! <= SAMPLE_AGE_MAX_MS);
    if (recent.length < SAMPLES_MIN) return undefined;
    recent.sort((a, b) => a - b);
    return recent[Math.ceil(recent.length * 0.95) - 1];
  }
}

/** Times to the first token, by worker and model. New ones count more than old ones. */
export class Latencies {
  readonly #clock: { now(): number };
  /** By model, then by worker: who compares workers asks for the same model again and again. */
  readonly #models = new Map<string, Map<string, Measured>>();
  #size = 0;
  #lastModel = "";
  #lastWorkers: Map<string, Measured> | undefined;

  /** The clock counts milliseconds and never goes back. */
  constructor(clock: { now(): number }) {
    this.#clock = clock;
  }

  /** A first token has come, so long after it was asked for. */
  record(worker: string, model: string, firstTokenMs: number): void {
    let workers = this.#models.get(model);
    if (workers === undefined) {
      workers = new Map();
      this.#models.set(model, workers);
    }
    let measured = workers.get(worker);
    if (measured === undefined) {
      measured = new Measured();
      workers.set(worker, measured);
      this.#size += 1;
    }
    measured.add(Math.max(firstTokenMs, SHORTEST_MS), this.#clock.now());
    if (this.#size > MEASUREMENTS_MAX) this.#dropOldest();
  }

  /** What is known of the worker with the model; undefined when nothing is. It changes as more becomes known. */
  measurement(worker: string, model: string): Measurement | undefined {
    if (this.#lastWorkers === undefined || model !== this.#lastModel) {
      this.#lastModel = model;
      this.#lastWorkers = this.#models.get(model);
    }
    return this.#lastWorkers?.get(worker) as Measured | undefined;
  }

  /** The decayed average. */
  of(worker: string, model: string): number | undefined {
    return this.measurement(worker, model)?.firstTokenMs;
  }

  /** As long as 95 of 100 recent first tokens took at most; undefined below 20 of them. */
  percentile95(worker: string, model: string): number | undefined {
    return this.#models.get(model)?.get(worker)?.percentile95(this.#clock.now());
  }

  /** The pair that was measured last the longest time ago. */
  #dropOldest(): void {
    let oldest: { readonly model: string; readonly worker: string; readonly atMs: number } | undefined;
    for (const [model, workers] of this.#models) {
      for (const [worker, { atMs }] of workers) {
        if (oldest === undefined || atMs < oldest.atMs) oldest = { model, worker, atMs };
      }
    }
    if (oldest === undefined) return;
    const workers = this.#models.get(oldest.model);
    workers?.delete(oldest.worker);
    if (workers?.size === 0) this.#models.delete(oldest.model);
    this.#lastWorkers = undefined;
    this.#size -= 1;
  }
}
