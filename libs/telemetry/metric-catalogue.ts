/**
 * Every metric that a node tells Prometheus: dashboards, alerts and docs/metrics.md use these and no others. Names follow
 * OpenTelemetry's conventions for generative AI and for HTTP (dots become underscores, the unit is the end), go-grpc-middleware's
 * for gRPC, which most dashboards know (https://github.com/grpc-ecosystem/go-grpc-middleware/tree/main/providers/prometheus), and
 * prom-client's for the process; what is left is cortex_*.
 */

/** What a metric is: a counter only grows, a gauge is how something is now, a histogram counts values by their size. */
export type MetricKind = "counter" | "gauge" | "histogram";

/** One metric. */
export interface MetricDefinition<L extends readonly string[] = readonly string[]> {
  readonly name: string;
  readonly kind: MetricKind;
  /** What it tells, in a sentence. */
  readonly help: string;
  readonly labels: L;
  /** Upper bounds, of a histogram. */
  readonly buckets: readonly number[];
  /** Which services' nodes have it; empty for all. */
  readonly services: readonly string[];
}

/** The metrics of a kind with these labels. */
export type Counter<L extends readonly string[] = readonly string[]> = MetricDefinition<L> & {
  readonly kind: "counter";
};
export type Gauge<L extends readonly string[] = readonly string[]> = MetricDefinition<L> & { readonly kind: "gauge" };
export type Histogram<L extends readonly string[] = readonly string[]> = MetricDefinition<L> & {
  readonly kind: "histogram";
};

/**
 * What each label tells, and how many values of it a node takes: what comes after them is counted under "(other)", so that
 * nobody can make series without end.
 */
export const LABEL = {
  http_request_method: { meaning: "GET, POST, …", max: 10 },
  http_route: { meaning: "the path as docs/api.md has it: /admin/workers/{name}; (unknown) for others", max: 100 },
  http_response_status_code: { meaning: "200, 404, …; 499 when the client left before an answer", max: 60 },
  grpc_type: { meaning: "unary or server_stream", max: 4 },
  grpc_service: { meaning: "cortex.router.v1.RouterService, …", max: 50 },
  grpc_method: { meaning: "Stream, …", max: 200 },
  grpc_code: { meaning: "OK, UNAVAILABLE, …", max: 20 },
  gen_ai_operation_name: { meaning: "chat or embeddings", max: 10 },
  gen_ai_provider_name: { meaning: "the provider by OpenTelemetry's list: openai, gcp.gemini, …", max: 50 },
  gen_ai_request_model: { meaning: "the worker's own name of the model; only models that a worker lists", max: 300 },
  gen_ai_token_type: { meaning: "input or output", max: 4 },
  error_type: { meaning: "the reason by docs/errors.md; empty when served", max: 60 },
  worker: { meaning: "the worker's name", max: 2_000 },
  provider: { meaning: "the worker's provider", max: 50 },
  model: { meaning: "the worker's own name of the model; only models that a worker lists", max: 300 },
  tenant: { meaning: "the tenant as the configuration names it", max: 100 },
  operation: { meaning: "chat or embeddings", max: 10 },
  outcome: { meaning: "how it ended; see the metric", max: 10 },
  reason: { meaning: "the reason by docs/errors.md; empty when served", max: 60 },
  kind: {
    meaning: "what it was for: first, failover, hedge or continuation; of a garbage collection, its kind",
    max: 10,
  },
  source: {
    meaning: "who answered: provider, shared (another request's call), l1, l2 or l3 (the cache), none",
    max: 10,
  },
  type: { meaning: "of tokens: input, output, cached_input (part of input) or reasoning (part of output)", max: 6 },
  level: { meaning: "of the cache: l1, l2 or l3", max: 4 },
  state: { meaning: "in which state they are; see the metric", max: 10 },
  carrier: { meaning: "rest or grpc", max: 4 },
  budget: { meaning: "retries or hedges", max: 4 },
  result: { meaning: "accepted or refused", max: 4 },
  service: { meaning: "router, adapter-openai, …", max: 50 },
  version: { meaning: "the version of Cortex, or of Node", max: 4 },
  node: { meaning: "the node's id", max: 4 },
  services: { meaning: "what the node runs, by commas", max: 4 },
  zone: { meaning: "where the node is", max: 4 },
} as const satisfies Readonly<Record<string, { readonly meaning: string; readonly max: number }>>;

