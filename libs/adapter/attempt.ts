/**
 * One try of one worker: admission, the exchanges with the provider, and everything that has to be counted, traced, logged and
 * undone around them. `new` admits it, `send` begins it, and exactly one `end` ends it, however it goes. There is more than
 * one exchange only when the provider refuses or limits a key and another one can be used: each has a span of its own.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { FinishReason, Served, Usage } from "../gen/cortex/llm/v1/llm.ts";
import { FinishReason as FINISH_REASON } from "../gen/cortex/llm/v1/llm.ts";
import { abortReason, CATALOGUE, type Call, RpcError } from "../rpc/index.ts";
import {
  ATTRIBUTE,
  type Attributes,
  type Logger,
  NO_TRACE,
  SPAN,
  SPAN_EVENT,
  type Span,
  type TraceContext,
  type Tracer,
  traceFields,
} from "../telemetry/index.ts";
import type { Breaker, Ticket } from "./breaker.ts";
import type { ConnectionPool, Exchange, Receiver } from "./connection-pool.ts";
import type { AttemptContext, Dialect, ProviderRequest, Timeouts } from "./dialect.ts";
import { causeFields, describe, failure, redact, withDetails } from "./failures.ts";
import { isAboutKey, type Key, type Keys, type Lease, moreHopeful } from "./keys.ts";
import type { PartSource } from "./part-stream.ts";
import { type RateLimits, readRateLimits } from "./rate-limits.ts";

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
  /** What the spans of all its attempts say. */
  readonly attributes: Attributes;
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
  /** An open breaker lets it through. */
  readonly lastResort?: boolean | undefined;
  /** A refused key, to see whether it is taken again; the one that is used least when absent. */
  readonly trial?: Key | undefined;
  /** The worker's own when absent. */
  readonly timeouts?: Timeouts | undefined;
  /** Called only when a span is recorded. */
  readonly describe?: ((span: Span) => void) | undefined;
}

/** What the answer says about itself. */
export interface AnswerSummary {
  readonly served?: Served | undefined;
  readonly usage?: Usage | undefined;
  readonly finishReasons?: readonly FinishReason[] | undefined;
}

/** What is sent, and who takes what comes back: each exchange has a receiver of its own. */
export interface Sending {
  readonly request: ProviderRequest;
  readonly accept: string;
  readonly receive: () => Receiver;
}

/** Characters of a request for each token of it, about: enough to see that a key has no room for it. */
const CHARS_PER_TOKEN = 4;

export class Attempt implements PartSource {
  readonly options: AttemptOptions;
  readonly #host: AttemptHost;
  readonly #ticket: Ticket | undefined;
  readonly #startedAtMs = performance.now();
  readonly #onAbort = () => this.exchange.abort(abortReason(this.options.call.signal));
  #sending: Sending | undefined;
  /** The exchange that runs, or ran last: its span, its key, and what its answer said. */
  #exchange: Exchange | undefined;
  #span: Span | undefined;
  #trace: TraceContext = NO_TRACE;
  #lease: Lease | undefined;
  #key = "";
  #limits: RateLimits | undefined;
  #exchangeAtMs = 0;
  #status: number | undefined;
  /** The keys that this request need not be tried with any more, and the most hopeful of their errors. */
  readonly #triedKeys: Key[] = [];
  #keyError: RpcError | undefined;
  #ended = false;

  /**
   * Throws WORKER_BUSY, BREAKER_OPEN, NODE_DRAINING, the error of the keys when none can be used, or why the call has been
   * given up; then nothing is left to end.
   */
  constructor(host: AttemptHost, options: AttemptOptions) {
    const { call, counted, trial, lastResort } = options;
    this.options = options;
    this.#host = host;
    if (call.signal.aborted) throw abortReason(call.signal);
    host.check(counted);
    const refusal = trial === undefined ? host.keys.refusal() : undefined;
    if (refusal !== undefined) throw refusal;
    this.#ticket = counted ? host.breaker.admit(lastResort) : undefined;
    host.begun(this);
  }

  /** Only between `send` and `end`. */
  get exchange(): Exchange {
    return this.#exchange!;
  }

  /** The fingerprint of the key that the request was sent with last; empty for none. */
  get key(): string {
    return this.#key;
  }

