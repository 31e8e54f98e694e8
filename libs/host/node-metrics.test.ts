/** What a node tells at a scrape of itself and of its workers, also when there are very many. */
import { describe, expect, it } from "vitest";
import { Status } from "../gen/cortex/health/v1/health.ts";
import { NodeRecord } from "../gen/cortex/mesh/v1/mesh.ts";
import { BreakerState, Health, KeyInfo, KeyState, WorkerInfo } from "../gen/cortex/provider/v1/provider.ts";
import type { Mesh } from "../mesh/index.ts";
import { createMetrics, type Metrics, type SpanFigures } from "../telemetry/index.ts";
import { type NodeMetricsSources, reportNode } from "./node-metrics.ts";

const NOTHING = new Uint8Array();

function worker(name: string, info: Partial<WorkerInfo> = {}): WorkerInfo {
  const known = { name, provider: "openai", health: Health.AVAILABLE, breaker: BreakerState.CLOSED };
  return { ...WorkerInfo.decode(NOTHING), ...known, ...info };
}

function key(state: KeyState): KeyInfo {
  return { ...KeyInfo.decode(NOTHING), state };
}

/** Metrics of a node that runs these workers. */
function metricsOf(workers: readonly WorkerInfo[], more: Partial<NodeMetricsSources> = {}): Metrics {
  const metrics = createMetrics();
  const directory = { nodes: () => [NodeRecord.decode(NOTHING)], nodesLost: 0 } as unknown as Mesh["directory"];
  reportNode(metrics, {
    nodeId: "n-1",
    version: "1.2.3",
    services: ["gateway", "adapter-openai"],
    zone: "z",
    mesh: { connected: true, directory, events: { dropped: 7 } as Mesh["events"] },
    workers: {
      workers: () => workers as unknown as ReturnType<NodeMetricsSources["workers"]["workers"]>,
      info: (name) => workers.find((known) => known.name === name),
    },
    cache: () => ({ node: "n-1", levels: [], sharedCalls: 0 }),
    health: () => ({
      status: Status.HEALTHY,
      version: "1.2.3",
      node: "n-1",
      uptimeS: 1,
      nodes: 1,
      workersAvailable: 2,
      workersBusy: 1,
      workersUnavailable: 3,
      natsConnected: true,
      problems: ["something"],
    }),
    callsInFlight: () => 4,
    spans: () => ({ exported: 0, forgotten: 0, dropped: 0, held: 0 }) as SpanFigures,
    configurationValid: () => false,
    ...more,
  });
  return metrics;
}

async function told(metrics: Metrics): Promise<string[]> {
  const { body } = await metrics.expose("");
  return body.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

describe("a node", () => {
  it("tells what it is and how it is", async () => {
    expect(await told(metricsOf([]))).toEqual(
      expect.arrayContaining([
        'cortex_build_info{version="1.2.3",node="n-1",services="gateway,adapter-openai",zone="z"} 1',
        "cortex_nats_connected 1",
        "cortex_events_dropped_total 7",
        "cortex_configuration_valid 0",
        "cortex_node_problems 1",
        "cortex_grpc_calls_in_flight 4",
        'cortex_mesh_workers{state="unavailable"} 3',
      ]),
    );
  });

  it("tells from its start what happens seldom, so that the first time is an increase", async () => {
    expect(await told(metricsOf([]))).toEqual(
      expect.arrayContaining([
        'cortex_refusals_total{carrier="rest",reason="UNAUTHENTICATED"} 0',
        'cortex_refusals_total{carrier="grpc",reason="OVERLOADED"} 0',
        'cortex_service_crashes_total{service="adapter-openai"} 0',
        'cortex_configuration_reloads_total{result="refused"} 0',
      ]),
    );
  });
});

describe("a worker", () => {
  const labels = (name: string) => `{worker="${name}",provider="openai"`;

  it("is up when it answers and its breaker is not open", async () => {
    const lines = await told(
      metricsOf([
        worker("fine"),
        worker("busy", { health: Health.BUSY }),
        worker("trying", { breaker: BreakerState.HALF_OPEN }),
        worker("resting", { breaker: BreakerState.OPEN }),
        worker("down", { health: Health.UNAVAILABLE }),
        worker("unknown", { health: Health.UNSPECIFIED }),
      ]),
    );
    const up = ["fine", "busy", "trying", "resting", "down", "unknown"].map((name) =>
      lines.find((line) => line.startsWith(`cortex_worker_up${labels(name)}`))?.at(-1),
    );
    expect(up).toEqual(["1", "1", "1", "0", "0", "0"]);
    expect(lines).toContain(`cortex_breaker_state${labels("trying")}} 1`);
    expect(lines).toContain(`cortex_breaker_state${labels("resting")}} 2`);
    expect(lines).toContain(`cortex_worker_busy${labels("busy")}} 1`);
  });

  it("tells its keys by state, and nothing of them but their number", async () => {
    const { AVAILABLE, RESTING, OUT } = KeyState;
    const keys = [AVAILABLE, AVAILABLE, RESTING, OUT].map(key);
    const lines = await told(metricsOf([worker("w", { keys }), worker("keyless")]));
    expect(lines.filter((line) => line.startsWith("cortex_worker_keys"))).toEqual([
      `cortex_worker_keys${labels("w")},state="available"} 2`,
      `cortex_worker_keys${labels("w")},state="resting"} 1`,
      `cortex_worker_keys${labels("w")},state="out"} 1`,
    ]);
  });
});

describe("a node with 1,000 workers", () => {
  const workers = Array.from({ length: 1_000 }, (_unused, index) =>
    worker(`worker-${index}`, {
      keys: [key(KeyState.AVAILABLE)],
      pool: { size: 1, connected: 1, free: 0, running: 1, pending: 0, queued: 0 },
    }),
  );

  it("tells a bounded number of series of each", async () => {
    const lines = await told(metricsOf(workers));
    const ofWorkers = lines.filter((line) => line.includes("worker="));
    expect(ofWorkers).toHaveLength(1_000 * 15);
    expect(lines.length - ofWorkers.length).toBeLessThan(100);
  });

  it("lets others have their turn while it tells them", async () => {
    const metrics = metricsOf(workers);
    let turns = 0;
    let telling = true;
    const count = (): void => {
      turns++;
      if (telling) setImmediate(count);
    };
    setImmediate(count);
    await metrics.expose("");
    telling = false;
    expect(turns).toBeGreaterThan(50);
  });
});
