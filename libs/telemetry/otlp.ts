/** The tracer that records: OpenTelemetry's Node SDK, exporting over OTLP. Loaded only where an endpoint is configured. */
import {
  context,
  createTraceState,
  type Attributes as OtelAttributes,
  SpanKind as OtelKind,
  type Span as OtelSpan,
  SpanStatusCode,
  TraceFlags,
  trace,
} from "@opentelemetry/api";
import { startNodeSdk } from "@opentelemetry/sdk-node";
import { ATTRIBUTE, SPAN_EVENT } from "./names.ts";
import { type Attributes, SilentSpan, type Span, type SpanKind, type TraceContext, type Tracer } from "./trace.ts";

const KINDS: Record<SpanKind, OtelKind> = {
  server: OtelKind.SERVER,
  client: OtelKind.CLIENT,
  internal: OtelKind.INTERNAL,
  producer: OtelKind.PRODUCER,
};

class RecordingSpan implements Span {
  readonly recording = true;
  readonly context: TraceContext;
  readonly #span: OtelSpan;

  constructor(span: OtelSpan, state: string) {
    const { traceId, spanId } = span.spanContext();
    this.#span = span;
    this.context = { traceId, spanId, sampled: true, state };
  }

  set(attributes: Attributes): void {
    this.#span.setAttributes(attributes as OtelAttributes);
  }

  event(name: string, attributes?: Attributes): void {
    this.#span.addEvent(name, attributes as OtelAttributes | undefined);
  }

  fail(type: string, message: string): void {
    this.#span.setAttribute(ATTRIBUTE.errorType, type);
    this.#span.setStatus({ code: SpanStatusCode.ERROR, message });
    this.#span.addEvent(SPAN_EVENT.exception, { "exception.type": type, "exception.message": message });
  }

  end(): void {
    this.#span.end();
  }
}

/**
 * Starts OpenTelemetry's SDK for this process. Exporter, endpoint and sampler come from the standard `OTEL_*` variables
 * (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). Call it once.
 */
export function startRecordingTracer(resource: Readonly<Record<string, string>>): Tracer {
  const sdk = startNodeSdk({
    resourceAttributes: resource,
    resourceDetectors: [],
    propagators: [],
    metricReaders: [],
    logRecordProcessors: [],
    instrumentations: [],
  });
  const tracer = trace.getTracer("cortex");
  const root = context.active();

  function contextOf(parent: TraceContext) {
    return trace.setSpanContext(root, {
      traceId: parent.traceId,
      spanId: parent.spanId,
      traceFlags: parent.sampled ? TraceFlags.SAMPLED : TraceFlags.NONE,
      isRemote: true,
      ...(parent.state === "" ? {} : { traceState: createTraceState(parent.state) }),
    });
  }

  return {
    startSpan(name, parent, kind, attributes) {
      if (parent !== undefined && !parent.sampled) return new SilentSpan(parent);
      const span = tracer.startSpan(
        name,
        { kind: KINDS[kind], attributes: attributes as OtelAttributes },
        parent === undefined ? root : contextOf(parent),
      );
      const { traceId, spanId } = span.spanContext();
      if (!span.isRecording()) return new SilentSpan({ traceId, spanId, sampled: false, state: parent?.state ?? "" });
      return new RecordingSpan(span, parent?.state ?? "");
    },
    shutdown: () => sdk.shutdown(),
  };
}