  /** Sends the request; from now on the call's end ends the exchange. To be called at once after it was made. */
  send(sending: Sending): void {
    this.#sending = sending;
    const { keys } = this.#host;
    const { trial, counted } = this.options;
    const lease =
      trial === undefined ? keys.take(counted ? "request" : "look", this.#tokens()) : keys.takeForTrial(trial);
    try {
      this.#begin(lease);
    } catch (thrown) {
      throw this.end(RpcError.from(thrown));
    }
    // It may have failed at once.
    if (!this.#ended) this.options.call.signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /**
   * Sends the request again with the next key, if `error` is about this one and another can be used. False when there is
   * nothing more to try. For receivers that have handed nothing out.
   */
  moveOn(error: RpcError): boolean {
    const { trial, counted } = this.options;
    const lease = this.#lease;
    if (this.#ended || lease === undefined || trial !== undefined || !isAboutKey(error)) return false;
    this.#triedKeys.push(lease.key);
    const clean = this.#clean(error);
    this.#keyError = this.#keyError === undefined ? clean : moreHopeful(this.#keyError, clean);
    this.#endExchange(clean);
    const next = this.#host.keys.take(counted ? "request" : "look", this.#tokens(), this.#triedKeys);
    if (next === undefined) return false;
    try {
      this.#begin(next);
      return true;
    } catch (thrown) {
      this.#endExchange(RpcError.from(thrown));
      return false;
    }
  }

  #begin(lease: Lease | undefined): void {
    const { options } = this;
    const { tracer, pool, attributes } = this.#host;
    this.#lease = lease;
    this.#key = lease?.key.fingerprint ?? "";
    this.#limits = undefined;
    this.#status = undefined;
    this.#exchangeAtMs = performance.now();
    // The provider is a third party: it gets no traceparent, and our traces end here.
    this.#span = tracer.startSpan(
      SPAN.provider(options.operation, options.context.model),
      options.call.trace,
      "client",
      attributes,
    );
    this.#trace = this.#span.context;
    if (this.#span.recording) this.#describeRequest(this.#span);
    const { request, accept, receive } = this.#sending!;
    const headers = this.#headers(request, accept);
    const { method, path, body } = request;
    this.#exchange = pool.send({ method, path, headers, body }, receive(), this.#timeouts());
  }

  #headers(request: ProviderRequest, accept: string): Readonly<Record<string, string>> {
    const authorization = this.#lease && this.#host.dialect.authorization(this.#lease.key.secret);
    const content = request.body === undefined ? undefined : { "content-type": "application/json" };
    return { "user-agent": "cortex", accept, ...content, ...request.headers, ...authorization };
  }

  /** The whole time is the attempt's, however many keys it tries. */
  #timeouts(): Timeouts | undefined {
    const { timeouts } = this.options;
    if (this.#triedKeys.length === 0) return timeouts;
    const all = timeouts ?? this.#host.pool.options.timeouts;
    return { ...all, totalMs: Math.max(Math.ceil(all.totalMs - (performance.now() - this.#startedAtMs)), 1) };
  }

  #tokens(): number {
    return Math.ceil((this.#sending?.request.body?.length ?? 0) / CHARS_PER_TOKEN);
  }

  headCame(status: number, headers: IncomingHttpHeaders): void {
    this.#status = status;
    this.#span?.set(ATTRIBUTE.httpStatus, status);
    if (this.#lease === undefined) return;
    const { dialect, keys, log } = this.#host;
    try {
      this.#limits = dialect.limits === undefined ? readRateLimits(headers) : dialect.limits(headers);
    } catch (thrown) {
      log.error(
        { ...traceFields(this.#trace), ...causeFields(thrown) },
        "the dialect could not read the limits of a key",
      );
    }
    if (this.#limits !== undefined) keys.report(this.#lease, this.#limits);
  }

  pause(): void {
    this.exchange.pause();
  }

  resume(): void {
    this.exchange.resume();
  }

  cancel(): void {
    this.exchange.abort(failure("CANCELLED", "the answer was no longer wanted"));
  }

  /** The first content of a stream. */
  contentBegan(): void {
    this.exchange.contentBegan();
    if (this.#ticket !== undefined) this.#host.breaker.contentBegan(this.#ticket);
    if (!this.#span?.recording) return;
    this.#span.event(SPAN_EVENT.firstToken);
    this.#span.set(ATTRIBUTE.timeToFirstChunk, (performance.now() - this.#exchangeAtMs) / 1000);
  }

  /** Ends it, well if there is no error. Returns the error as it may leave the worker. */
  end(thrown?: RpcError, summary?: AnswerSummary): RpcError | undefined {
    if (this.#ended) return thrown;
    this.#ended = true;
    const { call, counted } = this.options;
    call.signal.removeEventListener("abort", this.#onAbort);
    if (this.#span?.recording && summary !== undefined) this.#describeAnswer(this.#span, summary);
    const clean = thrown === undefined ? undefined : this.#clean(thrown);
    this.#endExchange(clean);
    const error = clean === undefined ? undefined : this.#final(clean);
    const failed = error !== undefined && CATALOGUE[error.reason].breaker;
    if (this.#ticket !== undefined) {
      this.#host.breaker.settle(this.#ticket, error === undefined ? "success" : failed ? "failure" : "neutral", error);
    }
    if (error !== undefined && counted) this.#log(error);
    this.#host.ended(this, error);
    return error;
  }

  /** The error as it may leave the worker: without keys, and saying by its fingerprint which one it came with. */
  #clean(error: RpcError): RpcError {
    const clean = redact(error, this.#host.secrets);
    return this.#key === "" ? clean : withDetails(clean, { key: this.#key });
  }

  /** One exchange is over; its key and its span end with it. */
  #endExchange(error: RpcError | undefined): void {
    const [span, lease] = [this.#span, this.#lease];
    this.#span = undefined;
    this.#lease = undefined;
    if (lease !== undefined) this.#host.keys.settle(lease, error, this.#limits);
    if (error !== undefined) span?.fail(error.reason, describe(error));
    span?.end();
  }

  /** The error of the whole attempt: of several keys' errors the most hopeful, with the wait until a key is back. */
  #final(error: RpcError): RpcError {
    if (!isAboutKey(error) || this.#host.keys.count === 0 || this.options.trial !== undefined) return error;
    const hopeful = this.#keyError === undefined ? error : moreHopeful(this.#keyError, error);
    const retryAfterMs = this.#host.keys.waitMs();
    return retryAfterMs === undefined ? hopeful : withDetails(hopeful, { retryAfterMs });
  }

  /** Who asked tells of a failure; here is where it happened, which only a defect makes everybody's business. */
  #log(error: RpcError): void {
    const { operation, call, context } = this.options;
    const level = isDefect(error) ? "error" : "debug";
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
        ...traceFields(this.#trace),
        ...causeFields(error.cause),
      },
      `attempt failed: ${describe(error)}`,
    );
  }

  #describeRequest(span: Span): void {
    const { operation, context, stream, describe } = this.options;
    span.set(ATTRIBUTE.operation, operation);
    if (context.model !== "") span.set(ATTRIBUTE.requestModel, context.model);
    if (stream) span.set(ATTRIBUTE.requestStream, true);
    span.set(ATTRIBUTE.key, this.#lease?.key.fingerprint);
    describe?.(span);
  }

  #describeAnswer(span: Span, { served, usage, finishReasons }: AnswerSummary): void {
    span.set(ATTRIBUTE.responseId, served?.id);
    span.set(ATTRIBUTE.responseModel, served?.model);
    span.set(ATTRIBUTE.finishReasons, finishReasons?.map(finishReasonName));
    span.set(ATTRIBUTE.inputTokens, usage?.inputTokens);
    span.set(ATTRIBUTE.outputTokens, usage?.outputTokens);
    span.set(ATTRIBUTE.cachedInputTokens, usage?.cachedInputTokens);
    span.set(ATTRIBUTE.reasoningTokens, usage?.reasoningTokens);
  }
}

/** Whether it is a fault of Cortex's own. What the system and undici report has a code; what a dialect stumbles over has none. */
function isDefect({ reason, cause }: RpcError): boolean {
  return reason === "INTERNAL" || (cause instanceof Error && !(cause instanceof RpcError) && !("code" in cause));
}

/** In lower case, as the GenAI conventions have them: `stop`, `tool_calls`. */
const FINISH_REASON_NAMES: ReadonlyMap<FinishReason, string> = new Map(
  Object.entries(FINISH_REASON).map(([name, reason]) => [reason, name.toLowerCase()]),
);

function finishReasonName(reason: FinishReason): string {
  return FINISH_REASON_NAMES.get(reason) ?? "unspecified";
}
