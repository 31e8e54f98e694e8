/** A worker as the rest of Cortex sees it: what it can be asked, and what may go wrong. */
import type { CompletionRequest, EmbeddingRequest, Model } from "../gen/cortex/llm/v1/llm.ts";
import type {
  CheckHealthResponse,
  CompleteResponse,
  EmbedResponse,
  StreamResponse,
  WorkerInfo,
} from "../gen/cortex/provider/v1/provider.ts";
import type { Call } from "../rpc/index.ts";
import type { Logger, Tracer } from "../telemetry/index.ts";
import type { KeyChange } from "./keys.ts";

/**
 * What about a worker has changed; `info()` has the new state. A busy worker may report `health` often: coalesce. A change of
 * a key says which.
 */
export type WorkerChange = "health" | "breaker" | "models" | KeyChange;

/** How a request stands among the workers that could serve it. */
export interface RequestOptions {
  /**
   * No other worker is left: the breaker refuses it in no state, and learns from it as from any other. Keys that rest or are
   * out are not used for it, and `limits.concurrent` holds.
   */
  readonly lastResort?: boolean | undefined;
}

/** What may be known already. */
export interface HealthCheckOptions {
  /** What was found out so long ago at most will do: the provider is then not asked again. Absent: it is asked in any case. */
  readonly ageMaxMs?: number | undefined;
}

/**
 * One place that can serve models.
 *
 * Everything it throws is an RpcError. Besides the dialect's own (INVALID_REQUEST, PROVIDER_RATE_LIMITED, …) these are
 * WORKER_BUSY, BREAKER_OPEN, NODE_DRAINING, and PROVIDER_RATE_LIMITED, PROVIDER_QUOTA_EXHAUSTED or PROVIDER_REFUSED_KEY
 * while no key can be used, before anything is sent; PROVIDER_UNREACHABLE, PROVIDER_TIMEOUT,
 * PROVIDER_INVALID_ANSWER and PROVIDER_STREAM_CUT after that; CANCELLED and DEADLINE_EXCEEDED when the call was given up.
 * One that comes after a key was used names it.
 */
export interface Worker {
  readonly name: string;
  /** What it is now, without asking the provider. */
  info(): WorkerInfo;
  /**
   * Asks the provider whether it could serve, within the connect time-out, and for its models unless they are configured. A
   * provider that has not answered shortly before the call's deadline is unavailable. Only the call's end is thrown; everything
   * else is an answer.
   */
  checkHealth(call: Call, options?: HealthCheckOptions): Promise<CheckHealthResponse>;
  complete(request: CompletionRequest, call: Call, options?: RequestOptions): Promise<CompleteResponse>;
  /**
   * Begins when the first chunk is asked for. Ends without an error only when the provider has said all of it; ending the
   * iteration early closes the connection. To be iterated once.
   */
  stream(request: CompletionRequest, call: Call, options?: RequestOptions): AsyncIterable<StreamResponse>;
  /** UNIMPLEMENTED where the provider has no embeddings. */
  embed(request: EmbeddingRequest, call: Call, options?: RequestOptions): Promise<EmbedResponse>;
  /** The configured models, or the provider's answer. */
  listModels(call: Call): Promise<Model[]>;
  /** Calls `listener` after each change until the returned function is called. */
  onChange(listener: (change: WorkerChange) => void): () => void;
  /**
   * Calls `listener` with `info().activeRequests` whenever a client's request begins or ends, from within that request: it has
   * to be quick and must not throw. Until the returned function is called.
   */
  onLoad(listener: (activeRequests: number) => void): () => void;
  /**
   * Takes no more requests, waits a bounded time for those that run, ends the others with NODE_DRAINING, and closes every
   * connection and timer.
   */
  close(): Promise<void>;
}

/** What a worker needs of its node. */
export interface WorkerDependencies {
  readonly tracer: Tracer;
  readonly log: Logger;
  /** Milliseconds since the Unix epoch; Date.now when absent. */
  readonly clock?: (() => number) | undefined;
  /** From 0 to below 1; Math.random when absent. Makes identifiers, no secrets. */
  readonly random?: (() => number) | undefined;
  /** How long `close` waits for running requests; 30 s when absent. */
  readonly closeWaitMs?: number | undefined;
}
