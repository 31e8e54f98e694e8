/**
 * What those who watch are told: how everything is now, worked out at most a few times in a second however many they are, and what
 * of it has changed since each was told last. Nothing is kept for who is slow; it is told the difference when it asks again.
 */
import {
  Dimension,
  type Group,
  type Happening,
  type Rates,
  type WatchedNode,
  type WatchedWorker,
  type WatchResponse,
} from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { latencyOf, Tally } from "../../libs/tally/index.ts";
import type { Happenings } from "./happenings.ts";
import { FINE_STEP_MS, type Memory } from "./memory.ts";
import type { MeshState, WorkerState } from "./mesh-state.ts";

/** Of workers and models. */
const WINDOW_MS = 300_000;
/** Of latencies. */
const LATENCY_WINDOW_MS = 60_000;
/** As far back as rates may be asked for. */
const SAMPLES_MS = 60_000;
/** What was worked out less than this ago is still true. */
const FRESH_MS = 200;
const MOST_USED_MAX = 10;
const HAPPENINGS_MAX = 50;
/** Workers that are gone are remembered for those who don't know yet; who has been away for longer is told everything. */
const GONE_MAX = 5_000;

/** What has been counted since the start, for rates. */
export interface Totals {
  readonly requests: number;
  readonly errors: number;
  readonly outputTokens: number;
  readonly hits: number;
  readonly served: number;
}

interface Sample extends Totals {
  readonly atMs: number;
}

interface Row {
  readonly watched: WatchedWorker;
  /** `watched`, to be compared. */
  readonly text: string;
  /** When it last changed. */
  readonly version: number;
}

/** How far somebody has been told. */
export interface Told {
  readonly version: number;
  readonly happenings: number;
}

interface BoardOptions {
  readonly memory: Memory;
  readonly state: Pick<MeshState, "workers" | "nodes">;
  readonly happenings: Happenings;
  readonly totals: () => Totals;
  readonly eventsLost: () => number;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

type PastTallies = Awaited<ReturnType<Memory["past"]>>;

/** A window without the step that is not over. */
interface Past {
  readonly tallies: PastTallies;
  readonly sinceMs: number;
  /** Of the memory, when it was read. */
  readonly generation: number;
}

/** The figures of a worker, and what they were made of. */
interface WorkerFigures extends Pick<WatchedWorker, "score" | "attempts" | "errors" | "p95Ms" | "tokensPerSecond"> {
  readonly past: PastTallies;
  readonly current: number;
}

/** How far one is told who has been told nothing. */
export const NOTHING_TOLD: Told = { version: 0, happenings: Number.NEGATIVE_INFINITY };

/** The state of everything, for who watches. */
export class Board {
  readonly #options: BoardOptions;
  #version = 0;
  #refreshedAtMs = Number.NEGATIVE_INFINITY;
  #refreshing: Promise<void> | undefined;
  readonly #rows = new Map<string, Row>();
  readonly #gone = new Map<string, number>();
  /** Whoever was told less than this is told everything. */
  #oldestVersion = 1;
  #nodes: readonly WatchedNode[] = [];
  #nodesText = "";
  #nodesVersion = 0;
  #mostUsed: Group[] = [];
  #latency: Pick<Rates, "duration" | "timeToFirstToken"> = { duration: undefined, timeToFirstToken: undefined };
  readonly #samples: Sample[] = [];
  #past: Past | undefined;
  readonly #figures = new Map<string, WorkerFigures>();
  /** What is told now to who was told the same before. */
  readonly #messages = new Map<string, WatchResponse>();

  constructor(options: BoardOptions) {
    this.#options = options;
    this.sample();
  }

