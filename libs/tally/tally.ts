/** What requests, or attempts, have come to: counted exactly, with sketches of how long they took. */
import {
  type AttemptFinished,
  AttemptOutcome,
  type RequestFinished,
  RequestOutcome,
} from "../gen/cortex/events/v1/events.ts";
import type { Figures, HealthScore, Latency } from "../gen/cortex/metrics/v1/metrics.ts";
import type { Tally as EncodedTally } from "../gen/cortex/metrics/v1/tally.ts";
import { CATALOGUE, type Reason } from "../rpc/index.ts";
import { OTHER } from "../telemetry/index.ts";
import { Sketch } from "./sketch.ts";

/**
 * Failures that say nothing about who was asked: the client's own, what this request wanted and another one would not, and that the
 * worker had as many requests as we let it have. All others are failures of the worker, for whatever cause it could not serve.
 */
const NOT_ITS_FAULT: ReadonlySet<string> = new Set<string>([
  ...Object.entries(CATALOGUE).flatMap(([reason, entry]) => (entry.class === "request" ? [reason] : [])),
  ...(["UNSUPPORTED_PARAMETER", "PROVIDER_REQUEST_TOO_LARGE", "WORKER_BUSY", "CANCELLED"] satisfies Reason[]),
]);

/** A tally that is being made. */
export class Tally {
  requests = 0;
  errors = 0;
  readonly errorsByReason = new Map<string, number>();
  cancelled = 0;
  superseded = 0;
  inputTokens = 0;
  outputTokens = 0;
  streamedTokens = 0;
  streamedMs = 0;
  costUsd = 0;
  cacheHits = 0;
  shared = 0;
  failovers = 0;
  judged = 0;
  succeeded = 0;
  readonly duration = new Sketch();
  readonly timeToFirstToken = new Sketch();

  /** Counts a try of a worker. */
  addAttempt(attempt: AttemptFinished): void {
    const { outcome, reason, durationMs, timeToFirstTokenMs, usage, stream } = attempt;
    this.requests++;
    this.costUsd += attempt.costUsd ?? 0;
    this.inputTokens += usage?.inputTokens ?? 0;
    this.outputTokens += usage?.outputTokens ?? 0;
    if (outcome === AttemptOutcome.SERVED) {
      this.judged++;
      this.succeeded++;
      this.#addServed(durationMs, timeToFirstTokenMs, stream ? usage?.outputTokens : undefined);
    } else if (outcome === AttemptOutcome.CANCELLED) this.cancelled++;
    else if (outcome === AttemptOutcome.SUPERSEDED) this.superseded++;
    else {
      this.#addError(reason);
      if (!NOT_ITS_FAULT.has(reason)) this.judged++;
    }
  }

  /** Counts what a client had asked for. */
  addRequest(request: RequestFinished): void {
    const { outcome, reason, cache, durationMs, timeToFirstTokenMs, usage, stream } = request;
    this.requests++;
    if (request.attempts > 1) this.failovers++;
    // What came from elsewhere has used nothing: its usage is what a call would have used.
    const own = cache === "";
    if (own) {
      this.costUsd += request.costUsd ?? 0;
      this.inputTokens += usage?.inputTokens ?? 0;
      this.outputTokens += usage?.outputTokens ?? 0;
    } else if (outcome === RequestOutcome.SERVED) {
      if (cache === "shared") this.shared++;
      else this.cacheHits++;
    }
    if (outcome === RequestOutcome.SERVED) {
      this.#addServed(durationMs, timeToFirstTokenMs, own && stream ? usage?.outputTokens : undefined);
    } else if (outcome === RequestOutcome.CANCELLED) this.cancelled++;
    else this.#addError(reason);
  }

