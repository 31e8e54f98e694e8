/** The Grafana dashboards of deploy/grafana, as they are said in a few words; `npm run generate` writes their JSON. */
import { METRIC, type MetricDefinition } from "../../libs/telemetry/index.ts";
import { type DashboardSpec, dashboard, type PanelQuery, type PanelSpec } from "./panels.ts";

const JOB = `job=~"$job"`;
const WORKER = `${JOB},provider=~"$provider",worker=~"$worker"`;
const PROVIDER = `${JOB},provider=~"$provider"`;
const MODEL = `${JOB},gen_ai_provider_name=~"$gen_ai_provider_name",gen_ai_request_model=~"$gen_ai_request_model"`;

/** The rate of a counter, by labels. */
function rate(metric: MetricDefinition, by: string, where = JOB): string {
  const grouping = by === "" ? "" : ` by (${by})`;
  return `sum${grouping} (rate(${metric.name}{${where}}[$__rate_interval]))`;
}

/** A quantile of a histogram, by labels. */
function quantile(of: number, metric: MetricDefinition, by = "", where = JOB): string {
  const labels = by === "" ? "le" : `${by}, le`;
  return `histogram_quantile(${of}, sum by (${labels}) (rate(${metric.name}_bucket{${where}}[$__rate_interval])))`;
}

function quantiles(metric: MetricDefinition, where = JOB): PanelQuery[] {
  return [0.5, 0.95, 0.99].map((of) => ({ expr: quantile(of, metric, "", where), legend: `p${of * 100}` }));
}

/** How something is now, by labels. */
function now(metric: MetricDefinition, by: string, where = JOB, how = "sum"): string {
  const grouping = by === "" ? "" : ` by (${by})`;
  return `${how}${grouping} (${metric.name}{${where}})`;
}

const one = (expr: string, legend: string): readonly PanelQuery[] => [{ expr, legend }];

/** A number with its last hour. */
function stat(
  title: string,
  unit: string,
  expr: string,
  description: string,
  more: Partial<PanelSpec> = {},
): PanelSpec {
  return { title, description, kind: "stat", unit, queries: one(expr, title), ...more };
}

const NODE = "{{node}} {{services}} {{instance}}";

