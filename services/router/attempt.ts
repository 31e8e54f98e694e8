/** One try of one worker: its span, its account, and the event that tells of it, however it ends. */
import { AttemptFinished, AttemptKind, AttemptOutcome, UsageSource } from "../../libs/gen/cortex/events/v1/events.ts";
import type { Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { CATALOGUE, type Call, type RpcError, withTrace } from "../../libs/rpc/index.ts";
import { ATTRIBUTE, EVENT, SPAN, SPAN_EVENT, type Span, traceFields } from "../../libs/telemetry/index.ts";
import type { Candidate } from "./candidates.ts";
import type { RouterDependencies } from "./dependencies.ts";

/** What an attempt is for. */
export interface AttemptOptions {
  readonly candidate: Candidate;
  /** The node that is to serve it. */
  readonly node: string;
  /** From 1. */
  readonly number: number;
  readonly requestedModel: string;
  readonly stream: boolean;
  readonly call: Call;
}

/** Keeps the account of one attempt. Exactly one of {@link served} and {@link failed} ends it. */
export class Attempt {
  readonly candidate: Candidate;
  readonly node: string;
  /** The call to make the attempt with. */
  readonly call: Call;
  usage: Usage | undefined;
  readonly #options: AttemptOptions;
  readonly #dependencies: RouterDependencies;
  readonly #span: Span;
  readonly #startedAtMs: number;
  #firstTokenMs = 0;
  #ended = false;

  constructor(options: AttemptOptions, dependencies: RouterDependencies) {
    const { candidate, call, number, node } = options;
    this.candidate = candidate;
    this.node = node;
    this.#options = options;
    this.#dependencies = dependencies;
    this.#startedAtMs = dependencies.now();
    this.#span = dependencies.tracer.startSpan(SPAN.attempt(candidate.worker), call.trace, "internal", {
      [ATTRIBUTE.worker]: candidate.worker,
      [ATTRIBUTE.provider]: candidate.provider,
      [ATTRIBUTE.requestModel]: candidate.model,
      [ATTRIBUTE.attempt]: number,
    });
    this.call = withTrace(call, this.#span.context);
  }

  /** The first content has come. */
  firstToken(): void {
    if (this.#firstTokenMs !== 0) return;
    this.#firstTokenMs = Math.max(this.#dependencies.now() - this.#startedAtMs, 0.001);
    this.#span.event(SPAN_EVENT.firstToken);
  }

  /** The worker served to the end. */
  served(): void {
    this.#end(AttemptOutcome.SERVED, undefined);
  }

  /** The worker failed, or the client went away. */
  failed(error: RpcError): void {
    if (error.reason === "CANCELLED") this.#end(AttemptOutcome.CANCELLED, error);
    else this.#end(this.#firstTokenMs === 0 ? AttemptOutcome.FAILED : AttemptOutcome.INTERRUPTED, error);
  }

  #end(outcome: AttemptOutcome, error: RpcError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    const { candidate, call, number, requestedModel, stream } = this.#options;
    const { events, log, now } = this.#dependencies;
    const durationMs = now() - this.#startedAtMs;
    this.#span.set({ [ATTRIBUTE.outcome]: OUTCOME_NAMES[outcome] });
    if (error !== undefined) {
      const { meaning } = CATALOGUE[error.reason];
      this.#span.fail(error.reason, meaning);
      if (error.reason !== "CANCELLED") {
        const fields = {
          worker: candidate.worker,
          worker_node: this.node,
          reason: error.reason,
          duration_ms: durationMs,
        };
        log.warn({ ...fields, attempt: number, ...traceFields(call.trace) }, `attempt failed: ${meaning}`);
      }
    }
    this.#span.end();
    const event: AttemptFinished = {
      requestId: call.requestId,
      tenant: call.tenant,
      requestedModel,
      model: candidate.model,
      worker: candidate.worker,
      provider: candidate.provider,
      node: this.node,
      attempt: number,
      outcome,
      reason: error?.reason ?? "",
      timeToFirstTokenMs: this.#firstTokenMs,
      durationMs,
      usage: this.usage,
      usageSource: this.usage === undefined ? UsageSource.UNKNOWN : UsageSource.REPORTED,
      stream,
      kind: number === 1 ? AttemptKind.FIRST : AttemptKind.FAILOVER,
      key: "",
      routerNode: this.#dependencies.nodeId,
      strategy: "local_first",
    };
    events.publish(EVENT.attemptFinished, AttemptFinished, event, this.#span.context);
  }
}

const OUTCOME_NAMES: Record<AttemptOutcome, string> = {
  [AttemptOutcome.UNSPECIFIED]: "unspecified",
  [AttemptOutcome.SERVED]: "served",
  [AttemptOutcome.FAILED]: "failed",
  [AttemptOutcome.INTERRUPTED]: "interrupted",
  [AttemptOutcome.CANCELLED]: "cancelled",
  [AttemptOutcome.SUPERSEDED]: "superseded",
};
