/** What the router is given: its room's only tie to the node. */
import type { Clients, Directory, Events } from "../../libs/mesh/index.ts";
import type { Logger, Tracer } from "../../libs/telemetry/index.ts";
import type { Routes } from "./candidates.ts";

/** What the router needs of its node. */
export interface RouterDependencies {
  readonly nodeId: string;
  readonly directory: Directory;
  readonly clients: Clients;
  readonly events: Events;
  readonly tracer: Tracer;
  readonly log: Logger;
  readonly routes: Routes;
  /** Workers tried for one request. */
  readonly attemptsMax: number;
  /** Milliseconds on a clock that never goes back. */
  now(): number;
  /** 0 ≤ x < 1. */
  random(): number;
}
