/**
 * The tracer that records, and decides at the end what is worth exporting. Which request fails, needs a second worker or is
 * slow is not known when it begins, and its spans are made on several nodes. So every node records all spans, as light as they
 * can be, and holds them for a while; who sees that a trace is of interest exports what it holds of it and tells the others.
 */
import { TransientMap } from "../collections/index.ts";
import { ATTRIBUTE, SPAN_EVENT } from "./names.ts";
import { HeadSampler, type SamplingRules } from "./sampling.ts";
import {
  type Attributes,
  type AttributeValue,
  type KeptFor,
  NO_SPAN_ID,
  NO_TRACE,
  randomSpanId,
  randomTraceId,
  SilentSpan,
  type Span,
  type SpanKind,
  type TraceContext,
  type Tracer,
} from "./trace.ts";

/** A span that has ended, for whoever exports it. Times are those of `performance.now`. */
export interface FinishedSpan {
  readonly name: string;
  readonly kind: SpanKind;
  readonly traceId: string;
  readonly spanId: string;
  /** Empty for the root. */
  readonly parentSpanId: string;
  readonly state: string;
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  /** Made anew each time it is asked for. */
  readonly attributes: Attributes;
  readonly events: readonly SpanEvent[];
  readonly failure: { readonly type: string; readonly message: string } | undefined;
}

interface SpanEvent {
  readonly name: string;
  readonly atMs: number;
  readonly attributes: Attributes | undefined;
}

/** What has become of the spans of a node. */
export interface SpanFigures {
  /** Spans that were handed to the exporter. */
  readonly exported: number;
  /** Spans that were let go as nobody wanted their trace. */
  readonly forgotten: number;
  /** Spans that were let go early, for want of room: their trace may have been wanted. */
  readonly dropped: number;
  /** Spans that are held now, and about how many bytes they take. */
  readonly held: number;
  readonly heldBytes: number;
  /** Traces that this node has seen to be of interest. */
  readonly kept: Readonly<Record<KeptFor, number>>;
}

/** Where nothing is recorded. */
export const NO_SPANS: SpanFigures = {
  exported: 0,
  forgotten: 0,
  dropped: 0,
  held: 0,
  heldBytes: 0,
  kept: { error: 0, failover: 0, slow: 0 },
};

export interface RecordingOptions {
  readonly rules: SamplingRules;
  /** Whether a failure of that type is worth keeping a trace for; others are their caller's own doing. */
  readonly isFault: (type: string) => boolean;
  readonly exportSpan: (span: FinishedSpan) => void;
  /** Told of each trace that was not drawn and that this node keeps, so that other nodes do so too. */
  readonly onKept: (traceId: string) => void;
  /** For tests; `performance.now` when absent. */
  readonly now?: () => number;
  /** For tests. */
  readonly heldBytesMax?: number;
}

/**
 * How long the spans of a trace are held after the last one here has ended. Failures and further attempts are seen where they
 * happen, at once, and told to everybody within a fraction of a second; what comes later is only the end of the request one or
 * two nodes up, mostly milliseconds away.
 */
const HOLD_MS = 5_000;
const SWEEP_EVERY_MS = 1_000;
const HELD_BYTES_MAX = 32 * 1024 * 1024;
/** Room is made for more than one span at a time. */
const MAKE_ROOM_TO = 0.9;
/** A trace with more spans than this on one node is something else than a request. */
const HELD_SPANS_PER_TRACE_MAX = 1_000;
/** What a span takes in memory, about: by itself, with each attribute, and with each event. */
const SPAN_BYTES = 400;
const ATTRIBUTE_BYTES = 40;
const EVENT_BYTES = 150;
const NO_EVENTS: readonly SpanEvent[] = [];
const NO_ATTRIBUTES: Attributes = {};

/** What a node knows of a trace that has spans here. */
class Trace {
  readonly id: string;
  /** It began on another node, or has gone to one: that node may want it when all has ended here. */
  shared: boolean;
  readonly tracer: RecordingTracer;
  /** Its spans are exported as they end. */
  kept: boolean;
  openSpans = 0;
  /** The first and the last of the spans that are held, and how many they are. */
  firstHeld: RecordedSpan | undefined;
  lastHeld: RecordedSpan | undefined;
  held = 0;
  heldBytes = 0;
  /** When its last span here had ended; undefined while spans are open. */
  idleSinceMs: number | undefined;
  /** Its place among those that are on this node alone and hold something. */
  previous: Trace | undefined;
  next: Trace | undefined;

