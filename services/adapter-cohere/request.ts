/** Cortex's requests in the words of Cohere's API: https://docs.cohere.com/reference/chat, https://docs.cohere.com/reference/embed */
import {
  invalid,
  jsonText,
  objectText,
  type ProviderRequest,
  parametersText,
  refused,
} from "../../libs/adapter/index.ts";
import {
  type CompletionRequest,
  type EmbeddingRequest,
  type ReasoningOptions,
  ReasoningOptions_Effort,
  type ResponseFormat,
  ResponseFormat_Kind,
  type Sampling,
  type Tool,
  type ToolChoice,
  ToolChoice_Mode,
  type Warning,
} from "../../libs/gen/cortex/llm/v1/llm.ts";
import { toMessages } from "./messages.ts";
import { unsupported } from "./wording.ts";

const STOP_SEQUENCES_MAX = 5;
const EMBEDDING_INPUTS_MAX = 96;
/** What embeddings are for, where the request does not say it. */
const INPUT_TYPE = '"search_document"';

/** The request for `POST /v2/chat`. */
export function toChatRequest(request: CompletionRequest, model: string, stream: boolean): ProviderRequest {
  const tools = chosenTools(request);
  refuse(request, tools);
  const warnings = toWarnings(request, tools);
  const body = jsonText({
    model: JSON.stringify(model),
    messages: toMessages(request.messages, warnings),
    stream: JSON.stringify(stream),
    tools: tools.length > 0 ? `[${tools.map(({ tool, field }) => toTool(tool, field)).join(",")}]` : undefined,
    strict_tools: toStrictTools(tools, warnings),
    tool_choice: tools.length > 0 ? toToolChoice(request.toolChoice) : undefined,
    response_format: toFormat(request.responseFormat, warnings),
    max_tokens: text(request.maxOutputTokens),
    ...toSampling(request.sampling, warnings),
    logprobs: request.logprobs ? "true" : undefined,
    thinking: toThinking(request.reasoning, warnings),
  });
  return { method: "POST", path: "/v2/chat", body, warnings };
}

/** The request for `POST /v2/embed`. */
export function toEmbeddingRequest(request: EmbeddingRequest, model: string): ProviderRequest {
  const { inputs, dimensions } = request;
  if (inputs.length > EMBEDDING_INPUTS_MAX)
    throw refused("input", `Cohere takes at most ${EMBEDDING_INPUTS_MAX} texts`);
  const { input_type: inputType, ...others } = request.extraJson;
  const warnings = Object.keys(others).map((name) => unsupported(name));
  if (request.user !== "") warnings.push(unsupported("user"));
  if (inputType === undefined) {
    const message = `Cohere wants to know what embeddings are for; ${JSON.parse(INPUT_TYPE)} was taken`;
    warnings.push(unsupported("input_type", message));
  } else if (!/^\s*"\w+"\s*$/.test(inputType)) {
    throw invalid("input_type", "not a word");
  }
  const body = jsonText({
    model: JSON.stringify(model),
    texts: JSON.stringify(inputs),
    input_type: inputType ?? INPUT_TYPE,
    embedding_types: '["float"]',
    output_dimension: text(dimensions),
    // Left to itself Cohere drops the end of what is too long, without a word.
    truncate: '"NONE"',
  });
  return { method: "POST", path: "/v2/embed", body, warnings };
}

/** Nothing is written for undefined. */
function text(value: unknown): string | undefined {
  return value === undefined ? undefined : JSON.stringify(value);
}

/** A tool, and where the request has it. */
interface ChosenTool {
  readonly tool: Tool;
  readonly field: string;
}

/** The tools that Cohere is told of. It knows no choice by name, but of one tool there is no choice. */
function chosenTools({ tools, toolChoice, responseFormat }: CompletionRequest): readonly ChosenTool[] {
  const all = tools.map((tool, index) => ({ tool, field: `tools[${index}].function` }));
  switch (toolChoice?.mode) {
    case ToolChoice_Mode.NONE:
      // Without tools none can be called, and Cohere does not write JSON where there are tools.
      return isJson(responseFormat) ? [] : all;
    case ToolChoice_Mode.REQUIRED:
      if (all.length === 0) throw invalid("tool_choice", "there are no tools to be called");
      return all;
    case ToolChoice_Mode.NAMED: {
      const named = all.filter(({ tool }) => tool.name === toolChoice.name);
      if (named.length === 0) throw invalid("tool_choice.function.name", "no tool has that name");
      return named.slice(0, 1);
    }
    default:
      return all;
  }
}

function isJson(format: ResponseFormat | undefined): boolean {
  return format?.kind === ResponseFormat_Kind.JSON_OBJECT || format?.kind === ResponseFormat_Kind.JSON_SCHEMA;
}

