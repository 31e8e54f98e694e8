/**
 * Events over core NATS: at most once, to whoever listens now. Publishing never waits and never fails; while NATS is away
 * or slow, events wait in a bounded buffer, and the oldest give way.
 */
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { headers, type Msg, type MsgHdrs, type NatsConnection } from "@nats-io/transport-node";
import { formatTraceparent, type Logger, NO_TRACE, parseTraceparent, type TraceContext } from "../telemetry/index.ts";

/** What is generated for a message: how to put it on the wire and take it off. */
export interface MessageType<T> {
  encode(message: T, writer?: BinaryWriter): { finish(): Uint8Array };
  decode(input: Uint8Array): T;
}

/** Publishes and receives events: protobuf messages. */
export interface Events {
  /**
   * Publishes an event, with the trace that it belongs to in its headers. Never throws and never waits: what can't be sent is
   * counted in `dropped`. Events wait for a few milliseconds and are sent in one write, unless this one has to go out `atOnce`.
   */
  publish<T>(
    subject: string,
    type: MessageType<T>,
    message: T,
    trace: TraceContext,
    options?: { readonly atOnce?: boolean },
  ): void;
  /**
   * Publishes an event of a kind that comes often, for a fraction of the cost: those of a quarter of a second arrive as one message.
   * While NATS is away, the oldest of them give way by the message.
   * `type` has nothing but one repeated field, and `message` one event in it, which nobody changes any more: it is encoded later.
   * What belongs to a trace says so itself.
   */
  gather<T>(subject: string, type: MessageType<T>, message: T): void;
  /** Calls `handler` for each message of a subject, also after reconnects. Returns how to stop. What it throws is logged. */
  subscribe<T>(
    subject: string,
    type: MessageType<T>,
    handler: (message: T, trace: TraceContext | undefined) => void,
  ): () => void;
  /** How many events were given up since the start: NATS was away for too long, or refused them. */
  readonly dropped: number;
}

/** How long an event waits for others: one write for many costs this node and NATS a fraction of one write for each. */
const WAIT_MS = 20;
/** So many are sent at once, without waiting for more. */
const TOGETHER_MAX = 1_000;
/**
 * How long events of a kind that comes often are gathered: their figures, which is what they are for, are shown once a second. A
 * message costs NATS and its reader about a millisecond of CPU, if it keeps it; its bytes next to nothing.
 */
const GATHER_MS = 250;
/** How many events wait at most, and how many bytes. */
const WAITING_MAX = 10_000;
const WAITING_BYTES_MAX = 8 * 1024 * 1024;
/** How many gathered events one message may have, and how many bytes; NATS takes 1 MB, unless it was told otherwise. */
const BATCH_MAX = 1_000;
const BATCH_BYTES_MAX = 256 * 1024;
/** How many bytes may be on their way to NATS without a word from it; the client's own buffer has no bound. */
const UNCONFIRMED_BYTES_MAX = 4 * 1024 * 1024;
/** After how many bytes to ask NATS for a word. */
const CONFIRM_EVERY_BYTES = 256 * 1024;
/** What an event takes in memory besides its payload, about. */
const OVERHEAD_BYTES = 200;

/** A message that waits. */
interface Outgoing {
  readonly subject: string;
  readonly payload: Uint8Array;
  /** Undefined for events that were gathered. */
  readonly trace: TraceContext | undefined;
  /** How many it has. */
  readonly events: number;
}

/** Encoded events of one subject. */
interface Parcel {
  readonly payload: Uint8Array;
  readonly events: number;
}

/**
 * So many events are encoded in one go, or fewer when it is time to send them: encoding touches much memory, which is the same for all
 * of a kind, and has long left the processor's caches when it is done once a request.
 */
const TOGETHER = 16;

/**
 * Gathered events of one subject that are still taken in: encoded messages one behind the other are one message that has the
 * repeated fields of them all. They are encoded into one buffer, as most of what encoding costs is a buffer for each.
 */
class Batch {
  readonly #type: MessageType<unknown>;
  /** Those that are not encoded yet. */
  #messages: unknown[] = [];
  readonly #writer = new BinaryWriter();
  /** How far it has written, and the messages that it is in the middle of, which the library keeps to itself. */
  readonly #inside = this.#writer as unknown as { pos: number; stackPos: number[] };
  /** How many are encoded. */
  encoded = 0;

  constructor(type: MessageType<unknown>) {
    this.#type = type;
  }

  /** Of those that are encoded. */
  get bytes(): number {
    return this.#inside.pos;
  }

  /** Takes in an event; whether it is time to encode those that have come. */
  add(message: unknown): boolean {
    this.#messages.push(message);
    return this.#messages.length >= TOGETHER;
  }

