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
export type { SpanFigures } from "./recording.ts";
export type { SamplingRules } from "./sampling.ts";
export {
  type Attributes,
  formatTraceparent,
  type KeptFor,
  NO_TRACE,
  parseTraceparent,
  type Span,
  silentTracer,
  type TraceContext,
  type Tracer,
} from "./trace.ts";
export { type NodeTracer, startTracer, type TracerOptions } from "./tracer.ts";
