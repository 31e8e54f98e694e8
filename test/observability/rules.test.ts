/**
 * The alerts: every metric that they name exists, the runbook has an entry for each, and by promtool each one fires on series that
 * show its trouble and is silent on series that do not.
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { METRIC, type MetricDefinition } from "../../libs/telemetry/index.ts";
import { describeWith, requireProgram } from "../programs.ts";
import { metricsIn } from "./promql.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const RULES = `${ROOT}deploy/prometheus/rules.yml`;

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

const { groups } = parse(await readFile(RULES, "utf8")) as { groups: { name: string; rules: Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const alerts = rules.filter(({ alert }) => alert !== undefined);
const catalogue: readonly MetricDefinition[] = Object.values(METRIC);
const histograms = new Set(catalogue.filter(({ kind }) => kind === "histogram").map(({ name }) => name));
const known = new Set([
  ...catalogue.map(({ name }) => name),
  ...rules.flatMap(({ record }) => record ?? []),
  // Prometheus' own.
  "up",
]);

describe("reading a query", () => {
  it("finds the metrics and nothing else", () => {
    const query =
      'histogram_quantile(0.95, sum by (job, le) (rate(a_seconds_bucket{x="b(c)",y=~"d|e"}[5m]))) > 1e3 and on (job) f:g:rate5m offset 5m or vector(0)';
    expect(metricsIn(query, new Set(["a_seconds"]))).toEqual(["a_seconds", "f:g:rate5m"]);
    expect(metricsIn("rate(a_total[$__rate_interval])", new Set())).toEqual(["a_total"]);
  });
});

describe("the rules", () => {
  it.each(rules.map((rule) => [rule.alert ?? rule.record!, rule] as const))(
    "%s names metrics that exist",
    (_name, rule) => {
      const named = metricsIn(rule.expr, histograms);
      expect(named.length).toBeGreaterThan(0);
      expect(named.filter((name) => !known.has(name))).toEqual([]);
    },
  );

  it.each(alerts.map((rule) => [rule.alert!, rule] as const))("%s says what it means and what to do", (name, rule) => {
    expect(rule.labels?.["severity"]).toMatch(/^(critical|warning|info)$/);
    expect(rule.annotations?.["summary"]).toMatch(/\.$/);
    expect(rule.annotations?.["description"]).toMatch(/\.$/);
    expect(rule.annotations?.["runbook_url"]).toBe(`docs/runbook.md#${name.toLowerCase()}`);
  });

  it("have an entry each in the runbook, and the runbook has no others", async () => {
    const runbook = await readFile(`${ROOT}docs/runbook.md`, "utf8");
    const entries = [...runbook.matchAll(/^### (\w+)$/gm)].map(([, name]) => name);
    expect(entries).toEqual(alerts.map(({ alert }) => alert));
    for (const entry of runbook.split(/^### /m).slice(1)) {
      for (const part of ["**Means**", "**Look at**", "**Do**"]) expect(entry, part).toContain(part);
    }
  });
});

/** Series by name and labels, and their values minute by minute as promtool writes them: `0+1x10`, `1 1 0`. */
type SeriesOf = Readonly<Record<string, string>>;

interface Case {
  /** On these it fires, at the given minute. */
  readonly fires: SeriesOf;
  readonly silent: SeriesOf;
  /** 20 unless it has to be true for longer. */
  readonly minute?: number;
}

const node = 'job="cortex",instance="a:1"';
const other = 'job="cortex",instance="b:1"';
const requests = (labels: string) => `cortex_requests_total{${node},${labels}}`;
const attempts = (labels: string) => `cortex_attempts_total{${node},worker="w",${labels}}`;
const refusals = (reason: string) => `cortex_refusals_total{${node},carrier="rest",reason="${reason}"}`;
/** A histogram of which all values, 60 a minute, are between two bounds. */
const between = (name: string, labels: string, low: string, high: string): SeriesOf => ({
  [`${name}_bucket{${labels},le="${low}"}`]: "0x60",
  [`${name}_bucket{${labels},le="${high}"}`]: "0+60x60",
  [`${name}_bucket{${labels},le="+Inf"}`]: "0+60x60",
});