  /** Encodes what is not encoded yet. Returns what became too large for one message, and what could not be encoded. */
  encode(): { readonly full: Parcel[]; readonly refused: unknown[] } {
    const full: Parcel[] = [];
    const refused: unknown[] = [];
    for (const message of this.#messages) {
      const before = this.bytes;
      try {
        this.#type.encode(message, this.#writer);
      } catch (error) {
        this.#inside.pos = before;
        this.#inside.stackPos = [];
        refused.push(error);
        continue;
      }
      this.encoded++;
      if (this.bytes > BATCH_BYTES_MAX) full.push(...this.#takeAround(before));
      else if (this.encoded >= BATCH_MAX) full.push(this.take());
    }
    this.#messages = [];
    return { full, refused };
  }

  /** All that is encoded; from now on there is nothing in it that is. */
  take(): Parcel {
    const parcel = { payload: this.#writer.finish(), events: this.encoded };
    this.encoded = 0;
    return parcel;
  }

  /** The same, with the last event by itself: together, they are too large. */
  #takeAround(before: number): Parcel[] {
    const { payload, events } = this.take();
    if (events === 1) return [{ payload, events }];
    return [
      { payload: payload.subarray(0, before), events: events - 1 },
      { payload: payload.subarray(before), events: 1 },
    ];
  }
}

interface EventsOptions {
  readonly connection: NatsConnection;
  readonly log: Logger;
  readonly waitingMax?: number;
  readonly waitingBytesMax?: number;
}

/** The events of a node. */
export class MeshEvents implements Events {
  readonly #connection: NatsConnection;
  readonly #log: Logger;
  readonly #waitingMax: number;
  readonly #waitingBytesMax: number;
  /** By subject. */
  readonly #batches = new Map<string, Batch>();
  #connected = true;
  /** It sends what waits. */
  #sending: NodeJS.Timeout | undefined;
  /** It ends the batches, and sends them. */
  #gathering: NodeJS.Timeout | undefined;
  /** A queue: those before `#waitingFirst` are gone already. */
  #waiting: Outgoing[] = [];
  #waitingFirst = 0;
  /** Events, not messages: those of `#waiting`, and those of batches. */
  #waitingEvents = 0;
  #gathered = 0;
  #waitingBytes = 0;
  #unconfirmedBytes = 0;
  #confirming = false;
  #dropped = 0;
  #droppedReported = 0;

  constructor(options: EventsOptions) {
    this.#connection = options.connection;
    this.#log = options.log;
    this.#waitingMax = options.waitingMax ?? WAITING_MAX;
    this.#waitingBytesMax = options.waitingBytesMax ?? WAITING_BYTES_MAX;
  }

  get dropped(): number {
    return this.#dropped;
  }

  publish<T>(
    subject: string,
    type: MessageType<T>,
    message: T,
    trace: TraceContext,
    { atOnce = false }: { readonly atOnce?: boolean } = {},
  ): void {
    let payload: Uint8Array;
    try {
      payload = type.encode(message).finish();
    } catch (error) {
      this.#refuse(subject, error);
      return;
    }
    this.#wait({ subject, payload, trace, events: 1 });
    if (atOnce || this.#waiting.length - this.#waitingFirst >= TOGETHER_MAX) this.#sendWaiting();
    else this.#sending ??= setTimeout(() => this.#sendWaiting(), WAIT_MS).unref();
  }

  gather<T>(subject: string, type: MessageType<T>, message: T): void {
    if (this.#closed) {
      this.#dropped++;
      return;
    }
    let batch = this.#batches.get(subject);
    if (batch === undefined) {
      batch = new Batch(type as MessageType<unknown>);
      this.#batches.set(subject, batch);
    }
    this.#gathered++;
    if (batch.add(message)) this.#encode(subject, batch);
    this.#makeRoom();
    this.#gathering ??= setTimeout(() => this.#sendAll(), GATHER_MS).unref();
  }

  subscribe<T>(
    subject: string,
    type: MessageType<T>,
    handler: (message: T, trace: TraceContext | undefined) => void,
  ): () => void {
    const failed = (error: unknown): void => this.#log.error({ subject, err: error }, "a handler of events failed");
    const subscription = this.#connection.subscribe(subject, {
      callback: (error: Error | null, message: Msg) => {
        if (error !== null) {
          failed(error);
          return;
        }
        try {
          const result: unknown = handler(type.decode(message.data), traceOf(message));
          // An asynchronous function passes for one that returns nothing.
          if (result instanceof Promise) result.catch(failed);
        } catch (thrown) {
          failed(thrown);
        }
      },
    });
    return () => {
      if (!subscription.isClosed()) subscription.unsubscribe();
    };
  }

  /** The connection was lost: from now on events wait. */
  lost(): void {
    this.#connected = false;
    this.#unconfirmedBytes = 0;
  }

  /** The connection is back: what waited is sent. */
  regained(): void {
    this.#connected = true;
    this.#sendAll();
    this.#report();
  }

  /** Sends what can be sent; after that nothing is sent any more, and what still waits is given up. */
  close(): void {
    if (this.#closed) return;
    this.#sendAll();
    this.#connected = false;
    this.#closed = true;
    this.#dropped += this.#eventsWaiting();
    this.#batches.clear();
    this.#waiting = [];
    this.#report();
  }
  #closed = false;

  #eventsWaiting(): number {
    return this.#waitingEvents + this.#gathered;
  }

