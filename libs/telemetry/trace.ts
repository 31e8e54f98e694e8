/**
 * Traces: a trace context that is passed by hand with every call, and spans made from it.
 *
 * There is no ambient context: who starts a span names its parent. So an in-process call has the same spans as one over a
 * socket, nothing patches modules, and a call that is not traced costs an object.
 */
import { randomBytes } from "node:crypto";

/** A position in a trace, as W3C Trace Context has it (https://www.w3.org/TR/trace-context/). */
export interface TraceContext {
  /** 32 lower-case hex digits. */
  readonly traceId: string;
  /** 16 lower-case hex digits. */
  readonly spanId: string;
  readonly sampled: boolean;
  /** The tracestate header, passed on as it came; empty if none. */
  readonly state: string;
}

export type AttributeValue = string | number | boolean | readonly string[];
export type Attributes = Readonly<Record<string, AttributeValue | undefined>>;

/** What a span is in relation to others: who serves a request, who makes one, or neither. */
export type SpanKind = "server" | "client" | "internal" | "producer";

/** One timed piece of work. End it exactly once. */
export interface Span {
  /** The parent for what happens within it. */
  readonly context: TraceContext;
  /** Whether it is recorded; when not, skip computing costly attributes. */
  readonly recording: boolean;
  set(attributes: Attributes): void;
  event(name: string, attributes?: Attributes): void;
  /** Marks it as failed. `type` is a reason of the error catalogue or a status; `message` holds no secret. */
  fail(type: string, message: string): void;
  end(): void;
}

/** Makes spans. */
export interface Tracer {
  /**
   * Starts a span under `parent`, or a new trace without one. Not recorded (and nearly free) when the parent is not sampled,
   * the sampler says no, or tracing is off.
   */
  startSpan(name: string, parent: TraceContext | undefined, kind: SpanKind, attributes?: Attributes): Span;
  /** Sends what has been recorded and stops. */
  shutdown(): Promise<void>;
}

/** The context of work that belongs to no request. */
export const NO_TRACE: TraceContext = {
  traceId: "00000000000000000000000000000000",
  spanId: "0000000000000000",
  sampled: false,
  state: "",
};

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** Reads a traceparent header; undefined when it is absent or invalid, as the specification asks. */
export function parseTraceparent(header: string | undefined, state = ""): TraceContext | undefined {
  const match = header === undefined ? null : TRACEPARENT.exec(header);
  if (match === null) return undefined;
  const [, version, traceId, spanId, flags, rest] = match as unknown as [
    string,
    string,
    string,
    string,
    string,
    string?,
  ];
  if (version === "ff" || (version === "00" && rest !== undefined)) return undefined;
  if (traceId === NO_TRACE.traceId || spanId === NO_TRACE.spanId) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1, state };
}

/** Writes a traceparent header. */
export function formatTraceparent(trace: TraceContext): string {
  return `00-${trace.traceId}-${trace.spanId}-${trace.sampled ? "01" : "00"}`;
}

/** Random digits for many traces are made at once, which is several times cheaper than for each. */
const HEX_PER_TRACE = 48;
const TRACES_AT_ONCE = 128;
let digits = "";
let used = 0;

function randomTrace(): TraceContext {
  if (used === digits.length) {
    digits = randomBytes((HEX_PER_TRACE / 2) * TRACES_AT_ONCE).toString("hex");
    used = 0;
  }
  const hex = digits.slice(used, used + HEX_PER_TRACE);
  used += HEX_PER_TRACE;
  return { traceId: hex.slice(0, 32), spanId: hex.slice(32), sampled: false, state: "" };
}

/** A span that records nothing and only hands its context on. */
export class SilentSpan implements Span {
  readonly recording = false;
  readonly context: TraceContext;
  constructor(context: TraceContext) {
    this.context = context;
  }
  set(): void {}
  event(): void {}
  fail(): void {}
  end(): void {}
}

/** A tracer that records nothing but still gives every request a trace id, for the logs. */
export const silentTracer: Tracer = {
  startSpan: (_name, parent) => new SilentSpan(parent ?? randomTrace()),
  shutdown: async () => {},
};
