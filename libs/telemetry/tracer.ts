/** The tracer of a process: recording where an OTLP endpoint is configured, silent otherwise. */
import type { Logger } from "./log.ts";
import { NO_SPANS, RecordingTracer, type SpanFigures } from "./recording.ts";
import type { SamplingRules } from "./sampling.ts";
import { silentTracer, type Tracer } from "./trace.ts";

/** The tracer of a node, for whoever runs the node: what is exported is decided together with the other nodes. */
export interface NodeTracer extends Tracer {
  /** From now on these rules hold. */
  setRules(rules: SamplingRules): void;
  /** Another node has seen that a trace is of interest: what is held of it here is exported. */
  keep(traceId: string): void;
  /** What has become of the spans; none when tracing is off. */
  figures(): SpanFigures;
}

export interface TracerOptions {
  /** An endpoint is configured. */
  readonly recording: boolean;
  /** What the process is, as OpenTelemetry names it. */
  readonly resource: Readonly<Record<string, string>>;
  readonly rules: SamplingRules;
  /** Whether a failure of that type is worth keeping a trace for; others are their caller's own doing. */
  readonly isFault: (type: string) => boolean;
  /** Told of each trace that was not drawn and turns out to be of interest here, so that the other nodes hear of it. */
  readonly onKept: (traceId: string) => void;
  readonly log: Logger;
}

/** Starts it. Call it once in a process. */
export async function startTracer(options: TracerOptions): Promise<NodeTracer> {
  const { recording, resource, rules, isFault, onKept, log } = options;
  if (!recording) return { ...silentTracer, setRules: () => {}, keep: () => {}, figures: () => NO_SPANS };
  const { startSpanExporter } = await import("./otlp.ts");
  const exporter = startSpanExporter(resource, log);
  const tracer = new RecordingTracer({ rules, isFault, onKept, exportSpan: (span) => exporter.export(span) });
  return {
    startSpan: (name, parent, kind, attributes) => tracer.startSpan(name, parent, kind, attributes),
    newTrace: () => tracer.newTrace(),
    setRules(changed) {
      tracer.rules = changed;
    },
    keep: (traceId) => tracer.keep(traceId),
    figures: () => tracer.figures,
    async shutdown() {
      await tracer.shutdown();
      await exporter.shutdown();
    },
  };
}