type LabelName = keyof typeof LABEL;

interface Details<L extends readonly LabelName[]> {
  readonly labels?: L;
  readonly services?: readonly string[];
}

function define<K extends MetricKind, const L extends readonly LabelName[]>(
  kind: K,
  name: string,
  help: string,
  { labels, services = [] }: Details<L>,
  buckets: readonly number[] = [],
): MetricDefinition<L> & { readonly kind: K } {
  return { name, kind, help, labels: labels ?? ([] as unknown as L), buckets, services };
}

function counter<const L extends readonly LabelName[] = readonly []>(
  name: string,
  help: string,
  details: Details<L> = {},
) {
  return define("counter", name, help, details);
}

function gauge<const L extends readonly LabelName[] = readonly []>(
  name: string,
  help: string,
  details: Details<L> = {},
) {
  return define("gauge", name, help, details);
}

function histogram<const L extends readonly LabelName[] = readonly []>(
  name: string,
  help: string,
  details: Details<L> & { readonly buckets: readonly number[] },
) {
  return define("histogram", name, help, details, details.buckets);
}

/** As OpenTelemetry's conventions for generative AI advise, and one more for what takes minutes. */
const GEN_AI_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 327.68];
const GEN_AI_TOKENS = [1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];
/** As OpenTelemetry's conventions for HTTP advise, and more for answers that are streamed. */
const HTTP_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];
/** Fewer of them, for what there is of each worker. */
const WORKER_SECONDS = [0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300];
const TOKENS_PER_SECOND = [1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1_280];
const RPC_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

const GATEWAY = { services: ["gateway"] } as const;
const ROUTER = { services: ["router"] } as const;
const ADAPTER = { services: ["adapter-*"], labels: ["worker", "provider"] } as const;
const CACHE = { services: ["router", "cache"], labels: ["level"] } as const;

