/**
 * The last hour's events, kept by NATS in the order in which it got them: whoever reads them from the beginning, or from where it
 * was, comes to the same as everybody else. Publishers know nothing of it; they publish as to anybody who listens.
 */
import {
  type ConsumerMessages,
  DeliverPolicy,
  DiscardPolicy,
  JetStreamApiError,
  type JetStreamManager,
  type JsMsg,
  jetstreamManager,
  RetentionPolicy,
  StorageType,
  type StreamInfo,
} from "@nats-io/jetstream";
import { type NatsConnection, nanos } from "@nats-io/transport-node";
import { EVENT, type Logger } from "../telemetry/index.ts";

/** An event as the log has it. */
export interface LoggedEvent {
  readonly subject: string;
  readonly data: Uint8Array;
  /** When NATS got it, in milliseconds since the Unix epoch. */
  readonly atMs: number;
  /** Where it lies in the log: 1 more than the one before, if none is missing. */
  readonly sequence: number;
}

/** How far somebody has read. */
export interface LogPosition {
  /** Which log it is, by when it was made: NATS may lose it, and it is then made anew. */
  readonly created: string;
  /** The last event that was read; 0 for none. */
  readonly sequence: number;
  /** When that one had come. */
  readonly atMs: number;
}

/** What a reader is told. */
export interface LogReader {
  /** The next event, in order. What it throws ends this life of the reading, which begins anew after the event. */
  event(event: LoggedEvent, position: LogPosition): void;
  /** So many events before the next one are gone: they were pushed out, or taken out, before they were read. */
  lost(events: number): void;
  /** Everything has been read that there is at the moment. */
  caughtUp?(): void;
  /** NATS is there, and all the same the log can't be read, again and again; undefined when it can. */
  failing?(error: unknown): void;
}

/** How the log is read. */
export interface FollowOptions {
  readonly reader: LogReader;
  /** Where to go on; from the oldest event when absent. */
  readonly after?: LogPosition | undefined;
  /** How large the log may be at most; the oldest events give way. */
  readonly bytesMax: number;
  readonly log: Logger;
}

/** Reading that goes on. */
export interface Following {
  /** Nothing is told any more once it has resolved. */
  stop(): Promise<void>;
}

/** The log of a mesh. */
export interface EventLog {
  /** Makes the log if there is none, and reads it until it is stopped, whatever becomes of NATS. */
  follow(options: FollowOptions): Following;
}

const STREAM = "cortex_events";
/** What is kept: what an hour's figures are made of, and what people want to know of. Every request by itself would be gigabytes. */
const SUBJECTS = [
  EVENT.trafficCounted,
  EVENT.workerChanged,
  EVENT.nodeChanged,
  EVENT.keyChanged,
  EVENT.serviceChanged,
  EVENT.configurationChanged,
];
/** How long events are kept. */
export const LOG_AGE_MS = 3_600_000;
const REQUEST_TIMEOUT_MS = 3_000;
/** How many messages are on their way at once; one may carry what thousands of requests have come to. */
const READ_AHEAD_MAX = 200;
const RETRY_MIN_MS = 50;
const RETRY_MAX_MS = 2_000;
/** How often it is checked that the reading has not fallen silent. */
const CHECK_MS = 5_000;
/** What NATS is asked for at least, when there is no room for more. */
const BYTES_MIN = 16 * 1024 * 1024;
/** NATS has no room for a stream of that size: 10023 and 10047 in its catalogue of errors. */
const NO_ROOM = new Set([10_023, 10_047]);
const NOT_FOUND = 10_059;

/** The log over a connection. */
export class MeshEventLog implements EventLog {
  readonly #connection: NatsConnection;
  readonly #followers = new Set<Follower>();

  constructor(connection: NatsConnection) {
    this.#connection = connection;
  }

