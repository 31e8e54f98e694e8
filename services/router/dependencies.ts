/** What the router is given, and what its parts share. */
import type { Configuration } from "../../libs/host/index.ts";
import type { Clients, Directory, Events } from "../../libs/mesh/index.ts";
import type { Logger, Metrics, Tracer } from "../../libs/telemetry/index.ts";
import type { Admission } from "./admission.ts";
import type { Budget } from "./budget.ts";
import type { WorkerIndex } from "./candidates.ts";
import type { Latencies } from "./latencies.ts";
import type { Loads } from "./loads.ts";
import type { Chooser } from "./strategies.ts";
import type { Telling } from "./telling.ts";

/** What the router needs of its node. */
export interface RouterDependencies {
  readonly nodeId: string;
  readonly directory: Directory;
  readonly clients: Clients;
  readonly events: Events;
  readonly tracer: Tracer;
  readonly metrics: Metrics;
  readonly log: Logger;
  /** Read at each request, as it may change. */
  routing(): Configuration["routing"];
  cache(): Configuration["cache"];
  /** Milliseconds on a clock that never goes back. */
  now(): number;
  /** 0 ≤ x < 1. */
  random(): number;
}

/** The router's memory: one for each node that routes. */
export interface RouterState extends RouterDependencies {
  readonly loads: Loads;
  readonly latencies: Latencies;
  readonly chooser: Chooser;
  readonly admission: Admission;
  readonly telling: Telling;
  /** For asking a worker again that has failed. */
  readonly retries: Budget;
  /** For asking a second worker while the first one is late. */
  readonly hedges: Budget;
  /** Models that have refused a prefill, as `worker/model`. */
  readonly prefillRefused: Set<string>;
  /** The workers that run now. */
  index(): WorkerIndex;
  /** Whether a name was known a short while ago, before the nodes that had it were lost. */
  recentlyKnown(name: string): boolean;
}