const overview: DashboardSpec = {
  uid: "cortex-overview",
  title: "Cortex: overview",
  description: "What clients get: requests, errors, waiting, and what is refused.",
  rows: [
    {
      title: "Now",
      panels: [
        stat(
          "Requests per second",
          "reqps",
          `sum (cortex:requests:rate5m{${JOB}})`,
          "All requests that ended, over 5 minutes.",
        ),
        stat(
          "Errors",
          "percentunit",
          `max (cortex:error_ratio:rate5m{${JOB}})`,
          "The part of the requests that should have been served and ended with an error, over 5 minutes. The target is 0.5 %, the alert is at 1 %.",
          { warnings: [0.005, 0.01] },
        ),
        stat(
          "First token (p95)",
          "s",
          `max (cortex:request_time_to_first_token_seconds:p95_5m{${JOB}})`,
          "One stream in twenty waits longer. The target is 2 s.",
          { warnings: [1, 2] },
        ),
        stat(
          "Answer (p95)",
          "s",
          `max (cortex:request_duration_seconds:p95_5m{${JOB}})`,
          "One answer of a provider in twenty takes longer, streamed ones to their end.",
          { warnings: [30, 60] },
        ),
        stat(
          "From the cache",
          "percentunit",
          `max (cortex:cache_hit_ratio:rate5m{${JOB}})`,
          "The part of the served requests that cost no call of their own, over 5 minutes.",
        ),
        stat(
          "Workers that can serve",
          "short",
          `max (sum by (instance) (${METRIC.meshWorkers.name}{${JOB},state=~"available|busy"}))`,
          "Workers that answer, as the node that knows of most tells it.",
          { warnings: [2, 1], lowIsBad: true },
        ),
        stat("In flight", "short", now(METRIC.requestsInFlight, ""), "Requests that are served at this moment."),
        stat("Streams open", "short", now(METRIC.streamsOpen, ""), "Those of them that are streamed."),
        stat(
          "Queue",
          "short",
          now(METRIC.queueDepth, ""),
          "Requests that wait because every worker that could serve them is full.",
          { warnings: [1, 50] },
        ),
        stat(
          "Tokens per second",
          "short",
          `sum (cortex:tokens:rate5m{${JOB},type="output"})`,
          "Tokens that all workers write, over 5 minutes.",
        ),
        stat(
          "US dollars per hour",
          "currencyUSD",
          `3600 * ${rate(METRIC.cost, "")}`,
          "At the moment's pace, where the prices of the models are configured.",
        ),
        stat(
          "Nodes",
          "short",
          `max (sum by (instance) (${METRIC.meshNodes.name}{${JOB}}))`,
          "Nodes of the mesh, draining ones too.",
        ),
      ],
    },
    {
      title: "Requests",
      panels: [
        {
          title: "Requests",
          description: "By how they ended: refused is the client's fault, cancelled that it left.",
          unit: "reqps",
          queries: one(rate(METRIC.requests, "outcome"), "{{outcome}}"),
          stacked: true,
        },
        {
          title: "Errors by reason",
          description: "Of those that failed or were refused; docs/errors.md says what to do for each.",
          unit: "reqps",
          queries: one(rate(METRIC.requests, "reason", `${JOB},outcome=~"failed|refused"`), "{{reason}}"),
        },
        {
          title: "Who answered",
          description: "A provider, a level of the cache, or the call of another request; none when nobody did.",
          unit: "reqps",
          queries: one(rate(METRIC.requests, "source"), "{{source}}"),
          stacked: true,
        },
        {
          title: "Time to first token",
          description: "Of streams that providers answered, at the router. Points are traces.",
          unit: "s",
          queries: quantiles(METRIC.requestFirstToken, `${JOB},source="provider"`),
          warnings: [1, 2],
          exemplars: true,
        },
        {
          title: "Time to the end of the answer",
          description: "Of what providers answered, streamed or not, at the router. Points are traces.",
          unit: "s",
          queries: quantiles(METRIC.requestDuration, `${JOB},source="provider"`),
          exemplars: true,
        },
        {
          title: "Time of answers from the cache",
          description: "At the router.",
          unit: "s",
          queries: quantiles(METRIC.requestDuration, `${JOB},source=~"l1|l2|l3|shared"`),
        },
        {
          title: "Failovers, hedges, continuations",
          description: "Attempts that were not a request's first, and what they were for.",
          unit: "reqps",
          queries: one(rate(METRIC.attempts, "kind", `${JOB},kind!="first"`), "{{kind}}"),
        },
        {
          title: "Requests by tenant",
          description: "Whom the client's key belongs to.",
          unit: "reqps",
          queries: one(rate(METRIC.requests, "tenant"), "{{tenant}}"),
          stacked: true,
        },
        {
          title: "Queue by router",
          description: "Requests that wait for a worker with room; the alert is at 50.",
          unit: "short",
          queries: [
            { expr: now(METRIC.queueDepth, "instance"), legend: "{{instance}}" },
            { expr: now(METRIC.queueSize, "", JOB, "min"), legend: "may wait" },
          ],
          warnings: [10, 50],
        },
      ],
    },
    {
      title: "The front door",
      panels: [
        {
          title: "HTTP answers by status",
          description: "Of all routes; 499 is a client that left before an answer.",
          unit: "reqps",
          queries: one(
            rate(METRIC.httpDuration, "http_response_status_code").replace(
              METRIC.httpDuration.name,
              `${METRIC.httpDuration.name}_count`,
            ),
            "{{http_response_status_code}}",
          ),
          stacked: true,
        },
        {
          title: "HTTP time by route (p95)",
          description:
            "To the end of the answer. Without the live page's events, which last as long as somebody looks.",
          unit: "s",
          queries: one(
            quantile(0.95, METRIC.httpDuration, "http_route", `${JOB},http_route!="/api/live"`),
            "{{http_route}}",
          ),
          exemplars: true,
        },
        {
          title: "Refusals",
          description: "Failed logins, missing rights, exceeded limits. Many of them may be an attack.",
          unit: "reqps",
          queries: one(rate(METRIC.refusals, "carrier, reason"), "{{carrier}} {{reason}}"),
        },
      ],
    },
  ],
};