  constructor(id: string, shared: boolean, kept: boolean, tracer: RecordingTracer) {
    this.id = id;
    this.shared = shared;
    this.kept = kept;
    this.tracer = tracer;
  }
}

/**
 * Both the span and its context: of the many spans that nobody will ever see, each is one object, and what can wait until
 * somebody asks for it is not made before.
 */
class RecordedSpan implements Span, TraceContext, FinishedSpan {
  readonly name: string;
  readonly kind: SpanKind;
  readonly trace: Trace;
  readonly startedAtMs: number;
  endedAtMs = 0;
  failure: FinishedSpan["failure"];
  readonly #parent: TraceContext | undefined;
  readonly #given: Attributes;
  /** Names and values in turns: an object of them is made only when it is exported. */
  #set: AttributeValue[] | undefined;
  /** The one that is held after it, of the same trace. */
  nextHeld: RecordedSpan | undefined;
  #events: SpanEvent[] | undefined;
  #spanId: string | undefined;

  constructor(
    name: string,
    kind: SpanKind,
    trace: Trace,
    parent: TraceContext | undefined,
    given: Attributes,
    startedAtMs: number,
  ) {
    this.name = name;
    this.kind = kind;
    this.trace = trace;
    this.#parent = parent;
    this.#given = given;
    this.startedAtMs = startedAtMs;
    trace.openSpans++;
    trace.idleSinceMs = undefined;
  }

  get recording(): boolean {
    return true;
  }

  get context(): TraceContext {
    return this;
  }

  get traceId(): string {
    return this.trace.id;
  }

  get spanId(): string {
    this.#spanId ??= randomSpanId();
    return this.#spanId;
  }

  get parentSpanId(): string {
    const id = this.#parent?.spanId ?? NO_SPAN_ID;
    return id === NO_SPAN_ID ? "" : id;
  }

  get state(): string {
    return this.#parent?.state ?? "";
  }

  /** Who is called from now on need not find out again that the trace is kept. */
  get sampled(): boolean {
    return this.trace.kept;
  }

  leaves(): void {
    if (!this.trace.shared) this.trace.tracer.share(this.trace);
  }

