/** Traces, metrics, logs, and every name they use. The only room of Cortex that knows the OpenTelemetry SDK and prom-client. */
export { createLogger, type Logger, type LogOptions, setLevel, traceFields } from "./log.ts";
export {
  type Counter,
  type Gauge,
  genAiProvider,
  type Histogram,
  LABEL,
  METRIC,
  type MetricDefinition,
} from "./metric-catalogue.ts";
export { createMetrics, type Metrics, type MetricsOptions, OTHER, type Report } from "./metrics.ts";
export { ATTRIBUTE, EVENT, SPAN, SPAN_EVENT } from "./names.ts";
export {
  type Attributes,
  formatTraceparent,
  NO_TRACE,
  parseTraceparent,
  type Span,
  silentTracer,
  type TraceContext,
  type Tracer,
} from "./trace.ts";

import { silentTracer, type Tracer } from "./trace.ts";

/** The tracer of this process: recording where an OTLP endpoint is configured, silent otherwise. */
export async function startTracer(options: {
  readonly recording: boolean;
  readonly resource: Readonly<Record<string, string>>;
}): Promise<Tracer> {
  if (!options.recording) return silentTracer;
  const { startRecordingTracer } = await import("./otlp.ts");
  return startRecordingTracer(options.resource);
}
