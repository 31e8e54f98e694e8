/**
 * What a node counts, and how it tells Prometheus. Each node has a set of its own: several may live in one process.
 *
 * prom-client writes the text and watches the process. Its counters and histograms hash their labels anew at each observation and
 * keep as many series as there are values, so what is observed here is kept here: a series is found by a walk along its labels'
 * values, which allocates nothing, and values beyond the bounds of the catalogue share the value "(other)".
 */
import { getHeapStatistics } from "node:v8";
import { collectDefaultMetrics, type Metric, type OpenMetricsContentType, Registry } from "prom-client";
import { type Counter, type Gauge, type Histogram, LABEL, METRIC, type MetricDefinition } from "./metric-catalogue.ts";
import type { TraceContext } from "./trace.ts";

/** What stands for values beyond a label's bound. */
export const OTHER = "(other)";
/** The series of one metric: more are counted together, with OTHER in all labels. */
const SERIES_MAX = { counter: 20_000, gauge: 20_000, histogram: 2_000 } as const;

type Values<L extends readonly string[]> = { readonly [K in keyof L]: string };

/** Where those who know how something is now write it down. */
export interface Report {
  /** How it is, or how much it has become: a gauge, or a counter that is kept elsewhere. */
  set<L extends readonly string[]>(metric: Gauge<L> | Counter<L>, value: number, ...labels: Values<L>): void;
}

/** The metrics of a node. */
export interface Metrics {
  /** Whether anything is counted: a node may be told not to. */
  readonly enabled: boolean;
  /** Counts. */
  add<L extends readonly string[]>(metric: Counter<L>, value: number, ...labels: Values<L>): void;
  /** Counts a value by its size; a trace that is recorded is kept as the example of its bucket. */
  observe<L extends readonly string[]>(
    metric: Histogram<L>,
    value: number,
    trace: Pick<TraceContext, "traceId" | "sampled"> | undefined,
    ...labels: Values<L>
  ): void;
  /**
   * Asks `source` at each scrape, for what need not be followed all the time. What it throws is left out. Returns how to stop.
   */
  collect(source: (report: Report) => void | Promise<void>): () => void;
  /** Everything, in the newest format that a scraper's `Accept` header takes. */
  expose(accept: string): Promise<{ readonly contentType: string; readonly body: string }>;
}

export interface MetricsOptions {
  /** False counts nothing. */
  readonly enabled?: boolean;
  /** Watches the process too; of several sets in one process, one is enough. */
  readonly process?: boolean;
  /** Told what a source of `collect` has thrown; the rest is exposed all the same. */
  readonly onFailure?: (error: unknown) => void;
}

/** Makes the metrics of a node. */
export function createMetrics({ enabled = true, process = false, onFailure }: MetricsOptions = {}): Metrics {
  return enabled ? new NodeMetrics(process, onFailure) : NO_METRICS;
}

const NO_METRICS: Metrics = {
  enabled: false,
  add() {},
  observe() {},
  collect: () => () => {},
  expose: async () => ({ contentType: Registry.PROMETHEUS_CONTENT_TYPE, body: "" }),
};

/** The latest example of what fell into a bucket. */
interface Exemplar {
  traceId: string;
  value: number;
  atMs: number;
}

/** What prom-client writes a line of. */
interface Sample {
  readonly value: number;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly sharedLabels?: Readonly<Record<string, string>>;
  readonly metricName?: string;
  readonly exemplar?:
    | { readonly labelSet: { readonly trace_id: string }; readonly value: number; readonly timestamp: number }
    | undefined;
}

type Labels = Readonly<Record<string, string>>;

class CounterSeries {
  readonly labels: Labels;
  value = 0;
  constructor(labels: Labels) {
    this.labels = labels;
  }
}

class HistogramSeries {
  readonly labels: Labels;
  readonly #bounds: readonly number[];
  /** Each value once, in the bucket that it falls into; the last is for what is larger than all bounds. */
  readonly #counts: Float64Array;
  readonly #exemplars: (Exemplar | undefined)[];
  #sum = 0;

  constructor(labels: Labels, bounds: readonly number[]) {
    this.labels = labels;
    this.#bounds = bounds;
    this.#counts = new Float64Array(bounds.length + 1);
    this.#exemplars = new Array(bounds.length + 1).fill(undefined);
  }

  observe(value: number, trace: Pick<TraceContext, "traceId" | "sampled"> | undefined): void {
    const bounds = this.#bounds;
    let bucket = 0;
    while (bucket < bounds.length && value > bounds[bucket]!) bucket++;
    this.#counts[bucket]!++;
    this.#sum += value;
    if (trace?.sampled !== true) return;
    const exemplar = this.#exemplars[bucket];
    if (exemplar === undefined) this.#exemplars[bucket] = { traceId: trace.traceId, value, atMs: Date.now() };
    else {
      exemplar.traceId = trace.traceId;
      exemplar.value = value;
      exemplar.atMs = Date.now();
    }
  }