  get attributes(): Attributes {
    const attributes: Record<string, AttributeValue | undefined> = { ...this.#given };
    const set = this.#set ?? [];
    for (let at = 0; at < set.length; at += 2) attributes[set[at] as string] = set[at + 1];
    return attributes;
  }

  get events(): readonly SpanEvent[] {
    return this.#events ?? NO_EVENTS;
  }

  set(name: string, value: AttributeValue | undefined): void {
    if (value === undefined) return;
    if (this.#set === undefined) this.#set = [name, value];
    else this.#set.push(name, value);
  }

  event(name: string, attributes?: Attributes): void {
    const { tracer } = this.trace;
    const atMs = tracer.now();
    this.#events ??= [];
    this.#events.push({ name, atMs, attributes });
    if (name === SPAN_EVENT.firstToken && atMs - this.startedAtMs > tracer.rules.slowFirstTokenMs) this.keep("slow");
  }

  fail(type: string, message: string): void {
    this.failure = { type, message };
    if (!this.trace.kept && this.trace.tracer.isFault(type)) this.keep("error");
  }

  keep(why: KeptFor): void {
    if (!this.trace.kept) this.trace.tracer.keepFor(why, this);
  }

  end(): void {
    if (this.endedAtMs !== 0) return;
    const { tracer, kept } = this.trace;
    this.endedAtMs = tracer.now();
    const slow = this.endedAtMs - this.startedAtMs > tracer.rules.slowMs;
    // What is not about a model may last as long as it likes: somebody watches.
    if (slow && !kept && this.attributes[ATTRIBUTE.requestModel] !== undefined) this.keep("slow");
    tracer.ended(this);
  }

  get bytes(): number {
    const attributes = (this.#set?.length ?? 0) / 2;
    return SPAN_BYTES + attributes * ATTRIBUTE_BYTES + this.events.length * EVENT_BYTES;
  }
}

/** Records the spans of a node. */
export class RecordingTracer implements Tracer {
  readonly now: () => number;
  readonly isFault: (type: string) => boolean;
  rules: SamplingRules;
  readonly #options: RecordingOptions;
  readonly #heldBytesMax: number;
  readonly #sampler = new HeadSampler();
  /** Those that other nodes may ask for. The idle ones stand in the order in which they became so. */
  readonly #shared = new TransientMap<string, Trace>();
  /** The first and the last, in order, of those that are on this node alone, go on, and hold something. */
  #firstLocal: Trace | undefined;
  #lastLocal: Trace | undefined;
  readonly #sweeping: NodeJS.Timeout;
  readonly #kept: Record<KeptFor, number> = { error: 0, failover: 0, slow: 0 };
  #held = 0;
  #heldBytes = 0;
  #exported = 0;
  #forgotten = 0;
  #dropped = 0;

  constructor(options: RecordingOptions) {
    this.#options = options;
    this.rules = options.rules;
    this.isFault = options.isFault;
    this.now = options.now ?? (() => performance.now());
    this.#heldBytesMax = options.heldBytesMax ?? HELD_BYTES_MAX;
    this.#sweeping = setInterval(() => this.sweep(), SWEEP_EVERY_MS).unref();
  }

  startSpan(name: string, parent: TraceContext | undefined, kind: SpanKind, attributes?: Attributes): Span {
    const nowMs = this.now();
    const trace = this.#traceOf(name, parent, nowMs);
    if (trace === undefined) return new SilentSpan(parent!);
    if (trace instanceof Trace) return new RecordedSpan(name, kind, trace, parent, attributes ?? NO_ATTRIBUTES, nowMs);
    return new SilentSpan(trace);
  }

  newTrace(): TraceContext {
    return { traceId: randomTraceId(), spanId: NO_SPAN_ID, sampled: false, state: "" };
  }

  /** Another node has seen that the trace is of interest. */
  keep(traceId: string): void {
    const trace = this.#shared.get(traceId);
    if (trace !== undefined && !trace.kept) this.#keep(trace);
  }

  get figures(): SpanFigures {
    return {
      exported: this.#exported,
      forgotten: this.#forgotten,
      dropped: this.#dropped,
      held: this.#held,
      heldBytes: this.#heldBytes,
      kept: { ...this.#kept },
    };
  }

  async shutdown(): Promise<void> {
    clearInterval(this.#sweeping);
    for (const trace of this.#all()) this.#forget(trace);
  }

  /** For spans: the trace of `span` is of interest. */
  keepFor(why: KeptFor, span: RecordedSpan): void {
    if (!this.rules.keep.includes(why)) return;
    span.set(ATTRIBUTE.kept, why);
    this.#kept[why]++;
    this.#keep(span.trace);
    this.#options.onKept(span.trace.id);
  }

  /** For spans: the trace goes to another node, which may want to have it. */
  share(trace: Trace): void {
    trace.shared = true;
    this.#unlink(trace);
    this.#shared.set(trace.id, trace);
  }

  /** For spans: `span` has ended. */
  ended(span: RecordedSpan): void {
    const { trace } = span;
    if (trace.kept) this.#export(span);
    else this.#hold(span);
    if (--trace.openSpans > 0) return;
    if (trace.kept || !trace.shared) {
      this.#forget(trace);
      return;
    }
    trace.idleSinceMs = span.endedAtMs;
    this.#shared.delete(trace.id);
    this.#shared.set(trace.id, trace);
  }

  /** Lets go of what has been held for long enough. */
  sweep(): void {
    const before = this.now() - HOLD_MS;
    for (const trace of this.#shared.values()) {
      if (trace.idleSinceMs === undefined) continue;
      if (trace.idleSinceMs > before) return;
      this.#forget(trace);
    }
  }

  /** The trace that a span begins in; a context where it is not recorded, undefined where the parent's own will do. */
  #traceOf(name: string, parent: TraceContext | undefined, nowMs: number): Trace | TraceContext | undefined {
    if (parent instanceof RecordedSpan) {
      // Its other spans may all have ended, and with them what was known of it.
      if (parent.trace.openSpans === 0 && parent.trace.shared) this.#shared.set(parent.trace.id, parent.trace);
      return parent.trace;
    }
    const { rules } = this;
    if (parent === undefined || parent.spanId === NO_SPAN_ID) {
      if (parent?.traceId === NO_TRACE.traceId) return undefined;
      const traceId = parent?.traceId ?? randomTraceId();
      const drawn = this.#sampler.drawsNew(name, traceId, rules, nowMs);
      if (drawn || rules.keep.length > 0) return this.#begin(traceId, false, drawn);
      return { traceId, spanId: randomSpanId(), sampled: false, state: "" };
    }
    const { traceId } = parent;
    const drawn = parent.sampled || (!rules.parentBased && this.#sampler.draws(traceId, rules));
    const known = this.#shared.get(traceId);
    if (known !== undefined) {
      if (drawn && !known.kept) this.#keep(known);
      return known;
    }
    return drawn || rules.keep.length > 0 ? this.#begin(traceId, true, drawn) : undefined;
  }

  #begin(traceId: string, shared: boolean, drawn: boolean): Trace {
    const trace = new Trace(traceId, shared, drawn, this);
    if (shared) this.#shared.set(traceId, trace);
    return trace;
  }

  #keep(trace: Trace): void {
    trace.kept = true;
    let span = trace.firstHeld;
    this.#release(trace);
    for (; span !== undefined; span = span.nextHeld) this.#export(span);
    if (trace.openSpans === 0) this.#shared.delete(trace.id);
  }

  #export(span: RecordedSpan): void {
    this.#exported++;
    this.#options.exportSpan(span);
  }

  #hold(span: RecordedSpan): void {
    const { trace, bytes } = span;
    if (trace.held >= HELD_SPANS_PER_TRACE_MAX) {
      this.#dropped++;
      return;
    }
    if (trace.held === 0 && !trace.shared) this.#link(trace);
    if (trace.lastHeld === undefined) trace.firstHeld = span;
    else trace.lastHeld.nextHeld = span;
    trace.lastHeld = span;
    trace.held++;
    trace.heldBytes += bytes;
    this.#held++;
    this.#heldBytes += bytes;
    if (this.#heldBytes > this.#heldBytesMax) this.#makeRoom();
  }

  #forget(trace: Trace): void {
    this.#forgotten += trace.held;
    this.#release(trace);
    if (trace.shared) this.#shared.delete(trace.id);
  }

  #release(trace: Trace): void {
    if (trace.held === 0) return;
    this.#held -= trace.held;
    this.#heldBytes -= trace.heldBytes;
    trace.firstHeld = undefined;
    trace.lastHeld = undefined;
    trace.held = 0;
    trace.heldBytes = 0;
    if (!trace.shared) this.#unlink(trace);
  }

  /** Lets go of the oldest: of what is idle first, as nobody will want most of it, and then of what still goes on. */
  #makeRoom(): void {
    const bytes = this.#heldBytesMax * MAKE_ROOM_TO;
    for (const idle of [true, false]) {
      for (const trace of this.#all()) {
        if (this.#heldBytes <= bytes) return;
        if (idle !== (trace.idleSinceMs !== undefined) || trace.held === 0) continue;
        this.#dropped += trace.held;
        this.#release(trace);
        if (idle) this.#shared.delete(trace.id);
      }
    }
  }

  *#all(): Iterable<Trace> {
    yield* this.#shared.values();
    for (let trace = this.#firstLocal; trace !== undefined; ) {
      // Whoever is handed it may take it out.
      const { next } = trace;
      yield trace;
      trace = next;
    }
  }

  /** By hand, as it happens to each request: a Map of what comes and goes at once is made anew all the time. */
  #link(trace: Trace): void {
    trace.previous = this.#lastLocal;
    if (this.#lastLocal === undefined) this.#firstLocal = trace;
    else this.#lastLocal.next = trace;
    this.#lastLocal = trace;
  }

  /** Nothing happens to one that is not linked. */
  #unlink(trace: Trace): void {
    const { previous, next } = trace;
    if (previous !== undefined) previous.next = next;
    else if (this.#firstLocal === trace) this.#firstLocal = next;
    if (next !== undefined) next.previous = previous;
    else if (this.#lastLocal === trace) this.#lastLocal = previous;
    trace.previous = undefined;
    trace.next = undefined;
  }
}