const workers: DashboardSpec = {
  uid: "cortex-workers",
  title: "Cortex: workers and providers",
  description: "How each worker is, what it serves, how fast, and why it fails.",
  filters: [
    { name: "provider", label: "Provider", metric: METRIC.workerUp.name },
    { name: "worker", label: "Worker", metric: METRIC.workerUp.name },
  ],
  rows: [
    {
      title: "State",
      panels: [
        {
          title: "Workers",
          description: "Up when it answers and its breaker is not open, on any node that runs it.",
          kind: "bargauge",
          unit: "short",
          max: 1,
          words: { 0: "down", 1: "up" },
          queries: one(now(METRIC.workerUp, "worker", WORKER, "max"), "{{worker}}"),
          warnings: [1, 0.5],
          lowIsBad: true,
        },
        {
          title: "Breakers",
          description: "0 closed, 1 half open (trials only), 2 open.",
          unit: "short",
          max: 2,
          words: { 0: "closed", 1: "half open", 2: "open" },
          queries: one(now(METRIC.breakerState, "worker", WORKER, "max"), "{{worker}}"),
        },
        {
          title: "Busy and draining",
          description: "Workers that answer but have no room, and workers that take no new requests.",
          unit: "short",
          queries: [
            { expr: now(METRIC.workerBusy, "", WORKER), legend: "busy" },
            { expr: now(METRIC.workerDraining, "", WORKER), legend: "draining" },
          ],
        },
        {
          title: "Requests in flight and limits",
          description: "What each worker serves now, and limits.concurrent where there is one.",
          unit: "short",
          queries: [
            { expr: now(METRIC.workerInFlight, "worker", WORKER), legend: "{{worker}}" },
            { expr: `${now(METRIC.workerLimit, "worker", WORKER)} > 0`, legend: "{{worker}} at most" },
          ],
        },
        {
          title: "Connections",
          description: "Of each pool: busy, open, and at most.",
          unit: "short",
          queries: one(now(METRIC.poolConnections, "worker, state", WORKER), "{{worker}} {{state}}"),
        },
        {
          title: "Waiting for a connection",
          description: "Requests that the pool has no connection for; more than none for long is an alert.",
          unit: "short",
          queries: one(now(METRIC.poolQueue, "worker", WORKER), "{{worker}}"),
          warnings: [1, 10],
        },
        {
          title: "Keys",
          description: "Available, resting (limited by the provider), out (refused by it).",
          unit: "short",
          queries: one(now(METRIC.workerKeys, "worker, state", WORKER), "{{worker}} {{state}}"),
        },
        {
          title: "Breakers opened, requests rejected",
          description: "How often breakers opened, and what they kept from failing providers.",
          unit: "reqps",
          queries: [
            { expr: rate(METRIC.breakerOpened, "worker", WORKER), legend: "{{worker}} opened" },
            { expr: rate(METRIC.breakerRejected, "worker", WORKER), legend: "{{worker}} rejected" },
          ],
        },
        {
          title: "Failing part of attempts",
          description: "Over 5 minutes; the alert is at 20 %.",
          unit: "percentunit",
          queries: one(`cortex:attempt_failure_ratio:rate5m{${JOB},worker=~"$worker"}`, "{{worker}}"),
          warnings: [0.05, 0.2],
        },
      ],
    },
    {
      title: "Attempts",
      panels: [
        {
          title: "Attempts by worker",
          description: "What the strategy makes of the load.",
          unit: "reqps",
          queries: one(rate(METRIC.attempts, "worker", WORKER), "{{worker}}"),
          stacked: true,
        },
        {
          title: "Attempts by outcome",
          description: "interrupted: failed after the client had seen content. superseded: a hedge was faster.",
          unit: "reqps",
          queries: one(rate(METRIC.attempts, "outcome", WORKER), "{{outcome}}"),
          stacked: true,
        },
        {
          title: "Failures by reason",
          description: "docs/errors.md says what to do for each.",
          unit: "reqps",
          queries: one(
            rate(METRIC.attempts, "worker, reason", `${WORKER},outcome=~"failed|interrupted"`),
            "{{worker}} {{reason}}",
          ),
        },
        {
          title: "First token by worker (p95)",
          description: "Over 5 minutes.",
          unit: "s",
          queries: one(`cortex:attempt_time_to_first_token_seconds:p95_5m{${JOB},worker=~"$worker"}`, "{{worker}}"),
          warnings: [1, 2],
        },
        {
          title: "Attempt by worker (p95)",
          description: "Of served attempts, to their end.",
          unit: "s",
          queries: one(quantile(0.95, METRIC.attemptDuration, "worker", `${JOB},worker=~"$worker"`), "{{worker}}"),
          exemplars: true,
        },
        {
          title: "Time of calls by provider (p95)",
          description: "OpenTelemetry's gen_ai.client.operation.duration, failed calls too.",
          unit: "s",
          queries: one(quantile(0.95, METRIC.genAiDuration, "gen_ai_provider_name"), "{{gen_ai_provider_name}}"),
          exemplars: true,
        },
        {
          title: "Failed calls by provider and reason",
          description: "OpenTelemetry's gen_ai.client.operation.duration with an error.type.",
          unit: "reqps",
          width: 12,
          queries: one(
            `sum by (gen_ai_provider_name, error_type) (rate(${METRIC.genAiDuration.name}_count{${JOB},error_type!=""}[$__rate_interval]))`,
            "{{gen_ai_provider_name}} {{error_type}}",
          ),
        },
        {
          title: "Tokens written by worker",
          description: "Per second, over 5 minutes.",
          unit: "short",
          width: 12,
          queries: one(`sum by (worker) (cortex:tokens:rate5m{${WORKER},type="output"})`, "{{worker}}"),
          stacked: true,
        },
      ],
    },
  ],
};

