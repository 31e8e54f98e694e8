/** One try of one worker: its span, its account, and the event that tells of it, however it ends. */
import {
  type AttemptFinished,
  AttemptKind,
  AttemptOutcome,
  UsageSource,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import type { StrategyName } from "../../libs/host/index.ts";
import { CATALOGUE, type Call, type RpcError, withTrace } from "../../libs/rpc/index.ts";
import { ATTRIBUTE, SPAN, SPAN_EVENT, type Span, traceFields } from "../../libs/telemetry/index.ts";
import type { Candidate } from "./candidates.ts";
import type { RouterState } from "./dependencies.ts";
import type { Needs } from "./needs.ts";
import type { RequestAccount } from "./request-account.ts";
import { CHARACTERS_PER_TOKEN } from "./token-estimate.ts";
import type { PlanTraits } from "./traits.ts";

/** What an attempt is for. */
export interface AttemptOptions {
  readonly candidate: Candidate;
  /** The node that is to serve it. */
  readonly node: string;
  /** From 1. */
  readonly number: number;
  readonly kind: AttemptKind;
  readonly strategy: StrategyName;
  readonly requestedModel: string;
  /** What that name was taken for. */
  readonly resolved: string;
  readonly traits: PlanTraits;
  readonly stream: boolean;
  /** An open breaker is to let it through. */
  readonly lastResort: boolean;
  /** The worker's slot has been taken already. */
  readonly admitted: boolean;
  readonly call: Call;
  /** Where its account is part of a whole. */
  readonly account: RequestAccount | undefined;
}

/** Keeps the account of one attempt. Exactly one of {@link served}, {@link superseded} and {@link failed} ends it. */
export class Attempt {
  readonly candidate: Candidate;
  readonly node: string;
  readonly kind: AttemptKind;
  readonly lastResort: boolean;
  /** The call to make the attempt with. */
  readonly call: Call;
  /** What the worker has reported. */
  usage: Usage | undefined;
  /** The fingerprint of the key that the worker was asked with. */
  key = "";
  /** What it has said so far, for an estimate where nothing was reported. */
  outputCharacters = 0;
  readonly #options: AttemptOptions;
  readonly #state: RouterState;
  readonly #span: Span;
  readonly #startedAtMs: number;
  #firstTokenMs = 0;
  #ended = false;

  constructor(options: AttemptOptions, state: RouterState) {
    const { candidate, call, number, node } = options;
    this.candidate = candidate;
    this.node = node;
    this.kind = options.kind;
    this.lastResort = options.lastResort;
    this.#options = options;
    this.#state = state;
    this.#startedAtMs = state.now();
    if (!options.admitted) state.loads.begin(candidate.worker);
    this.#span = state.tracer.startSpan(SPAN.attempt(candidate.worker), call.trace, "internal");
    if (options.kind !== AttemptKind.FIRST) this.#span.keep("failover");
    if (this.#span.recording) this.#describe(number);
    this.call = withTrace(call, this.#span.context);
  }

  #describe(number: number): void {
    const { worker, provider, model } = this.candidate;
    const { kind, strategy, resolved, traits } = this.#options;
    const span = this.#span;
    span.set(ATTRIBUTE.worker, worker);
    span.set(ATTRIBUTE.provider, provider);
    span.set(ATTRIBUTE.requestModel, model);
    span.set(ATTRIBUTE.attempt, number);
    span.set(ATTRIBUTE.attemptKind, KIND_NAMES[kind]);
    span.set(ATTRIBUTE.strategy, strategy);
    span.set(ATTRIBUTE.resolved, resolved);
    span.set(ATTRIBUTE.needs, traits.foundNeeds && needsInWords(traits.foundNeeds));
  }

  /** The first content has come. */
  firstToken(): void {
    if (this.#firstTokenMs !== 0) return;
    const { candidate } = this;
    this.#firstTokenMs = Math.max(this.#state.now() - this.#startedAtMs, 0.001);
    this.#state.latencies.record(candidate.worker, candidate.model, this.#firstTokenMs);
    this.#span.event(SPAN_EVENT.firstToken);
  }

  /** Something of interest has happened; shown in the trace. */
  note(event: string): void {
    this.#span.event(event);
  }

  /** The worker served to the end. */
  served(): void {
    this.#end(AttemptOutcome.SERVED, undefined);
  }

  /** Another attempt for the same request was faster. */
  superseded(): void {
    this.#end(AttemptOutcome.SUPERSEDED, undefined);
  }

  /** The worker failed, or the client went away. */
  failed(error: RpcError): void {
    if (error.key !== undefined) this.key = error.key;
    if (error.reason === "CANCELLED") this.#end(AttemptOutcome.CANCELLED, error);
    else this.#end(this.#firstTokenMs === 0 ? AttemptOutcome.FAILED : AttemptOutcome.INTERRUPTED, error);
  }

  /** What it has used: as reported, else estimated from what has come; undefined when nothing is known. */
  account(): { readonly usage: Usage | undefined; readonly source: UsageSource } {
    if (this.usage !== undefined) return { usage: this.usage, source: UsageSource.REPORTED };
    if (this.#firstTokenMs === 0) return { usage: undefined, source: UsageSource.UNKNOWN };
    const { inputTokens } = this.#options.traits;
    const outputTokens = Math.ceil(this.outputCharacters / CHARACTERS_PER_TOKEN);
    return { usage: { inputTokens, outputTokens }, source: UsageSource.ESTIMATED };
  }

  #end(outcome: AttemptOutcome, error: RpcError | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    const { candidate, call, number, requestedModel, stream } = this.#options;
    const { loads, log, nodeId, now, telling } = this.#state;
    const durationMs = now() - this.#startedAtMs;
    if (error?.reason === "WORKER_BUSY") loads.refused(candidate.worker);
    else loads.end(candidate.worker);
    this.#span.set(ATTRIBUTE.outcome, OUTCOME_NAMES[outcome]);
    if (error !== undefined) {
      const why = error.forLog ?? CATALOGUE[error.reason].meaning;
      this.#span.fail(error.reason, why);
      if (error.reason !== "CANCELLED") {
        const fields = {
          worker: candidate.worker,
          worker_node: this.node,
          reason: error.reason,
          duration_ms: durationMs,
        };
        log.warn({ ...fields, attempt: number, ...traceFields(call.trace) }, `attempt failed: ${why}`);
      }
    }
    this.#span.end();
    const { usage, source } = this.account();
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
      usage,
      usageSource: source,
      stream,
      kind: this.kind,
      key: this.key || onlyKey(candidate),
      costUsd: costUsd(candidate, usage),
      routerNode: nodeId,
      strategy: this.#options.strategy,
      traceId: this.#span.context.traceId,
    };
    const { account } = this.#options;
    telling.tellAttempt(event, {
      operation: account?.operation ?? "chat",
      // Who could not be asked for its models is asked for any.
      listed: candidate.info.models.length > 0,
      trace: this.#span.context,
    });
    account?.add(event);
  }
}

function needsInWords({ certain, guessed }: Needs): string[] {
  return [...certain, ...guessed].map(({ capability, certain: sure, confidence }) =>
    sure ? capability : `${capability} ${confidence.toFixed(1)}`,
  );
}

/** An attempt that ended before its worker could name the key was made with this one, if there is only one. */
function onlyKey({ info }: Candidate): string {
  return info.keys.length === 1 ? info.keys[0]!.fingerprint : "";
}

const PER_MILLION = 1e-6;

function costUsd({ properties }: Candidate, usage: Usage | undefined): number | undefined {
  const input = properties?.inputCostUsdPerMillion;
  const output = properties?.outputCostUsdPerMillion;
  if (usage === undefined || (input === undefined && output === undefined)) return undefined;
  return ((usage.inputTokens ?? 0) * (input ?? 0) + (usage.outputTokens ?? 0) * (output ?? 0)) * PER_MILLION;
}

const KIND_NAMES: Record<AttemptKind, string> = {
  [AttemptKind.UNSPECIFIED]: "unspecified",
  [AttemptKind.FIRST]: "first",
  [AttemptKind.FAILOVER]: "failover",
  [AttemptKind.HEDGE]: "hedge",
  [AttemptKind.CONTINUATION]: "continuation",
};

const OUTCOME_NAMES: Record<AttemptOutcome, string> = {
  [AttemptOutcome.UNSPECIFIED]: "unspecified",
  [AttemptOutcome.SERVED]: "served",
  [AttemptOutcome.FAILED]: "failed",
  [AttemptOutcome.INTERRUPTED]: "interrupted",
  [AttemptOutcome.CANCELLED]: "cancelled",
  [AttemptOutcome.SUPERSEDED]: "superseded",
};
