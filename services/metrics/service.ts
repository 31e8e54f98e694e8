/** The MetricsService: what may be asked of the last hour, and by whom. */
import {
  Dimension,
  type GetHistoryResponse,
  type Group,
  type HealthScore,
  type MetricsServiceDefinition,
  type Point,
  type WatchResponse,
} from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { abortReason, type Call, RpcError, type Service } from "../../libs/rpc/index.ts";
import { DIMENSIONS, latencyOf, Tally } from "../../libs/tally/index.ts";
import { type Board, NOTHING_TOLD } from "./board.ts";
import { COARSE_STEP_MS, FINE_MS, FINE_STEP_MS, MEMORY_MS, type Memory } from "./memory.ts";

type Metrics = Service<typeof MetricsServiceDefinition>;

const WINDOW_MS = 300_000;
const POINTS = 120;
const INTERVAL_MS = 1_000;
const INTERVAL_MIN_MS = 250;
const INTERVAL_MAX_MS = 60_000;
/** How many may watch at once. */
const WATCHERS_MAX = 500;

interface MetricsOptions {
  readonly memory: Memory;
  readonly board: Pick<Board, "tell">;
  readonly eventsLost: () => number;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

/** Answers from memory. */
export class MetricsAnswers implements Metrics {
  readonly #options: MetricsOptions;
  readonly #closing = new AbortController();
  #watchers = 0;

  constructor(options: MetricsOptions) {
    this.#options = options;
  }

  /** Ends what those who watch are told; they go on elsewhere. */
  close(): void {
    this.#closing.abort(new RpcError("NODE_DRAINING", "the node is about to stop"));
  }

  summarize: Metrics["summarize"] = async (request, call) => {
    const { memory, eventsLost, now } = this.#options;
    const nowMs = now();
    const sinceMs = nowMs - windowMs(request.windowS, WINDOW_MS);
    const wanted: readonly Dimension[] =
      request.dimensions.length === 0 ? DIMENSIONS : [...new Set(request.dimensions)];
    if (wanted.includes(Dimension.UNSPECIFIED)) throw invalid("dimensions", "has to name dimensions");
    // Whoever is no administrator sees what is its own.
    const dimensions = call.admin ? wanted : [Dimension.TENANT];
    const { fromMs, total, by } = await memory.window(sinceMs, dimensions);
    const groups: Group[] = [];
    for (const [dimension, tallies] of by) {
      for (const [name, tally] of [...tallies].sort(([a], [b]) => (a < b ? -1 : 1))) {
        if (call.admin || name === call.tenant) groups.push({ dimension, name, figures: tally.figures() });
      }
    }
    if (call.admin) return { fromMs, toMs: nowMs, total: total.figures(), groups, eventsLost: eventsLost() };
    const own = groups[0]?.figures ?? new Tally().figures();
    return {
      fromMs,
      toMs: nowMs,
      total: own,
      groups: wanted.includes(Dimension.TENANT) ? groups : [],
      eventsLost: eventsLost(),
    };
  };

  getHealthScores: Metrics["getHealthScores"] = async (request, call) => {
    requireAdmin(call);
    const sinceMs = this.#options.now() - windowMs(request.windowS, WINDOW_MS);
    const { by } = await this.#options.memory.window(sinceMs, [Dimension.PROVIDER, Dimension.WORKER]);
    const scores = (dimension: Dimension): HealthScore[] =>
      [...by.get(dimension)!].map(([name, tally]) => tally.score(name)).sort((a, b) => (a.name < b.name ? -1 : 1));
    return { providers: scores(Dimension.PROVIDER), workers: scores(Dimension.WORKER) };
  };