const streams: DashboardSpec = {
  uid: "cortex-streams",
  title: "Cortex: streams and tokens",
  description: "What is written and read, how fast, by which model, at what price.",
  filters: [
    { name: "provider", label: "Provider", metric: METRIC.tokens.name },
    { name: "gen_ai_provider_name", label: "Provider (OpenTelemetry)", metric: `${METRIC.genAiTokens.name}_count` },
    { name: "gen_ai_request_model", label: "Model", metric: `${METRIC.genAiTokens.name}_count` },
  ],
  rows: [
    {
      title: "Streams",
      panels: [
        {
          title: "Streams open",
          description: "At each router.",
          unit: "short",
          queries: one(now(METRIC.streamsOpen, "instance"), "{{instance}}"),
          stacked: true,
        },
        {
          title: "Tokens per second of a stream",
          description: "After its first token; 10 is about as fast as people read.",
          unit: "short",
          queries: quantiles(METRIC.tokensPerSecond, PROVIDER),
        },
        {
          title: "Tokens per second of a stream by model (p50)",
          description: "After its first token.",
          unit: "short",
          queries: one(quantile(0.5, METRIC.tokensPerSecond, "provider, model", PROVIDER), "{{provider}} {{model}}"),
        },
        {
          title: "First chunk by model (p95)",
          description: "OpenTelemetry's gen_ai.client.operation.time_to_first_chunk.",
          unit: "s",
          queries: one(
            quantile(0.95, METRIC.genAiFirstChunk, "gen_ai_request_model", MODEL),
            "{{gen_ai_request_model}}",
          ),
          exemplars: true,
        },
        {
          title: "First token by worker (p50)",
          description: "Of streamed attempts.",
          unit: "s",
          queries: one(quantile(0.5, METRIC.attemptFirstToken, "worker"), "{{worker}}"),
        },
        {
          title: "Calls by model",
          description: "What is used most.",
          unit: "reqps",
          queries: one(
            `sum by (gen_ai_request_model) (rate(${METRIC.genAiDuration.name}_count{${MODEL}}[$__rate_interval]))`,
            "{{gen_ai_request_model}}",
          ),
          stacked: true,
        },
      ],
    },
    {
      title: "Tokens",
      panels: [
        {
          title: "Tokens by type",
          description: "cached_input is part of input, reasoning part of output.",
          unit: "short",
          queries: one(rate(METRIC.tokens, "type", PROVIDER), "{{type}}"),
        },
        {
          title: "Tokens by worker",
          description: "Input and output together.",
          unit: "short",
          queries: one(rate(METRIC.tokens, "worker", `${PROVIDER},type=~"input|output"`), "{{worker}}"),
          stacked: true,
        },
        {
          title: "Tokens per call (p95)",
          description: "As providers report them: OpenTelemetry's gen_ai.client.token.usage.",
          unit: "short",
          queries: one(quantile(0.95, METRIC.genAiTokens, "gen_ai_token_type", MODEL), "{{gen_ai_token_type}}"),
        },
      ],
    },
    {
      title: "Cost",
      panels: [
        {
          title: "US dollars per hour by model",
          description: "At the moment's pace, where the prices of the models are configured.",
          unit: "currencyUSD",
          width: 12,
          queries: one(`3600 * ${rate(METRIC.cost, "provider, model", PROVIDER)}`, "{{provider}} {{model}}"),
          stacked: true,
        },
        {
          title: "US dollars in 24 hours by worker",
          description: "What has been spent.",
          kind: "bargauge",
          unit: "currencyUSD",
          width: 12,
          queries: one(`sum by (worker) (increase(${METRIC.cost.name}{${PROVIDER}}[24h]))`, "{{worker}}"),
        },
      ],
    },
  ],
};

