/** What a node counts, and what Prometheus gets of it. */
import { describe, expect, it } from "vitest";
import { LABEL, METRIC, type MetricDefinition } from "./metric-catalogue.ts";
import { createMetrics, type Metrics, OTHER } from "./metrics.ts";

const TRACE = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", sampled: true };
const OPEN_METRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/** The lines that begin so. */
async function lines(metrics: Metrics, beginning: string, accept = ""): Promise<string[]> {
  const { body } = await metrics.expose(accept);
  return body.split("\n").filter((line) => line.startsWith(beginning));
}

describe("the metrics of a node", () => {
  it("count by labels", async () => {
    const metrics = createMetrics();
    metrics.add(METRIC.cost, 0.25, "w", "openai", "m");
    metrics.add(METRIC.cost, 0.5, "w", "openai", "m");
    metrics.add(METRIC.cost, 1, "w", "openai", "n");
    expect(await lines(metrics, "cortex_cost_usd_total{")).toEqual([
      'cortex_cost_usd_total{worker="w",provider="openai",model="m"} 0.75',
      'cortex_cost_usd_total{worker="w",provider="openai",model="n"} 1',
    ]);
  });

  it("are apart from those of another node in the same process", async () => {
    const [one, other] = [createMetrics(), createMetrics()];
    one.add(METRIC.serviceCrashes, 1, "router");
    expect(await lines(one, "cortex_service_crashes_total{")).toHaveLength(1);
    expect(await lines(other, "cortex_service_crashes_total{")).toEqual([]);
  });

  it("count values in the buckets that they fall into", async () => {
    const metrics = createMetrics();
    for (const seconds of [0.025, 0.026, 4, 1_000]) metrics.observe(METRIC.attemptDuration, seconds, undefined, "w");
    const of = async (bound: string) =>
      Number((await lines(metrics, `cortex_attempt_duration_seconds_bucket{le="${bound}"`))[0]?.split(" ").at(-1));
    expect([await of("0.025"), await of("0.05"), await of("2"), await of("5"), await of("+Inf")]).toEqual([
      1, 2, 2, 3, 4,
    ]);
    expect(await lines(metrics, "cortex_attempt_duration_seconds_count")).toEqual([
      'cortex_attempt_duration_seconds_count{worker="w"} 4',
    ]);
    expect(await lines(metrics, "cortex_attempt_duration_seconds_sum")).toEqual([
      'cortex_attempt_duration_seconds_sum{worker="w"} 1004.051',
    ]);
  });

  it("keep a recorded trace as the example of its bucket, for scrapers that take examples", async () => {
    const metrics = createMetrics();
    metrics.observe(METRIC.attemptDuration, 4, TRACE, "w");
    metrics.observe(METRIC.attemptDuration, 40, { ...TRACE, sampled: false }, "w");
    const examples = (await lines(metrics, "cortex_attempt_duration_seconds_bucket", OPEN_METRICS)).filter((line) =>
      line.includes("#"),
    );
    expect(examples).toEqual([
      expect.stringMatching(/le="5",worker="w"\} 1 # \{trace_id="4bf92f3577b34da6a3ce929d0e0e4736"\} 4 \d+/),
    ]);
    expect((await metrics.expose("text/plain")).body).not.toContain("trace_id");
  });

  it("are told in the format that the scraper takes, one after the other as often as it likes", async () => {
    const metrics = createMetrics();
    metrics.add(METRIC.serviceCrashes, 1, "router");
    for (const _again of [1, 2]) {
      const [open, text] = await Promise.all([metrics.expose(OPEN_METRICS), metrics.expose("*/*")]);
      expect(open.contentType).toBe("application/openmetrics-text; version=1.0.0; charset=utf-8");
      expect(open.body).toMatch(/# TYPE cortex_service_crashes counter\ncortex_service_crashes_total\{.*\} 1\n/);
      expect(open.body).toMatch(/# EOF\n$/);
      expect(text.contentType).toBe("text/plain; version=0.0.4; charset=utf-8");
      expect(text.body).toMatch(/# TYPE cortex_service_crashes_total counter\ncortex_service_crashes_total\{.*\} 1\n/);
    }
  });

  it("are those of the process too, where one set of them watches it", async () => {
    const watching = createMetrics({ process: true });
    for (const name of [
      "process_cpu_seconds_total",
      "process_resident_memory_bytes",
      "nodejs_eventloop_lag_p99_seconds",
    ]) {
      expect(await lines(watching, `${name} `), name).toHaveLength(1);
      expect(await lines(createMetrics(), `${name} `), name).toEqual([]);
    }
    expect(await lines(createMetrics(), "cortex_event_loop_active_seconds_total ")).toHaveLength(1);
  });

  it("count nothing when they are off", async () => {
    const metrics = createMetrics({ enabled: false, process: true });
    metrics.add(METRIC.serviceCrashes, 1, "router");
    metrics.observe(METRIC.attemptDuration, 4, TRACE, "w");
    metrics.collect(() => expect.fail("nobody is to be asked"));
    expect((await metrics.expose("")).body).toBe("");
  });
});

describe("what is collected at a scrape", () => {
  it("is as it is at that moment, and what is gone is gone", async () => {
    const metrics = createMetrics();
    const workers = new Map([
      ["a", 1],
      ["b", 2],
    ]);
    const stop = metrics.collect((report) => {
      for (const [worker, active] of workers) report.set(METRIC.workerInFlight, active, worker, "openai");
    });
    expect(await lines(metrics, "cortex_worker_requests_in_flight{")).toHaveLength(2);
    workers.delete("a");
    workers.set("b", 5);
    expect(await lines(metrics, "cortex_worker_requests_in_flight{")).toEqual([
      'cortex_worker_requests_in_flight{worker="b",provider="openai"} 5',
    ]);
    stop();
    expect(await lines(metrics, "cortex_worker_requests_in_flight{")).toEqual([]);
  });

  it("is told as far as it could be collected", async () => {
    const failures: unknown[] = [];
    const metrics = createMetrics({ onFailure: (error) => failures.push(error) });
    metrics.collect(() => Promise.reject(new Error("is broken")));
    metrics.collect((report) => report.set(METRIC.queueDepth, 3));
    expect(await lines(metrics, "cortex_queue_depth ")).toEqual(["cortex_queue_depth 3"]);
    expect(failures).toEqual([new Error("is broken")]);
  });
});

describe("the number of series", () => {
  it("is bounded: 10,000 names that somebody made up are one", async () => {
    const metrics = createMetrics();
    for (let index = 0; index < 10_000; index++) {
      metrics.observe(METRIC.genAiDuration, 1, undefined, "chat", "openai", `made-up-${index}`, "");
      metrics.add(METRIC.cost, 1, "w", "openai", `made-up-${index}`);
    }
    const counted = await lines(metrics, "cortex_cost_usd_total{");
    expect(counted).toHaveLength(LABEL.model.max + 1);
    expect(counted).toContain(
      `cortex_cost_usd_total{worker="w",provider="openai",model="${OTHER}"} ${10_000 - LABEL.model.max}`,
    );
    const observed = await lines(metrics, "gen_ai_client_operation_duration_seconds_count{");
    expect(observed).toHaveLength(LABEL.gen_ai_request_model.max + 1);
    const total = observed.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
    expect(total).toBe(10_000);
  });

  it("is bounded for each metric, when labels multiply", async () => {
    const metrics = createMetrics();
    for (let worker = 0; worker < 2_000; worker++) {
      for (let model = 0; model < 20; model++) metrics.add(METRIC.cost, 1, `w${worker}`, "openai", `m${model}`);
    }
    const counted = await lines(metrics, "cortex_cost_usd_total{");
    expect(counted).toHaveLength(20_001);
    expect(counted.at(-1)).toBe(`cortex_cost_usd_total{worker="${OTHER}",provider="${OTHER}",model="${OTHER}"} 20000`);
  });
});

describe("the catalogue", () => {
  const all: readonly MetricDefinition[] = Object.values(METRIC);

  it("has each name once, by Prometheus' rules", () => {
    expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
    for (const { name, kind, help } of all) {
      expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
      expect(name.endsWith("_total"), name).toBe(kind === "counter");
      expect(name, "units are base units").not.toMatch(/_(ms|milliseconds|kb|mb|megabytes)(_|$)/);
      expect(help, name).toMatch(/^[^\n]+[^ ]$/);
    }
  });

  it("has growing buckets for each histogram, and for nothing else", () => {
    for (const { name, kind, buckets } of all) {
      expect(buckets.length > 0, name).toBe(kind === "histogram");
      expect([...buckets].sort((a, b) => a - b)).toEqual(buckets);
    }
  });
});