  getHistory: Metrics["getHistory"] = async (request, call): Promise<GetHistoryResponse> => {
    const { memory, now } = this.#options;
    const nowMs = now();
    const lengthMs = windowMs(request.windowS, MEMORY_MS);
    const finestMs = lengthMs <= FINE_MS ? FINE_STEP_MS : COARSE_STEP_MS;
    const points = request.points === 0 ? POINTS : request.points;
    const stepMs = Math.ceil(lengthMs / points / finestMs) * finestMs;
    // The last point is of the step that is not over.
    const sinceMs = Math.floor(nowMs / stepMs) * stepMs - (Math.ceil(lengthMs / stepMs) - 1) * stepMs;
    const steps = memory.history(sinceMs, call.admin ? undefined : call.tenant);
    const written: Point[] = [];
    let next = 0;
    for (let atMs = sinceMs; atMs <= nowMs; atMs += stepMs) {
      const tally = new Tally();
      let endMs = atMs + stepMs;
      for (; next < steps.length && steps[next]!.startMs < endMs; next++) {
        tally.absorb(steps[next]!.tally);
        // Where the memory is coarser than what is asked for, it tells what it has.
        if (steps[next]!.endMs > endMs) endMs = steps[next]!.endMs;
      }
      written.push(pointOf(atMs, stepMs, tally));
    }
    return { points: written };
  };

  watch: Metrics["watch"] = (request, call) => this.#watch(intervalOf(request.intervalMs), call);

  async *#watch(intervalMs: number, call: Call): AsyncGenerator<WatchResponse> {
    requireAdmin(call);
    if (this.#watchers >= WATCHERS_MAX) {
      throw new RpcError("OVERLOADED", `${WATCHERS_MAX} already watch this node`, { retryAfterMs: 10_000 });
    }
    const signal = AbortSignal.any([call.signal, this.#closing.signal]);
    this.#watchers++;
    try {
      for (let told = NOTHING_TOLD; ; ) {
        if (signal.aborted) throw abortReason(signal);
        const news = await this.#options.board.tell(told, intervalMs);
        told = news.told;
        yield news.message;
        await nextTick(intervalMs, this.#options.now(), signal);
      }
    } finally {
      this.#watchers--;
    }
  }
}

function intervalOf(intervalMs: number): number {
  if (intervalMs === 0) return INTERVAL_MS;
  const bounded = Math.min(Math.max(intervalMs, INTERVAL_MIN_MS), INTERVAL_MAX_MS);
  // Those with about the same interval are told the same at the same time.
  return Math.ceil(bounded / INTERVAL_MIN_MS) * INTERVAL_MIN_MS;
}

/** Waits until all who have this interval are told. */
function nextTick(intervalMs: number, nowMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const leftMs = intervalMs - (nowMs % intervalMs);
    // A timer may be early, and whoever has just come has just been told.
    const timer = setTimeout(done, leftMs < intervalMs / 2 ? leftMs + intervalMs : leftMs);
    signal.addEventListener("abort", done, { once: true });
    if (signal.aborted) done();
  });
}

function windowMs(windowS: number, otherwiseMs: number): number {
  if (windowS === 0) return otherwiseMs;
  if (!(windowS > 0 && windowS * 1_000 <= MEMORY_MS)) {
    throw invalid("window_s", "has to be more than 0 and at most 3600: that is as long as is remembered");
  }
  return windowS * 1_000;
}

function pointOf(atMs: number, stepMs: number, tally: Tally): Point {
  const { requests, errors, cacheHits, inputTokens, outputTokens, costUsd } = tally;
  return {
    atMs,
    stepS: stepMs / 1_000,
    requests,
    errors,
    cacheHits,
    inputTokens,
    outputTokens,
    costUsd,
    duration: latencyOf(tally.duration),
    timeToFirstToken: latencyOf(tally.timeToFirstToken),
  };
}

function invalid(field: string, rule: string): RpcError {
  return new RpcError("INVALID_REQUEST", `${field} ${rule}`, { field });
}

function requireAdmin(call: Call): void {
  if (call.admin) return;
  const message = "only an administrator's key may see the figures of everybody: clients[].admin in the configuration";
  throw new RpcError("PERMISSION_DENIED", message);
}
