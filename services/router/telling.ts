/** The one place where a router tells what has ended: each attempt, and each request. */
import {
  type AttemptFinished,
  AttemptsFinished,
  type RequestFinished,
  RequestsFinished,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Events } from "../../libs/mesh/index.ts";
import { EVENT, type Metrics, type TraceContext } from "../../libs/telemetry/index.ts";
import { type AttemptContext, RouterMetrics } from "./metrics.ts";
import { TrafficTeller } from "./traffic-teller.ts";

/** How often the sums are told: figures are shown once a second. */
const TELL_MS = 250;

/**
 * So many that have ended are counted in one go, or fewer when the sums are due: counting touches much memory, which is the same for
 * all, and has long left the processor's caches when it is done once a request.
 */
const TOGETHER = 16;

/** What telling needs of its node. */
export interface TellingDependencies {
  readonly nodeId: string;
  readonly events: Events;
  readonly metrics: Metrics;
}

/** Tells the mesh, and counts. Never throws and never waits. */
export class Telling {
  readonly #events: Events;
  readonly #metrics: Metrics;
  readonly #counted: RouterMetrics;
  readonly #traffic: TrafficTeller;
  readonly #endedRequests: { readonly request: RequestFinished; readonly trace: TraceContext }[] = [];
  readonly #endedAttempts: { readonly attempt: AttemptFinished; readonly context: AttemptContext }[] = [];
  /** It tells the sums. */
  #timer: NodeJS.Timeout | undefined;
  #requests = 0;
  #streams = 0;

  constructor({ nodeId, events, metrics }: TellingDependencies) {
    this.#events = events;
    this.#metrics = metrics;
    this.#counted = new RouterMetrics(metrics);
    this.#traffic = new TrafficTeller({ nodeId, events });
  }

  /** Requests that are served now, and those of them that are streamed. */
  get inFlight(): { readonly requests: number; readonly streams: number } {
    return { requests: this.#requests, streams: this.#streams };
  }

  /** A request has begun: its end is told once. */
  requestBegins(stream: boolean): void {
    this.#requests++;
    if (stream) this.#streams++;
  }

  /** An attempt has ended, however it ended. */
  tellAttempt(attempt: AttemptFinished, context: AttemptContext): void {
    this.#events.gather(EVENT.attemptFinished, AttemptsFinished, { attempts: [attempt] });
    if (!this.#metrics.enabled) return;
    this.#endedAttempts.push({ attempt, context });
    this.#oneMoreEnded(this.#endedAttempts.length);
  }

  /** A request has ended, however it ended. */
  tellRequest(request: RequestFinished, trace: TraceContext): void {
    this.#requests--;
    if (request.stream) this.#streams--;
    this.#events.gather(EVENT.requestFinished, RequestsFinished, { requests: [request] });
    if (!this.#metrics.enabled) return;
    this.#endedRequests.push({ request, trace });
    this.#oneMoreEnded(this.#endedRequests.length);
  }

  /** A request was served after the worker that was asked first had failed: `inTheMiddle` of its answer, or before it. */
  tellTakeover(failed: AttemptFinished, served: AttemptFinished, inTheMiddle: boolean): void {
    if (this.#metrics.enabled) this.#traffic.takeover(failed, served, inTheMiddle);
  }

  /** Counts what has ended since the last time. */
  countEnded(): void {
    for (const { attempt, context } of this.#endedAttempts.splice(0)) {
      this.#counted.attempt(attempt, context);
      this.#traffic.attempt(attempt);
    }
    for (const { request, trace } of this.#endedRequests.splice(0)) {
      this.#counted.request(request, trace);
      this.#traffic.request(request);
    }
  }

  #oneMoreEnded(waiting: number): void {
    this.#timer ??= setTimeout(() => this.tellSums(), TELL_MS).unref();
    if (waiting >= TOGETHER) this.countEnded();
  }

  /** Tells all sums at once: it is time, or the router is about to stop. */
  tellSums(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.countEnded();
    this.#traffic.tell();
  }
}
