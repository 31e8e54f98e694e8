/**
 * Events over core NATS: at most once, to whoever listens now. Publishing never waits and never fails; while NATS is away
 * or slow, events wait in a bounded buffer, and the oldest give way.
 */
import type { TraceContext } from "../telemetry/index.ts";

/** What is generated for a message: how to put it on the wire and take it off. */
export interface MessageType<T> {
  encode(message: T): { finish(): Uint8Array };
  decode(input: Uint8Array): T;
}

/** Publishes and receives events; each is a protobuf message, with the trace that it belongs to in its headers. */
export interface Events {
  /** Publishes an event. Never throws and never waits: what can't be sent is counted in `dropped`. */
  publish<T>(subject: string, type: MessageType<T>, message: T, trace: TraceContext): void;
  /** Calls `handler` for each event of a subject, also after reconnects. Returns how to stop. What it throws is logged. */
  subscribe<T>(
    subject: string,
    type: MessageType<T>,
    handler: (message: T, trace: TraceContext | undefined) => void,
  ): () => void;
  /** How many events were given up since the start: NATS was away for too long, or refused them. */
  readonly dropped: number;
}