  /** Notes how much has been counted; to be called a few times in a second, so that there are rates when somebody asks. */
  sample(): void {
    const atMs = this.#options.now();
    this.#samples.push({ atMs, ...this.#options.totals() });
    while (this.#samples.length > 1 && this.#samples[1]!.atMs < atMs - SAMPLES_MS) this.#samples.shift();
  }

  /** What is new since `told`, and how far that is. */
  async tell(told: Told, intervalMs: number): Promise<{ readonly message: WatchResponse; readonly told: Told }> {
    if (this.#options.now() - this.#refreshedAtMs >= FRESH_MS) {
      this.#refreshing ??= this.#refresh().finally(() => {
        this.#refreshing = undefined;
      });
      await this.#refreshing;
    }
    const key = `${told.version} ${told.happenings} ${intervalMs}`;
    let message = this.#messages.get(key);
    if (message === undefined) {
      message = this.#write(told, intervalMs);
      this.#messages.set(key, message);
    }
    return { message, told: { version: this.#version, happenings: this.#options.happenings.number } };
  }

  #write(told: Told, intervalMs: number): WatchResponse {
    const { happenings, eventsLost } = this.#options;
    const whole = told.version < this.#oldestVersion;
    const since = whole ? 0 : told.version;
    const workers: WatchedWorker[] = [];
    for (const { watched, version } of this.#rows.values()) if (version > since) workers.push(watched);
    const gone = whole ? [] : [...this.#gone].flatMap(([name, version]) => (version > since ? [name] : []));
    const news: Happening[] = happenings.since(told.happenings, HAPPENINGS_MAX);
    return {
      atMs: this.#refreshedAtMs,
      rates: this.#rates(intervalMs),
      workers,
      gone,
      nodes: this.#nodesVersion > since ? this.#nodes : [],
      happenings: news,
      mostUsed: this.#mostUsed,
      eventsLost: eventsLost(),
      whole,
    };
  }

  #rates(intervalMs: number): Rates {
    const now = this.#samples.at(-1)!;
    const before = this.#samples.findLast(({ atMs }) => atMs <= now.atMs - intervalMs) ?? this.#samples[0]!;
    const seconds = (now.atMs - before.atMs) / 1_000;
    const rate = (of: keyof Totals) => (seconds <= 0 ? 0 : (now[of] - before[of]) / seconds);
    const served = now.served - before.served;
    let activeRequests = 0;
    for (const { watched } of this.#rows.values()) activeRequests += watched.activeRequests;
    return {
      requestsPerSecond: rate("requests"),
      errorsPerSecond: rate("errors"),
      outputTokensPerSecond: rate("outputTokens"),
      hitRate: served === 0 ? 0 : (now.hits - before.hits) / served,
      activeRequests,
      ...this.#latency,
    };
  }

  async #refresh(): Promise<void> {
    const { memory, state, now } = this.#options;
    const past = await this.#readPast();
    this.#refreshedAtMs = now();
    this.#version++;
    this.#messages.clear();
    this.sample();
    const present = new Set<string>();
    const current = memory.current(past.sinceMs, Dimension.WORKER);
    for (const worker of state.workers()) {
      present.add(worker.name);
      this.#putWorker(worker, this.#figuresOf(worker.name, past.tallies, current));
    }
    for (const name of this.#rows.keys()) if (!present.has(name)) this.#drop(name);
    const nodes = state.nodes();
    const text = JSON.stringify(nodes);
    if (text !== this.#nodesText) {
      this.#nodes = nodes;
      this.#nodesText = text;
      this.#nodesVersion = this.#version;
    }
    this.#mostUsed = mostUsed(past.tallies.get(Dimension.MODEL)!, memory.current(past.sinceMs, Dimension.MODEL));
    const { duration, timeToFirstToken } = memory.total(this.#refreshedAtMs - LATENCY_WINDOW_MS);
    this.#latency = { duration: latencyOf(duration), timeToFirstToken: latencyOf(timeToFirstToken) };
  }

  /** What the steps that are over say of the window; read again only when one has ended. */
  async #readPast(): Promise<Past> {
    const { memory, now } = this.#options;
    for (;;) {
      const sinceMs = Math.floor(now() / FINE_STEP_MS) * FINE_STEP_MS - WINDOW_MS;
      const { generation } = memory;
      if (this.#past?.sinceMs === sinceMs && this.#past.generation === generation) return this.#past;
      const tallies = await memory.past(sinceMs, [Dimension.WORKER, Dimension.MODEL]);
      this.#past = { tallies, sinceMs, generation };
    }
  }

  #figuresOf(name: string, past: PastTallies, current: ReadonlyMap<string, Tally>): WorkerFigures {
    const now = current.get(name);
    const known = this.#figures.get(name);
    if (known?.past === past && known.current === (now?.requests ?? 0)) return known;
    const tally = new Tally();
    tally.absorb(past.get(Dimension.WORKER)!.get(name));
    tally.absorb(now);
    const figures: WorkerFigures = {
      past,
      current: now?.requests ?? 0,
      score: tally.score(name).score,
      attempts: tally.requests,
      errors: tally.errors,
      p95Ms: rounded(tally.duration.quantile(0.95)),
      tokensPerSecond: rounded(tally.tokensPerSecond),
    };
    this.#figures.set(name, figures);
    return figures;
  }

  #putWorker(worker: WorkerState, figures: WorkerFigures): void {
    const { score, attempts, errors, p95Ms, tokensPerSecond } = figures;
    const watched: WatchedWorker = { ...worker, score, attempts, errors, p95Ms, tokensPerSecond };
    const text = JSON.stringify(watched);
    if (this.#rows.get(worker.name)?.text === text) return;
    this.#rows.set(worker.name, { watched, text, version: this.#version });
    this.#gone.delete(worker.name);
  }

  #drop(name: string): void {
    this.#rows.delete(name);
    this.#figures.delete(name);
    this.#gone.set(name, this.#version);
    if (this.#gone.size <= GONE_MAX) return;
    const [[oldest, version]] = this.#gone as unknown as [[string, number]];
    this.#gone.delete(oldest);
    this.#oldestVersion = version + 1;
  }
}

function mostUsed(past: ReadonlyMap<string, Tally>, current: ReadonlyMap<string, Tally>): Group[] {
  const requests = new Map<string, number>();
  for (const tallies of [past, current]) {
    for (const [name, tally] of tallies) requests.set(name, (requests.get(name) ?? 0) + tally.requests);
  }
  const most = [...requests].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).slice(0, MOST_USED_MAX);
  return most.map(([name]) => {
    const tally = new Tally();
    tally.absorb(past.get(name));
    tally.absorb(current.get(name));
    return { dimension: Dimension.MODEL, name, figures: tally.figures() };
  });
}

/** To a tenth, so that what is the same to people is the same. */
function rounded(value: number): number {
  return Math.round(value * 10) / 10;
}