const cache: DashboardSpec = {
  uid: "cortex-cache",
  title: "Cortex: cache",
  description: "What is answered without a provider's call, and what that takes.",
  rows: [
    {
      title: "Answers",
      panels: [
        stat(
          "From the cache",
          "percentunit",
          `max (cortex:cache_hit_ratio:rate5m{${JOB}})`,
          "The part of the served requests that cost no call of their own, over 5 minutes.",
          { width: 8 },
        ),
        stat("Answers kept", "short", now(METRIC.cacheEntries, ""), "In all levels of all nodes.", { width: 8 }),
        stat("Memory", "bytes", now(METRIC.cacheBytes, ""), "Of all levels of all nodes.", { width: 8 }),
        {
          title: "Hits by level",
          description: "l1 is in each router, l2 is shared, l3 is the store behind it.",
          unit: "reqps",
          queries: one(rate(METRIC.cacheHits, "level"), "{{level}}"),
          stacked: true,
        },
        {
          title: "Misses by level",
          description: "A miss of one level is looked up in the next.",
          unit: "reqps",
          queries: one(rate(METRIC.cacheMisses, "level"), "{{level}}"),
        },
        {
          title: "Hit rate by level",
          description: "Of the look-ups that reach the level.",
          unit: "percentunit",
          max: 1,
          queries: one(
            `${rate(METRIC.cacheHits, "level")} / (${rate(METRIC.cacheHits, "level")} + ${rate(METRIC.cacheMisses, "level")})`,
            "{{level}}",
          ),
        },
        {
          title: "Shared calls",
          description: "Requests that were served by the call of another one that asked the same at the same time.",
          unit: "reqps",
          queries: one(rate(METRIC.cacheSharedCalls, ""), "shared"),
        },
        {
          title: "Failures by level",
          description: "Look-ups that were not answered, or not in time. They count as misses.",
          unit: "reqps",
          queries: one(rate(METRIC.cacheFailures, "level"), "{{level}}"),
          warnings: [0.01, 1],
        },
        {
          title: "Evictions by level",
          description: "Answers that gave way to others before their time: the level is too small for what is asked.",
          unit: "reqps",
          queries: one(rate(METRIC.cacheEvictions, "level"), "{{level}}"),
        },
      ],
    },
    {
      title: "Room",
      panels: [
        {
          title: "Answers and room for them",
          description: "By node and level.",
          unit: "short",
          width: 12,
          queries: [
            { expr: now(METRIC.cacheEntries, "instance, level"), legend: "{{instance}} {{level}}" },
            { expr: now(METRIC.cacheEntriesMax, "level", JOB, "max"), legend: "{{level}} at most" },
          ],
        },
        {
          title: "Memory and bounds",
          description: "By node and level.",
          unit: "bytes",
          width: 12,
          queries: [
            { expr: now(METRIC.cacheBytes, "instance, level"), legend: "{{instance}} {{level}}" },
            { expr: now(METRIC.cacheBytesMax, "level", JOB, "max"), legend: "{{level}} at most" },
          ],
        },
      ],
    },
  ],
};

