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
  /** Told that it is sent to another node. */
  leaves?(): void;
}

export type AttributeValue = string | number | boolean | readonly string[];
export type Attributes = Readonly<Record<string, AttributeValue | undefined>>;

/** What a span is in relation to others: who serves a request, who makes one, or neither. */
export type SpanKind = "server" | "client" | "internal" | "producer";

/** Why a trace is kept that was not drawn: something in it failed, took more than one worker, or was slow. */
export type KeptFor = "error" | "failover" | "slow";

/** One timed piece of work. End it exactly once. */
export interface Span {
  /** The parent for what happens within it. */
  readonly context: TraceContext;
  /** Whether it is recorded; when not, skip computing costly attributes. */
  readonly recording: boolean;
  /** What is undefined is left out; the last value of a name holds. */
  set(name: string, value: AttributeValue | undefined): void;
  event(name: string, attributes?: Attributes): void;
  /** Marks it as failed. `type` is a reason of the error catalogue or a status; `message` holds no secret. */
  fail(type: string, message: string): void;
  /** Its trace is of interest, whatever was drawn when it began. Failures and slowness keep it by themselves. */
  keep(why: KeptFor): void;
  end(): void;
}

/** Makes spans. */
export interface Tracer {
  /**
   * Starts a span under `parent`, or a new trace without one. Nearly free when tracing is off. `attributes` are for those that
   * many spans have in common, made once; others are set one by one.
   */
  startSpan(name: string, parent: TraceContext | undefined, kind: SpanKind, attributes?: Attributes): Span;
  /** A trace without a span: the first one that is started under it becomes its root. */
  newTrace(): TraceContext;
  /** Sends what is to be exported and stops. */
  shutdown(): Promise<void>;
}

/** The context of work that belongs to no request. */
export const NO_TRACE: TraceContext = {
  traceId: "00000000000000000000000000000000",
  spanId: "0000000000000000",
  sampled: false,
  state: "",
};

/** Stands for the span that a new trace does not have yet. */
export const NO_SPAN_ID = NO_TRACE.spanId;

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

/** Writes a traceparent header, for another node. */
export function formatTraceparent(trace: TraceContext): string {
  trace.leaves?.();
  return `00-${trace.traceId}-${trace.spanId}-${trace.sampled ? "01" : "00"}`;
}

/** Random digits for many ids are made at once, which is several times cheaper than for each. */
const DIGITS_AT_ONCE = 6_144;
let digits = "";
let used = 0;

function randomDigits(count: number): string {
  if (used + count > digits.length) {
    digits = randomBytes(DIGITS_AT_ONCE / 2).toString("hex");
    used = 0;
  }
  used += count;
  return digits.slice(used - count, used);
}

/** A new id of a trace. */
export function randomTraceId(): string {
  return randomDigits(32);
}

/** A new id of a span. */
export function randomSpanId(): string {
  return randomDigits(16);
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
  keep(): void {}
  end(): void {}
}

function silentTrace(): TraceContext {
  return { traceId: randomTraceId(), spanId: randomSpanId(), sampled: false, state: "" };
}

/** A tracer that records nothing but still gives every request a trace id, for the logs. */
export const silentTracer: Tracer = {
  startSpan: (_name, parent) => new SilentSpan(parent ?? silentTrace()),
  newTrace: silentTrace,
  shutdown: async () => {},
};