/** For each alert, what must and what must not make it fire. */
const CASES: Readonly<Record<string, Case>> = {
  CortexAbsent: {
    fires: { [`up{${node}}`]: "1x60" },
    silent: { [`cortex_build_info{${node}}`]: "1x60" },
  },
  CortexNoWorker: {
    fires: {
      [`cortex_mesh_workers{${node},state="available"}`]: "0x60",
      [`cortex_mesh_workers{${node},state="busy"}`]: "0x60",
      [`cortex_mesh_workers{${node},state="unavailable"}`]: "3x60",
    },
    silent: {
      [`cortex_mesh_workers{${node},state="available"}`]: "0x60",
      [`cortex_mesh_workers{${node},state="busy"}`]: "1x60",
      [`cortex_mesh_workers{${node},state="unavailable"}`]: "3x60",
    },
  },
  CortexErrorRateHigh: {
    fires: {
      [requests('outcome="served"')]: "0+980x60",
      [requests('outcome="failed"')]: "0+20x60",
    },
    // Faults of clients and clients who leave are no errors of the mesh.
    silent: {
      [requests('outcome="served"')]: "0+995x60",
      [requests('outcome="failed"')]: "0+5x60",
      [requests('outcome="refused"')]: "0+500x60",
      [requests('outcome="cancelled"')]: "0+500x60",
    },
  },
  CortexFirstTokenSlow: {
    fires: between("cortex_request_time_to_first_token_seconds", `${node},source="provider"`, "2.56", "5.12"),
    silent: between("cortex_request_time_to_first_token_seconds", `${node},source="provider"`, "0.64", "1.28"),
  },
  CortexAnswersSlow: {
    fires: between("cortex_request_duration_seconds", `${node},source="provider"`, "81.92", "327.68"),
    silent: between("cortex_request_duration_seconds", `${node},source="provider"`, "20.48", "40.96"),
  },
  CortexStreamsInterrupted: {
    fires: { [requests('outcome="failed",reason="STREAM_INTERRUPTED"')]: "0+1x60" },
    silent: { [requests('outcome="failed",reason="PROVIDER_ERROR"')]: "0+1x60" },
  },
  CortexQueueDeep: {
    fires: { [`cortex_queue_depth{${node}}`]: "51x60" },
    silent: { [`cortex_queue_depth{${node}}`]: "50x60" },
  },
  CortexWorkerDown: {
    fires: {
      [`cortex_worker_up{${node},worker="w",provider="p"}`]: "0x60",
      [`cortex_worker_up{${other},worker="w",provider="p"}`]: "0x60",
    },
    // One of its replicas serves.
    silent: {
      [`cortex_worker_up{${node},worker="w",provider="p"}`]: "0x60",
      [`cortex_worker_up{${other},worker="w",provider="p"}`]: "1x60",
    },
  },
  CortexWorkerFailing: {
    fires: { [attempts('outcome="served"')]: "0+7x60", [attempts('outcome="failed"')]: "0+3x60" },
    silent: {
      [attempts('outcome="served"')]: "0+9x60",
      [attempts('outcome="failed"')]: "0+1x60",
      [attempts('outcome="failed",reason="WORKER_BUSY"')]: "0+90x60",
      [attempts('outcome="cancelled"')]: "0+50x60",
    },
  },
  CortexBreakerOpen: {
    fires: { [`cortex_breaker_state{${node},worker="w",provider="p"}`]: "2x60" },
    silent: { [`cortex_breaker_state{${node},worker="w",provider="p"}`]: "1x60" },
  },
  CortexKeysOut: {
    fires: { [`cortex_worker_keys{${node},worker="w",provider="p",state="out"}`]: "1x60" },
    silent: {
      [`cortex_worker_keys{${node},worker="w",provider="p",state="out"}`]: "0x60",
      [`cortex_worker_keys{${node},worker="w",provider="p",state="resting"}`]: "2x60",
    },
  },
  CortexNoKeyLeft: {
    fires: { [`cortex_worker_keys{${node},worker="w",provider="p",state="available"}`]: "0x60" },
    silent: { [`cortex_worker_keys{${node},worker="w",provider="p",state="available"}`]: "1x60" },
  },
  CortexPoolExhausted: {
    fires: { [`cortex_pool_queue{${node},worker="w",provider="p"}`]: "3x60" },
    // A queue that empties in between is what a queue is for.
    silent: { [`cortex_pool_queue{${node},worker="w",provider="p"}`]: "3 3 3 0 3 3 3 0 3 3 3 0 3 3 3 0 3 3 3 0 3 3 3" },
  },
  CortexFailoversMany: {
    fires: { [attempts('kind="first"')]: "0+100x60", [attempts('kind="failover"')]: "0+15x60" },
    silent: {
      [attempts('kind="first"')]: "0+100x60",
      [attempts('kind="failover"')]: "0+5x60",
      [attempts('kind="failover",reason="WORKER_BUSY"')]: "0+90x60",
    },
    minute: 30,
  },
  CortexRetryBudgetEmpty: {
    fires: { [`cortex_call_budget{${node},budget="retries"}`]: "0.4x60" },
    silent: {
      [`cortex_call_budget{${node},budget="retries"}`]: "20x60",
      [`cortex_call_budget{${node},budget="hedges"}`]: "0x60",
    },
  },
  CortexHighLoad: {
    fires: { [`cortex_event_loop_active_seconds_total{${node}}`]: "0+54x60" },
    silent: { [`cortex_event_loop_active_seconds_total{${node}}`]: "0+42x60" },
  },
  CortexLowUse: {
    fires: {
      [`cortex_event_loop_active_seconds_total{${node}}`]: "0+1x60",
      [`cortex_event_loop_active_seconds_total{${other}}`]: "0+1x60",
      [`cortex_build_info{${node}}`]: "1x60",
      [`cortex_build_info{${other}}`]: "1x60",
    },
    // Of a single node there can't be fewer.
    silent: { [`cortex_event_loop_active_seconds_total{${node}}`]: "0+1x60", [`cortex_build_info{${node}}`]: "1x60" },
    minute: 50,
  },
  CortexNodeUnreachable: {
    fires: { [`up{${node}}`]: "0x60" },
    silent: { [`up{${node}}`]: "1x60", 'up{job="something-else",instance="c:1"}': "0x60" },
  },
  CortexNodeLost: {
    fires: { [`cortex_mesh_nodes_lost_total{${node}}`]: "0x17 1x40" },
    silent: { [`cortex_mesh_nodes_lost_total{${node}}`]: "0x5 1x60" },
  },
  CortexMeshSplit: {
    fires: {
      [`cortex_mesh_nodes{${node},state="serving"}`]: "3x60",
      [`cortex_mesh_nodes{${other},state="serving"}`]: "1x60",
    },
    // One that drains is known to all, though not all have heard yet that it drains.
    silent: {
      [`cortex_mesh_nodes{${node},state="serving"}`]: "3x60",
      [`cortex_mesh_nodes{${other},state="serving"}`]: "2x60",
      [`cortex_mesh_nodes{${other},state="draining"}`]: "1x60",
    },
  },
  CortexEventLoopSlow: {
    fires: { [`nodejs_eventloop_lag_p99_seconds{${node}}`]: "0.2x60" },
    silent: { [`nodejs_eventloop_lag_p99_seconds{${node}}`]: "0.03x60" },
  },
  CortexMemoryHigh: {
    fires: {
      [`nodejs_heap_size_used_bytes{${node}}`]: "3900000000x60",
      [`cortex_heap_limit_bytes{${node}}`]: "4400000000x60",
    },
    silent: {
      [`nodejs_heap_size_used_bytes{${node}}`]: "900000000x60",
      [`cortex_heap_limit_bytes{${node}}`]: "4400000000x60",
    },
  },
  CortexNatsAway: {
    fires: { [`cortex_nats_connected{${node}}`]: "0x60" },
    silent: { [`cortex_nats_connected{${node}}`]: "1x60" },
  },
  CortexEventsDropped: {
    fires: { [`cortex_events_dropped_total{${node}}`]: "0+7x60" },
    silent: { [`cortex_events_dropped_total{${node}}`]: "7x60" },
  },
  CortexSpansDropped: {
    fires: { [`cortex_trace_spans_total{${node},state="dropped"}`]: "0+10x60" },
    silent: {
      [`cortex_trace_spans_total{${node},state="dropped"}`]: "5x60",
      [`cortex_trace_spans_total{${node},state="forgotten"}`]: "0+1000x60",
    },
  },
  CortexServiceCrashing: {
    fires: { [`cortex_service_crashes_total{${node},service="router"}`]: "0x12 1x40" },
    silent: { [`cortex_service_crashes_total{${node},service="router"}`]: "1x60" },
  },
  CortexConfigurationRefused: {
    fires: { [`cortex_configuration_valid{${node}}`]: "0x60" },
    silent: { [`cortex_configuration_valid{${node}}`]: "1x60" },
  },
  CortexCacheFailing: {
    fires: { [`cortex_cache_failures_total{${node},level="l3"}`]: "0+2x60" },
    silent: { [`cortex_cache_failures_total{${node},level="l3"}`]: "5x60" },
  },
  CortexFailedLogins: {
    fires: { [refusals("UNAUTHENTICATED")]: "0+20x60" },
    silent: { [refusals("UNAUTHENTICATED")]: "0+5x60", [refusals("PERMISSION_DENIED")]: "0+20x60" },
  },
  CortexPermissionsRefused: {
    fires: { [refusals("PERMISSION_DENIED")]: "0+1x60" },
    silent: { [refusals("PERMISSION_DENIED")]: "3x60", [refusals("UNAUTHENTICATED")]: "0+20x60" },
  },
  CortexLimitsExceeded: {
    fires: { [refusals("OVERLOADED")]: "0+20x60" },
    silent: { [refusals("OVERLOADED")]: "0+5x60", [refusals("UNAUTHENTICATED")]: "0+20x60" },
  },
};

