/** What a router counts of the requests and attempts that have ended. */
import {
  type AttemptFinished,
  AttemptKind,
  AttemptOutcome,
  type RequestFinished,
  RequestOutcome,
  UsageSource,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { CATALOGUE, type Reason } from "../../libs/rpc/index.ts";
import { genAiProvider, METRIC, type Metrics, OTHER, type TraceContext } from "../../libs/telemetry/index.ts";

/** What is known of an attempt besides what is told of it. */
export interface AttemptContext {
  readonly operation: string;
  /** The worker lists the model; otherwise a client may have made its name up. */
  readonly listed: boolean;
  readonly trace: TraceContext;
}

/** Shorter than this after its first token, a stream says nothing about its speed. */
const STREAM_MS_MIN = 10;

/** Counts what a router has done. */
export class RouterMetrics {
  readonly #metrics: Metrics;

  constructor(metrics: Metrics) {
    this.#metrics = metrics;
  }

  /** A request has ended. */
  request(request: RequestFinished, trace: TraceContext): void {
    const metrics = this.#metrics;
    const { operation, outcome, reason, tenant, timeToFirstTokenMs } = request;
    const served = outcome === RequestOutcome.SERVED;
    const source = request.cache || (served ? "provider" : "none");
    metrics.add(METRIC.requests, 1, operation, outcomeOf(outcome, reason), reason, source, tenant);
    if (served) metrics.observe(METRIC.requestDuration, request.durationMs / 1_000, trace, operation, source);
    if (timeToFirstTokenMs > 0) {
      metrics.observe(METRIC.requestFirstToken, timeToFirstTokenMs / 1_000, trace, request.cache || "provider");
    }
  }

  /** An attempt has ended. */
  attempt(attempt: AttemptFinished, context: AttemptContext): void {
    const metrics = this.#metrics;
    const { worker, provider, outcome, reason, stream, usage, timeToFirstTokenMs } = attempt;
    const { trace, operation } = context;
    const model = context.listed ? attempt.model : OTHER;
    const seconds = attempt.durationMs / 1_000;
    const genAi = genAiProvider(provider);
    metrics.add(METRIC.attempts, 1, worker, provider, KINDS[attempt.kind], OUTCOMES[outcome], reason);
    const error = reason === "" && outcome === AttemptOutcome.SUPERSEDED ? "superseded" : reason;
    metrics.observe(METRIC.genAiDuration, seconds, trace, operation, genAi, model, error);
    if (outcome === AttemptOutcome.SERVED) metrics.observe(METRIC.attemptDuration, seconds, trace, worker);
    if (stream && timeToFirstTokenMs > 0) {
      const firstSeconds = timeToFirstTokenMs / 1_000;
      metrics.observe(METRIC.attemptFirstToken, firstSeconds, trace, worker);
      metrics.observe(METRIC.genAiFirstChunk, firstSeconds, trace, operation, genAi, model);
      const tokens = usage?.outputTokens ?? 0;
      const streamMs = attempt.durationMs - timeToFirstTokenMs;
      if (tokens > 1 && streamMs >= STREAM_MS_MIN) {
        metrics.observe(METRIC.tokensPerSecond, (tokens - 1) / (streamMs / 1_000), trace, provider, model);
      }
    }
    if (usage === undefined) return;
    this.#tokens(usage, worker, provider);
    if (attempt.usageSource === UsageSource.REPORTED) {
      const { inputTokens, outputTokens } = usage;
      if (inputTokens !== undefined) {
        metrics.observe(METRIC.genAiTokens, inputTokens, trace, operation, genAi, model, "input");
      }
      if (outputTokens !== undefined) {
        metrics.observe(METRIC.genAiTokens, outputTokens, trace, operation, genAi, model, "output");
      }
    }
    if (attempt.costUsd !== undefined) metrics.add(METRIC.cost, attempt.costUsd, worker, provider, model);
  }

  #tokens({ inputTokens, outputTokens, cachedInputTokens, reasoningTokens }: Usage, worker: string, provider: string) {
    const metrics = this.#metrics;
    if (inputTokens) metrics.add(METRIC.tokens, inputTokens, worker, provider, "input");
    if (outputTokens) metrics.add(METRIC.tokens, outputTokens, worker, provider, "output");
    if (cachedInputTokens) metrics.add(METRIC.tokens, cachedInputTokens, worker, provider, "cached_input");
    if (reasoningTokens) metrics.add(METRIC.tokens, reasoningTokens, worker, provider, "reasoning");
  }
}

/** How a request ended, with those apart that failed for a fault of their own: they are no errors of the mesh. */
function outcomeOf(outcome: RequestOutcome, reason: string): string {
  if (outcome === RequestOutcome.SERVED) return "served";
  if (outcome === RequestOutcome.CANCELLED) return "cancelled";
  const ownFault = reason !== "DEADLINE_EXCEEDED" && CATALOGUE[reason as Reason]?.class === "request";
  return ownFault ? "refused" : "failed";
}

const KINDS: Readonly<Record<AttemptKind, string>> = {
  [AttemptKind.UNSPECIFIED]: "first",
  [AttemptKind.FIRST]: "first",
  [AttemptKind.FAILOVER]: "failover",
  [AttemptKind.HEDGE]: "hedge",
  [AttemptKind.CONTINUATION]: "continuation",
};

const OUTCOMES: Readonly<Record<AttemptOutcome, string>> = {
  [AttemptOutcome.UNSPECIFIED]: "failed",
  [AttemptOutcome.SERVED]: "served",
  [AttemptOutcome.FAILED]: "failed",
  [AttemptOutcome.INTERRUPTED]: "interrupted",
  [AttemptOutcome.CANCELLED]: "cancelled",
  [AttemptOutcome.SUPERSEDED]: "superseded",
};
