/** What a model can do, read from its name: the API's list of models does not say. */
import { ReasoningOptions_Effort as Effort, type ReasoningOptions } from "../../libs/gen/cortex/llm/v1/llm.ts";

/** A model's generation and kind. */
export interface Generation {
  /** 2.5 for `gemini-2.5-flash`; infinite for a name without a number, such as `gemini-flash-latest`. */
  readonly number: number;
  readonly kind: "pro" | "flash" | "gemma";
}

export function generationOf(model: string): Generation {
  const [, gemma] = /(?:^|\/)(gemma)-/.exec(model) ?? [];
  const version = /gem(?:ini|ma)-(\d+(?:\.\d+)?)/.exec(model)?.[1];
  const number = version === undefined ? Number.POSITIVE_INFINITY : Number(version);
  if (gemma !== undefined) return { number, kind: "gemma" };
  return { number, kind: /\bpro\b/.test(model) ? "pro" : "flash" };
}

/** How much a model is to think, and what of the wish it can't have. */
export interface Thinking {
  /** `generationConfig.thinkingConfig`; undefined when there is nothing to say. */
  readonly config: Readonly<Record<string, unknown>> | undefined;
  /** Warnings: the parameter, and what became of it. */
  readonly notes: readonly (readonly [parameter: string, message: string])[];
}

const NOTHING: Thinking = { config: undefined, notes: [] };
const EFFORT = "reasoning_effort";
const BUDGET = "reasoning.budget_tokens";

/**
 * Gemini 3 takes a level, Gemini 2.5 a number of tokens, and not both at once; older models do not think.
 * https://ai.google.dev/gemini-api/docs/thinking
 */
export function toThinking(reasoning: ReasoningOptions | undefined, model: string): Thinking {
  const effort = reasoning?.effort ?? Effort.UNSPECIFIED;
  const budget = reasoning?.budgetTokens;
  if (effort === Effort.UNSPECIFIED && budget === undefined) return NOTHING;
  const generation = generationOf(model);
  if (generation.kind === "gemma" || generation.number < 2.5) {
    if (effort === Effort.NONE && budget === undefined) return NOTHING;
    const parameter = effort === Effort.UNSPECIFIED ? BUDGET : EFFORT;
    return { config: undefined, notes: [[parameter, `${model} does not think; the wish was left out`]] };
  }
  return generation.number < 3 ? toBudget(effort, budget, generation) : toLevel(effort, budget, generation);
}

/** The numbers are those of Google's own OpenAI-compatible endpoint: https://ai.google.dev/gemini-api/docs/openai */
function toBudget(effort: Effort, budget: number | undefined, { kind }: Generation): Thinking {
  if (budget !== undefined && effort !== Effort.NONE) return thoughts({ thinkingBudget: budget });
  switch (effort) {
    case Effort.NONE:
      if (kind === "flash") return { config: { thinkingBudget: 0 }, notes: [] };
      return {
        config: { thinkingBudget: 128 },
        notes: [[EFFORT, "The model can't be kept from thinking; it was given its least budget of 128 tokens"]],
      };
    case Effort.MINIMAL:
    case Effort.LOW:
      return thoughts({ thinkingBudget: 1024 });
    case Effort.MEDIUM:
      return thoughts({ thinkingBudget: 8192 });
    case Effort.MAX:
      return thoughts({ thinkingBudget: kind === "pro" ? 32_768 : 24_576 });
    default:
      return thoughts({ thinkingBudget: 24_576 });
  }
}

function toLevel(effort: Effort, budget: number | undefined, generation: Generation): Thinking {
  if (effort === Effort.UNSPECIFIED) return thoughts({ thinkingBudget: budget });
  const notes: Thinking["notes"] =
    budget === undefined ? [] : [[BUDGET, "Gemini takes an effort or a budget, not both; the effort was sent"]];
  const level = (thinkingLevel: string, message?: string): Thinking =>
    thoughts({ thinkingLevel }, message === undefined ? notes : [...notes, [EFFORT, message]]);
  const pro = generation.kind === "pro";
  switch (effort) {
    case Effort.NONE: {
      const least = pro ? "low" : "minimal";
      const message = `The model can't be kept from thinking; ${least} was asked for`;
      return { config: { thinkingLevel: least }, notes: [...notes, [EFFORT, message]] };
    }
    case Effort.MINIMAL:
      return pro ? level("low", "The model has no effort minimal; low was asked for") : level("minimal");
    case Effort.LOW:
      return level("low");
    case Effort.MEDIUM:
      // The first model of the generation knew two levels only.
      if (pro && generation.number === 3) {
        return level("high", "The model has no effort medium; high was asked for");
      }
      return level("medium");
    case Effort.XHIGH:
      return level("high", "Gemini has no effort xhigh; high was asked for");
    case Effort.MAX:
      return level("high", "Gemini has no effort max; high was asked for");
    default:
      return level("high");
  }
}

/** Whoever asks for thinking gets the thoughts too, in the summary that Gemini makes of them. */
function thoughts(config: Readonly<Record<string, unknown>>, notes: Thinking["notes"] = []): Thinking {
  return { config: { includeThoughts: true, ...config }, notes };
}
