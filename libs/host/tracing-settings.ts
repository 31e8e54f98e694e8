/** Which traces are exported: `tracing` in cortex.yaml, and OpenTelemetry's own variables, which come first. */
import { z } from "zod";
import { CATALOGUE, isReason } from "../rpc/index.ts";
import type { SamplingRules } from "../telemetry/index.ts";

/** `tracing` in cortex.yaml. */
export const tracingSchema = z
  .strictObject({
    share: z.number().min(0).max(1).default(0.05).describe("Of ordinary traces, so much is exported."),
    perSecondMax: z
      .number()
      .min(0)
      .default(10)
      .describe("Of those, no more than so many a second that begin on one node: beyond that, more show nothing more."),
    perSecondMin: z
      .number()
      .min(0)
      .default(1)
      .describe("And so many a second of each kind of request in any case, so that where little happens all is seen."),
    keep: z
      .array(z.enum(["error", "failover", "slow"]))
      .default(["error", "failover", "slow"])
      .describe("Traces of such requests are exported, all of them."),
    slowFirstTokenMs: z.int().positive().default(5_000).describe("A first token that takes longer is slow."),
    slowMs: z.int().positive().default(60_000).describe("A request of a model that takes longer is slow."),
  })
  .prefault({});

/** How a node traces. */
export interface TracingSettings extends SamplingRules {
  /** An OTLP endpoint is configured. */
  readonly enabled: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** What of all traces each of OpenTelemetry's samplers takes; undefined where OTEL_TRACES_SAMPLER_ARG says it. */
const SAMPLERS: Readonly<Record<string, number | undefined>> = {
  always_on: 1,
  always_off: 0,
  traceidratio: undefined,
  parentbased_always_on: 1,
  parentbased_always_off: 0,
  parentbased_traceidratio: undefined,
};

/** The file's settings under what the environment says; mistakes of the latter go to `problems`. */
export function readTracing(
  file: z.output<typeof tracingSchema>,
  environment: Environment,
  problems: string[],
): TracingSettings {
  const endpoint = environment["OTEL_EXPORTER_OTLP_ENDPOINT"] || environment["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
  const enabled = environment["OTEL_SDK_DISABLED"] !== "true" && Boolean(endpoint);
  const sampler = environment["OTEL_TRACES_SAMPLER"] || undefined;
  if (!enabled || sampler === undefined) return { ...file, parentBased: true, enabled };
  if (!Object.hasOwn(SAMPLERS, sampler)) {
    const known = Object.keys(SAMPLERS).join(", ");
    problems.push(`the environment's OTEL_TRACES_SAMPLER is "${sampler}"; it has to be one of ${known}`);
  }
  const share = SAMPLERS[sampler] ?? readShare(environment["OTEL_TRACES_SAMPLER_ARG"], problems);
  // Who names a sampler means that one, and nothing beside it.
  return {
    ...file,
    share,
    perSecondMax: Number.POSITIVE_INFINITY,
    perSecondMin: 0,
    parentBased: sampler.startsWith("parentbased_"),
    enabled,
  };
}

/** 1 when absent, as OpenTelemetry has it. */
function readShare(text: string | undefined, problems: string[]): number {
  if (text === undefined || text === "") return 1;
  const share = Number(text);
  if (share >= 0 && share <= 1) return share;
  problems.push(`the environment's OTEL_TRACES_SAMPLER_ARG is "${text}"; it has to be a number from 0 to 1`);
  return 1;
}

/** Whether a failed span is worth its trace: not what its client did wrong, and not that it left; but that time ran out. */
export function isFault(reason: string): boolean {
  return !isReason(reason) || reason === "DEADLINE_EXCEEDED" || CATALOGUE[reason].class !== "request";
}