describeWith(["promtool"], "promtool", () => {
  const run = promisify(execFile);
  const promtool = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await run(requireProgram("promtool"), args).catch(
      (error: { stdout: string; stderr: string }) => {
        throw new Error(`promtool ${args.join(" ")}:\n${error.stdout}${error.stderr}`);
      },
    );
    return stdout + stderr;
  };

  it("takes the rules and the configuration", async () => {
    expect(await promtool("check", "rules", RULES)).toContain(`${rules.length} rules found`);
    expect(await promtool("check", "config", `${ROOT}deploy/prometheus/prometheus.yml`)).toContain("SUCCESS");
  });

  it("has series for every alert, and for no other", () => {
    expect(Object.keys(CASES).sort()).toEqual(alerts.map(({ alert }) => alert!).sort());
  });

  it("sees each alert fire on the series that show its trouble, and none on those that do not", async () => {
    const folder = await mkdtemp(join(tmpdir(), "cortex-rules-"));
    try {
      const file = join(folder, "tests.yml");
      const tests = Object.entries(CASES).flatMap(([alert, { fires, silent, minute = 20 }]) =>
        [
          { name: `${alert} fires`, series: fires, value: [{ labels: "{}", value: 1 }] },
          { name: `${alert} is silent`, series: silent, value: [] },
        ].map(({ name, series, value }) => ({
          name,
          interval: "1m",
          input_series: Object.entries(series).map(([labels, values]) => ({ series: labels, values })),
          promql_expr_test: [
            {
              expr: `count(ALERTS{alertname="${alert}",alertstate="firing"})`,
              eval_time: `${minute}m`,
              exp_samples: value,
            },
          ],
        })),
      );
      await writeFile(file, JSON.stringify({ rule_files: [RULES], evaluation_interval: "1m", tests }));
      expect(await promtool("test", "rules", file)).toContain("SUCCESS");
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
