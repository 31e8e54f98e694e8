/**
 * Every name that Cortex gives to a span, an attribute or an event: dashboards, alerts and tests use these and no others.
 * GenAI names follow OpenTelemetry's conventions for generative AI, which are in development and therefore not taken from
 * a package: https://github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai/gen-ai-spans.md).
 */

/** Names of spans that are not the full name of an RPC. */
export const SPAN = {
  /** The gateway's span of one HTTP request: `POST /v1/chat/completions`. */
  http: (method: string, path: string): string => `${method} ${path}`,
  /** One try of one worker, as the router sees it. */
  attempt: (worker: string): string => `attempt ${worker}`,
  /** What the router found in the cache, or kept there. */
  cache: "cache",
  /** The adapter's HTTP call of the provider: `chat gpt-4o`. */
  provider: (operation: string, model: string): string => `${operation} ${model}`,
} as const;

/** Names of span events. */
export const SPAN_EVENT = {
  firstToken: "first_token",
  /** The worker goes on with an answer that another one had begun. */
  continued: "continued",
  exception: "exception",
} as const;

/** Names of span attributes. */
export const ATTRIBUTE = {
  errorType: "error.type",
  httpMethod: "http.request.method",
  httpRoute: "http.route",
  httpStatus: "http.response.status_code",
  serverAddress: "server.address",
  serverPort: "server.port",
  rpcSystem: "rpc.system",
  rpcService: "rpc.service",
  rpcMethod: "rpc.method",
  operation: "gen_ai.operation.name",
  provider: "gen_ai.provider.name",
  requestModel: "gen_ai.request.model",
  requestStream: "gen_ai.request.stream",
  requestMaxTokens: "gen_ai.request.max_tokens",
  requestTemperature: "gen_ai.request.temperature",
  requestTopP: "gen_ai.request.top_p",
  responseModel: "gen_ai.response.model",
  responseId: "gen_ai.response.id",
  finishReasons: "gen_ai.response.finish_reasons",
  timeToFirstChunk: "gen_ai.response.time_to_first_chunk",
  inputTokens: "gen_ai.usage.input_tokens",
  outputTokens: "gen_ai.usage.output_tokens",
  cachedInputTokens: "gen_ai.usage.cache_read.input_tokens",
  reasoningTokens: "gen_ai.usage.reasoning.output_tokens",
  /** How the call travelled: in_process or grpc. */
  carrier: "cortex.carrier",
  worker: "cortex.worker",
  /** The fingerprint of the key that a request was sent with. */
  key: "cortex.key",
  attempt: "cortex.attempt",
  /** What the attempt was made for: first, failover, hedge, continuation. */
  attemptKind: "cortex.attempt.kind",
  attempts: "cortex.attempts",
  outcome: "cortex.outcome",
  tenant: "cortex.tenant",
  requestId: "cortex.request_id",
  strategy: "cortex.strategy",
  /** What the cache had to do with an answer: "hit l1", "miss", "shared", "bypass temperature". */
  cache: "cortex.cache",
  /** What the model's name was taken for: "route fast". */
  resolved: "cortex.resolved",
  /** What the request needs of a worker, where it matters for the choice: "tools", or "code 0.9" where it is guessed. */
  needs: "cortex.needs",
  /** Why the trace is kept although it was not drawn: error, failover, slow. On the span that has shown it. */
  kept: "cortex.kept",
} as const;

/** Subjects of events on NATS; each carries the message of that name in `cortex.events.v1` (WorkerLoads for the load, AttemptsFinished, RequestsFinished). */
export const EVENT = {
  attemptFinished: "cortex.attempt.finished",
  requestFinished: "cortex.request.finished",
  trafficCounted: "cortex.traffic.counted",
  workerChanged: "cortex.worker.changed",
  workerLoad: "cortex.worker.load",
  cacheInvalidated: "cortex.cache.invalidated",
  nodeChanged: "cortex.node.changed",
  keyChanged: "cortex.key.changed",
  configurationChanged: "cortex.configuration.changed",
  serviceChanged: "cortex.service.changed",
  tracesKept: "cortex.traces.kept",
} as const;
