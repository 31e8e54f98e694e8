/**
 * One try of one worker: admission, the exchange with the provider, and everything that has to be counted, traced, logged and
 * undone around it. `new` admits it, `send` begins it, and exactly one `end` ends it, however it goes.
 */
import type { FinishReason, Served, Usage } from "../gen/cortex/llm/v1/llm.ts";
import { FinishReason as FINISH_REASON } from "../gen/cortex/llm/v1/llm.ts";
import { abortReason, CATALOGUE, type Call, type Reason, RpcError } from "../rpc/index.ts";
import {
  ATTRIBUTE,
  type Attributes,
  type Logger,
  SPAN,
  SPAN_EVENT,
  type Span,
  type Tracer,
  traceFields,
} from "../telemetry/index.ts";
import type { Breaker, Ticket } from "./breaker.ts";
import type { ConnectionPool, Exchange, Receiver } from "./connection-pool.ts";
import type { AttemptContext, Dialect, ProviderRequest, Timeouts } from "./dialect.ts";
import { causeFields, describe, redact } from "./failures.ts";
import type { Keys } from "./keys.ts";

/** Failures that an operator has to see although they open no breaker. */
const OPERATOR_REASONS: ReadonlySet<Reason> = new Set(["PROVIDER_REFUSED_KEY", "PROVIDER_QUOTA_EXHAUSTED", "INTERNAL"]);

/** What is asked of a provider, by OpenTelemetry's names where it has one. */
export type Operation = "chat" | "embeddings" | "list_models" | "health";

/** What an attempt needs of its worker. */
export interface AttemptHost {
  readonly name: string;
  readonly dialect: Dialect;
  readonly pool: ConnectionPool;
  readonly breaker: Breaker;
  readonly keys: Keys;
  readonly secrets: readonly string[];
  readonly tracer: Tracer;
  readonly log: Logger;
  /** Throws when it takes no more attempts; of those that are counted, when it serves as many as it may. */
  check(counted: boolean): void;
  begun(attempt: Attempt): void;
  /** `error` when it failed. */
  ended(attempt: Attempt, error: RpcError | undefined): void;
}

/** What is to be done, and what of it a span may say. */
export interface AttemptOptions {
  readonly operation: Operation;
  readonly call: Call;
  readonly context: AttemptContext;
  readonly stream: boolean;
  /** A client's request: it counts for the limits and the breaker. Others only look after the worker. */
  readonly counted: boolean;
  /** The worker's own when absent. */
  readonly timeouts?: Timeouts | undefined;
  /** Asked for only when a span is recorded. */
  readonly attributes?: (() => Attributes) | undefined;
}

/** What the answer says about itself. */
export interface AnswerSummary {
  readonly served?: Served | undefined;
  readonly usage?: Usage | undefined;
  readonly finishReasons?: readonly FinishReason[] | undefined;
}

export class Attempt {
  readonly options: AttemptOptions;
  readonly span: Span;
  readonly #host: AttemptHost;
  readonly #ticket: Ticket | undefined;
  readonly #startedAtMs = performance.now();
  readonly #onAbort = () => this.exchange.abort(abortReason(this.options.call.signal));
  #exchange: Exchange | undefined;
  #status: number | undefined;
  #ended = false;

  /** Throws WORKER_BUSY, BREAKER_OPEN, NODE_DRAINING, or why the call has been given up; then nothing is left to end. */
  constructor(host: AttemptHost, options: AttemptOptions) {
    const { call, context, operation } = options;
    this.options = options;
    this.#host = host;
    if (call.signal.aborted) throw abortReason(call.signal);
    host.check(options.counted);
    this.#ticket = options.counted ? host.breaker.admit() : undefined;
    host.begun(this);
    // The provider is a third party: it gets no traceparent, and our traces end here.
    this.span = host.tracer.startSpan(SPAN.provider(operation, context.model), call.trace, "client");
    if (this.span.recording) this.#describeRequest();
  }

  /** Only between `send` and `end`. */
  get exchange(): Exchange {
    return this.#exchange!;
  }

