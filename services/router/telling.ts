/** The one place where a router tells what has ended: each attempt, and each request. */
import {
  type AttemptFinished,
  AttemptsFinished,
  type RequestFinished,
  RequestsFinished,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Events } from "../../libs/mesh/index.ts";
import { EVENT } from "../../libs/telemetry/index.ts";

/** What telling needs of its node. */
export interface TellingDependencies {
  readonly events: Events;
}

/** Tells the mesh. Never throws and never waits. */
export class Telling {
  readonly #events: Events;

  constructor({ events }: TellingDependencies) {
    this.#events = events;
  }

  /** An attempt has ended, however it ended. */
  tellAttempt(attempt: AttemptFinished): void {
    this.#events.gather(EVENT.attemptFinished, AttemptsFinished, { attempts: [attempt] });
  }

  /** A request has ended, however it ended. */
  tellRequest(request: RequestFinished): void {
    this.#events.gather(EVENT.requestFinished, RequestsFinished, { requests: [request] });
  }
}
