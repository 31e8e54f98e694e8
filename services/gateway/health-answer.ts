/** What is told of the mesh's health over HTTP, as JSON: the verdict to everybody, the report to administrators. */
import { type CheckResponse, type GetReportResponse, Status } from "../../libs/gen/cortex/health/v1/health.ts";
import { Dimension } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { BREAKER_NAMES, HEALTH_NAMES, KEY_NAMES } from "../../libs/host/index.ts";

/** A verdict in a word. */
export const STATUS_NAMES: Readonly<Record<Status, "healthy" | "degraded" | "unhealthy">> = {
  [Status.UNSPECIFIED]: "unhealthy",
  [Status.HEALTHY]: "healthy",
  [Status.DEGRADED]: "degraded",
  [Status.UNHEALTHY]: "unhealthy",
};

/** Whether requests are served: what a probe goes by. */
export function isServing({ status }: CheckResponse): boolean {
  return status === Status.HEALTHY || status === Status.DEGRADED;
}

/** What is wrong, in sentences that name no worker and no node. */
export function namelessProblems({
  problems,
  workersAvailable,
  workersBusy,
  workersUnavailable,
  natsConnected,
}: CheckResponse): string[] {
  const workers = workersAvailable + workersBusy + workersUnavailable;
  const told: string[] = [];
  if (workers === 0) told.push("no worker is running");
  if (workersUnavailable > 0) {
    told.push(`${workersUnavailable} of ${workers} workers ${workersUnavailable === 1 ? "is" : "are"} unavailable`);
  }
  if (!natsConnected) told.push("NATS is away: the directory is as it was, and changes are not seen");
  // Each unavailable worker has a sentence of its own.
  const others = problems.length - workersUnavailable - (workers === 0 ? 1 : 0) - (natsConnected ? 0 : 1);
  if (others > 0) told.push(`${others} more that only administrators may read`);
  return told;
}

/** The verdict as everybody may read it; with `names`, with everything that its problems name. */
export function writeVerdict(state: CheckResponse, { names }: { readonly names: boolean }): Record<string, unknown> {
  return {
    status: STATUS_NAMES[state.status],
    version: state.version,
    node: state.node,
    uptime_s: Math.round(state.uptimeS),
    nodes: state.nodes,
    workers: {
      available: state.workersAvailable,
      busy: state.workersBusy,
      unavailable: state.workersUnavailable,
    },
    nats_connected: state.natsConnected,
    problems: names ? state.problems : namelessProblems(state),
  };
}

/** The verdict and everything behind it. */
export function writeReport(report: GetReportResponse): Record<string, unknown> {
  const { verdict, nodes, workers } = report;
  const plain = writeVerdict(verdict!, { names: true });
  return {
    ...plain,
    workers: { ...(plain["workers"] as object), running: workers.map(writeWorker) },
    cluster: {
      node: verdict!.node,
      size: nodes.length,
      nodes: nodes.map(({ id, name, services, zone, version, startedAtMs, draining, load }) => ({
        id,
        name,
        services,
        zone,
        version,
        started_at_ms: startedAtMs,
        draining,
        calls_in_flight: load?.callsInFlight ?? 0,
        event_loop_delay_ms: round(load?.eventLoopDelayMs ?? 0),
        event_loop_utilization: load?.eventLoopUtilization,
        rss_bytes: load?.rssBytes,
        problems: load?.problems ?? [],
      })),
      workers_by_node: report.workersByNode,
      silent_nodes: report.silentNodes,
    },
    pools: workers.flatMap(({ node, info }) =>
      info?.pool === undefined ? [] : [{ worker: info.name, node, ...(inSnakeCase(info.pool) as object) }],
    ),
    breakers: workers.map(({ node, info }) => ({
      worker: info!.name,
      node,
      state: BREAKER_NAMES[info!.breaker],
      ...(inSnakeCase(info!.breakerStatistics ?? {}) as object),
    })),
    keys: workers.flatMap(({ node, info }) =>
      info!.keys.map((key) => ({
        worker: info!.name,
        node,
        ...(inSnakeCase(key) as object),
        state: KEY_NAMES[key.state],
      })),
    ),
    metrics: writeMetrics(report),
    cache: writeCache(report),
    nats: { connected: report.nats?.connected ?? false },
  };
}

function writeWorker({ node, info, announced }: GetReportResponse["workers"][number]): Record<string, unknown> {
  const worker = info!;
  return {
    name: worker.name,
    node,
    provider: worker.provider,
    health: HEALTH_NAMES[worker.health],
    draining: worker.draining,
    priority: worker.priority,
    base_url: worker.baseUrl,
    models: worker.models.length,
    active_requests: worker.activeRequests,
    concurrent_requests_max: worker.concurrentRequestsMax,
    simulated: worker.simulated,
    reason: worker.reason || null,
    message: worker.message || null,
    // Its node is silent: this is what it said last.
    ...(announced ? { as_announced: true } : {}),
  };
}

function writeMetrics({ metrics }: GetReportResponse): unknown {
  if (metrics?.summary === undefined || metrics.scores === undefined) {
    return { unavailable: metrics?.unavailable || "the metrics service gave no answer" };
  }
  const { fromMs, toMs, total, groups, eventsLost } = metrics.summary;
  return {
    from_ms: fromMs,
    to_ms: toMs,
    requests: inSnakeCase(total ?? {}),
    providers: groups
      .filter(({ dimension }) => dimension === Dimension.PROVIDER)
      .map(({ name, figures }) => ({ name, ...(inSnakeCase(figures ?? {}) as object) })),
    scores: inSnakeCase(metrics.scores),
    events_lost: eventsLost,
  };
}

function writeCache({ cache }: GetReportResponse): unknown {
  if (cache === undefined || cache.unavailable !== "") {
    return { unavailable: cache?.unavailable ?? "the cache gave no answer" };
  }
  return { nodes: inSnakeCase(cache.nodes), silent_nodes: cache.silent };
}

/** A message of a contract with the names of its fields as REST has them. Reasons, which are keys of maps, stay as they are. */
function inSnakeCase(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inSnakeCase);
  if (typeof value === "number") return round(value);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name.replaceAll(/(?<=[a-z0-9])[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      inSnakeCase(field),
    ]),
  );
}

function round(value: number): number {
  return Number.isInteger(value) ? value : Number(value.toPrecision(4));
}
