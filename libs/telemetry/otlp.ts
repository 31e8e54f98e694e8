/** Exports spans over OTLP by OpenTelemetry's Node SDK. Loaded only where an endpoint is configured. */
import {
  type Context,
  context,
  createTraceState,
  DiagLogLevel,
  diag,
  type Attributes as OtelAttributes,
  SpanKind as OtelKind,
  SamplingDecision,
  SpanStatusCode,
  TraceFlags,
  trace,
} from "@opentelemetry/api";
import { defaultResource, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { NodeSDK } from "@opentelemetry/sdk-node";
import type { Logger } from "./log.ts";
import { ATTRIBUTE, SPAN_EVENT } from "./names.ts";
import type { FinishedSpan } from "./recording.ts";
import type { SpanKind } from "./trace.ts";

const KINDS: Record<SpanKind, OtelKind> = {
  server: OtelKind.SERVER,
  client: OtelKind.CLIENT,
  internal: OtelKind.INTERNAL,
  producer: OtelKind.PRODUCER,
};

/** The machine's clock may be set while the process runs; below this the spans of a node stay exact among themselves. */
const CLOCK_DRIFT_MS_MAX = 2;

/** Where spans that are worth it go. */
export interface SpanExporter {
  export(span: FinishedSpan): void;
  /** Sends what waits and stops. */
  shutdown(): Promise<void>;
}

/**
 * Starts OpenTelemetry's SDK for this process. Exporter, endpoint, batches, limits and what else is known of the process come
 * from the standard `OTEL_*` variables (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/);
 * what is exported has been decided before. Call it once.
 */
export function startSpanExporter(resource: Readonly<Record<string, string>>, log: Logger): SpanExporter {
  diag.setLogger(
    {
      error: (message) => log.error({ detail: message }, "OpenTelemetry reports an error"),
      warn: (message) => log.warn({ detail: message }, "OpenTelemetry reports a problem"),
      info: () => {},
      debug: () => {},
      verbose: () => {},
    },
    { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
  );
  // The SDK makes spans of its own ids, at once and in its own way; ours are over, and known by theirs.
  let next: FinishedSpan | undefined;
  const sdk = new NodeSDK({
    resource: defaultResource().merge(resourceFromAttributes(resource)),
    resourceDetectors: [envDetector],
    textMapPropagator: null,
    metricReaders: [],
    logRecordProcessors: [],
    instrumentations: [],
    idGenerator: { generateTraceId: () => next!.traceId, generateSpanId: () => next!.spanId },
    sampler: {
      shouldSample: () => ({ decision: SamplingDecision.RECORD_AND_SAMPLED }),
      toString: () => "decided before",
    },
  });
  sdk.start();
  const tracer = trace.getTracer("cortex");
  const root = context.active();
  let epochMs: number = performance.timeOrigin;

  function contextOf({ traceId, parentSpanId, state }: FinishedSpan): Context {
    if (parentSpanId === "") return root;
    return trace.setSpanContext(root, {
      traceId,
      spanId: parentSpanId,
      traceFlags: TraceFlags.SAMPLED,
      isRemote: true,
      ...(state === "" ? {} : { traceState: createTraceState(state) }),
    });
  }

  return {
    export(span) {
      const wallMs = Date.now() - performance.now();
      if (Math.abs(wallMs - epochMs) > CLOCK_DRIFT_MS_MAX) epochMs = wallMs;
      next = span;
      const exported = tracer.startSpan(
        span.name,
        { kind: KINDS[span.kind], startTime: epochMs + span.startedAtMs },
        contextOf(span),
      );
      exported.setAttributes(span.attributes as OtelAttributes);
      for (const { name, attributes, atMs } of span.events) {
        exported.addEvent(name, attributes as OtelAttributes | undefined, epochMs + atMs);
      }
      if (span.failure !== undefined) {
        const { type, message } = span.failure;
        exported.setAttribute(ATTRIBUTE.errorType, type);
        exported.setStatus({ code: SpanStatusCode.ERROR, message });
        const exception = { "exception.type": type, "exception.message": message };
        exported.addEvent(SPAN_EVENT.exception, exception, epochMs + span.endedAtMs);
      }
      exported.end(epochMs + span.endedAtMs);
    },
    shutdown: () => sdk.shutdown(),
  };
}
