/** What a model can do, read from its name: the API's list of models does not say. */
import type { Knowledge } from "../../libs/adapter/index.ts";
import {
  type CompletionRequest,
  ReasoningOptions_Effort as Effort,
  ToolChoice_Mode,
} from "../../libs/gen/cortex/llm/v1/llm.ts";

/** 4.5 for `claude-sonnet-4-5-20250929`, 3.5 for `claude-3-5-haiku-latest`; infinite for a name without a number. */
export function generationOf(model: string): number {
  const [, major, minor = "0"] = /claude-(?:[a-z]+-)*(\d+)(?:[-.](\d{1,2})(?!\d))?/.exec(model) ?? [];
  return major === undefined ? Number.POSITIVE_INFINITY : Number(`${major}.${minor}`);
}

/** From this generation on JSON Schemas and strict tools are held to: structured outputs. */
export const STRUCTURED = 4.1;

/** From this generation on models choose their next token by themselves: no temperature, top_p or top_k. */
export const UNSAMPLED = 4.7;

/** From this generation on a request that ends in the beginning of its answer is refused: no prefill. */
const UNBEGUN = 4.6;

/**
 * What is certain of a Claude: https://platform.claude.com/docs/en/about-claude/models. The newer ones take a million tokens,
 * some only when asked with a header.
 */
export function modelProperties(model: string): Knowledge | undefined {
  const generation = generationOf(model);
  if (!/^claude-/.test(model) || generation < 3 || generation === Number.POSITIVE_INFINITY) return undefined;
  const capabilities = ["vision", "tools"];
  if (generation >= 3.5) capabilities.push("files");
  if (generation >= STRUCTURED) capabilities.push("json_schema");
  if (generation >= 3.7) capabilities.push("reasoning");
  if (generation < UNBEGUN) capabilities.push("prefill");
  return generation < UNBEGUN ? { capabilities, contextTokensMax: 200_000 } : { capabilities };
}

/** The longest answer that a model gives, for requests that set no bound: https://platform.claude.com/docs/en/about-claude/models */
export function outputTokensMax(model: string): number {
  const generation = generationOf(model);
  if (generation >= 4.5) return 64_000;
  if (generation >= 4) return /opus/.test(model) ? 32_000 : 64_000;
  if (generation >= 3.7) return 64_000;
  return generation >= 3.5 ? 8_192 : 4_096;
}

/** How much a model is to think, and what of the wish it can't have. */
export interface Thinking {
  /** The field `thinking`. */
  readonly thinking?: Readonly<Record<string, unknown>>;
  /** `output_config.effort`. */
  readonly effort?: string;
  /** Warnings: the parameter, and what became of it. */
  readonly notes: readonly (readonly [parameter: string, message: string])[];
}

const EFFORT = "reasoning_effort";
const BUDGET = "reasoning.budget_tokens";
/** The least that it takes. */
const BUDGET_MIN = 1024;
/** What a model that takes only a budget is given for an effort. */
const BUDGETS: Readonly<Record<Effort, number>> = {
  [Effort.UNSPECIFIED]: 8_192,
  [Effort.NONE]: 0,
  [Effort.MINIMAL]: 1_024,
  [Effort.LOW]: 2_048,
  [Effort.MEDIUM]: 8_192,
  [Effort.HIGH]: 24_576,
  [Effort.XHIGH]: 28_672,
  [Effort.MAX]: 32_000,
};

/**
 * Models before Claude 3.7 do not think; those before 4.6 think within a budget; 4.6 takes a budget or an effort, and newer
 * ones an effort only. https://platform.claude.com/docs/en/build-with-claude/thinking
 */
export function toThinking(
  { reasoning, toolChoice, tools }: CompletionRequest,
  model: string,
  maxTokens: number,
): Thinking {
  const effort = reasoning?.effort ?? Effort.UNSPECIFIED;
  const budget = reasoning?.budgetTokens;
  if (effort === Effort.UNSPECIFIED && budget === undefined) return { notes: [] };
  const generation = generationOf(model);
  if (effort === Effort.NONE) {
    if (generation < 5) return { notes: [] };
    return { effort: "low", notes: [[EFFORT, "The model can't be kept from thinking; low was asked for"]] };
  }
  const parameter = effort === Effort.UNSPECIFIED ? BUDGET : EFFORT;
  if (generation < 3.7) return { notes: [[parameter, `${model} does not think; the wish was left out`]] };
  const forced = toolChoice?.mode === ToolChoice_Mode.REQUIRED || toolChoice?.mode === ToolChoice_Mode.NAMED;
  if (forced && tools.length > 0) {
    return { notes: [[parameter, "Claude can't think when it has to call a tool; the wish was left out"]] };
  }
  if (generation < 4.6 || (generation < UNSAMPLED && budget !== undefined)) {
    const spent = withBudget(effort, budget, maxTokens);
    if (generation < 4.6 || effort === Effort.UNSPECIFIED) return spent;
    return { ...spent, ...withEffort(effort, generation, spent.notes) };
  }
  const display = generation >= UNSAMPLED ? { display: "summarized" } : {};
  const notes: Thinking["notes"] =
    budget === undefined ? [] : [[BUDGET, "The model has no bound for its thoughts; it was left out"]];
  return { thinking: { type: "adaptive", ...display }, ...withEffort(effort, generation, notes) };
}

/** The budget has to be below max_tokens, which bounds thoughts and answer together. */
function withBudget(effort: Effort, budget: number | undefined, maxTokens: number): Thinking {
  const parameter = budget === undefined ? EFFORT : BUDGET;
  if (maxTokens < 2 * BUDGET_MIN) {
    return { notes: [[parameter, "max_tokens leaves no room for thoughts; the wish was left out"]] };
  }
  const wanted = Math.min(budget ?? BUDGETS[effort], maxTokens - BUDGET_MIN);
  const notes: Thinking["notes"] =
    wanted < BUDGET_MIN ? [[parameter, `Claude takes no less than ${BUDGET_MIN}; that was sent`]] : [];
  return { thinking: { type: "enabled", budget_tokens: Math.max(wanted, BUDGET_MIN) }, notes };
}

function withEffort(effort: Effort, generation: number, notes: Thinking["notes"]): Thinking {
  switch (effort) {
    case Effort.MINIMAL:
      return { effort: "low", notes: [...notes, [EFFORT, "Claude has no effort minimal; low was asked for"]] };
    case Effort.LOW:
      return { effort: "low", notes };
    case Effort.MEDIUM:
      return { effort: "medium", notes };
    case Effort.HIGH:
      return { effort: "high", notes };
    case Effort.XHIGH:
      if (generation >= 4.7) return { effort: "xhigh", notes };
      return { effort: "high", notes: [...notes, [EFFORT, "The model has no effort xhigh; high was asked for"]] };
    case Effort.MAX:
      return { effort: "max", notes };
    default:
      return { notes };
  }
}