  follow(options: FollowOptions): Following {
    const follower = new Follower(this.#connection, options);
    this.#followers.add(follower);
    return {
      stop: async () => {
        this.#followers.delete(follower);
        await follower.stop();
      },
    };
  }

  /** The connection is back: what was read over the one before may have missed something, or be dead. */
  regained(): void {
    for (const follower of this.#followers) follower.restart();
  }

  /** The node leaves. */
  async close(): Promise<void> {
    await Promise.all([...this.#followers].map((follower) => follower.stop()));
  }
}

/** One reading, over all its lives. */
class Follower {
  readonly #connection: NatsConnection;
  readonly #options: FollowOptions;
  #position: LogPosition;
  #messages: ConsumerMessages | undefined;
  #stopped = false;
  #restarting = false;
  /** This life has come so far that it reads. */
  #begun = false;
  #wake: (() => void) | undefined;
  readonly #running: Promise<void>;

  constructor(connection: NatsConnection, options: FollowOptions) {
    this.#connection = connection;
    this.#options = options;
    this.#position = options.after ?? { created: "", sequence: 0, atMs: Number.NEGATIVE_INFINITY };
    this.#running = this.#run();
  }

  restart(): void {
    this.#restarting = true;
    this.#messages?.stop();
    this.#wake?.();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#messages?.stop();
    this.#wake?.();
    await this.#running;
  }

  async #run(): Promise<void> {
    let retryMs = RETRY_MIN_MS;
    while (!this.#stopped) {
      this.#restarting = false;
      this.#begun = false;
      try {
        await this.#live();
      } catch (error) {
        const lasting = retryMs === RETRY_MAX_MS;
        this.#options.log[lasting ? "warn" : "debug"]({ err: error }, "the log of events can't be read; trying again");
        if (lasting) this.#options.reader.failing?.(error);
      }
      this.#messages = undefined;
      if (this.#begun) retryMs = RETRY_MIN_MS;
      if (this.#stopped || this.#restarting) continue;
      await this.#pause(retryMs);
      retryMs = Math.min(retryMs * 2, RETRY_MAX_MS);
    }
  }

  /** One life: from making sure of the log until something ends the reading. */
  async #live(): Promise<void> {
    const manager = await jetstreamManager(this.#connection, { timeout: REQUEST_TIMEOUT_MS, checkAPI: false });
    const { created, state } = await ensureStream(manager, this.#options.bytesMax);
    if (String(created) !== this.#position.created) {
      this.#position = { created: String(created), sequence: 0, atMs: this.#position.atMs };
    } else if (state.last_seq < this.#position.sequence) {
      // NATS was ended so hard that it has lost its newest events: what comes gets their places.
      this.#position = { ...this.#position, sequence: state.last_seq };
    }
    if (this.#stopped || this.#restarting) return;
    const consumer = await manager.jetstream().consumers.get(STREAM, {
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: this.#position.sequence + 1,
    });
    const messages = await consumer.consume({ max_messages: READ_AHEAD_MAX });
    this.#messages = messages;
    this.#begun = true;
    this.#options.reader.failing?.(undefined);
    if (this.#stopped || this.#restarting) messages.stop();
    if (state.last_seq <= this.#position.sequence || state.messages === 0) this.#options.reader.caughtUp?.();
    const watching = this.#watch(manager, messages);
    try {
      for await (const message of messages) {
        if (this.#stopped || this.#restarting) return;
        this.#read(message);
      }
    } finally {
      messages.stop();
      clearInterval(watching);
      // It is the server's to forget by itself, after minutes; better at once.
      void consumer.delete().catch(() => {});
    }
  }

  #read(message: JsMsg): void {
    const { reader } = this.#options;
    const { created, sequence: last, atMs: lastAtMs } = this.#position;
    const { streamSequence: sequence, timestampNanos, pending } = message.info;
    if (sequence <= last) return;
    const atMs = timestampNanos / 1e6;
    const missing = sequence - last - 1;
    // What had its time is not lost; without a last one, nobody knows what there was before.
    if (missing > 0 && lastAtMs > atMs - LOG_AGE_MS) reader.lost(missing);
    this.#position = { created, sequence, atMs };
    reader.event({ subject: message.subject, data: message.data, atMs, sequence }, this.#position);
    if (pending === 0) reader.caughtUp?.();
  }

  /** A reading that is behind twice in a row, having told nothing in between, has fallen silent. */
  #watch(manager: JetStreamManager, messages: ConsumerMessages): NodeJS.Timeout {
    let behindAt: number | undefined;
    const check = async (): Promise<void> => {
      const { created, state } = await manager.streams.info(STREAM);
      const { sequence, created: known } = this.#position;
      const silent = state.last_seq > sequence && state.messages > 0 && behindAt === sequence;
      behindAt = state.last_seq > sequence ? sequence : undefined;
      if (silent || String(created) !== known || state.last_seq < sequence) messages.stop();
    };
    return setInterval(() => {
      check().catch((error: unknown) => {
        if (error instanceof JetStreamApiError && error.code === NOT_FOUND) messages.stop();
      });
    }, CHECK_MS).unref();
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#wake?.(), ms);
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
    });
  }
}

/** Makes the stream if it is missing, as large as NATS has room for, or gives it the size that it should have. */
async function ensureStream(manager: JetStreamManager, bytesMax: number): Promise<StreamInfo> {
  let known: StreamInfo | undefined;
  try {
    known = await manager.streams.info(STREAM);
  } catch (error) {
    if (!(error instanceof JetStreamApiError && error.code === NOT_FOUND)) throw error;
  }
  const wanted = {
    subjects: SUBJECTS,
    max_age: nanos(LOG_AGE_MS),
    no_ack: true,
  };
  if (known !== undefined) {
    const { config } = known;
    const sameSubjects = [...(config.subjects ?? [])].sort().join() === [...SUBJECTS].sort().join();
    if (sameSubjects && config.max_bytes <= bytesMax && config.max_age === wanted.max_age) return known;
  }
  for (let bytes = bytesMax; ; bytes = Math.floor(bytes / 2)) {
    try {
      if (known !== undefined) return await manager.streams.update(STREAM, { ...wanted, max_bytes: bytes });
      return await manager.streams.add({
        ...wanted,
        name: STREAM,
        max_bytes: bytes,
        storage: StorageType.File,
        retention: RetentionPolicy.Limits,
        discard: DiscardPolicy.Old,
      });
    } catch (error) {
      const noRoom = error instanceof JetStreamApiError && NO_ROOM.has(error.code);
      if (!noRoom || bytes / 2 < BYTES_MIN) throw error;
    }
  }
}
