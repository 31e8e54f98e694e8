/**
 * What is cached and what is not. Both rules answer with a short stable word, for traces and headers, that says why not;
 * with undefined when nothing speaks against it. docs/caching.md lists the words.
 *
 * `bypass` is asked before the cache is: its request neither gets a kept answer, nor shares one, nor is its own kept.
 * `unkept` and `unkeptVectors` are asked when an answer has ended well.
 */
import {
  type CompletionRequest,
  type EmbeddingResult,
  FinishReason,
  type Part,
  type Warning,
} from "../../../libs/gen/cortex/llm/v1/llm.ts";
import { type CacheOptions, CacheOptions_Mode as Mode } from "../../../libs/gen/cortex/router/v1/router.ts";
import type { Configuration } from "../../../libs/host/index.ts";
import { CHARACTERS_PER_TOKEN } from "../token-estimate.ts";

type Settings = Configuration["cache"];

/**
 * Warnings that take nothing from an answer: that it comes from a simulation, which a kept one says too, and that a parameter
 * that the provider demands was given its usual value. All others tell of something that was wanted and is not there; another
 * worker might have it.
 */
const HARMLESS_WARNINGS: ReadonlySet<string> = new Set(["SIMULATED", "PARAMETER_DEFAULTED"]);

/** Why the cache is not asked for a chat request. */
export function bypass(
  request: CompletionRequest,
  options: CacheOptions | undefined,
  settings: Settings,
): string | undefined {
  const why = bypassVectors(options, settings);
  if (why !== undefined) return why;
  const temperature = request.sampling?.temperature;
  // What is no number is not below the limit either.
  if (temperature !== undefined && !(temperature <= settings.temperatureMax)) return "temperature";
  return undefined;
}

/** Why the cache is not asked for vectors. */
export function bypassVectors(options: CacheOptions | undefined, settings: Settings): string | undefined {
  if (!settings.enabled) return "disabled";
  return options?.mode === Mode.OFF ? "no_cache" : undefined;
}

/**
 * Why an answer that has ended well is not kept. One that has reached max_output_tokens is: the limit is in its key, and it
 * is all that was asked for.
 */
export function unkept(parts: readonly Part[], settings: Settings): string | undefined {
  let characters = 0;
  let said = false;
  let filtered = false;
  let warned = false;
  const begun = new Set<number>();
  const finished = new Set<number>();
  for (const { part } of parts) {
    switch (part?.$case) {
      case "served":
      case "usage":
        break;
      case "text":
      case "refusal":
        said ||= part.value.text !== "";
        characters += part.value.text.length;
        begun.add(part.value.choice);
        break;
      case "reasoning":
        characters += part.value.text.length;
        begun.add(part.value.choice);
        break;
      case "reasoningSignature":
        begun.add(part.value.choice);
        break;
      case "toolCall":
        said = true;
        characters += part.value.name.length + part.value.argumentsJson.length;
        begun.add(part.value.choice);
        break;
      case "finish":
        if (part.value.reason !== FinishReason.UNSPECIFIED) finished.add(part.value.choice);
        filtered ||= part.value.reason === FinishReason.CONTENT_FILTER;
        break;
      case "warning":
        warned ||= !isHarmless(part.value);
        break;
      case "continued":
        return "continued";
      default:
        // Of a newer node: what it means is not known, nor whether it may be said twice.
        return "unknown";
    }
  }
  if (finished.size === 0 || [...begun].some((choice) => !finished.has(choice))) return "unfinished";
  if (filtered) return "content_filter";
  if (warned) return "warning";
  if (!said) return "empty";
  return characters > settings.tokensMax * CHARACTERS_PER_TOKEN ? "too_long" : undefined;
}

/** Why the vectors of `inputs` inputs are not kept. */
export function unkeptVectors({ embeddings, warnings }: EmbeddingResult, inputs: number): string | undefined {
  if (embeddings.length !== inputs) return "unfinished";
  if (!warnings.every(isHarmless)) return "warning";
  return embeddings.some(({ values }) => values.length === 0) ? "empty" : undefined;
}

function isHarmless({ code }: Warning): boolean {
  return HARMLESS_WARNINGS.has(code);
}
