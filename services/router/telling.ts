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

/** What telling needs of its node. */
export interface TellingDependencies {
  readonly events: Events;
  readonly metrics: Metrics;
}

/** Tells the mesh, and counts. Never throws and never waits. */
export class Telling {
  readonly metrics: RouterMetrics;
  readonly #events: Events;

  constructor({ events, metrics }: TellingDependencies) {
    this.#events = events;
    this.metrics = new RouterMetrics(metrics);
  }

  /** A request has begun: its end is told once. */
  requestBegins(stream: boolean): void {
    this.metrics.requestBegins(stream);
  }

  /** An attempt has ended, however it ended. */
  tellAttempt(attempt: AttemptFinished, context: AttemptContext): void {
    this.metrics.attemptEnds(attempt, context);
    this.#events.gather(EVENT.attemptFinished, AttemptsFinished, { attempts: [attempt] });
  }

  /** A request has ended, however it ended. */
  tellRequest(request: RequestFinished, trace: TraceContext): void {
    this.metrics.requestEnds(request, trace);
    this.#events.gather(EVENT.requestFinished, RequestsFinished, { requests: [request] });
  }
}