/** What the caller would miss in the answer; another provider may have it. */
function refuse(request: CompletionRequest, tools: readonly ChosenTool[]): void {
  const { sampling } = request;
  if ((request.choiceCount ?? 1) > 1) throw refused("n", "Cohere gives one answer");
  if ((request.topLogprobs ?? 0) > 0) throw refused("top_logprobs", "Cohere does not tell what else was likely");
  if ((sampling?.stop.length ?? 0) > STOP_SEQUENCES_MAX) {
    throw refused("stop", `Cohere takes at most ${STOP_SEQUENCES_MAX} sequences`);
  }
  if ((sampling?.seed ?? 0) < 0) throw refused("seed", "Cohere takes no negative seed");
  if (isJson(request.responseFormat) && tools.length > 0) {
    throw refused("response_format", "Cohere can't be held to JSON and be given tools in one request");
  }
  for (const { tool, field } of tools) {
    if (/^\d|\W/.test(tool.name)) {
      throw refused(`${field}.name`, "Cohere takes letters, digits and _ in a tool's name, and no digit first");
    }
  }
}

/** What changes the answer's quality or bookkeeping, but not what it is. */
function toWarnings(request: CompletionRequest, tools: readonly ChosenTool[]): Warning[] {
  const warnings = Object.keys(request.extraJson).map((name) => unsupported(name));
  if (Object.keys(request.sampling?.logitBias ?? {}).length > 0) warnings.push(unsupported("logit_bias"));
  if (request.user !== "") warnings.push(unsupported("user"));
  if (request.parallelToolCalls === false && tools.length > 0 && request.toolChoice?.mode !== ToolChoice_Mode.NONE) {
    warnings.push(unsupported("parallel_tool_calls", "Cohere can't be kept from calling several tools at once"));
  }
  return warnings;
}

/** Cohere has other bounds than OpenAI. What lies beyond them becomes the bound, and is said. */
function toSampling(sampling: Sampling | undefined, warnings: Warning[]): Record<string, string | undefined> {
  const bounded = (parameter: string, value: number | undefined, min: number, max: number): string | undefined => {
    if (value === undefined) return undefined;
    const sent = Math.min(Math.max(value, min), max);
    if (sent !== value) {
      warnings.push(unsupported(parameter, `Cohere takes ${parameter} from ${min} to ${max}; ${sent} was sent`));
    }
    return JSON.stringify(sent);
  };
  return {
    temperature: text(sampling?.temperature),
    // 1 means that it is switched off, as it does for k; but p can't be.
    p: bounded("top_p", sampling?.topP, 0.01, 0.99),
    k: bounded("top_k", sampling?.topK, 0, 500),
    frequency_penalty: bounded("frequency_penalty", sampling?.frequencyPenalty, 0, 1),
    presence_penalty: bounded("presence_penalty", sampling?.presencePenalty, 0, 1),
    seed: text(sampling?.seed),
    stop_sequences: sampling?.stop.length ? JSON.stringify(sampling.stop) : undefined,
  };
}

/** https://docs.cohere.com/docs/structured-outputs */
function toFormat(format: ResponseFormat | undefined, warnings: Warning[]): string | undefined {
  switch (format?.kind) {
    case ResponseFormat_Kind.JSON_OBJECT:
      return '{"type":"json_object"}';
    case ResponseFormat_Kind.JSON_SCHEMA: {
      const parameter = "response_format.json_schema.description";
      if (format.description !== "") {
        warnings.push(unsupported(parameter, "Cohere has no place for a schema's description; it was left out"));
      }
      const schema = objectText(format.jsonSchema, "response_format.json_schema.schema");
      return `{"type":"json_object","json_schema":${schema}}`;
    }
    default:
      return undefined;
  }
}

/** https://docs.cohere.com/docs/reasoning */
function toThinking(reasoning: ReasoningOptions | undefined, warnings: Warning[]): string | undefined {
  const effort = reasoning?.effort ?? ReasoningOptions_Effort.UNSPECIFIED;
  const budget = reasoning?.budgetTokens;
  if (effort === ReasoningOptions_Effort.NONE || budget === 0) return '{"type":"disabled"}';
  if (effort !== ReasoningOptions_Effort.UNSPECIFIED) {
    const message = "Cohere knows no degrees of effort; thinking was switched on";
    warnings.push(unsupported("reasoning_effort", message));
  } else if (budget === undefined) {
    return undefined;
  }
  return jsonText({ type: '"enabled"', token_budget: text(budget) });
}

function toTool(tool: Tool, field: string): string {
  const definition = jsonText({
    name: JSON.stringify(tool.name),
    description: tool.description === "" ? undefined : JSON.stringify(tool.description),
    parameters: parametersText(tool.parametersJsonSchema, `${field}.parameters`),
  });
  return `{"type":"function","function":${definition}}`;
}

/** All tools are held to their schemas or none: https://docs.cohere.com/docs/structured-outputs#structured-outputs-tools */
function toStrictTools(tools: readonly ChosenTool[], warnings: Warning[]): string | undefined {
  const strict = tools.filter(({ tool }) => tool.strict);
  if (strict.length === 0) return undefined;
  if (strict.length === tools.length) return "true";
  for (const { field } of strict) {
    const message = "Cohere holds the arguments of all tools to their schemas or of none";
    warnings.push(unsupported(`${field}.strict`, message));
  }
  return undefined;
}

function toToolChoice(choice: ToolChoice | undefined): string | undefined {
  switch (choice?.mode) {
    case ToolChoice_Mode.NONE:
      return '"NONE"';
    case ToolChoice_Mode.REQUIRED:
    case ToolChoice_Mode.NAMED:
      return '"REQUIRED"';
    default:
      return undefined;
  }
}