  *samples(name: string): Iterable<Sample> {
    const sharedLabels = this.labels;
    let count = 0;
    for (const [bucket, inBucket] of this.#counts.entries()) {
      count += inBucket;
      const labels = { le: this.#bounds[bucket] ?? "+Inf" };
      const kept = this.#exemplars[bucket];
      const exemplar = kept && {
        labelSet: { trace_id: kept.traceId },
        value: kept.value,
        timestamp: kept.atMs / 1_000,
      };
      yield { value: count, labels, sharedLabels, metricName: `${name}_bucket`, exemplar };
    }
    yield { value: this.#sum, labels: {}, sharedLabels, metricName: `${name}_sum` };
    yield { value: count, labels: {}, sharedLabels, metricName: `${name}_count` };
  }
}

/** From a label's value to the next label's, and at last to the series. */
type Branch<S> = Map<string, Branch<S> | S>;

interface Found<S> {
  readonly values: readonly string[];
  readonly series: S;
}

function sameValues(some: readonly string[], others: readonly string[]): boolean {
  for (let level = 0; level < some.length; level++) if (some[level] !== others[level]) return false;
  return true;
}

/** The series of one metric, by their labels' values. */
class Family<S> {
  readonly definition: MetricDefinition;
  readonly #make: (labels: Labels) => S;
  #root: Branch<S> = new Map();
  /** The values of each label. */
  #known: readonly Set<string>[];
  #series: S[] = [];
  /** The two that were asked for last: mostly the next is one of them, and found without a walk through memory. */
  #last: Found<S> | undefined;
  #lastButOne: Found<S> | undefined;

  constructor(definition: MetricDefinition, make: (labels: Labels) => S) {
    this.definition = definition;
    this.#make = make;
    this.#known = definition.labels.map(() => new Set<string>());
  }

  get series(): readonly S[] {
    return this.#series;
  }

  clear(): void {
    this.#root = new Map();
    this.#known = this.definition.labels.map(() => new Set<string>());
    this.#series = [];
    this.#last = undefined;
    this.#lastButOne = undefined;
  }

  of(values: readonly string[]): S {
    if (this.#last !== undefined && sameValues(this.#last.values, values)) return this.#last.series;
    const found =
      this.#lastButOne !== undefined && sameValues(this.#lastButOne.values, values)
        ? this.#lastButOne
        : { values, series: this.#walk(values) };
    this.#lastButOne = this.#last;
    this.#last = found;
    return found.series;
  }

  #walk(values: readonly string[]): S {
    if (values.length === 0) return this.#series[0] ?? this.#add(values);
    let branch: Branch<S> = this.#root;
    const last = values.length - 1;
    for (let level = 0; level < last; level++) {
      const next = branch.get(values[level]!);
      if (next === undefined) return this.#create(values);
      branch = next as Branch<S>;
    }
    return (branch.get(values[last]!) as S | undefined) ?? this.#create(values);
  }

  /** Finds or makes the series of values that were not met before. */
  #create(met: readonly string[]): S {
    const bounded = met.map((value, level) => this.#bounded(level, value));
    const found = this.#find(bounded);
    if (found !== undefined) return found;
    if (this.#series.length < SERIES_MAX[this.definition.kind]) return this.#add(bounded);
    const rest = met.map(() => OTHER);
    return this.#find(rest) ?? this.#add(rest);
  }

  #find(values: readonly string[]): S | undefined {
    let branch: Branch<S> | S | undefined = this.#root;
    for (const value of values) branch = (branch as Branch<S> | undefined)?.get(value);
    return branch as S | undefined;
  }

  #add(values: readonly string[]): S {
    const series = this.#make(this.#labelsOf(values));
    this.#series.push(series);
    let branch = this.#root;
    for (const value of values.slice(0, -1)) {
      const next = (branch.get(value) as Branch<S> | undefined) ?? new Map();
      branch.set(value, next);
      branch = next;
    }
    if (values.length > 0) branch.set(values.at(-1)!, series);
    return series;
  }

  #bounded(level: number, value: string): string {
    const known = this.#known[level]!;
    if (known.has(value)) return value;
    const { max } = LABEL[this.definition.labels[level] as keyof typeof LABEL];
    if (known.size >= max) return OTHER;
    known.add(value);
    return value;
  }

  #labelsOf(values: readonly string[]): Labels {
    return Object.fromEntries(this.definition.labels.map((name, level) => [name, values[level]!]));
  }
}

class NodeMetrics implements Metrics {
  readonly enabled = true;
  readonly #counters = new Map<MetricDefinition, Family<CounterSeries>>();
  readonly #histograms = new Map<MetricDefinition, Family<HistogramSeries>>();
  readonly #sources = new Set<(report: Report) => void | Promise<void>>();
  readonly #registries: { readonly text: Registry; readonly openMetrics: Registry<OpenMetricsContentType> };
  /** Scrapes are made one after the other: what is collected is kept in the families while it is written. */
  #scraping: Promise<unknown> = Promise.resolve();

  readonly #onFailure: ((error: unknown) => void) | undefined;