/** The metrics, by what code calls them. */
export const METRIC = {
  // Requests, as clients see them.
  httpDuration: histogram(
    "http_server_request_duration_seconds",
    "How long HTTP requests took to the end of their answer.",
    {
      ...GATEWAY,
      labels: ["http_request_method", "http_route", "http_response_status_code"],
      buckets: HTTP_SECONDS,
    },
  ),
  refusals: counter(
    "cortex_refusals_total",
    "Requests that were refused before anybody was asked: failed logins, missing rights, exceeded limits.",
    { labels: ["carrier", "reason"] },
  ),
  requests: counter(
    "cortex_requests_total",
    "Requests that ended. outcome: served; failed; refused, for a fault of the request; cancelled, when the client left.",
    { ...ROUTER, labels: ["operation", "outcome", "reason", "source", "tenant"] },
  ),
  requestDuration: histogram(
    "cortex_request_duration_seconds",
    "How long served requests took at the router, first to last.",
    {
      ...ROUTER,
      labels: ["operation", "source"],
      buckets: GEN_AI_SECONDS,
    },
  ),
  requestFirstToken: histogram(
    "cortex_request_time_to_first_token_seconds",
    "How long streamed requests waited at the router for their first content.",
    { ...ROUTER, labels: ["source"], buckets: GEN_AI_SECONDS },
  ),
  requestsInFlight: gauge(
    "cortex_requests_in_flight",
    "Requests that the router serves now, streamed ones too.",
    ROUTER,
  ),
  streamsOpen: gauge("cortex_streams_open", "Streamed requests that the router serves now.", ROUTER),

  // Attempts, as workers see them.
  attempts: counter(
    "cortex_attempts_total",
    "Attempts that ended. outcome: served, failed, interrupted (after content), cancelled, superseded (a hedge was faster).",
    { ...ROUTER, labels: ["worker", "provider", "kind", "outcome", "reason"] },
  ),
  attemptDuration: histogram("cortex_attempt_duration_seconds", "How long attempts took that were served.", {
    ...ROUTER,
    labels: ["worker"],
    buckets: WORKER_SECONDS,
  }),
  attemptFirstToken: histogram(
    "cortex_attempt_time_to_first_token_seconds",
    "How long streamed attempts took to their first content.",
    { ...ROUTER, labels: ["worker"], buckets: WORKER_SECONDS },
  ),
  tokens: counter("cortex_tokens_total", "Tokens, as providers reported them or else as estimated.", {
    ...ROUTER,
    labels: ["worker", "provider", "type"],
  }),
  tokensPerSecond: histogram("cortex_stream_tokens_per_second", "How fast streams were after their first token.", {
    ...ROUTER,
    labels: ["provider", "model"],
    buckets: TOKENS_PER_SECOND,
  }),
  cost: counter("cortex_cost_usd_total", "What attempts cost in US dollars, where the model's prices are known.", {
    ...ROUTER,
    labels: ["worker", "provider", "model"],
  }),
  genAiDuration: histogram(
    "gen_ai_client_operation_duration_seconds",
    "How long calls of providers took, failed ones too.",
    {
      ...ROUTER,
      labels: ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"],
      buckets: GEN_AI_SECONDS,
    },
  ),
  genAiFirstChunk: histogram(
    "gen_ai_client_operation_time_to_first_chunk_seconds",
    "How long streamed calls of providers took to their first content.",
    {
      ...ROUTER,
      labels: ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"],
      buckets: GEN_AI_SECONDS,
    },
  ),
  genAiTokens: histogram(
    "gen_ai_client_token_usage",
    "Tokens that a call of a provider took, where it reported them.",
    {
      ...ROUTER,
      labels: ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"],
      buckets: GEN_AI_TOKENS,
    },
  ),
  queueDepth: gauge(
    "cortex_queue_depth",
    "Requests that wait at the router because all their workers are full.",
    ROUTER,
  ),
  queueSize: gauge("cortex_queue_size", "How many requests may wait there: routing.queue.size.", ROUTER),
  callBudget: gauge(
    "cortex_call_budget",
    "Extra calls that the router may make now, so that trouble is not multiplied.",
    {
      ...ROUTER,
      labels: ["budget"],
    },
  ),

  // The cache.
  cacheHits: counter("cortex_cache_hits_total", "Answers that a level of the cache had.", CACHE),
  cacheMisses: counter("cortex_cache_misses_total", "Look-ups for which a level of the cache had no answer.", CACHE),
  cacheEvictions: counter("cortex_cache_evictions_total", "Answers that gave way to others.", CACHE),
  cacheFailures: counter("cortex_cache_failures_total", "Look-ups that a level did not answer, or not in time.", CACHE),
  cacheEntries: gauge("cortex_cache_entries", "Answers that a level holds.", CACHE),
  cacheEntriesMax: gauge("cortex_cache_entries_max", "How many answers a level may hold.", CACHE),
  cacheBytes: gauge("cortex_cache_bytes", "Memory that a level's answers take.", CACHE),
  cacheBytesMax: gauge("cortex_cache_bytes_max", "How much memory they may take.", CACHE),
  cacheSharedCalls: counter("cortex_cache_shared_calls_total", "Requests that were served by another request's call.", {
    services: ["router"],
  }),

  // Workers, as the nodes that run them see them.
  workerUp: gauge(
    "cortex_worker_up",
    "1 when the worker can serve or is only busy, 0 when it is down or its breaker is open.",
    ADAPTER,
  ),
  workerBusy: gauge("cortex_worker_busy", "1 when the worker answers but has no room now.", ADAPTER),
  workerDraining: gauge("cortex_worker_draining", "1 when the worker takes no new requests.", ADAPTER),
  workerInFlight: gauge("cortex_worker_requests_in_flight", "Requests that the worker serves now.", ADAPTER),
  workerLimit: gauge(
    "cortex_worker_requests_max",
    "How many it may serve at once; 0 for no limit of its own.",
    ADAPTER,
  ),
  workerKeys: gauge("cortex_worker_keys", "Its keys by state: available, resting (limited), out (refused).", {
    ...ADAPTER,
    labels: ["worker", "provider", "state"],
  }),
  poolConnections: gauge("cortex_pool_connections", "Its connections by state: max, open, busy.", {
    ...ADAPTER,
    labels: ["worker", "provider", "state"],
  }),
  poolQueue: gauge("cortex_pool_queue", "Requests that wait for one of its connections.", ADAPTER),
  breakerState: gauge("cortex_breaker_state", "Its breaker: 0 closed, 1 half open (trials only), 2 open.", ADAPTER),
  breakerOpened: counter("cortex_breaker_opened_total", "How often its breaker has opened.", ADAPTER),
  breakerRejected: counter("cortex_breaker_rejected_total", "Requests that its breaker has refused.", ADAPTER),

  // Calls between nodes.
  grpcHandled: counter("grpc_server_handled_total", "gRPC calls that this node has ended, however they ended.", {
    labels: ["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
  }),
  grpcDuration: histogram("grpc_server_handling_seconds", "How long gRPC calls took that this node has served.", {
    labels: ["grpc_type", "grpc_service", "grpc_method"],
    buckets: RPC_SECONDS,
  }),
  grpcInFlight: gauge("cortex_grpc_calls_in_flight", "gRPC calls that this node serves now."),

  // The mesh, as this node sees it.
  meshNodes: gauge("cortex_mesh_nodes", "Nodes that are alive, by state: serving, draining.", { labels: ["state"] }),
  meshNodesLost: counter("cortex_mesh_nodes_lost_total", "Nodes that fell silent and were taken for dead."),
  meshWorkers: gauge("cortex_mesh_workers", "Workers of the mesh by state: available, busy, unavailable.", {
    labels: ["state"],
  }),
  natsConnected: gauge("cortex_nats_connected", "1 while there is a connection to NATS."),
  eventsDropped: counter(
    "cortex_events_dropped_total",
    "Events that were given up because NATS was away or slow for too long.",
  ),
  traceSpans: counter(
    "cortex_trace_spans_total",
    "Spans by what became of them: exported, forgotten (of no interest), dropped (for want of room). None without an endpoint.",
    { labels: ["state"] },
  ),
  traceSpansHeld: gauge(
    "cortex_trace_spans_held",
    "Spans that are held until it is known whether their trace is kept.",
  ),

  // The node itself.
  buildInfo: gauge("cortex_build_info", "Always 1: what runs here.", {
    labels: ["version", "node", "services", "zone"],
  }),
  problems: gauge(
    "cortex_node_problems",
    "What this node thinks is wrong with it, as GET /api/health tells it in words.",
  ),
  configurationValid: gauge(
    "cortex_configuration_valid",
    "0 while the configuration file has mistakes that are not in force.",
  ),
  configurationReloads: counter("cortex_configuration_reloads_total", "Changes of the configuration file.", {
    labels: ["result"],
  }),
  serviceCrashes: counter(
    "cortex_service_crashes_total",
    "Services of this node that crashed and were restarted alone.",
    {
      labels: ["service"],
    },
  ),
  eventLoopActive: counter(
    "cortex_event_loop_active_seconds_total",
    "How long the event loop was busy: its rate is the part of one core that is in use.",
  ),
  heapLimit: gauge("cortex_heap_limit_bytes", "How large Node's heap may become before the process ends."),
  series: gauge("cortex_metric_series", "Series that this node counts itself; bounded by docs/metrics.md."),
  eventLoopDelayP99: gauge(
    "nodejs_eventloop_lag_p99_seconds",
    "The event loop's delay since the last scrape, 99th percentile.",
  ),
  eventLoopDelayMax: gauge("nodejs_eventloop_lag_max_seconds", "The event loop's longest delay since the last scrape."),
  processCpu: counter("process_cpu_seconds_total", "CPU time of the process, user and system."),
  processMemory: gauge("process_resident_memory_bytes", "Memory of the process."),
  processStart: gauge("process_start_time_seconds", "When the process started, since the Unix epoch."),
  processFilesMax: gauge("process_max_fds", "How many files and sockets it may have open."),
  heapUsed: gauge("nodejs_heap_size_used_bytes", "What is used of Node's heap."),
  heapTotal: gauge("nodejs_heap_size_total_bytes", "Node's heap."),
  externalMemory: gauge("nodejs_external_memory_bytes", "Memory of buffers and the like, beside the heap."),
  garbageCollection: histogram("nodejs_gc_duration_seconds", "How long garbage collections took.", {
    labels: ["kind"],
    buckets: [0.001, 0.01, 0.1, 1, 2, 5],
  }),
} as const;

/** A provider's name in OpenTelemetry's conventions for generative AI, where it is another one. */
export function genAiProvider(provider: string): string {
  return GEN_AI_PROVIDERS.get(provider) ?? provider;
}

const GEN_AI_PROVIDERS: ReadonlyMap<string, string> = new Map([["gemini", "gcp.gemini"]]);
