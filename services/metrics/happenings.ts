/** What people want to know of, in a sentence each: made of the log of events, and of nodes that are gone without a word. */
import {
  type ConfigurationChanged,
  type KeyChanged,
  KeyChanged_Change,
  type NodeChanged,
  NodeChanged_Change,
  type ServiceChanged,
  ServiceChanged_Change,
  type TrafficCounted_Failure,
  type TrafficCounted_Takeover,
  type WorkerChanged,
  WorkerChanged_Change,
} from "../../libs/gen/cortex/events/v1/events.ts";
import type { Happening } from "../../libs/gen/cortex/metrics/v1/metrics.ts";
import { BreakerState, Health } from "../../libs/gen/cortex/provider/v1/provider.ts";

/** A happening, and how many there were before it. */
export interface NumberedHappening {
  readonly number: number;
  readonly happening: Happening;
}

type Tone = "good" | "bad" | "plain";
type Kind = "worker" | "breaker" | "key" | "node" | "service" | "configuration" | "attempt";

const KEPT_MAX = 200;
/** What happens again and again is told again after this, with how often it was. */
const REPEAT_MS = 10_000;
const REPEATED_MAX = 500;
const WORKERS_MAX = 5_000;
const WORD_CHARACTERS_MAX = 80;

interface Repeated {
  toldAtMs: number;
  /** How often since. */
  count: number;
}

/** The newest happenings. */
export class Happenings {
  #kept: NumberedHappening[] = [];
  #number = 0;
  /** What people call a node. */
  readonly #nameOf: (nodeId: string) => string;
  readonly #repeated = new Map<string, Repeated>();
  /** Workers that are known to be unavailable, by node and name. */
  readonly #unavailable = new Set<string>();

  constructor(nameOf: (nodeId: string) => string) {
    this.#nameOf = nameOf;
  }

  /** How many there have been. */
  get number(): number {
    return this.#number;
  }

  /** Those after the first `number`, oldest first; the newest `max` when there are more. */
  since(number: number, max: number): Happening[] {
    const later = this.#kept.filter((kept) => kept.number >= number);
    return later.slice(-max).map(({ happening }) => happening);
  }

  save(): Happening[] {
    return this.#kept.map(({ happening }) => happening);
  }

  restore(happenings: readonly Happening[]): void {
    this.#kept = happenings.slice(-KEPT_MAX).map((happening) => ({ number: this.#number++, happening }));
  }

  /** Requests that one worker failed, and another one served. */
  takeover(
    { failedWorker, reason, worker, inTheMiddle, requests, traceId }: TrafficCounted_Takeover,
    atMs: number,
  ): void {
    const failure = inTheMiddle ? "failed in the middle of an answer" : "failed";
    const then = failedWorker === worker ? "served when asked again" : inTheMiddle ? "went on with it" : "took over";
    const sentence = `${failedWorker} ${failure} (${reason}), ${worker} ${then}`;
    this.#tellOnce(atMs, "attempt", "plain", sentence, { traceId, times: requests });
  }

  /** Requests that nobody could serve. */
  failure({ requestedModel, reason, requests, traceId }: TrafficCounted_Failure, atMs: number): void {
    const model = requestedModel === "" ? "a model" : short(requestedModel);
    const sentence = `A request for ${model} failed (${reason})`;
    this.#tellOnce(atMs, "attempt", "bad", sentence, { traceId, times: requests });
  }

