/** The account of one request: what all that was done for it has used, and how it ended. It is told once, when both are known. */
import {
  type AttemptFinished,
  AttemptKind,
  AttemptOutcome,
  RequestOutcome,
  UsageSource,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Usage } from "../../libs/gen/cortex/llm/v1/llm.ts";
import { abortReason, type Call, type Reason, RpcError } from "../../libs/rpc/index.ts";
import type { RouterState } from "./dependencies.ts";
import { sumOf } from "./joint.ts";

/** What a client has asked for. */
export interface AccountOptions {
  readonly operation: "chat" | "embeddings";
  /** The model as the client named it. */
  readonly model: string;
  readonly stream: boolean;
  /** The request's own, which is not that of a provider's call that others share. */
  readonly call: Call;
}

/**
 * Keeps the account of one request. The client may leave while others still read the answer that it has asked for: the request
 * has ended then, but what it has used is known only when the call for it ends, too.
 */
export class RequestAccount {
  /** The request's own call. */
  readonly call: Call;
  readonly #options: AccountOptions;
  readonly #state: Pick<RouterState, "nodeId" | "now" | "telling">;
  readonly #startedAtMs: number;
  #firstContentMs = 0;
  /** Undefined until it has ended for its client. */
  #durationMs: number | undefined;
  #reason: Reason | "" = "";
  /** How many calls for it are on their way. */
  #callsOpen = 0;
  #cache = "";
  /** What an answer has used that took no call of its own. */
  #saved: Usage | undefined;
  #attempts = 0;
  #strategy = "";
  #served: AttemptFinished | undefined;
  /** The first that failed, until another one has served. */
  #failed: AttemptFinished | undefined;
  #usage: Usage | undefined;
  #usageSource: UsageSource = UsageSource.UNKNOWN;
  /** Undefined once something has been used whose price is not known. */
  #costUsd: number | undefined = 0;

  constructor(options: AccountOptions, state: Pick<RouterState, "nodeId" | "now" | "telling">) {
    this.call = options.call;
    this.#options = options;
    this.#state = state;
    this.#startedAtMs = state.now();
    state.telling.requestBegins(options.stream);
  }

  get operation(): string {
    return this.#options.operation;
  }

  /** A call of providers begins for it; what attempts it takes, and when it ends, are told here. */
  callBegins(): void {
    this.#callsOpen++;
  }

  /** An attempt for it has ended. */
  add(attempt: AttemptFinished): void {
    this.#attempts++;
    this.#strategy = attempt.strategy;
    if (attempt.outcome === AttemptOutcome.SERVED) {
      this.#served = attempt;
      this.#tellTakeover(attempt);
    } else if (attempt.outcome === AttemptOutcome.FAILED || attempt.outcome === AttemptOutcome.INTERRUPTED) {
      this.#failed ??= attempt;
    }
    const { usage, usageSource, costUsd } = attempt;
    // Most of those without usage were refused, and have used nothing.
    if (usage === undefined) return;
    this.#usage = this.#usage === undefined ? usage : sumOf(this.#usage, usage);
    if (this.#usageSource !== UsageSource.ESTIMATED) this.#usageSource = usageSource;
    this.#costUsd = this.#costUsd === undefined || costUsd === undefined ? undefined : this.#costUsd + costUsd;
  }

  /** A call for it has ended, after its last attempt. */
  callEnds(): void {
    this.#callsOpen--;
    this.#tellOnceOver();
  }

  /** It needs no call of its own: "l1", "l2" or "l3" for a kept answer, "shared" for one that another request has asked for. */
  fromCache(level: string, saved?: Usage): void {
    this.#cache = level;
    this.#saved = saved;
  }

  /** The first content of a stream is on its way to the client. */
  firstContent(): void {
    if (this.#options.stream && this.#firstContentMs === 0) {
      this.#firstContentMs = Math.max(this.#state.now() - this.#startedAtMs, 0.001);
    }
  }

  /** It has ended for its client: well, or with an error. Only the first time counts. `saved` is what a shared answer has used. */
  end(error?: RpcError, saved?: Usage): void {
    if (this.#durationMs !== undefined) return;
    this.#durationMs = this.#state.now() - this.#startedAtMs;
    this.#saved ??= saved;
    // Whoever has left, or has waited for too long, got no whole answer, whatever became of it.
    const { signal } = this.call;
    this.#reason = (signal.aborted ? abortReason(signal) : error)?.reason ?? "";
    this.#tellOnceOver();
  }

  /** Its client does not read on. */
  left(): void {
    if (this.#durationMs === undefined) this.end(new RpcError("CANCELLED", "the caller went away"));
  }

  #tellTakeover(served: AttemptFinished): void {
    const failed = this.#failed;
    const inTheMiddle = served.kind === AttemptKind.CONTINUATION;
    if (failed === undefined || (!inTheMiddle && served.kind !== AttemptKind.FAILOVER)) return;
    this.#failed = undefined;
    this.#state.telling.tellTakeover(failed, served, inTheMiddle);
  }

  #tellOnceOver(): void {
    if (this.#durationMs === undefined || this.#callsOpen > 0) return;
    const { operation, model, stream } = this.#options;
    const { nodeId, telling } = this.#state;
    const { requestId, tenant, trace } = this.call;
    const isOwn = this.#attempts > 0;
    const usage = isOwn ? this.#usage : this.#saved;
    const request = {
      requestId,
      tenant,
      operation,
      requestedModel: model,
      model: this.#served?.model ?? "",
      worker: this.#served?.worker ?? "",
      provider: this.#served?.provider ?? "",
      strategy: this.#strategy,
      outcome: outcomeOf(this.#reason),
      reason: this.#reason,
      attempts: this.#attempts,
      cache: isOwn ? "" : this.#cache,
      stream,
      timeToFirstTokenMs: this.#firstContentMs,
      durationMs: this.#durationMs,
      usage,
      usageSource: isOwn ? this.#usageSource : usage === undefined ? UsageSource.UNKNOWN : UsageSource.REPORTED,
      costUsd: isOwn && usage !== undefined ? this.#costUsd : undefined,
      routerNode: nodeId,
      traceId: trace.traceId,
    };
    telling.tellRequest(request, trace);
  }
}

function outcomeOf(reason: Reason | ""): RequestOutcome {
  if (reason === "") return RequestOutcome.SERVED;
  return reason === "CANCELLED" ? RequestOutcome.CANCELLED : RequestOutcome.FAILED;
}