  #canSend(): boolean {
    return this.#connected && this.#unconfirmedBytes < UNCONFIRMED_BYTES_MAX;
  }

  #refuse(subject: string, error: unknown): void {
    this.#dropped++;
    this.#log.error({ subject, err: error }, "an event could not be encoded");
  }

  #send({ subject, payload, trace, events }: Outgoing): void {
    try {
      const traceHeaders = trace === undefined ? undefined : headersOf(trace);
      this.#connection.publish(subject, payload, traceHeaders === undefined ? {} : { headers: traceHeaders });
    } catch (error) {
      this.#dropped += events;
      this.#log.error({ subject, events, err: error }, "NATS refused an event");
      return;
    }
    this.#unconfirmedBytes += payload.length + subject.length + OVERHEAD_BYTES;
    if (this.#unconfirmedBytes >= CONFIRM_EVERY_BYTES && !this.#confirming) this.#confirm();
  }

  /** Asks NATS whether it has taken what was sent so far. */
  #confirm(): void {
    const asked = this.#unconfirmedBytes;
    this.#confirming = true;
    const confirmed = (): void => {
      this.#confirming = false;
      this.#unconfirmedBytes = Math.max(0, this.#unconfirmedBytes - asked);
      // Batches whose time was over could not be sent.
      if (this.#gathering === undefined) this.#sendAll();
      else this.#sendWaiting();
    };
    // It fails when the connection is lost: then nothing is on its way any more.
    this.#connection.flush().then(confirmed, confirmed);
  }

  #sendWaiting(): void {
    clearTimeout(this.#sending);
    this.#sending = undefined;
    while (this.#canSend() && this.#waiting.length > this.#waitingFirst) this.#send(this.#takeOldest());
  }

  #sendAll(): void {
    clearTimeout(this.#gathering);
    this.#gathering = undefined;
    // Without NATS, more may come into them.
    if (!this.#canSend()) return;
    for (const [subject, batch] of this.#batches) {
      this.#encode(subject, batch);
      if (batch.encoded > 0) this.#waitGathered(subject, batch.take());
    }
    this.#sendWaiting();
  }

  #encode(subject: string, batch: Batch): void {
    const { full, refused } = batch.encode();
    for (const error of refused) {
      this.#gathered--;
      this.#refuse(subject, error);
    }
    if (full.length === 0) return;
    for (const parcel of full) this.#waitGathered(subject, parcel);
    if (full.some(({ payload }) => payload.length > BATCH_BYTES_MAX)) {
      // Its buffer has room for a giant, and would keep it.
      this.#batches.delete(subject);
      if (batch.encoded > 0) this.#waitGathered(subject, batch.take());
    }
    this.#sendWaiting();
  }

  /** What was gathered waits from now on as a message. */
  #waitGathered(subject: string, { payload, events }: Parcel): void {
    this.#gathered -= events;
    this.#wait({ subject, payload, trace: undefined, events });
  }

  #wait(message: Outgoing): void {
    if (this.#closed) {
      this.#dropped += message.events;
      return;
    }
    this.#waiting.push(message);
    this.#waitingEvents += message.events;
    this.#waitingBytes += sizeOf(message);
    this.#makeRoom();
  }

  #makeRoom(): void {
    while (this.#eventsWaiting() > this.#waitingMax || this.#waitingBytes > this.#waitingBytesMax) {
      if (this.#waiting.length === this.#waitingFirst) return;
      if (this.#dropped === this.#droppedReported) this.#log.warn("NATS is away for too long: old events are dropped");
      this.#dropped += this.#takeOldest().events;
    }
  }

  #takeOldest(): Outgoing {
    const message = this.#waiting[this.#waitingFirst]!;
    this.#waitingFirst++;
    this.#waitingEvents -= message.events;
    this.#waitingBytes -= sizeOf(message);
    if (this.#waitingFirst === this.#waiting.length) {
      this.#waiting = [];
      this.#waitingFirst = 0;
    } else if (this.#waitingFirst >= 1_024 && this.#waitingFirst * 2 >= this.#waiting.length) {
      this.#waiting = this.#waiting.slice(this.#waitingFirst);
      this.#waitingFirst = 0;
    }
    return message;
  }

  #report(): void {
    if (this.#dropped === this.#droppedReported) return;
    this.#log.warn({ events: this.#dropped - this.#droppedReported }, "events were dropped while NATS was away");
    this.#droppedReported = this.#dropped;
  }
}

function sizeOf({ payload, subject }: Outgoing): number {
  return payload.length + subject.length + OVERHEAD_BYTES;
}

function headersOf(trace: TraceContext): MsgHdrs | undefined {
  if (trace.traceId === NO_TRACE.traceId) return undefined;
  const result = headers();
  result.set("traceparent", formatTraceparent(trace));
  if (trace.state !== "") result.set("tracestate", trace.state);
  return result;
}

function traceOf(message: Msg): TraceContext | undefined {
  const found = message.headers;
  return found === undefined ? undefined : parseTraceparent(found.get("traceparent"), found.get("tracestate"));
}