  #addServed(durationMs: number, timeToFirstTokenMs: number, streamedTokens: number | undefined): void {
    this.duration.add(durationMs);
    if (timeToFirstTokenMs <= 0) return;
    this.timeToFirstToken.add(timeToFirstTokenMs);
    if (streamedTokens === undefined || streamedTokens < 2 || durationMs <= timeToFirstTokenMs) return;
    this.streamedTokens += streamedTokens - 1;
    this.streamedMs += durationMs - timeToFirstTokenMs;
  }

  #addError(reason: string): void {
    this.errors++;
    const known = Object.hasOwn(CATALOGUE, reason) ? reason : OTHER;
    this.errorsByReason.set(known, (this.errorsByReason.get(known) ?? 0) + 1);
  }

  /** Adds all that another one has counted, which was encoded. */
  merge(encoded: EncodedTally | undefined): void {
    if (encoded === undefined) return;
    this.#addCounts(encoded, Object.entries(encoded.errorsByReason));
    this.duration.merge(encoded.duration);
    this.timeToFirstToken.merge(encoded.timeToFirstToken);
  }

  /** Adds all that another one has counted. */
  absorb(other: Tally | undefined): void {
    if (other === undefined) return;
    this.#addCounts(other, other.errorsByReason);
    this.duration.absorb(other.duration);
    this.timeToFirstToken.absorb(other.timeToFirstToken);
  }

  #addCounts(other: Tally | EncodedTally, errorsByReason: Iterable<readonly [string, number]>): void {
    this.requests += other.requests;
    this.errors += other.errors;
    for (const [reason, count] of errorsByReason) {
      this.errorsByReason.set(reason, (this.errorsByReason.get(reason) ?? 0) + count);
    }
    this.cancelled += other.cancelled;
    this.superseded += other.superseded;
    this.inputTokens += other.inputTokens;
    this.outputTokens += other.outputTokens;
    this.streamedTokens += other.streamedTokens;
    this.streamedMs += other.streamedMs;
    this.costUsd += other.costUsd;
    this.cacheHits += other.cacheHits;
    this.shared += other.shared;
    this.failovers += other.failovers;
    this.judged += other.judged;
    this.succeeded += other.succeeded;
  }

  encode(): EncodedTally {
    return {
      requests: this.requests,
      errors: this.errors,
      errorsByReason: sorted(this.errorsByReason),
      cancelled: this.cancelled,
      superseded: this.superseded,
      inputTokens: this.inputTokens,
      outputTokens: this.outputTokens,
      streamedTokens: this.streamedTokens,
      streamedMs: this.streamedMs,
      costUsd: this.costUsd,
      cacheHits: this.cacheHits,
      shared: this.shared,
      failovers: this.failovers,
      judged: this.judged,
      succeeded: this.succeeded,
      duration: this.duration.encode(),
      timeToFirstToken: this.timeToFirstToken.encode(),
    };
  }

  /** Begins anew. */
  clear(): void {
    this.requests = 0;
    this.errors = 0;
    this.errorsByReason.clear();
    this.cancelled = 0;
    this.superseded = 0;
    this.inputTokens = 0;
    this.outputTokens = 0;
    this.streamedTokens = 0;
    this.streamedMs = 0;
    this.costUsd = 0;
    this.cacheHits = 0;
    this.shared = 0;
    this.failovers = 0;
    this.judged = 0;
    this.succeeded = 0;
    this.duration.clear();
    this.timeToFirstToken.clear();
  }

  get tokensPerSecond(): number {
    return this.streamedMs === 0 ? 0 : (this.streamedTokens / this.streamedMs) * 1_000;
  }

  /** As it is told. */
  figures(): Figures {
    return {
      requests: this.requests,
      errors: this.errors,
      errorsByReason: sorted(this.errorsByReason),
      cancelled: this.cancelled,
      superseded: this.superseded,
      duration: latencyOf(this.duration),
      timeToFirstToken: latencyOf(this.timeToFirstToken),
      inputTokens: this.inputTokens,
      outputTokens: this.outputTokens,
      tokensPerSecond: this.tokensPerSecond,
      costUsd: this.costUsd,
      cacheHits: this.cacheHits,
      shared: this.shared,
      failovers: this.failovers,
    };
  }

  /** How well it serves. */
  score(name: string): HealthScore {
    const { judged, succeeded, duration } = this;
    const success = judged === 0 ? 0 : succeeded / judged;
    const score = judged === 0 ? 0 : scoreOf(success, duration.mean);
    return { name, score, success, meanMs: duration.mean, attempts: judged };
  }
}

/** From best to worst: a score, the share of success that it takes, and the time that it takes less than on average. */
const SCORES: readonly (readonly [score: number, success: number, meanMs: number])[] = [
  [100, 0.95, 1_000],
  [80, 0.9, 2_000],
  [60, 0.8, 5_000],
  [40, 0.6, Number.POSITIVE_INFINITY],
];
const SCORE_MIN = 20;

function scoreOf(success: number, meanMs: number): number {
  return SCORES.find(([, successMin, meanMaxMs]) => success >= successMin && meanMs < meanMaxMs)?.[0] ?? SCORE_MIN;
}

/** A sketch as it is told. */
export function latencyOf(sketch: Sketch): Latency {
  return {
    count: sketch.count,
    meanMs: sketch.mean,
    p50Ms: sketch.quantile(0.5),
    p95Ms: sketch.quantile(0.95),
    p99Ms: sketch.quantile(0.99),
    maxMs: sketch.max,
  };
}

function sorted(counts: ReadonlyMap<string, number>): Record<string, number> {
  return Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1)));
}
