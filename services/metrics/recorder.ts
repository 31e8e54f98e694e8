/** Reads the log of events into the memory, and has both back after a restart. */
import {
  ConfigurationChanged,
  KeyChanged,
  NodeChanged,
  ServiceChanged,
  TrafficCounted,
  WorkerChanged,
} from "../../libs/gen/cortex/events/v1/events.ts";
import { SnapshotHead } from "../../libs/gen/cortex/metrics/v1/memory.ts";
import type { Following, LoggedEvent, LogPosition, Mesh, SnapshotStore } from "../../libs/mesh/index.ts";
import { Tally } from "../../libs/tally/index.ts";
import { EVENT, type Logger } from "../../libs/telemetry/index.ts";
import type { Totals } from "./board.ts";
import type { Happenings } from "./happenings.ts";
import { MEMORY_MS, type Memory } from "./memory.ts";

/** How long a new life waits until it knows what its predecessor knew. */
const CATCH_UP_MS = 5_000;
const LOAD_MS = 3_000;
/** What is left of a snapshot that is older would be hardly anything. */
const SNAPSHOT_AGE_MAX_MS = MEMORY_MS;

interface RecorderOptions {
  readonly memory: Memory;
  readonly happenings: Happenings;
  readonly mesh: Pick<Mesh, "eventLog" | "snapshots">;
  readonly log: Logger;
  /** How large the log may be. */
  readonly eventsBytesMax: number;
  readonly problem: (sentence: string | undefined) => void;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
}

/** Counts what the log of events tells. */
export class Recorder {
  readonly #options: RecorderOptions;
  readonly #store: SnapshotStore;
  #position: LogPosition | undefined;
  #following: Following | undefined;
  #lost = 0;
  #totals: { -readonly [K in keyof Totals]: Totals[K] } = {
    requests: 0,
    errors: 0,
    outputTokens: 0,
    hits: 0,
    served: 0,
  };

  constructor(options: RecorderOptions) {
    this.#options = options;
    this.#store = options.mesh.snapshots("metrics");
  }

  /** What has been counted since this life began. */
  get totals(): Totals {
    return this.#totals;
  }

  /** How many messages were gone before they could be read. */
  get lost(): number {
    return this.#lost;
  }

  /** How far it has read. */
  get position(): LogPosition | undefined {
    return this.#position;
  }

  /** Resolves when it knows the last hour, or after some seconds; it goes on reading until it is stopped. */
  async start(): Promise<void> {
    const { mesh, log, eventsBytesMax, problem } = this.#options;
    await within(this.#load(), LOAD_MS);
    const caughtUp = new Promise<void>((resolve) => {
      this.#following = mesh.eventLog.follow({
        after: this.#position,
        bytesMax: eventsBytesMax,
        log,
        reader: {
          event: (event, position) => {
            this.#position = position;
            this.#count(event);
          },
          lost: (messages) => {
            this.#lost += messages;
          },
          caughtUp: resolve,
          failing: (error) => {
            const why = error instanceof Error ? error.message : String(error);
            problem(error === undefined ? undefined : `the events of the last hour can't be read from NATS: ${why}`);
          },
        },
      });
    });
    await within(caughtUp, CATCH_UP_MS);
  }

  async stop(): Promise<void> {
    await this.#following?.stop();
  }

  /** Keeps everything, so that whoever starts later need not read it all again. */
  async save(): Promise<void> {
    const position = this.#position;
    if (position === undefined) return;
    const { memory, happenings, now } = this.#options;
    const { sealed, open } = memory.save(now());
    const head = SnapshotHead.encode({
      streamCreated: position.created,
      sequence: position.sequence,
      atMs: position.atMs,
      eventsLost: this.#lost,
      open,
      happenings: happenings.save(),
    }).finish();
    await this.#store.save({ head, parts: sealed });
  }

  async #load(): Promise<void> {
    const { memory, happenings, now, log } = this.#options;
    try {
      const snapshot = await this.#store.load();
      // What has been counted meanwhile came first.
      if (snapshot === undefined || this.#following !== undefined) return;
      const head = SnapshotHead.decode(snapshot.head);
      if (head.atMs < now() - SNAPSHOT_AGE_MAX_MS) return;
      memory.restore(snapshot.parts.values(), head.open);
      happenings.restore(head.happenings);
      this.#lost = head.eventsLost;
      this.#position = { created: head.streamCreated, sequence: head.sequence, atMs: head.atMs };
    } catch (error) {
      log.warn({ err: error }, "what the metrics service knew can't be had back; it reads the events of the last hour");
    }
  }

  #count({ subject, data, atMs }: LoggedEvent): void {
    try {
      this.#countEvent(subject, data, atMs);
    } catch (error) {
      this.#lost++;
      this.#options.log.warn({ err: error, subject }, "an event can't be read");
    }
  }

  #countEvent(subject: string, data: Uint8Array, atMs: number): void {
    const { happenings } = this.#options;
    switch (subject) {
      case EVENT.trafficCounted:
        this.#countTraffic(TrafficCounted.decode(data), atMs);
        break;
      case EVENT.workerChanged:
        happenings.worker(WorkerChanged.decode(data), atMs);
        break;
      case EVENT.nodeChanged:
        happenings.node(NodeChanged.decode(data), atMs);
        break;
      case EVENT.keyChanged:
        happenings.key(KeyChanged.decode(data), atMs);
        break;
      case EVENT.serviceChanged:
        happenings.service(ServiceChanged.decode(data), atMs);
        break;
      case EVENT.configurationChanged:
        happenings.configuration(ConfigurationChanged.decode(data), atMs);
        break;
      default:
    }
  }

  #countTraffic(counted: TrafficCounted, atMs: number): void {
    const { memory, happenings } = this.#options;
    memory.add(counted, atMs);
    for (const takeover of counted.takeovers) happenings.takeover(takeover, atMs);
    for (const failure of counted.failures) happenings.failure(failure, atMs);
    const total = new Tally();
    total.merge(counted.total);
    this.#totals.requests += total.requests;
    this.#totals.errors += total.errors;
    this.#totals.served += total.duration.count;
    this.#totals.hits += total.cacheHits;
    this.#totals.outputTokens += total.outputTokens;
  }
}

/** Resolves when `promise` does, and after `ms` at the latest. */
async function within(promise: Promise<void>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, late]);
  clearTimeout(timer);
}
