/** Adds up what has ended on this router, and tells the sums a few times in a second: the figures of the last hour are made of them. */
import {
  type AttemptFinished,
  type RequestFinished,
  RequestOutcome,
  TrafficCounted,
  type TrafficCounted_Failure,
  type TrafficCounted_FirstTokens,
  type TrafficCounted_Takeover,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Events } from "../../libs/mesh/index.ts";
import { CATALOGUE, type Reason } from "../../libs/rpc/index.ts";
import { NAME_CHARACTERS_MAX, Traffic } from "../../libs/tally/index.ts";
import { EVENT, NO_TRACE } from "../../libs/telemetry/index.ts";

/** So many are told at once, of so many names, so that the message stays below what NATS takes, 1 MB, however long the names are. */
const ENDED_MAX = 4_000;
const NAMES_MAX = 800;
/** Of each pair, and how many pairs. */
const FIRST_TOKENS_MAX = 64;
const FIRST_TOKENS_PAIRS_MAX = 200;
const TAKEOVERS_MAX = 100;
const FAILURES_MAX = 100;

interface TrafficTellerOptions {
  readonly nodeId: string;
  readonly events: Pick<Events, "publish">;
}

/** Counts, and tells. Never throws and never waits. */
export class TrafficTeller {
  readonly #options: TrafficTellerOptions;
  readonly #traffic = new Traffic();
  #ended = 0;
  /** By worker and model. */
  readonly #firstTokens = new Map<string, TrafficCounted_FirstTokens & { readonly timesMs: number[] }>();
  readonly #takeovers = new Map<string, TrafficCounted_Takeover>();
  readonly #failures = new Map<string, TrafficCounted_Failure>();

  constructor(options: TrafficTellerOptions) {
    this.#options = options;
  }

  attempt(attempt: AttemptFinished): void {
    this.#traffic.addAttempt(attempt);
    const { worker, model, timeToFirstTokenMs } = attempt;
    if (timeToFirstTokenMs > 0) this.#firstToken(worker, model, timeToFirstTokenMs);
    this.#oneMore();
  }

  request(request: RequestFinished): void {
    this.#traffic.addRequest(request);
    const { outcome, reason, requestedModel, traceId } = request;
    if (outcome === RequestOutcome.FAILED && CATALOGUE[reason as Reason]?.class !== "request") {
      const model = requestedModel.slice(0, NAME_CHARACTERS_MAX);
      const failure = { requestedModel: model, reason, requests: 0, traceId };
      countOne(this.#failures, `${reason} ${model}`, failure, FAILURES_MAX);
    }
    this.#oneMore();
  }

  /** A request was served after the worker that was asked first had failed. */
  takeover(failed: AttemptFinished, served: AttemptFinished, inTheMiddle: boolean): void {
    const { worker: failedWorker, reason } = failed;
    const { worker, traceId } = served;
    const takeover = { failedWorker, reason, worker, inTheMiddle, requests: 0, traceId };
    countOne(this.#takeovers, `${failedWorker} ${reason} ${worker} ${inTheMiddle}`, takeover, TAKEOVERS_MAX);
  }

  /** Tells what has been counted since the last time. */
  tell(): void {
    if (this.#ended === 0) return;
    const { events, nodeId } = this.#options;
    const message: TrafficCounted = {
      node: nodeId,
      ...this.#traffic.encode(),
      firstTokens: [...this.#firstTokens.values()],
      takeovers: [...this.#takeovers.values()],
      failures: [...this.#failures.values()],
    };
    this.#traffic.clear();
    this.#ended = 0;
    this.#firstTokens.clear();
    this.#takeovers.clear();
    this.#failures.clear();
    events.publish(EVENT.trafficCounted, TrafficCounted, message, NO_TRACE, { atOnce: true });
  }

  #oneMore(): void {
    this.#ended++;
    if (this.#ended >= ENDED_MAX || this.#traffic.names >= NAMES_MAX) this.tell();
  }

  #firstToken(worker: string, model: string, ms: number): void {
    const key = `${worker} ${model}`;
    let known = this.#firstTokens.get(key);
    if (known === undefined) {
      // A client may make up a name as long as it likes, where a worker is asked for any model.
      if (this.#firstTokens.size >= FIRST_TOKENS_PAIRS_MAX || model.length > NAME_CHARACTERS_MAX) return;
      known = { worker, model, timesMs: [] };
      this.#firstTokens.set(key, known);
    }
    if (known.timesMs.length < FIRST_TOKENS_MAX) known.timesMs.push(ms);
  }
}

/** Counts one more of its kind; `first` is what it is if it is the first. */
function countOne<T extends { requests: number }>(all: Map<string, T>, key: string, first: T, max: number): void {
  let known = all.get(key);
  if (known === undefined) {
    if (all.size >= max) return;
    known = first;
    all.set(key, known);
  }
  known.requests++;
}