  constructor(watchProcess: boolean, onFailure: ((error: unknown) => void) | undefined) {
    this.#onFailure = onFailure;
    const openMetrics = new Registry<OpenMetricsContentType>();
    openMetrics.setContentType(Registry.OPENMETRICS_CONTENT_TYPE);
    this.#registries = { text: new Registry(), openMetrics };
    const processMetrics = new Registry();
    if (watchProcess) collectDefaultMetrics({ register: processMetrics });
    for (const definition of Object.values(METRIC) as MetricDefinition[]) {
      const { name, kind, help, buckets } = definition;
      const watched = processMetrics.getSingleMetric(name);
      if (watched !== undefined) this.#register(name, kind, help, async () => (await watched.get()).values as Sample[]);
      else if (PROCESS.has(definition)) continue;
      else if (kind === "histogram") {
        const family = new Family(definition, (labels) => new HistogramSeries(labels, buckets));
        this.#histograms.set(definition, family);
        this.#register(name, kind, help, () => family.series.flatMap((series) => [...series.samples(name)]));
      } else {
        const family = new Family(definition, (labels) => new CounterSeries(labels));
        this.#counters.set(definition, family);
        this.#register(name, kind, help, () => family.series);
      }
    }
    this.collect((report) => {
      report.set(METRIC.eventLoopActive, performance.eventLoopUtilization().active / 1_000);
      report.set(METRIC.heapLimit, getHeapStatistics().heap_size_limit);
      report.set(METRIC.series, this.#countSeries());
    });
  }

  add<L extends readonly string[]>(metric: Counter<L>, value: number, ...labels: Values<L>): void {
    this.#counters.get(metric)!.of(labels).value += value;
  }

  observe<L extends readonly string[]>(
    metric: Histogram<L>,
    value: number,
    trace: Pick<TraceContext, "traceId" | "sampled"> | undefined,
    ...labels: Values<L>
  ): void {
    this.#histograms.get(metric)!.of(labels).observe(value, trace);
  }

  collect(source: (report: Report) => void | Promise<void>): () => void {
    this.#sources.add(source);
    return () => this.#sources.delete(source);
  }

  expose(accept: string): Promise<{ contentType: string; body: string }> {
    const registry = /\bapplication\/openmetrics-text\b/.test(accept)
      ? this.#registries.openMetrics
      : this.#registries.text;
    const scrape = this.#scraping.then(async () => {
      await this.#collectNow();
      return { contentType: registry.contentType, body: await registry.metrics() };
    });
    this.#scraping = scrape.catch(() => {});
    return scrape;
  }

  async #collectNow(): Promise<void> {
    const collected = new Set<Family<CounterSeries>>();
    const report: Report = {
      set: (metric, value, ...labels) => {
        const family = this.#counters.get(metric)!;
        // What is gone since the last scrape, a worker that was removed, has to be gone here too.
        if (!collected.has(family)) family.clear();
        collected.add(family);
        family.of(labels as readonly string[]).value = value;
      },
    };
    for (const source of this.#sources) {
      try {
        await source(report);
      } catch (error) {
        this.#onFailure?.(error);
      }
    }
    for (const family of this.#reported) if (!collected.has(family)) family.clear();
    this.#reported = collected;
  }
  #reported: ReadonlySet<Family<CounterSeries>> = new Set();

  /**
   * Registers a metric with both formats. Each is written in a turn of the event loop of its own: a scrape of a large mesh must not
   * hold up the streams that pass through the node.
   */
  #register(
    name: string,
    type: string,
    help: string,
    samples: () => readonly Sample[] | Promise<readonly Sample[]>,
  ): void {
    for (const registry of Object.values(this.#registries)) {
      const get = async () => {
        await this.#nextTurn();
        return {
          name: registry === this.#registries.openMetrics ? name.replace(/_total$/, "") : name,
          type,
          help,
          values: await samples(),
        };
      };
      registry.registerMetric({ name, type, get } as unknown as Metric);
    }
  }

  /** Resolves in a turn of the event loop of its own. */
  #nextTurn(): Promise<void> {
    this.#turn = this.#turn.then(() => new Promise((resolve) => setImmediate(resolve)));
    return this.#turn;
  }
  #turn: Promise<void> = Promise.resolve();

  #countSeries(): number {
    let count = 0;
    for (const { series } of this.#counters.values()) count += series.length;
    for (const { series, definition } of this.#histograms.values()) {
      count += series.length * (definition.buckets.length + 3);
    }
    return count;
  }
}

/** What prom-client tells of the process. */
const PROCESS: ReadonlySet<MetricDefinition> = new Set<MetricDefinition>([
  METRIC.eventLoopDelayP99,
  METRIC.eventLoopDelayMax,
  METRIC.processCpu,
  METRIC.processMemory,
  METRIC.processStart,
  METRIC.processFilesMax,
  METRIC.heapUsed,
  METRIC.heapTotal,
  METRIC.externalMemory,
  METRIC.garbageCollection,
]);