  /** Sends the request; from now on the call's end ends the exchange. */
  send(request: ProviderRequest, accept: string, receiver: Receiver): void {
    let headers: Readonly<Record<string, string>>;
    try {
      headers = this.#headers(request, accept);
    } catch (thrown) {
      throw this.end(RpcError.from(thrown));
    }
    const { method, path, body } = request;
    this.#exchange = this.#host.pool.send({ method, path, headers, body }, receiver, this.options.timeouts);
    // It may have failed at once.
    if (!this.#ended) this.options.call.signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  #headers(request: ProviderRequest, accept: string): Readonly<Record<string, string>> {
    const key = this.#host.keys.take();
    const authorization = key === undefined ? undefined : this.#host.dialect.authorization(key);
    const content = request.body === undefined ? undefined : { "content-type": "application/json" };
    return { "user-agent": "cortex", accept, ...content, ...request.headers, ...authorization };
  }

  headCame(status: number): void {
    this.#status = status;
    if (this.span.recording) this.span.set({ [ATTRIBUTE.httpStatus]: status });
  }

  /** The first content of a stream. */
  contentBegan(): void {
    this.exchange.contentBegan();
    if (this.#ticket !== undefined) this.#host.breaker.contentBegan(this.#ticket);
    if (!this.span.recording) return;
    this.span.event(SPAN_EVENT.firstToken);
    this.span.set({ [ATTRIBUTE.timeToFirstChunk]: (performance.now() - this.#startedAtMs) / 1000 });
  }

  /** Ends it, well if there is no error. Returns the error as it may leave the worker: without keys. */
  end(thrown?: RpcError, summary?: AnswerSummary): RpcError | undefined {
    if (this.#ended) return thrown;
    this.#ended = true;
    const { call, counted } = this.options;
    call.signal.removeEventListener("abort", this.#onAbort);
    const error = thrown === undefined ? undefined : redact(thrown, this.#host.secrets);
    const failed = error !== undefined && CATALOGUE[error.reason].breaker;
    if (this.#ticket !== undefined) {
      this.#host.breaker.settle(this.#ticket, error === undefined ? "success" : failed ? "failure" : "neutral", error);
    }
    if (this.span.recording && summary !== undefined) this.#describeAnswer(summary);
    if (error !== undefined) {
      this.span.fail(error.reason, describe(error));
      if (counted) this.#log(error, failed);
    }
    this.span.end();
    this.#host.ended(this, error);
    return error;
  }

  #log(error: RpcError, failed: boolean): void {
    const { operation, call, context } = this.options;
    const level = failed || OPERATOR_REASONS.has(error.reason) ? "warn" : "debug";
    const { log } = this.#host;
    if (!log.isLevelEnabled(level)) return;
    log[level](
      {
        reason: error.reason,
        operation,
        model: context.model,
        status: this.#status,
        duration_ms: Math.round(performance.now() - this.#startedAtMs),
        request_id: call.requestId,
        ...traceFields(this.span.context),
        ...causeFields(error.cause),
      },
      `attempt failed: ${describe(error)}`,
    );
  }

  #describeRequest(): void {
    const { operation, context, stream, attributes } = this.options;
    const { name, dialect, pool } = this.#host;
    const { hostname, port, protocol } = pool.options.baseUrl;
    this.span.set({
      [ATTRIBUTE.operation]: operation,
      [ATTRIBUTE.provider]: dialect.telemetryName ?? dialect.provider,
      [ATTRIBUTE.requestModel]: context.model === "" ? undefined : context.model,
      [ATTRIBUTE.requestStream]: stream ? true : undefined,
      [ATTRIBUTE.serverAddress]: hostname,
      [ATTRIBUTE.serverPort]: Number(port || (protocol === "https:" ? 443 : 80)),
      [ATTRIBUTE.worker]: name,
      ...attributes?.(),
    });
  }

  #describeAnswer({ served, usage, finishReasons }: AnswerSummary): void {
    this.span.set({
      [ATTRIBUTE.responseId]: served?.id,
      [ATTRIBUTE.responseModel]: served?.model,
      [ATTRIBUTE.finishReasons]: finishReasons?.map(finishReasonName),
      [ATTRIBUTE.inputTokens]: usage?.inputTokens,
      [ATTRIBUTE.outputTokens]: usage?.outputTokens,
      [ATTRIBUTE.cachedInputTokens]: usage?.cachedInputTokens,
      [ATTRIBUTE.reasoningTokens]: usage?.reasoningTokens,
    });
  }
}

/** In lower case, as the GenAI conventions have them: `stop`, `tool_calls`. */
function finishReasonName(reason: FinishReason): string {
  const [name] = Object.entries(FINISH_REASON).find(([, value]) => value === reason) ?? ["unspecified"];
  return name.toLowerCase();
}