  worker({ change, node, info }: WorkerChanged, atMs: number): void {
    if (info === undefined) return;
    const { name, provider, health, breaker } = info;
    const where = `on node ${this.#nameOf(node)}`;
    const key = `${node}/${name}`;
    switch (change) {
      case WorkerChanged_Change.STARTED:
        this.#unavailable.delete(key);
        this.#tell(atMs, "worker", "good", `Worker ${name} (${provider}) has started ${where}`);
        break;
      case WorkerChanged_Change.STOPPED:
        this.#unavailable.delete(key);
        this.#tell(atMs, "worker", "plain", `Worker ${name} was taken out of service ${where}`);
        break;
      case WorkerChanged_Change.REPLACED:
        this.#tell(atMs, "worker", "plain", `Worker ${name} runs with other settings ${where}`);
        break;
      case WorkerChanged_Change.HEALTH:
        // Busy or not is no news.
        if (health === Health.UNAVAILABLE) {
          if (this.#unavailable.has(key) || this.#unavailable.size >= WORKERS_MAX) break;
          this.#unavailable.add(key);
          this.#tell(atMs, "worker", "bad", `Worker ${name} does not answer ${where}`);
        } else if (this.#unavailable.delete(key)) {
          this.#tell(atMs, "worker", "good", `Worker ${name} answers again ${where}`);
        }
        break;
      case WorkerChanged_Change.BREAKER:
        if (breaker === BreakerState.OPEN) {
          this.#tellOnce(atMs, "breaker", "bad", `The breaker of ${name} has opened: it gets no requests for now`);
        } else if (breaker === BreakerState.CLOSED) {
          this.#tellOnce(atMs, "breaker", "good", `The breaker of ${name} has closed: it serves again`);
        } else {
          this.#tellOnce(atMs, "breaker", "plain", `The breaker of ${name} lets a trial through`);
        }
        break;
      default:
    }
  }

  key({ change, worker, fingerprint, reason, restingUntilMs }: KeyChanged, atMs: number): void {
    const key = `Key ${fingerprint} of ${worker}`;
    if (change === KeyChanged_Change.RESTED) {
      const seconds = Math.max(1, Math.round((restingUntilMs - atMs) / 1_000));
      this.#tellOnce(atMs, "key", "plain", `${key} rests (${reason})`, { more: ` for ${seconds} s` });
    } else if (change === KeyChanged_Change.OUT) {
      this.#tellOnce(atMs, "key", "bad", `${key} is out (${reason})`);
    } else if (change === KeyChanged_Change.BACK) {
      this.#tellOnce(atMs, "key", "good", `${key} serves again`);
    }
  }

  node({ change, node, services }: NodeChanged, atMs: number): void {
    const name = `Node ${this.#nameOf(node)}`;
    if (change === NodeChanged_Change.JOINED) {
      this.#tell(atMs, "node", "good", `${name} has joined (${services.join(", ")})`);
    } else if (change === NodeChanged_Change.DRAINING) {
      this.#tell(atMs, "node", "plain", `${name} drains: it finishes what it has and takes nothing new`);
    } else if (change === NodeChanged_Change.LEFT) this.#tell(atMs, "node", "plain", `${name} has left`);
  }

  service({ change, node, service, reason }: ServiceChanged, atMs: number): void {
    const name = `Service ${service} on node ${this.#nameOf(node)}`;
    if (change === ServiceChanged_Change.CRASHED) {
      this.#tell(atMs, "service", "bad", `${name} has crashed (${reason}) and is being restarted`);
    } else if (change === ServiceChanged_Change.RESTARTED) this.#tell(atMs, "service", "good", `${name} runs again`);
  }

  configuration({ node, accepted, problems }: ConfigurationChanged, atMs: number): void {
    const name = this.#nameOf(node);
    if (accepted) this.#tell(atMs, "configuration", "plain", `Node ${name} has taken over its changed configuration`);
    else {
      const mistakes = problems === 1 ? "1 mistake" : `${problems} mistakes`;
      const sentence = `The changed configuration of node ${name} has ${mistakes}; the one before stays in force`;
      this.#tell(atMs, "configuration", "bad", sentence);
    }
  }

  /** A node is gone without a word, and with it these workers. */
  nodeLost(name: string, workers: readonly string[], atMs: number): void {
    const shown = workers.slice(0, 5).join(", ") + (workers.length > 5 ? ` and ${workers.length - 5} more` : "");
    const lost = workers.length === 0 ? "" : `, and with it ${workers.length === 1 ? "worker" : "workers"} ${shown}`;
    this.#tell(atMs, "node", "bad", `Node ${name} was lost${lost}`);
  }

  /** One that was lost can be reached again. */
  nodeBack(name: string, atMs: number): void {
    this.#tell(atMs, "node", "good", `Node ${name} is back`);
  }

  /** Tells it, unless it was told a moment ago; then it is counted, and told the next time how often it was. */
  #tellOnce(
    atMs: number,
    kind: Kind,
    tone: Tone,
    sentence: string,
    { traceId = "", more = "", times = 1 }: { traceId?: string; more?: string; times?: number } = {},
  ): void {
    const known = this.#repeated.get(sentence);
    if (known !== undefined && atMs - known.toldAtMs < REPEAT_MS) {
      known.count += times;
      return;
    }
    if (this.#repeated.size >= REPEATED_MAX) this.#repeated.delete(this.#repeated.keys().next().value!);
    // Put anew, so that the one that was told least lately goes first.
    this.#repeated.delete(sentence);
    this.#repeated.set(sentence, { toldAtMs: atMs, count: times - 1 });
    const often = known === undefined || known.count === 0 ? "" : `; and ${known.count} more since it was last told`;
    this.#tell(atMs, kind, tone, `${sentence}${more}${often}`, traceId);
  }

  #tell(atMs: number, kind: Kind, tone: Tone, sentence: string, traceId = ""): void {
    this.#kept.push({ number: this.#number++, happening: { atMs, kind, tone, sentence, traceId } });
    if (this.#kept.length > KEPT_MAX) this.#kept.shift();
  }
}

function short(text: string): string {
  return text.length <= WORD_CHARACTERS_MAX ? text : `${text.slice(0, WORD_CHARACTERS_MAX)}…`;
}