const nodes: DashboardSpec = {
  uid: "cortex-nodes",
  title: "Cortex: nodes and event loops",
  description: "How each node is: its event loop, its memory, its calls, and what it knows of the mesh.",
  rows: [
    {
      title: "The mesh",
      panels: [
        {
          title: "What runs",
          description: "Every node that is scraped.",
          kind: "table",
          unit: "short",
          width: 12,
          queries: one(`${METRIC.buildInfo.name}{${JOB}}`, ""),
        },
        {
          title: "Nodes of the mesh, as each node sees it",
          description: "They should agree.",
          unit: "short",
          width: 6,
          queries: one(`sum by (instance) (${METRIC.meshNodes.name}{${JOB}})`, "{{instance}}"),
        },
        {
          title: "Workers of the mesh",
          description: "By state, as the node that sees most tells it.",
          unit: "short",
          width: 6,
          queries: one(now(METRIC.meshWorkers, "state", JOB, "max"), "{{state}}"),
        },
        {
          title: "Connected to NATS",
          description: "1 while there is a connection.",
          unit: "short",
          width: 6,
          max: 1,
          queries: one(`${METRIC.natsConnected.name}{${JOB}}`, NODE),
        },
        {
          title: "Events given up, nodes lost",
          description: "Because NATS was away or slow for too long; because a node fell silent.",
          unit: "short",
          width: 6,
          queries: [
            { expr: `sum (increase(${METRIC.eventsDropped.name}{${JOB}}[5m]))`, legend: "events" },
            { expr: `max (increase(${METRIC.meshNodesLost.name}{${JOB}}[5m]))`, legend: "nodes" },
          ],
        },
        {
          title: "Problems",
          description: "What nodes think is wrong with them, as /api/health tells it in words; files with mistakes.",
          unit: "short",
          width: 6,
          queries: [
            { expr: now(METRIC.problems, "instance"), legend: "{{instance}}" },
            { expr: `sum (1 - ${METRIC.configurationValid.name}{${JOB}})`, legend: "files with mistakes" },
          ],
        },
        {
          title: "Crashes and reloads",
          description: "Services that were restarted alone; changes of configuration files.",
          unit: "short",
          width: 6,
          queries: [
            {
              expr: `sum by (service) (increase(${METRIC.serviceCrashes.name}{${JOB}}[5m]))`,
              legend: "{{service}} crashed",
            },
            {
              expr: `sum by (result) (increase(${METRIC.configurationReloads.name}{${JOB}}[5m]))`,
              legend: "{{result}}",
            },
          ],
        },
      ],
    },
    {
      title: "Event loops",
      panels: [
        {
          title: "Utilisation",
          description: "The part of one core that the event loop uses, over 5 minutes; it has no more than one.",
          unit: "percentunit",
          max: 1,
          queries: one(`cortex:event_loop_utilization:rate5m{${JOB}}`, NODE),
          warnings: [0.6, 0.8],
        },
        {
          title: "Event loop delay (p99)",
          description: "How long work waits for its turn, between two scrapes.",
          unit: "s",
          queries: one(`${METRIC.eventLoopDelayP99.name}{${JOB}}`, NODE),
          warnings: [0.05, 0.1],
        },
        {
          title: "Event loop delay (longest)",
          description: "Between two scrapes.",
          unit: "s",
          queries: one(`${METRIC.eventLoopDelayMax.name}{${JOB}}`, NODE),
        },
        {
          title: "CPU",
          description: "Of all threads of the process, in cores.",
          unit: "short",
          queries: one(`rate(${METRIC.processCpu.name}{${JOB}}[$__rate_interval])`, NODE),
        },
        {
          title: "Garbage collection",
          description: "The part of the time that it takes.",
          unit: "percentunit",
          queries: one(
            `sum by (instance, kind) (rate(${METRIC.garbageCollection.name}_sum{${JOB}}[$__rate_interval]))`,
            "{{instance}} {{kind}}",
          ),
        },
        {
          title: "Extra calls left",
          description: "What routers may still spend on retries and hedges.",
          unit: "short",
          queries: one(now(METRIC.callBudget, "instance, budget"), "{{instance}} {{budget}}"),
        },
      ],
    },
    {
      title: "Memory",
      panels: [
        {
          title: "Memory",
          description: "Of the process, as the system counts it.",
          unit: "bytes",
          queries: one(`${METRIC.processMemory.name}{${JOB}}`, NODE),
        },
        {
          title: "Heap",
          description: "What is used of it, and how large it is; the process ends at its limit.",
          unit: "bytes",
          queries: [
            { expr: `${METRIC.heapUsed.name}{${JOB}}`, legend: "{{instance}} used" },
            { expr: `${METRIC.heapTotal.name}{${JOB}}`, legend: "{{instance}}" },
            { expr: now(METRIC.heapLimit, "", JOB, "min"), legend: "at most" },
          ],
        },
        {
          title: "Memory beside the heap",
          description: "Buffers: bodies, and what the second level of the cache holds.",
          unit: "bytes",
          queries: one(`${METRIC.externalMemory.name}{${JOB}}`, NODE),
        },
      ],
    },
    {
      title: "Calls between nodes",
      panels: [
        {
          title: "gRPC calls by method",
          description: "Of all nodes together.",
          unit: "reqps",
          queries: one(rate(METRIC.grpcHandled, "grpc_service, grpc_method"), "{{grpc_service}}/{{grpc_method}}"),
          stacked: true,
        },
        {
          title: "gRPC calls that failed",
          description: "By method and code.",
          unit: "reqps",
          queries: one(
            rate(METRIC.grpcHandled, "grpc_method, grpc_code", `${JOB},grpc_code!="OK"`),
            "{{grpc_method}} {{grpc_code}}",
          ),
        },
        {
          title: "gRPC time by method (p95)",
          description: "Of unary calls.",
          unit: "s",
          queries: one(
            quantile(0.95, METRIC.grpcDuration, "grpc_method", `${JOB},grpc_type="unary"`),
            "{{grpc_method}}",
          ),
        },
        {
          title: "gRPC calls in flight",
          description: "At each node.",
          unit: "short",
          queries: one(`${METRIC.grpcInFlight.name}{${JOB}}`, NODE),
        },
        {
          title: "Up since",
          description: "How long each process has run.",
          unit: "s",
          queries: one(`time() - ${METRIC.processStart.name}{${JOB}}`, NODE),
        },
        {
          title: "Series and open files",
          description: "Series that nodes count themselves, which are bounded, and how many files they may open.",
          unit: "short",
          queries: [
            { expr: `${METRIC.series.name}{${JOB}}`, legend: "{{instance}} series" },
            { expr: now(METRIC.processFilesMax, "", JOB, "min"), legend: "files at most" },
          ],
        },
      ],
    },
    {
      title: "Traces",
      panels: [
        {
          title: "Spans by what became of them",
          description: "Exported, forgotten as of no interest, dropped for want of room. None without a collector.",
          unit: "short",
          width: 12,
          queries: one(rate(METRIC.traceSpans, "state"), "{{state}}"),
        },
        {
          title: "Spans held",
          description: "Until it is known whether their trace is kept.",
          unit: "short",
          width: 12,
          queries: one(`${METRIC.traceSpansHeld.name}{${JOB}}`, NODE),
        },
      ],
    },
  ],
};

/** What the dashboards say, by the names of their files. */
export const DASHBOARDS: Readonly<Record<string, DashboardSpec>> = { overview, workers, streams, cache, nodes };

/** The JSON files of deploy/grafana/dashboards, by name. */
export function dashboardFiles(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(DASHBOARDS).map(([name, spec]) => [`${name}.json`, `${JSON.stringify(dashboard(spec), null, 2)}\n`]),
  );
}
