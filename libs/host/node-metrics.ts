/** What a node knows of itself and tells at each scrape: its workers, its caches, the mesh as it sees it. */
import type { ProviderService } from "../adapter/index.ts";
import type { GetStatisticsResponse } from "../gen/cortex/cache/v1/cache.ts";
import type { CheckResponse } from "../gen/cortex/health/v1/health.ts";
import { BreakerState, Health, KeyState, type WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import type { Mesh } from "../mesh/index.ts";
import { REFUSALS } from "../rpc/index.ts";
import { METRIC, type Metrics, type Report, type SpanFigures } from "../telemetry/index.ts";

export interface NodeMetricsSources {
  readonly nodeId: string;
  readonly version: string;
  readonly services: readonly string[];
  readonly zone: string;
  readonly mesh: Pick<Mesh, "connected" | "directory" | "events">;
  readonly workers: Pick<ProviderService, "workers" | "info">;
  /** What its levels of the cache hold. */
  cache(): GetStatisticsResponse;
  health(): CheckResponse;
  /** gRPC calls that it serves now. */
  callsInFlight(): number;
  /** What has become of its spans. */
  spans(): Pick<SpanFigures, "exported" | "forgotten" | "dropped" | "held">;
  /** The configuration file has no mistakes. */
  configurationValid(): boolean;
}

/** How many workers are told in one turn of the event loop: what flows through the node goes before. */
const WORKERS_A_TURN = 100;

/** Tells at each scrape how the node is. Returns how to stop. */
export function reportNode(metrics: Metrics, sources: NodeMetricsSources): () => void {
  beginAtZero(metrics, sources.services);
  return metrics.collect(async (report) => {
    reportSelf(report, sources);
    reportMesh(report, sources);
    reportCache(report, sources.cache());
    let told = 0;
    for (const { name } of sources.workers.workers()) {
      const info = sources.workers.info(name);
      if (info !== undefined) reportWorker(report, info);
      if (++told % WORKERS_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  });
}

/** What happens seldom is there from the start: the first time would not be seen as an increase otherwise. */
function beginAtZero(metrics: Metrics, services: readonly string[]): void {
  // Nodes without a gateway have metrics to refuse over HTTP.
  for (const carrier of ["grpc", "rest"])
    for (const reason of REFUSALS) metrics.add(METRIC.refusals, 0, carrier, reason);
  for (const service of services) metrics.add(METRIC.serviceCrashes, 0, service);
  for (const result of ["accepted", "refused"]) metrics.add(METRIC.configurationReloads, 0, result);
}

function reportSelf(report: Report, sources: NodeMetricsSources): void {
  const { nodeId, version, services, zone, mesh } = sources;
  report.set(METRIC.buildInfo, 1, version, nodeId, services.join(","), zone);
  report.set(METRIC.problems, sources.health().problems.length);
  report.set(METRIC.configurationValid, sources.configurationValid() ? 1 : 0);
  report.set(METRIC.grpcInFlight, sources.callsInFlight());
  report.set(METRIC.natsConnected, mesh.connected ? 1 : 0);
  report.set(METRIC.eventsDropped, mesh.events.dropped);
  const { exported, forgotten, dropped, held } = sources.spans();
  report.set(METRIC.traceSpans, exported, "exported");
  report.set(METRIC.traceSpans, forgotten, "forgotten");
  report.set(METRIC.traceSpans, dropped, "dropped");
  report.set(METRIC.traceSpansHeld, held);
}

function reportMesh(report: Report, { mesh, health }: NodeMetricsSources): void {
  const nodes = mesh.directory.nodes();
  const draining = nodes.filter((node) => node.draining).length;
  report.set(METRIC.meshNodes, nodes.length - draining, "serving");
  report.set(METRIC.meshNodes, draining, "draining");
  report.set(METRIC.meshNodesLost, mesh.directory.nodesLost);
  const { workersAvailable, workersBusy, workersUnavailable } = health();
  report.set(METRIC.meshWorkers, workersAvailable, "available");
  report.set(METRIC.meshWorkers, workersBusy, "busy");
  report.set(METRIC.meshWorkers, workersUnavailable, "unavailable");
}

function reportCache(report: Report, { levels, sharedCalls }: GetStatisticsResponse): void {
  for (const { level, hits, misses, evictions, failures, entries, entriesMax, bytes, bytesMax } of levels) {
    report.set(METRIC.cacheHits, hits, level);
    report.set(METRIC.cacheMisses, misses, level);
    report.set(METRIC.cacheEvictions, evictions, level);
    report.set(METRIC.cacheFailures, failures, level);
    report.set(METRIC.cacheEntries, entries, level);
    report.set(METRIC.cacheEntriesMax, entriesMax, level);
    report.set(METRIC.cacheBytes, bytes, level);
    report.set(METRIC.cacheBytesMax, bytesMax, level);
  }
  if (levels.some(({ level }) => level === "l1")) report.set(METRIC.cacheSharedCalls, sharedCalls);
}

const BREAKER_NUMBERS: Readonly<Record<BreakerState, number>> = {
  [BreakerState.UNSPECIFIED]: 0,
  [BreakerState.CLOSED]: 0,
  [BreakerState.HALF_OPEN]: 1,
  [BreakerState.OPEN]: 2,
};

function reportWorker(report: Report, info: WorkerInfo): void {
  const { name, provider, health, breaker, pool, keys, breakerStatistics: counted } = info;
  const answers = health === Health.AVAILABLE || health === Health.BUSY;
  report.set(METRIC.workerUp, answers && breaker !== BreakerState.OPEN ? 1 : 0, name, provider);
  report.set(METRIC.workerBusy, health === Health.BUSY ? 1 : 0, name, provider);
  report.set(METRIC.workerDraining, info.draining ? 1 : 0, name, provider);
  report.set(METRIC.workerInFlight, info.activeRequests, name, provider);
  report.set(METRIC.workerLimit, info.concurrentRequestsMax, name, provider);
  if (keys.length > 0) {
    const count = (state: KeyState) => keys.filter((key) => key.state === state).length;
    report.set(METRIC.workerKeys, count(KeyState.AVAILABLE), name, provider, "available");
    report.set(METRIC.workerKeys, count(KeyState.RESTING), name, provider, "resting");
    report.set(METRIC.workerKeys, count(KeyState.OUT), name, provider, "out");
  }
  if (pool !== undefined) {
    report.set(METRIC.poolConnections, pool.size, name, provider, "max");
    report.set(METRIC.poolConnections, pool.connected, name, provider, "open");
    report.set(METRIC.poolConnections, pool.running, name, provider, "busy");
    report.set(METRIC.poolQueue, pool.queued, name, provider);
  }
  report.set(METRIC.breakerState, BREAKER_NUMBERS[breaker] ?? 0, name, provider);
  report.set(METRIC.breakerOpened, counted?.opened ?? 0, name, provider);
  report.set(METRIC.breakerRejected, counted?.rejected ?? 0, name, provider);
}
